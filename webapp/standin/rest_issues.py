"""REST of the stand-in forge: issues, their comments, labels, timeline and dependencies; also those of pulls."""

from typing import Any

from webapp.standin.records import Comment, Issue, Pull, Repo
from webapp.standin.refusals import Refusal, Unprocessable, broken, forbidden, not_found
from webapp.standin.rest import Call, Reply, Routes
from webapp.standin.rest_admin import REPO

routes = Routes()
ISSUE = f"{REPO}/issues/<int:number>"


@routes("GET", f"{REPO}/issues")
def list_issues(call: Call, owner: str, name: str) -> Reply:
    """Return issues and pull requests, newest first, of those that the query wants."""
    repo = call.repo(owner, name)
    found = [one for one in reversed(repo.issues.values()) if _is_wanted(call, one)]
    return call.page(found, lambda one: call.shapes.issue(repo, one))


def _is_wanted(call: Call, issue: Issue) -> bool:
    state, kind = call.arg("state", "open"), call.arg("type")
    for key in ("assigned_by", "created_by"):
        if call.arg(key) and call.arg(key) not in call.forge.users:
            raise not_found(f"user does not exist [name: {call.arg(key)}]")
    labels = set(filter(None, call.arg("labels").split(",")))
    return (
        state in ("all", issue.state)
        and (not kind or (kind == "pulls") is isinstance(issue, Pull))
        and (not call.arg("assigned_by") or call.arg("assigned_by") in issue.assignees)
        and call.arg("created_by") in ("", issue.author)
        and labels <= set(issue.labels)
        and issue.updated_at >= call.arg("since")
    )


@routes("POST", f"{REPO}/issues")
def create_issue(call: Call, owner: str, name: str) -> Reply:
    """Open an issue."""
    repo, body = call.repo(owner, name, is_write=True), call.body
    if not str(body.get("title") or "").strip():
        raise Unprocessable("[Title]: Required")
    may_write = call.forge.may(repo, call.login, "write")
    number = call.forge.create_issue(
        repo.full_name,
        str(body["title"]),
        str(body.get("body") or ""),
        tuple(_known_labels(call, repo, body.get("labels") or [])) if may_write else (),
        assignees=tuple(_logins(call, body.get("assignees"))) if may_write else (),
        author=call.login,
    )
    return Reply(201, call.shapes.issue(repo, repo.issues[number]))


@routes("GET", ISSUE)
def get_issue(call: Call, owner: str, name: str, number: int) -> Reply:
    """Return an issue or the issue side of a pull request."""
    repo = call.repo(owner, name)
    return Reply(200, call.shapes.issue(repo, call.forge.find_issue(repo, number)))


@routes("PATCH", ISSUE)
def edit_issue(call: Call, owner: str, name: str, number: int) -> Reply:
    """Change an issue; the answer is 201."""
    repo, body = call.repo(owner, name, is_write=True), call.body
    issue = call.forge.find_issue(repo, number)
    edit(call, repo, issue, body)
    return Reply(201, call.shapes.issue(repo, issue))


def edit(call: Call, repo: Repo, issue: Issue, body: dict[str, Any]) -> None:
    """Change what an issue and a pull request have in common: routers/api/v1/repo/issue.go, EditIssue."""
    login, forge, full_name = call.login, call.forge, repo.full_name
    may_write = forge.may(repo, login, "write")
    if issue.author != login and not may_write:
        raise forbidden("user should be the poster or have write access")
    title, text = body.get("title"), body.get("body")
    forge.edit(full_name, issue.number, title=title or None, body=text, sender=login)
    is_ignored = not may_write and "assignees-need-write" in forge.model
    if body.get("assignees") is not None and not is_ignored:
        is_pull = isinstance(issue, Pull) and "/pulls/" in call.request.path
        logins = _logins(call, body["assignees"], is_pull=is_pull)
        forge.set_assignees(full_name, issue.number, logins, sender=login)
    if body.get("state") is not None:
        _set_state(call, repo, issue, str(body["state"]))


def _set_state(call: Call, repo: Repo, issue: Issue, state: str) -> None:
    if isinstance(issue, Pull) and issue.merge_commit_sha:
        raise Refusal(412, "cannot change state of this pull request, it was already merged")
    if state == issue.state:
        return
    if state == "closed":
        if call.forge.has_open_blocker(issue) and "dependency-blocks-closing" in call.forge.model:
            raise Refusal(412, "cannot close this issue because it still has open dependencies")
        call.forge.close_issue(repo.full_name, issue.number, sender=call.login)
    else:
        call.forge.reopen_issue(repo.full_name, issue.number, sender=call.login)


def _logins(call: Call, given: Any, *, is_pull: bool = False) -> list[str]:
    """Return the accounts that are to be assigned. Raises Refusal for an unknown one: 500 on issues, 422 on pulls."""
    logins = [str(login) for login in given or ()]
    for login in logins:
        if login not in call.forge.users:
            text = f"user does not exist [uid: 0, name: {login}]"
            raise Unprocessable(text) if is_pull or "unknown-assignee-is-500" not in call.forge.model else broken(text)
    return logins


# --- comments ---


@routes("GET", f"{ISSUE}/comments")
def list_comments(call: Call, owner: str, name: str, number: int) -> Reply:
    """Return the comments on one issue: without pages."""
    repo = call.repo(owner, name)
    issue = call.forge.find_issue(repo, number)
    found = [one for one in issue.comments if one.updated_at >= call.arg("since")]
    return call.whole(found, lambda one: call.shapes.comment(repo, issue, one))


@routes("GET", f"{REPO}/issues/comments")
def list_all_comments(call: Call, owner: str, name: str) -> Reply:
    """Return the comments of a repository that were written or changed since a moment."""
    repo = call.repo(owner, name)
    since = call.arg("since")
    found = [(issue, one) for issue in repo.issues.values() for one in issue.comments if one.updated_at >= since]
    found.sort(key=lambda pair: pair[1].id)
    return call.page(found, lambda pair: call.shapes.comment(repo, *pair))


@routes("POST", f"{ISSUE}/comments")
def create_comment(call: Call, owner: str, name: str, number: int) -> Reply:
    """Write a comment."""
    repo = call.repo(owner, name, is_write=True)
    issue = call.forge.find_issue(repo, number)
    text = str(call.body.get("body") or "")
    if not text:
        raise Unprocessable("[Body]: Required")
    id_ = call.forge.comment(repo.full_name, number, text, author=call.login)
    return Reply(201, call.shapes.comment(repo, issue, call.forge.find_comment(repo, id_)[1]))


@routes("GET", f"{REPO}/issues/comments/<int:id_>")
def get_comment(call: Call, owner: str, name: str, id_: int) -> Reply:
    """Return a comment."""
    repo = call.repo(owner, name)
    return Reply(200, call.shapes.comment(repo, *call.forge.find_comment(repo, id_)))


@routes("PATCH", f"{REPO}/issues/comments/<int:id_>")
def edit_comment(call: Call, owner: str, name: str, id_: int) -> Reply:
    """Change a comment: one's own, or with the right to write."""
    repo = call.repo(owner, name, is_write=True)
    issue, comment = call.forge.find_comment(repo, id_)
    _may_change(call, repo, comment)
    call.forge.edit_comment(repo.full_name, id_, str(call.body.get("body") or ""), sender=call.login)
    return Reply(200, call.shapes.comment(repo, issue, comment))


@routes("DELETE", f"{REPO}/issues/comments/<int:id_>")
def delete_comment(call: Call, owner: str, name: str, id_: int) -> Reply:
    """Delete a comment."""
    repo = call.repo(owner, name, is_write=True)
    issue, comment = call.forge.find_comment(repo, id_)
    _may_change(call, repo, comment)
    issue.comments.remove(comment)
    return Reply(204)


def _may_change(call: Call, repo: Repo, comment: Comment) -> None:
    if comment.author != call.login and not call.forge.may(repo, call.login, "write"):
        raise forbidden("user should be the poster or have write access")


@routes("GET", f"{REPO}/issues/comments/<int:id_>/reactions")
def list_reactions(call: Call, owner: str, name: str, id_: int) -> Reply:
    """Return the reactions to a comment."""
    _, comment = call.forge.find_comment(call.repo(owner, name), id_)
    return call.whole(comment.reactions, lambda one: _reaction(call, comment, *one))


@routes("POST", f"{REPO}/issues/comments/<int:id_>/reactions")
def react(call: Call, owner: str, name: str, id_: int) -> Reply:
    """React to a comment: 201 for a new reaction, 200 for one that was there."""
    repo = call.repo(owner, name, is_write=True)
    _, comment = call.forge.find_comment(repo, id_)
    given = (call.login, str(call.body.get("content") or ""))
    status = 200 if given in comment.reactions else 201
    call.forge.react(repo.full_name, id_, given[1], sender=given[0])
    return Reply(status, _reaction(call, comment, *given))


def _reaction(call: Call, comment: Comment, login: str, content: str) -> Any:
    return {"user": call.shapes.user(login), "content": content, "created_at": comment.updated_at}


# --- labels ---


@routes("GET", f"{REPO}/labels")
def list_labels(call: Call, owner: str, name: str) -> Reply:
    """Return the labels of a repository."""
    repo = call.repo(owner, name)
    return call.page(sorted(repo.labels), lambda label: call.shapes.label(repo, label))


@routes("POST", f"{REPO}/labels")
def create_label(call: Call, owner: str, name: str) -> Reply:
    """Make a label; the same name twice is two labels on the original, and one here."""
    repo, body = call.repo(owner, name, "write", is_write=True), call.body
    label, color = str(body.get("name") or ""), str(body.get("color") or "")
    if not label or not color:
        raise Unprocessable("[Color]: Required")
    call.forge.create_label(repo.full_name, label, color=color, description=str(body.get("description") or ""))
    return Reply(201, call.shapes.label(repo, label))


@routes("GET", f"{ISSUE}/labels")
def labels_of(call: Call, owner: str, name: str, number: int) -> Reply:
    """Return the labels of an issue."""
    repo = call.repo(owner, name)
    return _labels(call, repo, call.forge.find_issue(repo, number))


@routes("POST", f"{ISSUE}/labels")
def add_labels(call: Call, owner: str, name: str, number: int) -> Reply:
    """Put labels on; those that there are not are dropped."""
    repo = call.repo(owner, name, "write", is_write=True)
    issue = call.forge.find_issue(repo, number)
    known = _known_labels(call, repo, call.body.get("labels") or [])
    if known:
        call.forge.set_labels(repo.full_name, number, *issue.labels, *known, sender=call.login)
    return _labels(call, repo, issue)


@routes("PUT", f"{ISSUE}/labels")
def replace_labels(call: Call, owner: str, name: str, number: int) -> Reply:
    """Replace the labels."""
    repo = call.repo(owner, name, "write", is_write=True)
    known = _known_labels(call, repo, call.body.get("labels") or [])
    call.forge.set_labels(repo.full_name, number, *known, sender=call.login)
    return _labels(call, repo, call.forge.find_issue(repo, number))


@routes("DELETE", f"{ISSUE}/labels/<int:label>")
def remove_label(call: Call, owner: str, name: str, number: int, label: int) -> Reply:
    """Take a label off by its id."""
    repo = call.repo(owner, name, "write", is_write=True)
    issue = call.forge.find_issue(repo, number)
    known = [one.name for one in repo.labels.values() if one.id == label]
    if not known:
        raise Unprocessable(f"label does not exist [label_id: {label}]")
    if known[0] in issue.labels:
        left = [one for one in issue.labels if one != known[0]]
        call.forge.set_labels(repo.full_name, number, *left, sender=call.login)
    return Reply(204)


def _labels(call: Call, repo: Repo, issue: Issue) -> Reply:
    return Reply(200, [call.shapes.label(repo, label) for label in issue.labels])


def _known_labels(call: Call, repo: Repo, given: list[Any]) -> list[str]:
    """Return the names of labels that were given all by id or all by name, without those that there are not."""
    if {type(one) for one in given} - {int} and {type(one) for one in given} - {str}:
        raise Refusal(400, "labels should be an array of strings or integers, not both")
    by_id = {one.id: one.name for one in repo.labels.values()}
    names = [by_id.get(one) if isinstance(one, int) else one for one in given]
    if "unknown-labels-dropped" not in call.forge.model:
        return [one for one in names if one]
    return [one for one in names if one in repo.labels]


# --- timeline and dependencies ---


@routes("GET", f"{ISSUE}/timeline")
def timeline(call: Call, owner: str, name: str, number: int) -> Reply:
    """Return what happened, oldest first; here it is told who was assigned."""
    repo = call.repo(owner, name)
    issue = call.forge.find_issue(repo, number)
    found = [one for one in issue.timeline if one.created_at >= call.arg("since")]
    return call.page(found, lambda one: call.shapes.happening(repo, issue, one))


@routes("GET", f"{ISSUE}/dependencies")
def dependencies(call: Call, owner: str, name: str, number: int) -> Reply:
    """Return what must be closed before."""
    found = call.forge.find_issue(call.repo(owner, name), number).blockers
    return call.page(found, lambda one: _other(call, *one))


@routes("GET", f"{ISSUE}/blocks")
def blocks(call: Call, owner: str, name: str, number: int) -> Reply:
    """Return what waits for this."""
    repo = call.repo(owner, name)
    call.forge.find_issue(repo, number)
    own = (repo.full_name, number)
    found = [
        (one.full_name, issue.number)
        for one in call.forge.repos.values()
        for issue in one.issues.values()
        if own in issue.blockers
    ]
    return call.page(found, lambda one: _other(call, *one))


@routes("POST", f"{ISSUE}/dependencies")
def depend(call: Call, owner: str, name: str, number: int) -> Reply:
    """Let an issue wait for another."""
    repo = call.repo(owner, name, "write", is_write=True)
    issue = call.forge.find_issue(repo, number)
    other, index = _meta(call, owner, name)
    call.forge.depend(repo.full_name, number, on=index, of=other.full_name)
    return Reply(201, call.shapes.issue(repo, issue))


@routes("DELETE", f"{ISSUE}/dependencies")
def depend_no_longer(call: Call, owner: str, name: str, number: int) -> Reply:
    """Let an issue wait no longer."""
    repo = call.repo(owner, name, "write", is_write=True)
    issue = call.forge.find_issue(repo, number)
    other, index = _meta(call, owner, name)
    if (other.full_name, index) not in issue.blockers:
        raise not_found()
    issue.blockers.remove((other.full_name, index))
    return Reply(201, call.shapes.issue(repo, issue))


def _meta(call: Call, owner: str, name: str) -> tuple[Repo, int]:
    body = call.body
    other = call.repo(str(body.get("owner") or owner), str(body.get("repo") or name))
    index = int(body.get("index") or 0)
    call.forge.find_issue(other, index)
    return other, index


def _other(call: Call, full_name: str, number: int) -> Any:
    repo = call.forge.find_repo(full_name)
    return call.shapes.issue(repo, call.forge.find_issue(repo, number))
