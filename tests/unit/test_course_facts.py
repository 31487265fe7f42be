"""What the facts make of a task at its turn, and how long a proof is waited for: real store, a forge in memory."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pool.errors import ForgeError, ForgeUnavailable, NotAllowed, NotThere
from pool.model import Evidence, Kind, Task
from pool.states import Move
from pool.store import Claim
from tasks.course import AWAY_S, MOST_WORDS, PROOF_PAUSE_S, PROOF_TRIES, Course, Withdrawn, proof_of, set_course
from tasks.forge_values import ReviewComment, Status
from tasks.forges import Forges
from tasks.prompts import Extras
from tasks.proof import Proof
from tasks.situation import Facts
from tests.helpers.config import type_table
from tests.helpers.factory import make_request
from tests.helpers.fake_forge import FakeForge
from tests.helpers.situations import HEAD, OLD, RED, REPO, make_issue, make_pull, rejection
from tests.helpers.yard import Yard

ISSUE, PULL = 7, 21
TYPES = {name: type_table(name) for name in ("dev", "reviewer", "boss")}


class TalkingForge(FakeForge):
    """A forge that also gives the words of reviews and the logs of checks."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[int, tuple[ReviewComment, ...]] = {}  #: by review
        self.logs: dict[str, str] = {}  #: by context of the check

    def review_comments(self, repo: str, number: int, review: int) -> tuple[ReviewComment, ...]:
        """Return what a review says of single lines."""
        del repo, number
        self._answer("review_comments")
        return self.lines.get(review, ())

    def failing_log(self, repo: str, status: Status) -> str | None:
        """Return the end of a log."""
        del repo
        self._answer("failing_log")
        return self.logs.get(status.context)


class Scene:
    """A deployment, and what its forge shows: issue 7 of dev, and pull request 21 for it once it is opened."""

    def __init__(self, folder: Path) -> None:
        self.yard = Yard(folder, types=TYPES, report_type="boss")
        self.forge = TalkingForge()
        self.forge.add(make_issue())
        self.pauses: list[float] = []
        self.has_account = True
        with self.yard.store.writing() as tx:
            tx.add_instance("dev-alpha", "dev")

    @property
    def forges(self) -> Forges:
        """The clients of the deployment, of which the first is asked."""
        return cast("Forges", self)

    def main(self) -> TalkingForge | None:
        """Return the client that reads."""
        return self.forge if self.has_account else None

    def claim(self, kind: Kind, number: int, **fields: Any) -> Claim:
        """Begin a task that a webhook asked for."""
        with self.yard.store.writing() as tx:
            tx.submit("dev", make_request(kind=kind, repo=REPO, number=number, **fields), by="test", rule="a-rule")
            claimed = tx.claim("dev-alpha", lease_s=60)
        assert isinstance(claimed, Claim)
        return claimed

    def task(self, kind: Kind, number: int, **fields: Any) -> Task:
        """Return a task that has begun."""
        return self.claim(kind, number, **fields).task

    def course(self, kind: Kind, number: int, **fields: Any) -> Course:
        """Return the course of a task that is wanted."""
        found = self.set_course(self.task(kind, number, **fields))
        assert isinstance(found, Course), found
        return found

    def set_course(
        self,
        task: Task,
        *,
        on_pause: Callable[[], object] = lambda: None,
        is_unwanted: Callable[[], bool] = lambda: False,
    ) -> Course | Withdrawn:
        """Set the course of a task; pauses take no time."""

        def sleep(seconds: float) -> None:
            self.pauses.append(seconds)
            on_pause()

        return set_course(self.yard.engine, self.forges, task, is_unwanted=is_unwanted, sleep=sleep)

    def fail(self, kind: Kind, number: int, why: str, *, agent_ran: bool = True) -> None:
        """Have an earlier try fail."""
        claimed = self.claim(kind, number)
        with self.yard.store.writing() as tx:
            if agent_ran:
                tx.note_agent(claimed.task.id, fence=claimed.fence, pid=1, started=1.0)
            tx.finish(claimed.task.id, Move.FAIL, fence=claimed.fence, evidence=Evidence(), why=why)

    def proof(
        self,
        kind: Kind,
        number: int,
        *,
        agent: Callable[[], object] = lambda: None,
        on_pause: Callable[[], object] = lambda: None,
        is_unwanted: bool = False,
    ) -> tuple[Proof, Facts | None]:
        """Begin a task, let the agent work, and ask for the proof."""
        task = self.task(kind, number)
        course = self.set_course(task)
        assert isinstance(course, Course), course
        agent()

        def sleep(seconds: float) -> None:
            self.pauses.append(seconds)
            on_pause()

        here = (self.yard.engine, self.forges, task, course)
        return proof_of(*here, login="dev", is_unwanted=lambda: is_unwanted, sleep=sleep)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Return a deployment with an account that reads the forge."""
    made = Scene(tmp_path)
    yield made
    made.yard.close()


# --- the course ----------------------------------------------------------------------------------


def test_without_an_account_a_run_goes_on_the_word_of_its_event(scene: Scene) -> None:
    scene.has_account = False
    task = scene.task(Kind.IMPLEMENT, ISSUE, title="As the event has it")

    course = scene.set_course(task)
    proof, after = proof_of(
        scene.yard.engine, scene.forges, task, cast("Course", course), login="dev", is_unwanted=lambda: False
    )

    assert course == Course(request=task.request)
    assert (proof, after) == (Proof(ok=True, why=""), None)


def test_nothing_is_asked_about_a_persons_own_words(scene: Scene) -> None:
    course = scene.course(Kind.CUSTOM, ISSUE)

    assert (course.before, course.extras) == (None, Extras())
    assert scene.forge.calls == Counter()


def test_facts_that_cannot_be_read_are_not_made_up(scene: Scene) -> None:
    scene.forge.failures["issue"] = ForgeUnavailable("no route")

    with pytest.raises(ForgeUnavailable, match="no route"):
        scene.course(Kind.IMPLEMENT, ISSUE)


def test_a_run_is_about_what_the_forge_shows_now(scene: Scene) -> None:
    scene.forge.add(make_pull(title="Sell more tea", head_ref="dev/tea", base_ref="next"))
    scene.forge.said[PULL] = (rejection(body="Say why."),)

    request = scene.course(Kind.ADDRESS_REVIEW, PULL, title="Old", head_sha=OLD, branch="gone", base="main").request

    assert (request.title, request.branch, request.base, request.head_sha) == ("Sell more tea", "dev/tea", "next", HEAD)


# --- words for the prompt ------------------------------------------------------------------------


def test_who_addresses_a_review_is_told_all_of_its_words(scene: Scene) -> None:
    review = rejection(body="Say why.")
    line = ReviewComment(path="tea.txt", line=3, author="reviewer", body="Why green?")
    scene.forge.add(make_pull())
    scene.forge.said[PULL] = (review,)
    scene.forge.lines[review.id] = (line,)

    course = scene.course(Kind.ADDRESS_REVIEW, PULL, detail="what the event said")

    assert course.request.detail == "reviewer: Say why."
    assert course.extras.review_comments == (line,)


def test_a_review_without_words_leaves_those_of_the_event(scene: Scene) -> None:
    scene.forge.add(make_pull())
    scene.forge.said[PULL] = (rejection(body=""),)

    assert scene.course(Kind.ADDRESS_REVIEW, PULL, detail="what the event said").request.detail == "what the event said"


def test_who_mends_the_checks_is_told_the_end_of_the_log(scene: Scene) -> None:
    other = replace(RED[0], context="lint", description="2 errors")
    scene.forge.add(make_pull())
    scene.forge.checks[HEAD] = (*RED, other)
    scene.forge.logs["lint"] = "E501 line too long"

    course = scene.course(Kind.FIX_CI, PULL, head_sha=HEAD)

    assert course.extras.log_tail == "lint\nE501 line too long"
    assert course.extras.log_missing == ""
    assert course.extras.ci == "red"
    assert "lint: failure - 2 errors" in course.request.detail


def test_who_mends_the_checks_is_told_that_there_is_no_log(scene: Scene) -> None:
    scene.forge.add(make_pull())
    scene.forge.checks[HEAD] = tuple(replace(RED[0], context=f"ci-{number}") for number in range(MOST_WORDS + 3))

    extras = scene.course(Kind.FIX_CI, PULL, head_sha=HEAD).extras

    assert (extras.log_tail, extras.log_missing) == (None, "the forge gives no log of the failed checks")
    assert scene.forge.calls["failing_log"] == MOST_WORDS


def test_the_issue_of_a_pull_request_is_at_hand(scene: Scene) -> None:
    scene.forge.add(make_pull())
    scene.forge.said[PULL] = (rejection(),)

    assert scene.course(Kind.ADDRESS_REVIEW, PULL).extras.linked_issue == make_issue()


def test_why_earlier_tries_failed_is_told_the_last_three_of_them(scene: Scene) -> None:
    for number in range(4):
        scene.fail(Kind.IMPLEMENT, ISSUE, f"try {number}")

    earlier = scene.course(Kind.IMPLEMENT, ISSUE).extras.earlier

    assert [words.rpartition(": ")[2] for words in earlier] == ["try 1", "try 2", "try 3"]


def test_a_try_without_an_agent_and_one_at_something_else_are_no_earlier_tries(scene: Scene) -> None:
    scene.fail(Kind.IMPLEMENT, ISSUE, "no checkout", agent_ran=False)
    scene.fail(Kind.CUSTOM, ISSUE, "a person's own words")

    assert scene.course(Kind.IMPLEMENT, ISSUE).extras.earlier == ()


def test_facts_that_could_not_be_read_count_towards_no_cap(scene: Scene) -> None:
    for _ in range(20):
        scene.fail(Kind.IMPLEMENT, ISSUE, "the facts could not be read", agent_ran=False)

    course = scene.course(Kind.IMPLEMENT, ISSUE)

    assert course.before is not None
    assert (course.before.work.chain, course.before.work.today) == (0, 0)


# --- the proof -----------------------------------------------------------------------------------


def test_a_proof_that_is_there_is_not_waited_for(scene: Scene) -> None:
    scene.forge.add(make_pull())
    scene.forge.said[PULL] = (rejection(),)

    proof, after = scene.proof(Kind.ADDRESS_REVIEW, PULL, agent=lambda: scene.forge.add(make_pull(head_sha=OLD)))

    assert proof == Proof(ok=True, why=f"the head moved from {HEAD[:10]} to {OLD[:10]}")
    assert after is not None
    assert scene.pauses == []


def test_a_proof_that_comes_a_moment_later_is_waited_for(scene: Scene) -> None:
    proof, _ = scene.proof(Kind.IMPLEMENT, ISSUE, on_pause=lambda: scene.forge.add(make_pull()))

    assert proof == Proof(ok=True, why=f"dev opened #{PULL} at {HEAD[:10]}")
    assert scene.pauses == [PROOF_PAUSE_S]


def test_a_proof_that_never_comes_is_not_waited_for_without_end(scene: Scene) -> None:
    proof, _ = scene.proof(Kind.IMPLEMENT, ISSUE)

    assert proof == Proof(ok=False, why=f"dev has no pull request for #{ISSUE}")
    assert scene.pauses == [PROOF_PAUSE_S * tries for tries in range(1, PROOF_TRIES)]


def test_whoever_is_ordered_to_stop_waits_for_no_proof(scene: Scene) -> None:
    proof, _ = scene.proof(Kind.IMPLEMENT, ISSUE, is_unwanted=True)

    assert not proof.ok
    assert scene.pauses == []


def test_a_forge_that_is_away_for_minutes_is_asked_again_for_the_proof(scene: Scene) -> None:
    """Six seconds without an answer once made a failed try of an hour's work."""

    def go_away() -> None:
        scene.forge.add(make_pull())
        scene.forge.failures["open_pulls"] = ForgeUnavailable("no route")

    def come_back() -> None:
        if sum(scene.pauses) >= AWAY_S - 60:
            scene.forge.failures.clear()

    proof, _ = scene.proof(Kind.IMPLEMENT, ISSUE, agent=go_away, on_pause=come_back)

    assert proof.ok
    assert AWAY_S - 60 <= sum(scene.pauses) < AWAY_S


@pytest.mark.parametrize(
    ("error", "waits_s"),
    [
        (ForgeUnavailable("no route"), AWAY_S),
        (NotAllowed("no scope"), sum(PROOF_PAUSE_S * tries for tries in range(1, PROOF_TRIES))),
        (NotThere("#7 is not there"), 0),
    ],
)
def test_a_forge_that_does_not_tell_proves_nothing(scene: Scene, error: ForgeError, waits_s: float) -> None:
    proof, after = scene.proof(Kind.IMPLEMENT, ISSUE, agent=lambda: scene.forge.failures.update({"issue": error}))

    assert not proof.ok
    assert str(error) in proof.why
    assert after is None
    assert waits_s <= sum(scene.pauses) <= waits_s * 1.1


def test_a_run_waits_for_a_forge_that_is_away(scene: Scene) -> None:
    """An upgrade of the forge used to fail everything in the queues, one after the other."""
    task = scene.task(Kind.IMPLEMENT, ISSUE)
    scene.forge.failures["issue"] = ForgeUnavailable("no route")

    def come_back() -> None:
        if sum(scene.pauses) >= 300:
            scene.forge.failures.clear()

    assert isinstance(scene.set_course(task, on_pause=come_back), Course)


def test_whoever_is_ordered_to_stop_does_not_wait_for_the_forge(scene: Scene) -> None:
    task = scene.task(Kind.IMPLEMENT, ISSUE)
    scene.forge.failures["issue"] = ForgeUnavailable("no route")

    with pytest.raises(ForgeUnavailable):
        scene.set_course(task, is_unwanted=lambda: sum(scene.pauses) >= 20)

    assert sum(scene.pauses) == 20
