"""The same door behind the real server: what its own reading of HTTP adds."""

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import bench_door
from tests.door.house import assigned
from tests.door.server import Server, in_chunks, request_of, served, signed
from tests.helpers.deliveries import Delivery, headers
from tests.helpers.house import SECRET

pytestmark = pytest.mark.engine

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start one server for all tests of this file; its broker is away."""
    with served(tmp_path_factory.mktemp("served"), broker=False) as running:
        yield running
        assert "Traceback" not in running.log


def work(server: Server) -> list[int]:
    """Return the issues that tasks are for."""
    with server.house.store.reading() as tx:
        return [task.request.number for task in tx.list_tasks(newest_first=False)]


def big(size: int) -> Delivery:
    """Return a delivery of that many bytes that asks for nothing."""
    return Delivery(
        name="big",
        body=b'{"x":"' + b"y" * (size - 8) + b'"}',
        headers=headers(event="push", event_type="push"),
        family="",
    )


def test_a_delivery_is_taken_with_a_length_and_in_chunks_and_without_a_broker(server: Server) -> None:
    whole, pieces = assigned("dev", number=101), assigned("dev", number=102)

    first, told = server.raw(request_of(whole.body, signed(whole)))
    second, _ = server.raw(request_of(pieces.body, signed(pieces), chunks=in_chunks(pieces.body)))

    assert (first, second, told["verdict"]) == (202, 202, "accepted")
    assert work(server)[-2:] == [101, 102]
    with server.house.store.reading() as tx:
        assert tx.list_tasks(limit=1)[0].published_at is None


@pytest.mark.parametrize(("size", "status"), [(10 * MIB, 200), (10 * MIB + 1, 413)])
def test_the_limit_counts_in_chunks_too(server: Server, size: int, status: int) -> None:
    sent = big(size)
    assert len(sent.body) == size

    answered, told = server.raw(request_of(sent.body, signed(sent), chunks=in_chunks(sent.body, 65536)))

    assert answered == status, told


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\nabc\r\n0\r\n\r\n",
        b"-1\r\nabc\r\n",
        b"ffffffffffffffffff\r\nabc",
        b"3\r\nabcdef\r\n0\r\n\r\n",
        b"5\r\nab",
        b"",
    ],
    ids=repr,
)
def test_chunks_that_are_none_are_refused(server: Server, chunks: bytes) -> None:
    before = work(server)
    sent = assigned("dev", number=103)

    status, _ = server.raw(request_of(sent.body, signed(sent), chunks=chunks))

    assert status in (0, 400, 403)
    assert work(server) == before


def test_a_body_shorter_than_promised_does_nothing(server: Server) -> None:
    before = work(server)
    sent = assigned("dev", number=104)

    status, _ = server.raw(request_of(sent.body, signed(sent))[:-10])

    assert status in (0, 400, 403)
    assert work(server) == before


def test_two_lengths_or_a_length_and_chunks_are_refused(server: Server) -> None:
    """Where two readers disagree on where a request ends, one smuggles another past the first."""
    before = work(server)
    sent = assigned("dev", number=105)

    answers = [
        server.raw(request_of(sent.body, {**signed(sent), name: value}))[0]
        for name, value in (
            ("content-length", "5"),
            ("Transfer-Encoding", "chunked"),
            ("Transfer-Encoding", "xchunked"),
        )
    ]

    assert all(status in (0, 400, 403, 501) for status in answers), answers
    assert work(server) == before


def test_a_good_signature_beside_a_bad_one_is_refused(server: Server) -> None:
    before = work(server)
    sent = assigned("dev", number=106)
    for value in ("0" * 64, ""):
        pairs = [("X-Forgejo-Signature", value), *signed(sent).items()]

        assert server.raw(request_of(sent.body, pairs))[0] in (401, 403)
        assert server.raw(request_of(sent.body, pairs[::-1]))[0] in (401, 403)
    assert work(server) == before


@pytest.mark.parametrize("value", ["a\0b", "a\r\n b", "\x1b[31m", "\xff\xfe", "x" * 7000, "x" * 9000])
def test_strange_header_values_are_refused_or_answered(server: Server, value: str) -> None:
    sent = big(100)

    status, _ = server.raw(request_of(sent.body, {**signed(sent), "X-Forgejo-Delivery": value}))

    assert status in (0, 200, 400, 431)


def test_an_underscore_in_a_header_does_not_pass_for_a_dash(server: Server) -> None:
    """In a WSGI environment the two look alike."""
    before = work(server)
    sent = assigned("dev", number=107)
    digest = hmac.new(SECRET.encode(), sent.body, hashlib.sha256).hexdigest()

    status, _ = server.raw(request_of(sent.body, {**sent.headers, "X_Forgejo_Signature": digest}))

    assert (status, work(server)) == (401, before)


def test_the_measurement_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it measures is for people to read."""
    assert bench_door.main(["--count", "5", "--folder", str(tmp_path)]) == 0

    shown = capsys.readouterr().out
    for case in ("GET /healthz", "unsigned", "signed", "broker killed"):
        assert case in shown
    assert "every accepted delivery has its task" in shown
