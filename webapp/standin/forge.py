"""A stand-in for Forgejo, for the demo and the tests: its accounts, issues and pull requests over real git.

Starts git and one HTTP server on the loopback interface; posts signed deliveries as Forgejo does. What it does
otherwise is listed in gaps.py, what it does alike in model.py, and what can be made to go wrong in faults.py.

Without a server it can be called in the same process: `httpx.WSGITransport(app=forge.app)`.
"""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from flask import Flask, Response, abort, request
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from webapp.standin import rest, rest_admin, rest_git, rest_hooks, rest_issues, rest_pulls, smarthttp
from webapp.standin.ci import CiResult
from webapp.standin.sender import Sent
from webapp.standin.tracker import Refusal, Tracker, Unprocessable

__all__ = ["CiResult", "Refusal", "Sent", "StandInForge", "Unprocessable"]

log = logging.getLogger(__name__)

#: Checks with a delay are looked after this often.
TICK_S = 0.05


class StandInForge(Tracker):
    """The forge with its server: a context manager, or `start` and `stop`. The methods of Tracker act on it."""

    _server: BaseWSGIServer | None = None
    _threads: tuple[threading.Thread, ...] = ()

    def __init__(self, root: Path, **options: Any) -> None:
        """See Base."""
        super().__init__(root, **options)
        self.app = self._make_app()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Serve the repositories and the REST interface on a free port of the loopback interface."""
        self._stopping.clear()
        self._server = make_server("127.0.0.1", 0, self.app, threaded=True, request_handler=_QuietHandler)
        # Werkzeug looks for a request to shut down this often; its own half second would be felt in every test.
        poll_s = 0.02
        self._threads = (
            threading.Thread(target=self._server.serve_forever, args=(poll_s,), name="stand-in forge", daemon=True),
            threading.Thread(target=self._look_after, name="stand-in checks", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop serving; what it remembers stays."""
        self._stopping.set()
        if self._server:
            self._server.shutdown()
            for thread in self._threads:
                thread.join()
            self._server.server_close()
        self._server, self._threads = None, ()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the forge is; before `start` nowhere."""
        return f"http://127.0.0.1:{self._server.server_port}" if self._server else super().url

    def clone_url(self, repo: str) -> str:
        """Return the address for git, without an account in it."""
        return f"{self.url}/{repo}.git"

    def _look_after(self) -> None:
        while not self._stopping.wait(TICK_S):
            self.tick()

    def _make_app(self) -> Flask:
        app = Flask(__name__, static_folder=None)
        app.add_url_rule(
            "/<owner>/<name>.git/<path:rest>", endpoint="git", view_func=self._git, methods=["GET", "POST"]
        )
        page = "/<owner>/<name>/actions/runs/<int:run>/jobs/<int:job>"
        for rule in (f"{page}/logs", f"{page}/attempt/<int:attempt>/logs"):
            app.add_url_rule(rule, endpoint=rule, view_func=self._log)
        rest.register(app, self, rest_admin.own_routes, root="/api/forgejo/v1")
        for module in (rest_admin, rest_hooks, rest_git, rest_issues, rest_pulls):
            rest.register(app, self, module.routes)
        return app

    def _log(self, owner: str, name: str, run: int, job: int, attempt: int = 1) -> Response:
        """Return the log of a job as plain text."""
        del attempt
        repo = self.repos.get(f"{owner}/{name}")
        text = self.log_of(f"{owner}/{name}", run)
        if repo is None or text is None or job != 0 or not self.may(repo, self._who(), "read"):
            abort(404)
        return Response(text, mimetype="text/plain")

    def _git(self, owner: str, name: str, rest: str) -> Response:
        """Let an account in to read and write, and anybody in to read what is public."""
        login = self._who()
        repo = self.repos.get(f"{owner}/{name}")
        is_push = smarthttp.is_push(request, rest)
        if login is None and (repo is None or repo.private or is_push or request.authorization):
            # Also for what does not exist: a stranger must not learn which private names are taken.
            return Response("Unauthorized\n", status=401, headers={"WWW-Authenticate": 'Basic realm="Forgejo"'})
        if repo is None or rest not in smarthttp.PATHS or not self.may(repo, login, "read"):
            abort(404)
        if is_push and (repo.archived or not self.may(repo, login, "write")):
            abort(403)
        if rest != "git-receive-pack":
            return smarthttp.serve(request, root=self.root, repo=repo.full_name, rest=rest, login=login)

        with self.holding() as send:
            before = repo.git.branches()
            answer = smarthttp.serve(request, root=self.root, repo=repo.full_name, rest=rest, login=login)
            self._pushed(repo, before, login)
        # The pusher does not wait for whoever listens.
        answer.call_on_close(send)
        return answer

    def _who(self) -> str | None:
        """Return the login of the account whose token or password came with the request; None: nobody's."""
        given = request.authorization
        if given is None:
            return None
        if given.type == "basic":
            found = self.account_of(given.password or "", given.username) if given.username else None
        else:
            found = self.account_of(given.token or "") if given.type in {"token", "bearer"} else None
        return found.login if found else None


class _QuietHandler(WSGIRequestHandler):
    """No line on the terminal for each request; a connection that is cut on request is cut at once."""

    def connection_dropped(self, error: BaseException, environ: Mapping[str, Any] | None = None) -> None:
        """End the connection instead of waiting for the next request on it."""
        super().connection_dropped(error, dict(environ) if environ else None)
        self.close_connection = True

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - the name is werkzeug's
        log.debug("request served", extra={"kind": type, "line": message % args})
