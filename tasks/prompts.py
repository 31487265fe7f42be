"""The text that an agent is given, from one template per kind of task. Reads the templates; otherwise pure.

Text from the forge was written by anybody: it is put between fences that nobody can know beforehand, and is only ever
a value of a template, never part of one. Templates of the operator are trusted; what a repository says of a task takes
the place of our words for it, and of nothing else.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined, TemplateError

from pool.errors import BadInput
from pool.model import Kind, Request
from tasks.forge_values import Issue, ReviewComment
from tasks.repo_template import PATH, render_task

#: Characters kept of one text from the forge. A failed run can print megabytes, and a prompt has to be read.
TEXT_LIMIT = 30_000

#: Terminal escapes and other control characters, of which tab and line feed are none.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

#: How a template of the operator names ours where it has the same name itself.
OURS = "forgepool"
_BUILTIN = FileSystemLoader(Path(__file__).with_name("prompt_templates"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What was found out for a prompt beside the request. All text is the forge's, or quotes it."""

    review_comments: tuple[ReviewComment, ...] = ()  #: on lines, of the reviews that ask for changes
    log_tail: str | None = None  #: the end of the failing log; None: it could not be had
    log_missing: str = ""  #: why not
    base: str = ""  #: base branch of the pull request; "": that of the request
    ci: str = ""  #: what the checks at the head come to
    linked_issue: Issue | None = None  #: the issue that a pull request belongs to
    attempt: int = 1  #: which try this is
    earlier: tuple[str, ...] = ()  #: why earlier tries failed, oldest first


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, and what a reader of the task should know about its making."""

    text: str
    notes: tuple[str, ...] = ()


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


def render(
    request: Request,
    *,
    appendix: str | None,
    login: str,
    branch: str,
    resumed: bool,
    result_file: Path,
    override: Path | None = None,
    repo_template: str | None = None,
    extras: Extras = Extras(),
) -> Prompt:
    """Return the prompt for a task.

    appendix: the instance's own words to its agent, put last; None or blank: none.
    login: the forge account the agent works as.
    branch: local branch that is checked out.
    resumed: the agent goes on with an earlier conversation.
    override: folder with the operator's templates; KIND.j2 there replaces ours, and may extend ours: "base.j2", or
        "forgepool/KIND.j2".
    repo_template: text of .forgepool/prompts/KIND.j2 in the base branch; used for the description of the task only,
        and not at all when it cannot be rendered: the notes say so then.
    Raises BadInput for a kind that is no agent's, and for a template of the operator that cannot be rendered.
    """
    if request.kind is Kind.MERGE:
        raise BadInput("request.kind", request.kind, "a merge is made without an agent, so there is no prompt for it")
    plain: dict[str, str | int] = {
        "repo": request.repo,
        "number": request.number,
        "branch": _word(branch),
        "base": _word(extras.base or request.base or ""),
        "login": login,
        "head_sha": request.head_sha or "",
    }
    repo_task, notes = _repo_task(request.kind, repo_template, plain)
    texts = {**_texts(request, extras), "repo_task": repo_task}
    values = {
        **texts,
        **plain,
        "issue_number": extras.linked_issue.number if extras.linked_issue else None,
        "attempt": extras.attempt,
        "repo_template_path": PATH.format(kind=request.kind),
        "fence": _Fence(_nonce(texts.values())),
        "appendix": (appendix or "").strip(),
        "resumed": resumed,
        "result_file": result_file,
    }
    return Prompt(_rendered(request.kind, override, values), notes)


def _rendered(kind: Kind, override: Path | None, values: Mapping[str, object]) -> str:
    if override is None:
        return templates(None).get_template(f"{kind}.j2").render(values)
    if not override.is_dir():
        raise BadInput("prompts", str(override), "it is not there, or no folder; make it or take it out of the type")
    try:
        return templates(override).get_template(f"{kind}.j2").render(values)
    except (TemplateError, RecursionError, OSError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        where = getattr(error, "filename", None) or str(override / f"{kind}.j2")
        line = getattr(error, "lineno", None)
        what = "it extends or includes itself" if isinstance(error, RecursionError) else str(error)
        raise BadInput("prompts", where + (f", line {line}" if line else ""), f"mend the template: {what}") from error


def templates(override: Path | None) -> Environment:
    """Return what finds templates: first those of the operator, then ours."""
    loaders = [_BUILTIN] if override is None else [FileSystemLoader(override), _BUILTIN]
    return Environment(
        loader=ChoiceLoader([*loaders, PrefixLoader({OURS: _BUILTIN})]),
        autoescape=False,  # noqa: S701 - prompts are plain text, and escapes would be read as part of it
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _repo_task(kind: Kind, source: str | None, plain: dict[str, str | int]) -> tuple[str, tuple[str, ...]]:
    """Return the repository's description of the task, "" if there is none to use, and notes about it."""
    path = PATH.format(kind=kind)
    if source is None:
        return "", ()
    try:
        return _clean(render_task(source, plain)), (f"the task was described by {path} of the base branch",)
    except BadInput as error:
        # The remedy may quote the template; the note is shown to people, in a line.
        return "", (f"{path} of the base branch was not used: {_clean(' '.join(error.remedy.split()))[:300]}",)


def _texts(request: Request, extras: Extras) -> dict[str, str]:
    """Return all text that is not ours."""
    issue = extras.linked_issue
    comments = (
        f"{one.path}, line {one.line or 'not told'}, {one.author}:\n{one.body}" for one in extras.review_comments
    )
    return {
        "title": _clean(request.title),
        "labels": _clean(", ".join(request.labels)),
        "sender": _clean(request.sender),
        "url": _clean(request.url),
        "body": _clean(request.body),
        "detail": _clean(request.detail),
        "comments": _clean("\n\n".join(comments)),
        # A log ends with what went wrong; a person begins with what matters.
        "log_tail": _clean(extras.log_tail or "", keep_end=True),
        "log_missing": _clean(extras.log_missing),
        "ci": _clean(extras.ci),
        "issue_title": _clean(issue.title) if issue else "",
        "issue_body": _clean(issue.body) if issue else "",
        "earlier": _clean("\n".join(extras.earlier), keep_end=True),
    }


def _word(name: str) -> str:
    """Return the name of a branch as one plain word: it stands outside the fences, in a line of ours."""
    return re.sub(r"[^\w./+#@=,-]", "\N{REPLACEMENT CHARACTER}", name)


def _nonce(texts: Iterable[str]) -> str:
    """Return a word that is in none of the texts."""
    texts = list(texts)
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
