"""How each kind of effect is looked for on the forge and, if it is not there, written. Asks the forge, writes to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pool.errors import LeaseLost, NotAccepted, NotThere
from pool.subject import HELP_LABEL, HOLD_LABEL
from pool.work import Effect
from tasks import report
from tasks.engine import Engine
from tasks.forge import Forge
from tasks.forge_values import Comment, ReviewState
from tasks.report_view import view_of

#: Labels of ours that are made where they are missing: (colour, what they mean).
_LABELS = {
    HELP_LABEL: ("d93f0b", "forgepool does not get on here by itself"),
    HOLD_LABEL: ("fbca04", "forgepool begins nothing here"),
}
_VERDICTS = frozenset({ReviewState.APPROVED, ReviewState.REQUEST_CHANGES})


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """One effect, and what is needed to write it."""

    engine: Engine
    reader: Forge
    effect: Effect
    login: str  #: of the account that writes
    is_ours: Callable[[], bool]  #: whether this process is still the one that writes

    @property
    def writer(self) -> Forge:
        """The same account's client, to write with. Raises LeaseLost when another process does that by now."""
        if not self.is_ours():
            raise LeaseLost
        return self.reader

    @property
    def where(self) -> tuple[str, int]:
        """The repository and the number."""
        return self.effect.repo, self.effect.number

    @property
    def body(self) -> Mapping[str, Any]:
        """What was noted of it."""
        return self.effect.body


# --- comments ------------------------------------------------------------------------------------


def _own(writing: Writing) -> Comment | None:
    """Find the comment with the mark of this effect, by the account that writes it and by nobody else.

    There is more than one when the forge has carried out a call long after it was given up; all but the first go.
    """
    mark = report.mark(writing.effect.key)
    comments = writing.reader.comments(*writing.where)
    by_us = (one for one in comments if one.author.lower() == writing.login.lower())
    # At its end only: what others said may be quoted in the middle.
    marked = [one for one in by_us if one.body.rstrip().endswith(mark)]
    for one in marked[1:]:
        writing.writer.delete_comment(writing.effect.repo, one.id)
    return marked[0] if marked else None


def _report(writing: Writing) -> str:
    repo, number = writing.where
    with writing.engine.store.reading() as tx:
        view = view_of(tx, writing.engine.settings, repo, number)
    text = report.render(view) + "\n\n" + report.mark(writing.effect.key)
    found = _own(writing)
    if found is None:
        return str(writing.writer.add_comment(repo, number, text).id)
    if found.body.strip().replace("\r\n", "\n") != text.strip():
        writing.writer.edit_comment(repo, found.id, text)
    return str(found.id)


def _once(writing: Writing, text: str) -> str:
    found = _own(writing)
    if found is not None:
        return str(found.id)
    return str(writing.writer.add_comment(*writing.where, f"{text}\n\n{report.mark(writing.effect.key)}").id)


def _ask(writing: Writing) -> str:
    repo, number = writing.where
    issue = writing.reader.issue(repo, number)
    settings = writing.engine.settings
    people = [issue.author, *issue.assignees, repo.partition("/")[0]]
    person = next((login for login in people if login and login.lower() not in settings.types_by_login), "")
    text = report.question(person=person, sentence=str(writing.body["sentence"]), pull=writing.body.get("pull"))
    ref = _once(writing, text)
    _put_on(writing, [HELP_LABEL])
    return ref


def _reply(writing: Writing) -> str:
    return _once(writing, str(writing.body["text"]))


def _react(writing: Writing) -> None:
    try:
        writing.writer.react(writing.effect.repo, int(writing.body["comment"]), str(writing.body["content"]))
    except NotThere:
        return  # the comment was deleted, and needs no answer any more


# --- labels and people ---------------------------------------------------------------------------


def _labels(writing: Writing) -> None:
    _put_on(writing, list(writing.body["names"]))


def _put_on(writing: Writing, names: list[str]) -> None:
    wanted = sorted(set(names) - set(writing.reader.issue(*writing.where).labels))
    if not wanted:
        return
    # The forge drops names that it does not know without a word.
    missing = set(wanted) - set(writing.writer.add_labels(*writing.where, *wanted))
    for name in sorted(missing):
        color, description = _LABELS.get(name, ("cccccc", ""))
        writing.writer.create_label(writing.effect.repo, name, color=color, description=description)
        if name not in writing.writer.add_labels(*writing.where, name):
            raise NotAccepted(f"the forge does not put on the label {name}")


def _unlabel(writing: Writing) -> None:
    writing.writer.remove_label(*writing.where, str(writing.body["name"]))


def _assign(writing: Writing) -> None:
    """Assign people in place of agents; other people stay."""
    logins = [str(login) for login in writing.body["logins"]]
    issue = writing.reader.issue(*writing.where)
    agents = writing.engine.settings.types_by_login
    people = [login for login in issue.assignees if login.lower() not in agents]
    wanted = list(dict.fromkeys([*people, *logins]))
    if {login.lower() for login in wanted} != {login.lower() for login in issue.assignees}:
        writing.writer.assign(*writing.where, *wanted)


def _request_review(writing: Writing) -> None:
    login, head = str(writing.body["login"]), str(writing.body["head_sha"])
    by_them = [
        r for r in writing.reader.reviews(*writing.where) if r.author.lower() == login.lower() and not r.dismissed
    ]
    newest = by_them[-1] if by_them else None
    if newest is not None and newest.state is ReviewState.REQUEST_REVIEW:
        return
    if any(review.state in _VERDICTS and review.commit_id == head for review in by_them):
        return
    writing.writer.request_review(*writing.where, login)


# --- commits, branches, ends ---------------------------------------------------------------------


def _status(writing: Writing) -> None:
    body = {name: str(writing.body[name]) for name in ("context", "state", "description")}
    sha = str(writing.body["sha"])
    newest = {status.context: status for status in writing.reader.statuses(writing.effect.repo, sha)}
    known = newest.get(body["context"])
    if known is None or (known.state, known.description) != (body["state"], body["description"]):
        writing.writer.set_status(writing.effect.repo, sha, **body)


def _close(writing: Writing) -> None:
    if writing.reader.issue(*writing.where).is_open:
        writing.writer.close_issue(*writing.where)


def _delete_branch(writing: Writing) -> None:
    """Delete a merged branch, unless somebody has pushed to it since or works with it."""
    repo, branch = writing.effect.repo, str(writing.body["branch"])
    pulls = writing.reader.open_pulls(repo)
    if any(branch in {pull.base_ref, "" if pull.is_fork else pull.head_ref} for pull in pulls):
        return
    merged, tip = str(writing.body.get("sha") or ""), writing.reader.branch_tip(repo, branch)
    if tip is None or (merged and tip != merged):
        return
    try:
        writing.writer.delete_branch(repo, branch)
    except NotAccepted:
        # The forge deletes it by itself, where the repository says so.
        if writing.reader.branch_tip(repo, branch) is not None:
            raise


KINDS: dict[str, Callable[[Writing], str | None]] = {
    "report": _report,
    "ask": _ask,
    "reply": _reply,
    "react": _react,
    "labels": _labels,
    "unlabel": _unlabel,
    "assign": _assign,
    "request-review": _request_review,
    "status": _status,
    "close": _close,
    "delete-branch": _delete_branch,
}
