"""Checks of commits on the stand-in forge: its own Actions with their deliveries, or a system outside with statuses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

#: How a job ends -> state of the commit status, and its words (services/actions/commit_status.go).
ENDS = {
    "success": ("success", "Successful in 44s"),
    "failure": ("failure", "Failing after 44s"),
    "cancelled": ("failure", "Has been cancelled"),
    "skipped": ("skipped", "Has been skipped"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CiResult:
    """What a check came to; state: one of ENDS, and for a system outside any state of a commit status."""

    state: str
    log: str = ""


#: repository, pull request (None: a push to a branch), commit, its files -> what it came to.
Check = Callable[[str, int | None, str, Mapping[str, str]], CiResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A check that waits for its turn."""

    repo: str
    pull: int | None
    branch: str
    sha: str
    due: datetime


@dataclass(eq=False)
class Ci(dict[str, Check]):
    """Which check a repository has, and how all of them run: `forge.ci["acme/widgets"] = check`."""

    is_external: bool = False  #: statuses only, no deliveries, for every repository
    external: set[str] = field(default_factory=set)  #: repositories for which that is so
    delay_s: float = 0.0  #: by the forge's clock, pending meanwhile
    is_manual: bool = False  #: nothing runs before `forge.run_checks()`
    workflow: str = "ci.yml"
    job: str = "test"
    external_context: str = "ci/test"
    external_login: str = "ci"
    waiting: list[Job] = field(default_factory=list)

    def is_outside(self, repo: str) -> bool:
        """Tell whether the checks of a repository run outside of the forge."""
        return self.is_external or repo in self.external

    def context(self, repo: str, *, is_pull: bool) -> str:
        """Return under which name the statuses of a repository are."""
        if self.is_outside(repo):
            return self.external_context
        return context_of(self.workflow, self.job, is_pull=is_pull)

    def creator(self, repo: str) -> str:
        """Return the login of whoever sets the statuses of a repository."""
        return self.external_login if self.is_outside(repo) else "forgejo-actions"


def context_of(workflow: str, job: str, *, is_pull: bool) -> str:
    """Return the context of a job of the forge's own."""
    return f"{workflow.rsplit('.', 1)[0]} / {job} ({'pull_request' if is_pull else 'push'})"
