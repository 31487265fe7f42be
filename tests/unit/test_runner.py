"""The runner and its launcher, with real processes: nothing of an agent outlives its run, whatever goes wrong."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pool.errors import AgentError
from tasks import launcher, runner, testagent
from tasks.runner import LAUNCHER, Agent, AgentCommand, Ended, Ending, Limits, Stop, end_orphans
from tests.helpers.waiting import wait_until

ROOT = LAUNCHER.parent.parent
ENV = {"PATH": os.environ["PATH"]}
MEGABYTE = 1 << 20
#: More than any test takes on a slow machine, less than a run that hangs.
SOON_S = 15.0

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="orphans are found by PR_SET_CHILD_SUBREAPER")


def command(folder: Path, *argv: str, env: dict[str, str] | None = None, stdin: Path | None = None) -> AgentCommand:
    return AgentCommand(argv=argv, cwd=folder, env=env or ENV, log_path=folder / "log", stdin_path=stdin)


def scripted(folder: Path, *verbs: str) -> AgentCommand:
    return command(folder, sys.executable, "-I", str(testagent.__file__), *verbs)


def limits(
    *,
    wall_s: float = 60.0,
    silence_s: float | None = None,
    grace_s: float = 10.0,
    linger_s: float = 0.2,
    log_bytes: int = MEGABYTE,
) -> Limits:
    return Limits(wall_s=wall_s, silence_s=silence_s, grace_s=grace_s, linger_s=linger_s, log_bytes=log_bytes)


def run(what: AgentCommand, bounds: Limits | None = None, tick: Callable[[], Stop | None] = lambda: None) -> Ended:
    with Agent.start(what, bounds or limits()) as agent:
        return agent.watch(tick, every_s=0.05)


def log_of(folder: Path) -> str:
    return (folder / "log").read_text()


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def pids_in(path: Path, count: int) -> list[int]:
    def lines() -> list[int]:
        pids = [int(line) for line in path.read_text().split()] if path.exists() else []
        return pids if len(pids) == count else []

    return wait_until(lines)


# --- an ordinary run -----------------------------------------------------------------------------


def test_the_exit_status_and_the_output_of_an_agent_are_kept(tmp_path: Path) -> None:
    ended = run(scripted(tmp_path, "say:hello", "exit:3"))

    assert (ended.ending, ended.exit_code, ended.signal) == (Ending.EXITED, 3, None)
    assert (log_of(tmp_path), ended.output_bytes, ended.truncated, ended.leftover) == ("hello\n", 6, False, 0)


def test_an_agent_ended_by_a_signal_has_no_exit_status(tmp_path: Path) -> None:
    ended = run(scripted(tmp_path, "kill-self:KILL"))

    assert (ended.ending, ended.exit_code, ended.signal) == (Ending.EXITED, None, signal.SIGKILL)


def test_the_prompt_reaches_the_standard_input_whole(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt"
    prompt.write_text("line\n" * 50_000)

    run(command(tmp_path, "cat", stdin=prompt))

    assert log_of(tmp_path) == prompt.read_text()


def test_an_agent_inherits_neither_environment_nor_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGEPOOL_SECRET", "planted")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003 - it has no other form

        run(command(tmp_path, "sh", "-c", "env; ls /proc/self/fd", env={**ENV, "GIVEN": "ä"}))

    seen = set(log_of(tmp_path).split("\n"))
    # The shell sets PWD, SHLVL, OLDPWD and _ by itself; 3 is the folder that ls reads.
    assert {line for line in seen if not line.startswith(("PWD=", "OLDPWD=", "SHLVL=", "_="))} == {
        *(f"PATH={ENV['PATH']}", "GIVEN=ä"),
        *("0", "1", "2", "3", ""),
    }


def test_neither_arguments_nor_environment_of_the_launcher_tell_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGEPOOL_SECRET", "planted")
    what = command(tmp_path, "sleep", "60", env={**ENV, "API_KEY": "given"})
    with Agent.start(what, limits()) as agent:
        process = psutil.Process(agent._launcher.pid)

        assert "given" not in " ".join(process.cmdline())
        assert "FORGEPOOL_SECRET" not in process.environ()


def test_the_watch_ends_at_once_when_the_agent_does(tmp_path: Path) -> None:
    with Agent.start(scripted(tmp_path, "say:x"), limits()) as agent:
        began = time.monotonic()
        agent.watch(lambda: None, every_s=60)

    assert time.monotonic() - began < SOON_S


def test_a_run_is_identified_by_its_process_and_start_time(tmp_path: Path) -> None:
    with Agent.start(scripted(tmp_path, "hang"), limits()) as agent:
        assert psutil.Process(agent.pid).create_time() == pytest.approx(agent.started, abs=1.5)
        assert os.getsid(agent.pid) == agent.pid


# --- what cannot be started ----------------------------------------------------------------------


def test_a_program_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"'no-such-agent' is not on the agent's PATH"):
        Agent.start(command(tmp_path, "no-such-agent"), limits())


def test_a_missing_working_directory_is_named(tmp_path: Path) -> None:
    what = AgentCommand(argv=("true",), cwd=tmp_path / "gone", env=ENV, log_path=tmp_path / "log")

    with pytest.raises(AgentError, match=r"working directory .*gone does not exist"):
        Agent.start(what, limits())


def test_a_file_that_the_kernel_cannot_run_is_refused_in_the_kernels_words(tmp_path: Path) -> None:
    program = tmp_path / "agent"
    program.write_bytes(b"\x00\x01\x02")
    program.chmod(0o755)

    with pytest.raises(AgentError, match="Exec format error"):
        Agent.start(command(tmp_path, "./agent"), limits())


def test_a_log_that_cannot_be_written_is_said_before_the_agent_starts(tmp_path: Path) -> None:
    what = AgentCommand(argv=("true",), cwd=tmp_path, env=ENV, log_path=tmp_path / "no" / "log")

    with pytest.raises(AgentError, match="No such file"):
        Agent.start(what, limits())


def test_a_launcher_without_orders_ends_quietly() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(LAUNCHER)], stdin=subprocess.DEVNULL, capture_output=True, check=True
    )

    assert (done.stdout, done.stderr) == (b"", b"")


# --- limits --------------------------------------------------------------------------------------


def test_an_agent_over_its_time_is_stopped(tmp_path: Path) -> None:
    ended = run(scripted(tmp_path, "hang"), limits(wall_s=0.2))

    assert (ended.ending, ended.signal) == (Ending.TIMED_OUT, signal.SIGTERM)


def test_an_agent_without_output_for_too_long_is_stopped(tmp_path: Path) -> None:
    ended = run(scripted(tmp_path, "say:x", "hang"), limits(silence_s=0.5))

    assert (ended.ending, ended.signal) == (Ending.SILENT, signal.SIGTERM)


def test_an_agent_that_keeps_talking_is_not_silent(tmp_path: Path) -> None:
    ended = run(scripted(tmp_path, *["sleep:0.4", "say:x"] * 5), limits(silence_s=1.5))

    assert ended.ending is Ending.EXITED
    assert ended.duration_s > 1.5


def test_a_flood_never_blocks_and_only_its_beginning_and_end_are_kept(tmp_path: Path) -> None:
    ended = run(scripted(tmp_path, "say:first", "flood:50m", "say:last"), limits(silence_s=5))

    log = log_of(tmp_path)
    assert (ended.exit_code, ended.output_bytes, ended.truncated) == (0, 50 * MEGABYTE + 11, True)
    assert len(log) <= MEGABYTE + launcher.TAIL_BYTES + len(launcher.CUT_LINE)
    assert log.startswith("first\n")
    assert log.endswith("\nlast\n")
    assert log.count(launcher.CUT_LINE.decode()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_does_not_stop_the_agent(tmp_path: Path) -> None:
    what = scripted(tmp_path, "flood:1m", "exit:0")

    ended = run(
        AgentCommand(argv=what.argv, cwd=what.cwd, env=what.env, log_path=Path("/dev/full")), limits(silence_s=5)
    )

    assert (ended.exit_code, ended.output_bytes, ended.truncated) == (0, MEGABYTE, True)


# --- stopping ------------------------------------------------------------------------------------


class Cancelled(Stop):
    """A caller's own kind of stop."""


def test_what_tick_returns_stops_the_agent_and_comes_back(tmp_path: Path) -> None:
    cancelled = Cancelled(reason="a person asked")

    ended = run(scripted(tmp_path, "hang"), tick=lambda: cancelled)

    assert ended.ending is Ending.STOPPED
    assert ended.stop is cancelled


@needs_linux
def test_a_stop_ends_children_in_and_out_of_the_group_though_all_ignore_sigterm(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    what = scripted(tmp_path, "ignore-term", f"fork:{pids}", f"fork-away:{pids}", "say:ready", "hang")
    with Agent.start(what, limits(grace_s=0.3)) as agent:
        children = pids_in(pids, 2)
        began = time.monotonic()
        ended = agent.watch(lambda: Stop(reason="enough"))
        took = time.monotonic() - began

    assert (ended.ending, ended.signal, ended.survivors) == (Ending.STOPPED, signal.SIGKILL, 0)
    assert not any(is_alive(pid) for pid in [agent.pid, *children])
    assert 0.3 <= took < SOON_S


def test_a_second_reason_neither_replaces_the_first_nor_restarts_the_grace(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    first, answers = Stop(reason="first"), iter(range(1_000_000))
    what = scripted(tmp_path, "ignore-term", f"touch:{ready}", "hang")
    with Agent.start(what, limits(grace_s=0.5, wall_s=0.1)) as agent:
        wait_until(ready.exists)
        ended = agent.watch(lambda: first if next(answers) == 0 else Stop(reason="later"), every_s=0.05)

    assert (ended.ending, ended.stop) == (Ending.STOPPED, first)
    assert ended.duration_s < SOON_S


def test_tick_is_called_while_the_agent_is_being_stopped(tmp_path: Path) -> None:
    ready, calls = tmp_path / "ready", []

    def tick() -> Stop | None:
        calls.append(ready.exists())
        return Stop(reason="enough") if ready.exists() else None

    run(scripted(tmp_path, "ignore-term", f"touch:{ready}", "hang"), limits(grace_s=0.5), tick)

    assert calls.count(True) > 2, "a lease must be renewed during the grace"


@pytest.mark.parametrize("fault", [SystemExit, KeyboardInterrupt, RuntimeError])
def test_whatever_tick_raises_the_agent_is_gone_before_it_gets_out(tmp_path: Path, fault: type[BaseException]) -> None:
    def tick() -> Stop | None:
        raise fault

    with pytest.raises(fault), Agent.start(scripted(tmp_path, "hang"), limits()) as agent:
        agent.watch(tick)

    assert not is_alive(agent.pid)


def test_an_agent_that_ended_before_the_stop_is_not_called_stopped(tmp_path: Path) -> None:
    late = Stop(reason="too late")
    with Agent.start(scripted(tmp_path, "fork", "exit:0"), limits(linger_s=60)) as agent:
        ended = agent.watch(lambda: None if is_alive(agent.pid) else late, every_s=0.05)

    assert (ended.ending, ended.exit_code, ended.stop) == (Ending.EXITED, 0, late)


@needs_linux
def test_a_stop_that_meets_the_end_of_the_agent_still_ends_what_it_left(tmp_path: Path) -> None:
    """Such a stop was once forgotten, and what was left lived on for all of linger_s."""
    go = tmp_path / "go"
    late = Stop(reason="at the same moment")
    with Agent.start(scripted(tmp_path, "fork", f"wait-for:{go}", "exit:0"), limits(linger_s=60)) as agent:
        shim = agent._launcher.pid
        os.kill(shim, signal.SIGSTOP)
        go.touch()
        wait_until(lambda: not is_alive(agent.pid))
        answers = iter([late])

        def tick() -> Stop | None:
            if stop := next(answers, None):
                return stop
            os.kill(shim, signal.SIGCONT)  # the stop has been sent: the launcher wakes to find both it and the end
            return None

        ended = agent.watch(tick, every_s=0.05)

    assert (ended.ending, ended.exit_code, ended.leftover, ended.stop) == (Ending.EXITED, 0, 1, late)
    assert ended.duration_s < SOON_S


# --- what is left behind -------------------------------------------------------------------------


@needs_linux
@pytest.mark.parametrize("verb", ["fork", "fork-away"])
def test_a_child_that_holds_the_output_open_is_ended_soon_after_the_agent(tmp_path: Path, verb: str) -> None:
    pids = tmp_path / "pids"

    ended = run(scripted(tmp_path, "ignore-term", f"{verb}:{pids}", f"wait-for:{pids}", "say:done"))

    assert (ended.ending, ended.exit_code, ended.leftover) == (Ending.EXITED, 0, 1)
    assert not is_alive(pids_in(pids, 1)[0])
    assert ended.duration_s < SOON_S


@needs_linux
def test_a_worker_killed_with_9_takes_the_whole_tree_along(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.unit.test_runner import Agent, limits, scripted
with Agent.start(scripted(Path({str(tmp_path)!r}), "ignore-term", "fork:{pids}", "fork-away:{pids}", "hang"),
                 limits(grace_s=0.2)) as agent:
    Path({str(tmp_path / "ids")!r}).write_text(f"{{agent.pid}}\\n{{agent._launcher.pid}}")
    agent.watch(lambda: None)
"""
    with subprocess.Popen([sys.executable, "-c", program]) as worker:
        doomed = [*pids_in(tmp_path / "ids", 2), *pids_in(pids, 2)]
        assert all(is_alive(pid) for pid in doomed)

        worker.kill()

        wait_until(lambda: not any(is_alive(pid) for pid in doomed), timeout_s=SOON_S)


def test_a_launcher_asked_by_sigterm_stops_the_agent_and_reports(tmp_path: Path) -> None:
    with Agent.start(scripted(tmp_path, "hang"), limits()) as agent:
        os.kill(agent._launcher.pid, signal.SIGTERM)
        ended = agent.watch(lambda: None)

    assert (ended.ending, ended.exit_code, ended.signal) == (Ending.EXITED, None, signal.SIGTERM)


@needs_linux
def test_a_launcher_killed_with_9_takes_agent_and_group_along_and_the_end_is_called_unknown(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with Agent.start(scripted(tmp_path, f"fork:{pids}", "hang"), limits()) as agent:
        children = pids_in(pids, 1)
        os.kill(agent._launcher.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(agent.pid))
        ended = agent.watch(lambda: None)

    assert (ended.exit_code, ended.signal) == (None, None)
    wait_until(lambda: not any(is_alive(pid) for pid in [agent.pid, *children]))


@needs_linux
def test_orphans_of_a_recorded_run_are_found_by_its_session(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    what = scripted(tmp_path, f"fork:{pids}", f"wait-for:{pids}", "exit:0")
    with subprocess.Popen(what.argv, cwd=tmp_path, start_new_session=True) as run_without_launcher:
        started = psutil.Process(run_without_launcher.pid).create_time()
        run_without_launcher.wait()
        orphan = pids_in(pids, 1)[0]

        assert end_orphans(run_without_launcher.pid, started) == 1
        wait_until(lambda: not is_alive(orphan))


#: Is a new process every moment: forks and ends, over and over, until it is caught or a minute is over.
RUNAWAY = """
import os, time
end = time.monotonic() + 60
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
"""


def test_one_look_that_finds_nothing_does_not_mean_that_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """An orphan that forks and ends all the time slipped through one list of processes in fifteen."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as orphan:
        looks = iter([{}, {orphan.pid: orphan.pid}])
        monkeypatch.setattr(runner, "_session", lambda _: next(looks, {}))

        assert end_orphans(orphan.pid, psutil.Process(orphan.pid).create_time()) == 1
        assert orphan.wait(timeout=30) == -signal.SIGKILL


@needs_linux
def test_orphans_that_are_another_process_every_moment_are_caught_too() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", RUNAWAY], start_new_session=True) as first:
        started = psutil.Process(first.pid).create_time()
        first.wait()

        end_orphans(first.pid, started)

        assert not any(is_in_session(pid, first.pid) for pid in psutil.pids())


def is_in_session(pid: int, leader: int) -> bool:
    try:
        return os.getsid(pid) == leader and is_alive(pid)
    except ProcessLookupError:
        return False


def test_an_agent_that_never_reads_its_5_mib_of_prompt_holds_up_nobody(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt"
    prompt.write_bytes(b"line\n" * MEGABYTE)

    ended = run(command(tmp_path, "echo", "done", stdin=prompt), limits(silence_s=10))

    assert (ended.ending, ended.exit_code, log_of(tmp_path)) == (Ending.EXITED, 0, "done\n")


def test_5_mib_of_prompt_reach_the_standard_input_whole(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt"
    prompt.write_bytes(b"line\n" * MEGABYTE)

    run(command(tmp_path, "cksum", stdin=prompt))

    assert log_of(tmp_path).split()[1] == str(5 * MEGABYTE)


def test_a_process_number_that_belongs_to_somebody_else_now_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        assert end_orphans(other.pid, time.time() - 3600) == 0
        assert other.poll() is None
        other.kill()
