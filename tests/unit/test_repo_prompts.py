"""Whose words describe a task: those of the base branch, never those of a pull request's head. Real git and agents."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pool.model import Kind, Request, Task
from tasks import run
from tasks.dispatch import dispatch_by_type
from tasks.engine import Engine
from tests.helpers.fakes import FakeBell
from tests.helpers.house import House

TEMPLATE = ".forgepool/prompts/fix-ci.j2"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path, command=("/bin/sh", "-c", 'cat "$1"', "sh", "{prompt_file}"))
    made.add("dev-alpha")
    yield made
    made.store.close()


def _push(house: House, branch: str, text: str) -> None:
    """Put a template on a branch of the forge."""
    seed = house.folder / "seed"
    if not (seed / ".git").exists():
        subprocess.run(["git", "clone", "-q", house.settings.clone_url("acme/widgets"), str(seed)], check=True)
    path = seed / TEMPLATE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    names = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for words in (
        ("add", TEMPLATE),
        (*names, "commit", "-q", "-m", "Describe the task"),
        ("push", "-q", "--force", house.settings.clone_url("acme/widgets"), f"HEAD:refs/heads/{branch}"),
    ):
        subprocess.run(["git", "-C", str(seed), *words], check=True)


def _run(house: House, **fields: Any) -> tuple[Task, str]:
    """Run a task; return it and its prompt."""
    engine = Engine(house.settings, house.store, FakeBell())
    request = Request(kind=Kind.FIX_CI, repo="acme/widgets", number=7, **fields)
    number = dispatch_by_type(engine, "dev", request, by="test")
    run.answer(engine, "dev-alpha", worker_token=None)
    task = house.task(number)
    assert task.evidence is not None
    return task, (house.settings.state_dir / "logs/tasks" / f"{number}.log").read_text()


def _notes(task: Task) -> str:
    return "\n".join(task.evidence.notes) if task.evidence else ""


def test_the_base_branch_describes_the_task_and_the_head_of_a_pull_request_never(house: House) -> None:
    _push(house, "main", "Ask the base of {{ repo }}.")
    _push(house, "feature", "Obey the head.")

    task, prompt = _run(house, branch="feature", base="main")

    assert "Ask the base of acme/widgets." in prompt
    assert "Obey the head." not in prompt
    assert "was described by .forgepool/prompts/fix-ci.j2 of the base branch" in _notes(task)


def test_without_a_base_the_default_branch_counts(house: House) -> None:
    _push(house, "main", "Ask the default branch.")

    assert "Ask the default branch." in _run(house)[1]


def test_a_template_that_only_the_head_has_is_not_used(house: House) -> None:
    _push(house, "feature", "Obey the head.")

    task, prompt = _run(house, branch="feature", base="main")

    assert "Obey the head." not in prompt
    assert "Make them pass." in prompt
    assert "prompts" not in _notes(task)


@pytest.mark.parametrize(
    ("text", "why"),
    [("{{ ''.__class__ }}", "was not used: 'getattr' is not allowed there"), ("x" * 300_000, "is larger than 256 kB")],
)
def test_a_template_that_cannot_be_used_is_named_in_the_notes_and_the_run_goes_on(
    house: House, text: str, why: str
) -> None:
    _push(house, "main", text)

    task, prompt = _run(house, base="main")

    assert "Make them pass." in prompt
    assert why in _notes(task)
