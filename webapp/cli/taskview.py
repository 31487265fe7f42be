"""What a person reads of one task: its fields, its earlier runs, why it is where it is, and what helps."""

from datetime import datetime

import click

from pool import explain
from pool.model import Kind, Task
from pool.states import State
from pool.store import Receipt
from webapp.cli.output import Styled, duration, fields, heading, item, safe, sentence, state, when
from webapp.cli.shapes import Around


def about(row: Task) -> str:
    """Return what a task is about, as people write it."""
    return f"{row.request.repo}#{row.request.number}"


def show(row: Task, around: Around, *, log_path: str | None) -> None:
    """Print everything that is known of a task."""
    request = row.request
    fields(
        {
            "task": row.id,
            "state": state(row.state),
            "reason": row.reason,
            "type": row.type,
            "instance": row.instance,
            "host": row.host,
            "why there": explain.short(row.decision) if row.decision else "",
            "held up by": around.hindered.why if around.hindered else "",
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
            "tried again": f"as task {around.retried_as}" if around.retried_as else "",
            "runs lost": row.interruptions or "",
            "session": row.session_key,
            "created": when(row.created_at),
            "published": when(row.published_at),
            "started": when(row.started_at),
            # A dead letter stopped moving then, but it has not finished.
            "waits since" if row.state is State.DEAD_LETTERED else "finished": when(row.finished_at),
            "log": log_path,
        }
    )
    for title, text in (("Text", request.body), ("Detail", request.detail)):
        if text:
            heading(title)
            sentence(text, indent="  ")
    _evidence(row)
    earlier_runs(around)
    remedies(row, around)
    heading("History")
    for event in row.history:
        why = f": {event.why}" if event.why else ""
        item(Styled(f"  {when(event.at)}", ""), f"{event.event} by {event.by}{why}")


def tell(row: Task, around: Around, cause: Receipt | None, *, said: str = "") -> None:
    """Print why a task exists, why it went where it went, what was tried, and why it is in its state.

    said: what the workflow gave as its reason; "": it is not known.
    """
    click.echo(safe(f"Task {row.id}: {row.request.kind} {about(row)}"))
    heading("Why it exists")
    sentence(_origin(row, cause, said), indent="  ")
    if row.decision is not None:
        heading(f"Why {row.instance}")
        for line in explain.sentences(row.decision):
            sentence(line, indent="  ")
    earlier_runs(around)
    heading(f"Why {row.state}")
    sentence(_reason(row, around), indent="  ")
    remedies(row, around)


def earlier_runs(around: Around) -> None:
    """Print what was tried before, and how each run was lost."""
    if around.earlier:
        heading("Earlier runs")
    for one in around.earlier:
        where = f" on {one.instance}" + (f" ({one.host})" if one.host else "")
        lasted = _lasted(one.started_at, one.finished_at)
        item(state(f"  task {one.id}"), f"{one.state}{where}{lasted}: {one.reason or 'no reason was given'}")


def remedies(row: Task, around: Around) -> None:
    """Print the commands that help, if anything is in the way."""
    if helping := _remedies(row, around):
        heading("What helps")
        for line in helping:
            sentence(line, indent="  ")


def _remedies(row: Task, around: Around) -> list[str]:
    if row.state is State.DEAD_LETTERED:
        return [
            f"`forgepool tasks release {row.id}` tries it again, in its old place",
            f"`forgepool tasks cancel {row.id}` gives it up",
        ]
    return [around.hindered.remedy] if around.hindered else []


def _lasted(started: datetime | None, finished: datetime | None) -> str:
    if started is None or finished is None:
        return ""
    return f" after {duration((finished - started).total_seconds())}"


def _origin(row: Task, cause: Receipt | None, said: str) -> str:
    if row.retry_of is not None:
        return f"It repeats task {row.retry_of}, whose run was lost{f'; rule {row.rule}' if row.rule else ''}."
    if cause is not None:
        what = " ".join(word for word in (cause.event_type, cause.action) if word)
        sender = f" by {cause.sender}" if cause.sender else ""
        told = f"Delivery {cause.id} ({what}{sender}) met the rule {cause.rule or row.rule}: {cause.reason}."
        return f"{explain.origin(row)} {told}" if row.request.kind is Kind.MERGE else told
    if row.delivery is not None:
        return f"Delivery {row.delivery} met the rule {row.rule}; its receipt is gone."
    return explain.origin(row, why=said)


def _reason(row: Task, around: Around) -> str:
    if row.state is State.QUEUED:
        if around.hindered is None:
            return f"It waits for its turn on {row.instance}."
        return f"It waits on {row.instance}, where nothing runs: {around.hindered.why}."
    if row.reason:
        after = f" It was tried again as task {around.retried_as}." if around.retried_as else ""
        waits = " It waits for a person." if row.state is State.DEAD_LETTERED else ""
        return _as_sentence(row.reason) + after + waits
    if row.cancel_requested_at is not None:
        return "Its agent has been asked to stop."
    if row.stop_requested_at is not None:
        return "Its agent has been asked to stop; it goes on in a new run."
    return f"{row.instance} has worked on it since {when(row.started_at)}."


def _as_sentence(reason: str) -> str:
    # A name at the beginning stays as it is.
    begins_with_word = reason.split(maxsplit=1)[0].isalpha()
    text = reason[0].upper() + reason[1:] if begins_with_word else reason
    return text.rstrip(".") + "."


def _cause(row: Task) -> str:
    if row.delivery is None:
        return explain.cause(row)
    return f"delivery {row.delivery}, {explain.cause(row)}"


def _evidence(row: Task) -> None:
    if row.evidence is None:
        return
    heading("Evidence")
    shown: dict[str, str | Styled] = {}
    for name, value in row.evidence.to_json().items():
        if value not in (None, "", (), []):
            words = "; ".join(value) if name == "notes" else duration(value) if name == "duration_s" else str(value)
            shown[name.removesuffix("_s").replace("_", " ")] = words
    fields({f"  {name}": value for name, value in shown.items()})
