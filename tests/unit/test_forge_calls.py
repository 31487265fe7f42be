"""Each call of the client: what is asked, and what comes back."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from pool.errors import ForgeError, MergeProtected, NotAccepted, NotAllowed, NotThere, StaleHead, StillChecking
from tasks.forge import Forge
from tasks.forge_gaps import gaps
from tasks.forge_values import MergeStyle
from tests.helpers.answers import REPO, SHA, Answers, comment, issue, pull, says, status

HERE = f"/repos/{REPO}"


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def forge(answers: Answers) -> Forge:
    return answers.forge()


def sent(answers: Answers) -> tuple[str, Any]:
    """Return the last call and what was sent with it."""
    content = answers.asked[-1].content
    return answers.calls[-1], json.loads(content) if content else None


# --- which forge it is ---------------------------------------------------------------------------


def introduce(answers: Answers, version: str, *, forgejo: httpx.Response | None = None) -> None:
    """Let the forge tell what it is."""
    answers.on("GET /version", says(200, {"version": version}, Date="Mon, 05 Jan 2026 09:01:00 GMT"))
    answers.on("GET /api/forgejo/v1/version", forgejo or says(404, text="Not found"))
    answers.on("GET /user", says(200, {"login": "boss", "is_admin": False}))
    answers.on("GET /settings/api", says(200, {"max_response_items": 30, "default_paging_num": 10}))


def test_a_forgejo_tells_what_it_is(answers: Answers, forge: Forge) -> None:
    introduce(answers, "12.0.1+gitea-1.22.0")

    info = forge.info()

    assert (info.version, info.is_forgejo, info.login, info.is_admin) == ("12.0.1+gitea-1.22.0", True, "boss", False)
    assert info.max_page == 30
    assert info.clock_skew_s == 60.5


def test_a_forgejo_of_somebody_s_own_making_is_known_by_its_own_call(answers: Answers, forge: Forge) -> None:
    introduce(answers, "15.0.0-dev", forgejo=says(200, {"version": "15.0.0-dev"}))

    assert forge.info().is_forgejo


@pytest.mark.parametrize(
    "told", [says(200, text="<html>log in"), says(404, {"version": "1"}), says(303, Location="/"), says(200, {})]
)
def test_a_gitea_is_no_forgejo(answers: Answers, forge: Forge, told: httpx.Response) -> None:
    introduce(answers, "1.25.2", forgejo=told)

    assert not forge.info().is_forgejo


@pytest.mark.parametrize("date", ["", "yesterday", "99"])
def test_a_forge_without_a_clock_is_not_accused(answers: Answers, forge: Forge, date: str) -> None:
    introduce(answers, "12.0.1+gitea-1.22.0")
    answers.given["GET /version"] = [says(200, {"version": "12.0.1+gitea-1.22.0"}, Date=date)]

    assert forge.info().clock_skew_s == 0


def test_a_forge_that_does_not_tell_its_limits_has_the_usual_ones(answers: Answers, forge: Forge) -> None:
    introduce(answers, "12.0.1+gitea-1.22.0")
    answers.given["GET /settings/api"] = [says(403)]

    assert forge.info().max_page == 50


@pytest.mark.parametrize("version", [says(200, []), says(200, {"version": 5}), says(200, text="<html>")])
def test_what_is_no_forge_is_an_error(answers: Answers, forge: Forge, version: httpx.Response) -> None:
    answers.on("GET /version", version)

    with pytest.raises(ForgeError, match="GET /version"):
        forge.info()


@pytest.mark.parametrize(
    ("version", "is_forgejo", "parts"),
    [
        ("10.0.3+gitea-1.22.0", True, ["nothing was tried", "workflow has ended", "statuses", "logs"]),
        ("11.0.3+gitea-1.22.0", True, ["workflow has ended", "statuses", "logs"]),
        ("12.0.0", True, ["statuses", "logs"]),
        ("v17.0.0-dev-1", True, ["statuses", "logs"]),
        ("1.21.11", False, ["nothing was tried", "every check"]),
        ("1.23.1", False, ["every check"]),
        ("1.26.0+dev", False, []),
        ("main", False, ["not known"]),
    ],
)
def test_what_a_version_lacks_is_said(version: str, *, is_forgejo: bool, parts: list[str]) -> None:
    found = [gap.sentence for gap in gaps(version, is_forgejo=is_forgejo)]

    assert len(found) == len(parts)
    assert [sentence for sentence, part in zip(found, parts, strict=True) if part not in sentence] == []


# --- reading -------------------------------------------------------------------------------------


def test_the_repositories_are_those_that_take_changes(answers: Answers, forge: Forge) -> None:
    def repo(number: int, *, push: bool, archived: bool = False) -> dict[str, Any]:
        return {
            "id": number,
            "full_name": f"acme/{number}",
            "default_branch": "main",
            "archived": archived,
            "permissions": {"push": push},
        }

    shown = [repo(1, push=True), repo(2, push=False), repo(3, push=True, archived=True)]
    answers.on("GET /user/repos", says(200, shown), says(200, [repo(4, push=True)]), says(200, []))

    assert forge.repositories() == ["acme/1", "acme/4"]


def test_issues_of_an_assignee_are_asked_for_and_looked_at(answers: Answers, forge: Forge) -> None:
    """A forge that knows no such filter gives everything, pull requests too."""
    shown = [
        issue(1, assignees=[{"login": "Dev"}]),
        issue(2, assignees=[{"login": "ada"}]),
        issue(3),
        issue(4, assignees=[{"login": "dev"}], pull_request={}),
    ]
    answers.on(f"GET {HERE}/issues", says(200, shown, X_Total_Count="4"))

    assert [one.number for one in forge.open_issues(REPO, assigned_to="dev")] == [1]
    asked = dict(answers.asked[0].url.params)
    assert (asked["state"], asked["type"], asked["assigned_by"]) == ("open", "issues", "dev")


def test_open_pulls_of_one_base_are_looked_at_here(answers: Answers, forge: Forge) -> None:
    base = {"ref": "next", "sha": "b" * 40, "repo_id": 1}
    answers.on(f"GET {HERE}/pulls", says(200, [pull(1), pull(2, base=base)], X_Total_Count="2"))

    assert [one.number for one in forge.open_pulls(REPO)] == [1, 2]
    assert [one.number for one in forge.open_pulls(REPO, base="next")] == [2]


def test_reviews_are_read_over_all_pages_oldest_first(answers: Answers, forge: Forge) -> None:
    def review(number: int) -> dict[str, Any]:
        return {"id": number, "user": {"login": "r"}, "state": "COMMENT", "commit_id": SHA}

    answers.on(f"GET {HERE}/pulls/8/reviews", says(200, [review(5), review(2)]), says(200, [review(3)]), says(200, []))

    assert [one.id for one in forge.reviews(REPO, 8)] == [2, 3, 5]


def test_statuses_are_read_over_all_pages(answers: Answers, forge: Forge) -> None:
    first, second = [status(9, "ci", "success")], [status(1, "ci", "failure"), status(2, "lint", "failure")]
    answers.on(f"GET {HERE}/commits/{SHA}/statuses", says(200, first), says(200, second), says(200, []))

    assert [(one.context, one.state) for one in forge.statuses(REPO, SHA)] == [("ci", "success"), ("lint", "failure")]


def test_a_commit_without_statuses_has_none(answers: Answers, forge: Forge) -> None:
    answers.on(f"GET {HERE}/commits/{SHA}/statuses", says(200, text="null"))

    assert forge.statuses(REPO, SHA) == ()


def test_comments_of_an_issue_come_at_once(answers: Answers, forge: Forge) -> None:
    answers.on(f"GET {HERE}/issues/7/comments", says(200, [comment(1), comment(2)]))

    assert [one.id for one in forge.comments(REPO, 7)] == [1, 2]
    assert len(answers.calls) == 1


def test_comments_since_a_moment_are_asked_for_in_utc(answers: Answers, forge: Forge) -> None:
    answers.on(f"GET {HERE}/issues/comments", says(200, [comment()], X_Total_Count="1"))
    since = datetime(2026, 1, 5, 10, 30, tzinfo=timezone(timedelta(hours=1)))

    assert [one.number for one in forge.comments_since(REPO, since)] == [7]
    assert dict(answers.asked[0].url.params)["since"] == "2026-01-05T09:30:00Z"


@pytest.mark.parametrize("method", ["blockers", "blocked"])
def test_where_dependencies_are_turned_off_there_are_none(forge: Forge, method: str) -> None:
    assert getattr(forge, method)(REPO, 7) == []


def test_blockers_may_be_elsewhere_or_hidden(answers: Answers, forge: Forge) -> None:
    shown = [issue(1, repository={"full_name": "acme/wares"}), {"id": 0, "number": 0}, {"id": 0, "number": 0}]
    answers.on(f"GET {HERE}/issues/7/dependencies", says(200, shown), says(200, []))

    found = forge.blockers(REPO, 7)

    assert [(one.repo, one.number, one.is_open) for one in found] == [
        ("acme/wares", 1, True),
        (REPO, 0, True),
        (REPO, 0, True),
    ]


@pytest.mark.parametrize(
    ("permission", "may"), [("none", False), ("read", False), ("write", True), ("admin", True), ("owner", True)]
)
def test_who_may_write_is_asked(answers: Answers, forge: Forge, permission: str, *, may: bool) -> None:
    answers.on(f"GET {HERE}/collaborators/ada/permission", says(200, {"permission": permission}))

    assert forge.can_write(REPO, "ada") is may


def test_nobody_of_that_name_may_write(forge: Forge) -> None:
    assert forge.can_write(REPO, "nobody") is False


@pytest.mark.parametrize(("login", "may"), [("ada", True), ("ADA", True), ("eve", False)])
def test_who_is_no_administrator_asks_whom_issues_can_be_assigned_to(
    answers: Answers, forge: Forge, login: str, *, may: bool
) -> None:
    """Forgejo tells the rights of others to administrators only, which the accounts of agents are not."""
    answers.on(f"GET {HERE}/collaborators/{login}/permission", says(403, {"message": "Only admins can query"}))
    answers.on(f"GET {HERE}/assignees", says(200, [{"login": "ada"}, {"login": "acme"}]))

    assert forge.can_write(REPO, login) is may


def test_in_an_organisation_whom_issues_can_be_assigned_to_proves_nothing(answers: Answers, forge: Forge) -> None:
    """The list has members of teams that may only read, and they could have given orders."""
    answers.on(f"GET {HERE}/collaborators/ada/permission", says(403, {"message": "Only admins can query"}))
    answers.on(f"GET {HERE}/assignees", says(200, [{"login": "ada"}]))

    with pytest.raises(NotAllowed, match="administrator of acme/shop"):
        forge.can_write(REPO, "ada")


# --- writing -------------------------------------------------------------------------------------


def test_labels_that_the_forge_drops_are_not_told(answers: Answers, forge: Forge) -> None:
    answers.on(f"POST {HERE}/issues/7/labels", says(200, [{"id": 1, "name": "tea"}]))

    assert forge.add_labels(REPO, 7, "tea", "unknown") == ("tea",)
    assert sent(answers) == (f"POST {HERE}/issues/7/labels", {"labels": ["tea", "unknown"]})


def test_a_label_is_taken_off_by_its_id(answers: Answers, forge: Forge) -> None:
    answers.on(f"GET {HERE}/issues/7/labels", says(200, [{"id": 4, "name": "bug"}, {"id": 5, "name": "tea"}]))
    answers.on(f"DELETE {HERE}/issues/7/labels/5", says(204, text=""))

    forge.remove_label(REPO, 7, "tea")

    assert answers.calls[-1] == f"DELETE {HERE}/issues/7/labels/5"


def test_a_label_that_is_not_on_is_not_taken_off(answers: Answers, forge: Forge) -> None:
    answers.on(f"GET {HERE}/issues/7/labels", says(200, []))

    forge.remove_label(REPO, 7, "tea")

    assert len(answers.calls) == 1


def test_a_label_that_went_meanwhile_is_gone(answers: Answers, forge: Forge) -> None:
    answers.on(f"GET {HERE}/issues/7/labels", says(200, [{"id": 5, "name": "tea"}]))

    forge.remove_label(REPO, 7, "tea")

    assert answers.calls[-1].startswith("DELETE")


def test_assignees_are_replaced(answers: Answers, forge: Forge) -> None:
    answers.on(f"PATCH {HERE}/issues/7", says(201, issue(assignees=[{"login": "Dev"}])))

    assert forge.assign(REPO, 7, "dev").assignees == ("Dev",)
    assert sent(answers)[1] == {"assignees": ["dev"]}


@pytest.mark.parametrize("there", [None, [{"login": "ada"}], [{"login": "dev"}, {"login": "ada"}]])
def test_an_assignment_that_the_forge_ignores_is_an_error(
    answers: Answers, forge: Forge, there: list[dict[str, str]] | None
) -> None:
    answers.on(f"PATCH {HERE}/issues/7", says(201, issue(assignees=there)))

    with pytest.raises(NotAllowed, match="did not assign dev"):
        forge.assign(REPO, 7, "dev")


def test_an_issue_with_open_dependencies_is_not_closed(answers: Answers, forge: Forge) -> None:
    answers.on(f"PATCH {HERE}/issues/7", says(412, {"message": "cannot close this issue"}))

    with pytest.raises(NotAccepted, match="cannot close"):
        forge.close_issue(REPO, 7)


@pytest.mark.parametrize(
    ("call", "asked", "body"),
    [
        (lambda f: f.close_issue(REPO, 7), "PATCH /issues/7", {"state": "closed"}),
        (lambda f: f.add_comment(REPO, 7, "hello"), "POST /issues/7/comments", {"body": "hello"}),
        (lambda f: f.edit_comment(REPO, 3, "bye"), "PATCH /issues/comments/3", {"body": "bye"}),
        (lambda f: f.delete_comment(REPO, 3), "DELETE /issues/comments/3", None),
        (lambda f: f.react(REPO, 3, "eyes"), "POST /issues/comments/3/reactions", {"content": "eyes"}),
        (
            lambda f: f.set_status(REPO, SHA, context="forgepool/dev", state="pending", description="at work"),
            f"POST /statuses/{SHA}",
            {"context": "forgepool/dev", "state": "pending", "description": "at work", "target_url": ""},
        ),
        (
            lambda f: f.request_review(REPO, 8, "a", "b"),
            "POST /pulls/8/requested_reviewers",
            {"reviewers": ["a", "b"]},
        ),
        (
            lambda f: f.create_label(REPO, "tea", color="#00aabb", description="of tea"),
            "POST /labels",
            {"name": "tea", "color": "#00aabb", "description": "of tea"},
        ),
    ],
)
def test_each_call_that_writes(answers: Answers, forge: Forge, call: Any, asked: str, body: Any) -> None:
    whole = asked.replace(" ", f" {HERE}", 1)
    answers.on(whole, says(201, comment()))

    call(forge)

    assert sent(answers) == (whole, body)
    assert len(answers.calls) == 1


def test_a_comment_that_is_gone_is_gone(answers: Answers, forge: Forge) -> None:
    answers.on(f"DELETE {HERE}/issues/comments/3", says(404))

    forge.delete_comment(REPO, 3)


def test_a_status_is_not_set_twice_when_the_answer_is_lost(answers: Answers, forge: Forge) -> None:
    answers.on(f"POST {HERE}/statuses/{SHA}", httpx.ReadTimeout("late"))

    with pytest.raises(ForgeError):
        forge.set_status(REPO, SHA, context="c", state="success", description="")

    assert len(answers.calls) == 1


# --- merging -------------------------------------------------------------------------------------


def test_a_merge_names_the_commit_that_was_checked(answers: Answers, forge: Forge) -> None:
    answers.on(f"POST {HERE}/pulls/8/merge", says(200, text=""))

    forge.merge(REPO, 8, head_sha=SHA, style=MergeStyle.SQUASH, title="Sell tea (#8)")

    assert sent(answers)[1] == {"Do": "squash", "head_commit_id": SHA, "MergeTitleField": "Sell tea (#8)"}
    assert len(answers.calls) == 1


@pytest.mark.parametrize("sha", ["", "abc1234", "HEAD", "A" * 40, f"{SHA}\n", "g" * 40])
def test_nothing_is_merged_without_the_whole_id_of_a_commit(answers: Answers, forge: Forge, sha: str) -> None:
    """The forge takes an empty one for "whatever the head is now"."""
    with pytest.raises(NotAccepted):
        forge.merge(REPO, 8, head_sha=sha, style=MergeStyle.MERGE)

    assert answers.asked == []


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (says(201, text=""), StillChecking),
        (says(405, {"message": "Please try again later"}), StillChecking),
        (says(405, {"message": ""}), MergeProtected),
        (says(409, {"message": "head out of date"}), StaleHead),
        (says(404), NotThere),
    ],
)
def test_a_merge_that_was_none_is_an_error(
    answers: Answers, forge: Forge, answer: httpx.Response, kind: type[ForgeError]
) -> None:
    answers.on(f"POST {HERE}/pulls/8/merge", answer)

    with pytest.raises(kind) as caught:
        forge.merge(REPO, 8, head_sha=SHA, style=MergeStyle.MERGE)

    assert caught.value.call == f"POST {HERE}/pulls/8/merge"
    assert len(answers.calls) == 1


# --- branches ------------------------------------------------------------------------------------


def test_a_branch_is_deleted_once(answers: Answers, forge: Forge) -> None:
    answers.on(f"DELETE {HERE}/branches/dev/7%3Fx", says(204, text=""), says(404))

    assert forge.delete_branch(REPO, "dev/7?x") is True
    assert forge.delete_branch(REPO, "dev/7?x") is False


def test_a_protected_branch_is_not_gone(answers: Answers, forge: Forge) -> None:
    answers.on(f"DELETE {HERE}/branches/main", says(403, {"message": "branch protected"}))

    with pytest.raises(NotAllowed, match="branch protected"):
        forge.delete_branch(REPO, "main")


@pytest.mark.parametrize("branch", ["", "..", "dev/../../issues", "/dev", "dev/"])
def test_no_branch_leads_to_something_else(answers: Answers, forge: Forge, branch: str) -> None:
    with pytest.raises(NotAccepted):
        forge.delete_branch(REPO, branch)

    assert answers.asked == []


def test_the_tip_of_a_branch_is_told(answers: Answers, forge: Forge) -> None:
    answers.on(f"GET {HERE}/branches/dev/7", says(200, {"name": "dev/7", "commit": {"id": SHA}}))

    assert forge.branch_tip(REPO, "dev/7") == SHA
    assert forge.branch_tip(REPO, "gone") is None


def test_a_client_closes_at_its_end(answers: Answers) -> None:
    with answers.forge() as forge:
        pass

    assert forge._client.is_closed


def test_the_time_of_a_comment_is_aware(answers: Answers, forge: Forge) -> None:
    answers.on(f"POST {HERE}/issues/7/comments", says(201, comment()))

    assert forge.add_comment(REPO, 7, "hello").created_at == datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
