"""Did the engine keep its promises while it was killed? Weighs the evidence. Pure: no I/O."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from pool.states import LIVE, State
from webapp.chaos.evidence import Fault, Ill, Request, Row, Run, Wrong

#: An agent may outlive the record of its run by its grace time and the time to notice; these are seconds.
RAN_ON_S = 2.0


def judge(
    *, requests: Sequence[Request], rows: Sequence[Row], runs: Sequence[Run], faults: Sequence[Fault]
) -> list[Wrong]:
    """Return everything that is wrong, each with a sentence that names tasks and runs.

    rows, runs: in the order of their ids and begins, of these requests at least.
    """
    killed = {fault.pid for fault in faults if fault.victim == "agent"}
    return [
        *_lost(requests, rows),
        *_taken_twice(requests, rows),
        *_run_twice(rows, runs),
        *_two_at_once(runs),
        *_out_of_order(rows, runs),
        *_wrong_ends(rows, runs, killed),
        *_ran_on(rows, runs),
    ]


def recovery_s(fault: Fault, requests: Sequence[Request], rows: Sequence[Row]) -> float | None:
    """Return the seconds from a kill until everything that had been sent before it was finished.

    None when something never was.
    """
    before = {request.number for request in requests if request.sent <= fault.at}
    ends = [row.finished for row in _leaves(rows) if row.number in before]
    found = [end for end in ends if end is not None]
    if len(found) < len(before):
        return None
    return max(0.0, max(found, default=fault.at) - fault.at)


def _lost(requests: Sequence[Request], rows: Sequence[Row]) -> Iterator[Wrong]:
    known = {row.number for row in rows}
    for request in requests:
        if request.accepted is None:
            what = f"delivery {request.delivery} (#{request.number}) was never accepted: {'; '.join(request.answers)}"
            yield Wrong(ill=Ill.LOST, sentence=what, numbers=(request.number,))
        elif request.number not in known:
            what = f"delivery {request.delivery} (#{request.number}) was accepted, but there is no task"
            yield Wrong(ill=Ill.LOST, sentence=what, numbers=(request.number,))
    for row in _leaves(rows):
        if row.state in LIVE:
            what = f"task {row.task} (#{row.number}) is still {row.state} on {row.instance}"
            yield Wrong(ill=Ill.LOST, sentence=what, numbers=(row.number,))
        elif row.state is State.INTERRUPTED:
            what = f"task {row.task} (#{row.number}) was interrupted and never tried again"
            yield Wrong(ill=Ill.LOST, sentence=what, numbers=(row.number,))


def _taken_twice(requests: Sequence[Request], rows: Sequence[Row]) -> Iterator[Wrong]:
    roots: dict[int, list[Row]] = defaultdict(list)
    retries: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        (roots[row.number] if row.retry_of is None else retries[row.retry_of]).append(row)
    for number, found in roots.items():
        if len(found) > 1:
            what = f"#{number} was queued {len(found)} times: tasks {_ids(found)}"
            yield Wrong(ill=Ill.DOUBLED, sentence=what, numbers=(number,))
    for task, found in retries.items():
        if len(found) > 1:
            what = f"task {task} was tried again {len(found)} times: tasks {_ids(found)}"
            yield Wrong(ill=Ill.DOUBLED, sentence=what, numbers=(found[0].number,))
    for request in requests:
        if request.receipts > 1:
            what = f"delivery {request.delivery} (#{request.number}) was accepted {request.receipts} times"
            yield Wrong(ill=Ill.DOUBLED, sentence=what, numbers=(request.number,))


def _run_twice(rows: Sequence[Row], runs: Sequence[Run]) -> Iterator[Wrong]:
    state = {row.task: row.state for row in rows}
    of_task, of_number = defaultdict(list), defaultdict(list)
    for run in runs:
        of_task[run.task].append(run)
        of_number[run.number].append(run)
    for task, found in of_task.items():
        if len(found) > 1:
            what = f"task {task} ran {len(found)} times: " + "; ".join(map(str, found))
            yield Wrong(ill=Ill.DOUBLED, sentence=what, numbers=(found[0].number,))
    for number, found in of_number.items():
        for first, second in pairwise(found):
            if first.task != second.task and state.get(first.task) is not State.INTERRUPTED:
                how = state.get(first.task, "unknown")
                what = f"#{number} ran again although its first run is {how}: {first}; {second}"
                yield Wrong(ill=Ill.DOUBLED, sentence=what, numbers=(number,))


def _two_at_once(runs: Sequence[Run]) -> Iterator[Wrong]:
    for found in _by_instance(runs).values():
        latest = None
        for run in found:
            if latest is not None and run.begin < latest.last:
                what = f"two agents at once: {latest}; {run}"
                yield Wrong(ill=Ill.AT_ONCE, sentence=what, numbers=(latest.number, run.number))
            latest = run if latest is None or run.last > latest.last else latest


def _out_of_order(rows: Sequence[Row], runs: Sequence[Run]) -> Iterator[Wrong]:
    place = {row.task: row.position for row in rows}
    for found in _by_instance(runs).values():
        for first, second in pairwise(run for run in found if run.task in place):
            if place[second.task] < place[first.task]:
                what = f"task {second.task} (place {place[second.task]}) ran after task {first.task}: {first}; {second}"
                yield Wrong(ill=Ill.OUT_OF_ORDER, sentence=what, numbers=(first.number, second.number))


def _wrong_ends(rows: Sequence[Row], runs: Sequence[Run], killed: set[int | None]) -> Iterator[Wrong]:
    ran = {run.task: run for run in runs}
    for row in rows:
        run = ran.get(row.task)
        told = f"task {row.task} (#{row.number}) is {row.state} ({row.reason})"
        if row.state is State.SUCCEEDED and (run is None or not run.ended):
            what = f"{told}, but its agent " + (f"was cut off: {run}" if run else "never began")
        elif row.state in _BAD_ENDS and (run is None or run.pid not in killed):
            what = f"{told}, but nobody touched its agent: {run or 'it never began'}"
        elif run is not None and run.pid in killed and not run.ended and row.state not in _ENDS_OF_KILLED:
            what = f"{told}, but its agent was killed: {run}"
        else:
            continue
        yield Wrong(ill=Ill.WRONG_END, sentence=what, numbers=(row.number,))


def _ran_on(rows: Sequence[Row], runs: Sequence[Run]) -> Iterator[Wrong]:
    finished = {row.task: row.finished for row in rows}
    for run in runs:
        end = finished.get(run.task)
        if end is not None and run.last > end + RAN_ON_S:
            what = f"an agent ran on for {run.last - end:.1f} s after its run had ended: {run}"
            yield Wrong(ill=Ill.RAN_ON, sentence=what, numbers=(run.number,))


#: Nothing that is done here excuses these, but a kill of the agent itself.
_BAD_ENDS = frozenset({State.FAILED, State.TIMED_OUT, State.CANCELLED, State.SUPERSEDED})
#: The worker may have been killed too, before it could tell how the agent ended; a live row is told as lost.
_ENDS_OF_KILLED = frozenset({State.FAILED, State.INTERRUPTED, *LIVE})


def _leaves(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no other row tries again."""
    tried_again = {row.retry_of for row in rows}
    return [row for row in rows if row.task not in tried_again]


def _by_instance(runs: Sequence[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.instance].append(run)
    return found


def _ids(rows: Sequence[Row]) -> str:
    return ", ".join(str(row.task) for row in rows)
