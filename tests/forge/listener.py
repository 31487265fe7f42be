"""A receiver of webhooks: keeps what comes, answers 202."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from tests.helpers.waiting import wait_until


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One delivery."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def event(self) -> str:
        """The exact Event-Type."""
        return self.headers.get("X-Gitea-Event-Type", "")

    @property
    def body(self) -> dict[str, Any]:
        """What it says."""
        return dict(json.loads(self.raw))

    @property
    def action(self) -> str:
        """What happened; "" for a push."""
        return str(self.body.get("action", ""))


class Listener:
    """Listens until it is closed; each hook has a path of its own."""

    def __init__(self, host: str = "127.0.0.1", *, patience_s: float = 0.0) -> None:
        """host: under which the forge reaches this machine. patience_s: how long a delivery may take."""
        self.heard: list[Heard] = []
        self.patience_s = patience_s
        bind = "127.0.0.1" if host in ("127.0.0.1", "localhost") else "0.0.0.0"  # noqa: S104 - asked for by name
        self._server = make_server(bind, 0, Request.application(self._hear), threaded=True, request_handler=_Quiet)
        self.url = f"http://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def _hear(self, request: Request) -> Response:
        self.heard.append(Heard(path=request.path, headers=dict(request.headers), raw=request.get_data()))
        return Response(status=202)

    def of(self, path: str) -> list[Heard]:
        """Return what came for one hook so far."""
        return [one for one in self.heard if one.path == path]

    def wait(self, path: str, is_it: Callable[[Heard], bool]) -> Heard:
        """Return the first delivery that is it. Raises AssertionError when none comes in time."""
        return self.wait_all(path, is_it, 1)[0]

    def wait_all(self, path: str, is_it: Callable[[Heard], bool], count: int) -> list[Heard]:
        """Return as many deliveries. Raises AssertionError when they do not come in time."""

        def found() -> list[Heard]:
            return [one for one in self.of(path) if is_it(one)]

        if len(found()) < count and self.patience_s:
            wait_until(lambda: len(found()) >= count, timeout_s=self.patience_s)
        assert len(found()) >= count, [(one.event, one.action) for one in self.of(path)]
        return found()

    def close(self) -> None:
        """Listen no longer."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - the name is werkzeug's
        """Say nothing."""
