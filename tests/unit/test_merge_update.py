"""Updates of head branches, by real git against a forge that has a real one."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pool.errors import ForgeUnavailable, MergeConflict, NotAllowed, StaleHead
from tasks.forge_values import Pull
from tasks.merge_update import MirrorUpdater
from tasks.settings import Settings
from tests.helpers.config import type_table, write_config
from tests.helpers.merging import REPO, a_pull
from webapp.standin.bare import BareRepo
from webapp.standin.forge import StandInForge

AT = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


class Shop:
    """A repository whose `main` has moved on since the branch `dev/1` left it."""

    def __init__(self, folder: Path, forge: StandInForge) -> None:
        """Make it, and the account that merges."""
        self.folder, self.forge = folder, forge
        (folder / "boss.token").write_text(forge.create_user("boss") + "\n")
        forge.create_repo(REPO)
        self.head = forge.commit(REPO, "dev/1", {"feature": "new\n"})
        self.tip = forge.commit(REPO, "main", {"other": "newer\n"})

    @property
    def git(self) -> BareRepo:
        """The repository on the forge."""
        return self.forge.repos[REPO].git

    @property
    def pull(self) -> Pull:
        """The pull request, as the forge shows it."""
        return a_pull(head_sha=self.head, base_sha=self.tip)

    def updater(self, host: str = "one") -> MirrorUpdater:
        """Return an updater on a host of its own."""
        folder = self.folder / host
        folder.mkdir(exist_ok=True)
        types = {"boss": type_table("boss", token_file=str(self.folder / "boss.token"))}
        settings = Settings.load(write_config(folder, types=types, forge_url=self.forge.url))
        return MirrorUpdater(settings=settings, account=settings.types["boss"], is_unwanted=lambda: False)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Start the forge."""
    with StandInForge(tmp_path / "forge", secret=b"secret") as forge:
        yield Shop(tmp_path, forge)


def test_an_update_is_the_approved_head_with_the_base_taken_in(shop: Shop) -> None:
    updater = shop.updater()
    made = updater.make(shop.pull, base_sha=shop.tip, at=AT)

    assert shop.git.branches()["dev/1"] == shop.head
    assert updater.push(shop.pull, made)
    assert shop.git.branches()["dev/1"] == made
    assert shop.git.subject(made) == "Merge branch 'main' into dev/1"
    assert shop.git.file("dev/1", "other") == "newer\n"
    assert shop.git.merge_base(made, shop.tip) == shop.tip
    assert shop.git.merge_base(made, shop.head) == shop.head


def test_another_host_makes_the_same_commit_of_the_same_approved_head(shop: Shop) -> None:
    first = shop.updater("one").make(shop.pull, base_sha=shop.tip, at=AT)
    shop.forge.commit(REPO, "main", {"third": "newest\n"})

    assert shop.updater("two").make(shop.pull, base_sha=shop.tip, at=AT) == first


def test_a_push_whose_answer_was_lost_can_be_made_again(shop: Shop) -> None:
    updater = shop.updater()
    made = updater.make(shop.pull, base_sha=shop.tip, at=AT)

    assert [updater.push(shop.pull, made), updater.push(shop.pull, made)] == [True, True]


def test_a_push_does_not_overwrite_what_somebody_else_pushed(shop: Shop) -> None:
    updater = shop.updater()
    made = updater.make(shop.pull, base_sha=shop.tip, at=AT)
    theirs = shop.forge.commit(REPO, "dev/1", {"feature": "better\n"})

    assert not updater.push(shop.pull, made)
    assert shop.git.branches()["dev/1"] == theirs


def test_what_conflicts_is_told_at_once(shop: Shop) -> None:
    shop.tip = shop.forge.commit(REPO, "main", {"feature": "different\n"})

    with pytest.raises(MergeConflict, match="dev/1 conflicts with main"):
        shop.updater().make(shop.pull, base_sha=shop.tip, at=AT)


def test_a_head_that_is_not_on_the_forge_is_stale(shop: Shop) -> None:
    with pytest.raises(StaleHead):
        shop.updater().make(replace(shop.pull, head_sha="a" * 40), base_sha=shop.tip, at=AT)


def test_a_branch_that_is_gone_is_no_reason_to_give_up_yet(shop: Shop) -> None:
    with pytest.raises(ForgeUnavailable):
        shop.updater().make(replace(shop.pull, head_ref="gone"), base_sha=shop.tip, at=AT)


def test_a_branch_that_takes_no_push_says_so(shop: Shop) -> None:
    hook = shop.git.path / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho protected >&2\nexit 1\n")
    hook.chmod(0o755)
    updater = shop.updater()
    made = updater.make(shop.pull, base_sha=shop.tip, at=AT)

    with pytest.raises(NotAllowed):
        updater.push(shop.pull, made)


def test_an_account_without_access_is_not_allowed_to_push(shop: Shop) -> None:
    updater = shop.updater()
    made = updater.make(shop.pull, base_sha=shop.tip, at=AT)
    (shop.folder / "boss.token").write_text("wrong\n")

    with pytest.raises((NotAllowed, ForgeUnavailable)):
        updater.push(shop.pull, made)


def test_a_forge_that_is_away_is_one(shop: Shop) -> None:
    updater = shop.updater()
    made = updater.make(shop.pull, base_sha=shop.tip, at=AT)
    shop.forge.stop()

    with pytest.raises(ForgeUnavailable):
        updater.push(shop.pull, made)
