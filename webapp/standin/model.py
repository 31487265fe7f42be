"""Which behaviours of the real forge the stand-in reproduces, each with a name to switch it off by. Pure: no I/O.

A test that passes with a behaviour and without it does not test it: tests/forge/test_sweep.py turns off each in turn.
"""

#: Name -> what the real forge does; sources are the files of Forgejo.
BEHAVIOURS: dict[str, str] = {
    # services/pull/check.go, services/pull/pull.go
    "checking-after-push": "a push to its head lets a pull request be checked again; until then mergeable is false",
    "checking-after-base-moved": "what changes the base lets every open pull request into it be checked again",
    "conflict-is-405": "a conflict known beforehand answers a merge with 405, Please try again later",
    # routers/api/v1/repo/pull.go, services/pull/merge.go
    "head-must-match": "a merge with another head_commit_id answers 409, head out of date",
    "merged-is-405": "what is merged already answers a merge with 405 and an empty message",
    "draft-is-405": "a draft cannot be merged",
    "style-is-checked": "a way to merge that the repository forbids is 405, one that there is not 422",
    "protection-is-405": "rules of a protected branch answer a merge with 405",
    "dependency-is-500": "an open dependency answers a merge with 500 and an empty message",
    "dependency-blocks-closing": "an issue with an open dependency cannot be closed: 412",
    "scheduled-merge-waits": "a merge when the checks succeed answers 201 and waits for a later success",
    "merge-closes-issues": "a merge closes what its text names; sender is the author of the pull request",
    "full-stop-hides-reference": "`Closes #7.` does not close: a deliberate pessimism, see gaps.py",
    "head-ref-of-deleted-branch": "head.ref becomes refs/pull/N/head, the name stays in head.label",
    "deleted-branch-closes-pulls": "open pull requests from or into a deleted branch are closed",
    "update-when-behind-only": "an update of a branch that is not behind answers 500",
    # models/issues/review.go, services/pull/review.go, routers/api/v1/repo/pull_review.go
    "no-review-of-ones-own": "approving or rejecting one's own pull request answers 422",
    "review-goes-stale": "reviews go stale when a push changes what the pull request changes",
    "same-diff-keeps-review": "a push that leaves the difference as it is leaves reviews fresh",
    "official-needs-write": "only approvals and rejections of those who may write are official",
    "newer-verdict-dismisses": "a newer verdict dismisses the reviewer's older one",
    "review-answers-request": "a review takes the entry REQUEST_REVIEW of its author away",
    "reviewers-stay-listed": "requested_reviewers also lists those who have reviewed",
    "request-again": "asking again after a review makes a new request, asking twice does not",
    "self-request-is-silent": "who asks himself for a review causes no event",
    "dismissal-is-silent": "dismissing a review sends nothing",
    # services/issue/assignee.go, routers/api/v1/repo/issue.go
    "assignees-null": "assignees is null when there are none",
    "assigned-before-opened": "an issue made with assignees is assigned before it is opened",
    "event-per-assignee": "each new assignee makes an event with the full list",
    "assignees-need-write": "assignees are ignored without a word when the account may not write",
    "unknown-assignee-is-500": "an unknown assignee answers 500",
    "unknown-labels-dropped": "labels that there are not are dropped without a word",
    # models/git/commit_status.go, services/convert/status.go
    "no-status-is-empty": "the combined state of no statuses is the empty word, not pending",
    "worst-status-wins": "the combined state is the worst one, and a warning hides what is pending",
    "error-shown-as-failure": "the combined state says failure for error",
    "combined-over-one-page": "the combined state looks at one page of contexts",
    "newest-status-of-context": "statuses have a history, the newest of a context counts",
    "cancelled-is-failure": "a cancelled job makes the status failure, Has been cancelled",
    "status-is-silent": "a commit status sends no delivery",
    # routers/api/v1/utils/hook.go
    "hook-sleeps-by-default": "a hook made without `active` is inactive",
    "hook-without-events-is-push": "a hook made without events has push only",
    "hook-drops-unknown-events": "events that there are not are dropped without a word",
    "hook-patch-forgets": "PATCH ignores the secret and resets events that are not given",
    "hook-hears-its-events": "a hook gets the events it asked for, no others",
    # modules/structs/hook.go, services/webhook
    "go-encoding": "bodies are indented by two, with < > & escaped",
    "deliveries-are-signed": "the signature is the bare HMAC-SHA256 of the body",
    "review-event-is-poor": "a review event has neither id nor commit",
    "success-recovers": "a success after a failure is told twice",
    # routers/api/v1/api.go, services/context
    "private-looks-absent": "a private repository answers strangers with 404",
    "pages-are-bounded": "a page has at most 50 entries, whatever is asked for",
    "tokens-need-a-password": "an access token is made with a password only",
    "rights-of-others-are-secret": "only administrators may ask for the rights of others",
}


class Model:
    """What is switched on: everything, until a test says otherwise."""

    def __init__(self) -> None:
        self._off: set[str] = set()

    def switch_off(self, *names: str) -> None:
        """Do otherwise than the real forge does."""
        for name in names:
            if name not in BEHAVIOURS:
                raise KeyError(f"{name!r} is no behaviour; there are {', '.join(BEHAVIOURS)}")
        self._off.update(names)

    def switch_on(self, *names: str) -> None:
        """Do again what the real forge does."""
        self._off.difference_update(names)

    def __contains__(self, name: str) -> bool:
        """Tell whether a behaviour is on."""
        # A name that is mistyped in the stand-in must not pass for a behaviour that is on.
        if name not in BEHAVIOURS:
            raise KeyError(name)
        return name not in self._off
