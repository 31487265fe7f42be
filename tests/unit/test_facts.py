"""How facts are read, and what is remembered of them."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pool.errors import ForgeUnavailable, NotAllowed, NotThere
from pool.lanes import MergeState
from pool.subject import Subject
from pool.work import Work
from tasks.facts import read_facts
from tasks.situation import IssueFacts, PullFacts
from tests.helpers.fake_forge import FakeForge
from tests.helpers.situations import (
    BASE,
    GREEN,
    HEAD,
    OLD,
    REPO,
    approval,
    make_issue,
    make_pull,
    request,
)
from tests.helpers.yard import Yard


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yard = Yard(tmp_path)
    yield yard
    yard.close()


@pytest.fixture
def forge() -> FakeForge:
    forge = FakeForge()
    forge.add(make_issue(), make_pull())
    forge.said[21] = (request(), approval())
    forge.checks[HEAD] = GREEN
    return forge


def pull_of(yard: Yard, forge: FakeForge, number: int = 21) -> PullFacts:
    """Read a pull request."""
    facts = read_facts(forge, yard.engine, REPO, number)
    assert isinstance(facts, PullFacts)
    return facts


def issue_of(yard: Yard, forge: FakeForge, number: int = 7) -> IssueFacts:
    """Read an issue."""
    facts = read_facts(forge, yard.engine, REPO, number)
    assert isinstance(facts, IssueFacts)
    return facts


def work_of(yard: Yard, number: int = 21) -> Work:
    """Return what the store remembers."""
    with yard.store.reading() as tx:
        return tx.work(REPO, number)


# --- pull requests -------------------------------------------------------------------------------


def test_a_pull_request_is_read_with_its_reviews_its_checks_and_its_issue(yard: Yard, forge: FakeForge) -> None:
    facts = pull_of(yard, forge)

    assert (facts.pull, facts.reviews, facts.statuses) == (forge.pulls[21], forge.said[21], GREEN)
    assert facts.issue == forge.issues[7]
    assert facts.now == yard.clock.now


def test_a_known_pull_request_takes_four_calls(yard: Yard, forge: FakeForge) -> None:
    pull_of(yard, forge)
    forge.calls.clear()

    pull_of(yard, forge)

    assert forge.calls == {"pull": 1, "reviews": 1, "statuses": 1, "issue": 1}


@pytest.mark.parametrize("word", ["Closes #7", "fixes: #7", "It RESOLVED #7, at last", "Fix #7."])
def test_words_link_a_pull_request_to_its_issue(yard: Yard, forge: FakeForge, word: str) -> None:
    forge.add(make_pull(author="ada", head_ref="tea", body=word))

    assert pull_of(yard, forge).issue == forge.issues[7]
    assert work_of(yard).issue == 7


@pytest.mark.parametrize("body", ["", "See #7", "closes 7", "Closes #7x", "Closes #21"])
def test_other_words_link_nothing(yard: Yard, forge: FakeForge, body: str) -> None:
    forge.add(make_pull(author="ada", head_ref="tea", body=body))

    assert pull_of(yard, forge).issue is None


def test_the_branch_of_its_authors_type_links_it(yard: Yard, forge: FakeForge) -> None:
    forge.add(make_pull(body="", head_ref="dev/7"))

    assert pull_of(yard, forge).issue == forge.issues[7]


@pytest.mark.parametrize(
    "changes",
    [
        {"head_ref": "reviewer/7"},
        {"head_ref": "dev/7-again"},
        {"head_ref": "dev/"},
        {"head_ref": "dev/0"},
        {"head_ref": "dev/" + "9" * 40},
        {"head_ref": "dev/7", "author": "ada"},
        {"head_ref": "dev/21"},
    ],
)
def test_another_branch_or_somebody_elses_links_nothing(yard: Yard, forge: FakeForge, changes: dict[str, Any]) -> None:
    forge.add(make_pull(body="", **changes))

    assert pull_of(yard, forge).issue is None


def test_words_count_before_the_branch(yard: Yard, forge: FakeForge) -> None:
    forge.add(make_issue(number=8), make_pull(body="Closes #8", head_ref="dev/7"))

    assert pull_of(yard, forge).issue == forge.issues[8]


def test_a_link_is_remembered_when_the_words_are_gone(yard: Yard, forge: FakeForge) -> None:
    forge.add(make_pull(author="ada", head_ref="tea"))
    pull_of(yard, forge)
    forge.add(make_pull(author="ada", head_ref="tea", body=""))

    assert pull_of(yard, forge).issue == forge.issues[7]


@pytest.mark.parametrize("error", [NotThere("no"), NotAllowed("no")])
def test_a_number_that_names_nothing_links_nothing(yard: Yard, forge: FakeForge, error: Any) -> None:
    pull_of(yard, forge)
    forge.failures["issue"] = error

    assert pull_of(yard, forge).issue is None


def test_a_pull_request_is_for_no_other_pull_request(yard: Yard, forge: FakeForge) -> None:
    forge.add(make_pull(number=22, body="Closes #21", head_ref="tea"))

    assert pull_of(yard, forge, 22).issue is None


# --- what is remembered --------------------------------------------------------------------------


def test_since_when_a_head_is_known_is_remembered_and_begins_anew_with_another_head(
    yard: Yard, forge: FakeForge
) -> None:
    first = pull_of(yard, forge).work.head_since
    yard.clock.advance(60)
    assert pull_of(yard, forge).work.head_since == first
    forge.add(make_pull(head_sha=OLD))

    work = pull_of(yard, forge).work

    assert (work.head_sha, work.head_since) == (OLD, yard.clock.now)


def test_since_when_it_cannot_be_merged_is_remembered_for_its_head_and_base(yard: Yard, forge: FakeForge) -> None:
    forge.add(make_pull(mergeable=False))
    first = pull_of(yard, forge).work
    yard.clock.advance(60)

    work = pull_of(yard, forge).work

    assert work.unmergeable_at == f"{HEAD} {BASE}"
    assert work.unmergeable_since == first.unmergeable_since == yard.clock.now - timedelta(seconds=60)


@pytest.mark.parametrize("changes", [{"base_sha": OLD}, {"head_sha": OLD}])
def test_with_another_head_or_base_the_forge_checks_anew(yard: Yard, forge: FakeForge, changes: dict[str, Any]) -> None:
    forge.add(make_pull(mergeable=False))
    pull_of(yard, forge)
    yard.clock.advance(60)
    forge.add(make_pull(mergeable=False, **changes))

    assert pull_of(yard, forge).work.unmergeable_since == yard.clock.now


def test_what_can_be_merged_after_all_is_forgotten_to_have_been_unmergeable(yard: Yard, forge: FakeForge) -> None:
    forge.add(make_pull(mergeable=False))
    pull_of(yard, forge)
    forge.add(make_pull())

    work = pull_of(yard, forge).work

    assert (work.unmergeable_at, work.unmergeable_since) == (None, None)


def test_the_door_gets_to_know_the_pull_request(yard: Yard, forge: FakeForge) -> None:
    forge.add(make_pull(is_fork=True, labels=("tea",)))
    pull_of(yard, forge)

    with yard.store.reading() as tx:
        known = tx.pull_at(REPO, HEAD)

    assert known is not None
    assert (known.number, known.author, known.head_ref, known.labels) == (21, "dev", "refs/pull/21/head", ("tea",))


def test_newer_news_of_a_delivery_are_not_overwritten(yard: Yard, forge: FakeForge) -> None:
    told = forge.pulls[21].updated_at
    assert told is not None
    newer = Subject(repo=REPO, number=21, is_pull=True, state="closed", updated_at=told + timedelta(seconds=1))
    with yard.store.writing() as tx:
        tx.remember(newer)

    pull_of(yard, forge)

    with yard.store.reading() as tx:
        assert tx.subject(REPO, 21) == newer


# --- issues --------------------------------------------------------------------------------------


def test_an_issue_is_read_with_its_pull_requests_and_what_it_depends_on(yard: Yard, forge: FakeForge) -> None:
    forge.add(make_issue(number=3), make_issue(number=4, state="closed"), make_pull(number=22, body="", head_ref="tea"))
    forge.depends[7] = (3, 4)

    facts = issue_of(yard, forge)

    assert facts.issue == forge.issues[7]
    assert facts.blockers == (3,)
    assert [(pull.pull.number, pull.reviews, pull.issue) for pull in facts.pulls] == [(21, forge.said[21], facts.issue)]
    assert forge.calls == {"issue": 1, "blockers": 1, "open_pulls": 1, "reviews": 1, "statuses": 1}


def test_the_pull_requests_of_an_issue_are_linked_to_it_in_the_store(yard: Yard, forge: FakeForge) -> None:
    issue_of(yard, forge)

    assert work_of(yard).issue == 7


@pytest.mark.parametrize("merged", [True, False])
def test_what_has_ended_is_asked_about_as_far_as_it_is_known(yard: Yard, forge: FakeForge, *, merged: bool) -> None:
    issue_of(yard, forge)
    forge.add(make_pull(state="closed", merged=merged), make_pull(number=22, state="closed"))

    facts = issue_of(yard, forge)

    assert (facts.pulls, facts.ended) == ((), (forge.pulls[21],))


def test_an_ended_pull_request_that_was_deleted_is_left_out(yard: Yard, forge: FakeForge) -> None:
    issue_of(yard, forge)
    del forge.pulls[21]

    assert issue_of(yard, forge).ended == ()


def test_what_was_opened_again_while_the_forge_was_asked_has_not_ended(yard: Yard, forge: FakeForge) -> None:
    issue_of(yard, forge)

    class Late(FakeForge):
        def open_pulls(self, repo: str, *, base: str | None = None) -> list[Any]:
            del repo, base
            return []

    late = Late()
    late.add(make_issue(), make_pull())

    assert issue_of(yard, late).ended == ()


def test_the_assignees_of_an_issue_are_not_told_to_the_door(yard: Yard, forge: FakeForge) -> None:
    # It would pass over whoever is known to be assigned, and nobody would begin.
    issue_of(yard, forge)

    with yard.store.reading() as tx:
        assert tx.subject(REPO, 7) is None


def test_the_work_of_the_store_is_part_of_the_facts(yard: Yard, forge: FakeForge) -> None:
    with yard.store.writing() as tx:
        tx.hold(REPO, 7, by="ada")
        tx.enter_lane(REPO, "main", 21, head_sha=HEAD, approved_at=tx.now)

    facts = issue_of(yard, forge)

    assert facts.work.held_by == "ada"
    assert [merge.state for merge in facts.pulls[0].work.merges] == [MergeState.WAITING]
    assert pull_of(yard, forge).work.held_by == "ada"


def test_a_bare_store_goes_by_words_and_by_what_is_remembered(yard: Yard, forge: FakeForge) -> None:
    forge.add(make_pull(body="", head_ref="dev/7"))

    assert read_facts(forge, yard.store, REPO, 21).work.past == ()
    assert work_of(yard).issue is None
    pull_of(yard, forge)
    facts = read_facts(forge, yard.store, REPO, 21)

    assert isinstance(facts, PullFacts)
    assert facts.issue == forge.issues[7]


# --- errors --------------------------------------------------------------------------------------


def test_what_is_not_there_is_an_error(yard: Yard, forge: FakeForge) -> None:
    with pytest.raises(NotThere):
        read_facts(forge, yard.engine, REPO, 99)


@pytest.mark.parametrize(("number", "method"), [(21, "reviews"), (21, "statuses"), (7, "open_pulls"), (7, "blockers")])
def test_half_an_answer_is_none_and_nothing_is_remembered(
    yard: Yard, forge: FakeForge, number: int, method: str
) -> None:
    forge.failures[method] = ForgeUnavailable("away")

    with pytest.raises(ForgeUnavailable):
        read_facts(forge, yard.engine, REPO, number)
    assert work_of(yard) == Work(repo=REPO, number=21)


def test_the_kind_of_what_is_read_is_seen_by_the_forge_and_not_by_memory_of_an_issue(
    yard: Yard, forge: FakeForge
) -> None:
    with yard.store.writing() as tx:
        tx.remember(Subject(repo=REPO, number=21, is_pull=False))

    assert pull_of(yard, forge).pull == replace(forge.pulls[21])
