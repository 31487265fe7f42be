"""What the forge last told us of one issue or pull request. Pure: no I/O."""

from dataclasses import dataclass
from datetime import datetime

#: Labels with a meaning of ours; `forgepool init` makes them.
HOLD_LABEL = "forgepool/hold"
HELP_LABEL = "forgepool/needs-a-person"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An issue or a pull request, as of the newest delivery that spoke of it."""

    repo: str  #: owner/name
    number: int
    is_pull: bool
    assignees: tuple[str, ...] | None = None  #: logins; None: no delivery has told them yet
    author: str | None = None  #: of a pull request; None: not known
    head_sha: str | None = None  #: of a pull request; None: not known
    head_ref: str | None = None  #: what a task fetches: the head branch, or refs/pull/N/head of a fork
    title: str = ""
    url: str = ""  #: for people
    labels: tuple[str, ...] = ()
    state: str = "open"  #: open or closed; a merged pull request is closed
    updated_at: datetime | None = None  #: the forge's own time, in whole seconds; None: not told

    @property
    def is_open(self) -> bool:
        """Tell whether there is anything left to do on it."""
        return self.state == "open"
