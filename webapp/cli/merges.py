"""`forgepool merges`: the lanes in which approved pull requests are merged, and what each waits for."""

from collections.abc import Iterator
from typing import Any

import click

from pool.lanes import HOLDS_LANE, Merge, MergeState
from webapp.cli.output import Cell, Column, Fit, age, examples, iso, json_option, print_json, state, table
from webapp.cli.session import Session, pass_session

_COLUMNS = (
    Column("ID", is_number=True),
    Column("PULL REQUEST", Fit.CUT_START),
    Column("INTO", Fit.CUT),
    Column("STATE"),
    Column("APPROVED", is_number=True),
    Column("WHY", Fit.WRAP),
)


@click.group(
    short_help="List what is to be merged, and what it waits for.",
    epilog=examples("forgepool merges list", "forgepool merges list --all --json"),
)
def merges() -> None:
    """List the lanes in which approved pull requests are merged, one after another."""


@merges.command("list", epilog=examples("forgepool merges list", "forgepool merges list --repo acme/shop --all"))
@click.option("--all", "with_ended", is_flag=True, help="Also those that have ended; the newest first.")
@click.option("--repo", metavar="OWNER/NAME", help="Only those of this repository.")
@click.option("--number", type=int, help="Only those of this pull request.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
@pass_session
def list_(session: Session, /, *, with_ended: bool, as_json: bool, **filters: Any) -> None:
    """List merges, lane by lane in the order in which they go."""
    with session.store() as store, store.reading() as tx:
        rows = tx.list_merges(only_open=not with_ended, **filters)
        now = tx.now
    told = list(_told(rows))
    if as_json:
        print_json([_shape(row, why) for row, why in told])
        return
    lines: list[list[Cell]] = [
        [str(row.id), f"{row.repo}#{row.number}", row.base, state(row.state), age(row.approved_at, now), why]
        for row, why in told
    ]
    empty = "Nothing was ever to be merged." if with_ended else "Nothing is to be merged. `--all` shows what was."
    table(_COLUMNS, lines, empty=empty)


def _told(rows: list[Merge]) -> Iterator[tuple[Merge, str]]:
    """Yield each merge with what it waits for, or why it ended."""
    first = {(row.repo, row.base): row.number for row in rows if row.state in HOLDS_LANE}
    for row in rows:
        ahead = first.get((row.repo, row.base))
        if row.state is MergeState.WAITING:
            yield row, f"waits for #{ahead}, which goes first" if ahead else "waits for its turn"
        elif row.state is MergeState.ACTIVE:
            yield row, f"{row.step}: {row.reason}" if row.reason else f"{row.step}"
        else:
            yield row, row.reason


def _shape(row: Merge, why: str) -> dict[str, Any]:
    return {
        "id": row.id,
        "repo": row.repo,
        "base": row.base,
        "number": row.number,
        "state": row.state,
        "step": row.step,
        "link": row.link,
        "why": why,
        "code": row.code,
        "head_sha": row.head_sha,
        "approved_sha": row.approved_sha,
        "merge_sha": row.merge_sha,
        "approved_at": iso(row.approved_at),
        "entered_at": iso(row.entered_at),
        "changed_at": iso(row.changed_at),
        "look_at": iso(row.look_at),
        "ended_at": iso(row.ended_at),
    }
