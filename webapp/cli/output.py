"""How a command speaks: tables for people, aligned text for pipes, one JSON document for programs."""

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple, TypeVar

import click
from rich.cells import cell_len, set_cell_size

_F = TypeVar("_F", bound=Callable[..., Any])

#: Stands for "nothing" in a table.
NOTHING = "-"
MINUTE, HOUR, DAY = 60, 3600, 86400
GAP = 2  #: between two columns
NARROW = 8  #: what a column needs to be readable

STYLES = {
    **dict.fromkeys(("succeeded", "active", "alive", "accepted", "ok"), "green"),
    **dict.fromkeys(("failed", "timed_out", "dead_lettered", "error", "refused", "fail"), "red"),
    **dict.fromkeys(("queued", "paused", "draining", "interrupted", "none", "warn"), "yellow"),
    **dict.fromkeys(("cancelled", "superseded", "ignored", "duplicate", "removed"), "bright_black"),
    "running": "cyan",
}


class Styled(NamedTuple):
    """A cell of a table that is coloured on a terminal."""

    text: str
    style: str


Cell = str | Styled


class Fit(StrEnum):
    """What gives way when a table is wider than the terminal."""

    WHOLE = "whole"  # nothing
    WRAP = "wrap"  # the text breaks into lines
    CUT = "cut"  # the end is left out
    CUT_START = "cut-start"  # the beginning is left out


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    fit: Fit = Fit.WHOLE
    is_number: bool = False
    is_optional: bool = False  #: left out on a terminal when every row is empty, or when there is no room


def examples(*lines: str) -> str:
    """Return the part of a command's help that shows how it is used; click leaves it as it is written."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


json_option: Callable[[_F], _F] = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


# --- for programs --------------------------------------------------------------------------------


def print_json(value: Any) -> None:
    """Print one JSON document; ASCII, so that no text of a stranger can steer a terminal."""
    click.echo(json.dumps(value, indent=2, default=_plain_json))


def iso(moment: datetime | None) -> str | None:
    """Return a time as 2026-01-05T09:00:00.000Z."""
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _plain_json(value: object) -> str | None:
    return iso(value) if isinstance(value, datetime) else str(value)


# --- for people ----------------------------------------------------------------------------------


def warn(sentence: str) -> None:
    """Tell on standard error what needs attention but is no failure."""
    text = f"Warning: {safe(sentence)}"
    if sys.stderr.isatty():
        text = "\n".join(textwrap.wrap(text, shutil.get_terminal_size().columns, subsequent_indent="  "))
    click.secho(text, fg="yellow", err=True)


def safe(text: str, *, keep: str = "") -> str:
    """Return text of a stranger with everything escaped that could steer a terminal; `keep` stays as it is."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def state(word: str) -> Styled:
    """Return a state or verdict in its colour."""
    return Styled(word, STYLES.get(word, ""))


def age(moment: datetime | None, now: datetime) -> str:
    """Return how long ago, in one unit."""
    return NOTHING if moment is None else duration((now - moment).total_seconds())


def duration(seconds: float) -> str:
    """Return a time span in its largest unit."""
    if seconds < MINUTE:
        return f"{max(0, seconds):.0f}s"
    if seconds < HOUR:
        return f"{seconds / MINUTE:.0f}m"
    return f"{seconds / HOUR:.0f}h" if seconds < 2 * DAY else f"{seconds / DAY:.0f}d"


def when(moment: datetime | None) -> str:
    """Return a time as people read it, in UTC."""
    return NOTHING if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def fields(pairs: Mapping[str, Any]) -> None:
    """Print names and values below each other, without what is empty; a value of several lines is indented."""
    width = max(map(len, pairs))
    for name, value in pairs.items():
        if value in (None, "", NOTHING, (), []):
            continue
        lines = _wrapped(safe(_text(value), keep="\n"), width + GAP)
        lines[0] = click.style(lines[0], fg=value.style or None) if isinstance(value, Styled) else lines[0]
        click.echo(f"{click.style(f'{name:<{width}}', bold=True)}  {lines[0]}")
        for line in lines[1:]:
            click.echo(" " * (width + GAP) + line)


def heading(text: str) -> None:
    """Print the title of a part, with an empty line before it."""
    click.echo()
    click.secho(text, bold=True)


def sentence(text: str, *, indent: str = "") -> None:
    """Print a sentence; on a terminal it breaks between words, and its further lines are indented."""
    for line in _wrapped(safe(text, keep="\n"), len(indent), hang="    " if text.startswith(" ") else ""):
        click.echo(indent + line)


def item(mark: Styled, text: str) -> None:
    """Print a line of a list: a mark in its colour, and beside it the text."""
    lines = _wrapped(safe(text, keep="\n"), len(mark.text) + GAP)
    click.echo(click.style(mark.text, fg=mark.style or None) + " " * GAP + lines[0])
    for line in lines[1:]:
        click.echo(" " * (len(mark.text) + GAP) + line)


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, empty: str) -> None:
    """Print a table; `empty` is the sentence for a person when there is no row."""
    lines = [[_clean(cell) for cell in row] for row in rows]
    if not is_terminal():
        _print_aligned(columns, lines)
    elif lines:
        _print_table(columns, lines)
    else:
        click.echo(empty)


def is_terminal() -> bool:
    """Tell whether a person looks on."""
    return sys.stdout.isatty()


def _clean(cell: Cell) -> Cell:
    if isinstance(cell, Styled):
        return Styled(safe(cell.text), cell.style)
    return safe(cell) or NOTHING


def _text(cell: object) -> str:
    return cell.text if isinstance(cell, Styled) else str(cell)


def _print_aligned(columns: Sequence[Column], rows: list[list[Cell]]) -> None:
    """Print every column, nothing cut: for grep and awk."""
    lines = [[column.name for column in columns], *([_text(cell) for cell in row] for row in rows)]
    widths = [max(cell_len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        click.echo("  ".join(text + " " * (widths[i] - cell_len(text)) for i, text in enumerate(line)).rstrip())


def _print_table(columns: Sequence[Column], rows: list[list[Cell]]) -> None:
    """Print what fits the terminal."""
    from rich.console import Console  # noqa: PLC0415 - only where a person looks on
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False, markup=False, emoji=False)
    widths, left_out = fitted(columns, rows, console.width)
    drawn = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for i, width in widths.items():
        align: Literal["left", "right"] = "right" if columns[i].is_number else "left"
        drawn.add_column(columns[i].name, width=width, justify=align, overflow="fold")
    for row in rows:
        cells = ((_cut(_text(row[i]), width, columns[i].fit), row[i]) for i, width in widths.items())
        drawn.add_row(*(Text(text, style=cell.style if isinstance(cell, Styled) else "") for text, cell in cells))
    console.print(drawn)
    if left_out:
        console.print(f"No room for {', '.join(left_out)}; try a wider terminal or --json.", style="dim")


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], room: int) -> tuple[dict[int, int], list[str]]:
    """Return the widths of the columns that are shown, by their place, and the names of those without room."""
    natural = {
        i: max(cell_len(column.name), *(cell_len(_text(row[i])) for row in rows))
        for i, column in enumerate(columns)
        if not column.is_optional or any(_text(row[i]) != NOTHING for row in rows)
    }
    left_out: list[str] = []
    while True:
        flexible = {i: width for i, width in natural.items() if columns[i].fit is not Fit.WHOLE}
        taken = sum(width for i, width in natural.items() if i not in flexible) + GAP * (len(natural) - 1)
        optional = [i for i in natural if columns[i].is_optional]
        if not optional or sum(min(width, NARROW) for width in flexible.values()) <= room - taken:
            return natural | shared(flexible, room - taken), left_out
        left_out.append(columns[optional[-1]].name)
        del natural[optional[-1]]


def shared(natural: Mapping[int, int], room: int) -> dict[int, int]:
    """Share the room fairly: nobody gets more than he asks for, nobody less than NARROW."""
    given: dict[int, int] = {}
    for i, width in sorted(natural.items(), key=lambda item: item[1]):
        fair = (room - sum(given.values())) // (len(natural) - len(given))
        given[i] = min(width, max(fair, NARROW))
    return given


def _cut(text: str, width: int, fit: Fit) -> str:
    if fit in (Fit.WHOLE, Fit.WRAP) or cell_len(text) <= width:
        return text
    if fit is Fit.CUT:
        return set_cell_size(text, width - 1).rstrip() + "…"
    while cell_len(text) > width - 1:
        text = text[1:]
    return "…" + text


def _wrapped(text: str, taken: int, *, hang: str = "") -> list[str]:
    """Break at the width of the terminal, less what is taken; elsewhere at line ends only."""
    lines = text.splitlines() or [""]
    if not is_terminal():
        return lines
    width = max(30, shutil.get_terminal_size().columns - taken)
    return [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent=hang) or [""]]
