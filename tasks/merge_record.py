"""What is written of merges: who enters a lane and leaves it, what came of a link, which link is queued next.

Works in the caller's transaction and never asks the forge. The caller announces, after the commit, what was queued.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_never

from pool.lanes import Merge, MergeState, MergeStep, Refusal
from pool.model import Kind, Request, Task
from pool.states import LIVE, State
from pool.store import Rejected, Submitted, Tx
from tasks.dispatch import labels_of
from tasks.engine import Engine
from tasks.ledger import owe_report
from tasks.merge_next import Finish, GoOn, Next, Park, Refuse, Stopped, Withdraw
from tasks.merge_rules import pause_s

#: In histories of tasks, and as the source of lines of the trail.
BY = "merge"
#: Links that may follow each other at once although something fails again and again; after that they take their time.
HURRIED_LINKS = 20
#: Link tasks of one merge that may fail before it is given up.
MAX_LOST = 3
#: A look right after a merge finds a forge that still checks everything else.
LOOK_AFTER_S = 2.0
#: The forge closes what a merge names by itself, and first.
CLOSE_AFTER_S = 3.0
#: Tasks of one pull request that are looked through.
_MOST = 2000

_LOST = frozenset({State.FAILED, State.TIMED_OUT, State.DEAD_LETTERED})


# --- lanes ---------------------------------------------------------------------------------------


def enter(
    engine: Engine,
    tx: Tx,
    repo: str,
    base: str,
    number: int,
    *,
    head_sha: str,
    approved_at: datetime,
    by: str,
    delivery: int | None = None,
) -> list[Submitted]:
    """Put an approved pull request into its lane, and begin with it if the lane is free.

    by: who noticed that it is approved, for the trail. delivery: the receipt that told it.
    """
    known = tx.open_merge(repo, number)
    submitted: list[Submitted] = []
    if known is not None and known.base != base and known.state is MergeState.WAITING:
        # One whose chain has begun finds that out by itself.
        submitted += leave(engine, tx, repo, number, state=MergeState.WITHDRAWN, reason=f"it goes into {base} now")
        known = None
    if known is None:
        tx.enter_lane(repo, base, number, head_sha=head_sha, approved_at=approved_at)
        tx.tell(repo, number, source=BY, what="queued", why=f"{by}: approved at {head_sha[:10]}, to go into {base}")
        report(engine, tx, repo, number)
    return submitted + start_lane(engine, tx, repo, base, told={number: delivery})


def start_lane(
    engine: Engine, tx: Tx, repo: str, base: str, *, told: Mapping[int, int | None] | None = None
) -> list[Submitted]:
    """Begin with the next in a lane, unless one is under way. told: receipts of deliveries, by pull request."""
    submitted: list[Submitted] = []
    while (merge := tx.next_in_lane(repo, base)) is not None:
        one = _submit(engine, tx, merge, delivery=(told or {}).get(merge.number))
        submitted.append(one)
        if not isinstance(one, Rejected):
            break
        # While there is nobody to merge, waiting in the lane helps nobody; the sentence tells a person what to do.
        _end(engine, tx, merge, MergeState.REFUSED, str(one.error), code=Refusal.NOT_CONFIGURED)
    return submitted


def leave(
    engine: Engine, tx: Tx, repo: str, number: int, *, state: MergeState, reason: str, merge_sha: str | None = None
) -> list[Submitted]:
    """Take a pull request out of its lane from outside, and begin with the next.

    state: WITHDRAWN, for what nobody wants merged any more, or MERGED, for what others have merged.
    """
    merge = tx.open_merge(repo, number)
    if merge is None:
        return []
    tx.supersede(repo, number, by=BY, why=reason, kinds={Kind.MERGE})
    _end(engine, tx, merge, state, reason, merge_sha=merge_sha)
    return start_lane(engine, tx, repo, merge.base)


def report(engine: Engine, tx: Tx, repo: str, number: int) -> None:
    """Have the forge told how things stand, if there is an account for that."""
    if engine.settings.talks_back:
        owe_report(tx, engine, repo, number)


# --- what came of a link -------------------------------------------------------------------------


def apply(engine: Engine, tx: Tx, merge: Merge, result: Next) -> list[Submitted]:
    """Write what came of the present link of a merge, and queue what follows. Raises StaleMerge."""
    match result:
        case GoOn(may_repeat=True) | GoOn(step=MergeStep.UPDATE) | Park() if _is_too_long(engine, tx, merge):
            waited_for = f"it did not come about within {engine.settings.service.merge_wait_s:g} s: {result.why}"
            _end(engine, tx, merge, MergeState.REFUSED, waited_for, code=Refusal.TOO_LONG)
        case GoOn(may_repeat=True, why=why, values=values) if merge.link >= HURRIED_LINKS:
            return _park(engine, tx, merge, why, None, **values)
        case GoOn(step=step, why=why, values=values, made_from=made_from):
            tx.tell(merge.repo, merge.number, source=BY, what=str(merge.step), why=why)
            return go_on(engine, tx, tx.begin_link(merge.id, step, reason=why, **values), made_from)
        case Park(why=why, look_after_s=look_after_s):
            return _park(engine, tx, merge, why, look_after_s)
        case Stopped(why=why):
            return _park(engine, tx, merge, why, None)
        case Refuse(sentence=sentence) if merge.merge_sha is not None:
            # Nothing can undo that any more; what was to come after it is left to people.
            why = f"it is merged, but not cared for: {sentence}"
            _end(engine, tx, merge, MergeState.MERGED, why)
        case Refuse(code=code, sentence=sentence):
            _end(engine, tx, merge, MergeState.REFUSED, sentence, code=code)
        case Withdraw(why=why):
            _end(engine, tx, merge, MergeState.WITHDRAWN, why)
        case Finish():
            _finish(engine, tx, merge, result)
        case _ as never:
            assert_never(never)
    return start_lane(engine, tx, merge.repo, merge.base)


def go_on(engine: Engine, tx: Tx, merge: Merge, made_from: str | None = None) -> list[Submitted]:
    """Queue the task of a link that was just begun."""
    one = _submit(engine, tx, merge, made_from)
    if not isinstance(one, Rejected):
        return [one]
    if _is_too_long(engine, tx, merge):
        _end(engine, tx, merge, MergeState.REFUSED, str(one.error), code=Refusal.NOT_CONFIGURED)
        return [one, *start_lane(engine, tx, merge.repo, merge.base)]
    return [one, *_park(engine, tx, merge, str(one.error), None)]


def _submit(
    engine: Engine, tx: Tx, merge: Merge, made_from: str | None = None, *, delivery: int | None = None
) -> Submitted:
    about = tx.subject(merge.repo, merge.number)
    request = Request(
        kind=Kind.MERGE,
        repo=merge.repo,
        number=merge.number,
        title=about.title if about else "",
        labels=about.labels if about else (),
        url=about.url if about else "",
        base=merge.base,
        head_sha=made_from,
        merge=merge.id,
        link=merge.link,
        step=merge.step,
    )
    type_name = engine.settings.service.merge_type
    return tx.submit(
        type_name,
        request,
        by=BY,
        default_labels=labels_of(engine, type_name),
        # Each link goes wherever there is room at its turn; there is no conversation to follow.
        one_conversation=False,
        rule=f"merge-{merge.step}",
        delivery=delivery,
    )


def _park(engine: Engine, tx: Tx, merge: Merge, why: str, look_after_s: float | None, **values: Any) -> list[Submitted]:
    after_s = pause_s(begun_at=begun_at(tx, merge), now=tx.now) if look_after_s is None else look_after_s
    tx.park(merge.id, link=merge.link, why=why, look_after_s=after_s, **values)
    tx.tell(merge.repo, merge.number, source=BY, what="waits", why=why)
    report(engine, tx, merge.repo, merge.number)
    return []


def _is_too_long(engine: Engine, tx: Tx, merge: Merge) -> bool:
    """Tell whether it has held its lane for longer than others are to wait. What is merged is never given up."""
    if merge.merge_sha is not None:
        return False
    return (tx.now - begun_at(tx, merge)).total_seconds() >= engine.settings.service.merge_wait_s


def _end(
    engine: Engine,
    tx: Tx,
    merge: Merge,
    state: MergeState,
    reason: str,
    *,
    code: Refusal | None = None,
    merge_sha: str | None = None,
) -> None:
    tx.end_merge(merge.id, state, reason=reason, code=code, link=merge.link, merge_sha=merge_sha)
    tx.tell(merge.repo, merge.number, source=BY, what=str(state), why=reason)
    report(engine, tx, merge.repo, merge.number)
    if state is not MergeState.MERGED:
        tx.look_later(merge.repo, merge.number, why="merge", after_s=LOOK_AFTER_S)


def _finish(engine: Engine, tx: Tx, merge: Merge, done: Finish) -> None:
    """Let the merged one go, and have done what is to be done about it."""
    repo, number, why = merge.repo, merge.number, f"#{merge.number} was merged"
    _end(engine, tx, merge, MergeState.MERGED, done.why, merge_sha=done.merge_sha)
    for ended in (number, *done.ended):
        tx.supersede(repo, ended, by=BY, why=why)
        tx.drop_sessions_of(repo, ended)
        report(engine, tx, repo, ended)
    owed: dict[str, Any] = {"repo": repo, "type_name": engine.settings.service.merge_type}
    for issue in done.close:
        key = f"close:{repo}#{issue}:merge-{merge.id}"
        tx.owe(key, "close", number=issue, body={"why": why}, after_s=CLOSE_AFTER_S, **owed)
    if done.delete is not None and engine.settings.service.delete_branches:
        key = f"delete-branch:{repo}:{done.delete}:merge-{merge.id}"
        tx.owe(key, "delete-branch", number=number, body={"branch": done.delete, "sha": done.head_sha}, **owed)
    for other_repo, other in done.look:
        if engine.settings.allows(other_repo):
            tx.look_later(other_repo, other, why="merge", after_s=LOOK_AFTER_S)


# --- what is known of its links ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """The tasks of the links of one merge, oldest first."""

    tasks: tuple[Task, ...]

    @classmethod
    def of(cls, tx: Tx, merge: Merge) -> "Links":
        """Read them."""
        found = tx.list_tasks(repo=merge.repo, number=merge.number, limit=_MOST)
        return cls(tasks=tuple(reversed([task for task in found if task.request.merge == merge.id])))

    @property
    def last(self) -> Task | None:
        """The newest one."""
        return self.tasks[-1] if self.tasks else None

    def has_live(self, link: int) -> bool:
        """Tell whether a link is queued or runs."""
        return any(task.request.link == link and task.state in LIVE for task in self.tasks)

    @property
    def lost(self) -> int:
        """How many ended without a result."""
        return sum(task.state in _LOST for task in self.tasks)

    @property
    def resume_at(self) -> tuple[MergeStep, str | None]:
        """Where to go on, and what an update that may not have been pushed was made from.

        An update that is remembered and not pushed is forgotten by nobody but the link that pushes it.
        """
        request = self.last.request if self.last else None
        if request and request.step is MergeStep.UPDATE and request.head_sha:
            return MergeStep.UPDATE, request.head_sha
        return MergeStep.CHECK, None


def begun_at(tx: Tx, merge: Merge) -> datetime:
    """Return when its turn came: what it waited for others before that is not held against it."""
    first = next(iter(Links.of(tx, merge).tasks), None)
    return first.created_at if first else merge.entered_at
