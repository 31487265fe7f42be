"""What each rule makes of an event."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pool.model import Kind
from pool.states import State, Verdict
from pool.subject import Subject
from tests.helpers.deliveries import load, names, real_deliveries
from webapp.commands import Command, Dispatch, EnterLane, ForgetSessions, Outcome, Remember, Supersede
from webapp.events import CiEvent, IssueEvent, parse
from webapp.rules import RULES, Facts, decide

FACTS = Facts(
    types_by_login={"dev": "dev", "dev-two": "dev", "reviewer": "reviewer", "boss": "boss"}, merge_type="boss"
)
LIVE = frozenset({State.QUEUED, State.RUNNING})
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
ISSUE = Subject(repo="acme/widgets", number=7, is_pull=False, assignees=(), updated_at=NOON - timedelta(hours=4))
PULL = Subject(
    repo="acme/widgets", number=21, is_pull=True, author="dev", head_ref="dev/7", updated_at=ISSUE.updated_at
)

_RULE_OF_REAL = {
    "forgejo-issue-comment.json": "comment-command",
    "forgejo-pr.json": "pull-changed",
    "forgejo-pr-comment.json": "comment-command",
    "forgejo-action-run-pr.json": "ci-not-failed",
    "forgejo-push.json": "anything-else",
    "issue-assign-event.json": "issue-assigned",
    "issue-label-event.json": "issue-changed",
    "pull-request-review-event.json": "review-comment",
    "hookpullrequestreviewack.json": "approved",
}


def sample(name: str) -> Any:
    """Parse a sample; Any, because each test knows what it becomes."""
    told = load(name)
    return parse(told.body, headers=told.headers)


def issue(*assignees: str, **changes: Any) -> IssueEvent:
    """Return an `assigned` of issue 7 at noon."""
    event: IssueEvent = sample("issue-assigned.json")
    return replace(event, **{"assignees": assignees, "updated_at": NOON, **changes})


def given(subject: Subject | None, **changes: Any) -> Facts:
    """Return the facts with something stored."""
    return replace(FACTS, known=subject and replace(subject, **changes))


def of(kind: type[Command], outcome: Outcome) -> list[Any]:
    """Return the commands of one kind."""
    return [command for command in outcome.commands if isinstance(command, kind)]


def only(kind: type[Command], outcome: Outcome) -> Any:
    """Return the one command of a kind."""
    (command,) = of(kind, outcome)
    return command


@pytest.mark.parametrize("name", names())
def test_every_sample_gets_its_documented_answer(name: str) -> None:
    memory: dict[int, Subject] = {}
    for earlier in load(name).after:
        event = sample(earlier)
        told = only(Remember, decide(event, replace(FACTS, known=memory.get(event.number))))
        memory[event.number] = told.subject
    event = sample(name)
    at_sha = next(
        (one for one in memory.values() if isinstance(event, CiEvent) and one.head_sha == event.head_sha), None
    )

    outcome = decide(event, replace(FACTS, known=memory.get(event.number or 0), pull_at_sha=at_sha))

    assert (outcome.verdict, outcome.rule) == (load(name).verdict, load(name).rule)
    assert load(name).status == (202 if outcome.verdict is Verdict.ACCEPTED else 200)
    assert outcome.reason


def test_every_rule_has_a_sample_a_name_of_its_own_and_a_reason() -> None:
    assert {rule.name for rule in RULES} == {load(name).rule for name in names()}
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.why.endswith(".") for rule in RULES)


def test_what_real_servers_sent_finds_its_rule() -> None:
    for delivery in real_deliveries():
        assert decide(parse(delivery.body, headers=delivery.headers), FACTS).rule == _RULE_OF_REAL[delivery.name]


def test_an_assigned_agent_implements_the_issue() -> None:
    outcome = decide(sample("issue-assigned.json"), FACTS)

    task = only(Dispatch, outcome)
    assert (task.type, task.request.kind, task.absorb) == ("dev", Kind.IMPLEMENT, LIVE)
    assert (task.request.repo, task.request.number, task.request.labels) == ("acme/widgets", 7, ("python",))
    assert (task.request.title, task.request.sender) == ("Sort widgets by size & name", "alice")
    assert only(Remember, outcome).subject.assignees == ("dev",)


def test_only_who_was_added_is_dispatched() -> None:
    outcome = decide(issue("dev", "reviewer"), given(ISSUE, assignees=("DEV",)))

    assert only(Dispatch, outcome).type == "reviewer"


def test_who_was_assigned_before_is_not_dispatched_again() -> None:
    outcome = decide(issue("dev", "alice"), given(ISSUE, assignees=("dev",)))

    assert outcome.verdict is Verdict.IGNORED
    assert "alice" in outcome.reason
    assert only(Remember, outcome).subject.assignees == ("dev", "alice")


def test_two_accounts_of_one_type_make_one_task() -> None:
    assert only(Dispatch, decide(issue("Dev", "DEV-two"), FACTS)).type == "dev"


def test_a_person_who_is_assigned_is_named_and_left_alone() -> None:
    outcome = decide(issue("alice", "zoe"), FACTS)

    assert (outcome.verdict, outcome.rule) == (Verdict.IGNORED, "issue-assigned")
    assert "alice, zoe" in outcome.reason


def test_a_reassigned_issue_drops_the_waiting_task_of_the_one_before() -> None:
    outcome = decide(issue("reviewer"), given(ISSUE, assignees=("dev",)))

    dropped = only(Supersede, outcome)
    assert (dropped.types, dropped.kinds) == (("dev",), (Kind.IMPLEMENT,))
    assert "re-assigned to reviewer" in dropped.why
    assert only(Dispatch, outcome).type == "reviewer"


@pytest.mark.parametrize("earlier", [timedelta(hours=1), timedelta(0)], ids=["later", "in-the-same-second"])
def test_an_unassigned_issue_drops_the_waiting_task(earlier: timedelta) -> None:
    stored = given(ISSUE, assignees=("dev", "alice"), updated_at=NOON - earlier)

    outcome = decide(issue(action="unassigned"), stored)

    assert (outcome.verdict, outcome.rule) == (Verdict.ACCEPTED, "issue-unassigned")
    assert only(Supersede, outcome).types == ("dev",)
    assert not of(Dispatch, outcome)
    assert only(Remember, outcome).subject.assignees == ()


def test_a_type_that_is_still_assigned_by_another_account_keeps_its_task() -> None:
    outcome = decide(issue("dev-two", action="unassigned"), given(ISSUE, assignees=("dev", "dev-two")))

    assert not of(Supersede, outcome)


def test_nobody_can_have_gone_from_an_issue_that_is_not_known() -> None:
    outcome = decide(issue("dev", action="unassigned"), FACTS)

    assert (outcome.verdict, outcome.commands) == (Verdict.IGNORED, ())


def test_an_unassignment_that_overtook_an_assignment_starts_what_it_shows() -> None:
    outcome = decide(issue("dev", action="unassigned"), given(ISSUE, assignees=("alice",)))

    assert only(Dispatch, outcome).type == "dev"


@pytest.mark.parametrize("action", ["assigned", "unassigned", "opened"])
def test_an_assignment_that_came_late_changes_nothing(action: str) -> None:
    late = given(ISSUE, assignees=("reviewer",), updated_at=NOON + timedelta(seconds=1))

    outcome = decide(issue("dev", action=action), late)

    assert (outcome.verdict, outcome.commands) == (Verdict.IGNORED, ())


def test_of_two_assignments_in_one_second_the_older_takes_nobody_away() -> None:
    """An issue created for alice and dev sends two lists, [alice] and [alice, dev], and they may change places."""
    stored = given(ISSUE, assignees=("alice", "dev"), updated_at=NOON)

    outcome = decide(issue("alice"), stored)

    assert not of(Supersede, outcome)
    assert set(only(Remember, outcome).subject.assignees) == {"alice", "dev"}


def test_an_issue_opened_for_an_agent_is_dispatched_once() -> None:
    first = decide(issue("dev"), FACTS)
    opened = decide(issue("dev", action="opened"), given(only(Remember, first).subject))

    assert of(Dispatch, first)
    assert (opened.verdict, opened.rule) == (Verdict.IGNORED, "issue-assigned")


@pytest.mark.parametrize("changes", [{"state": "closed"}, {"is_pull": True}])
def test_the_assignees_of_a_closed_issue_or_a_pull_request_start_nothing(changes: dict[str, Any]) -> None:
    assert decide(issue("dev", **changes), FACTS).verdict is Verdict.IGNORED


def test_other_news_of_an_issue_is_not_remembered() -> None:
    """A later edit that came first would make the `assigned` look stale, and its task would be lost."""
    outcome = decide(sample("issue-labels.json"), FACTS)

    assert (outcome.verdict, outcome.rule, outcome.commands) == (Verdict.IGNORED, "issue-changed", ())


@pytest.mark.parametrize(("name", "said"), [("issue-closed.json", "closed"), ("pull-merged.json", "merged")])
def test_closing_drops_all_waiting_tasks_and_ends_the_conversations(name: str, said: str) -> None:
    event = sample(name)

    outcome = decide(event, FACTS)

    dropped, forgotten = only(Supersede, outcome), only(ForgetSessions, outcome)
    assert (dropped.number, dropped.types) == (event.number, None)
    assert said in dropped.why
    assert forgotten.number == event.number
    assert only(Remember, outcome).subject.state == "closed"


def test_a_close_that_came_after_the_reopening_is_ignored() -> None:
    outcome = decide(sample("issue-closed.json"), given(ISSUE, state="open", updated_at=NOON + timedelta(hours=1)))

    assert (outcome.verdict, outcome.commands) == (Verdict.IGNORED, ())


def test_a_close_that_came_after_later_news_of_the_same_end_still_drops_what_waits() -> None:
    outcome = decide(sample("pull-merged.json"), given(PULL, state="closed", updated_at=NOON + timedelta(hours=1)))

    assert of(Supersede, outcome)
    assert not of(Remember, outcome)


def test_a_requested_agent_reviews_the_head() -> None:
    outcome = decide(sample("pull-review-requested.json"), FACTS)

    task = only(Dispatch, outcome)
    assert (task.type, task.request.kind, task.absorb) == ("reviewer", Kind.REVIEW, LIVE)
    assert (task.request.branch, task.request.base) == ("dev/7", "main")
    assert task.request.head_sha == "8f1c2d3e4a5b60718293a4b5c6d7e8f901234567"


def test_the_head_of_a_fork_is_fetched_by_number() -> None:
    outcome = decide(sample("pull-review-requested-fork.json"), FACTS)

    assert only(Dispatch, outcome).request.branch == "refs/pull/23/head"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"requested_reviewer": "alice"}, "alice is not an agent's account"),
        ({"requested_reviewer": None}, "names no reviewer"),
        ({"requested_reviewer": "Reviewer", "author": "REVIEWER"}, "nobody reviews their own work"),
        ({"state": "closed"}, "closed"),
        ({"merged": True}, "merged"),
    ],
)
def test_a_request_that_asks_no_agent_is_ignored_with_the_reason(changes: dict[str, Any], said: str) -> None:
    outcome = decide(replace(sample("pull-review-requested.json"), **changes), FACTS)

    assert (outcome.verdict, outcome.rule, of(Dispatch, outcome)) == (Verdict.IGNORED, "review-requested", [])
    assert said in outcome.reason


def test_a_request_that_came_after_the_end_is_ignored() -> None:
    ended = given(PULL, state="closed", updated_at=NOON)

    assert decide(sample("pull-review-requested.json"), ended).verdict is Verdict.IGNORED


def test_the_author_addresses_requested_changes() -> None:
    outcome = decide(sample("pull-rejected.json"), FACTS)

    task = only(Dispatch, outcome)
    assert (task.type, task.request.kind, task.absorb) == ("dev", Kind.ADDRESS_REVIEW, frozenset())
    assert task.request.detail == "`a < b` breaks for equal sizes; please add a test."
    assert task.request.branch == "dev/7"


def test_what_another_approved_is_merged() -> None:
    lane = only(EnterLane, decide(sample("pull-approved.json"), FACTS))

    assert (lane.repo, lane.base, lane.number) == ("acme/widgets", "main", 21)
    assert lane.head_sha == "1b2c3d4e5f60718293a4b5c6d7e8f90123456789"
    assert lane.approved_at == sample("pull-approved.json").updated_at


def test_an_approval_without_a_type_that_merges_says_what_to_do() -> None:
    outcome = decide(sample("pull-approved.json"), replace(FACTS, merge_type=None))

    assert outcome.verdict is Verdict.IGNORED
    assert "settings" in outcome.reason


@pytest.mark.parametrize("name", ["pull-approved.json", "pull-rejected.json"])
@pytest.mark.parametrize("changes", [{"author": "Reviewer"}, {"merged": True}, {"state": "closed"}])
def test_a_review_of_ones_own_or_of_something_ended_is_ignored(name: str, changes: dict[str, Any]) -> None:
    outcome = decide(replace(sample(name), **changes), FACTS)

    assert (outcome.verdict, of(Dispatch, outcome)) == (Verdict.IGNORED, [])


def test_changes_requested_of_a_person_are_left_to_them() -> None:
    outcome = decide(replace(sample("pull-rejected.json"), author="alice"), FACTS)

    assert (outcome.verdict, outcome.reason) == (Verdict.IGNORED, "alice is not an agent's account")


def test_a_plain_comment_is_not_a_review() -> None:
    outcome = decide(sample("pull-review-comment.json"), FACTS)

    assert (outcome.verdict, outcome.rule) == (Verdict.IGNORED, "review-comment")
    assert "not a review" in outcome.reason


def test_news_of_a_pull_request_is_remembered() -> None:
    subject = only(Remember, decide(sample("pull-synchronized.json"), given(PULL, assignees=("alice",)))).subject

    assert (subject.is_pull, subject.author, subject.head_ref) == (True, "dev", "dev/7")
    assert subject.head_sha == "1b2c3d4e5f60718293a4b5c6d7e8f90123456789"
    assert subject.assignees == ("alice",)


def test_late_news_of_a_pull_request_is_not_remembered() -> None:
    outcome = decide(sample("pull-synchronized.json"), given(PULL, updated_at=NOON))

    assert (outcome.verdict, outcome.commands) == (Verdict.IGNORED, ())


def test_the_author_repairs_failed_ci() -> None:
    outcome = decide(sample("action-run-failed.json"), FACTS)

    task = only(Dispatch, outcome)
    assert (task.type, task.request.kind, task.absorb) == ("dev", Kind.FIX_CI, LIVE)
    assert (task.request.number, task.request.branch, task.request.base) == (21, "dev/7", "main")
    assert "tests.yml" in task.request.detail
    assert "https://forge.example/acme/widgets/actions/runs/57" in task.request.detail


def test_what_is_stored_of_the_pull_request_counts_more_than_what_the_run_says() -> None:
    stored = given(PULL, author="reviewer", head_ref="renamed", title="Renamed", labels=("go",))

    task = only(Dispatch, decide(sample("action-run-failed.json"), stored))

    assert task.type == "reviewer"
    assert (task.request.branch, task.request.title, task.request.labels) == ("renamed", "Renamed", ("go",))


def test_a_failed_status_belongs_to_the_pull_request_at_its_commit() -> None:
    event = sample("gitea-status-failure.json")

    task = only(Dispatch, decide(event, replace(FACTS, pull_at_sha=PULL)))

    assert (task.type, task.request.number, task.request.branch) == ("dev", 21, "dev/7")
    assert "2 of 31 tests failed" in task.request.detail


@pytest.mark.parametrize(
    ("changes", "facts", "said"),
    [
        ({"number": None}, FACTS, "no known pull request"),
        ({"author": None}, FACTS, "who wrote #21 is not known"),
        ({"author": "alice"}, FACTS, "alice is not an agent's account"),
        ({}, given(PULL, state="closed"), "#21 is closed"),
    ],
)
def test_a_failure_that_is_nobodys_is_ignored_with_the_reason(changes: dict[str, Any], facts: Facts, said: str) -> None:
    outcome = decide(replace(sample("action-run-failed.json"), **changes), facts)

    assert (outcome.verdict, outcome.rule) == (Verdict.IGNORED, "ci-failed")
    assert said in outcome.reason


@pytest.mark.parametrize("name", ["action-run-cancelled.json", "action-run-skipped.json", "gitea-status-pending.json"])
def test_ci_that_did_not_fail_asks_for_nothing(name: str) -> None:
    outcome = decide(sample(name), replace(FACTS, pull_at_sha=PULL))

    assert (outcome.verdict, outcome.rule, outcome.commands) == (Verdict.IGNORED, "ci-not-failed", ())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("push-test.json", "test delivery"),
        ("package.json", "package created"),
        ("unknown.json", "widget_polish polished"),
    ],
)
def test_what_no_rule_asks_for_is_named(name: str, said: str) -> None:
    outcome = decide(sample(name), FACTS)

    assert (outcome.verdict, outcome.commands) == (Verdict.IGNORED, ())
    assert said in outcome.reason
