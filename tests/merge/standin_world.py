"""A world with the real client, the REST interface of the stand-in forge, and real git; all in this process."""

import itertools
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx

from pool.errors import ForgeUnavailable, MergeConflict
from tasks.facts import read_facts
from tasks.forge import Forge
from tasks.forge_values import MergeStyle
from tasks.forge_values import Pull as SeenPull
from tasks.merge_tools import Tools
from tests.helpers.clock import Clock
from tests.helpers.merging import REPO
from tests.merge.world import Books, Event, Meddling, Standing
from webapp.standin import bare
from webapp.standin.forge import StandInForge
from webapp.standin.records import VERDICTS, Pull, Repo

HOLD = "forgepool/hold"
OWNER = "acme"
#: How often the client asks before it gives up.
TRIES = 4


class StandInWorld:
    """Fulfils World."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        """Make the accounts, and a repository with two branches."""
        self.events: list[Event] = []
        self.meddling = Meddling()
        self.books = Books()
        self.standin = StandInForge(folder, secret=b"secret", clock=clock, checking_reads=1)
        for login in (OWNER, "dev", "ann", "bob"):
            self.standin.create_user(login)
        token = self.standin.create_user("boss")
        self.standin.create_repo(REPO)
        self.standin.commit(REPO, "next", {"next": "1"})
        transport = httpx.WSGITransport(app=self.standin.app)
        self.client = Client(self.standin.url, token=token, transport=transport, sleep=clock.advance, clock=clock)
        self.client.world = self
        self.tools = Tools(forge=self.client, read=read_facts, updater=GitUpdater(self), sleep=clock.advance)
        self._count = itertools.count(1)

    @property
    def repo(self) -> Repo:
        """The repository."""
        return self.standin.repos[REPO]

    def pull(self, number: int) -> Pull:
        """Return a pull request, as the stand-in remembers it."""
        return self.standin.find_pull(self.repo, number)

    def _some(self) -> str:
        return f"{next(self._count)}\n"

    # --- people -------------------------------------------------------------------------------

    def open(self, number: int, base: str) -> None:
        """As in World."""
        branch = f"dev/{number}"
        self.standin.commit(REPO, branch, {f"file-{number}": self._some()}, sender="dev", start=base)
        assert self.standin.open_pull(REPO, "dev", branch, f"Number {number}", base=base) == number
        self.review(number, "ann", "approved")
        self.check(number, "success")

    def known(self) -> list[int]:
        """As in World."""
        return sorted(self.repo.issues)

    def standing(self, number: int) -> Standing:
        """As in World."""
        pull, git = self.pull(number), self.repo.git
        return Standing(
            head=pull.head_sha,
            base=pull.base,
            is_open=pull.state == "open",
            is_held=HOLD in pull.labels,
            is_approved=self.books.is_approved(number, pull.head_sha),
            has_complaint=self.books.has_complaint(number),
            checks=self.books.checks.get(pull.head_sha, "none"),
            is_behind=not git.is_ancestor(git.branches()[pull.base], pull.head_sha),
            conflicts=not git.can_merge(pull.base, pull.head_sha),
        )

    def is_merged(self, number: int) -> bool:
        """As in World."""
        return self.pull(number).merge_commit_sha is not None

    def push(self, number: int) -> None:
        """As in World."""
        self.standin.commit(REPO, f"dev/{number}", {f"file-{number}": self._some()}, sender="dev")

    def review(self, number: int, login: str, verdict: str) -> None:
        """As in World."""
        self.standin.review(REPO, number, login, verdict, "so I say")
        self.books.words.setdefault(number, {})[login] = (verdict, self.pull(number).head_sha)

    def dismiss(self, number: int, login: str) -> None:
        """As in World."""
        words = [one for one in self.pull(number).reviews if one.author == login and one.state in VERDICTS]
        if words:
            self.standin.dismiss_review(REPO, number, words[-1].id, sender=OWNER)
            self.books.words[number].pop(login, None)

    def check(self, number: int, state: str) -> None:
        """As in World."""
        head = self.pull(number).head_sha
        self.books.checks[head] = state
        if state == "none":
            self.repo.statuses.pop(head, None)
            return
        said = ("failure", "Has been cancelled") if state == "cancelled" else (state, "")
        self.standin.set_status(REPO, head, context="ci", state=said[0], description=said[1], creator=OWNER)

    def move_base(self, base: str) -> None:
        """As in World."""
        self.standin.commit(REPO, base, {f"base-{next(self._count)}": "more\n"}, sender=OWNER)

    def close(self, number: int) -> None:
        """As in World."""
        self.standin.close_issue(REPO, number)

    def reopen(self, number: int) -> None:
        """As in World. What was pushed while it was closed is gone then: the stand-in does not catch up on it."""
        pull = self.pull(number)
        if pull.state == "closed":
            if self.repo.git.branches()[pull.head] != pull.head_sha:
                self.standin.force(REPO, pull.head, pull.head_sha, sender="dev")
            self.standin.reopen_issue(REPO, number)

    def hold(self, number: int, *, held: bool) -> None:
        """As in World."""
        self.standin.set_labels(REPO, number, *([HOLD] if held else []))

    def merge_by_hand(self, number: int) -> None:
        """As in World."""
        with suppress(bare.MergeConflict):
            self.standin.merge(REPO, number, sender=OWNER)

    def clash(self, number: int) -> None:
        """As in World: the base gets another file of the same name."""
        self.standin.commit(REPO, self.pull(number).base, {f"file-{number}": self._some()}, sender=OWNER)

    def generations(self, number: int) -> int:
        """As in World."""
        return len(self.books.line(self.pull(number).head_sha)) - 1

    def close_world(self) -> None:
        """As in World."""
        self.client.close()

    # --- what boss does -----------------------------------------------------------------------

    def note_push(self, sha: str) -> None:
        """Believe that an update is one only if git says so: the old head, the base, and what git makes of the two."""
        git, made = self.repo.git, self.repo.git.info(sha)
        assert made is not None
        head, base = made.parents
        tips = git.branches()
        assert any(git.is_ancestor(base, tips[name]) for name in ("main", "next")), "a parent that is of no base"
        assert run(git, "merge-tree", "--write-tree", head, base) == made.tree, "something else was slipped in"
        self.books.made_of[sha] = head


class Client(Forge):
    """The real client, with people and faults in its way."""

    world: StandInWorld

    def pull(self, repo: str, number: int) -> SeenPull:
        """As the client, unless the forge is away."""
        if self.world.meddling.fails("away"):
            self.world.standin.faults.refuse(count=TRIES)
        return super().pull(repo, number)

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
        """As the client; what came of it is told by the history of the forge."""
        world = self.world
        before = world.standing(number)
        was_merged = world.is_merged(number)
        world.meddling.meddle()
        if world.meddling.fails("before"):
            world.standin.faults.refuse(count=1)
        elif world.meddling.fails("after"):
            world.standin.faults.lose_answers(count=1)
        elif world.meddling.fails("checking"):
            world.standin.faults.outrun_merges(count=1)
        try:
            super().merge(repo, number, head_sha=head_sha, style=style, title=title, message=message)
        finally:
            world.standin.faults.clear()
            pull = world.pull(number)
            if pull.merge_commit_sha is not None and pull.merged_by == "boss" and not was_merged:
                merged = world.repo.git.info(pull.merge_commit_sha)
                assert merged is not None
                world.events.append(Event(number=number, commit=merged.parents[1], before=before))


@dataclass
class GitUpdater:
    """Makes updates in the repository of the stand-in itself. Fulfils Updater."""

    world: StandInWorld

    def make(self, pull: SeenPull, *, base_sha: str, at: datetime) -> str:
        """As in Updater."""
        git = self.world.repo.git
        done = run(git, "merge-tree", "--write-tree", "--no-messages", pull.head_sha, base_sha, okay=(0, 1))
        tree, *conflicts = done.split("\n")
        if conflicts:
            raise MergeConflict(f"{pull.head_ref} conflicts with {pull.base_ref}")
        dates = {name: f"{int(at.timestamp())} +0000" for name in ("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE")}
        parents = ("-p", pull.head_sha, "-p", base_sha)
        return run(git, "commit-tree", tree, *parents, "-m", "Take the base in", variables=dates)

    def push(self, pull: SeenPull, sha: str) -> bool:
        """As in Updater."""
        world = self.world
        world.meddling.meddle()
        if world.meddling.fails("before"):
            raise ForgeUnavailable("connection refused")
        now = world.repo.git.branches().get(pull.head_ref)
        if now == pull.head_sha:
            world.standin.force(REPO, pull.head_ref, sha, sender="boss")
            world.note_push(sha)
        if world.meddling.fails("after"):
            raise ForgeUnavailable("hung up")
        return now in (pull.head_sha, sha)


def run(
    git: bare.BareRepo, *arguments: str, okay: tuple[int, ...] = (0,), variables: Mapping[str, str] | None = None
) -> str:
    """Run git in the repository of the stand-in."""
    done = subprocess.run(
        ["git", f"--git-dir={git.path}", *arguments],
        env=bare.environment(**(variables or {})),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode in okay, done.stderr
    return done.stdout.strip()
