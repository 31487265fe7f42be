"""The forge's REST answers, read into values. Pure: no I/O. Field names: modules/structs in Forgejo."""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pool.errors import ForgeError, Malformed
from tasks.forge_values import (
    Comment,
    Commit,
    Issue,
    MergeStyle,
    Pull,
    Repository,
    Review,
    ReviewComment,
    ReviewState,
    Status,
)
from tasks.payload import Node, or_none

T = TypeVar("T")

_STYLES = {
    "allow_merge_commits": MergeStyle.MERGE,
    "allow_rebase": MergeStyle.REBASE,
    "allow_rebase_explicit": MergeStyle.REBASE_MERGE,
    "allow_squash_merge": MergeStyle.SQUASH,
    "allow_fast_forward_only_merge": MergeStyle.FAST_FORWARD_ONLY,
}
#: services/convert/pull_review.go; anything else is a word of a later version, and no verdict.
_STATES = {str(state): state for state in ReviewState}
_NUMBER = re.compile(r"/(?:issues|pulls)/([1-9][0-9]{0,17})(?:[#?].*)?$")


def read(reader: Callable[[Node], T], value: Any, call: str) -> T:
    """Read one value. Raises ForgeError that names the call and what is wrong."""
    try:
        return reader(Node(value))
    except Malformed as error:
        raise ForgeError(f"the forge's answer to {call} cannot be read: {error}", call=call, status=200) from error


def repository(node: Node) -> Repository:
    """Read a repository."""
    may = node["permissions"]
    has_rights = not may.is_null
    return Repository(
        full_name=node["full_name"].repo(),
        default_branch=node["default_branch"].text(),
        archived=node["archived"].flag(),
        can_push=has_rights and may["push"].flag(),
        can_admin=has_rights and may["admin"].flag(),
        merge_styles=tuple(style for key, style in _STYLES.items() if node[key].flag()),
    )


def issue(repo: str) -> Callable[[Node], Issue]:
    """Return the reader of issues of a repository; those of other repositories say so themselves."""

    def reader(node: Node) -> Issue:
        return Issue(
            repo=or_none(node.find("repository", "full_name").repo) or repo,
            number=node["number"].number(),
            title=node["title"].text(),
            body=node["body"].text(),
            state=node["state"].one_of("open", "closed"),
            author=_login(node["user"]),
            assignees=_logins(node["assignees"]),
            labels=_labels(node),
            url=node["html_url"].url(),
            updated_at=node["updated_at"].time(),
            is_pull=not node["pull_request"].is_null,
        )

    return reader


def pull(repo: str) -> Callable[[Node], Pull]:
    """Return the reader of pull requests of a repository."""

    def reader(node: Node) -> Pull:
        head, base = node["head"], node["base"]
        return Pull(
            repo=repo,
            number=node["number"].number(),
            title=node["title"].text(),
            body=node["body"].text(),
            state=node["state"].one_of("open", "closed"),
            author=_login(node["user"]),
            draft=node["draft"].flag(),
            merged=node["merged"].flag(),
            merge_commit_sha=node["merge_commit_sha"].sha(),
            mergeable=node["mergeable"].flag(),
            head_ref=_head_ref(head),
            head_sha=head["sha"].sha() or "",
            is_fork=head["repo"].is_null or head["repo_id"].integer() != base["repo_id"].integer(),
            base_ref=base["ref"].branch(),
            base_sha=base["sha"].sha() or "",
            merge_base=node["merge_base"].sha() or "",
            assignees=_logins(node["assignees"]),
            labels=_labels(node),
            requested_reviewers=_logins(node["requested_reviewers"]),
            url=node["html_url"].url(),
            updated_at=node["updated_at"].time(),
        )

    return reader


def _head_ref(head: Node) -> str:
    # services/convert/pull.go: once the branch is deleted, `ref` is refs/pull/N/head; `label` keeps the name.
    ref = head["ref"].branch()
    return (or_none(head["label"].branch) if ref.startswith("refs/pull/") else None) or ref


def review(node: Node) -> Review:
    """Read a review; of one without a user (a team that was asked) the author is empty."""
    return Review(
        id=node["id"].integer(),
        author=_login(node["user"]),
        state=_STATES.get(node["state"].text(), ReviewState.COMMENT),
        commit_id=node["commit_id"].text(),
        body=node["body"].text(),
        official=node["official"].flag(),
        stale=node["stale"].flag(),
        dismissed=node["dismissed"].flag(),
        submitted_at=node["submitted_at"].time(),
    )


def review_comment(node: Node) -> ReviewComment:
    """Read a comment on a line: `position` is the line in the new file, `original_position` that in the old one."""
    line = or_none(node["position"].integer) or or_none(node["original_position"].integer) or 0
    return ReviewComment(path=node["path"].text(), line=line, author=_login(node["user"]), body=node["body"].text())


def comment(number: int | None = None, *, is_pull: bool | None = None) -> Callable[[Node], Comment]:
    """Return the reader of comments; where the call does not say what they are on, their addresses do."""

    def reader(node: Node) -> Comment:
        on_pull, on_issue = node["pull_request_url"].text(), node["issue_url"].text()
        found = _NUMBER.search(on_pull or on_issue)
        if number is None and found is None:
            raise node["issue_url"].wrong("the address of an issue or pull request")
        return Comment(
            id=node["id"].integer(),
            number=number if number is not None else int(found[1] if found else 0),
            is_pull=bool(on_pull) if is_pull is None else is_pull,
            author=_login(node["user"]),
            body=node["body"].text(),
            created_at=node["created_at"].time(),
            updated_at=node["updated_at"].time(),
        )

    return reader


def status(node: Node) -> Status:
    """Read a commit status; the member with the state has had two names."""
    return Status(
        context=node["context"].text(),
        state=(node["status"].text() or node["state"].text()).lower(),
        description=node["description"].text(),
        target_url=node["target_url"].text(),
        creator=_login(node["creator"]),
    )


def newest(statuses: Iterable[tuple[int, Status]]) -> tuple[Status, ...]:
    """Return the newest status of each context, given each with its id."""
    found: dict[str, tuple[int, Status]] = {}
    for number, one in statuses:
        if one.context not in found or number > found[one.context][0]:
            found[one.context] = (number, one)
    return tuple(one for _, one in sorted(found.values(), key=lambda pair: pair[1].context))


def commit(node: Node) -> Commit:
    """Read a commit."""
    parents = tuple(parent["sha"].sha() or "" for parent in node["parents"].items())
    return Commit(sha=node["sha"].sha() or "", tree=node.find("commit", "tree", "sha").sha() or "", parents=parents)


def _login(node: Node) -> str:
    """Read a login; a user that was deleted is null or has none."""
    return "" if node.is_null else node["login"].text()


def _logins(node: Node) -> tuple[str, ...]:
    return tuple(dict.fromkeys(login for user in node.items() if (login := _login(user))))


def _labels(node: Node) -> tuple[str, ...]:
    return tuple(sorted({name for label in node["labels"].items() if (name := label["name"].text())}))
