"""The client of the forge: about thirty calls of the REST interface of Forgejo 11 to 17 and Gitea. Network I/O, out.

What an answer means is in `pool.errors`; what comes back is a value of `tasks.forge_values`.
"""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from pool.errors import (
    ConfigError,
    NotAccepted,
    NotAllowed,
    NotThere,
)
from pool.store import utc_now
from tasks import forge_read as read
from tasks.forge_http import ForgeHttp, Pace, never, part, repo_path
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
from tasks.secret_files import read_secret
from tasks.settings import Settings

__all__ = ["Forge", "Forges", "Pace"]

_WRITES = frozenset({"write", "admin", "owner"})


class Forge(ForgeHttp):
    """One account's view of the forge. A context manager."""

    def __init__(
        self,
        url: str,
        *,
        token: str,
        pace: Pace | None = None,
        transport: httpx.BaseTransport | None = None,
        timeout_s: float = 15.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], datetime] = utc_now,
        is_unwanted: Callable[[], bool] = never,
    ) -> None:
        """url: of the forge itself, without /api/v1. pace: shared by all clients of a process."""
        super().__init__(
            url,
            token=token,
            pace=pace,
            transport=transport,
            timeout_s=timeout_s,
            sleep=sleep,
            is_unwanted=is_unwanted,
        )
        self._clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the forge itself ---------------------------------------------------------------------

    def info(self) -> ForgeInfo:
        """Ask which forge it is, who we are there, and what it lacks."""
        answer = self.call("GET", "/version")
        version = str(answer.json().get("version", ""))
        own = self.ask("GET", "/version", root="/api/forgejo/v1")
        user = self.get("/user")
        limits = self._optional("/settings/api") or {}
        return ForgeInfo(
            version=version,
            is_forgejo=own.is_success,
            login=str(user.get("login", "")),
            is_admin=bool(user.get("is_admin")),
            max_page=int(limits.get("max_response_items") or 50),
            clock_skew_s=self._skew(answer),
            missing=_missing(version, is_forgejo=own.is_success),
        )

    def _skew(self, answer: httpx.Response) -> float:
        try:
            told = parsedate_to_datetime(answer.headers["Date"])
        except (KeyError, ValueError):
            return 0.0
        return (told.astimezone(UTC) - self._clock()).total_seconds()

    def repository(self, repo: str) -> Repository:
        """Return a repository."""
        path = repo_path(repo)
        return read.read(read.repository, self.get(path), f"GET {path}")

    def repositories(self) -> list[str]:
        """Return the repositories that the account can write to."""
        found = (read.read(read.repository, one, "GET /user/repos") for one in self.pages("/user/repos"))
        return [one.full_name for one in found if one.can_push and not one.archived]

    # --- issues -------------------------------------------------------------------------------

    def issue(self, repo: str, number: int) -> Issue:
        """Return an issue, or the issue side of a pull request."""
        path = f"{repo_path(repo)}/issues/{number}"
        return read.read(read.issue(repo), self.get(path), f"GET {path}")

    def open_issues(self, repo: str, *, assigned_to: str | None = None) -> list[Issue]:
        """Return the open issues of a repository."""
        asked: dict[str, Any] = {"state": "open", "type": "issues"}
        if assigned_to is not None:
            asked["assigned_by"] = assigned_to
        return self._list(read.issue(repo), f"{repo_path(repo)}/issues", **asked)

    def blockers(self, repo: str, number: int) -> list[Issue]:
        """Return the issues that one depends on; none where dependencies are turned off."""
        return self._optional_list(read.issue(repo), f"{repo_path(repo)}/issues/{number}/dependencies")

    def blocked(self, repo: str, number: int) -> list[Issue]:
        """Return the issues that depend on one; none where dependencies are turned off."""
        return self._optional_list(read.issue(repo), f"{repo_path(repo)}/issues/{number}/blocks")

    def assign(self, repo: str, number: int, *logins: str) -> Issue:
        """Replace the assignees. Raises NotAllowed when the forge ignores it, which it does without a word."""
        path = f"{repo_path(repo)}/issues/{number}"
        found = read.read(read.issue(repo), self.send("PATCH", path, {"assignees": list(logins)}), f"PATCH {path}")
        if {login.lower() for login in found.assignees} != {login.lower() for login in logins}:
            raise NotAllowed(f"the forge did not assign {', '.join(logins)}", call=f"PATCH {path}", status=201)
        return found

    def close_issue(self, repo: str, number: int) -> None:
        """Close an issue."""
        self.send("PATCH", f"{repo_path(repo)}/issues/{number}", {"state": "closed"})

    # --- comments and labels ------------------------------------------------------------------

    def comments(self, repo: str, number: int) -> list[Comment]:
        """Return the plain comments on an issue or pull request, oldest first."""
        path = f"{repo_path(repo)}/issues/{number}/comments"
        # The one list without pages (routers/api/v1/repo/issue_comment.go).
        return [read.read(read.comment(number), one, f"GET {path}") for one in self.get(path) or ()]

    def comments_since(self, repo: str, since: datetime) -> list[Comment]:
        """Return the plain comments of a whole repository that were written or changed since a moment."""
        at = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return self._list(read.comment(), f"{repo_path(repo)}/issues/comments", since=at)

    def add_comment(self, repo: str, number: int, body: str) -> Comment:
        """Write a comment."""
        path = f"{repo_path(repo)}/issues/{number}/comments"
        return read.read(read.comment(number), self.send("POST", path, {"body": body}), f"POST {path}")

    def edit_comment(self, repo: str, comment_id: int, body: str) -> None:
        """Change a comment."""
        self.send("PATCH", f"{repo_path(repo)}/issues/comments/{comment_id}", {"body": body})

    def react(self, repo: str, comment_id: int, content: str) -> None:
        """React to a comment; the same reaction twice is one."""
        self.send("POST", f"{repo_path(repo)}/issues/comments/{comment_id}/reactions", {"content": content})

    def add_labels(self, repo: str, number: int, *names: str) -> tuple[str, ...]:
        """Put labels on; return those that are there then: the forge drops names it does not know without a word."""
        path = f"{repo_path(repo)}/issues/{number}/labels"
        there = self.send("POST", path, {"labels": list(names)}) or ()
        return tuple(str(label.get("name", "")) for label in there)

    def create_label(self, repo: str, name: str, *, color: str, description: str) -> None:
        """Make a label."""
        self.send("POST", f"{repo_path(repo)}/labels", {"name": name, "color": color, "description": description})

    def remove_label(self, repo: str, number: int, name: str) -> None:
        """Take a label off; nothing happens where it is not on."""
        path = f"{repo_path(repo)}/issues/{number}/labels"
        for label in self.get(path) or ():
            if label.get("name") == name:
                self.send("DELETE", f"{path}/{int(label['id'])}")

    # --- pull requests ------------------------------------------------------------------------

    def pull(self, repo: str, number: int) -> Pull:
        """Return a pull request."""
        path = f"{repo_path(repo)}/pulls/{number}"
        return read.read(read.pull(repo), self.get(path), f"GET {path}")

    def open_pulls(self, repo: str, *, base: str | None = None) -> list[Pull]:
        """Return the open pull requests of a repository, or those into one branch."""
        found = self._list(read.pull(repo), f"{repo_path(repo)}/pulls", state="open")
        return [pull for pull in found if base is None or pull.base_ref == base]

    def reviews(self, repo: str, number: int) -> tuple[Review, ...]:
        """Return the reviews of a pull request, oldest first."""
        found = self._list(read.review, f"{repo_path(repo)}/pulls/{number}/reviews")
        return tuple(sorted(found, key=lambda review: review.id))

    def review_comments(self, repo: str, number: int, review_id: int) -> tuple[ReviewComment, ...]:
        """Return what a review says of single lines."""
        path = f"{repo_path(repo)}/pulls/{number}/reviews/{review_id}/comments"
        return tuple(read.read(read.review_comment, one, f"GET {path}") for one in self.get(path) or ())

    def request_review(self, repo: str, number: int, *logins: str) -> None:
        """Ask for reviews."""
        self.send("POST", f"{repo_path(repo)}/pulls/{number}/requested_reviewers", {"reviewers": list(logins)})

    def withdraw_request(self, repo: str, number: int, *logins: str) -> None:
        """Take requests for reviews back."""
        self.send("DELETE", f"{repo_path(repo)}/pulls/{number}/requested_reviewers", {"reviewers": list(logins)})

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
        body = {"Do": str(style), "head_commit_id": head_sha, "MergeTitleField": title, "MergeMessageField": message}
        path = f"{repo_path(repo)}/pulls/{number}/merge"
        answer = self.ask("POST", path, body={key: value for key, value in body.items() if value is not None})
        # 201: the forge has put it off, which is never asked for.
        if answer.status_code != httpx.codes.OK:
            raise merge_refusal(call=f"POST {path}", status=answer.status_code, body=answer.content)

    def delete_branch(self, repo: str, branch: str) -> bool:
        """Delete a branch; False: it was gone already."""
        try:
            self.send("DELETE", f"{repo_path(repo)}/branches/{part(branch)}")
        except NotThere:
            return False
        return True

    def branch_tip(self, repo: str, branch: str) -> str | None:
        """Return the commit that a branch is on; None: there is no such branch."""
        try:
            told = self.get(f"{repo_path(repo)}/branches/{part(branch)}")
        except NotThere:
            return None
        return str((told.get("commit") or {}).get("id") or "") or None

    # --- commits ------------------------------------------------------------------------------

    def statuses(self, repo: str, sha: str) -> tuple[Status, ...]:
        """Return the newest status of each context of a commit, over all pages."""
        path = f"{repo_path(repo)}/commits/{part(sha)}/statuses"
        return read.newest(
            (int(one.get("id", 0)), read.read(read.status, one, f"GET {path}")) for one in self.pages(path)
        )

    def set_status(self, repo: str, sha: str, *, context: str, state: str, description: str, url: str = "") -> None:
        """Set a commit status."""
        body = {"context": context, "state": state, "description": description, "target_url": url}
        self.send("POST", f"{repo_path(repo)}/statuses/{part(sha)}", body)

    def commit(self, repo: str, sha: str) -> Commit:
        """Return a commit."""
        path = f"{repo_path(repo)}/git/commits/{part(sha)}"
        return read.read(read.commit, self.get(path), f"GET {path}")

    # --- people -------------------------------------------------------------------------------

    def can_write(self, repo: str, login: str) -> bool:
        """Tell whether an account may write to a repository."""
        try:
            told = self.get(f"{repo_path(repo)}/collaborators/{part(login)}/permission")
        except NotThere:
            return False
        return str((told or {}).get("permission", "")) in _WRITES

    def failing_log(self, repo: str, status: Status) -> str | None:
        """Return the end of the log of a failed check; None: it could not be had."""
        return failing_log(self, repo, status)

    # --- lists --------------------------------------------------------------------------------

    def _list(self, reader: Callable[[Any], read.T], path: str, **params: Any) -> list[read.T]:
        return [read.read(reader, one, f"GET {path}") for one in self.pages(path, **params)]

    def _optional_list(self, reader: Callable[[Any], read.T], path: str) -> list[read.T]:
        try:
            return self._list(reader, path)
        except NotThere:
            return []

    def _optional(self, path: str) -> Any:
        try:
            return self.get(path)
        except (NotThere, NotAllowed, NotAccepted):
            return None


def _missing(version: str, *, is_forgejo: bool) -> tuple[str, ...]:
    """Say what a version lacks."""
    number = re.match(r"(\d+)\.(\d+)", version)
    major = int(number[1]) if number else 0
    found = []
    if is_forgejo:
        found.append(
            "Forgejo sends no webhook for commit statuses: outside checks are seen by asking, every forge_poll_s"
        )
        found.append(
            "Forgejo's REST interface has no logs of workflow runs: they are read from its web pages, where it lets us"
        )
        if major < 12:  # noqa: PLR2004 - the first with them
            found.append("before Forgejo 12 workflow runs send no webhook: they are seen by asking, every forge_poll_s")
    return tuple(found)


class Forges:
    """The clients of one deployment, one for each type that has a token. A context manager."""

    def __init__(
        self,
        settings: Settings,
        *,
        pace: Pace | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        is_unwanted: Callable[[], bool] = never,
    ) -> None:
        """Ask nothing yet."""
        self._settings = settings
        self._pace = pace or Pace(settings.service.forge_rate)
        self._options: dict[str, Any] = {"transport": transport, "sleep": sleep, "is_unwanted": is_unwanted}
        self._known: dict[str, tuple[int, Forge]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of(self, type_name: str) -> Forge | None:
        """Return the client of a type; None: it has no token. Raises ForgeError when its token cannot be read."""
        kind = self._settings.types.get(type_name)
        if kind is None or kind.token_file is None:
            return None
        changed = _changed_at(kind.token_file)
        known = self._known.get(type_name)
        if known is not None and known[0] == changed:
            return known[1]
        if known is not None:
            known[1].close()
        try:
            token = read_secret(kind.token_file, f"types.{type_name}.token_file")
        except ConfigError as error:
            raise NotAllowed("; ".join(error.problems)) from error
        forge = Forge(self._settings.service.forge_url, token=token, pace=self._pace, **self._options)
        self._known[type_name] = (changed, forge)
        return forge

    def main(self) -> Forge | None:
        """Return the client of the account that reads, reports and asks; None: it has no token."""
        return self.of(self._settings.report_type)

    def close(self) -> None:
        """Close all connections."""
        for _, forge in self._known.values():
            forge.close()
        self._known.clear()


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
