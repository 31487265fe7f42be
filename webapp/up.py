"""`forgepool up`: the whole engine on one machine. Parts start in order, are kept running, and stop in order.

SIGHUP makes it become the version that is installed now, without losing anything: see webapp/handover.py.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import FrameType

import httpx
import structlog

from pool import migrate
from pool.errors import ConfigError, ForgepoolError
from pool.store import Store, current_revision
from tasks import embedded
from tasks.processes import Child, Supervisor
from tasks.settings import CONFIG_ENV, Settings
from webapp import handover, serving
from webapp.handover import Kept, OnlyOne

log = structlog.get_logger(__name__)

BROKER_S = 10.0  #: for the embedded broker to answer
BROKER_STOP_S = 10.0
TAIL_LINES = 15  #: of a failed part's log, in the message
WEB_S = 60.0  #: for the web app to answer, on a machine under load
WEB_STOP_S = 15.0
LEAVING_S = 1.0  #: for the old web app to answer what it has taken, before the schema is changed under it
PREFLIGHT_S = 60.0  #: for the installed version to say whether it can start
FLEET_MARGIN_S = 30.0  #: beyond drain_s and the longest grace, for the fleet's own bookkeeping


class House(AbstractContextManager["House"]):
    """Everything that `forgepool up` runs: broker, database, fleet, web app, Flower."""

    def __init__(
        self, settings: Settings, *, environ: Mapping[str, str] | None = None, kept: Kept | None = None
    ) -> None:
        """Bind the addresses at once, so that a taken one is told before anything has started.

        environ: what the parts inherit; None: this process's own environment.
        kept: what the version before has left to this process.
        """
        self._settings = settings
        self._environ = os.environ if environ is None else environ
        self._kept = kept or Kept()
        self._leaving = self._kept.leaving
        self._supervisor = Supervisor()
        self._stack = ExitStack()
        self._signals = 0
        self._hangups = 0
        self._fleet_until = float("inf")
        self._has_terminal = handover.has_terminal()
        self._lock: OnlyOne | None = None
        listen = settings.service.listen
        self._web = self._stack.enter_context(self._kept.socket_for(listen) or _listen("service.listen", listen))
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
        """Start every part; return when broker, database and web app are ready. Workers may take a moment longer.

        Returns early when a signal asks for the end.
        """
        path = self._settings.state_dir / OnlyOne.NAME
        self._lock = self._stack.enter_context(OnlyOne(path, kept=self._kept.lock_for(path)))
        for step in (
            self._start_broker,
            self._prepare_database,
            self._start_web,
            self._start_fleet,
            self._start_flower,
        ):
            if not self._signals:
                step()

    def _start_broker(self) -> None:
        if self._settings.is_embedded_broker:
            self._outlive_an_orphan()
            self._add("broker", embedded.command(self._settings))
            self._wait_for("broker", lambda: embedded.is_up(self._settings), BROKER_S)

    def _start_web(self) -> None:
        self._ready, ready = os.pipe()
        for file in (self._ready, ready):
            self._stack.callback(os.close, file)
        argv, files = web_command(f"fd://{self._web.fileno()}"), (self._web.fileno(), ready)
        self._add("web", argv, pass_fds=files, **{serving.READY_ENV: str(ready)})
        # The kernel takes connections from here on, but nobody answers yet, and the forge waits five seconds only.
        self._wait_for("web", self._web_answers, WEB_S)
        if self._leaving is not None:
            self._leaving.ask()

    def _start_fleet(self) -> None:
        self._add("fleet", [sys.executable, "-m", "webapp.cli", "fleet"])

    def _start_flower(self) -> None:
        if self._flower_address:
            self._add("flower", flower_command(self._flower_address), FLOWER_BASIC_AUTH=self.flower_login)

    @property
    def flower_login(self) -> str:
        """User and password of Flower."""
        return f"forgepool:{self._settings.flower_password()}"

    def heed(self, *numbers: signal.Signals) -> None:
        """Note these signals from now on: SIGHUP as the wish for the installed version, others as that for the end."""
        for number in numbers:
            # Whoever started us with `nohup` wants it ignored.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def run(self) -> bool:
        """Keep the parts running until a signal; tell whether it asks for the installed version, not for the end."""
        self.heed(signal.SIGINT, signal.SIGTERM)
        while not self._signals:
            if self._hangups:
                self._hangups = 0
                if self._has_terminal and not handover.has_terminal():
                    self._signals += 1  # the terminal was closed: that means the end, as ever
                elif why := self._why_not_renew():
                    log.error("reload refused", why=why, remedy="mend it and send SIGHUP again; everything runs on")
                else:
                    return not self._signals
            self.tend()
            time.sleep(0.1)
        return False

    def tend(self) -> None:
        """Restart what has crashed."""
        self._supervisor.tend()
        if self._leaving is not None:
            self._leaving.look()

    def renew(self) -> None:
        """Become the installed version: same process, same socket, same lock. Returns only when asked to end.

        The web app of the version before goes on taking deliveries until that of the new one does. Only when the
        schema changes it has to end before; what comes then waits in the socket's queue until the new one answers.
        """
        self._ask("flower")  # it takes its time
        self._drain_fleet(is_over=lambda: self._signals > 0)
        if self._signals:
            return
        self._stop("flower", within_s=BROKER_STOP_S)
        self._stop("broker", within_s=BROKER_STOP_S)
        # From here on a signal is for the new program.
        signal.pthread_sigmask(signal.SIG_BLOCK, handover.SIGNALS)
        try:
            if not self._signals:
                self._become_anew()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, handover.SIGNALS)

    def _become_anew(self) -> None:
        assert self._lock is not None  # noqa: S101 - start() came first
        web = self._supervisor.children["web"].process
        leaving = None if web is None else web.pid
        listen = self._settings.service.listen
        handover.become_anew(listen=listen, web=self._web, lock=self._lock.file, leaving=leaving)

    def drain(self) -> None:
        """Take nothing new, let the running tasks end within drain_s, stop the rest. A second signal hurries."""
        self._ask("flower")  # it takes its time, and nobody waits for it
        self._stop("web", within_s=WEB_STOP_S)
        if self._leaving is not None:
            self._leaving.ask()
            self._leaving.see_off(within_s=WEB_STOP_S)
        self._drain_fleet(is_over=lambda: False)
        self._stop("flower", within_s=BROKER_STOP_S)
        self._stop("broker", within_s=BROKER_STOP_S)

    def _drain_fleet(self, *, is_over: Callable[[], bool]) -> None:
        """Let the fleet end, while everything else is kept running. Every further signal hurries it."""
        if "fleet" not in self._supervisor.children:
            return
        fleet, seen = self._supervisor.children["fleet"], self._signals
        if fleet.is_wanted:
            self._ask("fleet")
            grace_s = max((t.grace_s for t in self._settings.types.values()), default=0.0)
            self._fleet_until = time.monotonic() + self._settings.service.drain_s + grace_s + FLEET_MARGIN_S
        while fleet.is_running and time.monotonic() < self._fleet_until:
            if is_over():
                return
            if self._signals > seen:
                seen = self._signals
                self._supervisor.ask_to_end("fleet")
            self.tend()
            time.sleep(0.05)
        self._stop("fleet", within_s=1.0)

    def _why_not_renew(self) -> str | None:
        """Ask the installed version whether it could start here; return what is in the way."""
        argv = [sys.executable, "-m", "webapp.preflight"]
        environ = {**self._environ, CONFIG_ENV: str(self._settings.path)}
        deadline = time.monotonic() + PREFLIGHT_S
        with subprocess.Popen(
            argv, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            while not self._signals and time.monotonic() < deadline:
                with suppress(subprocess.TimeoutExpired):
                    _, said = process.communicate(timeout=0.1)
                    return (
                        (said.strip() or f"it ended with status {process.returncode}") if process.returncode else None
                    )
                self.tend()
            process.kill()
        return "it was asked to end" if self._signals else f"no answer within {PREFLIGHT_S:.0f} s"

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
            if self._signals:
                return
            child = self._supervisor.children[name]
            if child.is_running and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            how = f"did not answer within {within_s:.0f} s" if child.is_running else "ended at once"
            path = child.log_path or Path(os.devnull)
            raise ForgepoolError(f"{name} {how}. The end of {path}:\n{_tail(path)}")

    def _web_answers(self) -> bool:
        # On the same socket the web app of the version before may still answer.
        if not select.select([self._ready], [], [], 0)[0]:
            return False
        try:
            return httpx.get(f"{self.web_url}/healthz", timeout=1).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _ask(self, name: str) -> None:
        """Ask a part to end, once: the fleet takes a second time for haste."""
        if name in self._supervisor.children and self._supervisor.children[name].is_wanted:
            self._supervisor.ask_to_end(name)

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
            if self._leaving is not None:
                with store.engine.connect() as connection:
                    is_current = current_revision(connection) == migrate.head()
                if not is_current:
                    self._leaving.ask()
                    self._leaving.see_off(within_s=LEAVING_S)
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
        del frame
        if number == signal.SIGHUP:
            self._hangups += 1
        else:
            self._signals += 1


def run(settings: Settings, *, echo: Callable[[str], None]) -> int:
    """Run the engine in the foreground until Ctrl-C; return the exit status."""

    def tell(line: str) -> None:
        with suppress(OSError):  # the terminal may be gone, and the drain matters more
            echo(line)

    settings.webhook_secret()
    drain_s = settings.service.drain_s
    with House(settings, kept=handover.take(os.environ)) as house:
        house.heed(*handover.SIGNALS)
        house.start()
        for line in summary(settings, house):
            tell(line)
        if house.run():
            tell(f"Reloading: running tasks have {drain_s:g} s, deliveries are taken all the while.")
            house.renew()
        tell(f"Draining: running tasks have {drain_s:g} s; Ctrl-C again to stop their agents now.")
    tell("Stopped.")
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
    return [*lines, "Ctrl-C drains and stops; SIGHUP drains and starts the version that is installed then."]


def web_command(bind: str) -> list[str]:
    """Return the command line of the web app."""
    return [
        *(sys.executable, "-m", "gunicorn", "webapp.app:create_app()", "--bind", bind),
        # Threads, so that a slow sender holds up nobody but himself; two processes, so that one may be restarted.
        *("--worker-class", "gthread", "--workers", "2", "--threads", "8"),
        *("--config", "python:webapp.serving"),
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


def _tail(path: Path) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(lines[-TAIL_LINES:])
