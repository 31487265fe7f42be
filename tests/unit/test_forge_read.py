"""What is read from the forge's answers."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import ForgeError
from tasks import forge_read as read
from tasks.forge_values import MergeStyle, ReviewState, Status
from tests.helpers.answers import REPO, SHA, comment, issue, pull, status

READERS = {
    "repository": read.repository,
    "issue": read.issue(REPO),
    "dependency": read.dependency(REPO),
    "pull": read.pull(REPO),
    "review": read.review,
    "review comment": read.review_comment,
    "comment": read.comment(),
    "status": read.numbered_status,
    "commit": read.commit,
    "labels": read.labels,
    "label ids": read.label_ids,
    "permission": read.is_writer,
    "tip": read.tip,
    "version": read.version,
    "account": read.account,
    "largest page": read.largest_page,
    "page path": read.page_path,
    "many": read.many(read.review),
}


def of(reader: Any, value: Any) -> Any:
    """Read a value."""
    return read.read(reader, value, "GET /it")


# --- issues --------------------------------------------------------------------------------------


def test_an_issue_is_read() -> None:
    shown = issue(
        assignees=[{"login": "dev"}, {"login": "Zoe"}],
        labels=[{"id": 2, "name": "tea"}, {"id": 1, "name": "bug"}],
    )

    found = of(read.issue(REPO), shown)

    assert (found.repo, found.number, found.title, found.author) == (REPO, 7, "Sell tea", "ada")
    assert (found.assignees, found.labels) == (("dev", "Zoe"), ("bug", "tea"))
    assert found.updated_at == datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
    assert found.is_open
    assert not found.is_pull


def test_nobody_assigned_is_null() -> None:
    assert of(read.issue(REPO), issue(assignees=None, labels=None)).assignees == ()


def test_a_deleted_author_has_no_name() -> None:
    assert of(read.issue(REPO), issue(user=None)).author == ""


def test_the_issue_side_of_a_pull_request_says_so() -> None:
    assert of(read.issue(REPO), issue(pull_request={"merged": False})).is_pull


def test_an_address_that_is_no_web_page_is_left_out() -> None:
    assert of(read.issue(REPO), issue(html_url="javascript:alert(1)")).url == ""


def test_a_dependency_may_be_in_another_repository() -> None:
    assert of(read.dependency(REPO), issue(repository={"full_name": "acme/wares"})).repo == "acme/wares"


def test_a_dependency_that_is_hidden_counts_as_open() -> None:
    """What the account may not see comes without number and state; it made the whole list unreadable."""
    found = of(read.dependency(REPO), {"id": 0, "number": 0, "state": "", "title": "", "user": None})

    assert (found.number, found.is_open) == (0, True)


# --- pull requests -------------------------------------------------------------------------------


def test_a_pull_request_is_read() -> None:
    found = of(read.pull(REPO), pull(requested_reviewers=[{"login": "reviewer"}, None], draft=True))

    assert (found.branch, found.head_sha, found.base_ref, found.base_sha) == ("dev/7", SHA, "main", "b" * 40)
    assert (found.is_fork, found.draft, found.is_behind) == (False, True, False)
    assert found.requested_reviewers == ("reviewer",)


def test_nobody_asked_to_review_is_null() -> None:
    assert of(read.pull(REPO), pull(requested_reviewers=None)).requested_reviewers == ()


def test_a_head_branch_that_is_gone_keeps_its_name() -> None:
    head = {"label": "dev/7", "ref": "refs/pull/8/head", "sha": SHA, "repo_id": 1, "repo": {}}

    assert of(read.pull(REPO), pull(head=head)).head_ref == "dev/7"


@pytest.mark.parametrize("label", ["", None, "a b"])
def test_a_head_without_a_branch_is_fetched_by_number(label: str | None) -> None:
    head: dict[str, Any] = {"label": label, "ref": "refs/pull/8/head", "sha": SHA, "repo_id": 1, "repo": {}}

    assert of(read.pull(REPO), pull(head=head)).branch == "refs/pull/8/head"


@pytest.mark.parametrize("ref", ["", None, "a b", "-x", "x" * 300])
def test_an_odd_name_of_a_head_does_not_hide_the_pull_request(ref: str | None) -> None:
    head: dict[str, Any] = {"label": ref, "ref": ref, "sha": SHA, "repo_id": 1, "repo": {}}

    assert of(read.pull(REPO), pull(head=head)).branch == "refs/pull/8/head"


@pytest.mark.parametrize("head", [{"repo_id": 2, "repo": {}}, {"repo_id": -1, "repo": None}])
def test_a_fork_is_one_also_when_it_is_gone(head: dict[str, Any]) -> None:
    found = of(read.pull(REPO), pull(head={"label": "x:patch", "ref": "patch", "sha": SHA, **head}))

    assert (found.is_fork, found.branch) == (True, "refs/pull/8/head")


def test_a_commit_that_the_forge_cannot_tell_is_empty() -> None:
    head = {"label": "dev/7", "ref": "dev/7", "sha": "", "repo_id": 1, "repo": {}}

    found = of(read.pull(REPO), pull(head=head, merge_base=None, mergeable=None))

    assert (found.head_sha, found.merge_base, found.mergeable, found.is_behind) == ("", "", False, False)


def test_a_base_that_moved_is_seen() -> None:
    assert of(read.pull(REPO), pull(merge_base="c" * 40)).is_behind


# --- reviews -------------------------------------------------------------------------------------


def review(**changes: Any) -> dict[str, Any]:
    return {"id": 3, "user": {"login": "reviewer"}, "state": "APPROVED", "commit_id": SHA, "official": True, **changes}


@pytest.mark.parametrize("state", list(ReviewState))
def test_each_verdict_is_read(state: ReviewState) -> None:
    assert of(read.review, review(state=str(state))).state is state


@pytest.mark.parametrize("state", ["approved", "APPROVED!", "", None, "UNKNOWN"])
def test_an_unknown_verdict_approves_nothing(state: str | None) -> None:
    assert of(read.review, review(state=state)).state is ReviewState.COMMENT


def test_a_team_that_was_asked_has_no_login() -> None:
    assert of(read.review, review(user=None, team={"name": "owners"}, state="REQUEST_REVIEW")).author == ""


@pytest.mark.parametrize(
    ("place", "line"),
    [({"position": 5, "original_position": 2}, 5), ({"position": 0, "original_position": 2}, 2), ({}, 0)],
)
def test_a_comment_on_a_line_tells_the_line(place: dict[str, int], line: int) -> None:
    assert of(read.review_comment, {"path": "a.py", "user": None, "body": "no", **place}).line == line


# --- comments ------------------------------------------------------------------------------------


def test_the_addresses_of_a_comment_tell_what_it_is_on() -> None:
    on_issue = of(read.comment(), comment())
    on_pull = of(read.comment(), comment(issue_url="", pull_request_url="https://f.example/git/acme/shop/pulls/12"))

    assert (on_issue.number, on_issue.is_pull) == (7, False)
    assert (on_pull.number, on_pull.is_pull) == (12, True)


@pytest.mark.parametrize("url", ["", None, "https://f.example/acme/shop/issues/", "https://f.example/issues/0"])
def test_a_comment_on_nothing_is_an_error(url: str | None) -> None:
    with pytest.raises(ForgeError, match="issue_url"):
        of(read.comment(), comment(issue_url=url))


def test_a_comment_of_a_known_issue_needs_no_address() -> None:
    assert of(read.comment(7), comment(issue_url="")).number == 7


# --- statuses and commits ------------------------------------------------------------------------


def test_a_status_has_its_state_under_either_name() -> None:
    new = {"id": 1, "context": "ci", "status": "success"}
    old = {"id": 1, "context": "ci", "state": "failure"}

    assert of(read.status, new).state == "success"
    assert of(read.status, old).state == "failure"


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("https://ci.example/1", "https://ci.example/1"),
        ("/acme/shop/actions/runs/1/jobs/0", "/acme/shop/actions/runs/1/jobs/0"),
        ("//evil.example/x", ""),
        ("javascript:alert(1)", ""),
        (None, ""),
    ],
)
def test_the_address_of_a_status_is_a_page_or_a_path(told: str | None, kept: str) -> None:
    assert of(read.status, status(1, "ci", "success", target_url=told)).target_url == kept


def test_the_newest_status_of_a_context_is_that_with_the_highest_id() -> None:
    """The forge sorts by whole seconds, so that the order within one is any."""
    shown = [
        status(2, "ci", "pending"),
        status(5, "lint", "failure"),
        status(9, "ci", "success"),
        status(3, "ci", "error"),
    ]

    found = read.newest(of(read.numbered_status, one) for one in shown)

    assert [(one.context, one.state) for one in found] == [("ci", "success"), ("lint", "failure")]


@given(st.permutations([(at, context) for at, context in enumerate("aabbbc")]))
def test_the_order_of_statuses_does_not_matter(given_order: list[tuple[int, str]]) -> None:
    def one(context: str, number: int) -> Status:
        return Status(context=context, state=str(number), description="", target_url="", creator="")

    found = read.newest((at, one(context, at)) for at, context in given_order)

    assert [(s.context, s.state) for s in found] == [("a", "1"), ("b", "4"), ("c", "5")]


def test_a_commit_is_read() -> None:
    shown = {"sha": SHA, "commit": {"tree": {"sha": "c" * 40}}, "parents": [{"sha": "d" * 40}, {"sha": "e" * 40}]}

    found = of(read.commit, shown)

    assert (found.sha, found.tree, found.parents) == (SHA, "c" * 40, ("d" * 40, "e" * 40))


@pytest.mark.parametrize("tree", ["", None, "HEAD"])
def test_a_commit_without_a_tree_is_an_error(tree: str | None) -> None:
    """Two that are not told would pass for the same content."""
    with pytest.raises(ForgeError, match=r"answer\.commit\.tree\.sha"):
        of(read.commit, {"sha": SHA, "commit": {"tree": {"sha": tree}}, "parents": None})


# --- repositories --------------------------------------------------------------------------------


def test_a_repository_tells_what_it_allows() -> None:
    shown = {
        "full_name": REPO,
        "default_branch": "main",
        "permissions": {"admin": False, "push": True, "pull": True},
        "allow_merge_commits": True,
        "allow_squash_merge": True,
        "allow_rebase": False,
        "allow_fast_forward_only_merge": True,
    }

    found = of(read.repository, shown)

    assert (found.can_push, found.can_admin, found.archived) == (True, False, False)
    assert set(found.merge_styles) == {MergeStyle.MERGE, MergeStyle.SQUASH, MergeStyle.FAST_FORWARD_ONLY}


def test_a_repository_without_permissions_may_be_written_to_by_nobody() -> None:
    found = of(read.repository, {"full_name": REPO, "default_branch": "main"})

    assert (found.can_push, found.can_admin, found.merge_styles) == (False, False, ())


# --- damage --------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
NAMES = st.sampled_from(
    ("id", "number", "user", "head", "base", "sha", "labels", "parents", "commit", "tree", "state", "position")
)


@pytest.mark.parametrize("name", READERS)
@given(value=JSON | st.dictionaries(NAMES, JSON, max_size=6))
def test_damage_is_an_error_that_names_the_call(name: str, value: Any) -> None:
    try:
        of(READERS[name], value)
    except ForgeError as error:
        assert "GET /it" in str(error)  # noqa: PT017 - most values raise nothing
        assert len(str(error)) < 700  # noqa: PT017


@pytest.mark.parametrize(
    ("reader", "whole"), [(read.issue(REPO), issue()), (read.pull(REPO), pull()), (read.comment(), comment())]
)
@given(data=st.data(), value=JSON)
def test_one_damaged_member_is_an_error_or_read(reader: Any, whole: dict[str, Any], data: Any, value: Any) -> None:
    name = data.draw(st.sampled_from(sorted(whole)))
    try:
        of(reader, {**whole, name: value})
    except ForgeError as error:
        assert name in str(error)  # noqa: PT017 - some values are fine
