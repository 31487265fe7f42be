"""The processes of a fleet: it starts one fork host, whose children are the workers."""

import subprocess
from contextlib import suppress

import psutil


def fork_host(fleet: "subprocess.Popen[bytes]") -> psutil.Process | None:
    """Return the fleet's fork host; None while there is none."""
    hosts = [child for child in psutil.Process(fleet.pid).children() if _is_alive(child)]
    assert len(hosts) <= 1, hosts
    return hosts[0] if hosts else None


def workers(fleet: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Return the workers that the fleet's host has forked; each has a pool child of its own."""
    host = fork_host(fleet)
    with suppress(psutil.NoSuchProcess):
        return [child for child in host.children() if _is_alive(child)] if host else []
    return []


def kill(processes: list[psutil.Process]) -> None:
    """Kill processes with -9, whether or not they are still there."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run."""
    return [process for process in processes if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
