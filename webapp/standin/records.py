"""What the stand-in forge remembers. Pure: no I/O."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from webapp.standin.bare import BareRepo

#: From nothing to everything; what an account may do in a repository.
RIGHTS = ("none", "read", "write", "admin", "owner")
#: Ways to merge (models/repo/git.go) and the names of the settings that allow them.
STYLES = {
    "merge": "allow_merge_commits",
    "rebase": "allow_rebase",
    "rebase-merge": "allow_rebase_explicit",
    "squash": "allow_squash_merge",
    "fast-forward-only": "allow_fast_forward_only_merge",
}
#: These say yes or no; comments and drafts do not.
VERDICTS = ("APPROVED", "REQUEST_CHANGES")


def wall_clock() -> datetime:
    """Return the present."""
    return datetime.now(UTC)


def stamp(moment: datetime) -> str:
    """Return a time as Forgejo writes it: UTC, whole seconds."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def now() -> str:
    """Return the present as Forgejo writes it."""
    return stamp(wall_clock())


@dataclass(slots=True, kw_only=True)
class User:
    """An account."""

    id: int
    login: str
    token: str  #: the first one; "" when it was made without
    password: str = ""
    is_admin: bool = False
    must_change_password: bool = False
    tokens: dict[str, str] = field(default_factory=dict)  #: name -> token, beside the first one


@dataclass(slots=True, kw_only=True)
class Label:
    """A label of a repository."""

    id: int
    name: str
    color: str = "ee0701"
    description: str = ""


@dataclass(slots=True, kw_only=True)
class Comment:
    """A plain comment."""

    id: int
    author: str
    body: str
    created_at: str
    updated_at: str
    reactions: list[tuple[str, str]] = field(default_factory=list)  #: login and content


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One entry of a timeline."""

    id: int
    kind: str
    user: str
    created_at: str
    body: str = ""
    assignee: str | None = None  #: also who was asked for a review
    removed: bool = False


@dataclass(slots=True, kw_only=True)
class Issue:
    """An issue, or what a pull request has in common with one."""

    id: int
    number: int
    author: str
    title: str
    body: str = ""
    labels: list[str] = field(default_factory=list)
    assignees: list[str] = field(default_factory=list)  #: in the order of assignment
    state: str = "open"
    created_at: str = field(default_factory=now)
    updated_at: str = field(default_factory=now)
    closed_at: str | None = None
    comments: list[Comment] = field(default_factory=list)
    timeline: list[Happening] = field(default_factory=list)
    blockers: list[tuple[str, int]] = field(default_factory=list)  #: repository and number of what must close before


@dataclass(slots=True, kw_only=True)
class LineComment:
    """What a review says of one line."""

    id: int
    path: str
    line: int
    body: str


@dataclass(slots=True, kw_only=True)
class Review:
    """One review, or a request for one."""

    id: int
    author: str
    state: str
    commit_id: str
    submitted_at: str
    body: str = ""
    official: bool = False
    stale: bool = False
    dismissed: bool = False
    comments: list[LineComment] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A merge that waits for checks."""

    doer: str
    style: str
    title: str
    message: str
    delete_branch: bool


@dataclass(slots=True, kw_only=True)
class Pull(Issue):
    """A pull request between two branches of one repository."""

    head: str
    base: str
    head_sha: str
    merged_onto: str = ""  #: where the base was before the merge
    reviews: list[Review] = field(default_factory=list)
    merged_by: str | None = None
    merge_commit_sha: str | None = None
    checked_from: datetime | None = None  #: until then it is being checked; None: it was
    reads_left: int = 0  #: answers that still show it as being checked
    scheduled: Scheduled | None = None

    @property
    def is_draft(self) -> bool:
        """Whether the title says so (modules/setting/repository.go)."""
        return self.title.upper().startswith(("WIP:", "[WIP]"))

    @property
    def reviewers(self) -> list[str]:
        """Those asked and those with a verdict, which Forgejo does not tell apart."""
        counted = [one for one in self.reviews if one.state in (*VERDICTS, "REQUEST_REVIEW")]
        newest = {one.author: one for one in counted}
        return [login for login, one in newest.items() if not one.dismissed]


@dataclass(slots=True, kw_only=True)
class Status:
    """One commit status."""

    id: int
    context: str
    state: str
    description: str
    target_url: str
    creator: str
    created_at: str


@dataclass(slots=True, kw_only=True)
class Run:
    """One run of one workflow for a pull request, or for a branch."""

    id: int
    index: int
    workflow: str
    status: str
    sha: str
    event_payload: str  #: body of the event that started it, as text
    pull: int | None = None
    branch: str = ""  #: of a run for a push
    log: str = ""

    @property
    def lane(self) -> tuple[str, str]:
        """What makes two runs comparable (models/actions/run.go): the same workflow for the same ref."""
        return self.workflow, str(self.pull or self.branch)


@dataclass(slots=True, kw_only=True)
class Hook:
    """A webhook of a repository."""

    id: int
    type: str
    url: str
    secret: bytes
    content_type: str
    flags: frozenset[str]  #: see hooks.FLAGS
    active: bool
    created_at: str
    branch_filter: str = "*"
    authorization: str = ""


@dataclass(slots=True, kw_only=True)
class Protection:
    """The rules of a branch."""

    branch: str
    required_approvals: int = 0
    enable_status_check: bool = False
    status_check_contexts: list[str] = field(default_factory=list)
    block_on_outdated_branch: bool = False
    block_on_rejected_reviews: bool = False
    dismiss_stale_approvals: bool = False


@dataclass(slots=True, kw_only=True)
class Repo:
    """A repository with its issues and pull requests, which share their numbers."""

    id: int
    full_name: str
    private: bool
    git: BareRepo
    default_branch: str = "main"
    archived: bool = False
    everybody: str = "write"  #: what accounts may do that are not named in `rights`
    rights: dict[str, str] = field(default_factory=dict)
    styles: set[str] = field(default_factory=lambda: set(STYLES))
    issues: dict[int, Issue] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    hooks: dict[int, Hook] = field(default_factory=dict)
    protections: dict[str, Protection] = field(default_factory=dict)
    statuses: dict[str, list[Status]] = field(default_factory=dict)  #: sha -> oldest first

    @property
    def owner(self) -> str:
        """Login of whoever the repository belongs to."""
        return self.full_name.partition("/")[0]

    @property
    def next_number(self) -> int:
        """Number of the next issue or pull request."""
        return len(self.issues) + 1

    @property
    def pulls(self) -> list[Pull]:
        """All pull requests, oldest first."""
        return [issue for issue in self.issues.values() if isinstance(issue, Pull)]

    def newest_statuses(self, sha: str) -> list[Status]:
        """Return the newest status of each context of a commit, newest first."""
        newest = {status.context: status for status in self.statuses.get(sha, ())}
        return sorted(newest.values(), key=lambda status: -status.id)


#: What tells the time.
Clock = Callable[[], datetime]
