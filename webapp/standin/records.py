"""What the stand-in forge remembers. Pure: no I/O."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from webapp.standin.bare import BareRepo


def now() -> str:
    """Return the present as Forgejo writes it: UTC, whole seconds."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


@dataclass(slots=True, kw_only=True)
class User:
    """An account."""

    id: int
    login: str
    token: str


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


@dataclass(slots=True, kw_only=True)
class Pull(Issue):
    """A pull request between two branches of one repository."""

    head: str
    base: str
    head_sha: str
    merge_base: str
    reviewers: list[str] = field(default_factory=list)  #: asked or having reviewed: Forgejo does not tell them apart
    merged_by: str | None = None
    merge_commit_sha: str | None = None


@dataclass(slots=True, kw_only=True)
class Run:
    """One run of one workflow for a pull request."""

    id: int
    index: int
    workflow: str
    status: str
    sha: str
    event_payload: str  #: body of the event that started it, as text


@dataclass(slots=True, kw_only=True)
class Repo:
    """A repository with its issues and pull requests, which share their numbers."""

    id: int
    full_name: str
    private: bool
    git: BareRepo
    default_branch: str = "main"
    issues: dict[int, Issue] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

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
