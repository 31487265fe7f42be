"""The five steps of a run, in this process: real store, real git, real agent processes, no broker."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from pool.lanes import MergeState, Refusal
from pool.model import Evidence, Kind, Request, Task
from pool.states import InstanceState, Move, State
from pool.store import Claim, DeadLettered, Submitted, Tx
from tasks import course, merge, run
from tasks.dispatch import dispatch_by_type, ring_if_silent
from tasks.engine import Engine
from tasks.judge import Outcome
from tasks.lease import RunLease, StopRun, Why
from tests.helpers.fake_port import serve
from tests.helpers.fake_writer import FakeWriter, types_with_tokens
from tests.helpers.fakes import FakeBell
from tests.helpers.house import House
from tests.helpers.merging import HEAD

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

    def dispatch(
        self, number: int = 1, *, kind: Kind = Kind.IMPLEMENT, repo: str = "acme/widgets", **fields: Any
    ) -> int:
        """Queue a task."""
        request = Request(kind=kind, repo=repo, number=number, **fields)
        return dispatch_by_type(self.engine, "dev", request, by="test")

    def answer(self, instance: str = "dev-alpha") -> dict[str, Any]:
        """Answer one doorbell."""
        return run.answer(self.engine, instance, worker_token=None)

    def claim(self) -> Claim:
        """Begin the next task, without doing it."""
        claimed = run.claim(self.engine, "dev-alpha", worker_token=None, bell=None)
        assert isinstance(claimed, Claim)
        return claimed

    def reads(self, url: str) -> None:
        """Give every type an account on a forge."""
        settings, folder = self.house.settings, self.house.folder
        for name in types_with_tokens(folder):
            update = {"token_file": folder / f"token-{name}"}
            settings.types[name] = settings.types[name].model_copy(update=update)
        service = settings.service.model_copy(update={"forge_url": url, "forge_rate": 1000.0})
        self.engine = Engine(settings.model_copy(update={"service": service}), self.house.store, self.bell)
        (folder / "forge" / "acme" / "shop.git").symlink_to("widgets.git")

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


# --- the proof -----------------------------------------------------------------------------------

#: Says that it is done, by the file that its prompt names.
BOASTS = r'echo working; echo "{\"summary\": \"All of it is done\"}" > "$FORGEPOOL_RESULT_FILE"'


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch) -> FakeWriter:
    """Return a forge with an issue of dev; a proof is asked for without pauses."""
    monkeypatch.setattr(course, "PROOF_PAUSE_S", 0.0)
    made = FakeWriter()
    made.issue(7, assignees=["dev"])
    return made


def _pull_of_7(forge: FakeWriter) -> None:
    """Have the pull request appear that the agent would have opened."""
    if 21 not in forge.issues:
        forge.pull(21, body="Closes #7", ref="dev/7")


def test_what_the_forge_does_not_show_is_a_failure_that_says_what_is_missing_and_what_was_claimed(
    bench: Open, forge: FakeWriter
) -> None:
    here = bench("/bin/sh", "-c", BOASTS)
    with serve(forge) as url:
        here.reads(url)
        task = here.run_one(number=7, repo="acme/shop")

    assert task.state is State.FAILED
    assert task.reason == "dev has no pull request for #7; the agent said: All of it is done"
    assert task.evidence is not None
    assert (task.evidence.exit_code, task.evidence.proof) == (0, "dev has no pull request for #7")


def test_what_the_forge_shows_is_a_success_in_the_agents_own_words(bench: Open, forge: FakeWriter) -> None:
    here = bench("/bin/sh", "-c", BOASTS)
    with serve(forge) as url:
        here.reads(url)
        task = here.dispatch(7, repo="acme/shop")
        forge.on_call = lambda: _pull_of_7(forge) if _has_log(here, task) else None
        here.answer()
    done = here.house.task(task)
    with here.house.store.reading() as tx:
        watched = tx.watched("acme/shop")

    assert (done.state, done.reason) == (State.SUCCEEDED, "All of it is done")
    assert done.evidence is not None
    assert done.evidence.proof == f"dev opened #21 at {HEAD[:10]}"
    assert {7, 21} <= set(watched)


def test_without_a_token_nobody_is_asked_and_the_agents_traces_count(bench: Open, forge: FakeWriter) -> None:
    here = bench("/bin/sh", "-c", BOASTS)
    with serve(forge) as url:
        service = here.house.settings.service.model_copy(update={"forge_url": url})
        here.engine = Engine(here.house.settings.model_copy(update={"service": service}), here.house.store, here.bell)
        task = here.run_one(number=7)

    assert forge.calls == []
    assert task.state is State.SUCCEEDED
    assert task.evidence is not None
    assert task.evidence.proof == ""


@pytest.mark.parametrize(
    ("why", "move"), [(Why.SHUTDOWN, Move.INTERRUPT), (Why.CANCEL, Move.CANCEL), (Why.LEASE_LOST, Move.INTERRUPT)]
)
def test_an_order_to_stop_while_the_proof_is_asked_for_is_no_failure_of_the_agent(
    bench: Open, forge: FakeWriter, why: Why, move: Move
) -> None:
    """Work that a shutdown had cut off from its proof once counted as a failed try, and nobody took it up again."""
    here = bench("/bin/sh", "-c", BOASTS)
    orders: list[StopRun] = []
    with serve(forge) as url:
        here.reads(url)
        here.dispatch(7, repo="acme/shop")
        claimed = here.claim()
        forge.on_call = lambda: (
            orders.append(StopRun(reason="the worker shuts down", why=why)) if _has_log(here, claimed.task.id) else None
        )
        outcome = run.perform(here.engine, claimed, cast("RunLease", _Ordered(orders)))

    assert (outcome.move, outcome.why) == (move, "the worker shuts down")
    assert (outcome.evidence.exit_code, outcome.evidence.proof) == (0, "dev has no pull request for #7")


def test_a_proof_that_is_there_stays_one_when_the_order_to_stop_comes(bench: Open, forge: FakeWriter) -> None:
    here = bench("/bin/sh", "-c", BOASTS)
    orders: list[StopRun] = []

    def finish(task: int) -> None:
        if _has_log(here, task):
            _pull_of_7(forge)
            orders.append(StopRun(reason="the worker shuts down"))

    with serve(forge) as url:
        here.reads(url)
        here.dispatch(7, repo="acme/shop")
        claimed = here.claim()
        forge.on_call = lambda: finish(claimed.task.id)
        outcome = run.perform(here.engine, claimed, cast("RunLease", _Ordered(orders)))

    assert outcome.move is Move.SUCCEED
    assert outcome.looks == (21,)


def test_what_became_something_else_is_replaced_in_the_record_of_its_end(bench: Open, forge: FakeWriter) -> None:
    here = bench()
    forge.pull(21, body="Closes #7")
    forge.review(21, "reviewer", "REQUEST_CHANGES")
    with here.house.store.writing() as tx:
        tx.submit("dev", Request(kind=Kind.IMPLEMENT, repo="acme/shop", number=7), by="test", rule="a-rule")
        tx.keep_session("dev:acme/shop:7", "talk-1", instance="dev-alpha", task=1)
    with serve(forge) as url:
        here.reads(url)
        here.answer()
    first, second = _tasks(here)
    with here.house.store.reading() as tx:
        ran, kept = tx.work("acme/shop", 7).past[-1].agent_ran, tx.session("dev:acme/shop:7")

    assert (first.state, first.reason) == (State.SUPERSEDED, "the work goes on in #21")
    assert (ran, kept) == (False, "talk-1")
    assert (second.request.kind, second.request.number) == (Kind.ADDRESS_REVIEW, 21)
    assert second.rule == f"in place of {first.id}"
    assert second.created_at == first.finished_at
    assert ("dev-alpha", second.id) in here.bell.rung


def test_a_branch_that_no_worker_takes_fails_its_task_with_a_sentence(bench: Open, forge: FakeWriter) -> None:
    here = bench()
    forge.pull(21, base="main.lock")
    with serve(forge) as url:
        here.reads(url)
        task = here.run_one(kind=Kind.FIX_CI, number=21, repo="acme/shop")

    assert task.state is State.FAILED
    assert "main.lock" in task.reason
    assert "error in forgepool" not in task.reason


class _Ordered:
    """A lease whose orders come when a test gives them."""

    def __init__(self, orders: list[StopRun]) -> None:
        self._orders = orders

    def order(self) -> StopRun | None:
        """Return the first order, if one has come."""
        return self._orders[0] if self._orders else None


def _has_log(here: Bench, task: int) -> bool:
    """Tell whether the agent has ended: it has said its last word."""
    return (here.house.settings.state_dir / "runs" / str(task) / "result.json").exists()


# --- what follows --------------------------------------------------------------------------------


def _queues(number: int) -> Callable[[Tx], list[Submitted]]:
    """Return what queues one more task in the transaction of the record."""

    def then(tx: Tx) -> list[Submitted]:
        request = Request(kind=Kind.CUSTOM, repo="acme/widgets", number=number)
        return [tx.submit("dev", request, by="test")]

    return then


def _tasks(here: Bench) -> list[Task]:
    with here.house.store.reading() as tx:
        return tx.list_tasks(newest_first=False)


def test_what_comes_next_is_written_with_the_end_of_the_run_and_announced(bench: Open) -> None:
    here = bench()
    here.dispatch()
    claimed = here.claim()

    queued = run.record(here.engine, claimed, Outcome(move=Move.SUCCEED, why="done", then=_queues(2)))
    assert queued is not None
    run.follow(here.engine, claimed, queued)

    first, second = _tasks(here)
    assert (first.state, second.state) == (State.SUCCEEDED, State.QUEUED)
    assert ("dev-alpha", second.id) in here.bell.rung


def test_the_end_of_a_run_is_not_written_without_what_comes_next(bench: Open) -> None:
    here = bench()
    task = here.dispatch()

    def killed(tx: Tx) -> list[Submitted]:
        _queues(2)(tx)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.record(here.engine, here.claim(), Outcome(move=Move.SUCCEED, why="done", then=killed))

    assert [one.id for one in _tasks(here)] == [task]
    assert here.house.task(task).state is State.RUNNING


def test_an_interrupted_run_is_queued_again_and_nothing_comes_next(bench: Open) -> None:
    here = bench()
    task = here.dispatch()

    queued = run.record(here.engine, here.claim(), Outcome(move=Move.INTERRUPT, why="shut down", then=_queues(2)))

    assert queued is not None
    assert not isinstance(queued[0], DeadLettered)
    assert [(one.state, one.request.number) for one in _tasks(here)] == [(State.INTERRUPTED, 1), (State.QUEUED, 1)]
    assert here.house.task(queued[0].task or 0).retry_of == task


def test_a_run_that_lost_its_lease_has_no_say_in_what_comes_next(bench: Open) -> None:
    here = bench()
    task = here.dispatch()
    claimed = here.claim()
    with here.house.store.writing() as tx:
        tx.interrupt_run(task, fence=claimed.fence, by="test", why="its worker is gone")

    outcome = Outcome(move=Move.SUCCEED, why="done", evidence=Evidence(exit_code=0), then=_queues(2))
    queued = run.record(here.engine, claimed, outcome)

    assert queued is None
    assert [(one.id, one.state) for one in _tasks(here)] == [(task, State.INTERRUPTED)]


def test_a_link_of_a_merge_records_its_end_with_the_next_turn_of_the_lane(bench: Open) -> None:
    """A link needs no agent; without a token the first merge is refused, and the lane goes on with the second."""
    here = bench()
    here.house.add("boss-alpha", type_name="boss")
    with here.house.store.writing() as tx:
        for number in (21, 22):
            merge.enter(here.engine, tx, "acme/widgets", "main", number, head_sha=HEAD, approved_at=tx.now, by="test")
    (link,) = _tasks(here)

    here.answer("boss-alpha")
    with here.house.store.reading() as tx:
        one, two = sorted(tx.list_merges(), key=lambda merge: merge.number)
        ran = tx.work("acme/widgets", 21).past[-1].agent_ran
    following = _tasks(here)[-1]

    assert here.house.task(link.id).state is State.SUCCEEDED
    assert not ran
    assert (one.state, one.code) == (MergeState.REFUSED, Refusal.NOT_CONFIGURED)
    assert two.state is MergeState.ACTIVE
    assert (following.request.kind, following.request.number) == (Kind.MERGE, 22)
    assert ("boss-alpha", following.id) in here.bell.rung


def test_a_link_that_was_stopped_is_done_again_and_the_merge_stays_where_it_was(bench: Open) -> None:
    here = bench()
    here.house.add("boss-alpha", type_name="boss")
    with here.house.store.writing() as tx:
        merge.enter(here.engine, tx, "acme/widgets", "main", 21, head_sha=HEAD, approved_at=tx.now, by="test")
        (before,) = tx.list_merges()
    claimed = run.claim(here.engine, "boss-alpha", worker_token=None, bell=None)
    assert isinstance(claimed, Claim)

    lease = cast("RunLease", _Ordered([StopRun(reason="the worker shuts down")]))
    queued = run.record(here.engine, claimed, run.perform(here.engine, claimed, lease))
    with here.house.store.reading() as tx:
        (after,) = tx.list_merges()
    first, again = _tasks(here)

    assert queued
    assert (first.state, again.state) == (State.INTERRUPTED, State.QUEUED)
    assert (again.request, again.retry_of) == (first.request, first.id)
    assert (after.state, after.link, after.step) == (before.state, before.link, before.step)
