"""What the forge says over its REST interface, as frozen values. Pure: no I/O.

Names follow Forgejo's modules/structs; what is derived says so. Times are aware UTC in whole seconds.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tasks.forge_gaps import Gap


class ReviewState(StrEnum):
    """What a review came to (modules/structs/pull_review.go)."""

    APPROVED = "APPROVED"
    REQUEST_CHANGES = "REQUEST_CHANGES"
    COMMENT = "COMMENT"
    PENDING = "PENDING"  # written and not submitted
    REQUEST_REVIEW = "REQUEST_REVIEW"  # somebody was asked and has not answered


class Ci(StrEnum):
    """What all checks of a commit come to together; our own reports are not counted."""

    NONE = "none"  # nobody has reported anything
    PENDING = "pending"  # at least one has not ended, and none has failed
    GREEN = "green"
    RED = "red"  # at least one has failed
    CANCELLED = "cancelled"  # none has failed, and at least one was called off: neither red nor green


class MergeStyle(StrEnum):
    """How a pull request is merged: the word `Do` of the forge (services/forms/repo_form.go)."""

    MERGE = "merge"
    REBASE = "rebase"
    REBASE_MERGE = "rebase-merge"
    SQUASH = "squash"
    FAST_FORWARD_ONLY = "fast-forward-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgeInfo:
    """Which forge answers, and what it can do."""

    version: str  #: as the forge says it, for instance 12.0.1+gitea-1.22.0
    is_forgejo: bool
    login: str  #: whose token asks
    is_admin: bool
    max_page: int  #: largest page of a list that the forge gives
    clock_skew_s: float  #: the forge's clock minus ours
    missing: tuple[Gap, ...] = ()  #: what this version lacks


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository, as far as the workflow needs it."""

    full_name: str
    default_branch: str
    archived: bool
    can_push: bool  #: whether the asking account may write
    can_admin: bool
    merge_styles: tuple[MergeStyle, ...]  #: those that its settings allow


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """An issue, or what a pull request has in common with one."""

    repo: str
    number: int
    title: str
    body: str
    state: str  #: open or closed
    author: str
    assignees: tuple[str, ...]
    labels: tuple[str, ...]
    url: str
    updated_at: datetime | None
    is_pull: bool

    @property
    def is_open(self) -> bool:
        """Tell whether there is anything left to do on it."""
        return self.state == "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """A pull request."""

    repo: str
    number: int
    title: str
    body: str
    state: str  #: open or closed; a merged one is closed
    author: str
    draft: bool
    merged: bool
    merge_commit_sha: str | None
    mergeable: bool  #: False also while the forge is still checking
    head_ref: str  #: name of the head branch, in the fork if it is one; kept when the branch is gone
    head_sha: str
    is_fork: bool  #: the head is in another repository, or in one that is gone
    base_ref: str
    base_sha: str  #: tip of the base branch now
    merge_base: str  #: where the two part; "" when not told
    assignees: tuple[str, ...]
    labels: tuple[str, ...]
    requested_reviewers: tuple[str, ...]  #: asked, or reviewed already: not the list of those who still have to
    url: str
    updated_at: datetime | None

    @property
    def is_open(self) -> bool:
        """Tell whether there is anything left to do on it."""
        return self.state == "open"

    @property
    def branch(self) -> str:
        """What to fetch from `repo` to get the head: a fork's branch has no name there."""
        return f"refs/pull/{self.number}/head" if self.is_fork else self.head_ref

    @property
    def is_behind(self) -> bool:
        """Tell whether the base has moved since the head left it, or took it in."""
        return bool(self.merge_base and self.base_sha and self.merge_base != self.base_sha)


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One review of a pull request."""

    id: int
    author: str
    state: ReviewState
    commit_id: str  #: which commit was reviewed
    body: str
    official: bool  #: by somebody whose word counts for the forge: write access, or on the list of the protection
    stale: bool
    dismissed: bool
    submitted_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewComment:
    """A comment on a line, as a part of a review."""

    path: str
    line: int  #: in the file; 0: not told
    author: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comment:
    """A plain comment on an issue or pull request."""

    id: int
    number: int  #: of the issue or pull request
    is_pull: bool
    author: str
    body: str
    created_at: datetime | None
    updated_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The newest commit status of one context."""

    context: str
    state: str  #: pending, success, error, failure, warning, skipped
    description: str
    target_url: str
    creator: str  #: login; "" when not told


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One commit."""

    sha: str
    tree: str
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A webhook of a repository."""

    id: int
    type: str  #: forgejo, gitea, ...
    url: str
    content_type: str
    events: tuple[str, ...]
    active: bool


#: How the contexts of our own commit statuses begin: they are reports, not checks.
OWN_CONTEXT = "forgepool/"
#: services/actions/commit_status.go: a cancelled job is reported as a failure with these words.
_CANCELLED = ("has been cancelled", "has been canceled")


def ci_of(statuses: tuple[Status, ...]) -> Ci:
    """Tell what the newest status of each context come to together.

    Not the forge's own combined state: that is computed over one page, lets `warning` hide a pending one, and counts
    what was cancelled as failed (models/git/commit_status.go).
    """
    states = {_state(status) for status in statuses if not status.context.startswith(OWN_CONTEXT)}
    for state, means in (("failure", Ci.RED), ("pending", Ci.PENDING), ("cancelled", Ci.CANCELLED)):
        if state in states:
            return means
    return Ci.GREEN if states else Ci.NONE


def failed(statuses: tuple[Status, ...]) -> tuple[Status, ...]:
    """Return those that make a commit red."""
    return tuple(s for s in statuses if not s.context.startswith(OWN_CONTEXT) and _state(s) == "failure")


def _state(status: Status) -> str:
    if status.state in {"failure", "error"}:
        is_cancelled = any(word in status.description.lower() for word in _CANCELLED)
        return "cancelled" if is_cancelled else "failure"
    # Words of later versions must not count as green.
    return status.state if status.state in {"success", "skipped", "warning"} else "pending"
