"""Every error this project raises, in one tree. Pure: no I/O.

The docstring of a class is its message unless a sentence is given; ids travel as attributes.
"""

import textwrap
from collections.abc import Sequence


class ForgepoolError(Exception):
    """Something went wrong in forgepool."""

    def __init__(self, message: str | None = None) -> None:
        """Use `message`, or else the first line of the class docstring."""
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])


# --- configuration -------------------------------------------------------------------------------


class ConfigError(ForgepoolError):
    """The configuration is not usable."""

    def __init__(self, problems: Sequence[str]) -> None:
        """`problems`: one sentence each, naming the key, the value and the remedy."""
        self.problems = tuple(problems)
        super().__init__("The configuration is not usable:\n" + "\n".join(f"  - {p}" for p in problems))


class SchemaError(ForgepoolError):
    """The database does not have the schema that this version needs."""


class StoreUnavailable(ForgepoolError):
    """The database does not serve: its disk is full, it is read-only, damaged or away."""


class StoreBusy(StoreUnavailable):
    """The database stayed locked for longer than the time-out; nothing was written."""


# --- the caller's words --------------------------------------------------------------------------


class BadInput(ForgepoolError):
    """An argument is not acceptable."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        """Name the field, show the value, say what would be accepted."""
        self.field, self.value, self.remedy = field, value, remedy
        super().__init__(f"{field} = {textwrap.shorten(repr(value), 120, placeholder='…')}: {remedy}")


class UnknownTask(ForgepoolError):
    """There is no task with that id."""

    def __init__(self, task_id: object) -> None:
        """Keep the id that was asked for."""
        self.task_id = task_id
        super().__init__(f"there is no task {task_id}; `forgepool tasks list` shows the ids")


class UnknownInstance(ForgepoolError):
    """There is no instance with that name."""

    def __init__(self, name: object) -> None:
        """Keep the name that was asked for."""
        self.name = name
        super().__init__(f"there is no instance {name!r}; `forgepool instances list` shows the names")


class UnknownDelivery(ForgepoolError):
    """There is no delivery with that id."""

    def __init__(self, delivery_id: object) -> None:
        """Keep the id that was asked for."""
        self.delivery_id = delivery_id
        super().__init__(f"there is no delivery {delivery_id}; `forgepool deliveries list` shows the ids")


class InstanceExists(ForgepoolError):
    """An instance with that name exists already."""

    def __init__(self, name: str) -> None:
        """Keep the name that is taken."""
        self.name = name
        super().__init__(f"an instance named {name!r} exists already; choose another name or use `instances set`")


class Ambiguous(ForgepoolError):
    """More than one task fits; name the one that is meant."""


# --- selection and state -------------------------------------------------------------------------


class NoInstance(ForgepoolError):
    """No instance of the type can take the task."""

    def __init__(self, type_name: str, *, task_id: int | None = None, why: str | None = None) -> None:
        """`task_id`: the failed task that keeps the refusal visible; None before it is stored."""
        self.type_name, self.task_id = type_name, task_id
        super().__init__(
            why
            or f"no instance of type {type_name!r} is registered; "
            f"add one with `forgepool instances add NAME --type {type_name}`"
        )


class StaleTask(ForgepoolError):
    """The task is no longer in a state from which this move is allowed: somebody was first."""

    def __init__(self, task_id: int, move: str, state: str | None) -> None:
        """`state`: where the task is now; None when there is no such task or another holds its lease."""
        self.task_id, self.move, self.state = task_id, move, state
        super().__init__(f"task {task_id} cannot {move}: it is {state or 'held by somebody else'}")


class UnknownMerge(ForgepoolError):
    """There is no merge with that id."""

    def __init__(self, merge: object) -> None:
        """Keep the id that was asked for."""
        self.merge = merge
        super().__init__(f"there is no merge {merge}; `forgepool merges list --all` shows the ids")


class StaleMerge(ForgepoolError):
    """The merge is no longer where this change may be made: somebody was first."""

    def __init__(self, merge: int, state: str) -> None:
        """`state`: where it is now."""
        self.merge, self.state = merge, state
        super().__init__(f"merge {merge} is {state}: somebody was first")


class LeaseHeld(ForgepoolError):
    """Another live worker consumes this queue."""

    def __init__(self, instance: str, holder: str, expires_in_s: float) -> None:
        """`expires_in_s`: seconds until the lease can be taken over if that worker is dead."""
        self.instance, self.holder, self.expires_in_s = instance, holder, expires_in_s
        super().__init__(
            f"{instance} is already served by worker {holder}; one queue has one worker. "
            f"If that worker is dead, its lease ends in {expires_in_s:.0f} s"
        )


class WrongHost(ForgepoolError):
    """The instance is bound to another host."""

    def __init__(self, instance: str, bound_to: str, host: str | None) -> None:
        """`host`: where somebody tried to serve it."""
        self.instance, self.bound_to, self.host = instance, bound_to, host
        super().__init__(
            f"{instance} is bound to host {bound_to!r}, this is {host!r}; "
            f"free it with `forgepool instances set {instance} --host any`"
        )


class LeaseLost(ForgepoolError):
    """The lease is no longer ours; another worker may have taken over."""


class AgentError(ForgepoolError):
    """The agent process could not be started."""


class CheckoutError(ForgepoolError):
    """The checkout for the task could not be made ready."""


# --- the forge's REST interface ------------------------------------------------------------------


class ForgeError(ForgepoolError):
    """The forge did not do what it was asked for."""

    def __init__(self, message: str, *, call: str = "", status: int | None = None) -> None:
        """`call`: method and path, without secrets. `status`: of the answer; None: there was none."""
        self.call, self.status = call, status
        super().__init__(message)


class ForgeUnavailable(ForgeError):
    """The forge does not answer, or not now: the call may succeed later. Whether it was carried out is not known."""


class NotThere(ForgeError):
    """What was asked for is not on the forge, or not for this account (404, 410)."""


class NotAllowed(ForgeError):
    """The account may not do that, its token is not accepted, or the repository takes nothing (401, 403, 413, 423)."""


class NotAccepted(ForgeError):
    """The forge understood the call and does not accept it as it is (400, 409, 412, 422)."""


class StillChecking(ForgeError):
    """The pull request cannot be merged now: the forge still checks it, or it conflicts; time tells which (405)."""


class MergeConflict(ForgeError):
    """The pull request conflicts with its base (409)."""


class StaleHead(ForgeError):
    """The head is not the commit that was to be merged: somebody pushed (409)."""


class BaseMoved(ForgeError):
    """The base moved while the forge was merging (409)."""


class MergeProtected(ForgeError):
    """The rules of the branch, or the settings of the repository, forbid the merge (405)."""


# --- the door ------------------------------------------------------------------------------------


class Refused(ForgepoolError):
    """A delivery was not let in."""

    status = 400

    def __init__(self, message: str, *, remedy: str = "") -> None:
        """`remedy`: what the sender's administrator can do about it."""
        self.remedy = remedy
        super().__init__(message)


class Unsigned(Refused):
    """The delivery carries no signature."""

    status = 401


class BadSignature(Refused):
    """The signature does not fit the body."""

    status = 403


class RepoNotAllowed(Refused):
    """The repository is not on the allow-list."""

    status = 403


class TooLarge(Refused):
    """The body is larger than the limit."""

    status = 413


class NotJson(Refused):
    """The content type is not application/json."""

    status = 415


class Malformed(Refused):
    """The body is not what its event type promises."""

    status = 400
