"""One checkout per (instance, repo), made ready for a run. Starts git; touches only what is under its root.

Whatever ran in a checkout before is not trusted: of its `.git` only objects and refs are kept, the rest is written
anew before git is started there, and so are all files. Work that a dead run left is set aside on a branch, never
dropped; ignored files, nested repositories and what was hidden from git on purpose do not count as work.
A checkout is used by one process at a time: the holder of the instance's lease.
"""

import logging
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pool.errors import BadInput, CheckoutError
from pool.model import check_name, check_repo
from tasks.git import Account, Git, git_environment, write

__all__ = ["RECOVERY", "Account", "Checkout", "git_environment", "head", "prepare"]

log = logging.getLogger(__name__)

#: Local branches below this name hold work that was set aside.
RECOVERY = "forgepool/recovery"

#: There while the files of a checkout are being written: what is missing then was deleted by nobody.
_UNREADY = "forgepool-unready"

#: What a `.git` keeps from one run to the next. Everything else can start a program or redirect git (config, hooks,
#: commondir, config.worktree, modules/*/config, info/attributes), hide work (info/exclude), or is the lock or the
#: half-done rebase of a dead run.
_KEPT = frozenset({_UNREADY, "HEAD", "index", "lfs", "logs", "objects", "packed-refs", "refs", "shallow"})

_PULL = re.compile(r"refs/pull/([1-9][0-9]*)/head")


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
        _check_branch(repo, name)
    git = Git.acting_as(
        account,
        root=root,
        path=path,
        repo=repo,
        clone_url=clone_url,
        timeout_s=timeout_s,
        is_unwanted=is_unwanted,
    )
    recovered = None
    try:
        # Clones that were killed half-way; one instance makes one clone at a time.
        shutil.rmtree(root / instance / ".cloning", ignore_errors=True)
        if _is_repository(path):
            _reset(path, clone_url)
            recovered = None if (path / ".git" / _UNREADY).exists() else _set_aside(git)
            _fetch(git, branch)
        else:
            _clone(git, root / instance, clone_url, branch)
        start = _find_start(git, branch, new_branch, base)
        _check_out(git, start)
        _reset(path, clone_url, start)
        (path / ".git" / _UNREADY).unlink()
    except (OSError, CheckoutError) as error:
        is_ours = isinstance(error, CheckoutError)
        why = str(error) if is_ours else f"{repo}: the checkout at {path} cannot be made: {error}"
        # The next attempt finds nothing to set aside, so nobody else would tell.
        kept = f"; work of an earlier run is kept on {recovered}" if recovered else ""
        raise CheckoutError(why + kept) from error
    return Checkout(path=path, branch=start.branch, head=start.sha, recovered=recovered)


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


def _check_branch(repo: str, name: str) -> None:
    """Refuse what is not the name of a branch (git-check-ref-format(1)), or would be read as an option."""
    bad = re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|^[-/.]|[/.]$|\.lock(/|$)", name)
    if bad or name in {"HEAD", "@"} or (name.startswith("refs/") and not _PULL.fullmatch(name)):
        raise CheckoutError(f"{repo}: {name!r} cannot be a branch")


# --- the folder ----------------------------------------------------------------------------------


def _is_repository(path: Path) -> bool:
    """Tell whether there is a `.git` to go on with, and not a link or a file that leads to another one."""
    folders = [path / ".git", path / ".git" / "objects", path / ".git" / "refs"]
    return all(folder.is_dir() and not folder.is_symlink() for folder in folders) and (path / ".git/HEAD").is_file()


def _reset(path: Path, clone_url: str, start: _Start | None = None) -> None:
    """Leave in `.git` only what is kept between runs, and write its config anew."""
    folder = path / ".git"
    for entry in folder.iterdir():
        if entry.is_symlink() or entry.name not in _KEPT:
            _remove(entry)
    # No ref has a name that ends so: they are the locks of a dead run.
    for lock in (folder / "refs").rglob("*.lock"):
        _remove(lock)
    (folder / "hooks").mkdir()
    write(folder / "config", _config(clone_url, start), mode=0o644)


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


def _remove(entry: Path) -> None:
    """Delete a file, a link (not what it leads to) or a whole folder."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _clone(git: Git, home: Path, clone_url: str, branch: str | None) -> None:
    """Fetch everything into a folder that does not count yet, then put it in place."""
    fresh = home / ".cloning" / git.path.name
    for part in ("objects", "refs"):
        (fresh / ".git" / part).mkdir(parents=True)
    write(fresh / ".git" / "HEAD", "ref: refs/heads/none\n", mode=0o644)
    _reset(fresh, clone_url)
    _fetch(git.at(fresh), branch)
    if git.path.exists() or git.path.is_symlink():
        (home / ".damaged").mkdir(exist_ok=True)
        prefix = f"{git.what.replace('/', '-')}-{_now()}-"
        spare = Path(tempfile.mkdtemp(dir=home / ".damaged", prefix=prefix)) / git.path.name
        git.path.rename(spare)
        log.warning("damaged checkout moved away", extra={"repo": git.what, "kept_at": str(spare)})
    git.path.parent.mkdir(parents=True, exist_ok=True)
    fresh.rename(git.path)


# --- git -----------------------------------------------------------------------------------------


def _set_aside(git: Git) -> str | None:
    """Keep what a dead run left on a recovery branch; return its name, or None when there is nothing.

    To be called before the fetch: a branch that was merged and deleted on the forge was pushed once, and is not lost.
    """
    here = _commit(git, "HEAD")
    tree = _changed_tree(git, here)
    tips = _unpushed(git, here)
    if tree is None and not tips:
        return None
    kept = tips[0] if tips else ""
    if tree is not None or len(tips) > 1:
        tree = tree or f"{here}^{{tree}}"
        parents = [word for tip in dict.fromkeys([*([here] if here else []), *tips]) for word in ("-p", tip)]
        kept = git("commit-tree", *parents, "-m", "Keep what an earlier run left behind", tree, to=_TO_SAVE).strip()
    name = f"{RECOVERY}/{_now()}-{kept[:10]}"
    git("update-ref", f"refs/heads/{name}", kept, to=_TO_SAVE)
    # From here on it counts as kept, also when a later step fails and all is begun again.
    git("update-ref", "--no-deref", "HEAD", kept, to=_TO_SAVE)
    log.warning("work of a dead run set aside", extra={"repo": git.what, "checkout": str(git.path), "branch": name})
    return name


_TO_SAVE = "save what an earlier run left behind"


def _changed_tree(git: Git, here: str | None) -> str | None:
    """Return a tree of all files as they are, or None when they are as committed."""
    try:
        if here and not _changes(git) and git.ask("diff-index", "--cached", "--quiet", here) is not None:
            return None
    except CheckoutError as error:
        log.warning("index of a dead run not readable", extra={"repo": git.what, "why": str(error)})
    # A fresh index: the old one may be unreadable, or half a merge.
    (git.path / ".git" / "index").unlink(missing_ok=True)
    git("read-tree", here or "--empty", to=_TO_SAVE)
    changes = _changes(git)
    if not changes:
        return None
    git("update-index", "-z", "--add", "--remove", "--replace", "--stdin", stdin="\0".join(changes) + "\0", to=_TO_SAVE)
    return git("write-tree", to=_TO_SAVE).strip()


def _changes(git: Git) -> list[str]:
    """List the files that differ from the index, and those it does not know.

    Not `git status` and not `git add`: both start git inside nested repositories, under settings that we did not write.
    """
    listed = git("ls-files", "-z", "-m", "-d", "-o", "--exclude-standard", to=_TO_SAVE).split("\0")
    # A nested repository ends in a slash.
    return [name for name in dict.fromkeys(listed) if name and not name.endswith("/")]


def _unpushed(git: Git, here: str | None) -> list[str]:
    """List the commits, of all local branches and HEAD, that neither the forge nor a recovery branch has."""
    tips = [sha for sha, _ in _local_branches(git)] + ([here] if here else [])
    known = ("--remotes=origin", "--glob=refs/forgepool/*", f"--branches={RECOVERY}/*")
    lost = [t for t in dict.fromkeys(tips) if git("rev-list", "--max-count=1", t, "--not", *known, to=_TO_SAVE)]
    return git("merge-base", "--independent", *lost, to=_TO_SAVE).split() if lost else []


def _local_branches(git: Git) -> list[tuple[str, str]]:
    """List (sha, full ref) of the local branches, recovery branches apart."""
    lines = git("for-each-ref", "--format=%(objectname) %(refname)", "refs/heads/", to="list the branches").splitlines()
    pairs = [(sha, ref) for sha, _, ref in (line.partition(" ") for line in lines)]
    return [(sha, ref) for sha, ref in pairs if not ref.startswith(f"refs/heads/{RECOVERY}/")]


def _fetch(git: Git, branch: str | None) -> None:
    """Bring the forge's branches, and the head of the one pull request that is asked for."""
    wanted = ["+refs/heads/*:refs/remotes/origin/*"]
    if branch and (pull := _PULL.fullmatch(branch)):
        wanted.append(f"+{branch}:refs/forgepool/pull/{pull[1]}")
    options = ("--prune", "--quiet", "--force", "--no-recurse-submodules", "--no-write-fetch-head")
    git("fetch", *options, "--", "origin", *wanted, to=f"fetch {branch or 'the branches'}")


def _find_start(git: Git, branch: str | None, new_branch: str, base: str | None) -> _Start:
    """Return the branch to work on and the commit to start from. Raises CheckoutError when the forge has neither."""
    if branch and (pull := _PULL.fullmatch(branch)):
        # Read-only on the forge, hence not under its own name: a push to it has to be asked for by name.
        sha = git("rev-parse", f"refs/forgepool/pull/{pull[1]}", to=f"find {branch}").strip()
        return _Start(branch=f"pull/{pull[1]}", upstream=branch, sha=sha)
    if branch:
        sha = _tip_of(git, branch)
        return _Start(branch=branch, upstream=f"refs/heads/{branch}", sha=sha)
    going_on = _commit(git, f"refs/remotes/origin/{new_branch}")
    sha = going_on or _tip_of(git, base or _default_branch(git))
    return _Start(branch=new_branch, upstream=f"refs/heads/{new_branch}", sha=sha)


def _commit(git: Git, ref: str) -> str | None:
    """Return the sha of a ref; None when there is none."""
    sha = git.ask("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    return sha.strip() if sha else None


def _tip_of(git: Git, branch: str) -> str:
    """Return the sha of a branch of the forge."""
    if sha := _commit(git, f"refs/remotes/origin/{branch}"):
        return sha
    raise CheckoutError(f"{git.what}: the forge has no branch {branch!r}")


def _default_branch(git: Git) -> str:
    """Ask the forge for its default branch."""
    answer = git("ls-remote", "--symref", "--", "origin", "HEAD", to="ask for the default branch")
    if found := re.search(r"^ref: refs/heads/(\S+)\tHEAD$", answer, re.MULTILINE):
        return found[1]
    raise CheckoutError(f"{git.what}: the forge names no default branch; push a first commit, or give a base branch")


def _check_out(git: Git, start: _Start) -> None:
    """Write all files of the commit anew, and put the branch on it as the only local one beside recovery branches."""
    to = f"check out {start.branch!r}"
    (git.path / ".git" / _UNREADY).touch()
    # Without an index every file is unknown, so all go: also submodules, and files that the index was told to overlook.
    (git.path / ".git" / "index").unlink(missing_ok=True)
    git("clean", "-ffdx", "--quiet", to=to)
    git("checkout", "--force", "--detach", "--quiet", start.sha, to=to)
    # The others are pushed or set aside; left alone, a branch `a` would forbid a branch `a/b`.
    old = "".join(f"option no-deref\ndelete {ref}\n" for _, ref in _local_branches(git))
    git("update-ref", "--stdin", stdin=old, to=to)
    git("update-ref", f"refs/heads/{start.branch}", start.sha, to=to)
    git("symbolic-ref", "HEAD", f"refs/heads/{start.branch}", to=to)


def _now() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
