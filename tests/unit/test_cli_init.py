"""`forgepool init`: from nothing to a deployment, told line by line, and again without harm."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tasks.settings import CONFIG_ENV, Settings
from tests.helpers.setup_house import SetupHouse
from webapp.cli import main
from webapp.cli.setup_scene import HookAddress, hook_address

REPO = "acme/shop"
TYPES = ("dev", "reviewer", "boss")


@pytest.fixture(autouse=True)
def _variables_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what the command takes out of the environment."""
    monkeypatch.setenv(CONFIG_ENV, "-")
    monkeypatch.delenv(CONFIG_ENV)


@pytest.fixture
def house() -> Iterator[SetupHouse]:
    """Return a forge with an owner and a repository of theirs."""
    house = SetupHouse()
    house.add_repo(REPO, owner="admin")
    house.add_user("owner")
    house.add_user("root", is_admin=True)
    with house.serving():
        yield house


class Place:
    """A folder, and `forgepool init` called on it."""

    def __init__(self, folder: Path, house: SetupHouse) -> None:
        self.folder, self.house = folder, house
        self.said = ""  #: everything that was ever printed

    def call(self, *options: str, token: str = "", status: int = 0, **more: Any) -> Result:
        """Call the command; it must end with `status`."""
        given: list[str] = []
        if token:
            path = self.folder.parent / "admin.token"
            path.write_text(token + "\n")
            given = ["--admin-token-file", str(path)]
        options = ("--dir", str(self.folder), "--forge", self.house.url, "--repo", REPO, *given, *options)
        result = CliRunner().invoke(main, ["init", *options], **more)
        self.said += result.output
        if isinstance(result.exception, Exception):
            raise result.exception
        assert result.exit_code == status, result.output
        return result

    def lines(self, *options: str, token: str = "", status: int = 0) -> list[tuple[str, str, str]]:
        """Call the command; return outcome, text and step of each line."""
        answer = json.loads(self.call(*options, "--yes", "--json", token=token, status=status).stdout)
        assert answer["ok"] is (status == 0)
        return [(one["outcome"], one["text"], one["step"]) for one in answer["lines"]]

    def told(self, outcome: str, *options: str, token: str = "", status: int = 0) -> list[str]:
        """Call the command; return the texts of one outcome."""
        return [text for one, text, _ in self.lines(*options, token=token, status=status) if one == outcome]

    def token_of(self, name: str) -> str:
        """Return what is in the token file of a type."""
        return (self.folder / "secrets" / f"{name}.token").read_text().strip()


@pytest.fixture
def place(tmp_path: Path, house: SetupHouse) -> Place:
    """Return an empty folder."""
    return Place(tmp_path / "pool", house)


def root(house: SetupHouse) -> str:
    """Return the token of the site's administrator."""
    return next(token for token, (login, _) in house.tokens.items() if login == "root")


def owner(house: SetupHouse) -> str:
    """Return the token of the repository's owner."""
    return next(token for token, (login, _) in house.tokens.items() if login == "owner")


# --- from nothing --------------------------------------------------------------------------------


def test_an_administrators_token_makes_everything(place: Place, house: SetupHouse) -> None:
    told = place.lines(token=root(house))

    settings = Settings.load(place.folder / "forgepool.toml")
    repo = house.repos[REPO]
    (hook,) = repo.hooks.values()
    assert settings.service.repos == (REPO,)
    assert settings.missing_files() == []
    for name in TYPES:
        login, scopes = house.tokens[place.token_of(name)]
        assert (login, scopes) == (name, frozenset({"write:repository", "write:issue", "read:user"}))
        assert not house.users[name].is_admin
        path = place.folder / "secrets" / f"{name}.token"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert repo.rights[name] == "write"
    assert set(repo.labels) == {"forgepool/hold", "forgepool/needs-a-person"}
    assert hook["type"] == "forgejo"
    assert hook["config"]["content_type"] == "json"
    assert hook["config"]["secret"].encode() == settings.webhook_secret()
    assert hook["config"]["url"] == "http://127.0.0.1:8420/webhooks/forgejo"
    assert hook["active"]
    assert not [text for outcome, text, _ in told if outcome == "YOU"]
    assert not list((place.folder / "secrets").glob(".*.token*"))


def test_a_second_call_changes_nothing_but_the_hook(place: Place, house: SetupHouse) -> None:
    place.lines(token=root(house))
    before = {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    house.asked.clear()

    created = place.told("created", token=root(house))

    assert created == [f"{REPO}: webhook 2 to http://127.0.0.1:8420/webhooks/forgejo in place of an older one"]
    assert house.changes() == [f"POST /api/v1/repos/{REPO}/hooks", f"DELETE /api/v1/repos/{REPO}/hooks/1"]
    assert list(house.repos[REPO].hooks) == [2]
    assert {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()} == before


def test_no_secret_is_ever_printed_or_on_the_way_to_others(place: Place, house: SetupHouse) -> None:
    place.call("--yes", token=root(house))
    place.lines(token=root(house))

    secrets = [*house.tokens, (place.folder / "secrets" / "webhook").read_text().strip()]
    secrets += [user.password for user in house.users.values() if user.password]
    assert len(secrets) >= 9
    assert not [secret for secret in secrets if secret in place.said]


def test_the_administrators_token_from_the_environment_is_taken_out_of_it(
    place: Place, house: SetupHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGEPOOL_ADMIN_TOKEN", root(house))

    place.lines()

    assert "FORGEPOOL_ADMIN_TOKEN" not in os.environ
    assert house.tokens[place.token_of("dev")][0] == "dev"


def test_a_person_is_asked_before_anything_is_changed_on_the_forge(place: Place, house: SetupHouse) -> None:
    refused = place.call(token=root(house), input="n\n", status=130)
    changed = house.changes()
    place.call(token=root(house), input="y\n")

    assert f"Set up {REPO} there as root?" in refused.output
    assert changed == []
    assert house.repos[REPO].hooks
    assert "give --yes" in place.call("--json", token=root(house), status=2).output


def test_only_the_named_types_are_set_up(place: Place, house: SetupHouse) -> None:
    place.lines("--type", "dev", token=root(house))

    assert "dev" in house.users
    assert "boss" not in house.users
    assert "known: dev, reviewer, boss" in place.call("--type", "x", "--yes", status=2).output


def test_each_thing_is_one_line_and_what_is_left_has_a_step(place: Place, house: SetupHouse) -> None:
    shown = place.call("--yes", status=1).output

    assert "created    configuration " in shown
    assert "was there  Forgejo 13.0.1" in shown
    assert "YOU        there is no account dev, and no administrator's token was given" in shown
    assert "->" in shown
    assert "9 things are left to you" in shown


# --- with less -----------------------------------------------------------------------------------


def test_without_any_rights_everything_that_is_missing_is_said(place: Place, house: SetupHouse) -> None:
    house.repos[REPO].private = True

    told = place.told("YOU", status=1)

    assert sum("there is no account" in text for text in told) == 3
    assert f"{REPO}: nobody whose token is here can see such a repository" in told
    assert house.changes() == []


def test_what_has_to_be_done_by_hand_is_told_exactly(place: Place, house: SetupHouse) -> None:
    told = {text: step for outcome, text, step in place.lines(status=1) if outcome == "YOU"}

    step = told[f"{REPO}: nobody whose token is here may add a webhook"]
    assert f"the type forgejo at {house.url}/{REPO}/settings/hooks" in step
    assert f"{place.folder / 'secrets' / 'webhook'}" in step
    assert f"{house.url}/{REPO}/labels" in told[f"{REPO}: there is no label forgepool/hold"]
    assert house.changes() == [f"POST /api/v1/repos/{REPO}/labels"] * 2


def test_an_owner_makes_all_but_the_accounts(place: Place, house: SetupHouse) -> None:
    told = place.told("YOU", token=owner(house), status=1)

    assert "there is no account dev, and owner is no administrator of the forge" in told
    assert house.repos[REPO].hooks
    assert len(house.repos[REPO].labels) == 2
    assert "dev" not in house.users


def give(place: Place, house: SetupHouse, **tokens: str) -> None:
    """Write the configuration and token files by hand."""
    place.call("--yes", status=1)
    for name, token in tokens.items():
        (place.folder / "secrets" / f"{name}.token").write_text(token)
    house.asked.clear()


def test_accounts_that_are_there_with_their_tokens_are_only_let_in(place: Place, house: SetupHouse) -> None:
    give(place, house, **{name: house.add_user(name) for name in TYPES})

    told = place.lines(token=owner(house))

    assert [text for outcome, text, _ in told if text.startswith("account")] == [
        f"account {name} of type {name}, with a token that works" for name in TYPES
    ]
    assert {house.repos[REPO].rights[name] for name in TYPES} == {"write"}
    # They were written with the modes of an editor.
    assert stat.S_IMODE((place.folder / "secrets" / "dev.token").stat().st_mode) == 0o600


def test_an_account_of_an_agent_that_owns_the_repository_needs_nobody_else(place: Place, house: SetupHouse) -> None:
    give(place, house, **{name: house.add_user(name) for name in TYPES})
    house.repos[REPO].rights = {"boss": "admin", "dev": "write", "reviewer": "write"}

    place.lines()

    assert house.repos[REPO].hooks


def test_a_stranger_with_the_name_of_a_type_is_never_let_in(place: Place, house: SetupHouse) -> None:
    house.add_user("dev")

    told = place.lines(token=root(house), status=1)

    assert "dev" not in house.repos[REPO].rights
    (step,) = [step for _, text, step in told if text.startswith("dev has an account, but there is no token")]
    assert "/user/settings/applications" in step
    assert "install -m 600 /dev/stdin" in step


def test_a_token_of_somebody_else_is_found(place: Place, house: SetupHouse) -> None:
    give(place, house, dev=house.add_user("ana"))

    told = place.told("YOU", token=root(house), status=1)

    assert [text for text in told if "belongs to ana, not to dev" in text]
    assert "dev" not in house.repos[REPO].rights
    assert "ana" not in house.repos[REPO].rights


def test_a_token_that_is_not_accepted_is_found(place: Place, house: SetupHouse) -> None:
    give(place, house, dev="nonsense")

    assert [text for text in place.told("YOU", token=root(house), status=1) if "is not accepted" in text]
    assert "nonsense" not in place.said


def test_a_token_with_too_few_scopes_is_found(place: Place, house: SetupHouse) -> None:
    give(place, house, dev=house.add_user("dev", scopes=frozenset({"read:user", "write:issue"})))
    house.repos[REPO].rights["dev"] = "write"

    told = place.told("YOU", token=root(house), status=1)

    assert told == ["the token of dev lacks write:repository"]


def test_an_account_whose_token_cannot_be_made_is_taken_back(place: Place, house: SetupHouse) -> None:
    house.has_basic = False

    told = place.told("YOU", token=root(house), status=1)

    assert [text for text in told if text.startswith("the account of dev: POST /v1/users/dev/tokens: ")]
    assert set(house.users) == {"owner", "root"}
    assert not list((place.folder / "secrets").glob("*.token"))


# --- the hook ------------------------------------------------------------------------------------


def test_a_hook_of_somebody_else_stays(place: Place, house: SetupHouse) -> None:
    place.lines(token=root(house))
    for number, url in ((51, "https://ci.example/hook"), (52, "https://old.example/webhooks/forgejo")):
        hook = {**house.repos[REPO].hooks[1], "id": number, "config": {"url": url}}
        house.repos[REPO].hooks[number] = hook

    notes = place.told("note", token=root(house))

    assert set(house.repos[REPO].hooks) == {51, 52, 2}
    assert [text for text in notes if "webhook 52 goes to https://old.example" in text]
    assert not [text for text in notes if "webhook 51" in text]


def test_events_that_the_forge_does_not_know_are_told_with_what_that_means(place: Place, house: SetupHouse) -> None:
    house.known_events = tuple(event for event in house.known_events if event != "pull_request_review")

    notes = place.told("note", token=root(house))

    assert f"{REPO}: this forge does not tell of pull_request_review: reviews are noticed late" in notes


def test_an_older_forgejo_says_what_it_lacks(place: Place, house: SetupHouse) -> None:
    house.version, house.known_events = "11.0.3", tuple(e for e in house.known_events if "action" not in e)

    notes = place.told("note", token=root(house))

    assert [text for text in notes if "before Forgejo 12" in text]
    assert not [text for text in notes if "does not tell of" in text]


def test_a_gitea_gets_a_hook_of_its_own_type_and_events(place: Place, house: SetupHouse) -> None:
    house.is_forgejo, house.version = False, "1.25.2"
    house.known_events = (*(e for e in house.known_events if "action" not in e), "status")

    place.lines(token=root(house))

    (hook,) = house.repos[REPO].hooks.values()
    assert hook["type"] == "gitea"
    assert "status" in hook["events"]


def test_a_hook_that_stays_asleep_is_left_to_a_person(place: Place, house: SetupHouse) -> None:
    house.wakes_hooks = False

    assert f"{REPO}: the forge left the webhook asleep" in place.told("YOU", token=root(house), status=1)


def test_an_address_inside_of_a_network_needs_the_forges_list_of_hosts(place: Place, house: SetupHouse) -> None:
    told = place.lines("--hook-url", "http://10.0.0.9:8420", token=root(house))

    (step,) = [step for outcome, text, step in told if outcome == "note" and "10.0.0.9" in text]
    assert "ALLOWED_HOST_LIST" in step
    (hook,) = house.repos[REPO].hooks.values()
    assert hook["config"]["url"] == "http://10.0.0.9:8420/webhooks/forgejo"


@pytest.mark.parametrize(
    ("forge", "listen", "given", "expected"),
    [
        ("https://forge.example", "127.0.0.1:8420", None, None),
        ("https://forge.example", "0.0.0.0:8420", None, None),
        ("https://forge.example", "10.0.0.9:80", None, "http://10.0.0.9:80/webhooks/forgejo"),
        ("http://localhost:3000", "0.0.0.0:8420", None, "http://127.0.0.1:8420/webhooks/forgejo"),
        ("https://forge.example", "127.0.0.1:1", "https://p.example/", "https://p.example/webhooks/forgejo"),
        ("https://forge.example", "127.0.0.1:1", "https://p.example/webhooks", "https://p.example/webhooks"),
    ],
)
def test_the_address_of_the_hook_is_known_or_asked_for(
    tmp_path: Path, forge: str, listen: str, given: str | None, expected: str | None
) -> None:
    text = f'[service]\nforge_url = "{forge}"\nlisten = "{listen}"\nrepos = ["a/b"]\nwebhook_secret_file = "s"\n'
    text += '[types.dev]\nforge_user = "dev"\ngit_name = "d"\ngit_email = "d@e"\ncommand = ["true"]\n'
    (tmp_path / "forgepool.toml").write_text(text)

    found = hook_address(Settings.load(tmp_path / "forgepool.toml"), given)
    assert found == HookAddress(url=expected, is_given=given is not None)


def test_who_said_once_where_the_service_is_need_not_say_it_again(place: Place, house: SetupHouse) -> None:
    """A second call without the option made a second webhook, to where nobody listened."""
    place.lines("--hook-url", "https://pool.example", token=root(house))
    told = place.lines(token=root(house))

    (hook,) = house.repos[REPO].hooks.values()
    assert hook["config"]["url"] == "https://pool.example/webhooks/forgejo"
    assert not [text for outcome, text, _ in told if outcome == "note" and "inside of a network" in text]


def test_who_says_another_address_is_told_of_the_old_webhook(place: Place, house: SetupHouse) -> None:
    place.lines("--hook-url", "https://old.example", token=root(house))
    notes = place.told("note", "--hook-url", "https://pool.example", token=root(house))

    assert [text for text in notes if "goes to https://old.example" in text]
    urls = {hook["config"]["url"] for hook in house.repos[REPO].hooks.values()}
    assert urls == {"https://old.example/webhooks/forgejo", "https://pool.example/webhooks/forgejo"}


# --- what does not fit ---------------------------------------------------------------------------


def test_nothing_of_one_forge_goes_to_another(place: Place, house: SetupHouse) -> None:
    place.lines(token=root(house))
    house.asked.clear()

    told = place.told("YOU", "--forge", "https://other.example", token=root(house), status=1)

    assert told == [f"forgepool.toml is for {house.url}, not for https://other.example"]
    assert house.asked == []


def test_a_repository_that_is_not_configured_is_left_to_a_person(place: Place, house: SetupHouse) -> None:
    place.lines(token=root(house))
    house.add_repo("acme/more", owner="admin")

    told = place.told("YOU", "--repo", "acme/more", token=root(house), status=1)

    assert told == ["acme/more is not among the repositories of forgepool.toml"]
    assert house.repos["acme/more"].hooks


@pytest.mark.parametrize("flaw", ["archived", "styles"])
def test_a_repository_that_cannot_be_worked_in_is_found(place: Place, house: SetupHouse, flaw: str) -> None:
    setattr(house.repos[REPO], flaw, {"archived": True, "styles": ("allow_squash_merge",)}[flaw])

    told = place.told("YOU", token=root(house), status=1)

    assert [text for text in told if "is archived" in text or "does not allow merges of the style merge" in text]


def test_a_lost_secret_is_made_anew(place: Place, house: SetupHouse) -> None:
    place.lines(token=root(house))
    (place.folder / "secrets" / "webhook").unlink()

    place.lines(token=root(house))

    (hook,) = house.repos[REPO].hooks.values()
    assert hook["config"]["secret"] == (place.folder / "secrets" / "webhook").read_text().strip()


@pytest.mark.parametrize(
    ("option", "address"),
    [
        ("--forge", "forge.example"),
        ("--forge", "https://me:pw@forge.example"),
        ("--hook-url", "pool.example:8420"),
        ("--hook-url", "http://no host:1"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_before_anything_is_written(
    place: Place, option: str, address: str
) -> None:
    said = place.call(option, address, "--yes", status=2).output

    assert "write it like https://" in said
    assert "pw" not in said
    assert not place.folder.exists()


def test_a_forge_that_is_away_is_one_sentence(tmp_path: Path, house: SetupHouse) -> None:
    away = ["--dir", str(tmp_path / "x"), "--forge", "http://127.0.0.1:1", "--repo", REPO, "--yes"]

    result = CliRunner().invoke(main, ["init", *away])

    assert result.exit_code == 1
    assert "http://127.0.0.1:1 does not answer" in result.output


def test_without_a_configuration_the_forge_and_a_repository_must_be_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["init", "--dir", str(tmp_path)])

    assert result.exit_code == 2
    assert "give --forge and --repo" in result.output
    assert list(tmp_path.iterdir()) == []
