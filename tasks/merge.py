"""The chain that merges: one link at a time, and what a round of care for all merges does.

A link is a task like any other; the next one is queued in the transaction that records the end of the one before, and
chooses its instance only then. So the chain is neither lost nor doubled, whatever is killed when.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from pool.errors import ForgeError, StaleMerge, UnknownMerge
from pool.lanes import Merge, MergeState, MergeStep, Refusal
from pool.model import Task
from pool.states import Move, State
from pool.store import Claim, Submitted, Tx
from tasks.dispatch import announce
from tasks.engine import Engine
from tasks.judge import stopped
from tasks.lease import StopRun
from tasks.merge_links import follow
from tasks.merge_next import Next, Refuse, Scene, Stopped
from tasks.merge_record import MAX_LOST, Links, apply, enter, go_on, leave, start_lane
from tasks.merge_tools import Open, Tools, open_tools
from tasks.situation import Policy

__all__ = ["LinkOutcome", "due", "enter", "leave", "run_link", "start_lane"]

log = structlog.get_logger(__name__)

#: Steps after which something may have changed on the forge for good.
_LASTING = frozenset({MergeStep.MERGE, MergeStep.CONFIRM, MergeStep.CARE})
#: One round of `due` reads so many.
_ROUND = 500


class Orders(Protocol):
    """Tells whether a run is to stop. Fulfilled by tasks.lease.RunLease."""

    def order(self) -> StopRun | None:
        """Return the order to stop, if one has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOutcome:
    """How a link ended. `then` belongs into the transaction that records that; it returns what was queued."""

    move: Move
    why: str
    then: Callable[[Tx], list[Submitted]]


# --- one link ------------------------------------------------------------------------------------


def run_link(engine: Engine, claimed: Claim, lease: Orders, *, opened: Open = open_tools) -> LinkOutcome:
    """Do the link that a task is for. opened: gives the forge, in the name of the type that merges."""
    task = claimed.task

    def is_unwanted() -> bool:
        return lease.order() is not None

    with opened(engine, task.type, is_unwanted) as tools:
        if task.request.merge is None:
            return _enter_by_hand(engine, task, tools)
        with engine.store.reading() as tx:
            merge = _current(tx, task)
        if merge is None or merge.step is None:
            return LinkOutcome(move=Move.SUCCEED, why="others have gone on from here", then=_nothing)
        if is_unwanted():
            return _stopped(engine, task, lease)
        result = _follow(engine, task, merge, tools, is_unwanted)
    # What was asked of the forge is followed up, whatever was ordered meanwhile; all else can be done again.
    if is_unwanted() and (merge.step not in _LASTING or isinstance(result, Stopped)):
        return _stopped(engine, task, lease)
    log.info("link done", merge=merge.id, step=merge.step, why=result.why)
    then = _if_current(task, lambda tx, now: apply(engine, tx, now, result))
    return LinkOutcome(move=Move.SUCCEED, why=f"{merge.step}: {result.why}", then=then)


def _follow(engine: Engine, task: Task, merge: Merge, tools: Tools | None, is_unwanted: Callable[[], bool]) -> Next:
    if tools is None:
        return Refuse(code=Refusal.NOT_CONFIGURED, sentence=_no_token(task))
    scene = Scene(
        merge=merge,
        made_from=task.request.head_sha,
        policy=Policy.of(engine.settings),
        style=engine.settings.service.merge_style,
        forge=tools.forge,
        read=lambda: tools.read(tools.forge, engine, merge.repo, merge.number),
        updater=tools.updater,
        is_unwanted=is_unwanted,
        sleep=tools.sleep,
    )
    return follow(scene, task.request.step or MergeStep.CHECK)


def _current(tx: Tx, task: Task) -> Merge | None:
    """Return the merge if the task is its present link; None: others have gone on from there."""
    try:
        merge = tx.merge(task.request.merge or 0)
    except UnknownMerge:
        return None
    return merge if merge.state is MergeState.ACTIVE and merge.link == task.request.link else None


def _if_current(task: Task, change: Callable[[Tx, Merge], list[Submitted]]) -> Callable[[Tx], list[Submitted]]:
    """Return a change that is made only if the task is still the present link."""

    def then(tx: Tx) -> list[Submitted]:
        merge = _current(tx, task)
        try:
            return [] if merge is None else change(tx, merge)
        except StaleMerge as error:
            log.info("link came too late", why=str(error))
            return []

    return then


def _nothing(tx: Tx) -> list[Submitted]:
    del tx
    return []


def _stopped(engine: Engine, task: Task, lease: Orders) -> LinkOutcome:
    """Return how a link ends that was ordered to stop; a person who cancels it does not want the merge."""
    outcome = stopped(lease.order())
    assert outcome is not None  # noqa: S101 - an order is never taken back
    if outcome.move is not Move.CANCEL:
        return LinkOutcome(move=outcome.move, why=outcome.why, then=_nothing)
    then = _if_current(task, lambda tx, now: _withdraw(engine, tx, now, outcome.why))
    return LinkOutcome(move=outcome.move, why=outcome.why, then=then)


def _withdraw(engine: Engine, tx: Tx, merge: Merge, reason: str) -> list[Submitted]:
    # What is merged stays merged; it is the care for it that is not wanted.
    state = MergeState.WITHDRAWN if merge.merge_sha is None else MergeState.MERGED
    return leave(engine, tx, merge.repo, merge.number, state=state, reason=reason)


def _enter_by_hand(engine: Engine, task: Task, tools: Tools | None) -> LinkOutcome:
    """Put into its lane what a person dispatched without one."""
    request = task.request
    if tools is None:
        return LinkOutcome(move=Move.FAIL, why=_no_token(task), then=_nothing)
    try:
        pull = tools.forge.pull(request.repo, request.number)
    except ForgeError as error:
        return LinkOutcome(move=Move.FAIL, why=f"the pull request cannot be read: {error}", then=_nothing)

    def then(tx: Tx) -> list[Submitted]:
        told = f"task {task.id}"
        base, head = pull.base_ref, pull.head_sha
        return enter(engine, tx, request.repo, base, request.number, head_sha=head, approved_at=tx.now, by=told)

    return LinkOutcome(move=Move.SUCCEED, why=f"put into the lane of {pull.base_ref}", then=then)


def _no_token(task: Task) -> str:
    return f"the type {task.type} has no token to merge with: give it a token_file"


# --- a round of care -----------------------------------------------------------------------------


def due(engine: Engine) -> int:
    """Go on with parked merges whose time has come, and mend lanes that stand still; return how many moved."""
    with engine.store.reading() as tx:
        parked = [merge.id for merge in tx.due_merges()]
        active = [m for m in tx.list_merges(only_open=True, limit=_ROUND) if m.state is MergeState.ACTIVE]
        still = [merge.id for merge in active if not Links.of(tx, merge).has_live(merge.link)]
        free = tx.free_lanes()
    moved = sum(_go_on_with(engine, merge, _unpark) for merge in parked)
    moved += sum(_go_on_with(engine, merge, _mend) for merge in still)
    for repo, base in free:
        with engine.store.writing() as tx:
            submitted = start_lane(engine, tx, repo, base)
        log.warning("lane stood still", repo=repo, base=base)
        announce(engine, submitted)
        moved += 1
    return moved


def _go_on_with(engine: Engine, merge: int, change: Callable[[Engine, Tx, Merge], list[Submitted] | None]) -> int:
    """Make a change to one merge, alone: if somebody was first with it, the others still get theirs."""
    try:
        with engine.store.writing() as tx:
            submitted = change(engine, tx, tx.merge(merge))
    except (StaleMerge, UnknownMerge):
        return 0
    announce(engine, submitted or [])
    return 0 if submitted is None else 1


def _unpark(engine: Engine, tx: Tx, merge: Merge) -> list[Submitted] | None:
    if merge.state is not MergeState.PARKED:
        return None
    step, made_from = Links.of(tx, merge).resume_at
    return go_on(engine, tx, tx.unpark(merge.id, step), made_from)


def _mend(engine: Engine, tx: Tx, merge: Merge) -> list[Submitted] | None:
    """Go on with a merge whose link has ended without a word: cancelled, superseded, failed, lost too often."""
    links = Links.of(tx, merge)
    if merge.state is not MergeState.ACTIVE or links.has_live(merge.link):
        return None
    last = links.last
    if last is not None and last.state is State.CANCELLED:
        return _withdraw(engine, tx, merge, last.reason or f"task {last.id} was cancelled")
    if last is not None and (last.state is State.DEAD_LETTERED or links.lost >= MAX_LOST):
        sentence = f"its links were lost {links.lost} times, the last one as task {last.id}: {last.reason}"
        return apply(engine, tx, merge, Refuse(code=Refusal.LOST, sentence=sentence))
    log.warning("merge stood still", merge=merge.id, task=last.id if last else None)
    step, made_from = links.resume_at
    return go_on(engine, tx, tx.begin_link(merge.id, step), made_from)
