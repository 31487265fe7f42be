"""What each order does, in the transaction that ends it. Writes to the store, also what the forge is to be told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from pool import explain
from pool.errors import NoInstance, StaleTask
from pool.lanes import MergeState
from pool.model import Kind, Request, Task
from pool.states import LIVE, Move, State
from pool.store import Queued, Rejected, Submitted, Tx
from pool.subject import HELP_LABEL, HOLD_LABEL
from pool.work import Order
from tasks import merge, report
from tasks.dispatch import labels_of
from tasks.engine import Engine
from tasks.order_words import VERBS

log = structlog.get_logger(__name__)

#: Lines of the trail and tasks that an explanation shows.
LINES = 12
#: What still can be stopped.
_ALIVE = (State.QUEUED, State.RUNNING, State.DEAD_LETTERED)


@dataclass(slots=True, kw_only=True)
class Deed:
    """One order in its transaction."""

    engine: Engine
    tx: Tx
    order: Order
    submitted: list[Submitted] = field(default_factory=list)  #: to be announced after the commit

    @property
    def where(self) -> tuple[str, int]:
        """The repository and the number."""
        return self.order.repo, self.order.number

    @property
    def by(self) -> str:
        """Who wants it, for the histories of tasks."""
        return f"{self.order.by} (comment {self.order.comment})"


def _retry(deed: Deed) -> str:
    tx, repo = deed.tx, deed.order.repo
    _begin_anew(deed)
    for number in tx.family(*deed.where):
        for letter in tx.list_tasks(states=[State.DEAD_LETTERED], repo=repo, number=number):
            _wake(deed, letter)
    held_by = tx.held_by(*deed.where)
    held = f"; it is held by {held_by}, and begins after `/forgepool go`" if held_by else ""
    return f"it is tried again, and counted anew{held}"


def _wake(deed: Deed, letter: Task) -> None:
    """Release what a person dispatched; of all else a look starts what is needed now, which may be something else."""
    if letter.rule is not None:
        deed.tx.move(letter.id, Move.SUPERSEDE, by=deed.by, why="begun anew")
        return
    try:
        deed.submitted.append(_release(deed, letter))
    except NoInstance as error:
        log.warning("dead letter not released", task=letter.id, why=str(error))


def _release(deed: Deed, letter: Task) -> Queued:
    return deed.tx.release(
        letter.id,
        by=deed.by,
        default_labels=labels_of(deed.engine, letter.type),
        one_conversation=deed.engine.settings.service.one_conversation,
    )


def _cancel(deed: Deed) -> str:
    tx, repo, reason = deed.tx, deed.order.repo, f"cancelled by {deed.order.by}"
    stopped: list[int] = []
    merges: list[int] = []
    for number in tx.family(*deed.where):
        ends_itself = _stop_tasks(deed, number, reason, stopped)
        if tx.open_merge(repo, number) is None:
            continue
        if not ends_itself:
            deed.submitted += merge.leave(deed.engine, tx, repo, number, state=MergeState.WITHDRAWN, reason=reason)
        # What is approved would be back in its lane at the next look.
        tx.hold(repo, number, by=deed.order.by)
        merges.append(number)
    told = [f"stopped task {', '.join(map(str, sorted(stopped)))}"] if stopped else []
    told += [f"#{number} is not merged until `/forgepool go`" for number in merges]
    return "; ".join(told) or "there was nothing to stop"


def _stop_tasks(deed: Deed, number: int, reason: str, stopped: list[int]) -> bool:
    """Stop what waits and runs; tell whether a link of a merge runs, which takes the merge out of its lane by itself.

    Not before that link has ended the next in the lane may begin.
    """
    ends_itself = False
    for state in _ALIVE:
        for task in deed.tx.list_tasks(states=[state], repo=deed.order.repo, number=number):
            try:
                left = deed.tx.cancel(task.id, by=deed.by, why=reason)
            except StaleTask:
                continue  # it ended at this moment
            stopped.append(task.id)
            ends_itself |= task.request.kind is Kind.MERGE and left is State.RUNNING
    return ends_itself


def _hold(deed: Deed) -> str:
    deed.tx.hold(*deed.where, by=deed.order.by)
    return "nothing begins here until `/forgepool go`"


def _go(deed: Deed) -> str:
    tx, repo = deed.tx, deed.order.repo
    for number in tx.family(*deed.where):
        tx.unhold(repo, number)
        subject = tx.subject(repo, number)
        if subject is not None and HOLD_LABEL in subject.labels:
            _take_off(deed, number, HOLD_LABEL)
    _begin_anew(deed)
    return "it goes on"


def _explain(deed: Deed) -> str:
    tx, repo = deed.tx, deed.order.repo
    family = tx.family(*deed.where)
    lines = [
        f"- {report.moment(step.at)} #{step.number} {step.source}: {report.plain(step.why)}"
        for step in tx.list_trail(repo, family, limit=LINES)
    ]
    tasks = [task for number in family for task in tx.list_tasks(repo=repo, number=number, limit=LINES)]
    tasks.sort(key=lambda task: task.id)
    told = [_line(task) for task in tasks[-LINES:]]
    nothing = ["- nothing yet"]
    _say(deed, "\n".join(["What was decided here:", *(lines or nothing), "", "What ran:", *(told or nothing)]))
    return "explained in a comment"


def _line(task: Task) -> str:
    because = report.plain(explain.short(task.decision)) if task.decision else "nobody could take it"
    what = f"task {task.id} ({task.request.kind} #{task.request.number}) on {task.instance or 'no instance'}"
    return f"- {what}, because {because}: {task.state} {report.plain(task.reason)}".rstrip()


def _to(deed: Deed) -> str:
    engine, tx, order = deed.engine, deed.tx, deed.order
    type_name = _type_named(engine, order.argument)
    if type_name not in engine.settings.types:
        known = ", ".join(f"`{name}`" for name in sorted(engine.settings.types))
        return _say(deed, f"There is no type {report.plain(type_name) or 'without a name'}. There are {known}.")
    root = tx.work(*deed.where).issue or order.number
    subject = tx.subject(order.repo, root)
    if subject is not None and (subject.is_pull or not subject.is_open):
        state = "a pull request" if subject.is_pull else "closed"
        return _say(deed, f"This is {state}; only an open issue can be given to {type_name}.")
    others = set(engine.settings.types) - {type_name}
    tx.supersede(order.repo, root, by=deed.by, why=f"given to {type_name}", types=others, kinds=[Kind.IMPLEMENT])
    _begin_anew(deed)
    owe(deed, "assign", {"logins": [engine.settings.type(type_name).forge_user]}, number=root)
    if held_by := tx.held_by(order.repo, root):
        return _say(deed, f"It is given to {type_name}, and begins when {report.plain(held_by)} holds it no more.")
    one = _submit(deed, type_name, root)
    if isinstance(one, Rejected):
        return _say(deed, f"{type_name} cannot take it: {report.plain(str(one.error))}")
    return f"given to {type_name}: task {one.task}"


def _type_named(engine: Engine, argument: str) -> str:
    """Return the type that is meant, by its name or by its account's."""
    name = next(iter(argument.split()), "").strip("`").lstrip("@")
    return engine.settings.types_by_login.get(name.lower(), name)


def _submit(deed: Deed, type_name: str, number: int) -> Submitted:
    engine, tx, order = deed.engine, deed.tx, deed.order
    subject = tx.subject(order.repo, number)
    one = tx.submit(
        type_name,
        Request(
            kind=Kind.IMPLEMENT,
            repo=order.repo,
            number=number,
            title=subject.title if subject else "",
            labels=subject.labels if subject else (),
            url=subject.url if subject else "",
            sender=order.by,
        ),
        by=deed.by,
        default_labels=labels_of(engine, type_name),
        absorb=LIVE,
        one_conversation=engine.settings.service.one_conversation,
        # Without a rule it counts as dispatched by hand: nobody has to be assigned yet for it to go on.
        rule=None,
    )
    deed.submitted.append(one)
    return one


DEEDS: Mapping[str, Callable[[Deed], str]] = {
    "retry": _retry,
    "cancel": _cancel,
    "hold": _hold,
    "go": _go,
    "explain": _explain,
    "to": _to,
}


def explain_verbs(deed: Deed) -> str:
    """Answer an order that is none."""
    known = ", ".join(f"`/forgepool {verb}{' TYPE' if verb == 'to' else ''}`" for verb in VERBS)
    return _say(deed, f"I do not know {report.plain(deed.order.argument) or 'what to do'}. I know {known}.")


# --- parts ---------------------------------------------------------------------------------------


def _begin_anew(deed: Deed) -> None:
    """Count anew, and look now; the label that asks for a person goes where one was asked."""
    tx, repo = deed.tx, deed.order.repo
    family = tx.family(*deed.where)
    asked = [number for number in family if tx.work(repo, number).asked]
    tx.reset_caps(*deed.where)
    for number in asked:
        _take_off(deed, number, HELP_LABEL)
    for number in family:
        subject = tx.subject(repo, number)
        if subject is None or subject.is_open:
            tx.look_later(repo, number, why="order")
            tx.hurry_merge(repo, number)


def _take_off(deed: Deed, number: int, label: str) -> None:
    key = f"unlabel:{label}:{deed.order.repo}#{number}:{deed.order.id}"
    owe(deed, "unlabel", {"name": label}, number=number, key=key)


def _say(deed: Deed, text: str) -> str:
    """Answer in words; return the first line of them."""
    owe(deed, "reply", {"text": text})
    return text.partition("\n")[0]


def owe(deed: Deed, kind: str, body: dict[str, Any], *, number: int | None = None, key: str | None = None) -> None:
    """Note what is to be written to the forge because of an order. number, key: when not those of its comment."""
    order = deed.order
    key = key or f"{kind}:{order.repo}:{order.comment}.{order.line}"
    who = deed.engine.settings.report_type
    deed.tx.owe(key, kind, repo=order.repo, number=number or order.number, type_name=who, body=body)
