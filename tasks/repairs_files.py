"""Repairs of files on this host: what runs left behind and nobody will use again. The care is in `leftovers`."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pool.store import Tx
from tasks import leftovers
from tasks.repair import MOST, Found, Repair, Scene, Who

OLD_S = 600.0
#: Ids in one question to the database.
CHUNK = 500
#: Drafts of files that are written in one step live for milliseconds.
DRAFT_DAYS = 1.0


def _cutoff(scene: Scene, tx: Tx) -> float:
    """Return the time, in seconds since the epoch, before which a file is old; minus infinity keeps everything."""
    days = scene.engine.settings.service.keep_logs_days
    return tx.before(days).timestamp() if days else float("-inf")


# --- checkouts -----------------------------------------------------------------------------------


def find_old_checkouts(scene: Scene) -> list[Found]:
    """Find the checkouts of instances that are gone."""
    with scene.engine.store.reading() as tx:
        live, cutoff = tx.live_instances(), _cutoff(scene, tx)
    homes = leftovers.of_instances(_checkouts(scene))
    return [Found(str(home), home) for home in homes if home.name not in live and leftovers.touched_at(home) < cutoff]


def remove_old_checkouts(scene: Scene, found: Sequence[Found]) -> int:
    """Move each away while nobody can add an instance of that name, then delete it."""
    done = 0
    for one in found:
        with scene.engine.store.writing() as tx:
            if one.key.name not in tx.live_instances():
                done += leftovers.throw_away(_checkouts(scene), one.key)
    leftovers.empty_bin(_checkouts(scene))
    return done


def _checkouts(scene: Scene) -> Path:
    return scene.engine.settings.state_dir / "checkouts"


# --- what is kept by task ------------------------------------------------------------------------


def find_old_run_files(scene: Scene) -> list[Found]:
    """Find logs, prompts and results of tasks that ended long ago, or are not there any more."""
    state = scene.engine.settings.state_dir
    with scene.engine.store.reading() as tx:
        cutoff = _cutoff(scene, tx)
    runs = ((path.name, path) for path in leftovers.folders(state / "runs"))
    logs = ((path.stem, path) for path in leftovers.files(state / "logs" / "tasks") if path.suffix == ".log")
    old = [
        (int(name), path)
        for name, path in (*runs, *logs)
        if name.isascii() and name.isdigit() and leftovers.touched_at(path) < cutoff
    ]
    return [Found(str(path), path) for path in _of_ended(scene, sorted(old), cutoff)][:MOST]


def _of_ended(scene: Scene, old: Sequence[tuple[int, Path]], cutoff: float) -> Iterator[Path]:
    """Keep what no live task needs, nor one that ended lately."""
    for start in range(0, len(old), CHUNK):
        chunk = old[start : start + CHUNK]
        with scene.engine.store.reading() as tx:
            standings = tx.standings({task for task, _ in chunk})
        for task, path in chunk:
            standing = standings.get(task)
            ended = standing.finished_at if standing and standing.state.is_final else None
            if standing is None or (ended is not None and ended.timestamp() < cutoff):
                yield path


def remove_files(scene: Scene, found: Sequence[Found]) -> int:
    """Delete what was found."""
    del scene
    return sum(leftovers.remove(one.key) for one in found)


# --- the rest ------------------------------------------------------------------------------------


def find_scraps(scene: Scene) -> list[Found]:
    """Find what killed processes left half-done, damaged checkouts that were kept, and logs of gone workers."""
    state, checkouts = scene.engine.settings.state_dir, _checkouts(scene)
    with scene.engine.store.reading() as tx:
        live, busy, cutoff = tx.live_instances(), tx.busy_instances(), _cutoff(scene, tx)
        drafts_cutoff = tx.before(DRAFT_DAYS).timestamp()
    kept: list[Path] = []
    for home in leftovers.of_instances(checkouts):
        if home.name not in busy:
            kept += leftovers.folders(home / ".damaged") + leftovers.folders(home / ".cloning")
    kept += [path for path in leftovers.files(state / "logs" / "workers") if _instance_of(path) not in live]
    drafts = [path for path in leftovers.files(checkouts / ".forgepool") if path.name.startswith("tmp")]
    drafts += [path for path in leftovers.files(state / "secrets") if path.name[0] == "." and path.suffix[1:].isdigit()]
    drafts += leftovers.folders(checkouts / leftovers.BIN)
    return [*_older(kept, cutoff), *_older(drafts, drafts_cutoff)][:MOST]


def _instance_of(log: Path) -> str:
    return log.name.split(".")[0]


def _older(paths: Iterable[Path], cutoff: float) -> list[Found]:
    return [Found(str(path), path) for path in paths if leftovers.touched_at(path) < cutoff]


def find_old_recovery(scene: Scene) -> list[Found]:
    """Find branches on which the work of dead runs was set aside long ago."""
    with scene.engine.store.reading() as tx:
        busy, cutoff = tx.busy_instances(), _cutoff(scene, tx)
    homes = [home for home in leftovers.of_instances(_checkouts(scene)) if home.name not in busy]
    return [
        Found(f"{checkout} {', '.join(names)}", (home.name, checkout, names))
        for home in homes
        for checkout in leftovers.checkouts(home)
        if (names := leftovers.old_recovery(checkout, before=_stamp(cutoff)))
    ][:MOST]


def drop_old_recovery(scene: Scene, found: Sequence[Found]) -> int:
    """Delete them, each while its instance cannot begin a run."""
    done = 0
    for one in found:
        instance, checkout, names = one.key
        with scene.engine.store.writing() as tx:
            still = leftovers.old_recovery(checkout, before=_stamp(_cutoff(scene, tx)))
            going = [name for name in names if name in still]
            if going and instance not in tx.busy_instances():
                leftovers.drop_recovery(checkout, going)
                done += len(going)
    return done


def _stamp(cutoff: float) -> str:
    """Return a time as the names of recovery branches begin."""
    return "" if cutoff == float("-inf") else f"{datetime.fromtimestamp(cutoff, UTC):%Y%m%dT%H%M%SZ}"


REPAIRS = (
    Repair(
        name="remove-old-checkouts",
        why="an instance is gone, and its checkouts were not touched for keep_logs_days",
        find=find_old_checkouts,
        act=remove_old_checkouts,
        who=Who.HOST,
        every_s=OLD_S,
        is_routine=True,
    ),
    Repair(
        name="remove-old-run-files",
        why="a log or prompt is of a task that ended more than keep_logs_days ago, or is not there any more",
        find=find_old_run_files,
        act=remove_files,
        who=Who.HOST,
        every_s=OLD_S,
        is_routine=True,
    ),
    Repair(
        name="remove-scraps",
        why="a killed process left files half-done, or what was kept of it is older than keep_logs_days",
        find=find_scraps,
        act=remove_files,
        who=Who.HOST,
        every_s=OLD_S,
        is_routine=True,
    ),
    Repair(
        name="drop-old-recovery",
        why="work of a dead run was set aside more than keep_logs_days ago",
        find=find_old_recovery,
        act=drop_old_recovery,
        who=Who.HOST,
        every_s=OLD_S,
        is_routine=True,
    ),
)
