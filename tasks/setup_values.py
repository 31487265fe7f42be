"""What set-up on the forge needs to know of it: its version, its events, whose address is whose. Pure: no I/O."""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

from tasks.forge_gaps import gaps
from tasks.forge_values import Hook, Repository

#: What an agent's account has to be allowed: read and write code, pull requests, statuses; issues and comments; itself.
SCOPES = ("write:repository", "write:issue", "read:user")
#: First Forgejo whose Actions tell by webhook that a run has ended.
ACTION_RUNS_SINCE = 12

EVENTS = (
    *("issues_only", "issue_assign", "issue_label", "issue_comment"),
    *("pull_request_only", "pull_request_assign", "pull_request_label", "pull_request_comment", "pull_request_sync"),
    *("pull_request_review", "pull_request_review_request"),
)
ACTION_RUNS = ("action_run_success", "action_run_failure", "action_run_recover")
#: What is asked for by one name is told by others (routers/api/v1/utils/hook.go, models/webhook/webhook.go).
_TOLD_AS = {
    "issues_only": ("issues",),
    "pull_request_only": ("pull_request",),
    "pull_request_review": ("pull_request_review_approved", "pull_request_review_rejected"),
}
_MEANING = {
    "issues_only": "new and closed issues are noticed late",
    "issue_assign": "assigned issues are noticed late",
    "issue_label": "a hold by label is noticed late",
    "issue_comment": "orders in comments on issues are noticed late",
    "pull_request_only": "new, closed and merged pull requests are noticed late",
    "pull_request_assign": "assigned pull requests are noticed late",
    "pull_request_label": "a hold by label is noticed late",
    "pull_request_comment": "orders in comments on pull requests are noticed late",
    "pull_request_sync": "pushes are noticed late",
    "pull_request_review": "reviews are noticed late",
    "pull_request_review_request": "requests for a review are noticed late",
    "status": "results of checks are noticed late",
    "action_run_success": "results of checks are noticed late",
    "action_run_failure": "results of checks are noticed late",
    # A run that succeeds after one that failed is told as a success, too (services/webhook/notifier.go).
    "action_run_recover": "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgeVersion:
    """Which forge answers."""

    text: str  #: as it says it
    is_forgejo: bool

    @property
    def name(self) -> str:
        """Return its name with the version."""
        return f"{'Forgejo' if self.is_forgejo else 'Gitea'} {self.text}"

    @property
    def major(self) -> int:
        """Return the first number of the version; of a development build without numbers: a high one."""
        found = re.match(r"v?(\d+)", self.text)
        return int(found[1]) if found else 999

    @property
    def hook_type(self) -> str:
        """Return the type of webhook that speaks as we understand."""
        return "forgejo" if self.is_forgejo else "gitea"

    @property
    def events(self) -> tuple[str, ...]:
        """Return the events that a hook of ours asks for: those that this version knows."""
        if not self.is_forgejo:
            return (*EVENTS, "status")
        return (*EVENTS, *ACTION_RUNS) if self.major >= ACTION_RUNS_SINCE else EVENTS

    @property
    def lacks(self) -> tuple[str, ...]:
        """Tell what a newer version would do, and what that means."""
        return tuple(gap.sentence for gap in gaps(self.text, is_forgejo=self.is_forgejo) if gap.is_of_old)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whose token it is."""

    login: str
    is_admin: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryState:
    """A repository as set-up sees it."""

    repository: Repository
    is_empty: bool  #: no commit: the forge cannot send a test delivery


def unheard(hook: Hook, wanted: Collection[str]) -> dict[str, str]:
    """Return which events a hook does not tell of, and what that means. wanted: as they are asked for."""
    heard = set(hook.events)
    missing = [one for one in wanted if one not in heard and not heard.issuperset(_TOLD_AS.get(one, (one,)))]
    return {one: _MEANING[one] for one in missing if _MEANING[one]}


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine itself."""
    return host == "localhost" or _address(host, "is_loopback")


def is_private(host: str) -> bool:
    """Tell whether an address is one that forges do not call unless they are told to: private, or this machine."""
    return is_loopback(host) or _address(host, "is_private")


def _address(host: str, quality: str) -> bool:
    try:
        return bool(getattr(ipaddress.ip_address(host.strip("[]")), quality))
    except ValueError:
        return False
