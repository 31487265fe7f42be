"""What the shared copy of a repository holds, merges and pushes, and that several may use it. Real git, real HTTP."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pool.errors import CheckoutError
from tasks import mirror, turns
from tasks.git import Account
from tasks.mirror import Mirror
from tests.helpers.checkouts import REPO, Place
from tests.helpers.waiting import wait_until
from webapp.standin.forge import StandInForge

AT = datetime(2026, 1, 5, 9, tzinfo=UTC)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with StandInForge(tmp_path / "forge", secret=b"") as forge:
        yield Place(folder=tmp_path, forge=forge)


def _open(place: Place, **changes: Any) -> Mirror:
    usual: dict[str, Any] = {"repo": REPO, "clone_url": place.clone_url, "account": place.account, "timeout_s": 60}
    return Mirror.open(place.root, **{**usual, **changes})


def _push_away(place: Place) -> tuple[str, str]:
    """Let a branch and its base part; return both tips."""
    head = place.forge.commit(REPO, "dev/7", {"feature.txt": "1\n"})
    return head, place.forge.commit(REPO, "main", {"other.txt": "1\n"})


def _tip(place: Place, branch: str) -> str | None:
    return place.forge.repos[REPO].git.branches().get(branch)


# --- fetching and asking -------------------------------------------------------------------------


def test_a_new_mirror_is_empty_and_private_and_knows_after_a_fetch_what_the_forge_has(place: Place) -> None:
    shared = _open(place)
    assert shared.tip("main") is None

    shared.fetch()

    tip = _tip(place, "main")
    assert tip is not None
    assert shared.path == place.root / ".forgepool/mirrors/me/app.git"
    assert (place.root / ".forgepool").stat().st_mode & 0o777 == 0o700
    assert (shared.tip("main"), shared.has(tip), shared.has("1" * 40)) == (tip, True, False)


def test_whoever_has_the_turn_sweeps_up_nothing_that_another_is_writing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that opened the mirror in the moment of another's fetch lost its draft, and its task failed."""
    shared = _open(place)
    fdopen = os.fdopen

    def meanwhile(*words: Any, **more: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdopen", fdopen)
            shared.fetch()
        return fdopen(*words, **more)

    monkeypatch.setattr(os, "fdopen", meanwhile)

    assert _open(place).tip("main") == _tip(place, "main")


def test_a_fetch_by_name_brings_only_that_and_the_heads_of_pull_requests_by_their_own_ref(place: Place) -> None:
    head, _ = _push_away(place)
    number = place.forge.open_pull(REPO, "dev", "dev/7", "One")
    place.forge.repos[REPO].git.delete_branch("dev/7")
    shared = _open(place)

    shared.fetch("main", f"refs/pull/{number}/head")

    assert shared.tip(f"refs/pull/{number}/head") == head
    assert shared.tip("dev/7") is None
    assert shared.tip("main") is not None


def test_a_fetch_of_everything_forgets_what_is_gone_and_prunes_no_object(place: Place) -> None:
    head, _ = _push_away(place)
    shared = _open(place)
    shared.fetch()
    place.forge.repos[REPO].git.delete_branch("dev/7")

    shared.fetch()
    shared.repack()

    assert shared.tip("dev/7") is None
    assert shared.has(head)


def test_a_branch_that_is_gone_is_not_in_the_way_of_one_below_its_name(place: Place) -> None:
    place.forge.commit(REPO, "dev", {"one.txt": "1\n"})
    shared = _open(place)
    shared.fetch()
    place.forge.repos[REPO].git.delete_branch("dev")
    sha = place.forge.commit(REPO, "dev/7", {"two.txt": "2\n"})

    shared.fetch("dev/7")

    assert shared.tip("dev/7") == sha


def test_a_ref_that_the_forge_does_not_have_is_named(place: Place) -> None:
    with pytest.raises(CheckoutError, match=r"^me/app: cannot fetch nope: fatal: couldn't find remote ref"):
        _open(place).fetch("nope")


@pytest.mark.parametrize("ref", ["--upload-pack=touch x", "a:b", "+main", "refs/heads/main", "HEAD", "a b", "*"])
def test_what_is_no_branch_is_refused_before_git_sees_it(place: Place, ref: str) -> None:
    if ref == "+main":  # a name that git allows for a branch, and no force: it is not found
        with pytest.raises(CheckoutError, match="couldn't find remote ref"):
            _open(place).fetch(ref)
        return
    for verb in ("fetch", "tip"):
        with pytest.raises(CheckoutError, match="cannot be a branch"):
            getattr(_open(place), verb)(ref)


@pytest.mark.parametrize("repo", ["../x/y", "me/..", "me", "me/app/x"])
def test_no_name_leads_out_of_the_folder(place: Place, repo: str) -> None:
    with pytest.raises(CheckoutError):
        _open(place, repo=repo)


def test_ancestry_is_that_of_the_commits(place: Place) -> None:
    first = _tip(place, "main")
    head, base = _push_away(place)
    shared = _open(place)
    shared.fetch()

    assert first is not None
    assert shared.is_ancestor(first, head)
    assert shared.is_ancestor(head, head)
    assert not shared.is_ancestor(base, head)
    with pytest.raises(CheckoutError, match="not a"):
        shared.is_ancestor("1" * 40, head)


def test_a_file_is_read_by_branch_or_commit_and_folders_links_and_absent_ones_are_none(place: Place) -> None:
    sha = place.forge.commit(REPO, "main", {".forgepool/prompts/review.j2": "näme\n", "*.txt": "star\n"})
    shared = _open(place)
    shared.fetch()

    assert shared.read("main", ".forgepool/prompts/review.j2") == "näme\n"
    assert shared.read(sha, "README.md") == "# app\n"
    assert shared.read("main", "*.txt") == "star\n"
    assert shared.read("main", "*.md") is None
    assert shared.read("main", ".forgepool") is None
    assert shared.read("nope", "README.md") is None


def test_a_link_in_the_repository_is_no_file(place: Place) -> None:
    place.prepare(new_branch="links")
    (place.path / "link").symlink_to("/etc/passwd")
    place.git("add", "link")
    place.git("commit", "-q", "-m", "Link")
    place.git("push")
    shared = _open(place)
    shared.fetch()

    assert shared.read("links", "link") is None


def test_a_file_that_is_too_large_is_refused_and_not_cut(place: Place) -> None:
    place.forge.commit(REPO, "main", {"big": "x" * (mirror.READ_BYTES + 1), "fits": "x" * mirror.READ_BYTES})
    shared = _open(place)
    shared.fetch()

    with pytest.raises(CheckoutError, match="big is larger than 256 kB"):
        shared.read("main", "big")
    assert shared.read("main", "fits") == "x" * mirror.READ_BYTES


# --- merging and pushing -------------------------------------------------------------------------


def test_a_merge_commit_is_the_same_for_the_same_arguments_and_takes_in_both_sides(place: Place) -> None:
    head, base = _push_away(place)
    shared = _open(place)
    shared.fetch()

    made = [shared.merge_commit(head=head, base=base, message="Take in main\n\nWhy.", at=AT) for _ in range(2)]
    again = _open(place).merge_commit(head=head, base=base, message="Take in main\n\nWhy.", at=AT)

    assert {*made, again} == {made[0]}
    assert made[0] != shared.merge_commit(head=head, base=base, message="Another", at=AT)
    assert shared.tree(made[0]) == shared.merge_tree(head, base)
    assert shared.is_ancestor(head, made[0])
    assert shared.is_ancestor(base, made[0])
    shown = shared.git("show", "-s", "--format=%P %an <%ae> %at %ct %s", made[0], to="test").strip()
    assert shown == f"{head} {base} Dev <dev@example.org> {int(AT.timestamp())} {int(AT.timestamp())} Take in main"
    assert shared.read(made[0], "feature.txt") == shared.read(made[0], "other.txt") == "1\n"


def test_sides_that_conflict_have_no_tree_and_no_commit(place: Place) -> None:
    head = place.forge.commit(REPO, "dev/7", {"README.md": "mine\n"})
    base = place.forge.commit(REPO, "main", {"README.md": "theirs\n"})
    shared = _open(place)
    shared.fetch()

    assert shared.merge_tree(head, base) is None
    with pytest.raises(CheckoutError, match=r"^me/app: \w{10} cannot be merged into \w{10}: they conflict$"):
        shared.merge_commit(head=head, base=base, message="x", at=AT)


def test_a_push_moves_the_branch_from_exactly_where_it_was_expected(place: Place) -> None:
    head, base = _push_away(place)
    shared = _open(place)
    shared.fetch()
    sha = shared.merge_commit(head=head, base=base, message="x", at=AT)

    assert shared.push(sha, "dev/7", expect=head)
    assert _tip(place, "dev/7") == sha
    assert shared.push(sha, "dev/7", expect=head), "an answer that was lost"


def test_a_push_to_a_branch_that_moved_or_went_changes_nothing_and_says_so(place: Place) -> None:
    head, base = _push_away(place)
    shared = _open(place)
    shared.fetch()
    sha = shared.merge_commit(head=head, base=base, message="x", at=AT)
    moved = place.forge.commit(REPO, "dev/7", {"more.txt": "2\n"})

    assert not shared.push(sha, "dev/7", expect=head)
    assert _tip(place, "dev/7") == moved
    place.forge.repos[REPO].git.delete_branch("dev/7")
    assert not shared.push(sha, "dev/7", expect=head)
    assert _tip(place, "dev/7") is None


def test_a_push_that_the_forge_refuses_for_another_reason_is_an_error(place: Place) -> None:
    head, base = _push_away(place)
    shared = _open(place, clone_url=place.forge.repos[REPO].git.path.as_uri())
    shared.fetch()
    sha = shared.merge_commit(head=head, base=base, message="x", at=AT)
    hook = place.forge.repos[REPO].git.path / "hooks/update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho protected >&2\nexit 1\n")
    hook.chmod(0o755)

    with pytest.raises(CheckoutError, match="cannot push to 'dev/7'"):
        shared.push(sha, "dev/7", expect=head)
    assert _tip(place, "dev/7") == head


@pytest.mark.parametrize("sha", ["main", "--delete", "", "1234567", "HEAD"])
def test_only_whole_commit_ids_are_pushed_or_merged(place: Place, sha: str) -> None:
    shared = _open(place)

    with pytest.raises(CheckoutError, match="is no commit id"):
        shared.push(sha, "main", expect="1" * 40)
    with pytest.raises(CheckoutError, match="is no commit id"):
        shared.merge_tree("1" * 40, sha)


def test_a_pull_requests_own_ref_is_never_pushed_to(place: Place) -> None:
    with pytest.raises(CheckoutError, match="is no branch"):
        _open(place).push("1" * 40, "refs/pull/7/head", expect="2" * 40)


# --- what was planted, and what was lost ---------------------------------------------------------


def test_settings_hooks_grafts_and_borrowed_objects_that_were_planted_are_gone(place: Place, tmp_path: Path) -> None:
    shared = _open(place)
    shared.fetch()
    canary, program = tmp_path / "canary", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(0o755)
    (shared.path / "hooks").mkdir()
    for hook in ("reference-transaction", "post-fetch", "pre-push"):
        (shared.path / "hooks" / hook).symlink_to(program)
    (shared.path / "config").write_text(
        f'[core]\n\tbare = true\n\tsshCommand = {program}\n[url "ext::{program} "]\n\tinsteadOf = http://\n'
    )
    for name in ("commondir", "config.worktree", "shallow", "objects/info/alternates", "info/grafts"):
        (shared.path / name).parent.mkdir(exist_ok=True)
        (shared.path / name).write_text("../elsewhere\n")
    (shared.path / "packed-refs.lock").touch()
    (shared.path / "refs/heads/main.lock").touch()
    sha = place.forge.commit(REPO, "main", {"new.txt": "1\n"})

    again = _open(place)
    again.fetch()

    assert again.tip("main") == sha
    assert not canary.exists()
    assert {path.name for path in again.path.iterdir()} == {"HEAD", "config", "objects", "refs"}
    assert not (again.objects / "info").exists()


def test_a_commit_that_was_replaced_in_place_is_read_as_it_is(place: Place) -> None:
    head, base = _push_away(place)
    shared = _open(place)
    shared.fetch()
    (shared.path / "refs/replace").mkdir()
    (shared.path / "refs/replace" / head).write_text(base + "\n")

    assert shared.read(head, "feature.txt") == "1\n"


def test_a_link_in_place_of_the_mirror_is_not_followed(place: Place, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = mirror.place(place.root, REPO)
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(CheckoutError, match="is a link to another place"):
        _open(place)
    assert not list((tmp_path / "elsewhere").iterdir())


def _lose_packs(shared: Mirror) -> None:
    for pack in (shared.objects / "pack").iterdir():
        pack.unlink()


def _tear_packs(shared: Mirror) -> None:
    for pack in (shared.objects / "pack").glob("*.pack"):
        data = pack.read_bytes()
        pack.chmod(0o600)
        pack.write_bytes(data[:-30])


@pytest.mark.parametrize("damage", [_lose_packs, _tear_packs])
def test_a_mirror_that_lost_objects_is_made_anew_and_the_old_one_kept(place: Place, damage: Any) -> None:
    shared = _open(place)
    head, _ = _push_away(place)
    number = place.forge.open_pull(REPO, "dev", "dev/7", "One")
    shared.fetch_all(f"refs/pull/{number}/head")
    damage(shared)

    assert _open(place).mend()

    assert not _open(place).mend(), "it is sound now"
    assert (shared.tip(f"refs/pull/{number}/head"), shared.tip("dev/7")) == (head, head)
    assert shared.read(head, "feature.txt") == "1\n"
    (spare,) = (place.root / ".forgepool/mirrors/.damaged").iterdir()
    assert (spare / "app.git/objects").is_dir()


def test_a_sound_mirror_is_left_as_it_is(place: Place) -> None:
    shared = _open(place)
    shared.fetch()
    before = shared.path.stat().st_ino

    assert not shared.mend()
    assert shared.path.stat().st_ino == before


# --- several at once -----------------------------------------------------------------------------

_HOLDER = """
import sys, time
from pathlib import Path
from tasks.turns import turn
with turn(Path(sys.argv[1]), deadline=time.monotonic() + 60, is_unwanted=lambda: False, what="test"):
    print("in", flush=True)
    sys.stdin.readline()
    with open(sys.argv[2], "a") as log:
        log.write(sys.argv[3])
"""


def _holder(folder: Path, log: Path, name: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(folder), str(log), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _tickets(folder: Path) -> int:
    return len([path for path in folder.glob("*") if path.name.isdigit()])


def test_processes_have_their_turn_in_the_order_of_asking(tmp_path: Path) -> None:
    folder, log = tmp_path / "turns", tmp_path / "log"
    started = []
    for i, name in enumerate("abc"):
        started.append(_holder(folder, log, name))
        wait_until(lambda wanted=i + 1: _tickets(folder) == wanted, timeout_s=20)  # type: ignore[misc] # mypy and default arguments of lambdas

    for process in reversed(started):
        process.stdin.write("\n")  # type: ignore[union-attr] # it is a pipe
        process.stdin.flush()  # type: ignore[union-attr] # it is a pipe
    for process in started:
        process.communicate(timeout=20)

    assert log.read_text() == "abc"
    assert _tickets(folder) == 0


def test_nobody_waits_for_a_process_that_was_killed_in_its_turn(tmp_path: Path) -> None:
    holder = _holder(tmp_path / "turns", tmp_path / "log", "a")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()

    with turns.turn(tmp_path / "turns", deadline=time.monotonic() + 5, is_unwanted=lambda: False, what="x"):
        assert _tickets(tmp_path / "turns") == 1


def test_a_wait_for_ones_turn_ends_with_its_time_and_when_nobody_wants_it(place: Place) -> None:
    shared = _open(place)
    holder = _holder(place.root / ".forgepool/mirrors/.turns/me/app", place.folder / "log", "a")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"

    with pytest.raises(CheckoutError, match=r"^me/app: others used the shared objects for too long$"):
        _open(place, timeout_s=0.2).fetch()
    with pytest.raises(CheckoutError, match=r"^me/app: the wait for others was stopped on request$"):
        _open(place, is_unwanted=lambda: True).fetch()
    assert shared.tip("main") is None
    holder.communicate("\n", timeout=20)
    shared.fetch()
    assert shared.tip("main") is not None


def test_a_pipe_or_a_link_in_place_of_the_lock_neither_stops_nor_misleads(tmp_path: Path) -> None:
    folder, victim = tmp_path / "turns", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("keep")
    (folder / "000000000001").symlink_to(victim)
    os.mkfifo(folder / "door")

    for _ in range(2):
        with turns.turn(folder, deadline=time.monotonic() + 5, is_unwanted=lambda: False, what="x"):
            pass

    assert victim.read_text() == "keep"


def test_accounts_share_one_mirror_and_each_fetches_with_its_own_right(place: Place, tmp_path: Path) -> None:
    _open(place).fetch()
    (tmp_path / "wrong").write_text("hunter2")
    stranger = Account(login="eve", token_file=tmp_path / "wrong", git_name="E", git_email="e@example.org")

    with pytest.raises(CheckoutError, match="Authentication failed"):
        _open(place, account=stranger).fetch()
