"""What the demo shows while it runs: the instances live on a terminal, plain lines elsewhere."""

from collections.abc import Sequence
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pool import explain
from pool.model import Instance, Kind, Task
from pool.states import State
from pool.store import Store
from webapp.cli import trail as trails
from webapp.demo.verdict import Promise

LINES = 14  #: of the feed on a terminal

_COLOURS = {State.SUCCEEDED: "green", State.RUNNING: "yellow", State.QUEUED: "cyan"}


class Screen:
    """Follows the store and what people did. A context manager."""

    def __init__(self, console: Console, store: Store, told: Sequence[str]) -> None:
        """`told`: grows while the story goes on."""
        self._console, self._store, self._told = console, store, told
        self._feed: list[Text] = []
        self._events = self._receipts = self._heard = 0
        self._live = Live(console=console, refresh_per_second=8) if console.is_terminal else None

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last picture standing."""
        self.update()
        if self._live:
            self._live.stop()

    def update(self) -> None:
        """Show what has happened since the last time."""
        fresh = self._news()
        self._feed += fresh
        if self._live:
            self._live.update(self._picture())
        else:
            for line in fresh:
                self._console.print(line, soft_wrap=True, overflow="ignore")

    def _news(self) -> list[Text]:
        lines = [Text(f"* {line}", style="bold") for line in self._told[self._heard :]]
        self._heard += len(lines)
        with self._store.reading() as tx:
            receipts = [r for r in reversed(tx.list_deliveries(limit=200)) if r.id > self._receipts]
            events = tx.events_after(self._events)
            tasks = {number: tx.task(number) for _, number, _ in events}
        for receipt in receipts:
            self._receipts = receipt.id
            what = f"{receipt.event_type or 'delivery'} {receipt.repo or ''}#{receipt.number or '-'}"
            told = f"  delivery {receipt.id} {what}: {receipt.verdict} - {receipt.reason}"
            lines.append(Text(told, style="dim", no_wrap=True, overflow="ellipsis"))
        for number, task, event in events:
            self._events = number
            lines.append(_event_line(tasks[task], event.event, event.why))
        return lines

    def _picture(self) -> RenderableType:
        with self._store.reading() as tx:
            rows = tx.list_instances()
            live = tx.list_tasks(states=[State.QUEUED, State.RUNNING], newest_first=False)
        return Group(_instances(rows, live), Panel(Group(*self._feed[-LINES:]), title="what happens", height=LINES + 2))


def _event_line(task: Task, event: str, why: str) -> Text:
    request = task.request
    what = f"{request.kind} {request.step}" if request.step else str(request.kind)
    name = f"  task {task.id} ({what} {request.repo}#{request.number})"
    match event:
        case "queued" if task.decision:
            return Text(f"{name} -> {task.instance}: {explain.short(task.decision)}", style="cyan")
        case "claim":
            return Text(f"{name} runs on {task.instance}", style="yellow")
        case "succeed":
            return Text(f"{name} succeeded: {why}", style="green")
        case "withdraw" | "supersede":
            return Text(f"{name} is not needed any more: {why}", style="dim")
        case _:
            return Text(f"{name} {event}: {why}", style="red")


def _instances(rows: Sequence[Instance], live: Sequence[Task]) -> Table:
    table = Table(title="instances", expand=True, box=SIMPLE_HEAD)
    for column in ("instance", "runs", "why there", "waits"):
        table.add_column(column, no_wrap=column != "why there")
    for row in rows:
        mine = [task for task in live if task.instance == row.name]
        running = next((task for task in mine if task.state is State.RUNNING), None)
        waits = [f"{t.id}" for t in mine if t.state is State.QUEUED]
        table.add_row(
            row.name,
            _what(running) if running else Text("idle", style="dim"),
            explain.short(running.decision) if running and running.decision else "",
            " ".join(waits) or "-",
        )
    return table


def _what(task: Task) -> Text:
    return Text(f"{task.id} {task.request.kind} #{task.request.number}", style="yellow")


def summary(tasks: Sequence[Task]) -> Table:
    """Return the table of what agents did; the links of merges are only counted."""
    links = [task for task in tasks if task.request.kind is Kind.MERGE]
    title, caption = "every task of an agent", f"and {len(links)} links of chains that merge"
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("task", "what", "instance", "state", "waited", "ran", "why there"):
        table.add_column(
            column,
            justify="right" if column in {"task", "waited", "ran"} else "left",
            no_wrap=column != "why there",
        )
    for task in (task for task in tasks if task not in links):
        table.add_row(
            str(task.id),
            f"{task.request.kind} {task.request.repo.partition('/')[2]}#{task.request.number}",
            task.instance or "-",
            Text("ok" if task.state is State.SUCCEEDED else task.state, style=_COLOURS.get(task.state, "red")),
            _seconds(task.created_at, task.started_at),
            _seconds(task.started_at, task.finished_at),
            explain.short(task.decision) if task.decision else "",
        )
    return table


def _seconds(begin: object, end: object) -> str:
    return "-" if begin is None or end is None else f"{(end - begin).total_seconds():.1f} s"  # type: ignore[operator]


def trail(store: Store, repo: str, number: int) -> Table:
    """Return the story of one issue and its pull request, from the first delivery to the merge."""
    table = Table(title=f"the trail of {repo}#{number}", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("at", "of", "from", "what happened, and why"):
        table.add_column(column, no_wrap=column != "what happened, and why")
    for line in trails.lines(store, repo, number, short=True):
        table.add_row(f"{line.at:%H:%M:%S}", f"#{line.number}", line.source, Text(line.text))
    return table


def verdict(promises: Sequence[Promise]) -> Table:
    """Return the table of the promises."""
    table = Table(title="promises", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("promise")
    table.add_column("what was seen")
    for promise in promises:
        mark = Text("kept", style="green") if promise.kept else Text("BROKEN", style="bold red")
        table.add_row(mark, promise.words, promise.seen)
    return table
