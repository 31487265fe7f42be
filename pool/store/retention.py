"""Retention: which rows are too old to be kept, and their end. Never what waits, runs, or is still pointed to."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, CursorResult, Delete, Select, Table, and_, delete, exists, literal, or_, select, true

from pool.schema import deliveries, has_ended, is_dead, is_live, sessions, subjects, tasks
from pool.schema_work import effects, is_open_merge, is_owed, is_undone, merges, orders, trail, work
from pool.states import State
from pool.store.sessions import SessionVerbs

_LATER = tasks.alias("later")


@dataclass(frozen=True, slots=True)
class Record:
    """One old row of the workflow."""

    kind: str  #: merge, effect, order, trail
    id: int

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class RetentionVerbs(SessionVerbs):
    """Statements about old rows. Each deletion asks again whether a row may go: much may happen after it was found."""

    def old_tasks(self, before: datetime, *, limit: int) -> list[int]:
        """Return tasks that ended before a moment, oldest end first."""
        query = select(tasks.c.id).where(_is_old_task(before)).order_by(tasks.c.finished_at, tasks.c.id).limit(limit)
        return list(self.connection.scalars(query))

    def delete_tasks(self, ids: Collection[int], before: datetime) -> int:
        """Delete old tasks with their history; return how many there still were."""
        return self._delete(delete(tasks).where(tasks.c.id.in_(sorted(ids)), _is_old_task(before)))

    def old_deliveries(self, before: datetime, *, limit: int) -> list[int]:
        """Return receipts of deliveries that came before a moment, oldest first."""
        query = select(deliveries.c.id).where(_is_old_delivery(before)).order_by(deliveries.c.received_at).limit(limit)
        return list(self.connection.scalars(query))

    def delete_deliveries(self, ids: Collection[int], before: datetime) -> int:
        """Delete old receipts; return how many there still were."""
        return self._delete(delete(deliveries).where(deliveries.c.id.in_(sorted(ids)), _is_old_delivery(before)))

    def old_subjects(self, before: datetime, *, limit: int) -> list[tuple[str, int]]:
        """Return issues and pull requests, as repo and number, that are closed and did not change since a moment."""
        query = select(subjects.c.repo, subjects.c.number).where(_is_old_subject(before)).limit(limit)
        return [(row.repo, row.number) for row in self.connection.execute(query)]

    def delete_subject(self, repo: str, number: int, before: datetime) -> bool:
        """Delete all that is known of an old issue or pull request; tell whether there was anything."""
        here = and_(subjects.c.repo == repo, subjects.c.number == number)
        if not self._delete(delete(subjects).where(here, _is_old_subject(before))):
            return False
        self.drop_sessions_of(repo, number)
        for table in _WITH_SUBJECT:
            self.connection.execute(delete(table).where(table.c.repo == repo, table.c.number == number))
        return True

    def old_work(self, before: datetime, *, limit: int) -> list[Record]:
        """Return what the workflow has kept since before a moment and needs no more, oldest first of each kind."""
        found: list[Record] = []
        for kind, column, is_needless in _WORK:
            query = select(_id(column)).where(column < before, is_needless).order_by(column, _id(column))
            found += [Record(kind, row) for row in self.connection.scalars(query.limit(limit - len(found)))]
        return found

    def delete_work(self, records: Collection[Record], before: datetime) -> int:
        """Delete what the workflow needs no more; return how many there still were."""
        done = 0
        for kind, column, is_needless in _WORK:
            if ids := sorted(record.id for record in records if record.kind == kind):
                done += self._delete(delete(column.table).where(_id(column).in_(ids), column < before, is_needless))
        return done

    def old_sessions(self, before: datetime, *, limit: int) -> list[str]:
        """Return the keys of conversations that nobody went on with since a moment."""
        return list(self.connection.scalars(select(sessions.c.key).where(_is_old_session(before)).limit(limit)))

    def delete_sessions(self, keys: Collection[str], before: datetime) -> int:
        """Delete old conversations; return how many there still were."""
        return self._delete(delete(sessions).where(sessions.c.key.in_(sorted(keys)), _is_old_session(before)))

    def _delete(self, statement: Delete) -> int:
        result: CursorResult[Any] = self.connection.execute(statement)
        return result.rowcount


def _exists(query: Select[Any]) -> Any:
    return exists(query.with_only_columns(literal(1)))


def _is_old_task(before: datetime) -> Any:
    """Build: ended long ago; no dead letter, no agent that may live; and no task that is left repeats it.

    Whoever looks at a task that was retried finds all of its runs, so a chain goes from its end.
    """
    same = and_(_LATER.c.repo == tasks.c.repo, _LATER.c.number == tasks.c.number, _LATER.c.id > tasks.c.id)
    repeated = select(_LATER.c.id).where(same, _LATER.c.retry_of == tasks.c.id).correlate(tasks)
    return and_(
        has_ended,
        tasks.c.finished_at < before,
        tasks.c.state.in_([state for state in State if state.is_final]),
        tasks.c.agent_pid.is_(None),
        ~_exists(repeated),
    )


def _is_old_delivery(before: datetime) -> Any:
    """Build: came long ago, and no task that may still run came of it."""
    needed = select(tasks.c.id).where(tasks.c.delivery == deliveries.c.id, or_(is_live, is_dead)).correlate(deliveries)
    return and_(deliveries.c.received_at < before, ~_exists(needed))


def _is_old_subject(before: datetime) -> Any:
    same = and_(tasks.c.repo == subjects.c.repo, tasks.c.number == subjects.c.number)
    needed = select(tasks.c.id).where(same, or_(is_live, is_dead)).correlate(subjects)
    return and_(
        subjects.c.state == "closed",
        subjects.c.updated_at < before,
        ~_exists(needed),
        *(~_exists(_of(subjects, table).where(is_left)) for table, is_left in _LEFT_TO_DO.items()),
    )


def _is_old_session(before: datetime) -> Any:
    needed = select(tasks.c.id).where(tasks.c.session_key == sessions.c.key, is_live).correlate(sessions)
    return and_(sessions.c.updated_at < before, ~_exists(needed))


def _of(owner: Table, table: Table) -> Select[Any]:
    """Build: the rows of a table about the same issue or pull request as one of another."""
    return select(table).where(table.c.repo == owner.c.repo, table.c.number == owner.c.number).correlate(owner)


def _id(column: Column[Any]) -> Column[Any]:
    found: Column[Any] = column.table.c.id
    return found


#: What is still to be done about an issue or pull request.
_LEFT_TO_DO = {merges: is_open_merge, effects: is_owed, orders: is_undone}
#: What goes with an issue or pull request.
_WITH_SUBJECT = (work, merges, effects, orders, trail)

_its_subject = _of(effects, subjects)
#: A key is done once: a person who was asked is not asked again while the issue is open. That one is open is not always
#: known of what a pull request is for.
_is_over = or_(
    _exists(_its_subject.where(subjects.c.state == "closed")),
    and_(effects.c.kind != "ask", ~_exists(_its_subject)),
)
#: What the workflow keeps: its kind, the moment from which on it is kept, and what else has to be so before it may go.
_WORK = (
    ("merge", merges.c.ended_at, true()),
    ("effect", effects.c.done_at, _is_over),
    ("effect", effects.c.given_up_at, _is_over),
    ("order", orders.c.done_at, true()),
    ("trail", trail.c.at, true()),
)
