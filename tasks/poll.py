"""Asking the forge for what no webhook told: what is open, what is closed by now, what people ordered. Asks the forge.

Forgejo sends each delivery once at most, and none at all for many changes. A poll decides nothing: it has the workflow
look at what may have changed, and the look decides by the same rows as ever.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from pool.errors import ForgeError
from pool.states import LIVE
from pool.store import Tx
from pool.work import Poll
from tasks.engine import Engine
from tasks.forge import Forge
from tasks.forge_values import Comment, Issue, Pull
from tasks.order_words import parse

log = structlog.get_logger(__name__)

#: Comments of the first poll go back so far.
FIRST_LOOK_BACK = timedelta(hours=1)
#: The forge's clock may be behind ours, and its times are whole seconds.
OVERLAP = timedelta(seconds=120)
#: A webhook about the same change may be on its way, and then nobody was left untold.
AFTER_S = 2.0
#: What a look at a pull request costs, about.
CALLS_OF_A_LOOK = 5
_MOST = 1000


def repositories(engine: Engine, forge: Forge) -> list[str]:
    """Return the repositories that are served. Raises ForgeError."""
    named = engine.settings.service.repos
    return forge.repositories() if "*" in named else list(named)


def poll_repo(engine: Engine, forge: Forge, repo: str, *, why: str) -> int | None:
    """Ask about one repository; return how many looks it led to, or None when it could not be asked.

    why: "poll", or "start" for the first time in a process.
    Never raises ForgeError.
    """
    with engine.store.reading() as tx:
        before = tx.poll(repo)
    began = engine.store.clock()
    try:
        seen = Seen(issues=_assigned(engine, forge, repo), pulls=forge.open_pulls(repo))
        comments = forge.comments_since(repo, (before.comments_since or began - FIRST_LOOK_BACK) - OVERLAP)
    except ForgeError as error:
        with engine.store.writing() as tx:
            tx.note_poll(repo, error=str(error))
        log.warning("repository not asked", repo=repo, why=str(error))
        return None
    with engine.store.reading() as tx:
        numbers = sorted(_changed(engine, tx, repo, seen))
    with engine.store.writing() as tx:
        for number, after_s in zip(numbers, _spread(engine, len(numbers)), strict=True):
            tx.look_later(repo, number, why=why, after_s=after_s)
        ordered = _take_orders(engine, tx, repo, comments)
        tx.note_poll(repo, polled_at=began, comments_since=_newest(before, comments), error="")
        if ordered:
            tx.count_repair("untold", ordered)
    return len(numbers)


def _assigned(engine: Engine, forge: Forge, repo: str) -> dict[int, Issue]:
    """Return the open issues that are assigned to agents."""
    found: dict[int, Issue] = {}
    for kind in engine.settings.types.values():
        found |= {issue.number: issue for issue in forge.open_issues(repo, assigned_to=kind.forge_user)}
    return found


def _spread(engine: Engine, count: int) -> Iterator[float]:
    """Return when each of so many looks is to be made: others want to ask the forge meanwhile."""
    service = engine.settings.service
    gap_s = min(CALLS_OF_A_LOOK / service.forge_rate, service.forge_poll_s / 2 / max(count, 1))
    return (AFTER_S + at * gap_s for at in range(count))


# --- what may have changed -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is open in a repository, as far as it may concern an agent."""

    issues: Mapping[int, Issue]  #: assigned to agents
    pulls: list[Pull]  #: all of them


def _changed(engine: Engine, tx: Tx, repo: str, seen: Seen) -> set[int]:
    """Return what has to be looked at. The end of a live task leads to a look by itself."""
    live = {task.request.number for task in tx.list_tasks(states=LIVE, repo=repo, limit=_MOST)}
    lanes = {merge.number for merge in tx.list_merges(repo=repo, only_open=True, limit=_MOST)}
    pulls = {pull.number: pull for pull in seen.pulls}
    ours = {pull.number for pull in seen.pulls if _concerns_agents(engine, pull)}
    unserved = {number for number, issue in seen.issues.items() if not _is_served(engine, tx, issue, pulls)}
    gone = (tx.open_subjects(repo) | live | lanes) - set(pulls) - set(seen.issues)
    return (
        ((ours | unserved) - live) | (lanes & set(pulls)) | {one for one in gone if _may_be_over(engine, tx, repo, one)}
    )


def _concerns_agents(engine: Engine, pull: Pull) -> bool:
    """Tell whether an agent wrote a pull request, or is to do something about it."""
    agents = engine.settings.types_by_login
    return any(login.lower() in agents for login in (pull.author, *pull.requested_reviewers, *pull.assignees))


def _is_served(engine: Engine, tx: Tx, issue: Issue, pulls: Mapping[int, Pull]) -> bool:
    """Tell whether each agent has an open pull request for an issue: the look at that does the rest."""
    agents = {login.lower() for login in issue.assignees if login.lower() in engine.settings.types_by_login}
    family = tx.family(issue.repo, issue.number)
    return agents <= {pulls[number].author.lower() for number in family if number in pulls}


def _may_be_over(engine: Engine, tx: Tx, repo: str, number: int) -> bool:
    """Tell whether something that the forge does not list concerns us: it was closed, or no agent is assigned now."""
    subject = tx.subject(repo, number)
    if subject is None or subject.is_pull or not subject.is_open:
        return True
    is_live = bool(tx.list_tasks(states=LIVE, repo=repo, number=number, limit=1))
    return is_live or any(login.lower() in engine.settings.types_by_login for login in subject.assignees or ())


# --- orders --------------------------------------------------------------------------------------


def _take_orders(engine: Engine, tx: Tx, repo: str, comments: Collection[Comment]) -> int:
    """Note the orders in comments; those that a webhook told are known."""
    taken = 0
    for comment in comments:
        is_changed = comment.updated_at is not None and comment.updated_at != comment.created_at
        if is_changed or comment.author.lower() in engine.settings.types_by_login:
            continue
        for line, verb, argument in parse(comment.body):
            order = tx.take_order(
                repo=repo,
                number=comment.number,
                comment=comment.id,
                line=line,
                verb=verb,
                argument=argument,
                by=comment.author,
                delivery=None,
            )
            taken += order is not None
    return taken


def _newest(before: Poll, comments: Iterable[Comment]) -> object:
    moments = [moment for comment in comments if (moment := comment.updated_at or comment.created_at) is not None]
    return max([*moments, *([before.comments_since] if before.comments_since else [])], default=None)
