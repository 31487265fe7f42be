"""Deliveries to an engine that is being killed: each is repeated under its own id until it is answered. HTTP, out."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

from webapp.chaos.evidence import Request
from webapp.standin.sender import TIMEOUT_S, Sent
from webapp.standin.shapes import headers

PAUSE_S = 0.2  #: between two attempts
GIVE_UP_S = 60.0
#: As many as may wait at once while the web app is held or gone.
THREADS = 16


@dataclass(slots=True)
class Posted:
    """One delivery on its way."""

    number: int
    sent: Sent
    began: float
    accepted: float | None = None
    answers: list[str] = field(default_factory=list)

    def request(self, receipts: int) -> Request:
        """Return what is known now; receipts: how many of the database say that it was accepted."""
        return Request(
            number=self.number,
            delivery=self.sent.uuid,
            sent=self.began,
            accepted=self.accepted,
            answers=tuple(self.answers),
            receipts=receipts,
        )


class Persistent:
    """Posts in threads, and does not give up as Forgejo would: a proxy in front of the web app, or a person, repeats.

    What was answered with 202 is accepted. A repeated delivery whose first answer was lost is told to be a duplicate,
    which says that it had been accepted.
    """

    def __init__(self, *, secret: bytes, url: Callable[[], str]) -> None:
        self.posted: list[Posted] = []
        self._secret, self._url = secret, url
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sender")
        self._futures: list[Future[None]] = []

    def post(self, number: int, sent: Sent) -> Posted:
        """Begin to send; return at once."""
        posted = Posted(number, sent, time.time())
        self.posted.append(posted)
        self._futures = [future for future in self._futures if not future.done()]
        self._futures.append(self._pool.submit(self._keep_on, posted))
        return posted

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is on its way."""
        return all(future.done() for future in self._futures)

    def close(self) -> None:
        """Give up what is on its way."""
        self._over.set()
        self._pool.shutdown()
        for future in self._futures:
            future.result()

    def _keep_on(self, posted: Posted) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        while not self._over.is_set() and time.monotonic() < deadline:
            posted.answers.append(answer := self._attempt(posted.sent))
            if answer in {"accepted", "duplicate"}:
                posted.accepted = time.time()
                return
            self._over.wait(PAUSE_S)

    def _attempt(self, sent: Sent) -> str:
        head = headers(sent.body, secret=self._secret, uuid=sent.uuid, event_type=sent.event_type)
        try:
            answer = httpx.post(self._url(), content=sent.body, headers=head, timeout=TIMEOUT_S, trust_env=False)
        except httpx.HTTPError as error:
            return type(error).__name__
        if answer.status_code not in {httpx.codes.OK, httpx.codes.ACCEPTED}:
            return f"{answer.status_code} {answer.text[:200]}"
        return str(answer.json()["verdict"])
