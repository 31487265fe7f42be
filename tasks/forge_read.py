"""The forge's REST answers, read into values. Pure: no I/O. Field names: modules/structs in Forgejo.

Readers raise Malformed naming the path of what is not as it should be; `read` adds which call it was.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import urlsplit

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
_WRITES = frozenset({"write", "admin", "owner"})


def read(reader: Callable[[Node], T], value: Any, call: str) -> T:
    """Read one value. Raises ForgeError that names the call and what is wrong."""
    try:
        return reader(Node(value, "answer"))
    except Malformed as error:
        raise ForgeError(f"the forge's answer to {call} cannot be read: {error}", call=call, status=200) from None


def repository(node: Node) -> Repository:
    """Read a repository."""
    may = node["permissions"]
    return Repository(
        full_name=node["full_name"].repo(),
        default_branch=node["default_branch"].text(),
        archived=node["archived"].flag(),
        can_push=may.find("push").flag(),
        can_admin=may.find("admin").flag(),
        merge_styles=tuple(style for key, style in _STYLES.items() if node[key].flag()),
    )


def issue(repo: str) -> Callable[[Node], Issue]:
    """Return the reader of issues of a repository."""

    def reader(node: Node) -> Issue:
        return Issue(
            repo=repo,
            number=node["number"].number(),
            title=node["title"].text(),
            body=node["body"].text(),
            state=node["state"].one_of("open", "closed"),
            author=_login(node["user"]),
            assignees=_logins(node["assignees"]),
            labels=labels(node["labels"]),
            url=node["html_url"].url(),
            updated_at=node["updated_at"].time(),
            is_pull=not node["pull_request"].is_null,
        )

    return reader


def dependency(repo: str) -> Callable[[Node], Issue]:
    """Return the reader of issues that may be in other repositories, or hidden from the account.

    A hidden one comes without anything (routers/api/v1/repo/issue_dependency.go). It is read as open, with the number
    0: nobody may take it for closed.
    """

    def reader(node: Node) -> Issue:
        if node["number"].value == 0:
            return _hidden(repo)
        return issue(or_none(node.find("repository", "full_name").repo) or repo)(node)

    return reader


def _hidden(repo: str) -> Issue:
    return Issue(
        repo=repo,
        number=0,
        title="(hidden from this account)",
        body="",
        state="open",
        author="",
        assignees=(),
        labels=(),
        url="",
        updated_at=None,
        is_pull=False,
    )


def pull(repo: str) -> Callable[[Node], Pull]:
    """Return the reader of pull requests of a repository."""

    def reader(node: Node) -> Pull:
        number = node["number"].number()
        head, base = node["head"], node["base"]
        return Pull(
            repo=repo,
            number=number,
            title=node["title"].text(),
            body=node["body"].text(),
            state=node["state"].one_of("open", "closed"),
            author=_login(node["user"]),
            draft=node["draft"].flag(),
            merged=node["merged"].flag(),
            merge_commit_sha=node["merge_commit_sha"].sha(),
            mergeable=node["mergeable"].flag(),
            head_ref=_head_ref(head, number),
            head_sha=head["sha"].sha() or "",
            is_fork=head["repo"].is_null or head["repo_id"].integer() != base["repo_id"].integer(),
            base_ref=base["ref"].branch(),
            base_sha=base["sha"].sha() or "",
            merge_base=node["merge_base"].sha() or "",
            assignees=_logins(node["assignees"]),
            labels=labels(node["labels"]),
            requested_reviewers=_logins(node["requested_reviewers"]),
            url=node["html_url"].url(),
            updated_at=node["updated_at"].time(),
        )

    return reader


def _head_ref(head: Node, number: int) -> str:
    # services/convert/pull.go: once the branch is deleted, `ref` is refs/pull/N/head; `label` keeps the name, but is
    # empty for a pull request that was pushed without a branch. One odd name must not hide all the others in a list.
    ref = or_none(head["ref"].branch) or f"refs/pull/{number}/head"
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
            where = "pull_request_url" if on_pull else "issue_url"
            raise node[where].wrong("the address of an issue or pull request")
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
    """Read a commit status; the member with the state has had two names.

    Of its own Actions the forge gives a path without a host (models/actions/run.go, Link).
    """
    target = node["target_url"].text()
    is_path = target.startswith("/") and not target.startswith("//")
    return Status(
        context=node["context"].text(),
        state=(node["status"].text() or node["state"].text()).lower(),
        description=node["description"].text(),
        target_url=target if is_path else node["target_url"].url(),
        creator=_login(node["creator"]),
    )


def numbered_status(node: Node) -> tuple[int, Status]:
    """Read a commit status with its id."""
    return node["id"].integer(), status(node)


def newest(statuses: Iterable[tuple[int, Status]]) -> tuple[Status, ...]:
    """Return the newest status of each context, given each with its id.

    The forge's own order is by time in whole seconds (models/git/commit_status.go).
    """
    found: dict[str, tuple[int, Status]] = {}
    for number, one in statuses:
        if one.context not in found or number > found[one.context][0]:
            found[one.context] = (number, one)
    return tuple(one for _, one in sorted(found.values(), key=lambda pair: pair[1].context))


def commit(node: Node) -> Commit:
    """Read a commit."""
    parents = tuple(_sha(parent["sha"]) for parent in node["parents"].items())
    return Commit(sha=_sha(node["sha"]), tree=_sha(node["commit"]["tree"]["sha"]), parents=parents)


def labels(node: Node) -> tuple[str, ...]:
    """Read the names of labels, sorted."""
    return tuple(sorted({name for label in node.items() if (name := label["name"].text())}))


def label_ids(node: Node) -> dict[str, int]:
    """Read the ids of labels by their names."""
    return {label["name"].text(): label["id"].integer() for label in node.items()}


def login(node: Node) -> str:
    """Read the login of a user."""
    return node["login"].name()


def is_writer(node: Node) -> bool:
    """Read whether a permission is enough to write (models/perm/access_mode.go)."""
    return node["permission"].text() in _WRITES


def tip(node: Node) -> str | None:
    """Read the commit that a branch is on."""
    return node["commit"]["id"].sha()


def version(node: Node) -> str:
    """Read a version."""
    return node["version"].text()


def account(node: Node) -> tuple[str, bool]:
    """Read a login, and whether it may do everything."""
    return node["login"].name(), node["is_admin"].flag()


def largest_page(node: Node) -> int:
    """Read how many items of a list the forge gives at once."""
    return node["max_response_items"].integer()


def page_path(node: Node) -> str:
    """Read the path of the web page."""
    try:
        return urlsplit(node["html_url"].url()).path
    except ValueError:
        raise node["html_url"].wrong("an address") from None


def many(reader: Callable[[Node], T]) -> Callable[[Node], list[T]]:
    """Return the reader of a list without pages."""
    return lambda node: [reader(item) for item in node.items()]


def _sha(node: Node) -> str:
    if found := node.sha():
        return found
    raise node.wrong("a commit or tree")


def _login(node: Node) -> str:
    """Read a login; a user that was deleted is null or has none."""
    return "" if node.is_null else node["login"].text()


def _logins(node: Node) -> tuple[str, ...]:
    return tuple(dict.fromkeys(login for user in node.items() if (login := _login(user))))
