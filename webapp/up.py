"""`forgepool up`: the whole engine on one machine. Parts start in order, are kept running, and stop in order."""

import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import FrameType
from typing import IO

import httpx
import structlog

from pool import migrate
from pool.errors import ConfigError, ForgepoolError
from pool.store import Store
from tasks import embedded
from tasks.processes import Child, Supervisor
from tasks.settings import CONFIG_ENV, Settings

log = structlog.get_logger(__name__)

BROKER_S = 10.0  #: for the embedded broker to answer
BROKER_STOP_S = 10.0
TAIL_LINES = 15  #: of a failed part's log, in the message
WEB_S = 60.0  #: for the web app to answer, on a machine under load
WEB_STOP_S = 15.0
FLEET_MARGIN_S = 30.0  #: beyond drain_s and the longest grace, for the fleet's own bookkeeping


class House(AbstractContextManager["House"]):
    """Everything that `forgepool up` runs: broker, database, fleet, web app, Flower."""

    def __init__(self, settings: Settings, *, environ: Mapping[str, str] | None = None) -> None:
        """Bind the addresses at once, so that a taken one is told before anything has started.

        environ: what the parts inherit; None: this process's own environment.
        """
        self._settings = settings
        self._environ = os.environ if environ is None else environ
        self._supervisor = Supervisor()
        self._stack = ExitStack()
        self._signals = 0
        self._web = self._stack.enter_context(_listen("service.listen", settings.service.listen))
        self._flower_address = _free_address(settings.service.flower_listen)

    @property
    def web_url(self) -> str:
        """Where the web app answers."""
        host, port = self._web.getsockname()[:2]
        return f"http://{host}:{port}"

    @property
    def flower_url(self) -> str | None:
        """Where Flower answers; None when it is turned off."""
        return f"http://{self._flower_address}" if self._flower_address else None

    def start(self) -> None:
        """Start every part; return when broker, database and web app are ready. Workers may take a moment longer."""
        self._stack.enter_context(OnlyOne(self._settings.state_dir))
        if self._settings.is_embedded_broker:
            self._outlive_an_orphan()
            self._add("broker", embedded.command(self._settings))
            self._wait_for("broker", lambda: embedded.is_up(self._settings), BROKER_S)
        self._prepare_database()
        self._add("web", web_command(f"fd://{self._web.fileno()}"), pass_fds=(self._web.fileno(),))
        # The kernel takes connections from here on, but nobody answers yet, and the forge waits five seconds only.
        self._wait_for("web", self._web_answers, WEB_S)
        self._add("fleet", [sys.executable, "-m", "webapp.cli", "fleet"])
        if self._flower_address:
            self._add("flower", flower_command(self._flower_address), FLOWER_BASIC_AUTH=self.flower_login)

    @property
    def flower_login(self) -> str:
        """User and password of Flower."""
        return f"forgepool:{self._settings.flower_password()}"

    def run(self) -> None:
        """Keep the parts running until SIGINT or SIGTERM."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        while not self._signals:
            self._supervisor.tend()
            time.sleep(0.1)

    def tend(self) -> None:
        """Restart what has crashed."""
        self._supervisor.tend()

    def drain(self) -> None:
        """Take nothing new, let the running tasks end within drain_s, stop the rest. A second signal hurries."""
        service = self._settings.service
        grace_s = max((t.grace_s for t in self._settings.types.values()), default=0.0)
        if "flower" in self._supervisor.children:
            self._supervisor.ask_to_end("flower")  # it takes its time, and nobody waits for it
        self._stop("web", within_s=WEB_STOP_S)
        seen = self._signals
        if "fleet" in self._supervisor.children:
            self._supervisor.ask_to_end("fleet")
            deadline = time.monotonic() + service.drain_s + grace_s + FLEET_MARGIN_S
            while self._supervisor.children["fleet"].is_running and time.monotonic() < deadline:
                if self._signals > seen:
                    seen = self._signals
                    self._supervisor.ask_to_end("fleet")
                time.sleep(0.05)
            self._stop("fleet", within_s=1.0)
        self._stop("flower", within_s=BROKER_STOP_S)
        self._stop("broker", within_s=BROKER_STOP_S)

    def __exit__(self, *_: object) -> None:
        """Leave nothing running, whatever happened."""
        try:
            self.drain()
        finally:
            self._stack.close()

    def _outlive_an_orphan(self) -> None:
        """Wait for the broker of an engine that was killed: it has been asked to end with it."""
        deadline = time.monotonic() + BROKER_STOP_S
        while embedded.is_up(self._settings):
            if time.monotonic() >= deadline:
                raise ForgepoolError(f"another server answers at {self._settings.broker_socket}; stop it first")
            time.sleep(0.05)

    def _wait_for(self, name: str, answers: Callable[[], bool], within_s: float) -> None:
        """Wait until a part answers. Raises ForgepoolError with the end of its log when it ends or stays silent."""
        deadline = time.monotonic() + within_s
        while not answers():
            child = self._supervisor.children[name]
            if child.is_running and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            how = f"did not answer within {within_s:.0f} s" if child.is_running else "ended at once"
            path = child.log_path or Path(os.devnull)
            raise ForgepoolError(f"{name} {how}. The end of {path}:\n{_tail(path)}")

    def _web_answers(self) -> bool:
        try:
            return httpx.get(f"{self.web_url}/healthz", timeout=1).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _stop(self, name: str, *, within_s: float) -> None:
        if name in self._supervisor.children:
            self._supervisor.stop([name], within_s=within_s)

    def _add(self, name: str, argv: list[str], *, pass_fds: tuple[int, ...] = (), **env: str) -> None:
        logs = self._settings.state_dir / "logs"
        environ = {**self._environ, CONFIG_ENV: str(self._settings.path), **env}
        self._supervisor.add(Child(name, argv, environ, log_path=logs / f"{name}.log", pass_fds=pass_fds))

    def _prepare_database(self) -> None:
        store = Store.open(self._settings.database_url)
        try:
            before, after = migrate.upgrade(store.engine)
            if before != after:
                log.info("database upgraded", before=before, after=after)
            with store.writing() as tx:
                seeded = tx.seed(self._settings.types)
            if seeded:
                log.info("instances added", names=seeded)
        finally:
            store.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._signals += 1


def run(settings: Settings, *, echo: Callable[[str], None]) -> int:
    """Run the engine in the foreground until Ctrl-C; return the exit status."""
    settings.webhook_secret()
    with House(settings) as house:
        house.start()
        for line in summary(settings, house):
            echo(line)
        house.run()
        echo(f"Draining: running tasks have {settings.service.drain_s:g} s; Ctrl-C again to stop their agents now.")
    echo("Stopped.")
    return 0


def summary(settings: Settings, house: House) -> list[str]:
    """Tell a person where everything is."""
    lines = [
        f"Webhooks   POST {house.web_url}/webhooks/forgejo",
        f"State      {settings.state_dir}",
    ]
    if house.flower_url:
        where = settings.service.flower_password_file or settings.state_dir / "secrets" / "flower-password"
        lines.append(f"Flower     {house.flower_url} (user forgepool, password in {where})")
    return [*lines, "Ctrl-C drains and stops."]


def web_command(bind: str) -> list[str]:
    """Return the command line of the web app."""
    return [
        *(sys.executable, "-m", "gunicorn", "webapp.app:create_app()", "--bind", bind),
        # Threads, so that a slow sender holds up nobody but himself; two processes, so that one may be restarted.
        *("--worker-class", "gthread", "--workers", "2", "--threads", "8"),
        *("--graceful-timeout", "10", "--no-control-socket", "--name", "forgepool-web"),
    ]


def flower_command(address: str) -> list[str]:
    """Return the command line of Flower. Its login comes by the environment, where `ps` does not show it."""
    host, _, port = address.rpartition(":")
    return [sys.executable, "-m", "celery", "-A", "tasks", "flower", f"--address={host}", f"--port={port}"]


def _listen(key: str, address: str) -> socket.socket:
    host, port = _parts(key, address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
        listener.set_inheritable(True)
    except OSError as error:
        listener.close()
        raise ConfigError(
            [f"{key} = {address!r}: cannot listen there ({error.strerror}); choose another port"]
        ) from None
    return listener


def _free_address(address: str) -> str | None:
    """Return the address with a port; a port of 0 becomes a free one. Flower cannot be handed a socket."""
    if not address:
        return None
    with _listen("service.flower_listen", address) as listener:
        host, port = listener.getsockname()[:2]
    return f"{host}:{port}"


def _parts(key: str, address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not 0 <= int(port) <= 65535:  # noqa: PLR2004 - the ports there are
        raise ConfigError([f"{key} = {address!r}: there is no port {port}; use 1 to 65535"])
    return host.strip("[]"), int(port)


class OnlyOne(AbstractContextManager[IO[str]]):
    """A lock on the state folder: two engines on one folder would fight over its broker and its workers."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = (folder / "up.lock").open("a+", encoding="ascii")

    def __enter__(self) -> IO[str]:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise ForgepoolError(
                f"another `forgepool up` (pid {holder}) uses this state folder; stop it first"
            ) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _tail(path: Path) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(lines[-TAIL_LINES:])
