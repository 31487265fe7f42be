"""Merging on the stand-in forge, with all that can refuse it: services/pull/check.go and merge.go."""

import re
from fnmatch import fnmatchcase

from webapp.standin.bare import MergeConflict
from webapp.standin.records import STYLES, Protection, Pull, Repo, Scheduled
from webapp.standin.refusals import Refusal, Unprocessable, broken, conflict, forbidden, not_found
from webapp.standin.tracker_checks import Checks

#: modules/references/references.go: these words before #N close that issue when the pull request is merged.
_CLOSES = re.compile(r"\b(?:close[sd]?|fix(?:e[sd])?|resolve[sd]?):?\s+#(\d+)(?P<stop>[.,;!?])?", re.IGNORECASE)
#: `Do` of a merge that only marks a pull request as merged.
MANUALLY = "manually-merged"


class Merges(Checks):
    """How pull requests end."""

    def merge(self, repo: str, number: int, *, sender: str | None = None, delete_branch: bool = False) -> str:
        """Merge by a merge commit without asking whether it may be, and return its sha. Raises MergeConflict."""
        with self._changing():
            found, pull = self._touch_pull(repo, number)
            if pull.state != "open":
                raise Unprocessable("the pull request is closed")
            return self._merge(found, pull, sender or found.owner, "merge", "", delete_branch=delete_branch)

    def merge_as_asked(
        self,
        repo: str,
        number: int,
        *,
        doer: str,
        style: str,
        head_commit_id: str = "",
        title: str = "",
        message: str = "",
        is_forced: bool = False,
        is_scheduled: bool = False,
        delete_branch: bool = False,
    ) -> int:
        """Merge as the REST interface does; return 200, or 201 when it is put off. Raises Refusal."""
        with self._changing():
            found = self.find_repo(repo)
            pull = self.find_pull(found, number)
            if style not in (*STYLES, MANUALLY) and "style-is-checked" in self.model:
                raise Unprocessable("[Do]: Include: merge,rebase,rebase-merge,squash,fast-forward-only,manually-merged")
            self._check(found, pull, doer, is_forced=is_forced, is_scheduled=is_scheduled, is_manual=style == MANUALLY)
            if is_scheduled and "scheduled-merge-waits" in self.model:
                self._schedule(
                    pull, Scheduled(doer=doer, style=style, title=title, message=message, delete_branch=delete_branch)
                )
                return 201
            if style not in found.styles and style != MANUALLY and "style-is-checked" in self.model:
                raise Refusal(405, f"{style} is not an allowed merge style for this repository")
            try:
                self._merge_now(found, pull, doer, style, head_commit_id, title=title, message=message)
            except Refusal:
                # services/pull/merge.go: also after a merge that went wrong everything is checked again.
                self._check_base_again(found, pull.base)
                raise
            if delete_branch:
                self._delete_after_merge(found, pull, doer)
            return 200

    # --- may it be merged? ---

    def _check(
        self, repo: Repo, pull: Pull, doer: str, *, is_forced: bool, is_scheduled: bool, is_manual: bool
    ) -> None:
        """Raise what refuses a merge: services/pull/check.go, CheckPullMergeable, in its order."""
        if pull.merge_commit_sha:
            raise Refusal(405 if "merged-is-405" in self.model else 409, "")
        if pull.state != "open":
            raise not_found()
        if not self.may(repo, doer, "write"):
            raise Refusal(405, "User not allowed to merge PR")
        if is_manual:
            return
        if pull.is_draft and "draft-is-405" in self.model:
            raise Refusal(405, "Work in progress PRs cannot be merged")
        is_checking = self.is_checking(pull, is_read=True)
        is_conflict = "conflict-is-405" in self.model and not repo.git.can_merge(pull.base, pull.head_sha)
        if is_checking or is_conflict:
            raise Refusal(405, "Please try again later")
        may_force = is_forced and self.may(repo, doer, "admin")
        why = self._forbidden_by_rules(repo, pull)
        if why and not is_scheduled and not may_force and "protection-is-405" in self.model:
            raise Refusal(405, f"not allowed to merge [reason: {why}]")
        if "dependency-is-500" in self.model and self.has_open_blocker(pull):
            raise broken("is blocked by an open dependency")

    def _forbidden_by_rules(self, repo: Repo, pull: Pull) -> str:
        """Say which rule of the base branch forbids a merge; "": none."""
        rules = repo.protections.get(pull.base)
        if rules is None:
            return ""
        if rules.enable_status_check and not self._has_required_statuses(repo, pull, rules):
            return "Not all required status checks successful"
        counted = [one for one in pull.reviews if one.official and not one.dismissed]
        if sum(one.state == "APPROVED" for one in counted) < rules.required_approvals:
            return "Does not have enough approvals"
        if rules.block_on_rejected_reviews and any(one.state == "REQUEST_CHANGES" for one in counted):
            return "There are requested changes"
        tip = repo.git.branches().get(pull.base, "")
        if rules.block_on_outdated_branch and not repo.git.is_ancestor(tip, pull.head_sha):
            return "The head branch is behind the base branch"
        return ""

    def _has_required_statuses(self, repo: Repo, pull: Pull, rules: Protection) -> bool:
        statuses = self.newest_statuses(repo, pull.head_sha)
        if not rules.status_check_contexts:
            return self.combined_state(statuses) == "success"
        good = {"success", "skipped"}
        for pattern in rules.status_check_contexts:
            found = [status.state in good for status in statuses if fnmatchcase(status.context, pattern)]
            if not found or not all(found):
                return False
        return True

    # --- merging ---

    def _merge_now(
        self, repo: Repo, pull: Pull, doer: str, style: str, head_commit_id: str, *, title: str, message: str
    ) -> None:
        if head_commit_id and head_commit_id != pull.head_sha and "head-must-match" in self.model:
            raise Refusal(409, "head out of date")
        if self.faults.strike("push-race"):
            raise Refusal(409, "merge push out of date")
        text = "\n\n".join(part.strip() for part in (title, message) if part.strip())
        try:
            self._merge(repo, pull, doer, style, text, delete_branch=False)
        except MergeConflict:
            raise conflict(style) from None

    def _merge(self, repo: Repo, pull: Pull, doer: str, style: str, text: str, *, delete_branch: bool) -> str:
        before = repo.git.branches()
        sha = self._result(repo, pull, before[pull.base], style, text)
        pull.merged_onto = before[pull.base]
        if style != MANUALLY:
            repo.git.set_ref(f"refs/heads/{pull.base}", sha)
        pull.merge_commit_sha, pull.merged_by, pull.scheduled = sha, doer, None
        if delete_branch:
            repo.git.delete_branch(pull.head)
        self._happened(pull, "merge_pull", doer)
        self._close(repo, pull, doer)
        self._close_named(repo, pull, sha)
        self._pushed(repo, before, doer)
        return sha

    def _result(self, repo: Repo, pull: Pull, tip: str, style: str, text: str) -> str:
        git, head = repo.git, pull.head_sha
        own = f"Merge pull request '{pull.title}' (#{pull.number}) from {pull.head} into {pull.base}"
        match style:
            case "squash":
                return git.squash(tip, head, message=text or f"{pull.title} (#{pull.number})")
            case "rebase":
                return git.rebase(tip, head)
            case "rebase-merge":
                return git.merge_commits(tip, git.rebase(tip, head), message=text or own)
            case "fast-forward-only":
                if not git.is_ancestor(tip, head):
                    raise broken("Not possible to fast-forward, aborting.")
                return head
            case "manually-merged":
                return head
            case _:
                return git.merge_commits(tip, head, message=text or own)

    def _close_named(self, repo: Repo, pull: Pull, sha: str) -> None:
        """Close the issues that the text names: services/pull/merge.go, handleCloseCrossReferences."""
        if "merge-closes-issues" not in self.model:
            return
        for named in _CLOSES.finditer(f"{pull.title}\n{pull.body}"):
            if named["stop"] and "full-stop-hides-reference" in self.model:
                continue
            issue = repo.issues.get(int(named[1]))
            if issue and issue.state == "open" and not isinstance(issue, Pull) and not self.has_open_blocker(issue):
                self._close(repo, issue, pull.author, commit_id=sha)

    def _delete_after_merge(self, repo: Repo, pull: Pull, doer: str) -> None:
        if pull.head == repo.default_branch:
            raise forbidden("the head branch is the default branch")
        if pull.head in repo.protections:
            raise forbidden("the head branch is protected")
        if any(one.state == "open" and one.head == pull.head for one in repo.pulls):
            return
        for child in repo.pulls:
            if child.state == "open" and child.base == pull.head:
                self.retarget(repo.full_name, child.number, pull.base, sender=doer)
        if pull.head in repo.git.branches():
            self.force(repo.full_name, pull.head, None, sender=doer)

    def _check_base_again(self, repo: Repo, base: str) -> None:
        for pull in repo.pulls if "checking-after-base-moved" in self.model else ():
            if pull.state == "open" and pull.base == base:
                self._check_again(pull)

    # --- merges that wait ---

    def _schedule(self, pull: Pull, scheduled: Scheduled) -> None:
        if pull.scheduled is not None:
            raise Refusal(409, "pull request is already scheduled to auto merge when checks succeed")
        pull.scheduled = scheduled

    def cancel_scheduled(self, repo: str, number: int) -> None:
        """Take a scheduled merge back. Raises Refusal when there is none."""
        with self._changing():
            pull = self.find_pull(self.find_repo(repo), number)
            if pull.scheduled is None:
                raise not_found()
            pull.scheduled = None

    def _wake(self, repo: Repo, pull: Pull) -> None:
        """Merge what was scheduled if nothing forbids it now: services/automerge/automerge.go."""
        planned = pull.scheduled
        if planned is None or pull.state != "open" or self._forbidden_by_rules(repo, pull):
            return
        try:
            # Whatever the head is by now: the one that was meant is not remembered.
            self._merge_now(repo, pull, planned.doer, planned.style, "", title=planned.title, message=planned.message)
        except Refusal:
            return
        if planned.delete_branch:
            self._delete_after_merge(repo, pull, planned.doer)

    # --- bringing up to date ---

    def update_pull(self, repo: str, number: int, *, doer: str, style: str) -> None:
        """Bring the base into the head: by a merge commit, or by a rebase that is pushed with force. Raises Refusal."""
        with self._changing():
            found = self.find_repo(repo)
            pull = self.find_pull(found, number)
            if pull.state != "open":
                # The original prints an error that is none.
                raise Unprocessable("%!s(<nil>)")
            if not self.may(found, doer, "write"):
                raise Refusal(403, "", body=b"")
            before = found.git.branches()
            tip = before[pull.base]
            if found.git.is_ancestor(tip, pull.head_sha) and "update-when-behind-only" in self.model:
                raise broken(f"HeadBranch of PR {number} is up to date")
            message = f"Merge branch '{pull.base}' into {pull.head}"
            try:
                if style == "rebase":
                    sha = found.git.rebase(tip, pull.head_sha)
                else:
                    sha = found.git.merge_commits(pull.head_sha, tip, message=message)
            except MergeConflict:
                raise Refusal(409, f"{style or 'merge'} failed because of conflict") from None
            found.git.set_ref(f"refs/heads/{pull.head}", sha)
            self._pushed(found, before, doer)

    def protect(self, repo: str, branch: str, **rules: object) -> Protection:
        """Set the rules of a branch."""
        with self._changing():
            made = Protection(branch=branch, **rules)  # type: ignore[arg-type]
            self.repos[repo].protections[branch] = made
            return made
