"""What people order is done once, if they may; and they hear of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.lanes import MergeState, MergeStep
from pool.model import Kind
from pool.states import InstanceState, Move, State
from pool.store import DeadLettered
from pool.subject import HELP_LABEL, HOLD_LABEL
from tasks import orders
from tests.helpers.desk import Desk
from tests.helpers.fake_writer import REPO, Failure
from tests.pool import drive


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path)
    yield opened
    opened.close()


def give(desk: Desk, verb: str, argument: str = "", **options: object) -> str:
    """Give an order and have it carried out; return the answer."""
    order = desk.order(verb, argument, **options)  # type: ignore[arg-type] # as the method says
    desk.carry_out_orders()
    return desk.read_order(order.id).answer


def state(desk: Desk, task: int) -> State:
    return drive.task(desk.store, task).state


def dead_letter(desk: Desk, *, rule: str | None, number: int = 7) -> int:
    """Return a task that waits for a person."""
    drive.dispatch(desk.store, repo=REPO, number=number, rule=rule)
    run = drive.claim(desk.store, "dev-alpha")
    drive.finish(desk.store, run, Move.INTERRUPT)
    with desk.store.writing() as tx:
        letter = tx.retry_interrupted(run.task.id, cap=0, by="test")
    assert isinstance(letter, DeadLettered)
    return letter.task


def replies(desk: Desk, number: int = 7) -> list[str]:
    """Write what is owed; return what was said, without reports."""
    desk.wait(5)
    desk.settle()
    return [body for body in desk.forge.bodies(number) if "forgepool:report" not in body]


def faces(desk: Desk) -> list[str]:
    """Write what is owed; return the reactions."""
    desk.settle()
    return [content for _, login, content in desk.forge.reactions if login == "boss"]


# --- who may -------------------------------------------------------------------------------------


def test_who_may_not_write_gives_no_orders_and_hears_it_without_words(desk: Desk) -> None:
    task = drive.dispatch(desk.store, repo=REPO, number=7).task

    assert "write access" in give(desk, "cancel", by="mallory")
    assert state(desk, task) is State.QUEUED
    assert faces(desk) == ["-1"]
    assert replies(desk) == []


@pytest.mark.parametrize("login", ["dev", "Reviewer"])
def test_an_agent_that_orders_is_not_even_answered(desk: Desk, login: str) -> None:
    desk.forge.writers.update({"dev", "Reviewer"})
    task = drive.dispatch(desk.store, repo=REPO, number=7).task
    give(desk, "cancel", by=login)

    assert state(desk, task) is State.QUEUED
    assert desk.forge.calls == []
    assert faces(desk) == []


def test_an_order_is_carried_out_once(desk: Desk) -> None:
    order = desk.order("hold")
    orders.carry_out(desk.engine, desk.main, order)
    with desk.store.writing() as tx:
        tx.unhold(REPO, 7)

    assert orders.carry_out(desk.engine, desk.main, order)
    assert desk.work().held_by is None
    assert faces(desk) == ["+1"]


def test_an_order_waits_for_a_forge_that_is_away_and_is_forgotten_after_a_day(desk: Desk) -> None:
    desk.forge.always["GET permission"] = Failure(502)
    order = desk.order("hold")
    for hour in range(26):
        for _ in range(15):
            desk.carry_out_orders()
            desk.wait(240)
        assert bool(desk.read_order(order.id).answer) == (hour >= 24)

    asked = len(desk.forge.calls)
    assert "could not be asked" in desk.read_order(order.id).answer
    assert desk.work().held_by is None
    assert asked < 4 * 24 * 60 / 10 + 60
    assert [line.what for line in desk.trail(source="order")] == ["hold"]


def test_an_order_is_carried_out_when_the_forge_is_back(desk: Desk) -> None:
    desk.forge.fail("GET permission", *[Failure(502)] * 4)

    assert give(desk, "hold") == ""
    desk.wait(5)
    assert desk.carry_out_orders() == 1
    assert desk.work().held_by == "ada"


def test_a_forge_that_does_not_tell_who_may_is_complained_of_once(desk: Desk) -> None:
    desk.forge.always["GET permission"] = Failure(403)
    for _ in range(2):
        desk.order("retry")
        for _ in range(6):
            desk.carry_out_orders()
            desk.wait(60)

    [reply] = replies(desk)
    assert "administrator" in reply


def test_who_has_lost_the_lease_carries_out_nothing(desk: Desk) -> None:
    order = desk.order("hold")

    assert orders.carry_out_all(desk.engine, desk.main, [order], is_ours=lambda: False) == 0
    assert desk.work().held_by is None


def test_orders_about_one_thing_keep_their_order_though_the_forge_fails_between_them(desk: Desk) -> None:
    """The second one used to overtake the first, which waited for its next try: held at last, though let go."""
    desk.order("hold")
    desk.order("go")
    desk.forge.fail("GET permission", *[Failure(502)] * 4)
    for _ in range(4):
        desk.carry_out_orders()
        desk.wait(60)

    assert [line.what for line in desk.trail(source="order")] == ["hold", "go"]
    assert desk.work().held_by is None


def test_what_is_no_order_is_answered_with_those_that_there_are(desk: Desk) -> None:
    give(desk, "unknown", "dance `@bob`")

    [reply] = replies(desk)
    assert "dance" in reply
    assert "@bob" not in reply
    assert "`/forgepool to TYPE`" in reply
    assert faces(desk) == ["confused"]


# --- retry ---------------------------------------------------------------------------------------


def test_retry_counts_anew_and_looks_at_an_issue_and_its_pull_requests(desk: Desk) -> None:
    desk.link(8, 7)
    desk.wait(60)
    give(desk, "retry")

    assert [(look.number, look.why) for look in desk.looks()] == [(7, "order"), (8, "order")]
    assert desk.work(7).reset_at == desk.work(8).reset_at == desk.clock.now


def test_retry_leaves_closed_pull_requests_alone(desk: Desk) -> None:
    desk.link(8, 7)
    desk.know(8, is_pull=True, state="closed")
    give(desk, "retry")

    assert [look.number for look in desk.looks()] == [7]


def test_retry_lets_a_look_decide_in_place_of_a_dead_letter(desk: Desk) -> None:
    letter = dead_letter(desk, rule="implement")
    give(desk, "retry")

    assert state(desk, letter) is State.SUPERSEDED


def test_retry_releases_what_a_person_had_dispatched(desk: Desk) -> None:
    letter = dead_letter(desk, rule=None)
    give(desk, "retry")

    assert state(desk, letter) is State.QUEUED
    assert ("dev-alpha", letter) in desk.bell.rung


def test_retry_of_what_nobody_can_take_does_the_rest(desk: Desk) -> None:
    letter = dead_letter(desk, rule=None)
    drive.set_state(desk.store, "dev-alpha", InstanceState.REMOVED)

    assert "tried again" in give(desk, "retry")
    assert state(desk, letter) is State.DEAD_LETTERED


def test_retry_of_what_is_held_says_so(desk: Desk) -> None:
    with desk.store.writing() as tx:
        tx.hold(REPO, 7, by="grace")

    assert "held by grace" in give(desk, "retry")


def test_retry_takes_off_the_label_that_asks_for_a_person(desk: Desk) -> None:
    desk.owe("ask", key=f"ask:tries:{REPO}#7:0", cause="tries", sentence="it was tried 3 times", pull=None)
    desk.settle()
    assert desk.forge.issues[7]["labels"] == [HELP_LABEL]
    desk.wait(5)
    give(desk, "retry")
    desk.settle()

    assert desk.forge.issues[7]["labels"] == []


def test_retry_hurries_a_merge_that_waits(desk: Desk) -> None:
    merge = desk.enter(8)
    with desk.store.writing() as tx:
        tx.park(merge, link=1, why="checks run", look_after_s=600)
    give(desk, "retry", number=8)

    with desk.store.reading() as tx:
        assert [one.id for one in tx.due_merges()] == [merge]


# --- cancel --------------------------------------------------------------------------------------


def test_cancel_stops_what_waits_and_what_runs_for_an_issue_and_its_pull_requests(desk: Desk) -> None:
    desk.link(8, 7)
    tasks = [drive.dispatch(desk.store, repo=REPO, number=number).task for number in (7, 8)]
    drive.claim(desk.store, "dev-alpha")
    answer = give(desk, "cancel")

    running = drive.task(desk.store, tasks[0])
    assert running.cancel_requested_at is not None
    assert state(desk, tasks[1]) is State.CANCELLED
    assert all(str(task) in answer for task in tasks)


def test_cancel_stops_dead_letters(desk: Desk) -> None:
    letter = dead_letter(desk, rule=None)
    give(desk, "cancel")

    assert state(desk, letter) is State.CANCELLED


def test_cancel_takes_a_pull_request_out_of_its_lane_and_lets_the_next_one_go(desk: Desk) -> None:
    desk.enter(8)
    desk.enter(9)
    answer = give(desk, "cancel", number=8)

    with desk.store.reading() as tx:
        entries = {one.number: one.state for one in tx.list_merges(repo=REPO)}
        [link] = tx.list_tasks(repo=REPO, number=9)
    assert entries == {8: MergeState.WITHDRAWN, 9: MergeState.ACTIVE}
    assert (link.request.kind, link.request.step) == (Kind.MERGE, MergeStep.CHECK)
    assert ("boss-alpha", link.id) in desk.bell.rung
    assert "#8" in answer


def test_what_was_taken_out_of_its_lane_is_not_back_in_it_at_the_next_look(desk: Desk) -> None:
    desk.enter(8)
    give(desk, "cancel", number=8)

    assert desk.work(8).held_by == "ada"
    give(desk, "go", number=8)
    assert desk.work(8).held_by is None


def test_cancel_lets_a_link_that_runs_take_its_merge_out_of_the_lane_itself(desk: Desk) -> None:
    """A merge that is under way must have ended before the next one of its lane begins."""
    merge = desk.enter(8)
    desk.enter(9)
    drive.dispatch(desk.store, "boss", repo=REPO, number=8, kind=Kind.MERGE, merge=merge, link=1)
    run = drive.claim(desk.store, "boss-alpha")
    give(desk, "cancel", number=8)

    with desk.store.reading() as tx:
        assert tx.merge(merge).state is MergeState.ACTIVE
    assert drive.task(desk.store, run.task.id).cancel_requested_at is not None


def test_cancel_where_nothing_is_under_way_says_so(desk: Desk) -> None:
    assert give(desk, "cancel") == "there was nothing to stop"


# --- hold and go ---------------------------------------------------------------------------------


def test_hold_and_go(desk: Desk) -> None:
    desk.link(8, 7)
    give(desk, "hold")
    assert (desk.work(7).held_by, desk.work(8).held_by) == ("ada", "ada")
    assert desk.looks() == []
    desk.wait(5)
    give(desk, "go", number=8)

    assert (desk.work(7).held_by, desk.work(8).held_by) == (None, None)
    assert [look.number for look in desk.looks()] == [7, 8]
    assert desk.work(7).reset_at == desk.clock.now


def test_go_takes_off_the_label_that_holds(desk: Desk) -> None:
    desk.forge.issues[7]["labels"] = [HOLD_LABEL]
    desk.know(7, labels=(HOLD_LABEL,))
    give(desk, "go")
    desk.settle()

    assert desk.forge.issues[7]["labels"] == []


# --- explain -------------------------------------------------------------------------------------


def test_explain_tells_what_was_decided_and_what_ran(desk: Desk) -> None:
    desk.link(8, 7)
    drive.dispatch(desk.store, repo=REPO, number=8)
    with desk.store.writing() as tx:
        tx.tell(REPO, 7, source="look", what="blocked", why="it depends on @mallory's #3")
    give(desk, "explain")

    [reply] = replies(desk)
    assert "2026-01-05 09:00 UTC #7 look: it depends on" in reply
    assert "the only candidate" in reply
    assert "@mallory" not in reply


def test_an_explanation_of_nothing_is_one_too(desk: Desk) -> None:
    give(desk, "explain")

    assert replies(desk)[0].count("nothing yet") == 2


# --- to ------------------------------------------------------------------------------------------


def test_to_gives_an_issue_to_another_type_at_once(desk: Desk) -> None:
    old = drive.dispatch(desk.store, repo=REPO, number=7, rule="implement").task
    desk.know(7, title="Sell tea", assignees=("dev",))
    answer = give(desk, "to", "reviewer")
    desk.settle()

    with desk.store.reading() as tx:
        [new] = tx.list_tasks(repo=REPO, number=7, type_name="reviewer")
    assert state(desk, old) is State.SUPERSEDED
    assert (new.state, new.request.kind, new.request.title) == (State.QUEUED, Kind.IMPLEMENT, "Sell tea")
    assert ("rev-alpha", new.id) in desk.bell.rung
    assert str(new.id) in answer
    assert desk.forge.issues[7]["assignees"] == ["reviewer"]


def test_to_takes_the_name_of_the_account_too(desk: Desk) -> None:
    assert "given to reviewer" in give(desk, "to", "`@Reviewer`")


def test_what_is_given_to_a_type_counts_as_dispatched_by_hand(desk: Desk) -> None:
    """A look before the account is assigned would take back what no assignment asks for."""
    give(desk, "to", "reviewer")

    assert [task.by_hand for task in desk.work().live] == [True]


def test_to_a_type_that_there_is_not_is_answered_with_those_that_there_are(desk: Desk) -> None:
    task = drive.dispatch(desk.store, repo=REPO, number=7).task
    give(desk, "to", "painter")

    [reply] = replies(desk)
    assert "painter" in reply
    assert all(f"`{name}`" in reply for name in ("boss", "dev", "reviewer"))
    assert state(desk, task) is State.QUEUED


@pytest.mark.parametrize("argument", ["", "``", "@"])
def test_to_nobody_is_answered(desk: Desk, argument: str) -> None:
    assert "There is no type" in give(desk, "to", argument)


def test_a_pull_request_is_given_to_a_type_by_its_issue(desk: Desk) -> None:
    desk.link(8, 7)
    desk.know(8, is_pull=True)
    give(desk, "to", "reviewer", number=8)

    assert [task.type for task in desk.work(7).live] == ["reviewer"]


@pytest.mark.parametrize("facts", [{"is_pull": True}, {"state": "closed"}])
def test_only_an_open_issue_can_be_given_to_a_type(desk: Desk, facts: dict[str, object]) -> None:
    desk.know(7, **facts)

    assert "only an open issue" in give(desk, "to", "reviewer")
    assert desk.work().live == ()


def test_what_is_held_is_assigned_and_does_not_begin(desk: Desk) -> None:
    with desk.store.writing() as tx:
        tx.hold(REPO, 7, by="grace")

    assert "grace" in give(desk, "to", "reviewer")
    assert desk.work().live == ()
    assert len(desk.owed("assign")) == 1


def test_a_type_that_cannot_take_it_is_told(desk: Desk) -> None:
    drive.set_state(desk.store, "rev-alpha", InstanceState.REMOVED)
    give(desk, "to", "reviewer")

    assert "cannot take it" in replies(desk)[0]
