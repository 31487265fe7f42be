"""Pull requests and reviews on the stand-in forge: each method changes the state and sends what Forgejo sends."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from webapp.standin.records import VERDICTS, Issue, LineComment, Pull, Repo, Review
from webapp.standin.refusals import Unprocessable, forbidden
from webapp.standin.shapes import Json
from webapp.standin.tracker_issues import Issues

#: Forgejo's word for a review -> what its event is called, which is both the Event-Type and `review.type`.
EVENTS = {"APPROVED": "approved", "REQUEST_CHANGES": "rejected", "COMMENT": "comment"}
_STATES = {event: state for state, event in EVENTS.items()}


class Pulls(Issues):
    """What people do on pull requests, and what pushes do to them."""

    def open_pull(self, repo: str, author: str, head: str, title: str, *, body: str = "", base: str = "main") -> int:
        """Open a pull request for a branch that is there and return its number."""
        with self._changing():
            found = self.repos[repo]
            branches = found.git.branches()
            if missing := [name for name in (head, base) if name not in branches]:
                raise Unprocessable(f"{repo} has no branch {missing[0]!r}")
            at = self.now
            pull = Pull(
                id=self.next_id(),
                number=found.next_number,
                author=author,
                title=title,
                body=body,
                head=head,
                base=base,
                head_sha=branches[head],
                created_at=at,
                updated_at=at,
            )
            found.issues[pull.number] = pull
            found.git.set_ref(f"refs/pull/{pull.number}/head", pull.head_sha)
            self._check_again(pull)
            self._tell(found, pull, "opened", author)
            self._head_moved(found, pull)
            return pull.number

    def retarget(self, repo: str, number: int, base: str, *, sender: str | None = None) -> None:
        """Let a pull request go into another branch."""
        with self._changing():
            found, pull = self._touch_pull(repo, number)
            old, pull.base = pull.base, base
            self._check_again(pull)
            self._tell(found, pull, "edited", sender, changes={"ref": {"from": old}})

    # --- is it mergeable? ---

    def is_checking(self, pull: Pull, *, is_read: bool) -> bool:
        """Tell whether the forge does not know yet; is_read: an answer that is told counts."""
        if pull.checked_from is not None and self.clock() < pull.checked_from:
            return True
        if not is_read or not pull.reads_left:
            return False
        pull.reads_left -= 1
        return True

    def is_mergeable(self, repo: Repo, pull: Pull) -> bool:
        """Tell what an answer says: false also while it is being checked, and for a draft."""
        if pull.state != "open" or pull.is_draft or self.is_checking(pull, is_read=True):
            return False
        return repo.git.can_merge(pull.base, pull.head_sha)

    def _payload_mergeable(self, repo: Repo, issue: Issue) -> bool:
        if not isinstance(issue, Pull) or issue.state != "open" or self.is_checking(issue, is_read=False):
            return False
        return repo.git.can_merge(issue.base, issue.head_sha)

    def _check_again(self, pull: Pull) -> None:
        pull.checked_from = self.clock() + timedelta(seconds=self.checking_s)
        pull.reads_left = self.checking_reads

    # --- reviews ---

    def request_review(self, repo: str, number: int, reviewer: str, *, sender: str | None = None) -> Review | None:
        """Ask for a review; None: that person has been asked already. Who asks for himself causes no event."""
        with self._changing():
            found, pull = self._touch_pull(repo, number)
            sender = sender or found.owner
            if reviewer == pull.author:
                raise Unprocessable("poster of pr can't be reviewer")
            newest = _newest(pull, reviewer)
            if newest and newest.state == "REQUEST_REVIEW":
                return None
            if newest and "request-again" not in self.model:
                return None
            if newest and pull.state != "open":
                raise forbidden("cannot request a re-review for this closed or merged pull request")
            official = self._is_official(found, reviewer)
            if official:
                _disown(pull, reviewer)
            request = self._new_review(pull, reviewer, "REQUEST_REVIEW", official=official)
            self._happened(pull, "review_request", sender, assignee=reviewer)
            if reviewer != sender or "self-request-is-silent" not in self.model:
                self._tell(found, pull, "review_requested", sender, about="review_request", reviewer=reviewer)
            return request

    def remove_review_request(self, repo: str, number: int, reviewer: str, *, sender: str | None = None) -> None:
        """Take a request for a review back; nothing happens where there is none."""
        with self._changing():
            found, pull = self._touch_pull(repo, number)
            sender = sender or found.owner
            asked = [one for one in pull.reviews if one.author == reviewer and one.state == "REQUEST_REVIEW"]
            if not asked:
                return
            pull.reviews.remove(asked[-1])
            if (older := _newest(pull, reviewer)) and self._is_official(found, reviewer):
                older.official = True
            self._happened(pull, "review_request", sender, assignee=reviewer, removed=True)
            if reviewer != sender or "self-request-is-silent" not in self.model:
                self._tell(found, pull, "review_request_removed", sender, about="review_request", reviewer=reviewer)

    def review(self, repo: str, number: int, reviewer: str, verdict: str, content: str = "") -> Review:
        """Review the head; verdict: approved, rejected or comment. The reviewer stays in the list of those asked."""
        return self.submit_review(repo, number, reviewer, _STATES[verdict], content)

    def submit_review(
        self,
        repo: str,
        number: int,
        reviewer: str,
        state: str,
        body: str = "",
        *,
        commit_id: str = "",
        lines: Sequence[tuple[str, int, str]] = (),
    ) -> Review:
        """Review a commit; "": the head. lines: path, line and text of each comment."""
        with self._changing():
            found, pull = self._touch_pull(repo, number)
            if state in VERDICTS and reviewer == pull.author and "no-review-of-ones-own" in self.model:
                word = "approve" if state == "APPROVED" else "reject"
                raise Unprocessable(f"{word} your own pull is not allowed")
            commit_id = commit_id or pull.head_sha
            official = False
            if state in VERDICTS:
                official = self._is_official(found, reviewer)
                _disown(pull, reviewer)
            if state != "PENDING":
                self._clear_for(pull, reviewer, state)
            review = self._new_review(pull, reviewer, state, body=body, commit_id=commit_id, official=official)
            review.stale = state in VERDICTS and not self._is_fresh(found, pull, commit_id)
            review.comments = [
                LineComment(id=self.next_id(), path=path, line=line, body=text) for path, line, text in lines
            ]
            self._tell_review(found, pull, review)
            if state == "APPROVED":
                self._wake(found, pull)
            return review

    def dismiss_review(self, repo: str, number: int, id_: int, message: str = "", *, sender: str) -> Review:
        """Let a verdict count no longer; nobody is told."""
        with self._changing():
            found, pull = self._touch_pull(repo, number)
            (review,) = (one for one in pull.reviews if one.id == id_)
            if review.state not in VERDICTS:
                raise forbidden("not need to dismiss this review because it's type is not Approve or change request")
            if pull.state != "open":
                raise forbidden("can't dismiss a review for this closed or merged PR")
            review.dismissed = True
            self._happened(pull, "dismiss_review", sender, body=message)
            if "dismissal-is-silent" not in self.model:
                self._tell(found, pull, "edited", sender)
            self._wake(found, pull)
            return review

    def undismiss_review(self, repo: str, number: int, id_: int) -> Review:
        """Let a verdict count again."""
        with self._changing():
            _, pull = self._touch_pull(repo, number)
            (review,) = (one for one in pull.reviews if one.id == id_)
            review.dismissed = False
            return review

    def _new_review(
        self, pull: Pull, author: str, state: str, *, body: str = "", commit_id: str = "", official: bool = False
    ) -> Review:
        review = Review(
            id=self.next_id(),
            author=author,
            state=state,
            body=body,
            commit_id=commit_id,
            official=official,
            submitted_at=self.now,
        )
        pull.reviews.append(review)
        return review

    def _clear_for(self, pull: Pull, reviewer: str, state: str) -> None:
        """Make room for a review: models/issues/review.go, CreateReview."""
        if "review-answers-request" in self.model:
            pull.reviews = [
                one for one in pull.reviews if not (one.author == reviewer and one.state == "REQUEST_REVIEW")
            ]
        if state in VERDICTS and "newer-verdict-dismisses" in self.model:
            for older in pull.reviews:
                older.dismissed |= older.author == reviewer and older.state in VERDICTS

    def _tell_review(self, repo: Repo, pull: Pull, review: Review) -> None:
        about = EVENTS.get(review.state)
        if about is None:
            return
        self._happened(pull, "review", review.author, body=review.body)
        told: Json = {"type": f"pull_request_review_{about}", "content": review.body}
        if "review-event-is-poor" not in self.model:
            told |= {"id": review.id, "commit_id": review.commit_id}
        who = review.author
        self._tell(repo, pull, "reviewed", who, about=f"review_{about}", reviewer=who, review=told)

    def _is_official(self, repo: Repo, reviewer: str) -> bool:
        return "official-needs-write" not in self.model or self.may(repo, reviewer, "write")

    def _is_fresh(self, repo: Repo, pull: Pull, commit_id: str) -> bool:
        base = repo.git.branches().get(pull.base)
        if commit_id == pull.head_sha or base is None:
            return commit_id == pull.head_sha
        is_known = repo.git.info(commit_id) is not None
        return is_known and repo.git.is_same_diff(base, commit_id, pull.head_sha)

    # --- pushes ---

    def _pushed(self, repo: Repo, before: Mapping[str, str], sender: str | None) -> None:
        """Follow pushed and deleted branches: services/pull/pull.go, AddTestPullRequestTask."""
        after = repo.git.branches()
        moved = {name for name in after if after[name] != before.get(name)}
        gone = before.keys() - after.keys()
        for pull in [pull for pull in repo.pulls if pull.state == "open"]:
            if pull.head in moved:
                self._new_head(repo, pull, after[pull.head], sender)
            elif pull.base in moved and "checking-after-base-moved" in self.model:
                self._check_again(pull)
            if {pull.head, pull.base} & gone and "deleted-branch-closes-pulls" in self.model:
                self._close(repo, pull, sender)
        for name in moved:
            self._branch_moved(repo, name, after[name])

    def _new_head(self, repo: Repo, pull: Pull, sha: str, sender: str | None) -> None:
        old, pull.head_sha, pull.updated_at = pull.head_sha, sha, self.now
        repo.git.set_ref(f"refs/pull/{pull.number}/head", sha)
        if "checking-after-push" in self.model:
            self._check_again(pull)
        self._age_reviews(repo, pull, old)
        self._happened(pull, "pull_push", sender or repo.owner)
        self._tell(repo, pull, "synchronized", sender, about="sync")
        self._head_moved(repo, pull)

    def _age_reviews(self, repo: Repo, pull: Pull, old: str) -> None:
        """Let reviews of another difference go stale: services/pull/pull.go, ValidatePullRequest."""
        base = repo.git.branches().get(pull.base, old)
        is_same = "same-diff-keeps-review" in self.model and repo.git.is_same_diff(base, old, pull.head_sha)
        rules = repo.protections.get(pull.base)
        for review in pull.reviews:
            if not is_same and "review-goes-stale" in self.model:
                review.stale = True
                is_dropped = bool(rules and rules.dismiss_stale_approvals and review.state == "APPROVED")
                review.dismissed |= is_dropped
            if review.commit_id == pull.head_sha:
                review.stale = False

    # --- for the parts ---

    def _head_moved(self, repo: Repo, pull: Pull) -> None:
        """Learn of a new head of a pull request."""
        raise NotImplementedError

    def _branch_moved(self, repo: Repo, branch: str, sha: str) -> None:
        """Learn of a new tip of a branch."""
        raise NotImplementedError

    def _wake(self, repo: Repo, pull: Pull) -> None:
        """Learn of what a scheduled merge waits for."""
        raise NotImplementedError


def _newest(pull: Pull, reviewer: str) -> Review | None:
    counted = (*VERDICTS, "REQUEST_REVIEW")
    return next((one for one in reversed(pull.reviews) if one.author == reviewer and one.state in counted), None)


def _disown(pull: Pull, reviewer: str) -> None:
    """Only the newest word of a reviewer is official."""
    for one in pull.reviews:
        one.official &= one.author != reviewer
