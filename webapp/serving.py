"""What gunicorn calls in the web app's processes: its configuration file, `--config python:webapp.serving`."""

import os
from contextlib import suppress

#: Number of an open file; a byte is written to it by each process that begins to serve.
READY_ENV = "_FORGEPOOL_READY"


def post_worker_init(worker: object) -> None:
    """Tell that this process has loaded the app and begins to take connections."""
    del worker
    if file := os.environ.get(READY_ENV):
        with suppress(BrokenPipeError):
            os.write(int(file), b"1")
