"""What a check of `forgepool doctor` is. Pure: no I/O."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"  # works, or may be meant so; worth a look
    FAIL = "fail"  # something does not work


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    message: str
    remedy: str = ""  #: what to do; empty when nothing is to be done


def ok(name: str, message: str) -> Check:
    """Return a check that found nothing."""
    return Check(name, Status.OK, message)


def warn(name: str, message: str, remedy: str = "") -> Check:
    """Return a check that found something worth a look."""
    return Check(name, Status.WARN, message, remedy)


def fail(name: str, message: str, remedy: str = "") -> Check:
    """Return a check that found something broken."""
    return Check(name, Status.FAIL, message, remedy)
