"""The JSON that Forgejo answers over REST and does not deliver: reviews, statuses, branches, hooks. Pure: no I/O.

Members follow Forgejo's modules/structs and services/convert.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from webapp.standin import hooks
from webapp.standin.bare import CommitInfo
from webapp.standin.records import Happening, Hook, Issue, LineComment, Protection, Pull, Repo, Review, Status, stamp
from webapp.standin.shapes import Json, Shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class RestShapes(Shapes):
    """The shapes of answers."""

    def review(self, repo: Repo, pull: Pull, review: Review) -> Json:
        """Return a review."""
        page = f"{self.url}/{repo.full_name}/pulls/{pull.number}"
        return {
            "id": review.id,
            "user": self.user(review.author),
            "team": None,
            "state": review.state,
            "body": review.body,
            "commit_id": review.commit_id,
            "stale": review.stale,
            "official": review.official,
            "dismissed": review.dismissed,
            "comments_count": len(review.comments),
            "submitted_at": review.submitted_at,
            "updated_at": review.submitted_at,
            "html_url": f"{page}#issuecomment-{review.id}",
            "pull_request_url": page,
        }

    def line_comment(self, repo: Repo, pull: Pull, review: Review, comment: LineComment) -> Json:
        """Return what a review says of a line."""
        page = f"{self.url}/{repo.full_name}/pulls/{pull.number}"
        return {
            "id": comment.id,
            "body": comment.body,
            "user": self.user(review.author),
            "resolver": None,
            "pull_request_review_id": review.id,
            "created_at": review.submitted_at,
            "updated_at": review.submitted_at,
            "path": comment.path,
            "commit_id": review.commit_id,
            "original_commit_id": "",
            "diff_hunk": "",
            "position": comment.line,
            "original_position": 0,
            "html_url": f"{page}/files#issuecomment-{comment.id}",
            "pull_request_url": page,
        }

    def status(self, repo: Repo, sha: str, status: Status) -> Json:
        """Return a commit status: its state is in the member `status`."""
        return {
            "id": status.id,
            "status": status.state,
            "target_url": status.target_url,
            "description": status.description,
            "url": f"{self.url}/api/v1/repos/{repo.full_name}/statuses/{sha}",
            "context": status.context,
            "creator": self.user(status.creator),
            "created_at": status.created_at,
            "updated_at": status.created_at,
        }

    def happening(self, repo: Repo, issue: Issue, happening: Happening) -> Json:
        """Return an entry of a timeline."""
        where = "pulls" if isinstance(issue, Pull) else "issues"
        page = f"{self.url}/{repo.full_name}/{where}/{issue.number}"
        return {
            "id": happening.id,
            "type": happening.kind,
            "html_url": f"{page}#issuecomment-{happening.id}",
            "pull_request_url": page if where == "pulls" else "",
            "issue_url": page if where == "issues" else "",
            "user": self.user(happening.user),
            "body": happening.body,
            "created_at": happening.created_at,
            "updated_at": happening.created_at,
            "assignee": self.user(happening.assignee) if happening.assignee else None,
            "assignee_team": None,
            "removed_assignee": happening.removed,
        }

    def branch(self, repo: Repo, name: str, commit: CommitInfo, *, can_write: bool) -> Json:
        """Return a branch."""
        rules = repo.protections.get(name)
        return {
            "name": name,
            "commit": {
                "id": commit.sha,
                "message": commit.message,
                "url": f"{self.url}/{repo.full_name}/commit/{commit.sha}",
                "author": _person(commit, with_login=True),
                "committer": _person(commit, with_login=True),
                "timestamp": _date(commit),
                "added": None,
                "removed": None,
                "modified": None,
                "verification": None,
            },
            "protected": rules is not None,
            "required_approvals": rules.required_approvals if rules else 0,
            "enable_status_check": bool(rules and rules.enable_status_check),
            "status_check_contexts": rules.status_check_contexts if rules else [],
            "user_can_push": can_write and rules is None,
            "user_can_merge": can_write,
            "effective_branch_protection_name": name if rules else "",
        }

    def commit(self, repo: Repo, commit: CommitInfo) -> Json:
        """Return a commit as the git interface does."""
        api = f"{self.url}/api/v1/repos/{repo.full_name}/git"
        date = _date(commit)

        def pointer(sha: str, kind: str) -> Json:
            return {"url": f"{api}/{kind}/{sha}", "sha": sha, "created": date}

        return {
            **pointer(commit.sha, "commits"),
            "html_url": f"{self.url}/{repo.full_name}/commit/{commit.sha}",
            "commit": {
                "url": f"{api}/commits/{commit.sha}",
                "author": {**_person(commit), "date": date},
                "committer": {**_person(commit), "date": date},
                "message": commit.message,
                "tree": pointer(commit.tree, "trees"),
                "verification": None,
            },
            "author": None,
            "committer": None,
            "parents": [{**pointer(sha, "commits"), "created": "0001-01-01T00:00:00Z"} for sha in commit.parents],
            "files": [],
            "stats": {"total": 0, "additions": 0, "deletions": 0},
        }

    def hook(self, hook: Hook) -> Json:
        """Return a webhook: never its secret."""
        return {
            "id": hook.id,
            "type": hook.type,
            "branch_filter": hook.branch_filter,
            "url": hook.url,
            "config": {"content_type": hook.content_type, "url": hook.url},
            "events": hooks.events_of(hook.flags),
            "authorization_header": hook.authorization,
            "content_type": hook.content_type,
            "metadata": None,
            "active": hook.active,
            "updated_at": hook.created_at,
            "created_at": hook.created_at,
        }

    def protection(self, rules: Protection) -> Json:
        """Return the rules of a branch."""
        return {
            "branch_name": rules.branch,
            "rule_name": rules.branch,
            "enable_push": True,
            "required_approvals": rules.required_approvals,
            "enable_status_check": rules.enable_status_check,
            "status_check_contexts": rules.status_check_contexts,
            "block_on_outdated_branch": rules.block_on_outdated_branch,
            "block_on_rejected_reviews": rules.block_on_rejected_reviews,
            "dismiss_stale_approvals": rules.dismiss_stale_approvals,
        }

    def push_event(self, repo: Repo, commit: CommitInfo, *, sender: str) -> Json:
        """Return the body of a test delivery: a push of what is there already."""
        page = f"{self.url}/{repo.full_name}"
        told = {
            "id": commit.sha,
            "message": commit.message,
            "url": f"{page}/commit/{commit.sha}",
            "author": _person(commit, with_login=True),
            "committer": _person(commit, with_login=True),
            "verification": None,
            "timestamp": _date(commit),
            "added": None,
            "removed": None,
            "modified": None,
        }
        return {
            "ref": f"refs/heads/{repo.default_branch}",
            "before": commit.sha,
            "after": commit.sha,
            "compare_url": f"{page}/compare/{commit.sha}...{commit.sha}",
            "commits": [told],
            "total_commits": 1,
            "head_commit": told,
            "repository": self.repository(repo),
            "pusher": self.user(sender),
            "sender": self.user(sender),
        }


def _person(commit: CommitInfo, *, with_login: bool = False) -> Json:
    name, _, rest = commit.author.partition(" <")
    return {"name": name, "email": rest.rstrip(">"), **({"username": ""} if with_login else {})}


def _date(commit: CommitInfo) -> str:
    seconds, offset = commit.date.split(" ")
    zone = timezone(timedelta(hours=int(offset[:3]), minutes=int(offset[0] + offset[3:])))
    return stamp(datetime.fromtimestamp(int(seconds), zone).astimezone(UTC))
