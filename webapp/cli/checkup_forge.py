"""Checks of what the forge says: versions, accounts, rights, webhooks. Asks it with the tokens of the types."""

from collections.abc import Iterator, Sequence

from pool.errors import ForgeError, NotAllowed
from tasks.forge_values import Hook
from tasks.settings import Settings
from tasks.setup_values import RepositoryState, unheard
from webapp.cli.checkup import Check, fail, ok, warn
from webapp.cli.setup_forge import HOST_LIST, token_by_hand
from webapp.cli.setup_scene import Scene, is_inside, is_our_path

#: With `repos = ["*"]` every repository that the account may write to is served; more than this are not looked at.
MOST_REPOS = 50
INIT = "`forgepool init` sees to it"
ASK_OWNER = "call `forgepool doctor --admin-token-file FILE` with a token of its owner"


def examine(settings: Settings, *, admin_token: str | None = None, is_reached: bool = False) -> Iterator[Check]:
    """Yield the checks that ask the forge. is_reached: a delivery with a good signature came lately."""
    with Scene(settings=settings, admin_token=admin_token) as scene:
        if admin_token is None and not any(scene.token(kind) for kind in settings.types.values()):
            yield ok("accounts", "no type has a token: nothing is asked of the forge, and only its webhooks count")
            return
        try:
            yield from _versions(scene)
            yield from accounts(scene)
            repos = served(scene)
            yield from rights(scene, repos)
            yield from webhooks(scene, repos, is_reached=is_reached)
        except ForgeError as error:
            yield fail("accounts", str(error), "see that the forge runs, and check service.forge_url")


def served(scene: Scene) -> list[str]:
    """Return the repositories that are served. Raises ForgeError."""
    repos = scene.settings.service.repos
    named = [repo for repo in repos if repo != "*"]
    client = scene.client_of(scene.settings.report_type) if scene.settings.report_type in scene.settings.types else None
    if "*" not in repos or client is None:
        return named
    return sorted({*named, *client.writable()})[:MOST_REPOS]


def _versions(scene: Scene) -> Iterator[Check]:
    poll_s = scene.settings.service.forge_poll_s
    for lack in scene.version().lacks:
        remedy = f"every {poll_s:g} s, as service.forge_poll_s says" if poll_s else "set service.forge_poll_s"
        yield warn("forge version", f"{scene.version().name}: {lack}", f"{remedy}; or use a newer version")


# --- accounts ------------------------------------------------------------------------------------


def accounts(scene: Scene) -> Iterator[Check]:
    """Look whether each type has a token, of its own account, that is not too mighty."""
    found = [check for name in scene.settings.types for check in _account(scene, name)]
    yield from found
    if not found:
        yield ok("accounts", "every type has a token of its own account")


def _account(scene: Scene, name: str) -> Iterator[Check]:
    kind = scene.settings.types[name]
    if scene.token(kind) is None:
        # A file that is named and not there is told by the check of files.
        if kind.token_file is None:
            words = f"type {name} has no token: its agents can neither push nor answer"
            yield warn("accounts", words, f"set types.{name}.token_file; {INIT}")
        return
    by_hand = token_by_hand(scene.url, kind.forge_user, kind.token_file or scene.settings.path)
    try:
        owner = scene.owner_of_token(name)
    except NotAllowed as error:
        yield fail("accounts", f"the token of type {name} is not accepted: {error}", by_hand)
        return
    if owner is None:
        return
    if not scene.is_ours(name):
        other = scene.settings.types_by_login.get(owner.login.lower())
        whose = f"{owner.login}, the account of type {other}" if other else owner.login
        words = f"the token of type {name} belongs to {whose}, not to {kind.forge_user}"
        yield fail("accounts", words, by_hand)
    elif owner.is_admin:
        words = f"{owner.login} of type {name} is an administrator of the forge: its agents may do everything there"
        yield warn("accounts", words, "take that right away from it")


# --- rights --------------------------------------------------------------------------------------


def rights(scene: Scene, repos: Sequence[str]) -> Iterator[Check]:
    """Look whether the accounts may do in the repositories what they have to."""
    found = [check for repo in repos for check in _repository(scene, repo)]
    if repos:
        found += _scopes(scene, repos[0])
    yield from found
    if not found:
        yield ok("rights", f"every account may write to {', '.join(repos) or 'what it is asked for'}")


def _repository(scene: Scene, repo: str) -> Iterator[Check]:
    reader = scene.reader(repo)
    state = scene.state(reader, repo) if reader else None
    if state is None:
        yield fail("rights", f"{repo}: nobody whose token is here can see such a repository", f"check its name; {INIT}")
        return
    yield from _settings(scene, state)
    for name, kind in scene.settings.types.items():
        client = scene.client_of(name)
        own = scene.state(client, repo) if client is not None else None
        if client is not None and (own is None or not own.repository.can_push):
            step = f"add it at {scene.url}/{repo}/settings/collaboration; {INIT}"
            yield fail("rights", f"{repo}: {kind.forge_user} of type {name} may not write", step)


def _settings(scene: Scene, state: RepositoryState) -> Iterator[Check]:
    known, style = state.repository, scene.settings.service.merge_style
    where = f"at {scene.url}/{known.full_name}/settings"
    if known.archived:
        step = f"take it out of the archive {where}, or out of service.repos"
        yield fail("rights", f"{known.full_name} is archived: nothing can be written there", step)
    if style not in known.merge_styles:
        allowed = ", ".join(known.merge_styles) or "none"
        step = f"allow it {where}, or set service.merge_style to one that is allowed: {allowed}"
        yield fail("merge style", f"{known.full_name} does not allow merges of the style {style}", step)


def _scopes(scene: Scene, repo: str) -> Iterator[Check]:
    for name, kind in scene.settings.types.items():
        client = scene.client_of(name)
        if client is not None and (lacking := client.lacking_scopes(repo)):
            step = token_by_hand(scene.url, kind.forge_user, kind.token_file or scene.settings.path)
            yield fail("rights", f"the token of {kind.forge_user} lacks {', '.join(lacking)}", step)


# --- webhooks ------------------------------------------------------------------------------------


def webhooks(scene: Scene, repos: Sequence[str], *, is_reached: bool) -> Iterator[Check]:
    """Look whether each repository has one webhook of ours, and whether it tells of everything."""
    found = [check for repo in repos for check in _webhooks(scene, repo, is_reached=is_reached)]
    yield from found
    if not found:
        yield ok("webhooks", "one in every repository, awake, and it tells of everything")


def ours(hooks: Sequence[Hook]) -> list[Hook]:
    """Return the webhooks that go to a forgepool."""
    return [hook for hook in hooks if is_our_path(hook.url)]


def _webhooks(scene: Scene, repo: str, *, is_reached: bool) -> Iterator[Check]:
    manager = scene.manager(repo)
    if manager is None:
        yield warn("webhooks", f"{repo}: nobody whose token is here may look at them", ASK_OWNER)
        return
    hooks = ours(manager.hooks(repo))
    awake = [hook for hook in hooks if hook.active]
    place = f"{scene.url}/{repo}/settings/hooks"
    if not hooks:
        yield fail("webhooks", f"{repo} has none that goes to a forgepool", INIT)
    elif not awake:
        yield fail("webhooks", f"{repo}: the one to {hooks[0].url} is asleep", f"switch it on at {place}, or {INIT}")
    elif len(awake) > 1:
        urls = ", ".join(hook.url for hook in awake)
        yield warn(
            "webhooks", f"{repo} has {len(awake)}, to {urls}: everything is told twice", f"delete one at {place}"
        )
    for hook in awake:
        yield from _webhook(scene, repo, hook, is_reached=is_reached)


def _webhook(scene: Scene, repo: str, hook: Hook, *, is_reached: bool) -> Iterator[Check]:
    if hook.content_type != "json":
        yield fail("webhooks", f"{repo}: it sends {hook.content_type}, and only JSON is taken", INIT)
    for event, meaning in unheard(hook, scene.version().events).items():
        step = f"{INIT}: it makes the webhook anew; an event that this forge does not know stays away"
        yield warn("webhooks", f"{repo}: it does not tell of {event}: {meaning}", step)
    if not is_reached and is_inside(hook.url):
        yield warn("webhooks", f"{repo}: {hook.url} is an address inside of a network, and nothing came yet", HOST_LIST)
