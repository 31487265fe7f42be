"""The thread that drives the workflow: one of a deployment leads, and nothing that fails ends it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pool.model import Kind
from pool.work import Poll
from tasks import steward
from tasks.crew import Crew
from tasks.engine import Engine
from tasks.steward import LEASE, LOOKS, Round, Steward
from tests.helpers.desk import Desk
from tests.helpers.fake_port import serve
from tests.helpers.fake_writer import REPO, Failure, FakeWriter, types_with_tokens
from tests.helpers.waiting import wait_until

Make = Callable[..., Desk]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    opened: list[Desk] = []

    def build(**service: Any) -> Desk:
        opened.append(Desk(tmp_path, **service))
        return opened[-1]

    yield build
    for desk in opened:
        desk.close()


@pytest.fixture
def desk(make: Make) -> Desk:
    """Return a deployment that never polls."""
    return make(forge_poll_s=0)


def round_of(desk: Desk, **options: Any) -> Round:
    """Return the work of one process."""
    return Round(desk.engine, desk.forges, monotonic=lambda: desk.monotonic, **{"is_introduced": True, **options})


def holder(desk: Desk) -> str | None:
    with desk.store.reading() as tx:
        return next((lease.holder for lease in tx.list_leases() if lease.name == LEASE), None)


def polls(desk: Desk) -> dict[str, Poll]:
    with desk.store.reading() as tx:
        return {one.repo: one for one in tx.list_polls()}


def look_at(desk: Desk, *numbers: int, repo: str = REPO) -> None:
    with desk.store.writing() as tx:
        for number in numbers:
            tx.look_later(repo, number, why="webhook")


# --- what a round does ---------------------------------------------------------------------------


def test_a_round_carries_out_orders_looks_and_writes(desk: Desk) -> None:
    desk.order("retry")
    work = round_of(desk)
    work.run()
    desk.wait(5)
    work.run()

    with desk.store.reading() as tx:
        [task] = tx.list_tasks(repo=REPO, number=7)
    assert (task.request.kind, task.rule) == (Kind.IMPLEMENT, "implement")
    assert ("dev-alpha", task.id) in desk.bell.rung
    assert desk.forge.reactions != []
    [report] = desk.forge.bodies(7)
    assert "dev-alpha" in report


def test_a_round_lets_merges_go_on(desk: Desk) -> None:
    merge = desk.enter(8)
    with desk.store.writing() as tx:
        tx.park(merge, link=1, why="checks run", look_after_s=10)
    work = round_of(desk)
    work.run()
    desk.wait(10)
    work.run()

    with desk.store.reading() as tx:
        assert [task.request.kind for task in tx.list_tasks(repo=REPO, number=8)] == [Kind.MERGE]


def test_looks_that_are_left_over_are_made_in_the_next_round(desk: Desk) -> None:
    for number in range(100, 100 + LOOKS + 2):
        desk.forge.issue(number)
        look_at(desk, number)
    work = round_of(desk)

    assert work.run()
    assert len(desk.looks()) == 2
    assert not work.run()
    assert desk.looks() == []


def test_what_is_in_a_repository_that_is_not_served_is_not_looked_at(desk: Desk) -> None:
    """It once came back every two minutes, as if whoever looked had been killed."""
    look_at(desk, 7, repo="acme/other")
    round_of(desk).run()
    desk.wait(600)

    assert desk.looks() == []
    assert desk.forge.calls == []


def test_looks_wait_while_the_forge_is_away(desk: Desk) -> None:
    for number in range(100, 106):
        desk.forge.issue(number)
        look_at(desk, number)
    desk.forge.always["GET"] = Failure(503)

    assert not round_of(desk).run()
    assert len(desk.looks()) == 4


# --- the first question --------------------------------------------------------------------------


def test_the_forge_is_asked_first_what_it_is_and_what_it_lacks_is_said(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.forge.version = "11.0.3+gitea-1.22.0"
    desk.owe("reply", text="so it is")
    work = round_of(desk, is_introduced=False)
    work.run()
    work.run()

    said = capsys.readouterr().out
    assert said.count("Forgejo 11.0.3+gitea-1.22.0") == 1 + said.count("forge lacks something")
    assert said.count("before Forgejo 12") == 1
    assert "no webhook for commit statuses" in said
    assert len(desk.forge.bodies(7)) == 1


def test_a_forge_that_is_away_at_the_start_is_asked_again(desk: Desk) -> None:
    desk.forge.fail("GET version", *[Failure(502)] * 4)
    desk.owe("reply", text="so it is")
    work = round_of(desk, is_introduced=False)
    work.run()
    work.run()
    assert desk.forge.writes() == {}
    assert {path for _, path in desk.forge.calls} == {"/api/v1/version"}

    desk.wait(steward.INTRODUCE_AGAIN_S)
    work.run()
    assert len(desk.forge.bodies(7)) == 1


def test_nothing_is_done_with_the_token_of_somebody_else(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """We would not know our own comments, and write each of them anew."""
    desk.owe("reply", text="so it is")
    right = (tmp_path / "token-boss").read_text()
    (tmp_path / "token-boss").write_text("token-of-dev")
    work = round_of(desk, is_introduced=False)
    for _ in range(3):
        work.run()
        desk.wait(steward.INTRODUCE_AGAIN_S)

    assert desk.forge.writes() == {}
    assert capsys.readouterr().out.count("is of dev, and types.boss.forge_user is boss") == 1

    (tmp_path / "token-boss").write_text(right)
    work.run()
    assert len(desk.forge.bodies(7)) == 1


def test_a_token_that_is_exchanged_for_that_of_somebody_else_is_noticed(desk: Desk, tmp_path: Path) -> None:
    work = round_of(desk, is_introduced=False)
    work.run()
    (tmp_path / "token-boss").write_text("token-of-dev")
    desk.owe("reply", text="so it is")
    work.run()

    assert desk.forge.writes() == {}
    assert not work.is_introduced


# --- who leads -----------------------------------------------------------------------------------


def test_of_two_processes_one_leads(desk: Desk) -> None:
    first, second = round_of(desk), round_of(desk)
    first.run()
    look_at(desk, 7)
    desk.owe("reply", text="so it is")

    assert not second.run()
    assert desk.forge.calls == []
    first.run()
    assert desk.forge.bodies(7)[0].startswith("so it is")


def test_who_leads_goes_on_leading(desk: Desk) -> None:
    first, second = round_of(desk), round_of(desk)

    for _ in range(60):
        first.run()
        assert not second.is_ours()
        desk.wait(5)


def test_who_stops_lets_another_lead_at_once(desk: Desk) -> None:
    first, second = round_of(desk), round_of(desk)
    first.run()
    first.close()

    assert second.is_ours()


def test_who_dies_is_followed_when_the_lease_has_ended(desk: Desk) -> None:
    dead, heir = round_of(desk), round_of(desk)
    dead.run()

    desk.wait(dead.lease_s - 1)
    before = heir.is_ours()
    desk.wait(1)

    assert (before, heir.is_ours()) == (False, True)


def test_who_stood_still_and_lost_the_lease_stops_at_once(desk: Desk) -> None:
    old, new = round_of(desk), round_of(desk)
    old.run()
    desk.wait(old.lease_s + 1)
    new.run()
    desk.owe("reply", text="so it is")

    assert not old.run()
    assert not old.is_ours()
    assert desk.forge.calls == []


def test_who_loses_the_lease_in_the_middle_of_a_round_does_nothing_more(desk: Desk) -> None:
    old, new = round_of(desk), round_of(desk)
    for number in (101, 102):
        desk.forge.issue(number)
        desk.owe("reply", number, text="so it is")

    def stand_still() -> None:
        desk.forge.on_write = lambda: None
        desk.wait(old.lease_s + 1)
        assert new.is_ours()

    desk.forge.on_write = stand_still
    old.run()

    assert len(desk.forge.comments) == 1


def test_who_loses_the_lease_among_looks_looks_no_more(make: Make) -> None:
    desk = make(forge_poll_s=300)
    old, new = round_of(desk), round_of(desk)
    look_at(desk, 7, 8)

    def stand_still() -> None:
        desk.forge.on_call = lambda: None
        desk.wait(old.lease_s + 1)
        assert new.is_ours()

    desk.forge.on_call = stand_still
    old.run()

    assert [look.number for look in desk.looks(within_s=0.1)] == [8]
    assert polls(desk) == {}


def test_who_wants_to_end_begins_nothing_more(desk: Desk) -> None:
    look_at(desk, 7)

    assert not round_of(desk, is_ending=lambda: True).run()
    assert desk.forge.calls == []


# --- what fails ----------------------------------------------------------------------------------


def _break(desk: Desk, table: str) -> None:
    with desk.store.writing() as tx:
        tx.connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {table}_gone")


def _mend(desk: Desk, table: str) -> None:
    with desk.store.writing() as tx:
        tx.connection.exec_driver_sql(f"ALTER TABLE {table}_gone RENAME TO {table}")


def test_a_step_that_fails_keeps_no_other_from_being_made(desk: Desk) -> None:
    desk.owe("reply", text="so it is")
    _break(desk, "orders")
    work = round_of(desk)
    work.run()

    assert len(desk.forge.bodies(7)) == 1
    assert work.failures == 1


def test_a_failure_that_goes_on_is_counted_and_logged_once(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    _break(desk, "orders")
    work = round_of(desk)
    for _ in range(5):
        work.run()

    assert work.failures == 5
    assert capsys.readouterr().out.count("step failed") == 1


def test_a_look_that_failed_for_a_reason_of_ours_is_made_again(desk: Desk) -> None:
    look_at(desk, 7)
    _break(desk, "subjects")
    work = round_of(desk)
    work.run()
    _mend(desk, "subjects")

    assert work.failures == 1
    assert [(look.why, look.tries) for look in desk.looks(within_s=steward.LOOK_AGAIN_S)] == [("webhook", 1)]


def test_a_forge_that_answers_nonsense_ends_nothing(desk: Desk) -> None:
    look_at(desk, 7)
    desk.forge.issues[7]["state"] = "neither"
    desk.owe("reply", 8, text="so it is")
    round_of(desk).run()

    assert len(desk.forge.bodies(8)) == 1
    assert len(desk.looks(within_s=600)) == 1


def test_a_token_that_cannot_be_read_is_waited_for(desk: Desk, tmp_path: Path) -> None:
    desk.owe("reply", text="so it is")
    (tmp_path / "token-boss").rename(tmp_path / "elsewhere")
    work = round_of(desk)
    work.run()
    assert desk.forge.calls == []

    (tmp_path / "elsewhere").rename(tmp_path / "token-boss")
    work.run()
    assert len(desk.forge.bodies(7)) == 1


# --- polls ---------------------------------------------------------------------------------------


def test_the_forge_is_asked_at_the_start_and_then_now_and_then(make: Make) -> None:
    desk = make(forge_poll_s=300)
    work = round_of(desk)
    asked = []
    for _ in range(7):
        work.run()
        asked.append(polls(desk)[REPO].polled_at)
        desk.wait(100)

    assert len(set(asked)) == 3
    assert asked[0] == asked[2] != asked[3] == asked[5] != asked[6]


def test_what_is_found_at_the_start_says_so(make: Make) -> None:
    desk = make(forge_poll_s=300)
    work = round_of(desk)
    work.run()
    first = {look.why for look in desk.looks(within_s=60)}
    desk.wait(30)
    work.run()
    desk.wait(270)
    work.run()

    assert first == {"start"}
    assert {look.why for look in desk.looks(within_s=60) if look.number == 8} <= {"poll", "again"}


def test_a_repository_that_cannot_be_asked_keeps_no_other_from_it(make: Make) -> None:
    desk = make(forge_poll_s=300, repos=["acme/broken", REPO])
    work = round_of(desk)
    for _ in range(3):
        work.run()
        desk.wait(1)

    assert polls(desk)["acme/broken"].error != ""
    assert polls(desk)[REPO].polled_at is not None


def test_a_repository_that_could_not_be_asked_is_asked_again_soon(make: Make) -> None:
    desk = make(forge_poll_s=300)
    desk.forge.fail("GET pulls", *[Failure(502)] * 4)
    work = round_of(desk)
    work.run()
    assert polls(desk)[REPO].polled_at is None
    desk.wait(steward.POLL_AGAIN_S)
    work.run()

    assert polls(desk)[REPO].polled_at == desk.clock.now


def test_repositories_that_cannot_be_listed_are_listed_later(make: Make) -> None:
    desk = make(forge_poll_s=300, repos=["*"])
    desk.forge.fail("GET repos", *[Failure(502)] * 4)
    work = round_of(desk)
    work.run()
    assert polls(desk) == {}
    desk.wait(steward.POLL_AGAIN_S)
    work.run()

    assert REPO in polls(desk)


def test_with_a_poll_of_0_the_forge_is_not_asked(desk: Desk) -> None:
    round_of(desk).run()

    assert desk.forge.calls == []


# --- the thread ----------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Engine, FakeWriter, Desk]]:
    """Return a deployment whose forge is behind a port."""
    desk = Desk(tmp_path, forge_poll_s=0)
    with serve(desk.forge) as url:
        service = desk.settings.service.model_copy(update={"forge_url": url})
        settings = desk.settings.model_copy(update={"service": service})
        yield Engine(settings, desk.store, desk.bell), desk.forge, desk
    desk.close()


def test_the_thread_writes_what_is_owed_and_leaves_the_lease(served: tuple[Engine, FakeWriter, Desk]) -> None:
    engine, forge, desk = served
    with Steward(engine):
        desk.owe("reply", text="so it is")
        wait_until(lambda: forge.bodies(7))
        assert holder(desk) is not None

    assert holder(desk) is None
    assert not any(thread.name == "steward" for thread in threading.enumerate())


def test_what_one_job_leads_to_need_not_wait_for_the_next_pause(served: tuple[Engine, FakeWriter, Desk]) -> None:
    engine, forge, desk = served
    service = engine.settings.service.model_copy(update={"reconcile_s": 600.0})
    slow = Engine(engine.settings.model_copy(update={"service": service}), engine.store, engine.bell)
    forge.on_write = lambda: desk.owe("reply", 8, text="so it is")
    desk.owe("reply", text="so it is")
    with Steward(slow, pause_s=600):
        wait_until(lambda: forge.bodies(7) and forge.bodies(8))


def test_a_forge_that_hangs_does_not_hold_up_the_end(served: tuple[Engine, FakeWriter, Desk]) -> None:
    engine, forge, desk = served
    hangs, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        go_on.wait(30)

    forge.on_write = hang
    desk.owe("reply", text="so it is")
    thread = Steward(engine)
    thread.start()
    assert hangs.wait(30)

    thread.stop(within_s=0.05)
    is_left_alone = any(one.name == "steward" for one in threading.enumerate())
    go_on.set()
    assert is_left_alone
    wait_until(lambda: not any(one.name == "steward" for one in threading.enumerate()))


def test_who_ends_does_not_try_again_what_the_forge_did_not_answer(served: tuple[Engine, FakeWriter, Desk]) -> None:
    engine, forge, desk = served

    def asked() -> list[str]:
        return [path for _, path in forge.calls if path.endswith("/comments")]

    forge.always["GET comments"] = Failure(503)
    desk.owe("reply", text="so it is")
    thread = Steward(engine)
    thread.start()
    wait_until(asked)
    thread.stop(within_s=30)

    assert len(asked()) <= 2


def test_without_a_token_there_is_no_thread_and_one_line_says_why(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    types = types_with_tokens(tmp_path)
    del types["boss"]["token_file"]
    desk = make(types=types)
    with Steward(desk.engine):
        assert not any(thread.name == "steward" for thread in threading.enumerate())

    assert capsys.readouterr().out.count("only webhooks count") == 1


# --- side by side --------------------------------------------------------------------------------


class Slow:
    """A forge on which calls about some things do not come back until they are let."""

    def __init__(self, forge: FakeWriter, *numbers: int) -> None:
        self.numbers, self.hangs, self.go_on = numbers, threading.Event(), threading.Event()
        self.calls = 0
        forge.on_arrival = self._arrive

    def _arrive(self, path: str) -> None:
        self.calls += 1
        if any(path.endswith((f"/{number}", f"/{number}/comments")) for number in self.numbers):
            self.hangs.set()
            assert self.go_on.wait(60)


@pytest.fixture
def crew(desk: Desk) -> Iterator[Crew]:
    """Return the crew of a steward; what hangs at the end of a test is let go on."""
    made = Crew(steward.HANDS)
    yield made
    assert made.wait(60)


def hanging(desk: Desk, crew: Crew) -> tuple[Slow, Round]:
    """Begin with a look at issue 101 that does not come back."""
    desk.forge.issue(101)
    slow = Slow(desk.forge, 101)
    work = round_of(desk, crew=crew)
    look_at(desk, 101)
    work.run()
    assert slow.hangs.wait(30)
    return slow, work


def test_a_look_that_hangs_holds_up_neither_looks_nor_orders_nor_what_is_owed(desk: Desk, crew: Crew) -> None:
    desk.forge.issue(102)
    slow, work = hanging(desk, crew)

    look_at(desk, 102)
    order = desk.order("hold")
    desk.owe("reply", 8, text="so it is")

    def is_done() -> bool:
        work.run()
        return (
            desk.work(102).looked_at is not None
            and desk.read_order(order.id).done_at is not None
            and bool(desk.forge.bodies(8))
        )

    wait_until(is_done)
    assert desk.work(101).looked_at is None
    slow.go_on.set()


def test_what_is_about_the_same_thing_is_not_done_side_by_side(desk: Desk, crew: Crew) -> None:
    slow, work = hanging(desk, crew)
    desk.owe("reply", 101, text="so it is")
    order = desk.order("hold", number=101)
    look_at(desk, 101)
    for _ in range(20):
        work.run()
    assert slow.calls == 1
    slow.go_on.set()

    def is_done() -> bool:
        work.run()
        return bool(desk.forge.bodies(101)) and desk.read_order(order.id).done_at is not None

    wait_until(is_done)


def test_the_thread_goes_on_while_one_call_hangs_and_ends_with_the_lease_in_its_hands(
    served: tuple[Engine, FakeWriter, Desk],
) -> None:
    """Whoever leads next would find half of a call. What was only asked for is not written any more."""
    engine, forge, desk = served
    forge.issue(101)
    slow = Slow(forge, 101)
    thread = Steward(engine)
    thread.start()
    desk.owe("reply", 101, text="so it is")
    assert slow.hangs.wait(30)
    desk.owe("reply", 8, text="so it is")
    wait_until(lambda: forge.bodies(8))

    thread.stop(within_s=0.05)
    assert holder(desk) is not None
    slow.go_on.set()
    wait_until(lambda: holder(desk) is None)
    assert forge.bodies(101) == []
