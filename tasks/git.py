"""The one seam to git: as whom it acts, what it may do, how it is started. Starts processes; writes a helper script."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

from pool.errors import CheckoutError
from tasks import askpass

#: Taken over from our own environment by our own calls. Not HOME: git would answer the forge from ~/.netrc.
#: Not GIT_DIR and its kin: they are set when we are started from a hook, and lead git into another repository.
_INHERITED = (
    *("PATH", "TMPDIR", "SSH_AUTH_SOCK", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY", "all_proxy", "ALL_PROXY"),
)

#: Git's word for what it may speak (git(1), GIT_ALLOW_PROTOCOL), by scheme of the clone URL; http may lead to https.
_PROTOCOLS = {"http": "http:https", "https": "http:https", "ssh": "ssh", "file": "file"}

#: The ref under which a forge has the head of a pull request.
PULL = re.compile(r"refs/pull/([1-9][0-9]*)/head")

ASK_S = 0.25  #: between two questions whether a running git is still wanted

#: No program that a checkout names is ever started by a call of ours.
_SAFE = (
    *("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false"),
    *("-c", "credential.helper=", "-c", "protocol.ext.allow=never", "-c", "submodule.recurse=false"),
    # Tidying is a step of its own: a detached `gc` would outlive our time limit and hold locks.
    *("-c", "gc.auto=0", "-c", "maintenance.auto=false"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who works in a checkout: the forge account of a type."""

    login: str
    token_file: Path | None  #: None: git is never given a password
    git_name: str
    git_email: str


def check_url(clone_url: str) -> None:
    """Refuse, as CheckoutError, a clone URL that git would run as a command or that carries a credential."""
    try:
        url = urlsplit(clone_url)
    except ValueError as error:
        raise CheckoutError(f"the clone URL is not a URL: {error}") from None
    if url.scheme not in _PROTOCOLS or re.search(r"[\x00-\x20\x7f]", clone_url):
        raise CheckoutError(f"the clone URL must be one of {', '.join(_PROTOCOLS)}, not {url.scheme or 'a path'!r}")
    if url.password is not None or (url.username is not None and url.scheme != "ssh"):
        raise CheckoutError(f"the clone URL for {url.hostname} carries a credential; put the token in the token file")


def check_ref(repo: str, name: str) -> None:
    """Refuse what is neither the name of a branch (git-check-ref-format(1)) nor the head of a pull request.

    What would be read as an option, or as several refs, is refused with it.
    """
    bad = re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|^[-/.]|[/.]$|\.lock(/|$)", name)
    if bad or not name or name in {"HEAD", "@"} or (name.startswith("refs/") and not PULL.fullmatch(name)):
        raise CheckoutError(f"{repo}: {name!r} cannot be a branch")


def git_environment(account: Account, *, root: Path, clone_url: str) -> dict[str, str]:
    """Return the variables that make git act as `account`, for our own calls and for the agent.

    The token is in none of them: a helper under `root` reads the token file at the moment git asks, and answers
    only on behalf of the host of `clone_url`.
    """
    url = urlsplit(clone_url)
    variables = {
        "GIT_ASKPASS": str(_helper(root)),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": account.git_name,
        "GIT_AUTHOR_EMAIL": account.git_email,
        "GIT_COMMITTER_NAME": account.git_name,
        "GIT_COMMITTER_EMAIL": account.git_email,
        "ASKPASS_HOST": f"{url.scheme}://{url.netloc.rpartition('@')[2]}".lower(),
        "FORGEPOOL_LOGIN": account.login,
    }
    if account.token_file is not None:
        variables["FORGEPOOL_TOKEN_FILE"] = str(account.token_file.absolute())
    return variables


def _helper(root: Path) -> Path:
    """Write the program that git asks for a password, anew each time: an agent may have changed it."""
    private = root.absolute() / ".forgepool"
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    private.chmod(0o700)
    program = private / "askpass"
    write(program, f'#!/bin/sh\nexec {shlex.join([sys.executable, "-I", askpass.__file__])} "$@"\n', mode=0o700)
    return program


def write(path: Path, text: str, *, mode: int, drafts: Path | None = None) -> None:
    """Put a whole file in place at once, also where a link or a running reader is.

    drafts: folder on the same disk where it is written first; None: that of the file.
    """
    handle, name = tempfile.mkstemp(dir=drafts or path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Git:
    """Git in one checkout, with a deadline."""

    path: Path
    what: str  #: what the checkout is of, for messages
    environment: dict[str, str]
    deadline: float  #: as time.monotonic() counts
    secrets: tuple[str, ...] = ()  #: never shown
    is_unwanted: Callable[[], bool] = _never  #: asked while git runs: whether to stop it
    is_bare: bool = False  #: `path` is the repository itself, without files beside it

    @classmethod
    def acting_as(
        cls,
        account: Account,
        *,
        root: Path,
        path: Path,
        repo: str,
        clone_url: str,
        timeout_s: float,
        is_unwanted: Callable[[], bool] = _never,
    ) -> "Git":
        """Return git for our own calls in the name of `account`."""
        check_url(clone_url)
        own = git_environment(account, root=root, clone_url=clone_url)
        own |= {
            "HOME": str(root.absolute() / ".forgepool"),
            "GIT_ALLOW_PROTOCOL": _PROTOCOLS[urlsplit(clone_url).scheme],
            "GIT_NO_REPLACE_OBJECTS": "1",
        }
        token = _token(account)
        secrets = (token, quote(token, safe="")) if token else ()
        deadline = time.monotonic() + timeout_s
        return cls(
            path=path,
            what=repo,
            environment=_inherited() | own,
            deadline=deadline,
            secrets=secrets,
            is_unwanted=is_unwanted,
        )

    @classmethod
    def reading(cls, path: Path, *, timeout_s: float = 60) -> "Git":
        """Return git for a look at a checkout, as nobody."""
        own = {
            "HOME": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ALLOW_PROTOCOL": "",
            "GIT_NO_REPLACE_OBJECTS": "1",
        }
        deadline = time.monotonic() + timeout_s
        return cls(path=path, what=str(path), environment=_inherited() | own, deadline=deadline)

    def at(self, path: Path) -> "Git":
        """Return the same git in another folder, with the same deadline."""
        return replace(self, path=path)

    def with_variables(self, **variables: str) -> "Git":
        """Return the same git with more variables of ours."""
        return replace(self, environment=self.environment | variables)

    def is_over(self) -> bool:
        """Tell whether git may do nothing more: its time is up, or it is not wanted."""
        return self.is_unwanted() or time.monotonic() + ASK_S >= self.deadline

    def __call__(self, *arguments: str, to: str, stdin: str = "") -> str:
        """Run one git command and return what it prints. Raises CheckoutError: "cannot `to`", and git's reason."""
        code, out, err = self._run(arguments, stdin=stdin, to=to)
        if code != 0:
            raise CheckoutError(f"{self.what}: cannot {to}: {self._reason(err)}")
        return out

    def ask(self, *arguments: str, no: Collection[int] = (1,)) -> str | None:
        """Run one git command that answers "no" by an exit code in `no`; return None for that."""
        to = f"ask git for {arguments[0]}"
        code, out, err = self._run(arguments, stdin="", to=to)
        if code in no:
            return None
        if code != 0:
            raise CheckoutError(f"{self.what}: cannot {to}: {self._reason(err)}")
        return out

    def _run(self, arguments: tuple[str, ...], *, stdin: str, to: str) -> tuple[int, str, str]:
        """Run git to its end or to the deadline; never leave a process of it behind."""
        # The folder is named outright: nothing is searched for upwards, and no planted core.worktree counts.
        where = [f"--git-dir={self.path}/.git", f"--work-tree={self.path}"]
        if self.is_bare:
            where = [f"--git-dir={self.path}"]
        argv = ["git", *_SAFE, *where, *arguments]
        try:
            with subprocess.Popen(
                argv,
                cwd=self.path,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                encoding="utf-8",
                errors="surrogateescape",
            ) as process:
                try:
                    out, err = self._communicate(process, stdin, to)
                except BaseException:
                    # Git's own children (git-remote-http, index-pack) hold the pipes and go on without it.
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    raise
        except subprocess.TimeoutExpired:
            raise CheckoutError(f"{self.what}: cannot {to}: git took too long and was stopped") from None
        except OSError as error:
            raise CheckoutError(f"{self.what}: cannot {to}: git cannot be started: {error}") from error
        return process.returncode, out, err

    def _communicate(self, process: "subprocess.Popen[str]", stdin: str, to: str) -> tuple[str, str]:
        """Wait for git's end, asking now and then whether it is still wanted. What has been read is kept meanwhile."""
        given: str | None = stdin
        while True:
            left = self.deadline - time.monotonic()
            try:
                return process.communicate(given, timeout=max(0.0, min(left, ASK_S)))
            except subprocess.TimeoutExpired:
                given = None
                if self.is_unwanted():
                    raise CheckoutError(f"{self.what}: cannot {to}: it was stopped on request") from None
                if left <= ASK_S:
                    raise

    def _reason(self, err: str) -> str:
        """Return git's last line of weight, without credentials."""
        lines = [line.strip() for line in err.splitlines() if line.strip()] or ["git gave no reason"]
        # Advice often follows the reason.
        last = next((line for line in reversed(lines) if line.startswith(("fatal:", "error:"))), lines[-1])
        for secret in self.secrets:
            last = last.replace(secret, "***")
        return re.sub(r"://[^/@\s]+@", "://***@", last)[:500]


def _inherited() -> dict[str, str]:
    """Return the base of the environment of our own calls; in English, as messages are read by programs."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ} | {"LC_ALL": "C"}


def _token(account: Account) -> str:
    """Return the token, to be able to take it out of messages; empty when there is none."""
    if account.token_file is None:
        return ""
    try:
        return account.token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise CheckoutError(
            f"the token file {account.token_file} of {account.login} cannot be read: {reason}"
        ) from error
