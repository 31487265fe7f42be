"""`forgepool merges`: lanes in their order, with what each merge waits for."""

from datetime import timedelta
from typing import Any

import pytest

from pool.lanes import MergeState, MergeStep, Refusal
from tests.helpers.config import Deployment

REPO = "acme/shop"


def enter(cli: Deployment, number: int, *, base: str = "main", minutes_ago: float = 0) -> int:
    """Put a pull request into its lane."""
    with cli.store.writing() as tx:
        at = tx.now - timedelta(minutes=minutes_ago)
        return tx.enter_lane(REPO, base, number, head_sha="a" * 40, approved_at=at).id


def begin(cli: Deployment, base: str = "main") -> int:
    """Let the next of a lane begin."""
    with cli.store.writing() as tx:
        merge = tx.next_in_lane(REPO, base)
        assert merge is not None
        return merge.id


@pytest.fixture
def lanes(cli: Deployment) -> Deployment:
    """Return a lane with one that goes and two that wait, one with one that is parked, and one that ended."""
    enter(cli, 9)
    ended = begin(cli)
    with cli.store.writing() as tx:
        tx.end_merge(ended, MergeState.REFUSED, reason="it is a draft", code=Refusal.DRAFT)
    enter(cli, 3, minutes_ago=1)
    enter(cli, 1, minutes_ago=3)
    enter(cli, 2, minutes_ago=2)
    enter(cli, 4, base="next")
    begin(cli)
    parked = begin(cli, "next")
    with cli.store.writing() as tx:
        tx.park(parked, link=1, why="checks have not ended", look_after_s=30)
    return cli


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    """Return one value of each row."""
    return [row[name] for row in rows]


def test_lanes_are_listed_in_the_order_in_which_they_go(lanes: Deployment) -> None:
    rows = lanes.json("merges", "list")

    assert column(rows, "number") == [1, 2, 3, 4]
    assert column(rows, "state") == ["active", "waiting", "waiting", "parked"]
    assert column(rows, "why") == [
        "check",
        "waits for #1, which goes first",
        "waits for #1, which goes first",
        "checks have not ended",
    ]


def test_a_merge_as_json_has_everything_that_is_known_of_it(lanes: Deployment) -> None:
    row = lanes.json("merges", "list", "--number", "4")[0]

    assert (row["repo"], row["base"], row["step"], row["link"], row["code"]) == (REPO, "next", None, 1, None)
    assert row["head_sha"] == row["approved_sha"] == "a" * 40
    assert row["look_at"].endswith("Z")


def test_all_shows_what_has_ended_too_the_newest_first(lanes: Deployment) -> None:
    rows = lanes.json("merges", "list", "--all", "--repo", REPO)

    assert column(rows, "number") == [4, 2, 1, 3, 9]
    assert (rows[-1]["state"], rows[-1]["code"], rows[-1]["why"]) == ("refused", "draft", "it is a draft")


def test_an_active_one_tells_its_step_and_what_led_to_it(lanes: Deployment) -> None:
    with lanes.store.writing() as tx:
        tx.begin_link(3, MergeStep.MERGE, reason="approved and green")

    assert lanes.json("merges", "list", "--number", "1")[0]["why"] == "merge: approved and green"


def test_people_read_a_table(lanes: Deployment) -> None:
    text = lanes.run("merges", "list").output

    assert "acme/shop#2" in text
    assert "waits for #1, which goes first" in text


def test_a_deployment_that_never_merged_anything_has_an_empty_list(cli: Deployment) -> None:
    assert cli.json("merges", "list") == cli.json("merges", "list", "--all") == []
