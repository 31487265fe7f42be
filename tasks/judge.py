"""Whether a run was a success: the ending, the agent's own words and the checkout, weighed. Reads the log, runs git."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

from pool.errors import CheckoutError
from pool.model import Evidence
from pool.states import Move
from pool.store import Submitted, Tx
from tasks import workdir
from tasks.findings import Found
from tasks.lease import StopRun, Why
from tasks.prepare import Prepared
from tasks.runner import Ended, Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended: the move to make, why, and the evidence for it."""

    move: Move
    why: str
    evidence: Evidence = field(default_factory=Evidence)
    #: Whether every process of the agent was seen to end; if not, the reconciler looks for them.
    agent_is_gone: bool = False
    #: What is to be done in the transaction that records it; returns what was queued.
    then: "Then | None" = None
    #: Numbers of issues and pull requests, beside the task's own, that look different on the forge now.
    looks: tuple[int, ...] = ()


Then = Callable[[Tx], list[Submitted]]


def judge(prepared: Prepared, ended: Ended) -> Outcome:
    """Tell success from every other ending. Success needs evidence; an end alone is none."""
    found = prepared.preset.evidence(prepared.log_path, prepared.call.result_path)
    evidence = _evidence(prepared, ended, found)
    move, why = _verdict(prepared, ended, found, evidence)
    is_gone = not ended.survivors and not ended.launcher_died
    return Outcome(move=move, why=why, evidence=evidence, agent_is_gone=is_gone)


def stopped(order: StopRun | None) -> Outcome | None:
    """Return how a run ends that was ordered to stop; None without an order."""
    if order is None:
        return None
    match order.why:
        case Why.CANCEL:
            return Outcome(move=Move.CANCEL, why=order.reason)
        case Why.SHUTDOWN | Why.LEASE_LOST:
            return Outcome(move=Move.INTERRUPT, why=order.reason)
        case _ as never:
            assert_never(never)


def _evidence(prepared: Prepared, ended: Ended, found: Found) -> Evidence:
    notes = [*prepared.notes, *found.notes]
    after = None
    try:
        after = workdir.head(prepared.checkout.path)
    except CheckoutError as error:
        notes.append(str(error))
    if ended.truncated:
        notes.append(f"the log was cut: the agent wrote {ended.output_bytes} bytes")
    if ended.survivors:
        notes.append(f"{ended.survivors} processes could not be ended yet")
    if ended.leftover:
        notes.append(f"{ended.leftover} processes were left over and were ended")
    return Evidence(
        exit_code=ended.exit_code,
        signal=ended.signal,
        duration_s=round(ended.duration_s, 3),
        output_bytes=ended.output_bytes,
        summary=found.summary,
        session_id=found.session_id,
        cost_usd=found.cost_usd,
        tokens=found.tokens,
        head_before=prepared.checkout.head,
        head_after=after,
        resumed=prepared.call.session_id is not None,
        notes=tuple(notes),
    )


def _verdict(prepared: Prepared, ended: Ended, found: Found, evidence: Evidence) -> tuple[Move, str]:
    match ended.ending:
        case Ending.STOPPED:
            order = ended.stop if isinstance(ended.stop, StopRun) else StopRun(reason="stopped")
            outcome = stopped(order)
            assert outcome is not None  # noqa: S101 - an order always ends a run
            return outcome.move, outcome.why
        case Ending.TIMED_OUT:
            return Move.TIME_OUT, f"it ran longer than its time limit of {prepared.type.time_limit_s:g} s"
        case Ending.SILENT:
            return Move.TIME_OUT, f"it printed nothing for {prepared.type.silence_limit_s:g} s"
        case Ending.EXITED if ended.launcher_died:
            return Move.INTERRUPT, "the process of forgepool that watches the agent was killed"
        case Ending.EXITED:
            return _judge_exit(prepared, ended, found, evidence)
        case _ as never:
            assert_never(never)


def _judge_exit(prepared: Prepared, ended: Ended, found: Found, evidence: Evidence) -> tuple[Move, str]:
    if ended.exit_code is None:
        return Move.FAIL, f"the agent was killed by signal {ended.signal}, which nobody here sent"
    if ended.exit_code != 0:
        return Move.FAIL, f"the agent ended with status {ended.exit_code}"
    if found.is_error:
        return Move.FAIL, "the agent said that it failed" + (f": {found.summary[:200]}" if found.summary else "")
    if prepared.preset.needs_result and found.is_error is None:
        return Move.FAIL, "the agent ended without its final result: it was cut off, or it is another version"
    moved = evidence.head_after != evidence.head_before
    if not (evidence.output_bytes or found.summary or moved):
        return Move.FAIL, "the agent ended without a trace: no output, no result, no commit"
    return Move.SUCCEED, found.summary.partition("\n")[0][:200] or "the agent ended well"
