"""What is read from a delivery. Signatures: test_signatures.py; damaged deliveries: test_damage.py."""

import json
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from typing import Any

import pytest

from pool.errors import Malformed, NotJson
from tests.helpers.deliveries import Delivery, encode, headers, load, names, real_deliveries
from webapp import events
from webapp.events import (
    CiEvent,
    CiStatus,
    CommentEvent,
    Event,
    IssueEvent,
    OtherEvent,
    PullEvent,
    ReviewEvent,
    ReviewVerdict,
    parse,
)


def read(name: str, *changes: tuple[str, Any], **sent: str) -> Event:
    """Parse a sample with some members set. A path is dotted; headers can be given in place of the sample's."""
    sample = load(name)
    body = json.loads(sample.body)
    for path, value in changes:
        *way, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
        parent = body
        for step in way:
            parent = parent[step]
        parent[last] = value
    return parse(json.dumps(body).encode(), headers=headers(seed=name, **sent) if sent else sample.headers)


@pytest.mark.parametrize("name", names())
def test_every_sample_is_encoded_as_forgejo_does(name: str) -> None:
    body = load(name).body

    assert encode(json.loads(body)) == body


@pytest.mark.parametrize("name", names())
def test_every_sample_becomes_the_event_of_its_family(name: str) -> None:
    sample = load(name)

    event = parse(sample.body, headers=sample.headers)

    assert type(event).__name__ == sample.family
    assert event.repo == "acme/widgets"
    assert event.source == ("gitea" if name.startswith("gitea") else "forgejo")
    assert event.delivery_id == sample.headers["X-Gitea-Delivery"]


@pytest.mark.parametrize("delivery", [pytest.param(d, id=d.name) for d in real_deliveries()])
def test_what_real_servers_sent_becomes_the_event_of_its_family(delivery: Delivery) -> None:
    event = parse(delivery.body, headers=delivery.headers)

    assert type(event).__name__ == delivery.family
    assert (
        event.repo
        == (json.loads(delivery.body).get("repository") or json.loads(delivery.body)["run"]["repository"])["full_name"]
    )


def test_an_event_cannot_be_changed() -> None:
    event = read("issue-assigned.json")

    with pytest.raises(FrozenInstanceError):
        event.repo = "evil/repo"  # type: ignore[misc] # that is the point


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_read(content_type: str) -> None:
    sample = load("push-test.json")

    assert parse(sample.body, headers={**sample.headers, "Content-Type": content_type})


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_any_other_content_type_is_refused_with_the_remedy(content_type: str) -> None:
    sample = load("push-test.json")

    with pytest.raises(NotJson) as refusal:
        parse(sample.body, headers={**sample.headers, "Content-Type": content_type})

    assert refusal.value.remedy == "set the webhook's content type to application/json"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b'{"a": ' + b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_not_a_json_object_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed, match="not a JSON object"):
        parse(body, headers=headers(event="push", event_type="push"))


def test_a_delivery_without_event_headers_is_malformed() -> None:
    with pytest.raises(Malformed, match="X-Forgejo-Event-Type"):
        parse(b"{}", headers={"Content-Type": "application/json", "X-Forgejo-Event": " ", "X-Gitea-Event-Type": ""})


def test_the_exact_type_wins_and_the_group_is_the_fallback() -> None:
    sample = load("pull-approved.json")
    group = {name: value for name, value in sample.headers.items() if not name.endswith("-Event-Type")}

    both, group_only = parse(sample.body, headers=sample.headers), parse(sample.body, headers=group)

    assert (both.event_type, group_only.event_type) == ("pull_request_review_approved", "pull_request_approved")
    assert isinstance(group_only, ReviewEvent)
    assert group_only.verdict is ReviewVerdict.APPROVED


@pytest.mark.parametrize(("sent", "kept"), [("x" * 200, "x" * 200), ("x" * 201, None), ("a\x07b", None), ("", None)])
def test_a_delivery_id_that_cannot_be_one_counts_as_missing(sent: str, kept: str | None) -> None:
    sample = load("issue-assigned.json")

    event = parse(sample.body, headers={**sample.headers, "X-Forgejo-Delivery": sent, "X-Gitea-Delivery": ""})

    assert event.delivery_id == kept


def test_a_replay_has_the_same_fingerprint() -> None:
    sample = load("issue-assigned.json")
    reordered = json.dumps(dict(reversed(json.loads(sample.body).items())) | {"secret": "of old Gitea"}).encode()

    first = parse(sample.body, headers=sample.headers)
    replay = parse(reordered, headers=headers(event="issues", event_type="issue_assign"))

    assert replay.delivery_id != first.delivery_id
    assert replay.fingerprint == first.fingerprint


def test_another_type_or_another_value_has_another_fingerprint() -> None:
    first = read("issue-assigned.json")

    assert read("issue-assigned.json", event="issues", event_type="issues").fingerprint != first.fingerprint
    assert read("issue-assigned.json", ("commit_id", "1")).fingerprint != first.fingerprint


def test_an_issue_is_read_whole() -> None:
    event = read("issue-assigned-two.json")

    assert isinstance(event, IssueEvent)
    assert (event.action, event.number, event.sender, event.state) == ("assigned", 8, "alice", "open")
    assert event.title == "Tell apart widgets <10 mm"
    assert event.body.startswith("Sort with `<=`")
    assert (event.assignees, event.labels, event.is_pull) == (("alice", "dev"), ("python",), False)
    assert event.updated_at == datetime(2026, 3, 2, 9, 6, tzinfo=UTC)
    assert event.url == "https://forge.example/acme/widgets/issues/8"


def test_null_assignees_are_nobody() -> None:
    event = read("issue-unassigned.json")

    assert isinstance(event, IssueEvent)
    assert event.assignees == ()


def test_text_loses_what_databases_refuse_and_labels_what_means_nothing() -> None:
    labels = [{"name": " b "}, {"name": "a\0"}, {"name": "b"}, {"name": " "}]

    event = read("issue-assigned.json", ("issue.title", "a\0b\ud800c"), ("issue.labels", labels))

    assert isinstance(event, IssueEvent)
    assert (event.title, event.labels) == ("abc", ("a", "b"))


def test_titles_and_labels_are_bounded_and_bodies_are_not() -> None:
    labels = [{"name": str(n)} for n in range(500)]

    event = read(
        "issue-assigned.json", ("issue.title", "x" * 5000), ("issue.body", "y" * 5000), ("issue.labels", labels)
    )

    assert isinstance(event, IssueEvent)
    assert (len(event.title), len(event.body), len(event.labels)) == (events.MAX_TITLE, 5000, events.MAX_LABELS)


def test_a_url_that_is_no_web_address_is_dropped() -> None:
    event = read("issue-assigned.json", ("issue.html_url", "javascript:alert(1)"))

    assert isinstance(event, IssueEvent)
    assert event.url == ""


@pytest.mark.parametrize(
    ("told", "read_as"),
    [
        ("2022-03-09T16:20:23+09:00", datetime(2022, 3, 9, 7, 20, 23, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", None),
        (None, None),
    ],
)
def test_times_are_aware_utc(told: str | None, read_as: datetime | None) -> None:
    event = read("issue-assigned.json", ("issue.updated_at", told))

    assert isinstance(event, IssueEvent)
    assert event.updated_at == read_as


def test_a_pull_request_is_read_whole() -> None:
    event = read("pull-review-requested.json")

    assert isinstance(event, PullEvent)
    assert (event.number, event.author, event.requested_reviewer) == (21, "dev", "reviewer")
    assert (event.head_ref, event.branch, event.base_ref, event.is_fork) == ("dev/7", "dev/7", "main", False)
    assert (event.merged, event.draft, event.state) == (False, False, "open")
    assert event.head_sha == "8f1c2d3e4a5b60718293a4b5c6d7e8f901234567"


@pytest.mark.parametrize(
    ("label", "branch"), [("dev/7", "dev/7"), ("", "refs/pull/21/head"), (None, "refs/pull/21/head")]
)
def test_a_deleted_head_branch_keeps_its_name(label: str | None, branch: str) -> None:
    event = read("pull-merged.json", ("pull_request.head.label", label))

    assert isinstance(event, PullEvent)
    assert event.head_ref == branch


@pytest.mark.parametrize(
    ("path", "value"), [("pull_request.head.repo", None), ("pull_request.head.repo_id", -1)], ids=["gone", "elsewhere"]
)
def test_a_head_in_another_repository_is_a_fork(path: str, value: Any) -> None:
    event = read("pull-opened.json", (path, value))

    assert isinstance(event, PullEvent)
    assert (event.is_fork, event.branch) == (True, "refs/pull/21/head")


@pytest.mark.parametrize("prefix", ["pull_request_review_", "pull_request_", ""])
@pytest.mark.parametrize(
    ("word", "verdict"),
    [
        ("approved", ReviewVerdict.APPROVED),
        ("rejected", ReviewVerdict.CHANGES_REQUESTED),
        ("comment", ReviewVerdict.COMMENT),
    ],
)
def test_old_and_new_words_for_a_review_are_understood(prefix: str, word: str, verdict: ReviewVerdict) -> None:
    event = read("pull-approved.json", ("review.type", prefix + word))

    assert isinstance(event, ReviewEvent)
    assert (event.verdict, event.sender, event.content) == (verdict, "reviewer", "Reads well.")


@pytest.mark.parametrize("review", [None, {}, {"type": ""}])
def test_a_review_without_a_type_is_what_its_event_says(review: Any) -> None:
    event = read("pull-rejected.json", ("review", review))

    assert isinstance(event, ReviewEvent)
    assert (event.verdict, event.content) == (ReviewVerdict.CHANGES_REQUESTED, "")


def test_the_ambiguous_name_is_a_review_only_when_somebody_reviewed() -> None:
    name = {"event": "pull_request_comment", "event_type": ""}

    assert isinstance(read("pull-review-comment.json", **name), ReviewEvent)
    assert isinstance(read("pull-comment.json", **name), CommentEvent)
    assert isinstance(read("pull-comment.json"), CommentEvent)


def test_a_run_is_read_whole() -> None:
    event = read("action-run-failed.json")

    assert isinstance(event, CiEvent)
    assert (event.repo, event.number, event.author, event.sender) == ("acme/widgets", 21, "dev", "dev")
    assert (event.status, event.context, event.run_id) == (CiStatus.FAILURE, "tests.yml", 9001)
    assert (event.head_ref, event.base_ref, event.title) == ("dev/7", "main", "Sort widgets by size")
    assert event.head_sha == "8f1c2d3e4a5b60718293a4b5c6d7e8f901234567"


@pytest.mark.parametrize(
    ("name", "path", "word", "status"),
    [
        ("action-run-cancelled.json", "run.status", "cancelled", CiStatus.CANCELLED),
        ("action-run-failed.json", "run.status", "skipped", CiStatus.SKIPPED),
        ("action-run-failed.json", "run.status", "unheard-of", CiStatus.OTHER),
        ("gitea-status-failure.json", "state", "error", CiStatus.FAILURE),
        ("gitea-status-failure.json", "state", "failure", CiStatus.FAILURE),
        ("gitea-status-failure.json", "state", "warning", CiStatus.OTHER),
        ("gitea-status-failure.json", "state", "pending", CiStatus.OTHER),
        ("gitea-status-failure.json", "state", "success", CiStatus.SUCCESS),
    ],
)
def test_the_status_counts_and_not_the_action(name: str, path: str, word: str, status: CiStatus) -> None:
    event = read(name, (path, word))

    assert isinstance(event, CiEvent)
    assert event.status is status


@pytest.mark.parametrize("payload", ["", "not json", "[" * 5000, "[]", '{"number": "21"}', '{"number": NaN}', None, 7])
def test_a_trigger_that_cannot_be_read_leaves_the_number_to_the_ref(payload: Any) -> None:
    event = read("action-run-failed.json", ("run.event_payload", payload))

    assert isinstance(event, CiEvent)
    assert (event.number, event.author, event.head_ref) == (21, None, None)


def test_the_number_of_an_issue_or_a_branch_is_no_pull_request() -> None:
    """A workflow that an issue starts has that issue's number, and a branch may be called #12."""
    issue = read("action-run-failed.json", ("run.event", "issues"), ("run.event_payload", '{"number": 7, "issue": {}}'))
    branch = read(
        "action-run-failed.json", ("run.event", "push"), ("run.event_payload", "{}"), ("run.prettyref", "#12")
    )

    assert (issue.number, branch.number) == (None, None)


def test_the_run_of_a_fork_is_fetched_by_number() -> None:
    event = read("action-run-failed.json", ("run.is_fork_pull_request", True))

    assert isinstance(event, CiEvent)
    assert event.head_ref == "refs/pull/21/head"


def test_only_a_test_delivery_pushes_nothing() -> None:
    test, push = read("push-test.json"), read("push-test.json", ("before", "0" * 40))

    assert isinstance(test, OtherEvent)
    assert isinstance(push, OtherEvent)
    assert (test.is_test, push.is_test) == (True, False)


@pytest.mark.parametrize(
    ("name", "path", "value", "said"),
    [
        ("issue-assigned.json", "issue", None, "issue = null: use an object"),
        ("issue-assigned.json", "issue.number", "x", 'issue.number = "x": use a whole number'),
        ("issue-assigned.json", "issue.number", True, "issue.number = true: use"),
        ("issue-assigned.json", "issue.number", 0, "issue.number = 0: use"),
        ("issue-assigned.json", "issue.number", 2**63, f"issue.number = {2**63}: use"),
        ("issue-assigned.json", "issue.title", 7, "issue.title = 7: use text"),
        ("issue-assigned.json", "issue.state", "half-open", 'issue.state = "half-open": use open or closed'),
        ("issue-assigned.json", "issue.assignees", "dev", 'issue.assignees = "dev": use a list'),
        ("issue-assigned.json", "issue.assignees.0", None, "issue.assignees[0] = null: use an object"),
        ("issue-assigned.json", "issue.assignees.0.login", "", 'issue.assignees[0].login = "": use 1 to 255'),
        ("issue-assigned.json", "issue.assignees.0.login", "d\0ev", "issue.assignees[0].login ="),
        ("issue-assigned.json", "issue.assignees.0.login", "x" * 256, "issue.assignees[0].login ="),
        ("issue-assigned.json", "issue.labels", {}, "issue.labels = an object or list: use a list"),
        ("issue-assigned.json", "issue.updated_at", "2026-03-02T09:05:00", "issue.updated_at ="),
        ("issue-assigned.json", "issue.updated_at", "9999-12-31T23:59:59-09:00", "issue.updated_at ="),
        ("issue-assigned.json", "repository", {}, "repository.full_name = null: use owner/name"),
        ("issue-assigned.json", "repository.full_name", "../etc/passwd", "repository.full_name ="),
        ("issue-assigned.json", "action", None, "action = null"),
        ("issue-assigned.json", "sender", 7, "sender = 7: use an object"),
        ("pull-opened.json", "pull_request.head", None, "pull_request.head = null: use an object"),
        ("pull-opened.json", "pull_request.head.ref", "--upload-pack=x", "pull_request.head.ref ="),
        ("pull-opened.json", "pull_request.head.sha", "HEAD", "pull_request.head.sha ="),
        ("pull-opened.json", "pull_request.head.repo_id", "31", "pull_request.head.repo_id ="),
        ("pull-opened.json", "pull_request.merged", "no", 'pull_request.merged = "no": use true or false'),
        ("pull-opened.json", "pull_request.user", None, "pull_request.user = null"),
        ("pull-approved.json", "review", "yes", 'review = "yes": use an object'),
        ("pull-approved.json", "review.type", "applauded", 'review.type = "applauded": use one of'),
        ("pull-approved.json", "sender", None, "sender = null: use an object"),
        ("action-run-failed.json", "run.status", None, "run.status = null"),
        ("action-run-failed.json", "run.repository", None, "run.repository = null"),
        ("gitea-status-failure.json", "sha", "not a commit", "sha ="),
    ],
)
def test_a_wrong_member_is_named_by_its_path(name: str, path: str, value: Any, said: str) -> None:
    with pytest.raises(Malformed) as refusal:
        read(name, (path, value))

    assert str(refusal.value).startswith(said)
