"""Two instances of one type, with real workers: the work is shared, and nobody waits for somebody else's task."""

import pytest

from pool.states import State
from tests.helpers.house import House

pytestmark = pytest.mark.engine


@pytest.fixture
def two(house: House) -> House:
    """dev-alpha and dev-bravo, each with its plain Celery worker."""
    house.add("dev-alpha", "dev-bravo")
    house.start_worker("dev-alpha", ready=False)
    house.start_worker("dev-bravo")
    return house


def test_two_quick_issues_land_on_both_and_run_at_the_same_time(two: House) -> None:
    meet = two.folder / "meet"
    first = two.dispatch(1, f"touch:{meet}-1", f"wait-for:{meet}-2", "say:met")
    second = two.dispatch(2, f"touch:{meet}-2", f"wait-for:{meet}-1", "say:met")

    # Each waits for the other's sign: they can only end if they overlap.
    ended = [two.wait_for(task) for task in (first, second)]

    assert [task.state for task in ended] == [State.SUCCEEDED, State.SUCCEEDED]
    assert {task.instance for task in ended} == {"dev-alpha", "dev-bravo"}


def test_work_for_a_type_lands_on_either_instance(two: House) -> None:
    landed = [two.wait_for(two.dispatch(number, "say:done")).instance for number in range(1, 5)]

    assert landed == ["dev-alpha", "dev-bravo", "dev-alpha", "dev-bravo"]


def test_a_long_task_on_one_instance_does_not_delay_a_task_on_the_other(two: House) -> None:
    release = two.folder / "release"
    long = two.dispatch(1, "say:begun", f"wait-for:{release}")
    two.wait_for(long, State.RUNNING)

    short = two.wait_for(two.dispatch(2, "say:done"))
    still_running = two.task(long)
    release.touch()

    assert short.state is State.SUCCEEDED
    assert short.instance != still_running.instance
    assert still_running.state is State.RUNNING
    assert two.wait_for(long).state is State.SUCCEEDED


def test_a_task_queued_behind_a_busy_instance_stays_there_and_runs_in_order(two: House) -> None:
    release = two.folder / "release"
    long = two.dispatch(1, "say:begun", f"wait-for:{release}")
    other = two.dispatch(2, "say:begun", f"wait-for:{release}")
    queued = [two.dispatch(number, "say:done") for number in (3, 4, 5, 6)]
    homes = [two.task(task).instance for task in queued]

    release.touch()
    ended = [two.wait_for(task) for task in (long, other, *queued)]

    assert [task.instance for task in ended[2:]] == homes
    for name in ("dev-alpha", "dev-bravo"):
        starts = [task.started_at for task in ended if task.instance == name]
        assert starts == sorted(starts, key=lambda at: at.timestamp() if at else 0)
        assert len(starts) == 3


def test_the_next_task_of_a_conversation_gets_its_stored_id_on_whichever_instance(two: House) -> None:
    first = two.wait_for(two.dispatch(7, "say:done", "result"))
    two.wait_for(two.dispatch(8, "say:elsewhere"))

    second = two.wait_for(two.dispatch(7, "env:FORGEPOOL_SESSION_ID"))
    log = (two.settings.state_dir / "logs" / "tasks" / f"{second.id}.log").read_text(encoding="utf-8")

    assert first.evidence is not None
    assert first.evidence.session_id is not None
    assert log.strip() == first.evidence.session_id
