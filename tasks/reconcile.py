"""The reconciler: one loop per deployment that makes every repair. Any number may run; one of them leads.

The leader holds a lease in the database; it makes the repairs of the deployment. For the processes and files of a host
only a reconciler of that host can care, so those repairs are made by all.
"""

import os
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from pool.errors import BadInput, ForgepoolError
from tasks import repairs_disk, repairs_files, repairs_rows, repairs_runs
from tasks.engine import Engine
from tasks.lease_watch import LeaseWatch
from tasks.repair import GONE_LEASES, MOST, Found, Repair, Scene, Who, host_lease

log = structlog.get_logger(__name__)

#: Name of the lease that the leader holds.
LEADER = "reconcile"

#: In the order in which they are made.
REPAIRS = (*repairs_runs.REPAIRS, *repairs_rows.REPAIRS, *repairs_files.REPAIRS, *repairs_disk.REPAIRS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of one repair in one round."""

    repair: Repair
    found: tuple[Found, ...]
    repaired: int  #: 0 in a dry run
    error: str | None = None  #: why it could not be made, or not to its end


class Reconciler:
    """The rounds of one process. A context manager: at its end another may lead at once."""

    def __init__(self, engine: Engine, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Look at nothing yet. A new one knows nothing of the past of the clock and takes its word."""
        service = engine.settings.service
        self._engine, self._monotonic = engine, monotonic
        self._token = uuid.uuid4().hex
        self._holder = f"{service.host} (pid {os.getpid()})"
        #: A round may take a while, and the next one begins reconcile_s later.
        self._lease_s = max(service.worker_lease_s, 3 * service.reconcile_s)
        self._held_at: dict[str, float] = {}
        self._due_at: dict[str, float] = {}
        watch = partial(LeaseWatch, wall=engine.store.clock, monotonic=monotonic)
        self._runs: LeaseWatch[tuple[int, int]] = watch(service.run_lease_s)
        self._workers: LeaseWatch[str] = watch(GONE_LEASES * service.worker_lease_s)
        self._leases: LeaseWatch[str] = watch(self._lease_s)

    def run_once(self) -> dict[str, int]:
        """Make every repair that is due and ours to make; return how often each had something to do."""
        done = {one.repair.name: one.repaired for one in self.round()}
        return {repair.name: done.get(repair.name, 0) for repair in REPAIRS}

    def round(self, only: Collection[str] = (), *, by_hand: bool = False, dry_run: bool = False) -> list[Done]:
        """Make one round. A repair that fails is logged and does not keep the others from being made.

        only: names of repairs; none: all. by_hand: all that were asked for, whoever leads and whatever was due.
        dry_run: look only, write nothing.
        Raises BadInput for a name that no repair has.
        """
        asked = chosen(only)
        if by_hand or dry_run:
            return [self._make(repair, is_leader=True, dry_run=dry_run) for repair in asked]
        self._hold(host_lease(self._engine.settings.service.host))
        done = []
        for repair in asked:
            # Asked each time: a slow repair before this one may have cost the lease.
            is_leader = self._hold(LEADER)
            is_ours = is_leader or repair.who is Who.HOST
            if is_ours and self._monotonic() >= self._due_at.get(repair.name, float("-inf")):
                done.append(self._make(repair, is_leader=is_leader, dry_run=False))
        return done

    def close(self) -> None:
        """Let another lead at once."""
        for name in list(self._held_at):
            try:
                with self._engine.store.writing() as tx:
                    tx.release_lease(name, token=self._token)
            except (ForgepoolError, SQLAlchemyError) as error:
                log.warning("lease not released", lease=name, why=str(error))
            del self._held_at[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self, repair: Repair, *, is_leader: bool, dry_run: bool) -> Done:
        scene = Scene(self._engine, self._runs, self._workers, self._leases, is_leader)
        found: tuple[Found, ...] = ()
        repaired = 0
        try:
            found = tuple(repair.find(scene))
            if found and not dry_run:
                repaired = repair.act(scene, found)
            if repaired:
                with self._engine.store.writing() as tx:
                    tx.count_repair(repair.name, repaired)
        except (ForgepoolError, SQLAlchemyError, OSError) as error:
            log.error("repair failed", repair=repair.name, why=str(error))
            return Done(repair=repair, found=found, repaired=repaired, error=str(error))
        if repaired:
            log.warning("repaired", repair=repair.name, count=repaired, why=repair.why)
        # What was too much for one round goes on in the next.
        self._due_at[repair.name] = self._monotonic() + (repair.every_s if len(found) < MOST else 0.0)
        return Done(repair=repair, found=found, repaired=repaired)

    def _hold(self, name: str) -> bool:
        """Take or keep a lease, if nobody else has it; tell whether it is ours."""
        had = name in self._held_at
        if had and self._monotonic() - self._held_at[name] < self._lease_s / 3:
            return True
        try:
            is_ours = self._take(name)
        except (ForgepoolError, SQLAlchemyError) as error:
            log.error("lease not taken", lease=name, why=str(error))
            is_ours = False
        if is_ours:
            self._held_at[name] = self._monotonic()
        elif had:
            del self._held_at[name]
        if name == LEADER and is_ours != had:
            log.info("reconciler leads" if is_ours else "reconciler leads no longer", holder=self._holder)
        return is_ours

    def _take(self, name: str) -> bool:
        # Looked up first: those who do not lead ask in each round, and need not wait for the writers' lock.
        with self._engine.store.reading() as tx:
            if not tx.may_lease(name, token=self._token, lease_s=self._lease_s):
                return False
        with self._engine.store.writing() as tx:
            return tx.take_lease(name, holder=self._holder, token=self._token, lease_s=self._lease_s)


def chosen(only: Collection[str] = ()) -> tuple[Repair, ...]:
    """Return the repairs of these names, in their order; without names all. Raises BadInput."""
    names = [repair.name for repair in REPAIRS]
    for name in only:
        if name not in names:
            raise BadInput("only", name, f"no such repair; known: {', '.join(names)}")
    return tuple(repair for repair in REPAIRS if not only or repair.name in only)


def run_once(engine: Engine) -> dict[str, int]:
    """Make one round and keep nothing of it; return how often each repair had something to do."""
    with Reconciler(engine) as reconciler:
        return reconciler.run_once()
