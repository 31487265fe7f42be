"""A forge in memory: what the reading methods of the client return, set by a test."""

from collections import Counter

from pool.errors import ForgeError, NotThere
from tasks.forge_values import Issue, MergeStyle, Pull, Repository, Review, Status


class FakeForge:
    """Fulfils tasks.facts.Reader."""

    def __init__(self) -> None:
        self.issues: dict[int, Issue] = {}
        self.pulls: dict[int, Pull] = {}
        self.said: dict[int, tuple[Review, ...]] = {}  #: reviews of a pull request
        self.checks: dict[str, tuple[Status, ...]] = {}  #: statuses of a commit
        self.depends: dict[int, tuple[int, ...]] = {}  #: issue -> issues that it depends on
        self.failures: dict[str, ForgeError] = {}  #: method -> what it raises
        self.has_repository = True
        self.calls: Counter[str] = Counter()

    def add(self, *things: Issue | Pull) -> None:
        """Put issues and pull requests on the forge, in place of those with the same number."""
        for thing in things:
            if isinstance(thing, Pull):
                self.pulls[thing.number] = thing
            else:
                self.issues[thing.number] = thing

    def _answer(self, method: str) -> None:
        self.calls[method] += 1
        if method in self.failures:
            raise self.failures[method]

    def repository(self, repo: str) -> Repository:
        """Return the repository, unless there is none for this account."""
        self._answer("repository")
        if not self.has_repository:
            raise NotThere(f"{repo} is not there")
        return Repository(
            full_name=repo,
            default_branch="main",
            archived=False,
            can_push=True,
            can_admin=False,
            merge_styles=(MergeStyle.MERGE,),
        )

    def issue(self, repo: str, number: int) -> Issue:
        """Return an issue, or the issue side of a pull request."""
        self._answer("issue")
        if number in self.issues:
            return self.issues[number]
        if number not in self.pulls:
            raise NotThere(f"{repo}#{number} is not there")
        pull = self.pulls[number]
        return Issue(
            repo=repo,
            number=number,
            title=pull.title,
            body=pull.body,
            state=pull.state,
            author=pull.author,
            assignees=pull.assignees,
            labels=pull.labels,
            url=pull.url,
            updated_at=pull.updated_at,
            is_pull=True,
        )

    def pull(self, repo: str, number: int) -> Pull:
        """Return a pull request."""
        self._answer("pull")
        if number not in self.pulls:
            raise NotThere(f"{repo}#{number} is not there")
        return self.pulls[number]

    def open_pulls(self, repo: str, *, base: str | None = None) -> list[Pull]:
        """Return the open pull requests."""
        del repo
        self._answer("open_pulls")
        return [pull for pull in self.pulls.values() if pull.is_open and base in {None, pull.base_ref}]

    def reviews(self, repo: str, number: int) -> tuple[Review, ...]:
        """Return the reviews of a pull request, oldest first."""
        del repo
        self._answer("reviews")
        return self.said.get(number, ())

    def statuses(self, repo: str, sha: str) -> tuple[Status, ...]:
        """Return the newest status of each context of a commit."""
        del repo
        self._answer("statuses")
        return self.checks.get(sha, ())

    def blockers(self, repo: str, number: int) -> list[Issue]:
        """Return the issues that an issue depends on."""
        del repo
        self._answer("blockers")
        return [self.issues[one] for one in self.depends.get(number, ())]

    def blocked(self, repo: str, number: int) -> list[Issue]:
        """Return the issues that depend on an issue."""
        del repo
        self._answer("blocked")
        return [self.issues[one] for one, on in self.depends.items() if number in on]
