"""A small forge that only knows what set-up asks for: accounts, tokens, rights, labels, webhooks. No issues, no git."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from flask import Flask, Response, abort, jsonify, request
from werkzeug.serving import make_server

from tests.helpers.deliveries import sign

#: What is asked for by these names, and told by others (models/webhook/webhook.go).
TOLD = {
    "issues_only": ["issues"],
    "pull_request_only": ["pull_request"],
    "pull_request_review": ["pull_request_review_approved", "pull_request_review_rejected"],
    "pull_request_comment": ["pull_request_comment", "pull_request_review_comment"],
}
PLAIN = (
    *("issue_assign", "issue_label", "issue_comment", "pull_request_assign", "pull_request_label"),
    *("pull_request_sync", "pull_request_review_request"),
)
ACTIONS = ("action_run_success", "action_run_failure", "action_run_recover")
ALL_SCOPES = frozenset({"write:repository", "write:issue", "read:user", "write:admin"})
PAGE = 2  #: small, so that every list has more than one


@dataclass
class User:
    """An account."""

    login: str
    password: str = ""
    is_admin: bool = False


@dataclass
class Repo:
    """A repository. rights: login -> write or admin."""

    name: str
    rights: dict[str, str] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    hooks: dict[int, dict[str, Any]] = field(default_factory=dict)
    private: bool = False
    archived: bool = False
    empty: bool = False
    styles: tuple[str, ...] = ("allow_merge_commits", "allow_squash_merge")


@dataclass
class SetupHouse:
    """The forge's state; what tests change, and look at."""

    version: str = "13.0.1+gitea-1.22.0"
    is_forgejo: bool = True
    users: dict[str, User] = field(default_factory=dict)
    tokens: dict[str, tuple[str, frozenset[str]]] = field(default_factory=dict)  #: token -> login and scopes
    repos: dict[str, Repo] = field(default_factory=dict)
    known_events: tuple[str, ...] = (*TOLD, *PLAIN, *ACTIONS)
    has_basic: bool = True  #: whether passwords are taken at the REST interface
    wakes_hooks: bool = True
    delivers: str = "yes"  #: or "no", "wrong secret": what becomes of test deliveries
    url: str = ""
    asked: list[str] = field(default_factory=list)  #: method and path, oldest first
    next_hook: int = 1

    def add_user(self, login: str, *, is_admin: bool = False, scopes: frozenset[str] = ALL_SCOPES) -> str:
        """Add an account and return a token of it."""
        self.users[login] = User(login, is_admin=is_admin)
        token = f"token-of-{login}-{secrets.token_hex(4)}"
        self.tokens[token] = (login, scopes)
        return token

    def add_repo(self, name: str, **rights: str) -> Repo:
        """Add a repository."""
        self.repos[name] = Repo(name, rights=dict(rights))
        return self.repos[name]

    def changes(self) -> list[str]:
        """Return what was asked for that changes something, scope probes apart."""
        return [call for call in self.asked if not call.startswith("GET") and "/0/" not in call]

    @contextmanager
    def serving(self) -> Iterator["SetupHouse"]:
        """Serve on a free port of the loopback interface."""
        server = make_server("127.0.0.1", 0, self._app(), threaded=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    # --- answers ------------------------------------------------------------------------------

    def _app(self) -> Flask:
        app = Flask(__name__, static_folder=None)

        @app.before_request
        def note() -> None:
            self.asked.append(f"{request.method} {request.path}")

        @app.errorhandler(404)
        @app.errorhandler(401)
        @app.errorhandler(403)
        def refuse(error: Any) -> tuple[Response, int]:
            return jsonify(message=error.description), error.code

        routes = {
            "GET /api/v1/version": lambda: jsonify(version=self.version),
            "GET /api/forgejo/v1/version": self._forgejo_version,
            "GET /api/v1/user": self._user,
            "GET /api/v1/user/repos": self._user_repos,
            "GET /api/v1/users/<login>": self._users,
            "POST /api/v1/users/<login>/tokens": self._new_token,
            "POST /api/v1/admin/users": self._new_user,
            "DELETE /api/v1/admin/users/<login>": self._delete_user,
            "GET /api/v1/repos/<owner>/<name>": self._repository,
            "PUT /api/v1/repos/<owner>/<name>/collaborators/<login>": self._collaborator,
            "POST /api/v1/repos/<owner>/<name>/pulls/<int:n>/requested_reviewers": self._probe("write:repository"),
            "POST /api/v1/repos/<owner>/<name>/issues/<int:n>/comments": self._probe("write:issue"),
            "GET /api/v1/repos/<owner>/<name>/labels": self._labels,
            "POST /api/v1/repos/<owner>/<name>/labels": self._new_label,
            "GET /api/v1/repos/<owner>/<name>/hooks": self._hooks,
            "POST /api/v1/repos/<owner>/<name>/hooks": self._new_hook,
            "GET /api/v1/repos/<owner>/<name>/hooks/<int:hook>": self._hook,
            "DELETE /api/v1/repos/<owner>/<name>/hooks/<int:hook>": self._delete_hook,
            "POST /api/v1/repos/<owner>/<name>/hooks/<int:hook>/tests": self._test_hook,
        }
        for route, view in routes.items():
            method, _, path = route.partition(" ")
            app.add_url_rule(path, endpoint=route, view_func=view, methods=[method])
        return app

    def _forgejo_version(self) -> Response:
        if not self.is_forgejo:
            abort(404)
        return jsonify(version=self.version)

    def _who(self, scope: str = "") -> User:
        given = request.headers.get("Authorization", "")
        if given.startswith("token "):
            login, scopes = self.tokens.get(given.removeprefix("token "), ("", frozenset()))
            if scope and login and scope not in scopes:
                abort(403, f"token does not have at least one of required scope(s): [{scope}]")
            if login in self.users:
                return self.users[login]
        return abort(401, "user does not exist [uid: 0]")

    def _maybe(self) -> User:
        return self._who() if "Authorization" in request.headers else User("")

    def _user(self) -> Response:
        user = self._who("read:user")
        return jsonify(login=user.login, is_admin=user.is_admin)

    def _user_repos(self) -> Response:
        login = self._who().login
        return self._page([self._shape(repo, login) for repo in self.repos.values() if login in repo.rights])

    def _users(self, login: str) -> Response:
        self._maybe()
        if login not in self.users:
            abort(404, "user redirect does not exist")
        return jsonify(login=login)

    def _new_token(self, login: str) -> tuple[Response, int]:
        basic, user = request.authorization, self.users.get(login)
        if not self.has_basic or basic is None or basic.type != "basic" or user is None:
            abort(401, "auth required")
        if not user.password or basic.username != login or basic.password != user.password:
            abort(401, "auth required")
        token = secrets.token_hex(20)
        self.tokens[token] = (login, frozenset(request.get_json()["scopes"]))
        return jsonify(sha1=token, name=request.get_json()["name"]), 201

    def _new_user(self) -> tuple[Response, int]:
        if not self._who("write:admin").is_admin:
            abort(403, "user should be the site admin")
        body = request.get_json()
        # The password of an account that has to change it is good for nothing at the REST interface.
        password = "" if body.get("must_change_password", True) else body["password"]
        self.users[body["username"]] = User(body["username"], password=password)
        return jsonify(login=body["username"]), 201

    def _delete_user(self, login: str) -> tuple[str, int]:
        if not self._who("write:admin").is_admin:
            abort(403, "user should be the site admin")
        del self.users[login]
        return "", 204

    def _repo(self, owner: str, name: str, *, right: str = "") -> Repo:
        user, repo = self._maybe(), self.repos.get(f"{owner}/{name}")
        has = "admin" if user.is_admin else repo.rights.get(user.login, "") if repo else ""
        if repo is None or (repo.private and not has):
            abort(404, "The target couldn't be found.")
        if right == "admin" and has != "admin":
            abort(403, "user should be an owner or a collaborator with admin write of a repository")
        if right == "write" and not has:
            abort(403, "user should have a permission to write")
        return repo

    def _shape(self, repo: Repo, login: str) -> dict[str, Any]:
        user = self.users.get(login, User(login))
        has = "admin" if user.is_admin else repo.rights.get(login, "")
        return {
            "full_name": repo.name,
            "default_branch": "main",
            "archived": repo.archived,
            "empty": repo.empty,
            "permissions": {"admin": has == "admin", "push": bool(has), "pull": True},
            **dict.fromkeys(repo.styles, True),
        }

    def _repository(self, owner: str, name: str) -> Response:
        return jsonify(self._shape(self._repo(owner, name), self._maybe().login))

    def _collaborator(self, owner: str, name: str, login: str) -> tuple[str, int]:
        self._repo(owner, name, right="admin").rights[login] = request.get_json()["permission"]
        return "", 204

    def _probe(self, scope: str) -> Any:
        def view(owner: str, name: str, n: int) -> None:
            self._who(scope)
            abort(404, "The target couldn't be found.")

        return view

    def _labels(self, owner: str, name: str) -> Response:
        return self._page([{"name": label} for label in self._repo(owner, name).labels])

    def _new_label(self, owner: str, name: str) -> tuple[Response, int]:
        body = request.get_json()
        assert body["color"].startswith("#")
        self._repo(owner, name, right="write").labels.append(body["name"])
        return jsonify(body), 201

    def _hooks(self, owner: str, name: str) -> Response:
        return self._page([self._told(hook) for hook in self._repo(owner, name, right="admin").hooks.values()])

    def _new_hook(self, owner: str, name: str) -> tuple[Response, int]:
        repo, body = self._repo(owner, name, right="admin"), request.get_json()
        known = [event for event in body.get("events") or ["push"] if event in self.known_events or event == "push"]
        hook = {**body, "id": self.next_hook, "events": known, "active": body.get("active", False)}
        hook["active"] = hook["active"] and self.wakes_hooks
        repo.hooks[self.next_hook] = hook
        self.next_hook += 1
        return jsonify(self._told(hook)), 201

    def _told(self, hook: dict[str, Any]) -> dict[str, Any]:
        # The secret is never told.
        config = {key: value for key, value in hook["config"].items() if key != "secret"}
        events = [told for event in hook["events"] for told in TOLD.get(event, [event])]
        return {**hook, "config": config, "events": events}

    def _hook(self, owner: str, name: str, hook: int) -> Response:
        return jsonify(self._told(self._repo(owner, name, right="admin").hooks[hook]))

    def _delete_hook(self, owner: str, name: str, hook: int) -> tuple[str, int]:
        del self._repo(owner, name, right="admin").hooks[hook]
        return "", 204

    def _test_hook(self, owner: str, name: str, hook: int) -> tuple[str, int]:
        repo = self._repo(owner, name, right="admin")
        found = repo.hooks[hook]
        if self.delivers != "no" and not repo.empty and found["active"]:
            body = f'{{"before": "{"a" * 40}", "after": "{"a" * 40}", "ref": "refs/heads/main", '
            body += f'"commits": [], "repository": {{"full_name": "{repo.name}"}}, "sender": {{"login": "ana"}}}}'
            secret = b"another" if self.delivers == "wrong secret" else found["config"]["secret"].encode()
            named = {"Event": "push", "Event-Type": "push", "Delivery": secrets.token_hex(16)}
            headers = {f"X-Forgejo-{key}": value for key, value in named.items()}
            headers |= {"Content-Type": "application/json", **sign(body.encode(), secret)}
            httpx.post(found["config"]["url"], content=body.encode(), headers=headers)
        return "", 204

    def _page(self, rows: list[dict[str, Any]]) -> Response:
        page = int(request.args.get("page", 1))
        return jsonify(rows[(page - 1) * PAGE : page * PAGE])
