"""The dispatch table, end to end: from a delivery to tasks in the database."""

from typing import Any

import pytest

from pool.lanes import MergeState
from pool.model import Kind
from pool.store import Store
from tests.door.house import Door, assigned, edited, make_settings, users
from tests.helpers.clock import Clock

LATER = "2026-03-02T09:10:00Z"
LATEST = "2026-03-02T09:20:00Z"


def work(door: Door) -> list[tuple[str, str]]:
    """Return (type, state) of every task, oldest first."""
    return [(task.type, str(task.state)) for task in door.tasks()]


# --- issues --------------------------------------------------------------------------------------


def test_the_second_assignee_that_comes_later_is_the_only_one_that_starts(door: Door) -> None:
    door.post(assigned("dev"))

    reply = door.post(assigned("dev", "reviewer", at=LATER))

    assert (reply.status, reply.reason) == (202, "#7 was assigned to reviewer; task 2 on reviewer-one")
    assert work(door) == [("dev", "queued"), ("reviewer", "queued")]


def test_one_event_per_assignee_with_the_full_list_starts_each_once(door: Door) -> None:
    both = ("dev", "reviewer")

    replies = [door.post(assigned(*both)), door.post(edited("issue-assigned.json", {"issue.assignees": users(*both)}))]

    assert [reply.status for reply in replies] == [202, 200]
    assert work(door) == [("dev", "queued"), ("reviewer", "queued")]


def test_whoever_is_assigned_twice_starts_once(door: Door) -> None:
    door.post(assigned("dev"))

    reply = door.post(assigned("dev", at=LATER))

    assert (reply.status, reply.verdict, work(door)) == (200, "ignored", [("dev", "queued")])


def test_unassigning_takes_back_what_waits(door: Door) -> None:
    door.post(assigned("dev"))

    reply = door.post(assigned(action="unassigned", at=LATER))

    assert (reply.status, reply.rule, work(door)) == (202, "issue-unassigned", [("dev", "superseded")])
    assert door.task(1).reason == "#7 was unassigned"


def test_unassigned_and_assigned_anew_starts_again(door: Door) -> None:
    for news in (assigned("dev"), assigned(action="unassigned", at=LATER), assigned("dev", at=LATEST)):
        assert door.post(news).status == 202

    assert work(door) == [("dev", "superseded"), ("dev", "queued")]


def test_reassigning_to_another_type_supersedes_what_waits(door: Door) -> None:
    door.post(assigned("dev"))

    door.post(assigned(action="unassigned", at=LATER))
    door.post(assigned("reviewer", at=LATEST))

    assert work(door) == [("dev", "superseded"), ("reviewer", "queued")]


def test_reassigning_supersedes_even_when_the_unassigned_was_lost(door: Door) -> None:
    door.post(assigned("dev"))

    reply = door.post(assigned("reviewer", at=LATER))

    assert (reply.status, work(door)) == (202, [("dev", "superseded"), ("reviewer", "queued")])


def test_a_running_task_is_left_alone(door: Door) -> None:
    door.post(assigned("dev"))
    door.claim("dev-alpha")

    door.post(assigned("reviewer", at=LATER))

    assert work(door) == [("dev", "running"), ("reviewer", "queued")]


def test_what_is_dropped_is_told_even_when_nothing_new_starts(door: Door) -> None:
    """The drop was hidden behind "task 2 does this already", and the delivery did not count as accepted."""
    door.post(assigned("dev", "reviewer"))
    door.claim("reviewer-one")
    door.post(assigned("dev", action="unassigned", at=LATER))

    reply = door.post(assigned("reviewer", at=LATEST))

    assert (reply.status, reply.verdict) == (202, "accepted")
    assert "#7 no longer waits for dev" in reply.reason
    assert work(door) == [("dev", "superseded"), ("reviewer", "running")]


def test_an_older_list_that_comes_late_changes_nothing(door: Door) -> None:
    door.post(assigned("dev", "reviewer", at=LATER))

    reply = door.post(assigned("dev"))

    assert (reply.verdict, work(door)) == ("ignored", [("dev", "queued"), ("reviewer", "queued")])


def test_closing_an_issue_clears_its_queue_and_ends_its_conversations(door: Door) -> None:
    door.post(assigned("dev", "reviewer"))
    door.post(assigned("dev", number=8))
    door.claim("reviewer-one")
    with door.store.writing() as tx:
        for key in ("dev:acme/widgets:7", "reviewer:acme/widgets:7", "dev:acme/widgets:17", "dev:acme/widgets:8"):
            tx.keep_session(key, "s", instance="dev-alpha", task=1)

    reply = door.post("issue-closed.json")

    assert (reply.status, reply.rule) == (202, "closed")
    assert door.work() == [
        ("dev", "implement", 7, "superseded"),
        ("reviewer", "implement", 7, "running"),
        ("dev", "implement", 8, "queued"),
    ]
    with door.store.reading() as tx:
        left = [
            tx.session(f"{name}:acme/widgets:{n}") for name, n in (("dev", 7), ("reviewer", 7), ("dev", 17), ("dev", 8))
        ]
    assert left == [None, None, "s", "s"]


def test_assigning_a_closed_issue_starts_nobody(door: Door) -> None:
    reply = door.post(edited("issue-assigned.json", {"issue.state": "closed"}))

    assert (reply.status, door.tasks()) == (200, [])


def test_the_request_carries_what_the_agent_needs(door: Door) -> None:
    door.post("issue-assigned.json")

    request = door.tasks()[0].request
    assert (request.repo, request.number, request.kind, request.sender) == ("acme/widgets", 7, Kind.IMPLEMENT, "alice")
    assert (request.title, request.labels) == ("Sort widgets by size & name", ("python",))
    assert request.body.startswith("Sort with `<=`")
    assert request.url == "https://forge.example/acme/widgets/issues/7"
    assert (request.branch, request.head_sha) == (None, None)


# --- pull requests -------------------------------------------------------------------------------


def test_whoever_is_asked_reviews(door: Door) -> None:
    reply = door.post("pull-review-requested.json")

    [task] = door.tasks()
    assert (reply.rule, task.type, task.request.kind) == ("review-requested", "reviewer", Kind.REVIEW)
    assert (task.request.branch, task.request.base) == ("dev/7", "main")
    assert task.request.head_sha == "8f1c2d3e4a5b60718293a4b5c6d7e8f901234567"


def test_the_branch_of_a_fork_is_fetched_by_its_number(door: Door) -> None:
    door.post("pull-review-requested-fork.json")

    assert door.tasks()[0].request.branch == "refs/pull/23/head"


def test_nobody_reviews_their_own_work(door: Door) -> None:
    reply = door.post("pull-review-requested-self.json")

    assert (reply.status, reply.verdict, door.tasks()) == (200, "ignored", [])


def test_a_review_of_the_same_commit_is_asked_for_once_and_of_the_next_commit_again(door: Door) -> None:
    again = {"pull_request.updated_at": "2026-03-02T10:06:00Z"}
    pushed = {"pull_request.head.sha": "1b2c3d4e5f60718293a4b5c6d7e8f90123456789"}

    replies = [door.post(edited("pull-review-requested.json", changes)) for changes in ({}, again, again | pushed)]

    assert [(reply.status, reply.verdict) for reply in replies] == [
        (202, "accepted"),
        (200, "duplicate"),
        (202, "accepted"),
    ]
    assert len(door.tasks()) == 2


def test_requested_changes_go_to_the_author_with_the_words_of_the_review(door: Door) -> None:
    door.post("pull-rejected.json")

    [task] = door.tasks()
    assert (task.type, task.request.kind) == ("dev", Kind.ADDRESS_REVIEW)
    assert task.request.detail == "`a < b` breaks for equal sizes; please add a test."
    assert task.request.branch == "dev/7"


def test_a_second_review_while_the_first_is_addressed_is_not_swallowed(door: Door) -> None:
    door.post("pull-rejected.json")
    door.claim("dev-alpha")

    door.post(edited("pull-rejected.json", {"review.content": "And the docs."}))

    assert work(door) == [("dev", "running"), ("dev", "queued")]
    assert door.tasks()[1].request.detail == "And the docs."


def test_a_second_review_while_the_first_still_waits_keeps_its_words(door: Door) -> None:
    """The waiting task once absorbed the second reviewer's request, and what they had written was lost."""
    door.post("pull-rejected.json")

    reply = door.post(edited("pull-rejected.json", {"review.content": "And the docs."}))

    assert reply.status == 202
    assert [task.request.detail for task in door.tasks()][1] == "And the docs."
    assert len({task.instance for task in door.tasks()}) == 1


@pytest.mark.parametrize("name", ["pull-rejected.json", "pull-approved.json"])
def test_a_review_of_ones_own_does_not_count(door: Door, name: str) -> None:
    reply = door.post(edited(name, {"sender": {"login": "DEV"}}))

    assert (reply.status, door.tasks()) == (200, [])


def test_what_was_approved_is_merged_by_the_type_that_merges(door: Door) -> None:
    door.post("pull-approved.json")

    [task] = door.tasks()
    assert (task.type, task.request.kind, task.instance) == ("boss", Kind.MERGE, "boss-one")
    with door.store.reading() as tx:
        [merge] = tx.list_merges()
    assert (merge.number, merge.base, merge.state) == (21, "main", MergeState.ACTIVE)
    assert merge.head_sha == "1b2c3d4e5f60718293a4b5c6d7e8f90123456789"


def test_where_nobody_merges_an_approval_is_only_remembered(tmp_path: Any, store: Store, clock: Clock) -> None:
    door = Door(tmp_path, store, clock, make_settings(tmp_path, merge_type="nobody"))

    reply = door.post("pull-approved.json")

    assert (reply.status, reply.rule, door.tasks()) == (200, "approved", [])


def test_merging_clears_the_queue_of_a_pull_request(door: Door) -> None:
    for name in ("pull-review-requested.json", "pull-rejected.json", "pull-approved.json"):
        door.post(name)

    reply = door.post("pull-merged.json")

    assert reply.reason == "#21 was merged"
    # The chain that merges finds out by itself, and does what is to be done after a merge.
    assert work(door) == [("reviewer", "superseded"), ("dev", "superseded"), ("boss", "queued")]


# --- CI ------------------------------------------------------------------------------------------


def test_a_failed_run_goes_to_the_author_of_the_pull_request(door: Door) -> None:
    door.post("action-run-failed.json")

    [task] = door.tasks()
    assert (task.type, task.request.kind, task.request.number) == ("dev", Kind.FIX_CI, 21)
    assert task.request.detail.startswith("tests.yml failed\n")


def test_a_failed_run_of_a_persons_pull_request_is_theirs(door: Door) -> None:
    door.post(edited("pull-opened.json", {"pull_request.user": {"login": "alice"}}))

    reply = door.post("action-run-failed.json")

    assert (reply.status, door.tasks()) == (200, [])


def test_a_failed_status_finds_its_pull_request_by_the_stored_head(door: Door) -> None:
    unknown = door.post("gitea-status-failure.json")
    door.post("pull-opened.json")

    known = door.post(edited("gitea-status-failure.json"))

    assert (unknown.status, known.status) == (200, 202)
    assert door.work() == [("dev", "fix-ci", 21, "queued")]


def test_a_failed_status_of_a_commit_that_is_no_longer_the_head_is_nobodys(door: Door) -> None:
    door.post("pull-opened.json")
    door.post("pull-synchronized.json")

    reply = door.post("gitea-status-failure.json")

    assert (reply.status, door.tasks()) == (200, [])


@pytest.mark.parametrize("after", ["pull-merged.json", None])
def test_a_failure_counts_only_while_the_pull_request_is_open(door: Door, after: str | None) -> None:
    if after:
        door.post(after)

    assert door.post("action-run-failed.json").status == (200 if after else 202)


@pytest.mark.parametrize(
    "name",
    ["action-run-cancelled.json", "action-run-skipped.json", "action-run-success.json", "gitea-status-pending.json"],
)
def test_what_did_not_fail_asks_for_nothing(door: Door, name: str) -> None:
    door.post("pull-opened.json")

    assert (door.post(name).verdict, door.tasks()) == ("ignored", [])


def test_the_same_failure_of_two_workflows_is_one_task(door: Door) -> None:
    door.post("action-run-failed.json")

    reply = door.post(edited("action-run-failed.json", {"run.id": 9002, "run.workflow_id": "lint.yml"}))

    assert (reply.status, reply.verdict, len(door.tasks())) == (200, "duplicate", 1)


# --- names ---------------------------------------------------------------------------------------


def test_a_login_means_the_same_in_any_case(door: Door) -> None:
    reply = door.post(assigned("DEV"))
    again = door.post(assigned("dev", at=LATER))

    assert (reply.status, again.status, work(door)) == (202, 200, [("dev", "queued")])


def test_a_repository_means_the_same_in_any_case(door: Door) -> None:
    """Renamed to another case, a repository was taken for another one: closing it left its tasks waiting."""
    door.post(edited("issue-assigned.json", {"repository.full_name": "Acme/Widgets"}))

    door.post("issue-closed.json")

    assert [(task.request.repo, str(task.state)) for task in door.tasks()] == [("acme/widgets", "superseded")]


@pytest.mark.parametrize("name", ["acme/widget", "acme/widgets2", "evil/widgets", "acme/wídgets", "ACME/WIDGETS/"])
def test_another_repository_is_not_served(door: Door, name: str) -> None:
    reply = door.post(edited("issue-assigned.json", {"repository.full_name": name}))

    assert reply.status in (403, 400)
    assert door.tasks() == []


def test_all_repositories_are_served_where_the_settings_say_so(tmp_path: Any, store: Store, clock: Clock) -> None:
    door = Door(tmp_path, store, clock, make_settings(tmp_path, repos=["*"]))
    door.add("dev-alpha")

    door.post(edited("issue-assigned.json", {"repository.full_name": "Any/Thing"}))

    assert [task.request.repo for task in door.tasks()] == ["Any/Thing"]
