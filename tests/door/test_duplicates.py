"""The same news, told twice, causes one task. What caused nothing may be told again."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from pool.states import Verdict
from tests.door.house import Door, Reply, assigned, edited, renamed, users
from tests.helpers.deliveries import Delivery, load
from webapp import intake

AT_ONCE = 8


def test_the_same_delivery_twice_is_a_duplicate_of_the_first(door: Door) -> None:
    first, second = door.post("issue-assigned.json"), door.post("issue-assigned.json")

    assert (second.status, second.verdict, second.tasks) == (200, "duplicate", first.tasks)
    assert second.reason == f"delivery {first.receipt} said the same and was accepted"
    assert door.receipts()[-1].duplicate_of == first.receipt
    assert (len(door.tasks()), len(door.bell.rung)) == (1, 1)


def test_the_same_news_by_a_second_webhook_or_a_replay_is_a_duplicate(door: Door) -> None:
    news = load("issue-assigned.json")

    first, second = door.post(news), door.post(renamed(news))

    assert (second.status, second.verdict, second.tasks) == (200, "duplicate", first.tasks)
    assert len(door.tasks()) == 1


def test_the_same_id_with_another_body_is_a_duplicate(door: Door) -> None:
    """An id is given once, so the forge said it twice; the newer body will come with an id of its own."""
    news = load("issue-assigned.json")
    door.post(news)

    reply = door.post(replace(news, body=assigned("reviewer").body))

    assert (reply.verdict, len(door.tasks())) == ("duplicate", 1)


def test_deliveries_without_an_id_are_known_by_their_meaning(door: Door) -> None:
    news = load("issue-assigned.json")
    bare = replace(news, headers={n: v for n, v in news.headers.items() if not n.endswith("-Delivery")})
    other = replace(bare, body=load("issue-opened-assigned.json").body)

    assert [door.post(sent).status for sent in (bare, bare, other)] == [202, 200, 202]


def test_a_duplicate_stays_one_after_its_task_has_ended(door: Door) -> None:
    task = door.post("issue-assigned.json").tasks[0]
    door.cancel({"task_id": task})

    assert door.post("issue-assigned.json").verdict == "duplicate"
    assert door.work() == [("dev", "implement", 7, "cancelled")]


def test_what_was_ignored_may_come_again(door: Door) -> None:
    status = load("gitea-status-failure.json")
    early = door.post(status)
    door.post("pull-opened.json")

    late = door.post(status)

    assert (early.verdict, late.verdict, late.status) == ("ignored", "accepted", 202)
    assert door.work() == [("dev", "fix-ci", 21, "queued")]


def test_what_was_refused_may_come_again(door: Door) -> None:
    door.post("issue-assigned.json", secret=b"wrong")

    assert door.post("issue-assigned.json").status == 202


def test_ignoring_twice_is_no_duplicate(door: Door) -> None:
    replies = [door.post("push-test.json") for _ in range(2)]

    assert [reply.verdict for reply in replies] == ["ignored", "ignored"]


def test_duplicates_are_known_after_a_restart(door: Door, database: Path) -> None:
    news = load("issue-assigned.json")
    first = door.post(news)

    with door.reopened() as restarted:
        replies = [restarted.post(news), restarted.post(renamed(news))]

        assert [(reply.status, reply.tasks) for reply in replies] == [(200, first.tasks)] * 2
        assert len(restarted.tasks()) == 1


def at_once(doors: list[Door], sent: list[Delivery]) -> list[Reply]:
    """Post each delivery through its own door, all in the same moment."""
    barrier = threading.Barrier(len(sent))

    def post(door: Door, delivery: Delivery) -> Reply:
        barrier.wait(timeout=10)
        return door.post(delivery)

    with ThreadPoolExecutor(len(sent)) as pool:
        return list(pool.map(post, doors, sent))


@pytest.mark.parametrize("ids", ["same", "different"])
def test_the_same_news_at_once_causes_one_task(door: Door, database: Path, ids: str) -> None:
    """Two apps on one database file, as two processes have it, and several threads of each."""
    with ExitStack() as stack:
        doors = [door, stack.enter_context(door.reopened())] * (AT_ONCE // 2)
        for number in (11, 12, 13):
            news = assigned("dev", number=number)

            replies = at_once(doors, [news if ids == "same" else renamed(news) for _ in doors])

            assert sorted(reply.status for reply in replies) == [200] * (AT_ONCE - 1) + [202]
            assert len({reply.tasks for reply in replies}) == 1
    assert [number for _, _, number, _ in door.work()] == [11, 12, 13]
    assert len(door.bell.rung) == 3
    assert door.count_receipts(verdict=Verdict.DUPLICATE) == 3 * (AT_ONCE - 1)


def test_different_news_at_once_are_all_taken(door: Door, database: Path) -> None:
    news = [assigned("dev", number=number) for number in range(1, AT_ONCE + 1)]

    replies = at_once([door] * AT_ONCE, news)

    assert [reply.status for reply in replies] == [202] * AT_ONCE
    assert sorted(task.request.number for task in door.tasks()) == list(range(1, AT_ONCE + 1))
    assert sorted(task for _, task in door.bell.rung) == list(range(1, AT_ONCE + 1))


def test_a_person_may_take_a_delivery_once_more(door: Door) -> None:
    first = door.post("issue-assigned.json")
    door.cancel({"task_id": first.tasks[0]})

    again = intake.take_again(door.engine, first.receipt or 0)

    assert (again.status, again.tasks) == (202, (2,))
    assert door.receipts()[-1].source == "replay"
    assert door.post("issue-assigned.json").verdict == "duplicate"


def test_a_replay_by_hand_while_the_task_lives_adds_none(door: Door) -> None:
    first = door.post("issue-assigned.json")

    again = intake.take_again(door.engine, first.receipt or 0)

    assert (again.status, again.verdict, again.tasks) == (200, "duplicate", first.tasks)
    assert again.reason == f"task {first.tasks[0]} does this already"


def test_a_replay_reads_the_headers_that_the_delivery_was_read_by(door: Door) -> None:
    """An empty header of Forgejo's was kept in place of Gitea's that had told the type."""
    sent = edited("issue-assigned.json", {"issue.assignees": users("alice")})
    blank = {**sent.headers, "X-Forgejo-Event-Type": "", "X-Forgejo-Event": " "}
    first = door.post(replace(sent, headers=blank))

    again = intake.take_again(door.engine, first.receipt or 0)

    assert (first.rule, again.rule) == ("issue-assigned", "issue-assigned")
