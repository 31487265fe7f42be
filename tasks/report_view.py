"""What a report says of an issue or pull request, read from the store."""

from pool import explain
from pool.lanes import MergeState
from pool.model import Kind, Task
from pool.store import Tx
from tasks.report import Row, View
from tasks.settings import Settings

MOST_ROWS = 15
#: Links of merges are told by the lane, not one by one.
_READ = 200


def view_of(tx: Tx, settings: Settings, repo: str, number: int) -> View:
    """Read what is known."""
    del settings
    work = tx.work(repo, number)
    found = tx.list_tasks(repo=repo, number=number, limit=_READ)
    tasks = [task for task in found if task.request.kind is not Kind.MERGE]
    lines = [line for line in tx.list_trail(repo, [number], limit=20) if line.source in {"look", "merge"}]
    merge = work.merges[-1] if work.merges else None
    return View(
        repo=repo,
        number=number,
        now=lines[-1].why if lines else "",
        rows=tuple(_row(task) for task in reversed(tasks[:MOST_ROWS])),
        more=max(0, len(tasks) - MOST_ROWS),
        merge=None if merge is None else _merge_words(merge.state, merge.base, merge.reason, merge.merge_sha),
        held_by=work.held_by,
        others=tuple(one for one in tx.family(repo, number) if one != number),
        asked=bool(work.asked),
    )


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
        took_s=took,
        why=task.reason or (explain.short(task.decision) if task.decision else ""),
    )
