"""What the workflow is told when a task begins and ends, in the transaction that does it."""

from pool.model import Kind, Task
from pool.states import Move
from pool.store import Tx
from tasks.engine import Engine
from tasks.judge import Outcome
from tasks.ledger import owe_report, owe_status

#: A look right after a run finds a forge that is still busy with the push.
LOOK_AFTER_S = 0.5
_STATES = {Move.SUCCEED: "success", Move.FAIL: "failure", Move.TIME_OUT: "failure"}


def note_begin(engine: Engine, tx: Tx, task: Task) -> None:
    """Let the report on the forge say that somebody works on it."""
    if engine.settings.talks_back and task.request.kind is not Kind.MERGE:
        owe_report(tx, engine, task.request.repo, task.request.number)


def note_end(engine: Engine, tx: Tx, task: Task, outcome: Outcome) -> None:
    """Have the forge looked at and told. A link of a chain that merges does that by itself."""
    request = task.request
    if not engine.settings.talks_back or request.kind is Kind.MERGE:
        return
    for number in {request.number, *outcome.looks}:
        tx.look_later(request.repo, number, why="task", after_s=LOOK_AFTER_S)
    owe_report(tx, engine, request.repo, request.number)
    state = _STATES.get(outcome.move)
    sha = _commit_of(outcome) or request.head_sha
    if state is not None and sha is not None and request.kind not in {Kind.IMPLEMENT, Kind.CUSTOM}:
        owe_status(tx, engine, task, state=state, sha=sha)


def _commit_of(outcome: Outcome) -> str | None:
    """Return the commit to speak of: what a failed agent has committed may never have been pushed."""
    return outcome.evidence.head_after if outcome.move is Move.SUCCEED else outcome.evidence.head_before
