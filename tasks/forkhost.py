"""The fork host: imports once what every worker needs, then forks one worker per order, so that they share the pages.

Run by the fleet with one end of a socket pair: `python -m tasks.forkhost FD`. Opens no connection to database or
broker: nothing of that kind may be shared by two workers. Has one thread: fork(2) takes along no other.

Orders, one JSON value per line: {"start": TICKET, "instance": NAME, "log": PATH} and {"signal": TICKET, "number": N,
"group": BOOL}. Reports: {"ready": PID}, {"started": TICKET, "pid": PID} and {"ended": TICKET, "status": N}. The host
alone signals and reaps its workers, so a signal never meets a stranger with a number that is used again.
End-of-file or SIGTERM: it asks its workers to end, waits for them, and ends.
"""

import gc
import importlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from tasks.tether import tie

log = structlog.get_logger(__name__)

#: From sysexits.h: the machine has no room for another process.
EX_OSERR = 71

#: What Celery imports only in a worker, and what a run needs. Not imported above: that would read the configuration.
MODULES = (
    *("celery.app.control", "celery.app.events", "celery.apps.worker", "celery.concurrency.prefork"),
    *("celery.events.dispatcher", "celery.worker.autoscale", "celery.worker.consumer", "celery.worker.strategy"),
    *("celery.worker.consumer.delayed_delivery", "celery.worker.control", "kombu.matcher", "kombu.pidbox"),
    *("billiard.heap", "billiard.popen_fork", "billiard.sharedctypes", "billiard.synchronize", "mmap"),
    *("encodings.ascii", "encodings.unicode_escape", "tasks.celery", "tasks.run"),
)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def prepare() -> None:
    """Import what a worker and a run need, and build what all of them build alike."""
    for name in MODULES:
        importlib.import_module(name)
    app = importlib.import_module("tasks.celery").app
    app.connection_for_read().get_transport_cls()
    app.log.setup(logging.INFO)
    app.finalize()
    app.loader.import_default_modules()
    importlib.import_module("tasks.worker").unconnected_store()
    gc.collect()
    # A collection would write into the header of every object, and so copy each page for each worker.
    gc.freeze()


class Host:
    """Forks workers, signals and reaps them, and tells the fleet."""

    def __init__(self, control: socket.socket) -> None:
        """`control`: our end of the pair. Catches the signals from here on."""
        self._control = control
        self._unread = b""
        self._tickets: dict[int, int] = {}  # by pid
        self._signals = 0  # times that we were asked to end
        self._is_orphan = False
        self._passed = 0  # times that the workers were
        self._wake, self._woken = os.pipe()
        for end in (self._wake, self._woken):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._control, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)

    @property
    def _asked(self) -> int:
        """How often we were asked to end. The death of the fleet asks twice, by the tether and by end-of-file.

        In either order that is one request: a second one would hurry the workers.
        """
        return max(self._signals, int(self._is_orphan))

    def serve(self) -> str | None:
        """Obey until the fleet is gone and every worker has ended: None. In a forked worker: its instance."""
        self._tell(ready=os.getpid())
        while not self._asked or self._tickets:
            for key, _ in self._selector.select():
                if key.fileobj is not self._control:
                    os.read(self._wake, 4096)
                    continue
                for order in self._orders():
                    if (instance := self._obey(order)) is not None:
                        return instance
            while self._passed < self._asked:
                self._passed += 1
                for pid in self._tickets:
                    _signal(pid, signal.SIGTERM, group=False)
            self._reap()
        return None

    def _orders(self) -> Iterator[dict[str, Any]]:
        try:
            data = self._control.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self._selector.unregister(self._control)
            self._is_orphan = True
        *lines, self._unread = (self._unread + data).split(b"\n")
        yield from map(json.loads, lines)

    def _obey(self, order: dict[str, Any]) -> str | None:
        """Carry out one order; in a forked worker return its instance."""
        match order:
            case {"start": int(ticket), "instance": str(instance), "log": str(path)}:
                if not self._asked and self._fork(ticket, instance):
                    self._become_worker(instance, Path(path))
                    return instance
            case {"signal": int(ticket), "number": int(number), "group": bool(group)}:
                for pid in [pid for pid, held in self._tickets.items() if held == ticket]:
                    _signal(pid, number, group=group)
            case unknown:
                log.error("unknown order", order=unknown)
        return None

    def _fork(self, ticket: int, instance: str) -> bool:
        """Return whether we are the worker now."""
        self._parent = os.getpid()
        # A signal between the fork and the worker's own handlers must wait, else our handler would swallow it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
        except OSError as error:
            log.error("worker not started", instance=instance, why=str(error))
            self._tell(ended=ticket, status=EX_OSERR)
            pid = -1
        if pid == 0:
            return True
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if pid > 0:
            self._tickets[pid] = ticket
            self._tell(started=ticket, pid=pid)
        return False

    def _become_worker(self, instance: str, log_path: Path) -> None:
        """Let go of everything that is the host's."""
        os.setsid()
        tie(self._parent)
        self._selector.close()
        self._control.close()
        signal.set_wakeup_fd(-1)
        for end in (self._wake, self._woken):
            os.close(end)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as out, Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        _name_process(instance)

    def _reap(self) -> None:
        while self._tickets:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if (ticket := self._tickets.pop(pid, None)) is not None:
                self._tell(ended=ticket, status=os.waitstatus_to_exitcode(status))

    def _tell(self, **report: int) -> None:
        with suppress(OSError):  # the fleet is gone; end-of-file says so, too
            self._control.sendall(json.dumps(report).encode() + b"\n")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signals += number != signal.SIGCHLD


def work(instance: str) -> int:
    """Be the Celery worker of an instance; return its exit status."""
    import celery  # noqa: PLC0415
    from celery.utils.nodenames import default_nodename, host_format  # noqa: PLC0415

    from tasks.celery import app  # noqa: PLC0415
    from tasks.worker import HEARTBEAT_S, worker_arguments  # noqa: PLC0415

    # Upon SIGHUP Celery executes the command line anew: that of a worker, not ours.
    sys.argv = [str(Path(celery.__file__).with_name("__main__.py")), *worker_arguments(instance)]
    worker = app.Worker(
        hostname=host_format(default_nodename(f"{instance}@%h")),
        queues=[instance],
        concurrency=1,
        autoscale=(1, 0),
        without_gossip=True,
        without_mingle=True,
        heartbeat_interval=HEARTBEAT_S,
        loglevel=logging.INFO,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _signal(pid: int, number: int, *, group: bool) -> None:
    os.kill(pid, number)  # it is there, at least as a zombie: nobody but us reaps it
    if group:
        with suppress(ProcessLookupError):  # it has not made its session yet
            os.killpg(pid, number)


def _name_process(instance: str) -> None:
    """Tell the workers apart in `ps -e` and `top`; the command line is the host's in all of them."""
    with suppress(OSError):  # Linux only
        Path("/proc/self/comm").write_text(instance, encoding="ascii")


def main() -> None:
    """Serve the fleet; in a forked worker, work."""
    control = socket.socket(fileno=int(sys.argv[1]))
    prepare()
    instance = Host(control).serve()
    if instance is not None:
        sys.exit(work(instance))


if __name__ == "__main__":
    main()
