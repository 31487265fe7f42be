"""`forgepool instances`."""

from pathlib import Path

import pytest

from pool.model import Kind, Request
from pool.states import InstanceState, State
from tests.helpers.config import Deployment, type_table, write_config


@pytest.fixture(autouse=True)
def _alpha(cli: Deployment) -> None:
    with cli.store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")


def submit(cli: Deployment, number: int = 7) -> None:
    """Queue a task for dev."""
    with cli.store.writing() as tx:
        tx.submit("dev", Request(kind=Kind.CUSTOM, repo="acme/shop", number=number), by="test")


def test_the_list_tells_what_runs_and_what_waits(cli: Deployment) -> None:
    submit(cli, 1)
    submit(cli, 2)
    with cli.store.writing() as tx:
        tx.claim("dev-alpha", lease_s=60)
        tx.take_worker_lease("dev-alpha", holder="me", token="t", lease_s=60, host="build-1")

    (row,) = cli.json("instances", "list")

    assert (row["running_task"], row["queued"], row["worker"]["alive"]) == (1, 1, True)
    assert cli.run("instances", "list").stdout.splitlines()[1].split() == [
        *("dev-alpha", "dev", "active", "1", "1", "alive", "build-1", "-", "-", "-")
    ]


def test_a_worker_whose_lease_has_ended_is_not_alive(cli: Deployment) -> None:
    with cli.store.writing() as tx:
        tx.take_worker_lease("dev-alpha", holder="me", token="t", lease_s=-1)

    (row,) = cli.json("instances", "list")

    assert row["worker"]["alive"] is False
    assert row["worker"]["holder"] == "me"


def test_what_an_instance_has_of_its_own_goes_before_its_type(cli: Deployment) -> None:
    types = {"dev": type_table("dev", model="small", match_labels=["ui"]), "reviewer": type_table("reviewer")}
    write_config(cli.path.parent, types=types)
    cli.run("instances", "add", "dev-bravo", "--type", "dev", "--model", "large", "--match-label", "db")

    inherits, has = cli.json("instances", "show", "dev-alpha"), cli.json("instances", "show", "dev-bravo")

    assert (inherits["model"], inherits["model_from"]) == ("small", "type")
    assert (inherits["match_labels"], inherits["match_labels_from"]) == (["ui"], "type")
    assert (has["model"], has["model_from"]) == ("large", "instance")
    assert (has["match_labels"], has["match_labels_from"]) == (["db"], "instance")
    assert "large (its own)" in cli.run("instances", "show", "dev-bravo").stdout
    assert "small (from the type)" in cli.run("instances", "show", "dev-alpha").stdout


def test_an_instance_may_refuse_the_labels_of_its_type(cli: Deployment) -> None:
    write_config(cli.path.parent, types={"dev": type_table("dev", match_labels=["ui"])})

    row = cli.json("instances", "set", "dev-alpha", "--no-match-labels")

    assert (row["match_labels"], row["match_labels_from"]) == ([], "instance")


def test_an_override_can_be_taken_back(cli: Deployment) -> None:
    cli.run("instances", "set", "dev-alpha", "--model", "large", "--notes", "hm", "--prompt-appendix", "Be brief.")

    row = cli.json(
        "instances", "set", "dev-alpha", "--unset", "model", "--unset", "notes", "--unset", "prompt-appendix"
    )

    assert (row["model"], row["model_from"], row["notes"], row["prompt_appendix"]) == (None, "agent", "", None)


def test_an_appendix_may_come_from_a_file_or_from_standard_input(cli: Deployment, tmp_path: Path) -> None:
    (tmp_path / "extra.md").write_text("Be careful.\n")

    from_file = cli.json("instances", "set", "dev-alpha", "--prompt-appendix-file", str(tmp_path / "extra.md"))
    cli.run("instances", "set", "dev-alpha", "--prompt-appendix-file", "-", input="Be quick.")

    assert from_file["prompt_appendix"] == "Be careful.\n"
    assert cli.json("instances", "show", "dev-alpha")["prompt_appendix"] == "Be quick."


@pytest.mark.parametrize(
    "options",
    [
        ["--model", "x", "--unset", "model"],
        ["--prompt-appendix", "x", "--prompt-appendix-file", "-"],
        ["--match-label", "x", "--no-match-labels"],
    ],
)
def test_options_that_contradict_each_other_are_refused(cli: Deployment, options: list[str]) -> None:
    assert "contradict each other" in cli.run("instances", "set", "dev-alpha", *options, status=2).stderr


def test_a_change_of_nothing_is_refused(cli: Deployment) -> None:
    assert "nothing to change" in cli.run("instances", "set", "dev-alpha", status=2).stderr


def test_an_instance_pauses_and_resumes_and_the_worker_is_rung(cli: Deployment) -> None:
    submit(cli)
    paused = cli.json("instances", "pause", "dev-alpha")["state"]
    rung_before = list(cli.bell.rung)

    resumed = cli.json("instances", "resume", "dev-alpha")["state"]

    assert (paused, resumed) == (InstanceState.PAUSED, InstanceState.ACTIVE)
    assert (rung_before, cli.bell.rung) == ([], [("dev-alpha", 1)])


@pytest.mark.parametrize("command", [["drain"], ["remove", "--yes"]])
def test_a_paused_instance_that_is_to_run_empty_is_rung_for_what_waits(cli: Deployment, command: list[str]) -> None:
    cli.run("instances", "pause", "dev-alpha")
    submit(cli)

    cli.run("instances", command[0], "dev-alpha", *command[1:])

    assert cli.bell.rung == [("dev-alpha", 1)]


def test_a_draining_instance_takes_nothing_new_until_it_is_resumed(cli: Deployment) -> None:
    drained = cli.run("instances", "drain", "dev-alpha").stdout
    refused = cli.run("dispatch", "dev", "--repo", "acme/shop", "--number", "7", status=1).stderr
    cli.run("instances", "resume", "dev-alpha")

    assert drained == "dev-alpha takes nothing new.\n"
    assert "draining or being removed and takes nothing new" in refused
    assert "or resume dev-alpha" in refused
    assert cli.json("dispatch", "dev", "--repo", "acme/shop", "--number", "7")["instance"] == "dev-alpha"


def test_an_instance_resumes_without_a_broker(cli: Deployment) -> None:
    submit(cli)
    cli.bell.break_down()

    result = cli.run("instances", "resume", "dev-alpha")

    assert result.stdout == "dev-alpha is active.\n"
    assert "Warning: the broker does not answer; task 1 waits until the fleet rings for it" in result.stderr


def test_an_idle_instance_is_gone_when_it_is_removed(cli: Deployment) -> None:
    assert cli.json("instances", "remove", "dev-alpha", "--yes") == {"name": "dev-alpha", "state": "removed"}
    assert cli.json("instances", "list") == []


def test_a_busy_instance_stays_until_its_work_is_done(cli: Deployment) -> None:
    submit(cli)

    result = cli.run("instances", "remove", "dev-alpha", input="y\n")

    assert "Remove dev-alpha? It has 1 queued; that is done first." in result.stderr
    assert [row["state"] for row in cli.json("instances", "list")] == ["removed"]
    assert cli.json("tasks", "show", "1")["state"] == State.QUEUED


def test_a_removal_that_is_not_confirmed_changes_nothing(cli: Deployment) -> None:
    result = cli.run("instances", "remove", "dev-alpha", input="n\n", status=1)

    assert "Nothing was changed." in result.stderr
    assert [row["state"] for row in cli.json("instances", "list")] == ["active"]


def test_an_instance_of_a_type_that_is_gone_is_shown_as_such(cli: Deployment) -> None:
    with cli.store.writing() as tx:
        tx.add_instance("old-one", "old")

    assert cli.json("instances", "show", "old-one")["type_is_configured"] is False
    assert "old (?)" in cli.run("instances", "list").stdout


# --- remove --now --------------------------------------------------------------------------------


def test_of_a_removal_at_once_the_fate_of_each_task_is_told(cli: Deployment) -> None:
    for number in (1, 2, 3):
        submit(cli, number)
    with cli.store.writing() as tx:
        tx.claim("dev-alpha", lease_s=60)
        tx.add_instance("dev-bravo", "dev")

    result = cli.run("instances", "remove", "dev-alpha", "--now", input="y\n")

    assert "Remove dev-alpha now? It runs 1 and has 2 queued; the run is stopped, and the work goes to" in result.stderr
    assert result.stdout.splitlines() == [
        "dev-alpha is removed.",
        "Task 1 ran there; its agent has been asked to stop, and it is queued again when that is gone.",
        "Task 2 went to dev-bravo: the only candidate.",
        "Task 3 went to dev-bravo: the only candidate.",
    ]
    assert cli.bell.rung == [("dev-bravo", 2), ("dev-bravo", 3)]
    assert [row["state"] for row in cli.json("instances", "list")] == ["removed", "active"]
    assert cli.json("tasks", "show", "2")["history"][1]["event"] == "re-dispatched"


def test_a_removal_at_once_of_the_last_of_its_type_warns_of_dead_letters(cli: Deployment) -> None:
    submit(cli)

    question = cli.run("instances", "remove", "dev-alpha", "--now", input="n\n", status=1).stderr
    answer = cli.json("instances", "remove", "dev-alpha", "--now", "--yes")

    assert "It has 1 queued; the work becomes a dead letter, for type dev has no other." in question
    assert answer["stopped"] == []
    assert [(one["task"], one["instance"]) for one in answer["queue"]] == [(1, None)]
    assert "add one with `forgepool instances add NAME --type dev`" in answer["queue"][0]["why"]
    assert "resume" not in answer["queue"][0]["why"]
    assert cli.json("instances", "list") == []


def test_a_removal_at_once_works_without_a_broker(cli: Deployment) -> None:
    submit(cli)
    cli.run("instances", "add", "dev-bravo", "--type", "dev")
    cli.bell.break_down()

    result = cli.run("instances", "remove", "dev-alpha", "--now", "--yes")

    assert "the broker does not answer; the fleet rings for 1 when it is back" in result.stderr
    assert cli.json("tasks", "show", "1")["instance"] == "dev-bravo"


def test_an_instance_that_is_going_may_be_hurried(cli: Deployment) -> None:
    submit(cli)
    cli.run("instances", "add", "dev-bravo", "--type", "dev")
    cli.run("instances", "remove", "dev-alpha", "--yes")

    assert cli.json("instances", "remove", "dev-alpha", "--now", "--yes")["queue"][0]["instance"] == "dev-bravo"


# --- another type, a host ------------------------------------------------------------------------


def test_a_retyped_instance_gives_its_queue_to_others_of_the_old_type(cli: Deployment) -> None:
    submit(cli)
    cli.run("instances", "add", "dev-bravo", "--type", "dev")

    result = cli.run("instances", "set", "dev-alpha", "--type", "reviewer", "--model", "large")

    assert result.stdout.splitlines()[:2] == ["dev-alpha was changed.", "Task 1 went to dev-bravo: the only candidate."]
    row = cli.json("instances", "show", "dev-alpha")
    assert (row["type"], row["model"], row["queued"]) == ("reviewer", "large", 0)
    assert cli.json("instances", "set", "dev-alpha", "--type", "reviewer")["queue"] == []


def test_a_type_that_is_not_configured_changes_nothing(cli: Deployment) -> None:
    result = cli.run("instances", "set", "dev-alpha", "--type", "dve", "--model", "large", status=2)

    assert "type = 'dve': not in forgepool.toml" in result.stderr
    row = cli.json("instances", "show", "dev-alpha")
    assert (row["type"], row["model"]) == ("dev", None)


def test_a_bad_value_beside_a_new_type_changes_nothing(cli: Deployment) -> None:
    submit(cli)

    result = cli.run("instances", "set", "dev-alpha", "--type", "reviewer", "--host", " ", status=2)

    assert "host = ' '" in result.stderr
    assert cli.json("instances", "show", "dev-alpha")["type"] == "dev"


def test_an_instance_is_bound_to_a_host_and_freed(cli: Deployment) -> None:
    bound = cli.json("instances", "set", "dev-alpha", "--host", "build-2")
    shown = cli.run("instances", "show", "dev-alpha").stdout
    freed = cli.json("instances", "set", "dev-alpha", "--host", "any")
    added = cli.json("instances", "add", "dev-bravo", "--type", "dev", "--host", "build-2")

    assert (bound["host"], freed["host"], added["host"]) == ("build-2", None, "build-2")
    assert "only build-2" in shown


def test_it_is_told_who_serves_an_instance_where_and_why_nothing_runs(cli: Deployment) -> None:
    types = {"dev": type_table("dev")}
    write_config(cli.path.parent, types=types)
    with cli.store.writing() as tx:
        for name, host in (("dev-here", None), ("dev-there", "build-2"), ("dev-bound", "build-1"), ("dev-moved", None)):
            tx.add_instance(name, "dev", host=host)
        tx.add_instance("old-one", "old")
        for name in ("dev-here", "dev-bound", "dev-moved"):
            tx.take_worker_lease(name, holder=f"{name}@w", token=name, lease_s=60, host="build-1")
        tx.set_instance("dev-moved", host="build-2")

    result = cli.run("instances", "list")
    hosts = {
        line.split()[0]: line.partition("none" if " none" in line else "alive")[2].split()[:-3]
        for line in result.stdout.splitlines()[1:]
    }
    why = {row["name"]: row["hindrance"] and row["hindrance"]["why"] for row in cli.json("instances", "list")}

    assert hosts == {
        "dev-alpha": ["-"],
        "dev-bound": ["only", "build-1"],
        "dev-here": ["build-1"],
        "dev-moved": ["build-1,", "only", "build-2", "may"],
        "dev-there": ["only", "build-2"],
        "old-one": ["-"],
    }
    assert why == {
        "dev-alpha": "no worker serves it, though others are served",
        "dev-bound": None,
        "dev-here": None,
        "dev-moved": None,
        "dev-there": "bound to host build-2, where no worker is alive",
        "old-one": "type old is not in the configuration",
    }
    assert "nothing runs on dev-there: bound to host build-2" in result.stderr
    assert "forgepool instances set dev-there --host any" in result.stderr


def test_the_same_reason_is_told_once(cli: Deployment) -> None:
    cli.run("instances", "add", "dev-bravo", "--type", "dev")
    cli.run("instances", "add", "dev-idle", "--type", "dev")
    cli.run("instances", "pause", "dev-idle")

    # A pause is meant so as long as nothing waits behind it.
    assert cli.run("instances", "list").stderr == (
        "Warning: nothing runs on dev-alpha, dev-bravo: no worker is running at all; "
        "`forgepool up`, or `forgepool fleet`\n"
    )
