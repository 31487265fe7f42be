"""A deployment whose accounts talk to a forge in memory: for the ledger, the orders, the polls and the steward."""

from pathlib import Path
from typing import Any

from pool.subject import Subject
from pool.work import Effect, Look, Order, Step, Work, by_subject
from tasks import ledger, orders
from tasks.forge import Forge
from tasks.forges import Forges
from tests.helpers.fake_writer import HEAD, REPO, FakeWriter, types_with_tokens
from tests.helpers.yard import Yard
from tests.pool import drive


class Desk(Yard):
    """Issue 7 is assigned to dev, pull request 8 was written by dev; one instance of each type."""

    def __init__(self, folder: Path, **service: Any) -> None:
        super().__init__(folder, **{"types": types_with_tokens(folder), **service})
        self.forge = FakeWriter()
        self.forge.issue(7, assignees=["dev"])
        self.forge.pull(8)
        self.forges: Forges = self.forge.forges(self.settings)
        for name, type_name in (("dev-alpha", "dev"), ("rev-alpha", "reviewer"), ("boss-alpha", "boss")):
            drive.add(self.store, name, type_name=type_name)

    def close(self) -> None:
        """End what was started."""
        self.forges.close()
        super().close()

    @property
    def main(self) -> Forge:
        """The client of the account that reads and reports."""
        forge = self.forges.main()
        assert forge is not None
        return forge

    def wait(self, seconds: float) -> None:
        """Let time pass on all clocks."""
        super().wait(seconds)
        self.forge.now = self.clock.now

    # --- the ledger ---------------------------------------------------------------------------

    def owe(self, kind: str, number: int = 7, *, key: str = "", again: bool = False, **body: Any) -> str:
        """Note an effect; return its key."""
        key = key or f"{kind}:{REPO}#{number}"
        with self.store.writing() as tx:
            tx.owe(key, kind, repo=REPO, number=number, type_name="boss", body=body, again=again)
        return key

    def settle(self, **options: Any) -> int:
        """Write what is due."""
        return ledger.settle(self.engine, self.forges, ledger.owed(self.engine), **options)

    def effect(self, key: str) -> Effect:
        """Return what the ledger knows of an effect."""
        with self.store.reading() as tx:
            found = tx.effect(key)
        assert found is not None
        return found

    def owed(self, kind: str) -> list[Effect]:
        """Return what is owed of a kind, oldest first."""
        with self.store.reading() as tx:
            return [one for one in reversed(tx.list_effects(only_owed=True)) if one.kind == kind]

    def forget(self, key: str) -> None:
        """Let the ledger not know that an effect was written, as after a crash at that moment."""
        with self.store.writing() as tx:
            tx.connection.exec_driver_sql("UPDATE effects SET done_at = NULL, ref = NULL WHERE key = ?", (key,))

    # --- what is known ------------------------------------------------------------------------

    def trail(self, number: int = 7, *, source: str) -> list[Step]:
        """Return the lines of one source."""
        with self.store.reading() as tx:
            return [line for line in tx.list_trail(REPO, [number]) if line.source == source]

    def work(self, number: int = 7) -> Work:
        """Return what is known of an issue or pull request."""
        with self.store.reading() as tx:
            return tx.work(REPO, number)

    def looks(self, *, within_s: float = 0.0) -> list[Look]:
        """Return the looks that are due, or will be soon."""
        now = self.clock.now
        self.clock.advance(within_s)
        with self.store.reading() as tx:
            found = tx.due_looks()
        self.clock.now = now
        return sorted(found, key=lambda look: look.number)

    def link(self, pull: int = 8, issue: int = 7) -> None:
        """Let it be known which issue a pull request is for."""
        with self.store.writing() as tx:
            tx.note_work(REPO, pull, issue=issue)

    def know(self, number: int, **facts: Any) -> None:
        """Let the forge have told of an issue or pull request."""
        with self.store.writing() as tx:
            tx.remember(Subject(**{"repo": REPO, "number": number, "is_pull": False, **facts}))

    def enter(self, number: int = 8, base: str = "main") -> int:
        """Put a pull request into its lane, and give it the lane if it is free; return the entry."""
        with self.store.writing() as tx:
            entry = tx.enter_lane(REPO, base, number, head_sha=HEAD, approved_at=tx.now)
            tx.next_in_lane(REPO, base)
        return entry.id

    # --- orders -------------------------------------------------------------------------------

    def order(self, verb: str, argument: str = "", *, number: int = 7, by: str = "ada", line: int = 0) -> Order:
        """Note an order in a comment that is on the forge."""
        comment = self.forge.comment(number, f"/forgepool {verb} {argument}".strip(), by=by)
        told = {"repo": REPO, "number": number, "comment": comment, "line": line, "delivery": None}
        with self.store.writing() as tx:
            order = tx.take_order(**told, verb=verb, argument=argument, by=by)
        return self.read_order(order or 0)

    def carry_out_orders(self) -> int:
        """Carry out the orders that wait, as the steward does."""
        with self.store.reading() as tx:
            waiting = tx.due_orders()
        return sum(orders.carry_out_all(self.engine, self.main, some) for _, some in by_subject(waiting))

    def read_order(self, order: int) -> Order:
        """Return what has become of an order."""
        with self.store.reading() as tx:
            numbers = [7, 8, *self.forge.issues]
            return next(one for number in numbers for one in tx.list_orders(REPO, number) if one.id == order)
