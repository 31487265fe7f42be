"""Keeping the lease of a run, and hearing what others ask of it, while the worker is busy with the agent."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from pool.errors import ForgepoolError, LeaseLost
from pool.store import Claim, Store
from tasks.runner import Stop

log = structlog.get_logger(__name__)

#: Seconds between two looks at what others ask: the longest that a cancel waits before it is heard.
LISTEN_S = 0.5


class Why(StrEnum):
    """Why a run must end before its agent does."""

    CANCEL = "cancel"
    SHUTDOWN = "shutdown"
    LEASE_LOST = "lease-lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRun(Stop):
    """An order to stop the agent."""

    why: Why = Why.SHUTDOWN


class RunLease:
    """A thread that renews the lease of one run and remembers the first order to stop.

    A thread, so that a long clone or a slow agent start does not let the lease run out. It dies with its process,
    and the lease with it, which is the point of a lease.
    """

    def __init__(
        self,
        store: Store,
        claim: Claim,
        *,
        lease_s: float,
        listen_s: float = LISTEN_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """lease_s: length of the lease, renewed at a third of it."""
        self._monotonic = monotonic
        self._store, self._task, self._fence = store, claim.task.id, claim.fence
        self._lease_s, self._listen_s = lease_s, min(listen_s, lease_s / 3)
        self._over = threading.Event()
        self._order: StopRun | None = None
        self._thread = threading.Thread(target=self._keep, name=f"lease of task {self._task}", daemon=True)

    def __enter__(self) -> Self:
        """Start renewing."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop renewing; the record that follows ends the lease."""
        self._over.set()
        self._thread.join()

    def order(self) -> StopRun | None:
        """Return the order to stop, if one has come."""
        return self._order

    @property
    def _is_lost(self) -> bool:
        return self._order is not None and self._order.why is Why.LEASE_LOST

    def _keep(self) -> None:
        # By the monotonic clock: the lease is written by the other one, which may be put forward or back meanwhile.
        renewed_at = self._monotonic()
        # Also after an order: the agent has its grace time, and until it is gone nobody else may take over.
        while not self._over.wait(self._listen_s) and not self._is_lost:
            now = self._monotonic()
            renews = now - renewed_at >= self._lease_s / 3
            try:
                self._listen(renews=renews)
            except LeaseLost as error:
                self._order = StopRun(reason=str(error), why=Why.LEASE_LOST)
            except (ForgepoolError, SQLAlchemyError) as error:
                # The database may be back before the lease ends; after that another worker may have taken over.
                log.warning("lease not renewed", task=self._task, why=str(error))
                if self._monotonic() - renewed_at >= self._lease_s:
                    self._order = StopRun(reason="the database was away for longer than the lease", why=Why.LEASE_LOST)
            else:
                renewed_at = now if renews else renewed_at

    def _listen(self, *, renews: bool) -> None:
        if renews:
            with self._store.writing() as tx:
                wishes = tx.renew(self._task, fence=self._fence, lease_s=self._lease_s)
        else:
            with self._store.reading() as tx:
                wishes = tx.wishes(self._task, fence=self._fence)
        if self._order is None and wishes.cancel_by:
            self._order = StopRun(reason=f"cancelled by {wishes.cancel_by}", why=Why.CANCEL)
        elif self._order is None and wishes.stop:
            self._order = StopRun(reason=wishes.stop_why or "the worker shuts down", why=Why.SHUTDOWN)
