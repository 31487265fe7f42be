"""What git may and may not do when it acts for an account: credentials, planted settings, time. Real git, real HTTP."""

import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.errors import CheckoutError
from tasks import askpass
from tasks.git import Account, Git, git_environment
from tests.helpers.checkouts import REPO, Place
from tests.helpers.waiting import wait_until
from webapp.standin.forge import StandInForge


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with StandInForge(tmp_path / "forge", secret=b"") as forge:
        yield Place(folder=tmp_path, forge=forge)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Name a file that a planted program would make."""
    return tmp_path / "canary"


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


def _wrap_git(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Put a program named git before the real one, which `text` can call as $GIT."""
    tools = folder / "tools"
    tools.mkdir()
    _script(tools / "git", f"GIT={shutil.which('git')}\n{text}")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")


# --- the token -----------------------------------------------------------------------------------


def test_the_token_is_in_no_argument_no_variable_and_no_file_but_its_own(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "calls"
    _wrap_git(tmp_path, monkeypatch, f'{{ printf "%s\\n" "$@"; env; }} >> {shlex.quote(str(log))}\nexec $GIT "$@"\n')

    place.prepare()
    place.commit("new.txt")
    place.git("push")
    place.prepare()

    calls = log.read_text()
    assert "fetch" in calls.split()
    assert "push" in calls.split()
    assert place.token not in calls
    written = [file for file in place.root.rglob("*") if file.is_file()]
    assert place.path / ".git/config" in written
    assert not [file for file in written if place.token.encode() in file.read_bytes()]


def test_the_helper_is_private_and_is_written_anew_when_an_agent_has_changed_it(place: Place, canary: Path) -> None:
    helper = Path(place.environment()["GIT_ASKPASS"])
    good = helper.read_text()
    _script(helper, f"touch {canary}\n")
    helper.parent.chmod(0o755)

    place.prepare()

    assert helper.read_text() == good
    assert not canary.exists()
    assert stat.S_IMODE(helper.parent.stat().st_mode) == 0o700


ENVIRONMENT = {"ASKPASS_HOST": "https://forge.example:3000", "FORGEPOOL_LOGIN": "dev"}


def _ask(question: str, token_file: Path) -> str | None:
    return askpass.answer(question, {**ENVIRONMENT, "FORGEPOOL_TOKEN_FILE": str(token_file)})


def test_the_helper_tells_login_and_token_to_the_forge(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("s3cret\n")

    assert _ask("Username for 'https://forge.example:3000': ", tmp_path / "t") == "dev"
    assert _ask("Password for 'https://dev@forge.example:3000': ", tmp_path / "t") == "s3cret"


@pytest.mark.parametrize(
    "where",
    [
        "https://dev@evil.example",
        "http://dev@forge.example:3000",
        "https://dev@forge.example",
        "https://forge.example:3000@evil.example",
        "https://forge.example:3000.evil.example",
        "https://evil.example/forge.example:3000",
    ],
)
def test_the_helper_tells_nothing_to_another_host(tmp_path: Path, where: str) -> None:
    (tmp_path / "t").write_text("s3cret\n")

    assert _ask(f"Password for '{where}': ", tmp_path / "t") is None
    assert _ask(f"Username for '{where}': ", tmp_path / "t") is None
    assert _ask("Enter passphrase for key '/home/x/.ssh/id': ", tmp_path / "t") is None


def test_an_agent_that_is_led_to_another_forge_does_not_take_the_token_there(place: Place, tmp_path: Path) -> None:
    place.prepare()
    with StandInForge(tmp_path / "other", secret=b"") as other:
        other.create_user("dev")
        other.users["dev"].token = place.token
        other.create_repo(REPO)
        said = place.git("ls-remote", other.clone_url(REPO), check=False)

    assert "could not read Username" in said


def test_the_operators_own_credentials_are_not_used(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent whose token was refused once worked on in the name of the operator, without anybody noticing."""
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine 127.0.0.1 login dev password {place.token}\n")
    netrc.chmod(0o600)
    (tmp_path / ".gitconfig").write_text(
        f'[credential]\n\thelper = "!echo username=dev; echo password={place.token} #"\n'
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    nobody = Account(login="dev", token_file=None, git_name="Dev", git_email="dev@example.org")

    with pytest.raises(CheckoutError, match="could not read Password"):
        place.prepare(account=nobody)


def test_a_wrong_token_and_a_missing_one_are_told_apart_and_not_shown(place: Place, tmp_path: Path) -> None:
    def account(file: Path) -> Account:
        return Account(login="dev", token_file=file, git_name="Dev", git_email="dev@example.org")

    (tmp_path / "wrong").write_text("hunter2")
    with pytest.raises(
        CheckoutError, match=r"^me/app: cannot fetch the branches: fatal: Authentication failed"
    ) as wrong:
        place.prepare(account=account(tmp_path / "wrong"))
    with pytest.raises(CheckoutError, match=r"token file .*/missing of dev cannot be read: No such file"):
        place.prepare(account=account(tmp_path / "missing"))

    assert "hunter2" not in str(wrong.value)


def test_what_git_says_is_passed_on_without_credentials(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _wrap_git(
        tmp_path,
        monkeypatch,
        'case "$*" in *" fetch "*) echo "warning: x" >&2\n'
        'echo "fatal: no $(cat $FORGEPOOL_TOKEN_FILE) for http://a:b@host/x" >&2\n'
        'echo "hint: try again" >&2; exit 128;; esac\nexec $GIT "$@"\n',
    )

    with pytest.raises(
        CheckoutError, match=r"^me/app: cannot fetch the branches: fatal: no \*\*\* for http://\*\*\*@host/x$"
    ):
        place.prepare()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://dev:secret@127.0.0.1/me/app.git", "carries a credential"),
        ("https://token@127.0.0.1/me/app.git", "carries a credential"),
        ("ext::sh -c 'touch x'", "must be one of"),
        ("--upload-pack=touch", "must be one of"),
        ("http://[::1/me/app.git", "is not a URL"),
        ("http://127.0.0.1/me/app.git\n[core]", "must be one of"),
    ],
)
def test_a_clone_url_that_is_dangerous_is_refused_and_not_repeated(tmp_path: Path, url: str, reason: str) -> None:
    nobody = Account(login="dev", token_file=None, git_name="Dev", git_email="dev@example.org")

    with pytest.raises(CheckoutError, match=reason) as refused:
        Git.acting_as(nobody, root=tmp_path, path=tmp_path, repo=REPO, clone_url=url, timeout_s=60)

    assert "secret" not in str(refused.value)
    assert "token@" not in str(refused.value)


def test_a_repository_on_disk_can_be_cloned(place: Place) -> None:
    url = place.forge.repos[REPO].git.path.as_uri()

    assert place.prepare(clone_url=url).branch == "dev/7"


# --- surroundings and time --------------------------------------------------------------------------


def test_a_hook_or_shell_that_starts_us_does_not_lead_git_astray(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path / "ours")], check=True)
    before = sorted((tmp_path / "ours/.git").rglob("*"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "ours/.git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "ours/.git/index"))
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'core.bare=true'")

    place.prepare()

    assert sorted((tmp_path / "ours/.git").rglob("*")) == before


def test_a_git_that_hangs_is_stopped_with_all_its_children(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.prepare()
    child = tmp_path / "child"
    _wrap_git(
        tmp_path,
        monkeypatch,
        f'case "$*" in *" fetch "*) sleep 600 & echo $! > {child}; wait;; esac\nexec $GIT "$@"\n',
    )

    with pytest.raises(CheckoutError, match="me/app: cannot fetch the branches: git took too long"):
        place.prepare(timeout_s=2)

    wait_until(lambda: not _is_alive(int(child.read_text())))


def _is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie that nobody has collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_environment_for_an_agent_is_the_account_and_a_way_to_its_token(tmp_path: Path) -> None:
    account = Account(login="dev", token_file=tmp_path / "t", git_name="Dev", git_email="dev@example.org")

    variables = git_environment(account, root=tmp_path / "work", clone_url="https://Forge.example:3000/me/app.git")

    assert variables["FORGEPOOL_TOKEN_FILE"] == str(tmp_path / "t")
    assert variables["ASKPASS_HOST"] == "https://forge.example:3000"
    assert variables["GIT_TERMINAL_PROMPT"] == "0"
    assert (variables["GIT_CONFIG_NOSYSTEM"], variables["GIT_CONFIG_GLOBAL"]) == ("1", "/dev/null")
    assert variables["GIT_AUTHOR_NAME"] == variables["GIT_COMMITTER_NAME"] == "Dev"
    assert sys.executable in Path(variables["GIT_ASKPASS"]).read_text()
