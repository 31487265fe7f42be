"""The house keeps its own rules: the README is true, the wheel is whole, the lock file locks."""

import re
import tomllib
from pathlib import Path

import pytest

from pool.states import State
from tasks import presets
from tasks.settings import ServiceSettings, TypeSettings
from webapp.cli.reference import reference

ROOT = Path(__file__).parents[1]
BEGIN = "<!-- configuration: begin (checked against the code by tests/test_house.py) -->\n"
END = "<!-- configuration: end -->"

#: The tree is there, not only the wheel.
in_tree = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="only the tests are here, not the tree")


def _readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@in_tree
def test_the_configuration_reference_in_the_readme_is_what_the_code_says() -> None:
    written = _readme().partition(BEGIN)[2].partition(END)[0]

    # When this fails: python -c "from webapp.cli.reference import reference; print(reference())" prints the new text.
    assert written.strip() == reference().strip()


def test_every_setting_is_described() -> None:
    missing = [
        name
        for model in (ServiceSettings, TypeSettings)
        for name, field in model.model_fields.items()
        if not field.description
    ]

    assert missing == []


@in_tree
def test_the_readme_names_every_state_preset_and_command() -> None:
    text = _readme()
    from webapp.cli import COMMANDS  # noqa: PLC0415 - beside its only use

    wanted = {f"`{state}`" for state in State if state.is_final} | {f"`{name}`" for name in presets.PRESETS}
    wanted |= {f"forgepool {command}" for command in COMMANDS}

    assert [word for word in sorted(wanted) if word not in text] == []


@in_tree
def test_the_tables_and_headings_of_the_readme_are_whole() -> None:
    """A blank line in the middle of a table once showed the rest of it as text."""
    text = _readme()

    assert re.findall(r"^\|.*\|\n\n(\|.*)\n(?!\|-)", text, re.MULTILINE) == []
    assert re.findall(r"[^\n]\n(##+ .*)|(##+ .*)\n[^\n]", text) == []


@in_tree
def test_ci_runs_the_very_test_command_of_the_readme() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = re.findall(r"^make (\w+) ", _readme(), re.MULTILINE)

    assert {"demo", "test"} <= set(commands)
    assert re.search(r"^make test$", ci, re.MULTILINE)
    assert re.search(r"^make demo$", ci, re.MULTILINE)


@in_tree
def test_every_dependency_is_locked_with_a_hash() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    names = {re.split(r"[\[<>=]", line)[0].lower() for line in asked}

    unlocked = [name for name in sorted(names) if not re.search(rf"^{re.escape(name)}(\[.*\])?==", lock, re.MULTILINE)]

    assert unlocked == []
    assert lock.count("==") <= lock.count("--hash=sha256:")


@in_tree
def test_no_file_is_over_four_hundred_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("pool", "tasks", "webapp")
        for path in (ROOT / folder).rglob("*.py")
        if "versions" not in path.parts
    }

    assert {name: lines for name, lines in long.items() if lines > 400} == {}


@in_tree
def test_the_top_level_is_what_was_agreed() -> None:
    agreed = {
        "pyproject.toml",
        "README.md",
        "tasks",
        "webapp",
        "pool",
        "tests",
        "celeryconfig.py",
        "docker-compose.yml",
    }

    assert agreed <= {path.name for path in ROOT.iterdir()}
