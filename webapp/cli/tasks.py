"""`forgepool tasks` and `forgepool explain`: what was asked, where it went, why, and what became of it."""

import getpass
from typing import Any

import click

from pool import explain as explanation
from pool.errors import ForgepoolError, UnknownDelivery
from pool.model import Task
from pool.states import State
from pool.store import Receipt, Tx, check_task_id
from tasks import dispatch
from tasks.engine import Engine
from webapp.cli import shapes, taskview
from webapp.cli.logfile import log
from webapp.cli.output import (
    Cell,
    Column,
    Fit,
    age,
    examples,
    is_terminal,
    json_option,
    print_json,
    safe,
    sentence,
    state,
    table,
    warn,
)
from webapp.cli.session import Session, pass_session
from webapp.cli.taskview import about

_COLUMNS = (
    Column("ID", is_number=True),
    Column("STATE"),
    Column("INSTANCE"),
    Column("KIND"),
    Column("ABOUT", Fit.CUT_START),
    Column("AGE", is_number=True),
    Column("TITLE", Fit.CUT, is_optional=True),
)
_DEAD_COLUMNS = (
    Column("ID", is_number=True),
    Column("TYPE"),
    Column("ABOUT", Fit.CUT_START),
    Column("LOST", is_number=True),
    Column("SINCE", is_number=True),
    Column("REASON", Fit.WRAP),
)
_limit = click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")


class TaskId(click.ParamType[int]):
    """The number of a task, also as #41."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ARG002 - signature of click
        """Read what a person typed. Raises BadInput."""
        return check_task_id(value)


def actor() -> str:
    """Return who uses the command line, for the history of a task."""
    try:
        return f"{getpass.getuser()} (command line)"
    except (OSError, KeyError):
        return "command line"


@click.group(
    short_help="List, show, cancel, release and explain tasks; read their logs.",
    epilog=examples("forgepool tasks list --state running", "forgepool tasks log 41 --follow"),
)
def tasks() -> None:
    """List, show, cancel, release and explain tasks, and read the logs of their agents."""


@tasks.command(
    "list",
    epilog=examples(
        "forgepool tasks list --state queued --state running", "forgepool tasks list --repo me/app --number 7 --json"
    ),
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([str(one) for one in State]),
    help="Only tasks in this state.  [repeatable]",
)
@click.option("--instance", help="Only tasks of this instance.")
@click.option("--type", "type_name", help="Only tasks of this type.")
@click.option("--repo", metavar="OWNER/NAME", help="Only tasks in this repository.")
@click.option("--number", type=int, help="Only tasks about this issue or pull request.")
@_limit
@json_option
@pass_session
def list_(session: Session, /, states: tuple[str, ...], *, as_json: bool, **filters: Any) -> None:
    """List tasks, the newest first."""
    with session.store() as store, store.reading() as tx:
        rows = tx.list_tasks(states=[State(word) for word in states], **filters)
        now, dead_letters = tx.now, tx.count_dead()
    if as_json:
        print_json([shapes.task(row) for row in rows])
    else:
        lines: list[list[Cell]] = [
            [
                str(row.id),
                state(row.state),
                row.instance or "",
                row.request.kind,
                about(row),
                age(row.created_at, now),
                row.request.title,
            ]
            for row in rows
        ]
        table(_COLUMNS, lines, empty="No task fits.")
        if dead_letters and not states:
            # They may be older than the oldest that is listed.
            warn(f"{_counted(dead_letters)} for a person; `forgepool tasks dead` tells which and why")


@tasks.command("dead", epilog=examples("forgepool tasks dead", "forgepool tasks release 41"))
@_limit
@json_option
@pass_session
def dead(session: Session, limit: int, *, as_json: bool) -> None:
    """List the dead letters: tasks that nobody works on until a person releases or cancels them."""
    with session.store() as store, store.reading() as tx:
        rows = tx.list_tasks(states=[State.DEAD_LETTERED], limit=limit)
        now = tx.now
    if as_json:
        print_json([shapes.task(row) for row in rows])
        return
    lines: list[list[Cell]] = [
        [str(row.id), row.type, about(row), str(row.interruptions), age(row.finished_at, now), row.reason]
        for row in rows
    ]
    table(_DEAD_COLUMNS, lines, empty="No task is a dead letter.")
    if rows and is_terminal():
        click.echo()
        sentence(
            "`forgepool tasks show ID` tells each run; `tasks release ID` tries again, `tasks cancel ID` gives up."
        )


@tasks.command(epilog=examples("forgepool tasks show 41", "forgepool tasks show 41 --json"))
@click.argument("task_id", metavar="ID", type=TaskId())
@json_option
@pass_session
def show(session: Session, task_id: int, *, as_json: bool) -> None:
    """Show everything that is known of a task, with its history and its evidence."""
    with session.store() as store, store.reading() as tx:
        row = tx.task(task_id)
        around = _around(session, tx, row)
    path = session.settings.state_dir / "logs" / "tasks" / f"{row.id}.log"
    log_path = str(path) if path.exists() else None
    if as_json:
        print_json(shapes.whole_task(row, around, log_path=log_path))
    else:
        taskview.show(row, around, log_path=log_path)


tasks.add_command(log)


@tasks.command(epilog=examples("forgepool tasks cancel 41", 'forgepool tasks cancel 41 --why "wrong issue"'))
@click.argument("task_id", metavar="ID", type=TaskId())
@click.option("--why", default="", help="The reason, for the history.")
@json_option
@pass_session
def cancel(session: Session, task_id: int, why: str, *, as_json: bool) -> None:
    """Cancel a queued task, or ask the worker of a running one to stop its agent; needs no broker."""
    with session.engine() as engine:
        reached = dispatch.cancel(engine, task_id, by=actor(), why=why)
    if as_json:
        print_json({"id": task_id, "state": reached, "is_asked_to_stop": reached is State.RUNNING})
    elif reached is State.RUNNING:
        click.echo(f"Task {task_id} runs; its agent has been asked to stop.")
    else:
        click.echo(f"Task {task_id} is cancelled.")


@tasks.command(
    epilog=examples("forgepool tasks release 41 42", "forgepool tasks release --all --yes"),
)
@click.argument("task_ids", metavar="ID...", type=TaskId(), nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="Every dead letter, the oldest first.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_session
def release(session: Session, task_ids: tuple[int, ...], *, is_all: bool, yes: bool, as_json: bool) -> None:
    """Queue dead letters again, each in its old place and with its retries given back."""
    if is_all == bool(task_ids):
        raise click.UsageError("give the ids of dead letters, or --all")
    with session.engine() as engine:
        wanted = _all_dead(engine) if is_all else list(dict.fromkeys(task_ids))
        if is_all and wanted and not yes and not click.confirm(f"{_counted(len(wanted))}. Try again?", err=True):
            click.echo("Nothing was changed.", err=True)
            raise SystemExit(1)
        answers, errors = _release(session, engine, wanted, as_json=as_json)
    if as_json:
        print_json(answers)
    elif not wanted:
        click.echo("No task is a dead letter.")
    for error in errors[1:]:
        click.echo("Error: " + safe(str(error)), err=True)
    if errors:
        raise errors[0]


def _all_dead(engine: Engine) -> list[int]:
    with engine.store.reading() as tx:
        found = tx.list_tasks(states=[State.DEAD_LETTERED], limit=tx.count_dead(), newest_first=False)
    return [row.id for row in found]


def _release(
    session: Session, engine: Engine, wanted: list[int], *, as_json: bool
) -> tuple[list[dict[str, Any]], list[ForgepoolError]]:
    """Release each; what cannot be released keeps nobody else waiting."""
    answers: list[dict[str, Any]] = []
    errors: list[ForgepoolError] = []
    for task_id in wanted:
        try:
            again = dispatch.release(engine, task_id, by=actor())
        except ForgepoolError as error:
            errors.append(error)
            answers.append({"id": task_id, "error": str(error)})
            continue
        answers.append({"id": task_id, "state": State.QUEUED, "instance": again.instance})
        if not as_json:
            click.echo(f"Task {task_id} is queued again on {again.instance}.")
        with engine.store.reading() as tx:
            row = tx.task(task_id)
            hindered = _around(session, tx, row).hindered
        if hindered is not None:
            warn(f"nothing runs on {again.instance}: {hindered.why}; {hindered.remedy}")
        elif row.state is State.QUEUED and row.published_at is None:
            warn(f"the broker does not answer; task {task_id} waits until the fleet rings for it")
    return answers, errors


@tasks.command("explain", epilog=examples("forgepool explain 41", "forgepool tasks explain 41 --json"))
@click.argument("task_id", metavar="ID", type=TaskId())
@json_option
@pass_session
def explain(session: Session, task_id: int, *, as_json: bool) -> None:
    """Tell why a task exists, why it went to its instance, and why it is in its state."""
    with session.store() as store, store.reading() as tx:
        row = tx.task(task_id)
        cause, around, said = _receipt(tx, row), _around(session, tx, row), _said(tx, row)
    if as_json:
        print_json(
            {
                **shapes.task(row),
                **shapes.standing(around),
                "decision": row.decision and row.decision.to_json(),
                "sentences": explanation.sentences(row.decision) if row.decision else [],
                "cause": cause and shapes.receipt(cause),
                "origin": explanation.origin(row, why=said) if cause is None else cause.reason,
            }
        )
    else:
        taskview.tell(row, around, cause, said=said)


def _receipt(tx: Tx, row: Task) -> Receipt | None:
    try:
        return None if row.delivery is None else tx.delivery(row.delivery)
    except UnknownDelivery:
        return None


def _said(tx: Tx, row: Task) -> str:
    """Return the reason that the workflow gave when it queued a task; "": none is known."""
    if row.rule is None:
        return ""
    lines = tx.list_trail(row.request.repo, tx.family(row.request.repo, row.request.number))
    fitting = (line for line in reversed(lines) if line.source == "look" and line.at <= row.created_at)
    return next((line.why for line in fitting if line.what == row.rule), "")


def _around(session: Session, tx: Tx, row: Task) -> shapes.Around:
    home = tx.find_instance(row.instance) if row.instance and row.state is State.QUEUED else None
    return shapes.Around(
        earlier=tuple(tx.lineage(row.id)[:-1]),
        retried_as=tx.retried_as(row.id),
        hindered=None if home is None else session.hindrance(tx, home),
    )


def _counted(dead_letters: int) -> str:
    return "1 dead letter waits" if dead_letters == 1 else f"{dead_letters} dead letters wait"
