"""What set-up works with: the configuration, the forge, and whose rights may be used for what."""

import os
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self
from urllib.parse import urlsplit

from pool.errors import BadInput, ConfigError, ForgeError, ForgeUnavailable
from tasks.forge_setup import SetupForge
from tasks.forge_values import Hook
from tasks.secret_files import read_secret, redacted
from tasks.settings import Settings, TypeSettings
from tasks.setup_values import Account, ForgeVersion, RepositoryState, is_loopback, is_private

ADMIN_ENV = "FORGEPOOL_ADMIN_TOKEN"
HOOK_PATH = "/webhooks/forgejo"
#: Every path at which the web app takes deliveries.
HOOK_PATHS = (HOOK_PATH, "/webhooks")
ANY_ADDRESS = ("0.0.0.0", "::", "[::]")  # noqa: S104 - to know it, not to listen on it


@dataclass(kw_only=True)
class Scene:
    """The forge, with the rights that we have there. A context manager."""

    settings: Settings
    admin_token: str | None = field(default=None, repr=False)
    _clients: dict[str | None, SetupForge] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)
    _ours: dict[str, Account | ForgeError | None] = field(default_factory=dict)
    _states: dict[tuple[int, str], RepositoryState | None] = field(default_factory=dict)
    _admin: Account | None = None
    _version: ForgeVersion | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """The address of the forge, without a slash at its end."""
        return self.settings.service.forge_url.rstrip("/")

    def client(self, token: str | None = None) -> SetupForge:
        """Return the forge with the rights of a token; None: with nobody's."""
        if token not in self._clients:
            client = SetupForge(self.url, token=token)
            self._clients[token] = self._stack.enter_context(client)
        return self._clients[token]

    def with_password(self, login: str, password: str) -> SetupForge:
        """Return the forge with the rights of an account whose password is known, for one use."""
        return SetupForge(self.url, password_of=(login, password))

    def version(self) -> ForgeVersion:
        """Return which forge it is; asked once. Raises ForgeError."""
        if self._version is None:
            self._version = self.client().version()
        return self._version

    # --- accounts -----------------------------------------------------------------------------

    def admin(self) -> Account | None:
        """Return whose token was given for the set-up; None: none was. Raises ForgeError when it is not accepted."""
        if self.admin_token and self._admin is None:
            self._admin = self.client(self.admin_token).whoami()
        return self._admin

    def token(self, kind: TypeSettings) -> str | None:
        """Return the token of a type; None: there is none yet."""
        if kind.token_file is None or not kind.token_file.exists():
            return None
        try:
            return read_secret(kind.token_file, "token_file")
        except ConfigError:
            return None

    def owner_of_token(self, name: str) -> Account | None:
        """Return the account that a type's token belongs to; None: it has none. Raises ForgeError. Asked once."""
        if name not in self._ours:
            token = self.token(self.settings.types[name])
            try:
                self._ours[name] = self.client(token).whoami() if token else None
            except ForgeError as error:
                self._ours[name] = error
        found = self._ours[name]
        if isinstance(found, ForgeError):
            raise found
        return found

    def forget(self, name: str) -> None:
        """Ask again: the type has a token now."""
        self._ours.pop(name, None)

    def is_ours(self, name: str) -> bool:
        """Tell whether the account of a type is sure to be ours: we hold a token of it.

        On a forge of others a login like `dev` may be a stranger's, who must not be let into a repository.
        """
        with suppress(ForgeError):
            owner = self.owner_of_token(name)
            return owner is not None and owner.login.lower() == self.settings.types[name].forge_user.lower()
        return False

    def client_of(self, name: str) -> SetupForge | None:
        """Return the forge with the rights of a type's own account; None: its token is not there, or not its own."""
        token = self.token(self.settings.types[name])
        return self.client(token) if token and self.is_ours(name) else None

    # --- rights -------------------------------------------------------------------------------

    def state(self, client: SetupForge, repo: str) -> RepositoryState | None:
        """Return a repository as an account sees it; None: it does not. Asked once. Raises ForgeUnavailable."""
        key = (id(client), repo)
        if key not in self._states:
            try:
                self._states[key] = client.repository(repo)
            except ForgeUnavailable:
                raise
            except ForgeError:
                self._states[key] = None
        return self._states[key]

    def manager(self, repo: str) -> SetupForge | None:
        """Return the forge with rights that suffice to change a repository's settings; None: nobody's do."""
        return self._first(repo, lambda state: state.repository.can_admin)

    def writer(self, repo: str) -> SetupForge | None:
        """Return the forge with rights that suffice to write to a repository; None: nobody's do."""
        return self._first(repo, lambda state: state.repository.can_push)

    def reader(self, repo: str) -> SetupForge | None:
        """Return the forge with rights that suffice to see a repository, if need be nobody's; None: none do."""
        found = self._first(repo, lambda _: True)
        return found or (self.client() if self.state(self.client(), repo) is not None else None)

    def _first(self, repo: str, suffices: Callable[[RepositoryState], bool]) -> SetupForge | None:
        found = ((one, self.state(one, repo)) for one in self._known())
        return next((one for one, state in found if state is not None and suffices(state)), None)

    def _known(self) -> Iterator[SetupForge]:
        if self.admin_token:
            yield self.client(self.admin_token)
        for name in self.settings.types:
            if (client := self.client_of(name)) is not None:
                yield client


# --- the hook's address --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HookAddress:
    """The address that the forge is to call."""

    url: str | None  #: None: it cannot be known from here
    is_given: bool  #: by a person, now

    def among(self, hooks: Iterable[Hook]) -> str | None:
        """Return the address for a repository that has these: it need not be said twice."""
        known = {hook.url for hook in hooks if is_our_path(hook.url)}
        return known.pop() if not self.is_given and len(known) == 1 else self.url


def hook_address(settings: Settings, given: str | None) -> HookAddress:
    """Find out the address that the forge is to call. Raises BadInput for one that is given and is none."""
    return HookAddress(url=_hook_url(settings, given), is_given=bool(given))


def _hook_url(settings: Settings, given: str | None) -> str | None:
    if given:
        check_address("hook-url", given)
        return given if urlsplit(given).path.rstrip("/") else given.rstrip("/") + HOOK_PATH
    host, _, port = settings.service.listen.rpartition(":")
    if host not in ANY_ADDRESS and not is_loopback(host):
        return f"http://{host}:{port}{HOOK_PATH}"
    if is_loopback(urlsplit(settings.service.forge_url).hostname or ""):
        return f"http://127.0.0.1:{port}{HOOK_PATH}"
    return None


def check_address(option: str, value: str) -> None:
    """Refuse what is no address of a web server. Raises BadInput."""
    parts = urlsplit(value)
    is_word = value.isprintable() and not any(map(str.isspace, value))
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in value or not is_word:
        raise BadInput(option, redacted(value), "write it like https://forge.example.org")


def is_our_path(url: str) -> bool:
    """Tell whether an address is one at which a forgepool would take deliveries."""
    return urlsplit(url).path.rstrip("/") in HOOK_PATHS


def is_inside(url: str) -> bool:
    """Tell whether the host of an address is one that a forge does not call by default."""
    host = urlsplit(url).hostname or ""
    if is_private(host):
        return True
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(is_private(str(entry[4][0])) for entry in found)


# --- secrets -------------------------------------------------------------------------------------


def take_admin_token(path: Path | None) -> str | None:
    """Return the token for the set-up, from a file or else the environment, and take it out of the environment.

    No process that is started from here may have it, least of all an agent.
    """
    given = os.environ.pop(ADMIN_ENV, "").strip()
    return read_secret(path, "--admin-token-file") if path is not None else given or None


def new_password() -> str:
    """Return a random password with a character of each kind that a forge may ask for."""
    return secrets.token_urlsafe(24) + "aZ7!"


@contextmanager
def private_file(path: Path) -> Iterator[IO[str]]:
    """Open a new file that only we can read; it gets its name when the block ends without an error."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yield file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
