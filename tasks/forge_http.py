"""HTTP to the forge: who asks, how often, what is tried again, and what an answer means. Does network I/O, out."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import structlog

from pool.errors import ForgeError, ForgeUnavailable
from tasks.forge_refusals import refusal, words_of

log = structlog.get_logger(__name__)

TRIES = 4
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
#: Forgejo's default and largest page are 30 and 50 (modules/setting/api.go); what a forge really gives it says.
PAGE = 50
MOST_PAGES = 1000

_LATER = frozenset({429, 500, 502, 503, 504})
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "PATCH"})
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Pace:
    """A polite rate: at most so many calls a second, for everybody who shares it."""

    def __init__(
        self,
        per_s: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """per_s: calls a second."""
        self._gap = 1.0 / per_s
        self._monotonic, self._sleep = monotonic, sleep
        self._next = float("-inf")
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Wait for one's turn."""
        with self._lock:
            now = self._monotonic()
            at = max(now, self._next)
            self._next = at + self._gap
        if at > now:
            self._sleep(at - now)


def never() -> bool:
    """Want everything."""
    return False


class ForgeHttp:
    """One account's access to the forge."""

    def __init__(
        self,
        url: str,
        *,
        token: str,
        password_of: tuple[str, str] | None = None,
        pace: Pace | None = None,
        transport: httpx.BaseTransport | None = None,
        timeout_s: float = 15.0,
        sleep: Callable[[float], None] = time.sleep,
        is_unwanted: Callable[[], bool] = never,
    ) -> None:
        """url: of the forge itself. is_unwanted: asked before a call is tried again.

        token: "" for nobody's. password_of: login and password, for what is given to nobody with a token.
        """
        self.url = url.rstrip("/")
        self._pace, self._sleep, self._is_unwanted = pace, sleep, is_unwanted
        self._client = httpx.Client(
            base_url=self.url,
            headers={"Accept": "application/json"} | ({"Authorization": f"token {token}"} if token else {}),
            auth=password_of,
            timeout=timeout_s,
            transport=transport,
            # A redirect may lead to another host, and that must not get the token.
            follow_redirects=False,
            # A proxy is of no use on the way to this machine.
            trust_env=urlsplit(self.url).hostname not in _LOOPBACK,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def stream(self, path: str) -> AbstractContextManager[httpx.Response]:
        """Open a page of the forge itself, not below /api, piece by piece. Raises httpx.HTTPError."""
        if self._pace is not None:
            self._pace.wait()
        return self._client.stream("GET", path)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # --- calls --------------------------------------------------------------------------------

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON of one GET below /api/v1."""
        return _json(self.call("GET", path, params=params), f"GET {path}")

    def pages(self, path: str, **params: Any) -> Iterator[Any]:
        """Yield every item of a list, page by page, until a page is empty or the forge says that it was the last."""
        seen = 0
        for page in range(1, MOST_PAGES + 1):
            answer = self.call("GET", path, params={**params, "page": page, "limit": PAGE})
            items = _json(answer, f"GET {path}")
            if items is not None and not isinstance(items, list):
                raise ForgeError(f"the forge's answer to GET {path} is no list", call=f"GET {path}", status=200)
            yield from items or ()
            seen += len(items or ())
            if not items or _is_last(answer, seen):
                return
        raise ForgeError(f"GET {path} has more than {MOST_PAGES} pages", call=f"GET {path}", status=200)

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON of a call that writes; None when there is none."""
        answer = self.call(method, path, body=body)
        return _json(answer, f"{method} {path}") if answer.content.strip() else None

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        root: str = "/api/v1",
    ) -> httpx.Response:
        """Make one call, again where that does no harm. Raises ForgeError by its meaning."""
        answer = self.ask(method, path, params=params, body=body, root=root)
        if answer.is_success:
            return answer
        raise refusal(call=f"{method} {path}", status=answer.status_code, body=answer.content)

    def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        root: str = "/api/v1",
    ) -> httpx.Response:
        """Return an answer, whatever it says, unless it is one that another try may better. Raises ForgeUnavailable."""
        call = f"{method} {path}"
        why, status = "", None
        answer: httpx.Response | None = None
        for attempt in range(TRIES if method in _IDEMPOTENT else 1):
            if attempt:
                if self._is_unwanted():
                    break
                self._sleep(self._pause_s(attempt, answer))
            if self._pace is not None:
                self._pace.wait()
            try:
                answer = self._client.request(method, root + path, params=params, json=body)
            except httpx.HTTPError as error:
                # Not str(error) of every kind: some name the whole request.
                why, status, answer = type(error).__name__, None, None
                continue
            if answer.status_code not in _LATER:
                return answer
            why, status = f"{answer.status_code} {words_of(answer.content)}".strip(), answer.status_code
        raise ForgeUnavailable(f"the forge does not answer {call}: {why}", call=call, status=status)

    def _pause_s(self, attempt: int, answer: httpx.Response | None) -> float:
        told = answer.headers.get("Retry-After", "") if answer is not None else ""
        if told.isascii() and told.isdigit():
            return min(float(told), 60.0)
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (attempt - 1))
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def part(text: str) -> str:
    """Return a name as one part of a path."""
    return quote(text, safe="")


def repo_path(repo: str) -> str:
    """Return the path of a repository."""
    owner, _, name = repo.partition("/")
    return f"/repos/{part(owner)}/{part(name)}"


def _json(answer: httpx.Response, call: str) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise ForgeError(f"the forge's answer to {call} is not JSON", call=call, status=answer.status_code) from None


def _is_last(answer: httpx.Response, seen: int) -> bool:
    """Tell whether the forge says that there is no more; silence means that there may be (services/context/api.go)."""
    total = answer.headers.get("X-Total-Count", "")
    if total.isascii() and total.isdigit():
        return seen >= int(total)
    link = answer.headers.get("Link")
    return link is not None and 'rel="next"' not in link
