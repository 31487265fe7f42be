"""`forgepool doctor` on the forge: accounts, rights, webhooks, and the trial with a test delivery."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from pool.states import Verdict
from tasks.engine import Engine
from tasks.settings import Settings
from tests.helpers.config import SECRET, Deployment, type_table, write_config
from tests.helpers.ports import free_port
from tests.helpers.setup_house import SetupHouse
from webapp.app import create_app
from webapp.cli import checkup_forge, checkup_smoke
from webapp.cli.checkup import Check, Status

REPO = "acme/shop"
TYPES = ("boss", "dev", "reviewer")
HOOK = "https://pool.example/webhooks/forgejo"


@pytest.fixture
def house() -> Iterator[SetupHouse]:
    """Return a forge on which everything is as it must be."""
    house = SetupHouse()
    house.add_user("owner")
    repo = house.add_repo(REPO, owner="admin", **dict.fromkeys(TYPES, "write"))
    for name in TYPES:
        house.add_user(name)
    repo.hooks[1] = hook(house.known_events)
    with house.serving():
        yield house


def hook(events: tuple[str, ...], *, url: str = HOOK, **more: Any) -> dict[str, Any]:
    """Return a webhook as the forge has it."""
    config = {"url": url, "content_type": "json", "secret": SECRET}
    return {"id": 1, "type": "forgejo", "active": True, "events": list(events), "config": config, **more}


def token(house: SetupHouse, login: str) -> str:
    """Return a token of an account."""
    return next(token for token, (owner, _) in house.tokens.items() if owner == login)


@pytest.fixture
def place(cli: Deployment, house: SetupHouse) -> "Place":
    """Return a deployment of that forge."""
    return Place(cli, house)


class Place:
    """A deployment whose types have their tokens."""

    def __init__(self, cli: Deployment, house: SetupHouse) -> None:
        self.cli, self.house, self.folder = cli, house, cli.path.parent
        for name in TYPES:
            (self.folder / f"{name}.token").write_text(token(house, name))
        self.configure()

    def configure(self, **service: Any) -> None:
        """Write the configuration."""
        types = {name: type_table(name, token_file=f"{name}.token") for name in TYPES}
        values = {"forge_url": self.house.url, "merge_type": "boss", **service}
        self.settings = Settings.load(write_config(self.folder, types=types, **values))

    def check(self, *, by: str | None = "owner", is_reached: bool = True) -> list[Check]:
        """Ask the forge, with the rights of an account beside those of the types."""
        admin = token(self.house, by) if by else None
        return list(checkup_forge.examine(self.settings, admin_token=admin, is_reached=is_reached))

    def wrong(self, *, by: str | None = "owner", is_reached: bool = True) -> list[tuple[str, str, str]]:
        """Return status, name and message of what is not right; each has a remedy."""
        found = [one for one in self.check(by=by, is_reached=is_reached) if one.status is not Status.OK]
        assert all(one.remedy for one in found)
        return [(str(one.status), one.name, one.message) for one in found]


def test_nothing_is_wrong_where_everything_is_as_it_must_be(place: Place) -> None:
    assert [(one.name, one.status) for one in place.check()] == [
        ("accounts", Status.OK),
        ("rights", Status.OK),
        ("webhooks", Status.OK),
    ]


def test_looking_changes_nothing_on_the_forge(place: Place) -> None:
    place.check()

    assert place.house.changes() == []


def test_without_any_token_nothing_is_asked_of_the_forge(place: Place) -> None:
    for name in TYPES:
        (place.folder / f"{name}.token").unlink()

    (only,) = place.check(by=None)

    assert (only.name, only.status) == ("accounts", Status.OK)
    assert place.house.asked == []


def test_a_forge_that_is_away_is_one_finding(place: Place) -> None:
    place.configure(forge_url="http://127.0.0.1:1")

    ((status, name, message),) = place.wrong()

    assert (status, name) == ("fail", "accounts")
    assert "does not answer" in message


def test_what_an_older_version_lacks_is_said(place: Place) -> None:
    place.house.version, place.house.known_events = "11.0.1", ()

    (found,) = [one for one in place.check() if one.name == "forge version"]

    assert "Forgejo 11.0.1: before Forgejo 12 no webhook tells that a workflow has ended" in found.message
    assert "every 300 s" in found.remedy


# --- accounts ------------------------------------------------------------------------------------


def test_a_token_that_is_not_accepted_is_found(place: Place) -> None:
    (place.folder / "dev.token").write_text("nonsense")

    ((status, name, message),) = place.wrong()

    assert (status, name) == ("fail", "accounts")
    assert message.startswith("the token of type dev is not accepted")
    assert "nonsense" not in message


def test_a_token_of_another_type_is_found(place: Place) -> None:
    (place.folder / "reviewer.token").write_text(token(place.house, "dev"))

    assert place.wrong() == [
        ("fail", "accounts", "the token of type reviewer belongs to dev, the account of type dev, not to reviewer")
    ]


def test_an_agent_that_is_an_administrator_is_found(place: Place) -> None:
    place.house.users["dev"].is_admin = True

    ((status, _, message),) = place.wrong()

    assert (status, message.split(":")[0]) == ("warn", "dev of type dev is an administrator of the forge")


def test_a_type_without_a_token_file_is_found(place: Place) -> None:
    types = {name: type_table(name, token_file=f"{name}.token") for name in ("boss", "reviewer")}
    types["dev"] = type_table("dev")
    place.settings = Settings.load(
        write_config(place.folder, types=types, forge_url=place.house.url, merge_type="boss")
    )

    assert place.wrong() == [("warn", "accounts", "type dev has no token: its agents can neither push nor answer")]


# --- rights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("private", [False, True])
def test_an_account_that_may_not_write_is_found(place: Place, *, private: bool) -> None:
    place.house.repos[REPO].private = private
    del place.house.repos[REPO].rights["dev"]

    assert place.wrong() == [("fail", "rights", f"{REPO}: dev of type dev may not write")]


def test_a_token_with_too_few_scopes_is_found(place: Place) -> None:
    place.house.tokens[token(place.house, "dev")] = ("dev", frozenset({"read:user", "write:repository"}))

    assert place.wrong() == [("fail", "rights", "the token of dev lacks write:issue")]


def test_a_repository_that_is_not_there_is_found(place: Place) -> None:
    place.configure(repos=[REPO, "acme/gone"])

    found = place.wrong()

    assert ("fail", "rights", "acme/gone: nobody whose token is here can see such a repository") in found
    assert [one for one in found if REPO in one[2]] == []


def test_a_repository_that_cannot_be_worked_in_is_found(place: Place) -> None:
    place.house.repos[REPO].archived = True
    place.house.repos[REPO].styles = ("allow_rebase",)

    assert place.wrong() == [
        ("fail", "rights", f"{REPO} is archived: nothing can be written there"),
        ("fail", "merge style", f"{REPO} does not allow merges of the style merge"),
    ]


def test_a_star_stands_for_what_the_reporting_account_may_write_to(place: Place) -> None:
    place.configure(repos=["*"])
    place.house.add_repo("acme/more", boss="write", owner="admin")
    place.house.add_repo("acme/other", dev="write", owner="admin")

    told = [message for _, _, message in place.wrong()]

    assert "acme/more has none that goes to a forgepool" in told
    assert not [message for message in told if "acme/other" in message]


# --- webhooks ------------------------------------------------------------------------------------


def test_webhooks_that_nobody_may_look_at_are_no_failure(place: Place) -> None:
    assert place.wrong(by=None) == [("warn", "webhooks", f"{REPO}: nobody whose token is here may look at them")]


Change = Callable[[SetupHouse], None]


def without_hooks(house: SetupHouse) -> None:
    """Delete every webhook."""
    house.repos[REPO].hooks.clear()


def to_ci(house: SetupHouse) -> None:
    """Have only a webhook of somebody else."""
    house.repos[REPO].hooks[1] = hook(house.known_events, url="https://ci.example/hook")


def asleep(house: SetupHouse) -> None:
    """Switch the webhook off."""
    house.repos[REPO].hooks[1]["active"] = False


def twice(house: SetupHouse) -> None:
    """Add a second one."""
    house.repos[REPO].hooks[2] = hook(house.known_events, id=2)


def as_form(house: SetupHouse) -> None:
    """Let it send forms."""
    house.repos[REPO].hooks[1]["config"]["content_type"] = "form"


def deaf(house: SetupHouse) -> None:
    """Let it tell of nothing but reviews and pushes."""
    kept = tuple(event for event in house.known_events if event != "pull_request_review")
    house.repos[REPO].hooks[1]["events"] = list(kept)


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        (without_hooks, "fail", "has none that goes to a forgepool"),
        (to_ci, "fail", "has none that goes to a forgepool"),
        (asleep, "fail", f"the one to {HOOK} is asleep"),
        (twice, "warn", f"has 2, to {HOOK}, {HOOK}: everything is told twice"),
        (as_form, "fail", "it sends form, and only JSON is taken"),
        (deaf, "warn", "it does not tell of pull_request_review: reviews are noticed late"),
    ],
)
def test_a_webhook_that_is_not_as_it_must_be_is_found(place: Place, change: Change, status: str, sentence: str) -> None:
    change(place.house)

    ((found, name, message),) = place.wrong()

    assert (found, name) == (status, "webhooks")
    assert sentence in message


def test_an_address_inside_is_explained_until_something_arrives(place: Place) -> None:
    inside = "http://192.168.1.9:8420/webhooks/forgejo"
    place.house.repos[REPO].hooks[1]["config"]["url"] = inside

    (found,) = [one for one in place.check(is_reached=False) if one.name == "webhooks"]

    assert f"{inside} is an address inside of a network" in found.message
    assert "ALLOWED_HOST_LIST" in found.remedy
    assert place.wrong(is_reached=True) == []


def test_the_command_asks_the_forge_and_shows_no_token(place: Place, tmp_path: Path) -> None:
    (tmp_path / "owner.token").write_text(token(place.house, "owner"))

    shown = place.cli.run("doctor", "--admin-token-file", str(tmp_path / "owner.token")).stdout

    assert "ok    webhooks: one in every repository" in shown
    assert not [secret for secret in place.house.tokens if secret in shown]


# --- the trial -----------------------------------------------------------------------------------


@contextmanager
def door(settings: Settings, cli: Deployment) -> Iterator[None]:
    """Serve the web app where the configuration says."""
    host, _, port = settings.service.listen.partition(":")
    app = create_app(Engine(settings, cli.store, cli.bell))
    server = make_server(host, int(port), app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def trial(place: Place) -> Iterator[Place]:
    """Return a deployment whose door is open, and whose webhook leads to it."""
    port = free_port()
    place.configure(listen=f"127.0.0.1:{port}")
    place.house.repos[REPO].hooks[1]["config"]["url"] = f"http://127.0.0.1:{port}/webhooks/forgejo"
    with door(place.settings, cli=place.cli):
        yield place


def smoke(place: Place, *, by: str | None = "owner", deadline_s: float = 5) -> list[Check]:
    """Try every repository."""
    admin = token(place.house, by) if by else None
    trial = checkup_smoke.Smoke(
        settings=place.settings, store=place.cli.store, admin_token=admin, deadline_s=deadline_s
    )
    return list(trial.examine())


def test_a_test_delivery_is_seen_to_arrive(trial: Place) -> None:
    (found,) = smoke(trial)

    assert found.status is Status.OK
    assert found.message.startswith(f"{REPO}: a test delivery arrived after ")
    with trial.cli.store.reading() as tx:
        (receipt,) = tx.list_deliveries()
    assert (receipt.event_type, receipt.verdict) == ("push", Verdict.IGNORED)


def test_a_wrong_secret_is_named_at_once(trial: Place) -> None:
    trial.house.delivers = "wrong secret"

    (found,) = smoke(trial)

    assert found.status is Status.FAIL
    assert "was refused" in found.message
    assert "the secret is another one" in found.remedy


def test_when_nothing_arrives_the_likely_causes_are_named_in_their_order(trial: Place) -> None:
    trial.house.delivers = "no"

    (found,) = smoke(trial, deadline_s=0)

    assert found.status is Status.FAIL
    assert f"{REPO}: no test delivery to http://127.0.0.1" in found.message
    assert found.remedy.index("ALLOWED_HOST_LIST") < found.remedy.index("does not lead to this service")


def test_the_deadline_is_kept_and_no_longer(trial: Place) -> None:
    trial.house.delivers = "no"
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    one = checkup_smoke.Smoke(
        settings=trial.settings,
        store=trial.cli.store,
        admin_token=token(trial.house, "owner"),
        monotonic=lambda: now[0],
        sleep=sleep,
    )

    assert [found.status for found in one.examine()] == [Status.FAIL]
    assert checkup_smoke.DEADLINE_S <= now[0] < checkup_smoke.DEADLINE_S + 1


def test_an_older_delivery_is_no_proof(trial: Place) -> None:
    smoke(trial)
    trial.house.delivers = "no"

    assert [found.status for found in smoke(trial, deadline_s=0)] == [Status.FAIL]


def test_an_empty_repository_cannot_be_tried(trial: Place) -> None:
    trial.house.repos[REPO].empty = True

    assert [found.status for found in smoke(trial)] == [Status.WARN]


@pytest.mark.parametrize("change", [without_hooks, asleep])
def test_without_a_webhook_there_is_nothing_to_try(trial: Place, change: Change) -> None:
    change(trial.house)

    (found,) = smoke(trial)

    assert (found.status, found.remedy) == (Status.FAIL, "`forgepool init` sees to it")


def test_the_trial_needs_the_rights_of_an_owner(trial: Place) -> None:
    (found,) = smoke(trial, by=None)

    assert found.status is Status.FAIL
    assert "--admin-token-file" in found.remedy


def test_a_service_that_does_not_run_cannot_be_tried(place: Place) -> None:
    place.configure(listen=f"127.0.0.1:{free_port()}")

    (found,) = smoke(place)

    assert (found.status, found.remedy) == (Status.FAIL, "`forgepool up`")
    assert place.house.asked == []


def test_what_init_has_made_passes_the_trial(
    cli: Deployment, house: SetupHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.repos[REPO] = type(house.repos[REPO])(REPO)
    house.users = {}
    admin = house.add_user("root", is_admin=True)
    folder, port = cli.path.parent, free_port()
    types = {name: type_table(name, token_file=f"{name}.token") for name in TYPES}
    write_config(folder, types=types, forge_url=house.url, merge_type="boss", listen=f"127.0.0.1:{port}")

    monkeypatch.setenv("FORGEPOOL_ADMIN_TOKEN", admin)
    cli.run("init", "--yes")
    with door(Settings.load(cli.path), cli):
        monkeypatch.setenv("FORGEPOOL_ADMIN_TOKEN", admin)
        checks = cli.json("doctor", "--smoke")["checks"]

    by_name = {one["name"]: one for one in checks}
    assert [by_name[name]["status"] for name in ("accounts", "rights", "webhooks", "smoke")] == ["ok"] * 4
    assert by_name["smoke"]["message"].startswith(f"{REPO}: a test delivery arrived")
