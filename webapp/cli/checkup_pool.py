"""Checks of what the database says: instances, workers, queues, deliveries."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from pool.errors import BadInput
from pool.explain import hindrance, is_served, live_hosts
from pool.model import Instance, check_name
from pool.states import InstanceState, State, Verdict
from pool.store import Receipt, Store, Tx
from tasks.reconcile import LEADER, REPAIRS
from tasks.settings import Settings
from webapp.cli.checkup import Check, fail, ok, warn
from webapp.cli.output import duration

#: A task is normally taken within a second; an idle instance that leaves one lying for this long is stuck.
STUCK_S = 60.0
IDLE = "nothing runs there"
#: HTTP answers to a missing and to a wrong signature.
UNSIGNED, WRONG = 401, 403
RECENT = 50  #: deliveries that are looked at
#: A repair that was needed as often as this, and in the last hour again, points to something that is broken.
OFTEN, LATELY_S = 10, 3600.0

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
        yield from queues(settings, rows, tx)
        yield from dead_letters(tx)
        yield from repairs(rows, tx)
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
            remedy = (
                f"describe [types.{row.type}] again, `forgepool instances set {row.name} --type TYPE`, or remove it"
            )
            waiting = f"; {row.queued} waiting there" if row.queued else ""
            yield fail("instances", f"{row.name} is of type {row.type}, which is not configured{waiting}", remedy)
        try:
            check_name("name", row.name)
        except BadInput as error:
            found += 1
            yield fail("instances", str(error), f"add one of a better name and remove {row.name!r}")
    if not found:
        yield ok("instances", f"{len(rows)}, at least one of each type")


def workers(settings: Settings, rows: Sequence[Instance], now: datetime) -> Iterator[Check]:
    """Look whether every instance has a live worker."""
    dead = [row for row in rows if not is_served(row, now)]
    hosts = live_hosts(rows, now)
    if not dead:
        yield ok("workers", "every instance has a live one")
    elif len(dead) == len(rows):
        yield warn("workers", "none is running", "`forgepool up`, or `forgepool fleet`")
    else:
        folder = settings.state_dir / "logs" / "workers"
        for row in dead:
            since = "" if row.worker_until is None else f" since {duration((now - row.worker_until).total_seconds())}"
            if row.type not in settings.types:
                why, remedy = f": type {row.type} is not configured", "see instances, above"
            elif row.host is not None and row.host not in hosts:
                why, remedy = f": it is bound to host {row.host}, where no worker is alive", "start the fleet there"
            else:
                why, remedy = "", f"see {folder / row.name}.log, and whether the fleet runs"
            yield fail("workers", f"{row.name} has none{since}{why}", remedy)


def queues(settings: Settings, rows: Sequence[Instance], tx: Tx) -> Iterator[Check]:
    """Look for tasks that wait although nothing runs before them."""
    found = 0
    hosts = live_hosts(rows, tx.now)
    for row in rows:
        head = tx.head_of_queue(row.name) if row.queued and not row.running else None
        if head is None:
            continue
        waits_s = (tx.now - tx.task(head).created_at).total_seconds()
        words = f"{row.queued} waiting on {row.name}, task {head} for {duration(waits_s)}"
        hindered = hindrance(row, types=settings.types, live_hosts=hosts, now=tx.now)
        if hindered is not None and row.state is InstanceState.PAUSED:
            found += 1
            yield warn("queues", f"{words}: {hindered.why}", hindered.remedy)
        elif waits_s > STUCK_S:
            found += 1
            why, remedy = (hindered.why, hindered.remedy) if hindered else (IDLE, "see that fleet and broker run")
            yield fail("queues", f"{words}: {why}", remedy)
    if not found:
        yield ok("queues", "none is stuck")


def dead_letters(tx: Tx) -> Iterator[Check]:
    """Look for tasks that wait for a person."""
    count = tx.count_dead()
    if not count:
        yield ok("dead letters", "none")
        return
    (newest,) = tx.list_tasks(states=[State.DEAD_LETTERED], limit=1)
    words = f"{count} wait{'s' if count == 1 else ''} for a person, the newest is task {newest.id}: {newest.reason}"
    yield warn("dead letters", words, "`forgepool tasks dead`, then `tasks release ID` or `tasks cancel ID`")


def repairs(rows: Sequence[Instance], tx: Tx) -> Iterator[Check]:
    """Look whether somebody repairs, and whether the same has to be repaired again and again."""
    found = 0
    leads = [lease.holder for lease in tx.list_leases() if lease.name == LEADER and lease.until > tx.now]
    if not leads and any(is_served(row, tx.now) for row in rows):
        found += 1
        yield warn("repairs", "workers run, but nobody makes repairs", "`forgepool fleet` on one host at least")
    counts = tx.repair_counts()
    for repair in REPAIRS:
        count = counts.get(repair.name)
        if count is None or repair.is_routine or count.count < OFTEN:
            continue
        ago_s = (tx.now - count.last_at).total_seconds()
        if ago_s < LATELY_S:
            found += 1
            words = f"{repair.name} was needed {count.count} times, the last {duration(ago_s)} ago: {repair.why}"
            yield warn("repairs", words, "see the log of the fleet, and `forgepool reconcile --list`")
    if not found:
        yield ok("repairs", f"{leads[0]} leads, and nothing breaks often" if leads else "nothing breaks often")


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


def is_reached(tx: Tx) -> bool:
    """Tell whether one of the newest deliveries came with a good signature: the forge can call us."""
    return any(receipt.signed for receipt in tx.list_deliveries(limit=RECENT))


def _takes(row: Instance) -> bool:
    return row.state in (InstanceState.ACTIVE, InstanceState.PAUSED)
