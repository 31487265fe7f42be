"""Answers git's question for a login or a password. Touches one token file; run as a program of its own.

Standard library only and no import from this project: it is started by path, with `python -I`.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

#: As git words it (credential.c, credential_ask_one); never translated.
_QUESTION = re.compile(r"(?P<what>Username|Password) for '(?P<scheme>[a-z]+)://(?:.*@)?(?P<host>[^@/']+)(?:/.*)?': ?")


def answer(question: str, environment: Mapping[str, str]) -> str | None:
    """Return what git asks for, or None when it is not for us to tell.

    A redirect or another remote makes git ask on behalf of another host, and that host must not get the token.
    """
    match = _QUESTION.fullmatch(question)
    if match is None or f"{match['scheme']}://{match['host']}".lower() != environment.get("ASKPASS_HOST"):
        return None
    if match["what"] == "Username":
        return environment.get("FORGEPOOL_LOGIN")
    file = environment.get("FORGEPOOL_TOKEN_FILE")
    return Path(file).read_text(encoding="utf-8").strip() if file else None


def main() -> int:
    """Print the answer to the question in the first argument; exit 1 without one."""
    found = answer(sys.argv[1] if len(sys.argv) > 1 else "", os.environ)
    if found is None:
        return 1
    sys.stdout.write(f"{found}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
