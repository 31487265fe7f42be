"""What the workflow is told when a task begins and ends, in a real store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pool.model import Evidence, Kind
from pool.states import Move
from pool.store import Claim
from pool.work import Effect
from tasks.aftermath import LOOK_AFTER_S, note_begin, note_end
from tasks.judge import Outcome
from tests.helpers.config import type_table
from tests.helpers.factory import make_request
from tests.helpers.fake_writer import TYPES, types_with_tokens
from tests.helpers.yard import Yard

REPO = "acme/shop"
BEFORE, AFTER, EVENT = "b" * 40, "c" * 40, "d" * 40
NUMBER = 21


class Scene:
    """A deployment with one task of the kind at hand, which runs."""

    def __init__(self, folder: Path, *, has_tokens: bool = True) -> None:
        types = types_with_tokens(folder) if has_tokens else {name: type_table(name) for name in TYPES}
        self.yard = Yard(folder, types=types, report_type="boss")
        with self.yard.store.writing() as tx:
            tx.add_instance("dev-alpha", "dev")

    def claim(self, kind: Kind) -> Claim:
        """Begin a task, as a run does."""
        with self.yard.store.writing() as tx:
            request = make_request(kind=kind, repo=REPO, number=NUMBER, head_sha=EVENT)
            tx.submit("dev", request, by="test")
            claimed = tx.claim("dev-alpha", lease_s=60)
            assert isinstance(claimed, Claim)
            note_begin(self.yard.engine, tx, claimed.task)
        return claimed

    def end(self, kind: Kind, move: Move, *, evidence: Evidence | None = None, **outcome: Any) -> None:
        """Begin a task and end it, having forgotten what its begin owed."""
        claimed = self.claim(kind)
        evidence = evidence or Evidence(head_before=BEFORE, head_after=AFTER)
        with self.yard.store.writing() as tx:
            for effect in tx.list_effects():
                tx.note_effect(effect, ref=None)
            note_end(self.yard.engine, tx, claimed.task, Outcome(move=move, why="", evidence=evidence, **outcome))

    def owed(self, kind: str) -> list[Effect]:
        """Return what is owed to the forge."""
        with self.yard.store.reading() as tx:
            return [effect for effect in tx.list_effects(only_owed=True) if effect.kind == kind]

    def due(self) -> set[tuple[int, str]]:
        """Return what is to be looked at once a forge has had the time to notice a push, and why."""
        with self.yard.store.reading() as tx:
            assert tx.due_looks() == []
        self.yard.wait(LOOK_AFTER_S)
        with self.yard.store.reading() as tx:
            return {(look.number, look.why) for look in tx.due_looks()}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Return a deployment whose accounts read the forge."""
    made = Scene(tmp_path)
    yield made
    made.yard.close()


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[Scene]:
    """Return a deployment without any account on the forge."""
    made = Scene(tmp_path, has_tokens=False)
    yield made
    made.yard.close()


# --- the report and the look ---------------------------------------------------------------------


def test_the_report_says_that_a_task_has_begun(scene: Scene) -> None:
    scene.claim(Kind.FIX_CI)

    assert [effect.key for effect in scene.owed("report")] == [f"report:{REPO}#{NUMBER}"]
    assert scene.owed("status") == []


@pytest.mark.parametrize("move", [Move.SUCCEED, Move.FAIL, Move.TIME_OUT, Move.WITHDRAW, Move.CANCEL, Move.INTERRUPT])
def test_whatever_its_end_a_task_is_reported_and_looked_after(scene: Scene, move: Move) -> None:
    scene.end(Kind.IMPLEMENT, move)

    assert [effect.key for effect in scene.owed("report")] == [f"report:{REPO}#{NUMBER}"]
    assert scene.due() == {(NUMBER, "task")}


def test_what_a_run_has_opened_is_looked_at_too(scene: Scene) -> None:
    scene.end(Kind.IMPLEMENT, Move.SUCCEED, looks=(33, NUMBER, 34))

    assert scene.due() == {(NUMBER, "task"), (33, "task"), (34, "task")}


@pytest.mark.parametrize("move", [Move.SUCCEED, Move.FAIL])
def test_a_link_of_a_chain_that_merges_tells_by_itself(scene: Scene, move: Move) -> None:
    scene.end(Kind.MERGE, move)

    with scene.yard.store.reading() as tx:
        assert tx.list_effects() == []
    assert scene.due() == set()


@pytest.mark.parametrize("kind", [Kind.IMPLEMENT, Kind.REVIEW])
def test_without_an_account_on_the_forge_nothing_is_owed_to_it(deaf: Scene, kind: Kind) -> None:
    deaf.end(kind, Move.SUCCEED, looks=(33,))

    with deaf.yard.store.reading() as tx:
        assert tx.list_effects() == []
    assert deaf.due() == set()


# --- the commit status ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.REVIEW, Kind.ADDRESS_REVIEW, Kind.FIX_CI, Kind.REBASE, Kind.RESOLVE])
@pytest.mark.parametrize(
    ("move", "state"), [(Move.SUCCEED, "success"), (Move.FAIL, "failure"), (Move.TIME_OUT, "failure")]
)
def test_a_commit_says_how_the_work_on_it_ended(scene: Scene, kind: Kind, move: Move, state: str) -> None:
    scene.end(kind, move)

    (status,) = scene.owed("status")
    assert (status.body["state"], status.body["context"]) == (state, f"forgepool/{kind}")


@pytest.mark.parametrize("move", [Move.CANCEL, Move.INTERRUPT, Move.WITHDRAW])
def test_what_did_not_come_to_its_own_end_says_nothing_of_the_commit(scene: Scene, move: Move) -> None:
    scene.end(Kind.FIX_CI, move)

    assert scene.owed("status") == []


@pytest.mark.parametrize("kind", [Kind.IMPLEMENT, Kind.CUSTOM])
def test_what_is_not_about_a_commit_says_nothing_of_one(scene: Scene, kind: Kind) -> None:
    scene.end(kind, Move.SUCCEED)

    assert scene.owed("status") == []


def test_a_success_speaks_of_the_commit_that_it_made(scene: Scene) -> None:
    scene.end(Kind.FIX_CI, Move.SUCCEED)

    assert scene.owed("status")[0].body["sha"] == AFTER


@pytest.mark.parametrize("move", [Move.FAIL, Move.TIME_OUT])
def test_a_failure_speaks_of_the_commit_that_it_found(scene: Scene, move: Move) -> None:
    """What an agent had committed and not pushed is unknown to the forge, which refused such a status for good."""
    scene.end(Kind.FIX_CI, move)

    assert scene.owed("status")[0].body["sha"] == BEFORE


@pytest.mark.parametrize("move", [Move.SUCCEED, Move.FAIL])
def test_without_a_checkout_the_commit_of_the_event_is_spoken_of(scene: Scene, move: Move) -> None:
    scene.end(Kind.FIX_CI, move, evidence=Evidence())

    assert scene.owed("status")[0].body["sha"] == EVENT
