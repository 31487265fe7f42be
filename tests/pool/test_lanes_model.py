"""Lanes and effects against a model of them: every verb in any order, compared after each step.

The model is plain Python: a list of entries, a dictionary of what is owed. It shares no code with what it checks.
"""

import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pool.errors import StaleMerge
from pool.lanes import Merge, MergeState, MergeStep, Refusal
from pool.work import Effect
from tests.helpers.clock import Clock
from tests.helpers.stores import SOAK, new_store

REPO = "acme/shop"
WAITING, ACTIVE, PARKED = MergeState.WAITING, MergeState.ACTIVE, MergeState.PARKED
HOLDS = (ACTIVE, PARKED)
ENDED = (MergeState.MERGED, MergeState.REFUSED, MergeState.WITHDRAWN)


@dataclass
class Entry:
    """A pull request in a lane, as the model has it."""

    base: str
    number: int
    approved_at: datetime
    state: MergeState = WAITING
    step: MergeStep | None = None
    link: int = 0
    look_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether it has not ended."""
        return self.state not in ENDED


@dataclass
class Owed:
    """Something to be written, as the model has it."""

    body: int
    due_at: datetime
    version: int = 1
    tries: int = 0
    end: str | None = None  #: done or given up; None: it is owed
    ref: str | None = None


_bases = st.sampled_from(["main", "main", "release"])
_numbers = st.integers(1, 5)
_keys = st.sampled_from(["report:1", "report:2", "ask:1"])
_pauses = st.sampled_from([0, 1, 5, 60])
_steps = st.sampled_from(list(MergeStep))


class LanesMachine(RuleBasedStateMachine):
    """Verbs in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.store = new_store(Path(self.folder.name), self.clock)
        self.entries: dict[int, Entry] = {}
        self.owed: dict[str, Owed] = {}
        self.reads: list[Effect] = []
        self.last: dict[int, Merge] = {}

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @initialize(approved=st.lists(st.integers(0, 3), min_size=2, max_size=5), keys=st.sets(_keys))
    def begin_with_a_queue(self, approved: list[int], keys: set[str]) -> None:
        """Begin with a lane in which some wait: left to chance, few examples ever get that far."""
        for number, ago_s in enumerate(approved, start=1):
            self.enter("main", number, ago_s)
        for key in sorted(keys):
            self.owe(key, 0, 0)

    @rule(seconds=st.sampled_from([0.5, 1, 5, 60]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # --- lanes ------------------------------------------------------------------------------------

    @rule(base=_bases, number=_numbers, ago_s=st.integers(0, 3))
    def enter(self, base: str, number: int, ago_s: int) -> None:
        approved_at = self.clock() - timedelta(seconds=ago_s)
        known = [id_ for id_, entry in self.entries.items() if entry.is_open and entry.number == number]
        with self.store.writing() as tx:
            got = tx.enter_lane(REPO, base, number, head_sha="a", approved_at=approved_at)
        if known:
            assert [got.id] == known
        else:
            assert got.id > max(self.entries, default=0)
            self.entries[got.id] = Entry(base, number, approved_at)

    @rule(base=_bases)
    def begin(self, base: str) -> None:
        lane = {id_: entry for id_, entry in self.entries.items() if entry.base == base and entry.is_open}
        is_taken = any(entry.state in HOLDS for entry in lane.values())
        with self.store.writing() as tx:
            got = tx.next_in_lane(REPO, base)
        if is_taken or not lane:
            assert got is None
            return
        first = min(lane, key=lambda id_: (lane[id_].approved_at, id_))
        assert got is not None
        assert got.id == first
        lane[first].state = ACTIVE
        self._next_link(first, MergeStep.CHECK)

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), step=_steps)
    def link(self, data: st.DataObject, step: MergeStep) -> None:
        id_, entry = self._draw(data, ACTIVE)
        with self.store.writing() as tx:
            if entry.state is not ACTIVE:
                with pytest.raises(StaleMerge):
                    tx.begin_link(id_, step)
                return
            got = tx.begin_link(id_, step, reason="so")
        assert (got.link, got.step, got.reason) == (entry.link + 1, step, "so")
        self._next_link(id_, step)

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), after_s=_pauses, late=st.integers(0, 1))
    def park(self, data: st.DataObject, after_s: int, late: int) -> None:
        id_, entry = self._draw(data, ACTIVE)
        with self.store.writing() as tx:
            if entry.state is not ACTIVE or late:
                with pytest.raises(StaleMerge):
                    tx.park(id_, link=entry.link - late, why="", look_after_s=after_s)
                return
            tx.park(id_, link=entry.link, why="", look_after_s=after_s)
        entry.state, entry.step, entry.look_at = PARKED, None, self.clock() + timedelta(seconds=after_s)

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), step=_steps)
    def unpark(self, data: st.DataObject, step: MergeStep) -> None:
        id_, entry = self._draw(data, PARKED)
        with self.store.writing() as tx:
            if entry.state is not PARKED:
                with pytest.raises(StaleMerge):
                    tx.unpark(id_, step)
                return
            tx.unpark(id_, step)
        entry.state = ACTIVE
        self._next_link(id_, step)

    @rule(number=_numbers)
    def hurry(self, number: int) -> None:
        parked = [entry for entry in self.entries.values() if (entry.number, entry.state) == (number, PARKED)]
        with self.store.writing() as tx:
            assert tx.hurry_merge(REPO, number) == bool(parked)
        for entry in parked:
            assert entry.look_at is not None
            entry.look_at = min(entry.look_at, self.clock())

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), state=st.sampled_from(ENDED), late=st.sampled_from([None, 0, 0, 1]))
    def end(self, data: st.DataObject, state: MergeState, late: int | None) -> None:
        id_, entry = self._draw(data, data.draw(st.sampled_from([WAITING, *HOLDS])))
        link = None if late is None else entry.link - late
        code = Refusal.RED if state is MergeState.REFUSED else None
        with self.store.writing() as tx:
            if not entry.is_open or late:
                with pytest.raises(StaleMerge):
                    tx.end_merge(id_, state, reason="", code=code, link=link)
                return
            tx.end_merge(id_, state, reason="", code=code, link=link)
        entry.state, entry.step, entry.look_at = state, None, None

    def _next_link(self, id_: int, step: MergeStep) -> None:
        entry = self.entries[id_]
        entry.link, entry.step, entry.look_at = entry.link + 1, step, None

    def _draw(self, data: st.DataObject, wanted: MergeState) -> tuple[int, Entry]:
        """Draw an entry, most often one for which the verb is made."""
        fitting = [id_ for id_, entry in self.entries.items() if entry.state is wanted]
        id_ = data.draw(st.sampled_from(fitting + sorted(self.entries)[:2]))
        return id_, self.entries[id_]

    # --- effects ----------------------------------------------------------------------------------

    @rule(key=_keys, after_s=_pauses, body=st.integers(0, 9))
    def owe(self, key: str, after_s: int, body: int) -> None:
        again, known = key.startswith("report"), self.owed.get(key)
        due_at = self.clock() + timedelta(seconds=after_s)
        with self.store.writing() as tx:
            about = {"repo": REPO, "number": 1, "type_name": "dev", "body": {"n": body}}
            is_news = tx.owe(key, "x", again=again, after_s=after_s, **about)  # type: ignore[arg-type] # as they are named
        assert is_news == (known is None or again)
        if known is None:
            self.owed[key] = Owed(body, due_at)
        elif again:
            if known.end is None:
                due_at = min(due_at, known.due_at)
            self.owed[key] = Owed(body, due_at, known.version + 1, ref=known.ref)

    @rule()
    def read(self) -> None:
        with self.store.reading() as tx:
            self.reads = [*self.reads[-3:], *tx.owed_effects()]

    @precondition(lambda self: self.reads)
    @rule(data=st.data(), ref=st.sampled_from([None, "17"]))
    def write(self, data: st.DataObject, ref: str | None) -> None:
        effect = data.draw(st.sampled_from(self.reads))
        with self.store.writing() as tx:
            tx.note_effect(effect, ref=ref)
        owed = self.owed[effect.key]
        owed.ref = ref or owed.ref
        if owed.version == effect.version:
            owed.end = "done"

    @precondition(lambda self: self.reads)
    @rule(data=st.data(), after_s=st.one_of(st.none(), _pauses))
    def fail(self, data: st.DataObject, after_s: int | None) -> None:
        effect = data.draw(st.sampled_from(self.reads))
        with self.store.writing() as tx:
            tx.fail_effect(effect, error="no", after_s=after_s)
        owed = self.owed[effect.key]
        if owed.version == effect.version and owed.end is None:
            owed.tries += 1
            if after_s is None:
                owed.end = "given up"
            else:
                owed.due_at = self.clock() + timedelta(seconds=after_s)

    # --- what always holds ------------------------------------------------------------------------

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        with self.store.reading() as tx:
            merges = {merge.id: merge for merge in tx.list_merges(limit=1000)}
            due, free = [merge.id for merge in tx.due_merges()], tx.free_lanes()
            effects = {effect.key: effect for effect in tx.list_effects(limit=1000)}
            owed = [effect.key for effect in tx.owed_effects()]
        assert {
            id_: Entry(m.base, m.number, m.approved_at, m.state, m.step, m.link, m.look_at) for id_, m in merges.items()
        } == self.entries
        parked = {id_: entry.look_at for id_, entry in self.entries.items() if entry.look_at is not None}
        assert due == sorted((i for i, at in parked.items() if at <= self.clock()), key=lambda i: (parked[i], i))
        held = {entry.base for entry in self.entries.values() if entry.state in HOLDS}
        waits = {entry.base for entry in self.entries.values() if entry.state is WAITING}
        assert free == [(REPO, base) for base in sorted(waits - held)]
        assert {key: self._as_owed(effect) for key, effect in effects.items()} == self.owed
        left = {key: one for key, one in self.owed.items() if one.end is None and one.due_at <= self.clock()}
        assert owed == sorted(left, key=lambda key: (left[key].due_at, effects[key].id))

    def _as_owed(self, effect: Effect) -> Owed:
        end = "done" if effect.done_at else "given up" if effect.given_up_at else None
        return Owed(effect.body["n"], effect.due_at, effect.version, effect.tries, end, effect.ref)

    @invariant()
    def a_lane_and_a_pull_request_are_taken_once(self) -> None:
        with self.store.reading() as tx:
            open_now = tx.list_merges(only_open=True, limit=1000)
        lanes = Counter(merge.base for merge in open_now if merge.state in HOLDS)
        pulls = Counter(merge.number for merge in open_now)
        assert max(lanes.values(), default=0) <= 1
        assert max(pulls.values(), default=0) <= 1

    @invariant()
    def links_count_up_one_by_one_and_what_has_ended_never_changes(self) -> None:
        with self.store.reading() as tx:
            now = {merge.id: merge for merge in tx.list_merges(limit=1000)}
        assert set(self.last) <= set(now)
        for id_, was in self.last.items():
            assert now[id_].link in {was.link, was.link + 1}
            assert now[id_].link == was.link or now[id_].state is ACTIVE
            assert was.is_open or now[id_] == was
        self.last = now


TestLanesMachine = LanesMachine.TestCase
TestLanesMachine.settings = settings(max_examples=1000 if SOAK else 80, stateful_step_count=50)
