"""What forgepool says on the forge, as text. Pure: no I/O.

Reasons and summaries come from agents and from the forge: in a comment of ours they must neither call people nor be
read as anything but words.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from tasks.order_words import VERBS

MAX_WORDS = 160  #: characters of one reason
MAX_SENTENCE = 600

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()+!|~$^&-])")
#: What the forge makes links, calls and notes on other issues of: @name, #1, !1, owner/name#1, addresses.
_CALLS = re.compile(r"@|[#!](?=\d)|:(?=//)|\bwww(?=\.)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One task."""

    task: int
    what: str
    who: str
    state: str
    since: datetime | None  #: when it began; None: it never did
    took_s: float | None  #: None: it has not ended, or never began
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How much of a cap is used up."""

    what: str
    used: int
    cap: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What there is to say of an issue or pull request."""

    repo: str
    number: int
    now: str  #: what happens, or what was decided last
    rows: tuple[Row, ...]  #: oldest first
    more: int = 0  #: older ones that are left out
    merge: str | None = None
    ahead: tuple[int, ...] = ()  #: pull requests that are merged first
    counts: tuple[Count, ...] = ()
    held_by: str | None = None
    others: tuple[int, ...] = ()  #: of an issue its pull requests, and the other way round
    asked: str | None = None  #: what a person was asked and has not acted upon yet


def mark(key: str) -> str:
    """Return the mark by which a comment is found again; nobody sees it."""
    return f"<!-- forgepool:{key} -->"


def render(view: View) -> str:
    """Return the one comment on an issue or pull request, without its mark."""
    lines = ["**forgepool**" + (f" · {plain(view.now)}" if view.now else "")]
    if view.held_by:
        lines += ["", f"Held by {plain(view.held_by)}: nothing begins here until `/forgepool go`."]
    if view.asked:
        lines += ["", f"A person is needed: {plain(view.asked, at_most=MAX_SENTENCE)}."]
    if view.merge:
        lines += ["", f"Merge: {plain(view.merge)}" + (f", after {_links(view.ahead)}" if view.ahead else "") + "."]
    if view.others:
        lines += ["", f"See also {_links(view.others)}."]
    if view.rows:
        lines += ["", *_table(view)]
    if used := [f"{count.used} of {count.cap} {count.what}" for count in view.counts if count.used]:
        lines += ["", "Counted since a person acted: " + ", ".join(used) + "."]
    lines += ["", f"<details><summary>What you can say here</summary>\n\n{_help()}\n</details>"]
    return "\n".join(lines)


def _table(view: View) -> list[str]:
    lines = ["| task | what | who | state | time | why |", "|---|---|---|---|---|---|"]
    if view.more:
        lines.append(f"| … | {view.more} earlier | | | | |")
    for row in view.rows:
        cells = (str(row.task), row.what, row.who, row.state, _time(row), plain(row.why))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _links(numbers: Iterable[int]) -> str:
    return ", ".join(f"#{number}" for number in numbers)


def _time(row: Row) -> str:
    """Tell how long it took. What still runs began at a time: a report that counts would be edited for ever."""
    seconds = row.took_s
    if seconds is None:
        return f"since {moment(row.since)}" if row.since is not None else ""
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"  # noqa: PLR2004 - two hours


def moment(at: datetime) -> str:
    """Return a time for people."""
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _help() -> str:
    called = {verb: "to TYPE" if verb == "to" else verb for verb in VERBS}
    return "\n".join(f"- `/forgepool {called[verb]}`: {what.partition(':')[0]}" for verb, what in VERBS.items())


def question(*, person: str, sentence: str, pull: object) -> str:
    """Return what a person is asked. person: login; "": nobody in particular. pull: number it is about; None: this."""
    about = f" #{pull}" if isinstance(pull, int) else ""
    to = f"@{person} " if person else ""
    return (
        f"{to}**forgepool needs a person**{about}: {plain(sentence.rstrip('.'), at_most=MAX_SENTENCE)}.\n\n"
        "It begins nothing more here by itself. When the cause is mended, say `/forgepool retry` in a line of its own, "
        "or assign the issue anew."
    )


def plain(text: str, *, at_most: int = MAX_WORDS) -> str:
    """Return words that are nothing but words: one line, no markup, no person called, no issue referred to."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * at_most]).split())
    line = line if len(line) <= at_most else line[: at_most - 1] + "…"
    # Escaped or not, the forge finds these in the text as it is shown; a word joiner breaks them without being seen.
    return _SPECIAL.sub(r"\\\1", _CALLS.sub("\\g<0>\N{WORD JOINER}", line))
