"""The effect ledger at work: what is owed to the forge is written there, once. Asks the forge, and writes to it.

Each effect is looked for on the forge before it is written: whoever was killed between "written" and "noted" finds
there what he wrote. So it may be tried as often as need be.
"""

from collections.abc import Callable, Iterable

import structlog

from pool.crashpoints import Point, reach
from pool.errors import ForgeError, ForgeUnavailable, LeaseLost
from pool.model import Task
from pool.store import Tx
from pool.work import Effect
from tasks.backoff import doubled
from tasks.engine import Engine
from tasks.forge import Forge
from tasks.forge_values import OWN_CONTEXT
from tasks.forges import Forges
from tasks.ledger_kinds import KINDS, Writing
from tasks.patience import Patience
from tasks.settings import Settings

log = structlog.get_logger(__name__)

#: Pauses between two tries: the forge may be away for days.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 600.0
#: A forge that says no will say so again; after this many tries nobody asks any more.
MOST_REFUSALS = 4
#: Edits of one comment that come within this time are one.
REPORT_AFTER_S = 1.0
NO_TOKEN_S = 600.0
#: Calls in a row that a forge may leave unanswered; the rest of a round would only wait for it, too.
MOST_UNANSWERED = 3


def owe_report(tx: Tx, engine: Engine, repo: str, number: int) -> None:
    """Have the one comment on an issue or pull request written anew."""
    key, who = f"report:{repo}#{number}", engine.settings.report_type
    tx.owe(key, "report", repo=repo, number=number, type_name=who, again=True, after_s=REPORT_AFTER_S)


def owe_status(tx: Tx, engine: Engine, task: Task, *, state: str, sha: str) -> None:
    """Have the commit status of a task set: the newest task of a kind speaks for it."""
    repo, number, kind = task.request.repo, task.request.number, task.request.kind
    words = {"success": "done", "failure": "not done"}.get(state, state)
    body = {"sha": sha, "state": state, "context": f"{OWN_CONTEXT}{kind}", "description": f"task {task.id}: {words}"}
    key = f"status:{kind}:{repo}@{sha}"
    who = engine.settings.report_type
    tx.owe(key, "status", repo=repo, number=number, type_name=who, task=task.id, body=body, again=True)


def owed(engine: Engine, *, limit: int = 50) -> list[Effect]:
    """Return what is due to be written, oldest first."""
    with engine.store.reading() as tx:
        return tx.owed_effects(limit=limit)


def settle(
    engine: Engine,
    forges: Forges,
    due: Iterable[Effect],
    *,
    patience: Patience | None = None,
    is_ours: Callable[[], bool] = lambda: True,
) -> int:
    """Write what is due to be written; return how much was.

    patience: with a forge that does not answer. is_ours: asked before each: whether this process is still the one that
    writes.
    """
    patience = patience or Patience(MOST_UNANSWERED)
    done = 0
    for effect in due:
        if patience.is_spent or not is_ours():
            break
        try:
            done += _settle_one(engine, forges, effect, is_ours)
        except ForgeUnavailable as error:
            _put_off(engine, effect, str(error), _pause_s(effect))
            patience.note(is_answered=False)
        except LeaseLost as error:
            log.warning("effect left to others", effect=effect.key, why=str(error))
            break
        else:
            patience.note(is_answered=True)
    return done


def _settle_one(engine: Engine, forges: Forges, effect: Effect, is_ours: Callable[[], bool]) -> bool:
    try:
        forge = forges.of(effect.type)
        if forge is None:
            return _put_off(engine, effect, f"the type {effect.type} has no token", NO_TOKEN_S)
        ref = _write(engine, forge, effect, is_ours)
    except ForgeUnavailable:
        raise
    except ForgeError as error:
        return _refused(engine, effect, error)
    reach(Point.WRITTEN)
    with engine.store.writing() as tx:
        tx.note_effect(effect, ref=ref)
    log.info("effect written", effect=effect.key)
    return True


def _write(engine: Engine, forge: Forge, effect: Effect, is_ours: Callable[[], bool]) -> str | None:
    kind = KINDS.get(effect.kind)
    if kind is None:
        raise ForgeError(f"this version knows no effect of the kind {effect.kind!r}")
    login = _login(engine.settings, effect.type)
    try:
        return kind(Writing(engine=engine, reader=forge, effect=effect, login=login, is_ours=is_ours))
    except (KeyError, TypeError, ValueError) as error:
        # What another version noted must not keep everything behind it from being written.
        raise ForgeError(f"this version cannot read what was noted of it: {error!r}") from error


def _login(settings: Settings, type_name: str) -> str:
    return settings.type(type_name).forge_user


def _pause_s(effect: Effect) -> float:
    return doubled(FIRST_PAUSE_S, effect.tries, longest_s=LONGEST_PAUSE_S)


def _put_off(engine: Engine, effect: Effect, why: str, pause_s: float) -> bool:
    with engine.store.writing() as tx:
        tx.fail_effect(effect, error=why, after_s=pause_s)
    log.warning("effect put off", effect=effect.key, why=why, again_s=pause_s)
    return False


def _refused(engine: Engine, effect: Effect, error: ForgeError) -> bool:
    if effect.tries + 1 < MOST_REFUSALS:
        return _put_off(engine, effect, str(error), _pause_s(effect))
    with engine.store.writing() as tx:
        tx.fail_effect(effect, error=str(error), after_s=None)
        tx.tell(effect.repo, effect.number, source="effect", what=f"{effect.kind} given up", why=str(error))
        # What waits for it has to go another way.
        tx.look_later(effect.repo, effect.number, why="again")
    log.error("effect given up", effect=effect.key, why=str(error))
    return False
