"""What the stand-in forge refuses, as its REST interface says it. Pure: no I/O."""

from typing import Any

#: services/context/base.go: what a not found answers when nobody gives another reason.
NOT_FOUND = "The target couldn't be found."


class Refusal(Exception):
    """An answer that says no."""

    def __init__(self, status: int, message: str, *, body: Any = None) -> None:
        """body: instead of the usual one with `message` and `url`."""
        super().__init__(message)
        self.status, self.message, self.body = status, message, body


class Unprocessable(Refusal):
    """The real forge would answer 422."""

    def __init__(self, message: str) -> None:
        super().__init__(422, message)


def not_found(*errors: str) -> Refusal:
    """Return the answer to what is not there, or not for that account."""
    return Refusal(404, NOT_FOUND, body={"errors": [*errors], "message": NOT_FOUND})


def forbidden(message: str) -> Refusal:
    """Return the answer to what an account may not do."""
    return Refusal(403, message)


def broken(message: str) -> Refusal:
    """Return an error of the forge itself, whose words only its administrators get (services/context/api.go)."""
    return Refusal(500, message)


def conflict(style: str) -> Refusal:
    """Return the answer to a conflict: a bare Go struct, models.ErrMergeConflicts or ErrRebaseConflicts."""
    told = "CONFLICT (content): Merge conflict\nAutomatic merge failed; fix conflicts and then commit the result.\n"
    bare = {"Style": style, "StdOut": told, "StdErr": "", "Err": {}}
    if style.startswith("rebase"):
        bare = {"Style": style, "CommitSHA": "", "StdOut": told, "StdErr": "", "Err": {}}
    return Refusal(409, "", body=bare)
