"""What a run is about to do, on facts that are read anew at its turn; and whether the forge shows that it was done.

Asks the forge. Without an account that reads it, a run goes on the word of its event, and is judged by its own traces.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar, assert_never

import structlog

from pool.errors import ForgeError, ForgeUnavailable, NotThere
from pool.model import Kind, Request, Task
from tasks.backoff import doubled
from tasks.engine import Engine
from tasks.facts import read_facts
from tasks.forge import Forge
from tasks.forge_values import failed
from tasks.forges import Forges
from tasks.look_act import request_of
from tasks.patience import rest
from tasks.prompts import Extras
from tasks.proof import Proof, prove
from tasks.situation import Facts, IssueFacts, Policy, PullFacts
from tasks.workflow import Go, Start, Withdraw, revise

log = structlog.get_logger(__name__)

#: Reviews and failed checks of which the words are fetched for a prompt.
MOST_WORDS = 5
#: What a push or a review has changed may be seen by the forge's own database a moment later.
PROOF_TRIES = 4
PROOF_PAUSE_S = 1.0
#: A forge that is away is waited for so long: its upgrade takes minutes, and would fail all tasks of a queue in turn.
AWAY_S = 900.0
AWAY_PAUSE_S, LONGEST_AWAY_PAUSE_S = 1.0, 30.0  #: between two questions, doubled each time

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a run is to do."""

    request: Request  #: as it is now: head, branch, words
    extras: Extras = field(default_factory=Extras)
    before: Facts | None = None  #: None: nobody could be asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """The run is needless."""

    why: str
    instead: Start | None = None
    facts: Facts


def set_course(
    engine: Engine,
    forges: Forges,
    task: Task,
    *,
    is_unwanted: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> Course | Withdrawn:
    """Read the facts anew and decide whether and how the task is done. Waits for a forge that is away.

    Raises ForgeError when the facts cannot be had.
    """
    forge = forges.main()
    if forge is None or task.request.kind is Kind.CUSTOM:
        return Course(request=task.request)
    asked = partial(_set_course, engine, forge, task)
    return _answered(asked, is_unwanted=is_unwanted, sleep=sleep)


def _set_course(engine: Engine, forge: Forge, task: Task) -> Course | Withdrawn:
    request = task.request
    facts = read_facts(forge, engine, request.repo, request.number)
    policy = Policy.of(engine.settings)
    found = revise(
        kind=request.kind,
        type_name=task.type,
        head_sha=request.head_sha,
        by_hand=task.rule is None,
        facts=facts,
        policy=policy,
    )
    match found:
        case Withdraw(why=why, instead=instead):
            return Withdrawn(why=why, instead=instead, facts=facts)
        case Go(head_sha=head_sha):
            fresh = _refreshed(request, facts, head_sha)
            return _with_words(forge, Course(request=fresh, before=facts), facts)
        case _ as never:
            assert_never(never)


def instead_of(withdrawn: Withdrawn) -> Request | None:
    """Return what is to be done in place of a task that was withdrawn."""
    return None if withdrawn.instead is None else request_of(withdrawn.instead, withdrawn.facts)


def _refreshed(request: Request, facts: Facts, head_sha: str | None) -> Request:
    match facts:
        case IssueFacts(issue=issue):
            return replace(request, title=issue.title, body=issue.body, labels=issue.labels, url=issue.url)
        case PullFacts(pull=pull):
            return replace(
                request,
                title=pull.title,
                body=pull.body,
                url=pull.url,
                branch=pull.branch,
                base=pull.base_ref,
                head_sha=head_sha or pull.head_sha,
            )
        case _ as never:
            assert_never(never)


# --- words for the prompt ------------------------------------------------------------------------


def _with_words(forge: Forge, course: Course, facts: Facts) -> Course:
    """Add what the agent needs to know: reviews with their comments on lines, the end of the failing log."""
    if not isinstance(facts, PullFacts):
        return replace(course, extras=replace(course.extras, earlier=_earlier(course.request.kind, facts)))
    extras = replace(
        course.extras,
        base=facts.pull.base_ref,
        ci=str(facts.ci),
        linked_issue=facts.issue,
        earlier=_earlier(course.request.kind, facts),
    )
    request = course.request
    if request.kind is Kind.ADDRESS_REVIEW:
        words = facts.outstanding[-MOST_WORDS:]
        said = "\n\n".join(f"{review.author}: {review.body}" for review in words if review.body)
        request = replace(request, detail=said or request.detail)
        comments = [c for review in words for c in forge.review_comments(request.repo, request.number, review.id)]
        extras = replace(extras, review_comments=tuple(comments))
    if request.kind is Kind.FIX_CI:
        extras = _with_log(forge, request.repo, facts, extras)
        request = replace(request, detail=_checks(facts) or request.detail)
    return replace(course, request=request, extras=extras)


def _with_log(forge: Forge, repo: str, facts: PullFacts, extras: Extras) -> Extras:
    for status in failed(facts.statuses)[:MOST_WORDS]:
        tail = forge.failing_log(repo, status)
        if tail:
            return replace(extras, log_tail=f"{status.context}\n{tail}")
    return replace(extras, log_missing="the forge gives no log of the failed checks")


def _checks(facts: PullFacts) -> str:
    lines = (f"{s.context}: {s.state} - {s.description} {s.target_url}".strip() for s in failed(facts.statuses))
    return "\n".join(lines)


def _earlier(kind: Kind, facts: Facts) -> tuple[str, ...]:
    """Return why earlier tries at the same failed, oldest first."""
    past = [task for task in facts.work.past if task.kind is kind and task.agent_ran and not task.is_live]
    return tuple(f"task {task.id} {task.state}: {task.reason}" for task in past if task.state != "succeeded")[-3:]


# --- the proof -----------------------------------------------------------------------------------


def proof_of(
    engine: Engine,
    forges: Forges,
    task: Task,
    course: Course,
    *,
    login: str,
    is_unwanted: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Proof, Facts | None]:
    """Ask the forge whether the run did what it was for; a moment's patience, since it may be slow to notice.

    Waits for a forge that is away: what an agent has done in an hour does not count as undone for that.
    """
    forge = forges.main()
    if forge is None or course.before is None or task.started_at is None:
        return Proof(ok=True, why=""), None
    proof, after = Proof(ok=False, why="the forge could not be asked for the proof"), None
    for attempt in range(PROOF_TRIES):
        try:
            asked = partial(read_facts, forge, engine, task.request.repo, task.request.number)
            after = _answered(asked, is_unwanted=is_unwanted, sleep=sleep)
            proof = prove(task.request.kind, login=login, before=course.before, after=after, started_at=task.started_at)
        except NotThere as error:
            return Proof(ok=False, why=str(error)), None
        except ForgeError as error:
            log.warning("proof not read", why=str(error))
            proof = Proof(ok=False, why=f"the forge could not be asked for the proof: {error}")
            if isinstance(error, ForgeUnavailable):
                break
        if proof.ok or is_unwanted() or attempt == PROOF_TRIES - 1:
            break
        sleep(PROOF_PAUSE_S * (attempt + 1))
    return proof, after


# --- patience ------------------------------------------------------------------------------------


def _answered(ask: Callable[[], T], *, is_unwanted: Callable[[], bool], sleep: Callable[[float], None]) -> T:
    """Ask until the forge answers. Raises ForgeError: at once what it says, and after `AWAY_S` that it is away."""
    waited_s, tries = 0.0, 0
    while True:
        try:
            return ask()
        except ForgeUnavailable as error:
            if waited_s >= AWAY_S:
                raise
            pause_s = doubled(AWAY_PAUSE_S, tries, longest_s=LONGEST_AWAY_PAUSE_S)
            log.warning("forge is waited for", why=str(error), again_s=pause_s, waited_s=waited_s)
            waited_s, tries = waited_s + pause_s, tries + 1
            if not rest(pause_s, is_unwanted=is_unwanted, sleep=sleep):
                raise
