"""The stand-in forge's outgoing deliveries, and what can go wrong with them. Does HTTP, out."""

import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace

import httpx

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


class Sender:
    """Posts each delivery once: Forgejo does not retry."""

    def __init__(self, *, secret: bytes, url: str | None) -> None:
        """Send to `url`; None: nobody listens, deliveries are only recorded."""
        self.secret = secret
        self.url = url
        self.deliveries: list[Sent] = []
        self._to_drop = 0
        self._to_duplicate = 0
        self._held: list[tuple[str, bytes]] | None = None
        self._lock = threading.Lock()

    def drop_next(self, count: int = 1) -> None:
        """Lose the next deliveries, as a crash between marking and posting does."""
        with self._lock:
            self._to_drop += count

    def duplicate_next(self, count: int = 1) -> None:
        """Send the next deliveries twice, as two hooks on the same repository do: same body, another UUID."""
        with self._lock:
            self._to_duplicate += count

    def hold(self) -> None:
        """Keep deliveries back until `release`."""
        with self._lock:
            self._held = self._held or []

    def release(self, *, order: Iterable[int] | None = None) -> None:
        """Send what was kept back; `order`: indices, each once; None: newest first."""
        with self._lock:
            held, self._held = self._held or [], None
        for index in reversed(range(len(held))) if order is None else order:
            self._post(*held[index])

    def send(self, event_type: str, value: Json) -> None:
        """Deliver an event, with the faults that were asked for."""
        body = encode(value)
        with self._lock:
            if self._held is not None:
                self._held.append((event_type, body))
                return
            is_dropped, is_double = self._to_drop > 0, self._to_duplicate > 0
            self._to_drop -= is_dropped
            self._to_duplicate -= is_double and not is_dropped
        if is_dropped:
            self._record(_envelope(event_type, body), error="dropped on request")
            return
        for _ in range(1 + is_double):
            self._post(event_type, body)

    def replay(self, index: int) -> Sent:
        """Send a recorded delivery again, as the button in the web interface does: same body, another UUID."""
        old = self.deliveries[index]
        return self._post(old.event_type, old.body)

    def _post(self, event_type: str, body: bytes) -> Sent:
        envelope = _envelope(event_type, body)
        if self.url is None:
            return self._record(envelope, error="no webhook is set")
        try:
            answer = httpx.post(
                self.url,
                content=body,
                headers=headers(body, secret=self.secret, uuid=envelope.uuid, event_type=event_type),
                timeout=TIMEOUT_S,
                follow_redirects=True,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            return self._record(envelope, error=f"{type(error).__name__}: {error}")
        return self._record(envelope, status=answer.status_code, answer=answer.text)

    def _record(self, sent: Sent, *, status: int | None = None, answer: str = "", error: str = "") -> Sent:
        done = replace(sent, status=status, answer=answer, error=error)
        with self._lock:
            self.deliveries.append(done)
        return done


def _envelope(event_type: str, body: bytes) -> Sent:
    return Sent(uuid=str(uuid.uuid4()), event=GROUPS.get(event_type, event_type), event_type=event_type, body=body)
