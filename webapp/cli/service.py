"""The commands that run something: up, demo, web, fleet, worker; and db, which makes the database ready for them."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from pool import migrate
from tasks import logs
from tasks.secret_files import redacted
from tasks.settings import CONFIG_ENV, Settings
from webapp.cli.output import examples, json_option, print_json
from webapp.cli.session import Session, pass_session


@click.command(epilog=examples("forgepool up", "forgepool --config /etc/forgepool/forgepool.toml up"))
@pass_session
def up(session: Session) -> None:
    """Run everything in the foreground: broker, workers, web app, Flower."""
    from webapp.up import run  # noqa: PLC0415 - loads the broker

    settings = session.settings
    logs.configure(settings.service.log_format)
    raise SystemExit(run(settings, echo=click.echo))


@click.command(epilog=examples("forgepool demo", "forgepool demo --weather stormy", "forgepool demo --keep"))
@click.option(
    "--weather",
    type=click.Choice(["calm", "silent", "stormy"]),
    default="calm",
    show_default=True,
    help="silent: no webhook arrives; stormy: they come repeated and shuffled, and one call in five fails.",
)
@click.option("--keep", is_flag=True, help="Leave everything running afterwards, until Ctrl-C.")
@click.option(
    "--state-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder to use.  [default: a temporary one]"
)
def demo(*, weather: str, keep: bool, state_dir: Path | None) -> None:
    """Play a whole day of a small team on this machine; needs no account."""
    from webapp.demo.play import play  # noqa: PLC0415 - a forge and its friends

    raise SystemExit(play(weather, keep=keep, state_dir=state_dir))


@click.command(epilog=examples("forgepool web", "FORGEPOOL_LISTEN=0.0.0.0:8420 forgepool web"))
@pass_session
def web(session: Session) -> None:
    """Run the web app in the foreground, with gunicorn."""
    from webapp.up import web_command  # noqa: PLC0415 - loads the broker

    session.settings.webhook_secret()
    with session.store():
        pass  # told here, its absence is one sentence
    _become(web_command(session.settings.service.listen), session.settings)


@click.command(epilog=examples("forgepool fleet"))
@pass_session
def fleet(session: Session) -> None:
    """Run one worker per instance, and follow the table of instances."""
    from tasks.celery import app  # noqa: PLC0415 - reads the configuration
    from tasks.doorbell import CeleryBell  # noqa: PLC0415
    from tasks.engine import Engine  # noqa: PLC0415
    from tasks.fleet import Fleet  # noqa: PLC0415

    with session.store():
        pass  # told here, its absence is one sentence
    settings = session.settings
    logs.configure(settings.service.log_format)
    engine = Engine.open(settings, CeleryBell(app))
    try:
        Fleet(engine, environ={**os.environ, CONFIG_ENV: str(settings.path)}).run()
    finally:
        engine.close()


@click.command(epilog=examples("forgepool worker dev-alpha"))
@click.argument("name")
@pass_session
def worker(session: Session, name: str) -> None:
    """Run the worker of one instance in the foreground; the fleet does this for all."""
    from tasks.fleet import worker_command  # noqa: PLC0415 - for this line only

    with session.store() as store, store.reading() as tx:
        row = tx.instance(name)
    session.settings.type(row.type)
    _become(worker_command(name), session.settings)


@click.group(short_help="Make the database ready.", epilog=examples("forgepool db upgrade"))
def db() -> None:
    """Make the database ready for this version."""


@db.command(epilog=examples("forgepool db upgrade", "forgepool db upgrade --json"))
@json_option
@pass_session
def upgrade(session: Session, *, as_json: bool) -> None:
    """Bring the database to the schema of this version; add a first instance per type to an empty one."""
    settings = session.settings
    with session.store(check_schema=False) as store:
        before, after = migrate.upgrade(store.engine)
        with store.writing() as tx:
            seeded = tx.seed(settings.types)
    url = redacted(settings.database_url)
    if as_json:
        print_json({"database": url, "before": before, "after": after, "instances_added": seeded})
        return
    click.echo(f"Database {url}")
    click.echo(f"Schema {after} already." if before == after else f"Schema {before or 'none'} -> {after}.")
    if seeded:
        click.echo(f"Added {', '.join(seeded)}.")


def _become(argv: Sequence[str], settings: Settings) -> NoReturn:
    """Replace this process, so that signals and the exit status are those of the program."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(argv[0], list(argv), {**os.environ, CONFIG_ENV: str(settings.path)})  # noqa: S606 - no shell is wanted
