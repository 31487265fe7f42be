"""The machine: people, crashes and links in any order, and what must hold after each of them."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pool.lanes import HOLDS_LANE, Merge, MergeState, MergeStep, Refusal
from pool.model import Evidence
from pool.states import LIVE, Move
from pool.store import Claim, NoClaim
from tasks import merge
from tasks.dispatch import retry_interrupted
from tasks.engine import Engine
from tasks.merge_tools import Tools
from tasks.settings import Settings
from tests.helpers.clock import Clock
from tests.helpers.config import type_table, write_config
from tests.helpers.fakes import FakeBell
from tests.helpers.merging import REPO, Orders
from tests.helpers.stores import new_store
from tests.merge.world import BASES, CHECKS, REVIEWERS, Meddling, World

#: More rounds than any merge takes to get through, once everybody leaves it alone.
MOST_ROUNDS = 60
MOST_PULLS = 9

#: Which of those that are open, counted round and round.
_picks = st.integers(0, 5)
_bases = st.sampled_from([BASES[0], BASES[0], BASES[1]])
#: What is good comes more often, or few would ever be merged.
_acts = st.sampled_from(
    [
        *("approve", "approve", "approve", "success", "success", "success", "reopen", "release", "move", "move"),
        *("reject", "dismiss", "push", "failure", "pending", "cancelled", "none", "close", "hold", "hand", "clash"),
    ]
)
_meddlers = st.sampled_from(["push", "reject", "dismiss", "failure", "move", "hold", "close", "hand"])
#: Updates and merges are where it hurts.
_steps = st.sampled_from([*MergeStep, MergeStep.UPDATE, MergeStep.UPDATE, MergeStep.MERGE, MergeStep.MERGE])
_faults = st.sampled_from(["before", "after", "checking", "away"])
_deaths = st.tuples(st.sampled_from(["killed", "killed", "crashed", "unseen"]), _steps)
_meanwhile = st.tuples(st.sampled_from(["leave", "due", "enter"]), _steps)
_between = st.tuples(_meddlers | st.sampled_from(["pending", "cancelled", "approve"]), _steps)


def _rarely(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


class MergeMachine(RuleBasedStateMachine):
    """Two lanes, two instances that merge, and up to four pull requests."""

    def make_world(self, folder: Path) -> World:
        """Make the world; a subclass says which."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        self.clock = Clock()
        self.store = new_store(folder, self.clock)
        (folder / "boss.token").write_text("token\n")
        types = {"dev": type_table("dev"), "boss": type_table("boss", token_file="boss.token")}
        settings = Settings.load(write_config(folder, types=types))
        self.engine = Engine(settings, self.store, FakeBell())
        with self.store.writing() as tx:
            tx.add_instance("boss-a", "boss")
            tx.add_instance("boss-b", "boss")
        self.given_up: set[int] = set()  #: numbers that somebody took out of their lane
        self.world = self.make_world(folder / "forge")

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.clear_away()

    def clear_away(self) -> None:
        """Leave nothing behind."""
        self.world.close_world()
        self.store.close()
        self.folder.cleanup()

    @initialize(bases=st.lists(_bases, min_size=2, max_size=3), entered=st.booleans(), moved=st.booleans())
    def begin(self, bases: list[str], *, entered: bool, moved: bool) -> None:
        """Begin with something to merge: left to chance, few examples would ever get that far."""
        for number, base in enumerate(bases, start=1):
            self.world.open(number, base)
        if moved:
            self.world.move_base("main")
        for number in self.world.known() if entered else ():
            self._enter(number)

    # --- people -------------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.known()) < MOST_PULLS)
    @rule(base=_bases, entered=st.booleans())
    def open(self, base: str, *, entered: bool) -> None:
        number = len(self.world.known()) + 1
        self.world.open(number, base)
        if entered:
            self._enter(number)

    @precondition(lambda self: self._going())
    @rule(acts=st.lists(st.tuples(_acts, _picks, st.sampled_from(REVIEWERS)), min_size=1, max_size=4))
    def people(self, acts: list[tuple[str, int, str]]) -> None:
        for act, pick, login in acts:
            going = self._going()
            if going:
                self._act(act, going[pick % len(going)], login)

    def _act(self, act: str, number: int, login: str) -> None:
        """Let somebody do something, if it can be done."""
        world = self.world
        if act == "reopen" and number in world.known() and not world.is_merged(number):
            world.reopen(number)
        if not self._is_open(number):
            return
        acts: dict[str, Callable[[], None]] = {
            "approve": lambda: world.review(number, login, "approved"),
            "reject": lambda: world.review(number, login, "rejected"),
            "dismiss": lambda: world.dismiss(number, login),
            "push": lambda: world.push(number),
            "move": lambda: world.move_base(world.standing(number).base),
            "close": lambda: world.close(number),
            "hold": lambda: world.hold(number, held=True),
            "release": lambda: world.hold(number, held=False),
            "hand": lambda: world.merge_by_hand(number),
            # There is no way back from that, so it happens to one only.
            "clash": lambda: world.clash(number) if number == 2 else None,
            "reopen": lambda: None,
            **{state: partial(world.check, number, state) for state in CHECKS},
        }
        acts[act]()

    # --- the workflow -------------------------------------------------------------------------

    @precondition(lambda self: self._going())
    @rule(pick=_picks)
    def enter(self, pick: int) -> None:
        """Have somebody think that it is approved, rightly or not."""
        number = self._going()[pick % len(self._going())]
        if self._is_open(number):
            self._enter(number)

    @precondition(lambda self: self._open_merges())
    @rule(pick=_picks)
    def look(self, pick: int) -> None:
        """Have the look find it closed, and take it out of its lane."""
        entries = self._open_merges()
        number = entries[pick % len(entries)].number
        if self._is_open(number):
            return
        state = MergeState.MERGED if self.world.is_merged(number) else MergeState.WITHDRAWN
        with self.store.writing() as tx:
            known = tx.open_merge(REPO, number)
            if known and not (known.state in HOLDS_LANE and state is MergeState.MERGED):
                merge.leave(self.engine, tx, REPO, number, state=state, reason="closed")

    @rule()
    def cancel(self) -> None:
        """Have a person cancel a link that is queued."""
        with self.store.writing() as tx:
            for task in tx.list_tasks(states=LIVE, limit=1):
                tx.cancel(task.id, by="ann")
                self.given_up.add(task.request.number)

    @rule(seconds=st.sampled_from([1, 5, 30, 60, 60, 120, 7200]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)
        merge.due(self.engine)

    @rule(
        count=st.integers(1, 8),
        between=_rarely(_between),
        meddler=_rarely(_meddlers),
        fault=_rarely(_faults),
        death=_rarely(_deaths),
        meanwhile=_rarely(_meanwhile),
    )
    def links(
        self,
        *,
        count: int,
        between: tuple[str, MergeStep] | None,
        meddler: str | None,
        fault: str | None,
        death: tuple[str, MergeStep] | None,
        meanwhile: tuple[str, MergeStep] | None,
    ) -> None:
        """Do some links; once among them somebody meddles, the forge is not itself, a worker dies, others act."""
        for _ in range(count):
            claimed = self._claim()
            if claimed is None:
                break
            number, step = claimed.task.request.number, claimed.task.request.step
            if between and between[1] is step:
                self._act(between[0], number, REVIEWERS[-1])
                between = None
            if meddler:
                self.world.meddling.before = partial(self._act, meddler, number, REVIEWERS[-1])
                meddler = None
            if fault:
                self.world.meddling.fault, fault = fault, None
            ending, death = (death[0], None) if death and death[1] is step else ("", death)
            done = None
            if ending != "unseen":
                done = merge.run_link(self.engine, claimed, Orders(), opened=self._opened)
            if meanwhile and meanwhile[1] is step:
                self._meanwhile(meanwhile[0], number)
                meanwhile = None
            self._record(claimed, done, is_killed=ending in {"killed", "unseen"}, is_crashed=ending == "crashed")
        self.world.meddling = Meddling()

    def _meanwhile(self, act: str, number: int) -> None:
        """Do something between what a link found and its record."""
        match act:
            case "leave":
                self.given_up.add(number)
                with self.store.writing() as tx:
                    merge.leave(self.engine, tx, REPO, number, state=MergeState.WITHDRAWN, reason="not wanted")
            case "due":
                merge.due(self.engine)
            case _ if self._is_open(number):
                self._enter(number)
            case _:
                pass

    # --- what always holds --------------------------------------------------------------------

    @invariant()
    def all_is_well(self) -> None:
        """Check everything, on one reading of the store."""
        self._check_merged()
        with self.store.reading() as tx:
            rows = tx.list_merges(limit=1000)
            live = Counter((task.request.merge, task.request.link) for task in tx.list_tasks(states=LIVE, limit=1000))
            free = tx.free_lanes()
        held = Counter((row.repo, row.base) for row in rows if row.state in HOLDS_LANE)
        assert max(held.values(), default=0) <= 1, f"a lane is held twice: {held}"
        assert max(live.values(), default=0) <= 1, f"a link is queued twice: {live}"
        assert free == [], f"a lane stands still: {free}"
        noted = {row.number for row in rows if row.state is MergeState.MERGED}
        assert noted.isdisjoint(self._going()), f"noted as merged, and is not: {noted}"

    def _check_merged(self) -> None:
        """Check that nothing was merged that should not be, and nothing twice."""
        for event in self.world.events:
            assert event.commit == event.before.head, f"#{event.number}: another commit than the one that was judged"
            assert event.before.wrong == [], f"#{event.number} was merged though {event.before.wrong}"
        merged = Counter(event.number for event in self.world.events)
        assert max(merged.values(), default=0) <= 1, f"merged twice: {merged}"

    # --- the end ------------------------------------------------------------------------------

    def drain(self) -> None:
        """Leave everything alone and let all checks end: then all is merged that may be."""
        for number in self._going():
            if self.world.standing(number).checks == "pending":
                self.world.check(number, "success")
        for round_ in range(MOST_ROUNDS):
            wanted = [number for number in self.world.known() if self._is_wanted(number)]
            if not wanted and not self._open_merges():
                break
            for number in wanted:
                if self.world.standing(number).checks == "none":
                    self.world.check(number, "success")
                # Of a line of updates only two generations are remembered; for an older approval a new one is asked.
                if round_ > MOST_ROUNDS / 2 and self.world.generations(number) > 1:
                    self.world.review(number, REVIEWERS[0], "approved")
                self._enter(number)
            self._work_off()
            self.clock.advance(120)
            merge.due(self.engine)
            self._check_merged()
        left = [number for number in self.world.known() if self._is_wanted(number)]
        assert left == [], f"not merged though it may be: {left}"
        assert self._open_merges() == [], "somebody waits for ever"
        self._check_care()
        self.all_is_well()

    def _check_care(self) -> None:
        """Check that what boss merged was cared for, unless a person did not want that or the machinery lost it."""
        for number in {event.number for event in self.world.events} - self.given_up:
            with self.store.reading() as tx:
                newest = tx.list_merges(repo=REPO, number=number, limit=1)[0]
            assert newest.state is MergeState.MERGED or newest.code is Refusal.LOST, f"#{number} was not cared for"

    def _is_wanted(self, number: int) -> bool:
        standing = self.world.standing(number)
        return standing.may_be_merged and not standing.conflicts

    # --- parts --------------------------------------------------------------------------------

    def _going(self) -> list[int]:
        """Return what is not merged."""
        return [number for number in self.world.known() if not self.world.is_merged(number)]

    def _is_open(self, number: int) -> bool:
        return number in self.world.known() and self.world.standing(number).is_open

    def _open_merges(self) -> list[Merge]:
        with self.store.reading() as tx:
            return tx.list_merges(only_open=True)

    def _enter(self, number: int) -> None:
        standing = self.world.standing(number)
        with self.store.writing() as tx:
            place = {"head_sha": standing.head, "approved_at": tx.now, "by": "test"}
            merge.enter(self.engine, tx, REPO, standing.base, number, **place)  # type: ignore[arg-type]

    @contextmanager
    def _opened(self, engine: Engine, type_name: str, is_unwanted: Callable[[], bool]) -> Iterator[Tools | None]:
        del engine, type_name, is_unwanted
        yield self.world.tools

    def _claim(self) -> Claim | None:
        with self.store.writing() as tx:
            for name in ("boss-a", "boss-b"):
                claimed = tx.claim(name, lease_s=60)
                if not isinstance(claimed, NoClaim):
                    return claimed
        return None

    def _record(
        self, claimed: Claim, done: merge.LinkOutcome | None, *, is_killed: bool = False, is_crashed: bool = False
    ) -> None:
        move = Move.INTERRUPT if is_killed else Move.FAIL if is_crashed else Move.SUCCEED
        with self.store.writing() as tx:
            tx.finish(claimed.task.id, move, fence=claimed.fence, evidence=Evidence(), why=done.why if done else "")
            if is_killed:
                retry_interrupted(self.engine, tx, claimed.task.id, by="test")
            elif done is not None and not is_crashed:
                done.then(tx)

    def _work_off(self) -> None:
        for _ in range(200):
            claimed = self._claim()
            if claimed is None:
                return
            self._record(claimed, merge.run_link(self.engine, claimed, Orders(), opened=self._opened))
        raise AssertionError("the links do not come to an end")
