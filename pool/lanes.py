"""Merges and the lanes they go in: one lane per repository and base branch. Pure: no I/O."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class MergeState(StrEnum):
    """What a merge is. At most one of a lane is active or parked."""

    WAITING = "waiting"  # others of the lane go first
    ACTIVE = "active"  # a link of its chain is queued or runs
    PARKED = "parked"  # it waits for the forge or for checks, and holds its lane
    MERGED = "merged"
    REFUSED = "refused"  # it cannot be merged as it is; the sentence tells a person why
    WITHDRAWN = "withdrawn"  # nobody wants it merged any more: closed, merged by others, cancelled


#: The lane belongs to a merge in one of these states.
HOLDS_LANE = frozenset({MergeState.ACTIVE, MergeState.PARKED})
#: There is something left to do.
OPEN_MERGES = frozenset({MergeState.WAITING, *HOLDS_LANE})


class MergeStep(StrEnum):
    """The links of the chain that merges; each is a task of its own and chooses its instance when its turn comes."""

    CHECK = "check"  # open, approved at its head, green, not held
    UPDATE = "update"  # take the base in, since it moved
    SETTLE = "settle"  # wait until the forge knows whether it can be merged
    MERGE = "merge"
    CONFIRM = "confirm"  # ask the forge whether it is merged, whatever the answer to the merge was
    CARE = "care"  # what is to be done once it is merged


class Refusal(StrEnum):
    """Why a pull request was not merged."""

    CLOSED = "closed"
    DRAFT = "draft"
    HELD = "held"
    NOT_APPROVED = "not-approved"
    CHANGES_REQUESTED = "changes-requested"
    RED = "red"
    CANCELLED_CI = "cancelled-ci"
    CONFLICT = "conflict"
    PROTECTED = "protected"  # by the rules of the branch
    NOT_ALLOWED = "not-allowed"  # to the account that merges
    CANNOT_UPDATE = "cannot-update"  # the base cannot be taken in: a fork, a protected head branch
    TOO_LONG = "too-long"  # what it waited for did not come
    NOT_CONFIGURED = "not-configured"  # no account that merges
    LOST = "lost"  # the machinery lost its links too often


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """One pull request in its lane."""

    id: int
    repo: str  #: owner/name
    base: str  #: branch
    number: int  #: of the pull request
    state: MergeState
    step: MergeStep | None  #: of the link that is queued or runs; None: none is
    link: int  #: count of links so far; the one that runs has this number
    head_sha: str  #: what was approved; after an update, what we made of it
    approved_sha: str  #: what people approved
    base_sha: str | None  #: tip of the base that `head_sha` has taken in by an update of ours; None: none was needed
    merge_sha: str | None  #: of the merge; None: not merged
    code: Refusal | None  #: None: not refused
    reason: str  #: for people: what it waits for, or why it ended
    approved_at: datetime  #: its place in the lane
    entered_at: datetime
    changed_at: datetime
    look_at: datetime | None  #: when a parked one is looked at again
    ended_at: datetime | None

    @property
    def is_open(self) -> bool:
        """Tell whether there is something left to do."""
        return self.state in OPEN_MERGES
