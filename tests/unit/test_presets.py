"""How each known agent is called and how its words are read, with stand-ins that print what the programs print."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pool.errors import BadInput
from tasks import findings
from tasks.environment import agent_environment
from tasks.findings import Found
from tasks.presets import PRESETS, Preset, Run, by_name, check, command_preset
from tasks.runner import Agent, AgentCommand, Limits

PROMPT = "Fix the bug.\nIt is in 'a file' with $HOME and `ticks`.\n"
CONVERSATIONS = [name for name, preset in PRESETS.items() if preset.can_resume]


def lines(*events: dict[str, Any] | str) -> str:
    return "".join((event if isinstance(event, str) else json.dumps(event)) + "\n" for event in events)


CLAUDE_INIT = {"type": "system", "subtype": "init", "session_id": "5b1e-init", "tools": ["Bash"]}
CLAUDE_RESULT = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
    "num_turns": 3,
    "result": "Fixed it.\n",
    "session_id": "5b1e-init",
    "total_cost_usd": 0.125,
    "usage": {
        "input_tokens": 10,
        "cache_creation_input_tokens": 200,
        "cache_read_input_tokens": 3000,
        "output_tokens": 40,
        "service_tier": "standard",
    },
}
CLAUDE_REFUSAL = {
    "type": "result",
    "subtype": "error_during_execution",
    "is_error": True,
    "session_id": "dead-id",
    "total_cost_usd": 0,
    "errors": ["No conversation found with session ID: dead-id"],
}
CODEX_EVENTS = (
    {"type": "thread.started", "thread_id": "019f-thread"},
    {"type": "turn.started"},
    {"type": "item.completed", "item": {"id": "item_0", "type": "reasoning", "text": "Hm."}},
    {"type": "item.completed", "item": {"id": "item_1", "type": "agent_message", "text": "Looking."}},
    {"type": "item.completed", "item": {"id": "item_2", "type": "agent_message", "text": "Done."}},
)
CODEX_END = {
    "type": "turn.completed",
    "usage": {"input_tokens": 1000, "cached_input_tokens": 900, "output_tokens": 50},
}


def opencode_step(reason: str, cost: float = 0.02) -> dict[str, Any]:
    tokens = {"input": 100, "output": 20, "reasoning": 5, "cache": {"read": 1000, "write": 10}}
    part = {"type": "step-finish", "reason": reason, "cost": cost, "tokens": tokens}
    return {"type": "step_finish", "timestamp": 1, "sessionID": "ses_1", "part": part}


def opencode_text(said: str) -> dict[str, Any]:
    return {"type": "text", "timestamp": 1, "sessionID": "ses_1", "part": {"type": "text", "text": said}}


AIDER = """Aider v0.86.1
Main model: sonnet with diff edit format
Tokens: 4.2k sent, 1,100 received. Cost: $0.01 message, $0.01 session.
Applied edit to app.py
Commit 1a2b3c4 fix: the bug
Tokens: 900 sent, 1k cache hit, 100 received. Cost: $0.0005 message, $0.0105 session.
"""


@dataclass(frozen=True)
class Played:
    """What a stand-in was given, and what was made of what it printed."""

    arguments: tuple[str, ...]
    stdin: str
    found: Found
    resume_failed: bool


def play(
    folder: Path, preset: Preset, output: str, *, status: int = 0, program: str | None = None, **given: str
) -> Played:
    """Run `preset` for real, with a stand-in of its program on the PATH that prints `output`."""
    prompt, log, result = folder / "prompt.md", folder / "log", folder / "result.json"
    prompt.write_text(PROMPT)
    (folder / "output").write_text(output)
    run = Run(prompt_path=prompt, result_path=result, **given)
    stand_in = folder / "bin" / (program or preset.argv(run)[0])
    stand_in.parent.mkdir()
    stand_in.write_text(
        f"""#!/bin/sh
        printf '%s\\n' "$@" >{folder}/arguments
        cat >{folder}/stdin
        cat {folder}/output
        exit {status}"""
    )
    stand_in.chmod(0o755)
    env = agent_environment({"PATH": f"{stand_in.parent}:{os.environ['PATH']}"}, extra=preset.env)
    command = AgentCommand(
        argv=preset.argv(run),
        cwd=folder,
        env=env,
        log_path=log,
        stdin_path=prompt if preset.prompt_on_stdin else None,
    )
    with Agent.start(command, Limits(wall_s=30, silence_s=None, grace_s=1, log_bytes=1 << 20)) as agent:
        agent.watch(lambda: None)
    return Played(
        arguments=tuple((folder / "arguments").read_text().splitlines()),
        stdin=(folder / "stdin").read_text(),
        found=preset.evidence(log, result),
        resume_failed=preset.resume_failed(log),
    )


def evidence(folder: Path, name: str, *events: dict[str, Any] | str) -> Found:
    (folder / "log").write_text(lines(*events))
    return by_name(name).evidence(folder / "log", folder / "result.json")


# --- every known agent ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_the_prompt_is_never_an_argument(tmp_path: Path, name: str) -> None:
    preset = by_name(name)

    played = play(tmp_path, preset, "")

    assert not any("Fix the bug" in argument for argument in played.arguments)
    assert played.stdin == (PROMPT if preset.prompt_on_stdin else "")
    assert preset.prompt_on_stdin or str(tmp_path / "prompt.md") in played.arguments


@pytest.mark.parametrize("name", PRESETS)
def test_a_model_is_passed_on_only_when_one_is_set(tmp_path: Path, name: str) -> None:
    run = Run(prompt_path=tmp_path / "p", result_path=tmp_path / "r", model="a/model:1")

    with_model = by_name(name).argv(run)

    assert with_model[with_model.index("--model") + 1] == "a/model:1"
    assert "--model" not in by_name(name).argv(Run(prompt_path=tmp_path / "p", result_path=tmp_path / "r"))


@pytest.mark.parametrize("name", PRESETS)
def test_a_conversation_is_continued_by_those_that_can(tmp_path: Path, name: str) -> None:
    run = Run(prompt_path=tmp_path / "p", result_path=tmp_path / "r", session_id="abc-1")

    argv = by_name(name).argv(run)

    assert ("abc-1" in argv) is by_name(name).can_resume


@pytest.mark.parametrize("name", PRESETS)
def test_silence_with_status_0_carries_no_final_result(tmp_path: Path, name: str) -> None:
    assert play(tmp_path, by_name(name), "").found.is_error is None


@pytest.mark.parametrize("name", PRESETS)
def test_no_service_setting_is_among_what_an_agent_may_see(name: str) -> None:
    service = {"FORGEPOOL_BROKER_URL": "x", "CELERY_BROKER_URL": "x", "AWS_SECRET_ACCESS_KEY": "x", "DATABASE_URL": "x"}

    assert agent_environment(service, allow=by_name(name).env_allow) == {}


@pytest.mark.parametrize("field", ["model", "session_id"])
def test_nothing_that_looks_like_an_option_becomes_an_argument(tmp_path: Path, field: str) -> None:
    with pytest.raises(BadInput, match=field):
        Run(prompt_path=tmp_path, result_path=tmp_path, **{field: "--dangerous"})


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"did you mean 'claude-code'\?"):
        by_name("claud-code")


# --- Claude Code ---------------------------------------------------------------------------------


def test_claude_tells_summary_session_cost_and_tokens(tmp_path: Path) -> None:
    played = play(tmp_path, by_name("claude-code"), lines(CLAUDE_INIT, "a warning", CLAUDE_RESULT), session_id="old-1")

    assert played.found == Found(
        summary="Fixed it.", session_id="5b1e-init", cost_usd=0.125, tokens=3250, is_error=False
    )
    assert played.arguments[-2:] == ("--resume", "old-1")
    assert not played.resume_failed


def test_claude_that_ends_without_a_result_is_no_success_but_keeps_its_session(tmp_path: Path) -> None:
    found = evidence(tmp_path, "claude-code", CLAUDE_INIT)

    assert (found.is_error, found.session_id) == (None, "5b1e-init")
    assert by_name("claude-code").needs_result


def test_a_dead_session_that_claude_repeats_in_its_error_is_not_kept(tmp_path: Path) -> None:
    played = play(tmp_path, by_name("claude-code"), lines(CLAUDE_REFUSAL), status=1, session_id="dead-id")

    assert played.resume_failed
    assert (played.found.is_error, played.found.session_id) == (True, None)
    assert "No conversation found" in played.found.summary


def test_a_limit_on_turns_is_an_error_though_claude_does_not_call_it_one(tmp_path: Path) -> None:
    found = evidence(tmp_path, "claude-code", CLAUDE_INIT, {**CLAUDE_RESULT, "subtype": "error_max_turns"})

    assert found.is_error is True


# --- Codex ---------------------------------------------------------------------------------------


def test_codex_tells_its_last_message_its_thread_and_its_tokens(tmp_path: Path) -> None:
    played = play(tmp_path, by_name("codex"), lines(*CODEX_EVENTS, CODEX_END), session_id="019f-thread")

    assert played.found == Found(summary="Done.", session_id="019f-thread", tokens=1050, is_error=False)
    assert played.arguments[-3:] == ("resume", "019f-thread", "-")


def test_codex_that_recovers_from_a_lost_connection_has_not_failed(tmp_path: Path) -> None:
    retry = {"type": "error", "message": "Reconnecting... 1/5"}

    assert evidence(tmp_path, "codex", *CODEX_EVENTS, retry, CODEX_END).is_error is False


def test_a_turn_of_codex_that_failed_says_why(tmp_path: Path) -> None:
    failure = {"type": "turn.failed", "error": {"message": "usage limit reached"}}

    found = evidence(tmp_path, "codex", *CODEX_EVENTS, failure)

    assert (found.is_error, found.notes) == (True, ("the agent failed: usage limit reached",))


# --- OpenCode ------------------------------------------------------------------------------------


def test_opencode_adds_up_its_steps(tmp_path: Path) -> None:
    events = (opencode_text("Looking."), opencode_step("tool-calls"), opencode_text("Done."), opencode_step("stop"))

    played = play(tmp_path, by_name("opencode"), lines(*events), session_id="ses_1")

    assert played.found == Found(summary="Done.", session_id="ses_1", cost_usd=0.04, tokens=2270, is_error=False)
    assert played.arguments[-2:] == ("--session", "ses_1")


def test_opencode_that_stops_between_two_steps_has_no_final_result(tmp_path: Path) -> None:
    assert evidence(tmp_path, "opencode", opencode_step("tool-calls")).is_error is None


def test_an_error_of_opencode_counts_whatever_its_exit_status(tmp_path: Path) -> None:
    error = {"type": "error", "sessionID": "ses_1", "error": {"name": "APIError", "data": {"message": "no credit"}}}

    found = evidence(tmp_path, "opencode", opencode_step("tool-calls"), error)

    assert found.is_error is True
    assert "no credit" in found.notes[0]


def test_costs_are_unknown_rather_than_partial_when_the_log_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "HEAD_BYTES", 500)
    monkeypatch.setattr(findings, "TAIL_BYTES", 500)

    found = evidence(tmp_path, "opencode", *[opencode_step("tool-calls")] * 10, opencode_step("stop"))

    assert (found.is_error, found.cost_usd, found.tokens) == (False, None, None)


# --- aider ---------------------------------------------------------------------------------------


def test_aider_tells_commits_cost_and_tokens(tmp_path: Path) -> None:
    found = play(tmp_path, by_name("aider"), AIDER).found

    assert found == Found(summary="Commit 1a2b3c4 fix: the bug", cost_usd=0.0105, tokens=6300)


def test_aider_without_an_answer_from_its_model_says_so(tmp_path: Path) -> None:
    assert evidence(tmp_path, "aider", "Aider v0.86.1").notes == ("aider reports no answer from its model",)


# --- a conversation that is gone -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("claude-code", "No conversation found with session ID: abc"),
        ("codex", "Error: thread/resume: thread/resume failed: no rollout found for thread id abc (code -32600)"),
        ("opencode", "Error: Session not found"),
        ("opencode-v1", ' message: "Session not found: ses_abc",'),
        ("opencode", '{"type":"error","sessionID":"","error":{"type":"unknown","message":"Session not found"}}'),
    ],
)
def test_a_refused_conversation_is_recognised(tmp_path: Path, name: str, complaint: str) -> None:
    assert play(tmp_path, by_name(name), lines(complaint), session_id="abc").resume_failed


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_words_of_a_model_about_a_lost_session_are_no_refusal(tmp_path: Path, name: str) -> None:
    said = "Session not found; no rollout found; No conversation found with session ID"
    tool = {"type": "item.completed", "item": {"type": "command_execution", "aggregated_output": said}}

    (tmp_path / "log").write_text(lines(tool, opencode_text(said), {"type": "assistant", "message": said}))

    assert not by_name(name).resume_failed(tmp_path / "log")


def test_a_run_that_succeeded_was_not_refused_whatever_its_program_complained_of(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(lines("No conversation found with session ID: other", CLAUDE_INIT, CLAUDE_RESULT))

    assert not by_name("claude-code").resume_failed(tmp_path / "log")


# --- logs and result files that cannot be trusted ------------------------------------------------


def test_a_huge_log_is_read_at_its_edges_only(tmp_path: Path) -> None:
    noise = lines({"type": "assistant", "message": "x" * 1000}) * 6000
    (tmp_path / "log").write_text(lines(CLAUDE_INIT) + noise + lines(CLAUDE_RESULT))

    output = findings.Output.read(tmp_path / "log")

    assert output.has_gap
    assert sum(map(len, output.lines)) < findings.HEAD_BYTES + findings.TAIL_BYTES
    assert findings.claude(output).is_error is False


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    "garbage",
    ["\x00\xff{", '{"type":', '{"a":' * 100_000, "{}", '{"type":"result"}', '{"type":"step_finish","part":7}'],
)
def test_garbage_in_a_log_never_raises(tmp_path: Path, name: str, garbage: str) -> None:
    assert evidence(tmp_path, name, garbage).is_error is not False


def test_the_result_file_goes_before_what_was_printed_field_by_field(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"summary": "From the file.", "tokens": 7, "mood": "good"}')

    found = evidence(tmp_path, "claude-code", CLAUDE_INIT, CLAUDE_RESULT)

    assert (found.summary, found.tokens, found.cost_usd) == ("From the file.", 7, 0.125)
    assert (found.notes, found.is_error) == ((), False)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ('{"summary": "unfini', "the result file was not used"),
        ("[1]", "it is not a JSON object"),
        ("[" * 100_000, "the result file was not used"),
        ('{"summary": "' + "x" * findings.RESULT_BYTES + '"}', "it is larger than"),
        ('{"summary": 7}', "summary was not used: it is not text"),
        ('{"session_id": "--resume"}', "session_id was not used"),
        ('{"cost_usd": "a lot"}', "cost_usd was not used: it is not an amount"),
        ('{"cost_usd": NaN}', "cost_usd was not used"),
        ('{"tokens": true}', "tokens was not used: it is not a whole number"),
    ],
    ids=lambda value: value[:20],
)
def test_an_unusable_result_file_becomes_a_note(tmp_path: Path, content: str, note: str) -> None:
    (tmp_path / "result.json").write_text(content)

    found = evidence(tmp_path, "claude-code", CLAUDE_INIT, CLAUDE_RESULT)

    assert note in found.notes[0]
    assert (found.summary, found.session_id, found.cost_usd, found.tokens) == ("Fixed it.", "5b1e-init", 0.125, 3250)


def test_a_result_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.json").write_text('{"summary": "somebody else\'s"}')
    (tmp_path / "result.json").symlink_to("elsewhere.json")

    found = evidence(tmp_path, "claude-code", CLAUDE_RESULT)

    assert found.summary == "Fixed it."
    assert "the result file was not used" in found.notes[0]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_result_that_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "result.json")

    assert "it is not a regular file" in evidence(tmp_path, "claude-code", CLAUDE_RESULT).notes[0]


# --- any other program ---------------------------------------------------------------------------


def test_placeholders_are_filled_in_as_text_and_meet_no_shell(tmp_path: Path) -> None:
    preset = command_preset(["my-agent", "--prompt={prompt_file}", "{model}", "{session_id}", "${HOME}; exit 1"])

    played = play(tmp_path, preset, "", model="m$(id)", session_id="s-1")

    assert played.arguments == (f"--prompt={tmp_path}/prompt.md", "m$(id)", "s-1", "${HOME}; exit 1")
    assert (played.stdin, preset.can_resume) == ("", True)


def test_without_the_prompts_file_the_prompt_goes_to_standard_input(tmp_path: Path) -> None:
    played = play(tmp_path, command_preset(["my-agent"]), "")

    assert (played.stdin, played.arguments) == (PROMPT, ("",))


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "use a list"),
        (["  "], "use a list"),
        ("my-agent --fast", "use a list"),
        (["my-agent", "{promptfile}"], r"no placeholder \{promptfile\}; known: \{prompt_file\}"),
    ],
)
def test_an_unusable_command_is_refused_when_it_is_configured(argv: list[str], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        check(argv)
