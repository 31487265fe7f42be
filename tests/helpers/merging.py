"""What the tests of the chain that merges share: values, a small forge of one repository, a lane that is worked off."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pool.errors import ForgeError, MergeConflict, NotThere, StaleHead
from pool.lanes import Merge, MergeState
from pool.model import Evidence
from pool.states import Move
from pool.store import Claim, NoClaim, Store
from pool.work import Work
from tasks import merge
from tasks.dispatch import retry_interrupted
from tasks.engine import Engine
from tasks.forge_values import Issue, MergeStyle, Pull, Repository, Review, ReviewState, Status
from tasks.lease import StopRun
from tasks.merge_tools import Tools
from tasks.settings import Settings
from tasks.situation import Policy, PullFacts
from tests.helpers.clock import Clock
from tests.helpers.config import type_table, write_config
from tests.helpers.fakes import FakeBell

REPO, BASE = "acme/shop", "main"
HEAD, TIP = "a" * 40, "b" * 40
POLICY = Policy(
    types_by_login={"dev": "dev", "boss": "boss"},
    logins={"dev": "dev", "boss": "boss"},
    merge_type="boss",
    review_type=None,
    ci_grace_s=60,
    settle_s=30,
)


def sha_of(*parts: str) -> str:
    """Return a commit id that stands for what it is made of."""
    return hashlib.sha1(" ".join(parts).encode(), usedforsecurity=False).hexdigest()


def a_pull(**changes: Any) -> Pull:
    """Return a pull request that nothing is wrong with."""
    usual: dict[str, Any] = {
        "repo": REPO,
        "number": 1,
        "title": "Sell more",
        "body": "",
        "state": "open",
        "author": "dev",
        "draft": False,
        "merged": False,
        "merge_commit_sha": None,
        "mergeable": True,
        "head_ref": "dev/1",
        "head_sha": HEAD,
        "is_fork": False,
        "base_ref": BASE,
        "base_sha": TIP,
        "merge_base": TIP,
        "assignees": (),
        "labels": (),
        "requested_reviewers": (),
        "url": "",
        "updated_at": None,
    }
    return Pull(**{**usual, **changes})


def an_issue(number: int, **changes: Any) -> Issue:
    """Return an open issue."""
    usual: dict[str, Any] = {
        "repo": REPO,
        "number": number,
        "title": "",
        "body": "",
        "state": "open",
        "author": "ann",
        "assignees": (),
        "labels": (),
        "url": "",
        "updated_at": None,
        "is_pull": False,
    }
    return Issue(**{**usual, **changes})


def a_review(state: ReviewState = ReviewState.APPROVED, **changes: Any) -> Review:
    """Return a review of the head by somebody whose word counts."""
    usual: dict[str, Any] = {
        "id": 1,
        "author": "ann",
        "state": state,
        "commit_id": HEAD,
        "body": "",
        "official": True,
        "stale": False,
        "dismissed": False,
        "submitted_at": None,
    }
    return Review(**{**usual, **changes})


def a_status(state: str, **changes: str) -> Status:
    """Return what a check says."""
    usual = {"context": "ci", "state": state, "description": "", "target_url": "", "creator": "ci"}
    return Status(**{**usual, **changes})


def a_merge(now: datetime, **changes: Any) -> Merge:
    """Return an active merge whose head is what was approved."""
    usual: dict[str, Any] = {
        "id": 1,
        "repo": REPO,
        "base": BASE,
        "number": 1,
        "state": MergeState.ACTIVE,
        "step": None,
        "link": 1,
        "head_sha": HEAD,
        "approved_sha": HEAD,
        "base_sha": None,
        "merge_sha": None,
        "code": None,
        "reason": "",
        "approved_at": now,
        "entered_at": now,
        "changed_at": now,
        "look_at": None,
        "ended_at": None,
    }
    return Merge(**{**usual, **changes})


def facts_of(now: datetime, *, work: Work | None = None, **changes: Any) -> PullFacts:
    """Return the facts of a pull request that is approved and green. changes: as PullFacts has them, or `a_pull`."""
    usual = {"reviews": (a_review(),), "statuses": (a_status("success"),), "issue": None}
    own = {name: changes.pop(name, value) for name, value in usual.items()}
    pull = changes.pop("pull", None) or a_pull(**changes)
    return PullFacts(pull=pull, work=work or Work(repo=REPO, number=pull.number), now=now, **own)


@dataclass
class FakeForge:
    """A forge with one repository, as far as merges need it. Fulfils MergeForge."""

    clock: Clock
    pulls: dict[int, Pull] = field(default_factory=dict)
    reviews: dict[int, list[Review]] = field(default_factory=dict)
    statuses: dict[str, list[Status]] = field(default_factory=dict)
    issues: dict[int, Issue] = field(default_factory=dict)
    depends: dict[int, list[int]] = field(default_factory=dict)  #: number -> what must be closed first
    linked: dict[int, int] = field(default_factory=dict)  #: pull request -> the issue that it was made for
    failures: dict[str, list[ForgeError]] = field(default_factory=dict)  #: by call: raised before it does anything
    lost: list[ForgeError] = field(default_factory=list)  #: raised by the next merges after they were done
    merged: list[tuple[int, str]] = field(default_factory=list)  #: (number, head), in order
    calls: list[str] = field(default_factory=list)
    before_merge: Callable[[], None] = lambda: None
    default_branch: str = BASE

    def open(self, number: int = 1, *, approved: bool = True, **changes: Any) -> Pull:
        """Open a pull request, which is approved and green unless it is said otherwise."""
        head = sha_of("head", str(number))
        usual = {"number": number, "head_ref": f"dev/{number}", "head_sha": head, "base_sha": self._tip()}
        self.pulls[number] = pull = a_pull(**{**usual, "merge_base": self._tip(), **changes})
        self.reviews[number] = [a_review(commit_id=pull.head_sha)] if approved else []
        self.statuses[pull.head_sha] = [a_status("success")]
        return pull

    def change(self, number: int = 1, **changes: Any) -> None:
        """Change a pull request."""
        self.pulls[number] = replace(self.pulls[number], **changes)

    def move_base(self, sha: str) -> None:
        """Put `main` on another commit, which nobody has taken in."""
        for number, pull in self.pulls.items():
            if pull.is_open and pull.base_ref == BASE:
                self.change(number, base_sha=sha)

    def _tip(self) -> str:
        return next((pull.base_sha for pull in self.pulls.values() if pull.is_open), TIP)

    def read_facts(self, _forge: object, engine: Engine, _repo: str, number: int) -> PullFacts:
        """Read the facts, in the shape of `tasks.facts.read_facts`."""
        return self.facts(engine.store, number)

    def facts(self, store: Store, number: int) -> PullFacts:
        """Read the facts, as `tasks.facts.read_facts` does."""
        pull = self.pull(REPO, number)
        with store.writing() as tx:
            work = tx.work(REPO, number)
            mark = f"{pull.head_sha} {pull.base_sha}"
            if pull.mergeable:
                tx.note_work(REPO, number, unmergeable_since=None, unmergeable_at=None)
            elif work.unmergeable_at != mark:
                tx.note_work(REPO, number, unmergeable_since=tx.now, unmergeable_at=mark)
            if work.head_sha != pull.head_sha:
                tx.note_work(REPO, number, head_sha=pull.head_sha, head_since=tx.now)
            work, now = tx.work(REPO, number), tx.now
        reviews, statuses = tuple(self.reviews[number]), tuple(self.statuses.get(pull.head_sha, ()))
        issue = self.issues[self.linked[number]] if number in self.linked else None
        return PullFacts(pull=pull, reviews=reviews, statuses=statuses, issue=issue, work=work, now=now)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if waiting := self.failures.get(name):
            raise waiting.pop(0)

    def pull(self, repo: str, number: int) -> Pull:
        """Return a pull request."""
        self._called("pull")
        if (repo, number) not in {(REPO, known) for known in self.pulls}:
            raise NotThere(f"{repo}#{number} is not there")
        return self.pulls[number]

    def issue(self, repo: str, number: int) -> Issue:
        """Return an issue."""
        self._called("issue")
        if number not in self.issues:
            raise NotThere(f"{repo}#{number} is not there")
        return self.issues[number]

    def repository(self, repo: str) -> Repository:
        """Return the repository."""
        self._called("repository")
        return Repository(
            full_name=repo,
            default_branch=self.default_branch,
            archived=False,
            can_push=True,
            can_admin=False,
            merge_styles=(MergeStyle.MERGE,),
        )

    def open_pulls(self, repo: str, *, base: str | None = None) -> list[Pull]:
        """Return what is open."""
        self._called("open_pulls")
        pulls = [pull for pull in self.pulls.values() if pull.is_open and pull.repo == repo]
        return [pull for pull in pulls if base in (None, pull.base_ref)]

    def blockers(self, repo: str, number: int) -> list[Issue]:
        """Return what must be closed first."""
        self._called("blockers")
        del repo
        return [self.issues[one] for one in self.depends.get(number, ())]

    def blocked(self, repo: str, number: int) -> list[Issue]:
        """Return what waits for it."""
        self._called("blocked")
        del repo
        return [self.issues[one] for one, needs in self.depends.items() if number in needs and one in self.issues]

    def merge(
        self,
        repo: str,
        number: int,
        *,
        head_sha: str,
        style: MergeStyle,
        title: str | None = None,
        message: str | None = None,
    ) -> None:
        """Merge, if the head is what it should be."""
        del style, title, message
        self.before_merge()
        self._called("merge")
        pull = self.pulls[number]
        if pull.head_sha != head_sha:
            raise StaleHead("head out of date")
        made = sha_of("merge", head_sha, pull.base_sha)
        self.merged.append((number, head_sha))
        self.change(number, state="closed", merged=True, merge_commit_sha=made)
        if pull.base_ref == BASE:
            self.move_base(made)
        del repo
        if self.lost:
            raise self.lost.pop(0)


@dataclass
class FakeUpdater:
    """Makes updates on a FakeForge. Fulfils Updater."""

    forge: FakeForge
    conflicts: bool = False
    is_green: bool = False  #: whether the checks of what is pushed end at once
    failures: list[ForgeError] = field(default_factory=list)  #: raised by the next pushes before they are done
    lost: list[ForgeError] = field(default_factory=list)  #: the same, after they were done
    before_push: Callable[[], None] = lambda: None
    pushed: list[str] = field(default_factory=list)

    def make(self, pull: Pull, *, base_sha: str, at: datetime) -> str:
        """As in Updater."""
        if self.conflicts:
            raise MergeConflict("the same line")
        return sha_of("update", pull.head_sha, base_sha, at.isoformat())

    def push(self, pull: Pull, sha: str) -> bool:
        """As in Updater; the checks of what is pushed have not begun."""
        self.before_push()
        if self.failures:
            raise self.failures.pop(0)
        now = self.forge.pulls[pull.number]
        if now.head_sha not in (pull.head_sha, sha):
            return False
        if now.head_sha != sha:
            self.pushed.append(sha)
            self.forge.statuses.setdefault(sha, [a_status("success")] if self.is_green else [])
        self.forge.change(pull.number, head_sha=sha, merge_base=now.base_sha)
        if self.lost:
            raise self.lost.pop(0)
        return True


@dataclass
class Orders:
    """A lease that says what a test wants it to say."""

    given: StopRun | None = None

    def order(self) -> StopRun | None:
        """Return the order."""
        return self.given


@dataclass
class Chain:
    """Works off links in this process, on a real store."""

    engine: Engine
    clock: Clock
    forge: FakeForge
    updater: FakeUpdater
    orders: Orders = field(default_factory=Orders)
    has_token: bool = True

    @contextmanager
    def opened(self, engine: Engine, type_name: str, is_unwanted: Callable[[], bool]) -> Iterator[Tools | None]:
        """Open the tools. As `tasks.merge_tools.open_tools`."""
        del engine, type_name, is_unwanted
        if not self.has_token:
            yield None
            return
        forge = self.forge
        yield Tools(
            forge=forge,
            read=forge.read_facts,
            updater=self.updater,
            sleep=self.clock.advance,
        )

    def enter(self, number: int = 1, base: str = BASE, *, approved_at: datetime | None = None) -> None:
        """Put a pull request into its lane."""
        head = self.forge.pulls[number].head_sha
        with self.engine.store.writing() as tx:
            at = approved_at or tx.now
            merge.enter(self.engine, tx, REPO, base, number, head_sha=head, approved_at=at, by="test")

    def claim(self) -> Claim | None:
        """Claim the head of whichever queue has one."""
        with self.engine.store.writing() as tx:
            for instance in tx.list_instances():
                claimed = tx.claim(instance.name, lease_s=60)
                if not isinstance(claimed, NoClaim):
                    return claimed
        return None

    def link(self) -> str | None:
        """Do one link and record it; return what it was and why, None: none was queued."""
        claimed = self.claim()
        if claimed is None:
            return None
        done = merge.run_link(self.engine, claimed, self.orders, opened=self.opened)
        self.record(claimed, done)
        return done.why

    def record(self, claimed: Claim, done: merge.LinkOutcome) -> None:
        """Record a link, as `tasks.run.record` does."""
        with self.engine.store.writing() as tx:
            tx.finish(claimed.task.id, done.move, fence=claimed.fence, evidence=Evidence(), why=done.why)
            if done.move is Move.INTERRUPT:
                retry_interrupted(self.engine, tx, claimed.task.id, by="test")
            else:
                done.then(tx)

    def run(self, most: int = 100) -> list[str]:
        """Do links until none is queued."""
        done = []
        while (why := self.link()) is not None:
            done.append(why)
            assert len(done) < most, done
        return done

    def steps(self) -> list[str]:
        """Do links until none is queued; return which."""
        return [why.partition(":")[0] for why in self.run()]

    def wait(self, seconds: float) -> None:
        """Let time pass, and the steward make its round."""
        self.clock.advance(seconds)
        merge.due(self.engine)

    def of(self, number: int = 1) -> Merge:
        """Return the newest entry of a pull request."""
        with self.engine.store.reading() as tx:
            return tx.list_merges(repo=REPO, number=number, limit=1)[0]

    def effects(self) -> dict[str, dict[str, Any]]:
        """Return what is owed, reports apart, by kind and number."""
        with self.engine.store.reading() as tx:
            owed = [effect for effect in tx.list_effects() if effect.kind != "report"]
        return {f"{effect.kind} {effect.number}": effect.body for effect in owed}


def make_chain(folder: Path, store: Store, clock: Clock, **service: Any) -> Chain:
    """Return two instances that merge, and a forge without pull requests."""
    (folder / "boss.token").write_text("token\n")
    types = {"dev": type_table("dev"), "boss": type_table("boss", token_file="boss.token")}
    settings = Settings.load(write_config(folder, types=types, **service))
    with store.writing() as tx:
        tx.add_instance("boss-a", "boss")
        tx.add_instance("boss-b", "boss")
    forge = FakeForge(clock)
    return Chain(engine=Engine(settings, store, FakeBell()), clock=clock, forge=forge, updater=FakeUpdater(forge))
