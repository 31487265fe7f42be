"""Receipts of deliveries, and what the forge told us of each issue and pull request."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from sqlalchemy import func, select

from pool import schema
from pool.errors import UnknownDelivery
from pool.states import Verdict
from pool.store import Store, deliveries
from pool.subject import Subject
from tests.helpers.stores import throwaway_store
from tests.pool import drive

SHA = "a" * 40


def _receive(store: Store, *, verdict: Verdict = Verdict.ACCEPTED, **values: Any) -> int:
    row = {"source": "forgejo", "signed": True, "delivery_id": "d-1", "fingerprint": "f-1", **values}
    with store.writing() as tx:
        receipt = tx.add_delivery(**row)
        tx.settle_delivery(receipt, verdict=verdict, status=202, reason="as the test says")
    return receipt


def _twin(store: Store, delivery_id: str | None, fingerprint: str) -> int | None:
    with store.reading() as tx:
        return tx.accepted_twin(delivery_id=delivery_id, fingerprint=fingerprint)


def test_the_same_id_is_a_duplicate_and_so_is_the_same_meaning(store: Store) -> None:
    receipt = _receive(store)

    assert _twin(store, "d-1", "f-2") == receipt
    assert _twin(store, "d-2", "f-1") == receipt
    assert _twin(store, None, "f-1") == receipt
    assert _twin(store, "d-2", "f-2") is None
    assert _twin(store, None, "f-2") is None


@pytest.mark.parametrize("verdict", sorted(set(Verdict) - {Verdict.ACCEPTED}))
def test_what_was_not_accepted_may_be_sent_again(store: Store, verdict: Verdict) -> None:
    _receive(store, verdict=verdict)

    assert _twin(store, "d-1", "f-1") is None
    assert _twin(store, "d-1", "f-1") is None
    accepted = _receive(store)
    assert _twin(store, "d-1", "f-1") == accepted


def test_a_receipt_says_from_its_first_moment_that_it_is_not_decided(store: Store) -> None:
    with store.writing() as tx:
        receipt = tx.add_delivery(source="forgejo", signed=True)

    with store.reading() as tx:
        kept = tx.delivery(receipt)
    assert (kept.verdict, kept.status, kept.reason) == (Verdict.ERROR, 500, "not decided yet")
    assert kept.received_at == store.clock()


def test_receipts_of_unsigned_deliveries_are_few_and_the_newest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "UNSIGNED_KEPT", 3)
    signed = [_receive(store, delivery_id=f"d-{i}", fingerprint=f"f-{i}") for i in range(5)]

    unsigned = [_receive(store, signed=False, verdict=Verdict.REFUSED, delivery_id=None) for _ in range(8)]

    with store.reading() as tx:
        kept = [receipt.id for receipt in tx.list_deliveries()]
    assert kept == [*reversed(unsigned[-3:]), *reversed(signed)]


@settings(max_examples=30)
@given(body=st.none() | st.binary(max_size=300), headers=st.dictionaries(st.text(max_size=9), st.text(max_size=9)))
def test_a_body_and_its_headers_come_back_as_they_came(body: bytes | None, headers: dict[str, str]) -> None:
    with throwaway_store() as (store, _):
        receipt = _receive(store, body=body, headers=headers)

        with store.reading() as tx:
            assert tx.delivery_body(receipt) == (headers, body)


def test_a_body_is_kept_compressed(store: Store) -> None:
    _receive(store, body=b'{"number": 7}' * 1000)

    with store.reading() as tx:
        kept = tx.connection.scalar(select(func.length(schema.deliveries.c.body)))
    assert kept is not None
    assert kept < 500


def test_a_delivery_that_does_not_exist_is_named(store: Store) -> None:
    with store.reading() as tx:
        with pytest.raises(UnknownDelivery, match="41"):
            tx.delivery(41)
        with pytest.raises(UnknownDelivery, match="41"):
            tx.delivery_body(41)


def test_receipts_can_be_listed_by_verdict_and_by_what_they_speak_of(store: Store) -> None:
    one = _receive(store, repo="acme/shop", number=7)
    two = _receive(store, repo="acme/shop", number=8, verdict=Verdict.IGNORED)
    three = _receive(store, repo="acme/other", number=7, verdict=Verdict.IGNORED)

    with store.reading() as tx:
        assert [r.id for r in tx.list_deliveries()] == [three, two, one]
        assert [r.id for r in tx.list_deliveries(limit=1)] == [three]
        assert [r.id for r in tx.list_deliveries(verdict=Verdict.IGNORED)] == [three, two]
        assert [r.id for r in tx.list_deliveries(repo="acme/shop", number=7)] == [one]


def test_a_task_remembers_the_delivery_that_caused_it(store: Store) -> None:
    drive.add(store, "dev-alpha")
    receipt = _receive(store)

    queued = drive.dispatch(store, delivery=receipt, rule="issue-assigned")

    with store.reading() as tx:
        (found,) = tx.list_tasks(delivery=receipt)
    assert (found.id, found.delivery, found.rule) == (queued.task, receipt, "issue-assigned")


# --- subjects ------------------------------------------------------------------------------------


def test_what_the_forge_told_of_a_subject_comes_back_and_the_newest_word_counts(store: Store) -> None:
    first = Subject(
        repo="acme/shop",
        number=7,
        is_pull=True,
        assignees=("dev",),
        author="dev",
        head_sha=SHA,
        head_ref="dev/7",
        title="Ship it",
        url="https://forge.example/acme/shop/pulls/7",
        labels=("security",),
        updated_at=store.clock(),
    )
    second = Subject(repo="acme/shop", number=7, is_pull=True, assignees=(), state="closed")

    for told in (first, second):
        with store.writing() as tx:
            tx.remember(told)

        with store.reading() as tx:
            assert tx.subject("acme/shop", 7) == told


def test_nothing_is_known_of_a_subject_that_nobody_spoke_of(store: Store) -> None:
    with store.reading() as tx:
        assert tx.subject("acme/shop", 7) is None


def test_assignees_that_nobody_told_are_not_the_same_as_none(store: Store) -> None:
    with store.writing() as tx:
        tx.remember(Subject(repo="acme/shop", number=7, is_pull=False, assignees=None))
        tx.remember(Subject(repo="acme/shop", number=8, is_pull=False, assignees=()))

    with store.reading() as tx:
        untold, none = tx.subject("acme/shop", 7), tx.subject("acme/shop", 8)
    assert untold is not None
    assert none is not None
    assert (untold.assignees, none.assignees) == (None, ())


def test_a_commit_leads_to_the_newest_open_pull_request_whose_head_it_is(store: Store) -> None:
    pull: dict[str, Any] = {"repo": "acme/shop", "is_pull": True, "head_sha": SHA}
    with store.writing() as tx:
        tx.remember(Subject(**pull, number=3))
        tx.remember(Subject(**pull, number=4))
        tx.remember(Subject(**pull, number=5, state="closed"))
        tx.remember(Subject(**{**pull, "head_sha": "b" * 40}, number=6))
        tx.remember(Subject(**{**pull, "is_pull": False}, number=7))
        tx.remember(Subject(**{**pull, "repo": "acme/other"}, number=8))

    with store.reading() as tx:
        found = tx.pull_at("acme/shop", SHA)
        assert tx.pull_at("acme/shop", "c" * 40) is None
    assert found is not None
    assert found.number == 4
