"""The demo's scripted agent: does what a coding agent would do for each kind of task, mistakes included.

Real git in the real checkout, and the forge's REST interface with the token that every agent gets. Standard library
only. Writes when it began and ended into the file $DEMO_TRACE, so that the verdict does not rest on forgepool's own
records. Which mistakes it makes, each once, is in the file $DEMO_SCRIPT.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

#: How long each kind takes, in seconds: long enough to be seen, and to overlap.
PACE_S = {"implement": 1.0, "review": 0.5, "address-review": 0.5, "fix-ci": 0.5, "rebase": 0.5, "resolve": 0.5}
#: What the checks of the demo's repositories look for.
BUG = "BROKEN"
#: A forge that fails now and then is asked so often.
TRIES = 8

KIND, NUMBER, REPO = (os.environ.get(f"FORGEPOOL_{name}", "") for name in ("KIND", "NUMBER", "REPO"))


def main() -> int:
    """Do one task."""
    with traced():
        say(f"reading {Path(os.environ['FORGEPOOL_PROMPT_FILE']).stat().st_size} bytes of prompt")
        work(PACE_S.get(KIND, 0.5))
        summary = DEEDS[KIND]()
        say(summary)
        result = {"summary": summary, "session_id": f"demo-{os.environ['FORGEPOOL_TYPE']}-{NUMBER}", "tokens": 1000}
        Path(os.environ["FORGEPOOL_RESULT_FILE"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


# --- the deeds -----------------------------------------------------------------------------------


def implement() -> str:
    """Write the feature, commit, push, open a pull request."""
    if once("crash"):
        say("something terrible happens")
        os.kill(os.getpid(), signal.SIGKILL)
    if once("hang"):
        say("waiting for an answer that never comes")
        time.sleep(600)
    if has("conflict"):
        # It looked at the repository long ago, and has not looked again.
        git("reset", "-q", "--hard", git("rev-list", "--max-parents=0", "HEAD").split()[0])
    change(f"features/{NUMBER}.txt", f"feature {NUMBER}\n" + (f"{BUG}\n" if once("red-ci") else ""))
    if has("conflict"):
        # Two issues that put their line at the same place.
        shared = Path("shared.txt")
        lines = shared.read_text(encoding="utf-8").splitlines() if shared.exists() else ["# features"]
        shared.write_text("\n".join([lines[0], f"- feature {NUMBER}", *lines[1:]]) + "\n", encoding="utf-8")
        git("add", "shared.txt")
    commit(f"Implement #{NUMBER}")
    branch = os.environ["FORGEPOOL_BRANCH"]
    # An earlier try may have pushed, and died before it could say so.
    git("push", "-q", "--force-with-lease", "origin", "HEAD")
    pulls = [pull for pull in call("GET", "/pulls?state=open&limit=50") if pull["head"]["ref"] == branch]
    if pulls:
        return f"Went on with #{pulls[0]['number']}"
    body = f"Implements what the issue asks for.\n\nCloses #{NUMBER}"
    fields = {"head": branch, "base": "main", "title": f"Implement #{NUMBER}", "body": body}
    with suppress(Conflict):  # the answer to an earlier call of ours was lost
        call("POST", "/pulls", fields)
    return f"Opened a pull request for #{NUMBER}"


def fix() -> str:
    """Mend what the reviewer or the checks complained about, commit, push."""
    for path in Path("features").glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        if BUG in text:
            path.write_text(text.replace(f"{BUG}\n", ""), encoding="utf-8")
            git("add", str(path))
    change(f"features/pull-{NUMBER}.txt", f"mended after {KIND}\n")
    commit(f"Mend #{NUMBER} ({KIND})")
    git("push", "-q", "origin", "HEAD")
    return f"Mended #{NUMBER} at {git('rev-parse', '--short', 'HEAD')}"


def review() -> str:
    """Read the change and give a verdict on exactly what was read."""
    head = git("rev-parse", "HEAD")
    say(git("show", "--stat", "--format=%h %s", head))
    wants_changes = once("changes")
    fields = {
        "event": "REQUEST_CHANGES" if wants_changes else "APPROVED",
        "body": "Please add a line that says why." if wants_changes else "Good.",
        "commit_id": head,
    }
    call("POST", f"/pulls/{NUMBER}/reviews", fields, is_there=lambda: reviewed(head))
    return f"{'Requested changes on' if wants_changes else 'Approved'} #{NUMBER} at {head[:7]}"


def reviewed(head: str) -> bool:
    """Tell whether our verdict on a commit is on the forge already."""
    me = os.environ["FORGEPOOL_LOGIN"]
    return any(
        one["user"]["login"] == me and one["commit_id"] == head and one["state"] in {"APPROVED", "REQUEST_CHANGES"}
        for one in call("GET", f"/pulls/{NUMBER}/reviews?limit=50")
    )


def rebase() -> str:
    """Put the branch onto the base; where both added a line at the same place, keep both."""
    git("fetch", "-q", "origin")
    if subprocess.run(["git", "rebase", "-q", "origin/main"], check=False, capture_output=True).returncode:
        while conflicts := git("diff", "--name-only", "--diff-filter=U"):
            for path in conflicts.splitlines():
                lines = Path(path).read_text(encoding="utf-8").splitlines()
                kept = [line for line in lines if not line.startswith(("<<<<<<<", "=======", ">>>>>>>"))]
                Path(path).write_text("\n".join(kept) + "\n", encoding="utf-8")
                git("add", path)
            subprocess.run(["git", "-c", "core.editor=true", "rebase", "--continue"], check=False, capture_output=True)
    git("push", "-q", "--force-with-lease", "origin", "HEAD")
    return f"Rebased #{NUMBER} to {git('rev-parse', '--short', 'HEAD')}"


DEEDS: dict[str, Callable[[], str]] = {
    "implement": implement,
    "review": review,
    "address-review": fix,
    "fix-ci": fix,
    "rebase": rebase,
    "resolve": rebase,
}


# --- the script ----------------------------------------------------------------------------------


def has(mistake: str) -> bool:
    """Tell whether the script has this for the issue that this is about."""
    script: dict[str, list[str]] = json.loads(Path(os.environ["DEMO_SCRIPT"]).read_text(encoding="utf-8"))
    return mistake in script.get(f"{REPO}#{issue()}", [])


def once(mistake: str) -> bool:
    """Make a mistake of the script, the first time only."""
    if not has(mistake):
        return False
    mark = Path(f"{os.environ['DEMO_SCRIPT']}.{mistake}.{REPO.replace('/', '-')}.{issue()}")
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def issue() -> str:
    """Return the number of the issue: of a pull request, the one in the name of its branch."""
    return NUMBER if KIND == "implement" else os.environ["FORGEPOOL_BRANCH"].rpartition("/")[2]


# --- git and the forge ---------------------------------------------------------------------------


class Conflict(Exception):
    """The forge has that already."""


def change(path: str, text: str) -> None:
    """Write a file."""
    file = Path(path)
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    git("add", path)


def commit(message: str) -> None:
    """Commit what was added, if anything was."""
    if git("status", "--porcelain", "--untracked-files=no"):
        git("commit", "-q", "-m", message)


def git(*words: str) -> str:
    """Run git and return what it printed."""
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()


def call(
    method: str, path: str, fields: dict[str, str] | None = None, *, is_there: Callable[[], bool] = lambda: False
) -> Any:
    """Ask the forge as the account of this task; what fails is tried again, unless it turns out to be there."""
    remote = urlsplit(git("remote", "get-url", "origin"))
    token = Path(os.environ["FORGEPOOL_TOKEN_FILE"]).read_text(encoding="ascii").strip()
    request = urllib.request.Request(  # noqa: S310 - the forge's own address
        f"{remote.scheme}://{remote.netloc}/api/v1/repos/{REPO}{path}",
        data=None if fields is None else json.dumps(fields).encode(),
        headers={"Authorization": f"token {token}", "Content-Type": "application/json"},
        method=method,
    )
    for attempt in range(TRIES):
        if attempt and is_there():
            return None
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - see above
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            if error.code in {409, 422}:
                raise Conflict(error.read().decode(errors="replace")) from error
            if error.code < 500 or attempt == TRIES - 1:  # noqa: PLR2004 - HTTP
                raise
        except OSError:  # the answer was lost; URLError is one, too
            if attempt == TRIES - 1:
                raise
        time.sleep(0.2 * (attempt + 1))
    raise AssertionError("unreachable")


# --- what it tells -------------------------------------------------------------------------------


def work(seconds: float) -> None:
    """Take some time, with a sign of life now and then."""
    for step in range(max(1, round(seconds * 4))):
        say(f"working, step {step + 1}")
        time.sleep(0.25)


@contextmanager
def traced() -> Iterator[None]:
    """Write down the begin and the end with the machine's own clock."""
    who = f"{os.environ['FORGEPOOL_INSTANCE']} {os.environ['FORGEPOOL_TASK_ID']}"
    _trace(f"begin {who}")
    try:
        yield
    finally:
        _trace(f"end {who}")


def _trace(words: str) -> None:
    # One write to a file opened for appending is never torn (write(2)).
    with Path(os.environ["DEMO_TRACE"]).open("ab", buffering=0) as file:
        file.write(f"{time.monotonic():.6f} {words}\n".encode())


def say(text: str) -> None:
    """Print a line of the log."""
    print(text, flush=True)  # noqa: T201 - printing is what an agent does


if __name__ == "__main__":
    sys.exit(main())
