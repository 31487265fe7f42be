"""The effect ledger: what is owed is owed once, and is done for the version that was read."""

from datetime import timedelta
from typing import Any

import pytest

from pool.store import Store
from pool.store.effects import MAX_ERROR
from pool.work import Effect
from tests.helpers.clock import Clock

REPO = "acme/shop"


def _owe(store: Store, key: str = "ask:x", **options: Any) -> bool:
    known = {"kind": key.split(":", maxsplit=1)[0], "repo": REPO, "number": 7, "type_name": "dev"}
    with store.writing() as tx:
        return tx.owe(key, **{**known, **options})


def _effect(store: Store, key: str = "ask:x") -> Effect:
    with store.reading() as tx:
        found = tx.effect(key)
    assert found is not None
    return found


def _owed(store: Store, **options: Any) -> list[str]:
    with store.reading() as tx:
        return [effect.key for effect in tx.owed_effects(**options)]


def _done(store: Store, effect: Effect, ref: str | None = None) -> None:
    with store.writing() as tx:
        tx.note_effect(effect, ref=ref)


def _fail(store: Store, effect: Effect, after_s: float | None, error: str = "away") -> None:
    with store.writing() as tx:
        tx.fail_effect(effect, error=error, after_s=after_s)


def test_what_is_owed_is_told_whole(store: Store, clock: Clock) -> None:
    assert _owe(store, body={"text": "hello", "pull": None}, task=41, after_s=5) is True

    assert _effect(store) == Effect(
        id=1,
        key="ask:x",
        kind="ask",
        repo=REPO,
        number=7,
        type="dev",
        task=41,
        body={"text": "hello", "pull": None},
        version=1,
        tries=0,
        due_at=clock.now + timedelta(seconds=5),
        error="",
        ref=None,
        created_at=clock.now,
        done_at=None,
        given_up_at=None,
    )
    with store.reading() as tx:
        assert tx.effect("ask:y") is None


def test_what_is_owed_is_due_when_its_time_comes_longest_first(store: Store, clock: Clock) -> None:
    for key, after_s in (("a:1", 10), ("b:1", 5), ("c:1", 5), ("d:1", 11)):
        _owe(store, key, after_s=after_s)
    assert _owed(store) == []

    clock.advance(10)

    assert _owed(store) == ["b:1", "c:1", "a:1"]
    assert _owed(store, limit=2) == ["b:1", "c:1"]


@pytest.mark.parametrize("end", ["owed", "done", "given up"])
def test_the_same_effect_is_owed_once_whatever_became_of_it(store: Store, end: str) -> None:
    _owe(store, body={"text": "first"})
    if end == "done":
        _done(store, _effect(store), "17")
    elif end == "given up":
        _fail(store, _effect(store), None)
    before = _effect(store)

    assert _owe(store, body={"text": "second"}) is False

    assert _effect(store) == before


def test_what_is_done_is_owed_no_more_and_keeps_what_the_forge_calls_it(store: Store, clock: Clock) -> None:
    _owe(store)
    _fail(store, _effect(store), 0.0)

    _done(store, _effect(store), "17")

    found = _effect(store)
    assert (found.done_at, found.ref, found.error, found.tries) == (clock.now, "17", "", 1)
    assert _owed(store) == []


@pytest.mark.parametrize("end", ["done", "given up"])
def test_what_is_owed_anew_is_to_be_done_anew_and_knows_what_the_forge_calls_it(
    store: Store, clock: Clock, end: str
) -> None:
    _owe(store, "report:x", task=1, body={"a": 1})
    _done(store, _effect(store, "report:x"), "17")
    if end == "given up":
        _owe(store, "report:x", again=True)
        _fail(store, _effect(store, "report:x"), None)
    began = clock.now
    clock.advance(60)

    assert _owe(store, "report:x", again=True, task=2, body={"b": 2}, type_name="rev", after_s=1) is True

    found = _effect(store, "report:x")
    assert (found.done_at, found.given_up_at, found.tries, found.error) == (None, None, 0, "")
    assert (found.ref, found.task, found.body, found.type) == ("17", 2, {"b": 2}, "rev")
    assert (found.created_at, found.due_at) == (began, clock.now + timedelta(seconds=1))
    _owe(store, "report:x", again=True)
    assert _effect(store, "report:x").task == 2


def test_what_is_owed_anew_while_it_is_written_stays_owed(store: Store) -> None:
    _owe(store, "report:x", again=True)
    read = _effect(store, "report:x")
    _owe(store, "report:x", again=True, body={"newer": True})

    _done(store, read, "17")

    found = _effect(store, "report:x")
    assert (found.done_at, found.ref, found.version) == (None, "17", 2)
    assert _owed(store) == ["report:x"]
    _done(store, found)
    assert (_effect(store, "report:x").ref, _owed(store)) == ("17", [])


def test_what_is_owed_anew_while_it_fails_is_not_put_off(store: Store) -> None:
    _owe(store, "report:x", again=True)
    read = _effect(store, "report:x")
    _owe(store, "report:x", again=True)

    _fail(store, read, 60)
    _fail(store, read, None)

    found = _effect(store, "report:x")
    assert (found.tries, found.error, found.given_up_at) == (0, "", None)
    assert _owed(store) == ["report:x"]


def test_what_is_owed_anew_again_and_again_is_not_put_off_for_ever(store: Store, clock: Clock) -> None:
    """A report that changed more often than once in the time that it waits for others was never written."""
    for _ in range(4):
        _owe(store, "report:x", again=True, after_s=1.0)
        clock.advance(0.3)

    assert _owed(store) == ["report:x"]


def test_what_failed_is_tried_again_at_once_when_it_is_owed_anew(store: Store, clock: Clock) -> None:
    _owe(store, "report:x", again=True)
    _fail(store, _effect(store, "report:x"), 600)

    _owe(store, "report:x", again=True, after_s=1)

    clock.advance(1)
    assert _owed(store) == ["report:x"]


def test_what_could_not_be_written_is_tried_again_until_it_is_given_up(store: Store, clock: Clock) -> None:
    _owe(store)
    _owe(store, "reply:y")
    _fail(store, _effect(store), 5, "x" * (MAX_ERROR + 1))
    found = _effect(store)
    assert (found.tries, found.error) == (1, "x" * MAX_ERROR)
    assert _owed(store) == ["reply:y"]
    clock.advance(5)
    assert _owed(store) == ["reply:y", "ask:x"]

    _fail(store, found, None, "no")

    found = _effect(store)
    assert (found.tries, found.error, found.given_up_at) == (2, "no", clock.now)
    with store.reading() as tx:
        assert tx.count_given_up() == 1
    clock.advance(1e6)
    assert _owed(store) == ["reply:y"]


@pytest.mark.parametrize("after_s", [5.0, None])
def test_what_one_process_has_written_cannot_fail_in_another(store: Store, clock: Clock, after_s: float | None) -> None:
    _owe(store)
    read = _effect(store)
    _done(store, read)
    done = _effect(store)
    clock.advance(1)

    _fail(store, read, after_s)
    _done(store, read)

    assert _effect(store) == done


def test_what_one_process_gave_up_and_another_has_written_is_done(store: Store) -> None:
    _owe(store)
    read = _effect(store)
    _fail(store, read, None)

    _done(store, read, "17")

    found = _effect(store)
    assert (found.given_up_at, found.done_at is None, found.ref) == (None, False, "17")
    with store.reading() as tx:
        assert tx.count_given_up() == 0


def test_the_longest_names_of_a_repository_and_a_branch_fit_into_a_key(store: Store) -> None:
    """PostgreSQL refused one of more than 400 characters, and with it the end of the merge that owed it."""
    key = f"delete-branch:{'o' * 100}/{'r' * 100}:{'ü' * 250}:merge-{2**63 - 1}"

    assert (_owe(store, key), _owe(store, key)) == (True, False)
    assert _effect(store, key).key == key


def test_effects_are_listed_by_what_they_are_about_newest_first(store: Store) -> None:
    for key, number in (("a:1", 7), ("b:1", 8), ("c:1", 7)):
        _owe(store, key, number=number)
    _owe(store, "d:1", repo="acme/other")
    _done(store, _effect(store, "c:1"))

    with store.reading() as tx:
        assert [effect.key for effect in tx.list_effects()] == ["d:1", "c:1", "b:1", "a:1"]
        assert [effect.key for effect in tx.list_effects(repo=REPO, number=7)] == ["c:1", "a:1"]
        assert [effect.key for effect in tx.list_effects(repo=REPO, only_owed=True, limit=1)] == ["b:1"]
