"""Did the demo keep the promises? Weighs the forge and the agents' own trace against the store's records. Pure."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pool.lanes import Merge, MergeState
from pool.model import Kind, Rule, Task
from pool.states import State, Verdict
from pool.store import Receipt

#: Both work for the same type, so they must be seen to work at once.
PAIR = ("dev-alpha", "dev-bravo")


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the agent itself saw it, in seconds of the machine's clock."""

    instance: str
    task: int
    begin: float
    end: float  #: of one that was killed: infinity

    def overlaps(self, other: "Run") -> bool:
        """Tell whether both ran at some moment."""
        return self.begin < other.end and other.begin < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class OnForge:
    """What one repository of the forge looks like at the end."""

    repo: str
    merged: Mapping[int, int]  #: issue -> pull requests for it that were merged
    merge_commits: int  #: on main, by its own history
    is_green: bool  #: what the checks say of main
    branches: tuple[str, ...]
    open_numbers: tuple[int, ...]  #: issues and pull requests that are still open
    unapproved: tuple[int, ...]  #: merged pull requests of which nobody had approved what was merged
    comments: tuple[tuple[int, str], ...]  #: (number, marker) of every comment of forgepool
    reviews: tuple[tuple[int, str, str], ...]  #: (number, reviewer, commit) of every verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What forgepool has written down."""

    tasks: Sequence[Task]  #: all of them, in the order of their ids
    receipts: Sequence[Receipt]
    merges: Sequence[Merge]
    owed: int  #: effects that are not on the forge
    untold: int  #: what was found and no webhook had told


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What the demo did to deliveries and answers."""

    lost: int = 0  #: deliveries
    repeats: int = 0  #: deliveries that were sent although they had been sent before
    strangers: int = 0  #: deliveries that nobody signed
    failures: int = 0  #: calls that the forge did not answer well
    is_silent: bool = False  #: no delivery came at all
    is_stormy: bool = False  #: deliveries in any order, any number of times


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
    *,
    forges: Sequence[OnForge],
    records: Records,
    runs: Sequence[Run],
    weather: Weather,
    script: Mapping[str, Sequence[str]],
) -> list[Promise]:
    """Return every promise that the run shows. script: issue -> the mistakes that its agents made."""
    tasks = records.tasks
    promises = [
        _merged(forges, script),
        _green(forges),
        _approved(forges),
        _comments(forges),
        _reviews(forges),
        _leftovers(forges, records),
        *_mistakes(tasks, script),
        _fifo(tasks, runs),
        _overlap(runs),
        _never_two(tasks, runs),
        _once(tasks, runs),
        _lanes(records.merges),
        _explained(tasks),
    ]
    if weather.lost or weather.is_silent:
        promises.append(_untold(records, weather))
    if not weather.is_silent:
        promises.append(_duplicates(records.receipts, weather))
    if weather.strangers:
        promises.append(_strangers(records.receipts, weather))
    if not (weather.is_silent or weather.is_stormy):
        promises.append(_rotation(tasks))
    return promises


# --- on the forge --------------------------------------------------------------------------------


def _merged(forges: Sequence[OnForge], script: Mapping[str, Sequence[str]]) -> Promise:
    counts = {f"{forge.repo}#{issue}": count for forge in forges for issue, count in forge.merged.items()}
    kept = bool(script) and counts == dict.fromkeys(script, 1)
    kept = kept and all(forge.merge_commits == len(forge.merged) for forge in forges)
    commits = sum(forge.merge_commits for forge in forges)
    seen = f"{sum(counts.values())} pull requests for {len(script)} issues, {commits} merge commits"
    return Promise("every issue ended as one merged pull request", kept, seen)


def _green(forges: Sequence[OnForge]) -> Promise:
    seen = ", ".join(f"{forge.repo} {'green' if forge.is_green else 'RED'}" for forge in forges)
    return Promise("the main branches are green", bool(forges) and all(forge.is_green for forge in forges), seen)


def _approved(forges: Sequence[OnForge]) -> Promise:
    bad = [f"{forge.repo}#{number}" for forge in forges for number in forge.unapproved]
    return Promise(
        "nothing was merged that nobody had approved", bool(forges) and not bad, ", ".join(bad) or "none was"
    )


def _comments(forges: Sequence[OnForge]) -> Promise:
    counts = Counter((forge.repo, *comment) for forge in forges for comment in forge.comments)
    twice = [f"{repo}#{number}" for (repo, number, _), count in counts.items() if count > 1]
    seen = f"{sum(counts.values())} comments, {len(twice)} of them twice {' '.join(twice)}".strip()
    return Promise("nothing was said twice", bool(counts) and not twice, seen)


def _reviews(forges: Sequence[OnForge]) -> Promise:
    counts = Counter((forge.repo, *review) for forge in forges for review in forge.reviews)
    twice = sum(count > 1 for count in counts.values())
    return Promise("no commit was reviewed twice", bool(counts) and not twice, f"{len(counts)} reviews, {twice} twice")


def _leftovers(forges: Sequence[OnForge], records: Records) -> Promise:
    left = [f"branch {name}" for forge in forges for name in forge.branches if name != "main"]
    left += [f"open {forge.repo}#{number}" for forge in forges for number in forge.open_numbers]
    left += [f"task {task.id} {task.state}" for task in records.tasks if not task.state.is_final]
    left += [f"merge of #{merge.number} {merge.state}" for merge in records.merges if merge.is_open]
    left += [f"{records.owed} effects owed"] if records.owed else []
    return Promise("nothing is left over", not left, ", ".join(left[:5]) or "no branch, task, merge or debt")


# --- the mistakes --------------------------------------------------------------------------------

#: What a mistake of the script must have led to: a kind of task, and how one such task ended.
_LEADS_TO = {
    "red-ci": (Kind.FIX_CI, State.SUCCEEDED, "red checks were mended"),
    "changes": (Kind.ADDRESS_REVIEW, State.SUCCEEDED, "requested changes were made"),
    "hang": (Kind.IMPLEMENT, State.TIMED_OUT, "an agent that hung was stopped, and its work done anew"),
    "crash": (Kind.IMPLEMENT, State.FAILED, "an agent that crashed was noticed, and its work done anew"),
}


def _mistakes(tasks: Sequence[Task], script: Mapping[str, Sequence[str]]) -> list[Promise]:
    promises = []
    for mistake, (kind, state, words) in _LEADS_TO.items():
        wanted = sum(mistake in mistakes for mistakes in script.values())
        ids = [task.id for task in tasks if task.request.kind is kind and task.state is state]
        if wanted:
            promises.append(Promise(words, len(ids) >= wanted, f"tasks {', '.join(map(str, ids)) or 'none'}"))
    if any("conflict" in mistakes for mistakes in script.values()):
        kinds = (Kind.REBASE, Kind.RESOLVE)
        ids = [task.id for task in tasks if task.request.kind in kinds and task.state is State.SUCCEEDED]
        promises.append(
            Promise("a conflict between two pull requests was resolved", bool(ids), f"tasks {', '.join(map(str, ids))}")
        )
    return promises


# --- the engine ----------------------------------------------------------------------------------


def _by_instance(runs: Sequence[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.instance].append(run)
    return found


def _fifo(tasks: Sequence[Task], runs: Sequence[Run]) -> Promise:
    began = {run.task for run in runs}
    queued = defaultdict(list)
    for task in tasks:
        if task.id in began:
            queued[task.instance].append(task.id)
    ran = {name: [run.task for run in found] for name, found in _by_instance(runs).items()}
    kept = bool(ran) and all(ran.get(str(name), []) == ids for name, ids in queued.items())
    seen = "; ".join(f"{name}: {' '.join(map(str, ids))}" for name, ids in sorted(ran.items()))
    return Promise("each instance ran its queue in order", kept, seen)


def _overlap(runs: Sequence[Run]) -> Promise:
    one, other = (_by_instance(runs)[name] for name in PAIR)
    pairs = [(a.task, b.task) for a in one for b in other if a.overlaps(b)]
    seen = ", ".join(f"{a} with {b}" for a, b in pairs[:4]) or "never"
    return Promise(f"{' and '.join(PAIR)} worked at the same time", bool(pairs), f"tasks {seen}")


def _never_two(tasks: Sequence[Task], runs: Sequence[Run]) -> Promise:
    # Of a run that was killed the agent could not tell the end; its task says that it is over.
    ended = {task.id for task in tasks if task.state.is_final}
    whole = [run for run in runs if run.end != float("inf") or run.task not in ended]
    clashes = [(a.task, b.task) for found in _by_instance(whole).values() for a, b in pairwise(found) if a.overlaps(b)]
    seen = f"{len(runs)} runs, {len(clashes)} clashes"
    return Promise("no instance ran two tasks at once", bool(runs) and not clashes, seen)


def _once(tasks: Sequence[Task], runs: Sequence[Run]) -> Promise:
    ids = [run.task for run in runs]
    strangers = set(ids) - {task.id for task in tasks}
    kept = bool(tasks) and len(set(ids)) == len(ids) and not strangers
    return Promise("no task ran twice", kept, f"{len(ids)} runs of {len(set(ids))} tasks")


def _lanes(merges: Sequence[Merge]) -> Promise:
    done = sorted((m for m in merges if m.state is MergeState.MERGED and m.ended_at), key=lambda merge: merge.id)
    lanes: dict[tuple[str, str], list[Merge]] = defaultdict(list)
    for merge in done:
        lanes[merge.repo, merge.base].append(merge)
    seen = "; ".join(f"{repo}: {' '.join(f'#{m.number}' for m in lane)}" for (repo, _), lane in sorted(lanes.items()))
    shas = [merge.merge_sha for merge in done]
    return Promise("each merge had its lane for itself", bool(done) and len(set(shas)) == len(shas), seen)


def _rotation(tasks: Sequence[Task]) -> Promise:
    first = [task.instance for task in tasks if task.type == "dev"][:4]
    return Promise(
        "the first four issues went round the two dev instances", first == [*PAIR, *PAIR], ", ".join(map(str, first))
    )


def _explained(tasks: Sequence[Task]) -> Promise:
    told = [t for t in tasks if t.decision is not None and t.rule is not None and t.decision.rule in set(Rule)]
    kept = bool(tasks) and len(told) == len(tasks)
    return Promise("every decision is explained", kept, f"{len(told)} of {len(tasks)}; try `forgepool explain 1`")


# --- the weather ---------------------------------------------------------------------------------


def _untold(records: Records, weather: Weather) -> Promise:
    wanted = len({task.request.number for task in records.tasks}) if weather.is_silent else weather.lost
    kept = records.untold >= min(wanted, weather.lost or wanted)
    return Promise("what no webhook told was found", kept, f"{weather.lost} deliveries lost, {records.untold} found")


def _duplicates(receipts: Sequence[Receipt], weather: Weather) -> Promise:
    found = [r for r in receipts if r.verdict is Verdict.DUPLICATE]
    kept = weather.repeats > 0 and (len(found) > 0 if weather.is_stormy else len(found) >= weather.repeats)
    return Promise(
        "repeated deliveries were recognised", kept, f"{weather.repeats} sent, {len(found)} refused as duplicates"
    )


def _strangers(receipts: Sequence[Receipt], weather: Weather) -> Promise:
    found = [r for r in receipts if r.verdict is Verdict.REFUSED]
    kept = len(found) == weather.strangers and not any(r.signed for r in found)
    return Promise("the unsigned delivery was not let in", kept, f"{len(found)} of {weather.strangers} refused")
