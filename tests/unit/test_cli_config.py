"""`forgepool config`."""

import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tasks.config_tables import ServiceSettings, TypeSettings
from tasks.settings import Settings
from tests.helpers.config import SECRET, Deployment, type_table, write_config
from webapp.cli import main

PLANTED = "Pl4nt3d"


def init(folder: Path, *options: str, status: int = 0) -> str:
    """Begin a configuration; return what was said."""
    result = CliRunner().invoke(main, ["config", "init", "--dir", str(folder), *options])
    assert result.exit_code == status, result.output
    return result.output


# --- show ----------------------------------------------------------------------------------------


def test_every_value_is_shown_with_its_source(cli: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    (cli.path.parent / "url").write_text("redis://:pw@broker/1")
    monkeypatch.setenv("FORGEPOOL_LISTEN", "127.0.0.1:9")
    monkeypatch.setenv("FORGEPOOL_BROKER_URL_FILE", str(cli.path.parent / "url"))

    document = cli.json("config", "show")

    assert document["path"] == str(cli.path)
    assert set(document["service"]) == set(ServiceSettings.model_fields)
    assert set(document["types"]["dev"]) == set(TypeSettings.model_fields)
    assert document["service"]["listen"] == {"value": "127.0.0.1:9", "from": "environment"}
    assert document["service"]["broker_url"] == {"value": "redis://:***@broker/1", "from": "environment"}
    assert document["service"]["repos"] == {"value": ["acme/shop"], "from": "file"}
    assert document["service"]["drain_s"] == {"value": 60, "from": "default"}
    assert document["types"]["dev"]["git_name"] == {"value": "dev", "from": "file"}


def test_a_variable_that_is_no_setting_of_a_type_is_not_taken_for_its_source(
    cli: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The engine gives an agent $FORGEPOOL_MODEL.
    monkeypatch.setenv("FORGEPOOL_MODEL", "x")

    assert cli.json("config", "show")["types"]["dev"]["model"]["from"] == "default"


def test_no_secret_is_ever_printed(cli: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = {
        "WEBHOOK_SECRET": PLANTED,
        "OPERATOR_TOKEN": PLANTED,
        "FLOWER_PASSWORD": PLANTED,
        "DATABASE_URL": f"postgresql://me:{PLANTED}@127.0.0.1:1/db?password={PLANTED}",
        "BROKER_URL": f"redis://:{PLANTED}@127.0.0.1:1/0",
    }
    for name, value in planted.items():
        monkeypatch.setenv(f"FORGEPOOL_{name}", value)

    outputs = []
    for call in ("config show", "config check", "doctor", "instances list", "db upgrade", "tasks list"):
        for flags in ([], ["--json"]):
            result = CliRunner().invoke(main, ["--config", str(cli.path), *call.split(), *flags])
            outputs.append(result.output + repr(result.exception))

    assert all(len(shown) > 20 for shown in outputs)
    assert not [shown for shown in outputs if PLANTED in shown or SECRET in shown]


# --- check ---------------------------------------------------------------------------------------


def test_a_good_configuration_is_usable(cli: Deployment) -> None:
    assert cli.run("config", "check").stdout == f"{cli.path} is usable.\n"
    assert cli.json("config", "check")["ok"] is True


def test_missing_files_make_it_unusable(cli: Deployment) -> None:
    write_config(cli.path.parent, types={"dev": type_table("dev", token_file="none")})

    answer = cli.json("config", "check", status=2)

    assert answer["ok"] is False
    assert "types.dev.token_file" in answer["problems"][0]
    assert "types.dev.token_file" in cli.run("config", "check", status=2).stderr


def test_mistakes_are_listed_in_json_too(cli: Deployment) -> None:
    write_config(cli.path.parent, listen="x")

    assert cli.json("config", "check", status=2)["problems"] == [
        "service.listen = 'x': write host:port, as in 127.0.0.1:8420"
    ]


@pytest.mark.parametrize(
    ("service", "kind", "sentence"),
    [
        ({}, {"command": ["no-such-agent"]}, "types.dev: its agent no-such-agent is not on the PATH"),
        ({"run_lease_s": 5}, {}, "service.run_lease_s = 5 is shorter than worker_lease_s = 30"),
        ({"reconcile_s": 90}, {}, "service.reconcile_s = 90 is longer than run_lease_s = 60"),
        ({"merge_type": "chief"}, {}, "service.merge_type = 'chief' is no type here"),
        ({"drain_s": 5}, {}, "types.dev.grace_s = 10 is longer than service.drain_s = 5"),
        ({"ci_grace_s": 8000}, {}, "service.ci_grace_s = 8000 is not shorter than service.merge_wait_s = 7200"),
        ({"settle_s": 7200, "forge_poll_s": 0}, {}, "service.settle_s = 7200 is not shorter than service.merge_wait_s"),
        ({"forge_poll_s": 9000}, {}, "service.forge_poll_s = 9000 is not shorter than service.merge_wait_s = 7200"),
        ({}, {"time_limit_s": 60}, "types.dev.silence_limit_s = 1800 never comes: time_limit_s = 60 is not longer"),
    ],
)
def test_what_makes_no_sense_is_a_warning(
    cli: Deployment, service: dict[str, Any], kind: dict[str, Any], sentence: str
) -> None:
    write_config(cli.path.parent, types={"dev": type_table("dev", **kind)}, **{"merge_type": "dev", **service})

    (warning,) = cli.json("config", "check")["warnings"]

    assert sentence in warning
    assert f"Warning: {sentence}" in cli.run("config", "check").stderr


# --- init ----------------------------------------------------------------------------------------


def test_a_new_configuration_lacks_only_the_tokens(tmp_path: Path) -> None:
    said = init(tmp_path / "new", "--forge-url", "https://git.example.org", "--repo", "a/b", "--repo", "c/d")

    settings = Settings.load(tmp_path / "new" / "forgepool.toml")

    assert settings.service.repos == ("a/b", "c/d")
    assert settings.service.forge_url == "https://git.example.org"
    assert set(settings.types) == {"dev", "reviewer", "boss"}
    assert len(settings.missing_files()) == 3
    assert all("token_file" in one for one in settings.missing_files())
    for name in settings.types:
        assert str(settings.types[name].token_file) in said


def test_the_secret_is_random_and_private(tmp_path: Path) -> None:
    init(tmp_path / "a")
    init(tmp_path / "b")
    one, other = (tmp_path / name / "secrets" / "webhook" for name in "ab")

    assert one.read_text() != other.read_text()
    assert len(one.read_text().strip()) > 30
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert stat.S_IMODE(one.parent.stat().st_mode) == 0o700
    assert (one.parent / ".gitignore").read_text() == "*\n"


def test_the_secret_is_not_printed(tmp_path: Path) -> None:
    said = init(tmp_path)

    assert (tmp_path / "secrets" / "webhook").read_text().strip() not in said


def test_an_existing_configuration_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "forgepool.toml").write_text("mine")

    assert "exists already; it was not touched" in init(tmp_path, status=1)
    assert (tmp_path / "forgepool.toml").read_text() == "mine"
    assert not (tmp_path / "secrets").exists()


def test_a_bad_repository_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    assert "use owner/name" in init(tmp_path / "new", "--repo", "shop", status=2)
    assert not (tmp_path / "new").exists()


def test_every_setting_is_in_the_template_with_its_default(tmp_path: Path) -> None:
    init(tmp_path)
    text = (tmp_path / "forgepool.toml").read_text()
    lines = [line.removeprefix("# ") if " = " in line.split("#")[-1][:30] else line for line in text.splitlines()]
    loaded = tomllib.loads("\n".join(line for line in lines if not line.startswith("command")))

    by_environment_only = {"webhook_secret", "operator_token", "flower_password"}
    assert set(loaded["service"]) == set(ServiceSettings.model_fields) - by_environment_only
    assert set(loaded["types"]["dev"]) == set(TypeSettings.model_fields) - {"command"}
    # Shown by example, since each has a default that says nothing.
    examples = {
        "host",
        "operator_token_file",
        "flower_password_file",
        "branch_prefix",
        "model",
        "prompts",
        "report_type",
    }
    for model, table in ((ServiceSettings, loaded["service"]), (TypeSettings, loaded["types"]["dev"])):
        for key in set(table) - examples - {k for k in table if f"\n{k} =" in text}:
            default = model.model_fields[key].default
            assert table[key] == (list(default) if isinstance(default, tuple) else type(table[key])(default))
