"""`forgepool reconcile`: one round of repairs by hand, or a look at what it would do and at what was done."""

from typing import Any

import click

from tasks.reconcile import LEADER, Done, Reconciler, chosen
from webapp.cli.output import (
    NOTHING,
    Cell,
    Column,
    Fit,
    age,
    duration,
    examples,
    iso,
    item,
    json_option,
    print_json,
    sentence,
    state,
    table,
)
from webapp.cli.session import Session, pass_session

_COLUMNS = (
    Column("REPAIR"),
    Column("BY"),
    Column("COUNT", is_number=True),
    Column("LAST", is_number=True),
    Column("WHEN", Fit.WRAP),
)
SHOWN = 20  #: of what one repair has found, for people


@click.command(
    epilog=examples(
        "forgepool reconcile --dry-run",
        "forgepool reconcile --only end-orphans --only end-strays",
        "forgepool reconcile --list --json",
    )
)
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and write nothing.")
@click.option("--only", metavar="NAME", multiple=True, help="Only this repair; may be given more than once.")
@click.option("--list", "is_list", is_flag=True, help="Show the repairs, how often each was needed, and who leads.")
@json_option
@pass_session
def reconcile(session: Session, only: tuple[str, ...], *, dry_run: bool, is_list: bool, as_json: bool) -> None:
    """Make every repair once, now; a running fleet does this all the time.

    It takes the word of the clock for which runs are dead: a moment after the clock was put forward, leave it to the
    fleet.
    """
    if is_list:
        if dry_run:
            raise click.UsageError("--list makes no repair; leave out --dry-run.")
        _list(session, only, as_json=as_json)
        return
    with session.engine() as engine:
        done = Reconciler(engine).round(only, by_hand=True, dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "repairs": [_document(one) for one in done]})
    else:
        _print(done, dry_run=dry_run)
    if any(one.error for one in done):
        raise SystemExit(1)


def _document(one: Done) -> dict[str, Any]:
    found = [each.what for each in one.found]
    return {"name": one.repair.name, "found": found, "repaired": one.repaired, "error": one.error}


def _print(done: list[Done], *, dry_run: bool) -> None:
    for one in done:
        if one.error:
            item(state("fail"), f"{one.repair.name}: {one.error}")
        elif one.found:
            count = f"{len(one.found)} to repair" if dry_run else f"{one.repaired} repaired"
            item(state("warn" if dry_run else "ok"), f"{one.repair.name}: {count}; {one.repair.why}")
        for found in one.found[:SHOWN]:
            sentence(found.what, indent="      ")
        if len(one.found) > SHOWN:
            sentence(f"and {len(one.found) - SHOWN} more; --json shows all", indent="      ")
    if not any(one.found or one.error for one in done):
        click.echo("There is nothing to repair.")


def _list(session: Session, only: tuple[str, ...], *, as_json: bool) -> None:
    repairs = chosen(only)
    with session.store() as store, store.reading() as tx:
        counts, now = tx.repair_counts(), tx.now
        leader = next((lease for lease in tx.list_leases() if lease.name == LEADER), None)
    is_led = leader is not None and leader.until > now
    if as_json:
        held = leader and {"holder": leader.holder, "until": iso(leader.until), "alive": is_led}
        rows = []
        for repair in repairs:
            count = counts.get(repair.name)
            done = (
                {"count": count.count, "last_at": iso(count.last_at), "last_count": count.last_count} if count else {}
            )
            none = {"count": 0, "last_at": None, "last_count": 0}
            rows.append({"name": repair.name, "by": repair.who, "why": repair.why, **none, **done})
        print_json({"leader": held, "repairs": rows})
        return
    lines: list[list[Cell]] = []
    for repair in repairs:
        count = counts.get(repair.name)
        last = age(count.last_at, now) if count else NOTHING
        lines.append([repair.name, repair.who, str(count.count if count else 0), last, repair.why])
    table(_COLUMNS, lines, empty="")
    if leader is None:
        sentence("Nobody leads: no fleet runs.")
    elif is_led:
        sentence(f"{leader.holder} leads.")
    else:
        ago = duration((now - leader.until).total_seconds())
        sentence(f"Nobody leads: the lease of {leader.holder} ended {ago} ago.")
