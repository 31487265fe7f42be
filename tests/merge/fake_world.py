"""A world in memory: fast enough for thousands of examples."""

import itertools
from dataclasses import replace
from datetime import datetime

from pool.errors import ForgeUnavailable, StaleHead, StillChecking
from tasks.forge_values import MergeStyle, Pull, ReviewState
from tasks.merge_tools import Tools
from tests.helpers.clock import Clock
from tests.helpers.merging import FakeForge, FakeUpdater, a_pull, a_review, a_status, sha_of
from tests.merge.world import BASES, Books, Event, Meddling, Standing

HOLD = "forgepool/hold"
VERDICTS = {"approved": ReviewState.APPROVED, "rejected": ReviewState.REQUEST_CHANGES}


class FakeWorld:
    """Fulfils World."""

    def __init__(self, clock: Clock) -> None:
        """Begin with nothing but two branches."""
        self.events: list[Event] = []
        self.meddling = Meddling()
        self.books = Books()
        self.tips = {base: sha_of("tip", base) for base in BASES}
        self.clashing: set[int] = set()
        self.fake = WorldForge(self, clock)
        self.tools = Tools(forge=self.fake, read=self.fake.read_facts, updater=WorldUpdater(self), sleep=clock.advance)
        self._count = itertools.count(1)

    def _new(self, what: str) -> str:
        return sha_of(what, str(next(self._count)))

    def open(self, number: int, base: str) -> None:
        """As in World."""
        head, tip = self._new("head"), self.tips[base]
        self.fake.pulls[number] = a_pull(
            number=number, head_ref=f"dev/{number}", head_sha=head, base_ref=base, base_sha=tip, merge_base=tip
        )
        self.fake.reviews[number] = []
        self.review(number, "ann", "approved")
        self.check(number, "success")

    def known(self) -> list[int]:
        """As in World."""
        return sorted(self.fake.pulls)

    def standing(self, number: int) -> Standing:
        """As in World."""
        pull = self.fake.pulls[number]
        return Standing(
            head=pull.head_sha,
            base=pull.base_ref,
            is_open=pull.is_open,
            is_held=HOLD in pull.labels,
            is_approved=self.books.is_approved(number, pull.head_sha),
            has_complaint=self.books.has_complaint(number),
            checks=self.books.checks.get(pull.head_sha, "none"),
            is_behind=pull.merge_base != self.tips[pull.base_ref],
            conflicts=number in self.clashing,
        )

    def is_merged(self, number: int) -> bool:
        """As in World."""
        return self.fake.pulls[number].merged

    def push(self, number: int) -> None:
        """As in World."""
        self.fake.change(number, head_sha=self._new("head"))

    def review(self, number: int, login: str, verdict: str) -> None:
        """As in World."""
        head, seen = self.fake.pulls[number].head_sha, self.fake.reviews[number]
        # A newer verdict of the same reviewer takes the weight of the older ones (models/issues/review.go).
        seen[:] = [replace(one, official=one.official and one.author != login) for one in seen]
        seen.append(a_review(VERDICTS[verdict], id=next(self._count), author=login, commit_id=head))
        self.books.words.setdefault(number, {})[login] = (verdict, head)

    def dismiss(self, number: int, login: str) -> None:
        """As in World."""
        seen = self.fake.reviews[number]
        seen[:] = [replace(one, dismissed=one.dismissed or one.author == login) for one in seen]
        self.books.words.get(number, {}).pop(login, None)

    def check(self, number: int, state: str) -> None:
        """As in World."""
        head = self.fake.pulls[number].head_sha
        self.books.checks[head] = state
        said = {"cancelled": [a_status("failure", description="Has been cancelled")], "none": []}
        self.fake.statuses[head] = said.get(state, [a_status(state)])

    def move_base(self, base: str) -> None:
        """As in World."""
        self._put(base, self._new("tip"))

    def _put(self, base: str, sha: str) -> None:
        self.tips[base] = sha
        for number, pull in self.fake.pulls.items():
            if pull.is_open and pull.base_ref == base:
                self.fake.change(number, base_sha=sha)

    def close(self, number: int) -> None:
        """As in World."""
        self.fake.change(number, state="closed")

    def reopen(self, number: int) -> None:
        """As in World."""
        self.fake.change(number, state="open", base_sha=self.tips[self.fake.pulls[number].base_ref])

    def hold(self, number: int, *, held: bool) -> None:
        """As in World."""
        self.fake.change(number, labels=(HOLD,) if held else ())

    def merge_by_hand(self, number: int) -> None:
        """As in World."""
        if number not in self.clashing:
            self.put_together(number)

    def put_together(self, number: int) -> None:
        """Merge."""
        pull = self.fake.pulls[number]
        made = sha_of("merge", pull.head_sha, pull.base_sha)
        self.fake.change(number, state="closed", merged=True, merge_commit_sha=made)
        self._put(pull.base_ref, made)

    def clash(self, number: int) -> None:
        """As in World."""
        self.clashing.add(number)
        self.fake.change(number, mergeable=False)

    def generations(self, number: int) -> int:
        """As in World."""
        return len(self.books.line(self.fake.pulls[number].head_sha)) - 1

    def close_world(self) -> None:
        """As in World."""


class WorldForge(FakeForge):
    """The REST interface of a FakeWorld."""

    def __init__(self, world: FakeWorld, clock: Clock) -> None:
        """Look at a world."""
        super().__init__(clock)
        self.world = world

    def _called(self, name: str) -> None:
        super()._called(name)
        if self.world.meddling.fails("away"):
            raise ForgeUnavailable("no route to host")

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
        """Merge, as far as the real forge would."""
        del repo, style, title, message
        world = self.world
        before = world.standing(number)
        world.meddling.meddle()
        if world.meddling.fails("before"):
            raise ForgeUnavailable("connection refused")
        if world.meddling.fails("checking") or number in world.clashing or not self.pulls[number].is_open:
            raise StillChecking("Please try again later")
        self.check_head(number, head_sha)
        world.events.append(Event(number=number, commit=self.pulls[number].head_sha, before=before))
        world.put_together(number)
        if world.meddling.fails("after"):
            raise ForgeUnavailable("read timed out")

    def check_head(self, number: int, head_sha: str) -> None:
        """Refuse another head than the one that is meant."""
        if self.pulls[number].head_sha != head_sha:
            raise StaleHead("head out of date")


class WorldUpdater(FakeUpdater):
    """Makes updates in a FakeWorld."""

    def __init__(self, world: FakeWorld) -> None:
        """Look at a world."""
        super().__init__(world.fake)
        self.world = world

    def make(self, pull: Pull, *, base_sha: str, at: datetime) -> str:
        """As in Updater."""
        self.conflicts = pull.number in self.world.clashing
        return super().make(pull, base_sha=base_sha, at=at)

    def push(self, pull: Pull, sha: str) -> bool:
        """As in Updater."""
        world = self.world
        world.meddling.meddle()
        if world.meddling.fails("before"):
            raise ForgeUnavailable("connection refused")
        world.books.made_of[sha] = pull.head_sha
        is_pushed = super().push(pull, sha)
        if is_pushed:
            # It has in it the base that it was made of, which may have moved on.
            world.fake.change(pull.number, merge_base=pull.base_sha)
        if world.meddling.fails("after"):
            raise ForgeUnavailable("hung up")
        return is_pushed
