"""Builders for facts: each makes the usual thing, with changes."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pool.lanes import Merge, MergeState, Refusal
from pool.model import Kind
from pool.states import State
from pool.work import Past, Work
from tasks.forge_values import Issue, Pull, Review, ReviewState, Status
from tasks.situation import IssueFacts, Policy, PullFacts

REPO = "acme/shop"
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
HEAD, OLD, BASE = "a" * 40, "b" * 40, "e" * 40
POLICY = Policy(
    types_by_login={"dev": "dev", "reviewer": "reviewer", "boss": "boss"},
    logins={"dev": "dev", "reviewer": "reviewer", "boss": "boss"},
    merge_type="boss",
    review_type="reviewer",
)
GREEN = (Status(context="ci", state="success", description="", target_url="", creator=""),)
RED = (replace(GREEN[0], state="failure"),)
PENDING = (replace(GREEN[0], state="pending"),)
CANCELLED = (replace(GREEN[0], state="failure", description="Has been cancelled"),)
_ids = itertools.count(1)


def ago(seconds: float) -> datetime:
    """Return the moment so many seconds before now."""
    return NOW - timedelta(seconds=seconds)


def make_issue(**changes: Any) -> Issue:
    """Return issue 7, assigned to dev."""
    usual = {
        "repo": REPO,
        "number": 7,
        "title": "Sell tea",
        "body": "",
        "state": "open",
        "author": "ada",
        "assignees": ("dev",),
        "labels": (),
        "url": "",
        "updated_at": ago(3600),
        "is_pull": False,
    }
    return Issue(**{**usual, **changes})


def make_pull(**changes: Any) -> Pull:
    """Return pull request 21, which dev wrote for issue 7."""
    usual = {
        "repo": REPO,
        "number": 21,
        "title": "Sell tea",
        "body": "Closes #7",
        "state": "open",
        "author": "dev",
        "draft": False,
        "merged": False,
        "merge_commit_sha": None,
        "mergeable": True,
        "head_ref": "dev/7",
        "head_sha": HEAD,
        "is_fork": False,
        "base_ref": "main",
        "base_sha": BASE,
        "merge_base": BASE,
        "assignees": (),
        "labels": (),
        "requested_reviewers": (),
        "url": "",
        "updated_at": ago(1800),
    }
    return Pull(**{**usual, **changes})


def make_review(author: str, state: ReviewState = ReviewState.APPROVED, **changes: Any) -> Review:
    """Return a review of the head, newer than all that were made before."""
    usual = {
        "id": next(_ids),
        "author": author,
        "state": state,
        "commit_id": HEAD,
        "body": "",
        "official": True,
        "stale": False,
        "dismissed": False,
        "submitted_at": ago(60),
    }
    return Review(**{**usual, **changes})


def approval(author: str = "reviewer", **changes: Any) -> Review:
    """Return an approval of the head."""
    return make_review(author, ReviewState.APPROVED, **changes)


def rejection(author: str = "reviewer", **changes: Any) -> Review:
    """Return a request for changes at the head."""
    return make_review(author, ReviewState.REQUEST_CHANGES, **changes)


def request(author: str = "reviewer", **changes: Any) -> Review:
    """Return the entry that says that somebody was asked for a review."""
    return make_review(author, ReviewState.REQUEST_REVIEW, **changes)


def make_past(kind: Kind, **changes: Any) -> Past:
    """Return a task about the head whose agent ran and that failed."""
    usual = {
        "id": next(_ids),
        "kind": kind,
        "type": {Kind.REVIEW: "reviewer", Kind.RESOLVE: "boss", Kind.MERGE: "boss"}.get(kind, "dev"),
        "number": 7 if kind is Kind.IMPLEMENT else 21,
        "state": State.FAILED,
        "head_sha": None if kind is Kind.IMPLEMENT else HEAD,
        "head_before": None,
        "head_after": None,
        "agent_ran": True,
        "by_hand": False,
        "reason": "it did not work",
        "created_at": ago(900),
        "started_at": ago(800),
        "finished_at": ago(700),
    }
    return Past(**{**usual, **changes})


def make_merge(state: MergeState = MergeState.REFUSED, **changes: Any) -> Merge:
    """Return an entry of the pull request in the lane of main; a refused one by the rules of the branch."""
    is_refused = state is MergeState.REFUSED
    is_open = state in {MergeState.WAITING, MergeState.ACTIVE, MergeState.PARKED}
    usual = {
        "id": next(_ids),
        "repo": REPO,
        "base": "main",
        "number": 21,
        "state": state,
        "step": None,
        "link": 1,
        "head_sha": HEAD,
        "approved_sha": HEAD,
        "base_sha": None,
        "merge_sha": None,
        "code": Refusal.PROTECTED if is_refused else None,
        "reason": "the branch wants two approvals" if is_refused else "",
        "approved_at": ago(50),
        "entered_at": ago(40),
        "changed_at": ago(30),
        "look_at": None,
        "ended_at": None if is_open else ago(30),
    }
    return Merge(**{**usual, **changes})


def pull_facts(*reviews: Review, **changes: Any) -> PullFacts:
    """Return a green pull request of dev that nobody has reviewed.

    changes: of the facts, of the pull request, or of the work, by the name of the field.
    """
    pull = make_pull(**_of(Pull, changes))
    work = Work(
        **{
            "repo": REPO,
            "number": pull.number,
            "issue": 7,
            "head_sha": pull.head_sha,
            "head_since": ago(600),
            **_of(Work, changes, without=("number", "repo", "head_sha", "issue")),
        }
    )
    facts = {"issue": make_issue(), "statuses": GREEN, "now": NOW, **_of(PullFacts, changes, without=("reviews",))}
    return PullFacts(**{**facts, "pull": pull, "reviews": reviews, "work": work})


def issue_facts(**changes: Any) -> IssueFacts:
    """Return an issue that is assigned to dev and that nobody has worked on; changes as in `pull_facts`."""
    issue = make_issue(**_of(Issue, changes))
    work = Work(**{"repo": REPO, "number": issue.number, **_of(Work, changes, without=("number", "repo", "issue"))})
    facts = {"now": NOW, **_of(IssueFacts, changes, without=("issue",))}
    return IssueFacts(**{**facts, "issue": issue, "work": work})


def conflicting(*reviews: Review, for_s: float = 600.0, **changes: Any) -> PullFacts:
    """Return a pull request of which the forge has said for some time that it cannot be merged."""
    marks = {"unmergeable_at": f"{changes.get('head_sha', HEAD)} {BASE}", "unmergeable_since": ago(for_s)}
    return pull_facts(*reviews, **{"mergeable": False, **marks, **changes})


def _of(value: type, changes: dict[str, Any], *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    names = set(value.__dataclass_fields__) - set(without)  # type: ignore[attr-defined]
    return {name: change for name, change in changes.items() if name in names}
