"""A forge in memory that takes what is written to it, behind the real client, with failures on request.

It speaks as much HTTP as the ledger, the orders and the polls need: `FakeWriter.forges` gives clients that talk to it
without a network; `tests.helpers.fake_port` puts it behind a port, for processes of their own.
"""

import json
import re
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx

from tasks.forges import Forges, Pace
from tasks.settings import Settings
from tests.helpers.config import type_table

REPO = "acme/shop"
HEAD = "a" * 40
TYPES = ("dev", "reviewer", "boss")
WRITES = frozenset({"POST", "PATCH", "PUT", "DELETE"})


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call goes wrong: the answer's status, or None for no answer at all."""

    status: int | None = None
    acts: bool = False  #: the forge does it, and the answer is lost


@dataclass(slots=True)
class FakeWriter:
    """One repository. Its clock does not run by itself."""

    now: datetime = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
    version: str = "15.0.0+gitea-1.22.0"
    issues: dict[int, dict[str, Any]] = field(default_factory=dict)  #: pull requests too
    comments: list[dict[str, Any]] = field(default_factory=list)
    reviews: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    reactions: list[tuple[int, str, str]] = field(default_factory=list)  #: comment, login, content
    labels: set[str] = field(default_factory=set)  #: those that the repository has
    branches: dict[str, str] = field(default_factory=dict)
    writers: set[str] = field(default_factory=lambda: {"ada"})
    calls: list[tuple[str, str]] = field(default_factory=list)  #: method and path, all that were made
    failures: dict[str, list[Failure]] = field(default_factory=dict)  #: by "METHOD tail-of-path", one each
    always: dict[str, Failure] = field(default_factory=dict)  #: the same, for every call
    on_arrival: Callable[[str], object] = lambda _: None  #: called with the path of each call; others are not held up
    on_call: Callable[[], object] = lambda: None  #: called before each call
    on_write: Callable[[], object] = lambda: None  #: called before each call that writes
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _ids: Iterator[int] = field(default_factory=lambda: iter(range(1, 10**6)))

    # --- what a test sets up and asks ---------------------------------------------------------

    def issue(self, number: int, **changes: Any) -> dict[str, Any]:
        """Put an issue on the forge."""
        usual = {"title": f"Issue {number}", "body": "", "state": "open", "user": "ada", "assignees": [], "labels": []}
        self.issues[number] = {"number": number, "is_pull": False, **usual, **changes}
        return self.issues[number]

    def pull(self, number: int, **changes: Any) -> dict[str, Any]:
        """Put a pull request on the forge."""
        usual = {"user": "dev", "sha": HEAD, "ref": f"dev/{number}", "asked": [], "is_pull": True}
        return self.issue(number, **{**usual, **changes})

    def comment(self, number: int, body: str, *, by: str = "ada") -> int:
        """Have somebody write a comment."""
        comment = next(self._ids)
        times = {"at": self.now, "updated": self.now}
        self.comments.append({"id": comment, "number": number, "body": body, "user": by, **times})
        return comment

    def review(self, number: int, login: str, state: str, *, sha: str = HEAD) -> None:
        """Have somebody review, or be asked to."""
        one = {"id": next(self._ids), "user": {"login": login}, "state": state, "commit_id": sha, "official": True}
        self.reviews.setdefault(number, []).append(one)

    def bodies(self, number: int, *, by: str = "boss") -> list[str]:
        """Return what an account has written on something."""
        return [one["body"] for one in self.comments if one["number"] == number and one["user"] == by]

    def writes(self) -> Counter[str]:
        """Count the calls that write, by method and last part of the path."""
        return Counter(f"{method} {path.rsplit('/', 1)[1]}" for method, path in self.calls if method in WRITES)

    def fail(self, call: str, *failures: Failure) -> None:
        """Let the next calls of a kind, as "POST comments", go wrong, one each."""
        self.failures.setdefault(call, []).extend(failures)

    def forges(self, settings: Settings, **options: Any) -> Forges:
        """Return the clients of a deployment, for this forge."""
        no_pause: dict[str, Any] = {"sleep": lambda _: None}
        pace = Pace(1e6, **no_pause)
        return Forges(settings, pace=pace, transport=httpx.MockTransport(self.receive), **{**no_pause, **options})

    # --- HTTP ---------------------------------------------------------------------------------

    def receive(self, request: httpx.Request) -> httpx.Response:
        """Answer one of several requests that may come side by side."""
        self.on_arrival(unquote(request.url.path))
        with self._lock:
            return self.answer(request)

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer one request, or fail as asked for."""
        path = unquote(request.url.path)
        body = json.loads(request.content) if request.content else {}
        login = request.headers.get("Authorization", "").removeprefix("token token-of-")
        failure = self._failure(request.method, path)
        self.calls.append((request.method, path))
        self.on_call()
        if request.method in WRITES:
            self.on_write()
        if failure is None or failure.acts:
            status, value = self._act(request.method, path, body, login, dict(request.url.params))
        if failure is not None and failure.status is None:
            raise httpx.ReadTimeout("no answer")
        if failure is not None and failure.status is not None:
            status, value = failure.status, {"message": "as the test says"}
        return httpx.Response(status, json=value) if value is not None else httpx.Response(status)

    def _failure(self, method: str, path: str) -> Failure | None:
        for call, failure in self.always.items():
            if f"{method} {path}".endswith(call.partition(" ")[2]) and call.startswith(method):
                return failure
        for call, failures in self.failures.items():
            if failures and call.startswith(method) and path.endswith(call.partition(" ")[2]):
                return failures.pop(0)
        return None

    def _act(self, method: str, path: str, body: Any, login: str, params: dict[str, str]) -> tuple[int, Any]:
        rest = path.removeprefix("/api/v1").removeprefix(f"/repos/{REPO}")
        for known, pattern, act in _ROUTES:
            if known == method and (match := re.fullmatch(pattern, rest)):
                return act(self, _Call(match.groups(), body, login, params))
        return 404, {"message": "not found"}

    def shown(self, number: int) -> dict[str, Any]:
        """Return an issue as the forge shows it."""
        one = self.issues[number]
        return {
            **{name: one[name] for name in ("number", "title", "body", "state")},
            "user": {"login": one["user"]},
            "assignees": [{"login": login} for login in one["assignees"]] or None,
            "labels": [{"id": label_id(name), "name": name} for name in one["labels"]],
            "pull_request": {} if one["is_pull"] else None,
            "updated_at": self.now.isoformat(),
        }

    def shown_pull(self, number: int) -> dict[str, Any]:
        """Return a pull request as the forge shows it."""
        one = self.issues[number]
        head = {"ref": one["ref"], "label": one["ref"], "sha": one["sha"], "repo_id": 1, "repo": {}}
        base = {"ref": one.get("base", "main"), "sha": "e" * 40, "repo_id": 1}
        asked = [{"login": login} for login in one["asked"]]
        return {**self.shown(number), "head": head, "base": base, "mergeable": True, "requested_reviewers": asked}

    def shown_comment(self, one: dict[str, Any]) -> dict[str, Any]:
        """Return a comment as the forge shows it."""
        kind = "pulls" if self.issues.get(one["number"], {}).get("is_pull") else "issues"
        return {
            "id": one["id"],
            "body": one["body"],
            "user": {"login": one["user"]},
            "issue_url": f"http://forge/{REPO}/{kind}/{one['number']}",
            "created_at": one["at"].isoformat(),
            "updated_at": one["updated"].isoformat(),
        }


@dataclass(frozen=True, slots=True)
class _Call:
    """What came with a request."""

    parts: tuple[Any, ...]
    body: Any
    login: str
    params: dict[str, str]

    @property
    def number(self) -> int:
        return int(self.parts[0])


def label_id(name: str) -> int:
    """Return the id of a label."""
    return zlib.crc32(name.encode())


# --- what each call does -------------------------------------------------------------------------

Act = Callable[[FakeWriter, _Call], tuple[int, Any]]


def _issue(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    return (200, forge.shown(call.number)) if call.number in forge.issues else (404, {})


def _change_issue(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    forge.issues[call.number].update(call.body)
    return 201, forge.shown(call.number)


def _issues(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    who = call.params.get("assigned_by")
    found = [n for n, one in forge.issues.items() if one["state"] == "open" and not one["is_pull"]]
    return _page(call, [forge.shown(n) for n in found if who is None or who in forge.issues[n]["assignees"]])


def _pulls(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    found = [n for n, one in forge.issues.items() if one["state"] == "open" and one["is_pull"]]
    return _page(call, [forge.shown_pull(n) for n in found])


def _page(call: _Call, items: list[Any]) -> tuple[int, Any]:
    return 200, items if call.params.get("page", "1") == "1" else []


def _pull(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    return (200, forge.shown_pull(call.number)) if call.number in forge.issues else (404, {})


def _comments(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    return 200, [forge.shown_comment(one) for one in forge.comments if one["number"] == call.number]


def _comments_since(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    since = datetime.fromisoformat(call.params["since"])
    return _page(call, [forge.shown_comment(one) for one in forge.comments if one["updated"] >= since])


def _add_comment(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    if call.number not in forge.issues:
        return 404, {}
    forge.comment(call.number, call.body["body"], by=call.login)
    return 201, forge.shown_comment(forge.comments[-1])


def _delete_comment(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    left = [one for one in forge.comments if one["id"] != call.number]
    status = 204 if len(left) < len(forge.comments) else 404
    forge.comments[:] = left
    return status, None


def _edit_comment(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    one = next((one for one in forge.comments if one["id"] == call.number), None)
    if one is None:
        return 404, {}
    one.update(body=call.body["body"], updated=forge.now)
    return 200, forge.shown_comment(one)


def _react(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    if not any(one["id"] == call.number for one in forge.comments):
        return 404, {}
    if (reaction := (call.number, call.login, call.body["content"])) not in forge.reactions:
        forge.reactions.append(reaction)
    return 201, {}


def _add_labels(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    one = forge.issues[call.number]
    one["labels"] = sorted({*one["labels"], *(set(call.body["labels"]) & forge.labels)})
    return 200, forge.shown(call.number)["labels"]


def _labels(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    return 200, forge.shown(call.number)["labels"]


def _remove_label(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    one = forge.issues[call.number]
    one["labels"] = [name for name in one["labels"] if label_id(name) != int(call.parts[1])]
    return 204, None


def _create_label(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    forge.labels.add(call.body["name"])
    return 201, {}


def _reviews(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    return _page(call, forge.reviews.get(call.number, []))


def _request_review(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    for login in call.body["reviewers"]:
        forge.review(call.number, login, "REQUEST_REVIEW")
    return 201, []


def _set_status(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    body = {**call.body, "status": call.body["state"]}
    forge.statuses.append({"id": next(forge._ids), "sha": call.parts[0], **body})
    return 201, {}


def _statuses(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    return _page(call, [one for one in forge.statuses if one["sha"] == call.parts[0]])


def _branch(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    tip = forge.branches.get(call.parts[0])
    return (404, {}) if tip is None else (200, {"commit": {"id": tip}})


def _delete_branch(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    return (404, {}) if forge.branches.pop(call.parts[0], None) is None else (204, None)


def _assignees(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    """Answer as for an organisation's repository: its owner is nobody to whom an issue can be assigned."""
    del call
    return 200, [{"login": login} for login in sorted(forge.writers)]


def _permission(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    return 200, {"permission": "write" if call.parts[0] in forge.writers else "read"}


def _repositories(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    del forge
    return _page(call, [{"full_name": REPO, "default_branch": "main", "permissions": {"push": True}}])


def _version(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    del call
    return 200, {"version": forge.version}


def _who(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    del forge
    return 200, {"id": 1, "login": call.login, "is_admin": False}


def _limits(forge: FakeWriter, call: _Call) -> tuple[int, Any]:
    del forge, call
    return 200, {"max_response_items": 50}


_ROUTES: tuple[tuple[str, str, Act], ...] = (
    ("GET", r"/issues/(\d+)", _issue),
    ("PATCH", r"/issues/(\d+)", _change_issue),
    ("GET", r"/issues", _issues),
    ("GET", r"/pulls", _pulls),
    ("GET", r"/pulls/(\d+)", _pull),
    ("GET", r"/issues/(\d+)/comments", _comments),
    ("GET", r"/issues/comments", _comments_since),
    ("POST", r"/issues/(\d+)/comments", _add_comment),
    ("PATCH", r"/issues/comments/(\d+)", _edit_comment),
    ("DELETE", r"/issues/comments/(\d+)", _delete_comment),
    ("POST", r"/issues/comments/(\d+)/reactions", _react),
    ("POST", r"/issues/(\d+)/labels", _add_labels),
    ("GET", r"/issues/(\d+)/labels", _labels),
    ("DELETE", r"/issues/(\d+)/labels/(\d+)", _remove_label),
    ("POST", r"/labels", _create_label),
    ("GET", r"/pulls/(\d+)/reviews", _reviews),
    ("POST", r"/pulls/(\d+)/requested_reviewers", _request_review),
    ("POST", r"/statuses/(.+)", _set_status),
    ("GET", r"/commits/(.+)/statuses", _statuses),
    ("GET", r"/branches/(.+)", _branch),
    ("DELETE", r"/branches/(.+)", _delete_branch),
    ("GET", r"/assignees", _assignees),
    ("GET", r"/collaborators/(.+)/permission", _permission),
    ("GET", r"/user/repos", _repositories),
    ("GET", r"/version", _version),
    ("GET", r"/user", _who),
    ("GET", r"/settings/api", _limits),
)


# --- deployments and processes -------------------------------------------------------------------


def types_with_tokens(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the tables of three types whose accounts this forge knows by their tokens."""
    for name in TYPES:
        path = folder / f"token-{name}"
        path.write_text(f"token-of-{name}\n")
        path.chmod(0o600)
    return {name: type_table(name, token_file=f"token-{name}") for name in TYPES}
