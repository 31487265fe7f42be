"""What people do on the forge during the demo. Waits for facts, never for time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import httpx

from pool.errors import ForgepoolError
from pool.model import Kind, Task
from pool.states import State
from pool.store import Store
from webapp.standin.forge import StandInForge

REPO = "acme/widgets"
PATIENCE_S = 90.0
T = TypeVar("T")


class StoryError(ForgepoolError):
    """Something that the story waited for did not happen."""


@dataclass(slots=True)
class Story:
    """Four issues, two pull requests, a red build, a replay, two hooks and a forger."""

    forge: StandInForge
    store: Store
    told: list[str] = field(default_factory=list)  #: what people did, for the screen
    pulls: list[int] = field(default_factory=list)
    repeats: int = 0  #: deliveries that were sent although they had been sent before
    strangers: int = 0  #: deliveries that nobody signed

    def play(self) -> None:
        """Tell the whole story. Raises StoryError when something does not come true."""
        issues = self._assign_four_issues()
        self._send_again_what_was_sent()
        self._forge_a_delivery()
        for number in issues:
            self._done("dev", number, Kind.IMPLEMENT)
        first, second = (self._open_pull(number) for number in issues[:2])
        self._review(first, verdict="rejected", words="Please add a line that says why.")
        self._done("dev", first, Kind.ADDRESS_REVIEW)
        self._review(first, verdict="approved", words="Good.")
        self._turn_red(second)
        self._done("dev", second, Kind.FIX_CI)
        self._review(second, verdict="approved", words="Good.")
        for pull in (first, second):
            self._done("boss", pull, Kind.MERGE)
            self._say(f"the forge closes pull request #{pull} as merged")
            self.forge.close_issue(REPO, pull, sender="boss")

    def _assign_four_issues(self) -> list[int]:
        titles = ["Add a login page", "Speed up the search", "Mend the date picker", "Write the manual"]
        numbers = [self.forge.create_issue(REPO, title, f"We need this: {title}.") for title in titles]
        for number in numbers:
            self._say(f"maya assigns issue #{number} to dev")
            if number == numbers[1]:
                self._say("  ... and a second hook delivers the same event")
                self.forge.sender.duplicate_next()
                self.repeats += 1
            self.forge.assign(REPO, number, "dev", sender="maya")
        return numbers

    def _send_again_what_was_sent(self) -> None:
        assigned = [i for i, sent in enumerate(self.forge.deliveries) if sent.event_type == "issue_assign"]
        self._say("maya presses the replay button of an old delivery")
        self.forge.replay(assigned[0])
        self.repeats += 1

    def _forge_a_delivery(self) -> None:
        self._say("a stranger posts a delivery without the secret")
        sent = next(sent for sent in self.forge.deliveries if sent.event_type == "issue_assign")
        headers = {"Content-Type": "application/json", "X-Forgejo-Event-Type": "issue_assign"}
        httpx.post(str(self.forge.sender.url), content=sent.body, headers=headers, timeout=5)
        self.strangers += 1

    def _open_pull(self, issue: int) -> int:
        pull = self.forge.open_pull(REPO, "dev", f"dev/{issue}", f"Implement #{issue}", body=f"For #{issue}.")
        self._say(f"dev opens pull request #{pull} for issue #{issue}")
        self.pulls.append(pull)
        return pull

    def _review(self, pull: int, *, verdict: str, words: str) -> None:
        self._say(f"maya asks reviewer to look at #{pull}")
        before = len(self._tasks("reviewer", pull, Kind.REVIEW))
        self.forge.request_review(REPO, pull, "reviewer", sender="maya")
        self._until(lambda: len(self._tasks("reviewer", pull, Kind.REVIEW)) > before, f"a review of #{pull}")
        self._done("reviewer", pull, Kind.REVIEW)
        self._say(f"reviewer {'approves' if verdict == 'approved' else 'requests changes on'} #{pull}")
        self.forge.review(REPO, pull, "reviewer", verdict, words)

    def _turn_red(self, pull: int) -> None:
        self._say(f"the build of #{pull} is cancelled, then one fails")
        self.forge.action_run(REPO, pull, "cancelled")
        self.forge.action_run(REPO, pull, "failure")

    def _done(self, type_name: str, number: int, kind: Kind) -> None:
        """Wait until a task of that kind has been queued and all of them have ended well."""

        def ended() -> bool:
            found = self._tasks(type_name, number, kind)
            if bad := [t for t in found if t.state.is_final and t.state is not State.SUCCEEDED]:
                raise StoryError(f"task {bad[0].id} {bad[0].state}: {bad[0].reason}")
            return bool(found) and all(t.state.is_final for t in found)

        self._until(ended, f"{type_name} to {kind} #{number}")

    def _tasks(self, type_name: str, number: int, kind: Kind) -> list[Task]:
        with self.store.reading() as tx:
            found = tx.list_tasks(type_name=type_name, repo=REPO, number=number)
        return [task for task in found if task.request.kind is kind]

    def _until(self, condition: Callable[[], T], what: str) -> T:
        deadline = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise StoryError(f"waited {PATIENCE_S:.0f} s in vain for {what}")
            time.sleep(0.05)
        return value

    def _say(self, line: str) -> None:
        self.told.append(line)
