"""Whatever anybody sends is refused, or read and decided: nothing else escapes."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool.errors import Malformed, Refused
from pool.subject import Subject
from tests.helpers import fuzz
from tests.helpers.deliveries import Delivery, headers, load, names
from webapp.events import Event, OtherEvent, parse
from webapp.rules import Facts, decide

_TYPES = st.sampled_from(sorted({load(name).headers["X-Gitea-Event-Type"] for name in names()}))

_FACTS = Facts(types_by_login={"dev": "dev", "reviewer": "reviewer", "x": "dev"}, merge_type="boss")


def _known(event: Event) -> Subject:
    """Return a memory that every rule looks into."""
    return Subject(repo="acme/widgets", number=event.number or 21, is_pull=True, assignees=("dev", "x"), author="dev")


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=200), event_type=_TYPES)
def test_arbitrary_bytes_are_refused(body: bytes, event_type: str) -> None:
    with pytest.raises(Refused):
        parse(b"\x00" + body, headers=headers(event="x", event_type=event_type))


@settings(max_examples=300, deadline=None)
@given(value=fuzz.objects, event_type=_TYPES)
def test_an_arbitrary_object_is_read_or_refused(value: dict[str, Any], event_type: str) -> None:
    try:
        event = parse(json.dumps(value).encode(), headers=headers(event="x", event_type=event_type))
    except Refused:
        return

    assert isinstance(event, Event)


@settings(max_examples=200, deadline=None)
@given(value=fuzz.objects, event_type=st.text(min_size=1).filter(lambda text: text.isprintable() and text.strip()))
def test_an_unknown_type_is_never_refused(value: dict[str, Any], event_type: str) -> None:
    event = parse(json.dumps(value).encode(), headers=headers(event="", event_type="x-" + event_type))

    assert isinstance(event, OtherEvent)


@settings(max_examples=500, deadline=None)
@given(delivery=fuzz.mutated_samples())
def test_a_damaged_sample_is_refused_or_decided(delivery: Delivery) -> None:
    try:
        event = parse(delivery.body, headers=delivery.headers)
    except Refused:
        return

    assert isinstance(event, Event)
    assert decide(event, _FACTS).rule
    assert decide(event, replace(_FACTS, known=_known(event), pull_at_sha=_known(event))).rule


@pytest.mark.parametrize("event_type", ["issues", "push", "action_run_failure"])
def test_no_depth_of_brackets_breaks_the_parser(event_type: str) -> None:
    sent = headers(event="", event_type=event_type)
    for depth in [10, *range(700, 1000), 100_000]:  # near the limit, reading may still work where writing does not
        body = b'{"run":' + b"[" * depth + b"]" * depth + b"}"
        try:
            parse(body, headers=sent)
        except Malformed:
            continue
