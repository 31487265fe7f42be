"""The text that an agent is given, from one template per kind of task. Reads the templates; otherwise pure.

Text from the forge was written by anybody: it is put between fences that nobody can know beforehand, and is only ever
a value of a template, never part of one.
"""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pool.model import Kind, Request

#: Characters kept of one text from the forge. A failed run can print megabytes, and a prompt has to be read.
TEXT_LIMIT = 30_000

#: Terminal escapes and other control characters, of which tab and line feed are none.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("prompt_templates")),
    autoescape=False,  # noqa: S701 - prompts are plain text, and escapes would be read as part of it
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


@dataclass(frozen=True, slots=True)
class _Fence:
    """The pair of lines that text from the forge stands between; used as a function in the templates."""

    nonce: str

    def __call__(self, name: str, text: str) -> str:
        """Return `text` between the fences. name: ours, for the reader."""
        return f"{self.begin} {name}\n{text}\n{self.end}"

    @property
    def begin(self) -> str:
        """How the line before every such text begins."""
        return f"<<<UNTRUSTED-{self.nonce}"

    @property
    def end(self) -> str:
        """The line that ends every such text."""
        return f"UNTRUSTED-{self.nonce}>>>"


def render(request: Request, *, appendix: str | None, login: str, branch: str, resumed: bool, result_file: Path) -> str:
    """Return the prompt for a task.

    appendix: the instance's own words to its agent, put last; None or blank: none.
    login: the forge account the agent works as.
    branch: local branch that is checked out.
    resumed: the agent goes on with an earlier conversation.
    """
    texts = {
        "title": _clean(request.title),
        "labels": _clean(", ".join(request.labels)),
        "sender": _clean(request.sender),
        "url": _clean(request.url),
        "body": _clean(request.body),
        # A log ends with what went wrong; a person begins with what matters.
        "detail": _clean(request.detail, keep_end=request.kind is Kind.FIX_CI),
    }
    return _TEMPLATES.get_template(f"{request.kind}.j2").render(
        texts,
        repo=request.repo,
        number=request.number,
        head_sha=request.head_sha,
        base=_word(request.base or ""),
        fence=_Fence(_nonce(texts.values())),
        appendix=(appendix or "").strip(),
        login=login,
        branch=_word(branch),
        resumed=resumed,
        result_file=result_file,
    )


def _word(name: str) -> str:
    """Return the name of a branch as one plain word: it stands outside the fences, in a line of ours."""
    return re.sub(r"[^\w./+#@=,-]", "\N{REPLACEMENT CHARACTER}", name)


def _nonce(texts: Iterable[str]) -> str:
    """Return a word that is in none of the texts."""
    # Guessing 128 bits does not happen; the check costs nothing and makes it certain.
    candidates = iter(lambda: secrets.token_hex(16), "")
    return next(word for word in candidates if not any(word in text for text in texts))


def _clean(text: str, *, keep_end: bool = False) -> str:
    """Return printable text of bounded length, and say where something was cut."""
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n")).strip()
    more = len(text) - TEXT_LIMIT
    if more <= 0:
        return text
    if keep_end:
        return f"[the first {more} characters were left out]\n{text[more:]}"
    return f"{text[:TEXT_LIMIT]}\n[the last {more} characters were left out]"
