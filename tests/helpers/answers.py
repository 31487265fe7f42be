"""Answers of a forge, given one by one to the real client: what was asked, and how long it paused, is written down."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import httpx

from tasks.forge import Forge
from tests.helpers.clock import Clock

TOKEN = "Pl4nt3d0123456789abcdef"
URL = "https://forge.example"
REPO = "acme/shop"
SHA = "a" * 40

Given = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


def says(status: int = 200, value: Any = None, *, text: str | bytes | None = None, **headers: str) -> httpx.Response:
    """Return an answer with a JSON value or a text; headers by name, `_` for `-`."""
    named = {name.replace("_", "-"): told for name, told in headers.items()}
    if text is not None:
        return httpx.Response(status, content=text, headers=named)
    return httpx.Response(status, json=value, headers=named)


class Answers:
    """What the forge says to each call. The last answer of a call is given again and again."""

    def __init__(self) -> None:
        self.given: dict[str, list[Given]] = defaultdict(list)  #: by method and path, /api/v1 and the query left out
        self.asked: list[httpx.Request] = []
        self.pauses: list[float] = []  #: seconds
        self.clock = Clock()

    def on(self, call: str, *answers: Given) -> None:
        """Give these answers to a call, as "GET /user", one each."""
        self.given[call] += answers

    @property
    def calls(self) -> list[str]:
        """Method and path of all that was asked."""
        return [_name(request) for request in self.asked]

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        request.read()
        self.asked.append(request)
        waiting = self.given.get(_name(request), [])
        given = (waiting.pop(0) if len(waiting) > 1 else waiting[0]) if waiting else says(404, {"message": "not found"})
        if isinstance(given, Exception):
            raise given
        if isinstance(given, httpx.Response):
            # A response can be read once only.
            return httpx.Response(given.status_code, headers=given.headers, content=given.content)
        return given(request)

    def forge(self, *, url: str = URL, token: str = TOKEN, **options: Any) -> Forge:
        """Return a client that gets these answers and never waits."""
        usual: dict[str, Any] = {"sleep": self.pauses.append, "clock": self.clock}
        return Forge(url, token=token, transport=httpx.MockTransport(self.answer), **{**usual, **options})


def _name(request: httpx.Request) -> str:
    path = request.url.raw_path.decode().partition("?")[0]
    return f"{request.method} {path.removeprefix('/api/v1')}"


# --- what the forge shows ------------------------------------------------------------------------


def issue(number: int = 7, **changes: Any) -> dict[str, Any]:
    """Return an issue as Forgejo shows it: without assignees the member is null."""
    return {
        "id": 1000 + number,
        "number": number,
        "title": "Sell tea",
        "body": "Please.",
        "state": "open",
        "user": {"login": "ada"},
        "assignees": None,
        "labels": [],
        "html_url": f"{URL}/{REPO}/issues/{number}",
        "updated_at": "2026-01-05T10:00:00+01:00",
        "pull_request": None,
        **changes,
    }


def pull(number: int = 8, **changes: Any) -> dict[str, Any]:
    """Return a pull request as Forgejo shows it."""
    return {
        **issue(number),
        "draft": False,
        "merged": False,
        "merge_commit_sha": None,
        "mergeable": True,
        "head": {"label": "dev/7", "ref": "dev/7", "sha": SHA, "repo_id": 1, "repo": {"id": 1}},
        "base": {"label": "main", "ref": "main", "sha": "b" * 40, "repo_id": 1, "repo": {"id": 1}},
        "merge_base": "b" * 40,
        "requested_reviewers": None,
        **changes,
    }


def comment(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a comment on issue 7."""
    return {
        "id": number,
        "user": {"login": "ada"},
        "body": "hello",
        "issue_url": f"{URL}/{REPO}/issues/7",
        "pull_request_url": "",
        "created_at": "2026-01-05T09:00:00Z",
        "updated_at": "2026-01-05T09:00:00Z",
        **changes,
    }


def status(number: int, context: str, state: str, **changes: Any) -> dict[str, Any]:
    """Return a commit status."""
    return {"id": number, "context": context, "status": state, "creator": None, "target_url": "", **changes}
