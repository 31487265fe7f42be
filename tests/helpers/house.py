"""A whole deployment in a temporary folder: real broker, real database, real git, real worker processes.

Which broker and which database: tests/helpers/brokers.py and tests/helpers/databases.py.
"""

import importlib.util
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
from celery import Celery

from pool import migrate
from pool.model import Kind, Request, Task
from pool.states import State
from pool.store import Store, utc_now
from tasks.dispatch import dispatch_by_type
from tasks.doorbell import CeleryBell
from tasks.engine import Doorbell, Engine
from tasks.settings import CONFIG_ENV, Settings
from tests.helpers import brokers
from tests.helpers.databases import Database
from tests.helpers.waiting import wait_until

SECRET = "a-secret-for-tests"
PYTHON = sys.executable

#: Appends a line to a file in one write: what tells afterwards what ran when, independent of our own records.
TRACE = """
import os, sys, pathlib
path, word = sys.argv[1:3]
with open(path, "ab", 0) as file:
    file.write(f"{word} {os.environ['FORGEPOOL_INSTANCE']} {os.environ['FORGEPOOL_TASK_ID']}\\n".encode())
"""

CONFIG = """
[service]
forge_url = "http://127.0.0.1:1"
git_url = "{git_url}"
webhook_secret_file = "secret"
repos = ["acme/widgets"]
state_dir = "state"
listen = "127.0.0.1:0"
flower_listen = "{flower}"
broker_url = "{broker_url}"
database_url = "{database_url}"
reconcile_s = 0.2
worker_lease_s = {worker_lease_s}
run_lease_s = {run_lease_s}
drain_s = {drain_s}
max_interruptions = {max_interruptions}
"""

TYPE = """
[types.{name}]
forge_user = "{name}"
git_name = "{name}"
git_email = "{name}@example.org"
grace_s = {grace_s}
silence_limit_s = {silence_limit_s}
command = {command}
"""


def test_agent(*verbs: str) -> list[str]:
    """Return the command line of the scripted agent; without verbs it takes them from the prompt."""
    return [PYTHON, "-m", "tasks.testagent", *(verbs or ("from-prompt",))]


class House:
    """One deployment. A context manager: nothing of it survives its block."""

    def __init__(self, folder: Path, *, command: Sequence[str] | None = None, **settings: Any) -> None:
        self.folder = folder
        self.config = folder / "forgepool.toml"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.broker = brokers.make(folder)
        self.database = Database()
        values = {
            "broker_url": self.broker.url,
            "database_url": self.database.url,
            "git_url": f"file://{folder}/forge/{{repo}}.git",
            "worker_lease_s": 30,
            "run_lease_s": 60,
            "drain_s": 20,
            "max_interruptions": 3,
            "flower": "",
            "grace_s": 1.0,
            "silence_limit_s": 600,
        }
        values |= settings
        words = "[" + ", ".join(f"'{word}'" for word in (command or test_agent())) + "]"
        text = CONFIG.format(folder=folder, **values)
        text += "".join(TYPE.format(name=n, command=words, **values) for n in ("dev", "reviewer", "boss"))
        self.config.write_text(text, encoding="utf-8")
        (folder / "secret").write_text(SECRET, encoding="utf-8")
        _make_repo(folder / "forge" / "acme" / "widgets.git", folder / "seed")
        self.settings = Settings.load(self.config)
        self.store = Store.open(self.settings.database_url)
        migrate.upgrade(self.store.engine)
        self.app = celery_app(self.config)
        self.engine = Engine(self.settings, self.store, CeleryBell(self.app))

    def __enter__(self) -> Self:
        self.start_broker()
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:  # whatever fails, the rest is done
            stack.callback(self.database.close)
            stack.callback(self.broker.close)
            stack.callback(self.store.close)
            stack.callback(self.app.close)
            for process in self._processes:
                stack.callback(_end_tree, process)

    # --- parts --------------------------------------------------------------------------------

    def start_broker(self) -> None:
        """Start the broker with what it kept, and wait until it answers."""
        self.broker.start(self.settings)

    def kill_broker(self) -> None:
        """Kill the broker with -9."""
        self.broker.kill()

    def empty_broker(self) -> None:
        """Let the broker lose every message and every queue."""
        self.broker.empty()

    def add(self, *names: str, type_name: str = "dev", **overrides: Any) -> None:
        """Add instances."""
        with self.store.writing() as tx:
            for name in names:
                tx.add_instance(name, type_name, **overrides)

    def start_worker(self, name: str, *, ready: bool = True) -> subprocess.Popen[bytes]:
        """Start the plain Celery worker of an instance, as the README says it."""
        log, said = f"worker-{name}.log", "worker ready"
        (self.folder / log).touch()
        before = self.read(log).count(said)
        argv = [PYTHON, *f"-m celery -A tasks worker -Q {name} -n {name}@%h -c 1".split()]
        worker = self.start(argv, log=log)
        if ready:
            wait_until(lambda: self.read(log).count(said) > before or worker.poll() is not None, 30)
            assert worker.poll() is None, self.read(log)
        return worker

    def serves(self, name: str) -> bool:
        """Tell whether a live worker holds the lease of an instance."""
        with self.store.reading() as tx:
            until = tx.instance(name).worker_until
        return until is not None and until > utc_now()

    def start(self, argv: Sequence[str], *, log: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a program of this deployment in a session of its own."""
        with (self.folder / log).open("ab") as out:
            process = subprocess.Popen(
                list(argv), env=self.environ(**env), stdout=out, stderr=out, cwd=self.folder, start_new_session=True
            )
        self._processes.append(process)
        return process

    def environ(self, **env: str) -> Mapping[str, str]:
        """Return the environment of this deployment's programs."""
        return {**os.environ, CONFIG_ENV: str(self.config), "PYTHONWARNINGS": "ignore", **env}

    def read(self, name: str) -> str:
        """Return what a program has written."""
        return (self.folder / name).read_text(encoding="utf-8", errors="replace")

    # --- work ---------------------------------------------------------------------------------

    def dispatch(self, number: int, *verbs: str, type_name: str = "dev", bell: Doorbell | None = None) -> int:
        """Queue a task whose agent does what the verbs say."""
        body = f"testagent: {' '.join(verbs)}" if verbs else ""
        request = Request(kind=Kind.CUSTOM, repo="acme/widgets", number=number, body=body)
        engine = Engine(self.settings, self.store, bell) if bell else self.engine
        return dispatch_by_type(engine, type_name, request, by="test")

    def task(self, task: int) -> Task:
        """Read a task."""
        with self.store.reading() as tx:
            return tx.task(task)

    def wait_for(self, task: int, *states: State, timeout_s: float = 30.0) -> Task:
        """Wait until a task is in one of the states; without any, until it has ended."""
        wanted = states or tuple(s for s in State if s.is_final)
        wait_until(lambda: self.task(task).state in wanted, timeout_s)
        return self.task(task)

    def lines(self, name: str) -> list[str]:
        """Return the lines of a file in the folder; none if it does not exist."""
        path = self.folder / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def processes_with(word: str) -> list[psutil.Process]:
    """Return the living processes whose command line holds a word."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if any(word in part for part in line) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def celery_app(config: Path) -> Celery:
    """Return an app that is configured as the programs of a deployment are.

    Read anew: as a module, celeryconfig could be loaded only once in a process.
    """
    found = importlib.util.find_spec("celeryconfig")
    assert found is not None
    assert found.origin is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CONFIG_ENV, str(config))
        values = runpy.run_path(found.origin)
    app = Celery("house")
    app.config_from_object({name: value for name, value in values.items() if name.islower() and name[0] != "_"})
    return app


def _end_tree(process: subprocess.Popen[bytes]) -> None:
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.send_signal(signal.SIGKILL)
    process.kill()
    process.wait()


def _make_repo(bare: Path, seed: Path) -> None:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ("-c", "user.name=seed", "-c", "user.email=seed@example.org")

    def git(*words: str) -> None:
        subprocess.run(["git", *words], check=True, capture_output=True, env=env)

    git("init", "-q", "--bare", "-b", "main", str(bare))
    git("init", "-q", "-b", "main", str(seed))
    git("-C", str(seed), *identity, "commit", "-q", "--allow-empty", "-m", "Begin")
    git("-C", str(seed), "push", "-q", str(bare), "main")
