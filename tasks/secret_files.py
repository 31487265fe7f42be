"""Secrets: made once, read from private files, and kept out of what people see."""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from pool.errors import ConfigError

#: What stands where a secret would.
HIDDEN = "***"

#: Up to the last "@": an unquoted password may hold "/", "#", "?" and "@" itself.
_PASSWORD = re.compile(r"(://[^:/@\s]*):.*@", re.DOTALL)
#: Forges take a bare token as the user of an http address.
_TOKEN = re.compile(r"(https?://)[^:/@\s]+@")
_IN_QUERY = re.compile(r"([?&;][^=&;#\s]*(?:pass|secret|token|key)[^=&;#\s]*=)[^&;#\s]*", re.IGNORECASE)


def make_secret(path: Path) -> None:
    """Put a random secret into a private file, unless there is one already."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Written aside and linked, so that no reader ever sees half of it and of two makers one wins.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(secrets.token_urlsafe(32) + "\n", encoding="ascii")
    with suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


def read_secret(path: Path, key: str) -> str:
    """Return what a file holds, without the white space around it. Raises ConfigError that names `key`."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{key} = {str(path)!r}: cannot be read ({type(error).__name__}); create it"]) from None
    if not text:
        raise ConfigError([f"{key} = {str(path)!r}: is empty; put a long random text into it"])
    return text


def redacted(text: str) -> str:
    """Return a text, most often a URL, without the passwords and tokens of the URLs in it."""
    text = _PASSWORD.sub(rf"\1:{HIDDEN}@", text)
    text = _TOKEN.sub(rf"\1{HIDDEN}@", text)
    return _IN_QUERY.sub(rf"\1{HIDDEN}", text)
