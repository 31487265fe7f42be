"""POST /cancel hits exactly its target, or nothing."""

import hmac
import json
from typing import Any

import pytest

from pool.model import Evidence
from pool.states import Move, State
from tests.door.house import TOKEN, Door, assigned


@pytest.fixture
def busy(door: Door) -> Door:
    """Let dev-alpha run task 1 and dev-bravo task 2, with task 3 waiting on dev-alpha."""
    for number in (11, 12, 13):
        door.post(assigned("dev", number=number))
    assert [door.claim(name).id for name in ("dev-alpha", "dev-bravo")] == [1, 2]
    assert door.task(3).instance == "dev-alpha"
    return door


@pytest.fixture
def one_runs(door: Door) -> Door:
    """Let dev-alpha run task 1, with task 2 waiting on dev-bravo."""
    for number in (11, 12):
        door.post(assigned("dev", number=number))
    door.claim("dev-alpha")
    return door


def asked(door: Door) -> list[int]:
    """Return the tasks that somebody wants to end."""
    return [t.id for t in door.tasks() if t.cancel_requested_at is not None or t.state is State.CANCELLED]


# --- whom it hits --------------------------------------------------------------------------------


def test_nothing_named_is_the_only_task_that_runs(one_runs: Door) -> None:
    answer = one_runs.cancel({})

    assert (answer.status_code, answer.get_json()) == (
        202,
        {
            "task_id": 1,
            "instance": "dev-alpha",
            "agent": "dev-alpha",
            "issue_number": 11,
            "repo": "acme/widgets",
            "state": "running",
        },
    )
    assert one_runs.task(1).cancel_requested_at == one_runs.clock.now
    assert asked(one_runs) == [1]


def test_nothing_named_while_several_run_is_409_and_lists_them(busy: Door) -> None:
    answer = busy.cancel({})

    assert answer.status_code == 409
    assert answer.get_json()["error"] == (
        "more than one task is running; give task_id or instance (dev-alpha runs task 1, dev-bravo runs task 2)"
    )
    assert asked(busy) == []


def test_nothing_named_while_nothing_runs_is_404(door: Door) -> None:
    door.post("issue-assigned.json")

    answer = door.cancel({})

    assert (answer.status_code, answer.get_json()) == (404, {"error": "nothing is running"})
    assert asked(door) == []


@pytest.mark.parametrize("word", ["instance", "agent"])
def test_an_instance_named_is_the_task_that_runs_there(busy: Door, word: str) -> None:
    answer = busy.cancel({word: "dev-bravo"})

    assert (answer.status_code, answer.get_json()["task_id"]) == (202, 2)
    assert asked(busy) == [2]


def test_both_words_may_say_the_same_but_not_different_things(busy: Door) -> None:
    different = busy.cancel({"instance": "dev-alpha", "agent": "dev-bravo"})
    assert (different.status_code, asked(busy)) == (400, [])

    same = busy.cancel({"instance": "dev-bravo", "agent": "dev-bravo"})
    assert (same.status_code, asked(busy)) == (202, [2])


def test_an_unknown_instance_is_404(busy: Door) -> None:
    answer = busy.cancel({"instance": "dev-zulu"})

    assert (answer.status_code, asked(busy)) == (404, [])
    assert "no instance 'dev-zulu'" in answer.get_json()["error"]


def test_an_idle_instance_is_404_even_with_tasks_waiting(one_runs: Door) -> None:
    for name in ("dev-bravo", "boss-one"):
        answer = one_runs.cancel({"instance": name})

        assert (answer.status_code, answer.get_json()) == (404, {"error": f"{name} runs nothing"})
    assert asked(one_runs) == []


def test_a_waiting_task_named_by_its_id_is_cancelled_at_once(busy: Door) -> None:
    answer = busy.cancel({"task_id": 3, "why": "wrong issue"})

    assert (answer.status_code, answer.get_json()["state"]) == (200, "cancelled")
    assert (busy.task(3).state, busy.task(3).reason) == (State.CANCELLED, "wrong issue")
    assert asked(busy) == [3]


def test_a_running_task_named_by_its_id_is_asked_to_end_wherever_it_runs(busy: Door) -> None:
    answer = busy.cancel({"task_id": 2})

    assert (answer.status_code, answer.get_json()["instance"]) == (202, "dev-bravo")
    assert asked(busy) == [2]


@pytest.mark.parametrize("value", ["2", "#2"])
def test_an_id_may_be_text(busy: Door, value: str) -> None:
    assert (busy.cancel({"task_id": value}).status_code, asked(busy)) == (202, [2])


def test_a_task_id_wins_over_a_name(busy: Door) -> None:
    answer = busy.cancel({"task_id": 1, "instance": "dev-bravo"})

    assert (answer.get_json()["task_id"], asked(busy)) == (1, [1])


def test_an_unknown_task_is_404(busy: Door) -> None:
    for value in (4, 0, 2**63 - 1):
        answer = busy.cancel({"task_id": value})

        assert (answer.status_code, f"there is no task {value}" in answer.get_json()["error"]) == (404, True)
    assert asked(busy) == []


def test_a_task_that_has_ended_is_409_and_stays_as_it_is(door: Door) -> None:
    door.post("issue-assigned.json")
    door.claim("dev-alpha")
    with door.store.writing() as tx:
        tx.finish(1, Move.SUCCEED, fence=1, evidence=Evidence(exit_code=0), why="done")

    answer = door.cancel({"task_id": 1})

    assert (answer.status_code, door.task(1).state) == (409, State.SUCCEEDED)
    assert "succeeded" in answer.get_json()["error"]


def test_a_task_that_no_instance_could_take_has_ended(empty_door: Door) -> None:
    empty_door.post("issue-assigned.json")

    assert empty_door.cancel({"task_id": 1}).status_code == 409


def test_cancelling_twice_says_the_same_and_asks_once(one_runs: Door) -> None:
    first = one_runs.cancel({"task_id": 1})
    one_runs.clock.advance(5)
    second = one_runs.cancel({"task_id": 1})

    assert (first.status_code, second.status_code) == (202, 202)
    assert [event.event for event in one_runs.task(1).history].count("cancel-requested") == 1


def test_a_run_whose_worker_is_dead_is_cancelled_at_once(one_runs: Door) -> None:
    one_runs.clock.advance(3600)

    answer = one_runs.cancel({"task_id": 1})

    assert (answer.status_code, one_runs.task(1).state) == (200, State.CANCELLED)


def test_cancel_needs_no_broker(one_runs: Door) -> None:
    one_runs.bell.break_down()

    assert [one_runs.cancel({"task_id": task}).status_code for task in (1, 2)] == [202, 200]


# --- who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ÿ" * 20])
def test_without_the_token_nothing_is_cancelled(one_runs: Door, token: str | None) -> None:
    for body in ({}, {"task_id": 1}, {"nonsense": 1}):
        answer = one_runs.cancel(body, token=token)

        assert answer.status_code == 401
        assert answer.get_json() == {"error": "give the operator token as `Authorization: Bearer TOKEN`"}
    assert asked(one_runs) == []


@pytest.mark.parametrize("value", [TOKEN, f"Basic {TOKEN}", f"Token {TOKEN}", f"Bearer{TOKEN}", "Bearer", ""])
def test_only_a_bearer_token_counts(one_runs: Door, value: str) -> None:
    answer = one_runs.client.post("/cancel", json={}, headers={"Authorization": value})

    assert (answer.status_code, asked(one_runs)) == (401, [])


def test_the_word_bearer_may_be_written_in_any_case(one_runs: Door) -> None:
    answer = one_runs.client.post("/cancel", json={}, headers={"Authorization": f"bearer {TOKEN} "})

    assert answer.status_code == 202


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_token_lets_nobody_in(one_runs: Door, content: bytes) -> None:
    (one_runs.folder / "operator-token").write_bytes(content)

    for token in ("", TOKEN, None):
        answer = one_runs.cancel(token=token)

        assert (answer.status_code, answer.get_json()) == (503, {"error": "the service is not configured"})
    assert asked(one_runs) == []


def test_tokens_are_compared_in_constant_time(one_runs: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    one_runs.cancel(token="guess")

    assert compared == [(b"guess", TOKEN.encode())]


def test_the_secret_of_the_webhook_is_no_token(one_runs: Door) -> None:
    secret = one_runs.settings.webhook_secret().decode()

    assert one_runs.cancel(token=secret).status_code == 401


def test_neither_answers_nor_logs_tell_a_secret(
    one_runs: Door, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = one_runs.settings.webhook_secret().decode()
    planted = "ghp-planted-by-a-caller"
    answers = [
        one_runs.cancel(body, token=token).text
        for token in (TOKEN, planted)
        for body in ({"task_id": 1}, {"instance": "x"}, {"nonsense": 1}, [1])
    ]
    answers += [one_runs.post("issue-assigned.json", Authorization=f"Bearer {planted}").text]
    answers += [one_runs.post("issue-assigned.json", secret=b"wrong", Authorization=f"Bearer {planted}").text]
    (one_runs.folder / "operator-token").write_bytes(b"")
    answers += [one_runs.cancel().text]

    said = "".join([*answers, *capsys.readouterr(), caplog.text])
    assert "not configured" in said
    for hidden in (TOKEN, planted, secret):
        assert hidden not in said
    assert planted not in json.dumps([one_runs.kept(receipt.id)[0] for receipt in one_runs.receipts()])


# --- what it reads -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b'"{}"', "application/json"),
        (b"\xff", "application/json"),
        (b'{"task_id": NaN}', "application/json"),
        (b'{"task_id": ' + b"9" * 5000 + b"}", "application/json"),
        (b'{"x":' * 100_000, "application/json"),
        (b'{"x":' + b"[" * 100_000, "application/json"),
        (b"{}", "text/plain"),
        (b"task_id=1", "application/x-www-form-urlencoded"),
        (b"{}", ""),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_what_is_no_json_object_is_400(one_runs: Door, data: bytes, content_type: str) -> None:
    answer = one_runs.cancel(data=data, content_type=content_type)

    assert (answer.status_code, answer.is_json, asked(one_runs)) == (400, True, [])


@pytest.mark.parametrize(
    "body",
    [
        {"task": 1},
        {"taskid": 1},
        {"task_id": 1, "force": True},
        {"x" * 5000: 1},
        {"\ud800": 1},
        {"task_id": None},
        {"task_id": True},
        {"task_id": 1.0},
        {"task_id": -1},
        {"task_id": 2**63},
        {"task_id": ""},
        {"task_id": "1 OR 1=1"},
        {"task_id": [1]},
        {"task_id": {"id": 1}},
        {"instance": None},
        {"agent": None},
        {"instance": None, "agent": "dev-bravo"},
        {"instance": ""},
        {"instance": 1},
        {"instance": ["dev-alpha"]},
        {"instance": "dev-alpha\0"},
        {"instance": "\ud800"},
        {"instance": "x" * 5000},
        {"task_id": 1, "instance": 7},
        {"task_id": 1, "why": 7},
        {"task_id": 1, "why": ["x"]},
    ],
    ids=lambda value: json.dumps(value)[:30],
)
def test_what_is_no_wish_is_400_and_cancels_nothing(one_runs: Door, body: dict[str, Any]) -> None:
    """Null for a name was taken as "any", so a form with an empty field stopped whatever ran."""
    answer = one_runs.cancel(data=json.dumps(body), content_type="application/json")

    assert (answer.status_code, asked(one_runs)) == (400, [])
    assert 0 < len(answer.get_json()["error"]) < 1000


@pytest.mark.parametrize(
    ("why", "kept"),
    [("x" * 5000, "x" * 1000), ("a\ud800b\0c", "abc"), ("", "cancelled by operator"), (None, "cancelled by operator")],
)
def test_a_reason_is_made_fit_to_be_stored(one_runs: Door, why: str | None, kept: str) -> None:
    """Half a surrogate pair in it was answered with 500."""
    answer = one_runs.cancel(data=json.dumps({"task_id": 2, "why": why}), content_type="application/json")

    assert (answer.status_code, one_runs.task(2).reason) == (200, kept)


def test_a_body_above_the_limit_is_413(one_runs: Door) -> None:
    answer = one_runs.cancel(data=b" " * (2 << 20), content_type="application/json")

    assert (answer.status_code, answer.get_json()) == (413, {"error": "the body is larger than service.max_body_bytes"})
