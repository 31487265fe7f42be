"""Which events a webhook hears: the names that its maker gives, and those that the forge tells. Pure: no I/O.

Source: routers/api/v1/utils/hook.go and models/webhook/webhook.go.
"""

from collections.abc import Collection

#: Exact Event-Type -> the flag that lets it through, in the order in which the forge lists them.
FLAGS = {
    "create": "create",
    "delete": "delete",
    "fork": "fork",
    "push": "push",
    "issues": "issues_only",
    "issue_assign": "issue_assign",
    "issue_label": "issue_label",
    "issue_milestone": "issue_milestone",
    "issue_comment": "issue_comment",
    "pull_request": "pull_request_only",
    "pull_request_assign": "pull_request_assign",
    "pull_request_label": "pull_request_label",
    "pull_request_milestone": "pull_request_milestone",
    "pull_request_comment": "pull_request_comment",
    "pull_request_review_approved": "pull_request_review",
    "pull_request_review_rejected": "pull_request_review",
    # Not the flag of reviews: a mistake of the original.
    "pull_request_review_comment": "pull_request_comment",
    "pull_request_sync": "pull_request_sync",
    "pull_request_review_request": "pull_request_review_request",
    "wiki": "wiki",
    "repository": "repository",
    "release": "release",
    "package": "package",
    "action_run_failure": "action_run_failure",
    "action_run_recover": "action_run_recover",
    "action_run_success": "action_run_success",
}
_WIDE = {
    "issues": frozenset(flag for flag in FLAGS.values() if flag.startswith("issue")),
    "pull_request": frozenset(flag for flag in FLAGS.values() if flag.startswith("pull_request")),
}
#: PATCH never touches these.
RUN_FLAGS = frozenset(flag for flag in FLAGS.values() if flag.startswith("action_run_"))


def flags_of(events: Collection[str]) -> frozenset[str]:
    """Return what the names turn on; those that nobody knows turn on nothing."""
    known = frozenset(FLAGS.values())
    return frozenset().union(*(_WIDE.get(name, known & {name}) for name in events))


def events_of(flags: Collection[str]) -> list[str]:
    """Return the events that the forge says it sends; given back to it they do not mean the same."""
    return [event for event, flag in FLAGS.items() if flag in flags]


def hears(flags: Collection[str], event_type: str) -> bool:
    """Tell whether an event is sent."""
    return FLAGS.get(event_type, event_type) in flags
