"""`forgepool tasks` and `forgepool explain`: what was asked, where it went, why, and what became of it."""

import getpass
from typing import Any

import click

from pool import explain as explanation
from pool.errors import UnknownDelivery
from pool.model import Task
from pool.states import State
from pool.store import Receipt, Store, check_task_id
from tasks import dispatch
from webapp.cli import shapes
from webapp.cli.logfile import log
from webapp.cli.output import (
    Cell,
    Column,
    Fit,
    Styled,
    age,
    duration,
    examples,
    fields,
    heading,
    json_option,
    print_json,
    safe,
    sentence,
    state,
    table,
    when,
)
from webapp.cli.session import Session, pass_session

_COLUMNS = (
    Column("ID", is_number=True),
    Column("STATE"),
    Column("INSTANCE"),
    Column("KIND"),
    Column("ABOUT", Fit.CUT_START),
    Column("AGE", is_number=True),
    Column("TITLE", Fit.CUT, is_optional=True),
)


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
    short_help="List, show, cancel and explain tasks; read their logs.",
    epilog=examples("forgepool tasks list --state running", "forgepool tasks log 41 --follow"),
)
def tasks() -> None:
    """List, show, cancel and explain tasks, and read the logs of their agents."""


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
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
@pass_session
def list_(session: Session, /, states: tuple[str, ...], *, as_json: bool, **filters: Any) -> None:
    """List tasks, the newest first."""
    with session.store() as store, store.reading() as tx:
        rows = tx.list_tasks(states=[State(word) for word in states], **filters)
        now = tx.now
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


@tasks.command(epilog=examples("forgepool tasks show 41", "forgepool tasks show 41 --json"))
@click.argument("task_id", metavar="ID", type=TaskId())
@json_option
@pass_session
def show(session: Session, task_id: int, *, as_json: bool) -> None:
    """Show everything that is known of a task, with its history and its evidence."""
    with session.store() as store, store.reading() as tx:
        row = tx.task(task_id)
    log_path = session.settings.state_dir / "logs" / "tasks" / f"{row.id}.log"
    document = shapes.whole_task(row, log_path=str(log_path) if log_path.exists() else None)
    if as_json:
        print_json(document)
    else:
        _print(row, log_path=document["log"])


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


@tasks.command("explain", epilog=examples("forgepool explain 41", "forgepool tasks explain 41 --json"))
@click.argument("task_id", metavar="ID", type=TaskId())
@json_option
@pass_session
def explain(session: Session, task_id: int, *, as_json: bool) -> None:
    """Tell why a task exists, why it went to its instance, and why it is in its state."""
    with session.store() as store:
        row, cause = _with_cause(store, task_id)
    if as_json:
        print_json(
            {
                **shapes.task(row),
                "decision": row.decision and row.decision.to_json(),
                "sentences": explanation.sentences(row.decision) if row.decision else [],
                "cause": cause and shapes.receipt(cause),
            }
        )
        return
    click.echo(f"Task {row.id}: {row.request.kind} {about(row)}")
    heading("Why it exists")
    sentence(_origin(row, cause), indent="  ")
    if row.decision is not None:
        heading(f"Why {row.instance}")
        for line in explanation.sentences(row.decision):
            sentence(line, indent="  ")
    heading(f"Why {row.state}")
    sentence(_reason(row), indent="  ")


def about(row: Task) -> str:
    """Return what a task is about, as people write it."""
    return f"{row.request.repo}#{row.request.number}"


def _with_cause(store: Store, task_id: int) -> tuple[Task, Receipt | None]:
    with store.reading() as tx:
        row = tx.task(task_id)
        try:
            return row, None if row.delivery is None else tx.delivery(row.delivery)
        except UnknownDelivery:
            return row, None


def _origin(row: Task, cause: Receipt | None) -> str:
    if row.retry_of is not None:
        return f"It repeats task {row.retry_of}, whose run was lost{f'; rule {row.rule}' if row.rule else ''}."
    if cause is not None:
        what = " ".join(word for word in (cause.event_type, cause.action) if word)
        sender = f" by {cause.sender}" if cause.sender else ""
        return f"Delivery {cause.id} ({what}{sender}) met the rule {row.rule}: {cause.reason}."
    if row.delivery is not None:
        return f"Delivery {row.delivery} met the rule {row.rule}; its receipt is gone."
    return f"It was dispatched by {next((event.by for event in row.history), 'hand')}."


def _reason(row: Task) -> str:
    if row.reason:
        # A name at the beginning stays as it is.
        begins_with_word = row.reason.split(maxsplit=1)[0].isalpha()
        text = row.reason[0].upper() + row.reason[1:] if begins_with_word else row.reason
        return text.rstrip(".") + "."
    if row.state is State.QUEUED:
        return f"It waits for its turn on {row.instance}."
    if row.cancel_requested_at is not None:
        return "Its agent has been asked to stop."
    return f"{row.instance} has worked on it since {when(row.started_at)}."


def _print(row: Task, *, log_path: str | None) -> None:
    request = row.request
    fields(
        {
            "task": row.id,
            "state": state(row.state),
            "reason": row.reason,
            "type": row.type,
            "instance": row.instance,
            "why there": explanation.short(row.decision) if row.decision else "",
            "kind": request.kind,
            "about": about(row),
            "title": request.title,
            "address": request.url,
            "labels": ", ".join(request.labels),
            "branch": request.branch,
            "base": request.base,
            "commit": request.head_sha,
            "caused by": _cause(row),
            "retry of": row.retry_of,
            "session": row.session_key,
            "created": when(row.created_at),
            "published": when(row.published_at),
            "started": when(row.started_at),
            "finished": when(row.finished_at),
            "log": log_path,
        }
    )
    for title, text in (("Text", request.body), ("Detail", request.detail)):
        if text:
            heading(title)
            sentence(text, indent="  ")
    _print_evidence(row)
    heading("History")
    for event in row.history:
        why = f": {event.why}" if event.why else ""
        click.echo(f"  {when(event.at)}  {safe(f'{event.event} by {event.by}{why}')}")


def _cause(row: Task) -> str:
    if row.delivery is None:
        return "hand"
    return f"delivery {row.delivery}, rule {row.rule}"


def _print_evidence(row: Task) -> None:
    if row.evidence is None:
        return
    heading("Evidence")
    shown: dict[str, str | Styled] = {}
    for name, value in row.evidence.to_json().items():
        if value not in (None, "", (), []):
            words = "; ".join(value) if name == "notes" else duration(value) if name == "duration_s" else str(value)
            shown[name.removesuffix("_s").replace("_", " ")] = words
    fields({f"  {name}": value for name, value in shown.items()})
