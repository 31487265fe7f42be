"""What goes wrong with the stand-in forge on request: seeded, by rule, and counted. Pure but for the generator."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import httpx

Predicate = Callable[[str, str], bool]


class AnswerLost(ConnectionError, httpx.RemoteProtocolError):
    """The connection is cut before the answer; both for a server and for a client that calls the app directly."""


@dataclass(slots=True, kw_only=True)
class Rule:
    """When a fault happens: for the next `count`, every `every`-th time, or with `chance`, where `on` says yes."""

    kind: str
    count: int = 0
    every: int = 0
    chance: float = 0.0
    on: Predicate | None = None  #: of a call: method and path; of a delivery: Event-Type and URL
    status: int | None = None  #: of the answer; None: there is no answer
    seconds: float = 0.0
    seen: int = 0

    def strikes(self, rng: random.Random, one: str, other: str) -> bool:
        """Tell whether it happens now."""
        if self.on is not None and not self.on(one, other):
            return False
        self.seen += 1
        if self.count > 0:
            self.count -= 1
            return True
        if self.every and self.seen % self.every == 0:
            return True
        return self.chance > 0 and rng.random() < self.chance


class Faults:
    """The faults of one forge. `counts`: how often each kind has happened."""

    def __init__(self, seed: int = 0) -> None:
        """Let nothing go wrong yet."""
        self.counts: Counter[str] = Counter()
        self._rng = random.Random(seed)  # noqa: S311 - no secret
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def seed(self, seed: int) -> None:
        """Begin the chances anew."""
        with self._lock:
            self._rng.seed(seed)

    def clear(self) -> None:
        """Let nothing go wrong from now on; the counts stay."""
        with self._lock:
            self._rules.clear()

    # --- calls of the REST interface ---

    def refuse(
        self, *, count: int = 0, every: int = 0, chance: float = 0.0, on: Predicate | None = None, status: int = 503
    ) -> None:
        """Answer calls with an error BEFORE anything is done; counted as api-before."""
        self._add(Rule(kind="api-before", count=count, every=every, chance=chance, on=on, status=status))

    def lose_answers(
        self,
        *,
        count: int = 0,
        every: int = 0,
        chance: float = 0.0,
        on: Predicate | None = None,
        status: int | None = None,
    ) -> None:
        """Do what calls ask for and lose the answer AFTER it; None: cut the connection. Counted as api-after."""
        self._add(Rule(kind="api-after", count=count, every=every, chance=chance, on=on, status=status))

    def slow(
        self, seconds: float, *, count: int = 0, every: int = 0, chance: float = 0.0, on: Predicate | None = None
    ) -> None:
        """Let calls wait for their answer; counted as api-slow."""
        self._add(Rule(kind="api-slow", count=count, every=every, chance=chance, on=on, seconds=seconds))

    def outrun_merges(self, *, count: int = 0, chance: float = 0.0) -> None:
        """Let somebody push to the base while the forge merges: 409, merge push out of date. Counted as push-race."""
        self._add(Rule(kind="push-race", count=count, chance=chance))

    # --- deliveries ---

    def lose(self, *, count: int = 0, every: int = 0, chance: float = 0.0, on: Predicate | None = None) -> None:
        """Lose deliveries, as a crash between marking and posting does; counted as lost."""
        self._add(Rule(kind="lost", count=count, every=every, chance=chance, on=on))

    def lose_all(self) -> None:
        """Lose every delivery from now on."""
        self.lose(every=1)

    def duplicate(self, *, count: int = 0, every: int = 0, chance: float = 0.0, on: Predicate | None = None) -> None:
        """Send deliveries twice: same body, another UUID; counted as duplicated."""
        self._add(Rule(kind="duplicated", count=count, every=every, chance=chance, on=on))

    def reorder(self, *, count: int = 0, every: int = 0, chance: float = 0.0, on: Predicate | None = None) -> None:
        """Put deliveries off until a later one, or `flush`, has gone out; counted as reordered."""
        self._add(Rule(kind="reordered", count=count, every=every, chance=chance, on=on))

    # --- asked by the forge ---

    def strike(self, kind: str, one: str = "", other: str = "") -> Rule | None:
        """Return the rule by which a fault happens now, and count it; None: all goes well."""
        with self._lock:
            # Every rule of the kind looks at every event: what one lets happen must not change another's counting.
            struck = [rule for rule in self._rules if rule.kind == kind and rule.strikes(self._rng, one, other)]
            if struck:
                self.counts[kind] += 1
            return struck[0] if struck else None

    def pick(self, below: int) -> int:
        """Return a number from 0 to `below` - 1."""
        with self._lock:
            return self._rng.randrange(below)

    def _add(self, rule: Rule) -> None:
        with self._lock:
            self._rules.append(rule)
