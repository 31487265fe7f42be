"""What the checkouts of this host take, and what is kept in them for people. Reads; changes nothing."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pool.errors import CheckoutError
from tasks import leftovers
from tasks.git import Git
from tasks.mirror import DAMAGED as DAMAGED_MIRRORS
from tasks.mirror import MIRRORS
from tasks.set_aside import RECOVERY
from tasks.workdir import DAMAGED

LOOK_S = 20.0  #: how long git may take to tell of one checkout
_STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Room:
    """The disk below a folder."""

    free: int  #: bytes that we may still write
    used: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Work that was set aside."""

    branch: str
    at: datetime | None  #: when it was set aside; None: its name does not tell
    subject: str  #: of its newest commit; "" when git cannot tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One checkout."""

    instance: str
    repo: str
    path: Path
    branch: str  #: what is checked out; a commit when it is no branch, "" when nobody can tell
    size: int  #: bytes on disk, without what it borrows
    used_at: datetime
    is_in_place: bool  #: False: it was moved away, damaged or for want of room, and is kept for people
    kept: tuple[Kept, ...]


@dataclass(frozen=True, slots=True)
class Shared:
    """One mirror."""

    repo: str
    path: Path
    used_at: float  #: seconds since the epoch
    packs: int


def free_disk(path: Path) -> Room:
    """Return the room on the disk of a path, whether or not it is there yet."""
    there = next(step for step in (path.absolute(), *path.absolute().parents) if step.exists())
    about = shutil.disk_usage(there)
    return Room(free=about.free, used=about.used, total=about.total)


def places(root: Path, *, instance: str | None = None) -> Iterator[Place]:
    """Return every checkout below a folder of checkouts, ordered by instance and repository."""
    for home in leftovers.of_instances(root):
        if instance not in (None, home.name):
            continue
        for checkout in leftovers.checkouts(home):
            yield _place(home.name, f"{checkout.parent.name}/{checkout.name}", checkout, is_in_place=True)
        for spare in leftovers.folders(home / DAMAGED):
            for checkout in leftovers.folders(spare):
                # Named OWNER-NAME-TIME-RANDOM; which hyphen parts owner and name is not told.
                yield _place(home.name, spare.name.rsplit("-", 2)[0], checkout, is_in_place=False)


def mirrors(root: Path) -> list[Shared]:
    """Return the mirrors below a folder of checkouts, the longest unused first."""
    found = [
        Shared(
            repo=f"{owner.name}/{path.name.removesuffix('.git')}",
            path=path,
            # It is written whenever somebody begins to use the mirror.
            used_at=_changed_at(path / "config"),
            packs=len(list((path / "objects" / "pack").glob("*.pack"))),
        )
        for owner in (leftovers.folders(root / MIRRORS) if _is_ours(root) else ())
        if owner.name[0] != "."
        for path in leftovers.folders(owner)
    ]
    return sorted(found, key=lambda one: one.used_at)


def damaged_mirrors(root: Path) -> list[Path]:
    """Return the damaged mirrors that are kept."""
    return leftovers.folders(root / MIRRORS / DAMAGED_MIRRORS) if _is_ours(root) else []


def stamp_of(name: str) -> datetime | None:
    """Return the time with which the name of a recovery branch begins."""
    try:
        return datetime.strptime(name.partition("-")[0], _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def _is_ours(root: Path) -> bool:
    return not any((root / step).is_symlink() for step in (MIRRORS, *MIRRORS.parents))


def _place(instance: str, repo: str, path: Path, *, is_in_place: bool) -> Place:
    return Place(
        instance=instance,
        repo=repo,
        path=path,
        branch=_branch(path),
        size=leftovers.size(path),
        used_at=datetime.fromtimestamp(leftovers.used_at(path), UTC),
        is_in_place=is_in_place,
        kept=_kept(path),
    )


def _branch(path: Path) -> str:
    head = leftovers.read(path / ".git" / "HEAD").strip()[:300]
    return head.removeprefix("ref: refs/heads/") if re.fullmatch(r"(ref: refs/heads/)?[^\s]+", head) else ""


def _kept(path: Path) -> tuple[Kept, ...]:
    """List what is set aside, the newest first."""
    names = leftovers.recovery(path)
    subjects = _subjects(path) if names else {}
    found = [
        Kept(branch=f"{RECOVERY}/{name}", at=stamp_of(name), subject=subjects.get(f"{RECOVERY}/{name}", ""))
        for name in sorted(names, reverse=True)
    ]
    return tuple(found)


def _subjects(path: Path) -> dict[str, str]:
    git = Git.reading(path, timeout_s=LOOK_S)
    form = "--format=%(refname:lstrip=2)%00%(contents:subject)"
    try:
        listed = git("for-each-ref", form, f"refs/heads/{RECOVERY}/", to="list what was set aside")
    except CheckoutError:
        # Its objects may be gone; that there was something is told by the names.
        return {}
    return {name: subject for name, _, subject in (line.partition("\0") for line in listed.splitlines())}


def _changed_at(path: Path) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0
