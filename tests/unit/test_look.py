"""What a look at the forge does."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pool.errors import BadInput, ForgeError, ForgeUnavailable, NotAllowed, NotThere
from pool.lanes import MergeState
from pool.model import Evidence, Kind, Request, Task, session_key
from pool.states import LIVE, InstanceState, Move, State
from pool.store import Claim, Submitted, Tx
from pool.subject import Subject
from pool.work import Effect, Look
from tasks.engine import Engine
from tasks.look import look, request_of
from tasks.situation import HOLD_LABEL, Policy
from tasks.workflow import Decision, Start
from tests.helpers.config import type_table
from tests.helpers.factory import make_request
from tests.helpers.fake_forge import FakeForge
from tests.helpers.situations import (
    GREEN,
    HEAD,
    OLD,
    RED,
    REPO,
    approval,
    issue_facts,
    make_issue,
    make_pull,
    pull_facts,
    rejection,
    request,
)
from tests.helpers.yard import Yard

TYPES = {name: type_table(name) for name in ("dev", "reviewer", "boss")}


class FakeLanes:
    """Lanes without a chain. Fulfils tasks.look_act.Lanes."""

    def __init__(self) -> None:
        self.entered: list[tuple[str, int, str]] = []
        self.left: list[tuple[int, MergeState, str | None]] = []

    def enter(
        self,
        engine: Engine,
        tx: Tx,
        repo: str,
        base: str,
        number: int,
        *,
        head_sha: str,
        approved_at: datetime,
        by: str,
    ) -> list[Submitted]:
        """Enter the lane, and begin a task in it."""
        del engine
        self.entered.append((base, number, by))
        tx.enter_lane(repo, base, number, head_sha=head_sha, approved_at=approved_at)
        return [tx.submit("boss", make_request(kind=Kind.MERGE, number=number), by=by)]

    def leave(
        self,
        engine: Engine,
        tx: Tx,
        repo: str,
        number: int,
        *,
        state: MergeState,
        reason: str,
        merge_sha: str | None = None,
    ) -> list[Submitted]:
        """Leave the lane."""
        del engine
        self.left.append((number, state, merge_sha))
        entry = tx.open_merge(repo, number)
        assert entry is not None
        tx.end_merge(entry.id, state, reason=reason, merge_sha=merge_sha)
        return []


class Scene:
    """A deployment, a forge, and looks from one to the other."""

    def __init__(self, folder: Path) -> None:
        self.yard = Yard(folder, types=TYPES, report_type="boss")
        self.forge = FakeForge()
        self.lanes = FakeLanes()
        self.policy = Policy.of(self.yard.settings)
        with self.yard.store.writing() as tx:
            for name in TYPES:
                tx.add_instance(f"{name}-default", name)

    def look(self, number: int, why: str = "webhook", tries: int = 0) -> Decision:
        """Look at something."""
        due = Look(repo=REPO, number=number, why=why, tries=tries)
        return look(self.yard.engine, self.forge, due, policy=self.policy, lanes=self.lanes)

    def tasks(self, number: int, **filters: Any) -> list[Task]:
        """Return the tasks of a number, oldest first."""
        with self.yard.store.reading() as tx:
            return tx.list_tasks(repo=REPO, number=number, newest_first=False, **filters)

    def effects(self, number: int, kind: str) -> list[Effect]:
        """Return what is owed to the forge."""
        with self.yard.store.reading() as tx:
            return [one for one in tx.list_effects(repo=REPO, number=number) if one.kind == kind]

    def due(self) -> list[tuple[int, str]]:
        """Return what is to be looked at now, and why."""
        with self.yard.store.reading() as tx:
            return [(one.number, one.why) for one in tx.due_looks()]

    def trail(self, number: int) -> list[tuple[str, str]]:
        """Return what the trail says of a number."""
        with self.yard.store.reading() as tx:
            return [(step.source, step.what) for step in tx.list_trail(REPO, [number])]

    def submit(self, kind: Kind, number: int, type_name: str = "dev", **fields: Any) -> int:
        """Queue a task as the door does."""
        with self.yard.store.writing() as tx:
            asked = make_request(kind=kind, number=number, repo=REPO, **fields)
            return tx.submit(type_name, asked, by="webhook", absorb=LIVE, rule="a-rule").task

    def run(self, instance: str, move: Move = Move.FAIL) -> None:
        """Let an instance run the head of its queue."""
        with self.yard.store.writing() as tx:
            claimed = tx.claim(instance, lease_s=60)
            assert isinstance(claimed, Claim)
        with self.yard.store.writing() as tx:
            tx.note_agent(claimed.task.id, fence=claimed.fence, pid=1, started=1.0)
            tx.finish(claimed.task.id, move, fence=claimed.fence, evidence=Evidence(), why="it did not work")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    scene.forge.add(make_issue(), make_pull())
    scene.forge.checks[HEAD] = GREEN
    yield scene
    scene.yard.close()


@pytest.fixture
def issue(scene: Scene) -> Scene:
    """Return a scene with an issue and no pull request."""
    scene.forge.pulls.clear()
    return scene


# --- starting ------------------------------------------------------------------------------------


def test_an_assigned_issue_is_begun_and_its_worker_is_rung_for(issue: Scene) -> None:
    decision = issue.look(7)

    (task,) = issue.tasks(7)
    assert decision.rule == "implement"
    assert (task.request.kind, task.type, task.rule, task.state) == (Kind.IMPLEMENT, "dev", "implement", State.QUEUED)
    assert (task.request.title, task.request.branch) == ("Sell tea", None)
    assert issue.yard.bell.rung == [("dev-default", task.id)]


def test_looking_again_begins_nothing_twice(issue: Scene) -> None:
    issue.look(7)

    assert issue.look(7).rule == "busy"
    assert len(issue.tasks(7)) == 1


def test_a_run_that_failed_is_tried_again_until_a_person_is_asked_once(issue: Scene) -> None:
    rules = []
    for _ in range(3):
        rules.append(issue.look(7).rule)
        issue.yard.wait(1)
        issue.run("dev-default")
        issue.yard.wait(1)

    decisions = [issue.look(7), issue.look(7)]

    assert rules == ["implement"] * 3
    assert [task.state for task in issue.tasks(7)] == [State.FAILED] * 3
    assert decisions[0] == decisions[1]
    (asked,) = issue.effects(7, "ask")
    assert asked.key == f"ask:tries:{REPO}#7:0"
    assert asked.type == "boss"
    assert asked.body == {"cause": "tries", "sentence": decisions[0].why, "pull": None}


def test_a_review_is_addressed_on_the_branch_of_the_pull_request_with_the_labels_of_both(scene: Scene) -> None:
    scene.forge.add(make_issue(labels=("tea",)), make_pull(labels=("shop",)))
    scene.forge.said[21] = (rejection(body="Spell it right."),)

    scene.look(21)

    (task,) = scene.tasks(21)
    asked = task.request
    assert (asked.kind, asked.branch, asked.base, asked.head_sha) == (Kind.ADDRESS_REVIEW, "dev/7", "main", HEAD)
    assert asked.labels == ("shop", "tea")
    assert asked.detail == "reviewer: Spell it right."


def test_a_dead_letter_about_an_older_head_is_needless_once_the_new_one_is_worked_on(scene: Scene) -> None:
    dead = scene.submit(Kind.REVIEW, 21, "reviewer", head_sha=OLD)
    with scene.yard.store.writing() as tx:
        tx.move(dead, Move.BURY, by="test")
    scene.forge.said[21] = (request(),)

    scene.look(21)

    assert [task.state for task in scene.tasks(21)] == [State.SUPERSEDED, State.QUEUED]


def test_what_nobody_can_take_is_looked_at_again_later(issue: Scene) -> None:
    with issue.yard.store.writing() as tx:
        tx.set_instance_state("dev-default", InstanceState.REMOVED)

    issue.look(7)

    assert [task.state for task in issue.tasks(7)] == [State.FAILED]
    assert issue.due() == []
    issue.yard.wait(30)
    assert issue.due() == [(7, "again")]
    assert issue.look(7).rule == "implement"
    assert len(issue.tasks(7)) == 2


def test_a_branch_that_git_would_not_take_is_told_to_a_person(scene: Scene) -> None:
    scene.forge.add(make_pull(head_ref="-rf"))
    scene.forge.said[21] = (rejection(),)

    scene.look(21)

    assert scene.tasks(21) == []
    assert [asked.body["cause"] for asked in scene.effects(7, "ask")] == ["bad-input"]


# --- the other steps -----------------------------------------------------------------------------


def test_what_is_approved_enters_its_lane_and_its_first_link_is_rung_for(scene: Scene) -> None:
    scene.forge.said[21] = (approval(),)

    decision = scene.look(21)

    assert decision.rule == "ready"
    assert scene.lanes.entered == [("main", 21, "look")]
    assert scene.yard.bell.rung[0][0] == "boss-default"
    assert scene.look(21).rule == "in-lane"


def test_the_lanes_of_the_house_are_entered_and_left_if_no_others_are_given(scene: Scene) -> None:
    scene.forge.said[21] = (approval(),)
    due = Look(repo=REPO, number=21, why="webhook", tries=0)
    look(scene.yard.engine, scene.forge, due, policy=scene.policy)
    scene.forge.add(make_pull(state="closed"))

    look(scene.yard.engine, scene.forge, due, policy=scene.policy)

    assert [(task.request.kind, task.type, task.state) for task in scene.tasks(21)] == [
        (Kind.MERGE, "boss", State.SUPERSEDED)
    ]
    with scene.yard.store.reading() as tx:
        assert [entry.state for entry in tx.list_merges(repo=REPO)] == [MergeState.WITHDRAWN]


def test_the_reviewer_is_asked_once_for_each_head_and_it_is_looked_at_soon(scene: Scene) -> None:
    scene.look(21)
    scene.yard.wait(10)
    looks = scene.due()
    scene.look(21)
    scene.yard.wait(10)

    (owed,) = scene.effects(21, "request-review")
    assert owed.key == f"request-review:{REPO}#21:{HEAD}:reviewer"
    assert (owed.type, owed.body) == ("boss", {"login": "reviewer", "head_sha": HEAD})
    assert looks == [(21, "again")]
    # What is asked already is not waited for in a hurry.
    assert scene.due() == []
    scene.forge.add(make_pull(head_sha=OLD))
    scene.forge.checks[OLD] = GREEN
    scene.look(21)
    assert len(scene.effects(21, "request-review")) == 2


def test_a_request_for_a_review_that_was_given_up_needs_a_person(scene: Scene) -> None:
    scene.look(21)
    with scene.yard.store.writing() as tx:
        owed = next(one for one in tx.list_effects(number=21) if one.kind == "request-review")
        tx.fail_effect(owed, error="reviewer is no collaborator", after_s=None)

    scene.look(21)

    (asked,) = scene.effects(7, "ask")
    assert asked.body["sentence"] == "reviewer could not be asked for a review: reviewer is no collaborator"


def test_a_person_is_asked_on_the_issue_that_a_pull_request_is_for(scene: Scene) -> None:
    scene.forge.said[21] = tuple(rejection() for _ in range(3))

    scene.look(21)

    (asked,) = scene.effects(7, "ask")
    assert (asked.key, asked.body["pull"]) == (f"ask:review-rounds:{REPO}#7:0", 21)
    assert scene.effects(21, "ask") == []


def test_a_person_is_asked_on_the_pull_request_when_there_is_no_issue(scene: Scene) -> None:
    scene.forge.add(make_pull(body="", head_ref="tea"))
    scene.forge.said[21] = tuple(rejection() for _ in range(3))

    scene.look(21)

    assert [asked.number for asked in scene.effects(21, "ask")] == [21]


def test_a_person_who_was_asked_on_the_pull_request_is_not_asked_on_its_issue_too(scene: Scene) -> None:
    scene.forge.add(make_pull(body="", head_ref="tea"))
    scene.forge.said[21] = tuple(rejection() for _ in range(3))
    scene.look(21)
    scene.forge.add(make_pull())

    scene.look(21)

    assert len(scene.effects(21, "ask")) == 1
    assert scene.effects(7, "ask") == []


def test_a_person_is_asked_again_after_they_acted(scene: Scene) -> None:
    scene.forge.said[21] = tuple(rejection(submitted_at=None) for _ in range(3))
    scene.look(21)
    scene.yard.wait(1)
    with scene.yard.store.writing() as tx:
        tx.reset_caps(REPO, 21)

    scene.look(21)

    assert len({asked.key for asked in scene.effects(7, "ask")}) == 2


def test_a_wait_is_looked_at_again_when_it_ends(scene: Scene) -> None:
    scene.forge.checks.clear()
    scene.look(21)

    assert scene.due() == []
    scene.yard.wait(60)
    assert scene.due() == [(21, "again")]


# --- what is told --------------------------------------------------------------------------------


def test_a_decision_is_told_once_and_the_report_is_owed_when_it_changes(issue: Scene) -> None:
    issue.look(7)
    versions = [one.version for one in issue.effects(7, "report")]
    issue.look(7)
    issue.look(7)

    assert issue.trail(7) == [("look", "implement"), ("look", "busy")]
    (report,) = issue.effects(7, "report")
    assert (versions, report.version) == ([1], 2)
    assert (report.key, report.type) == (f"report:{REPO}#7", "boss")


def test_what_is_no_agents_business_gets_no_report(issue: Scene) -> None:
    issue.forge.add(make_issue(assignees=()))

    issue.look(7)

    assert issue.trail(7) == [("look", "no-agent")]
    assert issue.effects(7, "report") == []


@pytest.mark.parametrize(("why", "count"), [("poll", 1), ("start", 1), ("webhook", 0), ("task", 0), ("again", 0)])
def test_what_no_webhook_told_is_counted(issue: Scene, why: str, count: int) -> None:
    issue.look(7, why)
    issue.look(7, why)

    with issue.yard.store.reading() as tx:
        counts = tx.repair_counts()
    assert (counts["untold"].count if "untold" in counts else 0) == count


def test_a_merge_that_no_webhook_told_is_counted(scene: Scene) -> None:
    scene.forge.said[21] = (approval(),)

    scene.look(21, "poll")

    with scene.yard.store.reading() as tx:
        assert tx.repair_counts()["untold"].count == 1


def test_the_door_gets_to_know_who_is_assigned_in_the_transaction_that_begins(issue: Scene) -> None:
    issue.look(7)

    with issue.yard.store.reading() as tx:
        known = tx.subject(REPO, 7)
    assert known is not None
    assert known.assignees == ("dev",)


# --- what ended ----------------------------------------------------------------------------------


def test_a_closed_issue_drops_what_waits_and_its_conversations_and_looks_at_what_it_blocked(issue: Scene) -> None:
    task = issue.submit(Kind.IMPLEMENT, 7)
    key = session_key("dev", REPO, 7)
    with issue.yard.store.writing() as tx:
        tx.keep_session(key, "s-1", instance="dev-default", task=task)
    issue.forge.add(make_issue(state="closed"), make_issue(number=8))
    issue.forge.depends[8] = (7,)

    issue.look(7)

    assert [one.state for one in issue.tasks(7)] == [State.SUPERSEDED]
    assert issue.due() == [(8, "again")]
    with issue.yard.store.reading() as tx:
        assert tx.session(key) is None


def test_what_a_closed_issue_blocked_is_looked_at_once(issue: Scene) -> None:
    issue.forge.add(make_issue(state="closed"), make_issue(number=8))
    issue.forge.depends[8] = (7,)
    issue.look(7)
    issue.look(8)

    issue.look(7)

    assert issue.due() == []


@pytest.mark.parametrize(
    ("merged", "state", "sha"), [(True, MergeState.MERGED, OLD), (False, MergeState.WITHDRAWN, None)]
)
def test_what_ended_elsewhere_leaves_its_lane(
    scene: Scene, *, merged: bool, state: MergeState, sha: str | None
) -> None:
    with scene.yard.store.writing() as tx:
        tx.enter_lane(REPO, "main", 21, head_sha=HEAD, approved_at=tx.now)
    scene.forge.add(make_pull(state="closed", merged=merged, merge_commit_sha=OLD if merged else None))

    scene.look(21)

    assert scene.lanes.left == [(21, state, sha)]
    assert scene.due() == [(7, "again")]


def test_the_chain_that_merged_it_goes_on_to_its_after_care(scene: Scene) -> None:
    with scene.yard.store.writing() as tx:
        tx.enter_lane(REPO, "main", 21, head_sha=HEAD, approved_at=tx.now)
        tx.next_in_lane(REPO, "main")
    link = scene.submit(Kind.MERGE, 21, "boss")
    scene.forge.add(make_pull(state="closed", merged=True))

    scene.look(21)

    assert scene.lanes.left == []
    assert [(task.id, task.state) for task in scene.tasks(21)] == [(link, State.QUEUED)]


def test_what_waits_for_a_type_that_is_not_assigned_any_more_is_taken_back(issue: Scene) -> None:
    task = issue.submit(Kind.IMPLEMENT, 7)
    issue.forge.add(make_issue(assignees=("boss",)))

    decision = issue.look(7)

    assert decision.rule == "implement"
    assert [(one.id == task, one.type, one.state) for one in issue.tasks(7)] == [
        (True, "dev", State.SUPERSEDED),
        (False, "boss", State.QUEUED),
    ]


def test_what_a_person_dispatched_is_not_taken_back(issue: Scene) -> None:
    with issue.yard.store.writing() as tx:
        tx.submit("dev", make_request(number=7, repo=REPO), by="ada")
    issue.forge.add(make_issue(assignees=()))

    issue.look(7)

    assert [task.state for task in issue.tasks(7)] == [State.QUEUED]


def test_what_was_deleted_ends_like_what_was_closed(scene: Scene) -> None:
    scene.submit(Kind.ADDRESS_REVIEW, 21, head_sha=HEAD)
    scene.look(21)
    with scene.yard.store.writing() as tx:
        tx.enter_lane(REPO, "main", 21, head_sha=HEAD, approved_at=tx.now)
    scene.forge.pulls.clear()

    decision = scene.look(21)

    assert decision.rule == "gone"
    assert [task.state for task in scene.tasks(21)] == [State.SUPERSEDED]
    assert scene.lanes.left == [(21, MergeState.WITHDRAWN, None)]
    with scene.yard.store.reading() as tx:
        known = tx.subject(REPO, 21)
    assert known is not None
    assert not known.is_open


# --- the forge fails -----------------------------------------------------------------------------


@pytest.mark.parametrize(("tries", "pause_s"), [(0, 5.0), (1, 10.0), (3, 40.0), (50, 600.0)])
def test_a_forge_that_is_away_is_asked_again_later_and_later_for_the_same_reason(
    issue: Scene, tries: int, pause_s: float
) -> None:
    issue.forge.failures["issue"] = ForgeUnavailable("away")

    decision = issue.look(7, "poll", tries)

    assert decision.rule == "unavailable"
    issue.yard.wait(pause_s - 0.1)
    assert issue.due() == []
    issue.yard.wait(0.1)
    assert issue.due() == [(7, "poll")]


def test_failures_are_counted_until_a_look_succeeds(issue: Scene) -> None:
    issue.forge.failures["issue"] = ForgeUnavailable("away")
    issue.look(7)
    issue.yard.wait(5)
    with issue.yard.store.reading() as tx:
        tries = [one.tries for one in tx.due_looks()]
    issue.forge.failures.clear()
    issue.look(7)
    with issue.yard.store.writing() as tx:
        tx.look_later(REPO, 7, why="poll")

    with issue.yard.store.reading() as tx:
        assert (tries, [one.tries for one in tx.due_looks()]) == ([1], [0])


@pytest.mark.parametrize("method", ["issue", "open_pulls", "blockers", "reviews", "statuses"])
@pytest.mark.parametrize("error", [ForgeUnavailable, ForgeError, NotAllowed, NotThere])
def test_no_error_of_the_forge_escapes_and_nothing_is_begun_or_dropped(
    scene: Scene, method: str, error: type[ForgeError]
) -> None:
    task = scene.submit(Kind.CUSTOM, 7)
    scene.forge.failures[method] = error("no")

    decision = scene.look(7)

    assert decision.rule in {"unavailable", "not-allowed"} or (method, error) == ("issue", NotThere)
    assert method == "issue" or [one.id for one in scene.tasks(7, states=[State.QUEUED])] == [task]


@pytest.mark.parametrize("error", [NotAllowed, NotThere])
def test_what_we_may_not_see_is_told_and_not_taken_for_gone(scene: Scene, error: type[ForgeError]) -> None:
    task = scene.submit(Kind.CUSTOM, 7)
    scene.forge.failures["issue"] = error("no")
    scene.forge.has_repository = False

    decision = scene.look(7)

    assert decision.rule == "not-allowed"
    assert scene.trail(7) == [("look", "not-allowed")]
    assert [one.id for one in scene.tasks(7, states=[State.QUEUED])] == [task]
    assert scene.due() == []


def test_a_part_that_is_missing_for_a_moment_is_asked_for_again(scene: Scene) -> None:
    scene.forge.failures["reviews"] = NotThere("reviews")

    assert scene.look(21).rule == "unavailable"


# --- races ---------------------------------------------------------------------------------------


def test_a_wish_that_comes_while_the_forge_is_asked_is_another_look(issue: Scene) -> None:
    class Slow(FakeForge):
        def blockers(self, repo: str, number: int) -> list[Any]:
            with issue.yard.store.writing() as tx:
                tx.look_later(REPO, 7, why="webhook")
            return super().blockers(repo, number)

    slow = Slow()
    slow.add(make_issue())
    issue.forge = slow

    issue.look(7)

    assert issue.due() == [(7, "webhook")]


def test_what_ended_while_the_forge_was_asked_is_not_decided_on_old_facts(scene: Scene) -> None:
    scene.submit(Kind.FIX_CI, 21, head_sha=HEAD)

    class Slow(FakeForge):
        def reviews(self, repo: str, number: int) -> tuple[Any, ...]:
            scene.yard.wait(1)
            scene.run("dev-default", Move.SUCCEED)
            return super().reviews(repo, number)

    slow = Slow()
    slow.add(make_issue(), make_pull())
    slow.checks[HEAD] = RED
    scene.forge = slow

    assert scene.look(21, "poll").rule == "again"

    assert len(scene.tasks(21)) == 1
    scene.yard.wait(1)
    assert scene.due() == [(21, "poll")]


def test_a_delivery_that_came_first_has_begun_it(issue: Scene) -> None:
    class Slow(FakeForge):
        def blockers(self, repo: str, number: int) -> list[Any]:
            issue.submit(Kind.IMPLEMENT, 7)
            return super().blockers(repo, number)

    slow = Slow()
    slow.add(make_issue())
    issue.forge = slow

    assert issue.look(7).rule == "busy"
    assert len(issue.tasks(7)) == 1


def test_older_news_than_those_of_a_delivery_are_not_told_to_the_door(issue: Scene) -> None:
    told = issue.forge.issues[7].updated_at
    assert told is not None
    newer = Subject(repo=REPO, number=7, is_pull=False, assignees=(), updated_at=told + timedelta(seconds=1))
    with issue.yard.store.writing() as tx:
        tx.remember(newer)

    issue.look(7)

    with issue.yard.store.reading() as tx:
        assert tx.subject(REPO, 7) == newer


def test_nothing_of_a_look_happens_when_its_transaction_fails(issue: Scene) -> None:
    def fail(*_: Any, **__: Any) -> list[Submitted]:
        raise BadInput("lane", "main", "is out of order")

    issue.forge.add(make_pull(body="", head_ref="tea"))
    issue.forge.said[21] = (approval(),)
    issue.lanes.enter = fail  # type: ignore[method-assign]

    with pytest.raises(BadInput):
        issue.look(21)

    assert issue.trail(21) == []
    assert issue.effects(21, "report") == []


# --- requests ------------------------------------------------------------------------------------


def start(number: int, **changes: Any) -> Start:
    """Return a step."""
    usual = {
        "kind": Kind.ADDRESS_REVIEW,
        "type": "dev",
        "number": number,
        "head_sha": HEAD,
        "why": "",
        "detail": "words",
    }
    return Start(**{**usual, **changes})


def test_the_request_for_a_pull_request_of_an_issue_is_about_the_pull_request() -> None:
    facts = issue_facts(pulls=(pull_facts(title="Tea"),))

    asked = request_of(start(21), facts)

    assert (asked.number, asked.title, asked.branch, asked.detail) == (21, "Tea", "dev/7", "words")


def test_the_request_for_a_fork_names_what_can_be_fetched() -> None:
    assert request_of(start(21), pull_facts(is_fork=True)).branch == "refs/pull/21/head"


def test_a_request_can_be_stored() -> None:
    asked = request_of(start(7, kind=Kind.IMPLEMENT, head_sha=None), issue_facts())

    assert Request.from_json(asked.to_json()) == asked


def test_a_held_issue_is_left_alone(issue: Scene) -> None:
    issue.forge.add(replace(issue.forge.issues[7], labels=(HOLD_LABEL,)))

    assert issue.look(7).rule == "held"
    assert issue.tasks(7) == []


def test_a_requested_review_is_begun_although_its_webhook_was_lost(scene: Scene) -> None:
    scene.forge.said[21] = (request(),)

    scene.look(21, "poll")

    assert [(task.request.kind, task.type) for task in scene.tasks(21)] == [(Kind.REVIEW, "reviewer")]
