"""What an agent's own words say about its run. Reads its output and its result file, bounded; trusts neither.

Agents print JSON lines; stderr is mixed in, and a log may be cut (tasks/launcher.py), so a line that does not parse is
skipped, never an error. Everything found may come from a model: it is data for people, and an id goes no further
unless it has the form of one, since it returns as an argument when the conversation is resumed.
"""

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HEAD_BYTES = 256 * 1024  #: of a log: enough for the id of the conversation, which comes first
TAIL_BYTES = 4 * 1024 * 1024  #: of a log: enough for the result, which comes last
RESULT_BYTES = 1024 * 1024  #: of a result file; a larger one is not read
SUMMARY_CHARS = 10_000

#: No leading dash: it must not be taken for an option.
SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an agent says about its run. None: it does not say."""

    summary: str = ""
    session_id: str | None = None
    cost_usd: float | None = None
    tokens: int | None = None  #: read and written, those from a cache included
    is_error: bool | None = None  #: None: there is no final result in the output
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """A log as far as it is looked at."""

    lines: tuple[str, ...]
    has_gap: bool  #: between beginning and end something was not looked at

    @classmethod
    def read(cls, path: Path) -> "Output":
        """Read the beginning and the end of the log at `path`; a missing log is an empty one."""
        try:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
                rest = file.seek(0, os.SEEK_END) - len(head)
                has_gap = rest > TAIL_BYTES
                file.seek(-min(rest, TAIL_BYTES), os.SEEK_END)
                tail = file.read(TAIL_BYTES)
        except FileNotFoundError:
            return cls((), has_gap=False)
        if has_gap:  # the lines at both edges are cut
            head, tail = head.rpartition(b"\n")[0] + b"\n", tail.partition(b"\n")[2]
        return cls(tuple((head + tail).decode(errors="replace").splitlines()), has_gap)

    def events(self) -> Iterator[dict[str, Any]]:
        """Return the lines that are JSON objects."""
        return (event for line in self.lines if (event := _parse(line)) is not None)

    def complaints(self) -> Iterator[str]:
        """Return the lines in which the agent's program may complain: no JSON, or an event of failure.

        Other events carry the words of the model and of its tools, where any text can stand.
        """
        for line in self.lines:
            event = _parse(line)
            if event is None or event.get("type") in {"error", "turn.failed"} or event.get("is_error") is True:
                yield line


def _parse(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# --- the programs' own formats -------------------------------------------------------------------


def nothing(_: Output) -> Found:
    """Find nothing: an unknown program's output has no known form."""
    return Found()


def claude(output: Output) -> Found:
    """Read `claude -p --output-format stream-json`.

    code.claude.com/docs, "Run Claude Code programmatically" and Agent SDK reference, SDKResultMessage.
    """
    found = Found()
    for event in output.events():
        if event.get("type") == "system":
            found = replace(found, session_id=text_id(event.get("session_id")) or found.session_id)
        elif event.get("type") == "result":
            is_error = event.get("is_error") is not False or event.get("subtype") != "success"
            # A refused --resume ends in a result that repeats the dead id: only a success vouches for its id.
            vouched = None if is_error else text_id(event.get("session_id"))
            found = Found(
                summary=text(event.get("result")) or text(_joined(event.get("errors"))),
                session_id=vouched or found.session_id,
                cost_usd=amount(event.get("total_cost_usd")),
                tokens=total(
                    event.get("usage"),
                    *("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"),
                ),
                is_error=is_error,
                notes=(f"the agent ended with {event.get('subtype')}",) if is_error else (),
            )
    return found


def codex(output: Output) -> Found:
    """Read `codex exec --json`.

    developers.openai.com/codex, "Non-interactive mode"; openai/codex, codex-rs/exec/src/exec_events.rs.
    """
    found = Found()
    for event in output.events():
        match event:
            case {"type": "thread.started", "thread_id": thread}:
                found = replace(found, session_id=text_id(thread))
            case {"type": "item.completed", "item": {"type": "agent_message", "text": said}}:
                found = replace(found, summary=text(said))
            case {"type": "turn.completed"}:
                # cached_input_tokens are part of input_tokens.
                tokens = total(event.get("usage"), "input_tokens", "output_tokens")
                found = replace(found, is_error=False, tokens=tokens, notes=())
            case {"type": "turn.failed", "error": {"message": why}} | {"type": "error", "message": why}:
                # An error may be a connection that is tried again: what comes last counts.
                found = replace(found, is_error=True, notes=(f"the agent failed: {text(why)[:500]}",))
    return found


def opencode(output: Output) -> Found:
    """Read `opencode run --format json`; versions 1 and 2 print the same events.

    opencode.ai/docs/cli; anomalyco/opencode, packages/opencode/src/cli/cmd/run.ts (1) and
    packages/cli/src/mini/noninteractive.ts (2).
    """
    found, cost, tokens, steps = Found(), 0.0, 0, 0
    for event in output.events():
        found = replace(found, session_id=text_id(event.get("sessionID")) or found.session_id)
        match event:
            case {"type": "text", "part": {"text": said}}:
                found = replace(found, summary=text(said))
            case {"type": "step_finish", "part": {"reason": reason} as part}:
                cost += amount(part.get("cost")) or 0.0
                tokens += _opencode_tokens(part.get("tokens"))
                steps += 1
                is_error = None if reason == "tool-calls" else reason in {"error", "length", "content-filter"}
                notes = (f"the agent's last answer ended with {text(reason)}",) if is_error else ()
                found = replace(found, is_error=is_error, notes=notes)
            case {"type": "error", "error": why}:
                found = replace(found, is_error=True, notes=(f"the agent failed: {text(json.dumps(why))[:500]}",))
    if not steps:
        return found
    if output.has_gap:  # a sum over some of the steps would pass for the whole
        return replace(found, notes=(*found.notes, "the log is too long to add up cost and tokens"))
    return replace(found, cost_usd=cost, tokens=tokens)


def _opencode_tokens(value: object) -> int:
    cache = value.get("cache") if isinstance(value, dict) else None
    return (total(value, "input", "output", "reasoning") or 0) + (total(cache, "read", "write") or 0)


_AIDER_TOKENS = re.compile(r"Tokens: ([\d.,]+)(k?) sent,.*?([\d.,]+)(k?) received")
_AIDER_COST = re.compile(r"Cost: \$[\d.,]+ message, \$([\d.,]+) session")
_AIDER_COMMIT = re.compile(r"Commit [0-9a-f]{7,40} .+")


def aider(output: Output) -> Found:
    """Read aider's plain text: its commits, and the tokens and the cost it prints after each answer.

    aider has no JSON output and no conversations to resume, and its exit status says little: is_error stays None.
    aider/coders/base_coder.py, calculate_and_show_tokens_and_cost.
    """
    commits, cost, tokens = [], None, None
    for line in output.lines:
        if _AIDER_COMMIT.fullmatch(line):
            commits.append(line)
        if sent := _AIDER_TOKENS.search(line):
            tokens = (tokens or 0) + _count(sent[1], sent[2]) + _count(sent[3], sent[4])
        if spent := _AIDER_COST.search(line):
            cost = float(spent[1].replace(",", "").rstrip("."))
    notes = () if tokens else ("aider reports no answer from its model",)
    return Found(summary=text("\n".join(commits)), cost_usd=cost, tokens=tokens, notes=notes)


def _count(number: str, kilo: str) -> int:
    return round(float(number.replace(",", "").rstrip(".")) * (1000 if kilo else 1))


# --- values --------------------------------------------------------------------------------------


def text(value: object) -> str:
    """Return `value` if it is text, trimmed and not too long, else nothing."""
    return value.strip()[:SUMMARY_CHARS] if isinstance(value, str) else ""


def text_id(value: object) -> str | None:
    """Return `value` if it has the form of a conversation's id."""
    return value if isinstance(value, str) and SESSION_ID.fullmatch(value) else None


def amount(value: object) -> float | None:
    """Return `value` if it is an amount of money."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value < math.inf else None


def count(value: object) -> int | None:
    """Return `value` if it is a number of things."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def total(value: object, *names: str) -> int | None:
    """Return the sum of those counts of the object `value` that are there; None if there are none."""
    counts = [count(value.get(name)) for name in names] if isinstance(value, dict) else []
    known = [number for number in counts if number is not None]
    return sum(known) if known else None


def _joined(value: object) -> str:
    return "\n".join(str(part) for part in value) if isinstance(value, list) else ""


# --- the result file -----------------------------------------------------------------------------

#: name: (what it has to be, how to get it)
_FIELDS: dict[str, tuple[str, Callable[[object], Any]]] = {
    "summary": ("text", lambda value: text(value) if isinstance(value, str) else None),
    "session_id": ("the id of a conversation", text_id),
    "cost_usd": ("an amount", amount),
    "tokens": ("a whole number", count),
}


def with_result_file(found: Found, path: Path) -> Found:
    """Return `found` with what the agent wrote to its result file, which goes before what it printed.

    The file holds a JSON object: summary (text), session_id (text), cost_usd (number), tokens (whole number), each
    optional. What is not usable becomes a note.
    """
    try:
        value = _read_result(path)
    except (OSError, ValueError, RecursionError) as error:
        return replace(found, notes=(*found.notes, f"the result file was not used: {error}"))
    for name, (wanted, convert) in _FIELDS.items():
        if value.get(name) is None:
            continue
        if (converted := convert(value[name])) is None:
            found = replace(found, notes=(*found.notes, f"the result file's {name} was not used: it is not {wanted}"))
        else:
            found = replace(found, **{name: converted})
    return found


def _read_result(path: Path) -> dict[str, Any]:
    try:
        # The agent owns the path: a link could lead anywhere, and opening a pipe would wait for ever.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return {}
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError("it is not a regular file")
        data = os.read(file, RESULT_BYTES + 1)
    finally:
        os.close(file)
    if len(data) > RESULT_BYTES:
        raise ValueError(f"it is larger than {RESULT_BYTES} bytes")
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - of the same kind as the others
    return value
