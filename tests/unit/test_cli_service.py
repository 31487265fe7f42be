"""The commands that run something, the database, completion and versions."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pool import migrate
from tasks.fleet import worker_command
from tasks.settings import CONFIG_ENV
from tests.helpers.config import Deployment


class Became(Exception):
    """Instead of this process, another program would run now."""

    def __init__(self, argv: list[str], environ: dict[str, str]) -> None:
        super().__init__(argv)
        self.argv, self.environ = argv, environ


@pytest.fixture
def _no_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    def become(_path: str, argv: list[str], environ: dict[str, str]) -> None:
        raise Became(argv, environ)

    monkeypatch.setattr(os, "execve", become)


@pytest.mark.usefixtures("_no_exec")
def test_a_worker_is_started_as_the_fleet_starts_it(cli: Deployment) -> None:
    with cli.store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")

    with pytest.raises(Became) as became:
        cli.run("worker", "dev-alpha")

    assert became.value.argv == worker_command("dev-alpha")
    assert became.value.environ[CONFIG_ENV] == str(cli.path)


@pytest.mark.usefixtures("_no_exec")
def test_a_worker_of_a_type_that_is_not_configured_is_refused(cli: Deployment) -> None:
    with cli.store.writing() as tx:
        tx.add_instance("old-one", "old")

    assert "type = 'old': not in forgepool.toml" in cli.run("worker", "old-one", status=2).stderr


@pytest.mark.usefixtures("_no_exec")
def test_the_web_app_is_served_on_the_configured_address(cli: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGEPOOL_LISTEN", "127.0.0.1:9")

    with pytest.raises(Became) as became:
        cli.run("web")

    argv = became.value.argv
    assert argv[:4] == [sys.executable, "-m", "gunicorn", "webapp.app:create_app()"]
    assert argv[argv.index("--bind") + 1] == "127.0.0.1:9"
    assert "--no-control-socket" in argv


@pytest.mark.usefixtures("_no_exec")
def test_the_web_app_does_not_start_without_a_secret(cli: Deployment) -> None:
    (cli.path.parent / "secret").unlink()

    assert "service.webhook_secret_file" in cli.run("web", status=2).stderr


@pytest.mark.parametrize("command", ["web", "fleet"])
def test_a_service_does_not_start_on_an_old_database(cli: Deployment, command: str) -> None:
    cli.store.close()
    (cli.settings.state_dir / "forgepool.db").write_bytes(b"")

    assert "run `forgepool db upgrade`" in cli.run(command, status=1).stderr


def test_an_empty_database_is_made_ready(cli: Deployment) -> None:
    cli.store.close()
    for left in cli.settings.state_dir.glob("forgepool.db*"):
        left.unlink()

    first, second = cli.json("db", "upgrade"), cli.json("db", "upgrade")

    assert (first["before"], first["after"]) == (None, migrate.head())
    assert first["instances_added"] == ["dev-default", "reviewer-default"]
    assert (second["before"], second["instances_added"]) == (migrate.head(), [])
    assert f"Schema {migrate.head()} already." in cli.run("db", "upgrade").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(cli: Deployment, shell: str) -> None:
    script = cli.run("completion", shell).stdout

    assert "_FORGEPOOL_COMPLETE" in script


@pytest.mark.parametrize(("words", "offered"), [("forgepool inst", "instances"), ("forgepool tasks ca", "cancel")])
def test_a_shell_is_offered_commands(words: str, offered: str) -> None:
    environ = {"_FORGEPOOL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    program = str(Path(sys.executable).with_name("forgepool"))

    shown = subprocess.run([program], env={**os.environ, **environ}, capture_output=True, encoding="utf-8", check=False)

    assert shown.stdout == f"plain,{offered}\n"


def test_the_versions_are_those_that_are_installed(cli: Deployment) -> None:
    versions: dict[str, Any] = json.loads(cli.run("version", "--json").stdout)

    assert set(versions) == {"forgepool", "python", "celery", "kombu", "sqlalchemy", "flower", "schema"}
    assert versions["schema"] == migrate.head()
    assert cli.run("--version").stdout == f"forgepool {versions['forgepool']}\n"
