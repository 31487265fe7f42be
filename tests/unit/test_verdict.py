"""The demo's verdict: each promise is kept by a good run, and broken by the run that breaks it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pool import policy
from pool.model import Candidate, Evidence, Kind, Task
from pool.states import State, Verdict
from pool.store import Receipt
from tests.helpers.factory import make_request
from webapp.demo.verdict import Promise, judge, read_trace

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLACES = ["dev-alpha", "dev-bravo", "dev-alpha", "dev-bravo"]
TRACE = [
    *("0.0 begin dev-alpha 1", "0.1 begin dev-bravo 2", "1.0 end dev-alpha 1", "1.1 end dev-bravo 2"),
    *("1.2 begin dev-alpha 3", "1.3 begin dev-bravo 4", "2.0 end dev-alpha 3", "2.1 end dev-bravo 4"),
]


def _task(number: int, instance: str) -> Task:
    candidates = [Candidate(name="dev-alpha"), Candidate(name="dev-bravo")]
    return Task(
        id=number,
        type="dev",
        instance=instance,
        state=State.SUCCEEDED,
        request=make_request(kind=Kind.IMPLEMENT, number=number),
        session_key=f"dev:acme/widgets:{number}",
        rule="issue-assigned",
        decision=policy.choose(candidates, type_name="dev", labels=(), cursor=None),
        evidence=Evidence(exit_code=0, head_before="a" * 40, head_after="b" * 40),
        created_at=NOW,
        started_at=NOW,
    )


def _receipt(number: int, verdict: Verdict, *, signed: bool = True) -> Receipt:
    empty = dict.fromkeys(("delivery_id", "event_type", "action", "repo", "number", "sender", "remote", "rule"))
    fields: dict[str, Any] = {**empty, "source": "forgejo", "reason": "", "duplicate_of": None}
    return Receipt(id=number, received_at=NOW, signed=signed, verdict=verdict, status=200, **fields)


GOOD = [_task(number, place) for number, place in enumerate(PLACES, 1)]
RECEIPTS = [
    *(_receipt(number, Verdict.ACCEPTED) for number in range(1, 5)),
    _receipt(5, Verdict.DUPLICATE),
    _receipt(6, Verdict.REFUSED, signed=False),
]


def _broken(
    *, tasks: Sequence[Task] = GOOD, receipts: Sequence[Receipt] = RECEIPTS, trace: Sequence[str] = TRACE
) -> list[str]:
    promises: list[Promise] = judge(tasks=tasks, receipts=receipts, runs=read_trace(trace), repeats=1, strangers=1)
    return [promise.words for promise in promises if not promise.kept]


def _with(number: int, **changes: Any) -> list[Task]:
    return [replace(task, **changes) if task.id == number else task for task in GOOD]


def test_a_good_run_keeps_every_promise() -> None:
    assert _broken() == []


def test_a_run_in_which_nothing_happened_keeps_none_of_them() -> None:
    assert len(_broken(tasks=[], receipts=[], trace=[])) == len(
        judge(tasks=[], receipts=[], runs=[], repeats=1, strangers=1)
    )


@pytest.mark.parametrize(
    ("words", "broken"),
    [
        (
            "each instance ran its queue in order",
            # 3 before 1 on dev-alpha.
            {
                "trace": [
                    line.replace("alpha 1", "alpha x").replace("alpha 3", "alpha 1").replace("x", "3") for line in TRACE
                ]
            },
        ),
        (
            "dev-alpha and dev-bravo worked at the same time",
            {
                "trace": [
                    f"{n}.{i} {word} {place} {n}"
                    for n, place in enumerate(PLACES, 1)
                    for i, word in enumerate(("begin", "end"))
                ]
            },
        ),
        ("no instance ran two tasks at once", {"trace": [line.replace("1.0 end", "1.5 end") for line in TRACE]}),
        ("the first four issues went round the two dev instances", {"tasks": _with(2, instance="dev-alpha")}),
        ("nothing was lost", {"tasks": _with(4, state=State.QUEUED)}),
        ("nothing was lost", {"trace": [*TRACE[:-1], "2.1 end dev-bravo 9"], "tasks": _with(4, state=State.RUNNING)}),
        ("nothing was done twice", {"trace": [*TRACE, "3.0 begin dev-alpha 3", "3.1 end dev-alpha 3"]}),
        (
            "repeated deliveries were recognised",
            {"receipts": [r for r in RECEIPTS if r.verdict is not Verdict.DUPLICATE]},
        ),
        ("the unsigned delivery was not let in", {"receipts": [r for r in RECEIPTS if r.signed]}),
        ("the unsigned delivery was not let in", {"receipts": [replace(r, signed=True) for r in RECEIPTS]}),
        (
            "every change is a real commit",
            {"tasks": _with(1, evidence=Evidence(head_before="a" * 40, head_after="a" * 40))},
        ),
        ("every decision is explained", {"tasks": _with(1, decision=None)}),
    ],
)
def test_the_run_that_breaks_a_promise_is_told(words: str, broken: dict[str, Any]) -> None:
    assert words in _broken(**broken)
