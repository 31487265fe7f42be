"""From an assigned issue to a merged pull request: `init`, the real engine, scripted agents, on each kind of forge.

Everything goes over REST, git and webhooks, so that it is the same on a real Forgejo or Gitea. There is no runner
there; the test plays an outside check by commit statuses.
"""

import base64
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.settings import CONFIG_ENV, Settings
from tests.forge import conftest
from tests.forge.driver import SCOPES, Account
from tests.helpers.config import Deployment, type_table
from tests.helpers.ports import free_port
from webapp.standin.forge import StandInForge
from webapp.up import House

pytestmark = pytest.mark.engine

ADMIN = "FORGEPOOL_ADMIN_TOKEN"
BUG = "BROKEN"
PATIENCE_S = 240.0
TYPES = ("dev", "reviewer", "boss")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A forge, one of its administrators, and how it reaches this machine."""

    url: str
    token: str
    host: str

    def account(self, token: str, login: str) -> Account:
        """Return an account by its token."""
        headers = {"Authorization": f"token {token}"}
        return Account(login, httpx.Client(base_url=self.url.rstrip("/"), headers=headers, timeout=30))


@pytest.fixture(params=["standin", "real"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Return each kind of forge."""
    if request.param == "real":
        conftest.need_real()
        yield Place(url=conftest.URL, token=conftest.token(), host=conftest.HOOK_HOST)
        return
    with StandInForge(tmp_path / "forge", secret=b"of nobody", checking_s=0.2) as forge:
        yield Place(url=forge.url, token=forge.create_user("root", is_admin=True), host="127.0.0.1")


class Street:
    """One owner with one repository, and a deployment that serves it."""

    def __init__(self, place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mark = secrets.token_hex(4)
        self.root = place.account(place.token, "root")
        self.owner = self._move_in(place, f"e-owner-{mark}")
        self.stranger = self._move_in(place, f"e-stranger-{mark}")
        self.logins = {name: f"e-{name}-{mark}" for name in TYPES}
        body = {"name": f"r-{mark}", "private": False, "auto_init": True, "default_branch": "main"}
        self.owner.ask("POST", "/user/repos", body, status=201)
        self.repo = f"{self.owner.login}/r-{mark}"
        self.api = f"/repos/{self.repo}"
        self.script = folder / "script.json"
        folder.mkdir(exist_ok=True)
        monkeypatch.setenv(CONFIG_ENV, str(folder / "forgepool.toml"))
        self.deployment = Deployment.make(folder, types=self._types(), **self._service(place))
        monkeypatch.setenv(ADMIN, place.token)
        self.lines: list[dict[str, Any]] = self.deployment.json("init", "--yes")["lines"]
        with self.deployment.store.writing() as tx:
            for name in TYPES:
                tx.add_instance(f"{name}-alpha", name)

    def _move_in(self, place: Place, login: str) -> Account:
        password = secrets.token_hex(16)
        body = {"username": login, "email": f"{login}@example.org", "password": password, "must_change_password": False}
        self.root.ask("POST", "/admin/users", body, status=201)
        with httpx.Client(base_url=place.url.rstrip("/"), auth=(login, password), timeout=30) as client:
            answer = client.post(f"/api/v1/users/{login}/tokens", json={"name": "tests", "scopes": list(SCOPES)})
        assert answer.status_code == 201, answer.text
        return place.account(answer.json()["sha1"], login)

    def _types(self) -> dict[str, dict[str, Any]]:
        command = [sys.executable, "-m", "webapp.demo.agent"]
        more: dict[str, Any] = {"command": command, "pass_env": ["DEMO_TRACE", "DEMO_SCRIPT"]}
        return {
            name: type_table(name, forge_user=self.logins[name], token_file=f"{name}.token", **more) for name in TYPES
        }

    def _service(self, place: Place) -> dict[str, Any]:
        return {
            "forge_url": place.url,
            "repos": [self.repo],
            "listen": f"{place.host}:{free_port()}",
            "flower_listen": "",
            "reconcile_s": 0.5,
            "forge_poll_s": 3,
            "forge_rate": 50,
            "ci_grace_s": 20,
            "settle_s": 5,
            "drain_s": 5,
        }

    @contextmanager
    def open(self) -> Iterator[House]:
        """Run the whole engine."""
        trace = self.script.with_name("trace")
        environ = {**os.environ, "DEMO_TRACE": str(trace), "DEMO_SCRIPT": str(self.script), "PYTHONWARNINGS": "ignore"}
        environ.pop(ADMIN, None)
        with House(Settings.load(self.deployment.path), environ=environ) as house:
            house.start()
            yield house

    def close(self) -> None:
        """Remove what was made."""
        self.owner.call("DELETE", self.api)
        for login in (*self.logins.values(), self.owner.login, self.stranger.login):
            self.root.call("DELETE", f"/admin/users/{login}", purge="true")
        for account in (self.owner, self.stranger, self.root):
            account.close()
        self.deployment.store.close()

    # --- what people and checks do ---------------------------------------------------------------

    def issue(self, *mistakes: str) -> int:
        """Open an issue; its agents make these mistakes."""
        number: int = self.owner.ask("POST", f"{self.api}/issues", {"title": "Sell tea"}, status=201)["number"]
        self.script.write_text(json.dumps({f"{self.repo}#{number}": mistakes}), encoding="utf-8")
        return number

    def assign(self, number: int) -> None:
        """Assign an issue to dev."""
        self.owner.ask("PATCH", f"{self.api}/issues/{number}", {"assignees": [self.logins["dev"]]}, status=201)

    def say(self, number: int, text: str, *, by: Account | None = None) -> None:
        """Write a comment."""
        (by or self.owner).ask("POST", f"{self.api}/issues/{number}/comments", {"body": text}, status=201)

    def check(self) -> None:
        """Run the outside check on each head that has none yet."""
        for pull in self.owner.get(f"{self.api}/pulls", state="open"):
            sha = pull["head"]["sha"]
            if any(one["context"] == "outside" for one in self.owner.get(f"{self.api}/commits/{sha}/statuses")):
                continue
            state = "failure" if BUG in self._features(sha) else "success"
            body = {"context": "outside", "state": state, "description": "checked", "target_url": ""}
            self.owner.ask("POST", f"{self.api}/statuses/{sha}", body, status=201)

    def _features(self, sha: str) -> str:
        found = self.owner.call("GET", f"{self.api}/contents/features", ref=sha)
        names = [entry["name"] for entry in found.json()] if found.status_code == 200 else []
        files = (self.owner.get(f"{self.api}/contents/features/{name}", ref=sha) for name in names)
        return "\n".join(base64.b64decode(file["content"]).decode() for file in files)

    def until(self, house: House, condition: Any) -> None:
        """Let time pass, and checks run, until a condition is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.deployment.run("tasks", "list").stdout
            house.tend()
            self.check()
            time.sleep(0.2)

    def is_closed(self, number: int) -> bool:
        """Tell whether an issue is closed, and nothing is owed about it any more."""
        with self.deployment.store.reading() as tx:
            owed = tx.list_effects(only_owed=True, limit=1)
        return bool(self.owner.get(f"{self.api}/issues/{number}")["state"] == "closed" and not owed)

    def marks(self, number: int) -> list[str]:
        """Return the marks of our comments."""
        comments = self.owner.get(f"{self.api}/issues/{number}/comments")
        return [c["body"].rpartition("<!-- forgepool:")[2] for c in comments if "<!-- forgepool:" in c["body"]]


@pytest.fixture
def street(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Street]:
    """Return a deployment on that forge, set up by `forgepool init`."""
    made = Street(place, tmp_path / "pool", monkeypatch)
    yield made
    made.close()


def _assert_merged(street: Street, issue: int) -> list[dict[str, Any]]:
    """Hold what the forge shows at the end; return the reviews."""
    (pull,) = street.owner.get(f"{street.api}/pulls", state="closed")
    reviews: list[dict[str, Any]] = street.owner.get(f"{street.api}/pulls/{pull['number']}/reviews")
    approved = {review["commit_id"] for review in reviews if review["state"] == "APPROVED"}
    assert pull["merged"]
    assert pull["head"]["sha"] in approved
    assert [branch["name"] for branch in street.owner.get(f"{street.api}/branches")] == ["main"]
    for number in (issue, pull["number"]):
        marks = street.marks(number)
        assert marks
        assert len(set(marks)) == len(marks)
    return reviews


def test_an_assigned_issue_becomes_a_merged_pull_request(street: Street) -> None:
    """By way of a red check and a review that asked for changes."""
    assert not [line for line in street.lines if line["outcome"] == "YOU"]
    issue = street.issue("red-ci", "changes")

    with street.open() as house:
        street.assign(issue)
        street.until(house, lambda: street.is_closed(issue))

    states = [review["state"] for review in _assert_merged(street, issue)]
    assert {"REQUEST_CHANGES", "APPROVED"} <= set(states)


def test_the_same_comes_true_without_any_webhook(street: Street) -> None:
    for hook in street.owner.get(f"{street.api}/hooks"):
        street.owner.ask("DELETE", f"{street.api}/hooks/{hook['id']}", status=204)
    issue = street.issue()

    with street.open() as house:
        street.assign(issue)
        street.until(house, lambda: street.is_closed(issue))

    _assert_merged(street, issue)
    with street.deployment.store.reading() as tx:
        assert tx.repair_counts()["untold"].count > 0


def test_the_owner_steers_by_comments_and_a_stranger_does_not(street: Street) -> None:
    issue = street.issue()

    def orders() -> dict[str, str]:
        with street.deployment.store.reading() as tx:
            return {order.by: order.answer for order in tx.list_orders(street.repo, issue) if order.done_at}

    with street.open() as house:
        street.say(issue, "/forgepool hold")
        street.until(house, lambda: street.owner.login in orders())
        street.assign(issue)
        street.say(issue, "/forgepool go", by=street.stranger)
        street.until(house, lambda: street.stranger.login in orders())
        with street.deployment.store.reading() as tx:
            assert tx.list_tasks(repo=street.repo) == []
        street.say(issue, "/forgepool go")
        street.until(house, lambda: street.is_closed(issue))

    assert "write access" in orders()[street.stranger.login]
    _assert_merged(street, issue)
