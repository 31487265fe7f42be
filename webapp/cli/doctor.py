"""`forgepool doctor`: one line per thing that must be right, and what to do where it is not."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
from sqlalchemy.exc import SQLAlchemyError

from pool import migrate
from pool.errors import ConfigError, ForgepoolError, SchemaError
from tasks.secret_files import redacted
from webapp.cli import checkup_forge, checkup_machine, checkup_pool, checkup_work
from webapp.cli.checkup import Check, Status, fail, ok
from webapp.cli.checkup_smoke import Smoke
from webapp.cli.output import STYLES, Styled, examples, item, json_option, print_json
from webapp.cli.session import Session, pass_session
from webapp.cli.setup_scene import ADMIN_ENV, take_admin_token


@click.command(epilog=examples("forgepool doctor", "forgepool doctor --smoke --admin-token-file owner.token"))
@click.option("--smoke", is_flag=True, help="Have the forge send a test delivery for each repository, and await it.")
@click.option(
    "--admin-token-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help=f"Token of an owner of the repositories, to see their webhooks, for this call only; or in ${ADMIN_ENV}.",
)
@json_option
@pass_session
def doctor(session: Session, *, smoke: bool, admin_token_file: Path | None, as_json: bool) -> None:
    """Look at everything that must be right for the service to work; exit with 1 when something is not."""
    token = take_admin_token(admin_token_file)
    checks = []
    for check in examine(session, admin_token=token, smoke=smoke):
        checks.append(check)
        if not as_json:
            _print(check)
    is_ok = all(check.status is not Status.FAIL for check in checks)
    if as_json:
        print_json({"ok": is_ok, "checks": [asdict(check) for check in checks]})
    else:
        counts = ", ".join(f"{sum(c.status is one for c in checks)} {one}" for one in Status)
        click.echo(f"\n{counts}")
    if not is_ok:
        raise SystemExit(1)


def examine(session: Session, *, admin_token: str | None = None, smoke: bool = False) -> Iterator[Check]:
    """Yield every check; those that need a configuration or a database only where there is one."""
    try:
        settings = session.settings
    except ConfigError as error:
        for problem in error.problems:
            yield fail("configuration", problem)
        return
    yield ok("configuration", f"{settings.path} is read")
    yield from checkup_machine.examine(settings)
    is_reached = False
    try:
        with session.store() as store:
            yield ok("database", f"{redacted(settings.database_url)} has schema {migrate.head()}")
            yield from checkup_pool.examine(settings, store)
            with store.reading() as tx:
                is_reached = checkup_pool.is_reached(tx)
                yield from checkup_work.examine(settings, tx)
            # What the trial proves or disproves need not be guessed at.
            yield from checkup_forge.examine(settings, admin_token=admin_token, is_reached=is_reached or smoke)
            if smoke:
                yield from Smoke(settings=settings, store=store, admin_token=admin_token).examine()
    except SchemaError as error:
        yield fail("database", str(error), "run `forgepool db upgrade`")
        yield from checkup_forge.examine(settings, admin_token=admin_token)
    except (ForgepoolError, SQLAlchemyError) as error:
        yield fail("database", str(error), "see that the server runs, and check service.database_url")


def _print(check: Check) -> None:
    item(Styled(f"{check.status:<4}", STYLES[check.status]), f"{check.name}: {check.message}")
    if check.remedy:
        item(Styled("    ", ""), f"-> {check.remedy}")
