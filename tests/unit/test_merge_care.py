"""After-care of what was merged: issues, branches, conversations, and what looks different now."""

from pathlib import Path
from typing import Any

import pytest

from pool.errors import ForgeUnavailable
from pool.lanes import MergeState, Refusal
from pool.model import Kind, Request
from pool.states import State
from pool.store import Store
from tasks.forge_values import ReviewState
from tests.helpers.clock import Clock
from tests.helpers.merging import (
    REPO,
    Chain,
    a_review,
    an_issue,
    make_chain,
)

SECOND = "c" * 40


@pytest.fixture
def chain(tmp_path: Path, store: Store, clock: Clock) -> Chain:
    """Return two instances that merge, and a forge without pull requests."""
    return make_chain(tmp_path, store, clock)


def test_issues_that_the_forge_left_open_are_closed_and_the_branch_is_deleted(chain: Chain) -> None:
    head = chain.forge.open(1, body="Closes #7. Fixes #8 and resolves #9").head_sha
    chain.forge.issues = {7: an_issue(7), 8: an_issue(8, state="closed"), 9: an_issue(9, is_pull=True)}
    chain.enter()
    chain.run()

    assert chain.effects() == {
        "close 7": {"why": "#1 was merged"},
        "delete-branch 1": {"branch": "dev/1", "sha": head},
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"is_fork": True},
        {"head_ref": "release"},  # the base of another one
        {"head_ref": "dev/2"},  # the head of another one
        {"head_ref": "develop"},  # the default branch
        {"head_ref": "refs/pull/1/head"},  # gone already
    ],
)
def test_a_branch_that_others_need_stays(chain: Chain, changes: dict[str, Any]) -> None:
    chain.forge.default_branch = "develop"
    chain.forge.open(2, base_ref="release")
    chain.forge.open(1, **changes)
    chain.enter()
    chain.run()

    assert chain.of().state is MergeState.MERGED
    assert chain.effects() == {}


def test_branches_stay_where_they_are_to_be_kept(tmp_path: Path, store: Store, clock: Clock) -> None:
    chain = make_chain(tmp_path, store, clock, delete_branches=False)
    chain.forge.open()
    chain.enter()
    chain.run()

    assert chain.of().state is MergeState.MERGED
    assert chain.effects() == {}


def test_what_looks_different_now_is_looked_at(chain: Chain) -> None:
    chain.forge.open(1, body="closes #7")
    chain.forge.open(2, approved=False)
    chain.forge.open(3, base_ref="next")
    chain.forge.issues = {7: an_issue(7), 8: an_issue(8), 9: an_issue(9, state="closed"), 1: an_issue(1, is_pull=True)}
    chain.forge.depends = {8: [7], 9: [7]}
    chain.enter()
    chain.run()
    chain.clock.advance(60)

    with chain.engine.store.reading() as tx:
        assert sorted(look.number for look in tx.due_looks()) == [2, 7, 8]


def test_what_waits_for_a_merged_pull_request_or_its_issue_is_taken_back(chain: Chain) -> None:
    chain.forge.open(1, body="closes #7")
    chain.forge.issues = {7: an_issue(7)}
    chain.enter()
    with chain.engine.store.writing() as tx:
        tx.add_instance("dev-a", "dev")
        tx.set_instance_state("dev-a", "paused")  # type: ignore[arg-type]
        for number, kind in ((1, Kind.REBASE), (7, Kind.IMPLEMENT), (8, Kind.IMPLEMENT)):
            tx.submit("dev", Request(kind=kind, repo=REPO, number=number), by="test")
            tx.keep_session(f"dev:{REPO}:{number}", "talk", instance="dev-a", task=1)
    chain.run()

    with chain.engine.store.reading() as tx:
        left = tx.list_tasks(states=[State.QUEUED])
        assert [task.request.number for task in left] == [8]
        assert [n for n in (1, 7, 8) if tx.session(f"dev:{REPO}:{n}")] == [8]


def test_a_forge_that_goes_away_after_the_merge_is_waited_for_without_end(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    for _ in range(3):
        chain.link()
    for _ in range(5):
        chain.forge.failures["pull"] = [ForgeUnavailable("away")]
        chain.run()
        chain.wait(7200)

    assert chain.of().state is MergeState.ACTIVE
    chain.run()
    assert chain.of().state is MergeState.MERGED


def test_one_merged_by_a_person_gets_the_same_care(chain: Chain) -> None:
    chain.forge.open(1, body="closes #7")
    chain.forge.issues = {7: an_issue(7)}
    chain.forge.change(1, state="closed", merged=True, merge_commit_sha=SECOND)
    chain.enter()

    assert chain.steps() == ["check", "care"]
    assert "close 7" in chain.effects()
    assert chain.forge.merged == []


def test_an_issue_that_an_agent_worked_on_is_done_with_it_though_the_text_does_not_say_so(chain: Chain) -> None:
    """Otherwise the agent, still assigned to an open issue without a pull request, would begin again."""
    chain.forge.open()
    chain.forge.issues = {7: an_issue(7)}
    chain.forge.linked[1] = 7
    chain.enter()
    chain.run()

    assert "close 7" in chain.effects()


def test_an_issue_that_a_person_only_mentions_stays_open(chain: Chain) -> None:
    chain.forge.open(author="carl", body="for #7")
    chain.forge.issues = {7: an_issue(7)}
    chain.forge.linked[1] = 7
    chain.enter()
    chain.run()

    assert chain.of().state is MergeState.MERGED
    assert "close 7" not in chain.effects()


def test_nobody_is_merged_whose_reviewer_changed_their_mind_at_the_last_moment(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    chain.link()
    chain.forge.reviews[1].append(a_review(ReviewState.REQUEST_CHANGES, id=2))
    chain.run()

    assert (chain.of().code, chain.forge.merged) == (Refusal.CHANGES_REQUESTED, [])
