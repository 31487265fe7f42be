"""What every process of a deployment shares: its settings, its store, its doorbell."""

from dataclasses import dataclass
from typing import Protocol

from pool import migrate
from pool.store import Store
from tasks.settings import Settings


class Doorbell(Protocol):
    """Tells the worker of an instance that something waits in its queue."""

    def ring(self, instance: str, task: int) -> None:
        """Ring for a task. Raises BellError when the broker does not take it."""

    def waiting(self, instance: str) -> int:
        """Return how many rings nobody has answered yet. Raises BellError when the broker does not say."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One process's hold on the deployment. Built once, at the edge, and passed on."""

    settings: Settings
    store: Store
    bell: Doorbell

    @classmethod
    def open(cls, settings: Settings, bell: Doorbell, *, busy_s: float = 15.0, check_schema: bool = True) -> "Engine":
        """Open the store. Raises SchemaError when the database is older or newer than this version."""
        store = Store.open(settings.database_url, busy_s=busy_s)
        if check_schema:
            migrate.check(store.engine)
        return cls(settings, store, bell)

    def close(self) -> None:
        """Close the database connections of this process."""
        self.store.close()
