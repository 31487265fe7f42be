"""Real brokers for tests. TEST_BROKER=valkey (default), redis or rabbitmq chooses; a test may kill, start and empty it.

Where the server is not installed the test is skipped, but with CI set it fails.
"""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol

import httpx
import psutil
import pytest
import redis

from tasks import embedded, tether
from tasks.settings import Settings
from tests.helpers.ports import free_port
from tests.helpers.waiting import wait_until

KIND = os.environ.get("TEST_BROKER") or "valkey"
KINDS = ("valkey", "redis", "rabbitmq")
assert KIND in KINDS, f"TEST_BROKER = {KIND!r}: use one of {', '.join(KINDS)}"

#: How often and how long RabbitMQ looks at messages that nobody acknowledges. By default it is a minute and half an
#: hour: every test runs under a time-out that a long run would hit.
RABBITMQ_TICK_S, RABBITMQ_CONSUMER_TIMEOUT_S = 1, 3
#: Debian's wrapper would change the user; this is the program itself.
RABBITMQ_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
EPMDS = "/usr/lib/erlang/erts-*/bin/epmd"


class Broker(Protocol):
    """One deployment's broker."""

    #: What service.broker_url says; "" for the embedded one.
    url: str

    def start(self, settings: Settings) -> None:
        """Start the server with what it kept, and return when it answers."""

    def kill(self) -> None:
        """Kill the server with -9."""

    def freeze(self) -> None:
        """Stop the server in its tracks: it takes connections and says nothing."""

    def thaw(self) -> None:
        """Let it go on."""

    def empty(self) -> None:
        """Lose every message and every queue."""

    def close(self) -> None:
        """Leave nothing behind."""


def make(folder: Path, kind: str = KIND) -> Broker:
    """Return a broker that has not been started yet. folder: for what it keeps."""
    if kind == "rabbitmq":
        return RabbitMqHost(shared_rabbitmq())
    return Redis(folder / "redis") if kind == "redis" else Valkey()


def only(*kinds: str, why: str) -> pytest.MarkDecorator:
    """Mark what can be shown on some brokers only."""
    return pytest.mark.skipif(KIND not in kinds, reason=f"only {'/'.join(kinds)}: {why}")


def missing(program: str) -> NoReturn:
    """Skip the test for a server that is not installed; CI installs it."""
    assert "CI" not in os.environ, f"CI installs {program}"
    pytest.skip(f"there is no {program}")


class _Server:
    """A server process with what it started."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """Kill it."""
        self.thaw()
        _kill(self._process)
        self._process = None

    def freeze(self) -> None:
        """Send SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Send SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


class Valkey(_Server):
    """The embedded broker, started as `forgepool up` starts it."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self._settings: Settings | None = None

    def start(self, settings: Settings) -> None:
        """Start it on its socket in the state folder."""
        self._settings = settings
        self._process = _start(embedded.command(settings), settings.path.parent / "valkey.log")
        wait_until(lambda: embedded.is_up(settings), 10)

    def empty(self) -> None:
        """Flush everything."""
        assert self._settings is not None
        with redis.Redis(unix_socket_path=str(self._settings.broker_socket)) as client:
            client.flushall()

    def close(self) -> None:
        """Kill it."""
        self.kill()


class Redis(_Server):
    """A redis-server of this deployment's own, with a password."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._port = free_port()
        self.url = f"redis://:not-a-secret@127.0.0.1:{self._port}/0"

    def start(self, settings: Settings) -> None:
        """Start it on its port."""
        program = shutil.which("redis-server") or missing("redis-server")
        self._folder.mkdir(exist_ok=True)
        options = {"bind": "127.0.0.1", "port": str(self._port), "dir": str(self._folder), "save": ""}
        # As the README says for production, so that a kill loses nothing that was taken.
        options |= {"appendonly": "yes", "appendfsync": "always", "requirepass": "not-a-secret"}
        argv = [str(program), *(word for key, value in options.items() for word in (f"--{key}", value))]
        self._process = _start(argv, settings.path.parent / "redis.log")
        wait_until(self._answers, 10)

    def empty(self) -> None:
        """Flush everything."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def close(self) -> None:
        """Kill it; its files are the test's."""
        self.kill()

    def _answers(self) -> bool:
        with suppress(redis.RedisError), redis.Redis.from_url(self.url) as client:
            return bool(client.ping())
        return False


class RabbitMq(_Server):
    """A RabbitMQ node on ports and in a folder of its own. Starting takes seconds, so a test process shares one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.port, self._http, self._dist, self._epmd = (free_port() for _ in range(4))
        self._names: subprocess.Popen[bytes] | None = None
        self._forgotten: list[str] = []
        (folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (folder / "rabbitmq.conf").write_text(
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self._http}\n"
            f"consumer_timeout = {RABBITMQ_CONSUMER_TIMEOUT_S * 1000}\n"
        )
        tick = f"[{{rabbit, [{{channel_tick_interval, {RABBITMQ_TICK_S * 1000}}}]}}].\n"
        (folder / "advanced.config").write_text(tick)

    def start(self) -> None:
        """Start it with what it kept."""
        if self._process is not None:
            return
        if not RABBITMQ_SERVER.exists():
            missing("rabbitmq-server")
        env = self._environ()
        if self._names is None:
            # Else the node would leave a daemon of its own behind.
            [epmd, *_] = sorted(Path("/").glob(EPMDS.lstrip("/")))
            self._names = _start([str(epmd), "-port", str(self._epmd)], self._folder / "epmd.log", env)
        self._process = _start([str(RABBITMQ_SERVER)], self._folder / "server.log", env)
        wait_until(lambda: self._answers() or self._process is None or self._process.poll() is not None, 90)
        assert self._process.poll() is None, (self._folder / "server.log").read_text()

    def forget(self, host: str) -> None:
        """Delete a virtual host; later, if a test has left the node dead."""
        self.thaw()
        self._forgotten.append(host)
        while self._process is not None and self._forgotten:
            self.ask("DELETE", f"vhosts/{self._forgotten.pop()}")

    def close(self) -> None:
        """End it and everything that it started."""
        self.kill()
        _kill(self._names)
        self._names = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def ask(self, method: str, path: str, **json: object) -> httpx.Response:
        """Call its management API."""
        url = f"http://127.0.0.1:{self._http}/api/{path}"
        answer = httpx.request(method, url, json=json or None, auth=("guest", "guest"), timeout=10)
        return answer.raise_for_status()

    def _answers(self) -> bool:
        try:
            return self.ask("GET", "health/checks/virtual-hosts").is_success
        except httpx.HTTPError:
            return False

    def _environ(self) -> dict[str, str]:
        folder = self._folder
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")},
            "HOME": str(folder),  # for the Erlang cookie
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"forgepool-{os.getpid()}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
        }


class RabbitMqHost:
    """A virtual host of the shared node, for one deployment."""

    def __init__(self, node: RabbitMq) -> None:
        self.node = node
        self.name = f"house-{uuid.uuid4().hex[:12]}"
        self.url = f"amqp://guest:guest@127.0.0.1:{node.port}/{self.name}"
        self.queue_type = "classic"
        self._is_made = False

    def start(self, settings: Settings) -> None:
        """Start the node if somebody killed it, and make the virtual host."""
        del settings
        self.node.start()
        if not self._is_made:
            # Spelt so in 3.10, and with underscores in later versions.
            kind = self.queue_type
            self.node.ask("PUT", f"vhosts/{self.name}", defaultqueuetype=kind, default_queue_type=kind)
            self.node.ask("PUT", f"permissions/{self.name}/guest", configure=".*", write=".*", read=".*")
            self._is_made = True

    def kill(self) -> None:
        """Kill the node."""
        self.node.kill()

    def freeze(self) -> None:
        """Stop the node in its tracks."""
        self.node.freeze()

    def thaw(self) -> None:
        """Let it go on."""
        self.node.thaw()

    def empty(self) -> None:
        """Delete every queue with what is in it."""
        for queue in self.queues():
            self.node.ask("DELETE", f"queues/{self.name}/{queue}")

    def queues(self) -> dict[str, str]:
        """Return name and type of the queues of instances; the others are Celery's own, with a dot in their names."""
        found = self.node.ask("GET", f"queues/{self.name}?disable_stats=true&enable_queue_totals=true").json()
        return {queue["name"]: queue["type"] for queue in found if "." not in queue["name"]}

    def consumers(self, queue: str) -> list[bool]:
        """Tell for each consumer of a queue whether it has to acknowledge."""
        found = self.node.ask("GET", f"consumers/{self.name}").json()
        return [one["ack_required"] for one in found if one["queue"]["name"] == queue]

    def close(self) -> None:
        """Delete the virtual host."""
        if self._is_made:
            self.node.forget(self.name)
            self._is_made = False


@functools.cache
def shared_rabbitmq() -> RabbitMq:
    """Return the one node of this process; it ends with the process."""
    node = RabbitMq(Path(tempfile.mkdtemp(prefix="forgepool-rabbitmq-")))
    atexit.register(node.close)
    return node


def _start(argv: list[str], log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a server that ends with this process, however that ends."""
    tethered = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *argv]
    with log.open("ab") as out:
        return subprocess.Popen(
            tethered, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    """Kill a server with everything it started, and wait until its ports are free."""
    if process is None:
        return
    with suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        psutil.wait_procs(family, timeout=10)
