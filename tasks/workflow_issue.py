"""The table of the workflow for issues: what their situation asks for. Pure: no I/O.

The first row that fits decides. As in `tasks.workflow_pull`, a row never acts on news.
"""

from pool.model import Kind
from tasks.situation import IssueFacts, Policy
from tasks.workflow_gate import begin
from tasks.workflow_rows import Row, busy, chain_is_spent, chain_spent, day_is_spent, day_spent, held
from tasks.workflow_steps import Outcome, Start, wait


def assigned_types(facts: IssueFacts, policy: Policy) -> tuple[str, ...]:
    """Return the types whose accounts it is assigned to, each once."""
    return tuple(dict.fromkeys(name for login in facts.issue.assignees if (name := policy.type_of(login)) is not None))


def _unserved(facts: IssueFacts, policy: Policy) -> tuple[str, ...]:
    """Return the assigned types that have no open pull request for it."""
    have = {policy.type_of(pull.pull.author) for pull in facts.pulls}
    return tuple(name for name in assigned_types(facts, policy) if name not in have)


def _untried(facts: IssueFacts, policy: Policy) -> tuple[str, ...]:
    """Return those of them whose pull request nobody has merged or turned down."""
    had = {policy.type_of(pull.author) for pull in facts.ended if not _is_forgotten(facts, pull.number)}
    return tuple(name for name in _unserved(facts, policy) if name not in had)


def _is_forgotten(facts: IssueFacts, pull: int) -> bool:
    """Tell whether a person wanted it begun anew after that pull request had ended."""
    reset = facts.work.reset_at
    ended = next((one.updated_at for one in facts.ended if one.number == pull), None)
    return reset is not None and ended is not None and reset > ended


def _issue_closed(facts: IssueFacts, policy: Policy) -> Outcome:
    del policy
    return wait(f"#{facts.issue.number} is closed")


def _no_agent(facts: IssueFacts, policy: Policy) -> Outcome:
    del policy
    return wait(f"#{facts.issue.number} is assigned to no agent")


def _blocked(facts: IssueFacts, policy: Policy) -> Outcome:
    del policy
    return wait("it depends on " + ", ".join(f"#{number}" for number in facts.blockers))


def _has_pull(facts: IssueFacts, policy: Policy) -> Outcome:
    del policy
    return wait("the work goes on in " + ", ".join(f"#{pull.pull.number}" for pull in facts.pulls))


def _had_pull(facts: IssueFacts, policy: Policy) -> Outcome:
    del policy
    ends = ", ".join(f"#{pull.number} ({'merged' if pull.merged else 'closed'})" for pull in facts.ended)
    return wait(f"for it there was {ends}; if more is to be done, assign it anew or say /forgepool retry")


def _implement(facts: IssueFacts, policy: Policy) -> Outcome:
    outcomes = [
        begin(
            facts,
            policy,
            Start(
                kind=Kind.IMPLEMENT,
                type=name,
                number=facts.issue.number,
                head_sha=None,
                why=f"it is assigned to {policy.logins.get(name, name)}",
            ),
        )
        for name in _untried(facts, policy)
    ]
    return "; ".join(dict.fromkeys(why for why, _ in outcomes)), tuple(step for _, some in outcomes for step in some)


# --- the table ------------------------------------------------------------------------------------

ISSUE_ROWS: tuple[Row[IssueFacts], ...] = (
    Row("closed", lambda f, _: not f.issue.is_open, _issue_closed, "Nothing is left to do."),
    Row("held", lambda f, _: f.hold is not None, held, "A person wants nothing to be begun."),
    Row("no-agent", lambda f, p: not assigned_types(f, p), _no_agent, "Who is assigned implements, and no agent is."),
    Row("busy", lambda f, _: bool(f.work.live), busy, "One thing at a time; its end is looked at."),
    Row("blocked", lambda f, _: bool(f.blockers), _blocked, "What it depends on comes first."),
    Row("has-pull", lambda f, p: not _unserved(f, p), _has_pull, "The look at the pull request does the rest."),
    Row("had-pull", lambda f, p: not _untried(f, p), _had_pull, "What was merged or turned down is not done again."),
    Row("chain-spent", chain_is_spent, chain_spent, "Agents must not feed each other without end."),
    Row("day-spent", day_is_spent, day_spent, "A day's cost is bounded."),
    Row("implement", lambda _f, _p: True, _implement, "Who is assigned implements."),
)
