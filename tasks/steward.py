"""The steward: the thread that drives the workflow beside the webhooks. One of a deployment leads; others stand by.

It carries out orders, looks where a look is due, goes on with merges, writes what is owed to the forge, and asks the
forge now and then for what no webhook told. What waits for the forge is done by a crew of a few threads, about the same
issue or pull request one after another: an answer that does not come holds up nothing else. It lives in the fleet's
process and holds up nobody there. The fleet starts its children by exec only, so that no child inherits their locks.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Self, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from pool.errors import ForgepoolError
from pool.work import Effect, Look, Order, by_subject
from tasks import ledger, look, merge, orders, poll
from tasks.crew import Crew, Job
from tasks.engine import Engine
from tasks.forge import Forge
from tasks.forge_http import never
from tasks.forges import Forges
from tasks.introduction import introduce
from tasks.patience import Patience
from tasks.situation import Policy

__all__ = ["LEASE", "Round", "Steward"]

T = TypeVar("T")

log = structlog.get_logger(__name__)

#: Name of the lease that the leader holds.
LEASE = "forge"
PAUSE_S = 1.0
#: Calls to the forge side by side, by what they are for.
HANDS = {"introduction": 1, "order": 2, "look": 3, "effect": 3, "poll": 1}
#: Looks of one round; what is left over waits for the next, and orders come first again.
LOOKS = 8
#: Looks in a row that a forge may leave unanswered; the rest of a round would only wait for it, too.
MOST_UNANSWERED = 2
#: A look that failed for a reason of ours, not of the forge's, is made again after this time.
LOOK_AGAIN_S = 60.0
#: Pause after a forge that could not be asked what it is, or has us for somebody else.
INTRODUCE_AGAIN_S = 10.0
#: The longest pause until a repository that could not be asked is asked again.
POLL_AGAIN_S = 30.0
STOP_S = 5.0


@dataclass(slots=True)
class Round:
    """The work of one process: what is due, done by whoever leads. `run` is not for two threads at once."""

    engine: Engine
    forges: Forges
    monotonic: Callable[[], float] = time.monotonic
    is_ending: Callable[[], bool] = never  #: whether the process wants to end: then nothing more is begun
    crew: Crew = field(default_factory=Crew)
    is_introduced: bool = False  #: whether it is known which forge that is, and as whom it is asked
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    failures: int = 0  #: steps that failed so far
    _lock: threading.RLock = field(default_factory=threading.RLock)  #: of the lease and the failures
    _held_at: float | None = None
    _tokens: int | None = None  #: which token of the account that asks this is
    _introduce_at: float = float("-inf")
    _poll_at: float = float("-inf")
    _polled: set[str] = field(default_factory=set)
    _to_poll: list[str] = field(default_factory=list)
    _again_at: dict[str, float] = field(default_factory=dict)
    _said: dict[str, str] = field(default_factory=dict)  #: by step: what was logged of its last failure

    @property
    def lease_s(self) -> float:
        """How long the lease holds without being renewed."""
        return max(self.engine.settings.service.worker_lease_s, 15.0)

    def run(self) -> bool:
        """Do what is due, if this process leads, or have it done; tell whether more is due at once."""
        if not self.is_ours():
            return False
        forge = self._step("forge", self.forges.main)
        if forge is None:
            return False
        self._step("merges", lambda: merge.due(self.engine))
        if not self._knows(forge):
            return False
        for_looks, for_effects = Patience(MOST_UNANSWERED), Patience(ledger.MOST_UNANSWERED)
        self._step("orders", lambda: self.crew.give("order", lambda: self._orders(forge)))
        looks = self._step("looks", lambda: self.crew.give("look", lambda: self._looks(forge, for_looks)))
        self._step("effects", lambda: self.crew.give("effect", lambda: self._effects(for_effects)))
        self._step("polls", lambda: self.crew.give("poll", lambda: self._polls(forge)))
        # A crew tells by itself when more may be due.
        return self.crew.is_alone and looks == LOOKS and not for_looks.is_spent

    def _knows(self, forge: Forge) -> bool:
        """Tell whether it is known which forge that is, and as whom this token asks it; if not, have it asked."""
        if self._tokens not in (None, forge.tokens):
            self.is_introduced, self._introduce_at = False, float("-inf")
        self._tokens = forge.tokens
        if not self.is_introduced:
            self._step("introductions", lambda: self.crew.give("introduction", lambda: self._introduction(forge)))
        return self.is_introduced

    def _introduction(self, forge: Forge) -> Iterator[Job]:
        """Tell whether it is time to ask what the forge is."""

        def introduced() -> bool:
            introduce(self.engine, forge)
            return True

        def act() -> bool:
            self._introduce_at = self.monotonic() + INTRODUCE_AGAIN_S
            token = forge.tokens
            self.is_introduced = bool(self._step("introduction", introduced)) and forge.tokens == token
            return self.is_introduced

        if self.monotonic() >= self._introduce_at:
            yield "introduction", act

    def _orders(self, forge: Forge) -> Iterator[Job]:
        """Find the orders that wait: those about one thing are a job, in the order in which they were given."""

        def act(some: list[Order]) -> bool:
            carry_out = partial(orders.carry_out_all, self.engine, forge, some, is_ours=self.is_ours)
            return bool(self._step("order", carry_out))

        with self.engine.store.reading() as tx:
            waiting = tx.due_orders()
        for about, some in by_subject(waiting):
            yield about, partial(act, some)

    def _looks(self, forge: Forge, patience: Patience) -> Iterator[Job]:
        """Find the looks that are due."""
        policy = Policy.of(self.engine.settings)

        def act(one: Look) -> bool:
            if patience.is_spent or not self.is_ours():
                return False
            is_answered = self._step("look", partial(self._look, forge, one, policy))
            if is_answered is None:
                self._step("look again", partial(self._look_again, one))
            patience.note(is_answered=is_answered is not False)
            return is_answered is True

        with self.engine.store.reading() as tx:
            due = tx.due_looks(limit=LOOKS)
        for one in due:
            yield (one.repo, one.number), partial(act, one)

    def _effects(self, patience: Patience) -> Iterator[Job]:
        """Find what is owed to the forge."""

        def act(some: list[Effect]) -> bool:
            settle = partial(ledger.settle, self.engine, self.forges, some, patience=patience, is_ours=self.is_ours)
            return bool(self._step("effect", settle))

        for about, some in by_subject(ledger.owed(self.engine)):
            yield about, partial(act, some)

    def _polls(self, forge: Forge) -> Iterator[Job]:
        """Tell whether it is time to ask about a repository."""

        def act() -> bool:
            self._step("poll", lambda: self._poll(forge))
            return bool(self._to_poll)

        now = self.monotonic()
        is_due = self._to_poll or now >= self._poll_at or any(at <= now for at in self._again_at.values())
        if is_due and self.engine.settings.service.forge_poll_s > 0:
            yield "poll", act

    def _look(self, forge: Forge, due: Look, policy: Policy) -> bool:
        """Make one look; tell whether the forge answered."""
        if self.engine.settings.allows(due.repo):
            return look.look(self.engine, forge, due, policy=policy).rule != "unavailable"
        with self.engine.store.writing() as tx:
            tx.begin_look(due.repo, due.number)
            tx.end_look(due.repo, due.number)
        return True

    def _look_again(self, due: Look) -> None:
        """Put back on the list what a failed look had taken off."""
        with self.engine.store.writing() as tx:
            tx.fail_look(due.repo, due.number, why=due.why, after_s=LOOK_AGAIN_S)

    def _poll(self, forge: Forge) -> None:
        """Ask about one repository a round, so that nothing else waits for long."""
        every_s, now = self.engine.settings.service.forge_poll_s, self.monotonic()
        again_s = min(every_s, POLL_AGAIN_S)
        if not self._to_poll and now >= self._poll_at:
            self._poll_at = now + again_s
            self._to_poll = poll.repositories(self.engine, forge)
            self._poll_at = now + every_s
        if not self._to_poll:
            self._to_poll = [repo for repo, at in self._again_at.items() if at <= now]
        if not self._to_poll or not self.is_ours():
            return
        repo = self._to_poll.pop(0)
        self._again_at.pop(repo, None)
        if poll.poll_repo(self.engine, forge, repo, why="poll" if repo in self._polled else "start") is None:
            self._again_at[repo] = now + again_s
        else:
            self._polled.add(repo)

    def _step(self, what: str, act: Callable[[], T]) -> T | None:
        """Do one step; what fails there keeps nothing else from being done, and is done again in the next round."""
        try:
            done = act()
        except (ForgepoolError, SQLAlchemyError, OSError) as error:
            self._failed(what, str(error), None)
        except Exception as error:  # noqa: BLE001 - the edge of a thread: whatever it was, the workflow must go on
            self._failed(what, repr(error), error)
        else:
            with self._lock:
                self._said.pop(what, None)
            return done
        return None

    def _failed(self, what: str, why: str, error: Exception | None) -> None:
        """Log a failure; one that goes on round after round only once."""
        with self._lock:
            self.failures += 1
            is_news = self._said.get(what) != why
            self._said[what] = why
        if is_news:
            log.error("step failed", step=what, why=why, failures=self.failures, exc_info=error)

    # --- who leads ----------------------------------------------------------------------------

    def is_ours(self) -> bool:
        """Take or keep the lease; tell whether it is ours."""
        if self.is_ending():
            return False
        with self._lock:
            return self._renew()

    def _renew(self) -> bool:
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

    def __init__(self, engine: Engine, *, pause_s: float = PAUSE_S) -> None:
        """Start nothing yet. pause_s: the longest pause between two rounds."""
        self._engine = engine
        self._pause_s = min(pause_s, engine.settings.service.reconcile_s)
        self._end, self._wake = threading.Event(), threading.Event()
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

    def stop(self, *, within_s: float = STOP_S) -> None:
        """End after the present call; a forge that does not answer is not waited for."""
        self._end.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=within_s)

    def _run(self) -> None:
        # A call that is tried again and again must neither outlive the lease nor let it end.
        with Forges(self._engine.settings, is_unwanted=lambda: not work.is_ours()) as forges:
            crew = Crew(HANDS, on_end=self._wake.set)
            work = Round(self._engine, forges, is_ending=self._end.is_set, crew=crew)
            try:
                while not self._end.is_set():
                    if not work.run():
                        self._wake.wait(self._pause_s)
                    self._wake.clear()
            finally:
                # Whoever leads next must not find half of a call.
                crew.wait()
                work.close()
