"""The script of the demo, and what its agents read from it: every mistake is made once, and where it was written."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from webapp.demo import agent
from webapp.demo.script import BUG, INSTANCES, OUTSIDE_CI, REPOS, SCRIPT, SHOWN, TITLES, check, number_of, repo_of

#: What the agents and the story can do wrong.
MISTAKES = {"red-ci", "changes", "hang", "crash", "conflict", "lost"}


# --- the checks of the repositories --------------------------------------------------------------


def test_good_files_pass_and_the_log_names_each() -> None:
    passes, log = check({"b.txt": "feature 2\n", "a.txt": "feature 1\n"})

    assert passes
    assert log.splitlines() == ["== checking the features", "a.txt: ok", "b.txt: ok", "all 2 files are fine"]


def test_a_broken_file_fails_and_the_log_tells_which() -> None:
    passes, log = check({"a.txt": f"feature 1\n{BUG}\n", "b.txt": "feature 2\n"})

    assert not passes
    assert log.splitlines()[1:] == ["a.txt: FAILED, it is broken", "b.txt: ok", "1 of 2 files failed"]


@pytest.mark.parametrize("mark", ["<<<<<<< HEAD", ">>>>>>> dev/4"])
def test_a_conflict_that_was_committed_unresolved_fails(mark: str) -> None:
    assert not check({"shared.txt": f"# features\n{mark}\n- feature 4\n"})[0]


def test_marks_within_a_line_are_no_conflict() -> None:
    assert check({"manual.txt": "write <<<<<<< and >>>>>>> by hand\n"})[0]


def test_a_repository_without_files_passes() -> None:
    assert check({}) == (True, "== checking the features\nall 0 files are fine")


# --- the script ----------------------------------------------------------------------------------


def test_an_issue_is_named_as_the_forge_names_it() -> None:
    assert (repo_of("acme/widgets#12"), number_of("acme/widgets#12")) == ("acme/widgets", 12)


def test_ten_issues_in_two_repositories_are_numbered_in_the_order_in_which_they_are_opened() -> None:
    numbers = defaultdict(list)
    for issue in SCRIPT:
        numbers[repo_of(issue)].append(number_of(issue))

    assert dict(numbers) == {repo: [1, 2, 3, 4, 5] for repo in REPOS}
    assert set(TITLES) == set(SCRIPT)
    assert {repo_of(SHOWN), OUTSIDE_CI} <= set(REPOS)
    assert SHOWN in SCRIPT


def test_every_mistake_is_on_the_script_and_a_conflict_needs_two_in_one_repository() -> None:
    clashing = [repo_of(issue) for issue, mistakes in SCRIPT.items() if "conflict" in mistakes]

    assert {mistake for mistakes in SCRIPT.values() for mistake in mistakes} == MISTAKES
    assert len(clashing) == 2
    assert len(set(clashing)) == 1


def test_two_instances_of_each_type_play() -> None:
    assert sorted(INSTANCES.values()) == ["boss", "boss", "dev", "dev", "reviewer", "reviewer"]


def test_the_agent_breaks_what_the_checks_look_for() -> None:
    """The agent imports nothing of ours, so both say it for themselves."""
    assert agent.BUG == BUG
    assert set(agent.PACE_S) == set(agent.DEEDS)


# --- what the agent reads from it ----------------------------------------------------------------


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a script for the agents, who work on pull request 21 of acme/widgets, which is for issue 2."""
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"acme/widgets#2": ["red-ci", "changes"]}), encoding="utf-8")
    monkeypatch.setenv("DEMO_SCRIPT", str(path))
    monkeypatch.setenv("FORGEPOOL_BRANCH", "dev/2")
    for name, value in {"KIND": "review", "NUMBER": "21", "REPO": "acme/widgets"}.items():
        monkeypatch.setattr(agent, name, value)
    return path


def test_a_pull_request_has_the_mistakes_of_the_issue_in_its_branch(script: Path) -> None:
    assert agent.issue() == "2"
    assert [agent.has(mistake) for mistake in ("red-ci", "changes", "hang")] == [True, True, False]


def test_an_issue_is_its_own(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "KIND", "implement")

    assert agent.issue() == "21"
    assert not agent.has("red-ci")


def test_an_issue_that_is_not_on_the_script_goes_well(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "REPO", "acme/gears")

    assert not agent.has("red-ci")
    assert not agent.once("red-ci")


def test_a_mistake_is_made_once_whoever_tries_again(script: Path) -> None:
    assert [agent.once("red-ci"), agent.once("red-ci"), agent.once("changes"), agent.once("hang")] == [
        True,
        False,
        True,
        False,
    ]


def test_the_same_mistake_is_made_on_each_issue(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script.write_text(json.dumps({"acme/widgets#2": ["changes"], "acme/widgets#3": ["changes"]}), encoding="utf-8")

    first = agent.once("changes")
    monkeypatch.setenv("FORGEPOOL_BRANCH", "dev/3")

    assert (first, agent.once("changes")) == (True, True)


@pytest.mark.parametrize("fails", [False, True])
def test_the_trace_tells_the_begin_and_the_end_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    trace = tmp_path / "trace"
    for name, value in {
        "DEMO_TRACE": str(trace),
        "FORGEPOOL_INSTANCE": "dev-alpha",
        "FORGEPOOL_TASK_ID": "3",
    }.items():
        monkeypatch.setenv(name, value)

    if fails:
        with pytest.raises(agent.Conflict), agent.traced():
            raise agent.Conflict
    else:
        with agent.traced():
            pass
    begin, end = (line.split() for line in trace.read_text(encoding="utf-8").splitlines())

    assert (begin[1:], end[1:]) == (["begin", "dev-alpha", "3"], ["end", "dev-alpha", "3"])
    assert float(begin[0]) <= float(end[0])
