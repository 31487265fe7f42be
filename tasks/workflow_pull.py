"""The table of the workflow for pull requests: what their situation asks for. Pure: no I/O.

The first row that fits decides. A row never acts on news, only on what the forge says and what the store remembers,
so that it makes no difference which webhook was lost, came twice or came late.
"""

from datetime import datetime

from pool.lanes import MergeState, Refusal
from pool.model import Kind
from pool.states import State
from tasks.forge_values import Ci
from tasks.situation import Policy, PullFacts
from tasks.workflow_gate import begin
from tasks.workflow_rows import Row, busy, chain_is_spent, chain_spent, day_is_spent, day_spent, held
from tasks.workflow_steps import AskReview, Enqueue, Outcome, Start, ask, wait

#: Checks whose end no webhook tells are asked about so often.
CHECKS_AGAIN_S = 60.0
SOON_S = 0.2  #: the shortest pause between two looks
#: Times that one head may be refused for reasons which the facts do not show.
MAX_REFUSALS = 3
#: Reasons which the facts show, so that the rows above deal with them.
_EXPLAINED = frozenset(
    {
        *(Refusal.CLOSED, Refusal.DRAFT, Refusal.HELD, Refusal.NOT_APPROVED, Refusal.CHANGES_REQUESTED),
        *(Refusal.RED, Refusal.CANCELLED_CI),
    }
)
REBASES = frozenset({Kind.REBASE, Kind.RESOLVE})

# --- what a pull request is ----------------------------------------------------------------------


def author_type(facts: PullFacts, policy: Policy) -> str | None:
    """Return the type that wrote it; None: a person did, who also repairs it."""
    return policy.type_of(facts.pull.author)


def is_addressable(facts: PullFacts, policy: Policy) -> bool:
    """Tell whether an agent wrote it and changes are wanted on which nobody has worked."""
    return author_type(facts, policy) is not None and bool(facts.outstanding)


def needs_rebase(facts: PullFacts, policy: Policy) -> bool:
    """Tell whether it conflicts with its base, as the forge says or as a try to merge it has shown."""
    return facts.conflicts(policy) or refused_for_conflict(facts)


def refused_for_conflict(facts: PullFacts) -> bool:
    """Tell whether the last try to merge this head met a conflict: a way of merging may see one that others do not."""
    last = facts.work.merges[-1] if facts.work.merges else None
    return (
        last is not None
        and last.state is MergeState.REFUSED
        and last.code is Refusal.CONFLICT
        and last.head_sha == facts.pull.head_sha
    )


def rounds_are_spent(facts: PullFacts, policy: Policy, login: str) -> bool:
    """Tell whether a reviewer has sent an agent's work back so often that a person has to look."""
    return author_type(facts, policy) is not None and facts.rounds(login) >= policy.max_review_rounds


def fixes_are_spent(facts: PullFacts, policy: Policy) -> bool:
    """Tell whether failed checks were repaired as often as is allowed."""
    return _runs(facts, frozenset({Kind.FIX_CI})) >= policy.max_fix_ci


def rebases_are_spent(facts: PullFacts, policy: Policy) -> bool:
    """Tell whether it was made mergeable as often as is allowed."""
    return _runs(facts, REBASES) >= policy.max_rebases


def _runs(facts: PullFacts, kinds: frozenset[Kind]) -> int:
    return sum(task.kind in kinds and task.agent_ran and not task.is_live for task in facts.work.past)


def is_ready(facts: PullFacts, policy: Policy) -> bool:
    """Tell whether it can be merged as it is."""
    return (
        facts.is_approved
        and facts.pull.mergeable
        and not refused_for_conflict(facts)
        and facts.ci in {Ci.GREEN, Ci.NONE}
        and not facts.awaits_ci(policy)
    )


def _refusals(facts: PullFacts) -> tuple[str, ...]:
    """Return the sentences with which this head was refused since it was approved last, or a person acted."""
    said = [facts.work.reset_at, *(review.submitted_at for review in facts.approvals)]
    since = max((moment for moment in said if moment is not None), default=None)
    return tuple(
        merge.reason
        for merge in facts.work.merges
        if merge.state is MergeState.REFUSED
        and merge.code not in _EXPLAINED
        and (merge.head_sha == facts.pull.head_sha or facts.speaks_of_head(merge.approved_sha))
        and (since is None or merge.ended_at is None or merge.ended_at >= since)
    )


# --- pull requests: what is done -----------------------------------------------------------------


def _ended(facts: PullFacts, policy: Policy) -> Outcome:
    del policy
    return wait(f"#{facts.pull.number} is {'merged' if facts.pull.merged else 'closed'}")


def _draft(facts: PullFacts, policy: Policy) -> Outcome:
    del policy
    return wait(f"#{facts.pull.number} is a draft")


def _in_lane(facts: PullFacts, policy: Policy) -> Outcome:
    del policy
    return wait(f"#{facts.pull.number} is in the lane of {facts.pull.base_ref}")


def _address_review(facts: PullFacts, policy: Policy) -> Outcome:
    for review in facts.outstanding:
        if rounds_are_spent(facts, policy, review.author):
            return ask("review-rounds", _rounds_sentence(policy, review.author))
    names = ", ".join(review.author for review in facts.outstanding)
    said = "\n\n".join(f"{review.author}: {review.body}" for review in facts.outstanding if review.body)
    return _start(facts, policy, Kind.ADDRESS_REVIEW, f"changes are requested by {names}", detail=said)


def _rounds_sentence(policy: Policy, login: str) -> str:
    return f"{login} has asked for changes {policy.max_review_rounds} times, and still does not agree"


def _fix_ci(facts: PullFacts, policy: Policy) -> Outcome:
    if fixes_are_spent(facts, policy):
        return ask("fix-ci", f"the checks still fail after {policy.max_fix_ci} repairs")
    return _start(facts, policy, Kind.FIX_CI, "checks of the head have failed")


def _rebase(facts: PullFacts, policy: Policy) -> Outcome:
    if rebases_are_spent(facts, policy):
        return ask("rebase", f"it still conflicts with {facts.pull.base_ref} after {policy.max_rebases} tries")
    is_last = _runs(facts, REBASES) == policy.max_rebases - 1
    if is_last and policy.merge_type is not None:
        why = f"rebases did not settle the conflict with {facts.pull.base_ref}"
        return _start(facts, policy, Kind.RESOLVE, why, type_name=policy.merge_type)
    return _start(facts, policy, Kind.REBASE, f"it conflicts with {facts.pull.base_ref}")


def _start(
    facts: PullFacts, policy: Policy, kind: Kind, why: str, *, type_name: str | None = None, detail: str = ""
) -> Outcome:
    start = Start(
        kind=kind,
        type=type_name or author_type(facts, policy) or "",
        number=facts.pull.number,
        head_sha=facts.pull.head_sha,
        why=why,
        detail=detail,
    )
    return begin(facts, policy, start)


def _checking(facts: PullFacts, policy: Policy) -> Outcome:
    is_known = facts.work.unmergeable_at == facts.unmergeable_mark
    left = _left(facts, facts.work.unmergeable_since if is_known else None, policy.settle_s)
    return wait("the forge does not say yet that it can be merged", left)


def _left(facts: PullFacts, since: datetime | None, lasts_s: float) -> float:
    """Return how long something goes on that lasts so long since then; None: since now."""
    passed = 0.0 if since is None else (facts.now - since).total_seconds()
    return max(SOON_S, min(lasts_s, lasts_s - passed))


def _awaits_ci(facts: PullFacts, policy: Policy) -> Outcome:
    if facts.ci is Ci.PENDING:
        return wait("checks of the head run", CHECKS_AGAIN_S)
    since = facts.work.head_since if facts.work.head_sha == facts.pull.head_sha else None
    return wait("checks of the head may still begin", _left(facts, since, policy.ci_grace_s))


def _ci_cancelled(facts: PullFacts, policy: Policy) -> Outcome:
    del facts, policy
    return wait("checks of the head were cancelled, which says neither yes nor no")


def _enqueue(facts: PullFacts, policy: Policy) -> Outcome:
    refused = _refusals(facts)
    if len(refused) >= MAX_REFUSALS:
        return ask("refused", refused[-1])
    if policy.merge_type is None:
        return wait("it is approved, and no type merges: mark one in the settings, or merge by hand")
    why = f"approved by {', '.join(review.author for review in facts.approvals)}"
    times = [review.submitted_at for review in facts.approvals if review.submitted_at is not None]
    approved_at = min(times, default=facts.now)
    enqueue = Enqueue(head_sha=facts.pull.head_sha, base=facts.pull.base_ref, approved_at=approved_at, why=why)
    return why, (enqueue,)


# --- pull requests: who reviews ------------------------------------------------------------------


def _reviews(facts: PullFacts, policy: Policy) -> Outcome:
    outcomes = [_review_of(facts, policy, login) for login in _reviewers(facts, policy)]
    steps = tuple(dict.fromkeys(step for _, some in outcomes for step in some))
    return "; ".join(dict.fromkeys(why for why, _ in outcomes)), steps


def _reviewers(facts: PullFacts, policy: Policy) -> tuple[str, ...]:
    """Return whose review is missing: who was asked, who reviews agents' work, and who wanted what is done now."""
    found = [login for login in facts.asked if policy.type_of(login) is not None]
    if author_type(facts, policy) is not None:
        found += [policy.logins[name] for name in filter(None, [policy.review_type])]
        found += [review.author for review in facts.requests_for_changes]
    each = {login.lower(): login for login in found}
    return tuple(
        login
        for lower, login in each.items()
        if lower != facts.pull.author.lower() and not facts.has_verdict(login) and not _is_awaited(facts, policy, login)
    )


def _is_awaited(facts: PullFacts, policy: Policy, login: str) -> bool:
    """Tell whether it is a person who was asked: they take their time."""
    return policy.type_of(login) is None and _was_asked(facts, login)


def _was_asked(facts: PullFacts, login: str) -> bool:
    return login.lower() in {other.lower() for other in facts.asked}


def _review_of(facts: PullFacts, policy: Policy, login: str) -> Outcome:
    type_name = policy.type_of(login)
    if type_name is None:
        why = f"what {login} wanted is done"
        return why, (AskReview(login=login, why=why),)
    if rounds_are_spent(facts, policy, login):
        return ask("review-rounds", _rounds_sentence(policy, login))
    if _was_asked(facts, login) or _has_tried(facts, type_name):
        return _start(facts, policy, Kind.REVIEW, f"{login} was asked for a review", type_name=type_name)
    why = f"{login} has not reviewed the head"
    return why, (AskReview(login=login, why=why),)


def _has_tried(facts: PullFacts, type_name: str) -> bool:
    """Tell whether a review of this head was begun: a comment without a verdict has used up the request for it."""
    return any(
        task.kind is Kind.REVIEW and task.type == type_name and facts.pull.head_sha in {task.head_sha, task.head_before}
        for task in facts.work.past
        if task.state is not State.SUPERSEDED
    )


def _words_do_not_count(facts: PullFacts, policy: Policy) -> bool:
    """Tell whether the reviewers have spoken, and the forge does not listen to them: no row will ever fit."""
    if author_type(facts, policy) is None or facts.is_approved:
        return False
    counted = {review.id for review in (*facts.approvals, *facts.requests_for_changes)}
    spoken = [r for r in facts.last_words.values() if facts.speaks_of_head(r.commit_id)]
    return bool(spoken) and not counted.intersection(review.id for review in spoken)


def _no_weight(facts: PullFacts, policy: Policy) -> Outcome:
    del policy
    names = ", ".join(sorted(facts.last_words))
    return ask("no-weight", f"the forge does not count the word of {names}: give write access, or approve it yourself")


def _quiet(facts: PullFacts, policy: Policy) -> Outcome:
    if author_type(facts, policy) is None:
        return wait(f"{facts.pull.author} wrote it, and {_wants(facts, policy)}")
    if facts.requests_for_changes:
        return wait("a person was asked to look again")
    return wait("no agent reviews it: a person has to")


def _wants(facts: PullFacts, policy: Policy) -> str:
    if facts.ci is Ci.RED:
        return "repairs the checks that fail"
    if needs_rebase(facts, policy):
        return f"takes {facts.pull.base_ref} in, with which it conflicts"
    return "asks no agent for anything"


# --- the table ------------------------------------------------------------------------------------

PULL_ROWS: tuple[Row[PullFacts], ...] = (
    Row("ended", lambda f, _: not f.pull.is_open, _ended, "Nothing is left to do."),
    Row("held", lambda f, _: f.hold is not None, held, "A person wants nothing to be begun."),
    Row("draft", lambda f, _: f.pull.draft, _draft, "Its author does not think that it is done."),
    Row("in-lane", lambda f, _: f.work.open_merge is not None, _in_lane, "The chain that merges has it."),
    Row("busy", lambda f, _: bool(f.work.live), busy, "One thing at a time; its end is looked at."),
    Row("ready", is_ready, _enqueue, "What another approved, and is green, is merged; that needs no agent, so no cap."),
    Row("chain-spent", chain_is_spent, chain_spent, "Agents must not feed each other without end."),
    Row("day-spent", day_is_spent, day_spent, "A day's cost is bounded."),
    Row(
        "conflict-first",
        lambda f, p: is_addressable(f, p) and needs_rebase(f, p),
        _rebase,
        "What is repaired on an old base is repaired twice.",
    ),
    Row("address-review", is_addressable, _address_review, "The author addresses what reviewers want."),
    Row(
        "fix-ci",
        lambda f, p: author_type(f, p) is not None and f.ci is Ci.RED,
        _fix_ci,
        "The author repairs checks that fail at the head.",
    ),
    Row(
        "conflict",
        lambda f, p: author_type(f, p) is not None and needs_rebase(f, p),
        _rebase,
        "The author takes the base in.",
    ),
    Row(
        "checking",
        lambda f, p: not f.pull.mergeable and not needs_rebase(f, p),
        _checking,
        "The forge says the same of a check that still runs as of a conflict.",
    ),
    Row("awaits-ci", lambda f, p: f.awaits_ci(p), _awaits_ci, "Nobody reviews or merges before the checks have ended."),
    Row("ci-cancelled", lambda f, _: f.ci is Ci.CANCELLED, _ci_cancelled, "Cancelled is neither red nor green."),
    Row("review", lambda f, p: bool(_reviewers(f, p)), _reviews, "Somebody else looks at it before it is merged."),
    Row("no-weight", _words_do_not_count, _no_weight, "An approval that the forge does not count merges nothing."),
    Row("quiet", lambda _f, _p: True, _quiet, "It is a person's turn."),
)
