"""The clients of one deployment, one for each type that has a token. Reads token files."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx

from pool.errors import ConfigError, NotAllowed
from tasks.forge import Forge
from tasks.forge_http import Pace, never
from tasks.secret_files import read_secret
from tasks.settings import Settings

__all__ = ["Forges", "Pace"]


class Forges:
    """The clients of one deployment, one for each type that has a token. A context manager."""

    def __init__(
        self,
        settings: Settings,
        *,
        pace: Pace | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        is_unwanted: Callable[[], bool] = never,
    ) -> None:
        """Ask nothing yet."""
        self._settings = settings
        self._pace = pace or Pace(settings.service.forge_rate)
        self._options: dict[str, Any] = {"transport": transport, "sleep": sleep, "is_unwanted": is_unwanted}
        self._known: dict[str, tuple[tuple[int, ...], Forge]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of(self, type_name: str) -> Forge | None:
        """Return the client of a type; None: it has no token. Raises ForgeError when its token cannot be read."""
        kind = self._settings.types.get(type_name)
        if kind is None or kind.token_file is None:
            return None
        # Before the reading: a file that changes meanwhile is read again.
        changed = _changed_at(kind.token_file)
        with self._lock:
            known = self._known.get(type_name)
            if known is None or known[0] != changed:
                key = f"types.{type_name}.token_file"
                known = (changed, self._with_token(known[1] if known else None, kind.token_file, key))
                self._known[type_name] = known
            return known[1]

    def _with_token(self, forge: Forge | None, path: Path, key: str) -> Forge:
        """Make a client, or give the token to the one that may be in somebody's hands."""
        try:
            token = read_secret(path, key)
            if forge is None:
                return Forge(self._settings.service.forge_url, token=token, pace=self._pace, **self._options)
            forge.renew(token)
        except ConfigError as error:
            raise NotAllowed("; ".join(error.problems)) from None
        except NotAllowed as error:
            raise NotAllowed(f"{key} = {str(path)!r}: {error}") from None
        return forge

    def main(self) -> Forge | None:
        """Return the client of the account that reads, reports and asks; None: it has no token."""
        return self.of(self._settings.report_type)

    def close(self) -> None:
        """Close all connections."""
        for _, forge in self._known.values():
            forge.close()
        self._known.clear()


def _changed_at(path: Path) -> tuple[int, ...]:
    """Return what changes with the file: a new one may have the time of the old."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
