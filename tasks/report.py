"""What forgepool says on the forge, as text. Pure: no I/O.

Reasons and summaries come from agents and from the forge: in a comment of ours they must neither call people nor be
read as anything but words.
"""

import re
from dataclasses import dataclass

from tasks.order_words import VERBS

MAX_WORDS = 160  #: characters of one reason
MAX_SENTENCE = 600

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()+!|~$^&-])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One task."""

    task: int
    what: str
    who: str
    state: str
    took_s: float | None  #: None: it has not ended, or never began
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What there is to say of an issue or pull request."""

    repo: str
    number: int
    now: str  #: what was decided last
    rows: tuple[Row, ...]  #: oldest first
    more: int = 0  #: older ones that are left out
    merge: str | None = None
    held_by: str | None = None
    others: tuple[int, ...] = ()  #: of an issue its pull requests, and the other way round
    asked: bool = False  #: a person was asked and has not acted yet


def mark(key: str) -> str:
    """Return the mark by which a comment is found again; nobody sees it."""
    return f"<!-- forgepool:{key} -->"


def render(view: View) -> str:
    """Return the one comment on an issue or pull request, without its mark."""
    lines = ["**forgepool**" + (f" · {plain(view.now)}" if view.now else "")]
    if view.held_by:
        lines += ["", f"Held by {plain(view.held_by)}: nothing begins here until `/forgepool go`."]
    if view.asked:
        lines += ["", "A person was asked for help."]
    if view.merge:
        lines += ["", f"Merge: {plain(view.merge)}."]
    if view.others:
        lines += ["", "See also " + ", ".join(f"#{number}" for number in view.others) + "."]
    if view.rows:
        lines += ["", *_table(view)]
    lines += ["", f"<details><summary>What you can say here</summary>\n\n{_help()}\n</details>"]
    return "\n".join(lines)


def _table(view: View) -> list[str]:
    lines = ["| task | what | who | state | took | why |", "|---|---|---|---|---|---|"]
    if view.more:
        lines.append(f"| … | {view.more} earlier | | | | |")
    for row in view.rows:
        cells = (str(row.task), row.what, row.who, row.state, _took(row.took_s), plain(row.why))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _took(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"  # noqa: PLR2004 - two hours


def _help() -> str:
    lines = [f"- `/forgepool {verb if verb != 'to' else 'to TYPE'}`: {what}" for verb, what in VERBS.items()]
    return "\n".join([line.split(": `/forgepool")[0] for line in lines])


def question(*, person: str, sentence: str, pull: object) -> str:
    """Return what a person is asked. person: login; "": nobody in particular. pull: number it is about; None: this."""
    about = f" #{pull}" if isinstance(pull, int) else ""
    to = f"@{person} " if person else ""
    return (
        f"{to}**forgepool needs a person**{about}: {plain(sentence, at_most=MAX_SENTENCE)}.\n\n"
        "It begins nothing more here by itself. When the cause is mended, say `/forgepool retry` in a line of its own, "
        "or assign the issue anew."
    )


def plain(text: str, *, at_most: int = MAX_WORDS) -> str:
    """Return words that are nothing but words: one line, no markup, no person called, no issue referred to."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * at_most]).split())
    line = line if len(line) <= at_most else line[: at_most - 1] + "…"
    # A word joiner breaks @name and owner/name#1 without being seen.
    return _SPECIAL.sub(r"\\\1", line).replace("@", "@\N{WORD JOINER}").replace("://", ":\N{WORD JOINER}//")
