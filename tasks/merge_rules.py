"""What may be done with a pull request whose turn to be merged it is: facts in, a verdict out. Pure: no I/O.

Every link of the chain asks here, on facts that it has just read; nothing that an earlier link found counts.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from pool.lanes import Merge, Refusal
from tasks.forge_values import Ci, failed
from tasks.situation import Policy, PullFacts

#: Forgejo modules/setting/repository.go, the default of CLOSE_KEYWORDS.
_WORDS = r"close[sd]?|fix(?:e[sd])?|resolve[sd]?"
#: Forgejo modules/references/references.go wants a blank behind the number, or punctuation and then a blank; people
#: write more than that, and what they name is meant to be closed.
_CLOSES = re.compile(rf"(?:^|(?<=\W))(?:{_WORDS}):?\s+#([1-9][0-9]{{0,17}})(?![\w/#-])", re.IGNORECASE)

#: Bounds of the pause before a parked merge is looked at again, if no webhook hurries it.
SOONEST_S, LATEST_S = 5.0, 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """It is merged already, by whomever."""

    sha: str | None  #: of the merge, as far as the forge tells


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """It may be merged now, at this head."""

    head_sha: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsUpdate:
    """The base has moved; the head takes it in first."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotYet:
    """Time will tell."""

    why: str
    look_after_s: float | None  #: when there may be news; None: nobody can tell, so the longer, the rarer
    may_settle: bool = False  #: the forge only has to make up its mind, which takes seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class CannotMerge:
    """It will not be merged as it is."""

    code: Refusal
    sentence: str  #: for a person: what is in the way


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """It goes into another branch now, whose lane is another one."""

    base: str


Verdict = Merged | Ready | NeedsUpdate | NotYet | CannotMerge | Elsewhere


@dataclass(frozen=True, slots=True)
class _Case:
    """What the rows look at."""

    facts: PullFacts
    policy: Policy
    merge: Merge


def judge(facts: PullFacts, policy: Policy, merge: Merge) -> Verdict:
    """Tell what may be done with it; the first row that has something to say decides."""
    case = _Case(facts, policy, merge)
    return next(verdict for row in ROWS if (verdict := row(case)) is not None)


def _merged(case: _Case) -> Verdict | None:
    pull = case.facts.pull
    return Merged(sha=pull.merge_commit_sha) if pull.merged else None


def _closed(case: _Case) -> Verdict | None:
    if case.facts.pull.is_open:
        return None
    return CannotMerge(code=Refusal.CLOSED, sentence="it was closed without being merged")


def _elsewhere(case: _Case) -> Verdict | None:
    base = case.facts.pull.base_ref
    return Elsewhere(base=base) if base != case.merge.base else None


def _nobody_merges(case: _Case) -> Verdict | None:
    if case.policy.merge_type is not None:
        return None
    return CannotMerge(code=Refusal.NOT_CONFIGURED, sentence="no type merges: describe the one that merge_type names")


def _draft(case: _Case) -> Verdict | None:
    return CannotMerge(code=Refusal.DRAFT, sentence="it is a draft") if case.facts.pull.draft else None


def _held(case: _Case) -> Verdict | None:
    hold = case.facts.hold
    return CannotMerge(code=Refusal.HELD, sentence=hold) if hold else None


def _unwanted_changes(case: _Case) -> Verdict | None:
    unhappy = case.facts.requests_for_changes
    if not unhappy:
        return None
    sentence = f"{_names(review.author for review in unhappy)} asked for changes and has not approved since"
    return CannotMerge(code=Refusal.CHANGES_REQUESTED, sentence=sentence)


def _unapproved(case: _Case) -> Verdict | None:
    facts = case.facts
    if facts.is_approved:
        return None
    sentence = f"nobody whose word counts has approved its head {_short(facts.pull.head_sha)}"
    return CannotMerge(code=Refusal.NOT_APPROVED, sentence=sentence)


def _red(case: _Case) -> Verdict | None:
    facts = case.facts
    if facts.ci is not Ci.RED:
        return None
    names = _names(status.context for status in failed(facts.statuses))
    return CannotMerge(code=Refusal.RED, sentence=f"{names} failed on its head {_short(facts.pull.head_sha)}")


def _called_off(case: _Case) -> Verdict | None:
    facts = case.facts
    if facts.ci is not Ci.CANCELLED:
        return None
    sentence = f"checks of its head {_short(facts.pull.head_sha)} were cancelled: run them again"
    return CannotMerge(code=Refusal.CANCELLED_CI, sentence=sentence)


def _conflict(case: _Case) -> Verdict | None:
    if not case.facts.conflicts(case.policy):
        return None
    return CannotMerge(code=Refusal.CONFLICT, sentence=f"it conflicts with {case.merge.base}")


def _checks_run(case: _Case) -> Verdict | None:
    facts, policy = case.facts, case.policy
    if not facts.awaits_ci(policy):
        return None
    head = _short(facts.pull.head_sha)
    if facts.ci is Ci.PENDING:
        return NotYet(why=f"checks of its head {head} have not ended", look_after_s=None)
    since = facts.work.head_since if facts.work.head_sha == facts.pull.head_sha else None
    left = policy.ci_grace_s - ((facts.now - since).total_seconds() if since else 0)
    return NotYet(why=f"checks of its head {head} may still begin", look_after_s=max(1.0, left))


def _behind(case: _Case) -> Verdict | None:
    pull = case.facts.pull
    if not pull.is_behind:
        return None
    return NeedsUpdate(why=f"{pull.base_ref} has moved to {_short(pull.base_sha)}")


def _unsettled(case: _Case) -> Verdict | None:
    facts = case.facts
    if facts.pull.mergeable:
        return None
    since = facts.work.unmergeable_since if facts.work.unmergeable_at == facts.unmergeable_mark else None
    left = case.policy.settle_s - ((facts.now - since).total_seconds() if since else 0)
    return NotYet(why="the forge still checks whether it can be merged", look_after_s=max(1.0, left), may_settle=True)


def _ready(case: _Case) -> Verdict | None:
    return Ready(head_sha=case.facts.pull.head_sha)


#: Read from the top. What nobody wants merged comes first, then what must not be merged, then what takes time.
ROWS: tuple[Callable[[_Case], Verdict | None], ...] = (
    *(_merged, _closed, _elsewhere, _nobody_merges),
    *(_draft, _held, _unwanted_changes, _unapproved, _red, _called_off, _conflict),
    *(_checks_run, _behind, _unsettled, _ready),
)


# --- time ----------------------------------------------------------------------------------------


def pause_s(*, begun_at: datetime, now: datetime) -> float:
    """Return when to look again if nothing tells: the longer it has taken, the rarer."""
    return min(LATEST_S, max(SOONEST_S, (now - begun_at).total_seconds() / 4))


# --- words ---------------------------------------------------------------------------------------


def closing_numbers(text: str) -> tuple[int, ...]:
    """Return the issues that a text says it closes, each once, in the order of the text."""
    return tuple(dict.fromkeys(int(number) for number in _CLOSES.findall(text)))


def _short(sha: str) -> str:
    return sha[:10]


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))
