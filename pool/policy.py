"""Which instance gets the next task. Pure: no I/O."""

from collections.abc import Iterable, Sequence

from pool.errors import NoInstance
from pool.model import Candidate, Decision, LabelRule, Rule

Labels = tuple[str, ...]


def choose(
    candidates: Sequence[Candidate],
    *,
    type_name: str,
    labels: Labels,
    cursor: str | None,
    partial: bool = False,
) -> Decision:
    """Pick the instance for a new task and say why.

    candidates: instances of one type that may take tasks, ordered by name.
    cursor: the instance picked last for this type; the next eligible name after it wins a draw.
    partial: of a larger pool, the candidates are those that could win, at least two unless only one fits.
    Raises NoInstance when there is no candidate.

    Order of preference: not paused, most shared labels, idle, fewest queued, next after the cursor.
    """
    if not candidates:
        raise NoInstance(type_name)
    awake = [c for c in candidates if not c.paused]
    label_rule, fitting = narrow(awake or list(candidates), labels)
    lowest = min(c.load for c in fitting)
    tied = [c for c in fitting if c.load == lowest]
    chosen = next_after(cursor, tied)
    return Decision(
        type=type_name,
        chosen=chosen.name,
        rule=_rule(fitting, tied, lowest),
        label_rule=label_rule,
        labels=labels,
        shared=tuple(sorted(set(chosen.labels) & set(labels))),
        candidates=tuple(candidates),
        partial=partial,
        cursor_before=cursor,
        cursor_after=chosen.name,
        paused_only=not awake,
    )


def stay(candidate: Candidate, *, type_name: str, labels: Labels, cursor: str | None, session_task: int) -> Decision:
    """Follow a live task of the same session to its instance; the rotation is left as it is."""
    return Decision(
        type=type_name,
        chosen=candidate.name,
        rule=Rule.SAME_SESSION,
        label_rule=LabelRule.NONE,
        labels=labels,
        shared=tuple(sorted(set(candidate.labels) & set(labels))),
        candidates=(candidate,),
        cursor_before=cursor,
        cursor_after=cursor,
        paused_only=candidate.paused,
        session_task=session_task,
    )


def narrow(candidates: Sequence[Candidate], labels: Labels) -> tuple[LabelRule, list[Candidate]]:
    """Keep the candidates that the labels ask for; never none of them."""
    rule, sets = best_sets({c.labels for c in candidates}, labels)
    return rule, [c for c in candidates if c.labels in sets]


def best_sets(label_sets: Iterable[Labels], labels: Labels) -> tuple[LabelRule, set[Labels]]:
    """Tell which sets of match_labels serve a request best: most shared, else empty, else any."""
    sets = set(label_sets)
    if not labels:
        return LabelRule.NONE, sets
    wanted = set(labels)
    most = max((len(wanted.intersection(s)) for s in sets), default=0)
    if most:
        return LabelRule.MATCH, {s for s in sets if len(wanted.intersection(s)) == most}
    if () in sets:
        return LabelRule.GENERALISTS, {()}
    return LabelRule.ANY, sets


def next_after(cursor: str | None, candidates: Sequence[Candidate]) -> Candidate:
    """Return the first candidate whose name comes after the cursor, else the first of all."""
    ordered = sorted(candidates, key=lambda c: c.name)
    return next((c for c in ordered if cursor is None or c.name > cursor), ordered[0])


def _rule(fitting: Sequence[Candidate], tied: Sequence[Candidate], lowest: int) -> Rule:
    if len(fitting) == 1:
        return Rule.ONLY_ONE
    if lowest == 0:
        return Rule.IDLE if len(tied) == 1 else Rule.ROUND_ROBIN
    return Rule.LEAST_LOADED if len(tied) == 1 else Rule.TIE
