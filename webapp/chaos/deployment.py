"""A throw-away deployment that may be killed: its folder, its parts, its forge, its work, and what it knows."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self, TypeVar

import httpx
from kombu.connection import Connection

from pool import migrate
from pool.crashpoints import CRASH_AT, Point
from pool.errors import BadInput, ForgepoolError
from pool.states import LIVE, Verdict
from pool.store import Store, utc_now
from tasks.settings import SOCKET_PATH_BYTES, Settings
from webapp.chaos.evidence import Request, Row, Run, Trace, read_tasks
from webapp.chaos.sender import Persistent, Posted
from webapp.standin.tracker import Tracker
from webapp.up import House

REPO = "acme/widgets"
#: Names of their own: a broker that others use too must not be disturbed.
INSTANCES = {"chaos-alpha": "dev", "chaos-bravo": "dev", "chaos-reviewer": "reviewer"}
RUN_LEASE_S = 2.0
WHOLE_S = 90.0  #: for every part to be back, on a machine under load
PAUSE_S = 0.01
MANY = 1_000_000  #: more rows than there are

CONFIG = """\
# Written by `forgepool chaos`.
[service]
forge_url = "http://127.0.0.1:1"
git_url = "file://{folder}/forge/{{repo}}.git"
webhook_secret_file = "webhook-secret"
repos = ["{repo}"]
state_dir = "state"
listen = "127.0.0.1:0"
flower_listen = ""
worker_lease_s = 2
run_lease_s = {run_lease_s:g}
reconcile_s = 0.3
drain_s = 5
max_interruptions = 5
"""

TYPE = """
[types.{name}]
forge_user = "{name}"
git_name = "{name}"
git_email = "{name}@example.org"
grace_s = 1
command = ['{python}', '-m', 'webapp.chaos.agent']
pass_env = ["CHAOS_*"]
"""

T = TypeVar("T")


class Deployment(AbstractContextManager["Deployment"]):
    """One state folder. Its parts may be started and stopped several times; what it remembers stays."""

    def __init__(
        self, folder: Path, *, run_lease_s: float = RUN_LEASE_S, broker_url: str = "", database_url: str = ""
    ) -> None:
        """folder: empty. broker_url, database_url: None of ours; empty: the embedded ones."""
        self.folder = folder
        self.trace_path = folder / "trace"
        self._trace, self._read = Trace(), 0  #: and how many bytes of the file it has seen
        self.points = folder / "points"
        self.stay = folder / "stay"  #: while it is there, agents do not end by themselves
        self.tmp = folder / "tmp"
        for made in (self.points, self.tmp):
            made.mkdir()
        self._environ = _environment(folder, broker_url, database_url)
        self._outer = dict(os.environ), tempfile.tempdir
        _become(self._environ, str(self.tmp))
        self.forge = Tracker(folder / "forge", secret=b"chaos-secret")
        self.settings = _configure(folder, self.forge, run_lease_s)
        _check_place(self.settings)
        self.store = Store.open(self.settings.database_url)
        self.sender = Persistent(secret=self.forge.sender.secret, url=lambda: f"{self.url}/webhooks/forgejo")
        self.house: House | None = None
        self.url = "http://127.0.0.1:1"

    def __enter__(self) -> Self:
        """Make the database ready. Raises BadInput when it is somebody's."""
        before, _ = migrate.upgrade(self.store.engine)
        with self.store.writing() as tx:
            if before is not None and (tx.list_instances() or tx.list_tasks(limit=1)):
                remedy = "give an empty database: what is in this one would be disturbed"
                raise BadInput("CHAOS_DATABASE_URL", "(hidden)", remedy)
            for name, type_name in INSTANCES.items():
                tx.add_instance(name, type_name)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        self.let_go()
        self.sender.close()
        self.stop()
        self.store.close()
        _become(*self._outer)

    # --- its parts ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start every part and wait until all of them serve."""
        self.house = House(self.settings, environ=self._environ)
        self.url = self.house.web_url
        self.house.start()
        self.wait_until(self.is_whole, WHOLE_S, "every part to serve")

    def stop(self) -> None:
        """Stop every part, as Ctrl-C does."""
        if self.house is not None:
            house, self.house = self.house, None
            house.__exit__(None, None, None)

    def tend(self) -> None:
        """Restart what has ended, as `forgepool up` does."""
        if self.house is not None:
            self.house.tend()

    def wait_until(self, condition: Callable[[], T | None], within_s: float, what: str) -> T:
        """Return the first true value of `condition`, tending the parts meanwhile. Raises ForgepoolError."""
        deadline = time.monotonic() + within_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise ForgepoolError(f"waited {within_s:.0f} s in vain for {what}")
            self.tend()
            time.sleep(PAUSE_S)
        return value

    def is_whole(self) -> bool:
        """Tell whether the web app answers and every instance has its worker."""
        with self.store.reading() as tx:
            rows = tx.list_instances()
        if not all(row.worker_until is not None and row.worker_until > utc_now() for row in rows):
            return False
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def holders(self) -> dict[str, str]:
        """Return who holds each instance's worker lease, in the words of the worker."""
        with self.store.reading() as tx:
            return {row.name: row.worker or "" for row in tx.list_instances()}

    def empty_queues(self) -> None:
        """Drop every message that waits in the broker, as FLUSHALL or a purge would."""
        with Connection(self.settings.broker_url) as connection:  # type: ignore[no-untyped-call] # kombu has no annotations
            for name in INSTANCES:
                connection.default_channel.queue_purge(name)

    # --- crash points -------------------------------------------------------------------------

    def hold(self, point: Point) -> None:
        """Have the next process that comes to a point wait there."""
        self.let_go()
        for left in self.points.iterdir():
            left.unlink()
        (self.points / f"{point}.hold").touch()

    def reached(self, point: Point) -> int | None:
        """Return the process that waits at a point."""
        path = self.points / f"{point}.reached"
        return int(path.read_text(encoding="ascii")) if path.exists() else None

    def go(self, point: Point) -> None:
        """Let whoever waits at a point go on."""
        (self.points / f"{point}.go").touch()

    def let_go(self) -> None:
        """Disarm every point, let everybody go on, and agents end."""
        for point in Point:
            (self.points / f"{point}.hold").unlink(missing_ok=True)
            self.go(point)
        self.stay.unlink(missing_ok=True)

    # --- work ---------------------------------------------------------------------------------

    def send(self, type_name: str) -> Posted:
        """Open an issue that is assigned to a type; its delivery is on its way when this returns."""
        number = self.forge.create_issue(REPO, "Change something", assignees=(type_name,))
        sent = next(s for s in reversed(self.forge.deliveries) if s.event_type == "issue_assign")
        return self.sender.post(number, sent)

    def is_quiet(self) -> bool:
        """Tell whether all that was sent is accepted, and nothing waits or runs."""
        if not self.sender.is_idle:
            return False
        with self.store.reading() as tx:
            return not tx.list_tasks(states=LIVE, limit=1)

    def requests(self) -> list[Request]:
        """Return what was sent."""
        with self.store.reading() as tx:
            receipts = tx.list_deliveries(verdict=Verdict.ACCEPTED, limit=MANY)
        ids = [receipt.delivery_id for receipt in receipts]
        return [posted.request(ids.count(posted.sent.uuid)) for posted in self.sender.posted]

    def rows(self) -> list[Row]:
        """Return every task."""
        with self.store.reading() as tx:
            return read_tasks(tx.list_tasks(limit=MANY, newest_first=False))

    def runs(self) -> list[Run]:
        """Return every run that an agent wrote down."""
        if self.trace_path.exists():
            with self.trace_path.open("rb") as file:
                file.seek(self._read)
                *lines, rest = file.read().decode("ascii").split("\n")
                self._read = file.tell() - len(rest)
            self._trace.add(lines)
        return self._trace.runs


def _environment(folder: Path, broker_url: str, database_url: str) -> dict[str, str]:
    """Return the environment of every part: nothing of a deployment that this shell is configured for."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FORGEPOOL_")}
    environ |= {
        CRASH_AT: str(folder / "points"),
        "CHAOS_TRACE": str(folder / "trace"),
        "CHAOS_STAY": str(folder / "stay"),
        # What a killed part leaves behind is looked for here.
        "TMPDIR": str(folder / "tmp"),
    }
    given = {"FORGEPOOL_BROKER_URL": broker_url, "FORGEPOOL_DATABASE_URL": database_url}
    return environ | {name: value for name, value in given.items() if value}


def _become(environ: Mapping[str, str], tmp: str | None) -> None:
    """Take an environment for this process too: settings are read, and the broker's folder is found, from it."""
    os.environ.clear()
    os.environ.update(environ)
    tempfile.tempdir = tmp


def _configure(folder: Path, forge: Tracker, run_lease_s: float) -> Settings:
    """Make the repository and the configuration."""
    forge.create_user("maya")
    text = CONFIG.format(repo=REPO, folder=folder, run_lease_s=run_lease_s)
    for name in sorted(set(INSTANCES.values())):
        forge.create_user(name)
        text += TYPE.format(name=name, python=sys.executable)
    forge.create_repo(REPO)
    (folder / "webhook-secret").write_bytes(forge.sender.secret)
    config = folder / "forgepool.toml"
    config.write_text(text, encoding="utf-8")
    return Settings.load(config)


def _check_place(settings: Settings) -> None:
    if settings.is_embedded_broker and len(os.fsencode(settings.broker_socket)) > SOCKET_PATH_BYTES:
        raise BadInput("--state-dir", str(settings.path.parent), "choose a folder with a shorter path")
