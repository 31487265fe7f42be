"""How long a forge is asked that does not answer: each call takes long to fail, and all would wait for it."""

import threading


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
