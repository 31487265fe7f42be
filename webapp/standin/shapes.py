"""The JSON that Forgejo sends, built from what the stand-in forge remembers. Pure: no I/O.

Members, their order and their odd values follow Forgejo's modules/structs (hook.go, issue.go, pull.go, action.go)
and services/convert; they were compared with recorded deliveries.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from webapp.standin.model import Model
from webapp.standin.records import RIGHTS, STYLES, Comment, Issue, Pull, Repo, Run, User

Json = dict[str, Any]

#: Event-Type -> the coarser Event, where the two differ (modules/webhook/type.go, HookEventType.Event).
GROUPS = {
    "issue_assign": "issues",
    "issue_label": "issues",
    "pull_request_comment": "issue_comment",
    "pull_request_assign": "pull_request",
    "pull_request_label": "pull_request",
    "pull_request_sync": "pull_request",
    "pull_request_review_request": "pull_request",
    "pull_request_review_approved": "pull_request_approved",
    "pull_request_review_rejected": "pull_request_rejected",
    # The same word means a review here and a plain comment above.
    "pull_request_review_comment": "pull_request_comment",
}
#: models/user/user_system.go.
_SYSTEM = {"forgejo-actions": -2}
_GO_ZERO_TIME = "0001-01-01T00:00:00Z"
#: encoding/json escapes these inside strings, so that JSON can stand in a HTML page.
_GO_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def encode(value: Json, *, as_go: bool = True) -> bytes:
    """Return the bytes of Go's json.MarshalIndent with two spaces."""
    if not as_go:
        return json.dumps(value).encode()
    return json.dumps(value, indent=2, ensure_ascii=False).translate(_GO_ESCAPES).encode()


def encode_compact(value: Json) -> str:
    """Return the text of Go's json.Marshal."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).translate(_GO_ESCAPES)


def headers(body: bytes, *, secret: bytes, uuid: str, event_type: str) -> dict[str, str]:
    """Return the headers of a delivery (services/webhook/shared/payloader.go): without a secret, empty signatures."""
    sha1 = hmac.new(secret, body, hashlib.sha1).hexdigest() if secret else ""
    sha256 = hmac.new(secret, body, hashlib.sha256).hexdigest() if secret else ""
    named = {"Delivery": uuid, "Event": GROUPS.get(event_type, event_type), "Event-Type": event_type}
    return {
        "Content-Type": "application/json",
        "User-Agent": "Go-http-client/1.1",
        **{f"X-{brand}-{n}": v for brand in ("Forgejo", "Gitea", "Gogs", "GitHub") for n, v in named.items()},
        **{f"X-{brand}-Signature": sha256 for brand in ("Forgejo", "Gitea", "Gogs")},
        "X-Hub-Signature": f"sha1={sha1}",
        "X-Hub-Signature-256": f"sha256={sha256}",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """The shapes of one forge."""

    url: str
    users: Mapping[str, User]
    model: Model = field(default_factory=Model)

    def user(self, login: str) -> Json:
        """Return a user; a name without an account is an organisation."""
        found = self.users.get(login)
        return {
            "id": found.id if found else _SYSTEM.get(login, 1_000_000 + len(login)),
            "login": login,
            "login_name": "",
            "source_id": 0,
            "full_name": "",
            "email": f"{login}@noreply.localhost",
            "avatar_url": f"{self.url}/avatars/{hashlib.sha256(login.encode()).hexdigest()}",
            "html_url": f"{self.url}/{login}",
            "language": "",
            "is_admin": bool(found and found.is_admin),
            "last_login": _GO_ZERO_TIME,
            "created": "2026-01-01T00:00:00Z",
            "restricted": False,
            "active": False,
            "prohibit_login": False,
            "location": "",
            "pronouns": "",
            "website": "",
            "description": "",
            "visibility": "public",
            "followers_count": 0,
            "following_count": 0,
            "starred_repos_count": 0,
            "username": login,
        }

    def repository(self, repo: Repo, *, right: str = "read") -> Json:
        """Return a repository; right: what the account may do there that asks."""
        rank = RIGHTS.index(right)
        owner, name = repo.full_name.split("/")
        is_open = [issue for issue in repo.issues.values() if issue.state == "open"]
        pulls = sum(isinstance(issue, Pull) for issue in is_open)
        return {
            "id": repo.id,
            "owner": self.user(owner),
            "name": name,
            "full_name": repo.full_name,
            "description": "",
            "empty": False,
            "private": repo.private,
            "fork": False,
            "template": False,
            "parent": None,
            "mirror": False,
            "size": 24,
            "language": "",
            "languages_url": f"{self.url}/api/v1/repos/{repo.full_name}/languages",
            "html_url": f"{self.url}/{repo.full_name}",
            "url": f"{self.url}/api/v1/repos/{repo.full_name}",
            "link": "",
            "ssh_url": f"ssh://git@localhost/{repo.full_name}.git",
            "clone_url": f"{self.url}/{repo.full_name}.git",
            "original_url": "",
            "website": "",
            "stars_count": 0,
            "forks_count": 0,
            "watchers_count": 1,
            "open_issues_count": len(is_open) - pulls,
            "open_pr_counter": pulls,
            "release_counter": 0,
            "default_branch": repo.default_branch,
            "archived": repo.archived,
            "permissions": {
                "admin": rank >= RIGHTS.index("admin"),
                "push": rank >= RIGHTS.index("write"),
                "pull": True,
            },
            **{setting: style in repo.styles for style, setting in STYLES.items()},
            "allow_rebase_update": True,
            "default_merge_style": "merge",
            "has_issues": True,
            "has_pull_requests": True,
            "has_actions": True,
            "object_format_name": "sha1",
            "topics": [],
        }

    def issue(self, repo: Repo, issue: Issue) -> Json:
        """Return an issue, or the issue that every pull request also is."""
        where = "pulls" if isinstance(issue, Pull) else "issues"
        owner, name = repo.full_name.split("/")
        return {
            "id": issue.id,
            "url": f"{self.url}/api/v1/repos/{repo.full_name}/issues/{issue.number}",
            "html_url": f"{self.url}/{repo.full_name}/{where}/{issue.number}",
            "number": issue.number,
            "user": self.user(issue.author),
            "original_author": "",
            "original_author_id": 0,
            "title": issue.title,
            "body": issue.body,
            "ref": "",
            "assets": [],
            "labels": self._labels(repo, issue),
            "milestone": None,
            **self._assignees(issue),
            "state": issue.state,
            "is_locked": False,
            "comments": len(issue.comments),
            "created_at": issue.created_at,
            "updated_at": issue.updated_at,
            "closed_at": issue.closed_at,
            "due_date": None,
            "pull_request": self._pull_of_issue(repo, issue),
            "repository": {"id": repo.id, "name": name, "owner": owner, "full_name": repo.full_name},
            "pin_order": 0,
        }

    def pull(self, repo: Repo, pull: Pull, *, mergeable: bool) -> Json:
        """Return a pull request."""
        page = f"{self.url}/{repo.full_name}/pulls/{pull.number}"
        branches = repo.git.branches()
        # Once the branch is deleted only the pull request's own ref is left; the name stays in the label.
        is_gone = pull.head not in branches and "head-ref-of-deleted-branch" in self.model
        head_ref = f"refs/pull/{pull.number}/head" if is_gone else pull.head
        base_sha = branches.get(pull.base, "")
        whole = self.repository(repo)
        return {
            "id": pull.id,
            "url": page,
            "number": pull.number,
            "user": self.user(pull.author),
            "title": pull.title,
            "body": pull.body,
            "labels": self._labels(repo, pull),
            "milestone": None,
            **self._assignees(pull),
            "requested_reviewers": [self.user(login) for login in self._reviewers(pull)],
            "requested_reviewers_teams": [],
            "state": pull.state,
            "draft": pull.is_draft,
            "is_locked": False,
            "comments": len(pull.comments),
            "html_url": page,
            "diff_url": f"{page}.diff",
            "patch_url": f"{page}.patch",
            "mergeable": mergeable,
            "merged": pull.merge_commit_sha is not None,
            "merged_at": pull.closed_at if pull.merge_commit_sha else None,
            "merge_commit_sha": pull.merge_commit_sha,
            "merged_by": self.user(pull.merged_by) if pull.merged_by else None,
            "allow_maintainer_edit": False,
            "base": {"label": pull.base, "ref": pull.base, "sha": base_sha, "repo_id": repo.id, "repo": whole},
            "head": {"label": pull.head, "ref": head_ref, "sha": pull.head_sha, "repo_id": repo.id, "repo": whole},
            "merge_base": repo.git.merge_base(pull.merged_onto or base_sha, pull.head_sha) if base_sha else "",
            "due_date": None,
            "created_at": pull.created_at,
            "updated_at": pull.updated_at,
            "closed_at": pull.closed_at,
            "pin_order": 0,
            "flow": 0,
        }

    def issue_event(self, repo: Repo, issue: Issue, *, action: str, sender: str, commit_id: str = "") -> Json:
        """Return the body of an issue event; like the original it does not say who was just assigned."""
        return {
            "action": action,
            "number": issue.number,
            "issue": self.issue(repo, issue),
            "repository": self.repository(repo),
            "sender": self.user(sender),
            "commit_id": commit_id,
        }

    def pull_event(
        self,
        repo: Repo,
        pull: Pull,
        *,
        action: str,
        sender: str,
        mergeable: bool,
        reviewer: str | None = None,
        review: Json | None = None,
    ) -> Json:
        """Return the body of a pull request event or a review; a review has neither id nor commit."""
        return {
            "action": action,
            "number": pull.number,
            "pull_request": self.pull(repo, pull, mergeable=mergeable),
            "requested_reviewer": self.user(reviewer) if reviewer else None,
            "repository": self.repository(repo),
            "sender": self.user(sender),
            "commit_id": "",
            "review": review,
        }

    def comment(self, repo: Repo, issue: Issue, comment: Comment) -> Json:
        """Return a plain comment."""
        is_pull = isinstance(issue, Pull)
        page = f"{self.url}/{repo.full_name}/{'pulls' if is_pull else 'issues'}/{issue.number}"
        return {
            "id": comment.id,
            "html_url": f"{page}#issuecomment-{comment.id}",
            "pull_request_url": page if is_pull else "",
            "issue_url": "" if is_pull else page,
            "user": self.user(comment.author),
            "original_author": "",
            "original_author_id": 0,
            "body": comment.body,
            "assets": [],
            "created_at": comment.created_at,
            "updated_at": comment.updated_at,
        }

    def comment_event(
        self, repo: Repo, issue: Issue, comment: Comment, *, action: str, sender: str, mergeable: bool
    ) -> Json:
        """Return the body of a comment's event: without a number, and with the whole pull request if it is on one."""
        return {
            "action": action,
            "issue": self.issue(repo, issue),
            **({"pull_request": self.pull(repo, issue, mergeable=mergeable)} if isinstance(issue, Pull) else {}),
            "comment": self.comment(repo, issue, comment),
            "repository": self.repository(repo),
            "sender": self.user(sender),
            "is_pull": isinstance(issue, Pull),
        }

    def run_event(self, repo: Repo, run: Run, *, action: str, last: Run | None = None) -> Json:
        """Return the body of a finished workflow run; repository and number are inside `run` only."""
        body = {"action": action, "run": self._run(repo, run), "prior_status": "running"}
        return {**body, "last_run": self._run(repo, last)} if last else body

    def _run(self, repo: Repo, run: Run) -> Json:
        pull = repo.issues[run.pull] if run.pull is not None else None
        at = pull.updated_at if pull else repo.statuses[run.sha][-1].created_at
        event = "pull_request" if pull else "push"
        return {
            "id": run.id,
            "title": repo.git.subject(run.sha),
            "repository": self.repository(repo),
            "workflow_id": run.workflow,
            "index_in_repo": run.index,
            "trigger_user": self.user(pull.author if pull else repo.owner),
            "ScheduleID": 0,
            "prettyref": f"#{run.pull}" if pull else run.branch,
            "is_ref_deleted": False,
            "commit_sha": run.sha,
            "is_fork_pull_request": False,
            "need_approval": False,
            "approved_by": 0,
            "event": event,
            "event_payload": run.event_payload,
            "trigger_event": event,
            "status": run.status,
            "started": at,
            "stopped": at,
            "created": at,
            "updated": at,
            "duration": 44_000_000_000,
            "html_url": f"{self.url}/{repo.full_name}/actions/runs/{run.index}",
        }

    def label(self, repo: Repo, name: str) -> Json:
        """Return a label."""
        known = repo.labels[name]
        return {
            "id": known.id,
            "name": name,
            "exclusive": False,
            "is_archived": False,
            "color": known.color,
            "description": known.description,
            "url": f"{self.url}/api/v1/repos/{repo.full_name}/labels/{known.id}",
        }

    def _labels(self, repo: Repo, issue: Issue) -> list[Json]:
        return [self.label(repo, name) for name in issue.labels]

    def _reviewers(self, pull: Pull) -> list[str]:
        if "reviewers-stay-listed" in self.model:
            return pull.reviewers
        return [one.author for one in pull.reviews if one.state == "REQUEST_REVIEW"]

    def _assignees(self, issue: Issue) -> Json:
        everybody = [self.user(login) for login in issue.assignees]
        # Go sends a nil slice as null, and the deprecated member is the first of the list, not the newest.
        listed = everybody or (None if "assignees-null" in self.model else [])
        return {"assignee": everybody[0] if everybody else None, "assignees": listed}

    def _pull_of_issue(self, repo: Repo, issue: Issue) -> Json | None:
        if not isinstance(issue, Pull):
            return None
        return {
            "merged": issue.merge_commit_sha is not None,
            "merged_at": issue.closed_at if issue.merge_commit_sha else None,
            "draft": issue.is_draft,
            "html_url": f"{self.url}/{repo.full_name}/pulls/{issue.number}",
        }
