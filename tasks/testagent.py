"""A stand-in for a coding agent: does what its arguments say. For tests and demos; standard library only.

python -m tasks.testagent commit say:done result exit:0
python -m tasks.testagent from-prompt        # takes its verbs from lines `testagent: VERB VERB` of the prompt
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

DEFAULT_RESULT = {"summary": "done", "session_id": "test-session-1", "cost_usd": 0.01, "tokens": 123}
UNITS = {"k": 1 << 10, "m": 1 << 20}
PAUSE_S = 0.02  #: between two looks for the file of wait-for


def say(text: str) -> None:
    """Print TEXT."""
    print(text, flush=True)  # noqa: T201 - printing is what an agent does


def flood(size: str) -> None:
    """Print SIZE bytes, such as 50m or 64k, in lines of 64."""
    count = int(size[:-1]) * UNITS[size[-1].lower()] if size[-1:].lower() in UNITS else int(size)
    block = (b"x" * 63 + b"\n") * 1024
    sys.stdout.flush()
    while count > 0:
        count -= os.write(1, block[:count])


def echo_stdin(_: str) -> None:
    """Print what comes on standard input."""
    say(sys.stdin.read())


def env(name: str) -> None:
    """Print the names of all environment variables, or the value of NAME."""
    say(os.environ.get(name, "") if name else "\n".join(sorted(os.environ)))


def sleep(seconds: str) -> None:
    """Do nothing for SECONDS."""
    time.sleep(float(seconds))


def hang(_: str) -> None:
    """Do nothing for ever."""
    while True:
        signal.pause()


def wait_for(path: str) -> None:
    """Wait until there is a file PATH."""
    while not Path(path).exists():
        time.sleep(PAUSE_S)


def touch(path: str) -> None:
    """Create the file PATH."""
    Path(path).touch()


def ignore_term(_: str) -> None:
    """Ignore SIGTERM from here on, in children too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def fork(path: str) -> None:
    """Leave a child in this process group that hangs with the output open; add its id to the file PATH."""
    if os.fork() == 0:
        _hang_as(path)


def fork_away(path: str) -> None:
    """Leave a grandchild in a session of its own, whose parent has ended; add its id to the file PATH."""
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            _hang_as(path)
        os._exit(0)
    os.waitpid(child, 0)


def _hang_as(path: str) -> None:
    try:
        if path:
            with Path(path).open("a") as file:
                file.write(f"{os.getpid()}\n")
        hang("")
    finally:
        os._exit(0)


def result(text: str) -> None:
    """Write the result file: TEXT if it is a JSON object, else an example with TEXT as its summary."""
    value = text if text.startswith("{") else json.dumps({**DEFAULT_RESULT, **({"summary": text} if text else {})})
    _result_file().write_text(value)


def mangle_result(_: str) -> None:
    """Write a result file that is no JSON."""
    _result_file().write_text('{"summary": "unfini')


def no_result(_: str) -> None:
    """Remove the result file."""
    _result_file().unlink(missing_ok=True)


def _result_file() -> Path:
    return Path(os.environ["FORGEPOOL_RESULT_FILE"])


def commit(message: str) -> None:
    """Commit a new line in the file testagent.txt of the working directory, with MESSAGE."""
    with Path("testagent.txt").open("a") as file:
        file.write(f"{time.time_ns()}\n")
    is_known = subprocess.run(["git", "config", "user.email"], stdout=subprocess.DEVNULL, check=False).returncode == 0
    who = () if is_known else ("-c", "user.name=testagent", "-c", "user.email=t@t")
    _git("add", "testagent.txt")
    _git(*who, "commit", "-q", "-m", message or "Change something")


def push(_: str) -> None:
    """Push the current branch to origin."""
    _git("push", "-q", "origin", "HEAD")


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)


def exit_with(code: str) -> None:
    """End with CODE."""
    sys.exit(int(code or 0))


def kill_self(name: str) -> None:
    """End by the signal NAME, such as KILL."""
    os.kill(os.getpid(), signal.Signals[f"SIG{name or 'KILL'}"])


def from_prompt(_: str) -> None:
    """Do what the lines `testagent: VERB VERB` of the file $FORGEPOOL_PROMPT_FILE say."""
    for line in Path(os.environ["FORGEPOOL_PROMPT_FILE"]).read_text().splitlines():
        mark, _, verbs = line.strip().partition(":")
        if mark == "testagent":
            play(shlex.split(verbs))


VERBS: dict[str, tuple[str, Callable[[str], None]]] = {
    "say": ("say:TEXT", say),
    "flood": ("flood:SIZE", flood),
    "echo-stdin": ("echo-stdin", echo_stdin),
    "env": ("env[:NAME]", env),
    "sleep": ("sleep:SECONDS", sleep),
    "hang": ("hang", hang),
    "wait-for": ("wait-for:PATH", wait_for),
    "touch": ("touch:PATH", touch),
    "ignore-term": ("ignore-term", ignore_term),
    "fork": ("fork[:PATH]", fork),
    "fork-away": ("fork-away[:PATH]", fork_away),
    "result": ("result[:TEXT]", result),
    "mangle-result": ("mangle-result", mangle_result),
    "no-result": ("no-result", no_result),
    "commit": ("commit[:MESSAGE]", commit),
    "push": ("push", push),
    "kill-self": ("kill-self[:NAME]", kill_self),
    "exit": ("exit[:CODE]", exit_with),
    "from-prompt": ("from-prompt", from_prompt),
}


def usage() -> str:
    """Return the help text: every verb with what it does."""
    verbs = "\n".join(f"  {form:<18} {(verb.__doc__ or '').strip()}" for form, verb in VERBS.values())
    return f"{(__doc__ or '').strip()}\n\nVerbs, done in the order given:\n\n{verbs}\n"


def play(script: Iterable[str]) -> None:
    """Do each verb of `script` in turn; end with a complaint at one that is unknown."""
    for word in script:
        name, _, argument = word.partition(":")
        if name not in VERBS:
            sys.exit(f"testagent: there is no verb {name!r}; see --help")
        VERBS[name][1](argument)


def main(arguments: list[str]) -> int:
    """Play the script on the command line."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        say(usage())
        return 0
    play(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
