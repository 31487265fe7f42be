"""What is answered to whom, and what is kept of it."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from pool.schema import deliveries
from pool.states import InstanceState, State, Verdict
from pool.store import Store
from tests.door.house import SECRET, URL, Door, assigned, edited, make_settings, users
from tests.helpers.clock import Clock
from tests.helpers.deliveries import headers, load, sign
from tests.pool import drive
from webapp import intake

LIMIT = 4096


@pytest.fixture
def narrow(tmp_path: Path, store: Store, clock: Clock) -> Door:
    """Build a web app that reads little."""
    return Door(tmp_path, store, clock, make_settings(tmp_path, max_body_bytes=LIMIT))


def of_size(size: int) -> bytes:
    """Return a harmless delivery of that many bytes."""
    body = json.dumps({"x": ""})
    return json.dumps({"x": "y" * (size - len(body))}).encode()


@pytest.mark.parametrize("url", ["/webhooks", "/webhooks/forgejo"])
def test_both_addresses_take_deliveries(door: Door, url: str) -> None:
    reply = door.post("issue-assigned.json", url=url)

    assert (reply.status, reply.tasks) == (202, (1,))


@pytest.mark.parametrize("url", ["/webhooks", "/webhooks/forgejo", "/cancel"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_only_post_is_allowed(door: Door, url: str, method: str) -> None:
    assert door.client.open(url, method=method).status_code == 405


def test_the_answer_names_the_tasks_the_rule_and_the_receipt(door: Door) -> None:
    response = door.client.post(
        URL,
        data=(body := assigned("dev", "reviewer").body),
        headers={**load("issue-assigned.json").headers, **sign(body, SECRET)},
    )

    assert response.mimetype == "application/json"
    assert json.loads(response.text) == {
        "verdict": "accepted",
        "reason": "#7 was assigned to dev, reviewer; task 1 on dev-alpha; task 2 on reviewer-one",
        "rule": "issue-assigned",
        "tasks": [1, 2],
        "receipt": 1,
    }


def test_a_delivery_without_a_signature_is_401_and_its_body_is_not_kept(door: Door) -> None:
    sample = load("issue-assigned.json")

    for sent in ({}, sign(sample.body, b"")):
        reply = door.send(sample.body, {**sample.headers, **sent})

        assert (reply.status, reply.verdict) == (401, "refused")
        assert reply.reason == "the delivery is not signed; set the same secret on the webhook as here"
        assert door.kept(reply.receipt) == ({}, None)
    assert door.tasks() == []
    assert [(r.signed, r.repo, r.number, r.sender) for r in door.receipts()] == [(False, None, None, None)] * 2


def test_a_delivery_with_a_wrong_signature_is_403_and_its_body_is_not_kept(door: Door) -> None:
    reply = door.post("issue-assigned.json", secret=b"another secret")

    assert (reply.status, reply.verdict) == (403, "refused")
    assert "signature does not fit" in reply.reason
    assert door.kept(reply.receipt) == ({}, None)
    assert door.tasks() == []


def test_a_repository_that_is_not_served_is_403_and_can_be_taken_again_once_it_is(
    tmp_path: Path, store: Store, clock: Clock
) -> None:
    strict = Door(tmp_path, store, clock, make_settings(tmp_path, repos=["acme/gadgets"]))
    strict.add_usual()

    reply = strict.post("issue-assigned.json")

    assert (reply.status, reply.verdict, strict.tasks()) == (403, "refused", [])
    assert reply.reason == "acme/widgets is not served here; add it to service.repos in forgepool.toml"
    assert strict.receipts()[-1].signed
    kind = Door(tmp_path, store, clock, make_settings(tmp_path, repos=["acme/gadgets", "acme/widgets"]))
    again = intake.take_again(kind.engine, reply.receipt or 0)
    assert (again.status, kind.work()) == (202, [("dev", "implement", 7, "queued")])


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data"])
def test_a_form_is_415_and_the_remedy_is_told(door: Door, content_type: str) -> None:
    body = b"payload=%7B%7D"

    reply = door.send(
        body, {**headers(event="push", event_type="push"), **sign(body, SECRET), "Content-Type": content_type}
    )

    assert (reply.status, reply.verdict) == (415, "refused")
    assert reply.reason.endswith("; set the webhook's content type to application/json")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a": NaN}', b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_what_is_signed_but_is_no_object_is_400_and_is_kept(door: Door, body: bytes) -> None:
    reply = door.send(body, {**headers(event="issues", event_type="issues"), **sign(body, SECRET)})

    assert (reply.status, reply.verdict) == (400, "refused")
    assert door.kept(reply.receipt)[1] == body
    assert door.receipts()[-1].event_type == "issues"


def test_what_another_program_sends_is_400(door: Door) -> None:
    body = b"{}"

    reply = door.send(body, {"Content-Type": "application/json", **sign(body, SECRET)})

    assert (reply.status, reply.reason.split(";")[0]) == (
        400,
        "the header X-Forgejo-Event-Type (or X-Gitea-Event-Type) is missing",
    )


# --- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [SECRET, b""])
def test_a_body_above_the_limit_is_413_and_no_more_of_it_is_read_than_lets_the_sender_see_that(
    narrow: Door, secret: bytes
) -> None:
    """The connection was closed while he still sent, so what he saw was a broken pipe."""
    body = of_size(LIMIT * 50)
    stream = BytesIO(body)
    sent = {**headers(event="push", event_type="push"), **sign(body, secret)}

    reply = narrow.hand_over(stream, sent, length=len(body))

    assert (reply.status, reply.verdict) == (413, "refused")
    assert f"service.max_body_bytes = {LIMIT}" in reply.reason
    assert stream.tell() <= 2 * LIMIT
    assert narrow.kept(reply.receipt) == ({}, None)
    assert not narrow.receipts()[-1].signed


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413), (LIMIT * 50, 413)])
def test_the_limit_counts_without_a_length_too(narrow: Door, size: int, status: int) -> None:
    """What came in chunks was cut at the limit, and the sender was told that his signature is wrong."""
    body = of_size(size)
    sent = {**headers(event="push", event_type="push"), **sign(body, SECRET)}

    reply = narrow.hand_over(BytesIO(body), sent, length=None)

    assert reply.status == status


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
def test_a_body_of_exactly_the_limit_is_read(narrow: Door, size: int, status: int) -> None:
    body = of_size(size)

    reply = narrow.send(body, {**headers(event="push", event_type="push"), **sign(body, SECRET)})

    assert (len(body), reply.status) == (size, status)


class Torn(BytesIO):
    """A transfer that breaks off."""

    def __init__(self, error: Exception) -> None:
        super().__init__(b"{")
        self.error = error

    def readinto(self, *_: Any) -> int:
        raise self.error

    def read(self, *_: Any) -> bytes:
        raise self.error


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("bad"), RuntimeError("an error of the server's own")])
def test_a_transfer_that_breaks_off_is_400(door: Door, error: Exception) -> None:
    """A chunk size that is no number reached the log as a crash: gunicorn's error for it is no OSError."""
    sent = load("issue-assigned.json").headers

    reply = door.hand_over(Torn(error), sent, length=None)

    assert (reply.status, reply.verdict, door.tasks()) == (400, "refused", [])
    assert "did not arrive whole" in reply.reason


def test_a_body_shorter_than_promised_does_nothing(door: Door) -> None:
    sample = load("issue-assigned.json")
    sent = {**sample.headers, **sign(sample.body, SECRET)}

    reply = door.hand_over(BytesIO(sample.body[:-9]), sent, length=len(sample.body))

    assert (reply.status, door.tasks()) == (400, [])


# --- secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b" \n"])
def test_with_an_empty_secret_nothing_gets_in(door: Door, content: bytes) -> None:
    (door.folder / "webhook-secret").write_bytes(content)

    for secret in (b"", content, SECRET):
        reply = door.post("issue-assigned.json", secret=secret)

        assert (reply.status, reply.verdict) == (503, "error")
        assert reply.reason == "the receiver is not configured"
    assert (door.tasks(), door.receipts()) == ([], [])


def test_without_the_secret_file_nothing_gets_in_and_its_place_is_not_told(door: Door) -> None:
    (door.folder / "webhook-secret").unlink()

    reply = door.post("issue-assigned.json")

    assert (reply.status, door.tasks()) == (503, [])
    assert str(door.folder) not in reply.text


def test_verification_comes_before_parsing(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger must not get his bytes to any parser."""

    def parse(text: str, **_: Any) -> None:
        raise AssertionError("parsed")

    body = b'{"run":' + b"[" * 500_000
    sent = headers(event="issues", event_type="issues")
    with monkeypatch.context() as patched:
        patched.setattr(json, "loads", parse)
        answers = [
            door.client.post(URL, data=body, headers=sent),
            door.client.post(URL, data=body, headers={**sent, **sign(body, b"wrong")}),
        ]

    assert [answer.status_code for answer in answers] == [401, 403]


def test_the_secret_is_read_anew_so_that_it_can_be_changed(door: Door) -> None:
    (door.folder / "webhook-secret").write_bytes(b"the next secret")

    assert door.post("issue-assigned.json").status == 403
    assert door.post("issue-assigned.json", secret=b"the next secret").status == 202


# --- receipts of strangers -----------------------------------------------------------------------


def test_receipts_of_unsigned_requests_are_bounded_and_do_not_push_out_signed_ones(door: Door) -> None:
    door.post("push-test.json")
    with door.store.writing() as tx:
        values = {"received_at": tx.now, "source": "gitea", "verdict": "refused", "status": 401, "reason": ""}
        tx.connection.execute(deliveries.insert(), [{**values, "signed": False} for _ in range(1000)])

    for _ in range(5):
        door.send(b"{}", {})
    door.post("issue-assigned.json", secret=b"wrong")

    assert door.count_receipts(signed=False) == 1000
    assert door.count_receipts(signed=True) == 1
    assert door.receipts()[-1].status == 403


def test_headers_of_strangers_are_cut_and_cleaned(door: Door) -> None:
    sent = {"X-Forgejo-Delivery": "i\x1b[31m" + "x" * 5000, "X-Forgejo-Event": "\x07\xff" * 3000}

    reply = door.send(b"", sent)

    receipt = door.receipts()[-1]
    assert reply.status == 401
    assert receipt.delivery_id == ("i[31m" + "x" * 200)[: len(receipt.delivery_id or "")]
    assert len(receipt.delivery_id or "") <= 200
    assert (receipt.event_type or "").isprintable()


# --- nobody there --------------------------------------------------------------------------------


def test_without_an_instance_the_task_is_failed_visibly_and_the_answer_says_how_to_add_one(empty_door: Door) -> None:
    reply = empty_door.post("issue-assigned.json")

    sentence = "no instance of type 'dev' is registered; add one with `forgepool instances add NAME --type dev`"
    assert (reply.status, reply.verdict, reply.reason, reply.rule) == (503, "error", sentence, "issue-assigned")
    [task] = empty_door.tasks()
    assert (task.id, task.state, task.instance, task.reason) == (reply.tasks[0], State.FAILED, None, sentence)
    assert (task.delivery, task.rule) == (reply.receipt, "issue-assigned")
    [receipt] = empty_door.receipts()
    assert (receipt.verdict, receipt.status, receipt.reason) == (Verdict.ERROR, 503, sentence)
    assert empty_door.bell.rung == []


@pytest.mark.parametrize("how", ["same id", "new id", "by hand"])
def test_an_assignment_that_nobody_could_take_is_not_lost(empty_door: Door, how: str) -> None:
    first = empty_door.post("issue-assigned.json")
    empty_door.add("dev-alpha")

    if how == "by hand":
        status = intake.take_again(empty_door.engine, first.receipt or 0).status
    else:
        status = empty_door.post("issue-assigned.json" if how == "same id" else edited("issue-assigned.json")).status

    assert status == 202
    assert [(task.state, task.instance) for task in empty_door.tasks()] == [("failed", None), ("queued", "dev-alpha")]


def test_of_two_assignees_only_the_one_that_nobody_could_serve_is_dispatched_again(empty_door: Door) -> None:
    """The whole list was forgotten when one type had no instance, so the other's finished work began anew."""
    empty_door.add("dev-alpha")
    news = assigned("dev", "reviewer", "alice")
    first = empty_door.post(news)
    dev = empty_door.claim("dev-alpha")
    empty_door.cancel({"task_id": dev.id})
    empty_door.clock.advance(3600)
    with empty_door.store.writing() as tx:
        drive.expire_runs(tx)
    empty_door.add("reviewer-one", type_name="reviewer")

    second = empty_door.post(news)

    assert (first.status, second.status) == (503, 202)
    assert [(t.type, str(t.state)) for t in empty_door.tasks()] == [
        ("dev", "cancelled"),
        ("reviewer", "failed"),
        ("reviewer", "queued"),
    ]


def test_every_kind_of_task_that_nobody_can_take_is_an_error(empty_door: Door) -> None:
    for name in ("pull-review-requested.json", "pull-rejected.json", "pull-approved.json", "action-run-failed.json"):
        assert (empty_door.post(name).status, empty_door.tasks()[-1].state) == (503, State.FAILED)


def test_paused_instances_are_somebody(door: Door) -> None:
    for name in ("dev-alpha", "dev-bravo"):
        with door.store.writing() as tx:
            tx.set_instance_state(name, InstanceState.PAUSED)

    assert door.post("issue-assigned.json").status == 202


def test_an_assignment_to_people_is_ignored_with_the_reason(door: Door) -> None:
    reply = door.post(edited("issue-assigned.json", {"issue.assignees": users("alice", "bob")}))

    assert (reply.status, reply.verdict, reply.reason) == (200, "ignored", "no agent's account: alice, bob")
