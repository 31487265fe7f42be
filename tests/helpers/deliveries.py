"""Deliveries to test with: the samples, what real servers sent (where it is at hand), and a forge's signature."""

import hashlib
import hmac
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "samples"
REAL = ROOT.parent / "shared" / "deliveries"  #: beside the checkout, or not there at all

#: File -> Event, Event-Type, who sent it, and the event class it must become.
_REAL = {
    "forgejo-issue-comment.json": ("issue_comment", "issue_comment", "forgejo", "CommentEvent"),
    "forgejo-pr.json": ("pull_request", "pull_request_sync", "forgejo", "PullEvent"),
    "forgejo-pr-comment.json": ("issue_comment", "pull_request_comment", "forgejo", "CommentEvent"),
    "forgejo-action-run-pr.json": ("action_run_success", "action_run_success", "forgejo", "CiEvent"),
    "forgejo-push.json": ("push", "push", "forgejo", "OtherEvent"),
    "issue-assign-event.json": ("issues", "issue_assign", "gitea", "IssueEvent"),
    "issue-label-event.json": ("issues", "issue_label", "gitea", "IssueEvent"),
    "pull-request-review-event.json": ("pull_request_comment", "pull_request_comment", "gitea", "ReviewEvent"),
    "hookpullrequestreviewack.json": ("pull_request_approved", "pull_request_review_approved", "gitea", "ReviewEvent"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One POST of a forge, without its signature."""

    name: str
    body: bytes
    headers: dict[str, str]
    family: str  #: name of the event class it must become


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Delivery):
    """One of the project's own bodies, with the answer that is documented for it."""

    after: tuple[str, ...]  #: samples that must have been delivered before
    status: int  #: of the HTTP answer
    verdict: str
    rule: str


def names() -> list[str]:
    """Return the names of all samples."""
    return sorted(_index())


def load(name: str) -> Sample:
    """Return one sample."""
    told = _index()[name]
    return Sample(
        name=name,
        body=(SAMPLES / name).read_bytes(),
        headers=headers(event=told["event"], event_type=told["event_type"], source=told["source"], seed=name),
        family=told["family"],
        after=tuple(told["after"]),
        status=told["status"],
        verdict=told["verdict"],
        rule=told["rule"],
    )


def real_deliveries() -> Iterator[Delivery]:
    """Yield what real servers sent; nothing where those files are not at hand."""
    for name, (event, event_type, source, family) in _REAL.items():
        if (path := REAL / name).is_file():
            sent = headers(event=event, event_type=event_type, source=source, seed=name)
            yield Delivery(name=name, body=path.read_bytes(), headers=sent, family=family)


def headers(*, event: str, event_type: str, source: str = "forgejo", seed: str = "") -> dict[str, str]:
    """Return what a forge sends with every delivery; the same `seed` gives the same delivery id."""
    delivery_id = str(uuid.uuid5(uuid.NAMESPACE_URL, seed)) if seed else str(uuid.uuid4())
    sent = {"Content-Type": "application/json", "User-Agent": "Go-http-client/1.1"}
    for family in _header_families(source):
        sent |= {
            f"X-{family}-Delivery": delivery_id,
            f"X-{family}-Event": event,
            f"X-{family}-Event-Type": event_type,
        }
    return sent


def sign(body: bytes, secret: bytes, *, source: str = "forgejo") -> dict[str, str]:
    """Return the signature headers of a forge; without a secret they are there and empty, as the forges do."""
    sha256, sha1 = (
        hmac.new(secret, body, kind).hexdigest() if secret else "" for kind in (hashlib.sha256, hashlib.sha1)
    )
    bare = {f"X-{family}-Signature": sha256 for family in _header_families(source) if family != "GitHub"}
    return {**bare, "X-Hub-Signature": f"sha1={sha1}", "X-Hub-Signature-256": f"sha256={sha256}"}


def encode(value: Any) -> bytes:
    """Encode as Go's json.MarshalIndent does with two spaces, byte for byte."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def _index() -> dict[str, dict[str, Any]]:
    index: dict[str, dict[str, Any]] = json.loads((SAMPLES / "index.json").read_text(encoding="utf-8"))
    return index


def _header_families(source: str) -> tuple[str, ...]:
    return ("Forgejo", "Gitea", "Gogs", "GitHub") if source == "forgejo" else ("Gitea", "Gogs", "GitHub")
