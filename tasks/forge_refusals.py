"""What it means when the forge says no: from the status and the words of an answer to an error. Pure: no I/O."""

import json
import re
from typing import Any

from pool.errors import (
    BaseMoved,
    ForgeError,
    ForgeUnavailable,
    MergeConflict,
    MergeProtected,
    NotAccepted,
    NotAllowed,
    NotThere,
    StaleHead,
    StillChecking,
)

MAX_WORDS = 200  #: characters of the forge's text in a message

_MEANING: dict[int, tuple[type[ForgeError], str]] = {
    400: (NotAccepted, "the forge does not accept the call as it is"),
    401: (NotAllowed, "the forge does not accept the account's token; make a new one"),
    403: (NotAllowed, "the account may not do that, or its token has too narrow a scope"),
    404: (NotThere, "it is not on the forge, or not for this account"),
    405: (NotAccepted, "the forge does not allow that now, or this version has no such call"),
    409: (NotAccepted, "it contradicts what is on the forge now"),
    410: (NotThere, "it is no longer on the forge"),
    412: (NotAccepted, "a condition is not met: an open dependency, or the pull request is merged"),
    413: (NotAllowed, "the quota is used up, or what was sent is too large"),
    422: (NotAccepted, "the forge does not accept what was sent"),
    423: (NotAllowed, "the repository is archived and takes no changes"),
    429: (ForgeUnavailable, "too many calls; the forge asks for a pause"),
}
_MOVED = (
    "the forge redirects, which is not followed: the repository was renamed, or service.forge_url is not its address"
)
_BROKEN = "the forge has trouble"
_ODD = "the forge gave an answer that nobody expected"

#: services/pull/merge.go and routers/api/v1/repo/pull.go: what a 405 without words can mean.
_LOOK = "see whether it is merged already, a draft, without a required approval or check, or of a style not allowed"

#: 409 of routers/api/v1/repo/pull.go by its words.
_CONFLICTS: tuple[tuple[str, type[ForgeError], str], ...] = (
    ("head out of date", StaleHead, "the head is not the commit that was to be merged: somebody pushed"),
    ("push out of date", BaseMoved, "the base moved while the forge was merging"),
    ("has merged", BaseMoved, "somebody else merged it meanwhile"),
    ("been merged", BaseMoved, "somebody else merged it meanwhile"),
    ("already merged", BaseMoved, "somebody else merged it meanwhile"),
    ("pushrejected", MergeProtected, "a hook of the forge's repository refused the merge"),
    ("push rejected", MergeProtected, "a hook of the forge's repository refused the merge"),
)


def words_of(body: bytes) -> str:
    """Return what the forge says in the body of a refusal, fit to be shown in one line; "" when it says nothing."""
    return _shown(_message(_load(body)))


def refusal(*, call: str, status: int, body: bytes) -> ForgeError:
    """Return the error that an answer means."""
    return _error(*_meaning_of(status), call=call, status=status, words=words_of(body))


def merge_refusal(*, call: str, status: int, body: bytes) -> ForgeError:
    """Return the error that an answer to a merge means: routers/api/v1/repo/pull.go, MergePullRequest."""
    value = _load(body)
    words = _shown(_message(value))
    kind: type[ForgeError]
    if status == 201:  # noqa: PLR2004 - the status itself
        kind, meaning = StillChecking, "the forge put the merge off instead of merging"
    elif status == 405:  # noqa: PLR2004 - the status itself
        kind, meaning = _forbidden(words)
    elif status == 409:  # noqa: PLR2004 - the status itself
        kind, meaning = _conflict(value, words)
        words = words or _shown(_text(value, "StdErr") or _text(value, "StdOut"))
    elif status == 500:  # noqa: PLR2004 - the status itself
        # An open dependency is not mapped to an answer of its own.
        kind, meaning = ForgeUnavailable, f"{_BROKEN}, or an open dependency blocks the pull request"
    elif 200 <= status < 300:  # noqa: PLR2004 - the range itself
        kind, meaning = ForgeUnavailable, f"{_ODD}, so it is not known whether it merged"
    else:
        kind, meaning = _meaning_of(status)
    return _error(kind, meaning, call=call, status=status, words=words)


def _forbidden(words: str) -> tuple[type[ForgeError], str]:
    if "try again later" in words.lower():
        return StillChecking, "the forge still checks the pull request, or it conflicts"
    meaning = "the rules of the branch or the settings of the repository forbid the merge"
    return MergeProtected, meaning if words else f"{meaning}, and the forge does not say which: {_LOOK}"


def _conflict(value: Any, words: str) -> tuple[type[ForgeError], str]:
    for part, kind, meaning in _CONFLICTS:
        if part in words.lower():
            return kind, meaning
    # Bare Go structs without `message`: ErrMergeConflicts, ErrRebaseConflicts, ErrMergeUnrelatedHistories
    # (services/pull/merge.go), and ErrPullRequestHasMerged (models/issues/pull.go).
    if isinstance(value, dict) and "HeadBranch" in value:
        return BaseMoved, "somebody else merged it meanwhile"
    if "unrelated histories" in _text(value, "StdErr"):
        return MergeConflict, "the branch and its base have no common history"
    if isinstance(value, dict) and "Style" in value:
        return MergeConflict, "the pull request conflicts with its base"
    if words:
        return _MEANING[409]
    return MergeConflict, "the forge could not merge and does not say why; most often it is a conflict"


def _meaning_of(status: int) -> tuple[type[ForgeError], str]:
    if status in _MEANING:
        return _MEANING[status]
    if 300 <= status < 400:  # noqa: PLR2004 - the range itself
        return NotThere, _MOVED
    return (ForgeUnavailable, _BROKEN) if status >= 500 else (ForgeError, _ODD)  # noqa: PLR2004 - the range itself


def _error(kind: type[ForgeError], meaning: str, *, call: str, status: int, words: str) -> ForgeError:
    said = f"; it says: {words}" if words else ""
    return kind(f"{call}: {meaning} ({status}){said}", call=call, status=status)


def _load(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace")


def _message(value: Any) -> str:
    if isinstance(value, dict):
        # Some answers say `error` or `errors` (services/context/api.go, modules/web/middleware/binding.go).
        return _text(value, "message") or _text(value, "error") or _first(value.get("errors"))
    # A page for people says nothing that fits into a line.
    return value if isinstance(value, str) and not re.match(r"\s*<", value) else ""


def _first(value: Any) -> str:
    return next((item for item in value if isinstance(item, str)), "") if isinstance(value, list) else ""


def _text(value: Any, name: str) -> str:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def _shown(text: str) -> str:
    printable = "".join(char if char.isprintable() else " " for char in text[: 10 * MAX_WORDS])
    line = " ".join(printable.split())
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"
