"""A deployment without processes: store, settings and doorbell, and clocks that stand still until a test moves them."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from pool.store import Store
from tasks.engine import Engine
from tasks.reconcile import Done, Reconciler
from tasks.settings import Settings
from tests.helpers.clock import Clock
from tests.helpers.config import write_config
from tests.helpers.fakes import FakeBell
from tests.helpers.stores import open_fast, template

LEASE_S = 60.0
DAY_S = 86400.0
HOST = "here"


class Yard:
    """One deployment. Close it, so that none of its processes stays."""

    def __init__(self, folder: Path, **service: Any) -> None:
        self.folder = folder
        self.clock = Clock()
        self.monotonic = 1000.0
        self.settings = Settings.load(write_config(folder, host=HOST, **service))
        self.state = self.settings.state_dir
        self.state.mkdir()
        (self.state / "forgepool.db").write_bytes(template())
        self.store: Store = open_fast(self.state / "forgepool.db", self.clock)
        self.bell = FakeBell()
        self.engine = Engine(self.settings, self.store, self.bell)
        self._processes: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        """End what was started."""
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.store.close()

    def reconciler(self, host: str = HOST, *, store: Store | None = None) -> Reconciler:
        """Return a reconciler, of another host or with a store of its own if need be."""
        service = self.settings.service.model_copy(update={"host": host})
        settings = self.settings.model_copy(update={"service": service})
        return Reconciler(
            replace(self.engine, settings=settings, store=store or self.store), monotonic=lambda: self.monotonic
        )

    def another_store(self) -> Store:
        """Open the database once more, as another process would."""
        return open_fast(self.state / "forgepool.db", self.clock)

    def by_hand(self, name: str, *, dry_run: bool = False) -> Done:
        """Make one repair, as the command line does."""
        (done,) = self.reconciler().round([name], by_hand=True, dry_run=dry_run)
        assert done.error is None
        return done

    def wait(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.clock.advance(seconds)
        self.monotonic += seconds

    def old(self, path: Path, *, days: float = 40.0) -> Path:
        """Make a file or a folder, and everything in it, so old."""
        then = self.clock.now.timestamp() - days * DAY_S
        for each in (*path.rglob("*"), path):
            os.utime(each, (then, then), follow_symlinks=False)
        return path

    def agent(self, task: int, *, state: Path | None = None, **environ: str) -> psutil.Process:
        """Start a process that looks as if it were the agent of a task, in a session of its own."""
        about = {
            "FORGEPOOL_TASK_ID": str(task),
            "FORGEPOOL_RESULT_FILE": str((state or self.state) / "runs" / str(task) / "result.json"),
        }
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"],
            env={**about, **environ},
            start_new_session=True,
        )
        self._processes.append(process)
        return psutil.Process(process.pid)


def is_over(process: psutil.Process) -> bool:
    """Tell whether a process has ended, reaped or not."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def snapshot(folder: Path, store: Store) -> dict[str, Any]:
    """Return everything that a deployment consists of: every row, and every file with its content and its times."""
    files = {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
        if not path.name.startswith("forgepool.db")
    }
    with store.reading() as tx:
        connection = tx.connection.connection.driver_connection
        assert connection is not None
        return {"files": files, "rows": list(connection.iterdump())}
