"""One reader per family of bodies: the forge's JSON becomes an event. Pure: no I/O.

Field names of the forge: modules/structs/hook.go in Forgejo.
"""

from collections.abc import Callable
from typing import Any

from tasks.payload import Node, or_none
from webapp.event_values import (
    CiEvent,
    CiStatus,
    CommentEvent,
    Event,
    IssueEvent,
    OtherEvent,
    PullEvent,
    ReviewEvent,
    ReviewVerdict,
)

MAX_TITLE = 1000  #: characters
MAX_LABELS = 200


def _subject(payload: Node, subject: Node, common: dict[str, Any]) -> dict[str, Any]:
    names = [label["name"].text().strip() for label in subject["labels"].items()[:MAX_LABELS]]
    return {
        **common,
        "action": payload["action"].name(),
        "repo": payload["repository"]["full_name"].repo(),
        "number": subject["number"].number(),
        "sender": payload["sender"].login_or_none(),
        "title": subject["title"].text()[:MAX_TITLE],
        "body": subject["body"].text(),
        "labels": tuple(sorted({name for name in names if name})),
        "state": subject["state"].one_of("open", "closed"),
        "updated_at": subject["updated_at"].time(),
        "url": subject["html_url"].url(),
    }


def _issue(payload: Node, common: dict[str, Any]) -> Event:
    issue = payload["issue"]
    logins = [user["login"].name() for user in issue["assignees"].items()]
    return IssueEvent(
        **_subject(payload, issue, common),
        assignees=tuple(dict.fromkeys(logins)),
        is_pull=not issue["pull_request"].is_null,
    )


def _comment(payload: Node, common: dict[str, Any]) -> Event:
    issue, comment = payload["issue"], payload["comment"]
    return CommentEvent(
        **_subject(payload, issue, common),
        is_pull=payload["is_pull"].flag() or not issue["pull_request"].is_null,
        comment=comment["id"].integer(),
        author=comment["user"]["login"].name(),
        text=comment["body"].text(),
    )


def _pull(payload: Node, common: dict[str, Any]) -> Event:
    return PullEvent(**_pull_fields(payload, common))


def _pull_fields(payload: Node, common: dict[str, Any]) -> dict[str, Any]:
    pull = payload["pull_request"]
    return {
        **_subject(payload, pull, common),
        "merged": pull["merged"].flag(),
        "draft": pull["draft"].flag(),
        "author": pull["user"]["login"].name(),
        "head_ref": _head_ref(pull["head"]),
        "head_sha": pull["head"]["sha"].sha(),
        "base_ref": pull["base"]["ref"].branch(),
        "is_fork": _is_fork(pull),
        "requested_reviewer": payload["requested_reviewer"].login_or_none(),
    }


def _review(payload: Node, common: dict[str, Any]) -> Event:
    review = payload["review"]
    said = "" if review.is_null else review["type"].text()
    if said and said not in _VERDICTS:
        raise review["type"].wrong("one of " + ", ".join(_VERDICTS))
    fields = _pull_fields(payload, common)
    return ReviewEvent(
        **{**fields, "sender": payload["sender"]["login"].name()},
        verdict=_VERDICTS[said or common["event_type"]],
        content="" if review.is_null else review["content"].text(),
    )


def _review_or_comment(payload: Node, common: dict[str, Any]) -> Event:
    # The Event of a review, the Event-Type of a plain comment on a pull request (modules/webhook/type.go), and the
    # Event-Type of a review in old Gitea: only the body tells.
    return (_review if payload["action"].value == "reviewed" else _comment)(payload, common)


def _run(payload: Node, common: dict[str, Any]) -> Event:
    """Read the end of a Forgejo Actions run; of what triggered it, whatever can be read."""
    run = payload["run"]
    trigger = run["event_payload"].packed()
    pull = trigger["pull_request"]
    # Runs for issues carry an issue's number; and only of a pull request's run does "#7" not name a branch.
    number = None if pull.is_null else or_none(trigger["number"].number)
    if number is None and run["event"].text().startswith("pull_request"):
        number = run["prettyref"].reference()
    is_fork = run["is_fork_pull_request"].flag() or or_none(lambda: _is_fork(pull))
    return CiEvent(
        **common,
        action=payload["action"].name(),
        repo=run["repository"]["full_name"].repo(),
        number=number,
        sender=run["trigger_user"].login_or_none(),
        # Not the action: `failure` is said of cancelled and skipped runs too (services/webhook/notifier.go).
        status=_CI_STATUS.get(run["status"].name(), CiStatus.OTHER),
        context=run["workflow_id"].text(),
        description=run["title"].text(),
        run_id=run["id"].integer(),
        url=run["html_url"].url(),
        head_sha=run["commit_sha"].sha(),
        head_ref=f"refs/pull/{number}/head" if is_fork and number else or_none(lambda: _head_ref(pull.find("head"))),
        base_ref=or_none(pull.find("base", "ref").branch),
        author=or_none(pull.find("user", "login").name),
        title=(or_none(pull.find("title").text) or "")[:MAX_TITLE],
    )


def _status(payload: Node, common: dict[str, Any]) -> Event:
    """Read a commit status. Only Gitea sends them, and they name a commit, never a pull request."""
    return CiEvent(
        **common,
        action=payload["action"].text(),
        repo=payload["repository"]["full_name"].repo(),
        number=None,
        sender=payload["sender"].login_or_none(),
        status=_CI_STATUS.get(payload["state"].name(), CiStatus.OTHER),
        context=payload["context"].text(),
        description=payload["description"].text(),
        run_id=None,
        url=payload["target_url"].url(),
        head_sha=payload["sha"].sha(),
    )


def other(payload: Node, common: dict[str, Any]) -> Event:
    """Read whatever no rule asks for, as far as it can be read."""
    before, after = payload["before"].value, payload["after"].value
    return OtherEvent(
        **common,
        action=or_none(payload["action"].name) or "",
        repo=or_none(payload.find("repository", "full_name").repo)
        or or_none(payload.find("run", "repository", "full_name").repo),
        number=or_none(payload["number"].number) or or_none(payload.find("issue", "number").number),
        sender=or_none(payload["sender"].login_or_none),
        # Nothing else marks it (routers/web/repo/setting/webhook.go).
        is_test=common["event_type"] == "push" and isinstance(before, str) and before == after,
    )


def _head_ref(head: Node) -> str:
    # services/convert/pull.go: once the branch is deleted, `ref` is refs/pull/N/head; `label` keeps the name,
    # but is empty for a pull request that was pushed without a branch.
    ref = head["ref"].branch()
    return (or_none(head["label"].branch) if ref.startswith("refs/pull/") else None) or ref


def _is_fork(pull: Node) -> bool:
    head, base = pull["head"], pull["base"]
    return head["repo"].is_null or head["repo_id"].integer() != base["repo_id"].integer()


#: The words of review.type in every version, which name the event types too.
_VERDICTS = {
    f"{prefix}{word}": verdict
    for prefix in ("pull_request_review_", "pull_request_", "")
    for word, verdict in (
        ("approved", ReviewVerdict.APPROVED),
        ("rejected", ReviewVerdict.CHANGES_REQUESTED),
        ("comment", ReviewVerdict.COMMENT),
    )
}

_CI_STATUS = {
    "failure": CiStatus.FAILURE,
    "error": CiStatus.FAILURE,
    "success": CiStatus.SUCCESS,
    "cancelled": CiStatus.CANCELLED,
    "skipped": CiStatus.SKIPPED,
}

#: Event-Type, or the Event where there is none (modules/webhook/type.go).
READERS: dict[str, Callable[[Node, dict[str, Any]], Event]] = {
    **dict.fromkeys(("issues", "issue_assign", "issue_label", "issue_milestone"), _issue),
    **dict.fromkeys(("pull_request", "pull_request_assign", "pull_request_label", "pull_request_milestone"), _pull),
    **dict.fromkeys(("pull_request_sync", "pull_request_review_request"), _pull),
    **dict.fromkeys((word for word in _VERDICTS if word.startswith("pull_request_")), _review),
    "issue_comment": _comment,
    "pull_request_comment": _review_or_comment,
    **dict.fromkeys(("action_run_success", "action_run_failure", "action_run_recover"), _run),
    "status": _status,
}
