"""A stand-in for Forgejo, for the demo and the tests: its accounts, issues and pull requests over real git.

Starts git and one HTTP server on the loopback interface; posts signed deliveries as Forgejo does.

Known gaps, against the real forge:
- No REST interface and no web pages; people act through the methods of StandInForge.
- Every account may push to every repository; no teams, forks, milestones, branch protection or scheduled merges.
- No deliveries for push, create, delete, edits, deletions, milestones, releases, packages or wiki.
- Assignees are listed in the order of assignment; Forgejo's order comes from an unordered join and may differ.
- Deliveries go out before the method returns, one by one in the order of the changes, unless disorder is asked for;
  only those caused by `git push` go out after the answer, as Forgejo's do.
- One JSON hook for everything; no Authorization header; beside the named headers, httpx adds its own.
- Whether a pull request can be merged is known at once: only `synchronized`, which always says no, shows the delay.
- A merge is always a merge commit; `closes #N` counts in the pull request's text only, not in commits or comments.
- Members of a repository that tell its settings and sizes, and of a pull request that count its lines, are left out.
- Bodies of git requests are held in memory, and one push is served at a time.
"""

import hmac
import logging
import threading
from typing import Self

from flask import Flask, Response, abort, request
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from webapp.standin import smarthttp
from webapp.standin.sender import Sent
from webapp.standin.tracker import Tracker, Unprocessable

__all__ = ["Sent", "StandInForge", "Unprocessable"]

log = logging.getLogger(__name__)


class StandInForge(Tracker):
    """The forge with its server: a context manager, or `start` and `stop`. The methods of Tracker act on it."""

    _server: BaseWSGIServer | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Serve the repositories on a free port of the loopback interface."""
        self._server = make_server("127.0.0.1", 0, self._app(), threaded=True, request_handler=_QuietHandler)
        # Werkzeug looks for a request to shut down this often; its own half second would be felt in every test.
        poll_s = 0.02
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(poll_s,), name="stand-in forge", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop serving; what it remembers stays."""
        if self._server and self._thread:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
        self._server = self._thread = None

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

    def _app(self) -> Flask:
        app = Flask(__name__, static_folder=None)
        app.add_url_rule(
            "/<owner>/<name>.git/<path:rest>", endpoint="git", view_func=self._git, methods=["GET", "POST"]
        )
        return app

    def _git(self, owner: str, name: str, rest: str) -> Response:
        """Let an account in to read and write, and anybody in to read what is public."""
        login = self._who()
        repo = self.repos.get(f"{owner}/{name}")
        is_push = smarthttp.is_push(request, rest)
        if login is None and (repo is None or repo.private or is_push or request.authorization):
            # Also for what does not exist: a stranger must not learn which private names are taken.
            return Response("Unauthorized\n", status=401, headers={"WWW-Authenticate": 'Basic realm="Forgejo"'})
        if repo is None or rest not in smarthttp.PATHS:
            abort(404)
        if rest != "git-receive-pack":
            return smarthttp.serve(request, root=self.root, repo=repo.full_name, rest=rest, login=login)

        with self._lock:
            before = repo.git.branches()
            answer = smarthttp.serve(request, root=self.root, repo=repo.full_name, rest=rest, login=login)
            self._pushed(repo, before, login)
            outbox = self._take_outbox()
        # The pusher does not wait for whoever listens.
        answer.call_on_close(lambda: self._send(outbox))
        return answer

    def _who(self) -> str | None:
        """Return the login of the account whose token came with the request; None: nobody's."""
        given = request.authorization
        user = self.users.get(given.username or "") if given and given.type == "basic" else None
        is_right = user and given and hmac.compare_digest((given.password or "").encode(), user.token.encode())
        return user.login if user and is_right else None


class _QuietHandler(WSGIRequestHandler):
    """No line on the terminal for each request."""

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - the name is werkzeug's
        log.debug("request served", extra={"kind": type, "line": message % args})
