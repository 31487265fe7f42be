"""One delivery, verified and read into a frozen event. Pure: no I/O.

Nothing past this module sees the forge's JSON. Field names of the forge: modules/structs/hook.go in Forgejo.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pool.errors import BadSignature, ConfigError, Malformed, NotJson, Unsigned
from tasks.payload import Node, load_object, or_none

#: Header and what stands before the hex digits, in order of precedence: the first that is present decides.
#: Forgejo sends all four, empty when the webhook has no secret (services/webhook/shared/payloader.go).
SIGNATURES = (
    ("X-Forgejo-Signature", ""),
    ("X-Gitea-Signature", ""),
    ("X-Gogs-Signature", ""),
    ("X-Hub-Signature-256", "sha256="),
)
#: The exact type first: one Event names several kinds of body, and Forgejo leaves it empty for packages.
EVENT_HEADERS = ("X-Forgejo-Event-Type", "X-Gitea-Event-Type", "X-Forgejo-Event", "X-Gitea-Event")
DELIVERY_HEADERS = ("X-Forgejo-Delivery", "X-Gitea-Delivery")

MAX_TITLE = 1000  #: characters
MAX_LABELS = 200
_MAX_WORD = 100  #: characters of an action or an event type
_MAX_DELIVERY_ID = 200  #: characters


class ReviewVerdict(StrEnum):
    """What a review came to."""

    APPROVED = "approved"
    CHANGES_REQUESTED = "changes_requested"
    COMMENT = "comment"


class CiStatus(StrEnum):
    """What a CI run or a commit status came to."""

    FAILURE = "failure"
    SUCCESS = "success"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    OTHER = "other"  # pending, warning, and words of later versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every delivery tells."""

    delivery_id: str | None  #: of this delivery; a replay gets another one; None: not sent
    source: Literal["forgejo", "gitea"]
    event_type: str  #: as the header says it
    action: str  #: "" where the type has none
    repo: str | None  #: owner/name
    number: int | None  #: of the issue or pull request
    sender: str | None  #: login of whoever acted
    fingerprint: str  #: equal for a replay, which has a new delivery id and the same body

    @property
    def word(self) -> str:
        """The word that rules go by: the action, or what a review or a run came to."""
        return self.action


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectEvent(Event):
    """Something happened to an issue or a pull request, which now looks like this."""

    repo: str
    number: int
    title: str
    body: str
    labels: tuple[str, ...]
    state: Literal["open", "closed"]
    updated_at: datetime | None  #: aware UTC, whole seconds; None: not told
    url: str  #: for people; "" when it is not http(s)
    is_pull: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueEvent(SubjectEvent):
    """Something happened to an issue."""

    assignees: tuple[str, ...]  #: everybody who is assigned now; who was added is not told


@dataclass(frozen=True, slots=True, kw_only=True)
class PullEvent(SubjectEvent):
    """Something happened to a pull request."""

    is_pull: bool = True
    merged: bool
    draft: bool
    author: str
    head_ref: str  #: name of the head branch, in the fork if it is one
    head_sha: str | None  #: the head now; None: the forge could not tell
    base_ref: str
    is_fork: bool  #: the head branch is in another repository, or in one that is gone
    requested_reviewer: str | None

    @property
    def branch(self) -> str:
        """What to fetch from `repo` to get the head: a fork's branch has no name there."""
        return f"refs/pull/{self.number}/head" if self.is_fork else self.head_ref


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewEvent(PullEvent):
    """Somebody submitted a review. Which commit was reviewed is not told."""

    sender: str  #: the reviewer
    verdict: ReviewVerdict
    content: str

    @property
    def word(self) -> str:
        """The verdict."""
        return self.verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class CiEvent(Event):
    """A workflow run ended (Forgejo) or a commit status changed (Gitea). `number` is a pull request's."""

    repo: str
    status: CiStatus
    context: str  #: name of the workflow file or of the status
    description: str
    run_id: int | None  #: None: a commit status
    url: str  #: of the run, for people
    head_sha: str | None
    head_ref: str | None = None  #: what to fetch, as in PullEvent.branch; None: not told
    base_ref: str | None = None
    author: str | None = None  #: login of the pull request's author
    title: str = ""  #: of the pull request

    @property
    def word(self) -> str:
        """The status."""
        return self.status


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherEvent(Event):
    """Anything no rule asks for; `repo`, `number` and `sender` as far as they could be found."""

    is_test: bool  #: the forge's button "test delivery"


# --- the door ------------------------------------------------------------------------------------


def verify(body: bytes, *, headers: Mapping[str, str], secret: bytes) -> None:
    """Check the forge's HMAC-SHA256 of the raw body.

    Raises Unsigned or BadSignature, and ConfigError when there is no secret.
    """
    if not secret.strip():
        # Anybody can sign with an empty key. That is our mistake, not the sender's.
        raise ConfigError(["the webhook secret is empty, so no delivery can be trusted: set one"])
    present = ((value.strip(), prefix) for name, prefix in SIGNATURES if (value := _header(headers, name)) is not None)
    sent, prefix = next(present, ("", ""))
    if sent in {"", prefix}:
        raise Unsigned("the delivery is not signed", remedy="set the same secret on the webhook as here")
    expected = prefix + hmac.new(secret, body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), sent.encode(errors="replace")):
        raise BadSignature("the signature does not fit the body", remedy="set the same secret on the webhook as here")


def parse(body: bytes, *, headers: Mapping[str, str]) -> Event:
    """Read a delivery whose signature was verified.

    Raises NotJson or Malformed. A type that no rule asks for becomes an OtherEvent, whatever its shape.
    """
    media_type = (_header(headers, "Content-Type") or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise NotJson(
            f"the content type is {media_type[:_MAX_WORD] or 'missing'}, not application/json",
            remedy="set the webhook's content type to application/json",
        )
    event_type = _event_type(headers)
    value, canonical = _load(body)
    common = {
        "delivery_id": _delivery_id(headers),
        "source": "forgejo" if any(name.lower().startswith("x-forgejo-") for name, _ in headers.items()) else "gitea",
        "event_type": event_type,
        "fingerprint": hashlib.sha256(f"{event_type}\n{canonical}".encode()).hexdigest(),
    }
    return _PARSERS.get(event_type, _other)(Node(value), common)


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name.lower()), None)


def _event_type(headers: Mapping[str, str]) -> str:
    for name in EVENT_HEADERS:
        if word := "".join(filter(str.isprintable, _header(headers, name) or "")).strip():
            return word[:_MAX_WORD]
    raise Malformed(
        f"the header {EVENT_HEADERS[0]} (or {EVENT_HEADERS[1]}) is missing",
        remedy="add the webhook in Forgejo or Gitea, with the type Forgejo or Gitea",
    )


def _delivery_id(headers: Mapping[str, str]) -> str | None:
    """Return the id; one that cannot be an id counts as missing, since the fingerprint knows repeats as well."""
    sent = next((value for name in DELIVERY_HEADERS if (value := _header(headers, name))), "")
    return sent if sent and sent.isprintable() and len(sent) <= _MAX_DELIVERY_ID else None


def _load(body: bytes) -> tuple[dict[str, Any], str]:
    """Return the object in the body, and its canonical text without old Gitea's `secret`."""
    try:
        value = load_object(body.decode())
        value.pop("secret", None)
        return value, json.dumps(value, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, a giant number; too deep to write again
        raise Malformed(f"the body is not a JSON object: {error}") from error


# --- one reader per family of bodies -------------------------------------------------------------


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
    return (_review if payload["action"].value == "reviewed" else _other)(payload, common)


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


def _other(payload: Node, common: dict[str, Any]) -> Event:
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
_PARSERS: dict[str, Callable[[Node, dict[str, Any]], Event]] = {
    **dict.fromkeys(("issues", "issue_assign", "issue_label", "issue_milestone"), _issue),
    **dict.fromkeys(("pull_request", "pull_request_assign", "pull_request_label", "pull_request_milestone"), _pull),
    **dict.fromkeys(("pull_request_sync", "pull_request_review_request"), _pull),
    **dict.fromkeys((word for word in _VERDICTS if word.startswith("pull_request_")), _review),
    "pull_request_comment": _review_or_comment,
    **dict.fromkeys(("action_run_success", "action_run_failure", "action_run_recover"), _run),
    "status": _status,
}
