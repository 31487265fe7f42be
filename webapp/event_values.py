"""What deliveries tell, as frozen values. Pure: no I/O."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal


class ReviewVerdict(StrEnum):
    """What a review came to."""

    APPROVED = "approved"
    CHANGES_REQUESTED = "changes_requested"
    COMMENT = "comment"


class CiStatus(StrEnum):
    """What a CI run or a commit status came to."""

    FAILURE = "failure"
    SUCCESS = "success"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    OTHER = "other"  # pending, warning, and words of later versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every delivery tells."""

    delivery_id: str | None  #: of this delivery; a replay gets another one; None: not sent
    source: Literal["forgejo", "gitea"]
    event_type: str  #: as the header says it
    action: str  #: "" where the type has none
    repo: str | None  #: owner/name
    number: int | None  #: of the issue or pull request
    sender: str | None  #: login of whoever acted
    fingerprint: str  #: equal for a replay, which has a new delivery id and the same body

    @property
    def word(self) -> str:
        """The word that rules go by: the action, or what a review or a run came to."""
        return self.action


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectEvent(Event):
    """Something happened to an issue or a pull request, which now looks like this."""

    repo: str
    number: int
    title: str
    body: str
    labels: tuple[str, ...]
    state: Literal["open", "closed"]
    updated_at: datetime | None  #: aware UTC, whole seconds; None: not told
    url: str  #: for people; "" when it is not http(s)
    is_pull: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueEvent(SubjectEvent):
    """Something happened to an issue."""

    assignees: tuple[str, ...]  #: everybody who is assigned now; who was added is not told


@dataclass(frozen=True, slots=True, kw_only=True)
class CommentEvent(SubjectEvent):
    """Somebody wrote, changed or deleted a plain comment."""

    comment: int  #: id
    author: str  #: login of whoever wrote it; `sender` may have edited it
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PullEvent(SubjectEvent):
    """Something happened to a pull request."""

    is_pull: bool = True
    merged: bool
    draft: bool
    author: str
    head_ref: str  #: name of the head branch, in the fork if it is one
    head_sha: str | None  #: the head now; None: the forge could not tell
    base_ref: str
    is_fork: bool  #: the head branch is in another repository, or in one that is gone
    requested_reviewer: str | None

    @property
    def branch(self) -> str:
        """What to fetch from `repo` to get the head: a fork's branch has no name there."""
        return f"refs/pull/{self.number}/head" if self.is_fork else self.head_ref


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewEvent(PullEvent):
    """Somebody submitted a review. Which commit was reviewed is not told."""

    sender: str  #: the reviewer
    verdict: ReviewVerdict
    content: str

    @property
    def word(self) -> str:
        """The verdict."""
        return self.verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class CiEvent(Event):
    """A workflow run ended (Forgejo) or a commit status changed (Gitea). `number` is a pull request's."""

    repo: str
    status: CiStatus
    context: str  #: name of the workflow file or of the status
    description: str
    run_id: int | None  #: None: a commit status
    url: str  #: of the run, for people
    head_sha: str | None
    head_ref: str | None = None  #: what to fetch, as in PullEvent.branch; None: not told
    base_ref: str | None = None
    author: str | None = None  #: login of the pull request's author
    title: str = ""  #: of the pull request

    @property
    def word(self) -> str:
        """The status."""
        return self.status


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherEvent(Event):
    """Anything no rule asks for; `repo`, `number` and `sender` as far as they could be found."""

    is_test: bool  #: the forge's button "test delivery"
