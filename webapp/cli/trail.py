"""`forgepool trail`: the whole story of one issue and of the pull requests for it, one line per event."""

import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import click

from pool import explain
from pool.errors import BadInput, ForgepoolError
from pool.lanes import Merge, MergeState
from pool.model import Kind, Task, TaskEvent, check_repo
from pool.states import Move, Verdict
from pool.store import Receipt, Store, Tx
from pool.work import Effect, Order, Step
from webapp.cli.output import STYLES, Styled, examples, item, json_option, print_json
from webapp.cli.session import Session, pass_session

#: Of each source, and of each member of the family: more than any issue is allowed to cause.
MOST = 1000
SHA = 10  #: characters of a commit that are enough to find it
#: In the history of a task, beside the moves.
QUEUED = "queued"
#: Looks that found others at work, or a person's turn (tasks/workflow_pull.py, tasks/workflow_issue.py).
_NOTHING_TO_DO = frozenset({"busy", "in-lane", "has-pull", "quiet"})
#: Of what happened in the same moment, causes come before what they caused.
_ORDER = {"delivery": 0, "order": 1, "poll": 2, "look": 3, "task": 4, "run": 5, "merge": 6, "effect": 7}


class NothingKnown(ForgepoolError):
    """Nothing was ever heard or done about an issue or pull request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that happened."""

    at: datetime
    number: int  #: of the issue or pull request that it happened to
    source: str  #: delivery, task, look, merge, effect, order, poll, run
    text: str  #: what, and why
    outcome: str = ""  #: a state or verdict, for its colour
    is_routine: bool = False  #: the story can be followed without it
    task: int | None = None


@click.command(epilog=examples("forgepool trail acme/shop#7", "forgepool trail acme/shop#7 --short --json"))
@click.argument("subject", metavar="OWNER/NAME#N")
@click.option("--short", is_flag=True, help="Leave out what went without saying.")
@json_option
@pass_session
def trail(session: Session, subject: str, *, short: bool, as_json: bool) -> None:
    """Tell the whole story of an issue with its pull requests: what came, what was decided and done, and why."""
    repo, number = parse(subject)
    with session.store() as store:
        told = lines(store, repo, number, short=short)
    if as_json:
        keys = ("at", "number", "source", "task", "text", "outcome")
        print_json([{key: getattr(line, key) for key in keys} for line in told])
        return
    if not told:
        raise NothingKnown(f"nothing is known of {repo}#{number}; `forgepool deliveries list` shows what came")
    show(told)


def parse(subject: str) -> tuple[str, int]:
    """Read OWNER/NAME#N. Raises BadInput."""
    found = re.fullmatch(r"(.+?)#([1-9][0-9]{0,17})", subject)
    if found is None:
        raise BadInput("subject", subject, "write owner/name#number, in quotes where the shell reads # as a comment")
    return check_repo("subject", found[1]), int(found[2])


def show(told: list[Line]) -> None:
    """Print a story, with a heading for each day."""
    day = None
    for line in told:
        if line.at.date() != day:
            day = line.at.date()
            click.secho(f"{day:%Y-%m-%d}, times in UTC", bold=True)
        source = f"task {line.task}" if line.task is not None else line.source
        mark = f"{line.at:%H:%M:%S}  {f'#{line.number}':<5} {source:<9}"
        item(Styled(mark, STYLES.get(line.outcome, "")), line.text)


def lines(store: Store, repo: str, number: int, *, short: bool = False) -> list[Line]:
    """Return the story of an issue with its pull requests, whichever of them is named, oldest first.

    short: without what goes without saying.
    """
    with store.reading() as tx:
        family = tx.family(repo, number)
        told = [line for member in family for line in _of(tx, repo, member)]
        moments = {(line.source, line.number, line.at) for line in told}
        told += [_step(step) for step in tx.list_trail(repo, family, limit=MOST) if not _is_echo(step, moments)]
    # Sorting keeps the order within a source, which is that of the ids.
    told.sort(key=lambda line: (line.at, _ORDER.get(line.source, len(_ORDER))))
    return [line for line in told if not line.is_routine] if short else told


def _of(tx: Tx, repo: str, number: int) -> Iterator[Line]:
    for receipt in reversed(tx.list_deliveries(repo=repo, number=number, limit=MOST)):
        yield replace(_delivery(receipt), number=number)
    for order in tx.list_orders(repo, number):
        yield from _order(order)
    for row in tx.list_tasks(repo=repo, number=number, newest_first=False, limit=MOST):
        yield from _task(tx.task(row.id))
    for merge in reversed(tx.list_merges(repo=repo, number=number, limit=MOST)):
        yield from _merge(merge)
    for effect in reversed(tx.list_effects(repo=repo, number=number, limit=MOST)):
        yield _effect(effect)


def _is_echo(step: Step, moments: Container[tuple[str, int, datetime]]) -> bool:
    """Tell whether the trail repeats what a row tells better; a row keeps only how it ended, the trail keeps more."""
    if (step.source, step.number, step.at) not in moments:
        return False
    return step.source != "merge" or step.what in {QUEUED, *MergeState}


def _step(step: Step) -> Line:
    is_routine = step.source == "look" and step.what in _NOTHING_TO_DO
    text = _because(step.what, step.why)
    return Line(at=step.at, number=step.number, source=step.source, text=text, is_routine=is_routine)


# --- one source each -----------------------------------------------------------------------------


def _delivery(row: Receipt) -> Line:
    what = " ".join(word for word in (row.event_type, row.action) if word) or "unknown event"
    sender = f" by {row.sender}" if row.sender else ""
    rule = f" by rule {row.rule}" if row.rule else ""
    text = _because(f"{what}{sender}: {row.verdict}{rule}", row.reason)
    is_routine = row.verdict in {Verdict.IGNORED, Verdict.DUPLICATE}
    return Line(
        at=row.received_at,
        number=row.number or 0,
        source="delivery",
        text=text,
        outcome=row.verdict,
        is_routine=is_routine,
    )


def _task(task: Task) -> Iterator[Line]:
    for event in task.history:
        is_link = task.request.kind is Kind.MERGE
        yield Line(
            at=event.at,
            number=task.request.number,
            source="task",
            text=_words(task, event),
            outcome=_outcome(event),
            # That it began is told by how it ended, and what a link of a merge found by the merge.
            is_routine=event.event == Move.CLAIM or (is_link and event.event in {QUEUED, Move.SUCCEED}),
            task=task.id,
        )


def _words(task: Task, event: TaskEvent) -> str:
    """Tell an event of a task; what is known anyway is left out."""
    step = f" ({task.request.step})" if task.request.step else ""
    if event.event == QUEUED:
        why = f" ({explain.short(task.decision)})" if task.decision and task.decision.chosen in event.why else ""
        cause = explain.cause(task) if task.rule else f"by {event.by}"
        return f"{task.request.kind}{step} {event.why}{why}, {cause}"
    if event.event == Move.CLAIM:
        return f"started on {event.by}"
    what = _PAST.get(event.event, event.event.replace("-", " "))
    return _because(f"{what}{_moved(task, event)}", event.why)


#: What a move has come to.
_PAST = {
    str(Move.SUCCEED): "succeeded",
    str(Move.FAIL): "failed",
    str(Move.TIME_OUT): "timed out",
    str(Move.INTERRUPT): "interrupted",
    str(Move.CANCEL): "cancelled",
    str(Move.SUPERSEDE): "superseded",
    str(Move.WITHDRAW): "withdrawn before it began",
    str(Move.REJECT): "refused",
    str(Move.BURY): "waits for a person",
    str(Move.RELEASE): "released by a person",
}
_OUTCOMES = {
    str(Move.SUCCEED): "succeeded",
    **dict.fromkeys(map(str, (Move.FAIL, Move.TIME_OUT, Move.REJECT, Move.BURY)), "failed"),
    str(Move.INTERRUPT): "interrupted",
    **dict.fromkeys(map(str, (Move.CANCEL, Move.SUPERSEDE, Move.WITHDRAW)), "superseded"),
    str(Move.CLAIM): "running",
}


def _outcome(event: TaskEvent) -> str:
    return _OUTCOMES.get(event.event, "")


def _moved(task: Task, event: TaskEvent) -> str:
    """Tell from where to where a run moved the head, at its end."""
    evidence = task.evidence
    if event.event != Move.SUCCEED or evidence is None or evidence.head_after in (None, evidence.head_before):
        return ""
    return f", head now {str(evidence.head_after)[:SHA]}"


def _merge(merge: Merge) -> Iterator[Line]:
    tell: Callable[..., Line] = _told(merge.number, "merge")
    yield tell(merge.entered_at, f"enters the lane of {merge.base}, approved at {merge.approved_sha[:SHA]}")
    if merge.ended_at is None:
        place = f"{merge.state}{f', at {merge.step}' if merge.step else ''}"
        yield tell(merge.changed_at, _because(place, merge.reason), outcome="queued")
        return
    as_commit = f" as {merge.merge_sha[:SHA]}" if merge.merge_sha else ""
    code = f" ({merge.code})" if merge.code else ""
    outcome = "succeeded" if merge.state is MergeState.MERGED else "failed"
    said = f"{merge.state}{as_commit}{code}"
    yield tell(merge.ended_at, _because(said, merge.reason if merge.reason != said else ""), outcome=outcome)


def _effect(effect: Effect) -> Line:
    tell = _told(effect.number, "effect")
    name = f"{effect.kind} as {effect.type}"
    if effect.given_up_at is not None:
        return tell(effect.given_up_at, _because(f"{name} given up", effect.error), outcome="failed")
    if effect.done_at is None:
        tries = f" after {effect.tries} tr{'y' if effect.tries == 1 else 'ies'}" if effect.tries else ""
        return tell(effect.created_at, _because(f"{name} owed{tries}", effect.error), outcome="queued")
    times = f", {effect.version} times so far" if effect.version > 1 else ""
    return tell(effect.done_at, f"{name} written{times}")


def _order(order: Order) -> Iterator[Line]:
    tell = _told(order.number, "order")
    words = " ".join(word for word in ("/forgepool", order.verb, order.argument) if word)
    yield tell(order.created_at, f"{order.by} says {words}")
    if order.done_at is not None:
        yield tell(order.done_at, _because(f"{words} done", order.answer))


def _told(number: int, source: str) -> Callable[..., Line]:
    """Return what makes lines of one source about one number."""

    def tell(at: datetime, text: str, **more: Any) -> Line:
        return Line(at=at, number=number, source=source, text=text, **more)

    return tell


def _because(what: str, why: str) -> str:
    # A text of several lines, for instance an agent's, would tear the list apart.
    why = " ".join(why.split())
    return f"{what}: {why}" if why else what
