"""A task whose request no longer validates: written by another version, or by hand."""

from sqlalchemy import update

from pool.model import Kind
from pool.schema import tasks
from pool.states import State
from pool.store import Claim, Store
from tests.helpers.factory import make_request
from tests.pool.drive import LEASE_S


def test_an_unreadable_request_fails_visibly_and_holds_up_nobody(store: Store) -> None:
    with store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")
        first, second = (tx.submit("dev", make_request(number=number), by="test").task for number in (1, 2))
        tx.connection.execute(update(tasks).where(tasks.c.id == first).values(request={"kind": "teleport"}))

    with store.writing() as tx:
        claimed = tx.claim("dev-alpha", lease_s=LEASE_S)
        shown = tx.task(first)
        counted = tx.instance("dev-alpha")

    assert isinstance(claimed, Claim)
    assert claimed.task.id == second
    assert shown.state is State.FAILED
    assert "request.kind = 'teleport'" in shown.reason
    assert shown.request.kind is Kind.CUSTOM
    assert "teleport" in shown.request.detail
    assert (counted.queued, counted.running) == (0, 1)
