"""Repairs that bound the disk that checkouts take. No run is disturbed and no work is lost by them.

A checkout is moved away while its instance cannot begin a run; only then is it looked through, and what a dead run left
there is set aside before its files go.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from pool.errors import CheckoutError
from pool.store import Tx
from tasks import disk, leftovers, workdir
from tasks.mirror import Mirror
from tasks.repair import Found, Repair, Scene, Who

log = structlog.get_logger(__name__)

TRIM_S = 1800.0
REPACK_S = 86400.0
#: A mirror that somebody opened lately may be in use by a run that is being made ready.
MIRROR_IDLE_S = 7200.0
MANY_PACKS = 50
#: A reconciler has other things to do; a mirror that takes longer keeps its many packs.
CARE_S = 20.0
GIB = 1024**3


# --- trim ----------------------------------------------------------------------------------------


def find_excess(scene: Scene) -> list[Found]:
    """Find what has to go, the longest unused first, until the rest is within the bound."""
    root, bound = _root(scene), scene.engine.settings.service.checkouts_bytes
    # Asked first, as it costs nothing: what the whole disk does not hold, the checkouts do not take.
    if not bound or not root.is_dir() or disk.free_disk(root).used <= bound:
        return []
    excess = leftovers.size(root) - bound
    found: list[Found] = []
    for one, size in _removable(scene, root):
        if excess <= 0:
            break
        excess -= size
        found.append(one)
    return found


def _removable(scene: Scene, root: Path) -> Iterator[tuple[Found, int]]:
    with scene.engine.store.reading() as tx:
        busy, before = tx.busy_instances(), _before(scene, tx)
    homes = [home for home in leftovers.of_instances(root) if home.name not in busy]
    idle = [
        (leftovers.used_at(checkout), home.name, checkout)
        for home in homes
        for checkout in leftovers.checkouts(home)
        if not leftovers.young_recovery(checkout, before=before)
    ]
    for used_at, instance, checkout in sorted(idle):
        size = leftovers.size(checkout)
        yield Found(_told(checkout, size, used_at), (instance, checkout, used_at)), size
    going = {checkout for _, _, checkout in idle}
    borrowed = {
        f"{checkout.parent.name}/{checkout.name}"
        for home in leftovers.of_instances(root)
        for checkout in leftovers.checkouts(home)
        if checkout not in going
    }
    now = scene.engine.store.clock().timestamp()
    for mirror in disk.mirrors(root):
        if mirror.repo not in borrowed and mirror.used_at < now - MIRROR_IDLE_S:
            size = leftovers.size(mirror.path)
            yield Found(_told(mirror.path, size, mirror.used_at), (None, mirror.path, mirror.used_at)), size


def trim(scene: Scene, found: Sequence[Found]) -> int:
    """Remove what was found, as far as nobody has used it since."""
    root, done, before = _root(scene), 0, disk.free_disk(_root(scene)).free
    for one in found:
        instance, path, used_at = one.key
        if instance is None:
            done += _remove_mirror(root, path, used_at)
        else:
            done += _remove_checkout(scene, root, instance, path, used_at)
    leftovers.empty_bin(root)
    freed = max(0, disk.free_disk(root).free - before)
    log.warning("checkouts trimmed", removed=done, freed=f"{freed / GIB:.2f} GiB")
    return done


def _remove_checkout(scene: Scene, root: Path, instance: str, checkout: Path, used_at: float) -> int:
    with scene.engine.store.writing() as tx:
        is_free = instance not in tx.busy_instances() and leftovers.used_at(checkout) == used_at
        if not is_free or leftovers.young_recovery(checkout, before=_before(scene, tx)):
            return 0
        try:
            spare = workdir.move_away(root, checkout)
        except FileNotFoundError:
            return 0
    # From here on nobody else has it.
    repo = f"{checkout.parent.name}/{checkout.name}"
    try:
        kept = workdir.strip(root, repo, spare)
    except CheckoutError as error:
        log.warning("checkout removed, its files kept", checkout=str(checkout), kept_at=str(spare), why=str(error))
        return 1
    if kept is not None:
        log.warning("checkout removed, its work kept", checkout=str(checkout), kept_at=str(spare), branch=kept)
        return 1
    leftovers.throw_away(root, spare.parent)
    log.info("checkout removed", checkout=str(checkout))
    return 1


def _remove_mirror(root: Path, path: Path, used_at: float) -> int:
    """Move a mirror away in one's turn, if no checkout borrows from it and nobody opened it since."""
    owner, name = path.parent.name, path.name.removesuffix(".git")
    if any((home / owner / name).exists() for home in leftovers.of_instances(root)):
        return 0
    if not any(one.path == path and one.used_at == used_at for one in disk.mirrors(root)):
        return 0
    try:
        return int(Mirror.care(path, timeout_s=CARE_S).take_away(leftovers.place_in_bin(root, path.name)))
    except CheckoutError as error:
        log.warning("mirror not removed", mirror=str(path), why=str(error))
        return 0


def _told(path: Path, size: int, used_at: float) -> str:
    return f"{path} ({size / GIB:.2f} GiB, last used {datetime.fromtimestamp(used_at, UTC):%Y-%m-%d %H:%M} UTC)"


def _before(scene: Scene, tx: Tx) -> str:
    """Return the time, as recovery branches are named, before which they are old; "": none ever is."""
    days = scene.engine.settings.service.keep_logs_days
    return f"{tx.before(days):%Y%m%dT%H%M%SZ}" if days else ""


def _root(scene: Scene) -> Path:
    return scene.engine.settings.state_dir / "checkouts"


# --- mirrors -------------------------------------------------------------------------------------


def find_many_packs(scene: Scene) -> list[Found]:
    """Find mirrors that consist of so many packs that git gets slow."""
    return [Found(str(one.path), one.path) for one in disk.mirrors(_root(scene)) if one.packs > MANY_PACKS]


def repack(scene: Scene, found: Sequence[Found]) -> int:
    """Make one pack of many; nothing is pruned."""
    del scene
    done = 0
    for one in found:
        try:
            done += Mirror.care(one.key, timeout_s=CARE_S).repack(above=MANY_PACKS)
        except CheckoutError as error:
            log.warning("mirror not repacked", mirror=str(one.key), why=str(error))
    return done


def find_damaged_mirrors(scene: Scene) -> list[Found]:
    """Find damaged mirrors that were kept for long."""
    with scene.engine.store.reading() as tx:
        days = scene.engine.settings.service.keep_logs_days
        cutoff = tx.before(days).timestamp() if days else float("-inf")
    old = [path for path in disk.damaged_mirrors(_root(scene)) if leftovers.touched_at(path) < cutoff]
    return [Found(str(path), path) for path in old]


def remove_damaged_mirrors(scene: Scene, found: Sequence[Found]) -> int:
    """Delete them."""
    root = _root(scene)
    done = sum(leftovers.throw_away(root, one.key) for one in found)
    leftovers.empty_bin(root)
    return done


REPAIRS = (
    Repair(
        name="trim-checkouts",
        why="checkouts take more than service.checkouts_bytes, and these were not used for longest",
        find=find_excess,
        act=trim,
        who=Who.HOST,
        every_s=TRIM_S,
        is_routine=True,
    ),
    Repair(
        name="repack-mirrors",
        why=f"the shared objects of a repository are in more than {MANY_PACKS} packs",
        find=find_many_packs,
        act=repack,
        who=Who.HOST,
        every_s=REPACK_S,
        is_routine=True,
    ),
    Repair(
        name="remove-damaged-mirrors",
        why="shared objects that were damaged and made anew are older than keep_logs_days",
        find=find_damaged_mirrors,
        act=remove_damaged_mirrors,
        who=Who.HOST,
        every_s=REPACK_S,
        is_routine=True,
    ),
)
