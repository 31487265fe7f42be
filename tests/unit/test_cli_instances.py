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
        tx.take_worker_lease("dev-alpha", holder="me", token="t", lease_s=60)

    (row,) = cli.json("instances", "list")

    assert (row["running_task"], row["queued"], row["worker"]["alive"]) == (1, 1, True)
    assert cli.run("instances", "list").stdout.splitlines()[1].split() == [
        *("dev-alpha", "dev", "active", "1", "1", "alive", "-", "-", "-")
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
