"""What a version of the forge lacks, and what that means, in sentences. Pure: no I/O."""

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that a version lacks."""

    sentence: str  #: what it is, and what it means
    is_of_old: bool  #: a newer version has it


_Version = tuple[int, int]

_FORGEJO: tuple[tuple[Callable[[_Version], bool], Gap], ...] = (
    (lambda at: at < (11, 0), Gap("nothing was tried before Forgejo 11: update the forge", is_of_old=True)),
    (
        lambda at: at < (12, 0),
        Gap("before Forgejo 12 no webhook tells that a workflow has ended: it is asked for", is_of_old=True),
    ),
    (
        lambda _: True,
        Gap("Forgejo sends no webhook for commit statuses: outside ones are asked for", is_of_old=False),
    ),
    (
        lambda _: True,
        Gap(
            "Forgejo's REST interface has no logs of workflow runs: they are read from its web pages, where it lets us",
            is_of_old=False,
        ),
    ),
)
_GITEA: tuple[tuple[Callable[[_Version], bool], Gap], ...] = (
    (lambda at: at < (1, 22), Gap("nothing was tried before Gitea 1.22: update the forge", is_of_old=True)),
    (
        lambda at: at < (1, 24),
        Gap("before Gitea 1.24 webhooks may not tell of every check: they are asked for", is_of_old=True),
    ),
)


def gaps(version: str, *, is_forgejo: bool) -> tuple[Gap, ...]:
    """Say what a version lacks. version: as the forge says it."""
    number = re.match(r"v?([0-9]{1,6})\.([0-9]{1,6})", version)
    if number is None:
        return (Gap(f"the forge calls its version {version[:40]!r}: what it lacks is not known", is_of_old=False),)
    at = (int(number[1]), int(number[2]))
    return tuple(gap for is_lacking, gap in (_FORGEJO if is_forgejo else _GITEA) if is_lacking(at))
