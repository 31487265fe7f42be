"""The stand-in forge serves git as the real one does: smart HTTP, accounts, and the events of a push."""

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.helpers.checkouts import REPO, Place
from tests.helpers.waiting import wait_until
from webapp.standin.forge import StandInForge


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[StandInForge]:
    with StandInForge(tmp_path / "forge", secret=b"") as forge:
        forge.create_user("dev")
        forge.create_repo(REPO)
        yield forge


def test_a_push_to_a_pull_request_is_told_once_it_is_there(forge: StandInForge, tmp_path: Path) -> None:
    place = Place(folder=tmp_path, forge=forge)
    forge.commit(REPO, "feature", {"new.txt": "1\n"}, sender="dev")
    pull = forge.open_pull(REPO, "dev", "feature", "Add new")
    place.prepare(branch="feature")
    sha = place.commit("more.txt")
    place.git("push")

    wait_until(lambda: forge.deliveries[-1].event_type == "pull_request_sync")
    body = json.loads(forge.deliveries[-1].body)
    assert body["pull_request"]["head"]["sha"] == sha
    assert body["pull_request"]["mergeable"] is False
    assert body["sender"]["login"] == "dev"
    refs = subprocess.run(
        ["git", "-C", str(forge.repos[REPO].git.path), "rev-parse", f"refs/pull/{pull}/head"],
        capture_output=True,
        encoding="ascii",
        check=True,
    )
    assert refs.stdout.strip() == sha


REFS = "info/refs?service=git-upload-pack"
PUSH = "info/refs?service=git-receive-pack"


@pytest.mark.parametrize(
    ("repo", "path", "who", "status"),
    [
        ("me/app", REFS, None, 401),
        ("me/app", REFS, ("dev", "wrong"), 401),
        ("me/app", REFS, ("nobody", "wrong"), 401),
        ("me/app", REFS, ("dev", "right"), 200),
        ("me/app", PUSH, ("dev", "right"), 200),
        ("me/app", "config", ("dev", "right"), 404),
        ("me/app", "HEAD", ("dev", "right"), 404),
        ("me/public", REFS, None, 200),
        ("me/public", PUSH, None, 401),
        ("me/public", "git-receive-pack", None, 401),
        ("me/gone", REFS, None, 401),
        ("me/gone", REFS, ("dev", "right"), 404),
    ],
)
def test_only_accounts_push_and_only_what_is_public_is_read_without_one(
    forge: StandInForge, repo: str, path: str, who: tuple[str, str] | None, status: int
) -> None:
    forge.create_repo("me/public", private=False)
    token = forge.users["dev"].token
    auth = (who[0], who[1].replace("right", token)) if who else None

    answer = httpx.request(
        "POST" if path.startswith("git-") else "GET", f"{forge.url}/{repo}.git/{path}", auth=auth, trust_env=False
    )

    assert answer.status_code == status
    assert ("WWW-Authenticate" in answer.headers) is (status == 401)


def test_a_compressed_request_is_understood(forge: StandInForge) -> None:
    """Git compresses what it wants when it wants much; the body must reach the backend as it came."""
    want = b"0014command=ls-refs\n0000"
    answer = httpx.post(
        f"{forge.url}/me/app.git/git-upload-pack",
        content=gzip.compress(want),
        headers={
            "Content-Encoding": "gzip",
            "Content-Type": "application/x-git-upload-pack-request",
            "Git-Protocol": "version=2",
        },
        auth=("dev", forge.users["dev"].token),
        trust_env=False,
    )

    assert answer.status_code == 200
    assert b"refs/heads/main" in answer.content


def test_it_can_be_stopped_twice_and_started_again(tmp_path: Path) -> None:
    forge = StandInForge(tmp_path / "forge", secret=b"")
    forge.start()
    forge.stop()
    forge.stop()
    with forge:
        assert httpx.get(forge.url, trust_env=False).status_code == 404
