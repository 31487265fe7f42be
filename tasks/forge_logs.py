"""Logs of failed checks, as far as the forge gives them away. Network I/O, out.

Forgejo's REST interface has none; its web pages show them to whoever may read the repository. Only the forge's own
Actions are asked: the address of a check is a text that anybody can set, and leads nowhere else.
"""

import re
from urllib.parse import urlsplit

import httpx

from tasks.forge_http import ForgeHttp, part
from tasks.forge_values import Status

LOG_BYTES = 32 * 1024  #: kept of a log
_READ_BYTES = 16 * 1024 * 1024  #: read of it at most
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_JOB = re.compile(r"/(?P<repo>[^/]+/[^/]+)/actions/runs/(?P<run>[0-9]+)/jobs/(?P<job>[0-9]+)/?")


def failing_log(forge: ForgeHttp, repo: str, status: Status) -> str | None:
    """Return the end of the log of a failed check, without colours; None: it could not be had."""
    job = _job(forge.url, repo, status.target_url)
    if job is None:
        return None
    web = f"/{'/'.join(map(part, repo.split('/')))}/actions/runs/{job['run']}/jobs/{job['job']}"
    texts = (_text(forge, path) for path in (f"{web}/attempt/1/logs", f"{web}/logs"))
    return next((text for text in texts if text is not None), None)


def _job(forge_url: str, repo: str, url: str) -> re.Match[str] | None:
    base, told = urlsplit(forge_url), urlsplit(url)
    if told.netloc and (told.scheme, told.netloc.lower()) != (base.scheme, base.netloc.lower()):
        return None
    job = _JOB.fullmatch(told.path.removeprefix(base.path))
    return job if job is not None and job["repo"].lower() == repo.lower() else None


def _text(forge: ForgeHttp, path: str) -> str | None:
    """Return the end of a plain text; None for a page for people, a log-in, an error."""
    kept = bytearray()
    try:
        with forge.stream(path) as answer:
            is_text = answer.headers.get("Content-Type", "").startswith("text/plain")
            if answer.status_code != httpx.codes.OK or not is_text:
                return None
            seen = 0
            for chunk in answer.iter_bytes():
                kept += chunk
                seen += len(chunk)
                del kept[:-LOG_BYTES]
                if seen > _READ_BYTES:
                    break
    except httpx.HTTPError:
        return None
    return _CONTROL.sub("", kept.decode(errors="replace")) or None
