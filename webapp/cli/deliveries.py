"""`forgepool deliveries`: what the forge sent, and what became of it."""

import json
from typing import Any

import click

from pool.states import Verdict
from pool.store import Receipt
from webapp import intake
from webapp.cli import shapes
from webapp.cli.output import (
    Cell,
    Column,
    Fit,
    age,
    examples,
    fields,
    heading,
    json_option,
    print_json,
    safe,
    state,
    table,
    when,
)
from webapp.cli.session import Session, pass_session

_COLUMNS = (
    Column("ID", is_number=True),
    Column("AGE", is_number=True),
    Column("EVENT", Fit.WRAP),
    Column("ABOUT", Fit.CUT_START),
    Column("SENDER"),
    Column("VERDICT"),
    Column("RULE", Fit.WRAP, is_optional=True),
    Column("REASON", Fit.WRAP),
)
_REFUSAL = 400  #: the first HTTP status that is no success


@click.group(
    short_help="List, show and replay what the forge sent.",
    epilog=examples("forgepool deliveries list --verdict refused", "forgepool deliveries replay 12"),
)
def deliveries() -> None:
    """List, show and replay what the forge sent, with what became of it."""


@deliveries.command(
    "list", epilog=examples("forgepool deliveries list", "forgepool deliveries list --verdict error --json")
)
@click.option("--verdict", type=click.Choice([str(one) for one in Verdict]), help="Only those with this verdict.")
@click.option("--repo", metavar="OWNER/NAME", help="Only those about this repository.")
@click.option("--number", type=int, help="Only those about this issue or pull request.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
@pass_session
def list_(session: Session, /, verdict: str | None, *, as_json: bool, **filters: Any) -> None:
    """List deliveries, the newest first."""
    with session.store() as store, store.reading() as tx:
        rows = tx.list_deliveries(verdict=Verdict(verdict) if verdict else None, **filters)
        now = tx.now
    if as_json:
        print_json([shapes.receipt(row) for row in rows])
        return
    lines: list[list[Cell]] = [
        [
            str(row.id),
            age(row.received_at, now),
            _event(row),
            _about(row),
            row.sender or "",
            state(row.verdict),
            row.rule or "",
            row.reason,
        ]
        for row in rows
    ]
    table(_COLUMNS, lines, empty="No delivery fits. `forgepool doctor` knows why the forge may not reach this service.")


@deliveries.command(epilog=examples("forgepool deliveries show 12", "forgepool deliveries show 12 --body --json"))
@click.argument("delivery_id", metavar="ID", type=int)
@click.option("--body", "with_body", is_flag=True, help="Also print the body.")
@json_option
@pass_session
def show(session: Session, delivery_id: int, *, with_body: bool, as_json: bool) -> None:
    """Show one delivery, the verdict, and the tasks it caused."""
    with session.store() as store, store.reading() as tx:
        row = tx.delivery(delivery_id)
        headers, body = tx.delivery_body(delivery_id)
        caused = tx.list_tasks(delivery=delivery_id, newest_first=False)
    text = body.decode("utf-8", errors="backslashreplace") if body is not None else None
    if as_json:
        document = {**shapes.receipt(row), "headers": headers, "tasks": [shapes.task(task) for task in caused]}
        print_json({**document, "body": text} if with_body else document)
        return
    fields(
        {
            "delivery": row.id,
            "received": when(row.received_at),
            "from": f"{row.source} at {row.remote or 'unknown'}",
            "event": _event(row),
            "about": _about(row),
            "sender": row.sender,
            "signed": "yes" if row.signed else "no",
            "verdict": state(row.verdict),
            "answered": row.status,
            "rule": row.rule,
            "reason": row.reason,
            "same as": f"delivery {row.duplicate_of}" if row.duplicate_of else "",
            "tasks": ", ".join(f"{task.id} ({task.state} on {task.instance or 'nowhere'})" for task in caused),
            "forge's id": row.delivery_id,
        }
    )
    if with_body:
        heading("Body")
        click.echo("It was refused unread, so it was not kept." if text is None else safe(_indented(text), keep="\n"))


@deliveries.command(epilog=examples("forgepool deliveries replay 12"))
@click.argument("delivery_id", metavar="ID", type=int)
@json_option
@pass_session
def replay(session: Session, delivery_id: int, *, as_json: bool) -> None:
    """Take a stored delivery once more, as if it came now."""
    with session.engine() as engine:
        answer = intake.take_again(engine, delivery_id)
    if as_json:
        print_json(answer.to_json())
    else:
        rule = f" by rule {answer.rule}" if answer.rule else ""
        click.echo(safe(f"Delivery {answer.receipt}, a replay of {delivery_id}: {answer.verdict}{rule}."))
        click.echo(safe(answer.reason))
    if answer.status >= _REFUSAL:
        raise SystemExit(1)


def _event(row: Receipt) -> str:
    return " ".join(word for word in (row.event_type, row.action) if word)


def _about(row: Receipt) -> str:
    return f"{row.repo or ''}{f'#{row.number}' if row.number else ''}"


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text
