"""The life of one run in five named steps: claim, prepare, run, record, follow."""

import time
from dataclasses import replace
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from pool.crashpoints import Point, reach
from pool.errors import AgentError, BadInput, CheckoutError, ForgeError, ForgepoolError, StaleTask
from pool.model import Kind, Task
from pool.states import LIVE, Move
from pool.store import Claim, DeadLettered, NoClaim, Queued, Submitted, Tx
from tasks import merge, workflow
from tasks.aftermath import note_begin, note_end
from tasks.course import Course, Withdrawn, instead_of, proof_of, set_course
from tasks.dispatch import announce, labels_of, retry_interrupted, ring_if_silent
from tasks.engine import Engine
from tasks.forges import Forges
from tasks.judge import Outcome, judge, stopped
from tasks.lease import RunLease
from tasks.prepare import Prepared, prepare
from tasks.runner import Agent
from tasks.situation import IssueFacts

log = structlog.get_logger(__name__)

#: How long a finished run tries to get its result into a database that is away. Its lease ends long before;
#: the guard on the record decides whether it still counts.
RECORD_S = 600.0
RECORD_PAUSE_S = 1.0


def answer(engine: Engine, instance: str, *, worker_token: str | None, bell: int | None = None) -> dict[str, Any]:
    """Answer one doorbell: run the head of the instance's queue, if there is one.

    worker_token: of the worker lease. bell: the task that the message named, for the log.
    Returns what Celery shows of it. Raises what ended the process (SystemExit) after the run has been recorded.
    """
    claimed = claim(engine, instance, worker_token=worker_token, bell=bell)
    if isinstance(claimed, NoClaim):
        return {"task": None, "why": claimed.why}
    with structlog.contextvars.bound_contextvars(task=claimed.task.id, instance=instance):
        outcome = Outcome(move=Move.INTERRUPT, why="the worker was stopped while the agent ran")
        try:
            with RunLease(engine.store, claimed, lease_s=engine.settings.service.run_lease_s) as lease:
                reach(Point.CLAIMED)
                outcome = perform(engine, claimed, lease)
        except Exception as error:  # the edge of a run: whatever it was, the task must not stay "running"
            log.exception("run failed")
            outcome = Outcome(move=Move.FAIL, why=f"an error in forgepool: {type(error).__name__}: {error}")
        finally:
            # Also when the worker is terminated: SystemExit may come at any line above (celery issue 10271).
            reach(Point.ENDED)
            recorded = record(engine, claimed, outcome)
            reach(Point.RECORDED)
            if recorded is not None:
                _follow(engine, claimed, recorded)
    return {"task": claimed.task.id, "outcome": outcome.move, "why": outcome.why}


def claim(engine: Engine, instance: str, *, worker_token: str | None, bell: int | None) -> Claim | NoClaim:
    """Step 1: take the head of the queue, whatever task the doorbell named."""
    with engine.store.writing() as tx:
        claimed = tx.claim(
            instance,
            lease_s=engine.settings.service.run_lease_s,
            worker_token=worker_token,
            host=engine.settings.service.host,
            types=engine.settings.types,
        )
        if isinstance(claimed, Claim):
            note_begin(engine, tx, claimed.task)
    match claimed:
        case NoClaim(why):
            log.info("nothing to run", instance=instance, why=why, bell=bell)
        case Claim(task=task):
            log.info("task started", task=task.id, instance=instance, bell=bell)
    return claimed


def perform(engine: Engine, claimed: Claim, lease: RunLease) -> Outcome:
    """Do steps 2 and 3 under the lease, on facts that are read anew, and have the forge prove what was done."""

    def is_unwanted() -> bool:
        return lease.order() is not None

    task = claimed.task
    if task.request.kind is Kind.MERGE:
        return _link(engine, claimed, lease)
    with Forges(engine.settings, is_unwanted=is_unwanted) as forges:
        try:
            course = set_course(engine, forges, task, is_unwanted=is_unwanted)
        except ForgeError as error:
            return stopped(lease.order()) or Outcome(move=Move.FAIL, why=f"the facts could not be read: {error}")
        if isinstance(course, Withdrawn):
            return _withdrawn(engine, claimed, course)
        outcome = work(engine, claimed, course, lease)
        if outcome.move is Move.SUCCEED:
            outcome = _proven(engine, forges, task, course, outcome, lease=lease)
    return outcome


def _link(engine: Engine, claimed: Claim, lease: RunLease) -> Outcome:
    """Run one link of the chain that merges; it has no agent."""
    done = merge.run_link(engine, claimed, lease)
    return Outcome(move=done.move, why=done.why, then=done.then, agent_is_gone=True)


def _withdrawn(engine: Engine, claimed: Claim, course: Withdrawn) -> Outcome:
    def then(tx: Tx) -> list[Submitted]:
        start, request = course.instead, instead_of(course)
        if start is None or request is None:
            return []
        submitted = tx.submit(
            start.type,
            request,
            by=str(claimed.task.instance),
            default_labels=labels_of(engine, start.type),
            absorb=LIVE,
            one_conversation=engine.settings.service.one_conversation,
            rule=f"in place of {claimed.task.id}",
            delivery=claimed.task.delivery,
        )
        return [submitted]

    return Outcome(move=Move.WITHDRAW, why=course.why, then=then, agent_is_gone=True)


def _proven(
    engine: Engine, forges: Forges, task: Task, course: Course, outcome: Outcome, *, lease: RunLease
) -> Outcome:
    """Let the forge tell whether it was done: what the agent says of itself is no evidence."""

    def is_unwanted() -> bool:
        return lease.order() is not None

    login = engine.settings.type(task.type).forge_user
    proof, after = proof_of(engine, forges, task, course, login=login, is_unwanted=is_unwanted)
    looks = tuple(pull.pull.number for pull in after.pulls) if isinstance(after, IssueFacts) else ()
    evidence = replace(outcome.evidence, proof=proof.why)
    if proof.ok:
        return replace(outcome, evidence=evidence, looks=looks)
    if order := stopped(lease.order()):
        # It may well have been done: whoever is ordered to stop does not wait until the forge shows it.
        return replace(outcome, move=order.move, why=order.why, evidence=evidence, looks=looks)
    said = f"; the agent said: {outcome.why}" if outcome.evidence.summary else ""
    return replace(outcome, move=Move.FAIL, why=proof.why + said, evidence=evidence, looks=looks)


def work(engine: Engine, claimed: Claim, course: Course, lease: RunLease) -> Outcome:
    """Prepare and run. A conversation that is gone is started afresh, once."""

    def is_unwanted() -> bool:
        return lease.order() is not None

    try:
        prepared = prepare(engine, claimed, course, session_id=claimed.session_id, is_unwanted=is_unwanted)
        outcome = run(engine, claimed, prepared, lease)
        if outcome.move is Move.FAIL and prepared.call.session_id and prepared.preset.resume_failed(prepared.log_path):
            log.warning("session is gone, starting afresh", session=prepared.call.session_id)
            with engine.store.writing() as tx:
                tx.drop_session(claimed.task.session_key)
            prepared = prepare(engine, claimed, course, session_id=None, is_unwanted=is_unwanted)
            outcome = run(engine, claimed, prepared, lease)
            notes = ("the stored conversation was gone, so a new one was started", *outcome.evidence.notes)
            outcome = replace(outcome, evidence=replace(outcome.evidence, notes=notes))
    except (CheckoutError, AgentError, BadInput, OSError) as error:
        # Nothing was run, or it could not be started; the sentence tells a person what to mend.
        return stopped(lease.order()) or Outcome(move=Move.FAIL, why=str(error))
    return outcome


def run(engine: Engine, claimed: Claim, prepared: Prepared, lease: RunLease) -> Outcome:
    """Step 3: start the agent, watch it, and judge what it left behind."""
    if outcome := stopped(lease.order()):
        return outcome
    with Agent.start(prepared.command, prepared.limits) as agent:
        log.info("agent started", pid=agent.pid, program=prepared.command.argv[0])
        with engine.store.writing() as tx:
            tx.note_agent(claimed.task.id, fence=claimed.fence, pid=agent.pid, started=agent.started)
        reach(Point.RUNNING)
        ended = agent.watch(lease.order)
    return judge(prepared, ended)


def record(engine: Engine, claimed: Claim, outcome: Outcome) -> list[Submitted | DeadLettered] | None:
    """Step 4: write the end of the run, and with it what comes next: its retry if the machinery lost it, a next link.

    Returns what was queued, to be announced; None when the result no longer counts because the lease was lost.
    """
    task, by = claimed.task.id, str(claimed.task.instance)
    deadline = time.monotonic() + RECORD_S
    while True:
        again: list[Submitted | DeadLettered] = []
        try:
            with engine.store.writing() as tx:
                tx.finish(
                    task,
                    outcome.move,
                    fence=claimed.fence,
                    evidence=outcome.evidence,
                    why=outcome.why,
                    agent_is_gone=outcome.agent_is_gone,
                )
                if workflow.after(outcome.move) is workflow.Next.RETRY:
                    again.append(retry_interrupted(engine, tx, task, by=by))
                elif outcome.then is not None:
                    again += outcome.then(tx)
                note_end(engine, tx, claimed.task, outcome)
        except StaleTask as error:
            log.warning("result does not count", why=str(error))
            return None
        except (ForgepoolError, SQLAlchemyError) as error:
            if time.monotonic() >= deadline:
                log.error("result lost", why=str(error), outcome=outcome.move)
                return None
            log.warning("result not recorded yet", why=str(error))
            time.sleep(RECORD_PAUSE_S)
        else:
            log.info(
                "task ended", outcome=outcome.move, why=outcome.why, duration_s=round(outcome.evidence.duration_s, 1)
            )
            return again


def _follow(engine: Engine, claimed: Claim, again: list[Submitted | DeadLettered]) -> None:
    """Take the last step; what fails there is made good by the reconciler, and the result is in already."""
    try:
        follow(engine, claimed, again)
    except (ForgepoolError, SQLAlchemyError) as error:
        log.warning("nothing followed yet", why=str(error))


def follow(engine: Engine, claimed: Claim, again: list[Submitted | DeadLettered]) -> None:
    """Step 5: tell what comes next, and ring for the next of the queue."""
    announce(engine, again)
    instance = str(claimed.task.instance)
    if any(isinstance(one, Queued) and one.instance == instance for one in again):
        return
    with engine.store.reading() as tx:
        head = tx.head_of_queue(instance)
    if head is not None:
        # One message was answered by this run. If the others were lost, the queue would stand still until the
        # reconciler comes by, and again after each task.
        ring_if_silent(engine, head, instance)
