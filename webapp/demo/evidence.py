"""What is to be seen on the stand-in forge and in the store when the demo is over. Reads both; changes nothing."""

import re
from collections import Counter

from pool.store import Store
from webapp.demo.script import check
from webapp.demo.verdict import OnForge, Records
from webapp.standin.forge import StandInForge
from webapp.standin.records import Pull, Repo

_MARK = re.compile(r"<!-- forgepool:(?P<key>.+?) -->")
_CLOSES = re.compile(r"Closes #(\d+)")
#: How the counter of what no webhook told is called.
UNTOLD = "untold"


def of_forge(forge: StandInForge) -> list[OnForge]:
    """Look at every repository."""
    return [_of_repo(repo) for repo in forge.repos.values()]


def _of_repo(repo: Repo) -> OnForge:
    merged = [pull for pull in repo.pulls if pull.merge_commit_sha]
    passes, _ = check(repo.git.files(repo.default_branch))
    return OnForge(
        repo=repo.full_name,
        merged=Counter(int(found[1]) for pull in merged if (found := _CLOSES.search(pull.body))),
        merge_commits=_count_merges(repo),
        is_green=passes,
        branches=tuple(repo.git.branches()),
        open_numbers=tuple(issue.number for issue in repo.issues.values() if issue.state == "open"),
        unapproved=tuple(pull.number for pull in merged if not _was_approved(repo, pull)),
        comments=tuple(
            (issue.number, mark["key"])
            for issue in repo.issues.values()
            for comment in issue.comments
            if (mark := _MARK.search(comment.body))
        ),
        reviews=tuple(
            (pull.number, review.author, review.commit_id)
            for pull in repo.pulls
            for review in pull.reviews
            if review.state in {"APPROVED", "REQUEST_CHANGES"}
        ),
    )


def _count_merges(repo: Repo) -> int:
    """Count the merges into main, by its own history."""
    count, sha = 0, repo.git.branches()[repo.default_branch]
    while (commit := repo.git.info(sha)) is not None and commit.parents:
        count += len(commit.parents) > 1
        sha = commit.parents[0]
    return count


def _was_approved(repo: Repo, pull: Pull) -> bool:
    """Tell whether somebody approved what was merged, or what became that by nothing but taking main in."""
    approved = {review.commit_id for review in pull.reviews if review.state == "APPROVED"}
    sha = pull.head_sha
    while sha not in approved:
        commit = repo.git.info(sha)
        if commit is None or len(commit.parents) != 2:  # noqa: PLR2004 - a merge
            return False
        # An update of forgepool's making: the approved head first, main second, and the tree that git makes of them.
        made = repo.git.info(repo.git.merge_commits(*commit.parents, message="as git would"))
        if made is None or made.tree != commit.tree:
            return False
        sha = commit.parents[0]
    return True


def of_store(store: Store) -> Records:
    """Read what forgepool has written down."""
    with store.reading() as tx:
        untold = tx.repair_counts().get(UNTOLD)
        return Records(
            tasks=tx.list_tasks(limit=2000, newest_first=False),
            receipts=tx.list_deliveries(limit=5000),
            merges=tx.list_merges(limit=1000),
            owed=len(tx.list_effects(only_owed=True, limit=1000)),
            untold=untold.count if untold else 0,
        )
