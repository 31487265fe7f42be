"""What a link of the chain that merges has before it, and what may come of it. Pure: no I/O."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, assert_never

from pool.errors import NotThere
from pool.lanes import Merge, MergeStep, Refusal
from tasks.forge_values import Issue, MergeStyle, Pull, Repository
from tasks.merge_rules import CannotMerge, Elsewhere, Merged, NeedsUpdate, NotYet, Ready, Verdict, judge
from tasks.merge_update import Updater
from tasks.situation import Facts, Policy, PullFacts


class MergeForge(Protocol):
    """What of the forge's client is needed here."""

    def pull(self, repo: str, number: int) -> Pull: ...  # noqa: D102
    def issue(self, repo: str, number: int) -> Issue: ...  # noqa: D102
    def repository(self, repo: str) -> Repository: ...  # noqa: D102
    def open_pulls(self, repo: str, *, base: str | None = None) -> list[Pull]: ...  # noqa: D102
    def blockers(self, repo: str, number: int) -> list[Issue]: ...  # noqa: D102
    def blocked(self, repo: str, number: int) -> list[Issue]: ...  # noqa: D102
    def merge(  # noqa: D102
        self,
        repo: str,
        number: int,
        *,
        head_sha: str,
        style: MergeStyle,
        title: str | None = None,
        message: str | None = None,
    ) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a link has before it."""

    merge: Merge
    made_from: str | None  #: of an update that is to be pushed: the head that it was made from; None: none is
    policy: Policy
    style: MergeStyle
    forge: MergeForge
    read: Callable[[], Facts]  #: asks the forge about this pull request
    updater: Updater
    is_unwanted: Callable[[], bool]  #: whether somebody wants the link to stop
    sleep: Callable[[float], None] = time.sleep

    def facts(self) -> PullFacts:
        """Read the facts. Raises NotThere when the number is an issue's."""
        facts = self.read()
        if not isinstance(facts, PullFacts):
            raise NotThere(f"{self.merge.repo}#{self.merge.number} is no pull request")
        return facts

    def judge(self, facts: PullFacts) -> Verdict:
        """Judge facts."""
        return judge(facts, self.policy, self.merge)


# --- what comes next -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GoOn:
    """The next link follows at once."""

    step: MergeStep
    why: str
    values: Mapping[str, Any] = field(default_factory=dict)  #: what is to be remembered, as in `Tx.begin_link`
    made_from: str | None = None  #: as in Scene
    may_repeat: bool = False  #: the same may happen again at once; not for ever in a hurry


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """It waits, and keeps its lane."""

    why: str
    look_after_s: float | None = None  #: None: the longer it waits, the rarer


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """It is not merged, and a person is told why."""

    code: Refusal
    sentence: str

    @property
    def why(self) -> str:
        """The sentence."""
        return self.sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """It does not belong into this lane."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """It is merged, and this is what is to be done about it."""

    why: str
    merge_sha: str | None
    close: tuple[int, ...]  #: issues that it is for, and that the forge has left open
    ended: tuple[int, ...]  #: issues that are done with: those, and those that the forge has closed
    delete: str | None  #: the branch to delete; None: it stays
    head_sha: str  #: where that branch was when it was merged
    look: tuple[tuple[str, int], ...]  #: (repo, number) of what looks different now


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Somebody wanted the link to stop before it had done anything."""

    why: str = "stopped before the forge was asked to merge"


Next = GoOn | Park | Refuse | Withdraw | Finish | Stopped


# --- from a verdict to what comes next -----------------------------------------------------------


def route(scene: Scene, facts: PullFacts, verdict: Verdict) -> Next:  # noqa: PLR0911 - one for each verdict
    """Tell what follows from a verdict."""
    match verdict:
        case Merged():
            return care_for(facts.pull)
        case Ready(head_sha=head):
            why = f"approved at its head {head[:10]}, checks: {facts.ci}"
            return GoOn(step=MergeStep.MERGE, why=why, values=noted(scene, head))
        case NeedsUpdate(why=why):
            return GoOn(step=MergeStep.UPDATE, why=why)
        case NotYet(why=why, may_settle=True):
            return GoOn(step=MergeStep.SETTLE, why=why)
        case NotYet(why=why, look_after_s=look_after_s):
            return Park(why=why, look_after_s=look_after_s)
        case CannotMerge(code=code, sentence=sentence):
            return Refuse(code=code, sentence=sentence)
        case Elsewhere(base=base):
            return Withdraw(why=f"it goes into {base} now, not into {scene.merge.base}")
        case _ as never:
            assert_never(never)


def care_for(pull: Pull) -> GoOn:
    """Go on with what is merged. From now on it is never given up: it waits for the forge as long as that takes."""
    return GoOn(step=MergeStep.CARE, why="it is merged", values={"merge_sha": pull.merge_commit_sha or pull.head_sha})


def noted(scene: Scene, head: str) -> dict[str, Any]:
    """Return what is to be remembered of a head that is none of our updates; nothing if it is known."""
    if head == scene.merge.head_sha:
        return {}
    return {"head_sha": head, "approved_sha": head, "base_sha": None}
