"""Drives a forge through its REST interface only: the same for the stand-in and for a real one.

A `Town` has accounts, a `World` is a town with a repository of its own. Both clean up after themselves.
"""

import base64
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from tests.forge.listener import Heard, Listener
from tests.helpers.waiting import wait_until
from webapp.standin.forge import StandInForge

SECRET = "the secret of a hook"
#: How long a real forge may take for what it does in the background.
PATIENCE_S = 30.0
SCOPES = ("write:repository", "write:issue", "write:user")


def said(answer: httpx.Response) -> tuple[int, str]:
    """Return status and message of an answer; no message: (none)."""
    try:
        told = answer.json()
    except ValueError:
        return answer.status_code, "(none)"
    return answer.status_code, str(told.get("message", "(none)"))


class Account:
    """One account with a token."""

    def __init__(self, login: str, client: httpx.Client) -> None:
        self.login = login
        self._client = client

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, **params: Any) -> httpx.Response:
        """Make one call below /api/v1."""
        return self._client.request(method, f"/api/v1{path}", json=body, params=params)

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, status: int, **params: Any) -> Any:
        """Make one call whose answer must have that status; return what it says."""
        answer = self.call(method, path, body, **params)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text[:300]}"
        return answer.json() if answer.content.strip() else None

    def get(self, path: str, **params: Any) -> Any:
        """Return what a GET says."""
        return self.ask("GET", path, status=200, **params)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


Connect = Callable[[dict[str, str] | None, tuple[str, str] | None], httpx.Client]  #: by headers, or login and password


def move_in(root: Account, connect: Connect, login: str) -> Account:
    """Let an administrator make an account, and the account a token."""
    password = secrets.token_hex(16)
    body = {"username": login, "email": f"{login}@example.org", "password": password, "must_change_password": False}
    root.ask("POST", "/admin/users", body, status=201)
    with connect(None, (login, password)) as client:
        answer = client.post(f"/api/v1/users/{login}/tokens", json={"name": "tests", "scopes": list(SCOPES)})
    assert answer.status_code == 201, answer.text
    return Account(login, connect({"Authorization": f"token {answer.json()['sha1']}"}, None))


@dataclass(kw_only=True)
class Town:
    """A forge with five accounts, made for one run of the tests."""

    url: str
    root: Account
    connect: Connect
    listener: Listener
    standin: StandInForge | None = None
    accounts: dict[str, Account] = field(default_factory=dict)

    @classmethod
    def of_standin(cls, folder: Path) -> Self:
        """Make a town on a new stand-in, which is called in this process."""
        forge = StandInForge(folder, secret=b"", checking_reads=1)
        token = forge.create_user("root", is_admin=True)

        def connect(headers: dict[str, str] | None, auth: tuple[str, str] | None) -> httpx.Client:
            transport = httpx.WSGITransport(app=forge.app)
            return httpx.Client(base_url=forge.url, transport=transport, headers=headers, auth=auth)

        root = Account("root", connect({"Authorization": f"token {token}"}, None))
        return cls(url=forge.url, root=root, connect=connect, listener=Listener(), standin=forge)._settle()

    @classmethod
    def of_real(cls, url: str, token: str, host: str) -> Self:
        """Make a town on a real forge. host: under which it reaches this machine."""

        def connect(headers: dict[str, str] | None, auth: tuple[str, str] | None) -> httpx.Client:
            return httpx.Client(base_url=url.rstrip("/"), headers=headers, auth=auth, timeout=PATIENCE_S)

        client = connect({"Authorization": f"token {token}"}, None)
        told = client.get("/api/v1/user")
        assert told.status_code == 200, f"the token of the real forge is not accepted: {told.status_code}"
        listener = Listener(host, patience_s=PATIENCE_S)
        return cls(url=url, root=Account(told.json()["login"], client), connect=connect, listener=listener)._settle()

    def _settle(self) -> Self:
        for role in ("owner", "dev", "reviewer", "reader", "stranger"):
            self.accounts[role] = move_in(self.root, self.connect, f"t-{role}-{secrets.token_hex(4)}")
        return self

    @contextmanager
    def world(self) -> Iterator["World"]:
        """Give a repository for one test."""
        owner = self.accounts["owner"]
        name = f"r-{secrets.token_hex(4)}"
        body = {"name": name, "private": True, "auto_init": True, "default_branch": "main"}
        owner.ask("POST", "/user/repos", body, status=201)
        world = World(town=self, repo=f"{owner.login}/{name}")
        try:
            for role, right in (("dev", "write"), ("reviewer", "write"), ("reader", "read")):
                path = f"{world.api}/collaborators/{self.accounts[role].login}"
                owner.ask("PUT", path, {"permission": right}, status=204)
            yield world
        finally:
            owner.call("DELETE", world.api)

    def close(self) -> None:
        """Delete the accounts and all that they have."""
        for account in self.accounts.values():
            with suppress(httpx.HTTPError):
                self.root.call("DELETE", f"/admin/users/{account.login}", purge="true")
            account.close()
        self.root.close()
        self.listener.close()


@dataclass(kw_only=True)
class World:
    """A private repository with one commit on main; dev and reviewer may write, reader may read, stranger nothing."""

    town: Town
    repo: str

    @property
    def api(self) -> str:
        """Path of the repository."""
        return f"/repos/{self.repo}"

    @property
    def is_real(self) -> bool:
        """Whether it is no stand-in: then things take time, and the order of deliveries is open."""
        return self.town.standin is None

    @property
    def standin(self) -> StandInForge:
        """The stand-in; only for what nobody can do over REST."""
        assert self.town.standin is not None
        return self.town.standin

    def __getattr__(self, role: str) -> Account:
        """Return an account by its role."""
        try:
            return self.town.accounts[role]
        except KeyError:
            raise AttributeError(role) from None

    # --- what people do ---

    def commit(self, branch: str, file: str, text: str, *, by: Account | None = None) -> str:
        """Write a file by a commit on a branch, which begins at main when it is new; return its sha."""
        account = by or self.dev
        body: dict[str, Any] = {"content": base64.b64encode(text.encode()).decode(), "message": f"Write {file}"}
        is_new = account.call("GET", f"{self.api}/branches/{branch}").status_code == 404
        body |= {"branch": "main", "new_branch": branch} if is_new else {"branch": branch}
        old = account.call("GET", f"{self.api}/contents/{file}", ref="main" if is_new else branch)
        if old.status_code == 200:
            done = account.ask("PUT", f"{self.api}/contents/{file}", body | {"sha": old.json()["sha"]}, status=200)
        else:
            done = account.ask("POST", f"{self.api}/contents/{file}", body, status=201)
        return str(done["commit"]["sha"])

    def issue(self, title: str = "An issue", *, by: Account | None = None, **more: Any) -> int:
        """Open an issue; return its number."""
        return int((by or self.owner).ask("POST", f"{self.api}/issues", {"title": title, **more}, status=201)["number"])

    def pull(
        self, branch: str = "feature", *, file: str = "feature.txt", title: str = "A change", body: str = ""
    ) -> int:
        """Let dev open a pull request that adds a file; return its number."""
        self.commit(branch, file, "one\n")
        asked = {"head": branch, "base": "main", "title": title, "body": body}
        return int(self.dev.ask("POST", f"{self.api}/pulls", asked, status=201)["number"])

    def comment(self, number: int, text: str, *, by: Account | None = None) -> int:
        """Write a comment; return its id."""
        path = f"{self.api}/issues/{number}/comments"
        return int((by or self.owner).ask("POST", path, {"body": text}, status=201)["id"])

    def review(self, number: int, event: str, *, by: Account | None = None, body: str = "So be it.") -> dict[str, Any]:
        """Review; return what the forge says of the review."""
        asked = {"event": event, "body": body}
        path = f"{self.api}/pulls/{number}/reviews"
        return dict((by or self.reviewer).ask("POST", path, asked, status=200))

    def reviews(self, number: int) -> list[dict[str, Any]]:
        """Return the reviews, oldest first."""
        return sorted(self.owner.get(f"{self.api}/pulls/{number}/reviews", limit=50), key=lambda one: one["id"])

    def get_pull(self, number: int) -> dict[str, Any]:
        """Return a pull request."""
        return dict(self.owner.get(f"{self.api}/pulls/{number}"))

    def checked(self, number: int, *, mergeable: bool = True) -> dict[str, Any]:
        """Return a pull request once the forge says that of it. Raises AssertionError when it never does."""
        return dict(self.until(lambda: self.get_pull(number), lambda pull: pull["mergeable"] is mergeable))

    def merge(self, number: int, *, do: str = "merge", **more: Any) -> httpx.Response:
        """Ask for a merge."""
        return self.owner.call("POST", f"{self.api}/pulls/{number}/merge", {"Do": do, **more})

    def merged(self, number: int, **more: Any) -> dict[str, Any]:
        """Merge for sure."""
        self.checked(number)
        self.until(lambda: self.merge(number, **more), lambda answer: answer.status_code == 200)
        return self.get_pull(number)

    def set_status(self, sha: str, state: str, context: str = "ci", **more: Any) -> None:
        """Set a commit status."""
        body = {"state": state, "context": context, **more}
        self.dev.ask("POST", f"{self.api}/statuses/{sha}", body, status=201)

    def combined(self, sha: str) -> dict[str, Any]:
        """Return the combined status."""
        return dict(self.owner.get(f"{self.api}/commits/{sha}/status"))

    def until(self, ask: Callable[[], Any], is_so: Callable[[Any], bool]) -> Any:
        """Return what it answers once it is so: in time on a real forge, within a few answers on the stand-in."""
        found: list[Any] = []

        def is_it() -> bool:
            found.append(ask())
            return is_so(found[-1])

        if self.is_real:
            wait_until(is_it, timeout_s=PATIENCE_S)
        else:
            assert any(is_it() for _ in range(4)), str(found[-1])[:300]
        return found[-1]

    # --- webhooks ---

    def hook(self, *events: str, **more: Any) -> str:
        """Make an active hook for these events; return its path at the listener."""
        path = f"/{secrets.token_hex(6)}"
        self.make_hook(path, events=list(events), active=True, **more)
        return path

    def make_hook(self, path: str, **more: Any) -> dict[str, Any]:
        """Make a hook of what is given; return what the forge says of it."""
        config = {"url": self.town.listener.url + path, "content_type": "json", "secret": SECRET}
        return dict(
            self.owner.ask("POST", f"{self.api}/hooks", {"type": "gitea", "config": config, **more}, status=201)
        )

    def heard(self, path: str, action: str, count: int = 1) -> list[Heard]:
        """Return deliveries of an action. Raises AssertionError when they do not come."""
        return self.town.listener.wait_all(path, lambda one: one.action == action, count)

    def all_until_now(self, path: str) -> list[Heard]:
        """Return what a hook of issue comments has heard before a comment that is made now."""
        text = f"marker {secrets.token_hex(6)}"
        self.comment(self.issue("Marker"), text)
        self.town.listener.wait(path, lambda one: one.body.get("comment", {}).get("body") == text)
        return [one for one in self.town.listener.of(path) if "comment" not in one.body and "issue" not in one.body]
