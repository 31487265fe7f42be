"""What `forgepool up` takes over from the version before: only what it is said to be."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.errors import ForgepoolError
from webapp.handover import KEPT_ENV, Kept, Leaving, OnlyOne, take

LISTEN = "127.0.0.1:0"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Open a socket that listens."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


def _take(web: int, lock: int, **changes: object) -> Kept:
    note = {"pid": os.getpid(), "listen": LISTEN, "web": web, "lock": lock, "leaving": None, **changes}
    environ = {KEPT_ENV: json.dumps(note)}
    kept = take(environ)
    assert environ == {}, "no child may take it for its own"
    return kept


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    """Open a lock file; whoever gets it closes it."""
    with OnlyOne(tmp_path / OnlyOne.NAME) as held:
        yield os.dup(held.file.fileno())


def test_an_ordinary_start_has_got_nothing() -> None:
    assert take({}) == Kept()


def test_the_socket_and_the_lock_stay_what_they_were(listener: socket.socket, lock: int, tmp_path: Path) -> None:
    address = listener.getsockname()

    kept = _take(listener.detach(), lock)
    web = kept.socket_for(LISTEN)
    path = tmp_path / OnlyOne.NAME

    assert web is not None
    with web, OnlyOne(path, kept=kept.lock_for(path)), socket.create_connection(address, timeout=5):
        assert web.getsockname() == address
        web.accept()[0].close()
        assert path.read_text(encoding="ascii") == f"{os.getpid()}\n"
        with pytest.raises(ForgepoolError, match=rf"another `forgepool up` \(pid {os.getpid()}\)"):
            OnlyOne(path).__enter__()


def test_a_socket_for_another_address_is_closed(listener: socket.socket, lock: int) -> None:
    address = listener.getsockname()
    kept = _take(listener.detach(), lock)

    assert kept.socket_for("127.0.0.1:8420") is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
    os.close(lock)


def test_the_lock_of_another_folder_is_let_go(listener: socket.socket, lock: int, tmp_path: Path) -> None:
    kept = _take(listener.fileno(), lock)
    assert kept.web is not None
    kept.web.detach()

    assert kept.lock_for(tmp_path / "elsewhere" / OnlyOne.NAME) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(lock)


def test_the_note_of_another_process_is_none_of_ours(listener: socket.socket, lock: int) -> None:
    assert _take(listener.fileno(), lock, pid=1) == Kept()
    os.close(lock)


@pytest.mark.parametrize("what", ["file", "closed", "not listening", "udp"])
def test_what_is_no_listening_socket_is_left_alone(lock: int, what: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM if what == "udp" else socket.SOCK_STREAM) as other:
        number = {"file": lock, "closed": 9999}.get(what, other.fileno())

        assert _take(number, lock) == Kept()
        other.getsockname()  # still open
    os.close(lock)


@pytest.mark.parametrize("note", ["", "{", "[]", "7", '{"pid": "x"}', "null"])
def test_a_note_that_says_nothing_is_no_note(note: str) -> None:
    assert take({KEPT_ENV: note}) == Kept()


def test_the_web_app_of_the_version_before_is_asked_then_waited_for_then_killed() -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        process.stdout.readline()
        leaving = Leaving(process.pid)

        leaving.ask()
        was_there = not leaving.look()
        leaving.see_off(within_s=0.1)

        assert was_there
        assert leaving.is_gone
        assert not Path(f"/proc/{process.pid}").exists()
        process.returncode = -9
