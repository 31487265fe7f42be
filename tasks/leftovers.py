"""Files that nobody will use again: found and removed with care. Touches only what is under the folder it is given.

A link is never followed, what has no name of ours is never touched, and a folder that somebody might still begin to
use is first moved away, in one step, and then deleted.
"""

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pool.errors import BadInput
from pool.model import check_name

#: Where folders wait for their deletion. No instance can have this name.
BIN = ".trash"
RECOVERY = Path("refs", "heads", "forgepool", "recovery")
_RECOVERED = re.compile(r"(\d{8}T\d{6}Z)-[0-9a-f]{10}")
_PACKED = re.compile(r"[0-9a-f]{40,64} refs/heads/forgepool/recovery/(\S+)")


def folders(root: Path) -> list[Path]:
    """Return the real folders in a folder, ordered by name; links and what is not there count for nothing."""
    return sorted(Path(entry.path) for entry in _entries(root) if entry.is_dir(follow_symlinks=False))


def files(root: Path) -> list[Path]:
    """Return the real files in a folder, ordered by name."""
    return sorted(Path(entry.path) for entry in _entries(root) if entry.is_file(follow_symlinks=False))


def of_instances(root: Path) -> list[Path]:
    """Return the folders in a folder that are named as an instance may be."""
    return [path for path in folders(root) if is_name(path.name)]


def is_name(name: str) -> bool:
    """Tell whether an instance could have this name."""
    try:
        check_name("instance", name)
    except BadInput:
        return False
    return True


def checkouts(home: Path) -> list[Path]:
    """Return the checkouts of one instance: OWNER/NAME below its folder."""
    return [path for owner in folders(home) if owner.name[0] != "." for path in folders(owner)]


def touched_at(path: Path) -> float:
    """Return when a file, or an instance's folder of checkouts, was last touched; now if it is just going."""
    inner = [part for one in checkouts(path) for part in (one, one / ".git", one / ".git/HEAD", one / ".git/index")]
    return max(_changed_at(one) for one in (path, *folders(path), *inner))


def used_at(checkout: Path) -> float:
    """Return when a run was last made ready in a checkout, or git last wrote there."""
    parts = (checkout, checkout / ".git", checkout / ".git/HEAD", checkout / ".git/index")
    return max(_changed_at(one) for one in parts)


def size(path: Path) -> int:
    """Return the bytes on disk that a folder takes; links are not followed, and files with several names count once."""
    total, seen = 0, set()
    todo = [path]
    while todo:
        for entry in _entries(todo.pop()):
            with suppress(OSError):
                about = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    todo.append(Path(entry.path))
                elif about.st_nlink > 1:
                    if (about.st_dev, about.st_ino) in seen:
                        continue
                    seen.add((about.st_dev, about.st_ino))
                total += about.st_blocks * 512
    return total


def _changed_at(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def throw_away(root: Path, path: Path) -> bool:
    """Move a file or folder below `root` into its bin; tell whether it was still there. See `empty_bin`."""
    try:
        path.rename(place_in_bin(root, path.name))
    except FileNotFoundError:
        return False
    return True


def place_in_bin(root: Path, name: str) -> Path:
    """Return a place in the bin that nothing is at."""
    bin_ = root / BIN
    bin_.mkdir(mode=0o700, exist_ok=True)
    return bin_ / f"{name}-{uuid.uuid4().hex}"


def empty_bin(root: Path) -> None:
    """Delete what was thrown away, also by a process that was killed before it could do this."""
    for entry in list(_entries(root / BIN)):
        remove(Path(entry.path))


def remove(path: Path) -> bool:
    """Delete a file, a link (not what it leads to) or a whole folder; tell whether it was there."""
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return True
        try:
            shutil.rmtree(path)
        except PermissionError:
            # An agent, or a tool that it ran, has locked a folder of its own: Go's module cache for one.
            for folder, _, _ in os.walk(path):
                Path(folder).chmod(0o700)
            shutil.rmtree(path)
    except FileNotFoundError:
        return False
    return True


# --- recovery branches ---------------------------------------------------------------------------


def old_recovery(checkout: Path, *, before: str) -> list[str]:
    """Return the recovery branches of a checkout that were made before a time, given as 20260105T090000Z.

    Read without git: it would read settings there that an agent may have written. Not the commit that is checked out:
    it would be set aside again as if it were new.
    """
    head = read(checkout / ".git" / "HEAD").strip()
    return sorted(name for name, sha in recovery(checkout).items() if sha != head and _is_before(name, before))


def young_recovery(checkout: Path, *, before: str) -> list[str]:
    """Return the recovery branches that are not older than a time, or do not tell their age."""
    return sorted(name for name in recovery(checkout) if not _is_before(name, before))


def recovery(checkout: Path) -> dict[str, str]:
    """Return the recovery branches of a checkout and their commits, read without git."""
    folder = checkout / ".git"
    if not _is_real(checkout, folder / RECOVERY.parent):
        return {}
    loose = {
        path.name: read(path).strip() for path in files(folder / RECOVERY) if _is_real(checkout, folder / RECOVERY)
    }
    packed = {found[1]: line.split()[0] for line, found in _packed(folder) if found}
    return {**packed, **loose}


def drop_recovery(checkout: Path, names: list[str]) -> None:
    """Delete recovery branches. Nobody may use the checkout meanwhile."""
    folder = checkout / ".git"
    gone = set(names)
    if any(found and found[1] in gone for _, found in _packed(folder)):
        kept: list[str] = []
        skips = False
        for line, found in _packed(folder):
            # A line with ^ belongs to the one before it.
            skips = bool(found and found[1] in gone) or (skips and line.startswith("^"))
            if not skips:
                kept.append(line)
        draft = folder / f"packed-refs.{uuid.uuid4().hex}"
        draft.write_text("".join(kept), encoding="utf-8")
        draft.replace(folder / "packed-refs")
    for place in (folder / RECOVERY, folder / "logs" / RECOVERY):
        for path in files(place) if _is_real(checkout, place) else ():
            if path.name in gone:
                path.unlink(missing_ok=True)


def _packed(folder: Path) -> Iterator[tuple[str, re.Match[str] | None]]:
    for line in read(folder / "packed-refs").splitlines(keepends=True):
        yield line, _PACKED.match(line)


def _is_before(name: str, before: str) -> bool:
    found = _RECOVERED.fullmatch(name)
    return found is not None and found[1] < before


def _is_real(root: Path, path: Path) -> bool:
    """Tell whether no step from `root` to `path` is a link."""
    return not any(step.is_symlink() for step in (path, *path.parents) if step.is_relative_to(root))


# --- parts ---------------------------------------------------------------------------------------


def _entries(root: Path) -> list[os.DirEntry[str]]:
    if root.is_symlink():
        return []
    try:
        with os.scandir(root) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def read(path: Path) -> str:
    """Return what a real file holds; nothing for anything else."""
    with suppress(OSError):
        if path.is_file() and not path.is_symlink():
            return path.read_text(encoding="utf-8", errors="surrogateescape")
    return ""
