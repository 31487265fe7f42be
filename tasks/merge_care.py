"""What is to be done about a pull request that was merged. Asks the forge; writes nothing anywhere."""

from pool.errors import NotAllowed, NotThere
from pool.lanes import MergeStep
from tasks.forge_values import Issue, Pull
from tasks.merge_next import Finish, GoOn, Next, Scene
from tasks.merge_rules import closing_numbers
from tasks.situation import Policy, PullFacts


def care(scene: Scene) -> Next:
    """Find out what is to be done about what was merged."""
    facts = scene.facts()
    pull = facts.pull
    if not pull.merged:
        return GoOn(step=MergeStep.CHECK, why="the forge has not merged it", may_repeat=True)
    issues = [issue for number in _issues_of(facts, scene.policy) if (issue := _issue(scene, number))]
    others = [one for one in scene.forge.open_pulls(pull.repo) if one.number != pull.number]
    blocked = [one for number in (pull.number, *(i.number for i in issues)) for one in _blocked(scene, number)]
    siblings = [(one.repo, one.number) for one in others if one.base_ref == pull.base_ref]
    return Finish(
        why=f"merged as {(pull.merge_commit_sha or pull.head_sha)[:10]}",
        merge_sha=pull.merge_commit_sha,
        close=tuple(issue.number for issue in issues if issue.is_open),
        ended=tuple(issue.number for issue in issues),
        delete=pull.head_ref if _may_delete(scene, pull, others) else None,
        head_sha=pull.head_sha,
        look=tuple(dict.fromkeys([*((i.repo, i.number) for i in issues), *siblings, *blocked])),
    )


def _issues_of(facts: PullFacts, policy: Policy) -> list[int]:
    """Return the issues that are done with it: those it says it closes, and the one an agent made it for."""
    pull = facts.pull
    numbers = list(closing_numbers(f"{pull.title}\n{pull.body}"))
    if facts.issue is not None and policy.type_of(pull.author) is not None:
        numbers.append(facts.issue.number)
    return [number for number in dict.fromkeys(numbers) if number != pull.number]


def _issue(scene: Scene, number: int) -> Issue | None:
    try:
        issue = scene.forge.issue(scene.merge.repo, number)
    except (NotThere, NotAllowed):
        return None
    return None if issue.is_pull else issue


def _blocked(scene: Scene, number: int) -> list[tuple[str, int]]:
    try:
        return [(one.repo, one.number) for one in scene.forge.blocked(scene.merge.repo, number) if one.is_open]
    except (NotThere, NotAllowed):
        return []


def _may_delete(scene: Scene, pull: Pull, others: list[Pull]) -> bool:
    """Tell whether nothing else needs the head branch."""
    branch = pull.head_ref
    if pull.is_fork or branch.startswith("refs/") or branch == pull.base_ref:
        return False
    if any(branch == one.base_ref or (branch == one.head_ref and not one.is_fork) for one in others):
        return False
    return branch != scene.forge.repository(pull.repo).default_branch
