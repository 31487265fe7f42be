"""What people do on the stand-in forge: each method changes its state and sends what Forgejo sends for that."""

import itertools
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pool.model import check_repo
from webapp.standin.bare import BareRepo
from webapp.standin.records import Issue, Pull, Repo, Run, User, now
from webapp.standin.sender import Sender, Sent
from webapp.standin.shapes import Json, Shapes, encode_compact

#: What a reviewer says -> Forgejo's word, which is both the Event-Type and `review.type`.
VERDICTS = {verdict: f"pull_request_review_{verdict}" for verdict in ("approved", "rejected", "comment")}
#: How a workflow run ends.
RUN_STATUSES = ("success", "failure", "cancelled", "skipped")
#: modules/references: these words before #N close that issue when the pull request is merged.
_CLOSES = re.compile(r"\b(?:close[sd]?|fix(?:e[sd])?|resolve[sd]?):?\s+#(\d+)\b", re.IGNORECASE)


class Unprocessable(Exception):
    """The real forge would answer 422."""


class Tracker:
    """Accounts, repositories, issues and pull requests.

    `sender`, where it may be left out, is the owner of the repository.
    """

    def __init__(self, root: Path, *, secret: bytes, webhook_url: str | None = None) -> None:
        """Keep the repositories below `root`; sign with `secret`; None: deliveries are only recorded."""
        self.root = root
        self.users: dict[str, User] = {}
        self.repos: dict[str, Repo] = {}
        self.sender = Sender(secret=secret, url=webhook_url)
        self._ids = itertools.count(1)
        self._outbox: list[tuple[str, Json]] = []
        self._lock = threading.RLock()

    @property
    def url(self) -> str:
        """Where the forge is."""
        return "http://forge.invalid"

    @property
    def deliveries(self) -> list[Sent]:
        """All deliveries so far, also the failed and the dropped ones."""
        return self.sender.deliveries

    def replay(self, index: int) -> Sent:
        """Send a recorded delivery again under another UUID."""
        return self.sender.replay(index)

    # --- accounts and repositories ---

    def create_user(self, login: str) -> str:
        """Make an account and return its token."""
        with self._changing():
            self.users[login] = User(id=next(self._ids), login=login, token=secrets.token_hex(20))
            return self.users[login].token

    def create_repo(self, full_name: str, *, private: bool = True) -> Repo:
        """Make a repository with one commit on `main`; a public one can be read without an account."""
        check_repo("full_name", full_name)
        with self._changing():
            git = BareRepo(self.root / f"{full_name}.git")
            self.repos[full_name] = Repo(id=next(self._ids), full_name=full_name, private=private, git=git)
            return self.repos[full_name]

    def commit(
        self, repo: str, branch: str, files: Mapping[str, str], *, message: str = "Change", sender: str | None = None
    ) -> str:
        """Commit files to a branch as if `sender` had pushed it; a new branch begins at `main`. Return the sha."""
        with self._changing():
            found = self.repos[repo]
            before = found.git.branches()
            sha = found.git.commit(branch, files, message=message, start=found.default_branch)
            self._pushed(found, before, sender)
            return sha

    # --- issues, and what a pull request has in common with them ---

    def create_issue(
        self,
        repo: str,
        title: str,
        body: str = "",
        labels: tuple[str, ...] = (),
        *,
        assignees: tuple[str, ...] = (),
        author: str | None = None,
    ) -> int:
        """Open an issue and return its number; `assigned` goes out before `opened`."""
        with self._changing():
            found = self.repos[repo]
            author = author or found.owner
            issue = Issue(id=next(self._ids), number=found.next_number, author=author, title=title, body=body)
            issue.labels, issue.assignees = [*labels], [*dict.fromkeys(assignees)]
            found.issues[issue.number] = issue
            for _ in issue.assignees:
                self._emit(found, issue, "assigned", author, about="assign")
            self._emit(found, issue, "opened", author)
            return issue.number

    def assign(self, repo: str, number: int, *logins: str, sender: str | None = None) -> None:
        """Assign people: one event for each new one, all with the full list; for somebody assigned already none."""
        with self._changing():
            found, issue = self._touch(repo, number)
            new = [login for login in dict.fromkeys(logins) if login not in issue.assignees]
            issue.assignees += new
            for _ in new:
                self._emit(found, issue, "assigned", sender, about="assign")

    def unassign(self, repo: str, number: int, *logins: str, sender: str | None = None) -> None:
        """Take people off: one event for each, which does not name them."""
        with self._changing():
            found, issue = self._touch(repo, number)
            for login in [login for login in logins if login in issue.assignees]:
                issue.assignees.remove(login)
                self._emit(found, issue, "unassigned", sender, about="assign")

    def set_labels(self, repo: str, number: int, *labels: str, sender: str | None = None) -> None:
        """Replace the labels; which one changed is not told."""
        with self._changing():
            found, issue = self._touch(repo, number)
            issue.labels = [*labels]
            self._emit(found, issue, "label_updated" if labels else "label_cleared", sender, about="label")

    def comment(self, repo: str, number: int, text: str, *, author: str) -> None:
        """Write a plain comment."""
        with self._changing():
            found, issue = self._touch(repo, number)
            value = self._shapes().comment_event(
                found, issue, author=author, text=text, id_=next(self._ids), mergeable=_mergeable(found, issue)
            )
            self._outbox.append(("pull_request_comment" if isinstance(issue, Pull) else "issue_comment", value))

    def close_issue(self, repo: str, number: int, *, sender: str | None = None) -> None:
        """Close an issue, or a pull request without merging it."""
        with self._changing():
            found, issue = self._touch(repo, number)
            self._close(found, issue, sender)

    def reopen_issue(self, repo: str, number: int, *, sender: str | None = None) -> None:
        """Open an issue or a pull request again."""
        with self._changing():
            found, issue = self._touch(repo, number)
            issue.state, issue.closed_at = "open", None
            self._emit(found, issue, "reopened", sender)

    # --- pull requests ---

    def open_pull(self, repo: str, author: str, head: str, title: str, *, body: str = "", base: str = "main") -> int:
        """Open a pull request for a branch that is there and return its number."""
        with self._changing():
            found = self.repos[repo]
            branches = found.git.branches()
            if missing := [name for name in (head, base) if name not in branches]:
                raise Unprocessable(f"{repo} has no branch {missing[0]!r}")
            pull = Pull(
                id=next(self._ids),
                number=found.next_number,
                author=author,
                title=title,
                body=body,
                head=head,
                base=base,
                head_sha=branches[head],
                merge_base=found.git.merge_base(branches[base], branches[head]),
            )
            found.issues[pull.number] = pull
            found.git.set_ref(f"refs/pull/{pull.number}/head", pull.head_sha)
            self._emit(found, pull, "opened", author)
            return pull.number

    def request_review(self, repo: str, number: int, reviewer: str, *, sender: str | None = None) -> None:
        """Ask for a review; who asks for himself causes no event."""
        with self._changing():
            found, pull = self._touch_pull(repo, number)
            if reviewer == pull.author:
                raise Unprocessable("the author cannot be a reviewer")
            if reviewer not in pull.reviewers:
                pull.reviewers.append(reviewer)
            if reviewer != (sender or found.owner):
                self._emit(found, pull, "review_requested", sender, about="review_request", reviewer=reviewer)

    def remove_review_request(self, repo: str, number: int, reviewer: str, *, sender: str | None = None) -> None:
        """Take a request for a review back."""
        with self._changing():
            found, pull = self._touch_pull(repo, number)
            pull.reviewers.remove(reviewer)
            self._emit(found, pull, "review_request_removed", sender, about="review_request", reviewer=reviewer)

    def review(self, repo: str, number: int, reviewer: str, verdict: str, content: str = "") -> None:
        """Review; verdict: approved, rejected or comment. The reviewer stays in the list of those asked."""
        with self._changing():
            found, pull = self._touch_pull(repo, number)
            if reviewer == pull.author and verdict != "comment":
                raise Unprocessable("approve your own pull is not allowed")
            if reviewer not in pull.reviewers and reviewer != pull.author:
                pull.reviewers.append(reviewer)
            said = {"type": VERDICTS[verdict], "content": content}
            self._emit(found, pull, "reviewed", reviewer, about=f"review_{verdict}", reviewer=reviewer, review=said)

    def action_run(self, repo: str, number: int, status: str, *, workflow: str = "ci.yml") -> int:
        """End a workflow run of a pull request's head and return its id.

        A success after anything else makes two deliveries, and everything that is no success is a `failure`.
        """
        if status not in RUN_STATUSES:
            raise Unprocessable(f"a run ends as one of {', '.join(RUN_STATUSES)}")
        with self._changing():
            found, pull = self._touch_pull(repo, number)
            trigger = self._pull_event(found, pull, action="synchronized", sender=pull.author)
            last = next((run for run in reversed(found.runs) if run.workflow == workflow), None)
            run = Run(
                id=next(self._ids),
                index=len(found.runs) + 1,
                workflow=workflow,
                status=status,
                sha=pull.head_sha,
                event_payload=encode_compact(trigger),
            )
            found.runs.append(run)
            actions = ["success" if status == "success" else "failure"]
            if status == "success" and last is not None and last.status != "success":
                actions.append("recover")
            for action in actions:
                value = self._shapes().run_event(found, pull, run, action=action, last=last)
                self._outbox.append((f"action_run_{action}", value))
            return run.id

    def merge(self, repo: str, number: int, *, sender: str | None = None, delete_branch: bool = False) -> str:
        """Merge by a merge commit and return its sha; issues that the text names are closed. Raises MergeConflict."""
        with self._changing():
            found, pull = self._touch_pull(repo, number)
            if pull.state != "open":
                raise Unprocessable("the pull request is closed")
            before = found.git.branches()
            sha = found.git.merge(pull.base, pull.head_sha, message=f"Merge pull request '{pull.title}' (#{number})")
            pull.merge_commit_sha, pull.merged_by = sha, sender or found.owner
            if delete_branch:
                found.git.delete_branch(pull.head)
            self._close(found, pull, sender)
            for closed in map(int, _CLOSES.findall(pull.body)):
                issue = found.issues.get(closed)
                if issue and issue.state == "open" and not isinstance(issue, Pull):
                    self._close(found, issue, sender, commit_id=sha)
            self._pushed(found, before, sender)
            return sha

    # --- inside ---

    def _pushed(self, repo: Repo, before: Mapping[str, str], sender: str | None) -> None:
        """Follow pushed branches: an open pull request gets a new head."""
        after = repo.git.branches()
        for pull in repo.pulls:
            sha = after.get(pull.head)
            if pull.state == "open" and sha and sha != before.get(pull.head):
                pull.head_sha, pull.updated_at = sha, now()
                pull.merge_base = repo.git.merge_base(after[pull.base], sha)
                repo.git.set_ref(f"refs/pull/{pull.number}/head", sha)
                self._emit(repo, pull, "synchronized", sender, about="sync")

    def _close(self, repo: Repo, issue: Issue, sender: str | None, *, commit_id: str = "") -> None:
        issue.state, issue.closed_at, issue.updated_at = "closed", now(), now()
        self._emit(repo, issue, "closed", sender, commit_id=commit_id)

    def _emit(  # one place that knows which Event-Type an action has
        self,
        repo: Repo,
        issue: Issue,
        action: str,
        sender: str | None,
        *,
        about: str = "",
        reviewer: str | None = None,
        review: Json | None = None,
        commit_id: str = "",
    ) -> None:
        sender = sender or repo.owner
        if isinstance(issue, Pull):
            event_type = f"pull_request_{about}" if about else "pull_request"
            value = self._pull_event(repo, issue, action=action, sender=sender, reviewer=reviewer, review=review)
        else:
            event_type = f"issue_{about}" if about else "issues"
            value = self._shapes().issue_event(repo, issue, action=action, sender=sender, commit_id=commit_id)
        self._outbox.append((event_type, value))

    def _pull_event(
        self,
        repo: Repo,
        pull: Pull,
        *,
        action: str,
        sender: str,
        reviewer: str | None = None,
        review: Json | None = None,
    ) -> Json:
        # After a push the check is always still running, and shows as false.
        mergeable = action != "synchronized" and _mergeable(repo, pull)
        return self._shapes().pull_event(
            repo, pull, action=action, sender=sender, mergeable=mergeable, reviewer=reviewer, review=review
        )

    def _shapes(self) -> Shapes:
        return Shapes(url=self.url, users=self.users)

    def _touch(self, repo: str, number: int) -> tuple[Repo, Issue]:
        found = self.repos[repo]
        issue = found.issues[number]
        issue.updated_at = now()
        return found, issue

    def _touch_pull(self, repo: str, number: int) -> tuple[Repo, Pull]:
        found, issue = self._touch(repo, number)
        if not isinstance(issue, Pull):
            raise Unprocessable(f"{repo}#{number} is no pull request")
        return found, issue

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change the state alone; then, without holding anybody up, send what came of it."""
        with self._lock:
            yield
            outbox = self._take_outbox()
        self._send(outbox)

    def _take_outbox(self) -> list[tuple[str, Json]]:
        outbox, self._outbox = self._outbox, []
        return outbox

    def _send(self, outbox: list[tuple[str, Json]]) -> None:
        for event_type, value in outbox:
            self.sender.send(event_type, value)


def _mergeable(repo: Repo, issue: Issue) -> bool:
    return isinstance(issue, Pull) and issue.state == "open" and repo.git.can_merge(issue.base, issue.head_sha)
