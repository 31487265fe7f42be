"""The coding agents this project knows: how each is called and how its words are read. Pure but for reading logs.

A prompt never goes into an argument: there every user of the machine could read it, and its length is limited.
The programs are called so that they ask nobody for permission: what keeps them in is the account, the container and
the environment they run in, and for these the operator answers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

from pool.errors import BadInput
from tasks import findings
from tasks.findings import Found, Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What differs from one call of an agent to the next. Raises BadInput for what could be taken for an option."""

    prompt_path: Path
    result_path: Path  #: where the agent may leave its result, told to it as $FORGEPOOL_RESULT_FILE
    model: str | None = None  #: None: the program's own default
    session_id: str | None = None  #: conversation to continue; None: a new one

    def __post_init__(self) -> None:
        """Check the two values that become arguments."""
        if self.model is not None and not re.fullmatch(r"[A-Za-z0-9][^\s\x00]{0,199}", self.model):
            raise BadInput("model", self.model, "use the model's name as the agent's own documentation writes it")
        if self.session_id is not None and not findings.SESSION_ID.fullmatch(self.session_id):
            raise BadInput("session_id", self.session_id, "use the id that the agent gave to the conversation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One kind of agent."""

    name: str
    argv: Callable[[Run], tuple[str, ...]]
    prompt_on_stdin: bool  #: else `argv` names the prompt's file
    env_allow: tuple[str, ...] = ()  #: what the program reads of the service's environment, NAME or PREFIX*
    env: Mapping[str, str] = field(default_factory=dict)  #: set for every run
    can_resume: bool = True
    needs_result: bool = False  #: an end with status 0 but without a final result in the output is no success
    read: Callable[[Output], Found] = findings.nothing
    refusal: re.Pattern[str] | None = None  #: how the program says that there is no such conversation

    def evidence(self, log_path: Path, result_path: Path) -> Found:
        """Return what the agent said about its run; is_error None means that no final result was found."""
        return findings.with_result_file(self.read(Output.read(log_path)), result_path)

    def resume_failed(self, log_path: Path) -> bool:
        """Tell whether the run failed because the conversation to continue does not exist any more."""
        if self.refusal is None:
            return False
        output = Output.read(log_path)
        return self.read(output).is_error is not False and any(map(self.refusal.search, output.complaints()))


# Keys of model providers only. Credentials that open more than that (AWS_*, GOOGLE_*) are for the operator to allow.
_ANTHROPIC = ("ANTHROPIC_*",)
_OPENAI = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORGANIZATION", "OPENAI_PROJECT")
_PROVIDERS = (
    *(*_ANTHROPIC, *_OPENAI, "AZURE_API_*", "DEEPSEEK_API_KEY", "GEMINI_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY"),
    *("GROQ_API_KEY", "MISTRAL_API_KEY", "OLLAMA_*", "OPENROUTER_API_KEY", "XAI_API_KEY"),
)


def _option(flag: str, value: str | None) -> tuple[str, ...]:
    return (flag, value) if value else ()


def _claude(run: Run) -> tuple[str, ...]:
    # code.claude.com/docs, "CLI reference": -p reads the prompt from stdin; stream-json with -p asks for --verbose.
    return (
        *("claude", "-p", "--output-format", "stream-json", "--verbose", "--permission-mode", "bypassPermissions"),
        *_option("--model", run.model),
        *_option("--resume", run.session_id),
    )


def _codex(run: Run) -> tuple[str, ...]:
    # developers.openai.com/codex, "Non-interactive mode"; codex-rs/exec/src/cli.rs: these options are global, so they
    # hold for `resume` too, and "-" reads the prompt from stdin. The checkout is our own: no second trust check.
    return (
        *("codex", "exec", "--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"),
        *_option("--model", run.model),
        *(("resume", run.session_id) if run.session_id else ()),
        "-",
    )


def _opencode(name: str, *flags: str) -> Preset:
    # opencode.ai/docs, "Commands" and "Permissions": with no message `run` takes all of stdin as the message.
    return Preset(
        name=name,
        argv=lambda run: (
            *("opencode", "run", "--format", "json", "--auto", *flags),
            *_option("--model", run.model),
            *_option("--session", run.session_id),
        ),
        prompt_on_stdin=True,
        env_allow=(*_PROVIDERS, "OPENCODE_*", "XDG_*"),
        env={"OPENCODE_DISABLE_AUTOUPDATE": "1"},
        needs_result=True,  # it has ended with status 0 on errors and unknown sessions (issues 14551 and 27559)
        read=findings.opencode,
        refusal=re.compile(r"[Ss]ession not found|must start with \\*\"ses"),
    )


def _aider(run: Run) -> tuple[str, ...]:
    # aider.chat/docs, "Scripting aider" and "Options reference". --no-gitignore: else it changes the checkout's
    # .gitignore. --no-detect-urls: else --yes-always fetches every address that somebody wrote into an issue.
    return (
        *("aider", "--message-file", str(run.prompt_path), "--yes-always", "--no-pretty", "--no-stream"),
        *("--no-check-update", "--no-show-release-notes", "--no-analytics", "--no-gitignore", "--no-detect-urls"),
        *("--chat-history-file", str(run.prompt_path.with_name("aider.chat.history.md"))),
        *("--input-history-file", str(run.prompt_path.with_name("aider.input.history"))),
        *_option("--model", run.model),
    )


_KNOWN = (
    Preset(
        name="claude-code",
        argv=_claude,
        prompt_on_stdin=True,
        # As root, Claude Code refuses to run without permission prompts unless IS_SANDBOX=1 says that this is a
        # container (anthropics/claude-code issue 9184). Whether it is one is for the operator to say.
        env_allow=(*_ANTHROPIC, "CLAUDE_*", "IS_SANDBOX"),
        env={"DISABLE_AUTOUPDATER": "1"},
        needs_result=True,
        read=findings.claude,
        refusal=re.compile(r"No conversation found with session ID"),
    ),
    Preset(
        name="codex",
        argv=_codex,
        prompt_on_stdin=True,
        env_allow=(*_OPENAI, "CODEX_API_KEY", "CODEX_ACCESS_TOKEN", "CODEX_HOME", "CODEX_SQLITE_HOME"),
        needs_result=True,
        read=findings.codex,
        # "state db missing rollout path" is not among them: codex logs that and goes on (openai/codex issue 11634).
        refusal=re.compile(r"no rollout found|thread/resume failed|[Ss]ession not found|No saved session found"),
    ),
    # Without --standalone version 2 starts one server for all runs of the user: the first run's environment would serve
    # the others, and that run's end would end it. Version 1 has no such option.
    _opencode("opencode", "--standalone"),
    _opencode("opencode-v1"),
    Preset(
        name="aider",
        argv=_aider,
        prompt_on_stdin=False,
        env_allow=(*_PROVIDERS, "AIDER_*"),
        can_resume=False,
        read=findings.aider,
    ),
)
PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _KNOWN})


def by_name(name: str) -> Preset:
    """Return the preset `name`. Raises BadInput with the nearest name."""
    if name in PRESETS:
        return PRESETS[name]
    near = get_close_matches(name, PRESETS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise BadInput("agent", name, f"{hint}use one of {', '.join(PRESETS)}, or give `command`")


# --- any other program ---------------------------------------------------------------------------

PLACEHOLDERS = ("prompt_file", "result_file", "model", "session_id")
_PLACEHOLDER = re.compile(r"(?<!\$)\{([A-Za-z_]+)\}")  #: not ${NAME}, which is for the shell of a `sh -c`


def command_preset(argv: Sequence[str]) -> Preset:
    """Return a preset that runs `argv`, with `{prompt_file}`, `{result_file}`, `{model}`, `{session_id}` filled in.

    A placeholder stays inside its argument and never meets a shell; one without a value becomes nothing. Without
    `{prompt_file}` the prompt goes to the program's standard input. Raises BadInput as `check` does.
    """
    words = check(argv)
    used = {name for word in words for name in _PLACEHOLDER.findall(word)}

    def filled(run: Run) -> tuple[str, ...]:
        values = {
            "prompt_file": str(run.prompt_path),
            "result_file": str(run.result_path),
            "model": run.model or "",
            "session_id": run.session_id or "",
        }
        return tuple(_PLACEHOLDER.sub(lambda found: values[found[1]], word) for word in words)

    return Preset(
        name="command",
        argv=filled,
        prompt_on_stdin="prompt_file" not in used,
        can_resume="session_id" in used,
    )


def check(argv: Sequence[str]) -> tuple[str, ...]:
    """Return `argv` if it is a usable command. Raises BadInput for an empty one or an unknown placeholder."""
    if isinstance(argv, str) or not argv or not argv[0].strip():
        raise BadInput("command", argv, 'use a list: the program, then its arguments, as in ["my-agent", "--fast"]')
    for word in argv:
        for name in _PLACEHOLDER.findall(word):
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
                raise BadInput("command", word, f"there is no placeholder {{{name}}}; known: {known}")
    return tuple(argv)
