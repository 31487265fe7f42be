"""Receipts of deliveries, and what the forge told us of each issue and pull request."""

import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, union_all, update

from pool.errors import UnknownDelivery
from pool.schema import deliveries, is_accepted, is_unsigned, subjects
from pool.states import Verdict
from pool.store.base import Verbs
from pool.subject import Subject

#: Receipts kept of requests that were not signed: enough to see an attack, too few to fill a disk.
UNSIGNED_KEPT = 1000

_FIELDS = tuple(c for c in deliveries.c if c.name not in {"body", "headers", "fingerprint"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One delivery and what became of it."""

    id: int
    delivery_id: str | None
    received_at: datetime
    source: str
    event_type: str | None
    action: str | None
    repo: str | None
    number: int | None
    sender: str | None
    remote: str | None
    signed: bool
    verdict: Verdict
    status: int
    rule: str | None
    reason: str
    duplicate_of: int | None


class DeliveryVerbs(Verbs):
    """Statements about deliveries and subjects."""

    def add_delivery(self, *, body: bytes | None = None, **values: Any) -> int:
        """Insert a receipt and return its id. The body is kept compressed, for a replay."""
        packed = None if body is None else zlib.compress(body)
        row = {"verdict": Verdict.ERROR, "status": 500, "reason": "not decided yet", **values}
        receipt: int | None = self.connection.scalar(
            insert(deliveries).values(received_at=self.now, body=packed, **row).returning(deliveries.c.id)
        )
        assert receipt is not None  # noqa: S101 - RETURNING of one inserted row
        if not row.get("signed"):
            self._forget_old_unsigned()
        return receipt

    def _forget_old_unsigned(self) -> None:
        newest = select(deliveries.c.id).where(is_unsigned).order_by(deliveries.c.id.desc())
        oldest_kept = newest.offset(UNSIGNED_KEPT - 1).limit(1).scalar_subquery()
        self.connection.execute(delete(deliveries).where(is_unsigned, deliveries.c.id < oldest_kept))

    def settle_delivery(self, receipt: int, **values: Any) -> None:
        """Write the verdict, its reason and the answer's status on a receipt."""
        self.connection.execute(update(deliveries).where(deliveries.c.id == receipt).values(**values))

    def accepted_twin(self, *, delivery_id: str | None, fingerprint: str) -> int | None:
        """Return the accepted receipt with the same id or the same meaning."""
        # Two look-ups: for an OR of the two columns SQLite reads every accepted delivery.
        accepted = select(deliveries.c.id).where(is_accepted)
        same_id = accepted.where(deliveries.c.delivery_id == delivery_id)
        same_meaning = accepted.where(deliveries.c.fingerprint == fingerprint)
        return self.connection.scalar(union_all(same_id, same_meaning) if delivery_id is not None else same_meaning)

    def delivery(self, receipt: int) -> Receipt:
        """Return one receipt. Raises UnknownDelivery."""
        row = self.connection.execute(select(*_FIELDS).where(deliveries.c.id == receipt)).one_or_none()
        if row is None:
            raise UnknownDelivery(receipt)
        return _to_receipt(row)

    def delivery_body(self, receipt: int) -> tuple[dict[str, str], bytes | None]:
        """Return the event headers and the raw body of a receipt; no body when it was refused unread."""
        row = self.connection.execute(
            select(deliveries.c.headers, deliveries.c.body).where(deliveries.c.id == receipt)
        ).one_or_none()
        if row is None:
            raise UnknownDelivery(receipt)
        return row.headers or {}, None if row.body is None else zlib.decompress(row.body)

    def list_deliveries(
        self, *, verdict: Verdict | None = None, repo: str | None = None, number: int | None = None, limit: int = 50
    ) -> list[Receipt]:
        """Return receipts that fit every given filter, newest first."""
        query = select(*_FIELDS).order_by(deliveries.c.id.desc()).limit(limit)
        for name, value in {"verdict": verdict, "repo": repo, "number": number}.items():
            if value is not None:
                query = query.where(deliveries.c[name] == value)
        return [_to_receipt(row) for row in self.connection.execute(query)]

    # --- subjects -----------------------------------------------------------------------------

    def subject(self, repo: str, number: int) -> Subject | None:
        """Return what is known of an issue or pull request."""
        row = self.connection.execute(
            select(subjects).where(subjects.c.repo == repo, subjects.c.number == number)
        ).one_or_none()
        return _to_subject(row) if row else None

    def pull_at(self, repo: str, sha: str) -> Subject | None:
        """Return the open pull request whose head is that commit, as far as the forge told us."""
        row = self.connection.execute(
            select(subjects)
            .where(subjects.c.repo == repo, subjects.c.head_sha == sha)
            .where(subjects.c.is_pull.is_(True), subjects.c.state == "open")
            .order_by(subjects.c.number.desc())
            .limit(1)
        ).one_or_none()
        return _to_subject(row) if row else None

    def open_subjects(self, repo: str) -> set[int]:
        """Return the issues and pull requests of a repository that are open, as far as the forge told us."""
        query = select(subjects.c.number).where(subjects.c.repo == repo, subjects.c.state == "open")
        return set(self.connection.scalars(query))

    def remember(self, subject: Subject) -> None:
        """Store what the forge told us last."""
        here = (subjects.c.repo == subject.repo, subjects.c.number == subject.number)
        values = {name: getattr(subject, name) for name in subjects.c.keys()}  # noqa: SIM118 - columns, not a dict
        for name in ("assignees", "labels"):
            values[name] = None if values[name] is None else list(values[name])
        if self.connection.execute(update(subjects).where(*here).values(**values)).rowcount == 0:
            self.connection.execute(insert(subjects).values(**values))


def _to_receipt(row: Any) -> Receipt:
    return Receipt(**{**row._mapping, "verdict": Verdict(row.verdict)})  # noqa: SLF001 - SQLAlchemy's public name


def _to_subject(row: Any) -> Subject:
    value = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    for name in ("assignees", "labels"):
        value[name] = None if value[name] is None else tuple(value[name])
    return Subject(**{**value, "labels": value["labels"] or ()})
