"""`forgepool tasks log`: what an agent printed. Nobody vouches for it, so it is escaped unless --raw is given."""

import codecs
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import click

from pool.errors import ForgepoolError
from pool.states import LIVE
from pool.store import Store, check_task_id
from webapp.cli.output import examples, safe
from webapp.cli.session import Session, pass_session

POLL_S = 0.2
CHUNK = 64 * 1024


class NoLog(ForgepoolError):
    """The task has no log."""


@click.command(
    epilog=examples(
        "forgepool tasks log 41 --tail 20",
        "forgepool tasks log 41 --follow",
        "forgepool tasks log 41 --raw > agent.log",
    )
)
@click.argument("task_id", metavar="ID")
@click.option("--follow", "-f", is_flag=True, help="Go on printing until the task has ended.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("--raw", is_flag=True, help="Print the bytes as they are, control characters too.")
@pass_session
def log(session: Session, task_id: str, *, follow: bool, tail: int | None, raw: bool) -> None:
    """Print the log of a task's agent, made safe for a terminal."""
    number = check_task_id(task_id)
    with session.store() as store:
        path = session.settings.state_dir / "logs" / "tasks" / f"{number}.log"
        state = _state(store, number)
        if not path.exists() and not follow:
            raise NoLog(f"task {number} has no log: it is {state}, and no agent was started" + _hint(state))
        decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
        for chunk in _chunks(store, number, path, tail=tail, follow=follow):
            if raw:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            else:
                click.echo(safe(decoder.decode(chunk).replace("\r\n", "\n"), keep="\n\t"), nl=False)


def _chunks(store: Store, number: int, path: Path, *, tail: int | None, follow: bool) -> Iterator[bytes]:
    """Yield what is in the file, from the last `tail` lines on; with `follow` also what comes, to the task's end."""
    position = _start(path, tail)
    while True:
        # Asked before the file is read: what the agent wrote last is there when its task has ended.
        is_over = not follow or not _is_live(store, number)
        if path.exists():
            with path.open("rb") as file:
                if position > path.stat().st_size:
                    position = 0  # written anew
                file.seek(position)
                while chunk := file.read(CHUNK):
                    yield chunk
                position = file.tell()
        if is_over:
            return
        time.sleep(POLL_S)


def _start(path: Path, tail: int | None) -> int:
    """Return the position of the last `tail` lines."""
    if tail is None or not path.exists():
        return 0
    with path.open("rb") as file:
        lengths = deque((len(line) for line in file), maxlen=tail)
        return file.tell() - sum(lengths)


def _state(store: Store, number: int) -> str:
    with store.reading() as tx:
        return tx.task(number).state


def _is_live(store: Store, number: int) -> bool:
    with store.reading() as tx:
        return tx.task(number).state in LIVE


def _hint(state: str) -> str:
    return "; --follow waits for it" if state in ("queued", "running") else ""
