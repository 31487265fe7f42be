"""What an agent may see of the service's environment: an allow-list. Pure: no I/O."""

import re
from collections.abc import Iterable, Mapping

from pool.errors import BadInput

#: What any program needs to run, to print text and to reach the network. A trailing `*` stands for any ending.
ALWAYS = (
    *("PATH", "HOME", "LANG", "LC_*", "TERM", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
#: Not handed on even where the allow-list names it: the service's own settings and its ways to broker and database.
NEVER = ("FORGEPOOL_*", "CELERY*", "FLOWER*", "BROKER_*", "DATABASE_URL", "PGPASSWORD", "PGPASSFILE")

_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?")


def check_allowed(field_name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return `names` if each is a variable's name or the beginning of one with `*`, else raise BadInput.

    A lone `*` is refused: it would hand on every secret of the service.
    """
    names = tuple(names)
    for name in names:
        if not _PATTERN.fullmatch(name):
            raise BadInput(field_name, name, "name one variable, or the beginning of names with * at the end (AWS_*)")
    return names


def agent_environment(
    base: Mapping[str, str], *, allow: Iterable[str] = (), extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the whole environment of an agent: what is allowed of `base`, then `extra` over it.

    allow: exact names, or beginnings with `*` at the end, beside ALWAYS. NEVER goes before.
    extra: set whatever the lists say; this is how a task's own FORGEPOOL_* values get in.
    Raises BadInput when an entry of `allow` is no such name.
    """
    patterns = (*ALWAYS, *check_allowed("env_allow", allow))
    passed = {name: value for name, value in base.items() if _fits(name, patterns) and not _fits(name, NEVER)}
    return {**passed, **(extra or {})}


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(name == p or (p.endswith("*") and name.startswith(p[:-1])) for p in patterns)
