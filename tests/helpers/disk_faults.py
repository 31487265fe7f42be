"""Checkouts and mirrors on the disk of a yard: real repositories, and faults for the repairs that bound them."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

from tasks import repairs_disk
from tests.helpers.yard import Yard

RECOVERY = "refs/heads/forgepool/recovery"


def git(path: Path, *arguments: str) -> str:
    """Run git there, with the settings of nobody."""
    names = {f"GIT_{role}_{part}": "test" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", "-C", str(path), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **names},
        capture_output=True,
        check=True,
        text=True,
    )
    return done.stdout.strip()


def bound(yard: Yard, size: int) -> None:
    """Let all checkouts take no more than so many bytes."""
    service = yard.settings.service.model_copy(update={"checkouts_bytes": size})
    settings = yard.settings.model_copy(update={"service": service})
    yard.settings = settings
    yard.engine = replace(yard.engine, settings=settings)


def mirror(yard: Yard, repo: str = "acme/shop", *, days: float = 0.0) -> Path:
    """Make the mirror of a repository with one commit."""
    path = yard.state / "checkouts" / ".forgepool" / "mirrors" / f"{repo}.git"
    path.mkdir(parents=True)
    git(path, "init", "-q", "--bare", "--initial-branch=main")
    tree = git(path, "mktree", "--missing")
    git(path, "update-ref", "refs/heads/main", git(path, "commit-tree", "-m", "First", tree))
    return yard.old(path, days=days)


def checkout(yard: Yard, instance: str, repo: str = "acme/shop", *, days: float, size: int = 100_000) -> Path:
    """Make a checkout as a run that pushed everything leaves it, with a large file that git ignores."""
    return yard.old(make_checkout(yard.state / "checkouts" / instance / repo, size=size), days=days)


def make_checkout(path: Path, *, size: int = 100_000) -> Path:
    """Make the same at a path."""
    path.mkdir(parents=True)
    git(path, "init", "-q", "--initial-branch=main")
    (path / ".gitignore").write_text("big\n")
    git(path, "add", ".gitignore")
    git(path, "commit", "-q", "-m", "First")
    git(path, "update-ref", "refs/remotes/origin/main", "HEAD")
    (path / "big").write_bytes(b"x" * size)
    return path


def set_aside(path: Path, stamp: str) -> str:
    """Make a recovery branch as old as its name says."""
    tree = git(path, "rev-parse", "HEAD^{tree}")
    sha = git(path, "commit-tree", "-m", "Keep what an earlier run left behind", "-p", "HEAD", tree)
    name = f"{stamp}-{sha[:10]}"
    git(path, "update-ref", f"{RECOVERY}/{name}", sha)
    return name


def excess(yard: Yard) -> None:
    """Let a checkout take more than all may."""
    checkout(yard, "dev-alpha", days=2)
    bound(yard, 50_000)


def many_packs(yard: Yard) -> None:
    """Let a mirror consist of many packs."""
    path = mirror(yard)
    for i in range(repairs_disk.MANY_PACKS + 1):
        sha = git(path, "commit-tree", "-m", f"Commit {i}", "main^{tree}")
        subprocess.run(
            ["git", "-C", str(path), "pack-objects", "-q", "objects/pack/pack"],
            input=sha + "\n",
            stdout=subprocess.DEVNULL,
            check=True,
            text=True,
        )


def damaged_mirror(yard: Yard) -> None:
    """Keep a mirror that was damaged long ago."""
    spare = yard.state / "checkouts/.forgepool/mirrors/.damaged/acme-shop-x"
    (spare / "shop.git").mkdir(parents=True)
    yard.old(spare)
