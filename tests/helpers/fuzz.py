"""Hypothesis strategies for deliveries that no forge should send."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

from tests.helpers.deliveries import Delivery, encode, load, names

#: Members that are read; a change anywhere else is not worth an example.
# fmt: off
_READ = frozenset({
    "action", "after", "assignees", "author", "base", "before", "body", "commit_sha", "content", "context",
    "description", "draft", "event", "event_payload", "full_name", "head", "html_url", "id",
    "is_fork_pull_request", "issue", "label", "labels", "login", "merged", "name", "number", "prettyref",
    "pull_request", "ref", "repo", "repo_id", "repository", "requested_reviewer", "review", "run", "sender",
    "sha", "state", "status", "target_url", "title", "trigger_user", "type", "updated_at", "user", "workflow_id",
})
_WRONG: list[Any] = [
    None, True, False, 0, -1, 7, 2**63, 1.5, "", " ", "x", "\0", "\ud800", "#7", "a/b", "../..", "-f",
    "9999-12-31T23:59:59-09:00", "0001-01-01T00:00:00+09:00", "2026-03-02", "refs/pull/1/head", "[[[[", '{"number":1}',
    [], {}, [None], [[]], [{}], {"login": 7}, {"ref": None},
]
# fmt: on

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters())
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
#: An object with the members that are read, and anything in them.
objects = st.dictionaries(st.sampled_from(sorted(_READ)) | st.text(), anything, max_size=8)


def paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the paths to every member that is read."""
    members: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        members = [(name, value[name]) for name in value if name in _READ]
    elif isinstance(value, list):
        members = list(enumerate(value))
    found = [(*path, name) for name, _ in members]
    return found + [deeper for name, member in members for deeper in paths(member, (*path, name))]


@st.composite
def mutated_samples(draw: st.DrawFn) -> Delivery:
    """Draw a sample in which one to three members are missing or wrong."""
    sample = load(draw(st.sampled_from(names())))
    body = json.loads(sample.body)
    for _ in range(draw(st.integers(1, 3))):
        if not (left := paths(body)):
            break
        *way, last = draw(st.sampled_from(left))
        parent = body
        for step in way:
            parent = parent[step]
        if draw(st.booleans()) and isinstance(parent, dict):
            del parent[last]
        else:
            parent[last] = copy.deepcopy(draw(st.sampled_from(_WRONG) | anything))
    # Half a surrogate pair has no UTF-8; in JSON it can still be written as an escape.
    raw = json.dumps(body).encode() if _has_surrogates(body) else encode(body)
    return Delivery(name=sample.name, body=raw, headers=sample.headers, family=sample.family)


def _has_surrogates(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
