"""Set-up on the forge: accounts, tokens, access, labels, webhooks. Calls the forge's REST interface; decides nothing.

For `forgepool init` and `forgepool doctor`, which people wait for: nothing is retried, an error is told at once.
No secret ever gets into an error, a log or a repr.
"""

import secrets
from collections.abc import Collection, Mapping
from typing import Any, Self

import httpx

from pool.errors import ForgeError, NotAccepted, NotAllowed, NotThere
from tasks import forge_read as read
from tasks.forge_http import ForgeHttp, part, repo_path
from tasks.forge_values import Hook
from tasks.setup_values import SCOPES, Account, ForgeVersion, RepositoryState


class SetupForge(ForgeHttp):
    """The forge with the rights of one account, or of nobody. A context manager."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        password_of: tuple[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
        timeout_s: float = 15.0,
    ) -> None:
        """`password_of`: login and password. Neither: nobody's rights."""
        super().__init__(
            url,
            token=token or "",
            password_of=password_of,
            transport=transport,
            timeout_s=timeout_s,
            # A person waits, and can call again.
            is_unwanted=lambda: True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the forge and its accounts -----------------------------------------------------------

    def version(self) -> ForgeVersion:
        """Ask which forge it is."""
        text = str(self._object("GET", "/version").get("version", ""))
        own = self.ask("GET", "/version", root="/api/forgejo/v1")
        return ForgeVersion(text=text, is_forgejo=own.is_success)

    def whoami(self) -> Account:
        """Ask whose token it is. Raises NotAllowed when it is nobody's."""
        told = self._object("GET", "/user")
        return Account(login=_text(told, "login"), is_admin=bool(told.get("is_admin")))

    def has_user(self, login: str) -> bool:
        """Tell whether there is an account of that name."""
        return self._exists(f"/users/{part(login)}")

    def create_user(self, login: str, *, email: str, password: str) -> None:
        """Make an account; for site administrators."""
        # Without the flag the account must change its password in the browser before it may do anything.
        body = {"username": login, "email": email, "password": password, "must_change_password": False}
        self.send("POST", "/admin/users", body)

    def delete_user(self, login: str) -> None:
        """Take an account back; for site administrators."""
        self.send("DELETE", f"/admin/users/{part(login)}")

    def create_token(self, login: str) -> str:
        """Make an access token for the account whose password this client has."""
        # A name can be used once only.
        body = {"name": f"forgepool-{secrets.token_hex(4)}", "scopes": list(SCOPES)}
        return _text(self._object("POST", f"/users/{part(login)}/tokens", body), "sha1")

    # --- repositories -------------------------------------------------------------------------

    def repository(self, repo: str) -> RepositoryState:
        """Ask for a repository, and what the account may do there."""
        told = self._object("GET", repo_path(repo))
        value = read.read(read.repository, told, f"GET {repo_path(repo)}")
        return RepositoryState(repository=value, is_empty=bool(told.get("empty")))

    def writable(self) -> list[str]:
        """Return the repositories that the account may write to."""
        return [
            _text(told, "full_name")
            for told in self.pages("/user/repos")
            if (told.get("permissions") or {}).get("push") and not told.get("archived")
        ]

    def let_write(self, repo: str, login: str) -> None:
        """Let an account write to a repository; for its administrators."""
        self.send("PUT", f"{repo_path(repo)}/collaborators/{part(login)}", {"permission": "write"})

    def lacking_scopes(self, repo: str) -> list[str]:
        """Return which of the scopes that are needed for writing the token lacks.

        The scope is looked at before the number (routers/api/v1/api.go), and there is no number 0: nothing is written.
        """
        calls = {
            "write:repository": f"{repo_path(repo)}/pulls/0/requested_reviewers",
            "write:issue": f"{repo_path(repo)}/issues/0/comments",
        }
        return [scope for scope, path in calls.items() if self._lacks_scope(path)]

    def _lacks_scope(self, path: str) -> bool:
        try:
            self.send("POST", path, {})
        except NotAllowed as error:
            # routers/api/v1/api.go, tokenRequiresScopes: "token does not have at least one of required scope(s)".
            return "required scope" in str(error)
        except (NotThere, NotAccepted):
            pass
        return False

    # --- labels -------------------------------------------------------------------------------

    def labels(self, repo: str) -> set[str]:
        """Return the names of a repository's own labels."""
        return {_text(told, "name") for told in self.pages(f"{repo_path(repo)}/labels")}

    def create_label(self, repo: str, name: str, *, color: str, description: str) -> None:
        """Make a label."""
        self.send("POST", f"{repo_path(repo)}/labels", {"name": name, "color": color, "description": description})

    # --- webhooks -----------------------------------------------------------------------------

    def hooks(self, repo: str) -> list[Hook]:
        """Return the webhooks of a repository, not those of its owner or the site; for its administrators."""
        return [_hook(told) for told in self.pages(f"{repo_path(repo)}/hooks")]

    def hook(self, repo: str, hook: int) -> Hook:
        """Return one webhook."""
        return _hook(self._object("GET", f"{repo_path(repo)}/hooks/{hook}"))

    def create_hook(self, repo: str, *, kind: str, url: str, secret: str, events: Collection[str]) -> Hook:
        """Make an active webhook that sends JSON. There is no call that changes one rightly: PATCH loses half of it."""
        config = {"url": url, "content_type": "json", "secret": secret}
        # Without `active` it would be asleep, without events it would tell of pushes only.
        body = {"type": kind, "config": config, "events": list(events), "active": True}
        return _hook(self._object("POST", f"{repo_path(repo)}/hooks", body))

    def delete_hook(self, repo: str, hook: int) -> None:
        """Delete a webhook."""
        self.send("DELETE", f"{repo_path(repo)}/hooks/{hook}")

    def test_hook(self, repo: str, hook: int) -> None:
        """Have the forge send a test delivery: a push event. An empty repository sends none, without a word."""
        self.send("POST", f"{repo_path(repo)}/hooks/{hook}/tests")

    # --- calls --------------------------------------------------------------------------------

    def _exists(self, path: str) -> bool:
        try:
            self.call("GET", path)
        except NotThere:
            return False
        return True

    def _object(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        told = self.send(method, path, body)
        if not isinstance(told, dict):
            raise ForgeError(f"{method} {path}: the answer is not that of a forge; check the address", call=path)
        return told


def _text(told: Mapping[str, Any], key: str) -> str:
    value = told.get(key)
    if isinstance(value, str) and value:
        return value
    raise ForgeError(f"the forge's answer has no {key}")


def _hook(told: Mapping[str, Any]) -> Hook:
    config = told.get("config") or {}
    return Hook(
        id=int(told.get("id") or 0),
        type=str(told.get("type") or ""),
        url=str(config.get("url") or ""),
        content_type=str(config.get("content_type") or ""),
        events=tuple(told.get("events") or ()),
        active=bool(told.get("active")),
    )
