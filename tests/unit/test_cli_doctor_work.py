"""`forgepool doctor` on the workflow: lost webhooks, the effect ledger, merges, orders, people, polls, disks."""

import shutil
from collections import namedtuple
from typing import Any

import pytest

from pool.lanes import MergeState, MergeStep
from pool.store import Store, Tx
from pool.subject import Subject
from tasks.settings import Settings
from tests.helpers.clock import Clock
from tests.helpers.config import Deployment, type_table, write_config
from webapp.cli import checkup_machine, checkup_work
from webapp.cli.checkup import Check, Status

REPO = "acme/shop"


@pytest.fixture
def settings(cli: Deployment) -> Settings:
    """Return a configuration with an account that reads the forge."""
    return configured(cli)


def configured(cli: Deployment, **service: Any) -> Settings:
    """Write such a configuration."""
    (cli.path.parent / "boss.token").write_text("t")
    types = {"boss": type_table("boss", token_file="boss.token")}
    return Settings.load(write_config(cli.path.parent, types=types, merge_type="boss", **service))


def check(store: Store, settings: Settings, name: str) -> list[Check]:
    """Return the checks of one name."""
    with store.reading() as tx:
        return [one for one in checkup_work.examine(settings, tx) if one.name == name]


def test_nothing_is_wrong_where_nothing_has_happened(store: Store, settings: Settings) -> None:
    with store.reading() as tx:
        found = list(checkup_work.examine(settings, tx))

    assert {one.status for one in found} == {Status.OK}
    assert [one.name for one in found] == ["webhooks lost", "effects", "merges", "orders", "people", "polls"]


def test_without_an_account_that_reads_the_forge_nobody_expects_polls(store: Store, cli: Deployment) -> None:
    assert check(store, cli.settings, "polls") == []


def test_what_no_webhook_told_is_counted_and_a_warning_when_it_grows(
    store: Store, clock: Clock, settings: Settings
) -> None:
    def count(times: int) -> Check:
        with store.writing() as tx:
            tx.count_repair("untold", times)
        (found,) = check(store, settings, "webhooks lost")
        return found

    few, many = count(2), count(checkup_work.OFTEN)
    clock.advance(7200)
    (later,) = check(store, settings, "webhooks lost")

    assert few.message == "asking the forge found 2 that no webhook told, the last 0s ago"
    assert [one.status for one in (few, many, later)] == [Status.OK, Status.WARN, Status.OK]
    assert "--smoke" in many.remedy
    assert "found 12" in later.message


def owe(tx: Tx, kind: str, number: int = 7, key: str = "") -> None:
    """Owe the forge something."""
    tx.owe(key or f"{kind}:{number}", kind, repo=REPO, number=number, type_name="boss")


def test_what_was_given_up_is_named(store: Store, settings: Settings) -> None:
    with store.writing() as tx:
        owe(tx, "labels")
        tx.fail_effect(tx.owed_effects()[0], error="no such label", after_s=None)

    (found,) = check(store, settings, "effects")

    assert found.status is Status.WARN
    assert "1 could not be written to the forge, and is not tried again" in found.message
    assert "labels on acme/shop#7: no such label" in found.message
    assert "`forgepool trail acme/shop#7`" in found.remedy


def test_what_is_owed_is_a_finding_only_when_it_was_tried_for_long(
    store: Store, clock: Clock, settings: Settings
) -> None:
    with store.writing() as tx:
        owe(tx, "report")
        owe(tx, "status")
    with store.writing() as tx:
        tx.fail_effect(tx.owed_effects()[0], error="the forge is away", after_s=60)
    (early,) = check(store, settings, "effects")
    clock.advance(2 * checkup_work.OWED_S)
    (late,) = check(store, settings, "effects")

    assert (early.status, late.status) == (Status.OK, Status.WARN)
    assert late.message == "1 owed to the forge for long, the oldest for 20m: report on acme/shop#7: the forge is away"


def test_a_merge_that_holds_up_its_lane_is_found(store: Store, clock: Clock, settings: Settings) -> None:
    with store.writing() as tx:
        for number in (7, 8):
            tx.enter_lane(REPO, "main", number, head_sha="a" * 40, approved_at=tx.now)
        merge = tx.next_in_lane(REPO, "main")
        assert merge is not None
        tx.park(merge.id, link=merge.link, why="checks run", look_after_s=60)
    (early,) = check(store, settings, "merges")
    clock.advance(settings.service.merge_wait_s + 60)
    (late,) = check(store, settings, "merges")
    with store.writing() as tx:
        tx.end_merge(tx.unpark(merge.id, MergeStep.CHECK).id, MergeState.MERGED, reason="")
    (after,) = check(store, settings, "merges")

    assert (early.status, early.message) == (Status.OK, "1 on the way, 1 behind them")
    assert (late.status, late.message) == (
        Status.WARN,
        "acme/shop#7 has held the lane of main for 2h, parked: checks run",
    )
    assert after.status is Status.OK


def test_orders_that_nobody_carries_out_are_found(store: Store, clock: Clock, settings: Settings) -> None:
    with store.writing() as tx:
        order = tx.take_order(repo=REPO, number=7, comment=1, line=0, verb="go", argument="", by="ana", delivery=None)
        assert order is not None
    (early,) = check(store, settings, "orders")
    clock.advance(300)
    (late,) = check(store, settings, "orders")
    with store.writing() as tx:
        tx.end_order(order, answer="done")
    (after,) = check(store, settings, "orders")

    assert [one.status for one in (early, late, after)] == [Status.OK, Status.WARN, Status.OK]
    assert late.message == "1 in comments not carried out, the oldest for 5m"


def subject(number: int, state: str) -> Subject:
    """Return what the forge told of an issue."""
    return Subject(repo=REPO, number=number, is_pull=False, assignees=(), state=state)


def test_people_who_were_asked_are_named_until_they_act_or_it_is_closed(
    store: Store, clock: Clock, settings: Settings
) -> None:
    with store.writing() as tx:
        owe(tx, "ask", 7, f"ask:tries:{REPO}#7:0")
        owe(tx, "ask", 8, f"ask:conflict:{REPO}#8:0")
        tx.remember(subject(8, "closed"))
    (asked,) = check(store, settings, "people")
    clock.advance(60)
    with store.writing() as tx:
        tx.reset_caps(REPO, 7)
    (acted,) = check(store, settings, "people")

    assert (asked.status, asked.message) == (Status.WARN, "1 waits for a person: acme/shop#7 (tries)")
    assert acted.status is Status.OK


def test_polls_that_fail_or_do_not_come_are_found(store: Store, clock: Clock, cli: Deployment) -> None:
    settings = configured(cli, forge_poll_s=60)
    with store.writing() as tx:
        tx.note_poll(REPO, polled_at=tx.now, error="")
    (fine,) = check(store, settings, "polls")
    clock.advance(600)
    (late,) = check(store, settings, "polls")
    with store.writing() as tx:
        tx.note_poll(REPO, polled_at=tx.now, error="401")
    (failed,) = check(store, settings, "polls")
    (never,) = check(store, configured(cli, forge_poll_s=0), "polls")

    assert [one.status for one in (fine, late, failed, never)] == [Status.OK, Status.WARN, Status.FAIL, Status.WARN]
    assert late.message == "acme/shop was asked about 10m ago, and should be every 60 s"
    assert failed.message == "acme/shop: the last time of asking failed: 401"


Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - as shutil.disk_usage returns


def test_the_disk_of_the_checkouts_is_looked_at_where_it_is_another_one(
    cli: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100, 99, 1))
    (cli.settings.state_dir / "checkouts").mkdir()
    bounded = Settings.load(write_config(cli.path.parent, checkouts_bytes=10**12))

    same = list(checkup_machine.checkouts(cli.settings))
    (too_large,) = checkup_machine.checkouts(bounded)

    assert same == []
    assert "is more than the whole disk" in too_large.message
    assert checkup_machine.room("checkouts", cli.path.parent).status is Status.FAIL
