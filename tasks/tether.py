"""Start a program that is asked to end when its parent dies: `tether.py PARENT_PID PROGRAM ARGUMENT...`.

Runs without site-packages, so that it costs milliseconds; then it becomes the program. A supervisor that is killed
with -9 leaves nothing behind. Linux only; elsewhere the program starts untethered.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>; survives execve(2)


def tie(parent: int) -> None:
    """Have this process sent SIGTERM when its parent dies. Exits when that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the tie held
            sys.exit(1)


def main() -> None:
    """Tie this process to its parent and become the program."""
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    tie(parent)
    os.execvp(argv[0], argv)  # noqa: S606 - a list of arguments of our own, no shell


if __name__ == "__main__":
    main()
