"""One checkout per (instance, repo), made ready for a run. Starts git; touches only what is under its root.

Whatever ran in a checkout before is not trusted: of its `.git` only objects and refs are kept, the rest is written
anew before git is started there, and so are all files. Work that a dead run left is set aside on a branch, never
dropped; ignored files, nested repositories and what was hidden from git on purpose do not count as work.
A checkout borrows the forge's objects from the mirror of its repository; what was set aside is whole without it.
A checkout is used by one process at a time: the holder of the instance's lease.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pool.errors import BadInput, CheckoutError
from pool.model import check_name, check_repo
from tasks.git import PULL, Account, Git, check_ref, git_environment, write
from tasks.leftovers import remove
from tasks.mirror import Mirror
from tasks.mirror import place as mirror_of
from tasks.set_aside import RECOVERY, is_whole, list_refs, local_branches, set_aside, stamp

__all__ = ["RECOVERY", "Account", "Checkout", "git_environment", "head", "prepare"]

log = logging.getLogger(__name__)

#: Where checkouts of an instance are kept that are not used any more: damaged ones, and what is left of removed ones.
DAMAGED = ".damaged"
#: How long git may take to put a checkout away; who cleans up has other things to do.
STRIP_S = 20.0
_NOBODY = {f"GIT_{role}_{part}": "forgepool" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}

#: There while the files of a checkout are being written: what is missing then was deleted by nobody.
_UNREADY = "forgepool-unready"

#: What a `.git` keeps from one run to the next. Everything else can start a program or redirect git (config, hooks,
#: commondir, config.worktree, modules/*/config, info/attributes), hide work (info/exclude), or is the lock or the
#: half-done rebase of a dead run.
_KEPT = frozenset({_UNREADY, "HEAD", "index", "lfs", "logs", "objects", "packed-refs", "refs", "shallow"})

_ORIGIN = "refs/remotes/origin/"


class _NoBranch(CheckoutError):
    """The forge does not have the branch that is asked for: nothing here is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """A checkout that is ready for a run."""

    path: Path
    branch: str  #: the local branch that is checked out
    head: str  #: sha before the run
    recovered: str | None = None  #: branch with what a dead run left; None: it left nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """Where a run begins."""

    branch: str  #: local branch
    upstream: str  #: the forge's ref that the branch follows, whether or not it exists yet
    sha: str


def prepare(
    root: Path,
    *,
    instance: str,
    repo: str,
    clone_url: str,
    account: Account,
    branch: str | None,
    new_branch: str,
    base: str | None,
    timeout_s: float = 600,
    is_unwanted: Callable[[], bool] = lambda: False,
) -> Checkout:
    """Clone or update the checkout of `repo` for `instance`, and check out what the run works on.

    branch: the pull request's own head (a branch, or refs/pull/N/head), taken exactly as the forge has it. None: work
        on `new_branch`, from the forge's branch of that name if it exists, else from `base`, else from the default.
    timeout_s: for all of it together.
    is_unwanted: asked several times a second; once it says yes, git is stopped and CheckoutError raised.
    Raises CheckoutError, with a sentence for people and without any credential.
    """
    path = _place(root, instance, repo)
    for name in filter(None, (branch, new_branch, base)):
        check_ref(repo, name)
    mirror = Mirror.open(
        root, repo=repo, clone_url=clone_url, account=account, timeout_s=timeout_s, is_unwanted=is_unwanted
    )
    git = replace(mirror.git, path=path, is_bare=False)
    pulls = [branch] if branch and PULL.fullmatch(branch) else []
    recovered = None
    try:
        # Clones that were killed half-way; one instance makes one clone at a time.
        shutil.rmtree(root / instance / ".cloning", ignore_errors=True)
        recovered = _rescue(git, mirror, root / instance)
        mirror.fetch_all(*pulls)
        start = _make_ready(git, mirror, root / instance, lambda: _find_start(mirror, branch, new_branch, base))
        _reset(path, mirror.objects, _config(clone_url, start))
        (path / ".git" / _UNREADY).unlink()
    except (OSError, CheckoutError) as error:
        is_ours = isinstance(error, CheckoutError)
        why = str(error) if is_ours else f"{repo}: the checkout at {path} cannot be made: {error}"
        # The next attempt finds nothing to set aside, so nobody else would tell.
        kept = f"; work of an earlier run is kept on {recovered}" if recovered else ""
        raise CheckoutError(why + kept) from error
    return Checkout(path=path, branch=start.branch, head=start.sha, recovered=recovered)


def move_away(root: Path, checkout: Path) -> Path:
    """Take a checkout out of its place, in one step; return where it is now. Nobody may use it meanwhile."""
    _, owner, name = checkout.relative_to(root).parts
    return _move_away(checkout, root / checkout.relative_to(root).parts[0], f"{owner}/{name}")


def strip(root: Path, repo: str, checkout: Path) -> str | None:
    """Set aside what a run left in a checkout that was moved away, and delete all files beside its `.git`.

    Returns the recovery branch; None: it left nothing. Raises CheckoutError, and has deleted nothing then, when git
    cannot tell.
    """
    if not _is_repository(checkout):
        raise CheckoutError(f"{repo}: {checkout} is no repository any more")
    if (checkout / ".git" / _UNREADY).exists():
        return None
    try:
        _reset(checkout, mirror_of(root, repo) / "objects", _config("", None))
        git = Git.reading(checkout, timeout_s=STRIP_S).with_variables(**_NOBODY)
        kept = set_aside(git)
        for entry in checkout.iterdir():
            if entry.name != ".git":
                remove(entry)
    except OSError as error:
        raise CheckoutError(f"{repo}: {checkout} cannot be put away: {error}") from error
    return kept


def head(path: Path) -> str:
    """Return the sha that is checked out at `path`; safe in a checkout that an agent has just left."""
    return Git.reading(path)("rev-parse", "--verify", "HEAD^{commit}", to="read the commit that is checked out").strip()


# --- names ---------------------------------------------------------------------------------------


def _place(root: Path, instance: str, repo: str) -> Path:
    """Return where the checkout belongs; refuse names, and links laid by a run, that lead elsewhere."""
    try:
        owner, name = check_repo("repo", repo).split("/")
        path = root.absolute() / check_name("instance", instance) / owner / name
    except BadInput as error:
        raise CheckoutError(str(error)) from None
    if name.lower() == ".git":  # it would make a repository of its owner's folder
        raise CheckoutError(f"{repo}: a repository cannot have this name")
    if path.resolve() != root.resolve() / instance / owner / name:
        raise CheckoutError(f"{repo}: {path} is a link to another place; remove the link")
    return path


# --- the folder ----------------------------------------------------------------------------------


def _is_repository(path: Path) -> bool:
    """Tell whether there is a `.git` to go on with, and not a link or a file that leads to another one."""
    folders = [path / ".git", path / ".git" / "objects", path / ".git" / "refs"]
    return all(folder.is_dir() and not folder.is_symlink() for folder in folders) and (path / ".git/HEAD").is_file()


def _rescue(git: Git, mirror: Mirror, home: Path) -> str | None:
    """Put an existing checkout in order and set aside what a dead run left there; return the recovery branch."""
    if not _is_repository(git.path):
        return None
    _reset(git.path, mirror.objects, _config(mirror.clone_url, None))
    if (git.path / ".git" / _UNREADY).exists():
        return None
    try:
        return set_aside(git)
    except CheckoutError as error:
        if git.is_over() or is_whole(git):
            raise
        log.warning("checkout lacks objects", extra={"repo": git.what, "why": str(error)})
    # A mirror that was lost has nothing yet of what the checkout borrowed.
    mirror.fetch_all()
    mirror.mend()
    if not is_whole(git):
        # What is left of it is kept for people. Files that an agent wrote are among it, whatever git can read.
        _move_away(git.path, home, git.what)
        return None
    return set_aside(git)


def _make_ready(git: Git, mirror: Mirror, home: Path, find_start: Callable[[], _Start]) -> _Start:
    """Check out what the run works on; make the mirror anew if objects are missing there, and else the checkout."""

    def attempt() -> _Start:
        start = find_start()
        if not _is_repository(git.path):
            _clone(git, mirror, home)
        _take_refs(git, mirror)
        _check_out(git, start)
        return start

    try:
        return attempt()
    except CheckoutError as error:
        if isinstance(error, _NoBranch) or git.is_over():
            raise
        if not mirror.mend():
            if not _is_repository(git.path) or is_whole(git):
                raise
            _move_away(git.path, home, git.what)
        log.warning("checkout is tried once more", extra={"repo": git.what, "why": str(error)})
    return attempt()


def _reset(path: Path, objects: Path, config: str) -> None:
    """Leave in `.git` only what is kept between runs; write its config, and where it borrows objects, anew."""
    folder = path / ".git"
    for entry in folder.iterdir():
        if entry.is_symlink() or entry.name not in _KEPT:
            remove(entry)
    # No ref has a name that ends so: they are the locks of a dead run.
    for lock in (folder / "refs").rglob("*.lock"):
        remove(lock)
    (folder / "hooks").mkdir()
    # Beside the alternates it may hold a commit-graph, and that could lie about ancestry.
    info = folder / "objects" / "info"
    if info.is_symlink() or info.exists():
        remove(info)
    info.mkdir()
    write(info / "alternates", f"{objects}\n", mode=0o644)
    write(folder / "config", config, mode=0o644)


def _config(clone_url: str, start: _Start | None) -> str:
    """Return the whole text of `.git/config`."""
    lines = [
        *(
            "[core]",
            "\trepositoryformatversion = 0",
            "\tfilemode = true",
            "\tbare = false",
            "\tlogallrefupdates = true",
        ),
        *("[push]", "\tdefault = simple", "\tautoSetupRemote = true"),
        *('[remote "origin"]', f"\turl = {_quoted(clone_url)}", "\tfetch = +refs/heads/*:refs/remotes/origin/*"),
    ]
    if start:
        lines += [f"[branch {_quoted(start.branch)}]", "\tremote = origin", f"\tmerge = {_quoted(start.upstream)}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return `text` as git-config(1) wants a string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _clone(git: Git, mirror: Mirror, home: Path) -> None:
    """Make a checkout without files and commits in a folder that does not count yet, then put it in place."""
    fresh = home / ".cloning" / git.path.name
    for part in ("objects", "refs"):
        (fresh / ".git" / part).mkdir(parents=True)
    write(fresh / ".git" / "HEAD", "ref: refs/heads/none\n", mode=0o644)
    (fresh / ".git" / _UNREADY).touch()
    _reset(fresh, mirror.objects, _config(mirror.clone_url, None))
    if git.path.exists() or git.path.is_symlink():
        _move_away(git.path, home, git.what)
    git.path.parent.mkdir(parents=True, exist_ok=True)
    fresh.rename(git.path)


def _move_away(path: Path, home: Path, repo: str) -> Path:
    """Keep a checkout where people find it; return the place."""
    (home / DAMAGED).mkdir(exist_ok=True)
    spare = Path(tempfile.mkdtemp(dir=home / DAMAGED, prefix=f"{repo.replace('/', '-')}-{stamp()}-")) / path.name
    path.rename(spare)
    log.warning("checkout moved away", extra={"repo": repo, "kept_at": str(spare)})
    return spare


# --- git -----------------------------------------------------------------------------------------


def _take_refs(git: Git, mirror: Mirror) -> None:
    """Set what the checkout knows of the forge to what the mirror fetched: branches, tags, heads of pull requests."""
    theirs = {_here(ref): sha for sha, ref in list_refs(mirror.git, "refs/heads/", "refs/tags/", "refs/pull/")}
    ours = {ref: sha for sha, ref in list_refs(git, _ORIGIN, "refs/tags/", "refs/forgepool/pull/")}
    gone = [ref for ref in ours if ref not in theirs and ref.startswith(_ORIGIN)]
    moved = [(ref, sha) for ref, sha in theirs.items() if ours.get(ref) != sha]
    # A planted symbolic ref is overwritten, not followed. What is gone goes first: `a` is in the way of `a/b`.
    for lines in ([f"delete {ref}" for ref in gone], [f"update {ref} {sha}" for ref, sha in moved]):
        if lines:
            text = "".join(f"option no-deref\n{line}\n" for line in lines)
            git("update-ref", "--stdin", stdin=text, to="take over the branches of the forge")


def _here(ref: str) -> str:
    """Return the name that a ref of the forge has in a checkout."""
    if pull := PULL.fullmatch(ref):
        return f"refs/forgepool/pull/{pull[1]}"
    return ref.replace("refs/heads/", _ORIGIN, 1) if ref.startswith("refs/heads/") else ref


def _find_start(mirror: Mirror, branch: str | None, new_branch: str, base: str | None) -> _Start:
    """Return the branch to work on and the commit to start from. Raises CheckoutError when the forge has neither."""
    if branch and (pull := PULL.fullmatch(branch)):
        # Read-only on the forge, hence not under its own name: a push to it has to be asked for by name.
        return _Start(branch=f"pull/{pull[1]}", upstream=branch, sha=_tip_of(mirror, branch))
    if branch:
        return _Start(branch=branch, upstream=f"refs/heads/{branch}", sha=_tip_of(mirror, branch))
    sha = mirror.tip(new_branch) or _tip_of(mirror, base or _default_branch(mirror))
    return _Start(branch=new_branch, upstream=f"refs/heads/{new_branch}", sha=sha)


def _tip_of(mirror: Mirror, branch: str) -> str:
    """Return the sha of a branch of the forge."""
    if sha := mirror.tip(branch):
        return sha
    raise _NoBranch(f"{mirror.git.what}: the forge has no branch {branch!r}")


def _default_branch(mirror: Mirror) -> str:
    """Ask the forge for its default branch."""
    if name := mirror.default_branch():
        return name
    raise _NoBranch(f"{mirror.git.what}: the forge names no default branch; push a first commit, or give a base branch")


def _check_out(git: Git, start: _Start) -> None:
    """Write all files of the commit anew, and put the branch on it as the only local one beside recovery branches."""
    to = f"check out {start.branch!r}"
    (git.path / ".git" / _UNREADY).touch()
    # Without an index every file is unknown, so all go: also submodules, and files that the index was told to overlook.
    (git.path / ".git" / "index").unlink(missing_ok=True)
    git("clean", "-ffdx", "--quiet", to=to)
    git("checkout", "--force", "--detach", "--quiet", start.sha, to=to)
    # The others are pushed or set aside; left alone, a branch `a` would forbid a branch `a/b`.
    old = "".join(f"option no-deref\ndelete {ref}\n" for _, ref in local_branches(git))
    git("update-ref", "--stdin", stdin=old, to=to)
    git("update-ref", f"refs/heads/{start.branch}", start.sha, to=to)
    git("symbolic-ref", "HEAD", f"refs/heads/{start.branch}", to=to)
