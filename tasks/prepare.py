"""Getting everything ready that an agent needs: checkout, prompt, environment, command line."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pool.errors import CheckoutError
from pool.model import Instance, Request, Task
from pool.store import Claim
from tasks import presets, prompts, workdir
from tasks.course import Course
from tasks.engine import Engine
from tasks.environment import agent_environment
from tasks.git import Account, git_environment
from tasks.mirror import Mirror
from tasks.repo_template import PATH
from tasks.runner import AgentCommand, Limits
from tasks.settings import TypeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything that an agent needs, ready on disk."""

    task: Task
    type: TypeSettings
    preset: presets.Preset
    checkout: workdir.Checkout
    call: presets.Run
    command: AgentCommand
    limits: Limits
    log_path: Path
    notes: tuple[str, ...] = ()


def prepare(
    engine: Engine, claimed: Claim, course: Course, *, session_id: str | None, is_unwanted: Callable[[], bool]
) -> Prepared:
    """Step 2: checkout, prompt, environment and command line. is_unwanted: asked while git works.

    course: what the facts, read anew, make of the task's request.
    """
    task, request, settings = claimed.task, course.request, engine.settings
    with engine.store.reading() as tx:
        # Read now, not at dispatch: an appendix or a model that was changed meanwhile counts.
        instance = tx.instance(str(task.instance))
    kind = settings.type(task.type)
    preset = kind.preset()
    folder = settings.state_dir / "runs" / str(task.id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_path = settings.state_dir / "logs" / "tasks" / f"{task.id}.log"
    log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    account = _account(kind)
    root = settings.state_dir / "checkouts"
    clone_url = settings.clone_url(request.repo)
    checkout = workdir.prepare(
        root,
        instance=instance.name,
        repo=request.repo,
        clone_url=clone_url,
        account=account,
        branch=request.branch,
        new_branch=f"{kind.branch_prefix}{request.number}",
        base=request.base,
        is_unwanted=is_unwanted,
    )
    resumed = session_id if preset.can_resume else None
    call = presets.Run(
        prompt_path=folder / "prompt.md",
        result_path=folder / "result.json",
        model=instance.model or kind.model,
        session_id=resumed,
    )
    call.result_path.unlink(missing_ok=True)
    repo_template, notes = _repo_template(root, request, clone_url, account, is_unwanted)
    prompt = prompts.render(
        request,
        appendix=instance.prompt_appendix,
        login=kind.forge_user,
        branch=checkout.branch,
        resumed=resumed is not None,
        result_file=call.result_path,
        override=kind.prompts,
        repo_template=repo_template,
        extras=course.extras,
    )
    call.prompt_path.write_text(prompt.text, encoding="utf-8")
    call.prompt_path.chmod(0o600)
    if checkout.recovered is not None:
        notes = (*notes, f"an earlier run left work behind; it is on {checkout.recovered}")
    return Prepared(
        task=task,
        type=kind,
        preset=preset,
        checkout=checkout,
        call=call,
        command=AgentCommand(
            argv=preset.argv(call),
            cwd=checkout.path,
            env={
                **agent_environment(os.environ, allow=(*preset.env_allow, *kind.pass_env), extra=preset.env),
                **git_environment(account, root=root, clone_url=clone_url),
                **_about(task, request, instance, call, checkout),
                # Also for a command without {session_id}: it may read it here.
                "FORGEPOOL_SESSION_ID": session_id or "",
            },
            log_path=log_path,
            stdin_path=call.prompt_path if preset.prompt_on_stdin else None,
        ),
        limits=Limits(
            wall_s=kind.time_limit_s,
            silence_s=kind.silence_limit_s,
            grace_s=kind.grace_s,
            log_bytes=settings.service.log_bytes,
        ),
        log_path=log_path,
        notes=(*notes, *prompt.notes),
    )


def _repo_template(
    root: Path, request: Request, clone_url: str, account: Account, is_unwanted: Callable[[], bool]
) -> tuple[str | None, tuple[str, ...]]:
    """Return what the base branch, never the head of a pull request, says of this kind of task; and notes."""
    path = PATH.format(kind=request.kind)
    try:
        mirror = Mirror.open(root, repo=request.repo, clone_url=clone_url, account=account, is_unwanted=is_unwanted)
        base = request.base or mirror.default_branch()
        return mirror.read(base, path) if base else None, ()
    except CheckoutError as error:
        return None, (f"{path} of the base branch could not be read: {error}",)


def _account(kind: TypeSettings) -> Account:
    return Account(login=kind.forge_user, token_file=kind.token_file, git_name=kind.git_name, git_email=kind.git_email)


def _about(
    task: Task, request: Request, instance: Instance, call: presets.Run, checkout: workdir.Checkout
) -> dict[str, str]:
    """Return what the agent is told of its task, besides the prompt."""
    return {
        "FORGEPOOL_TASK_ID": str(task.id),
        "FORGEPOOL_TYPE": task.type,
        "FORGEPOOL_INSTANCE": instance.name,
        "FORGEPOOL_REPO": request.repo,
        "FORGEPOOL_NUMBER": str(request.number),
        "FORGEPOOL_KIND": request.kind,
        "FORGEPOOL_BRANCH": checkout.branch,
        "FORGEPOOL_MODEL": call.model or "",
        "FORGEPOOL_PROMPT_FILE": str(call.prompt_path),
        "FORGEPOOL_RESULT_FILE": str(call.result_path),
    }
