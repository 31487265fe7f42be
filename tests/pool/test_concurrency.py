"""Many processes and threads at once: every history is one that a single process could have made."""

from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import select

from pool import policy
from pool.lanes import MergeStep
from pool.model import Candidate, Decision
from pool.schema import task_events, tasks
from pool.states import Move
from pool.store import Store
from tests.pool import drive
from tests.pool.processes import (
    PROCESSES,
    Crew,
    claim_once,
    dispatch_many,
    follow_once,
    lease_once,
    serve_all,
    submit_once,
)

EACH = 60
NAMES = [f"dev-{letter}" for letter in "abcdef"]


def test_dispatches_of_eight_processes_are_as_good_as_those_of_one(store: Store, crew: Crew) -> None:
    drive.add(store, *NAMES)

    found = crew.together(store, [(dispatch_many, 1 + EACH * i, EACH) for i in range(PROCESSES)])

    decisions = _replay(store)
    assert sorted(found) == sorted(decisions)
    assert [d.chosen for d in decisions.values()] == NAMES * (PROCESSES * EACH // len(NAMES))


def test_dispatches_beside_workers_that_take_tasks_are_as_good_as_those_of_one(store: Store, crew: Crew) -> None:
    drive.add(store, *NAMES)

    found = crew.together(store, [(dispatch_many, 1 + EACH * i, EACH) for i in range(PROCESSES - 2)], [serve_all] * 2)

    assert sorted(found) == sorted(_replay(store))


def test_dispatches_of_eight_threads_are_as_good_as_those_of_one(store: Store) -> None:
    drive.add(store, *NAMES)

    with ThreadPoolExecutor(PROCESSES) as threads:
        found = list(threads.map(lambda i: dispatch_many(store, 1 + 15 * i, 15), range(PROCESSES)))

    assert sorted(task for one in found for task in one) == sorted(_replay(store))


def test_of_many_who_claim_the_head_of_one_queue_one_gets_it(store: Store, crew: Crew) -> None:
    drive.add(store, "dev-alpha")
    for _ in range(3):
        drive.dispatch(store)

    found = crew.together(store, [(claim_once, "dev-alpha")] * PROCESSES)

    assert sorted(found) == ["Claim"] + ["NoClaim"] * (PROCESSES - 1)


def test_of_many_who_want_to_be_the_worker_one_is_and_the_others_learn_who(store: Store, crew: Crew) -> None:
    drive.add(store, "dev-alpha")

    found = crew.together(store, [(lease_once, "dev-alpha", f"worker-{i}") for i in range(PROCESSES)])

    assert set(found) == {drive.instance(store, "dev-alpha").worker}


def test_of_many_who_ask_for_the_same_thing_one_gets_a_task_and_the_others_hear_of_it(store: Store, crew: Crew) -> None:
    drive.add(store, *NAMES)

    found = crew.together(store, [(submit_once, 7)] * PROCESSES)

    assert sorted(queued for queued, _ in found) == [False] * (PROCESSES - 1) + [True]
    assert len({task for _, task in found}) == 1


def test_tasks_of_one_session_asked_for_at_once_stay_together(store: Store, crew: Crew) -> None:
    drive.add(store, *NAMES)

    found = crew.together(store, [(follow_once, 7)] * PROCESSES)

    assert found == ["dev-a"] * PROCESSES


# --- the workflow --------------------------------------------------------------------------------


def _owe_once(store: Store, body: int) -> list[bool]:
    with store.writing() as tx:
        about = {"repo": "acme/shop", "number": 7, "type_name": "dev", "body": {"n": body}}
        return [tx.owe("ask:x", "ask", **about), tx.owe("report:x", "report", **about, again=True)]  # type: ignore[arg-type] # as they are named


def test_of_many_who_owe_the_same_effect_one_hears_that_it_is_news(store: Store, crew: Crew) -> None:
    found = crew.together(store, [(_owe_once, i) for i in range(PROCESSES)])

    with store.reading() as tx:
        report = tx.effect("report:x")
    assert report is not None
    assert (sorted(found), report.version) == ([False] * (PROCESSES - 1) + [True] * (PROCESSES + 1), PROCESSES)


def _enter_once(store: Store, number: int) -> list[int]:
    with store.writing() as tx:
        return [tx.enter_lane("acme/shop", "main", number, head_sha="a", approved_at=tx.now).id]


def test_of_many_who_put_a_pull_request_into_its_lane_all_mean_one_entry(store: Store, crew: Crew) -> None:
    found = crew.together(store, [(_enter_once, 8)] * PROCESSES)

    assert found == [1] * PROCESSES


def _begin_once(store: Store) -> list[int | None]:
    with store.writing() as tx:
        merge = tx.next_in_lane("acme/shop", "main")
        return [None if merge is None else merge.number]


def test_of_many_who_begin_with_a_lane_one_gets_the_first_in_it(store: Store, crew: Crew) -> None:
    for number in (8, 9):
        _enter_once(store, number)

    found = crew.together(store, [(_begin_once,)] * PROCESSES)

    assert sorted(found, key=str) == [8] + [None] * (PROCESSES - 1)


def _link_once(store: Store, merge: int) -> list[int]:
    with store.writing() as tx:
        return [tx.begin_link(merge, MergeStep.CHECK).link]


def test_links_of_a_merge_begun_at_once_have_each_a_number_of_their_own(store: Store, crew: Crew) -> None:
    (merge,) = _enter_once(store, 8)
    _begin_once(store)

    found = crew.together(store, [(_link_once, merge)] * PROCESSES)

    assert sorted(found) == [2 + i for i in range(PROCESSES)]


def _order_once(store: Store, by: str) -> list[bool]:
    about = {"repo": "acme/shop", "number": 7, "comment": 1, "line": 0, "verb": "retry", "argument": ""}
    with store.writing() as tx:
        return [tx.take_order(**about, by=by, delivery=None) is not None]


def test_of_many_who_read_an_order_one_takes_it(store: Store, crew: Crew) -> None:
    found = crew.together(store, [(_order_once, f"person-{i}") for i in range(PROCESSES)])

    assert sorted(found) == [False] * (PROCESSES - 1) + [True]


def _watch_once(store: Store, i: int) -> list[int]:
    with store.writing() as tx:
        tx.look_later("acme/shop", 7, why="webhook", after_s=-i)
        tx.note_poll("acme/shop", error=str(i))
        tx.tell("acme/shop", 7, source="look", what="wait", why="the same for all")
        tx.hold("acme/shop", 7, by="ada")
    return [i]


def test_many_may_be_the_first_to_know_of_an_issue(store: Store, crew: Crew) -> None:
    """Each finds no row and inserts one: that fails unless writers wait for each other before they look."""
    crew.together(store, [(_watch_once, i) for i in range(PROCESSES)])

    with store.reading() as tx:
        assert (tx.watched("acme/shop"), tx.work("acme/shop", 7).held_by) == ([7], "ada")
        assert len(tx.list_trail("acme/shop", [7])) == 1


def _replay(store: Store) -> dict[int, Decision]:
    """Go through the history in the order of its commits; every decision must be the one a lone process would make.

    Returns the decisions by task, in that order.
    """
    with store.reading() as tx:
        kept = {
            row.id: Decision.from_json(row.decision)
            for row in tx.connection.execute(select(tasks.c.id, tasks.c.decision))
        }
        events = tx.connection.execute(select(task_events.c.task, task_events.c.event).order_by(task_events.c.id)).all()
    cursor: str | None = None
    queues: defaultdict[str, deque[int]] = defaultdict(deque)
    running: dict[str, int] = {}
    ordered: dict[int, Decision] = {}
    for task, event in events:
        decision = kept[task]
        match event:
            case "queued":
                pool = [Candidate(name=n, queued=len(queues[n]), running=int(n in running)) for n in NAMES]
                assert decision == policy.choose(pool, type_name="dev", labels=(), cursor=cursor)
                cursor = decision.cursor_after
                queues[decision.chosen].append(task)
                ordered[task] = decision
            case Move.CLAIM:
                assert decision.chosen not in running
                assert queues[decision.chosen].popleft() == task
                running[decision.chosen] = task
            case Move.SUCCEED:
                assert running.pop(decision.chosen) == task
    return ordered
