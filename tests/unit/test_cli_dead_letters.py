"""What a person sees of work that the machinery could not get done, and the commands for it."""

import json

import pytest
from sqlalchemy import update

from pool.model import Evidence, Kind, Request
from pool.schema import tasks
from pool.states import InstanceState, Move, State
from pool.store import Claim
from tasks import dispatch
from tasks.engine import Engine
from tests.helpers.config import Deployment, type_table, write_config


@pytest.fixture(autouse=True)
def _alpha(cli: Deployment) -> None:
    with cli.store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")


def submit(cli: Deployment, number: int = 7) -> None:
    """Queue a task for dev."""
    with cli.store.writing() as tx:
        tx.submit("dev", Request(kind=Kind.CUSTOM, repo="acme/shop", number=number, title="Tidy"), by="ada")


def lose(cli: Deployment, why: str, *, cap: int = 1) -> int:
    """Lose the next run of dev-alpha; return the task that repeats it."""
    with cli.store.writing() as tx:
        run = tx.claim("dev-alpha", lease_s=60, host="build-1")
        assert isinstance(run, Claim)
        tx.finish(run.task.id, Move.INTERRUPT, fence=run.fence, evidence=Evidence(), why=why)
        return tx.retry_interrupted(run.task.id, cap=cap, by="reconcile").task


@pytest.fixture
def dead(cli: Deployment) -> int:
    """Return a task whose run was lost twice."""
    submit(cli)
    lose(cli, "its worker stopped renewing the lease")
    return lose(cli, "dev-alpha was removed")


# --- seeing them ---------------------------------------------------------------------------------


def test_dead_letters_have_a_list_of_their_own(cli: Deployment, dead: int) -> None:
    submit(cli, 8)

    (row,) = cli.json("tasks", "dead")
    shown = cli.run("tasks", "dead").stdout.splitlines()

    assert (row["id"], row["state"], row["interruptions"]) == (dead, "dead_lettered", 2)
    assert cli.json("tasks", "list", "--state", "dead_lettered") == [row]
    assert shown[0].split() == ["ID", "TYPE", "ABOUT", "LOST", "SINCE", "REASON"]
    assert shown[1].split()[:4] == ["3", "dev", "acme/shop#7", "2"]
    assert shown[1].endswith("  its run was lost 2 times")
    assert len(shown) == 2


def test_the_list_of_tasks_tells_of_dead_letters_that_it_has_no_room_for(cli: Deployment, dead: int) -> None:
    submit(cli, 8)

    result = cli.run("tasks", "list", "--limit", "1")

    assert f"\n{dead} " not in result.stdout
    assert "1 dead letter waits for a person; `forgepool tasks dead` tells which and why" in result.stderr
    assert cli.run("tasks", "list", "--state", "queued").stderr == ""
    cli.run("tasks", "cancel", str(dead))
    assert cli.run("tasks", "list").stderr == ""


@pytest.mark.parametrize("command", [("tasks", "show"), ("explain",)])
def test_what_was_tried_why_each_run_was_lost_and_what_helps_is_told(
    cli: Deployment, dead: int, command: tuple[str, ...]
) -> None:
    shown, told = cli.run(*command, str(dead)).stdout, cli.json(*command, str(dead))

    assert "task 1  interrupted on dev-alpha (build-1) after 0s: its worker stopped renewing the lease" in shown
    assert "task 2  interrupted on dev-alpha (build-1) after 0s: dev-alpha was removed" in shown
    assert f"`forgepool tasks release {dead}` tries it again, in its old place" in shown
    assert f"`forgepool tasks cancel {dead}` gives it up" in shown
    assert [(run["id"], run["host"], run["reason"]) for run in told["earlier_runs"]] == [
        (1, "build-1", "its worker stopped renewing the lease"),
        (2, "build-1", "dev-alpha was removed"),
    ]
    assert told["reason"] == "its run was lost 2 times"


def test_a_dead_letter_says_that_it_waits_and_a_lost_run_where_it_goes_on(cli: Deployment, dead: int) -> None:
    assert "Why dead_lettered\n  Its run was lost 2 times. It waits for a person." in cli.run("explain", "3").stdout
    assert "Dev-alpha" not in cli.run("explain", "2").stdout
    assert "dev-alpha was removed. It was tried again as task 3." in cli.run("explain", "2").stdout
    assert cli.json("explain", "1")["retried_as"] == 2
    assert "finished" not in cli.run("tasks", "show", str(dead)).stdout


def test_the_doctor_tells_of_dead_letters(cli: Deployment, dead: int) -> None:
    (found,) = [one for one in cli.json("doctor")["checks"] if one["name"] == "dead letters"]

    assert found["status"] == "warn"
    assert found["message"] == f"1 waits for a person, the newest is task {dead}: its run was lost 2 times"
    assert "forgepool tasks dead" in found["remedy"]


def test_waiting_for_a_task_ends_when_it_becomes_a_dead_letter(cli: Deployment) -> None:
    def lose_twice() -> None:
        lose(cli, "its worker went away")
        lose(cli, "its worker went away")

    cli.bell.on_ring = lose_twice

    result = cli.run("dispatch", "dev", "--repo", "acme/shop", "--number", "7", "--wait", status=1)

    assert "Task 3 is dead_lettered: its run was lost 2 times." in result.stdout
    assert "`forgepool tasks release 3` tries it again." in result.stdout


def test_following_the_log_of_a_dead_letter_ends(cli: Deployment, dead: int) -> None:
    assert cli.run("tasks", "log", str(dead), "--follow").stdout == ""


# --- release and cancel --------------------------------------------------------------------------


def test_a_dead_letter_is_released_and_its_worker_is_rung(cli: Deployment, dead: int) -> None:
    result = cli.run("tasks", "release", f"#{dead}")

    assert result.stdout == "Task 3 is queued again on dev-alpha.\n"
    # What it waits for is told at once.
    assert "nothing runs on dev-alpha: no worker is running at all; `forgepool up`" in result.stderr
    assert cli.bell.rung == [("dev-alpha", dead)]
    assert cli.json("tasks", "show", str(dead))["history"][-1]["by"].endswith("(command line)")


def test_of_several_each_is_tried_and_the_first_refusal_is_the_exit_status(cli: Deployment, dead: int) -> None:
    result = cli.run("tasks", "release", "99", str(dead), "1", status=3)

    assert result.stdout == "Task 3 is queued again on dev-alpha.\n"
    assert "there is no task 99" in result.stderr
    assert "task 1 cannot release: it is interrupted" in result.stderr
    answers = json.loads(cli.run("tasks", "release", "1", "99", "--json", status=1).stdout)
    assert [sorted(answer) for answer in answers] == [["error", "id"], ["error", "id"]]


def test_all_are_released_the_oldest_first_after_a_question(cli: Deployment, dead: int) -> None:
    submit(cli, 8)
    other = lose(cli, "its worker went away", cap=0)

    refused = cli.run("tasks", "release", "--all", input="n\n", status=1)
    before = cli.json("tasks", "dead")
    answers = cli.json("tasks", "release", "--all", "--yes")

    assert "2 dead letters wait. Try again?" in refused.stderr
    assert [row["id"] for row in before] == [other, dead]
    assert [(answer["id"], answer["instance"]) for answer in answers] == [(dead, "dev-alpha"), (other, "dev-alpha")]
    assert cli.run("tasks", "release", "--all").stdout == "No task is a dead letter.\n"


@pytest.mark.parametrize("options", [[], ["--all", "3"]])
def test_a_release_names_tasks_or_takes_all(cli: Deployment, options: list[str]) -> None:
    assert "give the ids of dead letters, or --all" in cli.run("tasks", "release", *options, status=2).stderr


def test_a_release_that_nobody_can_take_says_what_to_add(cli: Deployment, dead: int) -> None:
    cli.run("instances", "remove", "dev-alpha", "--yes")

    result = cli.run("tasks", "release", str(dead), status=1)

    assert "no instance of type 'dev' is registered; add one with `forgepool instances add" in result.stderr
    assert cli.json("tasks", "show", str(dead))["state"] == State.DEAD_LETTERED


def test_a_release_without_a_broker_is_kept(cli: Deployment, dead: int) -> None:
    with cli.store.writing() as tx:
        tx.take_worker_lease("dev-alpha", holder="me", token="t", lease_s=60)
    cli.bell.break_down()

    result = cli.run("tasks", "release", str(dead))

    assert f"the broker does not answer; task {dead} waits until the fleet rings for it" in result.stderr
    assert cli.json("tasks", "show", str(dead))["published_at"] is None


def test_a_dead_letter_is_cancelled(cli: Deployment, dead: int) -> None:
    assert cli.run("tasks", "cancel", str(dead), "--why", "not worth it").stdout == f"Task {dead} is cancelled.\n"
    assert cli.json("tasks", "show", str(dead))["reason"] == "not worth it"


# --- a request that no longer validates ----------------------------------------------------------


def test_an_unreadable_dead_letter_is_listed_shown_and_released(cli: Deployment, dead: int) -> None:
    with cli.store.writing() as tx:
        tx.connection.execute(update(tasks).values(request={"kind": "teleport"}))

    for command in (("tasks", "list"), ("tasks", "dead"), ("tasks", "show", str(dead)), ("explain", str(dead))):
        assert "unreadable/request#1" in cli.run(*command).stdout
    assert "request.kind = 'teleport'" in cli.run("tasks", "show", str(dead)).stdout
    assert [run["id"] for run in cli.json("tasks", "show", str(dead))["earlier_runs"]] == [1, 2]
    assert cli.json("tasks", "show", "1")["retried_as"] == 2
    assert cli.run("tasks", "release", str(dead)).stdout == f"Task {dead} is queued again on dev-alpha.\n"


# --- why a task waits ----------------------------------------------------------------------------


def test_a_task_whose_type_left_the_configuration_says_so_and_what_helps(cli: Deployment) -> None:
    submit(cli)
    write_config(cli.path.parent, types={"reviewer": type_table("reviewer")})

    explained, shown = cli.run("explain", "1").stdout, cli.json("tasks", "show", "1")
    listed = cli.run("instances", "list")
    found = [one for one in cli.json("doctor", status=1)["checks"] if one["status"] == "fail"]

    assert "It waits on dev-alpha, where nothing runs: type dev is not in the configuration." in explained
    assert "describe [types.dev] again and restart, or `forgepool instances set dev-alpha --type TYPE`" in explained
    assert shown["hindrance"]["why"] == "type dev is not in the configuration"
    assert "nothing runs on dev-alpha: type dev is not in the configuration; describe [types.dev]" in listed.stderr
    assert found[0]["message"] == "dev-alpha is of type dev, which is not configured; 1 waiting there"
    assert "`forgepool instances set dev-alpha --type TYPE`" in found[0]["remedy"]


def test_a_run_that_is_asked_to_stop_says_so(cli: Deployment) -> None:
    submit(cli)
    with cli.store.writing() as tx:
        tx.claim("dev-alpha", lease_s=60)
    dispatch.remove_now(Engine(cli.settings, cli.store, cli.bell), "dev-alpha", by="ada")

    assert "Its agent has been asked to stop; it goes on in a new run." in cli.run("explain", "1").stdout
    assert "stop-requested by ada: dev-alpha was removed" in cli.run("tasks", "show", "1").stdout


def test_a_task_that_waits_for_nothing_but_its_turn_says_so(cli: Deployment) -> None:
    submit(cli)
    with cli.store.writing() as tx:
        tx.take_worker_lease("dev-alpha", holder="me", token="t", lease_s=60)
    free = cli.run("explain", "1").stdout
    with cli.store.writing() as tx:
        tx.set_instance_state("dev-alpha", InstanceState.PAUSED)

    assert "It waits for its turn on dev-alpha." in free
    assert "What helps" not in free
    assert "It waits on dev-alpha, where nothing runs: paused." in cli.run("explain", "1").stdout
