"""`forgepool init`: make or check everything that a deployment needs, on this machine and on the forge."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from pool.errors import BadInput
from pool.model import check_repo
from tasks.secret_files import make_secret
from tasks.settings import CONFIG_ENV, CONFIG_NAME, Settings
from webapp.cli.config import begin
from webapp.cli.output import Styled, examples, item, json_option, print_json, sentence
from webapp.cli.setup_forge import steps
from webapp.cli.setup_report import Line, Outcome, created, note, there, you
from webapp.cli.setup_scene import ADMIN_ENV, Scene, check_address, hook_address, take_admin_token

_STYLES = {Outcome.CREATED: "green", Outcome.YOU: "yellow"}
_WIDTH = max(len(outcome) for outcome in Outcome)
NEXT = "Everything is there. Next: `forgepool up`, and then `forgepool doctor --smoke`."
LEFT = "{count} left to you: see YOU above. Call this again afterwards."


@click.command(
    epilog=examples(
        "forgepool init --forge https://forge.example.org --repo acme/shop",
        "forgepool init --admin-token-file admin.token --yes",
        "forgepool init --repo acme/shop --hook-url https://pool.example.org",
    )
)
@click.option(
    "--forge", "forge_url", metavar="URL", help="Address of your forge.  [default: that of the configuration]"
)
@click.option(
    "--repo", "repos", multiple=True, metavar="OWNER/NAME", help="Repository to set up.  [default: all configured ones]"
)
@click.option("--type", "types", multiple=True, help="Type to set up.  [repeatable; default: all]")
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Folder of {CONFIG_NAME}.  [default: where it is, else the current one]",
)
@click.option(
    "--admin-token-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help=f"Token of an administrator, for this call only; or in ${ADMIN_ENV}.",
)
@click.option(
    "--hook-url",
    metavar="URL",
    help="Address at which the forge reaches this service.  [default: that of the webhook that is there, else a guess]",
)
@click.option("--yes", is_flag=True, help="Do not ask before anything is changed on the forge.")
@json_option
def init(*, folder: Path | None, admin_token_file: Path | None, yes: bool, as_json: bool, **wishes: Any) -> None:
    """Make or check what a deployment needs: configuration, accounts, tokens, access, labels, webhooks.

    Prints a line for each thing, and exits with 1 while something is left to you. Call it again as often as you like:
    what is there stays, and only webhooks are made anew. An administrator's token makes accounts; that of an owner
    of the repositories suffices for all else. It is used for this call and kept nowhere.
    """
    if as_json and not yes:
        raise click.UsageError("with --json nothing can be asked; give --yes, too")
    wish = _Wish(path=_place(folder), admin_token=take_admin_token(admin_token_file), is_sure=yes, **wishes)
    told: list[Line] = []
    for line in _lines(wish):
        told.append(line)
        if not as_json:
            show(line)
    left = sum(line.outcome is Outcome.YOU for line in told)
    if as_json:
        print_json({"ok": not left, "lines": [asdict(line) for line in told]})
    else:
        click.echo()
        sentence(LEFT.format(count=f"{left} thing{'s are' if left > 1 else ' is'}") if left else NEXT)
    if left:
        raise SystemExit(1)


def show(line: Line) -> None:
    """Print one thing, and what has to be done for it."""
    item(Styled(f"{line.outcome:<{_WIDTH}}", _STYLES.get(line.outcome, "")), line.text)
    if line.step:
        item(Styled(" " * _WIDTH, ""), f"-> {line.step}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What was asked for."""

    path: Path  #: of forgepool.toml, which may not be there yet
    forge_url: str | None
    repos: tuple[str, ...]  #: empty: all that are configured
    types: tuple[str, ...]  #: empty: all that are configured
    hook_url: str | None
    admin_token: str | None = field(repr=False)
    is_sure: bool


def _lines(wish: _Wish) -> Iterator[Line]:
    # Before anything is written: a configuration that does not load would be in the way.
    for option, address in (("forge", wish.forge_url), ("hook-url", wish.hook_url)):
        if address is not None:
            check_address(option, address)
    yield from _configuration(wish)
    settings = Settings.load(wish.path)
    yield from _agreement(wish, settings)
    yield from _secret(settings)
    if not _is_same_forge(wish, settings):
        # Nothing of one forge may go to another: neither tokens nor the secret.
        return
    repos = _repos(wish, settings)
    with Scene(settings=settings, admin_token=wish.admin_token) as scene:
        version, admin = scene.version(), scene.admin()
        yield there(f"{version.name} at {scene.url}")
        yield from (note(text) for text in version.lacks)
        if not wish.is_sure:
            whose = f" as {admin.login}" if admin else ""
            click.confirm(f"Set up {', '.join(repos)} there{whose}?", abort=True)
        hook_at = hook_address(settings, wish.hook_url)
        yield from steps(scene, types=wish.types or settings.types, repos=repos, address=hook_at)


def _place(folder: Path | None) -> Path:
    if folder is not None:
        return folder / CONFIG_NAME
    return Path(os.environ.get(CONFIG_ENV) or CONFIG_NAME).absolute()


def _configuration(wish: _Wish) -> Iterator[Line]:
    """See that there is a configuration."""
    for repo in wish.repos:
        check_repo("repo", repo)
    if wish.path.exists():
        yield there(f"configuration {wish.path}")
    elif wish.forge_url is None or not wish.repos:
        raise click.UsageError(f"there is no {wish.path} yet; give --forge and --repo to begin one")
    else:
        begin(wish.path.parent, forge_url=wish.forge_url, repos=wish.repos)
        yield created(f"configuration {wish.path}")


def _agreement(wish: _Wish, settings: Settings) -> Iterator[Line]:
    """See that the configuration says what was asked for; it is the operator's, so that it is never changed."""
    if unknown := [name for name in wish.types if name not in settings.types]:
        raise BadInput("type", unknown[0], f"known: {', '.join(settings.types)}")
    name = settings.path.name
    if not _is_same_forge(wish, settings):
        yield you(
            f"{name} is for {settings.service.forge_url}, not for {wish.forge_url}",
            f"set service.forge_url there, or use another folder (--dir); nothing was done on {wish.forge_url}",
        )
    for repo in wish.repos:
        if not settings.allows(repo):
            yield you(f"{repo} is not among the repositories of {name}", f'add "{repo}" to service.repos there')


def _secret(settings: Settings) -> Iterator[Line]:
    """See that there is a secret of the webhook."""
    path = settings.service.webhook_secret_file
    if settings.service.webhook_secret is None and path is not None and not path.exists():
        make_secret(path)
        yield created(f"webhook secret in {path}")
    else:
        settings.webhook_secret()
        yield there("webhook secret")


def _repos(wish: _Wish, settings: Settings) -> list[str]:
    chosen = [repo for repo in wish.repos or settings.service.repos if repo != "*"]
    if not chosen:
        raise click.UsageError('service.repos is "*"; name with --repo which repositories are to be set up')
    return chosen


def _is_same_forge(wish: _Wish, settings: Settings) -> bool:
    wanted, configured = wish.forge_url, settings.service.forge_url
    return wanted is None or wanted.rstrip("/").lower() == configured.rstrip("/").lower()
