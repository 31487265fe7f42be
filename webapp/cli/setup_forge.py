"""The steps of set-up on the forge: accounts with their tokens, access, labels, the webhook. Each can be made again."""

import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pool.errors import ForgeError, NotAllowed
from tasks.forge_setup import SetupForge
from tasks.settings import TypeSettings
from tasks.setup_values import SCOPES, unheard
from tasks.situation import HELP_LABEL, HOLD_LABEL
from webapp.cli.setup_report import Line, created, note, there, you
from webapp.cli.setup_scene import HookAddress, Scene, is_inside, is_our_path, new_password, private_file

LABELS = {
    HOLD_LABEL: ("#e99695", "forgepool does nothing with this until the label is taken off"),
    HELP_LABEL: ("#fbca04", "forgepool cannot go on here without a person"),
}
#: The words of the form for a new token.
SCOPE_WORDS = "repository: read and write, issue: read and write, user: read"
HOST_LIST = (
    "by default a forge calls no loopback and no private address: in its app.ini, section [webhook], ALLOWED_HOST_LIST "
    "must name it, as `external,loopback,private` does; `forgepool doctor --smoke` tells whether it calls"
)


def steps(scene: Scene, *, types: Iterable[str], repos: Iterable[str], address: HookAddress) -> Iterator[Line]:
    """Make or check everything; what fails is a line like the others, and the rest goes on."""
    names, repos = list(types), list(repos)
    called: set[str] = set()
    for name in names:
        yield from _guarded(account(scene, name), f"the account of {name}")
    for repo in repos:
        yield from _guarded(repository(scene, repo, names, address, called), repo)
    for url in sorted(filter(is_inside, called)):
        yield note(f"{url} is an address inside of a network", HOST_LIST)


def _guarded(lines: Iterator[Line], what: str) -> Iterator[Line]:
    try:
        yield from lines
    except ForgeError as error:
        yield you(f"{what}: {error}", "see to it and run this again; what was made is not made twice")


# --- accounts ------------------------------------------------------------------------------------


def account(scene: Scene, name: str) -> Iterator[Line]:
    """See that a type has an account and a token of it."""
    kind = scene.settings.types[name]
    if kind.token_file is None:
        yield you(f"type {name} has no token", f"set types.{name}.token_file in {scene.settings.path.name}")
    elif scene.token(kind) is not None:
        yield from _token(scene, name, kind, kind.token_file)
    elif scene.client(scene.admin_token).has_user(kind.forge_user):
        yield you(
            f"{kind.forge_user} has an account, but there is no token of it in {kind.token_file}",
            token_by_hand(scene.url, kind.forge_user, kind.token_file),
        )
    else:
        admin = scene.admin()
        if admin is not None and admin.is_admin:
            yield from _new_account(scene, name, kind, kind.token_file)
        else:
            whose = f"{admin.login} is no administrator of the forge" if admin else "no administrator's token was given"
            yield you(
                f"there is no account {kind.forge_user}, and {whose}",
                f"run this again with the token of one (--admin-token-file), or make the account at "
                f"{scene.url}/user/sign_up, or name one of yours as types.{name}.forge_user",
            )


def _token(scene: Scene, name: str, kind: TypeSettings, path: Path) -> Iterator[Line]:
    by_hand = token_by_hand(scene.url, kind.forge_user, path)
    try:
        owner = scene.owner_of_token(name)
    except NotAllowed as error:
        yield you(f"the token in {path} is not accepted ({error})", by_hand)
        return
    if owner is None or not scene.is_ours(name):
        login = owner.login if owner else "nobody"
        yield you(f"the token in {path} belongs to {login}, not to {kind.forge_user}", by_hand)
        return
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        path.chmod(0o600)
        yield note(f"{path} could be read by other users, and cannot any more")
    yield there(f"account {kind.forge_user} of type {name}, with a token that works")


def _new_account(scene: Scene, name: str, kind: TypeSettings, path: Path) -> Iterator[Line]:
    """Make an account and its token. The password is known for as long as that takes, and to nobody."""
    admin, password = scene.client(scene.admin_token), new_password()
    # The file first: a token that cannot be kept is not made.
    with private_file(path) as file:
        admin.create_user(kind.forge_user, email=kind.git_email, password=password)
        try:
            with scene.with_password(kind.forge_user, password) as own:
                file.write(own.create_token(kind.forge_user) + "\n")
        except ForgeError:
            # Without a token nobody can use it, and the next time it would be in the way.
            with suppress(ForgeError):
                admin.delete_user(kind.forge_user)
            raise
    scene.forget(name)
    yield created(f"account {kind.forge_user} of type {name}, with a token in {path}")


def token_by_hand(url: str, login: str, path: Path) -> str:
    """Tell how a person makes a token."""
    return (
        f"sign in as {login}, make a token at {url}/user/settings/applications with {SCOPE_WORDS} "
        f"({', '.join(SCOPES)}); then `install -m 600 /dev/stdin {path}`, paste it, Enter, Ctrl-D"
    )


# --- repositories --------------------------------------------------------------------------------


def repository(scene: Scene, repo: str, names: Iterable[str], address: HookAddress, called: set[str]) -> Iterator[Line]:
    """See that a repository is as it must be. called: gets the address of its webhook."""
    reader = scene.reader(repo)
    state = scene.state(reader, repo) if reader else None
    if reader is None or state is None:
        yield you(
            f"{repo}: nobody whose token is here can see such a repository",
            "check its name; or run this again with a token of its owner (--admin-token-file)",
        )
        return
    known = state.repository
    if known.archived:
        yield you(f"{repo} is archived: nothing can be written there", "take it out of the archive, or out of repos")
    style = scene.settings.service.merge_style
    if style not in known.merge_styles:
        allowed = ", ".join(known.merge_styles) or "none"
        yield you(
            f"{repo} does not allow merges of the style {style}",
            f"allow it at {scene.url}/{repo}/settings, or set service.merge_style to one that is allowed: {allowed}",
        )
    for name in names:
        yield from _access(scene, repo, name)
    yield from labels(scene, repo, scene.writer(repo) or reader)
    yield from hook(scene, repo, address, called)


def _access(scene: Scene, repo: str, name: str) -> Iterator[Line]:
    login, own = scene.settings.types[name].forge_user, scene.client_of(name)
    if own is None:
        yield you(f"{repo}: {login} was not let in, since without its token nobody knows whose account it is", AGAIN)
        return
    state = scene.state(own, repo)
    if state is not None and state.repository.can_push:
        if lacking := own.lacking_scopes(repo):
            path = scene.settings.types[name].token_file or Path()
            yield you(f"the token of {login} lacks {', '.join(lacking)}", token_by_hand(scene.url, login, path))
        else:
            yield there(f"{repo}: {login} may write")
        return
    manager = scene.manager(repo)
    if manager is None:
        yield you(
            f"{repo}: {login} may not write",
            f"add {login} with the right to write at {scene.url}/{repo}/settings/collaboration",
        )
        return
    manager.let_write(repo, login)
    yield created(f"{repo}: {login} may write")


AGAIN = "first see to the token, as said above; then run this again"


def labels(scene: Scene, repo: str, client: SetupForge) -> Iterator[Line]:
    """See that the labels with a meaning of ours can be chosen."""
    known = client.labels(repo)
    for name, (color, description) in LABELS.items():
        if name in known:
            yield there(f"{repo}: label {name}")
            continue
        try:
            client.create_label(repo, name, color=color, description=description)
        except NotAllowed:
            yield you(f"{repo}: there is no label {name}", f"make it at {scene.url}/{repo}/labels")
        else:
            yield created(f"{repo}: label {name}")


def hook(scene: Scene, repo: str, address: HookAddress, called: set[str]) -> Iterator[Line]:
    """Put the webhook there anew: nobody can see whether the secret of an old one is still right."""
    version, manager = scene.version(), scene.manager(repo)
    old = manager.hooks(repo) if manager is not None else ()
    url = address.among(old)
    if url is None:
        yield you(
            f"{repo}: no webhook, since the forge cannot reach {scene.settings.service.listen}",
            "run this again with --hook-url, the address at which the forge reaches this service",
        )
        return
    called.add(url)
    if manager is None:
        yield you(f"{repo}: nobody whose token is here may add a webhook", hook_by_hand(scene, repo, url))
        return
    secret = scene.settings.webhook_secret().decode()
    made = manager.create_hook(repo, kind=version.hook_type, url=url, secret=secret, events=version.events)
    # The new one first: what happens in between is told twice, and counts once.
    ours = [one for one in old if one.url == url]
    for one in ours:
        manager.delete_hook(repo, one.id)
    yield created(f"{repo}: webhook {made.id} to {url}{' in place of an older one' if ours else ''}")
    kept = manager.hook(repo, made.id)
    if not kept.active:
        yield you(f"{repo}: the forge left the webhook asleep", f"switch it on at {scene.url}/{repo}/settings/hooks")
    for event, meaning in unheard(kept, version.events).items():
        yield note(f"{repo}: this forge does not tell of {event}: {meaning}")
    for other in (one for one in old if one not in ours and is_our_path(one.url)):
        yield note(
            f"{repo}: webhook {other.id} goes to {other.url}, perhaps of an earlier set-up",
            f"if so, delete it at {scene.url}/{repo}/settings/hooks; everything is told twice by two",
        )


def hook_by_hand(scene: Scene, repo: str, url: str) -> str:
    """Tell how a person adds the webhook."""
    version = scene.version()
    return (
        f"run this again with a token of its owner (--admin-token-file); or add one of the type {version.hook_type} at "
        f"{scene.url}/{repo}/settings/hooks: {url}, POST, application/json, the secret that is in "
        f"{scene.settings.service.webhook_secret_file}, and the events of issues, pull requests and workflows"
    )
