"""Which instance gets the next task, asked of the store."""

import itertools
import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from pool import explain, policy
from pool.errors import NoInstance
from pool.model import Candidate, Decision, Kind, LabelRule, Rule
from pool.states import LIVE, InstanceState, Move, State
from pool.store import Absorbed, Store, selection
from tests.helpers.stores import SOAK, throwaway_store
from tests.pool import drive

# --- the five promises ---------------------------------------------------------------------------


def test_the_one_idle_instance_is_chosen(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo", "dev-charlie")
    drive.chosen(store, 3)
    drive.serve(store, "dev-bravo")

    decision = drive.decided(store)

    assert decision.chosen == "dev-bravo"
    assert decision.rule is Rule.IDLE


def test_several_idle_instances_take_turns(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo", "dev-charlie")

    turns = []
    for _ in range(7):
        decision = drive.decided(store)
        turns.append(decision.chosen)
        drive.serve(store, decision.chosen)
        assert decision.rule is Rule.ROUND_ROBIN

    assert turns == ["dev-alpha", "dev-bravo", "dev-charlie"] * 2 + ["dev-alpha"]


def test_the_cursors_of_two_types_are_independent(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo", "dev-charlie")
    drive.add(store, "reviewer-alpha", "reviewer-bravo", type_name="reviewer")

    turns = []
    for type_name in ("dev", "reviewer", "reviewer", "dev", "reviewer", "dev"):
        turns += drive.chosen(store, 1, type_name)
        drive.serve(store, turns[-1])

    assert [name for name in turns if name.startswith("dev")] == ["dev-alpha", "dev-bravo", "dev-charlie"]
    assert [name for name in turns if name.startswith("rev")] == ["reviewer-alpha", "reviewer-bravo", "reviewer-alpha"]


@settings(max_examples=15)
@given(n=st.integers(1, 6), k=st.integers(1, 5), ends_at_once=st.booleans())
def test_over_k_times_n_dispatches_each_of_n_gets_exactly_k(n: int, k: int, *, ends_at_once: bool) -> None:
    with throwaway_store() as (store, _):
        names = [f"dev-{i}" for i in range(n)]
        drive.add(store, *names)

        turns = []
        for _ in range(k * n):
            turns += drive.chosen(store, 1)
            if ends_at_once:
                drive.serve(store, turns[-1])

        assert turns == names * k


def test_when_all_are_busy_the_shortest_queue_is_chosen(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    assert drive.chosen(store, 4) == ["dev-alpha", "dev-bravo"] * 2
    drive.serve(store, "dev-bravo")

    decision = drive.decided(store)

    assert decision.chosen == "dev-bravo"
    assert decision.rule is Rule.LEAST_LOADED


def test_the_running_task_is_not_counted_among_the_queued(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    drive.chosen(store, 2)
    drive.claim(store, "dev-bravo")

    decision = drive.decided(store)

    assert {c.name: (c.queued, c.running) for c in decision.candidates} == {"dev-alpha": (1, 0), "dev-bravo": (0, 1)}
    assert decision.chosen == "dev-bravo"
    assert decision.rule is Rule.LEAST_LOADED


def test_equal_queues_take_turns_by_the_cursor(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo", "dev-charlie")
    for name in drive.chosen(store, 3):
        drive.claim(store, name)

    decisions = [drive.decided(store) for _ in range(6)]

    assert [d.chosen for d in decisions] == ["dev-alpha", "dev-bravo", "dev-charlie"] * 2
    assert [d.rule for d in decisions[:2]] == [Rule.TIE, Rule.TIE]
    assert decisions[2].rule is Rule.LEAST_LOADED


def test_a_task_that_no_instance_can_take_is_stored_as_failed_and_can_be_found(store: Store) -> None:
    drive.add(store, "dev-alpha")

    rejected = drive.refused(store, "reviewer")

    with store.reading() as tx:
        (listed,) = tx.list_tasks(states=[State.FAILED])
        kept = tx.task(rejected.task)
    assert listed.id == rejected.task == rejected.error.task_id
    assert kept.instance is None
    assert kept.reason == str(rejected.error)
    assert "no instance of type 'reviewer' is registered" in kept.reason
    assert "forgepool instances add NAME --type reviewer" in kept.reason
    assert [event.event for event in kept.history] == [Move.REJECT]


# --- what counts, and when -----------------------------------------------------------------------


def test_a_task_that_nobody_has_claimed_yet_makes_its_instance_busy(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    drive.chosen(store, 1)

    decision = drive.decided(store)

    assert decision.chosen == "dev-bravo"
    assert decision.rule is Rule.IDLE


def test_a_task_queued_behind_a_busy_instance_stays_there(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    first, second, third = (drive.dispatch(store) for _ in range(3))
    drive.claim(store, "dev-alpha")
    drive.serve(store, "dev-bravo")

    waiting = drive.task(store, third.task)

    assert (first.instance, second.instance, third.instance) == ("dev-alpha", "dev-bravo", "dev-alpha")
    assert (waiting.instance, waiting.state) == ("dev-alpha", State.QUEUED)
    with store.reading() as tx:
        assert tx.head_of_queue("dev-bravo") is None


def test_the_rotation_goes_on_where_it_stood_when_the_database_is_opened_again(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo", "dev-charlie")
    drive.chosen(store, 1)
    drive.serve(store, "dev-alpha")
    store.close()
    again = Store.open(store.engine.url.render_as_string(hide_password=False), clock=store.clock)

    decision = drive.decided(again)

    again.close()
    assert decision.cursor_before == "dev-alpha"
    assert decision.chosen == "dev-bravo"


def test_the_rotation_goes_on_after_an_instance_that_is_gone(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo", "dev-charlie")
    for name in drive.chosen(store, 2):
        drive.serve(store, name)
    drive.set_state(store, "dev-bravo", InstanceState.REMOVED)

    decision = drive.decided(store)

    assert decision.cursor_before == "dev-bravo"
    assert decision.chosen == "dev-charlie"


def test_a_new_instance_is_seen_by_the_next_dispatch(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.chosen(store, 1)
    drive.add(store, "dev-bravo")

    assert drive.chosen(store, 1) == ["dev-bravo"]


@pytest.mark.parametrize("state", [InstanceState.PAUSED, InstanceState.DRAINING, InstanceState.REMOVED])
def test_an_instance_that_takes_nothing_is_passed_over_by_the_next_dispatch(store: Store, state: InstanceState) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    drive.set_state(store, "dev-alpha", state)

    assert drive.chosen(store, 3) == ["dev-bravo"] * 3


def test_a_resumed_instance_is_seen_by_the_next_dispatch(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    drive.set_state(store, "dev-alpha", InstanceState.PAUSED)
    drive.chosen(store, 1)
    drive.set_state(store, "dev-alpha", InstanceState.ACTIVE)

    assert drive.chosen(store, 1) == ["dev-alpha"]


def test_when_all_are_paused_the_task_waits_on_one_of_them_and_the_record_says_so(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    for name in ("dev-alpha", "dev-bravo"):
        drive.set_state(store, name, InstanceState.PAUSED)

    queued = drive.dispatch(store)

    assert drive.task(store, queued.task).state is State.QUEUED
    assert queued.decision.paused_only
    assert "Every instance of the type is paused: the task waits until one is resumed." in explain.sentences(
        queued.decision
    )


@pytest.mark.parametrize("state", [InstanceState.DRAINING, InstanceState.REMOVED])
def test_when_all_are_draining_or_going_the_error_says_so(store: Store, state: InstanceState) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    drive.set_state(store, "dev-alpha", state)

    rejected = drive.refused(store)

    assert "draining or being removed" in str(rejected.error)
    # What is being removed cannot be resumed, so nobody is told to.
    assert ("or resume dev-alpha" in str(rejected.error)) is (state is InstanceState.DRAINING)


def test_a_dispatch_that_is_rolled_back_does_not_move_the_cursor(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")

    with drive.undone(store) as tx:
        tx.select_instance("dev", labels=(), default_labels=(), session_key=None)

    assert drive.cursor(store) is None
    assert drive.chosen(store, 1) == ["dev-alpha"]


# --- labels --------------------------------------------------------------------------------------


def test_the_instance_that_shares_most_labels_is_chosen(store: Store) -> None:
    drive.add(store, "dev-alpha", match_labels=["backend"])
    drive.add(store, "dev-bravo", match_labels=["backend", "security", "urgent"])
    drive.add(store, "dev-charlie", match_labels=["frontend", "security"])

    decision = drive.decided(store, labels=("backend", "security"))

    assert decision.chosen == "dev-bravo"
    assert decision.label_rule is LabelRule.MATCH
    assert decision.shared == ("backend", "security")


def test_a_busy_specialist_wins_over_an_idle_generalist(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.add(store, "dev-bravo", match_labels=["security"])
    drive.dispatch(store, labels=("security",))

    decision = drive.decided(store, labels=("security",))

    assert decision.chosen == "dev-bravo"
    assert decision.label_rule is LabelRule.MATCH
    assert decision.rule is Rule.ONLY_ONE


def test_without_a_match_the_generalists_are_asked(store: Store) -> None:
    drive.add(store, "dev-alpha", match_labels=["security"])
    drive.add(store, "dev-bravo")

    decisions = [drive.decided(store, labels=("docs",)) for _ in range(2)]

    assert [d.chosen for d in decisions] == ["dev-bravo", "dev-bravo"]
    assert decisions[0].label_rule is LabelRule.GENERALISTS


def test_without_a_match_among_specialists_anyone_is_asked(store: Store) -> None:
    drive.add(store, "dev-alpha", match_labels=["security"])
    drive.add(store, "dev-bravo", match_labels=["frontend"])

    decisions = [drive.decided(store, labels=("docs",)) for _ in range(2)]

    assert [d.chosen for d in decisions] == ["dev-alpha", "dev-bravo"]
    assert decisions[0].label_rule is LabelRule.ANY


def test_a_request_without_labels_is_for_everyone(store: Store) -> None:
    drive.add(store, "dev-alpha", match_labels=["security"])
    drive.add(store, "dev-bravo")

    decision = drive.decided(store)

    assert decision.chosen == "dev-alpha"
    assert decision.label_rule is LabelRule.NONE


def test_an_instance_without_labels_of_its_own_has_those_of_its_type(store: Store) -> None:
    drive.add(store, "dev-alpha", match_labels=["docs"])
    drive.add(store, "dev-bravo")

    decision = drive.decided(store, labels=("security",), default_labels=("security",))

    assert decision.chosen == "dev-bravo"
    assert decision.label_rule is LabelRule.MATCH


def test_an_empty_list_of_labels_overrides_those_of_the_type(store: Store) -> None:
    drive.add(store, "dev-alpha", match_labels=[])
    drive.add(store, "dev-bravo")

    matched = drive.decided(store, labels=("security",), default_labels=("security",))
    unmatched = drive.decided(store, labels=("docs",), default_labels=("security",))

    assert matched.chosen == "dev-bravo"
    assert unmatched.chosen == "dev-alpha"
    assert unmatched.label_rule is LabelRule.GENERALISTS


def test_labels_that_fall_back_to_the_type_are_seen_by_the_next_dispatch(store: Store) -> None:
    drive.add(store, "dev-alpha", match_labels=["docs"])
    drive.add(store, "dev-bravo", match_labels=["docs"])
    with store.writing() as tx:
        tx.set_instance("dev-bravo", match_labels=None)

    assert drive.chosen(store, 2, labels=("security",), default_labels=("security",)) == ["dev-bravo"] * 2


def test_a_paused_specialist_leaves_the_work_to_the_others(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.add(store, "dev-bravo", match_labels=["security"])
    drive.set_state(store, "dev-bravo", InstanceState.PAUSED)

    decision = drive.decided(store, labels=("security",))

    assert decision.chosen == "dev-alpha"
    assert decision.label_rule is LabelRule.GENERALISTS


# --- one conversation, one place -----------------------------------------------------------------


@pytest.mark.parametrize("runs", [False, True], ids=["queued", "running"])
def test_a_task_follows_a_live_task_of_its_session_even_to_a_busy_instance(store: Store, *, runs: bool) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    first = drive.dispatch(store, number=7)
    if runs:
        drive.claim(store, first.instance)

    decision = drive.decided(store, number=7, kind=Kind.FIX_CI)

    assert decision.chosen == "dev-alpha"
    assert decision.rule is Rule.SAME_SESSION
    assert decision.session_task == first.task


def test_following_a_session_leaves_the_rotation_as_it_is(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo", "dev-charlie")
    drive.dispatch(store, number=7)
    drive.dispatch(store)

    followed = drive.decided(store, number=7)

    assert followed.cursor_before == followed.cursor_after == "dev-bravo"
    assert drive.cursor(store) == "dev-bravo"
    assert drive.chosen(store, 1) == ["dev-charlie"]


def test_a_session_whose_last_task_has_ended_is_free_again(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    drive.dispatch(store, number=7)
    drive.serve(store, "dev-alpha")

    decision = drive.decided(store, number=7)

    assert decision.chosen == "dev-bravo"
    assert decision.rule is Rule.ROUND_ROBIN


def test_the_same_number_of_another_type_or_repository_is_another_session(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    drive.add(store, "reviewer-alpha", type_name="reviewer")
    drive.dispatch(store, number=7)

    other_type = drive.decided(store, type_name="reviewer", number=7)
    other_repo = drive.decided(store, number=7, repo="acme/other")

    assert other_type.rule is Rule.ONLY_ONE
    assert other_repo.chosen == "dev-bravo"


def test_a_session_follows_to_a_paused_instance_and_the_record_says_so(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    drive.dispatch(store, number=7)
    drive.set_state(store, "dev-alpha", InstanceState.PAUSED)

    decision = drive.decided(store, number=7)

    assert decision.chosen == "dev-alpha"
    assert decision.paused_only


def test_a_session_does_not_follow_to_an_instance_that_is_being_removed(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    drive.dispatch(store, number=7)
    drive.set_state(store, "dev-alpha", InstanceState.REMOVED)

    assert drive.chosen(store, 2, number=7) == ["dev-bravo", "dev-bravo"]


def test_following_sessions_can_be_switched_off(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    drive.dispatch(store, number=7)

    decision = drive.decided(store, number=7, one_conversation=False)

    assert decision.chosen == "dev-bravo"
    assert decision.rule is Rule.IDLE


# --- the same thing asked twice ------------------------------------------------------------------


def test_what_a_live_task_does_already_is_absorbed(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    first = drive.dispatch(store, number=7)
    while_queued = drive.submit(store, number=7, absorb=LIVE)
    drive.claim(store, "dev-alpha")

    while_running = drive.submit(store, number=7, absorb=LIVE)

    assert while_queued == while_running == Absorbed(first.task)
    assert drive.cursor(store) == "dev-alpha"
    with store.reading() as tx:
        assert len(tx.list_tasks()) == 1


def test_only_the_states_asked_for_absorb(store: Store) -> None:
    drive.add(store, "dev-alpha")
    first = drive.dispatch(store, number=7)
    drive.claim(store, "dev-alpha")

    second = drive.dispatch(store, number=7, absorb={State.QUEUED})
    third = drive.submit(store, number=7, absorb={State.QUEUED})

    assert second.task != first.task
    assert third == Absorbed(second.task)


def test_what_has_ended_absorbs_only_when_it_is_asked_for(store: Store) -> None:
    drive.add(store, "dev-alpha")
    first = drive.dispatch(store, number=7)
    drive.serve(store, "dev-alpha")

    assert drive.submit(store, number=7, absorb={State.SUCCEEDED}) == Absorbed(first.task)
    assert drive.dispatch(store, number=7, absorb=LIVE).task != first.task


@pytest.mark.parametrize(
    "other",
    [{"kind": Kind.FIX_CI}, {"head_sha": "b" * 40}, {"head_sha": None}, {"number": 8}, {"repo": "acme/other"}],
    ids=["kind", "commit", "no commit", "number", "repository"],
)
def test_what_differs_in_kind_commit_number_or_repository_is_not_absorbed(store: Store, other: dict[str, Any]) -> None:
    drive.add(store, "dev-alpha")
    same: dict[str, Any] = {"number": 7, "head_sha": "a" * 40, "absorb": LIVE}
    drive.dispatch(store, **same)

    assert not isinstance(drive.submit(store, **{**same, **other}), Absorbed)
    assert isinstance(drive.submit(store, **same), Absorbed)


# --- the record ----------------------------------------------------------------------------------


def test_the_record_of_a_decision_is_kept_with_the_task(store: Store) -> None:
    drive.add(store, "dev-alpha", match_labels=["security"])
    drive.add(store, "dev-bravo")

    queued = drive.dispatch(store, labels=("security",))

    assert drive.task(store, queued.task).decision == queued.decision


_names = st.sampled_from(["dev-a", "dev-b", "dev-c"])
_labels = st.lists(st.sampled_from("abc"), unique=True).map(lambda found: tuple(sorted(found)))
_candidates = st.lists(
    st.builds(
        Candidate,
        name=_names,
        labels=_labels,
        queued=st.integers(0, 3),
        running=st.integers(0, 1),
        paused=st.booleans(),
    ),
    min_size=1,
    unique_by=lambda c: c.name,
).map(lambda found: sorted(found, key=lambda c: c.name))


@given(candidates=_candidates, labels=_labels, cursor=st.none() | _names, stays=st.booleans())
def test_a_record_survives_json_and_names_every_candidate_the_rule_and_the_cursor(
    candidates: list[Candidate], labels: tuple[str, ...], cursor: str | None, *, stays: bool
) -> None:
    if stays:
        decision = policy.stay(candidates[0], type_name="dev", labels=labels, cursor=cursor, session_task=41)
    else:
        decision = policy.choose(candidates, type_name="dev", labels=labels, cursor=cursor)

    told = "\n".join(explain.sentences(decision))

    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision
    assert all(f" {c.name}: " in told for c in decision.candidates)
    assert f"-> {decision.chosen}: " in told
    assert f"{decision.chosen} was chosen" in told
    assert decision.cursor_before is None or decision.cursor_before in told
    assert f"{decision.cursor_after or 'nothing yet'}." in told.splitlines()[-1 - decision.paused_only * (not stays)]
    assert decision.chosen not in explain.short(decision)


def test_each_rule_has_words_of_its_own() -> None:
    sentences = set()
    for rule, label_rule in itertools.product(Rule, LabelRule):
        decision = policy.choose([Candidate(name="dev-a")], type_name="dev", labels=("x",), cursor=None)
        value = {**decision.to_json(), "rule": rule, "label_rule": label_rule}
        sentences.add("\n".join(explain.sentences(Decision.from_json(value))))

    assert len(sentences) == len(Rule) * len(LabelRule)


# --- a large pool --------------------------------------------------------------------------------

# Few different loads and labels: draws are what is interesting.
_member = st.tuples(
    st.none() | st.sampled_from([(), ("a",), ("a", "b")]),
    st.sampled_from([(0, 0), (0, 1), (1, 0), (2, 1)]),
    st.sampled_from([InstanceState.ACTIVE] * 4 + [InstanceState.PAUSED] * 2 + [InstanceState.DRAINING]),
)


@settings(max_examples=2000 if SOAK else 150)
@given(
    members=st.lists(_member, min_size=3, max_size=10),
    labels=st.sampled_from([(), (), ("a",), ("b",), ("c",)]),
    default_labels=st.sampled_from([(), ("b",)]),
    cursor=st.integers(-1, 9),
)
def test_a_large_pool_gives_the_choice_that_all_its_instances_together_would_have_given(
    members: list[tuple[tuple[str, ...] | None, tuple[int, int], InstanceState]],
    labels: tuple[str, ...],
    default_labels: tuple[str, ...],
    cursor: int,
) -> None:
    with throwaway_store() as (store, _):
        with store.writing() as tx:
            for i, (own, (queued, running), state) in enumerate(members):
                tx.add_instance(f"dev-{i}", "dev", match_labels=own)
                tx._count(f"dev-{i}", queued=queued, running=running)
                tx.set_instance_state(f"dev-{i}", state)
            tx._move_cursor("dev", f"dev-{cursor}")

        whole = _decision(store, labels, default_labels, whole=32)
        part = _decision(store, labels, default_labels, whole=2)

        assert isinstance(part, str) == isinstance(whole, str)
        if isinstance(part, Decision) and isinstance(whole, Decision):
            assert part.partial or len(whole.candidates) <= 2
            assert (part.chosen, part.rule, part.label_rule) == (whole.chosen, whole.rule, whole.label_rule)
            assert (part.shared, part.paused_only) == (whole.shared, whole.paused_only)
            assert (part.cursor_before, part.cursor_after) == (whole.cursor_before, whole.cursor_after)
            assert set(part.candidates) <= set(whole.candidates)


def _decision(store: Store, labels: tuple[str, ...], default_labels: tuple[str, ...], *, whole: int) -> Decision | str:
    """Return what a dispatch would decide, without dispatching."""
    with pytest.MonkeyPatch.context() as patch, drive.undone(store) as tx:
        patch.setattr(selection, "WHOLE", whole)
        try:
            return tx.select_instance("dev", labels=labels, default_labels=default_labels, session_key=None)
        except NoInstance as error:
            return str(error)


def test_a_pool_of_more_than_thirty_two_looks_at_a_few_and_says_so(store: Store) -> None:
    names = [f"dev-{i:02}" for i in range(40)]
    drive.add(store, *names)
    assert drive.chosen(store, 39) == names[:39]

    decision = drive.decided(store)

    assert decision.chosen == "dev-39"
    assert decision.rule is Rule.IDLE
    assert decision.partial
    assert [c.name for c in decision.candidates] == ["dev-00", "dev-39"]
    assert "many instances" in explain.sentences(decision)[0]
    assert drive.chosen(store, 2) == names[:2]
