"""Orders that people give in comments, carried out: first whether they may, then what they want. Asks the forge."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from pool import explain
from pool.errors import ForgeError, ForgeUnavailable, NoInstance, StaleTask
from pool.lanes import MergeState
from pool.model import Kind, Request, Task
from pool.states import State
from pool.store import Submitted, Tx
from pool.subject import HELP_LABEL
from pool.work import Order
from tasks import merge, report
from tasks.dispatch import announce, labels_of
from tasks.engine import Engine
from tasks.forge import Forge
from tasks.ledger import owe_report
from tasks.order_words import VERBS

__all__ = ["carry_out", "due"]

log = structlog.get_logger(__name__)

BY = "order"
AGAIN_S = 10.0
YES, NO = "+1", "-1"
#: Lines of the trail and tasks that an explanation shows.
_LINES = 12
#: What still can be stopped.
_ALIVE = (State.QUEUED, State.RUNNING, State.DEAD_LETTERED)


@dataclass(slots=True)
class _Deed:
    """One order in its transaction."""

    engine: Engine
    tx: Tx
    order: Order
    submitted: list[Submitted]

    @property
    def where(self) -> tuple[str, int]:
        return self.order.repo, self.order.number

    @property
    def by(self) -> str:
        return f"{self.order.by} (comment {self.order.comment})"


def due(engine: Engine, forge: Forge, *, limit: int = 20, is_ours: Callable[[], bool] = lambda: True) -> int:
    """Carry out the orders that wait; return how many were."""
    with engine.store.reading() as tx:
        waiting = tx.due_orders(limit=limit)
    done = 0
    for order in waiting:
        if not is_ours():
            break
        done += carry_out(engine, forge, order)
    return done


def carry_out(engine: Engine, forge: Forge, order: Order) -> bool:
    """Carry out one order, once, if the forge says that its author may write; tell whether it is settled."""
    try:
        may = forge.can_write(order.repo, order.by)
    except ForgeUnavailable as error:
        return _put_off(engine, order, error)
    except ForgeError as error:
        log.error("order not carried out", order=order.id, why=str(error))
        return _put_off(engine, order, error)
    with engine.store.writing() as tx:
        deed = _Deed(engine, tx, order, [])
        # Taken first: of two who have it only one goes on.
        if not tx.end_order(order.id, answer=""):
            return True
        answer = VERB[order.verb](deed) if may and order.verb in VERB else _refuse(deed, may=may)
        tx.answer_order(order.id, answer=answer)
        tx.tell(order.repo, order.number, source="order", what=order.verb, why=f"{order.by}: {answer}")
        _owe(deed, "react", {"comment": order.comment, "content": YES if may else NO})
        owe_report(tx, engine, *deed.where)
    announce(engine, deed.submitted)
    log.info("order carried out", order=order.id, verb=order.verb, by=order.by, answer=answer)
    return True


def _put_off(engine: Engine, order: Order, error: ForgeError) -> bool:
    with engine.store.writing() as tx:
        tx.postpone_order(order.id, after_s=AGAIN_S)
    log.warning("order put off", order=order.id, why=str(error))
    return False


# --- what each order does ------------------------------------------------------------------------


def _refuse(deed: _Deed, *, may: bool) -> str:
    if not may:
        return "not carried out: only people with write access give orders"
    known = ", ".join(f"`/forgepool {verb}`" for verb in VERBS)
    return _say(
        deed, f"I do not know `{report.plain(deed.order.argument) or 'that'}`. I know {known} (TYPE after `to`)."
    )


def _retry(deed: _Deed) -> str:
    tx = deed.tx
    _begin_anew(deed)
    for number in tx.family(*deed.where):
        for letter in tx.list_tasks(states=[State.DEAD_LETTERED], repo=deed.order.repo, number=number):
            # A look starts what is needed now; what was needed then is not done twice.
            tx.cancel(letter.id, by=deed.by, why="begun anew")
        tx.look_later(deed.order.repo, number, why="order")
    return "it is tried again, and counted anew"


def _cancel(deed: _Deed) -> str:
    tx, repo = deed.tx, deed.order.repo
    stopped = []
    for number in tx.family(*deed.where):
        found = [t for state in _ALIVE for t in tx.list_tasks(states=[state], repo=repo, number=number)]
        for task in (task for task in found if task.request.kind is not Kind.MERGE):
            try:
                tx.cancel(task.id, by=deed.by, why=f"cancelled by {deed.order.by}")
            except StaleTask:
                continue  # it ended at this moment
            stopped.append(task.id)
        reason = f"cancelled by {deed.order.by}"
        deed.submitted += merge.leave(deed.engine, tx, repo, number, state=MergeState.WITHDRAWN, reason=reason)
    return f"stopped task {', '.join(map(str, sorted(stopped)))}" if stopped else "there was nothing to stop"


def _hold(deed: _Deed) -> str:
    deed.tx.hold(*deed.where, by=deed.order.by)
    return "nothing begins here until `/forgepool go`"


def _go(deed: _Deed) -> str:
    for number in deed.tx.family(*deed.where):
        deed.tx.unhold(deed.order.repo, number)
        deed.tx.look_later(deed.order.repo, number, why="order")
    _begin_anew(deed)
    return "it goes on"


def _explain(deed: _Deed) -> str:
    tx, repo = deed.tx, deed.order.repo
    family = tx.family(*deed.where)
    lines = [
        f"- {_at(step.at)} #{step.number} {step.source}: {report.plain(step.why)}"
        for step in tx.list_trail(repo, family)
    ]
    tasks = [task for number in family for task in tx.list_tasks(repo=repo, number=number, limit=_LINES)]
    tasks.sort(key=lambda task: task.id)
    told = [_line(task) for task in tasks[-_LINES:]]
    text = ["What was decided here:", *lines[-_LINES:], "", "What ran:", *(told or ["- nothing yet"])]
    _say(deed, "\n".join(text))
    return "explained in a comment"


def _line(task: Task) -> str:
    because = explain.short(task.decision) if task.decision else "nobody could take it"
    what = f"task {task.id} ({task.request.kind} #{task.request.number}) on {task.instance or 'no instance'}"
    return f"- {what}, because {because}: {task.state} {report.plain(task.reason)}".rstrip()


def _to(deed: _Deed) -> str:
    engine, tx, order = deed.engine, deed.tx, deed.order
    type_name = order.argument.split()[0].strip("`").lstrip("@")
    type_name = engine.settings.types_by_login.get(type_name.lower(), type_name)
    if type_name not in engine.settings.types:
        known = ", ".join(f"`{name}`" for name in sorted(engine.settings.types))
        return _say(deed, f"There is no type `{report.plain(type_name)}`. There are {known}.")
    root = tx.work(*deed.where).issue or order.number
    others = set(engine.settings.types) - {type_name}
    tx.supersede(order.repo, root, by=deed.by, why=f"given to {type_name}", types=others, kinds=[Kind.IMPLEMENT])
    _begin_anew(deed)
    login = engine.settings.type(type_name).forge_user
    _owe(deed, "assign", {"logins": [login]}, number=root)
    subject = tx.subject(order.repo, root)
    request = Request(
        kind=Kind.IMPLEMENT,
        repo=order.repo,
        number=root,
        title=subject.title if subject else "",
        labels=subject.labels if subject else (),
        url=subject.url if subject else "",
        sender=order.by,
    )
    one = tx.submit(
        type_name,
        request,
        by=deed.by,
        default_labels=labels_of(engine, type_name),
        absorb=(State.QUEUED, State.RUNNING),
        one_conversation=engine.settings.service.one_conversation,
        # Without a rule it counts as dispatched by hand: nobody has to be assigned yet for it to go on.
        rule=None,
    )
    deed.submitted.append(one)
    error = getattr(one, "error", None)
    return str(error) if isinstance(error, NoInstance) else f"given to {type_name}: task {one.task}"


VERB: dict[str, Callable[[_Deed], str]] = {
    "retry": _retry,
    "cancel": _cancel,
    "hold": _hold,
    "go": _go,
    "explain": _explain,
    "to": _to,
}


# --- parts ---------------------------------------------------------------------------------------


def _begin_anew(deed: _Deed) -> None:
    """Count anew; the label that asks for a person goes where one was asked."""
    asked = [n for n in deed.tx.family(*deed.where) if deed.tx.work(deed.order.repo, n).asked]
    deed.tx.reset_caps(*deed.where)
    for number in asked:
        key = f"unlabel:{deed.order.repo}#{number}:{deed.order.id}"
        _owe(deed, "unlabel", {"name": HELP_LABEL}, number=number, key=key)


def _say(deed: _Deed, text: str) -> str:
    _owe(deed, "reply", {"text": text})
    return text.partition("\n")[0]


def _owe(deed: _Deed, kind: str, body: dict[str, object], *, number: int | None = None, key: str | None = None) -> None:
    order = deed.order
    key = key or f"{kind}:{order.repo}:{order.comment}.{order.line}"
    who = deed.engine.settings.report_type
    deed.tx.owe(key, kind, repo=order.repo, number=number or order.number, type_name=who, body=body)


def _at(moment: object) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
