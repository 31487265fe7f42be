"""Did the demo keep the promises? Weighs the agents' own trace against the store's records. Pure but for its inputs."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pool.model import Rule, Task
from pool.states import State, Verdict
from pool.store import Receipt


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the agent itself saw it, in seconds of the machine's clock."""

    instance: str
    task: int
    begin: float
    end: float

    def overlaps(self, other: "Run") -> bool:
        """Tell whether both ran at some moment."""
        return self.begin < other.end and other.begin < self.end


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise and whether the run kept it."""

    words: str
    kept: bool
    seen: str  #: what was seen


def read_trace(lines: Sequence[str]) -> list[Run]:
    """Read what the agents wrote, ordered by begin. A run that never ended ends never."""
    begun: dict[int, tuple[float, str]] = {}
    runs = []
    for line in lines:
        at, word, instance, task = line.split()
        if word == "begin":
            begun[int(task)] = (float(at), instance)
        elif int(task) in begun:
            begin, _ = begun.pop(int(task))
            runs.append(Run(instance, int(task), begin, float(at)))
    runs += [Run(instance, task, begin, float("inf")) for task, (begin, instance) in begun.items()]
    return sorted(runs, key=lambda run: run.begin)


def judge(
    *, tasks: Sequence[Task], receipts: Sequence[Receipt], runs: Sequence[Run], repeats: int, strangers: int
) -> list[Promise]:
    """Return every promise that the run shows.

    tasks: all of them, in the order of their ids. repeats, strangers: how many bad deliveries were sent.
    """
    return [
        _fifo(tasks, runs),
        _overlap(runs),
        _never_two(runs),
        _rotation(tasks),
        _nothing_lost(tasks, receipts, runs),
        _once(tasks, runs),
        _duplicates(receipts, repeats),
        _strangers(receipts, strangers),
        _commits(tasks),
        _explained(tasks),
    ]


def _by_instance(runs: Sequence[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.instance].append(run)
    return found


def _fifo(tasks: Sequence[Task], runs: Sequence[Run]) -> Promise:
    queued = defaultdict(list)
    for task in tasks:
        if task.started_at is not None:
            queued[task.instance].append(task.id)
    ran = {name: [run.task for run in found] for name, found in _by_instance(runs).items()}
    kept = bool(ran) and all(ran.get(str(name), []) == ids for name, ids in queued.items())
    seen = "; ".join(f"{name}: {' '.join(map(str, ids))}" for name, ids in sorted(ran.items()))
    return Promise("each instance ran its queue in order", kept, seen)


def _overlap(runs: Sequence[Run]) -> Promise:
    alpha, bravo = (_by_instance(runs)[name] for name in ("dev-alpha", "dev-bravo"))
    pairs = [(a.task, b.task) for a in alpha for b in bravo if a.overlaps(b)]
    seen = ", ".join(f"{a} with {b}" for a, b in pairs[:4]) or "never"
    return Promise("dev-alpha and dev-bravo worked at the same time", bool(pairs), f"tasks {seen}")


def _never_two(runs: Sequence[Run]) -> Promise:
    clashes = [(a.task, b.task) for found in _by_instance(runs).values() for a, b in pairwise(found) if a.overlaps(b)]
    return Promise(
        "no instance ran two tasks at once", bool(runs) and not clashes, f"{len(runs)} runs, {len(clashes)} clashes"
    )


def _rotation(tasks: Sequence[Task]) -> Promise:
    first = [task.instance for task in tasks if task.type == "dev"][:4]
    wanted = ["dev-alpha", "dev-bravo", "dev-alpha", "dev-bravo"]
    return Promise(
        "the first four issues went round the two dev instances", first == wanted, ", ".join(map(str, first))
    )


def _nothing_lost(tasks: Sequence[Task], receipts: Sequence[Receipt], runs: Sequence[Run]) -> Promise:
    accepted = [r for r in receipts if r.verdict is Verdict.ACCEPTED]
    ended = [t for t in tasks if t.state is State.SUCCEEDED]
    kept = bool(tasks) and len(ended) == len(tasks) == len(runs)
    return Promise(
        "nothing was lost", kept, f"{len(accepted)} deliveries accepted, {len(tasks)} tasks, {len(ended)} ended well"
    )


def _once(tasks: Sequence[Task], runs: Sequence[Run]) -> Promise:
    ids = [run.task for run in runs]
    kept = bool(tasks) and len(set(ids)) == len(ids)
    return Promise("nothing was done twice", kept, f"{len(ids)} runs of {len(set(ids))} tasks")


def _duplicates(receipts: Sequence[Receipt], repeats: int) -> Promise:
    found = [r for r in receipts if r.verdict is Verdict.DUPLICATE]
    kept = repeats > 0 and len(found) == repeats
    return Promise("repeated deliveries were recognised", kept, f"{len(found)} of {repeats} refused as duplicates")


def _strangers(receipts: Sequence[Receipt], strangers: int) -> Promise:
    found = [r for r in receipts if r.verdict is Verdict.REFUSED]
    kept = strangers > 0 and len(found) == strangers and not any(r.signed for r in found)
    return Promise("the unsigned delivery was not let in", kept, f"{len(found)} of {strangers} refused")


def _commits(tasks: Sequence[Task]) -> Promise:
    worked = [t for t in tasks if t.type in ("dev", "boss")]
    moved = [t for t in worked if t.evidence and t.evidence.head_before != t.evidence.head_after]
    kept = bool(worked) and len(moved) == len(worked)
    return Promise("every change is a real commit", kept, f"{len(moved)} of {len(worked)} runs moved their branch")


def _explained(tasks: Sequence[Task]) -> Promise:
    told = [t for t in tasks if t.decision is not None and t.rule is not None and t.decision.rule in set(Rule)]
    kept = bool(tasks) and len(told) == len(tasks)
    return Promise("every decision is explained", kept, f"{len(told)} of {len(tasks)}; try `forgepool explain 1`")
