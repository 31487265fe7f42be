"""What a run may have planted in its checkout does nothing when the next one is made ready. Real git, real HTTP."""

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.errors import CheckoutError
from tasks import workdir
from tasks.git import Git
from tests.helpers.checkouts import REPO, Place
from webapp.standin.forge import StandInForge


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with StandInForge(tmp_path / "forge", secret=b"") as forge:
        yield Place(folder=tmp_path, forge=forge)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Name a file that a planted program would make."""
    return tmp_path / "canary"


@pytest.fixture
def program(tmp_path: Path, canary: Path) -> Path:
    """Write a program that an agent might have left for us to start."""
    program = tmp_path / "planted"
    program.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(canary))}\nexit 1\n")
    program.chmod(0o755)
    return program


def _our_git(place: Place) -> Git:
    """Git as `prepare` has it, for a look at this one layer: without the folder having been put in order before."""
    return Git.acting_as(
        place.account, root=place.root, path=place.path, repo=REPO, clone_url=place.clone_url, timeout_s=60
    )


PLANTED = {
    "fsmonitor": "[core]\n\tfsmonitor = {program}\n",
    "hooks elsewhere": "[core]\n\thooksPath = {hooks}\n",
    "filter": '[filter "x"]\n\tsmudge = {program}\n\tclean = {program}\n\trequired = true\n',
    "ssh": '[core]\n\tsshCommand = {program}\n[url "ssh://git@127.0.0.1/"]\n\tinsteadOf = http://\n',
    "other address": '[protocol "ext"]\n\tallow = always\n[url "ext::{program} "]\n\tinsteadOf = http://\n',
    "alias": '[alias]\n\tfetch = "!{program}"\n\tclean = "!{program}"\n',
    "credential helper": '[credential]\n\thelper = "!{program}"\n',
    "askpass": "[core]\n\taskPass = {program}\n",
    "upload pack": '[remote "origin"]\n\tuploadpack = {program}\n\tvcs = ext\n',
    "include": "[include]\n\tpath = {hooks}/included\n",
    "proxy": "[http]\n\tproxy = http://127.0.0.1:9\n",
    "worktree": "[core]\n\tworktree = {hooks}\n",
    "bare": "[core]\n\tbare = true\n",
    "extension": "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tworktreeConfig = true\n\tunknownOne = 1\n",
    "torn": "[core\n",
}


def _plant(place: Place, program: Path, text: str) -> None:
    hooks = place.folder / "hooks"
    for folder in (hooks, place.path / ".git/hooks"):
        folder.mkdir(exist_ok=True)
        for name in ("post-checkout", "reference-transaction", "post-index-change", "pre-push", "post-merge"):
            shutil.copy(program, folder / name)
    (hooks / "included").write_text(f"[core]\n\tfsmonitor = {program}\n")
    (place.path / ".git/info").mkdir(exist_ok=True)
    (place.path / ".git/info/attributes").write_text("* filter=x\n")
    text = text.format(program=program, hooks=hooks)
    (place.path / ".git/config.worktree").write_text(f"[core]\n\tfsmonitor = {program}\n")
    with (place.path / ".git/config").open("a") as config:
        config.write(text)


@pytest.mark.parametrize("what", PLANTED)
def test_settings_that_an_agent_planted_do_nothing_and_are_gone(
    place: Place, canary: Path, program: Path, what: str
) -> None:
    place.prepare()
    good = (place.path / ".git/config").read_text()
    (place.path / "README.md").write_text("dirty, so that every step is taken\n")
    _plant(place, program, PLANTED[what])
    sha = place.forge.commit(REPO, "main", {"new.txt": "new\n"})

    checkout = place.prepare()

    assert not canary.exists()
    assert checkout.head == sha
    assert checkout.recovered is not None
    assert place.files() == {"README.md": "# app\n", "new.txt": "new\n"}
    assert (place.path / ".git/config").read_text() == good
    assert not list((place.path / ".git/hooks").iterdir())
    assert not (place.path / ".git/info").exists()
    assert not (place.path / ".git/config.worktree").exists()


def test_a_git_folder_that_leads_elsewhere_is_not_followed(place: Place, canary: Path, program: Path) -> None:
    place.prepare()
    other = place.folder / "elsewhere"
    shutil.copytree(place.path / ".git", other)
    (other / "config").write_text(f"[core]\n\tfsmonitor = {program}\n\trepositoryformatversion = 0\n")
    before = (other / "config").read_text()

    for lead in ("commondir", "link", "file"):
        match lead:
            case "commondir":
                (place.path / ".git/commondir").write_text(f"{other}\n")
            case "link":
                shutil.rmtree(place.path / ".git")
                (place.path / ".git").symlink_to(other)
            case _:
                shutil.rmtree(place.path / ".git")
                (place.path / ".git").write_text(f"gitdir: {other}\n")
        place.prepare()

        assert (place.path / ".git").is_dir(), lead
        assert not (place.path / ".git").is_symlink(), lead
        assert (other / "config").read_text() == before, lead
    assert not canary.exists()


def test_links_inside_the_git_folder_are_cut(place: Place, tmp_path: Path) -> None:
    place.prepare()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("keep")
    shutil.rmtree(place.path / ".git/hooks")
    (place.path / ".git/hooks").symlink_to(outside)
    (place.path / ".git/config").unlink()
    (place.path / ".git/config").symlink_to(outside / "victim")
    shutil.rmtree(place.path / ".git/logs")
    (place.path / ".git/logs").symlink_to(outside)

    place.prepare()

    assert (outside / "victim").read_text() == "keep"
    assert [file.name for file in outside.iterdir()] == ["victim"]


def test_a_nested_repository_cannot_start_a_program(place: Place, canary: Path, program: Path) -> None:
    place.prepare()
    place.git("init", "-q", "nested")
    place.git("-C", "nested", "commit", "-q", "--allow-empty", "-m", "x")
    place.git("update-index", "--add", "--cacheinfo", f"160000,{place.git('-C', 'nested', 'rev-parse', 'HEAD')},nested")
    (place.path / "nested/file.txt").write_text("x")
    with (place.path / "nested/.git/config").open("a") as config:
        config.write(f'[core]\n\tfsmonitor = {program}\n[filter "x"]\n\tclean = {program}\n')
    (place.path / "nested/.git/info/attributes").write_text("* filter=x\n")
    (place.path / "README.md").write_text("dirty\n")

    place.prepare()

    assert not canary.exists()
    assert place.files() == {"README.md": "# app\n"}


def test_our_calls_start_no_hook_and_no_monitor_even_where_they_are_in_place(
    place: Place, canary: Path, program: Path
) -> None:
    place.prepare()
    _plant(place, program, PLANTED["fsmonitor"])
    (place.path / ".git/info/attributes").unlink()
    git = _our_git(place)

    git("update-index", "--refresh", to="test")
    git("checkout", "--force", "--detach", "HEAD", to="test")
    git("update-ref", "refs/heads/x", "HEAD", to="test")

    assert not canary.exists()
    place.git("checkout", "--force", "--detach", "HEAD", check=False)
    assert canary.exists(), "the planted programs would not have run anyway: this test proves nothing"


def test_our_calls_ask_no_credential_helper_and_speak_the_clone_urls_protocol_only(
    place: Place, canary: Path, program: Path
) -> None:
    place.prepare()
    git = _our_git(place)
    for what in ("credential helper", "other address"):
        _plant(place, program, PLANTED[what])
        git.ask("ls-remote", "origin", no=range(1, 256))

    assert not canary.exists()
    assert "transport 'file' not allowed" in _said(git, "ls-remote", place.forge.repos[REPO].git.path.as_uri())
    place.git("ls-remote", "origin", check=False)
    assert canary.exists(), "the planted programs would not have run anyway: this test proves nothing"


def _said(git: Git, *arguments: str) -> str:
    with pytest.raises(CheckoutError) as refused:
        git(*arguments, to="test")
    return str(refused.value)


def test_the_commit_can_be_read_in_a_folder_full_of_planted_settings(place: Place, canary: Path, program: Path) -> None:
    checkout = place.prepare()
    _plant(place, program, PLANTED["fsmonitor"] + PLANTED["alias"] + PLANTED["include"])

    assert workdir.head(place.path) == checkout.head
    assert not canary.exists()


def _store_of(place: Place, name: str) -> Path:
    """Make a repository of a stranger, with one commit that the forge does not have."""
    other = place.folder / name
    place.git("init", "-q", str(other))
    (other / "theirs.txt").write_text("theirs")
    place.git("-C", str(other), "add", "theirs.txt")
    place.git("-C", str(other), "commit", "-q", "-m", "Theirs")
    return other


def test_objects_are_borrowed_from_the_mirror_only_whatever_a_run_wrote(place: Place) -> None:
    place.prepare()
    other = _store_of(place, "other")
    theirs = place.git("-C", str(other), "rev-parse", "HEAD")
    info = place.path / ".git/objects/info"
    (info / "alternates").write_text(f"{other}/.git/objects\n{place.folder}/nowhere\n")
    (info / "http-alternates").write_text("http://127.0.0.1:9/\n")
    (info / "commit-graph").write_bytes(b"CGPH lies")
    mirrored = place.root / ".forgepool/mirrors/me/app.git/objects"
    (mirrored / "info").mkdir()
    (mirrored / "info/alternates").write_text(f"{other}/.git/objects\n")

    place.prepare()

    assert (info / "alternates").read_text() == f"{mirrored}\n"
    assert [path.name for path in info.iterdir()] == ["alternates"]
    assert place.git("cat-file", "-t", theirs, check=False).startswith("fatal")


@pytest.mark.parametrize("kind", ["link to a folder", "link", "pipe", "file"])
def test_what_is_in_place_of_the_borrowing_is_replaced_and_not_followed(place: Place, kind: str) -> None:
    place.prepare()
    outside = place.folder / "outside"
    outside.mkdir()
    (outside / "alternates").write_text("keep")
    info = place.path / ".git/objects/info"
    match kind:
        case "link to a folder":
            shutil.rmtree(info)
            info.symlink_to(outside)
        case "link":
            (info / "alternates").unlink()
            (info / "alternates").symlink_to(outside / "alternates")
        case "pipe":
            (info / "alternates").unlink()
            os.mkfifo(info / "alternates")
        case _:
            shutil.rmtree(info)
            info.write_text("x")

    place.prepare()

    assert (outside / "alternates").read_text() == "keep"
    assert not info.is_symlink()
    assert not (info / "alternates").is_symlink()
    assert (info / "alternates").is_file()


def test_work_that_only_a_strangers_objects_complete_is_kept_as_files(place: Place) -> None:
    """A run that borrows elsewhere leaves commits that nobody can read without that place."""
    place.prepare()
    other = _store_of(place, "other")
    (place.path / ".git/objects/info/alternates").write_text(f"{other}/.git/objects\n")
    place.git("checkout", "-q", "--force", "-B", "dev/7", place.git("-C", str(other), "rev-parse", "HEAD"))

    place.prepare()

    assert place.files() == {"README.md": "# app\n"}
    (spare,) = (place.root / "dev-alpha/.damaged").iterdir()
    assert (spare / "app/theirs.txt").read_text() == "theirs"


def test_a_commit_that_a_run_replaced_is_checked_out_as_the_forge_has_it(place: Place) -> None:
    place.prepare()
    good = place.git("rev-parse", "HEAD")
    bad = place.commit("README.md", "poisoned")
    place.git("replace", "-f", good, bad)

    place.prepare(new_branch="dev/8")

    assert place.files() == {"README.md": "# app\n"}
