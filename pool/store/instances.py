"""Instances: add, change, pause, remove, list; and the lease that makes a worker the only one of its queue."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import CursorResult, bindparam, delete, func, insert, literal_column, select, union_all, update

from pool.errors import BadInput, InstanceExists, LeaseHeld, LeaseLost, UnknownInstance, WrongHost
from pool.model import Instance, check_labels, check_name
from pool.schema import instances, is_queued, is_running, tasks
from pool.states import InstanceState
from pool.store.base import INSTANCE_COLUMNS, Verbs, label_key, to_instance

#: What an operator may change of an instance.
SETTABLE = frozenset({"model", "prompt_appendix", "match_labels", "notes", "host"})


class InstanceVerbs(Verbs):
    """Statements about instances."""

    def seed(self, types: Iterable[str]) -> list[str]:
        """Insert one `<type>-default` per type when there is no instance at all; return the names inserted."""
        if self.count_instances():
            return []
        return [self.add_instance(f"{name}-default", name).name for name in types]

    def add_instance(self, name: str, type_name: str, **overrides: Any) -> Instance:
        """Add an active instance. Raises InstanceExists, or BadInput naming the field."""
        check_name("name", name)
        check_name("type", type_name)
        values = _checked(overrides)
        if self.find_instance(name) is not None:
            raise InstanceExists(name)
        # A name is never reused while tasks wait or run under it: its queue may still hold their doorbells.
        held = (select(tasks.c.id).where(tasks.c.instance == name, condition) for condition in (is_queued, is_running))
        if (task := self.connection.scalar(union_all(*held).limit(1))) is not None:
            raise BadInput(
                "name", name, f"task {task} of an earlier instance of that name is still live; choose another"
            )
        self.connection.execute(
            insert(instances).values(
                name=name,
                type=type_name,
                state=InstanceState.ACTIVE,
                label_key=label_key(values.get("match_labels")),
                created_at=self.now,
                updated_at=self.now,
                **values,
            )
        )
        return self.instance(name)

    def set_instance(self, name: str, **overrides: Any) -> Instance:
        """Change overrides; None falls back to the type's value. The next task sees it."""
        values = _checked(overrides)
        if "match_labels" in values:
            values["label_key"] = label_key(values["match_labels"])
        self._update(name, updated_at=self.now, **values)
        return self.instance(name)

    def set_instance_type(self, name: str, type_name: str) -> Instance:
        """Make it a member of another type's pool. What waits on it is still of the old one: see `clear_queue`."""
        check_name("type", type_name)
        if self.instance(name).state is InstanceState.REMOVED:
            raise BadInput("name", name, "it is being removed; add an instance of another name")
        self._update(name, type=type_name, updated_at=self.now)
        return self.instance(name)

    def set_instance_state(self, name: str, state: InstanceState) -> Instance | None:
        """Pause, resume, drain or remove; None when a removed instance held nothing and is gone at once."""
        current = self.instance(name)
        if current.state is InstanceState.REMOVED and state is not InstanceState.REMOVED:
            raise BadInput("name", name, "it is being removed; add an instance of another name")
        self._update(name, state=state, updated_at=self.now)
        self.sweep_removed(name)
        return self.find_instance(name)

    def sweep_removed(self, name: str) -> None:
        """Delete the row of a removed instance once nothing is queued or running on it."""
        self.connection.execute(SWEEP, {"gone": name})

    def instance(self, name: str) -> Instance:
        """Return one instance. Raises UnknownInstance."""
        if found := self.find_instance(name):
            return found
        raise UnknownInstance(name)

    def find_instance(self, name: str) -> Instance | None:
        """Return one instance or None."""
        row = self.connection.execute(select(*INSTANCE_COLUMNS).where(instances.c.name == name)).one_or_none()
        return to_instance(row) if row else None

    def count_instances(self) -> int:
        """Return how many instances there are."""
        return self.connection.scalar(select(func.count()).select_from(instances)) or 0

    def list_instances(self, type_name: str | None = None) -> list[Instance]:
        """Return all instances, or those of one type, ordered by type and name."""
        query = select(*INSTANCE_COLUMNS).order_by(instances.c.type, instances.c.name)
        if type_name is not None:
            query = query.where(instances.c.type == type_name)
        return [to_instance(row) for row in self.connection.execute(query)]

    def _update(self, name: str, **values: Any) -> None:
        result: CursorResult[Any] = self.connection.execute(
            update(instances).where(instances.c.name == name).values(**values)
        )
        if result.rowcount == 0:
            raise UnknownInstance(name)

    # --- the worker lease ---------------------------------------------------------------------

    def take_worker_lease(self, name: str, *, holder: str, token: str, lease_s: float, host: str | None = None) -> None:
        """Become the one worker of this queue.

        host: where the worker runs.
        Raises LeaseHeld while another live worker is, WrongHost when the instance is bound to another host.
        """
        current = self.instance(name)
        if current.host is not None and current.host != host:
            raise WrongHost(name, current.host, host)
        until = instances.c.worker_until
        # No lease ends that far ahead, unless the clock was put back after its holder had gone or while it lives: then
        # it finds out at its next renewal, and what it runs has a lease of its own.
        is_free = until.is_(None) | (until <= self.now) | (until > self.after(2 * lease_s))
        result: CursorResult[Any] = self.connection.execute(
            update(instances)
            .where(instances.c.name == name, is_free | (instances.c.worker_token == token))
            .values(worker=holder, worker_token=token, worker_until=self.after(lease_s), worker_host=host)
        )
        if result.rowcount == 0:
            ends = current.worker_until or self.now
            raise LeaseHeld(name, current.worker or "unknown", (ends - self.now).total_seconds())

    def renew_worker_lease(self, name: str, *, token: str, lease_s: float) -> InstanceState:
        """Keep the lease; return what the instance is to do. Raises LeaseLost when another has taken over."""
        result: CursorResult[Any] = self.connection.execute(
            update(instances)
            .where(instances.c.name == name, instances.c.worker_token == token)
            .values(worker_until=self.after(lease_s))
        )
        if result.rowcount == 0:
            raise LeaseLost(f"this worker no longer holds the lease of {name}")
        return self.instance(name).state

    def release_worker_lease(self, name: str, *, token: str) -> None:
        """Let the next worker start at once."""
        self.connection.execute(
            update(instances)
            .where(instances.c.name == name, instances.c.worker_token == token)
            .values(worker_until=None, worker_token=None)
        )


SWEEP = delete(instances).where(
    instances.c.name == bindparam("gone"),
    instances.c.state == InstanceState.REMOVED,
    instances.c.queued == literal_column("0"),
    instances.c.running == literal_column("0"),
)


def _checked(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse unknown fields and wrong types, naming the field."""
    values = dict(overrides)
    for field, value in values.items():
        if field not in SETTABLE:
            raise BadInput(field, value, "not a field of an instance; known: " + ", ".join(sorted(SETTABLE)))
        if field == "match_labels":
            values[field] = None if value is None else list(check_labels(field, value))
        elif not isinstance(value, str | None):
            raise BadInput(field, value, "use text")
        elif field == "host" and value is not None and not value.strip():
            raise BadInput(field, value, "use the host's name, as `service.host` of its fleet says it")
    if values.get("notes", "") is None:
        values["notes"] = ""
    return values
