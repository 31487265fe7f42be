"""The verdict of `forgepool chaos`: a good run is clean, and each kind of wrong is found in a trace that shows it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from pool.states import State
from webapp.chaos.evidence import Fault, Ill, Request, Row, Run, Trace, Wrong
from webapp.chaos.report import Report
from webapp.chaos.verdict import judge, recovery_s

TRACE = [
    "10.0 begin alpha 1 101 7",
    "10.1 alive alpha 1 101 7",
    # Cut off at 10.1; 3 takes its place before 2, which was queued behind it.
    "13.0 begin alpha 3 103 7",
    "13.5 end alpha 3 103 7",
    "13.6 begin alpha 2 102 8",
    "14.0 end alpha 2 102 8",
    "10.2 begin bravo 4 104 9",
    "10.8 end bravo 4 104 9",
]
ROWS = [
    Row(
        task=task,
        number=number,
        instance=instance,
        state=state,
        retry_of=retry_of,
        position=position,
        created=9.0,
        finished=finished,
        reason="",
    )
    for task, number, instance, state, retry_of, position, finished in (
        (1, 7, "alpha", State.INTERRUPTED, None, 1, 12.5),
        (2, 8, "alpha", State.SUCCEEDED, None, 2, 14.1),
        (3, 7, "alpha", State.SUCCEEDED, 1, 1, 13.6),
        (4, 9, "bravo", State.SUCCEEDED, None, 4, 10.9),
    )
]
REQUESTS = [
    Request(number=number, delivery=f"d-{number}", sent=9.0, accepted=9.1, answers=("accepted",), receipts=1)
    for number in (7, 8, 9)
]
KILL = Fault(point="running", victim="worker", at=10.1, pid=55, numbers=(7, 8, 9))


def runs(lines: Sequence[str] = TRACE) -> list[Run]:
    """Read a trace."""
    trace = Trace()
    trace.add(lines)
    return trace.runs


def found(
    *,
    requests: Sequence[Request] = REQUESTS,
    rows: Sequence[Row] = ROWS,
    lines: Sequence[str] = TRACE,
    fault: Fault = KILL,
) -> list[Wrong]:
    """Judge the good run, with what differs."""
    return judge(requests=requests, rows=rows, runs=runs(lines), faults=[fault])


def but(task: int, **changes: object) -> list[Row]:
    """Return the good rows with one that differs."""
    return [replace(row, **changes) if row.task == task else row for row in ROWS]  # type: ignore[arg-type]


def swapped(old: str, new: str) -> list[str]:
    """Return the good trace with one line that differs."""
    assert old in TRACE
    return [new if line == old else line for line in TRACE]


def test_a_killed_run_that_was_tried_again_in_its_place_is_clean() -> None:
    assert found() == []


def test_a_delivery_that_was_accepted_and_has_no_task_is_lost() -> None:
    (wrong,) = found(rows=[row for row in ROWS if row.number != 9], lines=TRACE[:6])

    assert (wrong.ill, wrong.numbers) == (Ill.LOST, (9,))
    assert "d-9 (#9) was accepted, but there is no task" in wrong.sentence


def test_a_delivery_that_nobody_ever_accepted_is_lost() -> None:
    silent = [replace(REQUESTS[0], accepted=None, answers=("ReadTimeout", "503 no")), *REQUESTS[1:]]

    assert [(w.ill, "ReadTimeout; 503 no" in w.sentence) for w in found(requests=silent)] == [(Ill.LOST, True)]


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_a_task_that_never_ends_is_lost(state: State) -> None:
    wrongs = found(rows=but(2, state=state, finished=None))

    assert [(w.ill, w.sentence) for w in wrongs] == [(Ill.LOST, f"task 2 (#8) is still {state} on alpha")]


def test_an_interrupted_task_that_is_not_tried_again_is_lost() -> None:
    wrongs = found(rows=[row for row in ROWS if row.task != 3], lines=[*TRACE[:2], *TRACE[4:]])

    assert [(w.ill, w.sentence) for w in wrongs] == [(Ill.LOST, "task 1 (#7) was interrupted and never tried again")]


def test_a_dead_letter_is_visible_and_so_not_lost() -> None:
    assert found(rows=but(3, state=State.DEAD_LETTERED), lines=[*TRACE[:2], *TRACE[4:]]) == []


def test_a_task_that_ran_twice_is_doubled() -> None:
    again = ["15.0 begin alpha 2 199 8", "15.4 end alpha 2 199 8"]

    wrongs = found(lines=[*TRACE, *again])

    assert Ill.DOUBLED in {w.ill for w in wrongs}
    assert "task 2 ran 2 times" in wrongs[0].sentence
    assert "pid 199" in wrongs[0].sentence


def test_work_that_ran_again_after_a_good_run_is_doubled() -> None:
    wrongs = found(rows=but(1, state=State.SUCCEEDED), lines=swapped(TRACE[1], "10.1 end alpha 1 101 7"))

    assert [w.ill for w in wrongs] == [Ill.DOUBLED]
    assert "#7 ran again although its first run is succeeded" in wrongs[0].sentence


def test_an_issue_that_was_queued_twice_is_doubled() -> None:
    wrongs = found(rows=[*ROWS, replace(ROWS[3], task=5, position=5)], lines=[*TRACE, "15.0 end bravo 5 105 9"])

    assert "#9 was queued 2 times: tasks 4, 5" in [w.sentence for w in wrongs]


def test_a_delivery_with_two_good_receipts_is_doubled() -> None:
    wrongs = found(requests=[replace(REQUESTS[0], receipts=2), *REQUESTS[1:]])

    assert [(w.ill, w.numbers) for w in wrongs] == [(Ill.DOUBLED, (7,))]


def test_a_run_that_was_tried_again_twice_is_doubled() -> None:
    wrongs = found(rows=[*ROWS, replace(ROWS[2], task=6, state=State.DEAD_LETTERED)])

    assert [w.sentence for w in wrongs] == ["task 1 was tried again 2 times: tasks 3, 6"]


def test_two_agents_on_one_instance_are_two_at_once() -> None:
    wrongs = found(lines=swapped(TRACE[4], "13.4 begin alpha 2 102 8"))

    assert [(w.ill, w.numbers) for w in wrongs] == [(Ill.AT_ONCE, (7, 8))]
    assert "task 3 on alpha, pid 103, 13.000-13.500" in wrongs[0].sentence


def test_a_short_run_within_a_long_one_does_not_hide_a_third() -> None:
    lines = [
        *("1 begin alpha 1 11 7", "1.1 begin alpha 2 12 8", "1.2 end alpha 2 12 8", "1.3 begin alpha 3 13 9"),
        *("1.4 end alpha 3 13 9", "9 end alpha 1 11 7"),
    ]

    assert sum(w.ill is Ill.AT_ONCE for w in found(lines=lines)) == 2


def test_two_agents_on_two_instances_are_what_a_pool_is_for() -> None:
    assert found(lines=swapped(TRACE[6], "10.0 begin bravo 4 104 9")) == []


def test_a_retry_that_runs_after_what_was_queued_behind_it_is_out_of_order() -> None:
    late = [*TRACE[:2], *TRACE[4:], "15.0 begin alpha 3 103 7", "15.5 end alpha 3 103 7"]

    wrongs = found(lines=late, rows=but(3, finished=15.6))

    assert [(w.ill, w.numbers) for w in wrongs] == [(Ill.OUT_OF_ORDER, (8, 7))]
    assert "task 3 (place 1) ran after task 2" in wrongs[0].sentence


def test_a_run_that_was_cut_off_is_no_success() -> None:
    wrongs = found(lines=swapped(TRACE[5], "14.0 alive alpha 2 102 8"))

    assert [(w.ill, w.numbers) for w in wrongs] == [(Ill.WRONG_END, (8,))]
    assert "but its agent was cut off" in wrongs[0].sentence


def test_a_success_without_any_run_is_a_wrong_end() -> None:
    assert [w.ill for w in found(lines=TRACE[:6])] == [Ill.WRONG_END]


@pytest.mark.parametrize("state", [State.FAILED, State.TIMED_OUT, State.CANCELLED, State.SUPERSEDED])
def test_an_agent_that_nobody_touched_has_not_failed(state: State) -> None:
    assert [w.ill for w in found(rows=but(2, state=state))] == [Ill.WRONG_END]


def test_an_agent_that_was_killed_has_failed() -> None:
    cut = swapped(TRACE[5], "14.0 alive alpha 2 102 8")
    kill = replace(KILL, victim="agent", pid=102)

    assert found(rows=but(2, state=State.FAILED), lines=cut, fault=kill) == []
    assert [w.ill for w in found(rows=but(2, state=State.TIMED_OUT), lines=cut, fault=kill)] == [Ill.WRONG_END]
    assert [w.ill for w in found(lines=cut, fault=kill)] == [Ill.WRONG_END]


def test_an_agent_that_runs_on_after_its_run_is_told() -> None:
    wrongs = found(rows=but(4, finished=8.0))

    assert [(w.ill, w.numbers) for w in wrongs] == [(Ill.RAN_ON, (9,))]
    assert "ran on for 2.8 s" in wrongs[0].sentence


def test_a_line_that_no_agent_writes_stops_the_reading() -> None:
    with pytest.raises(ValueError, match=r"not a line of an agent: '10\.0 begin al'"):
        Trace().add(["10.0 begin al"])


def test_recovery_lasts_until_what_was_sent_before_the_kill_is_finished() -> None:
    later = replace(REQUESTS[1], sent=11.0)

    assert recovery_s(KILL, REQUESTS, ROWS) == pytest.approx(4.0)
    assert recovery_s(KILL, [REQUESTS[0], later, REQUESTS[2]], ROWS) == pytest.approx(3.5)
    assert recovery_s(KILL, REQUESTS, but(3, finished=None)) is None


def test_a_report_counts_each_wrong_at_its_fault_and_all_of_them_in_the_last_line() -> None:
    other = Fault(point="before-commit", victim="web", at=10.0, pid=56, numbers=(70,))
    wrongs = [
        Wrong(ill=Ill.LOST, sentence="x", numbers=(70,)),
        Wrong(ill=Ill.LEFT_OVER, sentence="y"),
    ]

    report = Report(faults=[KILL, other], wrongs=wrongs, requests=REQUESTS, rows=ROWS, seed=1, took_s=2)

    lines = {f"{line['group']} {line['fault']}".strip(): line for line in report.lines()}
    assert lines["killed web"]["lost"] == 1
    assert lines["killed worker"]["lost"] == 0
    assert (lines["all"]["lost"], lines["all"]["left over"], lines["all"]["count"]) == (1, 1, 2)
    assert not report.is_clean


def test_nothing_done_is_no_clean_verdict() -> None:
    assert not Report(faults=[], wrongs=[], requests=[], rows=[], seed=1, took_s=0).is_clean
