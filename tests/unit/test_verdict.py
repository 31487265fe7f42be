"""The verdict of the demo: a good run keeps every promise, and each promise has a run that breaks it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pool import policy
from pool.lanes import Merge, MergeState
from pool.model import Candidate, Evidence, Kind, Task
from pool.states import State, Verdict
from pool.store import Receipt
from tests.helpers.factory import make_request
from webapp.demo.verdict import OnForge, Records, Weather, judge, read_trace

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
REPO = "acme/widgets"
SCRIPT = {
    f"{REPO}#1": ("hang",),
    f"{REPO}#2": ("crash", "red-ci"),
    f"{REPO}#3": ("changes", "lost"),
    f"{REPO}#4": ("conflict",),
}
#: Task -> instance, kind, how it ended; the first four go round.
RUNS: Mapping[int, tuple[str, Kind, State]] = {
    1: ("dev-alpha", Kind.IMPLEMENT, State.TIMED_OUT),
    2: ("dev-bravo", Kind.IMPLEMENT, State.FAILED),
    3: ("dev-alpha", Kind.FIX_CI, State.SUCCEEDED),
    4: ("dev-bravo", Kind.ADDRESS_REVIEW, State.SUCCEEDED),
    5: ("dev-alpha", Kind.REBASE, State.SUCCEEDED),
}
TRACE = (
    *("0.0 begin dev-alpha 1", "0.1 begin dev-bravo 2", "1.0 end dev-alpha 1", "1.1 end dev-bravo 2"),
    *("1.2 begin dev-alpha 3", "1.3 begin dev-bravo 4", "2.0 end dev-alpha 3", "2.1 end dev-bravo 4"),
    *("2.2 begin dev-alpha 5", "3.0 end dev-alpha 5"),
)


def _task(number: int) -> Task:
    instance, kind, state = RUNS[number]
    candidates = [Candidate(name="dev-alpha"), Candidate(name="dev-bravo")]
    return Task(
        id=number,
        type="dev",
        instance=instance,
        state=state,
        request=make_request(kind=kind, number=number),
        session_key=f"dev:{REPO}:{number}",
        rule="issue-assigned",
        decision=policy.choose(candidates, type_name="dev", labels=(), cursor=None),
        evidence=Evidence(exit_code=0),
        created_at=NOW,
        started_at=NOW,
    )


def _receipt(number: int, verdict: Verdict, *, signed: bool = True) -> Receipt:
    empty = dict.fromkeys(("delivery_id", "event_type", "action", "repo", "number", "sender", "remote", "rule"))
    fields: dict[str, Any] = {**empty, "source": "forgejo", "reason": "", "duplicate_of": None}
    return Receipt(id=number, received_at=NOW, signed=signed, verdict=verdict, status=200, **fields)


def _merge(number: int, state: MergeState = MergeState.MERGED) -> Merge:
    times = dict.fromkeys(("approved_at", "entered_at", "changed_at", "ended_at"), NOW)
    empty = dict.fromkeys(("step", "base_sha", "code", "look_at"))
    sha = f"{number:040x}"
    return Merge(
        id=number,
        repo=REPO,
        base="main",
        number=number + 4,
        state=state,
        link=4,
        head_sha=sha,
        approved_sha=sha,
        merge_sha=sha,
        reason="",
        **{**empty, **times},  # type: ignore[arg-type] # two kinds of members in one table
    )


FORGE = OnForge(
    repo=REPO,
    merged=dict.fromkeys(range(1, 5), 1),
    merge_commits=4,
    is_green=True,
    branches=("main",),
    open_numbers=(),
    unapproved=(),
    comments=tuple((number, f"report:{REPO}#{number}") for number in range(1, 9)),
    reviews=tuple((number, "reviewer", "a" * 40) for number in range(5, 9)),
)
RECORDS = Records(
    tasks=tuple(map(_task, RUNS)),
    receipts=(
        _receipt(1, Verdict.ACCEPTED),
        _receipt(2, Verdict.DUPLICATE),
        _receipt(3, Verdict.REFUSED, signed=False),
    ),
    merges=tuple(_merge(number) for number in range(1, 5)),
    owed=0,
    untold=1,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a demo has left behind."""

    forge: OnForge = FORGE
    records: Records = RECORDS
    trace: tuple[str, ...] = TRACE
    weather: Weather = field(default_factory=lambda: Weather(lost=1, repeats=1, strangers=1))


def broken(seen: Seen) -> list[str]:
    """Return the words of the promises that were not kept."""
    promises = judge(
        forges=[seen.forge],
        records=seen.records,
        runs=read_trace(seen.trace),
        weather=seen.weather,
        script=SCRIPT,
    )
    return [promise.words for promise in promises if not promise.kept]


def on_forge(**changes: Any) -> Seen:
    """Return a run after which the forge looks different."""
    return Seen(forge=replace(FORGE, **changes))


def in_store(**changes: Any) -> Seen:
    """Return a run after which the store looks different."""
    return Seen(records=replace(RECORDS, **changes))


def with_task(number: int, **changes: Any) -> Seen:
    """Return a run in which one task went otherwise."""
    return in_store(tasks=tuple(replace(t, **changes) if t.id == number else t for t in RECORDS.tasks))


def with_trace(change: Callable[[str], str]) -> Seen:
    """Return a run in which the agents saw something else."""
    return Seen(trace=tuple(sorted(map(change, TRACE))))


def test_a_good_run_keeps_every_promise() -> None:
    assert broken(Seen()) == []


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ("every issue ended as one merged pull request", on_forge(merged={1: 1, 2: 1, 3: 1})),
        ("every issue ended as one merged pull request", on_forge(merged={1: 2, 2: 1, 3: 1, 4: 1})),
        ("every issue ended as one merged pull request", on_forge(merge_commits=5)),
        ("the main branches are green", on_forge(is_green=False)),
        ("nothing was merged that nobody had approved", on_forge(unapproved=(7,))),
        ("nothing was said twice", on_forge(comments=(*FORGE.comments, FORGE.comments[0]))),
        ("no commit was reviewed twice", on_forge(reviews=(*FORGE.reviews, FORGE.reviews[0]))),
        ("nothing is left over", on_forge(branches=("dev/1", "main"))),
        ("nothing is left over", on_forge(open_numbers=(3,))),
        ("nothing is left over", in_store(owed=1)),
        ("nothing is left over", in_store(merges=(*RECORDS.merges[:3], _merge(4, MergeState.PARKED)))),
        ("red checks were mended", with_task(3, state=State.FAILED)),
        ("requested changes were made", with_task(4, state=State.FAILED)),
        ("an agent that hung was stopped, and its work done anew", with_task(1, state=State.SUCCEEDED)),
        ("an agent that crashed was noticed, and its work done anew", with_task(2, state=State.SUCCEEDED)),
        ("a conflict between two pull requests was resolved", with_task(5, state=State.FAILED)),
        ("each instance ran its queue in order", with_trace(lambda line: line.replace("alpha 3", "alpha 0"))),
        ("dev-alpha and dev-bravo worked at the same time", with_trace(lambda line: line.replace("bravo", "charlie"))),
        (
            "no instance ran two tasks at once",
            with_trace(lambda line: line.replace("2.0 end dev-alpha 3", "2.9 end dev-alpha 3")),
        ),
        ("no task ran twice", Seen(trace=(*TRACE, "4.0 begin dev-bravo 4", "4.1 end dev-bravo 4"))),
        ("each merge had its lane for itself", in_store(merges=(_merge(1), replace(_merge(1), id=2)))),
        ("every decision is explained", with_task(2, rule=None)),
        ("what no webhook told was found", in_store(untold=0)),
        ("repeated deliveries were recognised", in_store(receipts=(RECORDS.receipts[0], RECORDS.receipts[2]))),
        ("the unsigned delivery was not let in", in_store(receipts=RECORDS.receipts[:2])),
        ("the first four issues went round the two dev instances", with_task(2, instance="dev-alpha")),
    ],
)
def test_the_run_that_breaks_a_promise_is_told(words: str, seen: Seen) -> None:
    assert words in broken(seen)


def test_a_run_in_which_nothing_happened_keeps_no_promise_about_what_was_done() -> None:
    nothing = OnForge(
        repo=REPO,
        merged={},
        merge_commits=0,
        is_green=True,
        branches=("main",),
        open_numbers=(),
        unapproved=(),
        comments=(),
        reviews=(),
    )
    records = Records(tasks=(), receipts=(), merges=(), owed=0, untold=0)

    told = broken(Seen(forge=nothing, records=records, trace=()))

    # Nothing merged is nothing unapproved, and nothing begun leaves nothing over.
    assert len(told) == 18
    assert {"the main branches are green", "nothing is left over"}.isdisjoint(told)


def test_a_killed_agent_that_could_not_tell_its_end_is_no_clash() -> None:
    told = tuple(line for line in TRACE if line != "1.1 end dev-bravo 2")

    assert broken(Seen(trace=told)) == []


@pytest.mark.parametrize(
    "weather", [Weather(is_silent=True), Weather(is_stormy=True, repeats=9)], ids=["silent", "stormy"]
)
def test_what_the_weather_took_away_is_not_asked_for(weather: Weather) -> None:
    records = replace(RECORDS, untold=9, receipts=() if weather.is_silent else RECORDS.receipts)

    assert broken(Seen(weather=weather, records=records)) == []


def test_silence_without_anything_found_is_no_silence() -> None:
    told = broken(Seen(weather=Weather(is_silent=True), records=replace(RECORDS, untold=0)))

    assert told == ["what no webhook told was found"]
