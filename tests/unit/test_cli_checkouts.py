"""`forgepool checkouts`: what is there, and what was set aside. Real git."""

import shlex
import subprocess
from pathlib import Path

import pytest

from pool.model import Kind, Request
from tests.helpers.config import Deployment
from tests.helpers.disk_faults import git, make_checkout, set_aside
from webapp.cli.checkouts import size


@pytest.fixture
def place(cli: Deployment) -> Path:
    """Return the checkout of an instance that there is."""
    with cli.store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")
    return make_checkout(cli.settings.state_dir / "checkouts/dev-alpha/acme/shop")


def test_a_checkout_is_listed_with_its_branch_its_size_and_what_was_set_aside(cli: Deployment, place: Path) -> None:
    name = set_aside(place, "20260105T090000Z")

    (row,) = cli.json("checkouts", "list")

    assert row["bytes"] > 100_000
    assert row["last_used"] is not None
    assert {key: row[key] for key in ("instance", "repo", "path", "branch", "state")} == {
        "instance": "dev-alpha",
        "repo": "acme/shop",
        "path": str(place),
        "branch": "main",
        "state": "idle",
    }
    assert row["recovered"] == [
        {
            "branch": f"forgepool/recovery/{name}",
            "at": "2026-01-05T09:00:00.000Z",
            "subject": "Keep what an earlier run left behind",
        }
    ]
    line = cli.run("checkouts", "list").stdout.splitlines()[1]
    assert line.split()[:3] == ["dev-alpha", "acme/shop", "main"]
    assert f"{name} Keep what an earlier run left behind" in line


def test_a_checkout_in_which_something_runs_says_so(cli: Deployment, place: Path) -> None:
    assert place.is_dir()
    with cli.store.writing() as tx:
        tx.submit("dev", Request(kind=Kind.CUSTOM, repo="acme/shop", number=1), by="test")
        tx.claim("dev-alpha", lease_s=60)

    assert cli.json("checkouts", "list")[0]["state"] == "running"


def test_work_that_was_set_aside_is_listed_the_newest_first_with_the_command_that_shows_it(
    cli: Deployment, place: Path
) -> None:
    old, new = set_aside(place, "20260105T090000Z"), set_aside(place, "20260106T090000Z")
    other = make_checkout(cli.settings.state_dir / "checkouts/dev-gone/.damaged/acme-shop-20260107T000000Z-x1/shop")
    newest = set_aside(other, "20260107T000000Z")

    rows = cli.json("checkouts", "recovered")

    assert [row["branch"] for row in rows] == [f"forgepool/recovery/{name}" for name in (newest, new, old)]
    assert [(row["instance"], row["repo"]) for row in rows][:2] == [
        ("dev-gone", "acme-shop"),
        ("dev-alpha", "acme/shop"),
    ]
    shown = subprocess.run(shlex.split(rows[1]["show"]), capture_output=True, check=True, text=True).stdout
    assert "Keep what an earlier run left behind" in shown
    said = cli.run("checkouts", "recovered").stdout
    assert "2026-01-06 09:00:00 UTC" in said
    assert f"To look at one: git -C {other} " in said


def test_a_damaged_checkout_is_listed_even_if_git_cannot_tell_what_is_in_it(cli: Deployment, place: Path) -> None:
    assert place.is_dir()
    spare = cli.settings.state_dir / "checkouts/dev-alpha/.damaged/acme-shop-20260107T000000Z-x1/shop"
    spare.mkdir(parents=True)
    (spare / "work.txt").write_text("work")

    (row,) = cli.json("checkouts", "recovered")

    assert (row["path"], row["branch"], row["show"]) == (str(spare), None, None)
    assert str(spare) in cli.run("checkouts", "recovered").stdout
    assert {one["state"] for one in cli.json("checkouts", "list")} == {"idle", "moved away"}


def test_a_subject_of_a_stranger_cannot_steer_the_terminal(cli: Deployment, place: Path) -> None:
    sha = git(place, "commit-tree", "-m", "\x1b[2Jgone", "HEAD^{tree}")
    git(place, "update-ref", "refs/heads/forgepool/recovery/20260105T090000Z-0123456789", sha)

    for command in ("list", "recovered"):
        assert "\x1b" not in cli.run("checkouts", command).stdout
        assert "\\x1b[2Jgone" in cli.run("checkouts", command).stdout


def test_one_instance_can_be_asked_for_and_an_unknown_one_is_named(cli: Deployment, place: Path) -> None:
    make_checkout(cli.settings.state_dir / "checkouts/dev-gone/acme/shop")

    assert [row["path"] for row in cli.json("checkouts", "list", "--instance", "dev-alpha")] == [str(place)]
    assert len(cli.json("checkouts", "list", "--instance", "dev-gone")) == 1
    assert "dev-nobody" in cli.run("checkouts", "list", "--instance", "dev-nobody", status=3).stderr


def test_without_any_checkout_there_is_an_empty_list(cli: Deployment) -> None:
    assert cli.json("checkouts", "list") == []
    assert cli.json("checkouts", "recovered") == []


def test_looking_at_checkouts_changes_nothing_and_starts_nothing_that_was_planted(
    cli: Deployment, place: Path, tmp_path: Path
) -> None:
    set_aside(place, "20260105T090000Z")
    canary, program = tmp_path / "canary", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(0o755)
    with (place / ".git/config").open("a") as config:
        config.write(f"[core]\n\tfsmonitor = {program}\n\tpager = {program}\n[pager]\n\tfor-each-ref = {program}\n")
    before = {path: path.lstat().st_mtime_ns for path in place.rglob("*")}

    cli.run("checkouts", "list")
    cli.run("checkouts", "recovered")

    assert not canary.exists()
    assert {path: path.lstat().st_mtime_ns for path in place.rglob("*")} == before


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (12_000_000, "11 MiB"), (2**50, "1024 TiB")],
)
def test_sizes_are_told_in_their_largest_unit(count: int, text: str) -> None:
    assert size(count) == text
