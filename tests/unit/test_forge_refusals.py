"""What it means when the forge says no."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import (
    BaseMoved,
    ForgeError,
    ForgeUnavailable,
    MergeConflict,
    MergeProtected,
    NotAccepted,
    NotAllowed,
    NotThere,
    StaleHead,
    StillChecking,
)
from tasks.forge_refusals import MAX_WORDS, merge_refusal, refusal, words_of

CALL = "POST /repos/acme/shop/pulls/8/merge"


def body(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def says(message: str) -> dict[str, str]:
    """Return the forge's usual answer."""
    return {"message": message, "url": "https://forge.example/api/swagger"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, NotAccepted),
        (401, NotAllowed),
        (403, NotAllowed),
        (404, NotThere),
        (409, NotAccepted),
        (410, NotThere),
        (412, NotAccepted),
        (413, NotAllowed),
        (422, NotAccepted),
        (423, NotAllowed),
        (429, ForgeUnavailable),
        (301, NotThere),
        (307, NotThere),
        (500, ForgeUnavailable),
        (503, ForgeUnavailable),
        (599, ForgeUnavailable),
        (418, ForgeError),
    ],
)
def test_each_status_has_its_meaning(status: int, kind: type[ForgeError]) -> None:
    error = refusal(call=CALL, status=status, body=body(says("because")))

    assert type(error) is kind
    assert (error.call, error.status) == (CALL, status)
    assert CALL in str(error)
    assert f"({status})" in str(error)
    assert "because" in str(error)


@pytest.mark.parametrize(
    ("status", "value", "kind", "part"),
    [
        (201, "", StillChecking, "put the merge off"),
        (202, "", ForgeUnavailable, "not known whether it merged"),
        (401, says("token is required"), NotAllowed, "token"),
        (403, says("branch protected"), NotAllowed, "branch protected"),
        (404, says(""), NotThere, "not on the forge"),
        (405, says("Please try again later"), StillChecking, "still checks"),
        (405, says(""), MergeProtected, "merged already, a draft"),
        (405, "", MergeProtected, "merged already, a draft"),
        (405, says("User not allowed to merge PR"), MergeProtected, "User not allowed to merge PR"),
        (405, says("Work in progress PRs cannot be merged"), MergeProtected, "Work in progress"),
        (405, says("Does not have enough approvals"), MergeProtected, "enough approvals"),
        (405, says("Not all required status checks successful"), MergeProtected, "required status checks"),
        (405, says("The head branch is behind the base branch"), MergeProtected, "behind"),
        (405, says("squash is not allowed an allowed merge style"), MergeProtected, "merge style"),
        (405, says("wont sign: nokey"), MergeProtected, "sign"),
        (409, says("head out of date"), StaleHead, "somebody pushed"),
        (409, says("merge push out of date"), BaseMoved, "base moved"),
        (409, says("PushRejected with remote message: no tea"), MergeProtected, "no tea"),
        (409, says("PushRejected without remote error message"), MergeProtected, "hook"),
        (409, says("pull request has merged [id: 1]"), BaseMoved, "somebody else merged"),
        (409, {"ID": 1, "IssueID": 2, "HeadBranch": "dev/7", "BaseBranch": "main"}, BaseMoved, "somebody else"),
        (
            409,
            {"Style": "merge", "StdOut": "CONFLICT (content): a.txt", "StdErr": "", "Err": {}},
            MergeConflict,
            "a.txt",
        ),
        (409, {"Style": "rebase", "CommitSHA": "ab", "StdErr": "could not apply", "Err": {}}, MergeConflict, "apply"),
        (
            409,
            {"Style": "merge", "StdErr": "fatal: refusing to merge unrelated histories", "Err": {}},
            MergeConflict,
            "no common history",
        ),
        (409, says("auto merge already scheduled"), NotAccepted, "already scheduled"),
        (409, {}, MergeConflict, "does not say why"),
        (409, "null", MergeConflict, "does not say why"),
        (409, "", MergeConflict, "does not say why"),
        (413, says("quota exceeded"), NotAllowed, "quota"),
        (422, says("[Do]: Required"), NotAccepted, "Required"),
        (423, says(""), NotAllowed, "archived"),
        (429, "", ForgeUnavailable, "pause"),
        (500, says(""), ForgeUnavailable, "open dependency"),
        (502, "<html>Bad Gateway</html>", ForgeUnavailable, "trouble"),
        (307, "", NotThere, "redirects"),
    ],
)
def test_each_answer_to_a_merge_has_its_meaning(status: int, value: Any, kind: type[ForgeError], part: str) -> None:
    error = merge_refusal(call=CALL, status=status, body=body(value))

    assert type(error) is kind
    assert part in str(error)
    assert error.status == status


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (says("no tea"), "no tea"),
        ({"error": "no tea"}, "no tea"),
        ({"message": "", "errors": ["no tea", "x"]}, "no tea"),
        ({"message": 5, "errors": None}, ""),
        ("no tea\n", "no tea"),
        ("<!DOCTYPE html><p>no tea", ""),
        ("  <html>", ""),
        ([1, 2], ""),
        (says("a\x1b[31mb\u202ec\0d\n  e"), "a [31mb c d e"),
        ("", ""),
    ],
)
def test_the_words_of_the_forge_fit_into_a_line(value: Any, words: str) -> None:
    assert words_of(body(value)) == words


@given(status=st.integers(100, 599), content=st.binary(max_size=3000) | st.text(max_size=3000).map(str.encode))
def test_no_answer_breaks_the_reading_of_refusals(status: int, content: bytes) -> None:
    for error in (
        refusal(call=CALL, status=status, body=content),
        merge_refusal(call=CALL, status=status, body=content),
        refusal(call=CALL, status=status, body=json.dumps(says(content.decode(errors="replace"))).encode()),
    ):
        assert str(error).isprintable()
        assert len(str(error)) < len(CALL) + MAX_WORDS + 300


def test_a_pit_of_brackets_is_no_trap() -> None:
    assert len(words_of(b"[" * 100_000)) <= MAX_WORDS
