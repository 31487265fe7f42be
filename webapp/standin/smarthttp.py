"""Git's smart HTTP for the stand-in forge: the bridge to `git http-backend`. Starts git; bodies are held in memory."""

import subprocess
from pathlib import Path

from flask import Request, Response

from webapp.standin.bare import environment

#: What a smart client asks for. Everything else of a repository (dumb protocol, config) is not served.
PATHS = frozenset({"info/refs", "git-upload-pack", "git-receive-pack"})


def is_push(request: Request, rest: str) -> bool:
    """Tell whether a request writes, or prepares to."""
    return rest == "git-receive-pack" or request.args.get("service") == "git-receive-pack"


def serve(request: Request, *, root: Path, repo: str, rest: str, login: str | None) -> Response:
    """Answer one request of a git client as `login`; None: nobody, who may only read."""
    body = request.get_data(cache=False)
    variables = {
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{repo}.git/{rest}",
        "REQUEST_METHOD": request.method,
        "QUERY_STRING": request.query_string.decode("ascii", "replace"),
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
        "REMOTE_ADDR": request.remote_addr or "",
        # git-http-backend(1): whoever is named here may push.
        **({"REMOTE_USER": login} if login else {}),
    }
    done = subprocess.run(
        ["git", "http-backend"], input=body, capture_output=True, env=environment(**variables), check=False, timeout=300
    )
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    headers = [(name.strip(), value.strip()) for name, _, value in _lines(head)]
    status = next((value for name, value in headers if name.lower() == "status"), "200 OK")
    return Response(content, status=status, headers=[pair for pair in headers if pair[0].lower() != "status"])


def _lines(head: bytes) -> list[tuple[str, str, str]]:
    return [line.partition(":") for line in head.decode("latin-1").split("\r\n") if line]
