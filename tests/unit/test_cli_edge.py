"""The command line as a whole: help, JSON, exit statuses, errors, signals."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pool.model import Kind, Request
from pool.states import Verdict
from tasks.settings import CONFIG_ENV
from tests.helpers.config import Deployment
from tests.helpers.waiting import wait_until
from webapp import cli as package
from webapp.cli import COMMANDS, main

#: What runs until it is stopped, prints what is no data, or needs a forge.
NO_DATA = {"up", "demo", "init", "chaos", "web", "fleet", "worker", "completion", "tasks log"}

#: One call of every command that prints data. {task}, {delivery}: of `filled`.
CALLS = {
    "version": "version",
    "instances list": "instances list",
    "instances show": "instances show dev-alpha",
    "instances add": "instances add dev-new --type dev",
    "instances set": "instances set dev-alpha --notes x",
    "instances pause": "instances pause dev-alpha",
    "instances resume": "instances resume dev-alpha",
    "instances drain": "instances drain dev-alpha",
    "instances remove": "instances remove dev-alpha --yes",
    "tasks list": "tasks list",
    "tasks show": "tasks show 1",
    "tasks dead": "tasks dead",
    "tasks cancel": "tasks cancel 1",
    "tasks release": "tasks release --all --yes",
    "tasks explain": "tasks explain 1",
    "explain": "explain 1",
    "trail": "trail acme/shop#7",
    "dispatch": "dispatch dev --repo acme/shop --number 7",
    "deliveries list": "deliveries list",
    "deliveries show": "deliveries show 1",
    "deliveries replay": "deliveries replay 1",
    "merges list": "merges list --all",
    "checkouts list": "checkouts list",
    "checkouts recovered": "checkouts recovered",
    "config show": "config show",
    "config check": "config check",
    "config init": "config init --dir new",
    "db upgrade": "db upgrade",
    "doctor": "doctor",
    "reconcile": "reconcile --dry-run",
}


def leaves(group: click.Group = main, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Return every command that is no group, by its path."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def groups() -> list[click.Command]:
    """Return every group below the first."""
    found = [main.get_command(click.Context(main), name) for name in COMMANDS]
    return [command for command in found if isinstance(command, click.Group)]


@pytest.fixture
def filled(cli: Deployment, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """Return a deployment with an instance, a task and a delivery."""
    monkeypatch.chdir(cli.path.parent)
    with cli.store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")
        delivery = tx.add_delivery(
            body=b'{"action": "created", "repository": {"full_name": "acme/shop"}}',
            headers={"event": "watch", "event-type": "watch"},
            source="forgejo",
            signed=True,
            verdict=Verdict.ACCEPTED,
            status=202,
            rule="by-hand",
            reason="somebody asked for it",
        )
        request = Request(kind=Kind.IMPLEMENT, repo="acme/shop", number=7)
        tx.submit("dev", request, by="webhook", rule="by-hand", delivery=delivery)
    return cli


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, _ in leaves()])
def test_every_command_says_in_one_sentence_what_it_does_and_shows_how(name: str) -> None:
    command = dict(leaves())[name]

    assert command.help
    first = command.help.strip().split("\n\n")[0]
    assert first.endswith(".")
    assert command.epilog
    assert "Examples:" in command.epilog
    assert f"forgepool {name}" in command.epilog
    assert all(p.help for p in command.params if isinstance(p, click.Option))


@pytest.mark.parametrize("command", groups(), ids=lambda command: str(command.name))
def test_every_group_has_help_with_an_example(command: click.Command) -> None:
    assert (command.help or "").endswith(".")
    assert "Examples:" in (command.epilog or "")


def test_the_first_help_names_every_command_and_exit_status() -> None:
    shown = CliRunner().invoke(main, ["-h"]).output

    assert all(f"  {name} " in shown for name in COMMANDS)
    assert all(f"    {status} " in shown for status in ("0", "1", "2", "3", "130"))


def test_the_first_help_loads_no_command() -> None:
    code = "import sys; from webapp.cli import main; main(['-h'], standalone_mode=False); print(*sys.modules)"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout

    assert "webapp.cli.output" in shown
    assert "webapp.cli.instances" not in shown


def test_a_misspelt_command_is_told_with_the_nearest(cli: Deployment) -> None:
    assert "Did you mean 'instances'?" in cli.run("instances_", status=2).stderr
    assert "Did you mean 'list'?" in cli.run("instances", "listt", status=2).stderr


# --- JSON ----------------------------------------------------------------------------------------


def test_every_command_that_prints_data_is_called_below() -> None:
    assert set(CALLS) == {name for name, _ in leaves()} - NO_DATA


@pytest.mark.parametrize("name", CALLS)
def test_a_command_that_prints_data_can_print_one_json_document(filled: Deployment, name: str) -> None:
    result = filled.run(*CALLS[name].split(), "--json", status=0)

    assert isinstance(json.loads(result.stdout), dict | list)
    assert result.stdout.isascii()


@pytest.mark.parametrize("name", CALLS)
def test_a_command_that_prints_data_speaks_to_people_too(filled: Deployment, name: str) -> None:
    shown = filled.run(*CALLS[name].split()).stdout

    assert shown.strip()
    assert not shown.lstrip().startswith(("{", "["))
    assert "\x1b" not in shown


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "status", "sentence"),
    [
        ("tasks show 99", 3, "there is no task 99"),
        ("explain 99", 3, "there is no task 99"),
        ("tasks log 99", 3, "there is no task 99"),
        ("tasks show x", 2, "task = 'x': use the number that `forgepool tasks list` shows"),
        ("instances show nix", 3, "there is no instance 'nix'"),
        ("worker nix", 3, "there is no instance 'nix'"),
        ("deliveries show 99", 3, "there is no delivery 99"),
        ("instances add dev-alpha --type dev", 1, "an instance named 'dev-alpha' exists already"),
        ("instances add a.b --type dev", 2, "name = 'a.b': use 1 to 63"),
        ("instances add new --type dve", 2, "type = 'dve': not in forgepool.toml; known: dev, reviewer; did you mean"),
        ("dispatch dev --repo x/y --number 1", 2, "repo = 'x/y': is not served here; add it to service.repos"),
        ("dispatch dev --repo acme/shop --number 0", 2, "request.number = 0: use the number"),
        ("dispatch reviewer --repo acme/shop --number 1", 1, "no instance of type 'reviewer' is registered"),
        ("deliveries list --limit 0", 2, "--limit"),
    ],
)
def test_an_error_is_one_sentence_and_a_status(filled: Deployment, call: str, status: int, sentence: str) -> None:
    result = filled.run(*call.split(), status=status)

    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert not result.stdout


def test_a_configuration_that_is_not_usable_ends_with_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--config", str(tmp_path / "none.toml"), "instances", "list"])

    assert result.exit_code == 2
    assert "Error: The configuration is not usable:\n  - " in result.stderr
    assert "make one with `forgepool config init`" in result.stderr


def test_looking_at_a_database_that_is_not_there_does_not_make_one(cli: Deployment) -> None:
    file = cli.settings.state_dir / "forgepool.db"
    cli.store.close()
    for left in file.parent.glob("forgepool.db*"):
        left.unlink()

    result = cli.run("tasks", "list", status=1)

    assert "there is no database yet" in result.stderr
    assert not file.exists()


def test_a_database_that_is_none_is_told_without_a_traceback(cli: Deployment) -> None:
    cli.store.close()
    (cli.settings.state_dir / "forgepool.db").write_bytes(b"this is no database at all" * 99)

    result = cli.run("tasks", "list", status=1)

    assert "cannot be used: file is not a database" in result.stderr


def test_an_older_schema_is_refused_with_the_remedy(cli: Deployment) -> None:
    cli.store.close()
    (cli.settings.state_dir / "forgepool.db").write_bytes(b"")

    assert "run `forgepool db upgrade`" in cli.run("tasks", "list", status=1).stderr


def test_a_log_line_is_shown_only_when_asked_for(filled: Deployment) -> None:
    assert filled.run("instances", "pause", "dev-alpha").stderr == ""
    assert "instance changed" in filled.run("--verbose", "instances", "pause", "dev-alpha").stderr


def test_the_configuration_is_handed_on_to_child_processes(cli: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cli.path.parent)
    monkeypatch.delenv(CONFIG_ENV)

    CliRunner().invoke(main, ["--config", "forgepool.toml", "instances", "list"])

    assert os.environ[CONFIG_ENV] == str(cli.path)


def test_the_variable_of_the_configuration_has_one_name() -> None:
    assert package.CONFIG_ENV == CONFIG_ENV


# --- the real program ----------------------------------------------------------------------------


def test_the_installed_program_lists_instances(filled: Deployment) -> None:
    process = filled.start("instances", "list", "--json")

    shown, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert [row["name"] for row in json.loads(shown)] == ["dev-alpha"]


def test_a_reader_that_leaves_early_is_no_error(filled: Deployment) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "webapp.cli", "instances", "list"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, CONFIG_ENV: str(filled.path)},
        cwd=Path(__file__).parents[2],
        check=False,
    )
    os.close(writing)

    assert process.stderr == b""
    assert process.returncode == 1


def test_ctrl_c_ends_with_130_and_without_a_traceback(filled: Deployment) -> None:
    log = filled.settings.state_dir / "logs" / "tasks" / "1.log"
    log.parent.mkdir(parents=True)
    log.write_text("first line\n")
    process = filled.start("tasks", "log", "1", "--follow")
    assert process.stdout is not None
    stdout = process.stdout
    assert wait_until(stdout.readline, timeout_s=60) == "first line\n"

    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 130
    assert said.strip() == ""
