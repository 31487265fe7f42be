"""`forgepool checkouts`: the checkouts of this host, and the work of dead runs that was set aside in them."""

import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from tasks import disk
from tasks.disk import Place
from webapp.cli.output import (
    Cell,
    Column,
    Fit,
    age,
    examples,
    iso,
    json_option,
    print_json,
    sentence,
    state,
    table,
    when,
)
from webapp.cli.session import Session, pass_session

KIB = 1024
_COLUMNS = (
    Column("INSTANCE"),
    Column("REPO", Fit.WRAP),
    Column("BRANCH", Fit.CUT),
    Column("SIZE", is_number=True),
    Column("USED", is_number=True),
    Column("STATE"),
    Column("SET ASIDE", Fit.WRAP, is_optional=True),
)
_RECOVERED = (
    Column("INSTANCE"),
    Column("REPO", Fit.WRAP),
    Column("SET ASIDE"),
    Column("BRANCH", Fit.WRAP),
    Column("SUBJECT", Fit.CUT),
    Column("PATH", Fit.WRAP),
)
_instance = click.option("--instance", metavar="NAME", help="Only those of this instance.")


@click.group(
    short_help="List checkouts, and work that was set aside.",
    epilog=examples("forgepool checkouts list", "forgepool checkouts recovered --instance dev-alpha"),
)
def checkouts() -> None:
    """List the checkouts of this host, and the work of dead runs that was set aside in them."""


@checkouts.command("list", epilog=examples("forgepool checkouts list", "forgepool checkouts list --json"))
@_instance
@json_option
@pass_session
def list_(session: Session, instance: str | None, *, as_json: bool) -> None:
    """List the checkouts of this host: what is checked out, their size, and what was set aside."""
    places, busy, now = _places(session, instance)
    if as_json:
        print_json([_document(place, busy) for place in places])
        return
    rows: list[list[Cell]] = [
        [
            place.instance,
            place.repo,
            place.branch,
            size(place.size),
            age(place.used_at, now),
            state(_state(place, busy)),
            ", ".join(f"{kept.branch.rpartition('/')[2]} {kept.subject}".strip() for kept in place.kept),
        ]
        for place in places
    ]
    table(_COLUMNS, rows, empty="No checkout on this host yet; the first run of an instance makes one.")


@checkouts.command(epilog=examples("forgepool checkouts recovered", "forgepool checkouts recovered --json"))
@_instance
@json_option
@pass_session
def recovered(session: Session, instance: str | None, *, as_json: bool) -> None:
    """List the work of dead runs that was set aside, the newest first."""
    places, _, _ = _places(session, instance)
    pairs = [(place, kept) for place in places for kept in place.kept]
    pairs.sort(key=lambda pair: pair[1].branch, reverse=True)
    # What cannot be read by git any more is told too: its files are there.
    damaged = [place for place in places if not place.is_in_place and not place.kept]
    if as_json:
        documents = [{**_about(place), **_kept(kept), "show": _show(place, kept)} for place, kept in pairs]
        print_json(documents + [{**_about(place), **_kept(None), "show": None} for place in damaged])
        return
    rows: list[list[Cell]] = [
        [place.instance, place.repo, when(kept.at), kept.branch, kept.subject, str(place.path)] for place, kept in pairs
    ]
    rows += [
        [place.instance, place.repo, when(place.used_at), "", "damaged; its files", str(place.path)]
        for place in damaged
    ]
    table(_RECOVERED, rows, empty="No work was set aside: no run on this host died and left any.")
    if pairs:
        sentence(f"To look at one: {_show(*pairs[0])}")


def size(count: int) -> str:
    """Return a number of bytes in its largest unit."""
    number, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while number >= KIB and len(units) > 1:
        number /= KIB
        units.pop(0)
    return f"{number:.0f} {units[0]}" if number >= 10 or units[0] == "B" else f"{number:.1f} {units[0]}"  # noqa: PLR2004 - below it a digit more tells something


def _places(session: Session, instance: str | None) -> tuple[Sequence[Place], set[str], datetime]:
    """Return checkouts, the instances that run something, and the time. Raises UnknownInstance."""
    places = list(disk.places(session.settings.state_dir / "checkouts", instance=instance))
    with session.store() as store, store.reading() as tx:
        # Checkouts of a removed instance are still there for a while.
        if instance is not None and not places:
            tx.instance(instance)
        return places, tx.busy_instances(), tx.now


def _state(place: Place, busy: set[str]) -> str:
    if not place.is_in_place:
        return "moved away"
    return "running" if place.instance in busy else "idle"


def _about(place: Place) -> dict[str, Any]:
    return {"instance": place.instance, "repo": place.repo, "path": str(place.path)}


def _kept(kept: disk.Kept | None) -> dict[str, Any]:
    if kept is None:
        return {"branch": None, "at": None, "subject": None}
    return {"branch": kept.branch, "at": iso(kept.at), "subject": kept.subject}


def _show(place: Place, kept: disk.Kept) -> str:
    """Return the command that shows what was set aside; it starts nothing that an agent may have planted."""
    ours = ("--no-pager", "-c", "core.fsmonitor=false", "-c", "log.showSignature=false")
    shown = ("log", "-p", "-1", "--no-ext-diff", "--no-textconv", kept.branch)
    return shlex.join(["git", "-C", str(place.path), *ours, *shown])


def _document(place: Place, busy: set[str]) -> dict[str, Any]:
    return {
        **_about(place),
        "branch": place.branch,
        "bytes": place.size,
        "last_used": iso(place.used_at),
        "state": _state(place, busy),
        "recovered": [_kept(kept) for kept in place.kept],
    }
