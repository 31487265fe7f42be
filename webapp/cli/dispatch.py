"""`forgepool dispatch`: a task by hand, on the same way that a webhook goes."""

import time
from typing import IO, Any

import click

from pool import explain
from pool.errors import BadInput
from pool.model import Kind, Request, Task
from pool.states import LIVE, State
from tasks.dispatch import dispatch_by_type
from tasks.engine import Engine
from webapp.cli import shapes
from webapp.cli.output import examples, json_option, print_json, warn
from webapp.cli.session import Session, pass_session
from webapp.cli.tasks import actor

POLL_S = 0.5


@click.command(
    epilog=examples(
        'forgepool dispatch dev --repo me/app --number 7 --title "Tidy up" --body "Remove dead code."',
        "forgepool dispatch dev --repo me/app --number 7 --body-file task.md --label ui --wait",
        "git diff | forgepool dispatch reviewer --repo me/app --number 7 --body-file -",
    )
)
@click.argument("type_name", metavar="TYPE")
@click.option("--repo", required=True, metavar="OWNER/NAME", help="Repository to work in.")
@click.option("--number", required=True, type=int, help="Issue or pull request that the task is about.")
@click.option(
    "--kind",
    type=click.Choice([str(kind) for kind in Kind]),
    default=str(Kind.CUSTOM),
    show_default=True,
    help="What to ask of the agent.",
)
@click.option("--title", default="", help="Title of the issue, or of the task.")
@click.option("--body", help="What is to be done; for other kinds than custom, the text of the issue.")
@click.option("--body-file", type=click.File(encoding="utf-8"), help="The body from a file; - for standard input.")
@click.option("--label", "labels", multiple=True, help="Prefer instances with this label.  [repeatable]")
@click.option("--branch", help="Branch to work on.  [default: one of its own]")
@click.option("--base", help="Branch to start from.  [default: the repository's default branch]")
@click.option("--wait", is_flag=True, help="Wait for the end; exit with 1 unless it succeeded.")
@json_option
@pass_session
def dispatch(session: Session, /, type_name: str, *, wait: bool, as_json: bool, **options: Any) -> None:
    """Queue a task on an instance of a type, and tell which instance and why."""
    request = _request(session, **options)
    with session.engine() as engine:
        task = _task(engine, dispatch_by_type(engine, type_name, request, by=actor()))
        if task.published_at is None:
            warn("the broker does not answer; the task is stored, and the fleet rings for it when the broker is back")
        if not as_json:
            why = f": {explain.short(task.decision)}" if task.decision else ""
            click.echo(f"Task {task.id} is {task.state} on {task.instance}{why}.")
        if wait:
            task = _wait(engine, task, quiet=as_json)
    if as_json:
        print_json({**shapes.task(task), "why": explain.short(task.decision) if task.decision else None})
    if wait and task.state is not State.SUCCEEDED:
        raise SystemExit(1)


def _request(
    session: Session,
    *,
    repo: str,
    number: int,
    kind: str,
    title: str,
    body: str | None,
    body_file: IO[str] | None,
    labels: tuple[str, ...],
    branch: str | None,
    base: str | None,
) -> Request:
    if body is not None and body_file is not None:
        raise click.UsageError("--body and --body-file contradict each other; give one of them")
    if not session.settings.allows(repo):
        raise BadInput("repo", repo, f"is not served here; add it to service.repos in {session.settings.path.name}")
    text = body_file.read() if body_file is not None else body or ""
    return Request.from_json(
        {
            "kind": kind,
            "repo": repo,
            "number": number,
            "title": title,
            # The prompt of a custom task takes what is to be done from `detail`.
            "detail" if kind == Kind.CUSTOM else "body": text,
            "labels": labels,
            "branch": branch,
            "base": base,
            "url": f"{session.settings.service.forge_url.rstrip('/')}/{repo}/issues/{number}",
        }
    )


def _task(engine: Engine, task_id: int) -> Task:
    with engine.store.reading() as tx:
        return tx.task(task_id)


def _wait(engine: Engine, task: Task, *, quiet: bool) -> Task:
    """Follow a task to its end, over retries of interrupted runs; tell each change."""
    told = task.state
    while True:
        if task.state is not told and not quiet:
            click.echo(f"Task {task.id} is {task.state}{f': {task.reason}' if task.reason else ''}.")
        told = task.state
        again = _retry_of(engine, task) if task.state is State.INTERRUPTED else None
        # Not "until it is final": a dead letter waits for a person, who may be the one who waits here.
        if again is None and task.state not in LIVE:
            if task.state is State.DEAD_LETTERED and not quiet:
                click.echo(f"`forgepool tasks release {task.id}` tries it again.")
            return task
        if again is None:
            time.sleep(POLL_S)
        task = _task(engine, again or task.id)


def _retry_of(engine: Engine, task: Task) -> int | None:
    with engine.store.reading() as tx:
        newer = tx.list_tasks(repo=task.request.repo, number=task.request.number)
    return next((one.id for one in newer if one.retry_of == task.id), None)
