"""Asking the forge for what no webhook told: what is open, what is closed by now, what people ordered. Asks the forge.

Forgejo sends each delivery once at most, and none at all for many changes. A poll decides nothing: it has the workflow
look at what may have changed, and the look decides by the same rows as ever.
"""

from collections.abc import Collection, Iterable
from datetime import timedelta

import structlog

from pool.errors import ForgeError
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


def repositories(engine: Engine, forge: Forge) -> list[str]:
    """Return the repositories that are served. Raises ForgeError."""
    named = engine.settings.service.repos
    return forge.repositories() if "*" in named else list(named)


def poll_repo(engine: Engine, forge: Forge, repo: str, *, why: str) -> int:
    """Ask about one repository; return how many looks it led to. Never raises ForgeError.

    why: "poll", or "start" for the first time in a process.
    """
    with engine.store.reading() as tx:
        before, known = tx.poll(repo), tx.open_subjects(repo)
    began = engine.store.clock()
    try:
        issues = _assigned(engine, forge, repo)
        pulls = forge.open_pulls(repo)
        comments = forge.comments_since(repo, (before.comments_since or began - FIRST_LOOK_BACK) - OVERLAP)
    except ForgeError as error:
        with engine.store.writing() as tx:
            tx.note_poll(repo, error=str(error))
        log.warning("repository not asked", repo=repo, why=str(error))
        return 0
    listed = {issue.number for issue in issues} | {pull.number for pull in pulls}
    with engine.store.writing() as tx:
        numbers = _of_pulls(engine, pulls) | {issue.number for issue in issues} | (known - listed)
        for number in sorted(numbers):
            tx.look_later(repo, number, why=why)
        ordered = _take_orders(engine, tx, repo, comments)
        tx.note_poll(repo, polled_at=began, comments_since=_newest(before, comments), error="")
        if ordered:
            tx.count_repair("untold", ordered)
    return len(numbers)


def _assigned(engine: Engine, forge: Forge, repo: str) -> list[Issue]:
    """Return the open issues that are assigned to agents."""
    found: dict[int, Issue] = {}
    for kind in engine.settings.types.values():
        found |= {issue.number: issue for issue in forge.open_issues(repo, assigned_to=kind.forge_user)}
    return list(found.values())


def _of_pulls(engine: Engine, pulls: Iterable[Pull]) -> set[int]:
    """Return the pull requests that agents wrote or are asked about; of others there is nothing to do."""
    agents = engine.settings.types_by_login
    return {
        pull.number
        for pull in pulls
        if pull.author.lower() in agents or any(login.lower() in agents for login in pull.requested_reviewers)
    }


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
