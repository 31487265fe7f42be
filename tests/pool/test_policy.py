"""Properties of the choice itself, on values alone."""

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pool import policy
from pool.errors import NoInstance
from pool.model import Candidate, Decision, LabelRule, Rule

_names = st.from_regex(r"dev-[a-z0-9-]{1,3}", fullmatch=True)
_labels = st.sets(st.sampled_from("abcd")).map(lambda found: tuple(sorted(found)))
_candidate = st.builds(
    Candidate,
    name=_names,
    labels=_labels,
    queued=st.integers(0, 3),
    running=st.integers(0, 1),
    paused=st.booleans(),
)
_pool = st.lists(_candidate, min_size=1, max_size=8, unique_by=lambda c: c.name).map(
    lambda found: sorted(found, key=lambda c: c.name)
)
_cursor = st.none() | _names


def _choose(pool: list[Candidate], labels: tuple[str, ...], cursor: str | None) -> tuple[Decision, Candidate]:
    decision = policy.choose(pool, type_name="dev", labels=labels, cursor=cursor)
    return decision, next(c for c in pool if c.name == decision.chosen)


def _shared(candidate: Candidate, labels: tuple[str, ...]) -> int:
    return len(set(candidate.labels) & set(labels))


def test_nobody_can_be_chosen_from_nobody() -> None:
    with pytest.raises(NoInstance, match="'dev'"):
        policy.choose([], type_name="dev", labels=(), cursor=None)


@given(_pool, _labels, _cursor)
def test_a_paused_instance_is_chosen_only_when_all_are_paused(
    pool: list[Candidate], labels: tuple[str, ...], cursor: str | None
) -> None:
    decision, chosen = _choose(pool, labels, cursor)

    assert chosen.paused == decision.paused_only == all(c.paused for c in pool)


@given(_pool, _labels, _cursor)
def test_nobody_who_could_serve_shares_more_labels(
    pool: list[Candidate], labels: tuple[str, ...], cursor: str | None
) -> None:
    _, chosen = _choose(pool, labels, cursor)

    assert all(_shared(c, labels) <= _shared(chosen, labels) for c in pool if c.paused == chosen.paused)


@given(_pool, _labels, _cursor)
def test_nobody_who_fits_as_well_has_less_to_do(
    pool: list[Candidate], labels: tuple[str, ...], cursor: str | None
) -> None:
    _, chosen = _choose(pool, labels, cursor)
    _, fitting = policy.narrow([c for c in pool if c.paused == chosen.paused], labels)

    assert chosen in fitting
    assert not any(c.queued + c.running == 0 for c in fitting) or chosen.queued + chosen.running == 0
    assert chosen.queued + chosen.running == 0 or all(chosen.queued <= c.queued for c in fitting)


@given(_pool, _labels, _cursor)
def test_the_cursor_moves_to_the_instance_chosen(
    pool: list[Candidate], labels: tuple[str, ...], cursor: str | None
) -> None:
    decision, chosen = _choose(pool, labels, cursor)

    assert (decision.cursor_before, decision.cursor_after) == (cursor, chosen.name)


@given(_pool, _labels, _cursor, st.randoms())
def test_the_order_in_which_candidates_are_given_changes_nothing_but_the_record(
    pool: list[Candidate], labels: tuple[str, ...], cursor: str | None, rng: random.Random
) -> None:
    decision, _ = _choose(pool, labels, cursor)
    shuffled = list(pool)
    rng.shuffle(shuffled)

    other, _ = _choose(shuffled, labels, cursor)

    assert (other.chosen, other.rule, other.label_rule) == (decision.chosen, decision.rule, decision.label_rule)


@given(_pool, _labels, _cursor)
def test_the_rule_says_what_decided(pool: list[Candidate], labels: tuple[str, ...], cursor: str | None) -> None:
    decision, chosen = _choose(pool, labels, cursor)
    _, fitting = policy.narrow([c for c in pool if c.paused == chosen.paused], labels)
    equals = sum(c.load == chosen.load for c in fitting)

    match decision.rule:
        case Rule.ONLY_ONE:
            assert len(fitting) == 1
        case Rule.IDLE | Rule.LEAST_LOADED:
            assert len(fitting) > 1
            assert equals == 1
        case Rule.ROUND_ROBIN | Rule.TIE:
            assert equals > 1
    assert decision.rule is Rule.ONLY_ONE or (chosen.load == 0) == (decision.rule in {Rule.IDLE, Rule.ROUND_ROBIN})


@given(_pool, _labels)
def test_labels_narrow_to_those_who_match_else_to_generalists_else_to_nobody_less(
    pool: list[Candidate], labels: tuple[str, ...]
) -> None:
    rule, kept = policy.narrow(pool, labels)
    best = max(_shared(c, labels) for c in pool)
    generalists = [c for c in pool if not c.labels]

    if not labels:
        assert (rule, kept) == (LabelRule.NONE, pool)
    elif best:
        assert (rule, kept) == (LabelRule.MATCH, [c for c in pool if _shared(c, labels) == best])
    elif generalists:
        assert (rule, kept) == (LabelRule.GENERALISTS, generalists)
    else:
        assert (rule, kept) == (LabelRule.ANY, pool)


@given(_pool, _cursor)
def test_the_next_after_the_cursor_skips_nobody(pool: list[Candidate], cursor: str | None) -> None:
    found = policy.next_after(cursor, pool).name
    names = [c.name for c in pool]
    later = [name for name in names if cursor is not None and name > cursor]

    assert found == (later[0] if later else names[0])


@given(_pool)
def test_going_round_once_meets_everybody_once(pool: list[Candidate]) -> None:
    cursor, met = None, []
    for _ in pool:
        cursor = policy.next_after(cursor, pool).name
        met.append(cursor)

    assert met == [c.name for c in pool]


def test_the_load_of_an_instance_does_not_count_the_running_task() -> None:
    loads = [Candidate(name="x", queued=q, running=r).load for q, r in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))]

    assert loads == [0, 1, 2, 2, 3]
