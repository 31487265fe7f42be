"""Whatever anybody sends: no crash, no task from a stranger, nothing of a stranger's body kept."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pool.errors import Refused
from tests.door.house import SECRET, URL, Door, Reply, edited, renamed, throwaway_door, users
from tests.helpers import fuzz
from tests.helpers.deliveries import Delivery, encode, headers, load, names, sign
from webapp import intake

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

#: As a server hands them on: bytes read as Latin-1 (PEP 3333), no line ends.
header_values = st.text(st.characters(max_codepoint=0xFF, exclude_characters="\r\n"), max_size=60)
event_types = st.sampled_from(sorted({load(name).headers["X-Gitea-Event-Type"] for name in names()}))
signature_names = st.sampled_from(
    ["X-Forgejo-Signature", "X-Gitea-Signature", "X-Gogs-Signature", "X-Hub-Signature-256", "X-Hub-Signature"]
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Door]:
    """Build one web app for all examples: what one leaves behind must not matter to the next."""
    with throwaway_door() as door:
        yield door


def is_proper(reply: Reply) -> bool:
    """Tell whether that is an answer a forge may store: of a documented status, and small."""
    documented = reply.status in (200, 202, 400, 401, 403, 413, 415)
    return documented and bool(reply.reason) and reply.reason.isprintable() and len(reply.text) < 8000


# --- strangers -----------------------------------------------------------------------------------


@few
@given(
    name=st.sampled_from(names()),
    signatures=st.dictionaries(signature_names, header_values | st.just("sha256="), max_size=3),
)
def test_a_stranger_with_a_perfect_body_gets_nowhere(shared: Door, name: str, signatures: dict[str, str]) -> None:
    sample = load(name)

    reply = shared.send(sample.body, {**sample.headers, **signatures})

    assert reply.status in (401, 403)
    assert shared.kept(reply.receipt) == ({}, None)
    assert (shared.tasks(), shared.bell.rung) == ([], [])


@few
@given(
    body=st.binary(max_size=300),
    sent=st.dictionaries(
        st.sampled_from(["X-Forgejo-Delivery", "X-Forgejo-Event", "X-Gitea-Event-Type", "Content-Type", "User-Agent"]),
        header_values,
    ),
)
def test_a_stranger_with_any_bytes_and_headers_gets_nowhere(shared: Door, body: bytes, sent: dict[str, str]) -> None:
    reply = shared.send(body, sent)

    assert reply.status == 401
    receipt = shared.receipts()[-1]
    assert all(word is None or word.isprintable() for word in (receipt.delivery_id, receipt.event_type, receipt.reason))
    assert shared.tasks() == []


@few
@given(data=st.data(), name=st.sampled_from(["issue-assigned.json", "pull-approved.json"]))
def test_a_signature_is_good_for_exactly_one_body(shared: Door, data: st.DataObject, name: str) -> None:
    sample = load(name)
    at = data.draw(st.integers(0, len(sample.body) - 1))
    kind = data.draw(st.sampled_from(["cut", "flip", "double", "append"]))
    body = {
        "cut": sample.body[:at],
        "flip": sample.body[:at] + bytes([sample.body[at] ^ 1]) + sample.body[at + 1 :],
        "double": sample.body[:at] + sample.body[at : at + 1] + sample.body[at:],
        "append": sample.body + b" ",
    }[kind]

    reply = shared.send(body, {**sample.headers, **sign(sample.body, SECRET)})

    assert (reply.status, shared.tasks()) == (403, [])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0" * 10_000,
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b"9" * 1_000_000,
        b'"' + b"\\ud800" * 100_000,
        b"\x1f\x8b\x08" + b"\0" * 1000,
        b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]>",
    ],
    ids=lambda body: repr(body[:8]),
)
@pytest.mark.parametrize("secret", [b"", b"wrong", SECRET], ids=["unsigned", "wrong", "signed"])
def test_bombs_do_not_go_off(shared: Door, body: bytes, secret: bytes) -> None:
    reply = shared.send(body, {**headers(event="issues", event_type="issue_assign"), **sign(body, secret)})

    assert reply.status == (401 if not secret else 403 if secret != SECRET else 400)
    assert shared.tasks() == []


def test_a_signature_given_twice_is_none(shared: Door) -> None:
    """Servers join them with a comma: a good one cannot be smuggled in beside another."""
    sample = load("issue-assigned.json")
    good = sign(sample.body, SECRET)["X-Forgejo-Signature"]
    for pair in ([good, "0" * 64], ["0" * 64, good], [good, good], ["", good]):
        sent = [*sample.headers.items(), *(("X-Forgejo-Signature", value) for value in pair)]

        reply = Reply.of(shared.client.post(URL, data=sample.body, headers=sent))

        assert (reply.status, shared.tasks()) == (403, [])


# --- a forge gone mad: good signatures -----------------------------------------------------------


@pytest.fixture(scope="module")
def mad() -> Iterator[Door]:
    """Build one web app for all examples with good signatures."""
    with throwaway_door() as door:
        yield door


@few
@given(delivery=fuzz.mutated_samples())
def test_a_damaged_sample_is_answered_and_stored(mad: Door, delivery: Delivery) -> None:
    reply = mad.post(renamed(delivery))

    assert is_proper(reply), reply
    receipt = mad.receipts()[-1]
    assert (receipt.id, str(receipt.verdict), receipt.status) == (reply.receipt, reply.verdict, reply.status)
    assert mad.kept(receipt.id)[1] == delivery.body
    assert reply.tasks == () or reply.status in (200, 202)


@few
@given(value=fuzz.objects, event_type=event_types)
def test_any_object_is_answered(mad: Door, value: dict[str, Any], event_type: str) -> None:
    body = json.dumps(value).encode()

    reply = mad.send(body, {**headers(event="x", event_type=event_type), **sign(body, SECRET)})

    assert is_proper(reply), reply


@few
@given(
    name=st.sampled_from(["issue-assigned.json", "push-test.json"]),
    sent=st.dictionaries(
        st.sampled_from(["X-Forgejo-Delivery", "X-Forgejo-Event", "X-Forgejo-Event-Type", "X-Gitea-Event-Type"]),
        header_values,
    ),
)
def test_any_header_of_a_signed_delivery_is_answered(mad: Door, name: str, sent: dict[str, str]) -> None:
    sample = load(name)

    reply = mad.send(sample.body, {**sample.headers, **sign(sample.body, SECRET), **sent})

    assert is_proper(reply), reply
    kept = mad.kept(reply.receipt)[0]
    assert all(value.isprintable() and len(value) <= 200 for value in kept.values())


@few
@given(data=st.data())
def test_a_damaged_delivery_can_be_looked_at_and_replayed(mad: Door, data: st.DataObject) -> None:
    reply = mad.post(renamed(data.draw(fuzz.mutated_samples())))

    try:
        again = intake.take_again(mad.engine, reply.receipt or 0)
    except Refused:
        assert reply.status in (400, 403)
    else:
        assert again.status in (200, 202)


# --- one at a time -------------------------------------------------------------------------------

LONG = "x" * 10_000


@pytest.mark.parametrize(
    ("name", "changes", "status"),
    [
        ("issue-assigned.json", {"issue.number": 2**63}, 400),
        ("issue-assigned.json", {"issue.number": 2**63 - 1}, 202),
        ("issue-assigned.json", {"issue.number": 10**400}, 400),
        ("issue-assigned.json", {"issue.number": -1}, 400),
        ("issue-assigned.json", {"issue.number": 1e400}, 400),
        ("issue-assigned.json", {"issue.title": "half \ud83d a pair \udc00"}, 202),
        ("issue-assigned.json", {"issue.title": "nul\0 esc\x1b[2J"}, 202),
        ("issue-assigned.json", {"issue.title": LONG, "issue.body": LONG * 20}, 202),
        ("issue-assigned.json", {"issue.html_url": "https://" + LONG}, 202),
        ("issue-assigned.json", {"issue.labels": [{"name": f"{LONG}{n}"} for n in range(50)]}, 202),
        ("issue-assigned.json", {"issue.assignees": users(*(f"user{n}" for n in range(5000)), "dev")}, 202),
        ("issue-assigned.json", {"sender": {"login": LONG}}, 400),
        ("issue-assigned.json", {"action": LONG}, 400),
        ("issue-assigned.json", {"repository.full_name": f"acme/{LONG}"}, 400),
        ("issue-assigned.json", {"repository.full_name": "acme/widgets\0"}, 400),
        ("issue-assigned.json", {"repository.full_name": "acme/../widgets"}, 400),
        ("push-test.json", {"action": LONG}, 200),
        ("push-test.json", {"number": 2**64}, 200),
        ("push-test.json", {"repository": LONG}, 200),
        ("gitea-status-failure.json", {"action": LONG}, 200),
        ("gitea-status-failure.json", {"context": LONG * 10, "description": "\0\ud800" * 50}, 200),
        ("gitea-status-failure.json", {"context": "\x1b[2J\n\x07"}, 200),
        ("gitea-status-failure.json", {"state": LONG}, 400),
        ("pull-rejected.json", {"review.content": "\0\ud800 $(reboot) " + LONG}, 202),
        ("pull-opened.json", {"pull_request.head.ref": "x" * 300}, 400),
        ("pull-opened.json", {"pull_request.user": {"login": "y" * 255}}, 200),
        ("action-run-failed.json", {"run.event_payload": "[" * 100_000}, 200),
        ("action-run-failed.json", {"run.id": 2**63}, 400),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_extreme_values_are_stored_within_their_columns_or_refused(
    door: Door, name: str, changes: dict[str, Any], status: int
) -> None:
    sent = edited(name, changes)

    reply = door.post(sent)

    assert reply.status == status, reply
    assert is_proper(reply)
    receipt = door.receipts()[-1]
    for column in (receipt.action, receipt.event_type, receipt.sender, receipt.repo, receipt.delivery_id):
        assert len(column or "") <= 255
    for task in door.tasks():
        text = json.dumps(task.request.to_json(), ensure_ascii=False)
        assert "\0" not in text.encode().decode()


@pytest.mark.parametrize(
    "sent",
    [
        "x" * 8000,
        "a, b",
        "a\tb",
        "a\x00b",
        "\xff\xfe",
        "'; DROP TABLE deliveries; --",
        "%0d%0aSet-Cookie: x",
        "<script>",
    ],
    ids=repr,
)
def test_any_delivery_id_is_taken_and_a_repeat_is_known(door: Door, sent: str) -> None:
    sample = load("issue-assigned.json")
    strange = replace(sample, headers={**sample.headers, "X-Forgejo-Delivery": sent})

    response = door.client.post(URL, data=strange.body, headers={**strange.headers, **sign(strange.body, SECRET)})

    assert response.status_code == 202
    assert {name.lower() for name in response.headers.keys()} == {"content-type", "content-length"}  # noqa: SIM118
    assert len(door.receipts()[-1].delivery_id or "") <= 200
    assert [door.post(strange).status, door.post("issue-assigned.json").status] == [200, 200]


def test_the_type_of_a_delivery_may_be_anything(door: Door) -> None:
    body = encode({"x": 1})
    for event_type in ("x" * 8000, "a b", "\xe9v\xe9nement", "../../etc/passwd"):
        sent = {**headers(event="", event_type=event_type), **sign(body, SECRET)}

        assert door.send(body, sent).status == 200
        assert len(door.receipts()[-1].event_type or "") <= 255


def test_a_secret_in_the_body_is_no_signature(door: Door) -> None:
    """Old Gitea and Gogs sent the secret inside the body."""
    body = encode({**json.loads(load("issue-assigned.json").body), "secret": SECRET.decode()})

    assert door.send(body, load("issue-assigned.json").headers).status == 401


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip"])
def test_nothing_is_unpacked(door: Door, encoding: str) -> None:
    body = gzip.compress(b" " * 10_000_000)

    reply = door.send(body, {**load("issue-assigned.json").headers, **sign(body, SECRET), "Content-Encoding": encoding})

    assert reply.status == 400


@pytest.mark.parametrize(
    "path", ["/webhooks/", "/webhooks/github", "//webhooks", "/webhooks%00", "/webhooks/forgejo/x"]
)
def test_other_addresses_are_404(door: Door, path: str) -> None:
    sample = load("issue-assigned.json")

    answer = door.client.post(path, data=sample.body, headers={**sample.headers, **sign(sample.body, SECRET)})

    assert (answer.status_code in (404, 308), door.tasks()) == (True, [])
