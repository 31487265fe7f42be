"""The configuration: forgepool.toml, then the environment. Read once, checked whole, passed on."""

import hashlib
import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from pool.crashpoints import CRASH_AT
from pool.errors import BadInput, CheckoutError, ConfigError
from pool.model import check_name
from tasks.config_errors import PREFIX, meant, problem, unknown_environment, unknown_tables
from tasks.config_tables import SECRETS, ServiceSettings, TypeName, TypeSettings
from tasks.git import check_url
from tasks.secret_files import make_secret, read_secret

__all__ = ["CONFIG_ENV", "CONFIG_NAME", "ServiceSettings", "Settings", "TypeSettings"]

#: Where the configuration is, when it is not ./forgepool.toml.
CONFIG_ENV = "FORGEPOOL_CONFIG"
CONFIG_NAME = "forgepool.toml"
#: What the engine gives to an agent; an agent that calls forgepool must not be refused for it.
AGENT_ENV = frozenset(
    (
        *("PROMPT_FILE", "RESULT_FILE", "SESSION_ID", "TASK_ID", "TYPE", "INSTANCE", "REPO"),
        *("NUMBER", "KIND", "BRANCH", "MODEL", "TOKEN_FILE", "LOGIN"),
    )
)
#: Where the configuration is, and where `forgepool chaos` lets processes die; see pool/crashpoints.py.
PLACES = frozenset(name.removeprefix(PREFIX) for name in (CONFIG_ENV, CRASH_AT))
#: A socket's path has room for 108 bytes with the final zero on Linux, 104 on macOS (unix(7)).
SOCKET_PATH_BYTES = 100


class Settings(BaseModel):
    """Everything that one deployment is told by its operator."""

    model_config = ConfigDict(frozen=True)

    path: Path  #: of forgepool.toml
    service: ServiceSettings
    types: dict[TypeName, TypeSettings]

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Read forgepool.toml and the environment.

        path: the file; None: $FORGEPOOL_CONFIG, else ./forgepool.toml.
        Raises ConfigError with one sentence per problem, each naming the key, the value and the remedy.
        """
        path = (path or Path(os.environ.get(CONFIG_ENV) or CONFIG_NAME)).absolute()
        data = read_toml(path)
        problems = unknown_tables(data) + unknown_environment(os.environ, _known_environment())
        service = _service(_table(data, "service", "[service]", problems), problems)
        tables = _table(data, "types", "[types.NAME]", problems)
        types = {name: _type(name, table, problems) for name, table in tables.items()}
        if service is None or problems:
            raise ConfigError(problems)
        loaded = cls(path=path, service=service, types={n: t for n, t in types.items() if t is not None})
        if problems := loaded._contradictions():
            raise ConfigError(problems)
        return loaded._with_absolute_paths()

    def _contradictions(self) -> list[str]:
        problems = [] if self.types else ["types: there is none; describe at least one, for instance [types.dev]"]
        users: dict[str, str] = {}
        for name, settings in self.types.items():
            other = users.setdefault(settings.forge_user.lower(), name)
            if other != name:
                problems.append(
                    f"types.{name}.forge_user = {settings.forge_user!r}: types.{other} has it already; "
                    "a forge lets nobody review his own pull request, so each type needs an account of its own"
                )
        if (report := self.service.report_type) and report not in self.types:
            problems.append(
                f"service.report_type = {report!r}: not among the types; known: {', '.join(sorted(self.types))}"
            )
        return problems + self._bad_git_url()

    def _bad_git_url(self) -> list[str]:
        try:
            check_url(self.clone_url("owner/name"))
        except CheckoutError as error:
            return [f"service.git_url: {error}"]
        except (LookupError, ValueError, AttributeError):
            return ["service.git_url: only {forge_url} and {repo} are filled in; leave out every other brace"]
        return []

    def _with_absolute_paths(self) -> Self:
        """Resolve relative paths against the folder of the configuration, not the current one."""
        here = self.path.parent

        def absolute(model: Any) -> Any:
            changes = {k: here / v.expanduser() for k, v in model if isinstance(v, Path)}
            return model.model_copy(update=changes)

        types = {name: absolute(settings) for name, settings in self.types.items()}
        types = {n: t if t.branch_prefix else t.model_copy(update={"branch_prefix": f"{n}/"}) for n, t in types.items()}
        return self.model_copy(update={"service": absolute(self.service), "types": types})

    # --- places -------------------------------------------------------------------------------

    @property
    def state_dir(self) -> Path:
        """The folder of everything that forgepool writes."""
        return self.service.state_dir

    @property
    def database_url(self) -> str:
        """The URL of the database, the default filled in."""
        return self.service.database_url or f"sqlite:///{self.state_dir / 'forgepool.db'}"

    @property
    def is_embedded_broker(self) -> bool:
        """Whether forgepool starts its own Valkey."""
        return not self.service.broker_url

    @property
    def broker_socket(self) -> Path:
        """The embedded Valkey's socket."""
        path = self.state_dir / "valkey" / "valkey.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
            return path
        folder = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"forgepool-{os.getuid()}-{folder}" / "valkey.sock"

    @property
    def broker_url(self) -> str:
        """The URL of the broker, the default filled in."""
        return self.service.broker_url or f"redis+socket://{quote(str(self.broker_socket))}"

    def clone_url(self, repo: str) -> str:
        """Return where a repository is cloned from."""
        return self.service.git_url.format(forge_url=self.service.forge_url.rstrip("/"), repo=repo)

    # --- look-ups -----------------------------------------------------------------------------

    def type(self, name: str) -> TypeSettings:
        """Return a type. Raises BadInput with the known names."""
        if found := self.types.get(name):
            return found
        raise BadInput(
            "type", name, f"not in {self.path.name}; known: {', '.join(sorted(self.types))}{_near(name, self.types)}"
        )

    @property
    def types_by_login(self) -> dict[str, str]:
        """Map the lower-cased forge login of each type to its name."""
        return {settings.forge_user.lower(): name for name, settings in self.types.items()}

    @property
    def report_type(self) -> str:
        """The type whose account reads the forge, reports and asks."""
        return self.service.report_type or self.service.merge_type

    @property
    def talks_back(self) -> bool:
        """Whether there is an account that reads the forge; without one only webhooks count."""
        kind = self.types.get(self.report_type)
        return kind is not None and kind.token_file is not None

    def allows(self, repo: str) -> bool:
        """Tell whether a repository is on the allow-list. Forgejo's names do not differ by case."""
        return any(entry in ("*", repo) or entry.lower() == repo.lower() for entry in self.service.repos)

    # --- secrets ------------------------------------------------------------------------------

    def webhook_secret(self) -> bytes:
        """Return the webhook's secret. Raises ConfigError when there is none or it is empty."""
        return _secret(self.service.webhook_secret, self.service.webhook_secret_file, "webhook_secret").encode()

    def operator_token(self) -> str:
        """Return the token of POST /cancel; made on first use when none is configured."""
        return self._own_secret(self.service.operator_token, self.service.operator_token_file, "operator_token")

    def flower_password(self) -> str:
        """Return Flower's password; made on first use when none is configured."""
        return self._own_secret(self.service.flower_password, self.service.flower_password_file, "flower_password")

    def _own_secret(self, value: SecretStr | None, path: Path | None, key: str) -> str:
        if value is None and path is None:
            path = self.state_dir / "secrets" / key.replace("_", "-")
            make_secret(path)
        return _secret(value, path, key)

    def missing_files(self) -> list[str]:
        """Name every file that the configuration speaks of and that cannot be read."""
        problems: list[str] = []
        try:
            self.webhook_secret()
        except ConfigError as error:
            problems += error.problems
        for name, settings in self.types.items():
            if settings.token_file is not None and not os.access(settings.token_file, os.R_OK):
                problems.append(f"types.{name}.token_file = {str(settings.token_file)!r}: cannot be read; create it")
        return problems


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file says. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file; make one with `forgepool config init`"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: is not TOML: {error}"]) from None


def _known_environment() -> set[str]:
    """Return every name, without the prefix, that a FORGEPOOL_* variable may have."""
    keys = {key.upper() for key in ServiceSettings.model_fields}
    return keys | {f"{key.upper()}_FILE" for key in SECRETS} | AGENT_ENV | PLACES


def _table(data: Mapping[str, Any], key: str, written: str, problems: list[str]) -> dict[str, Any]:
    """Return a table of the file; an empty one when it is not there, since the environment may say it all."""
    table = data.get(key, {})
    if isinstance(table, dict):
        return table
    problems.append(f"{key} = {table!r}: is not a table; write {written} and its keys below")
    return {}


def _service(table: dict[str, Any], problems: list[str]) -> ServiceSettings | None:
    for key in SECRETS:
        problems += _secret_from_file(table, key)
    return _build(ServiceSettings, table, ("service",), problems, environ=os.environ)


def _type(name: str, table: Any, problems: list[str]) -> TypeSettings | None:
    try:
        # Room for the "-default" of its first instance.
        check_name("type", f"{name}-default")
    except BadInput as error:
        problems.append(f"types.{name}: {error.remedy}, at most 55 characters")
    if not isinstance(table, dict):
        problems.append(f"types.{name}: is not a table; write [types.{name}] and its keys below")
        return None
    return _build(TypeSettings, table, ("types", name), problems)


_Model = TypeVar("_Model", bound=BaseModel)


def _build(
    model: type[_Model],
    table: dict[str, Any],
    where: tuple[str, ...],
    problems: list[str],
    *,
    environ: Mapping[str, str] | None = None,
) -> _Model | None:
    """Validate one table; on failure add a sentence per problem and return None."""
    try:
        return model(**table)
    except ValidationError as error:
        problems += [
            problem(dict(e), where=where, model=model, table=table, environ=environ or {}, hidden=SECRETS)
            for e in error.errors()
        ]
        return None


def _secret_from_file(service: dict[str, Any], key: str) -> list[str]:
    """Refuse a bare secret in the file; read $FORGEPOOL_KEY_FILE for keys without a *_file setting of their own."""
    name = f"{PREFIX}{key.upper()}_FILE"
    if f"{key}_file" in ServiceSettings.model_fields:
        if service.pop(key, None) is None:
            return []
        return [
            f"service.{key}: a secret does not belong into this file; use service.{key}_file or {PREFIX}{key.upper()}"
        ]
    if name not in os.environ:
        return []
    try:
        service[key] = read_secret(Path(os.environ[name]), name)
    except ConfigError as error:
        return list(error.problems)
    return []


def _secret(value: SecretStr | None, path: Path | None, key: str) -> str:
    if value is not None and value.get_secret_value().strip():
        return value.get_secret_value().strip()
    if path is None:
        raise ConfigError(
            [f"service.{key}_file: is missing; name a file that holds the secret (`forgepool config init` makes one)"]
        )
    return read_secret(path, f"service.{key}_file")


def _near(name: str, known: Mapping[str, Any]) -> str:
    hint = meant(name, known)
    return hint if "did you mean" in hint else ""
