"""Whether a run did what it was for: what the forge shows before and after, never the agent's word. Pure: no I/O."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from pool.model import Kind
from tasks.forge_values import Pull
from tasks.situation import VERDICTS, Facts, IssueFacts, PullFacts

#: Kinds that are for nothing that the forge could show.
_NOTHING_ASKED = frozenset({Kind.CUSTOM, Kind.MERGE})
_MAKES_MERGEABLE = frozenset({Kind.REBASE, Kind.RESOLVE})
#: The forge's clock and ours may differ, and its times are whole seconds.
SKEW = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the forge shows of a run."""

    ok: bool
    why: str  #: what it shows, or what is missing, for people


def prove(
    kind: Kind, *, login: str, before: Facts, after: Facts, started_at: datetime, settle_s: float = 30.0
) -> Proof:
    """Tell whether the forge shows that a task of that kind was done.

    login: the account that it ran as. started_at: of the task; what is older than it was not done by it.
    settle_s: for so long the forge may still check whether it can be merged.
    """
    if kind in _NOTHING_ASKED:
        return Proof(ok=True, why="")
    if kind is Kind.IMPLEMENT:
        return _implemented(login, before, after)
    if not isinstance(before, PullFacts) or not isinstance(after, PullFacts):
        return Proof(ok=False, why=f"{kind} is about pull requests, and this is none")
    if kind is Kind.REVIEW:
        return _reviewed(login, before, after, started_at)
    return _moved(kind, before, after, settle_s)


def _implemented(login: str, before: Facts, after: Facts) -> Proof:
    if not isinstance(before, IssueFacts) or not isinstance(after, IssueFacts):
        return Proof(ok=False, why="implement is about issues, and this is none")
    heads = {pull.number: pull.head_sha for pull in _own(login, before)}
    own = _own(login, after)
    for pull in own:
        if pull.number not in heads:
            return Proof(ok=True, why=f"{login} opened #{pull.number} at {pull.head_sha[:10]}")
        if pull.head_sha != heads[pull.number]:
            return Proof(ok=True, why=f"the head of #{pull.number} moved to {pull.head_sha[:10]}")
    if own:
        return Proof(ok=False, why=f"no new commit was pushed to #{own[-1].number}")
    return Proof(ok=False, why=f"{login} has no pull request for #{after.issue.number}")


def _own(login: str, facts: IssueFacts) -> list[Pull]:
    """Return the account's pull requests for an issue that are open or merged."""
    pulls = [*(one.pull for one in facts.pulls), *(pull for pull in facts.ended if pull.merged)]
    return [pull for pull in pulls if pull.author.lower() == login.lower()]


def _reviewed(login: str, before: PullFacts, after: PullFacts, started_at: datetime) -> Proof:
    heads = {before.pull.head_sha, after.pull.head_sha}
    known = {review.id for review in before.reviews if review.state in VERDICTS}
    words = [r for r in after.reviews if r.author.lower() == login.lower() and r.state in VERDICTS]
    for review in reversed(words):
        is_old = review.submitted_at is not None and review.submitted_at < started_at - SKEW
        if review.id not in known and not is_old and review.commit_id in heads:
            said = "approved" if review.state == "APPROVED" else "asked for changes at"
            return Proof(ok=True, why=f"{login} {said} {review.commit_id[:10]}")
    if any(review.id not in known for review in words):
        return Proof(ok=False, why=f"{login} reviewed another commit than the head {after.pull.head_sha[:10]}")
    return Proof(ok=False, why=f"{login} submitted no review that approves or asks for changes")


def _moved(kind: Kind, before: PullFacts, after: PullFacts, settle_s: float) -> Proof:
    old, new = before.pull.head_sha, after.pull.head_sha
    if old == new:
        return Proof(ok=False, why=f"nothing was pushed: the head is still {new[:10]}")
    if kind in _MAKES_MERGEABLE and after.pull.is_open and _still_conflicts(after, settle_s):
        return Proof(ok=False, why=f"the head moved to {new[:10]}, and it still cannot be merged")
    return Proof(ok=True, why=f"the head moved from {old[:10]} to {new[:10]}")


def _still_conflicts(facts: PullFacts, settle_s: float) -> bool:
    since = facts.work.unmergeable_since
    if facts.pull.mergeable or since is None or facts.work.unmergeable_at != facts.unmergeable_mark:
        return False
    return (facts.now - since).total_seconds() >= settle_s
