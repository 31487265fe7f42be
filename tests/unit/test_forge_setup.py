"""Set-up calls: what is asked of the forge, what its answers mean, and that no secret gets into an error."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from pool.errors import ForgeError, ForgeUnavailable, NotAccepted, NotAllowed, NotThere
from tasks.forge_setup import SetupForge
from tasks.forge_values import Hook, MergeStyle
from tasks.setup_values import ForgeVersion, is_loopback, is_private, unheard
from tests.helpers.setup_house import SetupHouse

REPO = "acme/shop"
TOKEN = "Pl4nt3d-token"


@pytest.fixture
def house() -> Iterator[SetupHouse]:
    """Return a forge with one repository."""
    house = SetupHouse()
    house.add_repo(REPO)
    with house.serving():
        yield house


def answering(answer: Callable[[httpx.Request], httpx.Response]) -> SetupForge:
    """Return a client of a forge that answers so."""
    return SetupForge("https://forge.example/", token=TOKEN, transport=httpx.MockTransport(answer))


def says(status: int, body: object = None, **headers: str) -> SetupForge:
    """Return a client of a forge that gives one answer to everything."""
    return answering(lambda _: httpx.Response(status, json=body, headers=headers))


# --- versions ------------------------------------------------------------------------------------


def test_a_forgejo_and_a_gitea_are_told_apart(house: SetupHouse) -> None:
    with SetupForge(house.url) as client:
        forgejo = client.version()
        house.is_forgejo, house.version = False, "1.25.2"
        gitea = client.version()

    assert (forgejo.name, forgejo.major, forgejo.hook_type) == ("Forgejo 13.0.1+gitea-1.22.0", 13, "forgejo")
    assert (gitea.name, gitea.major, gitea.hook_type) == ("Gitea 1.25.2", 1, "gitea")


@pytest.mark.parametrize(
    ("text", "is_forgejo", "has_runs", "has_status", "lacks"),
    [
        ("13.0.1", True, True, False, 0),
        ("v12.0.0-dev", True, True, False, 0),
        ("11.0.3", True, False, False, 1),
        ("7.0.0", True, False, False, 2),
        ("main-abc", True, True, False, 0),
        ("1.25.0", False, False, True, 0),
    ],
)
def test_events_are_asked_for_that_the_version_knows(
    text: str, *, is_forgejo: bool, has_runs: bool, has_status: bool, lacks: int
) -> None:
    version = ForgeVersion(text=text, is_forgejo=is_forgejo)

    assert ("action_run_failure" in version.events) is has_runs
    assert ("status" in version.events) is has_status
    assert len(version.lacks) == lacks
    # Either of these would turn on everything of its kind.
    assert not {"issues", "pull_request"} & set(version.events)


def hook_with(*events: str) -> Hook:
    """Return a hook that tells of these events."""
    return Hook(id=1, type="forgejo", url="https://pool.example", content_type="json", events=events, active=True)


def test_events_are_compared_by_the_names_that_the_forge_gives_them_back() -> None:
    wanted = ("issues_only", "issue_assign", "pull_request_review")
    told = ("issues", "issue_assign", "pull_request_review_approved", "pull_request_review_rejected")

    assert unheard(hook_with(*told), wanted) == {}
    assert set(unheard(hook_with(*told[:-1]), wanted)) == {"pull_request_review"}
    assert set(unheard(hook_with("push"), wanted)) == set(wanted)


def test_a_recovery_that_is_not_told_is_no_loss_since_the_success_is() -> None:
    assert unheard(hook_with("action_run_success"), ("action_run_success", "action_run_recover")) == {}


# --- calls ---------------------------------------------------------------------------------------


def test_an_account_gets_its_token_by_its_password_only(house: SetupHouse) -> None:
    admin = SetupForge(house.url, token=house.add_user("root", is_admin=True))
    admin.create_user("dev", email="dev@example.org", password="pw")

    with SetupForge(house.url, password_of=("dev", "pw")) as own:
        token = own.create_token("dev")
    with pytest.raises(NotAllowed):
        admin.create_token("dev")

    assert house.tokens[token] == ("dev", frozenset({"write:repository", "write:issue", "read:user"}))
    assert SetupForge(house.url, token=token).whoami().login == "dev"


def test_lists_are_read_to_their_last_page(house: SetupHouse) -> None:
    token = house.add_user("dev")
    for number in range(5):
        house.add_repo(f"acme/r{number}", dev="write").labels = [f"l{n}" for n in range(5)]

    with SetupForge(house.url, token=token) as client:
        assert client.writable() == [f"acme/r{number}" for number in range(5)]
        assert client.labels("acme/r0") == {f"l{n}" for n in range(5)}


def test_a_repository_tells_its_rights_and_styles(house: SetupHouse) -> None:
    house.repos[REPO].empty = True

    state = SetupForge(house.url, token=house.add_user("dev")).repository(REPO)

    assert state.is_empty
    assert state.repository.merge_styles == (MergeStyle.MERGE, MergeStyle.SQUASH)
    assert not state.repository.can_push


def test_lacking_scopes_are_found_without_writing(house: SetupHouse) -> None:
    token = house.add_user("dev", scopes=frozenset({"read:user", "write:issue"}))

    with SetupForge(house.url, token=token) as client:
        assert client.lacking_scopes(REPO) == ["write:repository"]
    assert house.changes() == []


def test_a_hook_is_made_awake_and_for_json(house: SetupHouse) -> None:
    client = SetupForge(house.url, token=house.add_user("root", is_admin=True))

    made = client.create_hook(REPO, kind="forgejo", url="https://x.example/h", secret="s", events=("issues_only",))

    assert client.hook(REPO, made.id) == made
    assert (made.active, made.content_type, made.events) == (True, "json", ("issues",))
    assert house.repos[REPO].hooks[made.id]["config"]["secret"] == "s"


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotThere),
        (401, NotAllowed),
        (403, NotAllowed),
        (423, NotAllowed),
        (409, NotAccepted),
        (422, NotAccepted),
        (429, ForgeUnavailable),
        (500, ForgeUnavailable),
        (418, ForgeError),
    ],
)
def test_an_answer_is_an_error_by_its_meaning(status: int, kind: type[ForgeError]) -> None:
    with pytest.raises(kind, match="the forge's words") as caught:
        says(status, {"message": "the forge's\nwords"}).whoami()

    assert type(caught.value) is kind
    assert caught.value.status == status
    assert TOKEN not in str(caught.value)


def test_a_forge_that_is_away_is_asked_once_since_a_person_waits() -> None:
    asked: list[str] = []

    def fail(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        raise httpx.ConnectError("refused")

    with pytest.raises(ForgeUnavailable, match=r"https://forge\.example does not answer GET /v1/user: refused"):
        answering(fail).whoami()
    assert asked == ["/api/v1/user"]


@pytest.mark.parametrize("token", ["", "Pl4nt3d\nnext", "Pl4nt3d token", "Pl4nt3d-ü"])
def test_what_cannot_be_a_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        SetupForge("https://forge.example", token=token)
    assert "Pl4nt3d" not in str(caught.value)


def test_the_token_does_not_follow_a_redirect() -> None:
    seen: list[str] = []

    def move(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url.host))
        return httpx.Response(301, headers={"location": "https://elsewhere.example/api"})

    with pytest.raises(ForgeError, match="redirects"):
        answering(move).whoami()
    assert seen == ["forge.example"]


@pytest.mark.parametrize("body", ["<html>", "[]", "{}"])
def test_an_answer_of_something_else_is_no_crash(body: str) -> None:
    with pytest.raises(ForgeError):
        answering(lambda _: httpx.Response(200, text=body)).whoami()


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "loopback", "private"),
    [
        ("localhost", True, True),
        ("127.0.0.9", True, True),
        ("[::1]", True, True),
        ("10.1.2.3", False, True),
        ("192.168.0.4", False, True),
        ("8.8.8.8", False, False),
        ("forge.example", False, False),
    ],
)
def test_addresses_inside_are_known(host: str, *, loopback: bool, private: bool) -> None:
    assert (is_loopback(host), is_private(host)) == (loopback, private)
