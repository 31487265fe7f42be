"""The road to the forge: HTTP with a token, a polite pace, and second tries where they do no harm. Network I/O, out.

A token is in no message, address or repr, and goes to no other host: redirects are not followed.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from pool.errors import ForgeError, ForgeUnavailable, NotAccepted, NotAllowed
from pool.store import utc_now
from tasks.forge_refusals import refusal, words_of
from tasks.patience import rest
from tasks.secret_files import HIDDEN
from tasks.setup_values import is_loopback

API = "/api/v1"
FORGEJO_API = "/api/forgejo/v1"  #: only Forgejo has it
WEB = ""  #: the pages for people

TRIES = 4
FIRST_PAUSE_S = 0.5  #: before the second try; doubled for each further one
LONGEST_PAUSE_S = 60.0  #: a forge that asks for a longer one counts as away

#: Forgejo's largest page, unless its administrator chose another: then it gives what it likes (modules/setting/api.go).
PAGE = 50
MOST_PAGES = 1000  #: of one list
MAX_BODY = 64 * 2**20  #: bytes of an answer
LEAST_SECRET = 12  #: characters; a shorter token could be a word that people write

_TOO_MANY = 429
_LATER = frozenset({_TOO_MANY, 500, 502, 503, 504})
#: No connection was made, so nothing was carried out.
_UNHEARD = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def never() -> bool:
    """Want everything."""
    return False


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
            turn = max(now, self._next)
            self._next = turn + self._gap
        if turn > now:
            self._sleep(turn - now)


class Retry(Enum):
    """When a call is made again by itself."""

    ALWAYS = "always"  # a second time changes nothing: it reads, or it sets what is set
    UNHEARD = "unheard"  # only when the forge cannot have carried it out
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the forge answered."""

    call: str  #: method and path
    status: int
    headers: Mapping[str, str] = field(repr=False)  #: by lower-case name
    body: bytes = field(repr=False)

    @property
    def is_success(self) -> bool:
        """Tell whether the call was carried out."""
        return 200 <= self.status < 300  # noqa: PLR2004 - the range itself

    def json(self) -> Any:
        """Return the value in the body. Raises ForgeError that names the call."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            said = words_of(self.body) or "a page for people, or nothing"
            raise ForgeError(
                f"the forge's answer to {self.call} is not JSON: {said}", call=self.call, status=self.status
            ) from None

    def refusal(self) -> ForgeError:
        """Return the error that it means."""
        return refusal(call=self.call, status=self.status, body=self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lost:
    """No answer came."""

    why: str
    unheard: bool  #: the forge cannot have carried it out


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What is asked for."""

    method: str
    path: str
    root: str
    params: Mapping[str, Any] | None
    body: Mapping[str, Any] | None
    tail: int | None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class ForgeHttp:
    """One account's access to the forge."""

    def __init__(
        self,
        url: str,
        *,
        token: str,
        pace: Pace | None = None,
        transport: httpx.BaseTransport | None = None,
        timeout_s: float = 15.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], datetime] = utc_now,
        is_unwanted: Callable[[], bool] = never,
    ) -> None:
        """url: of the forge itself. is_unwanted: asked before a call is tried again, and while waiting for that."""
        self.url = url.rstrip("/")
        self._pace, self._sleep, self._clock, self._is_unwanted = pace, sleep, clock, is_unwanted
        # The time-out is between two bytes; a trickle would never end.
        self._deadline_s = 4 * timeout_s
        self._client = httpx.Client(
            headers={"Accept": "application/json", "User-Agent": "forgepool"},
            timeout=timeout_s,
            transport=transport,
            # A redirect may lead to another host, and that must not get the token.
            follow_redirects=False,
            # A proxy is of no use on the way to this machine.
            trust_env=not is_loopback(urlsplit(self.url).hostname or ""),
        )
        self.tokens = 0  #: how many were used so far
        self.renew(token)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def renew(self, token: str) -> None:
        """Use another token from now on. Raises NotAllowed for what cannot be one; it is not shown."""
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            # The HTTP library would show it in its complaint.
            raise NotAllowed("the access token is empty or has characters that no token has; write its file anew")
        self._token = token
        self.tokens += 1
        self._client.headers["Authorization"] = f"token {token}"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # --- calls --------------------------------------------------------------------------------

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON of one GET below /api/v1."""
        return self.call("GET", path, params=params).json()

    def pages(self, path: str, **params: Any) -> Iterator[Any]:
        """Yield every item of a list once, page by page, until a page has nothing new or was said to be the last."""
        seen: set[object] = set()
        for page in range(1, MOST_PAGES + 1):
            answer = self.call("GET", path, params={**params, "page": page, "limit": PAGE})
            items = _items(answer)
            new = {_identity(item, page, place): item for place, item in enumerate(items)}
            fresh = {identity: item for identity, item in new.items() if identity not in seen}
            yield from fresh.values()
            seen |= set(fresh)
            # Some calls know no pages and give everything each time (routers/api/v1/repo/issue_comment.go).
            if not fresh or _is_last(answer, len(seen)):
                return
        raise ForgeError(f"GET {path} has more than {MOST_PAGES} pages", call=f"GET {path}", status=200)

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, retry: Retry | None = None) -> Any:
        """Return the JSON of a call that writes; None when there is none."""
        answer = self.call(method, path, body=body, retry=retry)
        return answer.json() if answer.body.strip() else None

    def call(self, method: str, path: str, **options: Any) -> Answer:
        """Make one call, with the options of `ask`. Raises ForgeError by its meaning."""
        answer = self.ask(method, path, **options)
        if answer.is_success:
            return answer
        raise answer.refusal()

    def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Return an answer, whatever it says, unless it is one that another try may better; options: of `answer_to`.

        Raises ForgeUnavailable.
        """
        answer = self.answer_to(method, path, **options)
        if answer.status in _LATER:
            raise answer.refusal()
        return answer

    def answer_to(
        self,
        method: str,
        path: str,
        *,
        root: str = API,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        retry: Retry | None = None,
        tail: int | None = None,
    ) -> Answer:
        """Make one call, again where that does no harm, and return the last answer, whatever it says.

        retry: None: always, but for POST only when the forge cannot have carried it out.
        tail: keep only that many bytes of the end of the body.
        Raises ForgeUnavailable when no answer comes.
        """
        call = _Call(method=method, path=path, root=root, params=params, body=body, tail=tail)
        retry = retry or (Retry.UNHEARD if method == "POST" else Retry.ALWAYS)
        outcome = self._try(call)
        for attempt in range(1, TRIES):
            pause_s = self._pause_s(outcome, attempt)
            if pause_s > LONGEST_PAUSE_S or not _is_worth_another(outcome, retry):
                break
            if not rest(pause_s, is_unwanted=self._is_unwanted, sleep=self._sleep):
                break
            outcome = self._try(call)
        if isinstance(outcome, _Lost):
            raise ForgeUnavailable(f"the forge does not answer {call}: {outcome.why}", call=str(call))
        return outcome

    # --- one try ------------------------------------------------------------------------------

    def _try(self, call: _Call) -> Answer | _Lost:
        if self._pace is not None:
            self._pace.wait()
        url = f"{self.url}{call.root}{call.path}"
        try:
            with self._client.stream(call.method, url, params=call.params, json=call.body) as response:
                body = self._body(response, call)
        except httpx.RequestError as error:
            # Not str(error): some name the whole request.
            return _Lost(why=type(error).__name__, unheard=isinstance(error, _UNHEARD))
        finally:
            # A session of the forge's web pages must not be mixed with the token.
            self._client.cookies.clear()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(call=str(call), status=response.status_code, headers=headers, body=self._cleaned(body))

    def _body(self, response: httpx.Response, call: _Call) -> bytes:
        ends, kept, total = self._clock().timestamp() + self._deadline_s, bytearray(), 0
        for chunk in response.iter_bytes():
            kept += chunk
            total += len(chunk)
            if call.tail is not None:
                del kept[: -call.tail]
            if total > MAX_BODY:
                why = f"the answer is larger than {MAX_BODY} bytes"
                raise ForgeError(f"{call}: {why}", call=str(call), status=response.status_code)
            if self._clock().timestamp() > ends:
                raise httpx.ReadTimeout("the answer trickles", request=response.request)
        return bytes(kept)

    def _cleaned(self, body: bytes) -> bytes:
        # Somebody may have written the token into an issue, and a proxy may echo what it was sent.
        return body if len(self._token) < LEAST_SECRET else body.replace(self._token.encode(), HIDDEN.encode())

    # --- between two tries --------------------------------------------------------------------

    def _pause_s(self, outcome: Answer | _Lost, attempt: int) -> float:
        # Not all at the same moment: many may have been turned away at once.
        own = FIRST_PAUSE_S * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        return own if isinstance(outcome, _Lost) else max(own, self._asked_s(outcome))

    def _asked_s(self, answer: Answer) -> float:
        """Return the seconds of Retry-After, which is a number or a date (RFC 9110, 10.2.3)."""
        text = answer.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdigit():
            return float(text[:9])
        date = date_of(text)
        return (date - self._clock()).total_seconds() if date else 0.0


def part(text: str) -> str:
    """Return a name as one part of a path."""
    return quote(text, safe="")


def at(*parts: str | int) -> str:
    """Return a path of these parts. Raises NotAccepted for one that would lead elsewhere."""
    if any(str(one) in {"", ".", ".."} for one in parts):
        path = "/".join(map(str, parts))
        raise NotAccepted(f"{words_of(path.encode())!r} is no path: a part of it is empty or only dots", call=path)
    return "".join(f"/{part(str(one))}" for one in parts)


def repo_path(repo: str, *parts: str | int) -> str:
    """Return the path of a repository, or of something in it."""
    owner, _, name = repo.partition("/")
    return at("repos", owner, name, *parts)


def date_of(text: str) -> datetime | None:
    """Read the date of a header; None: it is none."""
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    # RFC 5322 reads "-0000" as UTC of which no zone is known.
    return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)


def _is_worth_another(outcome: Answer | _Lost, retry: Retry) -> bool:
    if retry is Retry.NEVER:
        return False
    if isinstance(outcome, _Lost):
        return outcome.unheard or retry is Retry.ALWAYS
    return outcome.status == _TOO_MANY or (outcome.status in _LATER and retry is Retry.ALWAYS)


def _is_last(answer: Answer, seen: int) -> bool:
    """Tell whether the forge says that there is no more; silence means that there may be (services/context/api.go)."""
    total, link = answer.headers.get("x-total-count", ""), answer.headers.get("link")
    if total.isascii() and total.isdigit():
        return seen >= int(total[:18])
    return link is not None and 'rel="next"' not in link


def _items(answer: Answer) -> list[Any]:
    items = answer.json()
    if not isinstance(items, list | None):
        raise ForgeError(f"the forge's answer to {answer.call} is no list", call=answer.call, status=answer.status)
    return items or []  # Go writes an empty one as null


def _identity(item: Any, page: int, place: int) -> object:
    """Return the id of an item; what is hidden from the account has none, and 0 stands for it."""
    found = item.get("id") if isinstance(item, dict) else None
    return found if isinstance(found, int) and found else (page, place)
