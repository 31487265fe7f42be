"""Each repair: the fault is made, found, repaired once, and then there is nothing left to do."""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from pool.lanes import MergeState
from pool.model import Evidence
from pool.states import InstanceState, Move, State, Verdict
from pool.store import Tx
from pool.subject import Subject
from tasks import reconcile, repairs_rows, repairs_runs
from tasks.dispatch import retry_interrupted
from tasks.reconcile import REPAIRS
from tasks.repair import Scene
from tests.helpers import disk_faults
from tests.helpers.yard import DAY_S, HOST, LEASE_S, Yard, is_over, snapshot
from tests.pool import drive


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    opened = Yard(tmp_path)
    yield opened
    opened.close()


def _run(yard: Yard, *, agent: psutil.Process | None = None, host: str = HOST) -> int:
    """Begin a run on dev-alpha; return the task."""
    with yard.store.writing() as tx:
        if tx.find_instance("dev-alpha") is None:
            tx.add_instance("dev-alpha", "dev")
    drive.dispatch(yard.store)
    with yard.store.writing() as tx:
        run = tx.claim("dev-alpha", lease_s=LEASE_S, host=host)
        if agent is not None:
            tx.note_agent(run.task.id, fence=run.fence, pid=agent.pid, started=agent.create_time())  # type: ignore[union-attr] # there is one
    return run.task.id  # type: ignore[union-attr] # there is one


def _end(yard: Yard, task: int, move: Move = Move.SUCCEED, *, agent_is_gone: bool = True) -> int:
    with yard.store.writing() as tx:
        fence = tx.task(task).fence or 0
        tx.finish(task, move, fence=fence, evidence=Evidence(), why="", agent_is_gone=agent_is_gone)
    return task


def _sql(yard: Yard, statement: str) -> None:
    with yard.store.writing() as tx:
        tx.connection.execute(text(statement))


# --- the faults ----------------------------------------------------------------------------------


def dead_run(yard: Yard) -> None:
    _run(yard)
    yard.bell.rung = []
    yard.wait(LEASE_S)


def orphan(yard: Yard) -> None:
    agent = yard.agent(1)
    _end(yard, _run(yard, agent=agent), Move.INTERRUPT, agent_is_gone=False)


def stray(yard: Yard) -> None:
    _end(yard, _run(yard))
    yard.agent(1)


def forgotten(yard: Yard) -> None:
    drive.add(yard.store, "dev-alpha")
    drive.dispatch(yard.store)
    yard.wait(10)


def lost_message(yard: Yard) -> None:
    drive.add(yard.store, "dev-alpha")
    task = drive.dispatch(yard.store).task
    with yard.store.writing() as tx:
        tx.mark_published(task)
    yard.wait(10)


def miscount(yard: Yard) -> None:
    forgotten(yard)
    yard.reconciler().run_once()
    _sql(yard, "UPDATE instances SET queued = 7, running = 1")


def removed(yard: Yard) -> None:
    drive.add(yard.store, "dev-alpha")
    _sql(yard, "UPDATE instances SET state = 'removed'")


def gone_worker(yard: Yard) -> None:
    drive.add(yard.store, "dev-alpha")
    with yard.store.writing() as tx:
        tx.take_worker_lease("dev-alpha", holder="worker", token="t", lease_s=30)
    yard.wait(300)


def gone_host(yard: Yard) -> None:
    yard.reconciler("elsewhere").round(["sweep-removed"])
    yard.wait(2 * DAY_S)


def old_task(yard: Yard) -> None:
    _end(yard, _run(yard))
    yard.wait(200 * DAY_S)


def old_delivery(yard: Yard) -> None:
    with yard.store.writing() as tx:
        tx.add_delivery(source="forgejo", signed=True, verdict=Verdict.ACCEPTED, status=202, fingerprint="f", reason="")
    yard.wait(31 * DAY_S)


def old_subject(yard: Yard) -> None:
    with yard.store.writing() as tx:
        tx.remember(Subject(repo="acme/shop", number=7, is_pull=False, state="closed", updated_at=tx.now))
    yard.wait(200 * DAY_S)


def old_work(yard: Yard) -> None:
    with yard.store.writing() as tx:
        tx.owe("ask:chain:acme/shop#7:0", "ask", repo="acme/shop", number=7, type_name="dev")
        tx.note_effect(tx.owed_effects()[0])
        tx.remember(Subject(repo="acme/shop", number=7, is_pull=False, state="closed"))
    yard.wait(200 * DAY_S)


def old_session(yard: Yard) -> None:
    with yard.store.writing() as tx:
        tx.keep_session("dev:acme/shop:7", "s", instance="dev-alpha", task=1)
    yard.wait(200 * DAY_S)


def old_checkout(yard: Yard) -> None:
    home = yard.state / "checkouts" / "dev-gone"
    (home / "acme" / "shop" / ".git").mkdir(parents=True)
    locked = home / "acme" / "shop" / "locked"
    locked.mkdir()
    (locked / "file").touch()
    yard.old(home)
    locked.chmod(0o500)


def old_run_files(yard: Yard) -> None:
    task = _end(yard, _run(yard))
    yard.wait(40 * DAY_S)
    (yard.state / "runs" / str(task)).mkdir(parents=True)
    (yard.state / "runs" / str(task) / "prompt.md").touch()
    yard.old(yard.state / "runs" / str(task))


def scraps(yard: Yard) -> None:
    helper = yard.state / "checkouts" / ".forgepool"
    helper.mkdir(parents=True)
    (helper / "tmpabc").touch()
    yard.old(helper / "tmpabc", days=2)


def recovery(yard: Yard) -> None:
    drive.add(yard.store, "dev-alpha")
    _recover(yard.state / "checkouts" / "dev-alpha" / "acme" / "shop", "20251001T000000Z-0123456789")


def _recover(checkout: Path, *names: str, packed: str = "", head: str = "f" * 40) -> Path:
    git = checkout / ".git"
    for place in ("refs/heads/forgepool/recovery", "logs/refs/heads/forgepool/recovery"):
        (git / place).mkdir(parents=True, exist_ok=True)
        for name in names:
            (git / place / name).write_text(name[-1] * 40 + "\n")
    (git / "HEAD").write_text(head + "\n")
    if packed:
        (git / "packed-refs").write_text(packed)
    return git


FAULTS: dict[str, Callable[[Yard], None]] = {
    "interrupt-dead-runs": dead_run,
    "end-orphans": orphan,
    "end-strays": stray,
    "publish-forgotten": forgotten,
    "ring-again": lost_message,
    "recount-load": miscount,
    "sweep-removed": removed,
    "forget-workers": gone_worker,
    "forget-hosts": gone_host,
    "delete-old-tasks": old_task,
    "delete-old-deliveries": old_delivery,
    "delete-old-subjects": old_subject,
    "delete-old-work": old_work,
    "delete-old-sessions": old_session,
    "remove-old-checkouts": old_checkout,
    "remove-old-run-files": old_run_files,
    "remove-scraps": scraps,
    "drop-old-recovery": recovery,
    "trim-checkouts": disk_faults.excess,
    "repack-mirrors": disk_faults.many_packs,
    "remove-damaged-mirrors": disk_faults.damaged_mirror,
}


def test_there_is_a_fault_for_every_repair() -> None:
    assert list(FAULTS) == [repair.name for repair in REPAIRS]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_repaired_once_and_counted_and_then_there_is_nothing_left_to_do(yard: Yard, name: str) -> None:
    FAULTS[name](yard)

    first, second = yard.by_hand(name), yard.by_hand(name)

    assert (len(first.found), first.repaired) == (1, 1)
    assert (second.found, second.repaired) == ((), 0)
    with yard.store.reading() as tx:
        assert tx.repair_counts()[name].count == 1


@pytest.mark.parametrize("name", FAULTS)
def test_a_dry_run_tells_of_the_fault_and_leaves_every_row_file_and_process_as_it_is(yard: Yard, name: str) -> None:
    FAULTS[name](yard)
    before = snapshot(yard.state, yard.store)

    (done,) = (one for one in yard.reconciler().round(dry_run=True) if one.repair.name == name)

    assert (len(done.found), done.repaired, done.error) == (1, 0, None)
    assert snapshot(yard.state, yard.store) == before
    assert yard.bell.rung == [] or name == "recount-load"
    assert not any(is_over(psutil.Process(process.pid)) for process in yard._processes)


@pytest.mark.parametrize("name", FAULTS)
def test_a_whole_deployment_without_a_fault_has_nothing_to_repair(yard: Yard, name: str) -> None:
    _run(yard)
    for folder in ("checkouts/dev-alpha/acme/shop/.git", "runs/1", "logs/tasks", "secrets", "checkouts/.forgepool"):
        (yard.state / folder).mkdir(parents=True)
    for file in ("logs/tasks/1.log", "secrets/operator-token", "checkouts/.forgepool/askpass", "runs/1/prompt.md"):
        (yard.state / file).touch()
    yard.old(yard.state)
    yard.agent(1)

    done = yard.by_hand(name)

    assert done.found == ()


@pytest.mark.parametrize("name", FAULTS)
def test_of_two_reconcilers_at_once_each_thing_is_done_by_one(yard: Yard, name: str) -> None:
    FAULTS[name](yard)
    barrier = threading.Barrier(2)
    counts: list[int] = []

    def make() -> None:
        store = yard.another_store()
        reconciler = yard.reconciler(store=store)
        barrier.wait(10)
        (done,) = reconciler.round([name], by_hand=True)
        store.close()
        assert done.error is None
        counts.append(done.repaired)

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Doorbells may be rung twice: that changes nothing. So may the killing of a process.
    allowed = {1, 2} if name in {"ring-again", "publish-forgotten", "end-strays"} else {1}
    assert sum(counts) in allowed
    assert yard.by_hand(name).repaired == 0


# --- dead runs and their processes ---------------------------------------------------------------


def test_the_agent_of_a_dead_run_has_ended_before_the_retry_is_queued(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = yard.agent(1)
    escaped = yard.agent(1)
    _run(yard, agent=agent)
    yard.wait(LEASE_S)
    at_retry: list[bool] = []
    retry = retry_interrupted

    def look(*args: Any, **options: Any) -> Any:
        at_retry.append(is_over(agent) and is_over(escaped))
        return retry(*args, **options)

    monkeypatch.setattr(repairs_runs, "retry_interrupted", look)
    assert yard.by_hand("interrupt-dead-runs").repaired == 1

    assert at_retry == [True]
    with yard.store.reading() as tx:
        assert tx.agent_of(1) is None
    assert [drive.task(yard.store, task).state for task in (1, 2)] == [State.INTERRUPTED, State.QUEUED]


def test_what_belongs_to_others_is_never_ended(yard: Yard, tmp_path: Path) -> None:
    _end(yard, _run(yard))
    runs = _run(yard)
    others = [
        yard.agent(1, state=tmp_path / "another-deployment"),
        yard.agent(runs),
        yard.agent(99),  # of no task that is known
        yard.agent(1, FORGEPOOL_RESULT_FILE=str(yard.state / "runs" / "2" / "result.json")),
        yard.agent(1, FORGEPOOL_TASK_ID="1 "),
    ]

    assert yard.by_hand("end-strays").found == ()
    assert not any(map(is_over, others))


def test_a_process_that_took_over_the_number_of_an_agent_is_never_ended(yard: Yard) -> None:
    stranger = yard.agent(1, FORGEPOOL_TASK_ID="")
    task = _run(yard)
    with yard.store.writing() as tx:
        tx.note_agent(task, fence=1, pid=stranger.pid, started=stranger.create_time() - 100)
    _end(yard, task, Move.INTERRUPT, agent_is_gone=False)

    assert yard.by_hand("end-orphans").repaired == 1
    assert not is_over(stranger)


def test_an_agent_is_found_although_the_clock_was_put_back_since_it_started(yard: Yard) -> None:
    """Its start time, told by the wall clock, is another one then."""
    agent = yard.agent(1)
    task = _run(yard)
    with yard.store.writing() as tx:
        tx.note_agent(task, fence=1, pid=agent.pid, started=agent.create_time() + 3600)
    _end(yard, task, Move.INTERRUPT, agent_is_gone=False)

    assert yard.by_hand("end-orphans").repaired == 1
    assert is_over(agent)


def test_an_agent_of_another_host_is_left_to_that_host(yard: Yard) -> None:
    agent = yard.agent(1)
    task = _run(yard, agent=agent, host="elsewhere")
    _end(yard, task, Move.INTERRUPT, agent_is_gone=False)

    assert yard.by_hand("end-orphans").found == ()
    assert yard.by_hand("end-strays").found == ()
    assert not is_over(agent)


def test_a_run_that_was_to_be_cancelled_ends_as_cancelled_and_is_not_tried_again(yard: Yard) -> None:
    task = _run(yard)
    with yard.store.writing() as tx:
        tx.cancel(task, by="ada")
    yard.wait(LEASE_S)

    assert yard.by_hand("interrupt-dead-runs").repaired == 1
    assert drive.task(yard.store, task).state is State.CANCELLED
    with yard.store.reading() as tx:
        assert tx.head_of_queue("dev-alpha") is None


def test_a_task_is_retried_by_the_reconciler_up_to_the_cap_and_then_waits_for_a_person(yard: Yard) -> None:
    _run(yard)
    states = []
    for _ in range(5):
        yard.wait(LEASE_S)
        yard.by_hand("interrupt-dead-runs")
        with yard.store.writing() as tx:
            tx.claim("dev-alpha", lease_s=LEASE_S, host=HOST)
    with yard.store.reading() as tx:
        states = [task.state for task in tx.list_tasks(newest_first=False)]

    assert states == [State.INTERRUPTED] * 4 + [State.DEAD_LETTERED]


def test_a_cancel_after_the_clock_was_put_back_ends_the_dead_run_as_cancelled(yard: Yard) -> None:
    task = _run(yard)
    reconciler = yard.reconciler()
    reconciler.run_once()
    yard.clock.advance(-3600)

    with yard.store.writing() as tx:
        assert tx.cancel(task, by="ada") is State.RUNNING
    for _ in range(14):
        yard.wait(5)
        reconciler.run_once()

    assert drive.task(yard.store, task).state is State.CANCELLED


def test_a_run_that_is_renewed_lives_on_whatever_the_clock_does(yard: Yard) -> None:
    task = _run(yard)
    reconciler = yard.reconciler()
    interrupted = 0
    for i in range(120):
        if i % 4 == 0:
            with yard.store.writing() as tx:
                tx.renew(task, fence=1, lease_s=LEASE_S)
        if i in (42, 81):
            yard.clock.advance(-3600 if i == 42 else 3600)
        interrupted += reconciler.run_once()["interrupt-dead-runs"]
        yard.wait(5)

    assert interrupted == 0


# --- retention -----------------------------------------------------------------------------------


def test_what_waits_runs_or_waits_for_a_person_is_never_deleted_with_anything_that_it_needs(yard: Yard) -> None:
    with yard.store.writing() as tx:
        receipts = [
            tx.add_delivery(source="forgejo", signed=True, verdict=Verdict.IGNORED, status=200, reason="")
            for _ in range(3)
        ]
        for number in (1, 2, 3, 4):
            tx.remember(Subject(repo="acme/shop", number=number, is_pull=False, state="closed", updated_at=tx.now))
            tx.keep_session(f"dev:acme/shop:{number}", "s", instance="dev-alpha", task=1)
    drive.add(yard.store, "dev-alpha", "dev-bravo")
    tasks = [
        drive.dispatch(yard.store, number=i + 1, delivery=receipt, one_conversation=False).task
        for i, receipt in enumerate(receipts)
    ]
    drive.claim(yard.store, "dev-alpha")
    _sql(yard, "UPDATE tasks SET state = 'dead_lettered', finished_at = created_at WHERE instance = 'dev-bravo'")
    _sql(yard, "UPDATE instances SET queued = 0 WHERE name = 'dev-bravo'")
    for task in tasks:
        for path in (yard.state / "runs" / str(task), yard.state / "checkouts" / "dev-alpha"):
            path.mkdir(parents=True, exist_ok=True)
    yard.old(yard.state)
    yard.wait(1000 * DAY_S)

    names = [name for name in FAULTS if name.startswith(("delete-", "remove-"))]
    done = {name: [found.what for found in yard.by_hand(name).found] for name in names}

    assert {name: found for name, found in done.items() if found} == {
        "delete-old-subjects": ["issue acme/shop#4"],
        # A dead letter begins its conversation afresh.
        "delete-old-sessions": ["conversation dev:acme/shop:2"],
    }
    with yard.store.reading() as tx:
        assert [task.id for task in tx.list_tasks(newest_first=False)] == tasks


def test_what_the_workflow_has_kept_goes_when_it_is_over_and_old(yard: Yard) -> None:
    for number in (7, 8):
        _keep_work(yard, number)
    with yard.store.writing() as tx:
        tx.remember(Subject(repo="acme/shop", number=7, is_pull=False, state="closed"))
        tx.remember(Subject(repo="acme/shop", number=8, is_pull=False))
    yard.wait(200 * DAY_S)
    _keep_work(yard, 9)

    found = [one.what for one in yard.by_hand("delete-old-work").found]

    # The person who was asked on the issue that is open is not asked again.
    assert found == [
        "old merge 1",
        "old merge 2",
        "old effect 1",
        "old order 1",
        "old order 2",
        "old trail 1",
        "old trail 2",
    ]
    with yard.store.reading() as tx:
        assert tx.work("acme/shop", 8).asked == {"chain"}
        assert {merge.number for merge in tx.list_merges()} == {9}
        assert [len(tx.list_orders("acme/shop", number)) for number in (7, 8, 9)] == [0, 0, 1]


def _keep_work(yard: Yard, number: int) -> None:
    """Leave behind one of each kind."""
    with yard.store.writing() as tx:
        tx.owe(f"ask:chain:acme/shop#{number}:0", "ask", repo="acme/shop", number=number, type_name="dev")
        for effect in tx.owed_effects():
            tx.note_effect(effect)
        merge = tx.enter_lane("acme/shop", "main", number, head_sha="a", approved_at=tx.now)
        tx.end_merge(merge.id, MergeState.MERGED, reason="")
        tx.end_order(_order(tx, number), answer="")
        tx.tell("acme/shop", number, source="look", what="wait", why="")


def _order(tx: Tx, number: int) -> int:
    about = {"repo": "acme/shop", "number": number, "comment": number, "line": 0, "verb": "retry", "argument": ""}
    return tx.take_order(**about, by="ada", delivery=None) or 0


def test_an_issue_about_which_something_is_left_to_do_is_not_forgotten(yard: Yard) -> None:
    with yard.store.writing() as tx:
        for number in (7, 8, 9, 10):
            tx.remember(Subject(repo="acme/shop", number=number, is_pull=True, state="closed", updated_at=tx.now))
            tx.note_work("acme/shop", number, issue=3)
        tx.owe("report:7", "report", repo="acme/shop", number=7, type_name="dev")
        tx.enter_lane("acme/shop", "main", 8, head_sha="a", approved_at=tx.now)
        _order(tx, 9)
    yard.wait(1000 * DAY_S)

    names = [name for name in FAULTS if name.startswith("delete-")]
    done = {name: [found.what for found in yard.by_hand(name).found] for name in names}

    assert {name: found for name, found in done.items() if found} == {"delete-old-subjects": ["issue acme/shop#10"]}
    with yard.store.reading() as tx:
        assert tx.watched("acme/shop") == [7, 8, 9]
        assert (len(tx.owed_effects()), len(tx.list_merges()), len(tx.due_orders())) == (1, 1, 1)


def test_a_task_that_another_one_repeats_goes_after_it(yard: Yard) -> None:
    _run(yard)
    yard.wait(LEASE_S)
    yard.by_hand("interrupt-dead-runs")
    yard.wait(400 * DAY_S)
    assert yard.by_hand("delete-old-tasks").found == ()

    _run(yard)
    _end(yard, 2)
    yard.wait(400 * DAY_S)

    assert [one.what for one in yard.by_hand("delete-old-tasks").found] == ["task 2"]
    assert [one.what for one in yard.by_hand("delete-old-tasks").found] == ["task 1"]


def test_the_history_of_a_deleted_task_goes_with_it_and_a_deleted_receipt_leaves_its_task(yard: Yard) -> None:
    with yard.store.writing() as tx:
        receipt = tx.add_delivery(source="forgejo", signed=True, verdict=Verdict.ACCEPTED, status=202, reason="")
    drive.add(yard.store, "dev-alpha")
    drive.dispatch(yard.store, delivery=receipt)
    task = drive.serve(yard.store, "dev-alpha")
    yard.wait(40 * DAY_S)

    yard.by_hand("delete-old-deliveries")
    assert drive.task(yard.store, task).delivery is None

    yard.wait(200 * DAY_S)
    yard.by_hand("delete-old-tasks")
    with yard.store.reading() as tx:
        assert tx.events_after(0) == []


def test_nothing_is_ever_deleted_when_it_is_to_be_kept_for_ever(tmp_path: Path) -> None:
    yard = Yard(tmp_path, keep_tasks_days=0, keep_deliveries_days=0, keep_logs_days=0)
    for name, make in FAULTS.items():
        if name.startswith(("delete-", "drop-")) or name in {"remove-old-checkouts", "remove-old-run-files"}:
            make(yard)
            assert yard.by_hand(name).found == ()
            _sql(yard, "DELETE FROM instances")
    yard.close()


def test_a_thousand_old_tasks_go_in_small_batches(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    drive.add(yard.store, "dev-alpha")
    for _ in range(5):
        drive.dispatch(yard.store)
        drive.serve(yard.store, "dev-alpha")
    yard.wait(200 * DAY_S)
    monkeypatch.setattr(repairs_rows, "BATCH", 2)
    sizes: list[int] = []
    delete = Tx.delete_tasks

    def note(tx: Tx, ids: list[int], before: datetime) -> int:
        sizes.append(len(ids))
        return delete(tx, ids, before)

    monkeypatch.setattr(Tx, "delete_tasks", note)

    assert yard.by_hand("delete-old-tasks").repaired == 5
    assert sizes == [2, 2, 1]


# --- files ---------------------------------------------------------------------------------------


def test_a_link_is_never_followed_and_what_has_no_name_of_ours_is_never_touched(yard: Yard, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    (precious / "acme" / "shop" / ".git" / "refs" / "heads" / "forgepool" / "recovery").mkdir(parents=True)
    (precious / "1").mkdir()
    (precious / "1.log").touch()
    (precious / "tmpfile").touch()
    checkouts = yard.state / "checkouts"
    for folder in (checkouts, yard.state / "logs", checkouts / "Not-Ours", checkouts / "dev.x"):
        folder.mkdir(parents=True)
    (checkouts / "dev-linked").symlink_to(precious)
    (checkouts / ".forgepool").symlink_to(precious)
    (yard.state / "runs").symlink_to(precious)
    (yard.state / "logs" / "tasks").symlink_to(precious)
    yard.old(yard.state)
    yard.old(precious)
    before = snapshot(precious, yard.store)["files"]

    for name in FAULTS:
        assert yard.by_hand(name).found == ()
    assert snapshot(precious, yard.store)["files"] == before
    assert (checkouts / "Not-Ours").is_dir()


def test_a_link_inside_what_is_removed_goes_and_what_it_leads_to_stays(yard: Yard, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    old_checkout(yard)
    (yard.state / "checkouts" / "dev-gone" / "acme" / "shop" / "link").symlink_to(precious)
    yard.old(yard.state / "checkouts" / "dev-gone")

    assert yard.by_hand("remove-old-checkouts").repaired == 1
    assert not (yard.state / "checkouts" / "dev-gone").exists()
    assert list((yard.state / "checkouts" / ".trash").iterdir()) == []
    assert (precious / "file").exists()


def test_a_checkout_whose_instance_was_added_again_meanwhile_stays(yard: Yard) -> None:
    old_checkout(yard)
    reconciler = yard.reconciler()
    repair = reconcile.chosen(["remove-old-checkouts"])[0]
    scene = Scene(yard.engine, reconciler._runs, reconciler._workers, reconciler._leases, is_leader=True)
    found = repair.find(scene)
    drive.add(yard.store, "dev-gone")

    assert (len(found), repair.act(scene, found)) == (1, 0)
    assert (yard.state / "checkouts" / "dev-gone" / "acme").is_dir()


def test_a_checkout_that_was_touched_lately_stays(yard: Yard) -> None:
    old_checkout(yard)
    git = yard.state / "checkouts" / "dev-gone" / "acme" / "shop" / ".git"
    (git / "index").touch()
    yard.old(git / "index", days=29)

    assert yard.by_hand("remove-old-checkouts").found == ()


def test_a_log_goes_with_its_age_and_that_of_its_task(yard: Yard) -> None:
    logs = yard.state / "logs" / "tasks"
    logs.mkdir(parents=True)
    old = _end(yard, _run(yard))
    yard.wait(40 * DAY_S)
    new = _end(yard, _run(yard))
    for name in (str(old), str(new), "77", "77x", "notes"):
        (logs / f"{name}.log").touch()
    (logs / f"{old}.txt").touch()
    yard.old(logs)
    (logs / "78.log").touch()
    yard.old(logs / "78.log", days=1)

    found = [Path(one.what).name for one in yard.by_hand("remove-old-run-files").found]

    assert found == [f"{old}.log", "77.log"]


def test_recovery_branches_go_by_the_age_that_their_name_tells_packed_or_not(yard: Yard) -> None:
    drive.add(yard.store, "dev-alpha")
    old, checked_out, new = "20251001T000000Z-000000000a", "20251001T000000Z-000000000b", "20260101T000000Z-000000000c"
    packed = (
        "# pack-refs with: peeled fully-peeled sorted\n"
        f"{'d' * 40} refs/heads/forgepool/recovery/20251002T000000Z-000000000d\n"
        f"^{'e' * 40}\n"
        f"{'c' * 40} refs/heads/forgepool/recovery/{new}\n"
        f"^{'e' * 40}\n"
        f"{'f' * 40} refs/heads/main\n"
    )
    checkout = yard.state / "checkouts" / "dev-alpha" / "acme" / "shop"
    git = _recover(checkout, old, checked_out, "mine", packed=packed, head="b" * 40)

    done = yard.by_hand("drop-old-recovery")

    assert done.found[0].what == f"{checkout} {old}, 20251002T000000Z-000000000d"
    assert sorted(path.name for path in (git / "refs/heads/forgepool/recovery").iterdir()) == [checked_out, "mine"]
    assert sorted(path.name for path in (git / "logs/refs/heads/forgepool/recovery").iterdir()) == [checked_out, "mine"]
    assert (git / "packed-refs").read_text().splitlines() == [packed.splitlines()[i] for i in (0, 3, 4, 5)]


def test_recovery_branches_are_left_alone_while_a_run_is_in_the_checkout(yard: Yard) -> None:
    recovery(yard)
    _run(yard)

    assert yard.by_hand("drop-old-recovery").found == ()


# --- instances -----------------------------------------------------------------------------------


def test_wrong_counters_are_set_right(yard: Yard) -> None:
    miscount(yard)

    assert yard.by_hand("recount-load").found[0].what == (
        "dev-alpha: 7 queued and 1 running, in truth 1 queued and 0 running"
    )
    row = drive.instance(yard.store, "dev-alpha")
    assert (row.queued, row.running) == (1, 0)


def test_a_removed_instance_whose_counters_are_wrong_is_not_swept_from_under_its_tasks(yard: Yard) -> None:
    forgotten(yard)
    _sql(yard, "UPDATE instances SET state = 'removed', queued = 0")

    assert yard.by_hand("sweep-removed").found == ()
    yard.by_hand("recount-load")
    assert drive.instance(yard.store, "dev-alpha").state is InstanceState.REMOVED


def test_a_worker_that_was_silent_for_nine_lengths_of_its_lease_may_still_come_back(yard: Yard) -> None:
    gone_worker(yard)
    yard.clock.advance(-30)

    assert yard.by_hand("forget-workers").found == ()


def test_a_worker_that_renews_in_the_end_is_not_forgotten(yard: Yard) -> None:
    gone_worker(yard)
    with yard.store.writing() as tx:
        tx.renew_worker_lease("dev-alpha", token="t", lease_s=30)

    assert yard.by_hand("forget-workers").found == ()


def test_a_broker_that_is_away_stops_a_repair_at_its_first_ring(yard: Yard) -> None:
    drive.add(yard.store, "dev-alpha")
    for _ in range(3):
        drive.dispatch(yard.store)
    yard.wait(10)
    yard.bell.break_down()
    tries: list[int] = []
    yard.bell.on_ring = lambda: tries.append(1)

    assert yard.by_hand("publish-forgotten").repaired == 0
    assert len(tries) == 1
