"""The two kinds of tables in forgepool.toml: [service] and [types.NAME]. Says what each key is and what it may be."""

import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from pool.errors import BadInput
from pool.model import check_labels, check_name, check_repo
from tasks import presets
from tasks.config_errors import PREFIX
from tasks.environment import check_allowed
from tasks.forge_values import MergeStyle

#: Settings that may carry a password: by environment, each also as NAME_FILE.
SECRETS = ("webhook_secret", "operator_token", "database_url", "broker_url", "flower_password")

BROKERS = ("redis", "rediss", "redis+socket", "amqp", "amqps", "pyamqp")
MIB = 1024 * 1024
MAX_PORT = 65535


def _sentence(check: Any, field: str) -> Any:
    """Let one of our checks speak through pydantic."""

    def checked(value: Any) -> Any:
        try:
            return check(field, value)
        except BadInput as error:
            raise ValueError(error.remedy) from None

    return AfterValidator(checked)


def _repo_or_all(field: str, value: str) -> str:
    return value if value == "*" else check_repo(field, value)


def _login(field: str, value: str) -> str:
    # Forgejo modules/validation/helpers.go, validUsernamePattern.
    if re.fullmatch(r"[\da-zA-Z][-.\w]*", value):
        return value
    raise BadInput(field, value, "use the login as the forge shows it, without @")


def _model(field: str, value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][^\s\x00]{0,199}", value):
        return value
    raise BadInput(field, value, "use the model's name as the agent's own documentation writes it")


def _agent(_field: str, value: str) -> str:
    return presets.by_name(value).name


def _command(_field: str, value: tuple[str, ...]) -> tuple[str, ...]:
    return presets.check(value)


def _address(field: str, value: str) -> str:
    host, _, port = value.rpartition(":")
    if not value or (host and re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= MAX_PORT):
        return value
    raise BadInput(field, value, "write host:port, as in 127.0.0.1:8420")


def _broker(field: str, value: str) -> str:
    if not value or value.partition("://")[0] in BROKERS:
        return value
    raise BadInput(field, value, "write redis://, rediss:// or amqp:// and the address, or leave it out")


TypeName = Annotated[str, _sentence(check_name, "type")]
Labels = Annotated[tuple[str, ...], _sentence(check_labels, "match_labels")]
Repo = Annotated[str, _sentence(_repo_or_all, "repos")]
Seconds = Annotated[float, Field(gt=0, le=30 * 86400)]
Days = Annotated[float, Field(ge=0, le=36500)]
Address = Annotated[str, _sentence(_address, "listen")]
Cap = Annotated[int, Field(ge=1, le=1000)]


class TypeSettings(BaseModel):
    """One `[types.NAME]` table: a role, with its account on the forge and its agent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    forge_user: Annotated[
        str, _sentence(_login, "forge_user"), Field(description="login of the type's account on the forge")
    ]
    token_file: Annotated[Path | None, Field(description="file with the account's access token")] = None
    git_name: Annotated[str, Field(min_length=1, description="author name of its commits")]
    git_email: Annotated[
        str, Field(min_length=3, pattern="@", description="author address of its commits", examples=["dev@example.org"])
    ]
    branch_prefix: Annotated[str, Field(description="branches are PREFIX + issue number; default: TYPE/")] = ""
    agent: Annotated[
        Annotated[str, _sentence(_agent, "agent")] | None,
        Field(description="preset: claude-code, codex, opencode or aider; or give `command`"),
    ] = None
    command: Annotated[
        Annotated[tuple[str, ...], _sentence(_command, "command")] | None,
        Field(description="program and arguments; {prompt_file}, {result_file}, {model}, {session_id}"),
    ] = None
    model: Annotated[
        Annotated[str, _sentence(_model, "model")] | None,
        Field(description="model for the agent; an instance may override it"),
    ] = None
    match_labels: Annotated[Labels, Field(description="labels that instances without their own prefer")] = ()
    time_limit_s: Annotated[Seconds, Field(description="wall-clock limit of one run")] = 4 * 3600
    silence_limit_s: Annotated[Seconds | None, Field(description="limit without any output; 0 turns it off")] = 30 * 60
    grace_s: Annotated[Seconds, Field(description="time between SIGTERM and SIGKILL of an agent")] = 10
    prompts: Annotated[
        Path | None, Field(description="folder with templates KIND.j2 in place of the built-in ones")
    ] = None
    pass_env: Annotated[
        tuple[str, ...],
        _sentence(check_allowed, "pass_env"),
        Field(description="further environment variables the agent may see; NAME or PREFIX*"),
    ] = ()

    @model_validator(mode="before")
    @classmethod
    def _zero_turns_silence_off(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("silence_limit_s") == 0:
            return {**value, "silence_limit_s": None}
        return value

    @model_validator(mode="after")
    def _one_agent(self) -> Self:
        if (self.agent is None) == (self.command is None):
            raise ValueError("give either `agent` (a preset) or `command` (a program with its arguments)")
        return self

    def preset(self) -> presets.Preset:
        """Return how to run this type's agent."""
        return presets.command_preset(self.command) if self.command else presets.by_name(self.agent or "")


class ServiceSettings(BaseSettings):
    """The `[service]` table. Each key may also come as FORGEPOOL_KEY."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    forge_url: Annotated[
        str,
        Field(
            pattern=r"^https?://[^\s/@]+(/[^\s@]*)?$",
            description="address of your forge",
            examples=["https://forge.example.org"],
        ),
    ]
    git_url: Annotated[
        str,
        Field(pattern=r"\{repo\}", description="where to clone from; {forge_url} and {repo} are filled in", repr=False),
    ] = "{forge_url}/{repo}.git"
    repos: Annotated[
        tuple[Repo, ...],
        NoDecode,
        Field(description='repositories that are served, as owner/name; "*": every one'),
    ]
    webhook_secret_file: Annotated[Path | None, Field(description="file with the webhook's secret")] = None
    webhook_secret: Annotated[SecretStr | None, Field(description="the secret itself; by environment only")] = None
    operator_token_file: Annotated[
        Path | None, Field(description="file with the token for POST /cancel; made in state_dir when not given")
    ] = None
    operator_token: Annotated[SecretStr | None, Field(description="the token itself; by environment only")] = None
    flower_password_file: Annotated[
        Path | None, Field(description="file with Flower's password; made in state_dir when not given")
    ] = None
    flower_password: Annotated[SecretStr | None, Field(description="the password itself; by environment only")] = None
    state_dir: Annotated[Path, Field(description="database, logs, checkouts, embedded broker")] = Path("forgepool-data")
    database_url: Annotated[
        str, Field(description="SQLite file or PostgreSQL; default: forgepool.db in state_dir", repr=False)
    ] = ""
    broker_url: Annotated[
        str,
        _sentence(_broker, "broker_url"),
        Field(description="redis://, rediss:// or amqp:// URL; default: an embedded Valkey in state_dir", repr=False),
    ] = ""
    host: Annotated[
        str,
        Field(
            min_length=1,
            max_length=200,
            description="name of this machine, for instances that are bound to one; default: its host name",
        ),
    ] = Field(default_factory=socket.gethostname)
    listen: Annotated[Address, Field(min_length=3, description="address of the web app")] = "127.0.0.1:8420"
    flower_listen: Annotated[Address, Field(description='address of Flower; "" turns it off')] = "127.0.0.1:5555"
    max_body_bytes: Annotated[int, Field(ge=1024, le=100 * MIB, description="largest delivery that is read")] = 10 * MIB
    merge_type: Annotated[TypeName, Field(description="type that merges approved pull requests")] = "boss"
    review_type: Annotated[
        TypeName,
        Field(description="type that is asked to review what an agent wrote; one that is not described: nobody"),
    ] = "reviewer"
    report_type: Annotated[
        str, Field(description="type whose account reads the forge, reports and asks; default: merge_type")
    ] = ""
    merge_style: Annotated[
        MergeStyle, Field(description="how the forge merges: merge, rebase, rebase-merge, squash")
    ] = MergeStyle.MERGE
    merge_wait_s: Annotated[Seconds, Field(description="how long a merge waits for checks before it is refused")] = 7200
    settle_s: Annotated[
        Seconds,
        Field(description="a pull request that cannot be merged for this time conflicts; before, it is checked"),
    ] = 30
    delete_branches: Annotated[bool, Field(description="delete the head branch of what was merged")] = True
    ci_grace_s: Annotated[
        Annotated[float, Field(ge=0, le=86400)],
        Field(description="a head without any check for this time has none; before, one may still report"),
    ] = 60
    forge_poll_s: Annotated[
        Annotated[float, Field(ge=0, le=86400)],
        Field(description="pause between two rounds of asking the forge for what no webhook told; 0: never"),
    ] = 300
    forge_rate: Annotated[
        Annotated[float, Field(gt=0, le=1000)], Field(description="calls a second that one process makes to the forge")
    ] = 5
    max_review_rounds: Annotated[Cap, Field(description="requests for changes before a person is asked")] = 3
    max_fix_ci: Annotated[Cap, Field(description="repairs of failed checks before a person is asked")] = 3
    max_rebases: Annotated[
        Cap, Field(description="tries to make it mergeable before a person is asked; the last is merge_type's")
    ] = 3
    max_tries: Annotated[Cap, Field(description="runs that failed at one thing before a person is asked")] = 3
    max_chain: Annotated[Cap, Field(description="tasks for one issue since a person acted before one is asked")] = 30
    max_tasks_per_day: Annotated[
        Cap, Field(description="tasks for one issue within a day before a person is asked")
    ] = 40
    one_conversation: Annotated[
        bool, Field(description="a task follows a live task of the same session to its instance")
    ] = True
    worker_lease_s: Annotated[Seconds, Field(description="a silent worker may be replaced after this time")] = 30
    run_lease_s: Annotated[Seconds, Field(description="a run that is not renewed for this time counts as dead")] = 60
    drain_s: Annotated[
        Seconds, Field(description="how long a stop waits for running agents before it interrupts them")
    ] = 60
    max_interruptions: Annotated[
        int, Field(ge=0, le=1000, description="how often a lost run is tried again before a person has to look")
    ] = 3
    reconcile_s: Annotated[Seconds, Field(description="pause between two rounds of the reconciler")] = 5
    keep_tasks_days: Annotated[
        Days, Field(description="how long ended tasks and what is known of closed issues are kept; 0: for ever")
    ] = 180
    keep_deliveries_days: Annotated[
        Days,
        Field(description="how long receipts are kept, and with them the memory of what was accepted; 0: for ever"),
    ] = 30
    keep_logs_days: Annotated[
        Days, Field(description="how long logs, prompts and what dead runs left behind are kept; 0: for ever")
    ] = 30
    checkouts_bytes: Annotated[
        int, Field(ge=0, description="disk for all checkouts of one host; the longest unused go first; 0: no bound")
    ] = 0
    log_bytes: Annotated[int, Field(ge=1024, description="largest log of one run; the rest is counted, not kept")] = (
        64 * MIB
    )
    log_format: Annotated[Literal["console", "json"], Field(description="form of the service's own log")] = "console"

    @field_validator("repos", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        """Read the list from the text of an environment variable; refuse an empty one."""
        # Not by min_length: pydantic would count the good ones only, and so tell a second problem for each bad one.
        if value == []:
            raise ValueError('name at least one, as owner/name; "*" stands for every one')
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - signature of pydantic-settings
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - signature of pydantic-settings
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - signature of pydantic-settings
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings
