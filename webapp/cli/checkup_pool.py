"""Checks of what the database says: instances, workers, queues, deliveries."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from pool.errors import BadInput
from pool.model import Instance, check_name
from pool.states import InstanceState, Verdict
from pool.store import Receipt, Store, Tx
from tasks.settings import Settings
from webapp.cli.checkup import Check, fail, ok, warn
from webapp.cli.output import duration
from webapp.cli.shapes import is_alive

#: A task is normally taken within a second; an idle instance that leaves one lying for this long is stuck.
STUCK_S = 60.0
#: HTTP answers to a missing and to a wrong signature.
UNSIGNED, WRONG = 401, 403
RECENT = 50  #: deliveries that are looked at

HOST_LIST = (
    "add the webhook on the forge and press its test button; the forge must be allowed to call this host: "
    "[webhook] ALLOWED_HOST_LIST in its app.ini, which by default leaves out loopback and private addresses"
)


def examine(settings: Settings, store: Store) -> Iterator[Check]:
    """Yield the checks that ask the database."""
    with store.reading() as tx:
        rows = tx.list_instances()
        yield from instances(settings, rows)
        yield from workers(settings, rows, tx.now)
        yield from queues(rows, tx)
        yield from deliveries(tx.list_deliveries(limit=RECENT))


def instances(settings: Settings, rows: Sequence[Instance]) -> Iterator[Check]:
    """Look whether every type has an instance and every instance a type."""
    found = 0
    for name in sorted(set(settings.types) - {row.type for row in rows if _takes(row)}):
        found += 1
        yield warn(
            "instances",
            f"no instance of type {name} takes tasks: every task for it fails",
            f"`forgepool instances add {name}-alpha --type {name}`",
        )
    for row in rows:
        if row.type not in settings.types:
            found += 1
            remedy = f"describe [types.{row.type}] or `forgepool instances remove {row.name}`"
            yield fail("instances", f"{row.name} is of type {row.type}, which is not configured", remedy)
        try:
            check_name("name", row.name)
        except BadInput as error:
            found += 1
            yield fail("instances", str(error), f"add one of a better name and remove {row.name!r}")
    if not found:
        yield ok("instances", f"{len(rows)}, at least one of each type")


def workers(settings: Settings, rows: Sequence[Instance], now: datetime) -> Iterator[Check]:
    """Look whether every instance has a live worker."""
    dead = [row for row in rows if not is_alive(row, now)]
    if not dead:
        yield ok("workers", "every instance has a live one")
    elif len(dead) == len(rows):
        yield warn("workers", "none is running", "`forgepool up`, or `forgepool fleet`")
    else:
        folder = settings.state_dir / "logs" / "workers"
        for row in dead:
            since = "" if row.worker_until is None else f" since {duration((now - row.worker_until).total_seconds())}"
            remedy = f"see {folder / row.name}.log, and whether the fleet runs"
            yield fail("workers", f"{row.name} has none{since}", remedy)


def queues(rows: Sequence[Instance], tx: Tx) -> Iterator[Check]:
    """Look for tasks that wait although nothing is in their way."""
    found = 0
    for row in rows:
        head = tx.head_of_queue(row.name) if row.queued and not row.running else None
        if head is None:
            continue
        waits_s = (tx.now - tx.task(head).created_at).total_seconds()
        words = f"{row.queued} waiting on {row.name}, task {head} for {duration(waits_s)}"
        if row.state is InstanceState.PAUSED:
            found += 1
            yield warn("queues", f"{words}; it is paused", f"`forgepool instances resume {row.name}`")
        elif waits_s > STUCK_S:
            found += 1
            yield fail("queues", f"{words}, and nothing runs there", "see that fleet and broker run")
    if not found:
        yield ok("queues", "none is stuck")


def deliveries(recent: Sequence[Receipt]) -> Iterator[Check]:
    """Look whether the forge reaches us, and with the right secret. recent: newest first."""
    if not recent:
        yield warn("deliveries", "none was ever received", HOST_LIST)
        return
    since_good = []
    for receipt in recent:
        if receipt.signed:
            break
        since_good.append(receipt)
    wrong = [one for one in since_good if one.verdict is Verdict.REFUSED and one.status in (UNSIGNED, WRONG)]
    if wrong:
        yield fail(
            "deliveries",
            f"the newest {f'{len(wrong)} ' if len(wrong) > 1 else ''}came without a good signature: {wrong[0].reason}",
            "put the same secret into the webhook's form on the forge and into service.webhook_secret_file",
        )
    else:
        yield ok("deliveries", f"the newest came {recent[0].received_at:%Y-%m-%d %H:%M} UTC: {recent[0].verdict}")


def _takes(row: Instance) -> bool:
    return row.state in (InstanceState.ACTIVE, InstanceState.PAUSED)
