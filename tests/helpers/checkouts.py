"""A forge with one repository, and what is needed to make checkouts of it and to work in them."""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.workdir import Account, Checkout, git_environment, prepare
from webapp.standin.forge import StandInForge

REPO = "me/app"


@dataclass(kw_only=True)
class Place:
    """One instance's place of work; `prepare` takes what differs from the usual."""

    folder: Path
    forge: StandInForge
    token: str = field(init=False)
    account: Account = field(init=False)

    def __post_init__(self) -> None:
        """Make the account and the repository."""
        self.token = self.forge.create_user("dev")
        self.forge.create_repo(REPO)
        token_file = self.folder / "dev.token"
        token_file.write_text(self.token + "\n")
        self.account = Account(login="dev", token_file=token_file, git_name="Dev", git_email="dev@example.org")

    @property
    def root(self) -> Path:
        """Where all checkouts are."""
        return self.folder / "work"

    @property
    def path(self) -> Path:
        """Where the checkout is."""
        return self.root / "dev-alpha" / REPO

    @property
    def clone_url(self) -> str:
        """The address of the repository."""
        return self.forge.clone_url(REPO)

    def prepare(self, **changes: Any) -> Checkout:
        """Make the checkout ready."""
        usual: dict[str, Any] = {
            "instance": "dev-alpha",
            "repo": REPO,
            "clone_url": self.clone_url,
            "account": self.account,
            "branch": None,
            "new_branch": "dev/7",
            "base": None,
            "timeout_s": 60,
        }
        return prepare(self.root, **{**usual, **changes})

    def environment(self) -> dict[str, str]:
        """Return what an agent gets."""
        base = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        return base | git_environment(self.account, root=self.root, clone_url=self.clone_url)

    def git(self, *arguments: str, check: bool = True) -> str:
        """Run git in the checkout as the agent does; return all it prints."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0 or not check, done.stdout
        return done.stdout.strip()

    def commit(self, name: str, text: str = "work\n") -> str:
        """Commit one file in the checkout; return the sha."""
        (self.path / name).write_text(text)
        self.git("add", "--", name)
        self.git("commit", "-q", "-m", f"Add {name}")
        return self.git("rev-parse", "HEAD")

    def files(self) -> dict[str, str]:
        """Return the files of the checkout."""
        found = (file for file in self.path.rglob("*") if file.is_file() and ".git" not in file.parts)
        return {str(file.relative_to(self.path)): file.read_text() for file in found}

    def kept(self, branch: str | None) -> dict[str, str]:
        """Return the files on a recovery branch."""
        assert branch is not None
        names = self.git("ls-tree", "-r", "--name-only", branch).splitlines()
        return {name: self.git("show", f"{branch}:{name}") for name in names}
