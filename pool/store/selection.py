"""The snapshot that selection looks at: a few indexed look-ups, whatever the size of the pool and of the history."""

from typing import Any

from sqlalchemy import Integer, Select, bindparam, insert, literal_column, select, update

from pool import policy
from pool.errors import NoInstance
from pool.model import Candidate, Decision, LabelRule
from pool.schema import instances, is_live, pools, tasks
from pool.states import InstanceState
from pool.store.base import Verbs, key_labels

#: A pool up to this size is read whole, so that a decision can show every instance.
WHOLE = 32

Labels = tuple[str, ...]


class SelectionVerbs(Verbs):
    """Statements that choose an instance. Call them in a writing transaction only."""

    def select_instance(
        self, type_name: str, *, labels: Labels, default_labels: Labels, session_key: str | None
    ) -> Decision:
        """Choose the instance for a new task and move the type's cursor.

        default_labels: match_labels of instances that have none of their own.
        session_key: follow a live task of this session; None: never.
        Raises NoInstance.
        """
        cursor = self.cursor(type_name)
        if session_key and (row := self._live_home(session_key)):
            home = _candidate(row, default_labels)
            return policy.stay(home, type_name=type_name, labels=labels, cursor=cursor, session_task=row.task)
        candidates, partial = self._candidates(type_name, labels, default_labels, cursor)
        if not candidates:
            raise self._no_instance(type_name)
        decision = policy.choose(candidates, type_name=type_name, labels=labels, cursor=cursor, partial=partial)
        self._move_cursor(type_name, decision.chosen)
        return decision

    def cursor(self, type_name: str) -> str | None:
        """Return the name picked last for a type, or None."""
        return self.connection.scalar(CURSOR, {"type_name": type_name})

    def _move_cursor(self, type_name: str, name: str) -> None:
        if self.connection.execute(MOVE_CURSOR, {"type_name": type_name, "cursor": name}).rowcount == 0:
            self.connection.execute(insert(pools), {"type": type_name, "cursor": name})

    def _live_home(self, session_key: str) -> Any:
        return self.connection.execute(LIVE_HOME, {"session_key": session_key}).one_or_none()

    def _candidates(
        self, type_name: str, labels: Labels, default_labels: Labels, cursor: str | None
    ) -> tuple[list[Candidate], bool]:
        """Return a small pool whole; of a large one, instances that are sure to hold the winner."""
        rows = self.connection.execute(WHOLE_POOL, {"type_name": type_name, "most": WHOLE + 1}).all()
        if len(rows) <= WHOLE:
            return [_candidate(row, default_labels) for row in rows], False
        for state in (InstanceState.ACTIVE, InstanceState.PAUSED):
            if found := self._front_runners(type_name, state, labels, default_labels, cursor or ""):
                return sorted((_candidate(row, default_labels) for row in found), key=lambda c: c.name), True
        return [], True

    def _front_runners(
        self, type_name: str, state: InstanceState, labels: Labels, default_labels: Labels, cursor: str
    ) -> set[Any]:
        """Return the rows that can win among the instances of one state, and one more when there is a single one.

        With a second row to compare, the rule that decided is the one that the whole pool would have shown.
        """
        found: set[Any] = set()
        pool = {"type_name": type_name, "state": state}
        groups = [{**pool, "label_key": key} for key in self._label_keys(pool, labels, default_labels)]
        for group in groups:
            ahead = self._least_loaded(group, cursor)
            found.update(ahead if len(ahead) > 1 else ahead + self._least_loaded(group, ""))
        if len(found) == 1:
            (group,), (lone,) = groups, found
            any_label = group["label_key"] is None
            found.update(self.connection.execute(RUNNER_UP[any_label], {**group, "load": lone.load}))
        return found

    def _label_keys(self, pool: dict[str, Any], labels: Labels, default_labels: Labels) -> list[str | None]:
        """Return the label keys that serve a request best; None stands for all of them."""
        if not labels:
            return [None]
        keys = self.connection.scalars(LABEL_KEYS, pool).all()
        rule, best = policy.best_sets({key_labels(key, default_labels) for key in keys}, labels)
        return [None] if rule is LabelRule.ANY else [k for k in keys if key_labels(k, default_labels) in best]

    def _least_loaded(self, group: dict[str, Any], after: str) -> list[Any]:
        return list(self.connection.execute(LEAST_LOADED[group["label_key"] is None], {**group, "after": after}))

    def _no_instance(self, type_name: str) -> NoInstance:
        row = self.connection.execute(LEAST_GONE, {"type_name": type_name}).one_or_none()
        if row is None:
            return NoInstance(type_name)
        resume = f" or resume {row.name}" if row.state == InstanceState.DRAINING else ""
        return NoInstance(
            type_name,
            why=f"every instance of type {type_name!r} is draining or being removed and takes nothing new; "
            f"add one with `forgepool instances add NAME --type {type_name}`{resume}",
        )


def _candidate(row: Any, default_labels: Labels) -> Candidate:
    return Candidate(
        name=row.name,
        labels=key_labels(row.label_key, default_labels),
        queued=row.queued,
        running=row.running,
        paused=row.state == InstanceState.PAUSED,
    )


# --- the statements, built once ----------------------------------------------------------------------

_COLUMNS = tuple(instances.c[name] for name in ("name", "label_key", "queued", "running", "state", "load"))
_OF_TYPE = instances.c.type == bindparam("type_name")
_OF_STATE = _OF_TYPE & (instances.c.state == bindparam("state"))

CURSOR = select(pools.c.cursor).where(pools.c.type == bindparam("type_name"))
MOVE_CURSOR = update(pools).where(pools.c.type == bindparam("type_name"))

#: Where the newest live task of a session is: after a removal an older one may still end elsewhere.
LIVE_HOME = (
    select(*_COLUMNS, tasks.c.id.label("task"))
    .join(tasks, tasks.c.instance == instances.c.name)
    .where(tasks.c.session_key == bindparam("session_key"), is_live)
    # Nor on one that has become of another type since.
    .where(instances.c.state != InstanceState.REMOVED, instances.c.type == tasks.c.type)
    .order_by(tasks.c.id.desc())
    .limit(1)
)

#: The instances of a type that take tasks, up to a number.
WHOLE_POOL = (
    select(*_COLUMNS)
    .where(_OF_TYPE, instances.c.state.in_([literal_column("'active'"), literal_column("'paused'")]))
    .order_by(instances.c.name)
    .limit(bindparam("most", type_=Integer))
)

#: An instance of a type that takes none: 'draining' sorts before 'removed', and only what is draining can be resumed.
LEAST_GONE = (
    select(instances.c.name, instances.c.state)
    .where(_OF_TYPE)
    .order_by(instances.c.state, instances.c.load, instances.c.name)
    .limit(1)
)


def _label_keys() -> Select[Any]:
    """Build: the distinct label keys of a pool, skipping through the index from one to the next.

    The way of https://wiki.postgresql.org/wiki/Loose_indexscan; SQLite plans it the same.
    """
    ordered = instances.c.label_key
    first = select(ordered).where(_OF_STATE).order_by(ordered).limit(1).scalar_subquery()
    keys = select(first.label("key")).cte("keys", recursive=True)
    following = select(ordered).where(_OF_STATE, ordered > keys.c.key).order_by(ordered).limit(1)
    keys = keys.union_all(select(following.correlate(keys).scalar_subquery()).where(keys.c.key.is_not(None)))
    return select(keys.c.key).where(keys.c.key.is_not(None))


def _least_loaded(*, any_label: bool) -> Select[Any]:
    """Build: the two least loaded that come first after a name. Two, to tell a lone winner from a draw."""
    ours = _group(any_label=any_label)
    lowest = select(instances.c.load).where(ours).order_by(instances.c.load).limit(1).scalar_subquery()
    after = instances.c.name > bindparam("after")
    return select(*_COLUMNS).where(ours, instances.c.load == lowest, after).order_by(instances.c.name).limit(2)


def _runner_up(*, any_label: bool) -> Select[Any]:
    """Build: the next after those of a load."""
    heavier = instances.c.load > bindparam("load")
    ordered = select(*_COLUMNS).where(_group(any_label=any_label), heavier)
    return ordered.order_by(instances.c.load, instances.c.name).limit(1)


def _group(*, any_label: bool) -> Any:
    return _OF_STATE if any_label else _OF_STATE & (instances.c.label_key == bindparam("label_key"))


LABEL_KEYS = _label_keys()
#: By "any label?": each has an index of its own.
LEAST_LOADED = {any_label: _least_loaded(any_label=any_label) for any_label in (False, True)}
RUNNER_UP = {any_label: _runner_up(any_label=any_label) for any_label in (False, True)}
