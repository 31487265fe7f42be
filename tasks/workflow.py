"""The workflow: what the situation of an issue or a pull request asks for, now and at a task's turn. Pure: no I/O.

`decide` reads one of two tables from the top: `tasks.workflow_pull` or `tasks.workflow_issue`. `revise` is asked when
a task gets its turn: the facts may have changed since it was queued, and its event may have been wrong or repeated.
"""

from collections.abc import Sequence
from enum import StrEnum

from pool.model import Kind
from pool.states import Move
from tasks.forge_values import Ci
from tasks.situation import Facts, IssueFacts, Policy, PullFacts
from tasks.workflow_issue import ISSUE_ROWS, assigned_types
from tasks.workflow_pull import (
    PULL_ROWS,
    REBASES,
    fixes_are_spent,
    is_addressable,
    needs_rebase,
    rebases_are_spent,
    rounds_are_spent,
)
from tasks.workflow_rows import Row, chain_is_spent, day_is_spent
from tasks.workflow_steps import AskPerson, AskReview, Decision, Enqueue, Go, Start, Step, Wait, Withdraw

__all__ = [
    "ISSUE_ROWS",
    "PULL_ROWS",
    "AskPerson",
    "AskReview",
    "Decision",
    "Enqueue",
    "Go",
    "Next",
    "Row",
    "Start",
    "Step",
    "Wait",
    "Withdraw",
    "after",
    "assigned_types",
    "decide",
    "decide_issue",
    "decide_pull",
    "revise",
]


class Next(StrEnum):
    """What follows a run, in the transaction that records its end."""

    NOTHING = "nothing"  # a look at the forge will tell
    RETRY = "retry"  # the same work again, in its old place in the queue


def after(move: Move) -> Next:
    """Tell what follows a run that ended with this move."""
    return Next.RETRY if move is Move.INTERRUPT else Next.NOTHING


# --- now -----------------------------------------------------------------------------------------


def decide(facts: Facts, policy: Policy) -> Decision:
    """Return what the first row that fits makes of the situation."""
    return decide_pull(facts, policy) if isinstance(facts, PullFacts) else decide_issue(facts, policy)


def decide_pull(facts: PullFacts, policy: Policy) -> Decision:
    """Return what the situation of a pull request asks for."""
    row = next(row for row in PULL_ROWS if row.fits(facts, policy))
    why, steps = row.decide(facts, policy)
    return Decision(rule=row.name, why=why, steps=steps)


def decide_issue(facts: IssueFacts, policy: Policy) -> Decision:
    """Return what the situation of an issue asks for."""
    row = next(row for row in ISSUE_ROWS if row.fits(facts, policy))
    why, steps = row.decide(facts, policy)
    return Decision(rule=row.name, why=why, steps=steps)


# --- at the turn of a task -----------------------------------------------------------------------


def revise(
    *, kind: Kind, type_name: str, head_sha: str | None, by_hand: bool, facts: Facts, policy: Policy
) -> Go | Withdraw:
    """Tell whether a task is still wanted, now that it is its turn.

    head_sha: commit that its event spoke of. by_hand: a person dispatched it, and knows why.
    """
    head = facts.pull.head_sha if isinstance(facts, PullFacts) else None
    if by_hand or kind in {Kind.CUSTOM, Kind.MERGE}:
        return Go(head_sha=head, why="a person wants it" if by_hand else "it goes by its own words")
    refusal = _common(facts, policy)
    if refusal is None and isinstance(facts, IssueFacts):
        refusal = _revise_issue(kind, type_name, facts, policy)
    elif refusal is None and isinstance(facts, PullFacts):
        refusal = _revise_pull(kind, type_name, head_sha, facts, policy)
    return refusal or Go(head_sha=head, why="the facts still ask for it")


def _common(facts: Facts, policy: Policy) -> Withdraw | None:
    subject = facts.pull if isinstance(facts, PullFacts) else facts.issue
    if not subject.is_open:
        return Withdraw(why=f"#{subject.number} is closed")
    if facts.hold is not None:
        return Withdraw(why=f"nothing is begun: {facts.hold}")
    if chain_is_spent(facts, policy) or day_is_spent(facts, policy):
        return Withdraw(why="as many tasks ran for it as are allowed")
    return None


def _revise_issue(kind: Kind, type_name: str, facts: IssueFacts, policy: Policy) -> Withdraw | None:
    number = facts.issue.number
    if kind is not Kind.IMPLEMENT:
        return Withdraw(why=f"#{number} is an issue, and {kind} is about pull requests")
    if type_name not in assigned_types(facts, policy):
        return Withdraw(why=f"#{number} is not assigned to {type_name} any more")
    if facts.blockers:
        return Withdraw(why="it depends on " + ", ".join(f"#{blocker}" for blocker in facts.blockers))
    own = [pull for pull in facts.pulls if policy.type_of(pull.pull.author) == type_name]
    if own:
        return Withdraw(why=f"the work goes on in #{own[0].pull.number}", instead=_instead(own, policy))
    return None


def _instead(own: Sequence[PullFacts], policy: Policy) -> Start | None:
    """Return what the pull requests need in place of being implemented once more."""
    wanted = {Kind.ADDRESS_REVIEW, Kind.REBASE, Kind.RESOLVE}
    steps = (step for facts in own if is_addressable(facts, policy) for step in decide_pull(facts, policy).steps)
    return next((step for step in steps if isinstance(step, Start) and step.kind in wanted), None)


def _revise_pull(kind: Kind, type_name: str, head_sha: str | None, facts: PullFacts, policy: Policy) -> Withdraw | None:
    match kind:
        case Kind.REVIEW:
            return _revise_review(type_name, facts, policy)
        case Kind.ADDRESS_REVIEW:
            return _revise_address(facts, policy)
        case Kind.FIX_CI:
            return _revise_fix(head_sha, facts, policy)
        case Kind.REBASE | Kind.RESOLVE:
            return _revise_rebase(facts, policy)
        case _:
            return Withdraw(why=f"#{facts.pull.number} is a pull request, and {kind} is about issues")


def _revise_review(type_name: str, facts: PullFacts, policy: Policy) -> Withdraw | None:
    login = policy.logins.get(type_name, "")
    if login.lower() == facts.pull.author.lower():
        return Withdraw(why=f"{login} wrote #{facts.pull.number}, and nobody reviews their own work")
    if facts.has_verdict(login):
        return Withdraw(why=f"{login} has said yes or no to the head")
    if rounds_are_spent(facts, policy, login):
        return Withdraw(why=f"{login} has asked for changes {facts.rounds(login)} times: a person has to look")
    return None


def _revise_address(facts: PullFacts, policy: Policy) -> Withdraw | None:
    if not facts.outstanding:
        return Withdraw(why="nobody wants changes on which nobody has worked")
    spent = [review.author for review in facts.outstanding if rounds_are_spent(facts, policy, review.author)]
    if spent:
        return Withdraw(why=f"{spent[0]} has asked for changes {facts.rounds(spent[0])} times: a person has to look")
    if needs_rebase(facts, policy):
        steps = decide_pull(facts, policy).steps
        instead = next((step for step in steps if isinstance(step, Start) and step.kind in REBASES), None)
        return Withdraw(why=f"it conflicts with {facts.pull.base_ref}, which comes first", instead=instead)
    return None


def _revise_fix(head_sha: str | None, facts: PullFacts, policy: Policy) -> Withdraw | None:
    if head_sha is not None and head_sha != facts.pull.head_sha:
        return Withdraw(why="what failed is not the head any more")
    if facts.ci not in {Ci.RED, Ci.NONE}:
        return Withdraw(why=f"the checks of the head are {facts.ci}")
    if fixes_are_spent(facts, policy):
        return Withdraw(why="the checks were repaired as often as is allowed: a person has to look")
    return None


def _revise_rebase(facts: PullFacts, policy: Policy) -> Withdraw | None:
    if facts.pull.mergeable and not needs_rebase(facts, policy):
        return Withdraw(why="it can be merged as it is")
    if rebases_are_spent(facts, policy):
        return Withdraw(why="it was made mergeable as often as is allowed: a person has to look")
    return None
