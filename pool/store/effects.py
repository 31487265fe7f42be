"""The effect ledger: what is owed to the forge, noted in the transaction that caused it and written afterwards."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, insert, select, update

from pool.schema_work import effects, is_owed
from pool.store.runs import RunVerbs
from pool.work import Effect

MAX_ERROR = 500  #: characters


class EffectVerbs(RunVerbs):
    """Statements about effects."""

    def owe(
        self,
        key: str,
        kind: str,
        *,
        repo: str,
        number: int,
        type_name: str,
        body: Mapping[str, Any] | None = None,
        task: int | None = None,
        again: bool = False,
        after_s: float = 0.0,
    ) -> bool:
        """Note that something is to be written to the forge; tell whether that is news.

        key: what makes it the same effect; it is done once. again: it is to be done anew, if it was done (a report
        that is edited). type_name: whose account writes it. after_s: not before that; what was owed already is not put
        off by being owed anew.
        """
        known = self.effect(key)
        if known is None:
            row = {"key": key, "kind": kind, "repo": repo, "number": number, "type": type_name, "task": task}
            row |= {"body": dict(body or {}), "created_at": self.now, "due_at": self.after(after_s)}
            self.connection.execute(insert(effects).values(**row))
            return True
        if not again:
            return False
        due_at = self.after(after_s)
        if known.done_at is None and known.given_up_at is None:
            due_at = min(due_at, known.due_at)
        anew = {"body": dict(body or {}), "version": known.version + 1, "due_at": due_at, "type": type_name}
        anew |= {"done_at": None, "given_up_at": None, "tries": 0, "error": "", "task": task or known.task}
        self.connection.execute(update(effects).where(effects.c.id == known.id).values(**anew))
        return True

    def owed_effects(self, *, limit: int = 50) -> list[Effect]:
        """Return what is due to be written, oldest first."""
        query = select(effects).where(is_owed, effects.c.due_at <= self.now)
        return [
            _to_effect(row)
            for row in self.connection.execute(query.order_by(effects.c.due_at, effects.c.id).limit(limit))
        ]

    def note_effect(self, effect: Effect, *, ref: str | None = None) -> None:
        """Note that an effect is on the forge. One that was owed anew meanwhile stays owed, but keeps its `ref`."""
        here = update(effects).where(effects.c.id == effect.id)
        if ref is not None:
            self.connection.execute(here.values(ref=ref))
        same = here.where(effects.c.version == effect.version, effects.c.done_at.is_(None))
        self.connection.execute(same.values(done_at=self.now, given_up_at=None, error=""))

    def fail_effect(self, effect: Effect, *, error: str, after_s: float | None) -> None:
        """Note that an effect could not be written. after_s: when it is tried again; None: never.

        One that was owed anew meanwhile, or written by somebody else, is left as it is.
        """
        values: dict[str, Any] = {"tries": effects.c.tries + 1, "error": error[:MAX_ERROR]}
        values |= {"given_up_at": self.now} if after_s is None else {"due_at": self.after(after_s)}
        same = (effects.c.id == effect.id, effects.c.version == effect.version, is_owed)
        self.connection.execute(update(effects).where(*same).values(**values))

    def effect(self, key: str) -> Effect | None:
        """Return the effect with a key."""
        row = self.connection.execute(select(effects).where(effects.c.key == key)).one_or_none()
        return _to_effect(row) if row else None

    def list_effects(
        self, *, repo: str | None = None, number: int | None = None, only_owed: bool = False, limit: int = 100
    ) -> list[Effect]:
        """Return effects that fit every given filter, newest first."""
        query = select(effects).order_by(effects.c.id.desc()).limit(limit)
        for name, value in {"repo": repo, "number": number}.items():
            if value is not None:
                query = query.where(effects.c[name] == value)
        return [_to_effect(row) for row in self.connection.execute(query.where(is_owed) if only_owed else query)]

    def count_given_up(self) -> int:
        """Return how many effects could not be written and are not tried any more."""
        query = select(func.count()).select_from(effects).where(effects.c.given_up_at.is_not(None))
        return self.connection.scalar(query) or 0


def _to_effect(row: Any) -> Effect:
    return Effect(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
