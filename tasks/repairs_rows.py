"""Repairs of rows: instances and leases that nobody uses, counters that are wrong, and what is too old to be kept."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import structlog

from pool.store import Lease, Miscount, Tx, WorkerLease
from tasks.repair import BATCH, GONE_LEASES, HOST_LEASE, MOST, Found, Repair, Scene

log = structlog.get_logger(__name__)

#: Pause between two looks for what is in nobody's way.
STALE_S = 60.0
OLD_S = 600.0
#: Between two batches, so that a writer who waits gets his turn.
PAUSE_S = 0.01


# --- instances -----------------------------------------------------------------------------------


def find_removed(scene: Scene) -> list[Found]:
    """Find removed instances that hold nothing."""
    with scene.engine.store.reading() as tx:
        return [Found(name, name) for name in tx.empty_removed()]


def sweep_removed(scene: Scene, found: Sequence[Found]) -> int:
    """Delete their rows."""
    with scene.engine.store.writing() as tx:
        empty = set(tx.empty_removed())
        names = [one.key for one in found if one.key in empty]
        for name in names:
            tx.sweep_removed(name)
    return len(names)


def find_gone_workers(scene: Scene) -> list[Found]:
    """Find workers that have been silent for so long that they will not come back."""
    lease_s = scene.engine.settings.service.worker_lease_s
    with scene.engine.store.reading() as tx:
        held = {lease.instance: lease for lease in tx.worker_leases()}
        late = tx.after(lease_s * (GONE_LEASES - 1)) - tx.now
    gone = scene.workers.dead({name: lease.until + late for name, lease in held.items()})
    return [Found(f"{name}: {held[name].worker}", held[name]) for name in gone]


def forget_workers(scene: Scene, found: Sequence[Found]) -> int:
    """Forget who they were; one that does come back has to start anew."""
    with scene.engine.store.writing() as tx:
        leases: list[WorkerLease] = [one.key for one in found]
        return sum(tx.forget_worker(lease.instance, until=lease.until) for lease in leases)


def find_gone_hosts(scene: Scene) -> list[Found]:
    """Find hosts whose reconciler has not been heard of for a day."""
    with scene.engine.store.reading() as tx:
        silent = [lease for lease in tx.list_leases() if lease.until < tx.before(1)]
    return [Found(f"{one.name}: {one.holder}", one) for one in silent if one.name.startswith(HOST_LEASE)]


def forget_hosts(scene: Scene, found: Sequence[Found]) -> int:
    """Forget them."""
    with scene.engine.store.writing() as tx:
        leases: list[Lease] = [one.key for one in found]
        return sum(tx.forget_lease(lease.name, until=lease.until) for lease in leases)


def find_miscounts(scene: Scene) -> list[Found]:
    """Find instances whose counters disagree with their tasks."""
    with scene.engine.store.reading() as tx:
        return [_told(one) for one in tx.miscounts()]


def recount(scene: Scene, found: Sequence[Found]) -> int:
    """Count again. Every task is counted in the transaction that moves it, so this is a bug or a hand-edited row."""
    with scene.engine.store.writing() as tx:
        wrong = [one for one in (tx.recount(each.key) for each in found) if one is not None]
    for one in wrong:
        log.error("counters were wrong", instance=one.instance, counted=one.counted, true=one.true)
    return len(wrong)


def _told(one: Miscount) -> Found:
    counted, true = (f"{queued} queued and {running} running" for queued, running in (one.counted, one.true))
    return Found(f"{one.instance}: {counted}, in truth {true}", one.instance)


# --- what is too old -----------------------------------------------------------------------------

Days = Callable[[Scene], float]


def _too_old(
    name: str,
    word: str,
    *,
    why: str,
    days: Days,
    find: Callable[[Tx, datetime], list[Any]],
    delete: Callable[[Tx, list[Any], datetime], int],
) -> Repair:
    """Build the repair that deletes one kind of old rows in batches. days: 0 keeps them for ever."""

    def find_old(scene: Scene) -> list[Found]:
        if not days(scene):
            return []
        with scene.engine.store.reading() as tx:
            return [Found(f"{word} {_name(key)}", key) for key in find(tx, tx.before(days(scene)))]

    def delete_old(scene: Scene, found: Sequence[Found]) -> int:
        done = 0
        for start in range(0, len(found), BATCH):
            if start:
                time.sleep(PAUSE_S)
            with scene.engine.store.writing() as tx:
                done += delete(tx, [one.key for one in found[start : start + BATCH]], tx.before(days(scene)))
        return done

    return Repair(name=name, why=why, find=find_old, act=delete_old, every_s=OLD_S, is_routine=True)


def _name(key: Any) -> str:
    return "#".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _delete_subjects(tx: Tx, found: Sequence[tuple[str, int]], before: datetime) -> int:
    return sum(tx.delete_subject(repo, number, before) for repo, number in found)


def _task_days(scene: Scene) -> float:
    return scene.engine.settings.service.keep_tasks_days


def _delivery_days(scene: Scene) -> float:
    return scene.engine.settings.service.keep_deliveries_days


REPAIRS = (
    Repair(
        name="recount-load",
        why="an instance's counters disagree with its tasks",
        find=find_miscounts,
        act=recount,
        every_s=STALE_S,
    ),
    Repair(
        name="sweep-removed",
        why="an instance was removed and holds nothing any more",
        find=find_removed,
        act=sweep_removed,
        every_s=STALE_S,
    ),
    Repair(
        name="forget-workers",
        why=f"a worker was silent for {GONE_LEASES} lengths of its lease",
        find=find_gone_workers,
        act=forget_workers,
    ),
    Repair(
        name="forget-hosts",
        why="a host was silent for a day",
        find=find_gone_hosts,
        act=forget_hosts,
        every_s=OLD_S,
        is_routine=True,
    ),
    _too_old(
        "delete-old-tasks",
        "task",
        why="a task ended more than keep_tasks_days ago",
        days=_task_days,
        find=lambda tx, before: tx.old_tasks(before, limit=MOST),
        delete=lambda tx, ids, before: tx.delete_tasks(ids, before),
    ),
    _too_old(
        "delete-old-deliveries",
        "delivery",
        why="a delivery came more than keep_deliveries_days ago",
        days=_delivery_days,
        find=lambda tx, before: tx.old_deliveries(before, limit=MOST),
        delete=lambda tx, ids, before: tx.delete_deliveries(ids, before),
    ),
    _too_old(
        "delete-old-subjects",
        "issue",
        why="an issue has been closed and unchanged for keep_tasks_days",
        days=_task_days,
        find=lambda tx, before: tx.old_subjects(before, limit=MOST),
        delete=_delete_subjects,
    ),
    _too_old(
        "delete-old-work",
        "old",
        why="the workflow has not needed a merge, an effect, an order or a line of the trail for keep_tasks_days",
        days=_task_days,
        find=lambda tx, before: tx.old_work(before, limit=MOST),
        delete=lambda tx, records, before: tx.delete_work(records, before),
    ),
    _too_old(
        "delete-old-sessions",
        "conversation",
        why="nobody went on with a conversation for keep_tasks_days",
        days=_task_days,
        find=lambda tx, before: tx.old_sessions(before, limit=MOST),
        delete=lambda tx, keys, before: tx.delete_sessions(keys, before),
    ),
)
