"""Set-up on the forge: accounts, tokens, access, labels, webhooks. Calls the forge's REST interface; decides nothing.

Apart from the client of the workflow: a person waits, so nothing is tried again, and what is asked for goes with a
password, or with nobody's rights, too. What an answer means is the same. No secret gets into an error, a log or a repr.
"""

import secrets
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from pool.errors import ForgeError, ForgeUnavailable, NotAccepted, NotAllowed, NotThere
from tasks.forge_refusals import refusal
from tasks.forge_values import Hook, MergeStyle, Repository
from tasks.setup_values import SCOPES, Account, ForgeVersion, RepositoryState, is_loopback

#: modules/structs/repo.go; all of them are there in Forgejo 11 and Gitea 1.22.
_STYLES = {
    "allow_merge_commits": MergeStyle.MERGE,
    "allow_rebase": MergeStyle.REBASE,
    "allow_rebase_explicit": MergeStyle.REBASE_MERGE,
    "allow_squash_merge": MergeStyle.SQUASH,
    "allow_fast_forward_only_merge": MergeStyle.FAST_FORWARD_ONLY,
}
PAGE = 50  #: the forge's own maximum, unless its administrator changed it
MOST_PAGES = 40


class SetupForge:
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
        """`password_of`: login and password, for what the forge gives to nobody with a token. Neither: nobody."""
        self.url = url.rstrip("/")
        if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
            # The HTTP library would show it in its complaint.
            raise NotAllowed("the access token is empty or has characters that no token has; write its file anew")
        headers = {"Accept": "application/json"} | ({"Authorization": f"token {token}"} if token else {})
        self._client = httpx.Client(
            base_url=f"{self.url}/api/",
            headers=headers,
            auth=password_of,
            transport=transport,
            timeout=timeout_s,
            # A redirect may lead to another host, and that must not get the token.
            follow_redirects=False,
            # A proxy of the environment is not on the way to this machine.
            trust_env=not is_loopback(urlsplit(self.url).hostname or ""),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # --- the forge and its accounts -----------------------------------------------------------

    def version(self) -> ForgeVersion:
        """Ask which forge it is."""
        text = str(self._object("GET", "v1/version").get("version", ""))
        try:
            own = self._object("GET", "forgejo/v1/version").get("version")
        except (NotThere, NotAllowed, NotAccepted):
            return ForgeVersion(text=text, is_forgejo=False)
        return ForgeVersion(text=str(own or text), is_forgejo=True)

    def whoami(self) -> Account:
        """Ask whose token it is. Raises NotAllowed when it is nobody's."""
        told = self._object("GET", "v1/user")
        return Account(login=_text(told, "login"), is_admin=bool(told.get("is_admin")))

    def has_user(self, login: str) -> bool:
        """Tell whether there is an account of that name."""
        return self._exists(f"v1/users/{login}")

    def create_user(self, login: str, *, email: str, password: str) -> None:
        """Make an account; for site administrators."""
        # Without the flag the account must change its password in the browser before it may do anything.
        body = {"username": login, "email": email, "password": password, "must_change_password": False}
        self._call("POST", "v1/admin/users", body)

    def delete_user(self, login: str) -> None:
        """Take an account back; for site administrators."""
        self._call("DELETE", f"v1/admin/users/{login}")

    def create_token(self, login: str) -> str:
        """Make an access token for the account whose password this client has."""
        # A name can be used once only.
        body = {"name": f"forgepool-{secrets.token_hex(4)}", "scopes": list(SCOPES)}
        return _text(self._object("POST", f"v1/users/{login}/tokens", body), "sha1")

    # --- repositories -------------------------------------------------------------------------

    def repository(self, repo: str) -> RepositoryState:
        """Ask for a repository, and what the account may do there."""
        told = self._object("GET", f"v1/repos/{repo}")
        rights = told.get("permissions") or {}
        value = Repository(
            full_name=_text(told, "full_name"),
            default_branch=str(told.get("default_branch") or ""),
            archived=bool(told.get("archived")),
            can_push=bool(rights.get("push")),
            can_admin=bool(rights.get("admin")),
            merge_styles=tuple(style for key, style in _STYLES.items() if told.get(key)),
        )
        return RepositoryState(repository=value, is_empty=bool(told.get("empty")))

    def writable(self) -> list[str]:
        """Return the repositories that the account may write to."""
        return [
            _text(told, "full_name")
            for told in self._pages("v1/user/repos")
            if (told.get("permissions") or {}).get("push") and not told.get("archived")
        ]

    def let_write(self, repo: str, login: str) -> None:
        """Let an account write to a repository; for its administrators."""
        self._call("PUT", f"v1/repos/{repo}/collaborators/{login}", {"permission": "write"})

    def lacking_scopes(self, repo: str) -> list[str]:
        """Return which of the scopes that are needed for writing the token lacks.

        The scope is looked at before the number (routers/api/v1/api.go), and there is no number 0: nothing is written.
        """
        calls = {
            "write:repository": f"v1/repos/{repo}/pulls/0/requested_reviewers",
            "write:issue": f"v1/repos/{repo}/issues/0/comments",
        }
        return [scope for scope, path in calls.items() if self._lacks_scope(path)]

    def _lacks_scope(self, path: str) -> bool:
        try:
            self._call("POST", path, {})
        except NotAllowed as error:
            # routers/api/v1/api.go, tokenRequiresScopes: "token does not have at least one of required scope(s)".
            return "required scope" in str(error)
        except (NotThere, NotAccepted):
            pass
        return False

    # --- labels -------------------------------------------------------------------------------

    def labels(self, repo: str) -> set[str]:
        """Return the names of a repository's own labels."""
        return {_text(told, "name") for told in self._pages(f"v1/repos/{repo}/labels")}

    def create_label(self, repo: str, name: str, *, color: str, description: str) -> None:
        """Make a label."""
        self._call("POST", f"v1/repos/{repo}/labels", {"name": name, "color": color, "description": description})

    # --- webhooks -----------------------------------------------------------------------------

    def hooks(self, repo: str) -> list[Hook]:
        """Return the webhooks of a repository, not those of its owner or the site; for its administrators."""
        return [_hook(told) for told in self._pages(f"v1/repos/{repo}/hooks")]

    def hook(self, repo: str, hook: int) -> Hook:
        """Return one webhook."""
        return _hook(self._object("GET", f"v1/repos/{repo}/hooks/{hook}"))

    def create_hook(self, repo: str, *, kind: str, url: str, secret: str, events: Collection[str]) -> Hook:
        """Make an active webhook that sends JSON. There is no call that changes one rightly: PATCH loses half of it."""
        config = {"url": url, "content_type": "json", "secret": secret}
        # Without `active` it would be asleep, without events it would tell of pushes only.
        body = {"type": kind, "config": config, "events": list(events), "active": True}
        return _hook(self._object("POST", f"v1/repos/{repo}/hooks", body))

    def delete_hook(self, repo: str, hook: int) -> None:
        """Delete a webhook."""
        self._call("DELETE", f"v1/repos/{repo}/hooks/{hook}")

    def test_hook(self, repo: str, hook: int) -> None:
        """Have the forge send a test delivery: a push event. An empty repository sends none, without a word."""
        self._call("POST", f"v1/repos/{repo}/hooks/{hook}/tests")

    # --- calls --------------------------------------------------------------------------------

    def _exists(self, path: str) -> bool:
        try:
            self._call("GET", path)
        except NotThere:
            return False
        return True

    def _object(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        told = self._json(method, path, body)
        if not isinstance(told, dict):
            raise ForgeError(f"{method} /{path}: the answer is not that of a forge; check the address", call=path)
        return told

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield the entries of a list over all of its pages."""
        for page in range(1, MOST_PAGES + 1):
            told = self._json("GET", f"{path}?page={page}&limit={PAGE}")
            yield from (one for one in told or () if isinstance(one, dict))
            # Not "fewer than asked for": the forge may give less in a page than it was asked for.
            if not told:
                return

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        answer = self._call(method, path, body)
        try:
            return answer.json()
        except ValueError:
            raise ForgeError(f"{method} /{path}: the answer is not JSON; check the address", call=path) from None

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        call = f"{method} /{path.partition('?')[0]}"
        try:
            answer = self._client.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # The text of a transport error names addresses only; headers and bodies are not in it.
            said = str(error) or type(error).__name__
            raise ForgeUnavailable(f"{self.url} does not answer {call}: {said}", call=call) from None
        if answer.is_success:
            return answer
        raise refusal(call=call, status=answer.status_code, body=answer.content)


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
