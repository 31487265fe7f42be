"""What is owed to the forge is written there, once, whatever fails between."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pool.subject import HELP_LABEL
from tasks import ledger
from tasks.report import mark
from tests.helpers.desk import Desk
from tests.helpers.fake_writer import HEAD, REPO, Failure, label_id
from tests.pool import drive

OTHER = "b" * 40


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path)
    yield opened
    opened.close()


#: One of each kind, and the one call that writes it.
EACH: dict[str, tuple[int, dict[str, Any], str]] = {
    "report": (7, {}, "POST comments"),
    "reply": (7, {"text": "so it is"}, "POST comments"),
    "react": (7, {"comment": 1, "content": "+1"}, "POST reactions"),
    "labels": (7, {"names": ["tea"]}, "POST labels"),
    "unlabel": (7, {"name": "old"}, f"DELETE {label_id('old')}"),
    "assign": (7, {"logins": ["reviewer"]}, "PATCH 7"),
    "request-review": (8, {"login": "reviewer", "head_sha": HEAD}, "POST requested_reviewers"),
    "status": (
        8,
        {"sha": HEAD, "context": "forgepool/review", "state": "success", "description": "done"},
        f"POST {HEAD}",
    ),
    "close": (7, {"why": "merged"}, "PATCH 7"),
    "delete-branch": (8, {"branch": "old/8", "sha": HEAD}, "DELETE 8"),
}


def _prepare(desk: Desk) -> None:
    desk.forge.comment(7, "/forgepool retry")
    desk.forge.labels.update({"tea", "old"})
    desk.forge.issues[7]["labels"] = ["old"]
    desk.forge.branches["old/8"] = HEAD


# --- once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EACH)
def test_what_was_written_and_not_noted_is_found_and_not_written_again(desk: Desk, kind: str) -> None:
    _prepare(desk)
    number, body, call = EACH[kind]
    key = desk.owe(kind, number, **body)

    assert desk.settle() == 1
    first = dict(desk.forge.writes())
    desk.forget(key)
    assert desk.settle() == 1

    assert first[call] == 1
    # The forge itself makes one of two equal reactions, so that nobody needs to look for the first.
    assert desk.forge.writes()[call] == (2 if kind == "react" else 1)
    assert desk.effect(key).done_at is not None


@pytest.mark.parametrize("kind", EACH)
def test_an_answer_that_is_lost_leads_to_no_second_effect(desk: Desk, kind: str) -> None:
    _prepare(desk)
    number, body, call = EACH[kind]
    key = desk.owe(kind, number, **body)
    desk.forge.fail(call, Failure(acts=True))

    desk.settle()
    desk.wait(60)
    desk.settle()

    assert desk.effect(key).done_at is not None
    seen = (len(desk.forge.comments), len(desk.forge.reactions), len(desk.forge.statuses))
    assert seen == (1 + (kind in {"report", "reply"}), int(kind == "react"), int(kind == "status"))
    assert len(desk.forge.reviews.get(8, [])) == (kind == "request-review")


def test_a_call_that_is_carried_out_long_after_it_was_given_up_leaves_one_comment(desk: Desk) -> None:
    key = desk.owe("report")
    desk.settle()
    [body] = desk.forge.bodies(7)
    desk.forge.comment(7, body, by="boss")
    desk.forge.comment(7, body, by="mallory")
    desk.owe("report", again=True)
    desk.settle()

    assert len(desk.forge.bodies(7)) == 1
    assert len(desk.forge.bodies(7, by="mallory")) == 1
    assert desk.effect(key).ref == str(desk.forge.comments[0]["id"])


def test_what_is_done_is_not_looked_at_any_more(desk: Desk) -> None:
    desk.owe("report")
    desk.settle()
    calls = len(desk.forge.calls)

    assert desk.settle() == 0
    assert len(desk.forge.calls) == calls


def test_a_mark_in_a_comment_of_somebody_else_counts_for_nothing(desk: Desk) -> None:
    key = desk.owe("reply", text="so it is")
    desk.forge.comment(7, mark(key), by="mallory")

    desk.settle()

    assert desk.forge.bodies(7) == [f"so it is\n\n{mark(key)}"]


def test_a_mark_that_our_own_account_quotes_counts_for_nothing(desk: Desk) -> None:
    key = desk.owe("reply", text="so it is")
    desk.forge.comment(7, f"> {mark(key)}\n\nis what you wrote", by="boss")

    desk.settle()

    assert len(desk.forge.bodies(7)) == 2


# --- the report ----------------------------------------------------------------------------------


def test_a_report_is_one_comment_that_is_edited(desk: Desk) -> None:
    desk.owe("report")
    desk.settle()
    drive.dispatch(desk.store, repo=REPO, number=7)
    key = desk.owe("report", again=True)
    desk.settle()

    [body] = desk.forge.bodies(7)
    assert "dev-alpha" in body
    assert body.endswith(mark(key))
    assert desk.effect(key).ref == str(desk.forge.comments[0]["id"])


def test_a_report_that_says_the_same_is_left_alone(desk: Desk) -> None:
    desk.owe("report")
    desk.settle()
    # The forge's editor writes lines as browsers do.
    desk.forge.comments[0]["body"] = desk.forge.comments[0]["body"].replace("\n", "\r\n")
    desk.owe("report", again=True)

    assert desk.settle() == 1
    assert desk.forge.writes() == {"POST comments": 1}


def test_a_report_that_was_deleted_is_written_anew(desk: Desk) -> None:
    desk.owe("report")
    desk.settle()
    desk.forge.comments.clear()
    desk.owe("report", again=True)
    desk.settle()

    assert len(desk.forge.bodies(7)) == 1


def test_a_report_that_is_owed_anew_while_it_is_written_is_written_once_more(desk: Desk) -> None:
    key = desk.owe("report")
    desk.forge.on_write = lambda: desk.owe("report", again=True)
    desk.settle()
    desk.forge.on_write = lambda: None

    assert desk.effect(key).done_at is None
    assert desk.settle() == 1
    assert desk.effect(key).done_at is not None
    assert len(desk.forge.bodies(7)) == 1


def test_reports_that_follow_each_other_closely_are_one(desk: Desk) -> None:
    for _ in range(3):
        with desk.store.writing() as tx:
            ledger.owe_report(tx, desk.engine, REPO, 7)

    assert desk.settle() == 0
    desk.wait(2)
    assert desk.settle() == 1


def test_the_status_of_a_commit_tells_the_newest_task_of_a_kind(desk: Desk) -> None:
    drive.dispatch(desk.store, repo=REPO, number=8)
    run = drive.claim(desk.store, "dev-alpha")
    for state in ("failure", "success"):
        with desk.store.writing() as tx:
            ledger.owe_status(tx, desk.engine, run.task, state=state, sha=HEAD)
        desk.settle()

    assert [(one["context"], one["state"]) for one in desk.forge.statuses] == [
        ("forgepool/implement", "failure"),
        ("forgepool/implement", "success"),
    ]


# --- people --------------------------------------------------------------------------------------


def test_a_person_is_asked_once_and_the_issue_is_labelled(desk: Desk) -> None:
    key = desk.owe("ask", key=f"ask:tries:{REPO}#7:0", cause="tries", sentence="it was tried 3 times", pull=8)
    desk.settle()
    desk.forget(key)
    desk.settle()

    [body] = desk.forge.bodies(7)
    assert body.startswith("@ada ")
    assert "it was tried 3 times" in body
    assert desk.forge.issues[7]["labels"] == [HELP_LABEL]


def test_no_agent_is_called_for_help(desk: Desk) -> None:
    desk.forge.issue(9, user="boss", assignees=["dev", "grace"])
    desk.owe("ask", 9, cause="tries", sentence="it was tried 3 times", pull=None)
    desk.settle()

    assert desk.forge.bodies(9)[0].startswith("@grace ")


def test_who_is_assigned_replaces_agents_and_no_people(desk: Desk) -> None:
    desk.forge.issues[7]["assignees"] = ["grace", "dev"]
    desk.owe("assign", logins=["reviewer"])
    desk.settle()

    assert desk.forge.issues[7]["assignees"] == ["grace", "reviewer"]


@pytest.mark.parametrize("state", ["APPROVED", "REQUEST_CHANGES"])
def test_who_has_answered_at_this_head_is_not_asked_again(desk: Desk, state: str) -> None:
    desk.forge.review(8, "Reviewer", state)
    desk.owe("request-review", 8, login="reviewer", head_sha=HEAD)

    assert desk.settle() == 1
    assert desk.forge.writes() == {}


def test_who_has_answered_at_an_older_head_is_asked_again(desk: Desk) -> None:
    desk.forge.review(8, "reviewer", "REQUEST_REVIEW")
    desk.forge.review(8, "reviewer", "REQUEST_CHANGES", sha=OTHER)
    desk.owe("request-review", 8, login="reviewer", head_sha=HEAD)
    desk.settle()

    assert desk.forge.reviews[8][-1]["state"] == "REQUEST_REVIEW"


def test_who_is_asked_already_is_not_asked_twice(desk: Desk) -> None:
    desk.forge.review(8, "reviewer", "REQUEST_CHANGES", sha=OTHER)
    desk.forge.review(8, "reviewer", "REQUEST_REVIEW", sha=OTHER)
    desk.owe("request-review", 8, login="reviewer", head_sha=HEAD)
    desk.settle()

    assert desk.forge.writes() == {}


# --- labels, branches ----------------------------------------------------------------------------


def test_a_label_that_the_repository_lacks_is_made(desk: Desk) -> None:
    desk.forge.labels.add("tea")
    desk.owe("labels", names=["tea", HELP_LABEL])
    desk.settle()

    assert desk.forge.issues[7]["labels"] == [HELP_LABEL, "tea"]


def test_labels_that_are_on_are_not_written(desk: Desk) -> None:
    desk.forge.issues[7]["labels"] = ["tea"]
    desk.owe("labels", names=["tea"])
    desk.settle()

    assert desk.forge.writes() == {}


def test_a_branch_that_somebody_pushed_to_since_stays(desk: Desk) -> None:
    desk.forge.branches["old/8"] = OTHER
    desk.owe("delete-branch", 8, branch="old/8", sha=HEAD)

    assert desk.settle() == 1
    assert desk.forge.branches == {"old/8": OTHER}


def test_a_branch_of_an_open_pull_request_stays(desk: Desk) -> None:
    desk.forge.branches["dev/8"] = HEAD
    desk.owe("delete-branch", 9, branch="dev/8", sha=HEAD)

    assert desk.settle() == 1
    assert desk.forge.branches == {"dev/8": HEAD}


# --- a forge that fails --------------------------------------------------------------------------


def test_a_forge_that_is_away_for_a_day_gets_it_afterwards(desk: Desk) -> None:
    key = desk.owe("report")
    desk.forge.always["GET comments"] = Failure(502)
    pauses = []
    for _ in range(150):
        desk.settle()
        pauses.append((desk.effect(key).due_at - desk.clock.now).total_seconds())
        desk.wait(pauses[-1])
    desk.forge.always.clear()

    assert desk.settle() == 1
    assert pauses[:4] == [5, 10, 20, 40]
    assert max(pauses) == 600
    assert sum(pauses) > 86400
    assert len(desk.forge.bodies(7)) == 1


def test_what_the_forge_refuses_is_given_up_where_people_see_it(desk: Desk) -> None:
    key = desk.owe("close")
    desk.forge.always["PATCH 7"] = Failure(412)
    for _ in range(10):
        desk.settle()
        desk.wait(600)

    effect = desk.effect(key)
    assert effect.given_up_at is not None
    assert "412" in effect.error
    assert [line.what for line in desk.trail(source="effect")] == ["close given up"]
    assert desk.forge.writes() == {"PATCH 7": ledger.MOST_REFUSALS}


def test_what_the_forge_refuses_is_looked_at_again_by_the_workflow(desk: Desk) -> None:
    desk.owe("close", 77)
    for _ in range(5):
        desk.settle()
        desk.wait(600)

    with desk.store.reading() as tx:
        assert [(look.number, look.why) for look in tx.due_looks()] == [(77, "again")]


def test_one_that_is_refused_keeps_nothing_else_from_being_written(desk: Desk) -> None:
    desk.owe("reply", 77, text="to nobody")
    desk.owe("reply", 7, text="to ada")

    assert desk.settle() == 1
    assert len(desk.forge.bodies(7)) == 1


def test_what_cannot_be_read_keeps_nothing_else_from_being_written(desk: Desk) -> None:
    keys = [desk.owe("assign"), desk.owe("dance", key="dance:1")]
    desk.owe("reply", 7, text="to ada")

    assert desk.settle() == 1
    assert all(desk.effect(key).error for key in keys)


def test_a_round_ends_when_the_forge_leaves_several_calls_unanswered(desk: Desk) -> None:
    keys = [desk.owe("reply", key=f"reply:{at}", text="so it is") for at in range(6)]
    desk.forge.always["GET comments"] = Failure(503)

    desk.settle()

    assert [desk.effect(key).tries for key in keys] == [1, 1, 1, 0, 0, 0]
    # Those that were not tried go first in the next round.
    desk.settle()
    assert [desk.effect(key).tries for key in keys] == [1] * 6


def test_an_account_without_a_token_is_waited_for(desk: Desk) -> None:
    key = desk.owe("report")
    with desk.store.writing() as tx:
        tx.connection.exec_driver_sql("UPDATE effects SET type = 'nobody'")

    assert desk.settle() == 0
    assert "no token" in desk.effect(key).error
    assert desk.effect(key).given_up_at is None


def test_a_token_that_cannot_be_read_is_told_and_no_reason_to_stop(desk: Desk, tmp_path: Path) -> None:
    key = desk.owe("report")
    os.truncate(tmp_path / "token-boss", 0)

    assert desk.settle() == 0
    assert "token_file" in desk.effect(key).error


# --- who writes ----------------------------------------------------------------------------------


def test_who_has_lost_the_lease_writes_nothing(desk: Desk) -> None:
    desk.owe("reply", text="so it is")
    asked = iter([True, False])

    assert desk.settle(is_ours=lambda: next(asked)) == 0
    assert desk.forge.writes() == {}


def test_who_never_had_the_lease_does_not_even_ask(desk: Desk) -> None:
    desk.owe("reply", text="so it is")

    assert desk.settle(is_ours=lambda: False) == 0
    assert desk.forge.calls == []
