"""Lanes: which pull request of a repository and base branch is merged next. Every change is guarded by its state."""

from datetime import datetime
from typing import Any

from sqlalchemy import CursorResult, insert, select, update

from pool.errors import StaleMerge, UnknownMerge
from pool.lanes import OPEN_MERGES, Merge, MergeState, MergeStep, Refusal
from pool.schema_work import holds_lane, is_open_merge, merges
from pool.store.effects import EffectVerbs


class LaneVerbs(EffectVerbs):
    """Statements about merges."""

    def enter_lane(self, repo: str, base: str, number: int, *, head_sha: str, approved_at: datetime) -> Merge:
        """Put an approved pull request into its lane; one that is in a lane already stays where it is."""
        known = self.open_merge(repo, number)
        if known is not None:
            return known
        row = {
            "repo": repo,
            "base": base,
            "number": number,
            "state": MergeState.WAITING,
            "head_sha": head_sha,
            "approved_sha": head_sha,
            "approved_at": approved_at,
            "entered_at": self.now,
            "changed_at": self.now,
        }
        merge: int = self.connection.execute(insert(merges).values(**row).returning(merges.c.id)).scalar_one()
        return self.merge(merge)

    def next_in_lane(self, repo: str, base: str) -> Merge | None:
        """Give a free lane to the one that was approved first; None: it is taken, or nobody waits."""
        here = (merges.c.repo == repo, merges.c.base == base)
        if self.connection.scalar(select(merges.c.id).where(*here, holds_lane)) is not None:
            return None
        first = select(merges.c.id).where(*here, is_open_merge).order_by(merges.c.approved_at, merges.c.id).limit(1)
        merge = self.connection.scalar(first)
        if merge is None:
            return None
        self._change(merge, (MergeState.WAITING,), state=MergeState.ACTIVE, reason="")
        return self.begin_link(merge, MergeStep.CHECK)

    def begin_link(self, merge: int, step: MergeStep, **values: Any) -> Merge:
        """Count the next link of an active merge; its task is submitted in the same transaction.

        values: head_sha, base_sha, merge_sha, approved_sha, reason.
        """
        link = self.merge(merge).link + 1
        self._change(merge, (MergeState.ACTIVE,), step=step, link=link, look_at=None, **values)
        return self.merge(merge)

    def park(self, merge: int, *, link: int, why: str, look_after_s: float, **values: Any) -> None:
        """Let a merge wait for the forge, in its lane. link: the one that found it not ready."""
        self._change(
            merge,
            (MergeState.ACTIVE,),
            link_is=link,
            state=MergeState.PARKED,
            step=None,
            reason=why,
            look_at=self.after(look_after_s),
            **values,
        )

    def unpark(self, merge: int, step: MergeStep = MergeStep.CHECK) -> Merge:
        """Go on with a parked merge."""
        self._change(merge, (MergeState.PARKED,), state=MergeState.ACTIVE)
        return self.begin_link(merge, step)

    def hurry_merge(self, repo: str, number: int) -> bool:
        """Have a parked merge looked at now: something about it changed."""
        merge = self.open_merge(repo, number)
        if merge is None or merge.state is not MergeState.PARKED:
            return False
        # One that is due already keeps its place among those that are.
        waits = (merges.c.id == merge.id, merges.c.look_at > self.now)
        self.connection.execute(update(merges).where(*waits).values(look_at=self.now))
        return True

    def end_merge(
        self,
        merge: int,
        state: MergeState,
        *,
        reason: str,
        code: Refusal | None = None,
        link: int | None = None,
        merge_sha: str | None = None,
    ) -> None:
        """Take a merge out of its lane. link: the one that ended it; None: somebody from outside."""
        values: dict[str, Any] = {"state": state, "step": None, "code": code, "reason": reason}
        values |= {"look_at": None, "ended_at": self.now}
        if merge_sha is not None:
            values["merge_sha"] = merge_sha
        self._change(merge, tuple(OPEN_MERGES), link_is=link, **values)

    def _change(
        self, merge: int, sources: tuple[MergeState, ...], *, link_is: int | None = None, **values: Any
    ) -> None:
        query = update(merges).where(merges.c.id == merge, merges.c.state.in_(sorted(sources)))
        if link_is is not None:
            query = query.where(merges.c.link == link_is)
        result: CursorResult[Any] = self.connection.execute(query.values(changed_at=self.now, **values))
        if result.rowcount == 0:
            found = self.connection.execute(select(merges.c.state, merges.c.link).where(merges.c.id == merge))
            row = found.one_or_none()
            if row is None:
                raise UnknownMerge(merge)
            raise StaleMerge(merge, f"{row.state}, link {row.link}")

    # --- reading ------------------------------------------------------------------------------

    def merge(self, merge: int) -> Merge:
        """Return one entry. Raises UnknownMerge."""
        row = self.connection.execute(select(merges).where(merges.c.id == merge)).one_or_none()
        if row is None:
            raise UnknownMerge(merge)
        return to_merge(row)

    def open_merge(self, repo: str, number: int) -> Merge | None:
        """Return the entry of a pull request that has not ended."""
        query = select(merges).where(merges.c.repo == repo, merges.c.number == number, is_open_merge)
        row = self.connection.execute(query).one_or_none()
        return to_merge(row) if row else None

    def due_merges(self, *, limit: int = 50) -> list[Merge]:
        """Return the parked merges that are to be looked at again, longest first."""
        query = select(merges).where(merges.c.state == MergeState.PARKED, is_open_merge, merges.c.look_at <= self.now)
        return [
            to_merge(row) for row in self.connection.execute(query.order_by(merges.c.look_at, merges.c.id).limit(limit))
        ]

    def list_merges(
        self, *, repo: str | None = None, number: int | None = None, only_open: bool = False, limit: int = 50
    ) -> list[Merge]:
        """Return entries that fit every given filter: open ones in the order of their lanes, else newest first."""
        query = select(merges).limit(limit)
        if only_open:
            query = query.where(is_open_merge).order_by(
                merges.c.repo, merges.c.base, merges.c.state == MergeState.WAITING, merges.c.approved_at, merges.c.id
            )
        else:
            query = query.order_by(merges.c.id.desc())
        for name, value in {"repo": repo, "number": number}.items():
            if value is not None:
                query = query.where(merges.c[name] == value)
        return [to_merge(row) for row in self.connection.execute(query)]

    def free_lanes(self) -> list[tuple[str, str]]:
        """Return (repo, base) of lanes in which somebody waits and nobody goes; there should be none."""
        taken = select(merges.c.repo, merges.c.base).where(holds_lane)
        rows = self.connection.execute(select(merges.c.repo, merges.c.base).where(is_open_merge).distinct())
        busy = {(row.repo, row.base) for row in self.connection.execute(taken)}
        return sorted({(row.repo, row.base) for row in rows} - busy)


def to_merge(row: Any) -> Merge:
    """Turn a row into a value."""
    value = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return Merge(
        **{
            **value,
            "state": MergeState(value["state"]),
            "step": None if value["step"] is None else MergeStep(value["step"]),
            "code": None if value["code"] is None else Refusal(value["code"]),
        }
    )
