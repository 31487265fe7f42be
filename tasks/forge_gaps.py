"""What a version of the forge lacks, and what that means, in sentences. Pure: no I/O."""

import re
from collections.abc import Callable

_Version = tuple[int, int]
_Gap = tuple[Callable[[_Version], bool], str]

_FORGEJO: tuple[_Gap, ...] = (
    (lambda at: at < (11, 0), "nothing was tried before Forgejo 11: update the forge"),
    (
        lambda at: at < (12, 0),
        "before Forgejo 12 workflow runs send no webhook: they are seen by asking, every forge_poll_s",
    ),
    (
        lambda _: True,
        "Forgejo sends no webhook for commit statuses: outside checks are seen by asking, every forge_poll_s",
    ),
    (
        lambda _: True,
        "Forgejo's REST interface has no logs of workflow runs: they are read from its web pages, where it lets us",
    ),
)
_GITEA: tuple[_Gap, ...] = (
    (lambda at: at < (1, 22), "nothing was tried before Gitea 1.22: update the forge"),
    (
        lambda at: at < (1, 24),
        "before Gitea 1.24 webhooks may not tell of every check: they are seen by asking, every forge_poll_s",
    ),
)


def gaps(version: str, *, is_forgejo: bool) -> tuple[str, ...]:
    """Say what a version lacks. version: as the forge says it."""
    number = re.match(r"v?([0-9]{1,6})\.([0-9]{1,6})", version)
    if number is None:
        return (f"the forge calls its version {version[:40]!r}: what it lacks is not known",)
    at = (int(number[1]), int(number[2]))
    return tuple(sentence for is_lacking, sentence in (_FORGEJO if is_forgejo else _GITEA) if is_lacking(at))
