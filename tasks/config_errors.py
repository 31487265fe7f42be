"""What is wrong with a configuration, as sentences: the path of the key, the value, the remedy. Pure: no I/O."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tasks.secret_files import redacted

#: Begins the name of every environment variable that is a setting.
PREFIX = "FORGEPOOL_"


def problem(
    error: Mapping[str, Any],
    *,
    where: tuple[str, ...],
    model: type[BaseModel],
    table: Mapping[str, Any],
    environ: Mapping[str, str],
    hidden: Iterable[str],
) -> str:
    """Turn one of pydantic's errors into a sentence.

    where: path of the table. environ: what may have set the keys of this table. hidden: keys whose value stays untold.
    """
    key = str(error["loc"][0]) if error["loc"] else ""
    path = _path(where, error["loc"], environ)
    match error["type"]:
        case "missing":
            unknown = [k for k in table if k not in model.model_fields]
            close = get_close_matches(key, unknown, 1)
            hint = f"; is {close[0]!r} a misspelling of it?" if close else ""
            return f"{path}: is missing; add it ({model.model_fields[key].description}){hint}"
        case "extra_forbidden":
            return f"{path}: unknown key{meant(key, model.model_fields)}"
        case "value_error":
            remedy = str(error["ctx"]["error"])
        case "string_pattern_mismatch":
            remedy = f"write it like {_example(model.model_fields[key])!r}"
        case _:
            remedy = error["msg"][0].lower() + error["msg"][1:]
    return f"{path}{_shown(error['input'], is_hidden=key in hidden)}: {remedy}"


def unknown_tables(data: Mapping[str, Any]) -> list[str]:
    """Name every top-level key of the file that is not one of ours."""
    return [
        f"{key}: unknown table; the tables are [service] and [types.NAME]{meant(key, ('service', 'types'))}"
        for key in data
        if key not in ("service", "types")
    ]


def unknown_environment(environ: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """Name every FORGEPOOL_* variable that means nothing. known: the names, without the prefix."""
    known = set(known)
    names = (name.removeprefix(PREFIX) for name in environ if name.startswith(PREFIX))
    return [
        f"{PREFIX}{name}: unknown environment variable{meant(name, known, PREFIX)}"
        for name in names
        if name not in known and not name.startswith("TEST_")
    ]


def meant(key: str, known: Iterable[str], prefix: str = "") -> str:
    """Suggest the known key that is nearest, else tell them all."""
    known = sorted(known)
    close = get_close_matches(key, known, 1)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; known: {', '.join(known)}"


def _path(where: tuple[str, ...], loc: tuple[str | int, ...], environ: Mapping[str, str]) -> str:
    """Return how the operator calls the place: dotted as in the file, or the variable that set it."""
    steps = list(where) + [str(part) for part in loc if isinstance(part, str)]
    index = "".join(f"[{part}]" for part in loc if isinstance(part, int))
    variable = f"{PREFIX}{steps[-1].upper()}"
    return (variable if loc and variable in environ else ".".join(steps)) + index


def _shown(value: object, *, is_hidden: bool) -> str:
    """Return " = value"; nothing for a whole table, which says nothing, and for what may be a secret."""
    if isinstance(value, dict) or is_hidden:
        return ""
    return f" = {redacted(repr(value))}"


def _example(field: FieldInfo) -> object:
    return field.examples[0] if field.examples else field.default
