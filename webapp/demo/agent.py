"""The demo's scripted agent: does what a coding agent would do for each kind of task, in the real checkout.

Standard library only. Writes when it began and ended into the file $DEMO_TRACE, so that the verdict does not rest on
forgepool's own records.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: How long each kind takes, in seconds: long enough to be seen, and to overlap.
PACE_S = {"implement": 2.0, "review": 1.2, "address-review": 1.2, "fix-ci": 1.2, "merge": 0.8}


def main() -> int:
    """Do one task."""
    kind, number = os.environ["FORGEPOOL_KIND"], os.environ["FORGEPOOL_NUMBER"]
    with traced():
        say(f"reading {Path(os.environ['FORGEPOOL_PROMPT_FILE']).stat().st_size} bytes of prompt")
        work(PACE_S.get(kind, 1.0))
        summary = DEEDS[kind](number)
        say(summary)
        result = {"summary": summary, "session_id": f"demo-{os.environ['FORGEPOOL_TYPE']}-{number}", "tokens": 1000}
        Path(os.environ["FORGEPOOL_RESULT_FILE"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


def implement(number: str) -> str:
    """Write the feature, commit, push."""
    return change(f"features/{number}.txt", f"feature {number}\n", f"Implement #{number}")


def fix(number: str) -> str:
    """Mend what the reviewer or the build complained about, commit, push."""
    kind = os.environ["FORGEPOOL_KIND"]
    return change(f"features/{number}.txt", f"mended after {kind}\n", f"Mend #{number} ({kind})")


def review(number: str) -> str:
    """Look at the change, write nothing."""
    files = git("show", "--stat", "--format=%h %s", "HEAD")
    say(files)
    return f"Reviewed #{number} at {git('rev-parse', '--short', 'HEAD')}"


def merge(number: str) -> str:
    """Merge the pull request's head into main with a merge commit, push."""
    head = git("rev-parse", "HEAD")
    git("checkout", "-q", "-B", "main", "origin/main")
    git("merge", "-q", "--no-ff", "-m", f"Merge pull request #{number}", head)
    git("push", "-q", "origin", "main")
    return f"Merged #{number} as {git('rev-parse', '--short', 'HEAD')}"


def change(path: str, line: str, message: str) -> str:
    """Append a line to a file, commit it and push the branch."""
    file = Path(path)
    file.parent.mkdir(exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(line)
    git("add", path)
    git("commit", "-q", "-m", message)
    git("push", "-q", "origin", "HEAD")
    return f"{message} as {git('rev-parse', '--short', 'HEAD')}"


DEEDS = {"implement": implement, "review": review, "address-review": fix, "fix-ci": fix, "merge": merge}


def work(seconds: float) -> None:
    """Take some time, with a sign of life twice a second."""
    for step in range(max(1, round(seconds * 2))):
        say(f"working, step {step + 1}")
        time.sleep(0.5)


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


def git(*words: str) -> str:
    """Run git and return what it printed."""
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()


def say(text: str) -> None:
    """Print a line of the log."""
    print(text, flush=True)  # noqa: T201 - printing is what an agent does


if __name__ == "__main__":
    sys.exit(main())
