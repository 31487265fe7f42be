"""REST of the stand-in forge: pull requests, merging them, their reviews and who is asked for one."""

from typing import Any

from webapp.standin.records import VERDICTS, Pull, Repo, Review
from webapp.standin.refusals import Refusal, Unprocessable, forbidden, not_found
from webapp.standin.rest import Call, Reply, Routes
from webapp.standin.rest_admin import REPO
from webapp.standin.rest_issues import edit

routes = Routes()
PULL = f"{REPO}/pulls/<int:number>"
REVIEW = f"{PULL}/reviews/<int:id_>"


def _shape(call: Call, repo: Repo, pull: Pull) -> Any:
    return call.shapes.pull(repo, pull, mergeable=call.forge.is_mergeable(repo, pull))


@routes("GET", f"{REPO}/pulls")
def list_pulls(call: Call, owner: str, name: str) -> Reply:
    """Return pull requests, newest first."""
    repo = call.repo(owner, name)
    state, base = call.arg("state", "open"), call.arg("base")
    found = [one for one in reversed(repo.pulls) if state in ("all", one.state) and base in ("", one.base)]
    return call.page(found, lambda one: _shape(call, repo, one))


@routes("POST", f"{REPO}/pulls")
def create_pull(call: Call, owner: str, name: str) -> Reply:
    """Open a pull request."""
    repo, body, forge = call.repo(owner, name, is_write=True), call.body, call.forge
    head, base = str(body.get("head") or "").rpartition(":")[2], str(body.get("base") or "")
    if head == base:
        raise Unprocessable("Invalid PullRequest: There are no changes between the head and the base")
    if missing := [one for one in (base, head) if one not in repo.git.branches()]:
        raise not_found(f"could not find '{missing[0]}' to be a commit, branch or tag in the base repository")
    for pull in repo.pulls:
        if (pull.state, pull.head, pull.base) == ("open", head, base):
            raise Refusal(409, f"pull request already exists for these targets [id: {pull.id}, issue_id: {pull.id}]")
    title, text = str(body.get("title") or ""), str(body.get("body") or "")
    number = forge.open_pull(repo.full_name, call.login, head, title, body=text, base=base)
    made = forge.find_pull(repo, number)
    edit(call, repo, made, {"assignees": body.get("assignees")})
    return Reply(201, _shape(call, repo, made))


@routes("GET", PULL)
def get_pull(call: Call, owner: str, name: str, number: int) -> Reply:
    """Return a pull request."""
    repo = call.repo(owner, name)
    return Reply(200, _shape(call, repo, call.forge.find_pull(repo, number)))


@routes("GET", f"{REPO}/pulls/<base>/<path:head>")
def pull_of_branches(call: Call, owner: str, name: str, base: str, head: str) -> Reply:
    """Return the newest pull request of two branches."""
    repo = call.repo(owner, name)
    found = [one for one in repo.pulls if (one.base, one.head) == (base, head)]
    if not found:
        raise not_found()
    return Reply(200, _shape(call, repo, found[-1]))


@routes("PATCH", PULL)
def edit_pull(call: Call, owner: str, name: str, number: int) -> Reply:
    """Change a pull request; the answer is 201."""
    repo, body = call.repo(owner, name, is_write=True), call.body
    pull = call.forge.find_pull(repo, number)
    edit(call, repo, pull, body)
    base = body.get("base")
    if base and base != pull.base:
        if base not in repo.git.branches():
            raise not_found(f"new base '{base}' not exist")
        call.forge.retarget(repo.full_name, number, str(base), sender=call.login)
    return Reply(201, _shape(call, repo, pull))


# --- the end ---


@routes("GET", f"{PULL}/merge")
def is_merged(call: Call, owner: str, name: str, number: int) -> Reply:
    """Say whether it is merged."""
    if not call.forge.find_pull(call.repo(owner, name), number).merge_commit_sha:
        raise not_found()
    return Reply(204)


@routes("POST", f"{PULL}/merge")
def merge(call: Call, owner: str, name: str, number: int) -> Reply:
    """Merge, or say why not: routers/api/v1/repo/pull.go, MergePullRequest."""
    repo, body = call.repo(owner, name, is_write=True), call.body
    if not body.get("Do"):
        raise Unprocessable("[Do]: Required")
    status = call.forge.merge_as_asked(
        repo.full_name,
        number,
        doer=call.login,
        style=str(body["Do"]),
        head_commit_id=str(body.get("head_commit_id") or ""),
        title=str(body.get("MergeTitleField") or ""),
        message=str(body.get("MergeMessageField") or ""),
        is_forced=bool(body.get("force_merge")),
        is_scheduled=bool(body.get("merge_when_checks_succeed")),
        delete_branch=bool(body.get("delete_branch_after_merge")),
    )
    return Reply(status)


@routes("DELETE", f"{PULL}/merge")
def cancel_merge(call: Call, owner: str, name: str, number: int) -> Reply:
    """Take a merge back that waits for checks."""
    call.forge.cancel_scheduled(call.repo(owner, name, "write", is_write=True).full_name, number)
    return Reply(204)


@routes("POST", f"{PULL}/update")
def update(call: Call, owner: str, name: str, number: int) -> Reply:
    """Bring the base into the head."""
    repo = call.repo(owner, name, is_write=True)
    call.forge.update_pull(repo.full_name, number, doer=call.login, style=call.arg("style") or "merge")
    return Reply(200)


# --- reviews ---


@routes("GET", f"{PULL}/reviews")
def list_reviews(call: Call, owner: str, name: str, number: int) -> Reply:
    """Return the reviews and the requests that wait, oldest first; drafts of others are hidden."""
    repo = call.repo(owner, name)
    pull = call.forge.find_pull(repo, number)
    who = call.doer.login if call.doer else ""
    found = [one for one in pull.reviews if one.state != "PENDING" or one.author == who]
    return call.page(found, lambda one: call.shapes.review(repo, pull, one))


@routes("POST", f"{PULL}/reviews")
def create_review(call: Call, owner: str, name: str, number: int) -> Reply:
    """Review; a word that is none makes a draft that nobody is told of."""
    repo, body = call.repo(owner, name, is_write=True), call.body
    pull = call.forge.find_pull(repo, number)
    given, text = str(body.get("event") or ""), str(body.get("body") or "")
    state = given if given in (*VERDICTS, "COMMENT") else "PENDING"
    lines = [(str(one["path"]), _line(one), str(one.get("body") or "")) for one in body.get("comments") or ()]
    if state in ("REQUEST_CHANGES", "PENDING") and not text.strip() and not (state == "PENDING" and lines):
        raise Unprocessable(f"review event {given} requires a body")
    if state == "COMMENT" and not text.strip() and not lines:
        raise Unprocessable(f"review event {given} requires a body or a comment")
    made = call.forge.submit_review(
        repo.full_name,
        number,
        call.login,
        state,
        text,
        commit_id=str(body.get("commit_id") or ""),
        lines=lines,
    )
    return Reply(200, call.shapes.review(repo, pull, made))


def _line(comment: dict[str, Any]) -> int:
    return int(comment.get("new_position") or 0) or int(comment.get("old_position") or 0)


@routes("GET", REVIEW)
def get_review(call: Call, owner: str, name: str, number: int, id_: int) -> Reply:
    """Return a review."""
    repo, pull, review = _review(call, owner, name, number, id_)
    return Reply(200, call.shapes.review(repo, pull, review))


@routes("GET", f"{REVIEW}/comments")
def review_comments(call: Call, owner: str, name: str, number: int, id_: int) -> Reply:
    """Return what a review says of single lines."""
    repo, pull, review = _review(call, owner, name, number, id_)
    return call.whole(review.comments, lambda one: call.shapes.line_comment(repo, pull, review, one))


@routes("POST", f"{REVIEW}/dismissals")
def dismiss(call: Call, owner: str, name: str, number: int, id_: int) -> Reply:
    """Let a verdict count no longer."""
    repo, pull, review = _review(call, owner, name, number, id_)
    if not call.forge.may(repo, call.login, "admin"):
        raise forbidden("Must be repo admin")
    message = str(call.body.get("message") or "")
    call.forge.dismiss_review(repo.full_name, number, id_, message, sender=call.login)
    return Reply(200, call.shapes.review(repo, pull, review))


@routes("POST", f"{REVIEW}/undismissals")
def undismiss(call: Call, owner: str, name: str, number: int, id_: int) -> Reply:
    """Let a verdict count again."""
    repo, pull, review = _review(call, owner, name, number, id_)
    if not call.forge.may(repo, call.login, "admin"):
        raise forbidden("Must be repo admin")
    call.forge.undismiss_review(repo.full_name, number, id_)
    return Reply(200, call.shapes.review(repo, pull, review))


def _review(call: Call, owner: str, name: str, number: int, id_: int) -> tuple[Repo, Pull, Review]:
    repo = call.repo(owner, name)
    pull = call.forge.find_pull(repo, number)
    found = [one for one in pull.reviews if one.id == id_]
    if not found:
        raise not_found()
    return repo, pull, found[0]


# --- who is asked ---


@routes("POST", f"{PULL}/requested_reviewers")
def ask(call: Call, owner: str, name: str, number: int) -> Reply:
    """Ask for reviews; the answer lists the new requests only."""
    repo, pull, logins = _asked(call, owner, name, number)
    for login in logins:
        if login == pull.author:
            raise Unprocessable("poster of pr can't be reviewer")
        if not call.forge.may(repo, login, "read"):
            raise Unprocessable("Reviewer can't read")
    made = [call.forge.request_review(repo.full_name, number, login, sender=call.login) for login in logins]
    return Reply(201, [call.shapes.review(repo, pull, one) for one in made if one is not None])


@routes("DELETE", f"{PULL}/requested_reviewers")
def ask_no_longer(call: Call, owner: str, name: str, number: int) -> Reply:
    """Take requests back."""
    repo, _, logins = _asked(call, owner, name, number)
    for login in logins:
        call.forge.remove_review_request(repo.full_name, number, login, sender=call.login)
    return Reply(204)


def _asked(call: Call, owner: str, name: str, number: int) -> tuple[Repo, Pull, list[str]]:
    repo = call.repo(owner, name, is_write=True)
    pull = call.forge.find_pull(repo, number)
    logins = [str(login) for login in call.body.get("reviewers") or ()]
    for login in logins:
        if login not in call.forge.users:
            raise Refusal(404, f"User '{login}' not exist", body={"message": f"User '{login}' not exist", "errors": []})
    is_named = call.login in (pull.author, repo.owner, *repo.rights) or repo.everybody != "none"
    if not is_named and not (call.doer and call.doer.is_admin):
        raise Unprocessable("Doer can't choose reviewer")
    return repo, pull, logins
