"""Orders that people give in comments: which words count. Pure: no I/O."""

import re

#: Each with what it does, for the answer to an order that is none of them.
VERBS = {
    "retry": "try again what failed, and count anew",
    "cancel": "stop what waits and what runs for it",
    "hold": "let nothing begin for it",
    "go": "let things begin again",
    "explain": "say what was decided, and why",
    "to": "give it to another type: `/forgepool to TYPE`",
}
UNKNOWN = "unknown"
MAX_ORDERS = 5  #: of one comment
_MAX_ARGUMENT = 200  #: characters

_ORDER = re.compile(r"/forgepool(?:[ \t]+(?P<verb>[A-Za-z-]+)(?:[ \t]+(?P<argument>\S.*?))?)?[ \t]*")
_FENCE = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})")


def parse(text: str) -> tuple[tuple[int, str, str], ...]:
    """Return (line, verb, argument) of every order in a comment; lines are counted from 0.

    An order is a line of its own that begins with /forgepool, outside of code and quotations.
    A verb that is none of VERBS becomes UNKNOWN, with what was written as its argument.
    """
    found = []
    fence = ""
    for number, line in enumerate(text.splitlines()):
        if mark := _FENCE.match(line):
            fence = _after(fence, mark["fence"])
        elif not fence and (order := _ORDER.fullmatch(line)):
            found.append((number, *_words(order["verb"] or "", order["argument"] or "")))
    return tuple(found[:MAX_ORDERS])


def _after(open_fence: str, mark: str) -> str:
    """Return the fence that is open after a mark: only one of the same kind, at least as long, closes it."""
    if not open_fence:
        return mark
    return "" if mark[0] == open_fence[0] and len(mark) >= len(open_fence) else open_fence


def _words(verb: str, argument: str) -> tuple[str, str]:
    known = verb.lower()
    if known in VERBS and (known == "to") == bool(argument):
        return known, _printable(argument)
    return UNKNOWN, _printable(f"{verb} {argument}".strip())


def _printable(text: str) -> str:
    return "".join(filter(str.isprintable, text))[:_MAX_ARGUMENT]
