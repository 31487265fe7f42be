"""What a report says of an issue or pull request, read from the store."""

from collections.abc import Iterable
from datetime import datetime

from pool import explain
from pool.lanes import Merge, MergeState
from pool.model import Kind, Task
from pool.states import State
from pool.store import Tx
from pool.work import Work
from tasks.report import Count, Row, View, moment
from tasks.settings import Settings

MOST_ROWS = 15
#: Links of merges are told by the lane, not one by one.
_READ = 200


def view_of(tx: Tx, settings: Settings, repo: str, number: int) -> View:
    """Read what is known."""
    work = tx.work(repo, number)
    found = tx.list_tasks(repo=repo, number=number, limit=_READ)
    tasks = [task for task in found if task.request.kind is not Kind.MERGE]
    lines = [line for line in tx.list_trail(repo, [number], limit=20) if line.source in {"look", "merge"}]
    merge = work.merges[-1] if work.merges else None
    family = tx.family(repo, number)
    return View(
        repo=repo,
        number=number,
        now=_live(tasks) or (lines[-1].why if lines else ""),
        rows=tuple(_row(task) for task in reversed(tasks[:MOST_ROWS])),
        more=max(0, len(tasks) - MOST_ROWS),
        merge=None if merge is None else _merge_words(merge.state, merge.base, merge.reason, merge.merge_sha),
        ahead=_ahead(tx, merge) if merge is not None and merge.state is MergeState.WAITING else (),
        counts=_counts(work, settings),
        held_by=work.held_by,
        others=tuple(one for one in family if one != number),
        asked=_asked(tx, repo, family, since=work.reset_at) if work.asked else None,
    )


def _live(tasks: Iterable[Task]) -> str:
    """Say what is under way; "": nothing is."""
    told = []
    for task in tasks:
        name = f"task {task.id} ({task.request.kind})"
        if task.state is State.RUNNING and task.started_at is not None:
            told.append(f"{name} runs on {task.instance} since {moment(task.started_at)}")
        elif task.state is State.QUEUED:
            told.append(f"{name} waits for {task.instance}")
    return "; ".join(told)


def _ahead(tx: Tx, merge: Merge) -> tuple[int, ...]:
    lane = [one.number for one in tx.list_merges(repo=merge.repo, only_open=True) if one.base == merge.base]
    return tuple(lane[: lane.index(merge.number)]) if merge.number in lane else ()


def _counts(work: Work, settings: Settings) -> tuple[Count, ...]:
    ran = [task.kind for task in work.past if task.agent_ran]
    caps = settings.service
    return (
        Count(what="tasks", used=work.chain, cap=caps.max_chain),
        Count(what="tasks within a day", used=work.today, cap=caps.max_tasks_per_day),
        Count(what="repairs of checks", used=ran.count(Kind.FIX_CI), cap=caps.max_fix_ci),
        Count(what="rebases", used=ran.count(Kind.REBASE) + ran.count(Kind.RESOLVE), cap=caps.max_rebases),
    )


def _asked(tx: Tx, repo: str, family: Iterable[int], *, since: datetime | None) -> str:
    """Return the newest question."""
    effects = [effect for one in family for effect in tx.list_effects(repo=repo, number=one) if effect.kind == "ask"]
    new = [effect for effect in effects if since is None or effect.created_at >= since]
    newest = max(new, key=lambda effect: effect.id, default=None)
    return str(newest.body.get("sentence", "")) if newest is not None else "a person was asked for help"


def _merge_words(state: MergeState, base: str, reason: str, sha: str | None) -> str:
    match state:
        case MergeState.MERGED:
            return f"merged into {base}" + (f" as {sha[:10]}" if sha else "")
        case MergeState.REFUSED:
            return f"not merged: {reason}"
        case MergeState.WITHDRAWN:
            return f"taken out of the lane of {base}: {reason}"
        case MergeState.WAITING:
            return f"waits in the lane of {base}"
        case _:
            return f"is being merged into {base}" + (f": {reason}" if reason else "")


def _row(task: Task) -> Row:
    took = None
    if task.started_at is not None and task.finished_at is not None:
        took = (task.finished_at - task.started_at).total_seconds()
    return Row(
        task=task.id,
        what=str(task.request.kind),
        who=task.instance or task.type,
        state=str(task.state),
        since=task.started_at,
        took_s=took,
        why=task.reason or (explain.short(task.decision) if task.decision else ""),
    )
