"""A run on facts read anew at its turn, and the proof that the forge gives of it: real git, a stand-in forge."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pool.model import Kind, Request, Task
from pool.states import State
from pool.store import Store, Submitted
from tasks import run
from tasks.engine import Engine
from tasks.settings import Settings
from tests.helpers.config import type_table, write_config
from tests.helpers.fakes import FakeBell
from tests.helpers.stores import template
from webapp.standin.forge import StandInForge

REPO = "acme/shop"
AGENT = [sys.executable, "-m", "webapp.demo.agent"]
IDLE = ["/bin/sh", "-c", "echo I am done"]


class Scene:
    """One dev instance whose doorbells are answered in this process, and the forge that it works on."""

    def __init__(self, folder: Path, forge: StandInForge, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.forge = folder, forge
        monkeypatch.setenv("DEMO_TRACE", str(folder / "trace"))
        monkeypatch.setenv("DEMO_SCRIPT", str(folder / "script.json"))
        (folder / "script.json").write_text("{}", encoding="utf-8")
        self.tokens = {name: forge.create_user(name) for name in ("acme", "dev", "reviewer", "boss")}
        forge.create_repo(REPO)
        self.agent(AGENT)

    def agent(self, command: list[str]) -> None:
        """Let the agents be this program."""
        for name, token in self.tokens.items():
            (self.folder / f"{name}.token").write_text(token, encoding="ascii")
        types = {
            name: type_table(name, token_file=f"{name}.token", command=command, pass_env=["DEMO_TRACE", "DEMO_SCRIPT"])
            for name in ("dev", "reviewer", "boss")
        }
        service: dict[str, Any] = {"forge_url": self.forge.url, "repos": [REPO], "forge_rate": 1000}
        self.settings = Settings.load(write_config(self.folder, types=types, **service))
        database = self.settings.state_dir / "forgepool.db"
        if not database.exists():
            self.settings.state_dir.mkdir()
            database.write_bytes(template())
            self.store = Store.open(self.settings.database_url)
            with self.store.writing() as tx:
                tx.add_instance("dev-alpha", "dev")
        self.engine = Engine(self.settings, self.store, FakeBell())

    def submit(self, kind: Kind, number: int, *, rule: str | None = "a-rule", **fields: Any) -> int:
        """Queue a task as a webhook does."""
        request = Request(kind=kind, repo=REPO, number=number, **fields)
        with self.store.writing() as tx:
            submitted: Submitted = tx.submit("dev", request, by="test", rule=rule)
        return submitted.task

    def answer(self) -> None:
        """Answer one doorbell."""
        run.answer(self.engine, "dev-alpha", worker_token=None)

    def run_one(self, kind: Kind, number: int, **fields: Any) -> Task:
        """Queue a task, run it, return it."""
        task = self.submit(kind, number, **fields)
        self.answer()
        return self.task(task)

    def task(self, task: int) -> Task:
        """Read a task."""
        with self.store.reading() as tx:
            return tx.task(task)

    def prompt(self, task: int) -> str:
        """Return what the agent was told."""
        return (self.settings.state_dir / "runs" / str(task) / "prompt.md").read_text(encoding="utf-8")

    def owed(self) -> dict[str, dict[str, Any]]:
        """Return what is owed to the forge, by key."""
        with self.store.reading() as tx:
            return {effect.key: effect.body for effect in tx.list_effects(only_owed=True)}

    def watched(self) -> set[int]:
        """Return the numbers that the workflow looks at."""
        with self.store.reading() as tx:
            return set(tx.watched(REPO))

    def issue(self, **fields: Any) -> int:
        """Open an issue that is assigned to dev."""
        return self.forge.create_issue(REPO, "Sell tea", "Please.", **{"assignees": ("dev",), **fields})

    def pull(self, issue: int, **files: str) -> int:
        """Have dev open a pull request for an issue."""
        branch = f"dev/{issue}"
        self.forge.commit(REPO, branch, files or {"tea.txt": "tea\n"}, sender="dev")
        return self.forge.open_pull(REPO, "dev", branch, "Tea", body=f"Closes #{issue}")


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Return the forge with one dev instance."""
    with StandInForge(tmp_path / "forge", secret=b"s") as forge:
        made = Scene(tmp_path, forge, monkeypatch)
        yield made
        made.store.close()


# --- at its turn ---------------------------------------------------------------------------------


def test_what_became_pointless_is_withdrawn_before_an_agent_starts(scene: Scene) -> None:
    issue = scene.issue(assignees=("acme",))
    with scene.store.writing() as tx:
        tx.keep_session(f"dev:{REPO}:{issue}", "talk-1", instance="dev-alpha", task=1)

    task = scene.run_one(Kind.IMPLEMENT, issue)

    assert (task.state, task.reason) == (State.SUPERSEDED, f"#{issue} is not assigned to dev any more")
    assert not (scene.settings.state_dir / "logs" / "tasks" / f"{task.id}.log").exists()
    with scene.store.reading() as tx:
        # Nothing was cut off in the middle, so the conversation can go on.
        assert tx.session(f"dev:{REPO}:{issue}") == "talk-1"
        assert not tx.work(REPO, issue).past[-1].agent_ran


def test_what_became_something_else_is_replaced_at_once(scene: Scene) -> None:
    """Assigning once more an issue whose pull request waits for changes made the agent begin anew, seven times."""
    issue = scene.issue()
    pull = scene.pull(issue)
    scene.forge.review(REPO, pull, "reviewer", "rejected", "Say why.")

    old = scene.run_one(Kind.IMPLEMENT, issue)

    assert old.state is State.SUPERSEDED
    new = scene.task(old.id + 1)
    assert (new.request.kind, new.request.number, new.state) == (Kind.ADDRESS_REVIEW, pull, State.QUEUED)
    assert "Say why." in new.request.detail


def test_a_person_who_dispatches_by_hand_knows_why(scene: Scene) -> None:
    task = scene.run_one(Kind.IMPLEMENT, scene.issue(assignees=("acme",)), rule=None)

    assert task.state is State.SUCCEEDED


def test_facts_that_cannot_be_read_fail_the_run_and_count_towards_nothing(scene: Scene) -> None:
    issue = scene.issue()
    scene.forge.faults.refuse(every=1, status=404)

    task = scene.run_one(Kind.IMPLEMENT, issue)

    assert task.state is State.FAILED
    assert "facts could not be read" in task.reason
    with scene.store.reading() as tx:
        assert not tx.work(REPO, issue).past[-1].agent_ran


# --- the proof -----------------------------------------------------------------------------------


def test_a_run_that_the_forge_shows_to_be_done_is_a_success(scene: Scene) -> None:
    issue = scene.issue()

    task = scene.run_one(Kind.IMPLEMENT, issue)

    assert task.state is State.SUCCEEDED
    assert task.evidence is not None
    assert task.evidence.proof
    # The pull request that it opened is looked at, and the issue says what happened.
    assert {issue, issue + 1} <= scene.watched()
    assert f"report:{REPO}#{issue}" in scene.owed()


def test_an_agent_that_only_says_so_has_done_nothing(scene: Scene) -> None:
    scene.agent(IDLE)

    task = scene.run_one(Kind.IMPLEMENT, scene.issue())

    assert task.state is State.FAILED
    assert task.evidence is not None
    assert task.evidence.exit_code == 0
    assert task.evidence.proof in task.reason
    assert "pull request" in task.reason


def test_what_was_asked_for_must_move_the_head(scene: Scene) -> None:
    pull = scene.pull(scene.issue())
    scene.forge.review(REPO, pull, "reviewer", "rejected", "Say why.")
    scene.agent(IDLE)

    task = scene.run_one(Kind.ADDRESS_REVIEW, pull)

    assert task.state is State.FAILED
    statuses = [body for key, body in scene.owed().items() if key.startswith("status:address-review")]
    assert [body["state"] for body in statuses] == ["failure"]


# --- the prompt ----------------------------------------------------------------------------------


def test_the_words_of_the_review_are_in_the_prompt(scene: Scene) -> None:
    pull = scene.pull(scene.issue())
    scene.forge.review(REPO, pull, "reviewer", "rejected", "Say why it is tea.")

    task = scene.run_one(Kind.ADDRESS_REVIEW, pull)

    assert task.state is State.SUCCEEDED, task.reason
    assert "Say why it is tea." in scene.prompt(task.id)


@pytest.mark.parametrize("is_logged", [True, False], ids=["with a log", "without one"])
def test_the_end_of_the_failing_log_is_in_the_prompt_or_that_it_could_not_be_had(
    scene: Scene, *, is_logged: bool
) -> None:
    pull = scene.pull(scene.issue(), **{"features/x.txt": "BROKEN\n"})
    if is_logged:
        scene.forge.action_run(REPO, pull, "failure", log="step 7\nE: tea is too cold\n")
    else:
        head = scene.forge.find_pull(scene.forge.repos[REPO], pull).head_sha
        scene.forge.set_status(REPO, head, context="outside", state="failure", description="red", creator="ci")

    task = scene.run_one(Kind.FIX_CI, pull)

    assert ("tea is too cold" in scene.prompt(task.id)) is is_logged
    assert ("could not be had" in scene.prompt(task.id)) is not is_logged
    assert task.state is State.SUCCEEDED, task.reason


def test_why_earlier_tries_failed_is_in_the_prompt(scene: Scene) -> None:
    issue = scene.issue()
    scene.agent(["/bin/sh", "-c", "echo no; exit 3"])
    scene.run_one(Kind.IMPLEMENT, issue)
    scene.agent(AGENT)

    task = scene.run_one(Kind.IMPLEMENT, issue)

    assert "ended with status 3" in scene.prompt(task.id)
    assert json.loads((scene.settings.state_dir / "runs" / str(task.id) / "result.json").read_text())["summary"]
