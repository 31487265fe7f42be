"""What a stopped deployment has left behind: processes of ours, and files that do not belong. Reads only."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from webapp.chaos.evidence import Ill, Wrong

#: What a stopped deployment consists of, relative to its folder; everything else has leaked.
BELONGS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(forgepool\.toml|webhook-secret|trace|stay)",
        r"(points|forge)/.+",
        r"state/forgepool\.db",
        r"state/up\.lock",
        r"state/secrets/[a-z-]+",
        r"state/logs/(workers/)?[a-z-]+\.log",
        r"state/logs/tasks/\d+\.log",
        r"state/valkey/appendonlydir/appendonly\.aof(\.\d+\.(base\.rdb|incr\.aof)|\.manifest)",
        r"state/runs/\d+/(prompt\.md|result\.json)",
        r"state/checkouts/\.forgepool/askpass",
        # The next one to wait for a turn takes away the ticket of one who was killed.
        r"state/checkouts/\.forgepool/mirrors/\.turns/acme/widgets/(door|\d{12})",
        r"state/checkouts/\.forgepool/mirrors/acme/widgets\.git/(?!.*(\.lock|/tmp_[^/]*)$).+",
        r"state/checkouts/[a-z-]+/acme/widgets/(?!\.git/).+",
        r"state/checkouts/[a-z-]+/acme/widgets/\.git/(?!.*(\.lock|/tmp_[^/]*|forgepool-unready)$).+",
    )
)


def processes(folder: Path) -> list[Wrong]:
    """Find processes that name the folder in their command line or environment, other than this one's own line."""
    mark = os.fsencode(folder)
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    wrongs = []
    for process in psutil.process_iter():
        if process.pid in own:
            continue
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.status() == psutil.STATUS_ZOMBIE and process.ppid() != os.getpid():
                continue  # somebody else's child, who has yet to look at it
            line = " ".join(process.cmdline())
            about = "\n".join([line, *(f"{k}={v}" for k, v in process.environ().items())])
            if mark in os.fsencode(about):
                what = f"process {process.pid} is left over: {line[:200]}"
                wrongs.append(Wrong(ill=Ill.LEFT_OVER, sentence=what))
    return wrongs


def files(folder: Path) -> list[Wrong]:
    """Find files, sockets and pipes that do not belong."""
    return [
        Wrong(ill=Ill.LEFT_OVER, sentence=f"file {name} is left over")
        for name in _names(folder)
        if not any(pattern.fullmatch(name) for pattern in BELONGS)
    ]


def _names(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        # Also an empty folder below tmp: whoever made it should have removed it.
        if path.is_symlink() or not path.is_dir() or path.parent == folder / "tmp":
            yield path.relative_to(folder).as_posix()
