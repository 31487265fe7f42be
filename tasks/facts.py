"""Reading the facts: what the forge says now of one issue or pull request, together with what the store remembers.

Asks the forge with few calls, never in a transaction; then writes down, in one, what only we can remember of it: since
when a head is known, since when it cannot be merged, and which issue a pull request is for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from pool.errors import NotAllowed, NotThere
from pool.model import MAX_ID
from pool.store import Store, Tx
from pool.subject import Subject
from pool.work import Work
from tasks.engine import Engine
from tasks.forge_values import Issue, Pull, Repository, Review, Status
from tasks.merge_rules import closing_numbers
from tasks.settings import Settings
from tasks.situation import Facts, IssueFacts, PullFacts

#: Ended pull requests of one issue that are asked about, newest first.
MOST_ENDED = 5


class Reader(Protocol):
    """What of the forge's client is needed here."""

    def repository(self, repo: str) -> Repository: ...  # noqa: D102
    def issue(self, repo: str, number: int) -> Issue: ...  # noqa: D102
    def pull(self, repo: str, number: int) -> Pull: ...  # noqa: D102
    def open_pulls(self, repo: str, *, base: str | None = None) -> list[Pull]: ...  # noqa: D102
    def reviews(self, repo: str, number: int) -> tuple[Review, ...]: ...  # noqa: D102
    def statuses(self, repo: str, sha: str) -> tuple[Status, ...]: ...  # noqa: D102
    def blockers(self, repo: str, number: int) -> list[Issue]: ...  # noqa: D102
    def blocked(self, repo: str, number: int) -> list[Issue]: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPull:
    """A pull request as the forge showed it."""

    pull: Pull
    reviews: tuple[Review, ...]
    statuses: tuple[Status, ...]
    issue: Issue | None  #: the issue that it is for


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenIssue:
    """An issue as the forge showed it."""

    issue: Issue
    pulls: tuple[SeenPull, ...]
    ended: tuple[Pull, ...]
    blockers: tuple[int, ...]  #: open ones


Seen = SeenPull | SeenIssue


def read_facts(forge: Reader, home: Engine | Store, repo: str, number: int) -> Facts:
    """Ask the forge, and remember what it said.

    home: a bare store does not know which branch a type gives to an issue, so that only words link the two.
    Raises ForgeError; NotThere when there is no such issue or pull request.
    """
    seen = fetch(forge, home, repo, number)
    with _store(home).writing() as tx:
        return remember(tx, seen)


def _store(home: Engine | Store) -> Store:
    return home.store if isinstance(home, Engine) else home


# --- asking the forge ----------------------------------------------------------------------------


def fetch(forge: Reader, home: Engine | Store, repo: str, number: int) -> Seen:
    """Ask the forge about an issue or a pull request, and write nothing. Raises ForgeError."""
    settings = home.settings if isinstance(home, Engine) else None
    with _store(home).reading() as tx:
        known = tx.subject(repo, number)
        issue_of = {number: tx.work(repo, number).issue}
    issue = None if known is not None and known.is_pull else forge.issue(repo, number)
    if issue is None or issue.is_pull:
        pull = forge.pull(repo, number)
        return _see(forge, pull, _issue_of(forge, pull, settings, issue_of))
    with _store(home).reading() as tx:
        family = {one: tx.work(repo, one).issue for one in tx.family(repo, number) if one != number}
    return _see_issue(forge, issue, settings, family)


def _see(forge: Reader, pull: Pull, issue: Issue | None) -> SeenPull:
    return SeenPull(
        pull=pull,
        reviews=forge.reviews(pull.repo, pull.number),
        statuses=forge.statuses(pull.repo, pull.head_sha),
        issue=issue,
    )


def _see_issue(forge: Reader, issue: Issue, settings: Settings | None, family: Mapping[int, int | None]) -> SeenIssue:
    repo, number = issue.repo, issue.number
    blockers = tuple(sorted(one.number for one in forge.blockers(repo, number) if one.is_open)) if issue.is_open else ()
    opened = forge.open_pulls(repo)
    pulls = [pull for pull in opened if _linked(pull, settings, family) == number]
    # Oldest first; what is open, or is for another issue by now, has not ended.
    gone = sorted(set(family) - {pull.number for pull in opened})[-MOST_ENDED:]
    ended = [pull for one in gone if (pull := _ended(forge, repo, one)) is not None]
    return SeenIssue(
        issue=issue,
        pulls=tuple(_see(forge, pull, issue) for pull in sorted(pulls, key=lambda pull: pull.number)),
        ended=tuple(ended),
        blockers=blockers,
    )


def _ended(forge: Reader, repo: str, number: int) -> Pull | None:
    try:
        pull = forge.pull(repo, number)
    except NotThere:
        return None
    return None if pull.is_open else pull


def _issue_of(forge: Reader, pull: Pull, settings: Settings | None, known: Mapping[int, int | None]) -> Issue | None:
    """Return the issue that a pull request is for, if there is one."""
    number = _linked(pull, settings, known)
    if number is None:
        return None
    try:
        issue = forge.issue(pull.repo, number)
    except (NotThere, NotAllowed):
        # Anybody can write any number into a text.
        return None
    return None if issue.is_pull else issue


def _linked(pull: Pull, settings: Settings | None, known: Mapping[int, int | None]) -> int | None:
    """Return the number of the issue: by words that close it, by the branch that its task was given, or as known."""
    named = [number for number in closing_numbers(f"{pull.title}\n{pull.body}") if number != pull.number]
    if named:
        return named[0]
    return _by_branch(pull, settings) or known.get(pull.number)


def _by_branch(pull: Pull, settings: Settings | None) -> int | None:
    type_name = settings.types_by_login.get(pull.author.lower()) if settings is not None else None
    if settings is None or type_name is None:
        return None
    prefix = settings.types[type_name].branch_prefix
    digits = pull.head_ref.removeprefix(prefix)
    if not pull.head_ref.startswith(prefix) or not digits.isascii() or not digits.isdigit():
        return None
    number = int(digits) if len(digits) < len(str(MAX_ID)) else 0
    return number if number >= 1 and number != pull.number else None


# --- remembering ---------------------------------------------------------------------------------


def remember(tx: Tx, seen: Seen) -> Facts:
    """Write down what only we can remember of it, and return the facts."""
    match seen:
        case SeenPull():
            return _remember_pull(tx, seen)
        case SeenIssue(issue=issue):
            return IssueFacts(
                issue=issue,
                pulls=tuple(_remember_pull(tx, pull) for pull in seen.pulls),
                ended=seen.ended,
                blockers=seen.blockers,
                # After the pull requests were linked to it.
                work=tx.work(issue.repo, issue.number),
                now=tx.now,
            )


def _remember_pull(tx: Tx, seen: SeenPull) -> PullFacts:
    pull = seen.pull
    work = tx.work(pull.repo, pull.number)
    news = _news(work, seen, tx.now)
    if news:
        tx.note_work(pull.repo, pull.number, **news)
        work = tx.work(pull.repo, pull.number)
    known = tx.subject(pull.repo, pull.number)
    if not is_newer(known, pull.updated_at):
        tx.remember(_subject_of(pull, known))
    return PullFacts(pull=pull, reviews=seen.reviews, statuses=seen.statuses, issue=seen.issue, work=work, now=tx.now)


def _news(work: Work, seen: SeenPull, now: datetime) -> dict[str, Any]:
    pull, news = seen.pull, dict[str, Any]()
    if seen.issue is not None and work.issue != seen.issue.number:
        news["issue"] = seen.issue.number
    if work.head_sha != pull.head_sha:
        news |= {"head_sha": pull.head_sha, "head_since": now}
    mark = f"{pull.head_sha} {pull.base_sha}"
    if pull.mergeable and work.unmergeable_at is not None:
        news |= {"unmergeable_at": None, "unmergeable_since": None}
    elif not pull.mergeable and pull.is_open and work.unmergeable_at != mark:
        news |= {"unmergeable_at": mark, "unmergeable_since": now}
    return news


def is_newer(known: Subject | None, told: datetime | None) -> bool:
    """Tell whether something newer is known than what the forge told then: a delivery came while it was asked."""
    return bool(known and known.updated_at and told and known.updated_at > told)


def _subject_of(pull: Pull, known: Subject | None) -> Subject:
    return replace(
        known or Subject(repo=pull.repo, number=pull.number, is_pull=True),
        is_pull=True,
        author=pull.author,
        head_sha=pull.head_sha,
        head_ref=pull.branch,
        title=pull.title,
        url=pull.url,
        labels=pull.labels,
        state=pull.state,
        updated_at=pull.updated_at or (known.updated_at if known else None),
    )


def remember_issue(tx: Tx, issue: Issue) -> None:
    """Let the door know an issue as the forge shows it.

    Only in the transaction that also starts those who are assigned: the door passes over who is known to be.
    """
    known = tx.subject(issue.repo, issue.number)
    if is_newer(known, issue.updated_at):
        return
    fresh = replace(
        known or Subject(repo=issue.repo, number=issue.number, is_pull=False),
        assignees=issue.assignees,
        title=issue.title,
        url=issue.url,
        labels=issue.labels,
        state=issue.state,
        updated_at=issue.updated_at or (known.updated_at if known else None),
    )
    tx.remember(fresh)
