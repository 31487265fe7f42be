"""The JSON that Forgejo sends, built from what the stand-in forge remembers. Pure: no I/O.

Members, their order and their odd values follow Forgejo's modules/structs (hook.go, issue.go, pull.go, action.go)
and services/convert; they were compared with recorded deliveries.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.standin.records import Issue, Pull, Repo, Run, User

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
_GO_ZERO_TIME = "0001-01-01T00:00:00Z"
#: encoding/json escapes these inside strings, so that JSON can stand in a HTML page.
_GO_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def encode(value: Json) -> bytes:
    """Return the bytes of Go's json.MarshalIndent with two spaces."""
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

    def user(self, login: str) -> Json:
        """Return a user; a name without an account is an organisation."""
        found = self.users.get(login)
        return {
            "id": found.id if found else 1_000_000 + len(login),
            "login": login,
            "login_name": "",
            "source_id": 0,
            "full_name": "",
            "email": f"{login}@noreply.localhost",
            "avatar_url": f"{self.url}/avatars/{hashlib.sha256(login.encode()).hexdigest()}",
            "html_url": f"{self.url}/{login}",
            "language": "",
            "is_admin": False,
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

    def repository(self, repo: Repo) -> Json:
        """Return a repository."""
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
            "archived": False,
            "permissions": {"admin": False, "push": False, "pull": True},
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
            "comments": 0,
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
        head_ref = pull.head if pull.head in branches else f"refs/pull/{pull.number}/head"
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
            "requested_reviewers": [self.user(login) for login in pull.reviewers],
            "requested_reviewers_teams": [],
            "state": pull.state,
            "draft": pull.title.upper().startswith(("WIP:", "[WIP]")),
            "is_locked": False,
            "comments": 0,
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
            "merge_base": pull.merge_base,
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

    def comment_event(self, repo: Repo, issue: Issue, *, author: str, text: str, id_: int, mergeable: bool) -> Json:
        """Return the body of a new comment: without a number, and with the whole pull request if it is on one."""
        is_pull = isinstance(issue, Pull)
        page = self.issue(repo, issue)["html_url"]
        comment: Json = {
            "id": id_,
            "html_url": f"{page}#issuecomment-{id_}",
            "pull_request_url": page if is_pull else "",
            "issue_url": "" if is_pull else page,
            "user": self.user(author),
            "original_author": "",
            "original_author_id": 0,
            "body": text,
            "assets": [],
            "created_at": issue.updated_at,
            "updated_at": issue.updated_at,
        }
        return {
            "action": "created",
            "issue": self.issue(repo, issue),
            **({"pull_request": self.pull(repo, issue, mergeable=mergeable)} if isinstance(issue, Pull) else {}),
            "comment": comment,
            "repository": self.repository(repo),
            "sender": self.user(author),
            "is_pull": is_pull,
        }

    def run_event(self, repo: Repo, pull: Pull, run: Run, *, action: str, last: Run | None = None) -> Json:
        """Return the body of a finished workflow run; repository and number are inside `run` only."""
        body = {"action": action, "run": self._run(repo, pull, run), "prior_status": "running"}
        return {**body, "last_run": self._run(repo, pull, last)} if last else body

    def _run(self, repo: Repo, pull: Pull, run: Run) -> Json:
        return {
            "id": run.id,
            "title": repo.git.subject(run.sha),
            "repository": self.repository(repo),
            "workflow_id": run.workflow,
            "index_in_repo": run.index,
            "trigger_user": self.user(pull.author),
            "ScheduleID": 0,
            "prettyref": f"#{pull.number}",
            "is_ref_deleted": False,
            "commit_sha": run.sha,
            "is_fork_pull_request": False,
            "need_approval": False,
            "approved_by": 0,
            "event": "pull_request",
            "event_payload": run.event_payload,
            "trigger_event": "pull_request",
            "status": run.status,
            "started": pull.updated_at,
            "stopped": pull.updated_at,
            "created": pull.updated_at,
            "updated": pull.updated_at,
            "duration": 44_000_000_000,
            "html_url": f"{self.url}/{repo.full_name}/actions/runs/{run.index}",
        }

    def _labels(self, repo: Repo, issue: Issue) -> list[Json]:
        return [
            {
                "id": int.from_bytes(hashlib.sha256(name.encode()).digest()[:3], "big"),
                "name": name,
                "exclusive": False,
                "is_archived": False,
                "color": "ee0701",
                "description": "",
                "url": f"{self.url}/api/v1/repos/{repo.full_name}/labels/{number}",
            }
            for number, name in enumerate(issue.labels, start=1)
        ]

    def _assignees(self, issue: Issue) -> Json:
        everybody = [self.user(login) for login in issue.assignees]
        # Go sends a nil slice as null, and the deprecated member is the first of the list, not the newest.
        return {"assignee": everybody[0] if everybody else None, "assignees": everybody or None}

    def _pull_of_issue(self, repo: Repo, issue: Issue) -> Json | None:
        if not isinstance(issue, Pull):
            return None
        return {
            "merged": issue.merge_commit_sha is not None,
            "merged_at": issue.closed_at if issue.merge_commit_sha else None,
            "draft": issue.title.upper().startswith(("WIP:", "[WIP]")),
            "html_url": f"{self.url}/{repo.full_name}/pulls/{issue.number}",
        }
