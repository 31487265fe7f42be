"""What the workflow watches: looks that are due, holds and resets, orders, the trail, how far the forge was asked."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, exists, func, insert, or_, select, update

from pool.model import Kind
from pool.schema import agent_has_run, is_live, tasks
from pool.schema_work import effects, is_undone, merges, orders, polls, trail, work
from pool.states import State
from pool.store.lanes import LaneVerbs, to_merge
from pool.work import Look, Order, Past, Poll, Step, Work

#: Tasks that one reading of the work takes in, and links of merges, which may be many more.
_MOST, _MOST_LINKS = 300, 50
DAY = timedelta(days=1)
#: A look that did not come to its end is made again after this time.
SAFETY_S = 120.0
_SAFETY = "again, killed"
#: Reasons of those who found something by asking, and of those who were told: what was told was not found.
_FOUND, _TOLD = frozenset({"poll", "start"}), frozenset({"webhook", "order", "task", "merge"})
MAX_WHY = 2000  #: characters of one line of the trail


class WatchVerbs(LaneVerbs):
    """Statements about what the workflow watches."""

    # --- what is known ------------------------------------------------------------------------

    def work(self, repo: str, number: int) -> Work:
        """Return what is known of an issue or pull request; of one that was never seen: nothing."""
        row = self.connection.execute(select(work).where(*_here(repo, number))).one_or_none()
        kept: dict[str, Any] = dict(row._mapping) if row else {}  # noqa: SLF001 - SQLAlchemy's public name
        family = self._family(repo, number, kept.get("issue"))
        reset = self._reset(repo, family)
        asked = select(effects.c.key).where(
            effects.c.repo == repo, effects.c.number.in_(family), effects.c.kind == "ask"
        )
        if reset is not None:
            asked = asked.where(effects.c.created_at >= reset)
        entries = select(merges).where(merges.c.repo == repo, merges.c.number == number).order_by(merges.c.id)
        return Work(
            repo=repo,
            number=number,
            issue=kept.get("issue"),
            past=self._past(repo, number, reset),
            chain=self._count_runs(repo, family, reset),
            today=self._count_runs(repo, family, max(filter(None, (reset, self.now - DAY)))),
            held_by=kept.get("held_by") or self._held_issue(repo, kept.get("issue")),
            reset_at=reset,
            asked=frozenset(key.split(":")[1] for key in self.connection.scalars(asked)),
            merges=tuple(to_merge(entry) for entry in self.connection.execute(entries)),
            **{name: kept.get(name) for name in _MARKS},
        )

    def _family(self, repo: str, number: int, issue: int | None) -> list[int]:
        """Return the numbers of an issue and of the pull requests for it, whichever of them is asked about."""
        root = issue or number
        pulls = self.connection.scalars(select(work.c.number).where(work.c.repo == repo, work.c.issue == root))
        return sorted({number, root, *pulls})

    def _reset(self, repo: str, family: list[int]) -> datetime | None:
        """Return when a person last acted on one of a family: it counts for those that came later, too."""
        query = select(func.max(work.c.reset_at)).where(work.c.repo == repo, work.c.number.in_(family))
        moment: datetime | None = self.connection.scalar(query)
        return moment

    def _held_issue(self, repo: str, issue: int | None) -> str | None:
        if issue is None:
            return None
        return self.connection.scalar(select(work.c.held_by).where(*_here(repo, issue)))

    def _past(self, repo: str, number: int, since: datetime | None) -> tuple[Past, ...]:
        here = (tasks.c.repo == repo, tasks.c.number == number)
        counted: ColumnElement[bool] = or_(is_live, tasks.c.created_at >= since) if since else tasks.c.id > 0
        query = select(*_PAST).where(*here, counted).order_by(tasks.c.id.desc())
        rows = [
            *self.connection.execute(query.where(tasks.c.kind != Kind.MERGE).limit(_MOST)),
            *self.connection.execute(query.where(tasks.c.kind == Kind.MERGE).limit(_MOST_LINKS)),
        ]
        return tuple(_to_past(row) for row in sorted(rows, key=lambda row: row.id))

    def _count_runs(self, repo: str, numbers: Iterable[int], since: datetime | None) -> int:
        query = select(func.count()).where(tasks.c.repo == repo, tasks.c.number.in_(list(numbers)), agent_has_run)
        if since is not None:
            query = query.where(tasks.c.created_at >= since)
        return self.connection.scalar(query) or 0

    def note_work(self, repo: str, number: int, **values: Any) -> None:
        """Write what is known of an issue or pull request: columns of the table `work`, at least one."""
        if self.connection.execute(update(work).where(*_here(repo, number)).values(**values)).rowcount == 0:
            self.connection.execute(insert(work).values(repo=repo, number=number, **values))

    def hold(self, repo: str, number: int, *, by: str) -> None:
        """Let nothing begin for it until `unhold`. What runs goes on."""
        self.note_work(repo, number, held_by=by, held_at=self.now)

    def unhold(self, repo: str, number: int) -> bool:
        """Let things begin again; tell whether it was held."""
        held = update(work).where(*_here(repo, number), work.c.held_by.is_not(None))
        return self.connection.execute(held.values(held_by=None, held_at=None)).rowcount > 0

    def held_by(self, repo: str, number: int) -> str | None:
        """Return who holds an issue or pull request, or the issue that it is for; None: nobody does."""
        row = self.connection.execute(select(work.c.held_by, work.c.issue).where(*_here(repo, number))).one_or_none()
        return None if row is None else row.held_by or self._held_issue(repo, row.issue)

    def reset_caps(self, repo: str, number: int) -> None:
        """Count anew from now on, for an issue and the pull requests for it: a person acted."""
        known = self.connection.scalar(select(work.c.issue).where(*_here(repo, number)))
        for one in self._family(repo, number, known):
            self.note_work(repo, one, reset_at=self.now)

    # --- looks --------------------------------------------------------------------------------

    def look_later(self, repo: str, number: int, *, why: str, after_s: float = 0.0) -> None:
        """Have the workflow look at it on the forge; of two wishes the earlier time counts."""
        at = self.after(after_s)
        row = self.connection.execute(select(work.c.look_at, work.c.look_why).where(*_here(repo, number))).one_or_none()
        if row is not None and row.look_at is not None and row.look_why != _SAFETY:
            first, second = (row.look_why, why) if row.look_at <= at else (why, row.look_why)
            why = second if first in _FOUND and second in _TOLD else first
            at = min(at, row.look_at)
        self.note_work(repo, number, look_at=at, look_why=why)

    def due_looks(self, *, limit: int = 50) -> list[Look]:
        """Return the looks that are due, longest first."""
        query = (
            select(work.c.repo, work.c.number, work.c.look_why, work.c.look_tries)
            .where(work.c.look_at <= self.now)
            .order_by(work.c.look_at, work.c.repo, work.c.number)
            .limit(limit)
        )
        return [
            Look(repo=row.repo, number=row.number, why=_reason(row.look_why), tries=row.look_tries)
            for row in self.connection.execute(query)
        ]

    def begin_look(self, repo: str, number: int) -> None:
        """Take a look off the list; what is wished from now on is another one. Before the forge is asked.

        It comes back by itself if whoever makes it is killed.
        """
        self.note_work(repo, number, look_at=self.after(SAFETY_S), look_why=_SAFETY)

    def end_look(self, repo: str, number: int) -> None:
        """Note that it was looked at."""
        self.note_work(repo, number, looked_at=self.now, look_tries=0)
        safety = update(work).where(*_here(repo, number), work.c.look_why == _SAFETY)
        self.connection.execute(safety.values(look_at=None, look_why=None))

    def fail_look(self, repo: str, number: int, *, why: str, after_s: float) -> None:
        """Note that the forge could not be asked; it is tried again, for the same reason."""
        self.look_later(repo, number, why=why, after_s=after_s)
        self.connection.execute(update(work).where(*_here(repo, number)).values(look_tries=work.c.look_tries + 1))

    def watched(self, repo: str) -> list[int]:
        """Return the numbers in a repository of which anything is known."""
        return list(self.connection.scalars(select(work.c.number).where(work.c.repo == repo).order_by(work.c.number)))

    # --- orders -------------------------------------------------------------------------------

    def take_order(self, **values: Any) -> int | None:
        """Note what a person asked for; None: that line of that comment was noted before.

        values: repo, number, comment, line, verb, argument, by, delivery.
        """
        same = (orders.c.repo == values["repo"], orders.c.comment == values["comment"], orders.c.line == values["line"])
        if self.connection.scalar(select(orders.c.id).where(*same)) is not None:
            return None
        row = {**values, "created_at": self.now, "due_at": self.now}
        order: int = self.connection.execute(insert(orders).values(**row).returning(orders.c.id)).scalar_one()
        return order

    def due_orders(self, *, limit: int = 50) -> list[Order]:
        """Return the orders that nobody has carried out, oldest first; none before an older one about the same."""
        older = orders.alias()
        waits = exists().where(
            older.c.repo == orders.c.repo,
            older.c.number == orders.c.number,
            older.c.id < orders.c.id,
            older.c.done_at.is_(None),
            older.c.due_at > self.now,
        )
        query = select(*_ORDER).where(is_undone, orders.c.due_at <= self.now, ~waits).order_by(orders.c.id)
        return [_to_order(row) for row in self.connection.execute(query.limit(limit))]

    def end_order(self, order: int, *, answer: str) -> bool:
        """Note what came of an order; False: somebody else has."""
        done = update(orders).where(orders.c.id == order, is_undone).values(done_at=self.now, answer=answer)
        return self.connection.execute(done).rowcount > 0

    def answer_order(self, order: int, *, answer: str) -> None:
        """Write what came of an order that was ended."""
        self.connection.execute(update(orders).where(orders.c.id == order).values(answer=answer))

    def postpone_order(self, order: int, *, after_s: float) -> None:
        """Try it again later: the forge could not be asked. One that was carried out meanwhile is done."""
        undone = update(orders).where(orders.c.id == order, is_undone)
        self.connection.execute(undone.values(due_at=self.after(after_s)))

    def list_orders(self, repo: str, number: int) -> list[Order]:
        """Return the orders about an issue or pull request, oldest first."""
        query = select(*_ORDER).where(orders.c.repo == repo, orders.c.number == number).order_by(orders.c.id)
        return [_to_order(row) for row in self.connection.execute(query)]

    # --- the trail ----------------------------------------------------------------------------

    def tell(self, repo: str, number: int, *, source: str, what: str, why: str) -> bool:
        """Write a line of the trail, unless the last one of that source says the same; tell whether it is new."""
        last = (
            select(trail.c.what, trail.c.why)
            .where(trail.c.repo == repo, trail.c.number == number, trail.c.source == source)
            .order_by(trail.c.id.desc())
            .limit(1)
        )
        row = self.connection.execute(last).one_or_none()
        why = why[:MAX_WHY]
        if row is not None and (row.what, row.why) == (what, why):
            return False
        self.connection.execute(
            insert(trail).values(at=self.now, repo=repo, number=number, source=source, what=what, why=why)
        )
        return True

    def list_trail(self, repo: str, numbers: Iterable[int], *, limit: int = 500) -> list[Step]:
        """Return the newest lines about some numbers, oldest first."""
        query = select(trail).where(trail.c.repo == repo, trail.c.number.in_(sorted(set(numbers))))
        rows = self.connection.execute(query.order_by(trail.c.id.desc()).limit(limit)).all()
        return [Step(**row._mapping) for row in reversed(rows)]  # noqa: SLF001 - SQLAlchemy's public name

    def family(self, repo: str, number: int) -> list[int]:
        """Return an issue and the pull requests for it, whichever of them is named."""
        return self._family(repo, number, self.connection.scalar(select(work.c.issue).where(*_here(repo, number))))

    # --- polls --------------------------------------------------------------------------------

    def poll(self, repo: str) -> Poll:
        """Return how far a repository has been asked."""
        row = self.connection.execute(select(polls).where(polls.c.repo == repo)).one_or_none()
        return Poll(**row._mapping) if row else Poll(repo=repo)  # noqa: SLF001 - SQLAlchemy's public name

    def list_polls(self) -> list[Poll]:
        """Return how far every repository has been asked."""
        rows = self.connection.execute(select(polls).order_by(polls.c.repo))
        return [Poll(**row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's public name

    def note_poll(self, repo: str, **values: Any) -> None:
        """Write how far a repository has been asked: polled_at, comments_since, error."""
        if self.connection.execute(update(polls).where(polls.c.repo == repo).values(**values)).rowcount == 0:
            self.connection.execute(insert(polls).values(repo=repo, **values))


_MARKS = ("looked_at", "unmergeable_since", "unmergeable_at", "head_sha", "head_since")
_PAST = tuple(
    tasks.c[name]
    for name in (
        *("id", "kind", "type", "number", "state", "head_sha", "evidence", "agent_ran", "rule", "reason"),
        *("created_at", "started_at", "finished_at"),
    )
)
_ORDER = tuple(c for c in orders.c if c.name != "due_at")


def _here(repo: str, number: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return work.c.repo == repo, work.c.number == number


def _reason(why: str | None) -> str:
    """Return why a look is due. The mark of one that did not come to its end stays here: its end takes that away."""
    return "again" if why is None or why == _SAFETY else why


def _to_past(row: Any) -> Past:
    evidence = row.evidence or {}
    return Past(
        id=row.id,
        kind=Kind(row.kind),
        type=row.type,
        number=row.number,
        state=State(row.state),
        head_sha=row.head_sha,
        head_before=evidence.get("head_before"),
        head_after=evidence.get("head_after"),
        agent_ran=bool(row.agent_ran),
        by_hand=row.rule is None,
        reason=row.reason,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _to_order(row: Any) -> Order:
    return Order(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
