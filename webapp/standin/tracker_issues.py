"""Issues on the stand-in forge, and what pull requests share with them: each method sends what Forgejo sends."""

from collections.abc import Sequence

from webapp.standin.records import Comment, Issue, Pull, Repo
from webapp.standin.refusals import Refusal
from webapp.standin.shapes import Json
from webapp.standin.tracker_base import Base


class Issues(Base):
    """What people do on issues. `sender`, where it may be left out, is the owner of the repository."""

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
            at = self.now
            issue = Issue(
                id=self.next_id(),
                number=found.next_number,
                author=author,
                title=title,
                body=body,
                created_at=at,
                updated_at=at,
            )
            self._know_labels(found, labels)
            issue.labels, issue.assignees = [*labels], [*dict.fromkeys(assignees)]
            found.issues[issue.number] = issue
            is_early = "assigned-before-opened" in self.model
            if not is_early:
                self._tell(found, issue, "opened", author)
            self._tell_assigned(found, issue, issue.assignees, author)
            if is_early:
                self._tell(found, issue, "opened", author)
            return issue.number

    def assign(self, repo: str, number: int, *logins: str, sender: str | None = None) -> None:
        """Assign people: one event for each new one, all with the full list; for somebody assigned already none."""
        with self._changing():
            found, issue = self._touch(repo, number)
            new = [login for login in dict.fromkeys(logins) if login not in issue.assignees]
            issue.assignees += new
            self._tell_assigned(found, issue, new, sender)

    def unassign(self, repo: str, number: int, *logins: str, sender: str | None = None) -> None:
        """Take people off: one event for each, which does not name them."""
        with self._changing():
            found, issue = self._touch(repo, number)
            for login in [login for login in logins if login in issue.assignees]:
                issue.assignees.remove(login)
                self._happened(issue, "assignees", sender or found.owner, assignee=login, removed=True)
                self._tell(found, issue, "unassigned", sender, about="assign")

    def set_assignees(self, repo: str, number: int, logins: Sequence[str], *, sender: str | None = None) -> None:
        """Replace the assignees: first those who are gone are told, then the new ones."""
        with self._changing():
            gone = [login for login in self.repos[repo].issues[number].assignees if login not in logins]
            self.unassign(repo, number, *gone, sender=sender)
            self.assign(repo, number, *logins, sender=sender)

    def set_labels(self, repo: str, number: int, *labels: str, sender: str | None = None) -> None:
        """Replace the labels; which one changed is not told."""
        with self._changing():
            found, issue = self._touch(repo, number)
            self._know_labels(found, labels)
            issue.labels = [*dict.fromkeys(labels)]
            self._happened(issue, "label", sender or found.owner)
            self._tell(found, issue, "label_updated" if labels else "label_cleared", sender, about="label")

    def edit(
        self, repo: str, number: int, *, title: str | None = None, body: str | None = None, sender: str | None = None
    ) -> None:
        """Change title or text; an event for each that tells what was there before."""
        with self._changing():
            found, issue = self._touch(repo, number)
            for name, new in (("title", title), ("body", body)):
                old = getattr(issue, name)
                if new is not None and new != old:
                    setattr(issue, name, new)
                    self._tell(found, issue, "edited", sender, changes={name: {"from": old}})

    def comment(self, repo: str, number: int, text: str, *, author: str) -> int:
        """Write a plain comment; return its id."""
        with self._changing():
            found, issue = self._touch(repo, number)
            at = self.now
            id_ = self._happened(issue, "comment", author, body=text)
            comment = Comment(id=id_, author=author, body=text, created_at=at, updated_at=at)
            issue.comments.append(comment)
            self._tell_comment(found, issue, comment, action="created", sender=author)
            return id_

    def edit_comment(self, repo: str, id_: int, text: str, *, sender: str) -> None:
        """Change a comment."""
        with self._changing():
            found = self.repos[repo]
            issue, comment = self.find_comment(found, id_)
            old, comment.body, comment.updated_at = comment.body, text, self.now
            if old != text:
                changes = {"body": {"from": old}}
                self._tell_comment(found, issue, comment, action="edited", sender=sender, changes=changes)

    def find_comment(self, repo: Repo, id_: int) -> tuple[Issue, Comment]:
        """Return a comment and what it is on. Raises Refusal when there is none."""
        for issue in repo.issues.values():
            for comment in issue.comments:
                if comment.id == id_:
                    return issue, comment
        raise Refusal(404, "The target couldn't be found.")

    def react(self, repo: str, id_: int, content: str, *, sender: str) -> None:
        """React to a comment; nobody is told."""
        with self._changing():
            _, comment = self.find_comment(self.repos[repo], id_)
            if (sender, content) not in comment.reactions:
                comment.reactions.append((sender, content))

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
            self._happened(issue, "reopen", sender or found.owner)
            self._tell(found, issue, "reopened", sender)

    def depend(self, repo: str, number: int, *, on: int, of: str | None = None) -> None:
        """Let an issue or pull request wait for another; nobody is told. of: the other's repository."""
        with self._changing():
            blocker = (of or repo, on)
            blockers = self.repos[repo].issues[number].blockers
            if blocker not in blockers:
                blockers.append(blocker)

    def has_open_blocker(self, issue: Issue) -> bool:
        """Tell whether an issue waits for another."""
        found = (self.repos[repo].issues[number] for repo, number in issue.blockers if repo in self.repos)
        return any(blocker.state == "open" for blocker in found)

    # --- inside ---

    def _know_labels(self, repo: Repo, names: Sequence[str]) -> None:
        for name in names:
            self.create_label(repo.full_name, name)

    def _close(self, repo: Repo, issue: Issue, sender: str | None, *, commit_id: str = "") -> None:
        issue.state, issue.closed_at, issue.updated_at = "closed", self.now, self.now
        self._happened(issue, "close", sender or repo.owner)
        self._tell(repo, issue, "closed", sender, commit_id=commit_id)

    def _tell_assigned(self, repo: Repo, issue: Issue, new: Sequence[str], sender: str | None) -> None:
        for login in new:
            self._happened(issue, "assignees", sender or repo.owner, assignee=login)
        for _ in new if "event-per-assignee" in self.model else new[:1]:
            self._tell(repo, issue, "assigned", sender, about="assign")

    def _tell_comment(
        self, repo: Repo, issue: Issue, comment: Comment, *, action: str, sender: str, changes: Json | None = None
    ) -> None:
        mergeable = self._payload_mergeable(repo, issue)
        value = self.shapes.comment_event(repo, issue, comment, action=action, sender=sender, mergeable=mergeable)
        value |= {"changes": changes} if changes else {}
        self._emit(repo, "pull_request_comment" if isinstance(issue, Pull) else "issue_comment", value)

    def _tell(  # the one place that knows which Event-Type an action has
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
        changes: Json | None = None,
    ) -> None:
        sender = sender or repo.owner
        if isinstance(issue, Pull):
            event_type = f"pull_request_{about}" if about else "pull_request"
            value = self._pull_event(repo, issue, action=action, sender=sender, reviewer=reviewer, review=review)
        else:
            event_type = f"issue_{about}" if about else "issues"
            value = self.shapes.issue_event(repo, issue, action=action, sender=sender, commit_id=commit_id)
        self._emit(repo, event_type, value | ({"changes": changes} if changes else {}))

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
        is_checked = action != "synchronized" or "checking-after-push" not in self.model
        mergeable = is_checked and self._payload_mergeable(repo, pull)
        return self.shapes.pull_event(
            repo, pull, action=action, sender=sender, mergeable=mergeable, reviewer=reviewer, review=review
        )
