"""What no webhook told is found by asking: looked at if it may concern an agent, and not otherwise."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pool.model import Kind
from pool.work import Order, Poll
from tasks import poll
from tests.helpers.desk import Desk
from tests.helpers.fake_writer import REPO, Failure
from tests.pool import drive

SOON_S = 60.0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path)
    yield opened
    opened.close()


def ask(desk: Desk, why: str = "poll") -> list[int]:
    """Ask the forge; return what is to be looked at."""
    assert poll.poll_repo(desk.engine, desk.main, REPO, why=why) is not None
    return [look.number for look in desk.looks(within_s=SOON_S)]


def known(desk: Desk) -> Poll:
    with desk.store.reading() as tx:
        return tx.poll(REPO)


def orders(desk: Desk, number: int = 7) -> list[Order]:
    with desk.store.reading() as tx:
        return tx.list_orders(REPO, number)


def untold(desk: Desk) -> int:
    with desk.store.reading() as tx:
        counts = tx.repair_counts()
    return counts["untold"].count if "untold" in counts else 0


# --- what is looked at ---------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["start", "poll"])
def test_assigned_issues_and_pull_requests_of_agents_are_looked_at(desk: Desk, why: str) -> None:
    desk.forge.issue(1)
    desk.forge.issue(2, assignees=["grace"])
    desk.forge.pull(3, user="grace")
    desk.forge.pull(4, user="grace", asked=["reviewer"])
    desk.forge.pull(5, user="grace", assignees=["Boss"])

    assert ask(desk, why) == [4, 5, 7, 8]
    assert {look.why for look in desk.looks(within_s=SOON_S)} == {why}


def test_what_is_under_way_leads_to_a_look_by_itself(desk: Desk) -> None:
    for number, kind in ((7, Kind.IMPLEMENT), (8, Kind.FIX_CI)):
        drive.dispatch(desk.store, repo=REPO, number=number, kind=kind)

    assert ask(desk) == []


def test_a_person_s_pull_request_in_a_lane_is_looked_at(desk: Desk) -> None:
    desk.forge.pull(9, user="grace")
    desk.enter(9)

    assert 9 in ask(desk)


def test_an_issue_with_a_pull_request_of_its_agent_is_left_to_the_look_at_that(desk: Desk) -> None:
    desk.link(8, 7)
    assert ask(desk) == [8]

    desk.forge.issues[7]["assignees"] = ["dev", "reviewer"]
    assert ask(desk) == [7, 8]


def test_an_issue_whose_pull_request_was_closed_is_looked_at(desk: Desk) -> None:
    desk.link(8, 7)
    desk.know(8, is_pull=True)
    desk.forge.issues[8]["state"] = "closed"

    assert ask(desk) == [7, 8]


def test_what_was_closed_without_a_word_is_looked_at_until_that_is_known(desk: Desk) -> None:
    desk.know(7, assignees=("dev",))
    desk.know(8, is_pull=True)
    for number in (7, 8):
        desk.forge.issues[number]["state"] = "closed"
    assert ask(desk) == [7, 8]

    for number in (7, 8):
        desk.know(number, state="closed", is_pull=number == 8)
        with desk.store.writing() as tx:
            tx.begin_look(REPO, number)
    assert ask(desk) == []


def test_an_issue_that_was_taken_from_an_agent_without_a_word_is_looked_at(desk: Desk) -> None:
    desk.know(7, assignees=("Dev",))
    desk.forge.issues[7]["assignees"] = ["grace"]

    assert ask(desk) == [7, 8]


def test_issues_of_people_are_not_looked_at_again_and_again(desk: Desk) -> None:
    desk.forge.issue(3)
    desk.know(3, assignees=("grace",))
    desk.know(4)

    assert ask(desk) == [7, 8]


@pytest.mark.parametrize("facts", [{}, {"state": "closed"}, None], ids=["open", "closed", "unknown"])
def test_a_task_for_what_the_forge_does_not_list_is_looked_at(desk: Desk, facts: dict[str, str] | None) -> None:
    drive.dispatch(desk.store, repo=REPO, number=5)
    if facts is not None:
        desk.know(5, **facts)

    assert 5 in ask(desk)


def test_looks_are_spread_so_that_others_can_ask_meanwhile(desk: Desk) -> None:
    for number in range(100, 140):
        desk.forge.issue(number, assignees=["dev"])
    ask(desk)

    now = desk.looks()
    soon = desk.looks(within_s=20)
    every = desk.looks(within_s=desk.settings.service.forge_poll_s / 2 + 5)
    assert now == []
    assert 15 <= len(soon) <= 25
    assert len(every) == 42


def test_many_looks_are_made_before_the_next_poll(tmp_path: Path) -> None:
    desk = Desk(tmp_path, forge_poll_s=10)
    for number in range(100, 140):
        desk.forge.issue(number, assignees=["dev"])
    poll.poll_repo(desk.engine, desk.main, REPO, why="poll")

    assert len(desk.looks(within_s=8)) == 42
    desk.close()


def test_a_webhook_about_the_same_change_comes_first(desk: Desk) -> None:
    """Else what it told would count as untold."""
    ask(desk)
    with desk.store.writing() as tx:
        tx.look_later(REPO, 7, why="webhook", after_s=1.0)

    assert [(look.number, look.why) for look in desk.looks(within_s=1)] == [(7, "webhook")]


# --- orders --------------------------------------------------------------------------------------


def test_an_order_that_no_webhook_told_is_taken_and_counted(desk: Desk) -> None:
    comment = desk.forge.comment(7, "Hm.\n/forgepool to reviewer")
    ask(desk)

    [order] = orders(desk)
    assert (order.verb, order.argument, order.by) == ("to", "reviewer", "ada")
    assert (order.comment, order.line, order.delivery) == (comment, 1, None)
    assert untold(desk) == 1


def test_an_order_that_a_webhook_told_is_not_taken_again(desk: Desk) -> None:
    desk.order("retry")
    ask(desk)
    ask(desk)

    assert len(orders(desk)) == 1
    assert untold(desk) == 0


def test_what_agents_write_is_no_order(desk: Desk) -> None:
    desk.forge.comment(7, "/forgepool cancel", by="Dev")
    ask(desk)

    assert orders(desk) == []


def test_an_order_that_was_put_into_an_old_comment_is_none(desk: Desk) -> None:
    """Its line may only have moved, and then it would be carried out twice."""
    desk.forge.comment(7, "/forgepool cancel")
    desk.wait(1)
    desk.forge.comments[0].update(body="Hello.\n/forgepool cancel", updated=desk.clock.now)
    ask(desk)

    assert orders(desk) == []


def test_comments_are_asked_for_since_the_newest_that_was_seen(desk: Desk) -> None:
    desk.forge.comment(7, "Hello.")
    seen = desk.clock.now
    ask(desk)
    desk.wait(1000)
    ask(desk)

    assert known(desk).comments_since == seen
    assert known(desk).polled_at == seen + timedelta(seconds=1000)


def test_an_order_in_the_same_second_as_the_newest_comment_is_found(desk: Desk) -> None:
    desk.forge.comment(7, "Hello.")
    ask(desk)
    desk.forge.comment(7, "/forgepool go")
    ask(desk)

    assert [order.verb for order in orders(desk)] == ["go"]


def test_an_order_that_the_forge_shows_late_is_found(desk: Desk) -> None:
    desk.forge.comment(7, "Hello.")
    ask(desk)
    desk.forge.now -= timedelta(seconds=60)
    desk.forge.comment(7, "/forgepool go")
    ask(desk)

    assert [order.verb for order in orders(desk)] == ["go"]


def test_orders_from_before_forgepool_are_none(desk: Desk) -> None:
    desk.forge.comment(7, "/forgepool cancel")
    desk.wait(7200)
    ask(desk)

    assert orders(desk) == []


# --- a forge that fails --------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["GET issues", "GET pulls", "GET comments"])
def test_a_repository_that_cannot_be_asked_is_told_and_asked_again_later(desk: Desk, call: str) -> None:
    desk.forge.always[call] = Failure(502)
    desk.forge.comment(7, "/forgepool go")

    assert poll.poll_repo(desk.engine, desk.main, REPO, why="start") is None
    assert "502" in known(desk).error
    assert known(desk).polled_at is None
    assert desk.looks(within_s=SOON_S) == []

    desk.forge.always.clear()
    assert ask(desk) == [7, 8]
    assert known(desk).error == ""
    assert len(orders(desk)) == 1


def test_with_a_star_every_repository_that_can_be_written_to_is_served(tmp_path: Path) -> None:
    desk = Desk(tmp_path, repos=["*"])

    assert poll.repositories(desk.engine, desk.main) == [REPO]
    desk.close()


def test_named_repositories_need_no_asking(desk: Desk) -> None:
    assert poll.repositories(desk.engine, desk.main) == ["acme/shop"]
    assert desk.forge.calls == []
