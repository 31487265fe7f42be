"""One look at an issue or a pull request: ask the forge, decide, and do it in one transaction.

A look starts from nothing but facts, so it may be made at any time and any number of times. One that fails is made
again; one that is lost is made by the next poll.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

import structlog

from pool.errors import ForgeError, NotAllowed, NotThere
from pool.lanes import MergeState
from pool.store import Tx
from pool.work import Look, Work
from tasks import merge
from tasks.backoff import doubled
from tasks.dispatch import announce
from tasks.engine import Engine
from tasks.facts import Reader, Seen, SeenIssue, fetch, remember
from tasks.look_act import BY, Act, Lanes, drop_unassigned, request_of
from tasks.situation import Facts, Policy
from tasks.workflow import Decision, Wait, decide

__all__ = ["look", "request_of"]

log = structlog.get_logger(__name__)

#: A look that failed is made again after this time, doubled each time.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 600.0
#: One that was overtaken is made again after this time.
MEANWHILE_S = 1.0


def look(engine: Engine, forge: Reader, due: Look, *, policy: Policy, lanes: Lanes = merge) -> Decision:
    """Look at it, and do what its situation asks for. Never raises ForgeError.

    lanes: how a lane is entered and left.
    """
    began = engine.store.clock()
    with engine.store.writing() as tx:
        tx.begin_look(due.repo, due.number)
    try:
        seen = fetch(forge, engine, due.repo, due.number)
        unblocks = _unblocks(forge, seen)
    except NotThere as error:
        return _not_there(engine, forge, due, error, lanes)
    except NotAllowed as error:
        return _not_allowed(engine, due, error)
    except ForgeError as error:
        return _put_off(engine, due, error)
    with engine.store.writing() as tx:
        act = Act(engine=engine, tx=tx, lanes=lanes, due=due)
        facts = _remember(tx, seen, policy)
        if any(moment > began for moment in _ends(facts.work)):
            # What was read may be older than what ended meanwhile, and would be decided upon a second time.
            decision = Decision(rule="again", why="something ended while the forge was asked", steps=())
            tx.look_later(due.repo, due.number, why=due.why, after_s=MEANWHILE_S)
        else:
            decision = decide(facts, policy)
            act.carry_out(facts, decision, unblocks=unblocks)
        tx.end_look(due.repo, due.number)
    announce(engine, act.submitted)
    log.info("looked", repo=due.repo, number=due.number, why=due.why, rule=decision.rule, found=decision.why)
    return decision


def _remember(tx: Tx, seen: Seen, policy: Policy) -> Facts:
    facts = remember(tx, seen)
    # What was taken back is no part of the situation any more.
    return remember(tx, seen) if drop_unassigned(tx, facts, policy) else facts


def _ends(work: Work) -> Iterator[datetime]:
    """Return when something about it ended."""
    yield from (task.finished_at for task in work.past if task.finished_at is not None)
    yield from (entry.ended_at for entry in work.merges if entry.ended_at is not None)


def _unblocks(forge: Reader, seen: Seen) -> tuple[int, ...]:
    """Return the open issues of the repository that depended on a closed one."""
    if not isinstance(seen, SeenIssue) or seen.issue.is_open:
        return ()
    blocked = forge.blocked(seen.issue.repo, seen.issue.number)
    return tuple(issue.number for issue in blocked if issue.is_open and issue.repo == seen.issue.repo)


# --- looks that found nothing --------------------------------------------------------------------


def _put_off(engine: Engine, due: Look, error: ForgeError) -> Decision:
    """Look again later: the forge may have come back then."""
    pause = doubled(FIRST_PAUSE_S, due.tries, longest_s=LONGEST_PAUSE_S)
    with engine.store.writing() as tx:
        tx.fail_look(due.repo, due.number, why=due.why, after_s=pause)
    log.warning("forge could not be asked", repo=due.repo, number=due.number, why=str(error), again_s=pause)
    return Decision(rule="unavailable", why=str(error), steps=(Wait(look_after_s=pause),))


def _not_allowed(engine: Engine, due: Look, error: ForgeError) -> Decision:
    """Tell it: only a person can give the account what it lacks. The next poll looks again."""
    why = f"the forge does not let us look: {error}"
    with engine.store.writing() as tx:
        tx.tell(due.repo, due.number, source=BY, what="not-allowed", why=why)
        tx.end_look(due.repo, due.number)
    log.error("forge does not let us look", repo=due.repo, number=due.number, why=str(error))
    return Decision(rule="not-allowed", why=why, steps=(Wait(),))


def _not_there(engine: Engine, forge: Reader, due: Look, error: ForgeError, lanes: Lanes) -> Decision:
    """Find out what is not there: the thing itself, a part of it, or the whole repository for this account."""
    try:
        forge.repository(due.repo)
    except NotThere as hidden:
        return _not_allowed(engine, due, hidden)
    except ForgeError as problem:
        return _put_off(engine, due, problem)
    try:
        forge.issue(due.repo, due.number)
    except NotThere:
        return _gone(engine, due, lanes)
    except ForgeError as problem:
        return _put_off(engine, due, problem)
    return _put_off(engine, due, error)


def _gone(engine: Engine, due: Look, lanes: Lanes) -> Decision:
    """End what was deleted like what was closed."""
    why = f"#{due.number} is not on the forge any more"
    with engine.store.writing() as tx:
        act = Act(engine=engine, tx=tx, lanes=lanes, due=due)
        act.drop(why)
        act.leave_lane(MergeState.WITHDRAWN, why)
        known = tx.subject(due.repo, due.number)
        if known is not None:
            tx.remember(replace(known, state="closed"))
        tx.tell(due.repo, due.number, source=BY, what="gone", why=why)
        tx.end_look(due.repo, due.number)
    announce(engine, act.submitted)
    return Decision(rule="gone", why=why, steps=(Wait(),))
