"""Configurations to test with, and a deployment that the command line can be called on."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from pool.store import Store
from tasks.settings import CONFIG_ENV, Settings
from tests.helpers.fakes import FakeBell
from tests.helpers.stores import template
from webapp.cli import main
from webapp.cli.session import Session

SECRET = "planted-webhook-secret"
Tables = Mapping[str, Mapping[str, Any]]

#: The smallest [service] that loads.
SERVICE: Mapping[str, Any] = {
    "forge_url": "http://127.0.0.1:1",
    "repos": ["acme/shop"],
    "webhook_secret_file": "secret",
    "state_dir": "state",
}


def type_table(name: str, **changes: Any) -> dict[str, Any]:
    """Return the smallest [types.NAME] that loads, with changes; None leaves a key out."""
    usual = {"forge_user": name, "git_name": name, "git_email": f"{name}@example.org", "command": ["true"]}
    return {key: value for key, value in {**usual, **changes}.items() if value is not None}


def write_config(folder: Path, *, types: Tables | None = None, text: str = "", **service: Any) -> Path:
    """Write forgepool.toml and the file with the webhook's secret; return the path of the former.

    types: the tables, in place of dev and reviewer. text: put before everything else. service: changes of the
    [service] table; None leaves a key out.
    """
    (folder / "secret").write_text(SECRET + "\n")
    (folder / "secret").chmod(0o600)
    tables = {"dev": type_table("dev"), "reviewer": type_table("reviewer")} if types is None else types
    written = {"service": {**SERVICE, **service}} | {f"types.{name}": table for name, table in tables.items()}
    lines = [text]
    for name, table in written.items():
        # A JSON value without null is one of TOML, too.
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items() if v is not None)]
    path = folder / "forgepool.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass(frozen=True)
class Deployment:
    """A configuration with a database, and the command line on it."""

    path: Path  #: of forgepool.toml
    settings: Settings
    store: Store
    bell: FakeBell = field(default_factory=FakeBell)

    @classmethod
    def make(cls, folder: Path, **changes: Any) -> "Deployment":
        """Write the configuration and an empty database."""
        path = write_config(folder, **changes)
        settings = Settings.load(path)
        settings.state_dir.mkdir()
        (settings.state_dir / "forgepool.db").write_bytes(template())
        return cls(path, settings, Store.open(settings.database_url))

    def run(self, *arguments: str, status: int = 0, **options: Any) -> Result:
        """Call the command line in this process; it must end with `status`."""
        options = {"prog_name": "forgepool", "obj": Session(self.bell), **options}
        result = CliRunner().invoke(main, ["--config", str(self.path), *arguments], **options)
        if isinstance(result.exception, Exception):
            raise result.exception
        assert result.exit_code == status, result.output
        return result

    def json(self, *arguments: str, status: int = 0) -> Any:
        """Call the command line and read the JSON document that it prints."""
        return json.loads(self.run(*arguments, "--json", status=status).stdout)

    def start(self, *arguments: str, **environ: str) -> "subprocess.Popen[str]":
        """Call the command line in a process of its own."""
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("forgepool")), *arguments],
            env={**os.environ, CONFIG_ENV: str(self.path), **environ},
            cwd=self.path.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
