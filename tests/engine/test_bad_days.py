"""Bad days: what one agent does to its worker, and what a sender does to us. Nobody else is harmed by it.

Each agent is a script of its own, agent-NUMBER, where NUMBER is that of its issue. While dev-alpha suffers, an innocent
task runs through on dev-bravo.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import update

from pool.model import Kind, Request, Task
from pool.schema import tasks
from pool.states import State
from tasks import dispatch, launcher
from tasks.dispatch import dispatch_by_type
from tests.door.house import edited
from tests.door.server import request_of, served, signed
from tests.engine.conftest import Build
from tests.helpers.house import PYTHON, House
from tests.helpers.stores import SOAK
from tests.helpers.up import FORGEPOOL
from tests.helpers.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")]

MIB = 1 << 20
FLOOD_MIB = 1024 if SOAK else 256
CHILDREN = 1002 if SOAK else 300  #: of three kinds, as many of each

#: Prints as fast as it can.
FLOOD = f"""
import os
block = (b"x" * 63 + b"\\n") * 1024
for _ in range({FLOOD_MIB} * 16):
    os.write(1, block)
"""

#: Leaves children in the group, in sessions of their own, and in sessions of their own without a parent; none of them
#: heeds SIGTERM.
FORKS = f"""
trap "" TERM
i=0
while [ $i -lt {CHILDREN} ]; do
  sleep 1000 & setsid sleep 1000 & (setsid sleep 1000 &)
  i=$((i + 3))
done
echo forked
"""


class BadDay:
    """dev-alpha and dev-bravo with their workers; every issue has an agent of its own."""

    def __init__(self, house: House) -> None:
        self.house = house
        house.add("dev-alpha", "dev-bravo")
        self.workers = {
            name: house.start_worker(name, ready=name == "dev-bravo") for name in ("dev-alpha", "dev-bravo")
        }

    @staticmethod
    def command(folder: Path) -> list[str]:
        """Return the command of all agents."""
        return ["/bin/sh", "-c", f'exec /bin/sh "{folder}/agent-$FORGEPOOL_NUMBER"']

    def dispatch(self, number: int, script: str, **fields: Any) -> int:
        """Queue a task whose agent is the script."""
        (self.house.folder / f"agent-{number}").write_text(script, encoding="utf-8")
        request = Request(kind=Kind.CUSTOM, repo="acme/widgets", number=number, **fields)
        return dispatch_by_type(self.house.engine, "dev", request, by="test")

    def suffer(self, script: str) -> int:
        """Queue the bad task on dev-alpha; return when its agent has begun."""
        bad = self.dispatch(1, f"touch {self.house.folder}/begun\n{script}")
        assert self.house.task(bad).instance == "dev-alpha"
        wait_until((self.house.folder / "begun").exists, 30)
        return bad

    def others_are_well(self) -> bool:
        """Run an innocent task on the other instance."""
        ended = self.house.wait_for(self.dispatch(2, "echo innocent"), timeout_s=60)
        return (ended.instance, ended.state) == ("dev-bravo", State.SUCCEEDED)

    def goes_on(self) -> bool:
        """Run one more task on the instance that suffered."""
        return self.house.wait_for(self.dispatch(3, "echo next"), timeout_s=60).state is State.SUCCEEDED

    def left(self) -> set[int]:
        """Return the living processes of all agents of this deployment."""
        mark = f"FORGEPOOL_PROMPT_FILE={self.house.folder}".encode()
        return {pid for pid in psutil.pids() if mark in _environ(pid)}


@pytest.fixture
def bad_day(build: Build, tmp_path: Path) -> Callable[..., BadDay]:
    """Build the deployment."""

    def make(**settings: Any) -> BadDay:
        return BadDay(build(command=BadDay.command(tmp_path), **settings))

    return make


Make = Callable[..., BadDay]


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""  # it has just ended; a zombie has none


def _peak_mib(pid: int) -> float:
    """Return the most memory that a process has had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert found
    return int(found[1]) / 1024


def _notes(task: Task) -> str:
    return "; ".join(task.evidence.notes) if task.evidence else ""


def test_an_agent_that_floods_its_output_costs_neither_disk_nor_memory(
    bad_day: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("FORGEPOOL_LOG_BYTES", str(8 * MIB))
    day = bad_day()
    (tmp_path / "flood.py").write_text(FLOOD, encoding="ascii")
    wait = f"while [ ! -e {tmp_path}/release ]; do sleep 0.05; done"
    bad = day.suffer(f"echo first; {PYTHON} -S {tmp_path}/flood.py; echo last; touch {tmp_path}/flooded; {wait}")
    worker = psutil.Process(day.workers["dev-alpha"].pid)
    runners = [worker, *worker.children()]
    before = {one.pid: _peak_mib(one.pid) for one in runners}
    assert day.others_are_well()
    wait_until((tmp_path / "flooded").exists, 120)
    [watcher] = [one for one in worker.children(recursive=True) if "launcher.py" in " ".join(one.cmdline())]
    watched = _peak_mib(watcher.pid)
    (tmp_path / "release").touch()
    ended = day.house.wait_for(bad, timeout_s=60)
    grown = {pid: _peak_mib(pid) - was for pid, was in before.items()}
    log = day.house.settings.state_dir / "logs" / "tasks" / f"{bad}.log"
    shown = _peak_of([*FORGEPOOL, "tasks", "log", str(bad)], day.house)
    tailed = _peak_of([*FORGEPOOL, "tasks", "log", str(bad), "--tail", "5"], day.house)
    listed = _peak_of([*FORGEPOOL, "tasks", "list"], day.house)
    sys.stdout.write(
        f"launcher {watched:.0f} MiB, worker grew by {grown}, cli {shown:.0f} {tailed:.0f} {listed:.0f}"
    )  # shown by `pytest -rP`

    assert ended.state is State.SUCCEEDED
    assert f"the log was cut: the agent wrote {FLOOD_MIB * MIB + 11} bytes" in _notes(ended)
    assert log.stat().st_size <= 8 * MIB + launcher.TAIL_BYTES + len(launcher.CUT_LINE)
    assert log.read_bytes().startswith(b"first\n")
    assert log.read_bytes().endswith(b"\nlast\n")
    assert watched < 40
    assert max(grown.values()) < 64
    assert max(shown, tailed) < listed + 16
    assert day.goes_on()


def _peak_of(argv: list[str], house: House) -> float:
    """Run a command; return the most memory that it has had, in MiB."""
    with subprocess.Popen(argv, env=dict(house.environ()), stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss / 1024


@pytest.mark.parametrize("end", ["by itself", "cancelled", "silent"])
def test_of_an_agent_that_forks_without_end_nothing_is_left_and_its_slot_is_free_in_bounded_time(
    bad_day: Make, end: str
) -> None:
    day = bad_day(silence_limit_s=5 if end == "silent" else 600)
    rest = "" if end == "by itself" else "while :; do sleep 1; done"
    bad = day.suffer(f"{FORKS}{rest}")
    if end == "cancelled":
        wait_until(lambda: len(day.left()) >= CHILDREN, 60)
        dispatch.cancel(day.house.engine, bad, by="test")
    assert day.others_are_well()

    ended = day.house.wait_for(bad, timeout_s=60)
    left = day.left()
    assert ended.evidence
    sys.stdout.write(f"{end}: {ended.evidence.duration_s:.1f} s")

    assert left == set()
    assert (
        ended.state
        is {
            "by itself": State.SUCCEEDED,
            "cancelled": State.CANCELLED,
            "silent": State.TIMED_OUT,
        }[end]
    )
    if end == "by itself":
        assert f"{CHILDREN} processes were left over and were ended" in _notes(ended)
    assert day.goes_on()


def test_a_run_over_its_time_is_told_from_a_silent_one_and_from_a_failure(bad_day: Make) -> None:
    day = bad_day(grace_s="1.0\ntime_limit_s = 2")
    bad = day.suffer("while :; do echo busy; sleep 0.1; done")

    ended = day.house.wait_for(bad, timeout_s=60)

    assert (ended.state, ended.reason) == (State.TIMED_OUT, "it ran longer than its time limit of 2 s")
    assert day.goes_on()


def test_a_child_that_left_the_group_and_heeds_no_sigterm_does_not_hold_the_slot_of_a_success(bad_day: Make) -> None:
    day = bad_day()
    bad = day.suffer('trap "" TERM; (setsid sleep 1000 &); echo done')

    ended = day.house.wait_for(bad, timeout_s=30)

    assert ended.state is State.SUCCEEDED
    assert "1 processes were left over and were ended" in _notes(ended)
    assert ended.evidence
    assert ended.evidence.duration_s < 15
    assert day.left() == set()
    assert day.goes_on()


def test_a_run_whose_launcher_is_killed_is_interrupted_and_its_session_does_not_live_on_beside_the_retry(
    bad_day: Make, tmp_path: Path
) -> None:
    day = bad_day()
    beside = f"ps -o sid=,stat= -C sleep | grep -v Z > {tmp_path}/beside"
    bad = day.suffer(
        f"[ -e {tmp_path}/again ] && {{ {beside}; echo again; exit; }}\n"
        f'touch {tmp_path}/again; trap "" TERM; sleep 1000 & sleep 1000 & echo $$ > {tmp_path}/session; wait'
    )
    session = wait_until(lambda: day.house.lines("session"), 30)[0]
    [watcher] = [
        one
        for one in psutil.Process(day.workers["dev-alpha"].pid).children(recursive=True)
        if "launcher.py" in " ".join(one.cmdline())
    ]

    watcher.send_signal(signal.SIGKILL)
    ended = day.house.wait_for(bad, timeout_s=30)
    with day.house.store.reading() as tx:
        again = next(task.id for task in tx.list_tasks() if task.retry_of == bad)
    retried = day.house.wait_for(again, timeout_s=30)

    assert (ended.state, retried.state) == (State.INTERRUPTED, State.SUCCEEDED)
    assert ended.reason == "the process of forgepool that watches the agent was killed"
    assert session not in [line.split()[0] for line in day.house.lines("beside")]
    assert day.left() == set()
    assert day.others_are_well()


def test_an_unreadable_task_at_the_head_fails_visibly_and_those_behind_it_run(house: House) -> None:
    house.add("dev-alpha")
    bad, *good = (house.dispatch(number, "say:done") for number in (1, 2, 3))
    with house.store.writing() as tx:
        tx.connection.execute(update(tasks).where(tasks.c.id == bad).values(request={"kind": "teleport"}))

    house.start_worker("dev-alpha")

    assert [house.wait_for(task).state for task in good] == [State.SUCCEEDED, State.SUCCEEDED]
    assert house.task(bad).state is State.FAILED
    assert "request.kind = 'teleport'" in house.task(bad).reason


def test_a_prompt_of_5_mib_reaches_the_agent_whole(bad_day: Make) -> None:
    day = bad_day()
    with day.house.store.writing() as tx:
        tx.set_instance("dev-alpha", prompt_appendix="begin of the words\n" + "w" * 5 * MIB + "\nend of the words")
    bad = day.suffer('wc -c < "$FORGEPOOL_PROMPT_FILE"; tail -c 30 "$FORGEPOOL_PROMPT_FILE"')

    assert day.house.wait_for(bad).state is State.SUCCEEDED
    log = (day.house.settings.state_dir / "logs" / "tasks" / f"{bad}.log").read_text(encoding="utf-8")
    assert int(log.split()[0]) > 5 * MIB
    assert log.rstrip().endswith("end of the words")


def test_an_issue_of_5_mib_is_taken_and_travels_in_the_database_only(tmp_path: Path) -> None:
    text = "begin " + "w" * 5 * MIB + " end"
    with served(tmp_path, command=["/bin/sh", "-c", 'cat "$FORGEPOOL_PROMPT_FILE"']) as server:
        house = server.house
        sent = edited("issue-assigned.json", {"issue.body": text})
        status, told = server.raw(request_of(sent.body, signed(sent)))
        [task] = told["tasks"]
        name = str(house.task(task).instance)
        with house.app.connection_for_read() as connection:
            message = connection.default_channel.basic_get(name, no_ack=False)
            size = len(message.body) + len(str(message.headers)) + len(str(message.properties))
            connection.default_channel.basic_reject(message.delivery_tag, requeue=True)
        too_large = edited("issue-assigned.json", {"issue.body": "w" * (10 * MIB)})
        refused, why = server.raw(request_of(too_large.body, signed(too_large)))
        house.start_worker(name)
        ended = house.wait_for(task)
        log = (house.settings.state_dir / "logs" / "tasks" / f"{task}.log").read_text(encoding="utf-8")

    assert (status, ended.state) == (202, State.SUCCEEDED)
    assert ended.request.body == text
    assert size < 4096
    # A prompt has to be read by a model: its beginning is what it gets, and the number of characters that it misses.
    assert "begin www" in log
    assert f"[the last {len(text) - 30_000} characters were left out]" in log
    assert len(log) < 40_000
    assert (refused, why["verdict"]) == (413, "refused")
    assert "service.max_body_bytes = 10485760" in why["reason"]
