"""How long a forge is waited for that does not answer: each call takes long to fail, and all would wait for it."""

import threading
from collections.abc import Callable

ASK_S = 0.5  #: between two questions, while pausing, whether what one waits for is still wanted


def rest(pause_s: float, *, is_unwanted: Callable[[], bool], sleep: Callable[[float], None]) -> bool:
    """Wait; tell whether it is still wanted."""
    while not is_unwanted():
        if pause_s <= 0:
            return True
        sleep(min(pause_s, ASK_S))
        pause_s -= ASK_S
    return False


class Patience:
    """Counts calls in a row that were not answered. For several threads."""

    def __init__(self, most: int) -> None:
        """most: calls in a row that may go unanswered."""
        self._most = most
        self._unanswered = 0
        self._lock = threading.Lock()

    def note(self, *, is_answered: bool) -> None:
        """Note how a call went."""
        with self._lock:
            self._unanswered = 0 if is_answered else self._unanswered + 1

    @property
    def is_spent(self) -> bool:
        """Tell whether nobody should be asked for now."""
        with self._lock:
            return self._unanswered >= self._most
