"""One delivery, verified and read into a frozen event. Pure: no I/O.

Nothing past this module and `readers` sees the forge's JSON.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from pool.errors import BadSignature, ConfigError, Malformed, NotJson, Unsigned
from tasks.payload import Node, load_object
from webapp.event_values import (
    CiEvent,
    CiStatus,
    CommentEvent,
    Event,
    IssueEvent,
    OtherEvent,
    PullEvent,
    ReviewEvent,
    ReviewVerdict,
    SubjectEvent,
)
from webapp.readers import MAX_LABELS, MAX_TITLE, READERS, other

__all__ = [
    "MAX_LABELS",
    "MAX_TITLE",
    "CiEvent",
    "CiStatus",
    "CommentEvent",
    "Event",
    "IssueEvent",
    "OtherEvent",
    "PullEvent",
    "ReviewEvent",
    "ReviewVerdict",
    "SubjectEvent",
    "parse",
    "verify",
]

#: Header and what stands before the hex digits, in order of precedence: the first that is present decides.
#: Forgejo sends all four, empty when the webhook has no secret (services/webhook/shared/payloader.go).
SIGNATURES = (
    ("X-Forgejo-Signature", ""),
    ("X-Gitea-Signature", ""),
    ("X-Gogs-Signature", ""),
    ("X-Hub-Signature-256", "sha256="),
)
#: The exact type first: one Event names several kinds of body, and Forgejo leaves it empty for packages.
EVENT_HEADERS = ("X-Forgejo-Event-Type", "X-Gitea-Event-Type", "X-Forgejo-Event", "X-Gitea-Event")
DELIVERY_HEADERS = ("X-Forgejo-Delivery", "X-Gitea-Delivery")

_MAX_WORD = 100  #: characters of an action or an event type
_MAX_DELIVERY_ID = 200  #: characters


def verify(body: bytes, *, headers: Mapping[str, str], secret: bytes) -> None:
    """Check the forge's HMAC-SHA256 of the raw body.

    Raises Unsigned or BadSignature, and ConfigError when there is no secret.
    """
    if not secret.strip():
        # Anybody can sign with an empty key. That is our mistake, not the sender's.
        raise ConfigError(["the webhook secret is empty, so no delivery can be trusted: set one"])
    present = ((value.strip(), prefix) for name, prefix in SIGNATURES if (value := _header(headers, name)) is not None)
    sent, prefix = next(present, ("", ""))
    if sent in {"", prefix}:
        raise Unsigned("the delivery is not signed", remedy="set the same secret on the webhook as here")
    expected = prefix + hmac.new(secret, body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), sent.encode(errors="replace")):
        raise BadSignature("the signature does not fit the body", remedy="set the same secret on the webhook as here")


def parse(body: bytes, *, headers: Mapping[str, str]) -> Event:
    """Read a delivery whose signature was verified.

    Raises NotJson or Malformed. A type that no rule asks for becomes an OtherEvent, whatever its shape.
    """
    media_type = (_header(headers, "Content-Type") or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise NotJson(
            f"the content type is {media_type[:_MAX_WORD] or 'missing'}, not application/json",
            remedy="set the webhook's content type to application/json",
        )
    event_type = _event_type(headers)
    value, canonical = _load(body)
    common = {
        "delivery_id": _delivery_id(headers),
        "source": "forgejo" if any(name.lower().startswith("x-forgejo-") for name, _ in headers.items()) else "gitea",
        "event_type": event_type,
        "fingerprint": hashlib.sha256(f"{event_type}\n{canonical}".encode()).hexdigest(),
    }
    return READERS.get(event_type, other)(Node(value), common)


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name.lower()), None)


def _event_type(headers: Mapping[str, str]) -> str:
    for name in EVENT_HEADERS:
        if word := "".join(filter(str.isprintable, _header(headers, name) or "")).strip():
            return word[:_MAX_WORD]
    raise Malformed(
        f"the header {EVENT_HEADERS[0]} (or {EVENT_HEADERS[1]}) is missing",
        remedy="add the webhook in Forgejo or Gitea, with the type Forgejo or Gitea",
    )


def _delivery_id(headers: Mapping[str, str]) -> str | None:
    """Return the id; one that cannot be an id counts as missing, since the fingerprint knows repeats as well."""
    sent = next((value for name in DELIVERY_HEADERS if (value := _header(headers, name))), "")
    return sent if sent and sent.isprintable() and len(sent) <= _MAX_DELIVERY_ID else None


def _load(body: bytes) -> tuple[dict[str, Any], str]:
    """Return the object in the body, and its canonical text without old Gitea's `secret`."""
    try:
        value = load_object(body.decode())
        value.pop("secret", None)
        return value, json.dumps(value, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, a giant number; too deep to write again
        raise Malformed(f"the body is not a JSON object: {error}") from error
