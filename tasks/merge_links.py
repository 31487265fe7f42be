"""The links of the chain that merges: each reads the forge, does at most one thing there, and tells what comes next.

Talks to the forge; writes nothing to the store. Every link may be run again after a crash at any line: what it did is
seen on the forge, and what it was about to do is judged on facts that are read anew.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pool.errors import (
    BaseMoved,
    ForgeError,
    ForgeUnavailable,
    MergeConflict,
    NotAllowed,
    NotThere,
    StaleHead,
    StillChecking,
)
from pool.lanes import Merge, MergeStep, Refusal
from tasks.forge_values import Pull
from tasks.merge_care import care
from tasks.merge_next import GoOn, Next, Park, Refuse, Scene, Stopped, care_for, noted, route
from tasks.merge_rules import NeedsUpdate, NotYet, Ready, judge
from tasks.situation import PullFacts

#: How often, and after which pauses, a link asks a forge that is still checking, before it lets the merge be parked.
SETTLE_LOOKS, SETTLE_PAUSE_S = 5, 1.0

#: What failed here is to be judged anew, on fresh facts.
_check_again = partial(GoOn, step=MergeStep.CHECK, may_repeat=True)


def follow(scene: Scene, step: MergeStep) -> Next:
    """Do one link. Never raises ForgeError: what the forge does not answer is asked again later."""
    try:
        return LINKS[step](scene)
    except ForgeUnavailable as error:
        return Park(why=f"the forge could not be asked: {error}")
    except NotThere as error:
        return Refuse(code=Refusal.CLOSED, sentence=f"it is not there any more: {error}")
    except NotAllowed as error:
        return Refuse(code=Refusal.NOT_ALLOWED, sentence=str(error))
    except ForgeError as error:
        return Park(why=f"the forge's answer is of no use: {error}")


# --- the links -----------------------------------------------------------------------------------


def check(scene: Scene) -> Next:
    """Tell whether it may be merged."""
    facts = scene.facts()
    return route(scene, facts, scene.judge(facts))


def settle(scene: Scene) -> Next:
    """Wait a moment for the forge to make up its mind."""
    for look in range(SETTLE_LOOKS):
        if look:
            scene.sleep(SETTLE_PAUSE_S)
        facts = scene.facts()
        verdict = scene.judge(facts)
        if not (isinstance(verdict, NotYet) and verdict.may_settle) or scene.is_unwanted():
            break
    if isinstance(verdict, NotYet):
        return Park(why=verdict.why, look_after_s=verdict.look_after_s)
    return route(scene, facts, verdict)


def update(scene: Scene) -> Next:
    """Make the commit that takes the base in; it is remembered before the next link pushes it.

    So a crash between the push and its record loses nothing: the head on the forge is known to be ours already.
    """
    if scene.made_from is not None:
        return _push(scene, scene.made_from)
    facts = scene.facts()
    verdict, pull = scene.judge(facts), facts.pull
    if not isinstance(verdict, NeedsUpdate):
        return route(scene, facts, verdict)
    if pull.is_fork:
        sentence = f"it is behind {pull.base_ref} and comes from a fork, which only its owner can bring up to date"
        return Refuse(code=Refusal.CANNOT_UPDATE, sentence=sentence)
    try:
        made = scene.updater.make(pull, base_sha=pull.base_sha, at=scene.merge.approved_at)
    except MergeConflict as error:
        return Refuse(code=Refusal.CONFLICT, sentence=str(error))
    except StaleHead as error:
        return _check_again(why=str(error))
    values = {"head_sha": made, "base_sha": pull.base_sha, "approved_sha": _approved_in(scene.merge, facts)}
    return GoOn(step=MergeStep.UPDATE, why=f"{verdict.why}: took it in", values=values, made_from=pull.head_sha)


def _approved_in(merge: Merge, facts: PullFacts) -> str:
    """Return what is approved in a head that is to be updated: it, or what our last update made it of."""
    head = facts.pull.head_sha
    is_ours = merge.base_sha is not None and merge.head_sha == head
    # One commit is remembered, so that one counts of which somebody spoke last.
    is_approved_itself = any(review.commit_id == head for review in facts.approvals)
    return merge.approved_sha if is_ours and not is_approved_itself else head


def _push(scene: Scene, made_from: str) -> Next:
    """Push the update that was made of `made_from`, if all is still as it was then."""
    merge, facts = scene.merge, scene.facts()
    pull = facts.pull
    if pull.head_sha == merge.head_sha:
        return GoOn(step=MergeStep.CHECK, why=f"its head is {merge.head_sha[:10]}, which has {merge.base} in it")
    before = _without_update(merge, pull, made_from)
    if not _needs_update(scene, facts, before):
        return _check_again(why="it changed before its update was pushed", values=before)
    try:
        # Only of the same head and the same base.
        is_same = scene.updater.make(pull, base_sha=pull.base_sha, at=merge.approved_at) == merge.head_sha
        if is_same and not scene.is_unwanted() and scene.updater.push(pull, merge.head_sha):
            # A forge that does not follow its branches, as after a reopening, would have it pushed again and again.
            return _check_again(why=f"brought up to date with {merge.base}")
    except NotAllowed as error:
        sentence = f"it is behind {merge.base}, and its branch cannot be brought up to date: {error}"
        return Refuse(code=Refusal.CANNOT_UPDATE, sentence=sentence)
    except (StaleHead, MergeConflict) as error:
        return _check_again(why=str(error), values=before)
    return _check_again(why="its update came too late", values=before)


def _needs_update(scene: Scene, facts: PullFacts, before: dict[str, Any]) -> bool:
    """Judge as if the update were not made: approved is what is on the forge, and from that it was made."""
    then = replace(scene.merge, **before)
    merges = tuple(then if one.id == then.id else one for one in facts.work.merges)
    verdict = judge(replace(facts, work=replace(facts.work, merges=merges)), scene.policy, then)
    return isinstance(verdict, NeedsUpdate)


def _without_update(merge: Merge, pull: Pull, made_from: str) -> dict[str, Any]:
    """Return what is to be remembered of a merge whose update was not pushed."""
    is_update = made_from != merge.approved_sha
    return {
        "head_sha": made_from,
        "approved_sha": merge.approved_sha,
        "base_sha": (pull.merge_base or merge.base_sha) if is_update else None,
    }


def merge(scene: Scene) -> Next:
    """Judge once more, and merge the very commit that was judged."""
    facts = scene.facts()
    verdict = scene.judge(facts)
    if not isinstance(verdict, Ready):
        return route(scene, facts, verdict)
    return Stopped() if scene.is_unwanted() else _merge(scene, verdict.head_sha)


def _merge(scene: Scene, head: str) -> Next:
    values = noted(scene, head)
    try:
        scene.forge.merge(scene.merge.repo, scene.merge.number, head_sha=head, style=scene.style)
    except (StaleHead, BaseMoved) as error:
        return _check_again(why=str(error))
    except StillChecking as error:
        return GoOn(step=MergeStep.SETTLE, why=str(error), values=values, may_repeat=True)
    except ForgeUnavailable as error:
        return GoOn(step=MergeStep.CONFIRM, why=f"whether it is merged is not known: {error}", values=values)
    except ForgeError as error:
        return _unless_merged(scene, error)
    return GoOn(step=MergeStep.CONFIRM, why=f"asked the forge to merge {head[:10]}", values=values)


def _unless_merged(scene: Scene, error: ForgeError) -> Next:
    """Refuse, unless the forge says no only because it is merged already, which it may do without a word."""
    try:
        pull = scene.forge.pull(scene.merge.repo, scene.merge.number)
    except ForgeUnavailable:
        return GoOn(step=MergeStep.CONFIRM, why=str(error))
    if pull.merged:
        return care_for(pull)
    match error:
        case MergeConflict():
            return Refuse(code=Refusal.CONFLICT, sentence=f"it conflicts with {scene.merge.base}: {error}")
        case NotAllowed():
            return Refuse(code=Refusal.NOT_ALLOWED, sentence=f"the account may not merge it: {error}")
        case NotThere():
            return Refuse(code=Refusal.NOT_ALLOWED, sentence=f"the forge shows it, and will not merge it: {error}")
        case _:  # MergeProtected, NotAccepted
            return Refuse(code=Refusal.PROTECTED, sentence=f"the forge does not merge it: {error}")


def confirm(scene: Scene) -> Next:
    """Ask the forge whether it is merged, whatever it answered before."""
    repo, number = scene.merge.repo, scene.merge.number
    pull = scene.forge.pull(repo, number)
    if pull.merged:
        return care_for(pull)
    # services/issue/issue.go lets no pull request be merged that depends on an open issue, and the REST interface
    # has no word for it but an internal error.
    blockers = [f"#{issue.number}" for issue in scene.forge.blockers(repo, number) if issue.is_open]
    if blockers:
        sentence = f"it depends on {', '.join(blockers)}, which must be closed first"
        return Refuse(code=Refusal.PROTECTED, sentence=sentence)
    return _check_again(why="the forge has not merged it")


LINKS: dict[MergeStep, Callable[[Scene], Next]] = {
    MergeStep.CHECK: check,
    MergeStep.UPDATE: update,
    MergeStep.SETTLE: settle,
    MergeStep.MERGE: merge,
    MergeStep.CONFIRM: confirm,
    MergeStep.CARE: care,
}
