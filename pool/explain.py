"""Decisions, and what is in the way of an instance, as sentences for a person. Pure: no I/O."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from pool.lanes import MergeStep
from pool.model import Candidate, Decision, Instance, Kind, LabelRule, Rule, Task
from pool.states import InstanceState


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why nothing runs on an instance, and what a person can do about it."""

    why: str  #: a clause about the instance
    remedy: str


def hindrance(
    row: Instance, *, types: Collection[str], live_hosts: Collection[str | None], now: datetime
) -> Hindrance | None:
    """Tell what keeps an instance from working; None: nothing that can be seen from here.

    types: those of the configuration. live_hosts: where workers are alive, see `live_hosts`.
    """
    name = row.name
    if row.type not in types:
        return Hindrance(
            f"type {row.type} is not in the configuration",
            f"describe [types.{row.type}] again and restart, or `forgepool instances set {name} --type TYPE`, "
            "or cancel what waits there",
        )
    if row.state is InstanceState.PAUSED:
        return Hindrance("paused", f"`forgepool instances resume {name}`")
    if is_served(row, now):
        return None
    if row.host is not None and row.host not in live_hosts:
        return Hindrance(
            f"bound to host {row.host}, where no worker is alive",
            f"start `forgepool fleet` there, or `forgepool instances set {name} --host any`",
        )
    if not live_hosts:
        return Hindrance("no worker is running at all", "`forgepool up`, or `forgepool fleet`")
    return Hindrance(
        "no worker serves it, though others are served", f"see logs/workers/{name}.log in the state folder"
    )


def live_hosts(rows: Collection[Instance], now: datetime) -> set[str | None]:
    """Return the hosts whose workers are alive."""
    return {row.worker_host for row in rows if is_served(row, now)}


def is_served(row: Instance, now: datetime) -> bool:
    """Tell whether a worker holds the lease of an instance."""
    return row.worker_until is not None and row.worker_until > now


def sentences(decision: Decision) -> list[str]:
    """Tell, in order, what was looked at, what decided, and where the rotation stands."""
    lines = [_pool(decision)]
    lines += [f"  {_candidate(c, chosen=c.name == decision.chosen)}" for c in decision.candidates]
    if labels := _labels(decision):
        lines.append(labels)
    lines += [_choice(decision), _cursor(decision)]
    if decision.paused_only and decision.rule is not Rule.SAME_SESSION:
        lines.append("Every instance of the type is paused: the task waits until one is resumed.")
    return lines


def short(decision: Decision) -> str:
    """Tell why in a few words, for a line of a table or a log."""
    words = {
        Rule.ONLY_ONE: "the only candidate",
        Rule.IDLE: "the only idle one",
        Rule.ROUND_ROBIN: f"idle, next after {decision.cursor_before or 'the start'}",
        Rule.LEAST_LOADED: "none idle, fewest queued",
        Rule.TIE: f"none idle, equal queues, next after {decision.cursor_before or 'the start'}",
        Rule.SAME_SESSION: f"same conversation as task {decision.session_task}",
    }[decision.rule]
    if decision.label_rule is LabelRule.MATCH:
        words += f", shares {', '.join(decision.shared)}"
    return words + (", paused" if decision.paused_only else "")


#: How the rule of a task begins that was queued instead of another; its number follows.
INSTEAD = "in place of "

_LINKS = {
    MergeStep.CHECK: "sees whether it may be merged",
    MergeStep.UPDATE: "takes the base in",
    MergeStep.SETTLE: "waits until the forge knows whether it can be merged",
    MergeStep.MERGE: "merges it",
    MergeStep.CONFIRM: "asks the forge whether it is merged",
    MergeStep.CARE: "does what is to be done once it is merged",
}


def origin(task: Task, *, why: str = "") -> str:
    """Tell why a task exists that no delivery asked for, in a sentence.

    why: what the workflow said when it queued it; "": that is not known.
    """
    request, rule = task.request, task.rule
    if request.kind is Kind.MERGE and request.step is not None:
        return f"It is link {request.link} of merge {request.merge}, the one that {_LINKS[request.step]}."
    if rule is None:
        return f"It was dispatched by {next((event.by for event in task.history), 'hand')}."
    if rule.startswith(INSTEAD):
        return f"It was queued {_instead(rule)}, which the facts no longer asked for at its turn."
    return f"A look at the forge met the rule {rule}{f': {why}' if why else ''}."


def cause(task: Task) -> str:
    """Tell the same in a few words."""
    rule = task.rule
    if rule is None:
        return "hand"
    return _instead(rule) if rule.startswith(INSTEAD) else f"rule {rule}"


def _instead(rule: str) -> str:
    return f"{INSTEAD}task {rule.removeprefix(INSTEAD)}"


def _pool(decision: Decision) -> str:
    if decision.rule is Rule.SAME_SESSION:
        return f"Type {decision.type}: task {decision.session_task} of the same conversation is still live."
    if decision.partial:
        return f"Type {decision.type} has many instances; these are the ones that could win:"
    count = len(decision.candidates)
    return f"Type {decision.type} had {count} candidate{'s' if count != 1 else ''}:"


def _candidate(c: Candidate, *, chosen: bool) -> str:
    load = "idle" if c.load == 0 else f"{'running one task' if c.running else 'not running'}, {c.queued} queued"
    marks = [load] + ([f"labels {', '.join(c.labels)}"] if c.labels else []) + (["paused"] if c.paused else [])
    return f"{'->' if chosen else '  '} {c.name}: {'; '.join(marks)}"


def _labels(decision: Decision) -> str | None:
    asked = ", ".join(decision.labels)
    match decision.label_rule:
        case LabelRule.NONE:
            return None
        case LabelRule.MATCH:
            return f"Labels {asked}: the instances that share most with it come first ({', '.join(decision.shared)})."
        case LabelRule.GENERALISTS:
            return f"Labels {asked}: nobody matches, so the instances without match_labels were taken."
        case LabelRule.ANY:
            return f"Labels {asked}: nobody matches and every instance has match_labels, so any of them may serve."
        case _ as never:
            assert_never(never)


def _choice(decision: Decision) -> str:
    name, after = decision.chosen, decision.cursor_before or "the start of the list"
    match decision.rule:
        case Rule.ONLY_ONE:
            return f"{name} was chosen: it is the only one that fits."
        case Rule.IDLE:
            return f"{name} was chosen: it is the only idle one."
        case Rule.ROUND_ROBIN:
            return f"{name} was chosen: several are idle, and it is the next after {after}."
        case Rule.LEAST_LOADED:
            return f"{name} was chosen: none is idle, and it has the fewest tasks queued."
        case Rule.TIE:
            return f"{name} was chosen: none is idle, several have the fewest queued, and it is the next after {after}."
        case Rule.SAME_SESSION:
            return f"{name} was chosen although others may be free: one conversation never runs in two places."
        case _ as never:
            assert_never(never)


def _cursor(decision: Decision) -> str:
    before, after = decision.cursor_before or "nothing yet", decision.cursor_after or "nothing yet"
    if before == after:
        return f"The cursor of {decision.type} stays at {after}."
    return f"The cursor of {decision.type} moved from {before} to {after}."
