"""Which words in a comment are an order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.order_words import MAX_ORDERS, UNKNOWN, VERBS, parse


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "to"])
def test_a_line_that_is_an_order_is_one(verb: str) -> None:
    assert parse(f"Hello.\n/forgepool {verb}  \nBye.") == ((1, verb, ""),)


def test_an_order_may_name_a_type() -> None:
    assert parse("/forgepool to reviewer") == ((0, "to", "reviewer"),)


@pytest.mark.parametrize(
    "text",
    [
        "see /forgepool retry",
        "> /forgepool retry",
        "    /forgepool retry",
        "```\n/forgepool retry\n```",
        "~~~~\n/forgepool retry\n~~~\n/forgepool go\n~~~~",
        "````\n```\n/forgepool retry\n````",
        "/forgepoolretry",
        "<!-- forgepool:report -->",
        "",
    ],
    ids=[
        "in a sentence",
        "quoted",
        "indented",
        "code",
        "longer fence",
        "fence in a fence",
        "one word",
        "marker",
        "empty",
    ],
)
def test_words_that_are_only_shown_are_no_order(text: str) -> None:
    assert parse(text) == ()


def test_after_a_closed_fence_orders_count_again() -> None:
    assert parse("```\n/forgepool hold\n```\n/forgepool go") == ((3, "go", ""),)


@pytest.mark.parametrize(
    ("text", "argument"),
    [("/forgepool", ""), ("/forgepool dance", "dance"), ("/forgepool to", "to"), ("/forgepool retry now", "retry now")],
)
def test_an_order_that_nobody_knows_is_kept_for_an_answer(text: str, argument: str) -> None:
    assert parse(text) == ((0, UNKNOWN, argument),)


def test_a_comment_has_room_for_a_few_orders_only() -> None:
    assert len(parse("/forgepool retry\n" * 100)) == MAX_ORDERS


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    for line, verb, argument in parse(text):
        assert verb in {*VERBS, UNKNOWN}
        assert argument.isprintable()
        assert text.splitlines()[line].startswith("/forgepool")
