"""The steward: the thread that drives the workflow beside the webhooks. One of a deployment leads; others stand by.

It carries out orders, looks where a look is due, goes on with merges, writes what is owed to the forge, and asks the
forge now and then for what no webhook told. It lives in the fleet's process and holds up nobody there.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from pool.errors import ForgeError, ForgepoolError
from tasks import ledger, look, merge, orders, poll
from tasks.engine import Engine
from tasks.forge import Forge, Forges
from tasks.situation import Policy

__all__ = ["LEASE", "Round", "Steward"]

T = TypeVar("T")

log = structlog.get_logger(__name__)

#: Name of the lease that the leader holds.
LEASE = "forge"
#: The longest pause between two rounds.
PAUSE_S = 1.0
#: Looks of one round; what is left over waits for the next, and orders come first again.
LOOKS = 20
STOP_S = 5.0


@dataclass(slots=True)
class Round:
    """The work of one process: what is due, done by whoever leads. Not for use by two threads at once."""

    engine: Engine
    forges: Forges
    monotonic: Callable[[], float] = time.monotonic
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _held_at: float | None = None
    _poll_at: float = float("-inf")
    _first: bool = True
    _to_poll: list[str] = field(default_factory=list)

    @property
    def lease_s(self) -> float:
        """How long the lease holds without being renewed."""
        return max(self.engine.settings.service.worker_lease_s, 15.0)

    def run(self) -> None:
        """Do what is due, if this process leads."""
        if not self.is_ours():
            return
        forge = self._step("forge", self.forges.main)
        if forge is None:
            return
        self._step("orders", lambda: orders.due(self.engine, forge, is_ours=self.is_ours))
        self._step("looks", lambda: self._looks(forge))
        self._step("merges", lambda: merge.due(self.engine))
        self._step("effects", lambda: ledger.settle(self.engine, self.forges, is_ours=self.is_ours))
        self._step("poll", lambda: self._poll(forge))

    def _looks(self, forge: Forge) -> None:
        policy = Policy.of(self.engine.settings)
        with self.engine.store.reading() as tx:
            due = tx.due_looks(limit=LOOKS)
        for one in due:
            if not self.is_ours():
                return
            if self.engine.settings.allows(one.repo):
                look.look(self.engine, forge, one, policy=policy)
            else:
                with self.engine.store.writing() as tx:
                    tx.begin_look(one.repo, one.number)

    def _poll(self, forge: Forge) -> None:
        """Ask about one repository a round, so that nothing else waits for long."""
        every_s = self.engine.settings.service.forge_poll_s
        now = self.monotonic()
        if not self._to_poll and every_s and now >= self._poll_at:
            self._poll_at = now + every_s
            try:
                self._to_poll = poll.repositories(self.engine, forge)
            except ForgeError as error:
                self._poll_at = now + min(every_s, 30.0)
                log.warning("repositories not listed", why=str(error))
                return
        if self._to_poll and self.is_ours():
            poll.poll_repo(self.engine, forge, self._to_poll.pop(0), why="start" if self._first else "poll")
            self._first = self._first and bool(self._to_poll)

    def _step(self, what: str, act: Callable[[], T]) -> T | None:
        """Do one step; what fails there keeps nothing else from being done, and is done again in the next round."""
        try:
            return act()
        except (ForgepoolError, SQLAlchemyError, OSError) as error:
            log.error("step failed", step=what, why=str(error))
        except Exception:  # the edge of a thread: whatever it was, the workflow must go on
            log.exception("step failed", step=what)
        return None

    # --- who leads ----------------------------------------------------------------------------

    def is_ours(self) -> bool:
        """Take or keep the lease; tell whether it is ours."""
        now, had = self.monotonic(), self._held_at is not None
        if self._held_at is not None and now - self._held_at < self.lease_s / 3:
            return True
        try:
            is_ours = self._take()
        except (ForgepoolError, SQLAlchemyError) as error:
            log.error("lease not taken", lease=LEASE, why=str(error))
            is_ours = False
        self._held_at = now if is_ours else None
        if is_ours != had:
            log.info("steward leads" if is_ours else "steward leads no longer")
        return is_ours

    def _take(self) -> bool:
        service = self.engine.settings.service
        with self.engine.store.reading() as tx:
            if not tx.may_lease(LEASE, token=self.token, lease_s=self.lease_s):
                return False
        holder = f"{service.host} (pid {os.getpid()})"
        with self.engine.store.writing() as tx:
            return tx.take_lease(LEASE, holder=holder, token=self.token, lease_s=self.lease_s)

    def close(self) -> None:
        """Let another lead at once."""
        if self._held_at is None:
            return
        self._held_at = None
        try:
            with self.engine.store.writing() as tx:
                tx.release_lease(LEASE, token=self.token)
        except (ForgepoolError, SQLAlchemyError) as error:
            log.warning("lease not released", lease=LEASE, why=str(error))


class Steward:
    """The thread. A context manager; without an account that reads the forge it does nothing."""

    def __init__(self, engine: Engine) -> None:
        """Start nothing yet."""
        self._engine = engine
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin, if there is an account to ask the forge with."""
        if not self._engine.settings.talks_back:
            log.warning(
                "only webhooks count",
                why=f"the type {self._engine.settings.report_type} has no token_file, so the forge is never asked",
            )
            return
        self._thread = threading.Thread(target=self._run, name="steward", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the present call; a forge that does not answer is not waited for."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout=STOP_S)

    def _run(self) -> None:
        pause = min(PAUSE_S, self._engine.settings.service.reconcile_s)
        with Forges(self._engine.settings, is_unwanted=self._end.is_set) as forges:
            work = Round(self._engine, forges)
            try:
                while not self._end.is_set():
                    work.run()
                    self._end.wait(pause)
            finally:
                work.close()
