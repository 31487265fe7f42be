"""Orders that people give in comments, carried out: first whether they may, then what they want. Asks the forge."""

from collections.abc import Callable, Iterable

import structlog

from pool.errors import ForgeError, ForgeUnavailable
from pool.store import Tx
from pool.work import Order
from tasks import report
from tasks.dispatch import announce
from tasks.engine import Engine
from tasks.forge import Forge
from tasks.ledger import owe_report
from tasks.order_deeds import DEEDS, Deed, explain_verbs, owe

__all__ = ["carry_out", "carry_out_all"]

log = structlog.get_logger(__name__)

#: An order whose giver cannot be looked up is tried again, the rarer the older it is.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 600.0
#: A forge that says no will say so again; one that was away for a day leaves orders that nobody expects any more.
REFUSED_S, AWAY_S = 60.0, 86400.0
YES, NO, WHAT = "+1", "-1", "confused"


def carry_out_all(
    engine: Engine, forge: Forge, some: Iterable[Order], *, is_ours: Callable[[], bool] = lambda: True
) -> int:
    """Carry out orders about one issue or pull request, as they were given; return how many were.

    The first that has to wait keeps those behind it waiting: "hold" and "go" in the wrong order are the opposite.
    is_ours: asked before each: whether this process is still the one that acts.
    """
    done = 0
    for order in some:
        if not is_ours() or not carry_out(engine, forge, order):
            break
        done += 1
    return done


def carry_out(engine: Engine, forge: Forge, order: Order) -> bool:
    """Carry out one order, once, if the forge says that its author may write; tell whether it is settled."""
    if order.by.lower() in engine.settings.types_by_login:
        return _pass_over(engine, order)
    try:
        may = forge.can_write(order.repo, order.by)
    except ForgeError as error:
        return _put_off(engine, order, error)
    with engine.store.writing() as tx:
        deed = Deed(engine=engine, tx=tx, order=order)
        # Taken first: of two who have it only one goes on.
        if not tx.end_order(order.id, answer=""):
            return True
        answer, face = _answer(deed, may=may)
        tx.answer_order(order.id, answer=answer)
        tx.tell(order.repo, order.number, source="order", what=order.verb, why=f"{order.by}: {answer}")
        owe(deed, "react", {"comment": order.comment, "content": face})
        if may:
            owe_report(tx, engine, *deed.where)
    announce(engine, deed.submitted)
    log.info("order carried out", order=order.id, verb=order.verb, by=order.by, answer=answer)
    return True


def _answer(deed: Deed, *, may: bool) -> tuple[str, str]:
    """Do it; return what came of it, and the reaction that says so in short."""
    if not may:
        return "not carried out: only people with write access give orders", NO
    act = DEEDS.get(deed.order.verb)
    return (explain_verbs(deed), WHAT) if act is None else (act(deed), YES)


def _pass_over(engine: Engine, order: Order) -> bool:
    """Leave alone what an agent wrote: it would order itself about."""
    with engine.store.writing() as tx:
        tx.end_order(order.id, answer="not carried out: an agent's account gives no orders")
    return True


def _put_off(engine: Engine, order: Order, error: ForgeError) -> bool:
    """Try again later, but not for ever."""
    with engine.store.writing() as tx:
        age_s = (tx.now - order.created_at).total_seconds()
        if age_s >= (AWAY_S if isinstance(error, ForgeUnavailable) else REFUSED_S):
            _give_up(engine, tx, order, error)
            return True
        tx.postpone_order(order.id, after_s=min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, age_s)))
    log.warning("order put off", order=order.id, why=str(error))
    return False


def _give_up(engine: Engine, tx: Tx, order: Order, error: ForgeError) -> None:
    """Tell why, on each issue once: anybody can write orders."""
    why = f"it could not be asked whether {order.by} may give orders: {error}"
    if not tx.end_order(order.id, answer=f"not carried out: {why}"):
        return
    tx.tell(order.repo, order.number, source="order", what=order.verb, why=why)
    said = report.plain(str(error), at_most=report.MAX_SENTENCE)
    text = f"I cannot ask who may give orders here, so I carry out none: {said}"
    deed = Deed(engine=engine, tx=tx, order=order)
    owe(deed, "reply", {"text": text}, key=f"reply:asking:{order.repo}#{order.number}")
    log.error("order not carried out", order=order.id, why=why)
