"""Whatever people, forges and crashes do, and in whatever order: only what may be merged is, and all of it is.

And the machine that says so is alive: each check that is taken away makes it fail.
"""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import select

from pool.lanes import Merge, MergeState, MergeStep, Refusal
from pool.schema_work import is_open_merge, merges
from pool.store.lanes import LaneVerbs
from tasks import merge_links, merge_next, merge_record, merge_rules
from tasks.forge import Forge
from tasks.forge_values import MergeStyle
from tasks.merge_next import GoOn, Next, Scene
from tasks.situation import PullFacts
from tests.helpers.stores import SOAK
from tests.merge.fake_world import FakeWorld, WorldForge
from tests.merge.machine import MergeMachine
from tests.merge.standin_world import StandInWorld


class FakeMachine(MergeMachine):
    """On a forge in memory."""

    def make_world(self, folder: Path) -> FakeWorld:
        """Make it."""
        del folder
        return FakeWorld(self.clock)


TestFakeMachine = FakeMachine.TestCase
TestFakeMachine.settings = settings(max_examples=2000 if SOAK else 40, stateful_step_count=40)


class StandInMachine(MergeMachine):
    """On the stand-in forge, by the real client, with real git."""

    def make_world(self, folder: Path) -> StandInWorld:
        """Make it."""
        return StandInWorld(folder, self.clock)


#: The long form comes in parts, for processes side by side; each begins at random, so none does what another did.
PARTS = 8 if SOAK else 1


@pytest.mark.parametrize("part", range(PARTS))
def test_on_the_stand_in_only_what_may_be_merged_is_and_all_of_it(part: int) -> None:
    """2,000 examples in the long form."""
    del part
    examples = 2000 // PARTS if SOAK else 12
    run_state_machine_as_test(StandInMachine, settings=settings(max_examples=examples, stateful_step_count=30))


# --- the machine is alive ------------------------------------------------------------------------


def fails(machine: type[MergeMachine] = FakeMachine, *, examples: int = 200) -> str:
    """Run the machine until it fails, and return how."""
    # The same examples each time, and the first failure will do.
    quick = settings(
        max_examples=examples,
        stateful_step_count=40,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(machine, settings=quick)
    return str(caught.value)


@pytest.mark.parametrize(
    ("row", "finds"),
    [
        ("_held", "held"),
        ("_unapproved", "not approved"),
        ("_red", "checks failure"),
        ("_called_off", "checks cancelled"),
        ("_checks_run", "checks pending"),
        ("_behind", "behind its base"),
    ],
)
def test_it_finds_a_row_that_is_missing(monkeypatch: pytest.MonkeyPatch, row: str, finds: str) -> None:
    rows = tuple(one for one in merge_rules.ROWS if one.__name__ != row)
    assert len(rows) == len(merge_rules.ROWS) - 1
    monkeypatch.setattr(merge_rules, "ROWS", rows)

    assert finds in fails()


def test_it_finds_requests_for_changes_that_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PullFacts, "requests_for_changes", ())

    assert "changes requested" in fails()


def test_it_finds_a_merge_of_another_commit_than_the_one_that_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorldForge, "check_head", lambda *_: None)

    assert "another commit than the one that was judged" in fails()


def test_on_the_stand_in_too_it_finds_a_merge_of_whatever_the_head_is(monkeypatch: pytest.MonkeyPatch) -> None:
    merge = Forge.merge

    def careless(forge: Forge, repo: str, number: int, *, head_sha: str, style: MergeStyle, **words: Any) -> None:
        del head_sha
        merge(forge, repo, number, head_sha=forge.pull(repo, number).head_sha, style=style, **words)

    calm: dict[str, Any] = {"between": None, "fault": None, "death": None, "meanwhile": None}
    machine = StandInMachine()
    try:
        machine.begin(bases=["main"], entered=True, moved=False)
        machine.links(count=2, meddler=None, **calm)
        machine.all_is_well()
        monkeypatch.setattr(Forge, "merge", careless)
        machine.links(count=1, meddler="push", **calm)

        with pytest.raises(AssertionError, match="another commit than the one that was judged"):
            machine.all_is_well()
    finally:
        machine.clear_away()


def test_it_finds_facts_that_are_not_read_again_before_the_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[tuple[int, int], Any] = {}

    def remembered(scene: Scene) -> Any:
        key = (id(scene.forge), scene.merge.id)
        if scene.merge.step is not MergeStep.MERGE or key not in known:
            known[key] = scene.read()
        return known[key]

    monkeypatch.setattr(merge_next.Scene, "facts", remembered)

    assert "was merged though" in fails()


def test_it_finds_two_at_once_in_a_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    def next_in_lane(tx: LaneVerbs, repo: str, base: str) -> Merge | None:
        here = select(merges.c.id).where(merges.c.repo == repo, merges.c.base == base)
        merge = tx.connection.scalar(here.where(is_open_merge, merges.c.state == MergeState.WAITING).limit(1))
        if merge is None:
            return None
        tx.connection.exec_driver_sql("DROP INDEX IF EXISTS uq_merges_lane")
        tx._change(merge, (MergeState.WAITING,), state=MergeState.ACTIVE)
        return tx.begin_link(merge, MergeStep.CHECK)

    monkeypatch.setattr(LaneVerbs, "next_in_lane", next_in_lane)

    assert "held twice" in fails()


def test_it_finds_an_update_that_is_pushed_before_it_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a crash in between leaves on the forge is then a head that nobody has approved: it is never merged."""
    update = merge_links.update

    def hasty(scene: Scene) -> Next:
        made = update(scene)
        if isinstance(made, GoOn) and made.made_from is not None:
            pull = scene.facts().pull
            scene.updater.push(pull, made.values["head_sha"])
            return GoOn(step=MergeStep.CHECK, why=made.why, values=made.values)
        return made

    monkeypatch.setitem(merge_links.LINKS, MergeStep.UPDATE, hasty)

    fails()


def test_it_finds_a_lost_answer_that_is_taken_for_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    merge = merge_links.merge

    def gives_up(scene: Scene) -> Next:
        done = merge(scene)
        if isinstance(done, GoOn) and "not known" in done.why:
            return merge_next.Refuse(code=Refusal.CONFLICT, sentence=done.why)
        return done

    monkeypatch.setitem(merge_links.LINKS, MergeStep.MERGE, gives_up)

    fails()


def test_it_finds_a_lane_that_nobody_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_record, "start_lane", lambda *_, **__: [])

    assert "stands still" in fails()
