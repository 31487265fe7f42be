"""A file system that a test may fill up and make read-only."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BLOCK = 4096


class Disk:
    """A small file system of its own, in memory."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"
        folder.mkdir()
        done = _mount("-t", "tmpfs", "-o", f"size={size},mode=700", "none", str(folder))
        if done.returncode:
            # Not even root may, in a container without CAP_SYS_ADMIN; the same is shown below by SQLite's own limit.
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")

    def fill(self) -> None:
        """Leave no room: the next write fails with ENOSPC."""
        handle = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            while True:
                os.write(handle, bytes(BLOCK))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - the end of the loop
        finally:
            os.close(handle)

    def make_room(self) -> None:
        """Take away what fills it."""
        self._ballast.unlink()

    def remount(self, how: str) -> None:
        """Make it "ro" or "rw" again. Nothing may be open for writing."""
        assert _mount("-o", f"remount,{how}", str(self.folder)).returncode == 0

    def close(self) -> None:
        """Take it away."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path, size: str = "2m") -> Iterator[Disk]:
    """Mount a small file system; skip the test where that is not allowed."""
    disk = Disk(folder, size)
    try:
        yield disk
    finally:
        disk.close()


def _mount(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
