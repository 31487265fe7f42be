"""`forgepool instances`: the members of each type's pool."""

from collections.abc import Callable
from typing import IO, Any, TypeVar

import click

from pool.errors import BadInput
from pool.model import Instance
from pool.states import InstanceState
from pool.store import Tx
from tasks import dispatch
from webapp.cli import shapes
from webapp.cli.output import Column, Fit, Styled, examples, fields, json_option, print_json, state, table, warn
from webapp.cli.session import Session, pass_session

_F = TypeVar("_F", bound=Callable[..., Any])

_COLUMNS = (
    Column("NAME"),
    Column("TYPE"),
    Column("STATE"),
    Column("TASK", is_number=True),
    Column("QUEUED", is_number=True),
    Column("WORKER"),
    Column("MODEL", Fit.WRAP, is_optional=True),
    Column("LABELS", Fit.WRAP, is_optional=True),
    Column("NOTES", Fit.WRAP, is_optional=True),
)
_FIELDS = {"model": "model", "prompt-appendix": "prompt_appendix", "match-labels": "match_labels", "notes": "notes"}


@click.group(
    short_help="Add, change, pause, remove and list instances.",
    epilog=examples("forgepool instances list", "forgepool instances add dev-bravo --type dev"),
)
def instances() -> None:
    """Add, change, pause, remove and list the instances of each type."""


@instances.command("list", epilog=examples("forgepool instances list", "forgepool instances list --type dev --json"))
@click.option("--type", "type_name", help="Only instances of this type.")
@json_option
@pass_session
def list_(session: Session, type_name: str | None, *, as_json: bool) -> None:
    """List the instances, what each runs and what waits for it."""
    with session.store() as store, store.reading() as tx:
        documents = [_document(session, tx, row) for row in tx.list_instances(type_name)]
    if as_json:
        print_json(documents)
    else:
        table(_COLUMNS, map(_row, documents), empty="No instance; `forgepool instances add NAME --type TYPE` adds one.")


@instances.command(epilog=examples("forgepool instances show dev-alpha"))
@click.argument("name")
@json_option
@pass_session
def show(session: Session, name: str, *, as_json: bool) -> None:
    """Show one instance, with where each of its values comes from."""
    with session.store() as store, store.reading() as tx:
        document = _document(session, tx, tx.instance(name))
    _print(document, as_json=as_json)


def _overrides(command: _F) -> _F:
    """Add the options for what an instance may have of its own."""
    for option in (
        click.option("--notes", help="A remark for people."),
        click.option(
            "--no-match-labels", is_flag=True, help="Give it no labels, whatever its type has: it takes any task."
        ),
        click.option(
            "--match-label", "match_labels", multiple=True, metavar="LABEL", help="Prefer tasks with it.  [repeatable]"
        ),
        click.option(
            "--prompt-appendix-file", type=click.File(encoding="utf-8"), help="The appendix from a file; - for stdin."
        ),
        click.option("--prompt-appendix", help="Text that is added to every prompt."),
        click.option("--model", help="Model of its agent, in place of the type's."),
    ):
        command = option(command)
    return command


@instances.command(
    epilog=examples(
        "forgepool instances add dev-bravo --type dev",
        "forgepool instances add dev-ui --type dev --match-label frontend --model opus",
        "forgepool instances add dev-careful --type dev --prompt-appendix-file careful.md",
    )
)
@click.argument("name")
@click.option("--type", "type_name", required=True, help="Type of the new instance, as forgepool.toml names it.")
@_overrides
@json_option
@pass_session
def add(session: Session, /, name: str, type_name: str, *, as_json: bool, **options: Any) -> None:
    """Add an instance; a running fleet starts its worker at once."""
    session.settings.type(type_name)
    overrides = _given(**options)
    with session.store() as store, store.writing() as tx:
        document = _document(session, tx, tx.add_instance(name, type_name, **overrides))
    _print(document, as_json=as_json, said=f"{name} was added.")


@instances.command(
    "set",
    epilog=examples(
        'forgepool instances set dev-alpha --model opus --notes "on trial"',
        "forgepool instances set dev-alpha --unset model --unset match-labels",
    ),
)
@click.argument("name")
@_overrides
@click.option(
    "--unset",
    multiple=True,
    type=click.Choice(list(_FIELDS)),
    help="Fall back on the type's value.  [repeatable]",
)
@json_option
@pass_session
def set_(session: Session, /, name: str, unset: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Change what an instance has of its own; its next task sees it."""
    overrides = _given(**options)
    for word in unset:
        if _FIELDS[word] in overrides:
            raise click.UsageError(f"--unset {word} and a new value contradict each other; give one of them")
        overrides[_FIELDS[word]] = None
    if not overrides:
        raise click.UsageError("nothing to change; give an option, or --unset FIELD")
    with session.store() as store, store.writing() as tx:
        document = _document(session, tx, tx.set_instance(name, **overrides))
    _print(document, as_json=as_json, said=f"{name} was changed.")


@instances.command(epilog=examples("forgepool instances pause dev-alpha"))
@click.argument("name")
@json_option
@pass_session
def pause(session: Session, name: str, *, as_json: bool) -> None:
    """Let an instance end its running task and start nothing more; its queue stays."""
    _change(session, name, InstanceState.PAUSED, as_json=as_json, said=f"{name} is paused; its queue stays.")


@instances.command(epilog=examples("forgepool instances resume dev-alpha"))
@click.argument("name")
@json_option
@pass_session
def resume(session: Session, name: str, *, as_json: bool) -> None:
    """Let a paused or draining instance work and take new tasks again."""
    _change(session, name, InstanceState.ACTIVE, as_json=as_json, said=f"{name} is active.")


@instances.command(epilog=examples("forgepool instances drain dev-alpha"))
@click.argument("name")
@json_option
@pass_session
def drain(session: Session, name: str, *, as_json: bool) -> None:
    """Let an instance run its queue empty and take nothing new."""
    _change(session, name, InstanceState.DRAINING, as_json=as_json, said=f"{name} takes nothing new.")


@instances.command(
    epilog=examples("forgepool instances remove dev-bravo", "forgepool instances remove dev-bravo --yes --json")
)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_session
def remove(session: Session, name: str, *, yes: bool, as_json: bool) -> None:
    """Remove an instance; what runs or waits there is still done, then it is gone."""
    with session.store() as store, store.reading() as tx:
        row = tx.instance(name)
    work = [f"runs {row.running}"] * (row.running > 0) + [f"has {row.queued} queued"] * (row.queued > 0)
    held = f" It {' and '.join(work)}; that is done first." if work else ""
    if not yes and not click.confirm(f"Remove {name}?{held}", err=True):
        click.echo("Nothing was changed.", err=True)
        raise SystemExit(1)
    _change(session, name, InstanceState.REMOVED, as_json=as_json, said=f"{name} is removed.{held}")


def _change(session: Session, name: str, to: InstanceState, *, as_json: bool, said: str) -> None:
    with session.engine() as engine:
        dispatch.set_state(engine, name, to)
        with engine.store.reading() as tx:
            row = tx.find_instance(name)
            document = _document(session, tx, row) if row else {"name": name, "state": InstanceState.REMOVED}
            head = tx.head_of_queue(name) if to is InstanceState.ACTIVE else None
            is_silent = head is not None and tx.task(head).published_at is None
    if is_silent:
        warn(f"the broker does not answer; task {head} waits until the fleet rings for it")
    if as_json:
        print_json(document)
    else:
        click.echo(said)


def _given(
    *,
    model: str | None,
    prompt_appendix: str | None,
    prompt_appendix_file: IO[str] | None,
    match_labels: tuple[str, ...],
    no_match_labels: bool,
    notes: str | None,
) -> dict[str, Any]:
    """Return the overrides that the options give."""
    if prompt_appendix is not None and prompt_appendix_file is not None:
        raise click.UsageError("--prompt-appendix and --prompt-appendix-file contradict each other; give one of them")
    if match_labels and no_match_labels:
        raise click.UsageError("--match-label and --no-match-labels contradict each other; give one of them")
    if prompt_appendix_file is not None:
        prompt_appendix = _read(prompt_appendix_file)
    labels = list(match_labels) if match_labels or no_match_labels else None
    values = {"model": model, "prompt_appendix": prompt_appendix, "match_labels": labels, "notes": notes}
    return {field: value for field, value in values.items() if value is not None}


def _read(file: IO[str]) -> str:
    try:
        return file.read()
    except UnicodeDecodeError:
        raise BadInput("prompt_appendix", file.name, "is not UTF-8 text") from None


def _document(session: Session, tx: Tx, row: Instance) -> dict[str, Any]:
    running = next((task.id for task in tx.running(row.name)), None) if row.running else None
    return shapes.instance(row, session.settings.types, running=running, now=tx.now)


def _row(document: dict[str, Any]) -> list[str | Styled]:
    return [
        document["name"],
        document["type"] if document["type_is_configured"] else f"{document['type']} (?)",
        state(document["state"]),
        str(document["running_task"] or ""),
        str(document["queued"]),
        state("alive" if document["worker"]["alive"] else "none"),
        document["model"] or "",
        ", ".join(document["match_labels"]),
        document["notes"],
    ]


def _print(document: dict[str, Any], *, as_json: bool, said: str = "") -> None:
    if as_json:
        print_json(document)
        return
    if said:
        click.echo(said)
    worker = document["worker"]
    origin = {"instance": "its own", "type": "from the type", "agent": "the agent's default"}
    fields(
        {
            "name": document["name"],
            "type": document["type"] + ("" if document["type_is_configured"] else " (not in the configuration)"),
            "state": state(document["state"]),
            "running": f"task {document['running_task']}" if document["running_task"] else "",
            "queued": document["queued"],
            "worker": f"alive: {worker['holder']}" if worker["alive"] else _absent(worker),
            "model": _with(document["model"], origin[document["model_from"]]),
            "labels": _with(", ".join(document["match_labels"]), origin[document["match_labels_from"]]),
            "appendix": document["prompt_appendix"],
            "notes": document["notes"],
            "added": document["created_at"],
        }
    )


def _absent(worker: dict[str, Any]) -> str:
    return f"none; the last one was {worker['holder']}" if worker["holder"] else "none yet"


def _with(value: str | None, origin: str) -> str:
    return f"{value or 'none'} ({origin})"
