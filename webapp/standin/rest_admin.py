"""REST of the stand-in forge: the forge itself, accounts, tokens, repositories and who may do what in them."""

import secrets
from typing import Any

from webapp.standin.records import RIGHTS, STYLES, Repo, User
from webapp.standin.refusals import Refusal, Unprocessable, forbidden, not_found
from webapp.standin.rest import MAX_PAGE, PAGE, Call, Reply, Routes

#: What the stand-in says it is: Forgejo's own version, and that of Gitea whose interface it keeps.
VERSION = "15.0.0+gitea-1.22.0"

routes = Routes()
own_routes = Routes()  #: below /api/forgejo/v1
REPO = "/repos/<owner>/<name>"


@routes("GET", "/version")
def version(call: Call) -> Reply:
    """Say which version it is."""
    del call
    return Reply(200, {"version": VERSION})


@own_routes("GET", "/version")
def own_version(call: Call) -> Reply:
    """Say that it is a Forgejo."""
    return version(call)


@routes("GET", "/settings/api")
def limits(call: Call) -> Reply:
    """Say how large pages are."""
    del call
    told = {
        "max_response_items": MAX_PAGE,
        "default_paging_num": PAGE,
        "default_git_trees_per_page": 1000,
        "default_max_blob_size": 10_485_760,
    }
    return Reply(200, told)


# --- accounts ---


@routes("GET", "/user")
def me(call: Call) -> Reply:
    """Say who asks."""
    return Reply(200, call.shapes.user(call.login))


@routes("GET", "/users/<login>")
def user(call: Call, login: str) -> Reply:
    """Return an account."""
    if login not in call.forge.users:
        raise not_found()
    return Reply(200, call.shapes.user(login))


@routes("POST", "/admin/users")
def create_user(call: Call) -> Reply:
    """Make an account, which must change its password first unless that is excluded."""
    call.admin()
    body = call.body
    login, password = str(body.get("username") or ""), str(body.get("password") or "")
    if not login or not body.get("email"):
        raise Unprocessable("[Username]: Required")
    if login in call.forge.users:
        raise Unprocessable(f"user already exists [name: {login}]")
    call.forge.create_user(login, password=password)
    made = call.forge.users[login]
    made.token = ""
    made.must_change_password = body.get("must_change_password", True) is not False
    return Reply(201, call.shapes.user(login))


@routes("DELETE", "/admin/users/<login>")
def delete_user(call: Call, login: str) -> Reply:
    """Delete an account; one that owns repositories only with `purge`."""
    call.admin()
    forge = call.forge
    if login not in forge.users:
        raise not_found()
    owned = [name for name, repo in forge.repos.items() if repo.owner == login]
    if owned and call.arg("purge") != "true":
        raise Unprocessable("user still has ownership of repositories")
    for name in owned:
        del forge.repos[name]
    del forge.users[login]
    return Reply(204)


@routes("POST", "/users/<login>/tokens")
def create_token(call: Call, login: str) -> Reply:
    """Make a token: with a password only, never with another token."""
    if "tokens-need-a-password" in call.forge.model and not call.has_password:
        raise Refusal(401, "auth required")
    account = _own(call, login)
    body = call.body
    label = str(body.get("name") or "")
    if label in account.tokens:
        raise Refusal(400, "access token name has been used already")
    if not body.get("scopes"):
        raise Refusal(400, "access token must have a scope")
    token = account.tokens[label] = secrets.token_hex(20)
    told = {"id": len(account.tokens), "name": label, "sha1": token, "token_last_eight": token[-8:]}
    return Reply(201, {**told, "scopes": body["scopes"]})


@routes("DELETE", "/users/<login>/tokens/<token>")
def delete_token(call: Call, login: str, token: str) -> Reply:
    """Delete a token by its name."""
    if not call.has_password:
        raise Refusal(401, "auth required")
    if _own(call, login).tokens.pop(token, None) is None:
        raise not_found()
    return Reply(204)


def _own(call: Call, login: str) -> User:
    if call.login != login and not (call.doer and call.doer.is_admin):
        raise forbidden("doer should be the site admin or be same as the contextUser")
    if login not in call.forge.users:
        raise not_found()
    return call.forge.users[login]


# --- repositories ---


@routes("GET", "/user/repos")
def my_repos(call: Call) -> Reply:
    """Return what an account owns or was let in to."""
    login = call.login
    forge = call.forge
    mine = [one for one in forge.repos.values() if login in (one.owner, *one.rights) or one.everybody != "none"]
    return call.page([one for one in mine if forge.may(one, login, "read")], lambda one: _shape(call, one))


@routes("POST", "/user/repos")
def create_repo(call: Call) -> Reply:
    """Make a repository of one's own."""
    return _create_repo(call, call.login)


@routes("POST", "/admin/users/<login>/repos")
def create_repo_for(call: Call, login: str) -> Reply:
    """Make a repository of somebody else's."""
    call.admin()
    if login not in call.forge.users:
        raise not_found()
    return _create_repo(call, login)


def _create_repo(call: Call, owner: str) -> Reply:
    body = call.body
    name = str(body.get("name") or "")
    full_name = f"{owner}/{name}"
    if not name:
        raise Unprocessable("[Name]: Required")
    if full_name in call.forge.repos:
        raise Refusal(409, "The repository with the same name already exists.")
    made = call.forge.create_repo(full_name, private=bool(body.get("private")), everybody="none")
    return Reply(201, _shape(call, made))


@routes("GET", REPO)
def repo(call: Call, owner: str, name: str) -> Reply:
    """Return a repository."""
    return Reply(200, _shape(call, call.repo(owner, name)))


@routes("PATCH", REPO)
def edit_repo(call: Call, owner: str, name: str) -> Reply:
    """Change what a repository allows, or archive it."""
    found, body = call.repo(owner, name, "admin", is_write=False), call.body
    for style, setting in STYLES.items():
        if setting in body:
            (found.styles.add if body[setting] else found.styles.discard)(style)
    found.archived = bool(body.get("archived", found.archived))
    found.private = bool(body.get("private", found.private))
    return Reply(200, _shape(call, found))


@routes("DELETE", REPO)
def delete_repo(call: Call, owner: str, name: str) -> Reply:
    """Delete a repository; what is on disk stays."""
    found = call.repo(owner, name, "admin")
    del call.forge.repos[found.full_name]
    return Reply(204)


def _shape(call: Call, repo: Repo) -> Any:
    who = call.doer.login if call.doer else None
    return call.shapes.repository(repo, right=call.forge.right_of(repo, who))


# --- who may do what ---


@routes("GET", f"{REPO}/assignees")
def assignees(call: Call, owner: str, name: str) -> Reply:
    """Return those to whom issues can be assigned: who may write (models/repo/user_repo.go, GetRepoAssignees)."""
    found = call.repo(owner, name)
    return call.whole([login for login in call.forge.users if call.forge.may(found, login, "write")], call.shapes.user)


@routes("GET", f"{REPO}/collaborators")
def collaborators(call: Call, owner: str, name: str) -> Reply:
    """Return those who were let in by name."""
    found = call.repo(owner, name)
    return call.page([login for login, right in found.rights.items() if right != "none"], call.shapes.user)


@routes("GET", f"{REPO}/collaborators/<login>")
def is_collaborator(call: Call, owner: str, name: str, login: str) -> Reply:
    """Say whether somebody was let in by name."""
    if call.repo(owner, name).rights.get(login, "none") == "none":
        raise not_found()
    return Reply(204)


@routes("PUT", f"{REPO}/collaborators/<login>")
def let_in(call: Call, owner: str, name: str, login: str) -> Reply:
    """Let somebody in; without a word as one who may write."""
    found = call.repo(owner, name, "admin")
    right = str(call.body.get("permission") or "write")
    if login not in call.forge.users:
        raise Unprocessable(f"user does not exist [uid: 0, name: {login}]")
    if right not in RIGHTS[1:4]:
        raise Unprocessable(f"[Permission]: {right}")
    call.forge.set_right(found.full_name, login, right)
    return Reply(204)


@routes("DELETE", f"{REPO}/collaborators/<login>")
def put_out(call: Call, owner: str, name: str, login: str) -> Reply:
    """Let somebody in no longer."""
    call.repo(owner, name, "admin").rights.pop(login, None)
    return Reply(204)


@routes("GET", f"{REPO}/collaborators/<login>/permission")
def permission(call: Call, owner: str, name: str, login: str) -> Reply:
    """Say what somebody may do."""
    found = call.repo(owner, name)
    may_ask = call.login == login or call.forge.may(found, call.login, "admin")
    if not may_ask and "rights-of-others-are-secret" in call.forge.model:
        raise forbidden(
            "Only admins can query all permissions, "
            "repo admins can query all repo permissions, collaborators can query only their own"
        )
    if login not in call.forge.users:
        raise not_found()
    right = call.forge.right_of(found, login)
    return Reply(200, {"permission": right, "role_name": right, "user": call.shapes.user(login)})
