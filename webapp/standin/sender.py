"""The stand-in forge's outgoing deliveries, and what can go wrong with them. Does HTTP, out."""

import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace

import httpx

from webapp.standin import hooks
from webapp.standin.faults import Faults
from webapp.standin.model import Model
from webapp.standin.records import Repo
from webapp.standin.shapes import GROUPS, Json, encode, headers

#: Forgejo's [webhook] DELIVER_TIMEOUT.
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One delivery and what came of it."""

    uuid: str
    event: str
    event_type: str
    body: bytes
    status: int | None = None  #: of the answer; None: there was none
    answer: str = ""
    error: str = ""  #: why there was no answer
    hook: int | None = None  #: id of the hook; None: of the one that is for everything


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Where a delivery goes."""

    hook: int | None
    url: str | None
    secret: bytes
    authorization: str = ""


@dataclass(frozen=True, slots=True)
class _Letter:
    target: _Target
    event_type: str
    body: bytes


class Sender:
    """Posts each delivery once to each hook: Forgejo does not retry.

    `url` and `secret` are those of one hook for every repository and event, beside the hooks that were made over REST.
    """

    def __init__(
        self, *, secret: bytes, url: str | None, faults: Faults | None = None, model: Model | None = None
    ) -> None:
        """Send to `url`; None: nobody listens, deliveries are only recorded."""
        self.secret = secret
        self.url = url
        self.deliveries: list[Sent] = []
        self._faults, self._model = faults or Faults(), model or Model()
        self._put_off: list[_Letter] = []
        self._held: list[_Letter] | None = None
        self._targets: dict[str, _Target] = {}  # by UUID, for replays
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None

    # --- what is asked for ---

    def drop_next(self, count: int = 1) -> None:
        """Lose the next deliveries, as a crash between marking and posting does."""
        self._faults.lose(count=count)

    def duplicate_next(self, count: int = 1) -> None:
        """Send the next deliveries twice, as two hooks on the same repository do: same body, another UUID."""
        self._faults.duplicate(count=count)

    def hold(self) -> None:
        """Keep deliveries back until `release`."""
        with self._lock:
            self._held = self._held or []

    def release(self, *, order: Iterable[int] | None = None) -> None:
        """Send what was kept back; `order`: indices, each once; None: newest first."""
        with self._lock:
            held, self._held = self._held or [], None
        for index in reversed(range(len(held))) if order is None else order:
            self._post(held[index])

    def flush(self) -> None:
        """Send what was put off by reordering."""
        with self._lock:
            put_off, self._put_off = self._put_off, []
        for letter in reversed(put_off):
            self._post(letter)

    def replay(self, index: int) -> Sent:
        """Send a recorded delivery again, as the button in the web interface does: same body, another UUID."""
        old = self.deliveries[index]
        return self._post(_Letter(self._targets[old.uuid], old.event_type, old.body))

    # --- sending ---

    def send(self, repo: Repo, event_type: str, value: Json, *, only_hook: int | None = None) -> None:
        """Deliver an event to whoever hears it, with the faults that were asked for.

        only_hook: a test delivery, which goes to that hook whether or not it hears such events.
        """
        body = encode(value, as_go="go-encoding" in self._model)
        for target in self._audience(repo, event_type, only_hook):
            self._send(_Letter(target, event_type, body))

    def _audience(self, repo: Repo, event_type: str, only_hook: int | None) -> list[_Target]:
        def is_meant(hook: int, flags: frozenset[str]) -> bool:
            if only_hook is not None:
                return hook == only_hook
            return "hook-hears-its-events" not in self._model or hooks.hears(flags, event_type)

        found = [
            _Target(hook=hook.id, url=hook.url, secret=hook.secret, authorization=hook.authorization)
            for hook in repo.hooks.values()
            if hook.active and is_meant(hook.id, hook.flags)
        ]
        # Where nobody listens, tests still look at what would have been sent.
        if only_hook is None and (self.url is not None or not repo.hooks):
            found.append(_Target(hook=None, url=self.url, secret=self.secret))
        return found

    def _send(self, letter: _Letter) -> None:
        with self._lock:
            if self._held is not None:
                self._held.append(letter)
                return
        where = letter.target.url or ""
        if self._faults.strike("lost", letter.event_type, where):
            self._record(_envelope(letter), letter, error="dropped on request")
            return
        is_double = self._faults.strike("duplicated", letter.event_type, where) is not None
        if self._faults.strike("reordered", letter.event_type, where):
            with self._lock:
                self._put_off += [letter] * (1 + is_double)
            return
        for _ in range(1 + is_double):
            self._post(letter)
        self._send_one_put_off()

    def _send_one_put_off(self) -> None:
        with self._lock:
            if not self._put_off:
                return
            late = self._put_off.pop(self._faults.pick(len(self._put_off)))
        self._post(late)

    def _post(self, letter: _Letter) -> Sent:
        envelope, target = _envelope(letter), letter.target
        if target.url is None:
            return self._record(envelope, letter, error="no webhook is set")
        secret = target.secret if "deliveries-are-signed" in self._model else b""
        named = headers(letter.body, secret=secret, uuid=envelope.uuid, event_type=letter.event_type)
        if target.authorization:
            named["Authorization"] = target.authorization
        try:
            answer = self._http().post(target.url, content=letter.body, headers=named)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return self._record(envelope, letter, error=f"{type(error).__name__}: {error}")
        return self._record(envelope, letter, status=answer.status_code, answer=answer.text)

    def _http(self) -> httpx.Client:
        """Return the client: making one costs more than a delivery; no connection outlives its delivery."""
        with self._lock:
            if self._client is None:
                limits = httpx.Limits(max_keepalive_connections=0)
                self._client = httpx.Client(timeout=TIMEOUT_S, follow_redirects=True, trust_env=False, limits=limits)
            return self._client

    def _record(
        self, sent: Sent, letter: _Letter, *, status: int | None = None, answer: str = "", error: str = ""
    ) -> Sent:
        done = replace(sent, status=status, answer=answer, error=error)
        with self._lock:
            self.deliveries.append(done)
            self._targets[done.uuid] = letter.target
        return done


def _envelope(letter: _Letter) -> Sent:
    return Sent(
        uuid=str(uuid.uuid4()),
        event=GROUPS.get(letter.event_type, letter.event_type),
        event_type=letter.event_type,
        body=letter.body,
        hook=letter.target.hook,
    )
