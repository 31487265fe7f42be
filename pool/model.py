"""The values that travel through the house: requests, instances, tasks, decisions. Pure: no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pool.errors import BadInput
from pool.lanes import MergeStep
from pool.states import InstanceState, State

#: No dots: some Celery transports give a dot in a queue name a meaning of its own.
NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
#: As strict as Forgejo's own rule (models/user/user.go): what passes is safe as a path of two parts.
REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}/[A-Za-z0-9._-]{1,100}")

#: What a database column holds; the forge's own numbers end there too.
MAX_ID = 2**63 - 1

#: File systems take 255 bytes a name, and git adds ".lock".
MAX_BRANCH = 250


def check_name(field_name: str, value: object) -> str:
    """Return `value` if it is a good name for an instance or a type, else raise BadInput."""
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    raise BadInput(field_name, value, "use 1 to 63 of a-z, 0-9 and '-', and begin with a letter (no dots, no capitals)")


def check_repo(field_name: str, value: object) -> str:
    """Return `value` if it is an `owner/name`, else raise BadInput."""
    if isinstance(value, str) and REPO.fullmatch(value) and ".." not in value and not value.endswith("/."):
        return value
    raise BadInput(field_name, value, "use owner/name, as the forge shows it")


def check_labels(field_name: str, value: object) -> tuple[str, ...]:
    """Return labels sorted and without repeats, else raise BadInput."""
    if isinstance(value, list | tuple) and all(isinstance(label, str) and label.strip() for label in value):
        return tuple(sorted({label.strip() for label in value}))
    raise BadInput(field_name, value, "use a list of non-empty label names")


def _fields(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as they are; asdict() copies each one deeply, and takes its time."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


class Kind(StrEnum):
    """What a task asks of its agent."""

    IMPLEMENT = "implement"
    REVIEW = "review"
    ADDRESS_REVIEW = "address-review"
    FIX_CI = "fix-ci"
    REBASE = "rebase"
    RESOLVE = "resolve"  # a conflict that rebases did not settle
    MERGE = "merge"  # one link of a chain that merges; no agent's task
    CUSTOM = "custom"  # a person's own words, by `forgepool dispatch`

    @property
    def starts_fresh(self) -> bool:
        """Reviews never resume: a resumed reviewer repeats its old verdict and overlooks new instructions."""
        return self is Kind.REVIEW


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be done, in our words. The text fields come from the forge: data, never commands."""

    kind: Kind
    repo: str  #: owner/name
    number: int  #: of the issue or pull request, >= 1
    title: str = ""
    body: str = ""  #: the issue's or pull request's own text
    detail: str = ""  #: what this event adds: the review's words, the failed run
    labels: tuple[str, ...] = ()
    branch: str | None = None  #: head branch of the pull request; None: the task gets a branch of its own
    base: str | None = None  #: branch to start from; None: the repository's default branch
    head_sha: str | None = None  #: commit the event speaks of
    url: str = ""  #: the issue or pull request, for people
    sender: str = ""  #: login of whoever caused it
    merge: int | None = None  #: the entry of the lane, for a link of the chain that merges
    link: int | None = None  #: which link of that entry's chain, counted from 1
    step: MergeStep | None = None  #: what that link does

    def __post_init__(self) -> None:
        """Refuse what no worker could run, naming the field."""
        check_repo("request.repo", self.repo)
        if not isinstance(self.number, int) or isinstance(self.number, bool) or not 1 <= self.number <= MAX_ID:
            raise BadInput("request.number", self.number, "use the number of an issue or pull request, 1 or more")
        for name in ("branch", "base"):
            _check_branch(f"request.{name}", getattr(self, name))
        for name in ("merge", "link"):
            count = getattr(self, name)
            if count is not None and (
                not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_ID
            ):
                raise BadInput(f"request.{name}", count, "use a number, 1 or more")
        if self.head_sha is not None and not re.fullmatch(r"[0-9a-f]{7,64}", self.head_sha):
            raise BadInput("request.head_sha", self.head_sha, "use 7 to 64 hexadecimal digits")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, for the store."""
        return {**_fields(self), "kind": str(self.kind), "labels": list(self.labels)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises BadInput naming the field that does not fit."""
        known = set(cls.__dataclass_fields__)
        if unknown := sorted(set(value) - known):
            raise BadInput(
                f"request.{unknown[0]}", value[unknown[0]], "unknown field; known: " + ", ".join(sorted(known))
            )
        try:
            kind = Kind(value.get("kind", ""))
        except ValueError:
            raise BadInput("request.kind", value.get("kind"), "use one of " + ", ".join(Kind)) from None
        for name in ("repo", "number"):
            if name not in value:
                raise BadInput(f"request.{name}", None, "is required")
        for name in known - {"kind", "number", "labels", "merge", "link"}:
            if not isinstance(value.get(name, ""), str | None):
                raise BadInput(f"request.{name}", value[name], "use text")
        labels = check_labels("request.labels", value.get("labels", ()))
        step = value.get("step")
        return cls(**{**value, "kind": kind, "labels": labels, "step": None if step is None else _step(step)})


def _step(value: str) -> MergeStep:
    try:
        return MergeStep(value)
    except ValueError:
        raise BadInput("request.step", value, "use one of " + ", ".join(MergeStep)) from None


def _check_branch(field_name: str, value: str | None) -> None:
    """Refuse a branch name that git would refuse or read as an option (git-check-ref-format(1))."""
    if value is None:
        return
    bad = re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|^[-/.]|[/.]$|\.lock(/|$)", value)
    if bad or not 1 <= len(value) <= MAX_BRANCH:
        raise BadInput(field_name, value, "use a branch name that git accepts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One named member of a type's pool, with what it overrides of its type and what it holds now."""

    name: str  #: also the name of its queue
    type: str
    model: str | None = None  #: None: the type's model
    prompt_appendix: str | None = None  #: appended to every prompt; None: nothing
    match_labels: tuple[str, ...] | None = None  #: None: the type's match_labels
    notes: str = ""
    state: InstanceState = InstanceState.ACTIVE
    host: str | None = None  #: the only host that may serve it; None: any
    queued: int = 0  #: tasks waiting in its queue
    running: int = 0  #: 0 or 1
    worker: str | None = None  #: who holds the worker lease; None: nobody ever did
    worker_host: str | None = None  #: where that worker runs
    worker_until: datetime | None = None  #: when that lease ends
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def is_idle(self) -> bool:
        """No running task and nothing queued."""
        return self.queued == 0 and self.running == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What selection knows of one instance."""

    name: str
    labels: tuple[str, ...] = ()  #: effective: the instance's own, else its type's
    queued: int = 0
    running: int = 0
    paused: bool = False

    @property
    def load(self) -> int:
        """0: idle. Else 1 + tasks queued; the running one is not counted."""
        return 0 if not self.queued and not self.running else self.queued + 1


class Rule(StrEnum):
    """Why an instance was chosen: the last rule that decided."""

    ONLY_ONE = "only-one"  # a single candidate was left
    IDLE = "idle"  # one idle instance
    ROUND_ROBIN = "round-robin"  # several idle, the next after the cursor
    LEAST_LOADED = "least-loaded"  # none idle, the fewest queued
    TIE = "least-loaded-tie"  # none idle, several with the fewest queued, the next after the cursor
    SAME_SESSION = "same-session"  # a task of the same session is still live there


class LabelRule(StrEnum):
    """How labels narrowed the candidates."""

    NONE = "no-labels"  # the request has no labels
    MATCH = "match"  # instances that share most labels with the request
    GENERALISTS = "no-match-generalists"  # nobody matches: instances without match_labels
    ANY = "no-match-any"  # nobody matches and everybody is a specialist


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Why this instance: everything that was looked at, kept with the task."""

    type: str
    chosen: str
    rule: Rule
    label_rule: LabelRule
    labels: tuple[str, ...]  #: of the request
    shared: tuple[str, ...]  #: labels that the chosen instance shares with the request
    candidates: tuple[Candidate, ...]  #: what the choice was made from, ordered by name
    partial: bool = False  #: a large pool: only the instances that could win were looked at, and a runner-up
    cursor_before: str | None  #: instance picked last for this type; None: none yet
    cursor_after: str | None
    paused_only: bool = False  #: every instance of the type is paused; the task waits for a resume
    session_task: int | None = None  #: the live task of the same session, for SAME_SESSION

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, for the store."""
        return {**_fields(self), "candidates": [_fields(candidate) for candidate in self.candidates]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        candidates = tuple(Candidate(**{**c, "labels": tuple(c["labels"])}) for c in value["candidates"])
        return cls(
            **{
                **value,
                "rule": Rule(value["rule"]),
                "label_rule": LabelRule(value["label_rule"]),
                "labels": tuple(value["labels"]),
                "shared": tuple(value["shared"]),
                "candidates": candidates,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a run left behind: the grounds for calling it a success or not."""

    exit_code: int | None = None  #: None: it was killed or never started
    signal: int | None = None  #: the signal that ended it
    duration_s: float = 0.0
    output_bytes: int = 0
    summary: str = ""
    session_id: str | None = None
    cost_usd: float | None = None  #: None: unknown, which is not zero
    tokens: int | None = None  #: None: unknown
    head_before: str | None = None  #: commit of the checkout before the run
    head_after: str | None = None
    resumed: bool = False  #: the agent continued an earlier conversation
    proof: str = ""  #: what the forge showed of it; "": it was not asked
    notes: tuple[str, ...] = ()  #: what a reader should know: log cut, left-over processes killed, bad result file

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, for the store."""
        return _fields(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**{**value, "notes": tuple(value["notes"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One agent run, from enqueue to end."""

    id: int  #: never reused; also the Celery task id, as text
    type: str
    instance: str | None  #: None: no instance could take it
    state: State
    request: Request
    session_key: str
    reason: str = ""  #: why it is in this state, for a person
    rule: str | None = None  #: the dispatch rule of the webhook; None: by hand
    delivery: int | None = None  #: receipt that caused it
    retry_of: int | None = None
    interruptions: int = 0  #: earlier runs of the same work that the machinery lost
    decision: Decision | None = None
    evidence: Evidence | None = None
    fence: int | None = None  #: fencing token of its run
    host: str | None = None  #: where it ran or runs; None: nowhere yet
    created_at: datetime
    published_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    lease_until: datetime | None = None
    cancel_requested_at: datetime | None = None
    stop_requested_at: datetime | None = None  #: shutdown asked the agent to stop
    history: tuple["TaskEvent", ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """One line of a task's history."""

    at: datetime
    event: str  #: a Move, or "queued", "published", "cancel-requested"
    by: str
    why: str = ""


def session_key(type_name: str, repo: str, number: int) -> str:
    """Return the key of the conversation a task belongs to."""
    return f"{type_name}:{repo}:{number}"
