"""Checks of the workflow: lost webhooks, what is owed to the forge, merges and orders that wait, people asked."""

from collections.abc import Iterator
from datetime import datetime

from pool.lanes import MergeState
from pool.store import Tx
from pool.store.census import undone_orders
from pool.work import Effect
from tasks.settings import Settings
from webapp.cli.checkup import Check, fail, ok, warn
from webapp.cli.output import duration

#: The counter of what asking the forge found and no webhook had told.
UNTOLD = "untold"
OFTEN, LATELY_S = 10, 3600.0
#: What is owed is written within seconds, unless the forge is away.
OWED_S = 600.0
#: Orders are carried out at once.
ORDER_S = 120.0
#: A poll that is so many pauses late does not come.
LATE = 3
MOST = 500  #: effects that are looked at
SHOWN = 5  #: issues that are named


def examine(settings: Settings, tx: Tx) -> Iterator[Check]:
    """Yield the checks of the workflow."""
    yield from untold(tx)
    yield from effects(tx)
    yield from merges(settings, tx)
    yield from orders(tx)
    yield from people(tx)
    if settings.talks_back:
        yield from polls(settings, tx)


def untold(tx: Tx) -> Iterator[Check]:
    """Tell how often asking the forge found what no webhook had told."""
    counted = tx.repair_counts().get(UNTOLD)
    if counted is None:
        yield ok("webhooks lost", "asking the forge has found nothing that no webhook told")
        return
    ago_s = (tx.now - counted.last_at).total_seconds()
    words = f"asking the forge found {counted.count} that no webhook told, the last {duration(ago_s)} ago"
    if counted.count < OFTEN or ago_s > LATELY_S:
        yield ok("webhooks lost", words)
        return
    step = "checks of an outside CI are never told by Forgejo; else webhooks are lost: `forgepool doctor --smoke`"
    yield warn("webhooks lost", words, step)


def effects(tx: Tx) -> Iterator[Check]:
    """Look for what could not be written to the forge."""
    found = 0
    if given_up := tx.count_given_up():
        found += 1
        last = next((one for one in tx.list_effects(limit=MOST) if one.given_up_at is not None), None)
        words = f"{given_up} could not be written to the forge, and {'is' if given_up == 1 else 'are'} not tried again"
        newest = f"; the newest: {_about(last)}: {last.error}" if last else ""
        yield warn("effects", words + newest, f"see to the cause; {_trail(last)}")
    owed = tx.list_effects(only_owed=True, limit=MOST)
    late = [one for one in owed if one.tries and (tx.now - one.created_at).total_seconds() > OWED_S]
    if late:
        found += 1
        oldest = late[-1]
        words = (
            f"{len(late)} owed to the forge for long, the oldest for {_ago(tx, oldest.created_at)}: {_about(oldest)}"
        )
        yield warn(
            "effects", f"{words}: {oldest.error or 'nobody tried'}", f"see that the forge runs; {_trail(oldest)}"
        )
    if not found:
        yield ok("effects", f"nothing is owed to the forge for long; {len(owed)} to be written now")


def merges(settings: Settings, tx: Tx) -> Iterator[Check]:
    """Look for merges that hold up their lane."""
    open_now = tx.list_merges(only_open=True)
    limit_s = settings.service.merge_wait_s
    stuck = [
        one
        for one in open_now
        if one.state is not MergeState.WAITING and (tx.now - one.entered_at).total_seconds() > limit_s
    ]
    for one in stuck[:SHOWN]:
        words = f"{one.repo}#{one.number} has held the lane of {one.base} for {_ago(tx, one.entered_at)}, {one.state}"
        step = f"`forgepool trail {one.repo}#{one.number}` tells what it waits for"
        yield warn("merges", f"{words}: {one.reason or 'without a reason'}", step)
    if not stuck:
        waiting = sum(one.state is MergeState.WAITING for one in open_now)
        yield ok("merges", f"{len(open_now) - waiting} on the way, {waiting} behind them")


def orders(tx: Tx) -> Iterator[Check]:
    """Look for orders in comments that nobody carries out."""
    undone = undone_orders(tx)
    if undone.oldest_s > ORDER_S:
        words = f"{undone.count} in comments not carried out, the oldest for {duration(undone.oldest_s)}"
        yield warn("orders", words, "see that the fleet runs, and that the forge answers")
    else:
        yield ok("orders", "every one was carried out")


def people(tx: Tx) -> Iterator[Check]:
    """Look for issues on which a person was asked and has not acted."""
    asked: dict[tuple[str, int], str] = {}
    for one in tx.list_effects(limit=MOST):
        here = (one.repo, one.number)
        if one.kind == "ask" and here not in asked and _is_open(tx, one):
            causes = tx.work(*here).asked
            if causes:
                asked[here] = ", ".join(sorted(causes))
    if not asked:
        yield ok("people", "nobody is asked for anything")
        return
    shown = "; ".join(f"{repo}#{number} ({causes})" for (repo, number), causes in list(asked.items())[:SHOWN])
    more = f" and {len(asked) - SHOWN} more" if len(asked) > SHOWN else ""
    words = f"{len(asked)} wait{'s' if len(asked) == 1 else ''} for a person: {shown}{more}"
    yield warn("people", words, "act there, then comment `/forgepool retry`")


def polls(settings: Settings, tx: Tx) -> Iterator[Check]:
    """Look whether the forge is asked for what no webhook told."""
    pause_s = settings.service.forge_poll_s
    if not pause_s:
        step = "set service.forge_poll_s: a webhook that is lost, and an outside CI, are noticed by asking only"
        yield warn("polls", "the forge is never asked: service.forge_poll_s = 0", step)
        return
    found = 0
    known = tx.list_polls()
    for one in known:
        if one.error:
            found += 1
            yield fail("polls", f"{one.repo}: the last time of asking failed: {one.error}", "see `accounts`, above")
        elif one.polled_at is not None and (tx.now - one.polled_at).total_seconds() > LATE * pause_s:
            found += 1
            words = f"{one.repo} was asked about {_ago(tx, one.polled_at)} ago, and should be every {pause_s:g} s"
            yield warn("polls", words, "see that the fleet runs")
    if not found:
        newest = max((one.polled_at for one in known if one.polled_at), default=None)
        yield ok("polls", f"the last was {_ago(tx, newest)} ago" if newest else "there was none yet")


def _is_open(tx: Tx, effect: Effect) -> bool:
    subject = tx.subject(effect.repo, effect.number)
    return subject is None or subject.state == "open"


def _about(effect: Effect | None) -> str:
    return f"{effect.kind} on {effect.repo}#{effect.number}" if effect else ""


def _trail(effect: Effect | None) -> str:
    return f"`forgepool trail {effect.repo}#{effect.number}`" if effect else "`forgepool trail`"


def _ago(tx: Tx, moment: datetime) -> str:
    return duration((tx.now - moment).total_seconds())
