"""Bringing the head of a pull request up to date with its base, by our own git. Starts git.

Not by the forge's own call for that: only of a commit that we made ourselves is it known to be the approved head with
the base taken in, and nothing else. The same head, base and moment always give the same commit, so what a crash cut off
is simply done again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pool.errors import CheckoutError, ForgeUnavailable, MergeConflict, NotAllowed, StaleHead
from tasks.forge_values import Pull
from tasks.git import Account
from tasks.mirror import Mirror
from tasks.settings import Settings, TypeSettings

#: How git says that the other side understood a push and does not take it.
_REFUSED = re.compile(
    r"failed to push some refs|returned error: 40[13]\b|authentication failed|permission denied", re.IGNORECASE
)
TIMEOUT_S = 300.0


class Updater(Protocol):
    """Makes updates and pushes them."""

    def make(self, pull: Pull, *, base_sha: str, at: datetime) -> str:
        """Return the commit that takes the base into the head; it is nowhere but here yet.

        at: its date. Raises MergeConflict, StaleHead when either commit is not on the forge any more, ForgeUnavailable.
        """

    def push(self, pull: Pull, sha: str) -> bool:
        """Put the head branch on an update of the head; False: somebody has moved it. True if it is there already.

        Raises NotAllowed when it is not taken, ForgeUnavailable when that is not known.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorUpdater:
    """Works in the repository's mirror on this host, in the name of the account that merges."""

    settings: Settings
    account: TypeSettings
    is_unwanted: Callable[[], bool]

    def make(self, pull: Pull, *, base_sha: str, at: datetime) -> str:
        """As in Updater."""
        try:
            mirror = self._mirror(pull)
            mirror.fetch(pull.head_ref, pull.base_ref)
            if not (mirror.has(pull.head_sha) and mirror.has(base_sha)):
                raise StaleHead(f"{pull.head_ref} or {pull.base_ref} was put on another history")
            if mirror.merge_tree(pull.head_sha, base_sha) is None:
                raise MergeConflict(f"{pull.head_ref} conflicts with {pull.base_ref}")
            # The words of git itself, and of the forge's own button for it.
            message = f"Merge branch '{pull.base_ref}' into {pull.head_ref}"
            return mirror.merge_commit(head=pull.head_sha, base=base_sha, message=message, at=at)
        except CheckoutError as error:
            raise ForgeUnavailable(str(error)) from error

    def push(self, pull: Pull, sha: str) -> bool:
        """As in Updater."""
        try:
            return self._mirror(pull).push(sha, pull.head_ref, expect=pull.head_sha)
        except CheckoutError as error:
            if _REFUSED.search(str(error)):
                raise NotAllowed(str(error)) from error
            raise ForgeUnavailable(str(error)) from error

    def _mirror(self, pull: Pull) -> Mirror:
        kind = self.account
        return Mirror.open(
            self.settings.state_dir / "checkouts",
            repo=pull.repo,
            clone_url=self.settings.clone_url(pull.repo),
            account=Account(
                login=kind.forge_user, token_file=kind.token_file, git_name=kind.git_name, git_email=kind.git_email
            ),
            timeout_s=TIMEOUT_S,
            is_unwanted=self.is_unwanted,
        )
