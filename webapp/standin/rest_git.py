"""REST of the stand-in forge: commits, statuses, branches, files, and who may push."""

import base64
import binascii
from typing import Any

from webapp.standin.bare import CommitInfo, Entry
from webapp.standin.records import Repo
from webapp.standin.refusals import Refusal, Unprocessable, broken, forbidden, not_found
from webapp.standin.rest import Call, Reply, Routes
from webapp.standin.rest_admin import REPO

routes = Routes()
_SHA = 40


def commit_of(repo: Repo, ref: str) -> CommitInfo:
    """Return the commit of a branch or sha. Raises Refusal when there is none."""
    sha = repo.git.branches().get(ref.removeprefix("heads/").removeprefix("refs/heads/"), ref)
    is_sha = len(sha) == _SHA and not set(sha) - set("0123456789abcdef")
    found = repo.git.info(sha) if is_sha else None
    if found is None:
        raise not_found(f"object does not exist [id: {ref}, rel_path: ]")
    return found


@routes("GET", f"{REPO}/git/commits/<path:ref>")
def commit(call: Call, owner: str, name: str, ref: str) -> Reply:
    """Return a commit."""
    repo = call.repo(owner, name)
    return Reply(200, call.shapes.commit(repo, commit_of(repo, ref)))


# --- statuses ---


@routes("POST", f"{REPO}/statuses/<sha>")
def set_status(call: Call, owner: str, name: str, sha: str) -> Reply:
    """Set a status of a commit."""
    repo, body = call.repo(owner, name, "write", is_write=True), call.body
    try:
        found = commit_of(repo, sha)
    except Refusal:
        raise broken(f"GetCommit[{sha}]: object does not exist") from None
    status = call.forge.set_status(
        repo.full_name,
        found.sha,
        context=str(body.get("context") or ""),
        state=str(body.get("state") or ""),
        description=str(body.get("description") or ""),
        target_url=str(body.get("target_url") or ""),
        creator=call.login,
    )
    return Reply(201, call.shapes.status(repo, found.sha, status))


@routes("GET", f"{REPO}/commits/<path:ref>/statuses")
def statuses(call: Call, owner: str, name: str, ref: str) -> Reply:
    """Return all statuses that a commit ever had, newest first."""
    repo = call.repo(owner, name)
    sha = commit_of(repo, ref).sha
    found = sorted(repo.statuses.get(sha, ()), key=lambda one: -one.id)
    return call.page(found, lambda one: call.shapes.status(repo, sha, one))


@routes("GET", f"{REPO}/statuses/<sha>")
def statuses_of_sha(call: Call, owner: str, name: str, sha: str) -> Reply:
    """Return the same under its other address."""
    return statuses(call, owner, name, sha)


@routes("GET", f"{REPO}/commits/<path:ref>/status")
def combined(call: Call, owner: str, name: str, ref: str) -> Reply:
    """Return what the statuses come to together: over one page of contexts, and empty when there are none."""
    repo = call.repo(owner, name)
    sha = commit_of(repo, ref).sha
    newest = call.forge.newest_statuses(repo, sha)
    shown = call.page(newest, lambda one: one).value
    counted = shown if "combined-over-one-page" in call.forge.model else newest
    told = {
        "state": call.forge.combined_state(counted),
        "sha": sha,
        "total_count": len(newest),
        "statuses": [call.shapes.status(repo, sha, one) for one in shown],
        "repository": call.shapes.repository(repo),
        "commit_url": f"{call.forge.url}/api/v1/repos/{repo.full_name}/commits/{sha}",
        "url": "",
    }
    return Reply(200, told)


# --- branches ---


@routes("GET", f"{REPO}/branches")
def branches(call: Call, owner: str, name: str) -> Reply:
    """Return the branches."""
    repo = call.repo(owner, name)
    return call.page([*repo.git.branches()], lambda branch: _branch(call, repo, branch))


@routes("GET", f"{REPO}/branches/<path:branch>")
def branch(call: Call, owner: str, name: str, branch: str) -> Reply:
    """Return a branch."""
    return Reply(200, _branch(call, call.repo(owner, name), branch))


@routes("POST", f"{REPO}/branches")
def create_branch(call: Call, owner: str, name: str) -> Reply:
    """Make a branch."""
    repo, body = call.repo(owner, name, "write", is_write=True), call.body
    new = str(body.get("new_branch_name") or "")
    if new in repo.git.branches():
        raise Refusal(409, "The branch already exists.")
    start = commit_of(repo, str(body.get("old_ref_name") or body.get("old_branch_name") or repo.default_branch))
    call.forge.force(repo.full_name, new, start.sha, sender=call.login)
    return Reply(201, _branch(call, repo, new))


@routes("DELETE", f"{REPO}/branches/<path:branch>")
def delete_branch(call: Call, owner: str, name: str, branch: str) -> Reply:
    """Delete a branch."""
    repo = call.repo(owner, name, "write", is_write=True)
    if branch not in repo.git.branches():
        raise not_found()
    if branch == repo.default_branch:
        raise forbidden("can not delete default branch")
    if branch in repo.protections:
        raise forbidden("branch protected")
    call.forge.force(repo.full_name, branch, None, sender=call.login)
    return Reply(204)


def _branch(call: Call, repo: Repo, name: str) -> Any:
    sha = repo.git.branches().get(name)
    found = repo.git.info(sha) if sha else None
    if found is None:
        raise not_found()
    can_write = call.doer is not None and call.forge.may(repo, call.doer.login, "write")
    return call.shapes.branch(repo, name, found, can_write=can_write)


# --- files ---


@routes("GET", f"{REPO}/contents/<path:file>")
def content(call: Call, owner: str, name: str, file: str) -> Reply:
    """Return a file, or what is in a folder."""
    repo = call.repo(owner, name)
    commit = commit_of(repo, call.arg("ref") or repo.default_branch).sha
    entries = repo.git.entries(commit, file)
    if entries:
        return Reply(200, [_listed(call, repo, entry, commit) for entry in entries])
    return Reply(200, _content(call, repo, file, commit))


@routes("POST", f"{REPO}/contents/<path:file>")
def create_file(call: Call, owner: str, name: str, file: str) -> Reply:
    """Make a file by a commit, on a new branch if one is named."""
    return _write_file(call, owner, name, file, status=201)


@routes("PUT", f"{REPO}/contents/<path:file>")
def update_file(call: Call, owner: str, name: str, file: str) -> Reply:
    """Change a file by a commit; the sha of what it replaces must be right."""
    return _write_file(call, owner, name, file, status=200)


def _write_file(call: Call, owner: str, name: str, file: str, *, status: int) -> Reply:
    repo, body = call.repo(owner, name, "write", is_write=True), call.body
    start = str(body.get("branch") or repo.default_branch)
    branch = str(body.get("new_branch") or start)
    known = repo.git.blob(commit_of(repo, start).sha, file)
    if (known is None) != (status == 201):  # noqa: PLR2004 - created
        raise Unprocessable("repository file already exists" if known else "repository file does not exist")
    if known is not None and body.get("sha") != known[0]:
        raise Unprocessable(f"sha does not match [given: {body.get('sha')}, expected: {known[0]}]")
    try:
        text = base64.b64decode(str(body.get("content") or ""), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Unprocessable("illegal base64 data") from None
    message = str(body.get("message") or f"Update {file}")
    sha = call.forge.commit(repo.full_name, branch, {file: text}, message=message, sender=call.login, start=start)
    made = repo.git.info(sha)
    told = call.shapes.commit(repo, made) if made else {}
    return Reply(status, {"content": _content(call, repo, file, sha), "commit": told, "verification": None})


def _content(call: Call, repo: Repo, file: str, commit: str) -> Any:
    found = repo.git.blob(commit, file)
    if found is None:
        raise not_found()
    sha, text = found
    content = base64.b64encode(text.encode()).decode()
    entry = Entry(path=file, is_folder=False, sha=sha, size=len(text.encode()))
    return _listed(call, repo, entry, commit) | {"encoding": "base64", "content": content}


def _listed(call: Call, repo: Repo, entry: Entry, commit: str) -> dict[str, Any]:
    """Return what a list says: all but the content (services/repository/files/content.go, GetContentsOrList)."""
    return {
        "name": entry.path.rpartition("/")[2],
        "path": entry.path,
        "sha": entry.sha,
        "last_commit_sha": commit,
        "type": "dir" if entry.is_folder else "file",
        "size": entry.size,
        "encoding": None,
        "content": None,
        "url": f"{call.forge.url}/api/v1/repos/{repo.full_name}/contents/{entry.path}",
    }
