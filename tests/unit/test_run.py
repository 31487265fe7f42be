"""The five steps of a run, in this process: real store, real git, real agent processes, no broker."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pool.model import Kind, Request, Task
from pool.states import InstanceState, State
from tasks import run
from tasks.dispatch import dispatch_by_type, ring_if_silent
from tasks.engine import Engine
from tests.helpers.fakes import FakeBell
from tests.helpers.house import House

Open = Callable[..., "Bench"]

#: Prints what Claude Code prints at the end, and knows only the conversation "alive".
FAKE_CLAUDE = """#!/bin/sh
cat > /dev/null
for word in "$@"; do
  [ "$before" = --resume ] && [ "$word" != alive ] && {
    echo "No conversation found with session ID: $word" >&2; exit 1; }
  before=$word
done
echo '{"type":"result","subtype":"success","is_error":false,"result":"done","session_id":"fresh-1"}'
"""


class Bench:
    """One instance, dev-alpha, whose doorbells are answered in this process."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.bell = FakeBell()
        self.engine = Engine(house.settings, house.store, self.bell)
        house.add("dev-alpha")

    def dispatch(self, number: int = 1, *, kind: Kind = Kind.IMPLEMENT, **fields: Any) -> int:
        """Queue a task."""
        request = Request(kind=kind, repo="acme/widgets", number=number, **fields)
        return dispatch_by_type(self.engine, "dev", request, by="test")

    def answer(self) -> dict[str, Any]:
        """Answer one doorbell."""
        return run.answer(self.engine, "dev-alpha", worker_token=None)

    def run_one(self, **fields: Any) -> Task:
        """Queue a task, run it, return it."""
        task = self.dispatch(**fields)
        self.answer()
        return self.house.task(task)

    def log(self, task: int) -> str:
        """Return what the agent printed."""
        return (self.house.settings.state_dir / "logs" / "tasks" / f"{task}.log").read_text(encoding="utf-8")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Open]:
    """Open a bench whose agent is the given command."""
    houses: list[House] = []

    def make(*words: str, **settings: Any) -> Bench:
        houses.append(House(tmp_path, command=words or ("/bin/sh", "-c", "echo hello"), **settings))
        return Bench(houses[-1])

    yield make
    for house in houses:
        house.store.close()


def test_a_doorbell_that_rings_for_nothing_runs_nothing(bench: Open) -> None:
    assert bench().answer() == {"task": None, "why": "the queue of dev-alpha is empty"}


def test_a_run_leaves_its_evidence(bench: Open) -> None:
    task = bench("/bin/sh", "-c", "echo hello; git commit -q --allow-empty -m work").run_one()

    assert task.state is State.SUCCEEDED
    assert task.evidence is not None
    assert task.evidence.exit_code == 0
    assert task.evidence.output_bytes == 6
    assert task.evidence.head_before != task.evidence.head_after


def test_the_agent_gets_the_prompt_by_file_with_the_appendix_of_the_moment_it_runs(bench: Open) -> None:
    here = bench("/bin/sh", "-c", 'cat "$1"', "sh", "{prompt_file}")
    task = here.dispatch(title="Mend the door", body="It squeaks.")
    with here.house.store.writing() as tx:
        tx.set_instance("dev-alpha", prompt_appendix="Use oil, not force.")

    here.answer()
    prompt = here.log(task)

    assert "Mend the door" in prompt
    assert "It squeaks." in prompt
    assert "Use oil, not force." in prompt


def test_the_agent_sees_nothing_of_the_service(bench: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGEPOOL_WEBHOOK_SECRET", "planted-secret")
    monkeypatch.setenv("UNRELATED_TOKEN", "planted-token")
    here = bench("/usr/bin/env")

    log = here.log(here.run_one().id)

    assert "planted" not in log
    assert "FORGEPOOL_INSTANCE=dev-alpha" in log
    assert "GIT_AUTHOR_NAME=dev" in log


def test_prompt_and_log_are_readable_by_nobody_else(bench: Open) -> None:
    here = bench()
    task = here.run_one()
    state = here.house.settings.state_dir

    for path in (state / "runs" / str(task.id) / "prompt.md", state / "logs" / "tasks" / f"{task.id}.log"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_an_agent_that_cannot_be_started_fails_with_a_sentence(bench: Open) -> None:
    task = bench("no-such-agent", "--fast").run_one()

    assert task.state is State.FAILED
    assert "no-such-agent" in task.reason
    assert "PATH" in task.reason


def test_a_branch_that_is_not_there_fails_the_task_and_the_next_one_runs(bench: Open) -> None:
    here = bench()
    bad = here.run_one(branch="no-such-branch")
    good = here.run_one(number=2)

    assert bad.state is State.FAILED
    assert "no-such-branch" in bad.reason
    assert good.state is State.SUCCEEDED


def test_an_error_of_our_own_fails_the_task_instead_of_leaving_it_running(
    bench: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = bench()

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("tasks.run.prepare", broken)
    task = here.run_one()

    assert task.state is State.FAILED
    assert task.reason == "an error in forgepool: ZeroDivisionError: a bug"


def test_a_terminated_worker_records_the_interruption_and_queues_the_work_again(
    bench: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = bench()
    first, second = here.dispatch(1), here.dispatch(2)

    def terminated(*_: object, **__: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr("tasks.run.prepare", terminated)
    with pytest.raises(SystemExit):
        here.answer()
    monkeypatch.undo()
    with here.house.store.reading() as tx:
        head = tx.task(tx.head_of_queue("dev-alpha") or 0)

    assert here.house.task(first).state is State.INTERRUPTED
    assert head.retry_of == first
    assert head.id > second
    assert ("dev-alpha", head.id) in here.bell.rung


def test_work_that_is_lost_again_and_again_becomes_a_dead_letter(bench: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    here = bench(max_interruptions=2)
    here.dispatch()

    def terminated(*_: object, **__: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr("tasks.run.prepare", terminated)
    for _ in range(3):
        with pytest.raises(SystemExit):
            here.answer()
    with here.house.store.reading() as tx:
        states = [task.state for task in tx.list_tasks(newest_first=False)]

    assert here.answer()["task"] is None
    assert states == [State.INTERRUPTED] * 3 + [State.DEAD_LETTERED]


def test_an_interrupted_run_and_its_retry_are_written_together_or_not_at_all(
    bench: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was killed between the two once left work that nobody would ever do again."""
    here = bench()
    task = here.dispatch()

    def terminated(*_: object, **__: object) -> None:
        raise SystemExit(143)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.run.prepare", terminated)
    monkeypatch.setattr("tasks.run.retry_interrupted", killed)
    with pytest.raises(KeyboardInterrupt):
        here.answer()

    assert here.house.task(task).state is State.RUNNING


def test_a_conversation_that_is_gone_is_started_afresh_once(
    bench: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = _with_claude(bench, tmp_path, monkeypatch)
    with here.house.store.writing() as tx:
        tx.keep_session("dev:acme/widgets:1", "dead-1", instance="dev-alpha", task=1)

    task = here.run_one()
    with here.house.store.reading() as tx:
        kept = tx.session("dev:acme/widgets:1")

    assert task.state is State.SUCCEEDED
    assert task.evidence is not None
    assert "the stored conversation was gone, so a new one was started" in task.evidence.notes
    assert not task.evidence.resumed
    assert kept == "fresh-1"


def test_a_live_conversation_goes_on(bench: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = _with_claude(bench, tmp_path, monkeypatch)
    with here.house.store.writing() as tx:
        tx.keep_session("dev:acme/widgets:1", "alive", instance="dev-zulu", task=1)

    task = here.run_one()

    assert task.state is State.SUCCEEDED
    assert task.evidence is not None
    assert task.evidence.resumed


def test_a_review_never_goes_on_with_an_earlier_conversation(
    bench: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = _with_claude(bench, tmp_path, monkeypatch)
    with here.house.store.writing() as tx:
        tx.keep_session("dev:acme/widgets:1", "alive", instance="dev-alpha", task=1)

    task = here.run_one(kind=Kind.REVIEW, branch="main")

    assert task.state is State.SUCCEEDED
    assert task.evidence is not None
    assert not task.evidence.resumed


def _with_claude(bench: Open, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a bench whose agent is a program called `claude` on the PATH."""
    programs = folder / "bin"
    programs.mkdir()
    program = programs / "claude"
    program.write_text(FAKE_CLAUDE, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    here = bench()
    dev = here.house.settings.types["dev"].model_copy(update={"command": None, "agent": "claude-code"})
    here.house.settings.types["dev"] = dev
    return here


def test_after_a_run_the_next_task_is_rung_for_only_if_the_broker_holds_no_message(bench: Open) -> None:
    here = bench()
    here.dispatch(1)
    lost = here.dispatch(2)
    here.bell.answered("dev-alpha")

    here.answer()

    assert here.bell.rung == [("dev-alpha", lost)]
    assert not ring_if_silent(here.engine, lost, "dev-alpha")


def test_a_paused_instance_is_left_alone(bench: Open) -> None:
    here = bench()
    task = here.dispatch()
    with here.house.store.writing() as tx:
        tx.set_instance_state("dev-alpha", InstanceState.PAUSED)

    answer = here.answer()

    assert answer == {"task": None, "why": "dev-alpha is paused"}
    assert here.house.task(task).state is State.QUEUED
