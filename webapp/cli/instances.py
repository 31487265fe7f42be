"""`forgepool instances`: the members of each type's pool."""

from collections.abc import Callable, Collection, Iterable
from typing import IO, Any, TypeVar

import click

from pool import explain
from pool.errors import BadInput
from pool.model import Instance
from pool.states import InstanceState, State
from pool.store import DeadLettered, Queued, Tx
from tasks import dispatch
from tasks.engine import Engine
from webapp.cli import shapes
from webapp.cli.output import Column, Fit, Styled, examples, fields, json_option, print_json, state, table, warn
from webapp.cli.session import Session, pass_session
from webapp.cli.tasks import actor

_F = TypeVar("_F", bound=Callable[..., Any])

_COLUMNS = (
    Column("NAME"),
    Column("TYPE"),
    Column("STATE"),
    Column("TASK", is_number=True),
    Column("QUEUED", is_number=True),
    Column("WORKER"),
    Column("HOST", Fit.CUT, is_optional=True),
    Column("MODEL", Fit.WRAP, is_optional=True),
    Column("LABELS", Fit.WRAP, is_optional=True),
    Column("NOTES", Fit.WRAP, is_optional=True),
)
_FIELDS = {"model": "model", "prompt-appendix": "prompt_appendix", "match-labels": "match_labels", "notes": "notes"}
#: In place of a host's name: whoever comes first may serve it.
ANY_HOST = "any"


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
        rows = tx.list_instances()
        hosts = explain.live_hosts(rows, tx.now)
        documents = [_document(session, tx, row, hosts) for row in rows if type_name in (None, row.type)]
    if as_json:
        print_json(documents)
        return
    table(_COLUMNS, map(_row, documents), empty="No instance; `forgepool instances add NAME --type TYPE` adds one.")
    for (why, remedy), names in _hindered(documents).items():
        warn(f"nothing runs on {', '.join(names)}: {why}; {remedy}")


def _hindered(documents: list[dict[str, Any]]) -> dict[tuple[str, str], list[str]]:
    """Return what is in the way of whom. A pause is meant so, unless something waits behind it."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in documents:
        if one["hindrance"] and (one["queued"] or one["state"] != InstanceState.PAUSED):
            found.setdefault((one["hindrance"]["why"], one["hindrance"]["remedy"]), []).append(one["name"])
    return found


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
            "--host",
            metavar="HOST",
            help="Only the fleet of that host may serve it (its service.host); any: every one.",
        ),
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
        "forgepool instances set dev-alpha --type reviewer",
        "forgepool instances set dev-alpha --host build-2",
    ),
)
@click.argument("name")
@click.option(
    "--type", "type_name", help="Make it one of another type; what waits on it goes to others of the old one."
)
@_overrides
@click.option(
    "--unset",
    multiple=True,
    type=click.Choice(list(_FIELDS)),
    help="Fall back on the type's value.  [repeatable]",
)
@json_option
@pass_session
def set_(
    session: Session, /, name: str, type_name: str | None, unset: tuple[str, ...], *, as_json: bool, **options: Any
) -> None:
    """Change what an instance has of its own; its next task sees it."""
    overrides = _given(**options)
    for word in unset:
        if _FIELDS[word] in overrides:
            raise click.UsageError(f"--unset {word} and a new value contradict each other; give one of them")
        overrides[_FIELDS[word]] = None
    if not overrides and type_name is None:
        raise click.UsageError("nothing to change; give an option, or --unset FIELD")
    placed: list[Queued | DeadLettered] = []
    with session.engine() as engine:
        if type_name is not None:
            placed = dispatch.set_type(engine, name, type_name, by=actor(), **overrides)
            _warn_of_silence(engine, placed)
        else:
            with engine.store.writing() as tx:
                tx.set_instance(name, **overrides)
        with engine.store.reading() as tx:
            document = _document(session, tx, tx.instance(name))
    if as_json and type_name is not None:
        document |= {"queue": _placed(placed)}
    _print(document, as_json=as_json, said=f"{name} was changed.", also=_told(placed))


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
    epilog=examples("forgepool instances remove dev-bravo", "forgepool instances remove dev-bravo --now --yes --json")
)
@click.argument("name")
@click.option("--now", "is_now", is_flag=True, help="Stop what runs; that and what waits goes to others of its type.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_session
def remove(session: Session, name: str, *, is_now: bool, yes: bool, as_json: bool) -> None:
    """Remove an instance; what runs or waits there is still done, then it is gone."""
    with session.store() as store, store.reading() as tx:
        row = tx.instance(name)
        has_others = any(
            one.name != name and one.state in (InstanceState.ACTIVE, InstanceState.PAUSED)
            for one in tx.list_instances(row.type)
        )
    work = [f"runs {row.running}"] * (row.running > 0) + [f"has {row.queued} queued"] * (row.queued > 0)
    goes = f"goes to others of type {row.type}"
    if not has_others:
        goes = f"becomes a dead letter, for type {row.type} has no other"
    stops = "the run is stopped, and " * (row.running > 0)
    then = f"{stops}the work {goes}" if is_now else "that is done first"
    held = f" It {' and '.join(work)}; {then}." if work else ""
    if not yes and not click.confirm(f"Remove {name}{' now' * is_now}?{held}", err=True):
        click.echo("Nothing was changed.", err=True)
        raise SystemExit(1)
    if is_now:
        _remove_now(session, name, as_json=as_json)
    else:
        _change(session, name, InstanceState.REMOVED, as_json=as_json, said=f"{name} is removed.{held}")


def _remove_now(session: Session, name: str, *, as_json: bool) -> None:
    with session.engine() as engine:
        placed, stopped = dispatch.remove_now(engine, name, by=actor())
        _warn_of_silence(engine, placed)
    if as_json:
        queue = _placed(placed)
        print_json({"name": name, "state": InstanceState.REMOVED, "stopped": stopped, "queue": queue})
        return
    click.echo(f"{name} is removed.")
    for task in stopped:
        click.echo(
            f"Task {task} ran there; its agent has been asked to stop, and it is queued again when that is gone."
        )
    for line in _told(placed):
        click.echo(line)


def _warn_of_silence(engine: Engine, placed: list[Queued | DeadLettered]) -> None:
    with engine.store.reading() as tx:
        rows = [tx.task(one.task) for one in placed if isinstance(one, Queued)]
    if silent := [str(row.id) for row in rows if row.state is State.QUEUED and row.published_at is None]:
        warn(f"the broker does not answer; the fleet rings for {', '.join(silent)} when it is back")


def _placed(placed: list[Queued | DeadLettered]) -> list[dict[str, Any]]:
    """Return what became of a queue, for programs. why: of a dead letter."""
    return [
        {"task": one.task, "instance": one.instance, "why": None}
        if isinstance(one, Queued)
        else {"task": one.task, "instance": None, "why": one.why}
        for one in placed
    ]


def _told(placed: list[Queued | DeadLettered]) -> list[str]:
    """Return what became of a queue, for people."""
    return [
        f"Task {one.task} went to {one.instance}: {explain.short(one.decision)}."
        if isinstance(one, Queued)
        else f"Task {one.task} is a dead letter: {one.why}. `forgepool tasks release {one.task}` tries again."
        for one in placed
    ]


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
    host: str | None,
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
    given = {field: value for field, value in values.items() if value is not None}
    return given if host is None else {**given, "host": None if host == ANY_HOST else host}


def _read(file: IO[str]) -> str:
    try:
        return file.read()
    except UnicodeDecodeError:
        raise BadInput("prompt_appendix", file.name, "is not UTF-8 text") from None


def _document(
    session: Session, tx: Tx, row: Instance, live_hosts: Collection[str | None] | None = None
) -> dict[str, Any]:
    """Return an instance as a JSON value. live_hosts: where workers are alive; None: they are looked for."""
    running = next((task.id for task in tx.running(row.name)), None) if row.running else None
    types = session.settings.types
    hosts = explain.live_hosts(tx.list_instances(), tx.now) if live_hosts is None else live_hosts
    hindered = explain.hindrance(row, types=types, live_hosts=hosts, now=tx.now)
    return shapes.instance(row, types, running=running, now=tx.now, hindered=hindered)


def _row(document: dict[str, Any]) -> list[str | Styled]:
    return [
        document["name"],
        document["type"] if document["type_is_configured"] else f"{document['type']} (?)",
        state(document["state"]),
        str(document["running_task"] or ""),
        str(document["queued"]),
        state("alive" if document["worker"]["alive"] else "none"),
        _where(document),
        document["model"] or "",
        ", ".join(document["match_labels"]),
        document["notes"],
    ]


def _where(document: dict[str, Any]) -> str:
    """Return the host that serves an instance, and whether it is bound to one."""
    bound, worker = document["host"], document["worker"]
    serves = worker["host"] if worker["alive"] else None
    if bound is None:
        return serves or ""
    return f"only {bound}" if serves in (None, bound) else f"{serves}, only {bound} may"


def _print(document: dict[str, Any], *, as_json: bool, said: str = "", also: Iterable[str] = ()) -> None:
    if as_json:
        print_json(document)
        return
    for line in (said, *also) if said else ():
        click.echo(line)
    worker = document["worker"]
    origin = {"instance": "its own", "type": "from the type", "agent": "the agent's default"}
    fields(
        {
            "name": document["name"],
            "type": document["type"] + ("" if document["type_is_configured"] else " (not in the configuration)"),
            "state": state(document["state"]),
            "running": f"task {document['running_task']}" if document["running_task"] else "",
            "queued": document["queued"],
            "host": f"only {document['host']}" if document["host"] else "any",
            "worker": f"alive: {worker['holder']}" if worker["alive"] else _absent(worker),
            "works": "no: {why}; {remedy}".format(**hindered) if (hindered := document["hindrance"]) else "",
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
