"""What people do on the forge during the demo, and when it has come to its end. Waits for facts, never for time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import httpx

from pool.errors import ForgepoolError
from pool.store import Store
from webapp.demo.script import SCRIPT, TITLES, number_of, repo_of
from webapp.standin.forge import StandInForge

PATIENCE_S = 420.0
T = TypeVar("T")


class StoryError(ForgepoolError):
    """Something that the story waited for did not happen."""


@dataclass(slots=True)
class Story:
    """Ten issues are assigned; one delivery is lost, one is sent twice, one is forged. The rest is forgepool's."""

    forge: StandInForge
    store: Store
    is_calm: bool = True  #: only then the mishaps of the story itself happen
    told: list[str] = field(default_factory=list)  #: what people did, for the screen
    lost: int = 0  #: deliveries
    repeats: int = 0  #: deliveries that were sent although they had been sent before
    strangers: int = 0  #: deliveries that nobody signed

    def play(self) -> None:
        """Tell the whole story. Raises StoryError when it does not come to its end."""
        for issue in SCRIPT:
            self._open(issue)
        for issue, mistakes in SCRIPT.items():
            self._assign(issue, loses_word="lost" in mistakes)
        if self.is_calm:
            self._send_again_what_was_sent()
            self._forge_a_delivery()
        self._until(self._is_done, "ten merged pull requests")
        self._say("every issue is closed")
        self._until(self._is_quiet, "the last word to be written")

    def _open(self, issue: str) -> None:
        """Open all issues before the first is assigned: a pull request would take the next number."""
        made = self.forge.create_issue(repo_of(issue), TITLES[issue], f"We need this: {TITLES[issue]}.")
        if made != number_of(issue):
            raise StoryError(f"the forge calls {issue} #{made}")

    def _assign(self, issue: str, *, loses_word: bool) -> None:
        repo, number = repo_of(issue), number_of(issue)
        if loses_word and self.is_calm:
            # Later than the look that its opening leads to, which would find out what the lost delivery tells.
            self._until(lambda: self._was_looked_at(repo, number), f"the look at {issue}")
            self._say(f"maya assigns {issue} to dev, and the forge loses the delivery")
            self.forge.sender.drop_next()
            self.lost += 1
        else:
            self._say(f"maya assigns {issue} to dev")
        self.forge.assign(repo, number, "dev", sender="maya")

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

    def _was_looked_at(self, repo: str, number: int) -> bool:
        with self.store.reading() as tx:
            return tx.work(repo, number).looked_at is not None

    # --- the end ------------------------------------------------------------------------------

    def _is_done(self) -> bool:
        """Every issue is closed by a merge, and no pull request is open."""
        found = [issue for repo in self.forge.repos.values() for issue in list(repo.issues.values())]
        return len(found) > len(SCRIPT) and all(issue.state == "closed" for issue in found)

    def _is_quiet(self) -> bool:
        """Nothing is queued, runs, waits for its merge or is owed to the forge."""
        with self.store.reading() as tx:
            busy = any(row.queued or row.running for row in tx.list_instances())
            merges, owed = tx.list_merges(only_open=True, limit=1), tx.list_effects(only_owed=True, limit=1)
        return not (busy or merges or owed)

    def _until(self, condition: Callable[[], T], what: str) -> T:
        deadline = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise StoryError(f"waited {PATIENCE_S:.0f} s in vain for {what}")
            time.sleep(0.1)
        return value

    def _say(self, line: str) -> None:
        self.told.append(line)
