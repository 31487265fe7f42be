"""What a run finds in its checkout, and what becomes of what the run before left there. Real git, real HTTP."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pool.errors import CheckoutError
from tasks import workdir
from tests.helpers.checkouts import REPO, Place
from webapp.standin.forge import StandInForge


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with StandInForge(tmp_path / "forge", secret=b"") as forge:
        yield Place(folder=tmp_path, forge=forge)


# --- where a run starts --------------------------------------------------------------------------


def test_a_first_run_starts_from_the_default_branch_on_a_branch_of_its_own(place: Place) -> None:
    checkout = place.prepare()

    assert checkout.path == place.path
    assert checkout.branch == "dev/7"
    assert checkout.head == place.forge.repos[REPO].git.branches()["main"] == workdir.head(place.path)
    assert checkout.recovered is None
    assert place.git("status", "--porcelain", "--branch").startswith("## ")
    assert place.files() == {"README.md": "# app\n"}


def test_what_the_run_pushes_arrives_under_the_same_name_and_in_the_name_of_its_account(place: Place) -> None:
    place.prepare()
    sha = place.commit("new.txt")
    place.git("push")

    assert place.forge.repos[REPO].git.branches()["dev/7"] == sha
    assert place.git("log", "-1", "--format=%an %ae %cn %ce") == "Dev dev@example.org Dev dev@example.org"


def test_work_goes_on_where_the_forge_has_the_branch_already(place: Place) -> None:
    sha = place.forge.commit(REPO, "dev/7", {"half.txt": "half\n"})

    assert place.prepare().head == sha


def test_a_branch_that_is_gone_from_the_forge_is_begun_anew(place: Place) -> None:
    place.forge.commit(REPO, "dev/7", {"half.txt": "half\n"})
    place.prepare()
    git = place.forge.repos[REPO].git
    git.delete_branch("dev/7")
    place.forge.commit(REPO, "dev/7/more", {"more.txt": "more\n"})

    assert place.prepare().head == git.branches()["main"]


def test_a_base_branch_is_where_new_work_starts(place: Place) -> None:
    sha = place.forge.commit(REPO, "release", {"release.txt": "1\n"})

    assert place.prepare(base="release").head == sha
    assert place.prepare(base="release").branch == "dev/7"


def test_a_pull_request_is_checked_out_exactly_as_the_forge_has_it_also_after_a_forced_push(place: Place) -> None:
    place.forge.commit(REPO, "feature", {"one.txt": "1\n"})
    place.prepare(branch="feature")
    git = place.forge.repos[REPO].git
    git.delete_branch("feature")
    sha = place.forge.commit(REPO, "feature", {"two.txt": "2\n"})

    checkout = place.prepare(branch="feature")

    assert (checkout.branch, checkout.head, checkout.recovered) == ("feature", sha, None)
    assert "one.txt" not in place.files()


def test_a_pull_request_whose_branch_is_gone_is_had_by_its_own_ref(place: Place) -> None:
    sha = place.forge.commit(REPO, "feature", {"one.txt": "1\n"})
    number = place.forge.open_pull(REPO, "dev", "feature", "One")
    place.forge.repos[REPO].git.delete_branch("feature")

    checkout = place.prepare(branch=f"refs/pull/{number}/head")

    assert (checkout.branch, checkout.head) == (f"pull/{number}", sha)


def test_two_instances_do_not_share_a_checkout(place: Place) -> None:
    one, two = place.prepare(), place.prepare(instance="dev-bravo")

    assert one.path != two.path


def test_a_branch_can_be_named_like_the_folder_of_an_older_one(place: Place) -> None:
    place.prepare(new_branch="dev")

    assert place.prepare(new_branch="dev/7").branch == "dev/7"


def test_nothing_of_the_run_before_is_in_the_way_of_the_next(place: Place) -> None:
    place.prepare()
    (place.path / ".gitignore").write_text("build/\n")
    place.git("add", ".gitignore")
    place.git("commit", "-q", "-m", "Ignore")
    place.git("push")
    (place.path / "build").mkdir()
    (place.path / "build/out.o").write_text("binary")
    place.git("init", "-q", "build/nested")
    place.git("update-index", "--skip-worktree", "README.md")
    (place.path / "README.md").write_text("poisoned")

    place.prepare(new_branch="dev/8")

    assert place.files() == {"README.md": "# app\n"}


# --- what a dead run left ------------------------------------------------------------------------


def test_files_that_a_dead_run_changed_added_and_deleted_are_kept_on_a_branch(place: Place) -> None:
    place.forge.commit(REPO, "main", {"old.txt": "old\n"})
    place.prepare()
    (place.path / "README.md").write_text("changed")
    (place.path / "staged.txt").write_text("staged")
    place.git("add", "staged.txt")
    (place.path / "näme with space.txt").write_text("untracked")
    (place.path / "old.txt").unlink()

    checkout = place.prepare()

    expected = {"README.md": "changed", "staged.txt": "staged", "näme with space.txt": "untracked"}
    place.git("config", "core.quotePath", "false")
    assert place.kept(checkout.recovered) == expected
    assert checkout.recovered is not None
    assert checkout.recovered.startswith("forgepool/recovery/2")
    assert place.files() == {"README.md": "# app\n", "old.txt": "old\n"}


def test_only_staged_work_is_kept_too(place: Place) -> None:
    place.prepare()
    (place.path / "README.md").write_text("staged")
    place.git("add", "-A")

    assert place.kept(place.prepare().recovered) == {"README.md": "staged"}


def test_commits_that_were_never_pushed_are_kept_as_they_are(place: Place) -> None:
    place.prepare()
    sha = place.commit("lost.txt")

    recovered = place.prepare().recovered

    assert recovered is not None
    assert place.git("rev-parse", recovered) == sha


def test_commits_on_other_branches_and_beside_any_branch_are_kept_together(place: Place) -> None:
    place.prepare()
    place.git("checkout", "-q", "-b", "side")
    side = place.commit("side.txt")
    place.git("checkout", "-q", "--detach", "origin/main")
    loose = place.commit("loose.txt")
    (place.path / "dirty.txt").write_text("dirty")

    recovered = place.prepare().recovered

    assert recovered is not None
    assert set(place.git("log", "--format=%H", f"origin/main..{recovered}").splitlines()) >= {side, loose}
    assert place.kept(recovered)["dirty.txt"] == "dirty"


def test_commits_that_are_on_no_branch_at_all_are_kept(place: Place) -> None:
    place.prepare()
    place.git("checkout", "-q", "--detach")
    loose = place.commit("loose.txt")

    recovered = place.prepare().recovered

    assert recovered is not None
    assert place.git("rev-parse", recovered) == loose


def test_a_repository_among_the_files_is_no_work_and_does_not_hinder_the_keeping_of_others(place: Place) -> None:
    def nest() -> None:
        place.git("init", "-q", "nested")
        place.git("-C", "nested", "commit", "-q", "--allow-empty", "-m", "Nested")

    place.prepare()
    nest()
    assert place.prepare().recovered is None
    nest()
    (place.path / "new.txt").write_text("work")

    assert place.kept(place.prepare().recovered) == {"README.md": "# app", "new.txt": "work"}


def test_half_a_merge_is_kept_and_not_found_by_the_next_run(place: Place) -> None:
    place.prepare()
    place.commit("README.md", "mine\n")
    place.git("push")
    place.forge.commit(REPO, "main", {"README.md": "theirs\n"})
    place.git("fetch")
    assert "CONFLICT" in place.git("merge", "origin/main", check=False)

    recovered = place.prepare().recovered

    assert "<<<<<<<" in place.kept(recovered)["README.md"]
    assert "All conflicts fixed" not in place.git("status")
    assert not (place.path / ".git/MERGE_HEAD").exists()


def test_work_behind_an_index_that_cannot_be_read_is_kept(place: Place) -> None:
    place.prepare()
    (place.path / "new.txt").write_text("work")
    (place.path / ".git/index").write_bytes(b"DIRC torn")

    assert place.kept(place.prepare().recovered)["new.txt"] == "work"


def test_what_is_hidden_by_a_private_exclude_list_is_kept(place: Place) -> None:
    place.prepare()
    (place.path / ".git/info").mkdir()
    (place.path / ".git/info/exclude").write_text("*\n")
    (place.path / "new.txt").write_text("work")

    assert place.kept(place.prepare().recovered)["new.txt"] == "work"


def test_work_is_set_aside_once_also_when_the_forge_is_away_just_then(place: Place) -> None:
    place.prepare()
    (place.path / "new.txt").write_text("work")
    gone = place.clone_url.replace(REPO, "me/gone")

    with pytest.raises(CheckoutError, match=r"cannot fetch .*; work of an earlier run is kept on forgepool/recovery/"):
        place.prepare(clone_url=gone)

    assert place.prepare().recovered is None
    kept = place.git("for-each-ref", "--format=%(refname:short)", "refs/heads/forgepool").splitlines()
    assert len(kept) == 1
    assert place.kept(kept[0])["new.txt"] == "work"


def test_a_branch_that_was_merged_and_deleted_on_the_forge_is_no_lost_work(place: Place) -> None:
    place.prepare()
    place.commit("done.txt")
    place.git("push")
    number = place.forge.open_pull(REPO, "dev", "dev/7", "Done")
    place.forge.repos[REPO].git.commit("main", {"done.txt": "work\n"}, message=f"Squash (#{number})")
    place.forge.repos[REPO].git.delete_branch("dev/7")

    assert place.prepare(new_branch="dev/8").recovered is None


def test_a_run_that_left_nothing_leaves_no_recovery_branch(place: Place) -> None:
    place.prepare()

    assert place.prepare().recovered is None
    assert place.git("for-each-ref", "refs/heads/forgepool") == ""


def test_files_that_were_never_written_are_not_taken_for_deleted_ones(place: Place) -> None:
    """A worker killed while it wrote the files of a checkout once looked like an agent that deleted them all."""
    place.prepare()
    (place.path / ".git" / workdir._UNREADY).touch()
    (place.path / ".git/index").unlink()
    (place.path / "README.md").unlink()

    checkout = place.prepare()

    assert checkout.recovered is None
    assert place.files() == {"README.md": "# app\n"}
    assert not (place.path / ".git" / workdir._UNREADY).exists()


def test_the_locks_of_a_dead_run_do_not_stop_the_next_one(place: Place) -> None:
    place.prepare()
    for lock in ("index.lock", "HEAD.lock", "packed-refs.lock", "refs/heads/dev/7.lock"):
        (place.path / ".git" / lock).touch()

    assert place.prepare().branch == "dev/7"
    assert not list((place.path / ".git").rglob("*.lock"))


def test_a_clone_that_was_killed_never_counts(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, tools = shutil.which("git"), tmp_path / "tools"
    tools.mkdir()
    script = f'#!/bin/sh\ncase "$*" in *" fetch "*) {real} "$@"; kill -{signal.SIGKILL} $$;; esac\nexec {real} "$@"\n'
    (tools / "git").write_text(script)
    (tools / "git").chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        with pytest.raises(CheckoutError, match="me/app: cannot fetch the branches"):
            place.prepare()

    assert not place.path.exists()
    assert place.prepare().recovered is None
    assert not (place.root / "dev-alpha/.cloning/app").exists()


def test_a_checkout_without_its_git_folder_is_moved_away_and_made_anew(place: Place) -> None:
    place.prepare()
    (place.path / "new.txt").write_text("work")
    shutil.rmtree(place.path / ".git")

    place.prepare()

    assert place.files() == {"README.md": "# app\n"}
    (spare,) = (place.root / "dev-alpha/.damaged").iterdir()
    assert (spare / "app/new.txt").read_text() == "work"


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"branch": "nope"}, {"base": "nope"}])
def test_a_branch_that_the_forge_does_not_have_is_named(place: Place, changes: dict[str, str]) -> None:
    with pytest.raises(CheckoutError, match=r"^me/app: the forge has no branch 'nope'$"):
        place.prepare(**changes)


def test_a_pull_request_that_the_forge_does_not_have_is_named(place: Place) -> None:
    with pytest.raises(CheckoutError, match=r"^me/app: cannot fetch refs/pull/9/head: fatal: couldn't find remote ref"):
        place.prepare(branch="refs/pull/9/head")


@pytest.mark.parametrize(
    "name", ["-x", "--upload-pack=touch x", "a b", "a..b", "a\n", "refs/remotes/origin/main", "HEAD", "x.lock", "@"]
)
@pytest.mark.parametrize("field", ["branch", "new_branch", "base"])
def test_what_is_no_branch_is_refused_before_git_sees_it(place: Place, field: str, name: str) -> None:
    with pytest.raises(CheckoutError, match="cannot be a branch"):
        place.prepare(**{field: name})

    assert not place.root.exists()


@pytest.mark.parametrize(
    "names",
    [
        {"instance": "../dev"},
        {"instance": "/dev"},
        {"instance": ".forgepool"},
        {"repo": "me/.."},
        {"repo": "../app"},
        {"repo": "me/.git"},
        {"repo": "me/app/x"},
        {"repo": "me"},
    ],
)
def test_no_name_leads_out_of_the_root(place: Place, names: dict[str, str]) -> None:
    with pytest.raises(CheckoutError):
        place.prepare(**names)

    assert not place.root.exists()


def test_a_link_in_place_of_a_folder_is_not_followed(place: Place, tmp_path: Path) -> None:
    place.prepare()
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(place.path)
    place.path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(CheckoutError, match="is a link to another place"):
        place.prepare()

    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_commit_of_a_folder_that_is_no_checkout_is_not_that_of_a_repository_around_it(place: Place) -> None:
    place.prepare()
    (place.path / "inside").mkdir()

    with pytest.raises(CheckoutError, match=f"{place.path}/inside: cannot read the commit"):
        workdir.head(place.path / "inside")


# --- what is borrowed ----------------------------------------------------------------------------


def _mirror(place: Place) -> Path:
    return place.root / ".forgepool/mirrors/me/app.git"


def _own_objects(path: Path) -> list[str]:
    return [str(file) for file in (path / ".git/objects").rglob("*") if file.is_file() and file.parent.name != "info"]


def _lose(place: Place) -> None:
    shutil.rmtree(_mirror(place))


def _empty(place: Place) -> None:
    for pack in (_mirror(place) / "objects/pack").iterdir():
        pack.unlink()


def _tear(place: Place) -> None:
    for pack in (_mirror(place) / "objects/pack").glob("*.pack"):
        pack.chmod(0o600)
        pack.write_bytes(pack.read_bytes()[:-30])


def _lose_a_file(place: Place) -> None:
    """Leave all commits and the refs, so that a fetch finds nothing to bring."""
    objects = _mirror(place) / "objects"
    blob = place.git("rev-parse", "HEAD:README.md")
    for pack in list((objects / "pack").glob("*.pack")):
        outside = pack.rename(place.folder / pack.name)
        pack.with_suffix(".idx").unlink()
        with outside.open("rb") as file:
            subprocess.run(["git", "-C", str(_mirror(place)), "unpack-objects", "-q"], stdin=file, check=True)
    (objects / blob[:2] / blob[2:]).unlink()


DAMAGES: tuple[Callable[[Place], None], ...] = (_lose, _empty, _tear, _lose_a_file)


def test_a_second_checkout_holds_no_object_of_its_own(place: Place) -> None:
    one, two = place.prepare(), place.prepare(instance="dev-bravo")

    assert one.head == two.head
    assert _own_objects(one.path) == _own_objects(two.path) == []


def test_what_a_run_commits_stays_in_its_own_checkout(place: Place) -> None:
    place.prepare()
    before = sorted(_mirror(place).rglob("*"))
    place.commit("new.txt")

    assert sorted(_mirror(place).rglob("*")) == before


def test_tags_are_those_of_the_forge_also_when_a_run_moved_one(place: Place) -> None:
    first = place.forge.repos[REPO].git.branches()["main"]
    second = place.forge.commit(REPO, "main", {"new.txt": "1\n"})
    place.prepare()
    place.git("tag", "v1", first)
    place.git("push", "-q", "origin", "v1")
    place.git("tag", "-f", "v1", second)

    place.prepare(instance="dev-bravo")
    place.prepare()

    assert place.git("rev-parse", "v1") == first


def test_a_planted_symbolic_ref_is_overwritten_and_not_followed(place: Place) -> None:
    place.prepare()
    lost = place.commit("lost.txt")
    recovered = place.prepare().recovered
    place.git("symbolic-ref", "refs/remotes/origin/main", f"refs/heads/{recovered}")
    sha = place.forge.commit(REPO, "main", {"new.txt": "1\n"})

    place.prepare()

    assert place.git("rev-parse", str(recovered)) == lost
    assert place.git("rev-parse", "origin/main") == sha


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_mirror_that_is_gone_or_damaged_is_made_anew_and_no_work_is_lost(
    place: Place, damage: Callable[[Place], None]
) -> None:
    place.prepare()
    sha = place.commit("lost.txt")
    (place.path / "dirty.txt").write_text("dirty")
    damage(place)

    checkout = place.prepare()

    assert place.kept(checkout.recovered) == {"README.md": "# app", "lost.txt": "work", "dirty.txt": "dirty"}
    assert place.git("merge-base", str(checkout.recovered), sha) == sha
    assert place.files() == {"README.md": "# app\n"}
    assert place.prepare(instance="dev-bravo").head == checkout.head


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkout_that_was_clean_is_clean_after_its_mirror_was_damaged(
    place: Place, damage: Callable[[Place], None]
) -> None:
    place.prepare()
    damage(place)

    checkout = place.prepare()

    assert checkout.recovered is None
    assert place.git("fsck", "--connectivity-only") == ""


def test_what_was_set_aside_can_be_read_without_the_mirror(place: Place) -> None:
    place.prepare()
    (place.path / "new.txt").write_text("work")
    recovered = place.prepare().recovered
    (place.path / ".git/objects/info/alternates").unlink()

    assert place.kept(recovered) == {"README.md": "# app", "new.txt": "work"}


def test_work_on_a_branch_that_neither_mirror_nor_forge_has_any_more_is_kept_beside_a_fresh_checkout(
    place: Place,
) -> None:
    place.forge.commit(REPO, "feature", {"one.txt": "1\n"})
    place.prepare(branch="feature")
    (place.path / "earlier.txt").write_text("earlier")
    recovered = place.prepare(branch="feature").recovered
    (place.path / "dirty.txt").write_text("dirty")
    place.forge.repos[REPO].git.delete_branch("feature")
    subprocess.run(["git", "-C", str(place.forge.repos[REPO].git.path), "gc", "-q", "--prune=now"], check=True)
    _lose(place)

    checkout = place.prepare()

    assert place.files() == {"README.md": "# app\n"}
    assert checkout.recovered is None
    (spare,) = (place.root / "dev-alpha/.damaged").iterdir()
    assert (spare / "app/dirty.txt").read_text() == "dirty"
    spare.joinpath("app").rename(place.folder / "look")
    shown = subprocess.run(
        ["git", "-C", str(place.folder / "look"), "show", f"{recovered}:earlier.txt"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "earlier"


def test_work_stays_where_it_is_while_neither_the_mirror_nor_the_forge_is_there(place: Place) -> None:
    place.prepare()
    (place.path / "dirty.txt").write_text("dirty")
    _lose(place)
    with pytest.raises(CheckoutError, match="cannot fetch the branches"):
        place.prepare(clone_url=place.clone_url.replace(REPO, "me/gone"))

    recovered = place.prepare().recovered

    assert place.kept(recovered) == {"README.md": "# app", "dirty.txt": "dirty"}


def test_a_checkout_that_lacks_an_object_of_its_own_is_made_anew(place: Place) -> None:
    place.prepare()
    sha = place.commit("lost.txt")
    (place.path / ".git/objects" / sha[:2] / sha[2:]).unlink()

    checkout = place.prepare()

    assert checkout.recovered is None
    assert place.files() == {"README.md": "# app\n"}
    (spare,) = (place.root / "dev-alpha/.damaged").iterdir()
    assert (spare / "app/lost.txt").read_text() == "work\n"
