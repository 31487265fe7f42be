"""The disk that checkouts take is bounded, and neither a run nor any work pays for it. Real git."""

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tasks import disk, leftovers, mirror, reconcile, repairs_disk, workdir
from tasks.repair import Found, Scene
from tests.helpers.disk_faults import bound, checkout, git, set_aside
from tests.helpers.disk_faults import mirror as make_mirror
from tests.helpers.yard import HOST, LEASE_S, Yard
from tests.pool import drive

TRIM = "trim-checkouts"
NEW, OLD = "20260101T000000Z", "20251001T000000Z"


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    opened = Yard(tmp_path)
    drive.add(opened.store, "dev-alpha", "dev-bravo")
    yield opened
    opened.close()


def _root(yard: Yard) -> Path:
    return yard.state / "checkouts"


def _taken(yard: Yard) -> int:
    return leftovers.size(_root(yard))


def _spare(yard: Yard, instance: str = "dev-alpha") -> Path:
    (spare,) = (_root(yard) / instance / workdir.DAMAGED).iterdir()
    (path,) = spare.iterdir()
    return path


def _find(yard: Yard) -> tuple[Scene, list[Found]]:
    reconciler = yard.reconciler()
    scene = Scene(yard.engine, reconciler._runs, reconciler._workers, reconciler._leases, is_leader=True)
    return scene, list(repairs_disk.find_excess(scene))


def _run(yard: Yard) -> None:
    """Begin a run on dev-alpha."""
    drive.dispatch(yard.store)
    with yard.store.writing() as tx:
        tx.claim("dev-alpha", lease_s=LEASE_S, host=HOST)
        assert tx.busy_instances() == {"dev-alpha"}


# --- what goes, and in which order ---------------------------------------------------------------


def test_the_longest_unused_checkouts_go_until_the_rest_is_within_the_bound(yard: Yard) -> None:
    old, older, new = (
        checkout(yard, "dev-alpha", "acme/shop", days=3),
        checkout(yard, "dev-bravo", "acme/shop", days=4),
        checkout(yard, "dev-alpha", "acme/tools", days=1),
    )
    bound(yard, _taken(yard) - leftovers.size(older) - 1000)

    done = yard.by_hand(TRIM)

    assert [one.key[1] for one in done.found] == [older, old]
    assert (done.repaired, older.exists(), old.exists(), new.exists()) == (2, False, False, True)
    assert "GiB, last used 20" in done.found[0].what
    assert not list((_root(yard) / leftovers.BIN).iterdir())


@pytest.mark.parametrize("size", [0, 10**15])
def test_without_a_bound_or_within_it_nothing_goes(yard: Yard, size: int) -> None:
    checkout(yard, "dev-alpha", days=100)
    bound(yard, size)

    assert yard.by_hand(TRIM).found == ()


def test_nothing_is_measured_while_the_whole_disk_holds_less_than_the_bound(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout(yard, "dev-alpha", days=100)
    bound(yard, disk.free_disk(yard.state).total)
    measured: list[Path] = []
    monkeypatch.setattr(leftovers, "size", measured.append)

    assert yard.by_hand(TRIM).found == ()
    assert measured == []


def test_it_is_not_made_in_every_round(yard: Yard) -> None:
    (repair,) = reconcile.chosen([TRIM])

    assert repair.every_s >= 600


def test_checkouts_of_an_instance_that_runs_something_stay(yard: Yard) -> None:
    mine = checkout(yard, "dev-alpha", days=100)
    other = checkout(yard, "dev-bravo", days=1)
    _run(yard)
    bound(yard, 1)

    done = yard.by_hand(TRIM)

    assert [one.key[1] for one in done.found] == [other]
    assert mine.exists()
    assert not other.exists()


def test_a_run_that_begins_after_the_look_keeps_its_checkout(yard: Yard) -> None:
    mine = checkout(yard, "dev-alpha", days=100)
    bound(yard, 1)
    scene, found = _find(yard)
    _run(yard)

    assert (len(found), repairs_disk.trim(scene, found)) == (1, 0)
    assert mine.exists()


def test_a_checkout_that_was_used_after_the_look_stays(yard: Yard) -> None:
    mine = checkout(yard, "dev-alpha", days=100)
    bound(yard, 1)
    scene, found = _find(yard)
    os.utime(mine / ".git")

    assert repairs_disk.trim(scene, found) == 0
    assert mine.exists()


@pytest.mark.parametrize("packed", [False, True])
def test_a_checkout_with_work_that_was_set_aside_lately_stays(yard: Yard, *, packed: bool) -> None:
    mine = checkout(yard, "dev-alpha", days=100)
    set_aside(mine, NEW)
    if packed:
        git(mine, "pack-refs", "--all")
    yard.old(mine, days=100)
    bound(yard, 1)

    assert yard.by_hand(TRIM).found == ()
    assert mine.exists()


def test_work_that_was_set_aside_long_ago_holds_nothing_back_unless_it_is_kept_for_ever(
    yard: Yard, tmp_path: Path
) -> None:
    set_aside(checkout(yard, "dev-alpha", days=100), OLD)
    bound(yard, 1)
    assert len(yard.by_hand(TRIM).found) == 1

    (tmp_path / "other").mkdir()
    other = Yard(tmp_path / "other", keep_logs_days=0)
    set_aside(checkout(other, "dev-alpha", days=100), OLD)
    bound(other, 1)
    assert other.by_hand(TRIM).found == ()
    other.close()


def test_a_branch_of_a_person_among_those_set_aside_holds_its_checkout(yard: Yard) -> None:
    mine = checkout(yard, "dev-alpha", days=100)
    git(mine, "update-ref", "refs/heads/forgepool/recovery/mine", "HEAD")
    yard.old(mine, days=100)
    bound(yard, 1)

    assert yard.by_hand(TRIM).found == ()


# --- work that nobody has set aside yet ----------------------------------------------------------


def test_what_a_dead_run_left_is_set_aside_before_its_files_go(yard: Yard) -> None:
    mine = checkout(yard, "dev-alpha", days=100, size=3_000_000)
    (mine / "dirty.txt").write_text("dirty")
    git(mine, "commit", "-q", "--allow-empty", "-m", "Never pushed")
    unpushed = git(mine, "rev-parse", "HEAD")
    yard.old(mine, days=100)
    before = _taken(yard)
    bound(yard, 1)

    assert yard.by_hand(TRIM).repaired == 1

    assert not mine.exists()
    spare = _spare(yard)
    assert [path.name for path in spare.iterdir()] == [".git"]
    (place,) = disk.places(_root(yard))
    (kept,) = place.kept
    assert (place.path, place.is_in_place, place.repo) == (spare, False, "acme-shop")
    assert git(spare, "show", f"{kept.branch}:dirty.txt") == "dirty"
    assert git(spare, "merge-base", kept.branch, unpushed) == unpushed
    assert kept.subject == "Keep what an earlier run left behind"
    assert _taken(yard) < before - 2_000_000


def test_planted_settings_do_nothing_when_a_checkout_is_put_away(yard: Yard, tmp_path: Path) -> None:
    mine = checkout(yard, "dev-alpha", days=100)
    canary, program = tmp_path / "canary", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(0o755)
    with (mine / ".git/config").open("a") as config:
        config.write(f'[core]\n\tfsmonitor = {program}\n[filter "x"]\n\tclean = {program}\n')
    (mine / ".git/info").mkdir(exist_ok=True)
    (mine / ".git/info/attributes").write_text("* filter=x\n")
    (mine / "dirty.txt").write_text("dirty")
    yard.old(mine, days=100)
    bound(yard, 1)

    assert yard.by_hand(TRIM).repaired == 1
    assert not canary.exists()
    assert next(disk.places(_root(yard))).kept


def test_files_of_a_checkout_that_git_cannot_read_are_kept_whole(yard: Yard) -> None:
    mine = checkout(yard, "dev-alpha", days=100)
    (mine / "dirty.txt").write_text("dirty")
    shutil.rmtree(mine / ".git/objects")
    (mine / ".git/objects").mkdir()
    yard.old(mine, days=100)
    bound(yard, 1)

    assert yard.by_hand(TRIM).repaired == 1
    assert (_spare(yard) / "dirty.txt").read_text() == "dirty"


def test_a_locked_folder_and_a_link_are_no_hindrance_and_what_the_link_leads_to_stays(
    yard: Yard, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    mine = checkout(yard, "dev-alpha", days=100)
    (mine / ".gitignore").write_text("big\n.gitignore\nlocked\nlink\n")
    git(mine, "add", "-f", ".gitignore")
    git(mine, "commit", "-q", "-m", "Ignore")
    git(mine, "update-ref", "refs/remotes/origin/main", "HEAD")
    (mine / "locked").mkdir()
    (mine / "locked/file").touch()
    (mine / "link").symlink_to(precious)
    yard.old(mine, days=100)
    (mine / "locked").chmod(0o500)
    bound(yard, 1)

    assert yard.by_hand(TRIM).repaired == 1
    assert (precious / "file").exists()
    assert list(disk.places(_root(yard))) == []


# --- mirrors -------------------------------------------------------------------------------------


def test_a_mirror_goes_after_the_last_checkout_that_borrows_from_it(yard: Yard) -> None:
    lone, shared = make_mirror(yard, "acme/tools", days=50), make_mirror(yard, days=50)
    mine = checkout(yard, "dev-alpha", days=100)
    set_aside(mine, NEW)
    yard.old(mine, days=100)
    bound(yard, 1)

    done = yard.by_hand(TRIM)

    assert [one.key[1] for one in done.found] == [lone]
    assert (lone.exists(), shared.exists()) == (False, True)


def test_a_mirror_and_its_checkouts_go_together_and_the_checkouts_first(yard: Yard) -> None:
    shared, mine = make_mirror(yard, days=200), checkout(yard, "dev-alpha", days=100)
    bound(yard, 1)

    done = yard.by_hand(TRIM)

    assert [one.key[1] for one in done.found] == [mine, shared]
    assert (done.repaired, shared.exists(), mine.exists()) == (2, False, False)


def test_a_mirror_that_somebody_opened_lately_stays(yard: Yard) -> None:
    lately = make_mirror(yard, days=1 / 24)
    bound(yard, 1)
    assert yard.by_hand(TRIM).found == ()

    yard.clock.advance(timedelta(hours=2).total_seconds())
    scene, found = _find(yard)
    os.utime(lately / "config")
    assert (len(found), repairs_disk.trim(scene, found)) == (1, 0)
    assert lately.exists()


def test_a_mirror_that_a_checkout_began_to_borrow_from_after_the_look_stays(yard: Yard) -> None:
    lone = make_mirror(yard, days=50)
    bound(yard, 1)
    scene, found = _find(yard)
    checkout(yard, "dev-alpha", days=0)

    assert (len(found), repairs_disk.trim(scene, found)) == (1, 0)
    assert lone.exists()


def test_repacking_keeps_every_object_also_those_that_no_ref_leads_to(yard: Yard) -> None:
    path = make_mirror(yard)
    loose = git(path, "commit-tree", "-m", "Nobody knows me", "main^{tree}")
    for _ in range(2):
        git(path, "repack", "-a", "-d", "-q", "--keep-unreachable")
        git(path, "commit-tree", "-m", "More", "main^{tree}")

    assert mirror.Mirror.care(path, timeout_s=20).repack(above=0)
    assert git(path, "cat-file", "-t", loose) == "commit"
    assert disk.mirrors(_root(yard))[0].packs == 1


# --- measuring -----------------------------------------------------------------------------------


def test_a_size_counts_each_file_once_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/big").write_bytes(b"x" * 1_000_000)
    inside = tmp_path / "inside"
    (inside / "deep/er").mkdir(parents=True)
    (inside / "deep/er/file").write_bytes(b"x" * 100_000)
    alone = leftovers.size(inside)
    os.link(inside / "deep/er/file", inside / "twin")
    (inside / "link").symlink_to(tmp_path / "outside")
    (inside / "loop").symlink_to(inside)

    assert 100_000 <= alone < 200_000
    assert leftovers.size(inside) < alone + 50_000
    assert leftovers.size(tmp_path / "nowhere") == 0


def test_the_room_on_a_disk_is_told_also_for_what_is_not_there_yet(tmp_path: Path) -> None:
    room = disk.free_disk(tmp_path / "not" / "yet")

    assert 0 < room.free < room.total
    assert room.used < room.total


def test_a_checkout_is_described_without_trusting_what_is_in_it(yard: Yard) -> None:
    mine = checkout(yard, "dev-alpha", days=1)
    name = set_aside(mine, NEW)
    (mine / ".git/config").write_text("[core\n")
    (home,) = disk.places(_root(yard))

    assert (home.instance, home.repo, home.branch) == ("dev-alpha", "acme/shop", "main")
    (kept,) = home.kept
    assert (kept.branch, kept.subject) == (f"forgepool/recovery/{name}", "")
    assert kept.at == disk.stamp_of(name)
    (mine / ".git/HEAD").write_text("x y\nz")
    assert next(disk.places(_root(yard))).branch == ""
