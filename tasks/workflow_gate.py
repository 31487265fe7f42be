"""Whether something may be begun once more: caps, tries, and what a person has stopped. Pure: no I/O."""

from pool.states import State
from pool.work import Past
from tasks.backoff import doubled
from tasks.situation import Facts, Policy
from tasks.workflow_steps import AskPerson, Outcome, Start, Wait, ask, wait

#: A run that could not even start an agent is tried again after this time, doubled each time.
FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 3600.0
#: An agent ran, and what it was for was not reached; an interrupted run is the machinery's own affair.
_TRIED = frozenset({State.SUCCEEDED, State.FAILED, State.TIMED_OUT})


def begin(facts: Facts, policy: Policy, start: Start) -> Outcome:
    """Start it, unless it was tried too often, or a person has stopped it, or it is too early to try again."""
    past = [task for task in facts.work.past if _is_same(task, start)]
    if past and past[-1].state is State.CANCELLED:
        return wait(f"task {past[-1].id} ({start.kind} for {start.type}) was cancelled by a person")
    dead = next((task for task in past if task.state is State.DEAD_LETTERED), None)
    if dead is not None:
        sentence = f"task {dead.id} ({start.kind} for {start.type}) could not be done: {dead.reason}"
        return ask("dead-letter", f"{sentence}; release it with `forgepool tasks release {dead.id}`")
    tries = [task for task in past if task.agent_ran and task.state in _TRIED]
    if len(tries) >= policy.max_tries:
        return ask("tries", f"{start.kind} for {start.type} was tried {policy.max_tries} times: {tries[-1].reason}")
    return _after_pause(facts, policy, start, past)


def _is_same(task: Past, start: Start) -> bool:
    same = (task.kind, task.type) == (start.kind, start.type)
    return same and (start.head_sha is None or start.head_sha in {task.head_sha, task.head_before})


def _after_pause(facts: Facts, policy: Policy, start: Start, past: list[Past]) -> Outcome:
    """Start it, unless the last tries could not even start an agent, and that is not long ago."""
    failures = _failed_before_start(past)
    if not failures:
        return start.why, (start,)
    last = failures[-1]
    pause = doubled(FIRST_PAUSE_S, len(failures) - 1, longest_s=LONGEST_PAUSE_S)
    left = pause - (facts.now - (last.finished_at or last.created_at)).total_seconds()
    if left <= 0:
        return start.why, (start,)
    why = f"{start.kind} for {start.type} could not be begun: {last.reason}"
    steps = (AskPerson(cause="cannot-begin", sentence=why),) if len(failures) >= policy.max_tries else ()
    return why, (*steps, Wait(look_after_s=max(1.0, min(left, pause))))


def _failed_before_start(past: list[Past]) -> list[Past]:
    """Return the newest tries that all failed without an agent."""
    found: list[Past] = []
    for task in reversed(past):
        if task.state is not State.FAILED or task.agent_ran:
            break
        found.append(task)
    return found[::-1]
