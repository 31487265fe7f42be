"""Checks of what a deployment stands on: files, disk, broker, programs, forge."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from tasks.secret_files import redacted
from tasks.settings import Settings
from webapp.cli.checkup import Check, fail, ok, warn
from webapp.cli.config import contradictions, missing_programs
from webapp.cli.session import sqlite_path

GIB = 1024**3
LOW_DISK = 2 * GIB  #: a few checkouts and logs
NO_DISK = GIB // 4
#: SQLite's locks, on which everything stands, do not work there (sqlite.org/wal.html, sqlite.org/faq.html#q5).
NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs"))
BROKER_S = 2.0
FORGE_S = 3.0
GIT_S = 5.0
SKEW_S = 60.0
#: In the header of a SQLite file: "read version", 2 for WAL (sqlite.org/fileformat.html, section 1.3).
WAL_AT, WAL = 19, 2


def examine(settings: Settings) -> Iterator[Check]:
    """Yield the checks that need no database."""
    yield from files(settings)
    yield from limits(settings)
    yield from state_folder(settings)
    yield from journal(settings)
    yield from broker(settings)
    yield from git()
    yield from agents(settings)
    yield from forge(settings)


def files(settings: Settings) -> Iterator[Check]:
    """Look at the files that the configuration names: readable by us, and by nobody else."""
    problems = settings.missing_files()
    for problem in problems:
        yield fail("files", problem)
    secrets = {settings.service.webhook_secret_file, settings.service.operator_token_file}
    secrets |= {kind.token_file for kind in settings.types.values()}
    for path in sorted(path for path in secrets if path is not None and path.exists()):
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield warn("files", f"{path} can be read by other users", f"chmod 600 {path}")
    if not problems:
        yield ok("files", "every file that the configuration names can be read")


def limits(settings: Settings) -> Iterator[Check]:
    """Look for time-outs that contradict each other."""
    found = contradictions(settings)
    for one in found:
        yield warn("limits", one, f"change one of them in {settings.path}")
    if not found:
        yield ok("limits", "no two values contradict each other")


def state_folder(settings: Settings) -> Iterator[Check]:
    """Look whether the state folder can be written, is on a local disk and has room."""
    folder = settings.state_dir
    here = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(here, os.W_OK | os.X_OK):
        yield fail("state folder", f"{here} cannot be written", "give it to the user that runs forgepool")
        return
    kind = file_system(here, [(p.mountpoint, p.fstype) for p in psutil.disk_partitions(all=True)])
    if kind in NETWORK and sqlite_path(settings.database_url) is not None:
        yield fail("state folder", f"{folder} is on {kind}, where SQLite loses data", "use a local disk or PostgreSQL")
    else:
        made = "" if folder.exists() else " (not there yet; it is made when needed)"
        yield ok("state folder", f"{folder} can be written, on {kind or 'an unknown file system'}{made}")
    yield room("disk", here)
    yield from checkouts(settings)


def room(name: str, path: Path) -> Check:
    """Look how much is free on the disk of a path."""
    free = shutil.disk_usage(path).free
    words = f"{free / GIB:.1f} GiB free at {path}"
    if free < NO_DISK:
        return fail(name, words, "make room")
    if free < LOW_DISK:
        return warn(name, words, "make room for checkouts and logs")
    return ok(name, words)


def checkouts(settings: Settings) -> Iterator[Check]:
    """Look at the disk of the checkouts, where it is another one, and whether their bound means anything."""
    folder, bound = settings.state_dir / "checkouts", settings.service.checkouts_bytes
    if not folder.exists():
        return
    if folder.stat().st_dev != settings.state_dir.stat().st_dev:
        yield room("checkouts", folder)
    total = shutil.disk_usage(folder).total
    if bound > total:
        words = f"service.checkouts_bytes = {bound} is more than the whole disk of {folder} has: {total}"
        yield warn("checkouts", words, "bound them below what the disk can hold")


def file_system(path: Path, mounts: Iterable[tuple[str, str]]) -> str:
    """Return the type of the file system that a path is on. mounts: mount points and types."""
    real = path.resolve()
    found = [(len(point), kind) for point, kind in mounts if real.is_relative_to(point)]
    return max(found, default=(0, ""))[1]


def journal(settings: Settings) -> Iterator[Check]:
    """Look whether readers and the writer of a SQLite file get along."""
    path = sqlite_path(settings.database_url)
    if path is None or not path.exists():
        return
    with path.open("rb") as file:
        header = file.read(WAL_AT + 1)
    if len(header) > WAL_AT and header[WAL_AT] != WAL:
        yield fail("journal", f"{path} is not in WAL mode", "move it to a file system that can lock and map files")
    else:
        yield ok("journal", "the database is in WAL mode")


def broker(settings: Settings) -> Iterator[Check]:
    """Look whether the broker answers, and can speak to all workers at once."""
    from kombu.connection import Connection  # noqa: PLC0415 - takes a while

    from tasks import embedded  # noqa: PLC0415

    # The client is slow to give up; where there is no socket there is nothing to ask.
    if settings.is_embedded_broker and not (settings.broker_socket.exists() and embedded.is_up(settings)):
        yield warn("broker", "the embedded broker does not run", "`forgepool up` starts it")
        return
    url = redacted(settings.broker_url)
    try:
        # kombu's parameters have no annotations.
        with Connection(settings.broker_url, connect_timeout=BROKER_S) as connection:  # type: ignore[no-untyped-call]
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_S)
            has_fan_out = "fanout" in connection.transport.implements.exchange_type
            server = list(_server(connection, url))
    # Each transport has exceptions of its own; whatever it was, the broker cannot be used.
    except Exception as error:  # noqa: BLE001
        said = redacted(str(error)).replace("\n", " ")
        yield fail("broker", f"{url} does not answer: {said}", "see that it runs, and check service.broker_url")
        return
    if has_fan_out:
        yield ok("broker", f"{url} answers, and reaches all workers at once")
        yield from server
    else:
        yield fail("broker", f"{url} has no fan-out: Flower would see nothing", "use Redis, Valkey or RabbitMQ")


def _server(connection: Any, url: str) -> Iterator[Check]:
    """Ask what kind of server it is, and whether it may throw messages away. connection: kombu's, open."""
    if connection.transport.driver_type == "amqp":
        said = connection.connection.server_properties
        product, version = str(said.get("product", "an unnamed server")), str(said.get("version", "?"))
        # Its consumer time-out, which no client can ask for, is of no importance: workers hold no message.
        if product == "RabbitMQ":
            yield ok("broker", f"it is {product} {version}; its consumer time-out does not matter")
        else:
            yield warn("broker", f"{url} is {product} {version}, with which forgepool was never run", "use RabbitMQ")
        return
    told = connection.default_channel.client.info()
    version = told.get("valkey_version") or told.get("redis_version", "?")
    policy, limit = told.get("maxmemory_policy", "noeviction"), int(told.get("maxmemory", 0))
    if limit and policy != "noeviction":
        words = f"it throws keys away when {limit} bytes are full (maxmemory-policy {policy}): queues would vanish"
        yield warn("broker", words, "set maxmemory-policy to noeviction")
    else:
        yield ok("broker", f"it is {told.get('server_name', 'redis')} {version}, and throws nothing away")


def git() -> Iterator[Check]:
    """Look for git."""
    try:
        said = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=GIT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        yield fail("git", f"cannot be started: {error}", "install git")
        return
    yield ok("git", said.strip())


def agents(settings: Settings) -> Iterator[Check]:
    """Look for the programs of the agents."""
    missing = missing_programs(settings)
    for one in missing:
        yield warn("agents", one, "install it, or extend the PATH of the service")
    if not missing:
        yield ok("agents", "the program of every type is on the PATH")


def forge(settings: Settings) -> Iterator[Check]:
    """Ask the forge for its version: once, with a short patience. The forge may be away without our fault."""
    url = f"{settings.service.forge_url.rstrip('/')}/api/v1/version"
    try:
        answer = httpx.get(url, timeout=FORGE_S).raise_for_status()
        version = str(answer.json()["version"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        said = str(error) or type(error).__name__
        yield warn("forge", f"{url} does not answer as a forge does: {said}", "check service.forge_url")
        return
    yield ok("forge", f"{settings.service.forge_url} is version {version}")
    skew_s = clock_skew_s(answer.headers.get("date"), datetime.now(UTC))
    if skew_s is not None and skew_s > SKEW_S:
        yield warn("clock", f"differs from the forge's by {skew_s:.0f} s", "set both clocks by NTP")


def clock_skew_s(date: str | None, now: datetime) -> float | None:
    """Return the difference of our clock and that of an HTTP answer, in seconds; None when it does not say."""
    try:
        return abs((parsedate_to_datetime(date or "") - now).total_seconds())
    except (ValueError, TypeError):
        return None
