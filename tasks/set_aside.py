"""Work that a dead run left in a checkout, kept on a recovery branch. Starts git there.

The checkout has been put in order before: nothing that a run planted in its `.git` is left. Ignored files, nested
repositories and what was hidden from git on purpose do not count as work.
"""

import logging
from datetime import UTC, datetime

from pool.errors import CheckoutError
from tasks.git import Git

log = logging.getLogger(__name__)

#: Local branches below this name hold work that was set aside.
RECOVERY = "forgepool/recovery"


_TO_SAVE = "save what an earlier run left behind"


def set_aside(git: Git) -> str | None:
    """Keep what a dead run left on a recovery branch; return its name, or None when there is nothing.

    To be called before the fetch: a branch that was merged and deleted on the forge was pushed once, and is not lost.
    """
    here = commit_of(git, "HEAD")
    tree = _changed_tree(git, here)
    tips = _unpushed(git, here)
    if tree is None and not tips:
        return None
    kept = tips[0] if tips else ""
    if tree is not None or len(tips) > 1:
        tree = tree or f"{here}^{{tree}}"
        parents = [word for tip in dict.fromkeys([*([here] if here else []), *tips]) for word in ("-p", tip)]
        kept = git("commit-tree", *parents, "-m", "Keep what an earlier run left behind", tree, to=_TO_SAVE).strip()
    _own(git, [kept, *tips])
    name = f"{RECOVERY}/{stamp()}-{kept[:10]}"
    git("update-ref", f"refs/heads/{name}", kept, to=_TO_SAVE)
    # From here on it counts as kept, also when a later step fails and all is begun again.
    git("update-ref", "--no-deref", "HEAD", kept, to=_TO_SAVE)
    log.warning("work of a dead run set aside", extra={"repo": git.what, "checkout": str(git.path), "branch": name})
    return name


def _own(git: Git, commits: list[str]) -> None:
    """Copy all files of these commits from what is borrowed: whatever becomes of the mirror, they can be read."""
    trees = dict.fromkeys(f"{commit}^{{tree}}" for commit in commits)
    objects = git("rev-list", "--objects", "--no-object-names", *trees, to=_TO_SAVE)
    git("pack-objects", "--quiet", ".git/objects/pack/pack", stdin=objects, to=_TO_SAVE)


def is_whole(git: Git) -> bool:
    """Tell whether every object is there that HEAD or a ref leads to."""
    try:
        head = ["HEAD"] if commit_of(git, "HEAD") else []
        git("rev-list", "--objects", "--quiet", "--all", *head, to="check the objects")
    except CheckoutError as error:
        if git.is_over():
            raise
        log.warning("checkout is not whole", extra={"repo": git.what, "why": str(error)})
        return False
    return True


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
    tips = [sha for sha, _ in local_branches(git)] + ([here] if here else [])
    known = ("--remotes=origin", "--glob=refs/forgepool/*", f"--branches={RECOVERY}/*")
    lost = [t for t in dict.fromkeys(tips) if git("rev-list", "--max-count=1", t, "--not", *known, to=_TO_SAVE)]
    return git("merge-base", "--independent", *lost, to=_TO_SAVE).split() if lost else []


def local_branches(git: Git) -> list[tuple[str, str]]:
    """List (sha, full ref) of the local branches, recovery branches apart."""
    return [(sha, ref) for sha, ref in list_refs(git, "refs/heads/") if not ref.startswith(f"refs/heads/{RECOVERY}/")]


def list_refs(git: Git, *below: str) -> list[tuple[str, str]]:
    """List (sha, full ref)."""
    lines = git("for-each-ref", "--format=%(objectname) %(refname)", *below, to="list the branches").splitlines()
    return [(sha, ref) for sha, _, ref in (line.partition(" ") for line in lines)]


def commit_of(git: Git, ref: str) -> str | None:
    """Return the sha of a ref; None when there is none."""
    sha = git.ask("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    return sha.strip() if sha else None


def stamp() -> str:
    """Return the time, as the names of what is kept begin."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
