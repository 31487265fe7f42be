"""A process that has used the store may be forked: Celery does so whenever a pool process has died."""

import subprocess
import sys
from pathlib import Path

from pool import migrate
from pool.store import Store

#: Forks while a thread is in the middle of a write, and writes in the child when the parent has long committed.
WHILE_WRITING = """
import os, sys, threading, time
from pool.store import Store

store = Store.open(sys.argv[1], busy_s=2)
inside = threading.Event()

def write():
    with store.writing() as tx:
        tx.add_instance("by-the-thread", "dev")
        inside.set()
        time.sleep(0.2)

thread = threading.Thread(target=write)
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    with store.writing() as tx:
        tx.add_instance("by-the-child", "dev")
    os._exit(0)
thread.join()
with store.writing() as tx:
    tx.add_instance("by-the-parent", "dev")
status = os.waitpid(child, 0)[1]
store.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""

#: Forks after the store was used, and prints which of the database's files the child holds.
AFTER_READING = """
import os, sys
from pathlib import Path
from pool.store import Store

store = Store.open(sys.argv[1])
with store.reading() as tx:
    tx.list_instances()
child = os.fork()
if child == 0:
    held = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.exists()]
    print([name for name in held if "forgepool.db" in name], flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def fork(script: str, folder: Path) -> str:
    """Run a script in a process of its own, which threads of other tests do not disturb; return what it printed."""
    url = f"sqlite:///{folder / 'forgepool.db'}"
    store = Store.open(url)
    migrate.upgrade(store.engine)
    store.close()
    return subprocess.run(
        [sys.executable, "-c", script, url], check=True, stdout=subprocess.PIPE, encoding="utf-8", timeout=60
    ).stdout


def test_a_child_that_is_born_while_a_thread_of_its_parent_writes_can_write(tmp_path: Path) -> None:
    """It found the database locked for ever, and its instance stood still: `forgepool chaos` showed it."""
    fork(WHILE_WRITING, tmp_path)

    store = Store.open(f"sqlite:///{tmp_path / 'forgepool.db'}")
    with store.reading() as tx:
        names = [row.name for row in tx.list_instances()]
    store.close()
    assert names == ["by-the-child", "by-the-parent", "by-the-thread"]


def test_a_child_inherits_no_connection(tmp_path: Path) -> None:
    assert fork(AFTER_READING, tmp_path) == "[]\n"
