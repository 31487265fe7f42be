"""Which deliveries are let in."""

import hashlib
import hmac

import pytest
from werkzeug.datastructures import Headers

from pool.errors import BadSignature, ConfigError, Unsigned
from tests.helpers.deliveries import load, sign
from webapp.events import SIGNATURES, parse, verify

SECRET = b"correct horse"
BODY = b'{"action": "opened"}'
DIGEST = hmac.new(SECRET, BODY, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("source", ["forgejo", "gitea"])
def test_what_a_forge_signed_is_let_in(source: str) -> None:
    verify(BODY, headers=sign(BODY, SECRET, source=source), secret=SECRET)


@pytest.mark.parametrize(("name", "prefix"), SIGNATURES)
def test_each_signature_header_is_enough_in_any_case(name: str, prefix: str) -> None:
    verify(BODY, headers={name.upper(): prefix + DIGEST}, secret=SECRET)
    verify(BODY, headers={name.lower(): prefix + DIGEST}, secret=SECRET)


@pytest.mark.parametrize(
    "sent",
    [
        {},
        sign(BODY, b""),
        {"X-Forgejo-Signature": " "},
        {"X-Hub-Signature-256": "sha256="},
        {"X-Hub-Signature": "sha1=" + "0" * 40},
    ],
    ids=["none", "no-secret", "blank", "bare-prefix", "sha1-only"],
)
def test_a_missing_or_empty_signature_is_unsigned(sent: dict[str, str]) -> None:
    with pytest.raises(Unsigned) as refusal:
        verify(BODY, headers=sent, secret=SECRET)

    assert refusal.value.remedy


@pytest.mark.parametrize(
    "signature",
    [
        "0" * 64,
        DIGEST[:-1],
        DIGEST + "0",
        DIGEST.upper(),
        "sha256=" + DIGEST,
        "not hexadecimal",
        "gefälscht",
        "\ud800",
        f"{DIGEST}, {DIGEST}",
    ],
)
def test_a_wrong_signature_is_refused(signature: str) -> None:
    with pytest.raises(BadSignature):
        verify(BODY, headers={"X-Forgejo-Signature": signature}, secret=SECRET)


def test_a_hub_signature_needs_its_prefix() -> None:
    with pytest.raises(BadSignature):
        verify(BODY, headers={"X-Hub-Signature-256": DIGEST}, secret=SECRET)


def test_another_body_or_secret_does_not_fit() -> None:
    for body, secret in ((BODY + b"\n", SECRET), (BODY, b"other")):
        with pytest.raises(BadSignature):
            verify(body, headers=sign(BODY, SECRET), secret=secret)


def test_the_first_signature_present_decides_whatever_the_others_say() -> None:
    good = {"X-Hub-Signature-256": "sha256=" + DIGEST, "X-Gitea-Signature": DIGEST}

    with pytest.raises(BadSignature):
        verify(BODY, headers={**good, "X-Forgejo-Signature": "0" * 64}, secret=SECRET)
    with pytest.raises(Unsigned):
        verify(BODY, headers={**good, "X-Forgejo-Signature": ""}, secret=SECRET)
    verify(BODY, headers={"X-Forgejo-Signature": DIGEST, "X-Gitea-Signature": "0" * 64}, secret=SECRET)


@pytest.mark.parametrize("secret", [b"", b" \n"])
def test_without_a_secret_nothing_is_let_in(secret: bytes) -> None:
    forged = hmac.new(secret, BODY, hashlib.sha256).hexdigest()

    with pytest.raises(ConfigError, match="secret"):
        verify(BODY, headers={"X-Forgejo-Signature": forged}, secret=secret)


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.extend((one, other))
        return True

    monkeypatch.setattr(hmac, "compare_digest", compare)
    verify(BODY, headers={"X-Forgejo-Signature": "anything"}, secret=SECRET)

    assert compared == [DIGEST.encode(), b"anything"]


def test_the_headers_of_a_web_request_will_do() -> None:
    sample = load("issue-assigned.json")
    sent = Headers({**sample.headers, **sign(sample.body, SECRET)})

    verify(sample.body, headers=sent, secret=SECRET)  # type: ignore[arg-type] # has items(), but is no Mapping
    event = parse(sample.body, headers=sent)  # type: ignore[arg-type] # the same

    assert event == parse(sample.body, headers=sample.headers)
