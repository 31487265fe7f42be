"""The configuration: every mistake is named with its key, its value and its remedy; no secret is ever shown."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import BadInput, ConfigError
from tasks.secret_files import make_secret, redacted
from tasks.settings import CONFIG_ENV, Settings
from tests.helpers.config import SECRET, type_table, write_config

PLANTED = "Pl4nt3d"


def problems(path: Path) -> list[str]:
    """Return what is wrong with a configuration."""
    with pytest.raises(ConfigError) as caught:
        Settings.load(path)
    return list(caught.value.problems)


def the_problem(path: Path) -> str:
    """Return the one thing that is wrong."""
    (found,) = problems(path)
    return found


# --- what is right -------------------------------------------------------------------------------


def test_what_is_not_written_has_its_default(tmp_path: Path) -> None:
    settings = Settings.load(write_config(tmp_path))

    assert settings.service.listen == "127.0.0.1:8420"
    assert settings.service.one_conversation is True
    assert settings.types["dev"].time_limit_s == 4 * 3600
    assert settings.types["dev"].branch_prefix == "dev/"
    assert settings.database_url == f"sqlite:///{tmp_path}/state/forgepool.db"
    assert settings.is_embedded_broker
    assert settings.broker_url == f"redis+socket://{settings.broker_socket}"


def test_the_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGEPOOL_LISTEN", "127.0.0.1:9")
    monkeypatch.setenv("FORGEPOOL_REPOS", "a/b, c/d")

    service = Settings.load(write_config(tmp_path, listen="127.0.0.1:8")).service

    assert (service.listen, service.repos) == ("127.0.0.1:9", ("a/b", "c/d"))


def test_the_environment_alone_may_be_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGEPOOL_FORGE_URL", "https://forge.example.org")
    monkeypatch.setenv("FORGEPOOL_REPOS", "*")

    settings = Settings.load(write_config(tmp_path, forge_url=None, repos=None))

    assert settings.allows("any/thing")


def test_a_relative_path_is_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = write_config(tmp_path, types={"dev": type_table("dev", token_file="tokens/dev")})
    monkeypatch.chdir(tmp_path / "elsewhere")

    settings = Settings.load(path)

    assert settings.state_dir == tmp_path / "state"
    assert settings.service.webhook_secret_file == tmp_path / "secret"
    assert settings.types["dev"].token_file == tmp_path / "tokens" / "dev"


def test_the_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    assert Settings.load(write_config(tmp_path, state_dir="~/pool")).state_dir == tmp_path / "home" / "pool"


def test_the_file_is_that_of_the_variable_or_the_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here, there = write_config(tmp_path / "a"), write_config(tmp_path / "b")
    monkeypatch.chdir(tmp_path / "a")
    found = Settings.load().path
    monkeypatch.setenv(CONFIG_ENV, str(there))

    assert (found, Settings.load().path) == (here, there)


def test_a_silence_limit_of_zero_is_none(tmp_path: Path) -> None:
    path = write_config(tmp_path, types={"dev": type_table("dev", silence_limit_s=0)})

    assert Settings.load(path).types["dev"].silence_limit_s is None


def test_repositories_do_not_differ_by_case(tmp_path: Path) -> None:
    settings = Settings.load(write_config(tmp_path, repos=["Acme/Shop"]))

    assert settings.allows("acme/shop")
    assert not settings.allows("acme/shopping")


def test_a_password_file_stands_for_the_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("redis://:pw@broker:6379/1\n")
    monkeypatch.setenv("FORGEPOOL_BROKER_URL_FILE", str(tmp_path / "url"))

    assert Settings.load(write_config(tmp_path)).broker_url == "redis://:pw@broker:6379/1"


def test_the_webhook_secret_comes_from_its_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config(tmp_path)
    from_file = Settings.load(path).webhook_secret()
    monkeypatch.setenv("FORGEPOOL_WEBHOOK_SECRET", "other")

    assert (from_file, Settings.load(path).webhook_secret()) == (SECRET.encode(), b"other")


def test_a_token_that_is_not_configured_is_made_once(tmp_path: Path) -> None:
    settings = Settings.load(write_config(tmp_path))

    token = settings.operator_token()

    assert settings.operator_token() == token
    assert len(token) > 30
    made = tmp_path / "state" / "secrets" / "operator-token"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600


def test_of_two_makers_of_a_secret_the_first_wins(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"
    make_secret(path)
    first = path.read_text()
    make_secret(path)

    assert path.read_text() == first
    assert os.listdir(path.parent) == ["secret"]  # noqa: PTH208 - no draft is left


# --- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"forge_url": None}, "service.forge_url: is missing; add it (address of your forge)"),
        ({"forge_url": "forge.local"}, "service.forge_url = 'forge.local': write it like 'https://forge.example.org'"),
        ({"repos": []}, "service.repos = []: name at least one, as owner/name"),
        ({"repos": ["shop"]}, "service.repos[0] = 'shop': use owner/name, as the forge shows it"),
        ({"repos": ["a/b", "../x"]}, "service.repos[1] = '../x': use owner/name"),
        ({"lisden": "x"}, "service.lisden: unknown key; did you mean listen?"),
        ({"zzz": 1}, "service.zzz: unknown key; known: broker_url, "),
        ({"listen": "8420"}, "service.listen = '8420': write host:port, as in 127.0.0.1:8420"),
        ({"listen": "x:99999"}, "service.listen = 'x:99999': write host:port"),
        ({"drain_s": "soon"}, "service.drain_s = 'soon': input should be a valid number"),
        ({"drain_s": 0}, "service.drain_s = 0: input should be greater than 0"),
        ({"log_format": "xml"}, "service.log_format = 'xml': input should be 'console' or 'json'"),
        ({"one_conversation": "perhaps"}, "service.one_conversation = 'perhaps': input should be a valid boolean"),
        ({"merge_type": "Big.Boss"}, "service.merge_type = 'Big.Boss': use 1 to 63 of a-z, 0-9 and '-'"),
        ({"git_url": "https://x/y"}, "service.git_url = 'https://x/y': write it like '{forge_url}/{repo}.git'"),
        ({"git_url": "{forge_url}/{repo}/{branch}"}, "service.git_url: only {forge_url} and {repo} are filled in"),
        ({"git_url": "ext::sh {repo}"}, "service.git_url: the clone URL must be one of http, https, ssh, file"),
        ({"broker_url": "sqs://x"}, "service.broker_url: write redis://, rediss:// or amqp:// and the address"),
        ({"webhook_secret": "x"}, "service.webhook_secret: a secret does not belong into this file; use service."),
        ({"operator_token": "x"}, "service.operator_token: a secret does not belong into this file"),
        ({"text": "service = 3"}, "is not TOML"),
        ({"text": "oops"}, "is not TOML"),
        ({"text": "[typs.dev]"}, "typs: unknown table; the tables are [service] and [types.NAME]; did you mean types?"),
        ({"types": {}}, "types: there is none; describe at least one, for instance [types.dev]"),
    ],
)
def test_a_mistake_in_service_is_named(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    assert sentence in the_problem(write_config(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"forge_user": None}, "types.dev.forge_user: is missing; add it (login of the type's account on the forge)"),
        ({"forge_user": "@dev"}, "types.dev.forge_user = '@dev': use the login as the forge shows it, without @"),
        ({"git_email": "dev"}, "types.dev.git_email = 'dev': write it like 'dev@example.org'"),
        ({"command": None}, "types.dev: give either `agent` (a preset) or `command`"),
        ({"agent": "codex"}, "types.dev: give either `agent` (a preset) or `command`"),
        (
            {"command": None, "agent": "claude-cod"},
            "types.dev.agent = 'claude-cod': did you mean 'claude-code'? use one of claude-code, codex",
        ),
        ({"command": []}, "types.dev.command = []: use a list: the program, then its arguments"),
        ({"command": ["x", "{promt_file}"]}, "there is no placeholder {promt_file}; known: {prompt_file}"),
        ({"command": "my-agent --fast"}, "types.dev.command = 'my-agent --fast': input should be a valid tuple"),
        ({"match_labels": ["ui", " "]}, "types.dev.match_labels = ['ui', ' ']: use a list of non-empty label names"),
        ({"pass_env": ["*"]}, "types.dev.pass_env = ['*']: name one variable, or the beginning of names"),
        ({"model": "--yolo"}, "types.dev.model = '--yolo': use the model's name"),
        ({"time_limit_s": -1}, "types.dev.time_limit_s = -1: input should be greater than 0"),
        ({"tokenfile": "x"}, "types.dev.tokenfile: unknown key; did you mean token_file?"),
    ],
)
def test_a_mistake_in_a_type_is_named(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    path = write_config(tmp_path, types={"dev": type_table("dev", **changes)})

    assert sentence in the_problem(path)


def test_a_misspelt_key_explains_the_missing_one(tmp_path: Path) -> None:
    path = write_config(tmp_path, types={"dev": type_table("dev", forge_user=None, forge_usr="dev")})

    assert problems(path) == [
        (
            "types.dev.forge_user: is missing; add it (login of the type's account on the forge); "
            "is 'forge_usr' a misspelling of it?"
        ),
        "types.dev.forge_usr: unknown key; did you mean forge_user?",
    ]


def test_two_types_may_not_share_an_account(tmp_path: Path) -> None:
    types = {"dev": type_table("dev"), "reviewer": type_table("reviewer", forge_user="DEV")}

    assert "types.reviewer.forge_user = 'DEV': types.dev has it already" in the_problem(
        write_config(tmp_path, types=types)
    )


@pytest.mark.parametrize("name", ["Dev", "d.ev", "x" * 60])
def test_a_type_needs_a_good_name(tmp_path: Path, name: str) -> None:
    path = write_config(tmp_path, types={f'"{name}"': type_table("dev")})

    assert f"types.{name}: use 1 to 63 of a-z, 0-9 and '-'" in the_problem(path)


def test_a_type_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "forgepool.toml").write_text('service = "x"\ntypes.dev = 3\n')

    found = problems(tmp_path / "forgepool.toml")

    assert "service = 'x': is not a table; write [service] and its keys below" in found
    assert "types.dev: is not a table; write [types.dev] and its keys below" in found


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = write_config(tmp_path, listen="x", drain_s=-1, types={"dev": type_table("dev", grace_s=0)}, text="[extra]")

    assert [one.split(":")[0].split(" ")[0] for one in problems(path)] == [
        "extra",
        "service.listen",
        "service.drain_s",
        "types.dev.grace_s",
    ]


def test_a_missing_file_is_named_with_what_makes_one(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.toml"

    assert the_problem(path) == f"{path}: there is no such file; make one with `forgepool config init`"


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGEPOOL_DRAIN_S", "soon")

    assert the_problem(write_config(tmp_path)).startswith("FORGEPOOL_DRAIN_S = 'soon': input should be a valid number")


def test_an_unknown_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGEPOOL_LISTN", "x")

    assert the_problem(write_config(tmp_path)) == (
        "FORGEPOOL_LISTN: unknown environment variable; did you mean FORGEPOOL_LISTEN?"
    )


def test_a_variable_that_agents_get_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGEPOOL_TASK_ID", "41")

    assert Settings.load(write_config(tmp_path))


@pytest.mark.parametrize("content", [None, "", "\xff"])
def test_an_unusable_password_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "url").write_text(content, encoding="latin-1")
    monkeypatch.setenv("FORGEPOOL_DATABASE_URL_FILE", str(tmp_path / "url"))

    assert the_problem(write_config(tmp_path)).startswith(f"FORGEPOOL_DATABASE_URL_FILE = '{tmp_path}/url': ")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    types = {"dev": type_table("dev", token_file="dev.token")}
    settings = Settings.load(write_config(tmp_path, types=types, webhook_secret_file="nowhere"))

    assert settings.missing_files() == [
        f"service.webhook_secret_file = '{tmp_path}/nowhere': cannot be read (FileNotFoundError); create it",
        f"types.dev.token_file = '{tmp_path}/dev.token': cannot be read; create it",
    ]


def test_an_empty_secret_is_none(tmp_path: Path) -> None:
    settings = Settings.load(write_config(tmp_path))
    (tmp_path / "secret").write_text(" \n")

    with pytest.raises(ConfigError, match="is empty; put a long random text into it"):
        settings.webhook_secret()


def test_an_unknown_type_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"type = 'revewer': .*known: dev, reviewer; did you mean reviewer\?"):
        Settings.load(write_config(tmp_path)).type("revewer")


# --- no secret is shown --------------------------------------------------------------------------

_PASSWORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12).map(lambda text: text + PLANTED)


@given(
    scheme=st.sampled_from(["redis", "rediss", "amqp", "postgresql+psycopg", "https", "sqs"]),
    user=st.sampled_from(["", "me", "a.b"]),
    password=_PASSWORDS,
    rest=st.sampled_from(["host", "host:1/0", "host/x?y=z#f", ""]),
    around=st.sampled_from(["{}", "cannot connect to {}: refused", "{!r}"]),
)
def test_no_password_of_an_address_is_shown(scheme: str, user: str, password: str, rest: str, around: str) -> None:
    shown = redacted(around.format(f"{scheme}://{user}:{password}@{rest}"))

    assert PLANTED not in shown
    assert scheme in shown


@given(
    name=st.sampled_from(["password", "sslpassword", "token", "api_key", "Secret"]),
    value=st.from_regex(r"[0-9A-Za-z_-]{0,9}", fullmatch=True),
)
def test_no_password_in_the_query_of_an_address_is_shown(name: str, value: str) -> None:
    value += PLANTED

    assert PLANTED not in redacted(f"postgresql://host/db?a=b&{name}={value}&c=d")


@pytest.mark.parametrize(
    "url",
    ["sqlite:////a/b.db", "redis+socket:///a/b:c@d/s.sock", "amqp://guest@host//", "ssh://git@host/{repo}.git", ""],
)
def test_what_is_no_secret_is_shown(url: str) -> None:
    assert redacted(url) == url


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"FORGEPOOL_BROKER_URL": f"sqs://me:{PLANTED}@x"},
        {"FORGEPOOL_FORGE_URL": f"https://me:{PLANTED}@forge"},
        {"FORGEPOOL_FORGE_URL": f"ftp://me:{PLANTED}@forge"},
        {"FORGEPOOL_GIT_URL": f"https://me:{PLANTED}@forge/x"},
        {"FORGEPOOL_GIT_URL": f"https://{PLANTED}@forge/{{repo}}.git"},
        {"FORGEPOOL_LISTEN": "broken"},
    ],
)
def test_no_secret_is_in_a_repr_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    path = write_config(tmp_path)
    planted = {
        "FORGEPOOL_WEBHOOK_SECRET": PLANTED,
        "FORGEPOOL_OPERATOR_TOKEN": PLANTED,
        "FORGEPOOL_FLOWER_PASSWORD": PLANTED,
        "FORGEPOOL_DATABASE_URL": f"postgresql://me:{PLANTED}@host/db",
        "FORGEPOOL_BROKER_URL": f"redis://:{PLANTED}@host",
        **changes,
    }
    for name, value in planted.items():
        monkeypatch.setenv(name, value)

    try:
        shown = repr(Settings.load(path))
    except ConfigError as error:
        assert changes
        shown = repr(error) + str(error)

    assert PLANTED not in shown


@pytest.mark.parametrize("key", ["webhook_secret", "operator_token", "flower_password"])
def test_a_secret_in_the_file_is_refused_without_being_told(tmp_path: Path, key: str) -> None:
    changes: dict[str, Any] = {key: PLANTED}

    assert PLANTED not in the_problem(write_config(tmp_path, **changes))
