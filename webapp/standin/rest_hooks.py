"""REST of the stand-in forge: webhooks and the rules of branches, with the traps of the original."""

from dataclasses import fields
from typing import Any

from webapp.standin import hooks
from webapp.standin.records import Hook, Protection, Repo
from webapp.standin.refusals import Unprocessable, forbidden, not_found
from webapp.standin.rest import Call, Reply, Routes
from webapp.standin.rest_admin import REPO

routes = Routes()
TYPES = ("forgejo", "gitea", "gogs")


@routes("GET", f"{REPO}/hooks")
def list_hooks(call: Call, owner: str, name: str) -> Reply:
    """Return the webhooks of a repository."""
    return call.page([*call.repo(owner, name, "admin").hooks.values()], call.shapes.hook)


@routes("POST", f"{REPO}/hooks")
def create_hook(call: Call, owner: str, name: str) -> Reply:
    """Make a webhook: asleep and for pushes only, unless it is said otherwise."""
    repo, body = call.repo(owner, name, "admin"), call.body
    config: dict[str, Any] = body.get("config") or {}
    if body.get("type") not in TYPES:
        raise Unprocessable(f"Invalid hook type: {body.get('type') or ''}")
    for key in ("url", "content_type"):
        if key not in config:
            raise Unprocessable(f"Missing config option: {key}")
    _check_config(config)
    model = call.forge.model
    made = Hook(
        id=call.forge.next_id(),
        type=str(body["type"]),
        url=str(config["url"]),
        secret=str(config.get("secret") or "").encode(),
        content_type=str(config["content_type"]),
        flags=_flags(call, body.get("events") or []),
        active=bool(body.get("active", "hook-sleeps-by-default" not in model)),
        created_at=call.forge.now,
        branch_filter=str(body.get("branch_filter") or ""),
        authorization=str(body.get("authorization_header") or ""),
    )
    repo.hooks[made.id] = made
    return Reply(201, call.shapes.hook(made))


def _check_config(config: dict[str, Any]) -> None:
    if config.get("content_type", "json") not in {"json", "form"}:
        raise Unprocessable("Invalid content type")
    if "url" in config and not str(config["url"]).startswith(("http://", "https://")):
        raise Unprocessable("Invalid url")


def _flags(call: Call, events: list[str]) -> frozenset[str]:
    model = call.forge.model
    if not events:
        events = ["push"] if "hook-without-events-is-push" in model else ["push", "issues", "pull_request"]
    unknown = [name for name in events if not hooks.flags_of([name])]
    if unknown and "hook-drops-unknown-events" not in model:
        raise Unprocessable(f"unknown events: {', '.join(unknown)}")
    return hooks.flags_of(events)


@routes("GET", f"{REPO}/hooks/<int:hook>")
def get_hook(call: Call, owner: str, name: str, hook: int) -> Reply:
    """Return a webhook."""
    return Reply(200, call.shapes.hook(_hook(call.repo(owner, name, "admin"), hook)))


@routes("PATCH", f"{REPO}/hooks/<int:hook>")
def edit_hook(call: Call, owner: str, name: str, hook: int) -> Reply:
    """Change a webhook, and forget half of it: routers/api/v1/utils/hook.go, editHook."""
    found, body = _hook(call.repo(owner, name, "admin"), hook), call.body
    config: dict[str, Any] = body.get("config") or {}
    _check_config(config)
    found.url = str(config.get("url", found.url))
    found.content_type = str(config.get("content_type", found.content_type))
    if "hook-patch-forgets" in call.forge.model:
        flags = _flags(call, body.get("events") or [])
        found.flags = (flags - hooks.RUN_FLAGS) | (found.flags & hooks.RUN_FLAGS)
        found.authorization = str(body.get("authorization_header") or "")
    else:
        found.secret = str(config.get("secret") or found.secret.decode()).encode()
        found.flags = hooks.flags_of(body["events"]) if body.get("events") else found.flags
    found.active = bool(body.get("active", found.active))
    return Reply(200, call.shapes.hook(found))


@routes("DELETE", f"{REPO}/hooks/<int:hook>")
def delete_hook(call: Call, owner: str, name: str, hook: int) -> Reply:
    """Delete a webhook."""
    repo = call.repo(owner, name, "admin")
    del repo.hooks[_hook(repo, hook).id]
    return Reply(204)


@routes("POST", f"{REPO}/hooks/<int:hook>/tests")
def test_hook(call: Call, owner: str, name: str, hook: int) -> Reply:
    """Send a push of what is there already, to an active hook only, whatever it hears."""
    repo = call.repo(owner, name, "admin")
    found = _hook(repo, hook)
    call.forge.send_test(repo, found, sender=call.login)
    return Reply(204)


def _hook(repo: Repo, hook: int) -> Hook:
    if hook not in repo.hooks:
        raise not_found()
    return repo.hooks[hook]


# --- the rules of branches ---

_RULES = {one.name for one in fields(Protection)} - {"branch"}


@routes("GET", f"{REPO}/branch_protections")
def list_rules(call: Call, owner: str, name: str) -> Reply:
    """Return the rules of all branches."""
    return call.whole([*call.repo(owner, name, "admin").protections.values()], call.shapes.protection)


@routes("POST", f"{REPO}/branch_protections")
def create_rules(call: Call, owner: str, name: str) -> Reply:
    """Make rules for a branch."""
    repo, body = call.repo(owner, name, "admin"), call.body
    branch = str(body.get("rule_name") or body.get("branch_name") or "")
    if not branch:
        raise Unprocessable("both rule_name and branch_name are empty")
    if branch in repo.protections:
        raise forbidden("Branch protection already exist")
    made = call.forge.protect(repo.full_name, branch, **_given(body))
    return Reply(201, call.shapes.protection(made))


@routes("GET", f"{REPO}/branch_protections/<path:branch>")
def get_rules(call: Call, owner: str, name: str, branch: str) -> Reply:
    """Return the rules of a branch."""
    return Reply(200, call.shapes.protection(_rules(call.repo(owner, name, "admin"), branch)))


@routes("PATCH", f"{REPO}/branch_protections/<path:branch>")
def edit_rules(call: Call, owner: str, name: str, branch: str) -> Reply:
    """Change the rules of a branch."""
    found = _rules(call.repo(owner, name, "admin"), branch)
    for key, value in _given(call.body).items():
        setattr(found, key, value)
    return Reply(200, call.shapes.protection(found))


@routes("DELETE", f"{REPO}/branch_protections/<path:branch>")
def delete_rules(call: Call, owner: str, name: str, branch: str) -> Reply:
    """Take the rules of a branch away."""
    repo = call.repo(owner, name, "admin")
    del repo.protections[_rules(repo, branch).branch]
    return Reply(204)


def _given(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key in _RULES and value is not None}


def _rules(repo: Repo, branch: str) -> Protection:
    if branch not in repo.protections:
        raise not_found()
    return repo.protections[branch]
