"""A repository's own words for a kind of task, from a template in its base branch. Pure: no I/O.

Who may push to the base branch wrote it, and that is not the operator. So it is no program: no loops, calls, attributes
or arithmetic, only text, names and conditions. Its cost is bounded by its length, whatever it says.
"""

from collections.abc import Mapping

from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pool.errors import BadInput

#: Where it is in a repository, by kind.
PATH = ".forgepool/prompts/{kind}.j2"
SOURCE_LIMIT = 16_000
OUTPUT_LIMIT = 30_000
#: Steps from the outermost to the innermost part; each one costs a frame of Python's stack, more than once.
MOST_DEEP = 30

_FILTERS = frozenset({"default", "lower", "trim", "upper"})
_TESTS = frozenset({"defined", "none", "undefined"})
_ALLOWED = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Const, nodes.Name, nodes.If, nodes.CondExpr),
    *(nodes.And, nodes.Or, nodes.Not, nodes.Compare, nodes.Operand, nodes.Concat, nodes.Filter, nodes.Test),
)

_SANDBOX = ImmutableSandboxedEnvironment(
    loader=None,
    autoescape=False,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    cache_size=0,
)
_SANDBOX.globals.clear()


def render_task(source: str, values: Mapping[str, str | int]) -> str:
    """Return the text of the template. Raises BadInput, with a sentence that says what is not allowed or failed."""
    if len(source) > SOURCE_LIMIT:
        raise _bad(f"keep it under {SOURCE_LIMIT} characters")
    try:
        tree = _SANDBOX.parse(source)
        _check(tree, values, depth=0)
        text = _SANDBOX.from_string(tree).render(values)
    except TemplateError as error:
        raise _bad(f"it cannot be rendered: {error}") from None
    except (RecursionError, MemoryError, SyntaxError):
        # Python's own words for parts within parts within parts.
        raise _bad("it is nested too deeply") from None
    if not text.strip():
        raise _bad("it says nothing")
    if len(text) > OUTPUT_LIMIT:
        raise _bad(f"what it prints is longer than {OUTPUT_LIMIT} characters")
    return text


def _check(node: nodes.Node, values: Mapping[str, str | int], *, depth: int) -> None:
    """Refuse everything that is not known to be harmless, before any of it is carried out."""
    if depth > MOST_DEEP:
        raise _bad("it is nested too deeply")
    name = type(node).__name__
    if type(node) not in _ALLOWED:
        raise _bad(f"{name.lower()!r} is not allowed there; use text, names and conditions")
    if isinstance(node, nodes.Name) and node.name not in values:
        raise _bad(f"{node.name!r} is not known there; known: {', '.join(values)}")
    for kind, known in ((nodes.Filter, _FILTERS), (nodes.Test, _TESTS)):
        if isinstance(node, kind) and node.name not in known:
            raise _bad(f"the {name.lower()} {node.name!r} is not allowed there; allowed: {', '.join(sorted(known))}")
    for child in node.iter_child_nodes():
        _check(child, values, depth=depth + 1)


def _bad(remedy: str) -> BadInput:
    return BadInput("prompt", "template of the repository", remedy)
