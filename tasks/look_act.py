"""Doing what was decided about one issue or pull request, in the transaction of the look. Writes to the store only."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, assert_never

import structlog

from pool.errors import BadInput, StaleTask
from pool.lanes import HOLDS_LANE, MergeState
from pool.model import Kind, Request
from pool.states import LIVE, Move, State
from pool.store import Absorbed, Rejected, Submitted, Tx
from pool.work import Look
from tasks.dispatch import labels_of
from tasks.engine import Engine
from tasks.facts import remember_issue
from tasks.forge_values import Issue
from tasks.situation import Facts, IssueFacts, Policy, PullFacts
from tasks.workflow import AskPerson, AskReview, Decision, Enqueue, Start, Step, Wait, assigned_types

log = structlog.get_logger(__name__)

BY = "look"  #: in histories of tasks, and as the source of lines of the trail
#: A look for one of these reasons finds what no webhook told.
_UNTOLD = frozenset({"poll", "start"})
REVIEW_AGAIN_S = 10.0  #: the request for a review is written within this time, if all is well
REJECTED_AGAIN_S = 30.0
#: The chain that merges ends by itself, and what comes after the merge is a link of it, too.
_ALL_BUT_MERGES = frozenset(Kind) - {Kind.MERGE}


class Lanes(Protocol):
    """How lanes are entered and left: the module `tasks.merge`."""

    def enter(  # noqa: D102
        self,
        engine: Engine,
        tx: Tx,
        repo: str,
        base: str,
        number: int,
        *,
        head_sha: str,
        approved_at: datetime,
        by: str,
    ) -> list[Submitted]: ...

    def leave(  # noqa: D102
        self,
        engine: Engine,
        tx: Tx,
        repo: str,
        number: int,
        *,
        state: MergeState,
        reason: str,
        merge_sha: str | None = None,
    ) -> list[Submitted]: ...


@dataclass(slots=True, kw_only=True)
class Act:
    """One look, in its transaction."""

    engine: Engine
    tx: Tx
    lanes: Lanes
    due: Look
    submitted: list[Submitted] = field(default_factory=list)  #: to be announced after the commit
    untold: int = 0  #: what was begun

    def carry_out(self, facts: Facts, decision: Decision, *, unblocks: tuple[int, ...] = ()) -> None:
        """Do what was decided, and tell it. unblocks: open issues that depended on this one."""
        tx, repo, number = self.tx, self.due.repo, self.due.number
        if isinstance(facts, IssueFacts):
            remember_issue(tx, facts.issue)
        for step in decision.steps:
            self._do(facts, decision, step)
        if self.untold and self.due.why in _UNTOLD:
            tx.count_repair("untold", self.untold)
        is_news = tx.tell(repo, number, source=BY, what=decision.rule, why=decision.why)
        if not _is_open(facts):
            self._close(facts, decision.why, is_news=is_news, unblocks=unblocks)
        if is_news and self._is_ours(facts, decision):
            self._owe_report()

    def _do(self, facts: Facts, decision: Decision, step: Step) -> None:
        match step:
            case Start():
                self._start(facts, decision, step)
            case Enqueue(base=base, head_sha=head, approved_at=at):
                here = (self.due.repo, base, self.due.number)
                entered = self.lanes.enter(self.engine, self.tx, *here, head_sha=head, approved_at=at, by=BY)
                self.submitted += entered
                self.untold += 1
            case AskReview():
                self._ask_review(facts, step)
            case AskPerson():
                self._ask_person(facts, step)
            case Wait(look_after_s=seconds):
                if seconds is not None:
                    self.look_again(seconds)
            case _ as never:
                assert_never(never)

    def look_again(self, after_s: float) -> None:
        """Have it looked at once more."""
        self.tx.look_later(self.due.repo, self.due.number, why="again", after_s=after_s)

    def _start(self, facts: Facts, decision: Decision, start: Start) -> None:
        try:
            request = request_of(start, facts)
        except BadInput as error:
            log.error("task cannot be made", repo=self.due.repo, number=self.due.number, why=str(error))
            self._ask_person(facts, AskPerson(cause="bad-input", sentence=f"{start.kind} cannot be begun: {error}"))
            return
        one = self.tx.submit(
            start.type,
            request,
            by=BY,
            default_labels=labels_of(self.engine, start.type),
            absorb=LIVE,
            one_conversation=self.engine.settings.service.one_conversation,
            rule=decision.rule,
        )
        self.submitted.append(one)
        self.untold += not isinstance(one, Absorbed)
        if isinstance(one, Rejected):
            self.look_again(REJECTED_AGAIN_S)

    def _ask_review(self, facts: Facts, step: AskReview) -> None:
        head = facts.pull.head_sha if isinstance(facts, PullFacts) else ""
        repo, number = self.due.repo, self.due.number
        key = f"request-review:{repo}#{number}:{head}:{step.login}"
        body = {"login": step.login, "head_sha": head}
        if self._owe(key, "request-review", number, body):
            self.look_again(REVIEW_AGAIN_S)
            return
        effect = self.tx.effect(key)
        if effect is not None and effect.given_up_at is not None:
            sentence = f"{step.login} could not be asked for a review: {effect.error}"
            self._ask_person(facts, AskPerson(cause="review-request", sentence=sentence))

    def _ask_person(self, facts: Facts, step: AskPerson) -> None:
        if step.cause in facts.work.asked:
            return
        number, pull = self.due.number, None
        if isinstance(facts, PullFacts):
            pull, number = number, facts.issue.number if facts.issue is not None else number
        reset = facts.work.reset_at
        key = f"ask:{step.cause}:{self.due.repo}#{number}:{int(reset.timestamp()) if reset else 0}"
        self._owe(key, "ask", number, {"cause": step.cause, "sentence": step.sentence, "pull": pull})

    def _owe_report(self) -> None:
        number = self.due.number
        self._owe(f"report:{self.due.repo}#{number}", "report", number, {}, again=True)

    def _owe(self, key: str, kind: str, number: int, body: Mapping[str, object], *, again: bool = False) -> bool:
        report_type = self.engine.settings.report_type
        return self.tx.owe(key, kind, repo=self.due.repo, number=number, type_name=report_type, body=body, again=again)

    def _is_ours(self, facts: Facts, decision: Decision) -> bool:
        """Tell whether there is anything to report: most issues and pull requests are none of an agent's business."""
        if facts.work.past or facts.work.merges or any(not isinstance(step, Wait) for step in decision.steps):
            return True
        return self.tx.effect(f"report:{self.due.repo}#{self.due.number}") is not None

    # --- the end --------------------------------------------------------------------------------

    def _close(self, facts: Facts, why: str, *, is_news: bool, unblocks: tuple[int, ...]) -> None:
        self.drop(why)
        if isinstance(facts, PullFacts):
            merge, pull = facts.work.open_merge, facts.pull
            is_under_way = pull.merged and merge is not None and merge.state in HOLDS_LANE
            if not is_under_way:
                state = MergeState.MERGED if pull.merged else MergeState.WITHDRAWN
                self.leave_lane(state, why, merge_sha=pull.merge_commit_sha if pull.merged else None)
            unblocks = () if facts.issue is None else (facts.issue.number,)
        for number in unblocks if is_news else ():
            self.tx.look_later(self.due.repo, number, why="again")

    def drop(self, why: str) -> None:
        """Take back what waits, and end the conversations."""
        self.tx.supersede(self.due.repo, self.due.number, by=BY, why=why, kinds=_ALL_BUT_MERGES)
        self.tx.drop_sessions_of(self.due.repo, self.due.number)

    def leave_lane(self, state: MergeState, why: str, *, merge_sha: str | None = None) -> None:
        """Take it out of its lane, if it is in one."""
        repo, number = self.due.repo, self.due.number
        if self.tx.open_merge(repo, number) is None:
            return
        left = self.lanes.leave(self.engine, self.tx, repo, number, state=state, reason=why, merge_sha=merge_sha)
        self.submitted += left


def drop_unassigned(tx: Tx, facts: Facts, policy: Policy) -> bool:
    """Take back what waits for types that an issue is not assigned to any more; tell whether there was any."""
    if not isinstance(facts, IssueFacts):
        return False
    types = assigned_types(facts, policy)
    waiting = [task for task in facts.work.past if task.state is State.QUEUED and task.kind is Kind.IMPLEMENT]
    gone = [task for task in waiting if task.type not in types and not task.by_hand]
    for task in gone:
        # A worker may have taken it at this moment; then its own look at the facts withdraws it.
        with suppress(StaleTask):
            why = f"#{facts.issue.number} is not assigned to {task.type} any more"
            tx.move(task.id, Move.SUPERSEDE, by=BY, why=why)
    return bool(gone)


def request_of(start: Start, facts: Facts) -> Request:
    """Return the request for what is to be started. Raises BadInput for names that no worker could use."""
    if isinstance(facts, IssueFacts):
        about = next((pull for pull in facts.pulls if pull.pull.number == start.number), None)
        return _of_issue(start, facts.issue) if about is None else _of_pull(start, about)
    return _of_pull(start, facts)


def _of_issue(start: Start, issue: Issue) -> Request:
    return Request(
        kind=start.kind,
        repo=issue.repo,
        number=start.number,
        title=issue.title,
        body=issue.body,
        detail=start.detail,
        labels=issue.labels,
        head_sha=start.head_sha,
        url=issue.url,
    )


def _of_pull(start: Start, facts: PullFacts) -> Request:
    pull = facts.pull
    return Request(
        kind=start.kind,
        repo=pull.repo,
        number=start.number,
        title=pull.title,
        body=pull.body,
        detail=start.detail,
        labels=tuple(sorted({*pull.labels, *(facts.issue.labels if facts.issue else ())})),
        branch=pull.branch,
        base=pull.base_ref,
        head_sha=start.head_sha,
        url=pull.url,
    )


def _is_open(facts: Facts) -> bool:
    return facts.pull.is_open if isinstance(facts, PullFacts) else facts.issue.is_open
