"""The client of the forge: about thirty calls of the REST interface of Forgejo 11 to 17 and Gitea. Network I/O, out.

What an answer means is in `pool.errors`; what comes back is a value of `tasks.forge_values`.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from pool.errors import ForgeError, NotAccepted, NotAllowed, NotThere
from tasks import forge_read as read
from tasks.forge_gaps import gaps
from tasks.forge_http import FORGEJO_API, PAGE, Answer, ForgeHttp, Retry, date_of, repo_path
from tasks.forge_logs import failing_log
from tasks.forge_refusals import merge_refusal
from tasks.forge_values import (
    Comment,
    Commit,
    ForgeInfo,
    Issue,
    MergeStyle,
    Pull,
    Repository,
    Review,
    ReviewComment,
    Status,
)
from tasks.payload import Node

T = TypeVar("T")
Reader = Callable[[Node], T]

_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Forge(ForgeHttp):
    """One account's view of the forge. A context manager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the forge itself ---------------------------------------------------------------------

    def info(self) -> ForgeInfo:
        """Ask which forge it is, who we are there, and what it lacks."""
        asked_at = self._clock()
        answer = self.call("GET", "/version")
        answered_at = self._clock()
        version = read.read(read.version, answer.json(), answer.call)
        is_forgejo = "+gitea-" in version or self._has("/version", root=FORGEJO_API)
        login, is_admin = self._one("/user", read.account)
        return ForgeInfo(
            version=version,
            is_forgejo=is_forgejo,
            login=login,
            is_admin=is_admin,
            max_page=self._largest_page(),
            clock_skew_s=_skew_s(answer, asked_at + (answered_at - asked_at) / 2),
            missing=gaps(version, is_forgejo=is_forgejo),
        )

    def _has(self, path: str, *, root: str) -> bool:
        answer = self.ask("GET", path, root=root)
        try:
            return answer.is_success and bool(read.read(read.version, answer.json(), answer.call))
        except ForgeError:  # a page for people
            return False

    def _largest_page(self) -> int:
        try:
            return self._one("/settings/api", read.largest_page)
        except (NotThere, NotAllowed, NotAccepted):
            return PAGE

    def repository(self, repo: str) -> Repository:
        """Return a repository."""
        return self._one(repo_path(repo), read.repository)

    def repositories(self) -> list[str]:
        """Return the repositories that the account can write to."""
        found = self._list("/user/repos", read.repository)
        return [one.full_name for one in found if one.can_push and not one.archived]

    # --- issues -------------------------------------------------------------------------------

    def issue(self, repo: str, number: int) -> Issue:
        """Return an issue, or the issue side of a pull request."""
        return self._one(repo_path(repo, "issues", number), read.issue(repo))

    def open_issues(self, repo: str, *, assigned_to: str | None = None) -> list[Issue]:
        """Return the open issues of a repository, or those of one assignee."""
        asked = {"state": "open", "type": "issues"}
        if assigned_to is not None:
            asked["assigned_by"] = assigned_to
        found = self._list(repo_path(repo, "issues"), read.issue(repo), **asked)
        # A forge that knows no such filter gives everything.
        return [one for one in found if not one.is_pull and (assigned_to is None or _has_login(one, assigned_to))]

    def blockers(self, repo: str, number: int) -> list[Issue]:
        """Return the issues that one depends on; none where dependencies are turned off.

        One that is hidden from the account has the number 0 and is open.
        """
        return self._dependencies(repo, number, "dependencies")

    def blocked(self, repo: str, number: int) -> list[Issue]:
        """Return the issues that depend on one; none where dependencies are turned off."""
        return self._dependencies(repo, number, "blocks")

    def _dependencies(self, repo: str, number: int, which: str) -> list[Issue]:
        try:
            return self._list(repo_path(repo, "issues", number, which), read.dependency(repo))
        except NotThere:
            return []

    def assign(self, repo: str, number: int, *logins: str) -> Issue:
        """Replace the assignees. Raises NotAllowed when the forge ignores it, which it does without a word."""
        path = repo_path(repo, "issues", number)
        found = self._sent("PATCH", path, {"assignees": list(logins)}, read.issue(repo))
        if {login.lower() for login in found.assignees} != {login.lower() for login in logins}:
            wanted, there = ", ".join(logins) or "nobody", ", ".join(found.assignees) or "nobody"
            why = f"the forge did not assign {wanted}; assigned is {there}. The account needs write access"
            raise NotAllowed(f"PATCH {path}: {why}", call=f"PATCH {path}", status=201)
        return found

    def close_issue(self, repo: str, number: int) -> None:
        """Close an issue."""
        self.send("PATCH", repo_path(repo, "issues", number), {"state": "closed"})

    # --- comments and labels ------------------------------------------------------------------

    def comments(self, repo: str, number: int) -> list[Comment]:
        """Return the plain comments on an issue or pull request, oldest first."""
        # A list without pages (routers/api/v1/repo/issue_comment.go).
        return self._one(repo_path(repo, "issues", number, "comments"), read.many(read.comment(number)))

    def comments_since(self, repo: str, since: datetime) -> list[Comment]:
        """Return the plain comments of a whole repository that were written or changed since a moment."""
        at = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return self._list(repo_path(repo, "issues", "comments"), read.comment(), since=at)

    def add_comment(self, repo: str, number: int, body: str) -> Comment:
        """Write a comment."""
        return self._sent("POST", repo_path(repo, "issues", number, "comments"), {"body": body}, read.comment(number))

    def edit_comment(self, repo: str, comment_id: int, body: str) -> None:
        """Change a comment."""
        self.send("PATCH", repo_path(repo, "issues", "comments", comment_id), {"body": body})

    def delete_comment(self, repo: str, comment_id: int) -> None:
        """Delete a comment; one that is gone is gone."""
        with suppress(NotThere):
            self.send("DELETE", repo_path(repo, "issues", "comments", comment_id))

    def react(self, repo: str, comment_id: int, content: str) -> None:
        """React to a comment; the same reaction twice is one."""
        path = repo_path(repo, "issues", "comments", comment_id, "reactions")
        self.send("POST", path, {"content": content}, retry=Retry.ALWAYS)

    def add_labels(self, repo: str, number: int, *names: str) -> tuple[str, ...]:
        """Put labels on; return those that are there then: the forge drops names it does not know without a word."""
        path = repo_path(repo, "issues", number, "labels")
        return self._sent("POST", path, {"labels": list(names)}, read.labels, retry=Retry.ALWAYS)

    def create_label(self, repo: str, name: str, *, color: str, description: str) -> None:
        """Make a label."""
        self.send("POST", repo_path(repo, "labels"), {"name": name, "color": color, "description": description})

    def remove_label(self, repo: str, number: int, name: str) -> None:
        """Take a label off; nothing happens where it is not on."""
        path = repo_path(repo, "issues", number, "labels")
        label = self._one(path, read.label_ids).get(name)
        if label is not None:
            self._delete(f"{path}/{label}")

    # --- pull requests ------------------------------------------------------------------------

    def pull(self, repo: str, number: int) -> Pull:
        """Return a pull request."""
        return self._one(repo_path(repo, "pulls", number), read.pull(repo))

    def open_pulls(self, repo: str, *, base: str | None = None) -> list[Pull]:
        """Return the open pull requests of a repository, or those into one branch."""
        found = self._list(repo_path(repo, "pulls"), read.pull(repo), state="open")
        return [pull for pull in found if base is None or pull.base_ref == base]

    def reviews(self, repo: str, number: int) -> tuple[Review, ...]:
        """Return the reviews of a pull request, oldest first."""
        found = self._list(repo_path(repo, "pulls", number, "reviews"), read.review)
        return tuple(sorted(found, key=lambda review: review.id))

    def review_comments(self, repo: str, number: int, review_id: int) -> tuple[ReviewComment, ...]:
        """Return what a review says of single lines."""
        path = repo_path(repo, "pulls", number, "reviews", review_id, "comments")
        return tuple(self._one(path, read.many(read.review_comment)))

    def request_review(self, repo: str, number: int, *logins: str) -> None:
        """Ask for reviews."""
        self.send("POST", repo_path(repo, "pulls", number, "requested_reviewers"), {"reviewers": list(logins)})

    def merge(
        self,
        repo: str,
        number: int,
        *,
        head_sha: str,
        style: MergeStyle,
        title: str | None = None,
        message: str | None = None,
    ) -> None:
        """Merge exactly the commit `head_sha`. Never tried again by itself.

        Raises StaleHead, BaseMoved, MergeConflict, StillChecking, MergeProtected, NotAllowed, NotThere, NotAccepted;
        ForgeUnavailable when it is not known whether it was merged.
        """
        path = repo_path(repo, "pulls", number, "merge")
        if not _SHA.fullmatch(head_sha):
            # The forge takes an empty one for "whatever the head is now" (services/pull/merge.go).
            raise NotAccepted(f"POST {path}: {head_sha!r} is not the whole id of a commit", call=f"POST {path}")
        body = {"Do": str(style), "head_commit_id": head_sha, "MergeTitleField": title, "MergeMessageField": message}
        told = {key: value for key, value in body.items() if value is not None}
        answer = self.answer_to("POST", path, body=told, retry=Retry.NEVER)
        # 201: the forge has put it off, which is never asked for.
        if answer.status != httpx.codes.OK:
            raise merge_refusal(call=answer.call, status=answer.status, body=answer.body)

    def delete_branch(self, repo: str, branch: str) -> bool:
        """Delete a branch; False: it was gone already."""
        return self._delete(self._branch(repo, branch))

    def branch_tip(self, repo: str, branch: str) -> str | None:
        """Return the commit that a branch is on; None: there is no such branch."""
        try:
            return self._one(self._branch(repo, branch), read.tip)
        except NotThere:
            return None

    def _branch(self, repo: str, branch: str) -> str:
        # The slash stays: web servers in front of a forge refuse one that is quoted, some with a 404.
        return repo_path(repo, "branches", *branch.split("/"))

    # --- commits ------------------------------------------------------------------------------

    def statuses(self, repo: str, sha: str) -> tuple[Status, ...]:
        """Return the newest status of each context of a commit, over all pages."""
        return read.newest(self._list(repo_path(repo, "commits", sha, "statuses"), read.numbered_status))

    def set_status(self, repo: str, sha: str, *, context: str, state: str, description: str, url: str = "") -> None:
        """Set a commit status; each call adds one to the list of the commit."""
        body = {"context": context, "state": state, "description": description, "target_url": url}
        self.send("POST", repo_path(repo, "statuses", sha), body)

    def commit(self, repo: str, sha: str) -> Commit:
        """Return a commit."""
        return self._one(repo_path(repo, "git", "commits", sha), read.commit)

    # --- people -------------------------------------------------------------------------------

    def can_write(self, repo: str, login: str) -> bool:
        """Tell whether an account may write to a repository. Raises NotAllowed where only an administrator is told."""
        try:
            return self._one(repo_path(repo, "collaborators", login, "permission"), read.is_writer)
        except NotThere:
            return False
        except NotAllowed as error:
            # routers/api/v1/repo/collaborators.go: only administrators may ask about others. Everybody may ask whom
            # issues can be assigned to (models/repo/user_repo.go, GetRepoAssignees): in a person's repository those who
            # may write, its owner among them; in an organisation's also members of teams that may only read.
            path = repo_path(repo, "assignees")
            writers = {read.read(read.login, one, f"GET {path}").lower() for one in self.get(path) or ()}
            if repo.partition("/")[0].lower() in writers:
                return login.lower() in writers
            remedy = (
                f"in an organisation the account that reads must be an administrator of {repo} to ask who may write"
            )
            raise NotAllowed(f"{error}; {remedy}", call=error.call, status=error.status) from None

    def failing_log(self, repo: str, status: Status) -> str | None:
        """Return the end of the log of a failed check; None: it could not be had."""
        return failing_log(self, repo, status)

    # --- calls, and what they say --------------------------------------------------------------

    def _one(self, path: str, reader: Reader[T]) -> T:
        return read.read(reader, self.get(path), f"GET {path}")

    def _list(self, path: str, reader: Reader[T], **params: Any) -> list[T]:
        return [read.read(reader, one, f"GET {path}") for one in self.pages(path, **params)]

    def _sent(
        self, method: str, path: str, body: dict[str, Any], reader: Reader[T], *, retry: Retry | None = None
    ) -> T:
        return read.read(reader, self.send(method, path, body, retry=retry), f"{method} {path}")

    def _delete(self, path: str) -> bool:
        """Delete; tell whether there was anything."""
        try:
            self.send("DELETE", path)
        except NotThere:
            return False
        return True


def _skew_s(answer: Answer, now: datetime) -> float:
    told = date_of(answer.headers.get("date", ""))
    # The header has whole seconds: on average half of one is cut off.
    return (told - now).total_seconds() + 0.5 if told else 0.0


def _has_login(issue: Issue, login: str) -> bool:
    return login.lower() in {assignee.lower() for assignee in issue.assignees}
