"""Logs of failed checks, as far as the forge gives them away. Network I/O, out.

Forgejo's REST interface has none; its web pages show them to whoever may read the repository. Only the forge's own
Actions are asked: the address of a check is a text that anybody can set, and leads nowhere else.
"""

import re
from contextlib import suppress
from urllib.parse import urlsplit

from pool.errors import ForgeError
from tasks import forge_read as read
from tasks.forge_http import API, WEB, ForgeHttp, repo_path
from tasks.forge_values import Status

LOG_BYTES = 32 * 1024  #: kept of a log

_JOB = re.compile(
    r"/(?P<repo>[^/]+/[^/]+)/actions/runs/(?P<run>[0-9]{1,18})/jobs/(?P<job>[0-9]{1,18})"
    r"(?:/attempt/(?P<attempt>[0-9]{1,9}))?/?",
    re.ASCII,
)
_ATTEMPT = re.compile(r"/attempt/([0-9]{1,9})/?", re.ASCII)
#: ECMA-48: a control sequence; a string for the terminal, such as its title; any other escape.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]")


def failing_log(forge: ForgeHttp, repo: str, status: Status) -> str | None:
    """Return the end of the log of a failed check, without colours; None: it could not be had."""
    job = _job(forge.url, repo, status.target_url)
    if job is None:
        return None
    for ask in (_by_id, _by_page):
        # The last thing that should fail for want of a log is the repair of what it tells of.
        with suppress(ForgeError):
            if text := ask(forge, job):
                return text
    return None


def _job(forge_url: str, repo: str, url: str) -> re.Match[str] | None:
    """Return the parts of the address of a job of this forge and repository."""
    try:
        base, told = urlsplit(forge_url), urlsplit(url)
    except ValueError:
        return None
    # A path alone is how Gitea writes it (models/actions/run.go, Link).
    if (told.scheme or told.netloc) and (told.scheme.lower(), told.netloc.lower()) != (
        base.scheme,
        base.netloc.lower(),
    ):
        return None
    if not told.path.startswith(f"{base.path}/"):
        return None
    job = _JOB.fullmatch(told.path.removeprefix(base.path))
    return job if job is not None and job["repo"].lower() == repo.lower() else None


def _by_id(forge: ForgeHttp, job: re.Match[str]) -> str | None:
    """Ask by REST, which only Gitea answers.

    Its addresses end in the job's id or, before 1.26, in its place within the run: then the same number is the id of
    another job, whose log would mislead. What the job says of its own address tells.
    """
    path = repo_path(job["repo"], "actions", "jobs", job["job"])
    found = forge.ask("GET", path)
    if not found.is_success:
        return None
    own = read.read(read.page_path, found.json(), found.call)
    is_it = own.lower().rstrip("/").endswith(job[0].lower().rstrip("/"))
    return _text(forge, f"{path}/logs", root=API) if is_it else None


def _by_page(forge: ForgeHttp, job: re.Match[str]) -> str | None:
    """Ask the web pages: below the attempt in Forgejo, below the job where there are none (routers/web/web.go)."""
    page = f"{repo_path(job['repo']).removeprefix('/repos')}/actions/runs/{job['run']}/jobs/{job['job']}"
    attempt = job["attempt"] or _last_attempt(forge, page)
    if attempt:
        return _text(forge, f"{page}/attempt/{attempt}/logs", root=WEB)
    return _text(forge, f"{page}/logs", root=WEB)


def _last_attempt(forge: ForgeHttp, page: str) -> str | None:
    """Return the number of the attempt that the page of a job redirects to; the redirect itself is not followed."""
    answer = forge.ask("GET", page, root=WEB, tail=1)
    try:
        path = urlsplit(answer.headers.get("location", "")).path
    except ValueError:
        return None
    found = _ATTEMPT.fullmatch(path[at + len(page) :]) if (at := path.lower().find(page.lower())) >= 0 else None
    return found[1] if found else None


def _text(forge: ForgeHttp, path: str, *, root: str) -> str | None:
    """Return the end of a plain text; None for a page for people, a log-in, a refusal."""
    answer = forge.ask("GET", path, root=root, tail=LOG_BYTES)
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not answer.is_success or kind not in {"text/plain", "application/octet-stream"}:
        return None
    return tail_of(answer.body, is_whole=len(answer.body) < LOG_BYTES) or None


def tail_of(body: bytes, *, is_whole: bool) -> str:
    """Return a log as text to read: no colours, nothing that moves a cursor, not half a line at the beginning."""
    text = body.decode(errors="replace")
    if not is_whole:
        text = text.partition("\n")[2] or text
    text = _ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    clean = "".join(char for char in text if char in "\n\t" or char.isprintable())
    return clean.encode()[-LOG_BYTES:].decode(errors="ignore")
