"""A street: an owner with a repository on any forge, and a deployment that `forgepool init` has set up for it.

Only REST, git, webhooks and the command line, so that it is the same on a real Forgejo or Gitea. There is no runner
there, so an outside check is played by commit statuses.
"""

import base64
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.settings import CONFIG_ENV, Settings
from tasks.setup_values import is_loopback
from tests.forge.driver import Account, move_in
from tests.helpers.config import Deployment, type_table
from tests.helpers.ports import free_port
from tests.helpers.waiting import wait_until
from webapp.cli.setup_scene import ADMIN_ENV
from webapp.demo.script import BUG
from webapp.up import House

PATIENCE_S = 240.0  #: for a whole way from an issue to a merge, on a forge that is far away
PAUSE_S = 0.2  #: between two looks at the forge
CHECK = "outside"  #: the context of the statuses
TYPES = ("dev", "reviewer", "boss")
_MARK = "<!-- forgepool:"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A forge, one of its administrators, and how it reaches this machine."""

    url: str
    token: str = field(repr=False)
    host: str
    poll_s: float  #: how often it may be asked for what no webhook told

    def connect(self, headers: dict[str, str] | None, auth: tuple[str, str] | None) -> httpx.Client:
        """Return a client with the rights of a token, or of a login and its password."""
        url = self.url.rstrip("/")
        uses_proxy = not is_loopback(httpx.URL(url).host)
        return httpx.Client(base_url=url, headers=headers, auth=auth, timeout=30, trust_env=uses_proxy)

    def root(self) -> Account:
        """Return the administrator."""
        client = self.connect({"Authorization": f"token {self.token}"}, None)
        told = client.get("/api/v1/user")
        assert told.status_code == 200, f"the administrator's token is not accepted: {told.status_code}"
        return Account(told.json()["login"], client)


@dataclass(kw_only=True)
class Street:
    """One owner with one public repository, a stranger, and a deployment."""

    owner: Account
    stranger: Account
    repo: str
    logins: Mapping[str, str]  #: type -> login
    deployment: Deployment
    script: Path  #: which mistakes the agents make
    told: dict[str, str] = field(default_factory=dict)  #: head -> what the outside check said of it

    @property
    def api(self) -> str:
        """Path of the repository."""
        return f"/repos/{self.repo}"

    # --- the engine ------------------------------------------------------------------------------

    @contextmanager
    def open(self) -> Iterator[House]:
        """Run the whole engine."""
        more = {"DEMO_TRACE": str(self.script.with_name("trace")), "DEMO_SCRIPT": str(self.script)}
        environ = {**os.environ, **more, "PYTHONWARNINGS": "ignore"}
        with House(Settings.load(self.deployment.path), environ=environ) as house:
            house.start()
            yield house

    def until(self, house: House, condition: Callable[[], object]) -> None:
        """Let the engine and the outside check go on until a condition is true."""

        def is_so() -> object:
            house.tend()
            self.check()
            return condition()

        try:
            wait_until(is_so, PATIENCE_S, pause_s=PAUSE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.deployment.run('tasks', 'list').stdout}") from error

    # --- what people and checks do ---------------------------------------------------------------

    def issue(self, *mistakes: str) -> int:
        """Open an issue; its agents make these mistakes."""
        number: int = self.owner.ask("POST", f"{self.api}/issues", {"title": "Sell tea"}, status=201)["number"]
        self.script.write_text(json.dumps({f"{self.repo}#{number}": mistakes}), encoding="utf-8")
        return number

    def assign(self, number: int) -> None:
        """Assign an issue to dev."""
        self.owner.ask("PATCH", f"{self.api}/issues/{number}", {"assignees": [self.logins["dev"]]}, status=201)

    def say(self, number: int, text: str, *, by: Account) -> None:
        """Write a comment."""
        by.ask("POST", f"{self.api}/issues/{number}/comments", {"body": text}, status=201)

    def remove_hooks(self) -> int:
        """Delete every webhook; return how many there were."""
        hooks = self.owner.get(f"{self.api}/hooks")
        for hook in hooks:
            self.owner.ask("DELETE", f"{self.api}/hooks/{hook['id']}", status=204)
        return len(hooks)

    def check(self) -> None:
        """Run the outside check on each head that it has not seen."""
        for pull in self.owner.get(f"{self.api}/pulls", state="open"):
            sha = pull["head"]["sha"]
            if sha in self.told:
                continue
            state = "failure" if BUG in self._features(sha) else "success"
            body = {"context": CHECK, "state": state, "description": "checked"}
            self.owner.ask("POST", f"{self.api}/statuses/{sha}", body, status=201)
            self.told[sha] = state

    def _features(self, sha: str) -> str:
        paths = [entry["path"] for entry in self.owner.get(f"{self.api}/contents/features", ref=sha)]
        files = (self.owner.get(f"{self.api}/contents/{path}", ref=sha) for path in paths)
        return "\n".join(base64.b64decode(file["content"]).decode() for file in files)

    # --- what the forge shows --------------------------------------------------------------------

    def is_done(self, number: int) -> bool:
        """Tell whether an issue is closed, no task is left, and nothing is owed to the forge any more.

        The forge closes it at the merge. The store is read after that: until the after-care is noted, the merge has a
        link that has not ended.
        """
        if self.owner.get(f"{self.api}/issues/{number}")["state"] != "closed":
            return False
        with self.deployment.store.reading() as tx:
            ended = all(task.state.is_final for task in tx.list_tasks(repo=self.repo))
            return ended and not tx.list_effects(only_owed=True, limit=1)

    def marks(self, number: int) -> list[str]:
        """Return the marks of our comments."""
        comments = self.owner.get(f"{self.api}/issues/{number}/comments")
        return [c["body"].partition(_MARK)[2] for c in comments if _MARK in c["body"]]

    def pull(self) -> dict[str, Any]:
        """Return the only pull request, which is closed."""
        (found,) = self.owner.get(f"{self.api}/pulls", state="all")
        return dict(found)

    def reviews(self, number: int) -> list[tuple[str, str]]:
        """Return state and commit of each review, oldest first."""
        found = sorted(self.owner.get(f"{self.api}/pulls/{number}/reviews"), key=lambda one: one["id"])
        return [(one["state"], one["commit_id"]) for one in found]

    def branches(self) -> list[str]:
        """Return the names of the branches."""
        return [branch["name"] for branch in self.owner.get(f"{self.api}/branches")]

    def merged_into_main(self) -> list[str]:
        """Return the parents of the commit that main is on."""
        tip = self.owner.get(f"{self.api}/branches/main")["commit"]["id"]
        return [parent["sha"] for parent in self.owner.get(f"{self.api}/git/commits/{tip}")["parents"]]


@contextmanager
def street(place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Street]:
    """Make everything from nothing; at the end, or when that fails midway, nothing of it is left on the forge."""
    mark = secrets.token_hex(4)
    logins = {name: f"e-{name}-{mark}" for name in TYPES}
    everybody = [f"e-owner-{mark}", f"e-stranger-{mark}", *logins.values()]
    with ExitStack() as undo:
        root = place.root()
        undo.callback(root.close)
        undo.callback(_move_out, root, everybody)
        owner, stranger = (move_in(root, place.connect, login) for login in everybody[:2])
        for account in (owner, stranger):
            undo.callback(account.close)
        body = {"name": f"r-{mark}", "private": False, "auto_init": True, "default_branch": "main"}
        repo: str = owner.ask("POST", "/user/repos", body, status=201)["full_name"]
        undo.callback(owner.call, "DELETE", f"/repos/{repo}")
        deployment = _set_up(place, folder, monkeypatch, repo=repo, logins=logins)
        undo.callback(deployment.store.close)
        script = folder / "script.json"
        yield Street(owner=owner, stranger=stranger, repo=repo, logins=logins, deployment=deployment, script=script)


def _set_up(
    place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch, *, repo: str, logins: Mapping[str, str]
) -> Deployment:
    """Write a configuration, and let `forgepool init` make all that it needs on the forge."""
    folder.mkdir()
    # The command line sets the variable for its children; this puts it back.
    monkeypatch.setenv(CONFIG_ENV, str(folder / "forgepool.toml"))
    port = free_port()
    # The forge may know this machine by a name or an address that it does not have itself.
    bind = "127.0.0.1" if is_loopback(place.host) else "0.0.0.0"  # noqa: S104 - the forge is elsewhere
    service = {
        "forge_url": place.url,
        "repos": [repo],
        "listen": f"{bind}:{port}",
        "flower_listen": "",
        "reconcile_s": 0.5,
        "forge_poll_s": place.poll_s,
        "forge_rate": 50,
        "ci_grace_s": 20,
        "settle_s": 5,
        "drain_s": 5,
    }
    deployment = Deployment.make(folder, types=_types(logins), **service)
    try:
        monkeypatch.setenv(ADMIN_ENV, place.token)
        # Ends with 1, which is refused here, when anything is left to a person.
        deployment.json("init", "--yes", "--hook-url", f"http://{place.host}:{port}")
        with deployment.store.writing() as tx:
            for name in TYPES:
                tx.add_instance(f"{name}-alpha", name)
    except BaseException:
        deployment.store.close()
        raise
    return deployment


def _types(logins: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "webapp.demo.agent"]
    more: dict[str, Any] = {"command": command, "pass_env": ["DEMO_TRACE", "DEMO_SCRIPT"]}
    return {
        name: type_table(name, forge_user=login, token_file=f"{name}.token", **more) for name, login in logins.items()
    }


def _move_out(root: Account, everybody: Sequence[str]) -> None:
    """Remove accounts, with all that they have, and make sure that they are gone."""
    for login in everybody:
        root.call("DELETE", f"/admin/users/{login}", purge="true")
    left = [login for login in everybody if root.call("GET", f"/users/{login}").status_code != 404]
    assert not left, f"still on the forge: {', '.join(left)}"
