"""The situation of one issue or pull request: what the forge says now, and what we remember of it. Pure: no I/O.

Everything that is derived from these facts is derived here, once, so that the workflow, the merges and the proof of a
run cannot disagree about what "approved" means.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from pool.model import Kind
from pool.subject import HELP_LABEL, HOLD_LABEL
from pool.work import Work
from tasks.forge_values import Ci, Issue, Pull, Review, ReviewState, Status, ci_of
from tasks.settings import Settings

__all__ = ["HELP_LABEL", "HOLD_LABEL", "VERDICTS", "Facts", "IssueFacts", "Policy", "PullFacts"]

#: A review that says yes or no.
VERDICTS = frozenset({ReviewState.APPROVED, ReviewState.REQUEST_CHANGES})
#: These move the head without changing what was reviewed, so words about an older head still count.
_KEEPS_WORDS = frozenset({Kind.REBASE, Kind.RESOLVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the operator has decided."""

    types_by_login: Mapping[str, str]  #: lower-case login of an agent's account -> its type
    logins: Mapping[str, str]  #: type -> login of its account
    merge_type: str | None  #: None: nobody merges
    review_type: str | None  #: None: nobody is asked to review
    max_review_rounds: int = 3
    max_fix_ci: int = 3
    max_rebases: int = 3
    max_tries: int = 3
    max_chain: int = 30
    max_tasks_per_day: int = 40
    settle_s: float = 30.0
    ci_grace_s: float = 60.0
    merge_wait_s: float = 7200.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read it from the configuration."""
        service = settings.service
        caps = {
            name: getattr(service, name)
            for name in (
                *("max_review_rounds", "max_fix_ci", "max_rebases", "max_tries", "max_chain", "max_tasks_per_day"),
                *("settle_s", "ci_grace_s", "merge_wait_s"),
            )
        }
        return cls(
            types_by_login=settings.types_by_login,
            logins={name: kind.forge_user for name, kind in settings.types.items()},
            merge_type=service.merge_type if service.merge_type in settings.types else None,
            review_type=service.review_type if service.review_type in settings.types else None,
            **caps,
        )

    def type_of(self, login: str) -> str | None:
        """Return the type whose account that is; None: a person's, or nobody's."""
        return self.types_by_login.get(login.lower())


@dataclass(frozen=True, slots=True, kw_only=True)
class PullFacts:
    """One pull request."""

    pull: Pull
    reviews: tuple[Review, ...] = ()  #: all of them, oldest first
    statuses: tuple[Status, ...] = ()  #: of the head, the newest of each context
    issue: Issue | None = None  #: the issue that it is for
    work: Work
    now: datetime

    @property
    def ci(self) -> Ci:
        """What the checks of the head come to."""
        return ci_of(self.statuses)

    @property
    def last_words(self) -> dict[str, Review]:
        """Map each reviewer, in lower case, to their newest verdict that was not dismissed. The author has none."""
        author = self.pull.author.lower()
        words = (r for r in self.reviews if r.state in VERDICTS and not r.dismissed and r.author.lower() != author)
        return {review.author.lower(): review for review in words}

    def speaks_of_head(self, commit: str) -> bool:
        """Tell whether words about a commit are words about the head: it is the head, or we took the base into it.

        Only an update of our own making carries an approval on: its tree is known to be what git makes of the approved
        commit and the base.
        """
        return commit in self._line(self.pull.head_sha)

    def _line(self, sha: str) -> list[str]:
        """Return a commit and before it those of which it was made by our updates, the newest first."""
        made = {merge.head_sha: merge.approved_sha for merge in self.work.merges if merge.base_sha is not None}
        line = [sha]
        while (earlier := made.get(line[-1])) is not None and earlier not in line:
            line.append(earlier)
        return line

    def _origin(self, sha: str) -> str:
        """Return the commit that people approved and of which `sha` was made by our updates."""
        return self._line(sha)[-1]

    def has_verdict(self, login: str) -> bool:
        """Tell whether an account has said yes or no to the head."""
        words = (r for r in self.reviews if r.state in VERDICTS and not r.dismissed and _is(r.author, login))
        return any(self.speaks_of_head(review.commit_id) for review in words)

    @property
    def asked(self) -> tuple[str, ...]:
        """Return the logins of those who were asked for a review and have not said anything since."""
        newest = {r.author.lower(): r for r in self.reviews if r.state is not ReviewState.PENDING}
        return tuple(r.author for r in newest.values() if r.state is ReviewState.REQUEST_REVIEW)

    def rounds(self, login: str) -> int:
        """Count how often an account has asked for changes, since a person acted."""
        since = self.work.reset_at
        return sum(
            r.state is ReviewState.REQUEST_CHANGES
            and _is(r.author, login)
            and (since is None or r.submitted_at is None or r.submitted_at > since)
            for r in self.reviews
        )

    @property
    def approvals(self) -> tuple[Review, ...]:
        """Return the approvals that count: of the head, and by somebody whose word counts for the forge."""
        return tuple(
            review
            for review in self.last_words.values()
            if review.state is ReviewState.APPROVED and review.official and self.speaks_of_head(review.commit_id)
        )

    @property
    def requests_for_changes(self) -> tuple[Review, ...]:
        """Return the newest words of those reviewers who want changes, whatever commit they spoke of."""
        return tuple(r for r in self.last_words.values() if r.state is ReviewState.REQUEST_CHANGES and r.official)

    @property
    def is_approved(self) -> bool:
        """Somebody approved the head, and nobody's last word is a request for changes."""
        return bool(self.approvals) and not self.requests_for_changes

    @property
    def outstanding(self) -> tuple[Review, ...]:
        """Return the requests for changes that nobody has worked on: the head is what was reviewed, rebases apart."""
        return tuple(r for r in self.requests_for_changes if self._is_same_work(r.commit_id))

    def _is_same_work(self, commit: str) -> bool:
        """Tell whether the head is that commit, or was made of it by updates, rebases and resolved conflicts only."""
        if self.speaks_of_head(commit):
            return True
        made = {
            task.head_after: task.head_before
            for task in self.work.past
            if task.kind in _KEEPS_WORDS
            and task.head_after
            and task.head_before
            and task.head_after != task.head_before
        }
        sha: str | None = self.pull.head_sha
        seen: set[str] = set()
        while sha is not None and sha not in seen:
            if sha == commit or self._origin(sha) == commit:
                return True
            seen.add(sha)
            sha = made.get(sha) or made.get(self._origin(sha))
        return False

    @property
    def unmergeable_mark(self) -> str:
        """Of which head on which base it is said that it cannot be merged."""
        return f"{self.pull.head_sha} {self.pull.base_sha}"

    def conflicts(self, policy: Policy) -> bool:
        """Tell whether it cannot be merged, and has not been for long enough to be no check that still runs."""
        since = self.work.unmergeable_since
        if self.pull.mergeable or since is None or self.work.unmergeable_at != self.unmergeable_mark:
            return False
        return (self.now - since).total_seconds() >= policy.settle_s

    def awaits_ci(self, policy: Policy) -> bool:
        """Tell whether checks run, or may still begin: a head without any is given some time."""
        if self.ci is Ci.PENDING:
            return True
        if self.ci is not Ci.NONE or policy.ci_grace_s == 0:
            return False
        since = self.work.head_since if self.work.head_sha == self.pull.head_sha else None
        return since is None or (self.now - since).total_seconds() < policy.ci_grace_s

    @property
    def hold(self) -> str | None:
        """Return why nothing is to be done with it, as a person wants it; None: nobody does."""
        if self.work.held_by:
            return f"held by {self.work.held_by}"
        labels = (*self.pull.labels, *(self.issue.labels if self.issue else ()))
        return f"it has the label {HOLD_LABEL}" if HOLD_LABEL in labels else None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueFacts:
    """One issue."""

    issue: Issue
    pulls: tuple[PullFacts, ...] = ()  #: open pull requests for it
    ended: tuple[Pull, ...] = ()  #: those for it that were merged or closed, as far as known
    blockers: tuple[int, ...] = ()  #: open issues that it depends on
    work: Work
    now: datetime

    @property
    def hold(self) -> str | None:
        """Return why nothing is to be done with it, as a person wants it; None: nobody does."""
        if self.work.held_by:
            return f"held by {self.work.held_by}"
        return f"it has the label {HOLD_LABEL}" if HOLD_LABEL in self.issue.labels else None


Facts = PullFacts | IssueFacts


def _is(login: str, other: str) -> bool:
    """Compare as the forge does, without case (models/user/user.go)."""
    return login.lower() == other.lower()
