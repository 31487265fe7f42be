"""Foreign JSON, read one value at a time. Pure: no I/O.

Every reader returns a value that is fit to store and to show, or raises Malformed naming the path of what is not.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

from pool.errors import BadInput, Malformed
from pool.model import Kind, Request, check_repo

MAX_NAME = 255  #: characters of a login or an action
MAX_INT = 2**63 - 1  #: what a database column holds
_SHOWN = 120  #: characters of a wrong value in the message

_T = TypeVar("_T")


def load_object(text: str) -> dict[str, Any]:
    """Return the JSON object in `text`. Raises ValueError, also for a pit of brackets."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is JSON of another kind")  # noqa: TRY004 - one error for everything that is wrong with the text
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def or_none(read: Callable[[], _T]) -> _T | None:
    """Return what `read` reads, or None where it is not what it should be."""
    try:
        return read()
    except Malformed:
        return None


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a payload and the path that leads to it. A missing member reads as null."""

    value: Any
    path: str = ""

    def __getitem__(self, name: str) -> Self:
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return type(self)(self.value.get(name), f"{self.path}.{name}" if self.path else name)

    def find(self, *names: str) -> Self:
        """Follow members as far as there are objects; past that, everything is null."""
        node = self
        for name in names:
            node = node[name] if isinstance(node.value, dict) else type(self)(None, self.path)
        return node

    @property
    def is_null(self) -> bool:
        """Tell whether it is null or missing."""
        return self.value is None

    def wrong(self, wanted: str) -> Malformed:
        """Return the error that says where it stands, what it is and what it should be."""
        # A container may be huge, and too deep to be written.
        shown = "an object or list" if isinstance(self.value, dict | list) else json.dumps(self.value)
        return Malformed(f"{self.path} = {shown[:_SHOWN]}: use {wanted}")

    def items(self) -> list[Self]:
        """Read a list. Go writes an empty one as null."""
        if not isinstance(self.value, list | None):
            raise self.wrong("a list")
        return [type(self)(item, f"{self.path}[{at}]") for at, item in enumerate(self.value or ())]

    def integer(self) -> int:
        """Read a whole number that fits a database column."""
        if not isinstance(self.value, int) or isinstance(self.value, bool) or abs(self.value) > MAX_INT:
            raise self.wrong("a whole number")
        return self.value

    def number(self) -> int:
        """Read the number of an issue or pull request."""
        if (number := self.integer()) < 1:
            raise self.wrong("the number of an issue or pull request, 1 or more")
        return number

    def reference(self) -> int | None:
        """Read the number in text like "#7"; None for any other text."""
        digits = re.fullmatch(r"#([1-9][0-9]{0,17})", self.text(), re.ASCII)
        return int(digits[1]) if digits else None

    def flag(self) -> bool:
        """Read true or false; null is false."""
        if not isinstance(self.value, bool | None):
            raise self.wrong("true or false")
        return bool(self.value)

    def text(self) -> str:
        """Read text, without what PostgreSQL (NUL) and UTF-8 (half a surrogate pair) refuse; null is empty."""
        if not isinstance(self.value, str | None):
            raise self.wrong("text")
        return (self.value or "").replace("\0", "").encode(errors="ignore").decode()

    def name(self) -> str:
        """Read text that is compared: a login, an action. It may be neither empty nor changed by cleaning."""
        value = self.value
        if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > MAX_NAME:
            raise self.wrong(f"1 to {MAX_NAME} printable characters")
        return value

    def login_or_none(self) -> str | None:
        """Read the login of a user; null is None."""
        return None if self.is_null else self["login"].name()

    def one_of(self, *words: str) -> str:
        """Read one of these words."""
        if self.value not in words:
            raise self.wrong(" or ".join(words))
        return str(self.value)

    def url(self) -> str:
        """Read an http(s) address; anything else is empty, since commit statuses carry what people chose."""
        text = self.text()
        return text if text.lower().startswith(("https://", "http://")) else ""

    def time(self) -> datetime | None:
        """Read an RFC 3339 time as aware UTC; null and Go's zero time are None."""
        text = self.text()
        if not text or text.startswith("0001-01-01"):
            return None
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
        except (ValueError, OverflowError):  # not a time; a time whose zone leads out of the calendar
            pass
        raise self.wrong("a time with its zone, as in RFC 3339")

    def repo(self) -> str:
        """Read owner/name."""
        try:
            return check_repo(self.path, self.value)
        except BadInput as error:
            raise self.wrong(error.remedy.removeprefix("use ")) from None

    def branch(self) -> str:
        """Read the name of a branch."""
        return self._fit_for_a_task("branch")

    def sha(self) -> str | None:
        """Read a commit; null and empty are None."""
        return self._fit_for_a_task("head_sha") if self.text() else None

    def _fit_for_a_task(self, field: str) -> str:
        """Ask the task's own rules: what no task can carry must not reach the dispatch rules."""
        text = self.text()
        try:
            Request(kind=Kind.CUSTOM, repo="owner/name", number=1, **{field: text})  # type: ignore[arg-type] # one text field
        except BadInput as error:
            raise self.wrong(error.remedy.removeprefix("use ")) from None
        return text

    def packed(self) -> Self:
        """Read an object that is kept as text; an empty one where that cannot be read."""
        try:
            return type(self)(load_object(self.text()), self.path)
        except (ValueError, Malformed):
            return type(self)({}, self.path)
