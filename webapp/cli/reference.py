"""Every setting with its default and meaning, as the Markdown that stands in the README. Pure: no I/O."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tasks.settings import ServiceSettings, TypeSettings

#: They come by environment only: a secret does not belong into the file.
BY_ENVIRONMENT = frozenset({"webhook_secret", "operator_token", "flower_password"})


def reference() -> str:
    """Return the tables of `[service]` and of `[types.NAME]`."""
    file_keys = {n: f for n, f in ServiceSettings.model_fields.items() if n not in BY_ENVIRONMENT}
    environment = {f"FORGEPOOL_{n.upper()}": ServiceSettings.model_fields[n] for n in sorted(BY_ENVIRONMENT)}
    parts = [
        "### `[service]`\n",
        *_table("key", file_keys),
        "\nBy environment only, so that no secret gets into the file:\n",
        *_table("variable", environment),
        "\n`FORGEPOOL_DATABASE_URL_FILE` and `FORGEPOOL_BROKER_URL_FILE` name files that hold those URLs.",
        "`FORGEPOOL_CONFIG` names the configuration file itself.\n",
        "### `[types.NAME]`\n",
        *_table("key", TypeSettings.model_fields),
    ]
    return "\n".join(parts) + "\n"


def _table(head: str, fields: Mapping[str, FieldInfo]) -> Iterable[str]:
    yield f"| {head} | default | meaning |"
    yield "|---|---|---|"
    for name, field in fields.items():
        yield f"| `{name}` | {_default(field)} | {_cell(field.description or '')} |"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        # What is found out on the machine is no value to print; its meaning says what it is.
        return "-" if field.default_factory is not None else "*required*"
    return f"`{_cell(_value(field.default))}`" if field.default not in (None, "", ()) else "-"


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case Path() | str() | BaseModel():
            return str(value)
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
