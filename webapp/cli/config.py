"""`forgepool config`: show it with its sources, check it, begin a new one."""

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, SecretStr

from pool.errors import ConfigError, ForgepoolError
from pool.model import check_repo
from tasks.config_errors import PREFIX
from tasks.presets import Run
from tasks.secret_files import HIDDEN, make_secret, redacted
from tasks.settings import CONFIG_NAME, ServiceSettings, Settings, TypeSettings, read_toml
from webapp.cli.output import NOTHING, Column, Fit, examples, json_option, print_json, table, warn
from webapp.cli.session import Session, pass_session

#: Where a new configuration has the webhook's secret, below its own folder.
SECRET = Path("secrets", "webhook")
_COLUMNS = (Column("KEY"), Column("VALUE", Fit.WRAP), Column("FROM"))

NEXT = """
Wrote {config} and {secret}.

What to do next, or let `forgepool init` do where you have the rights:
  1. In {name}: set forge_url and repos, and describe your types.
  2. On the forge, make an account per type ({users}), let each write to the repositories,
     and put an access token of each into
     {tokens}.
  3. On the forge, add a webhook of the type Forgejo to the repositories:
       address       http://THIS-HOST:8420/webhooks/forgejo
       content type  application/json
       secret        the text in {secret}
       events        those of issues, pull requests and workflows
     The forge must be allowed to call this host: [webhook] ALLOWED_HOST_LIST in its app.ini.
  4. `forgepool config check`, then `forgepool up`; `forgepool doctor` tells what is in the way.
"""


class ConfigExists(ForgepoolError):
    """There is a configuration already."""


@click.group(
    short_help="Show, check or begin the configuration.",
    epilog=examples("forgepool config init", "forgepool config show"),
)
def config() -> None:
    """Show the configuration with its sources, check it, or begin a new one."""


@config.command(epilog=examples("forgepool config show", "FORGEPOOL_LISTEN=0.0.0.0:8000 forgepool config show --json"))
@json_option
@pass_session
def show(session: Session, *, as_json: bool) -> None:
    """Show every value that is in force and where it comes from; secrets stay hidden."""
    document = _document(session.settings)
    if as_json:
        print_json(document)
        return
    click.echo(f"Configuration {session.settings.path}")
    click.echo()
    tables = {"service": document["service"], **{f"types.{n}": t for n, t in document["types"].items()}}
    rows = [
        [f"{name}.{key}", _words(entry["value"]), entry["from"]]
        for name, keys in tables.items()
        for key, entry in keys.items()
    ]
    table(_COLUMNS, rows, empty="Nothing is configured.")


@config.command(epilog=examples("forgepool config check", "forgepool --config new.toml config check --json"))
@json_option
@pass_session
def check(session: Session, *, as_json: bool) -> None:
    """Check the configuration, the files it names and the programs it calls."""
    problems, warnings = examine(session)
    if as_json:
        print_json({"ok": not problems, "problems": problems, "warnings": warnings})
    else:
        for one in warnings:
            warn(one)
        if problems:
            raise ConfigError(problems)
        click.echo(f"{session.settings.path} is usable.")
    if problems:
        raise SystemExit(2)


@config.command(epilog=examples("forgepool config init", "forgepool config init --dir /etc/forgepool"))
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder to write to.  [default: the current one]",
)
@click.option("--forge-url", default="https://forge.example.org", help="Address of your forge.")
@click.option("--repo", "repos", multiple=True, metavar="OWNER/NAME", help="Repository to serve.  [repeatable]")
@json_option
def init(folder: Path, forge_url: str, repos: tuple[str, ...], *, as_json: bool) -> None:
    """Write a commented configuration for dev, reviewer and boss, and a random webhook secret."""
    path = begin(folder, forge_url=forge_url, repos=repos)
    secret = path.parent / SECRET
    tokens = {name: str(path.parent / value["token_file"]) for name, value in read_toml(path)["types"].items()}
    if as_json:
        print_json({"config": str(path), "webhook_secret_file": str(secret), "token_files": tokens})
        return
    named = ", ".join(tokens.values())
    words = NEXT.format(config=path, secret=secret, name=path.name, users=", ".join(tokens), tokens=named)
    click.echo(words.strip())


def begin(folder: Path, *, forge_url: str, repos: Sequence[str]) -> Path:
    """Write a new configuration and a random secret of the webhook; return the path of the former.

    Raises BadInput, and ConfigExists when there is a configuration already.
    """
    for repo in repos:
        check_repo("repo", repo)
    path = folder / CONFIG_NAME
    text = (files("webapp.cli") / CONFIG_NAME).read_text(encoding="utf-8")
    # A JSON string or list of strings is one of TOML, too.
    text = text.replace("@FORGE_URL@", json.dumps(forge_url)).replace("@REPOS@", json.dumps(repos or ["owner/name"]))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigExists(f"{path} exists already; it was not touched") from None
    make_secret(folder / SECRET)
    _keep_out_of_git((folder / SECRET).parent)
    return path


def examine(session: Session) -> tuple[list[str], list[str]]:
    """Return what makes the configuration unusable, and what only looks wrong."""
    try:
        settings = session.settings
    except ConfigError as error:
        return list(error.problems), []
    return settings.missing_files(), missing_programs(settings) + contradictions(settings)


def missing_programs(settings: Settings) -> list[str]:
    """Name the types whose agent cannot be found on the PATH of this process."""
    found = []
    for name, kind in settings.types.items():
        program = kind.preset().argv(Run(prompt_path=Path("prompt"), result_path=Path("result")))[0]
        if shutil.which(program) is None:
            found.append(f"types.{name}: its agent {shlex.quote(program)} is not on the PATH")
    return found


def contradictions(settings: Settings) -> list[str]:
    """Name the values that are each allowed and make no sense together."""
    service, found = settings.service, []
    if service.run_lease_s < service.worker_lease_s:
        found.append(
            f"service.run_lease_s = {service.run_lease_s:g} is shorter than worker_lease_s = "
            f"{service.worker_lease_s:g}: a run would count as dead while its worker counts as alive"
        )
    if service.reconcile_s > service.run_lease_s:
        found.append(
            f"service.reconcile_s = {service.reconcile_s:g} is longer than run_lease_s = {service.run_lease_s:g}: "
            "dead runs are noticed late"
        )
    if service.merge_type not in settings.types:
        found.append(f"service.merge_type = {service.merge_type!r} is no type here: nobody merges what is approved")
    found += _waits(service)
    return found + [one for name, kind in settings.types.items() for one in _limits(name, kind, service.drain_s)]


def _waits(service: ServiceSettings) -> list[str]:
    """Compare how long a merge waits with what it waits for."""
    limit = f"service.merge_wait_s = {service.merge_wait_s:g}"
    found = []
    if service.ci_grace_s >= service.merge_wait_s:
        found.append(
            f"service.ci_grace_s = {service.ci_grace_s:g} is not shorter than {limit}: merges are given up first"
        )
    if service.settle_s >= service.merge_wait_s:
        found.append(
            f"service.settle_s = {service.settle_s:g} is not shorter than {limit}: "
            "no conflict would ever be called one before the merge is given up"
        )
    if service.forge_poll_s >= service.merge_wait_s:
        found.append(
            f"service.forge_poll_s = {service.forge_poll_s:g} is not shorter than {limit}: "
            "checks that no webhook tells of would always be noticed too late"
        )
    return found


def _limits(name: str, kind: TypeSettings, drain_s: float) -> list[str]:
    found = []
    if kind.silence_limit_s is not None and kind.silence_limit_s >= kind.time_limit_s:
        found.append(
            f"types.{name}.silence_limit_s = {kind.silence_limit_s:g} never comes: "
            f"time_limit_s = {kind.time_limit_s:g} is not longer"
        )
    if kind.grace_s > drain_s:
        found.append(
            f"types.{name}.grace_s = {kind.grace_s:g} is longer than service.drain_s = {drain_s:g}: "
            "a stop would take longer to end an agent than it waits for it to finish"
        )
    return found


def _document(settings: Settings) -> dict[str, Any]:
    written = read_toml(settings.path)
    tables = written.get("types", {})
    return {
        "path": str(settings.path),
        "service": _entries(settings.service, written.get("service", {}), os.environ)
        | {
            "database_url": _entry(settings.database_url, "database_url", written.get("service", {}), os.environ),
            "broker_url": _entry(settings.broker_url, "broker_url", written.get("service", {}), os.environ),
        },
        "types": {name: _entries(kind, tables.get(name, {}), {}) for name, kind in settings.types.items()},
    }


def _entries(model: BaseModel, written: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    return {key: _entry(value, key, written, environ) for key, value in model}


def _entry(value: Any, key: str, written: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    variable = f"{PREFIX}{key.upper()}"
    if variable in environ or f"{variable}_FILE" in environ:
        source = "environment"
    else:
        source = "file" if key in written else "default"
    return {"value": _shown(value), "from": source}


def _shown(value: Any) -> Any:
    """Return a value as JSON has it, without what is secret."""
    match value:
        case SecretStr():
            return HIDDEN
        case Path():
            return str(value)
        case str():
            return redacted(value)
        case tuple():
            return [redacted(part) for part in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return NOTHING if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _keep_out_of_git(folder: Path) -> None:
    """Let git ignore a folder of secrets, wherever it is."""
    path = folder / ".gitignore"
    if not path.exists():
        path.write_text("*\n", encoding="ascii")
