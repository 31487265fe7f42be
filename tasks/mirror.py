"""One bare copy of a repository per host, from which all checkouts borrow objects. Starts git; touches only its folder.

Agents never work in it. Several processes may use it at once: what fetches or tidies waits for its turn. Nothing is
ever pruned from it, because nobody knows what the checkouts borrow. Of what is in its folder only objects and refs are
trusted, as in a checkout; when objects are missing it is made anew.
"""

import logging
import re
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pool.errors import BadInput, CheckoutError
from pool.model import check_repo
from tasks.git import PULL, Account, Git, check_ref, write
from tasks.leftovers import remove
from tasks.turns import turn

log = logging.getLogger(__name__)

#: Below the private folder of the checkouts. No owner on a forge has a name that begins with a dot.
MIRRORS = Path(".forgepool", "mirrors")
TURNS = ".turns"
DAMAGED = ".damaged"

#: Largest file that `read` returns.
READ_BYTES = 256 * 1024

_KEPT = frozenset({"HEAD", "objects", "packed-refs", "refs"})
#: What can lead git elsewhere, or lie about ancestry. Never a part of a mirror, and no lock of a running git either.
_HARMFUL = ("commondir", "config.worktree", "hooks", "info", "modules", "objects/info", "shallow", "worktrees")
#: Small fetches are kept as packs too: a pack is checked as a whole, and is there as a whole or not at all.
_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n[fetch]\n\tunpackLimit = 1\n"
#: What git says when a fetch fails for another reason than damage.
_NO_DAMAGE = ("couldn't find remote ref", "some local refs could not be updated")
_BRANCHES = "+refs/heads/*:refs/heads/*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """The objects and branches of one repository, as the forge had them at the last fetch."""

    git: Git
    clone_url: str

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        repo: str,
        clone_url: str,
        account: Account,
        timeout_s: float = 600,
        is_unwanted: Callable[[], bool] = lambda: False,
    ) -> "Mirror":
        """Return the mirror of `repo`, made empty if there is none; nothing is fetched yet.

        root: the folder of all checkouts. timeout_s: for everything that is done with it from now on.
        Raises CheckoutError, as all its verbs do.
        """
        path = place(root, repo)
        git = Git.acting_as(
            account,
            root=root,
            path=path,
            repo=repo,
            clone_url=clone_url,
            timeout_s=timeout_s,
            is_unwanted=is_unwanted,
        )
        mirror = cls(git=replace(git, is_bare=True), clone_url=clone_url)
        try:
            mirror._disarm()
        except OSError as error:
            raise CheckoutError(f"{repo}: the mirror at {path} cannot be used: {error}") from error
        return mirror

    @classmethod
    def care(cls, path: Path, *, timeout_s: float) -> "Mirror":
        """Return the mirror at `path`, as nobody and without its forge: to tidy it."""
        return cls(git=replace(Git.reading(path, timeout_s=timeout_s), is_bare=True), clone_url="")

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.git.path

    @property
    def objects(self) -> Path:
        """What checkouts borrow from."""
        return self.path / "objects"

    # --- the forge -------------------------------------------------------------------------------

    def fetch(self, *refs: str) -> None:
        """Bring refs of the forge: branches by name, heads of pull requests as refs/pull/N/head; none: all branches.

        Only a fetch of all branches forgets those that are gone from the forge.
        """
        wanted = [_full(self.git.what, ref) for ref in refs]
        specs = [f"+{ref}:{ref}" for ref in wanted]
        with self._turn():
            self._tidy()
            if not specs:
                self._fetch_all()
                return
            try:
                self._fetch_or_mend(*specs, to=f"fetch {', '.join(refs)}")
            except CheckoutError as error:
                if "some local refs could not be updated" not in str(error):
                    raise
                # A branch `a` that is gone from the forge is in the way of `a/b`.
                self._fetch_all(*(spec for spec in specs if PULL.search(spec)))

    def fetch_all(self, *pulls: str) -> None:
        """Bring all branches, and the heads of pull requests that are named as refs/pull/N/head."""
        specs = [f"+{ref}:{ref}" for ref in (_full(self.git.what, pull) for pull in pulls)]
        with self._turn():
            self._tidy()
            self._fetch_all(*specs)

    def push(self, sha: str, branch: str, *, expect: str) -> bool:
        """Put the forge's branch on `sha` if it is on `expect`; return False if it is not there (any more).

        True also when it is on `sha` already: an answer that was lost can be asked for again.
        """
        sha, expect = self._sha(sha), self._sha(expect)
        ref = _full(self.git.what, branch)
        if PULL.fullmatch(ref):
            raise CheckoutError(f"{self.git.what}: {branch!r} is no branch that can be pushed to")
        to = f"push to {branch!r}"
        lease = f"--force-with-lease={ref}:{expect}"
        try:
            self.git("push", "--quiet", "--no-verify", lease, "--", self.clone_url, f"{sha}:{ref}", to=to)
        except CheckoutError:
            # Whether it was refused because of the lease is told by the branch, not by git's words.
            now = self._on_forge(ref)
            if now == expect:
                raise
            return now == sha
        return True

    def default_branch(self) -> str | None:
        """Ask the forge for its default branch; None: it names none that exists."""
        answer = self.git("ls-remote", "--symref", "--", self.clone_url, "HEAD", to="ask for the default branch")
        found = re.search(r"^ref: refs/heads/(\S+)\tHEAD$", answer, re.MULTILINE)
        return found[1] if found else None

    def _on_forge(self, ref: str) -> str | None:
        lines = self.git("ls-remote", "--", self.clone_url, ref, to=f"ask for {ref}").splitlines()
        return next((sha for sha, _, name in (line.partition("\t") for line in lines) if name == ref), None)

    # --- what is here ----------------------------------------------------------------------------

    def has(self, sha: str) -> bool:
        """Tell whether a commit is here."""
        return self._commit(self._sha(sha)) is not None

    def tip(self, ref: str) -> str | None:
        """Return the commit of a branch, or of refs/pull/N/head, as it was fetched last; None: it was not there."""
        sha = self.git.ask("rev-parse", "--verify", "--quiet", _full(self.git.what, ref))
        if sha is None:
            return None
        if self._commit(sha.strip()) is None:
            raise CheckoutError(f"{self.git.what}: the mirror lacks the commit of {ref!r}")
        return sha.strip()

    def is_ancestor(self, ancestor: str, descendant: str) -> bool:
        """Tell whether a commit is in the history of another, or is it."""
        args = ("merge-base", "--is-ancestor", self._sha(ancestor), self._sha(descendant))
        return self.git.ask(*args) is not None

    def tree(self, sha: str) -> str:
        """Return the tree of a commit."""
        to = f"find the files of {sha}"
        return self.git("rev-parse", "--verify", "--quiet", f"{self._sha(sha)}^{{tree}}", to=to).strip()

    def read(self, ref_or_sha: str, path: str) -> str | None:
        """Return the text of a file in a commit; None when there is none. One that is too large is a CheckoutError."""
        is_sha = re.fullmatch(r"[0-9a-f]{40,64}", ref_or_sha)
        commit = self._commit(ref_or_sha) if is_sha else self.tip(ref_or_sha)
        if commit is None:
            return None
        literal = self.git.with_variables(GIT_LITERAL_PATHSPECS="1")
        listed = literal("ls-tree", "-z", "--full-tree", commit, "--", path, to=f"look for {path}")
        found = re.fullmatch(r"100\d{3} blob ([0-9a-f]+)\t[^\0]*\0", listed)
        if found is None:  # nothing, a folder or a link
            return None
        if int(self.git("cat-file", "-s", found[1], to=f"measure {path}")) > READ_BYTES:
            raise CheckoutError(f"{self.git.what}: {path} is larger than {READ_BYTES // 1024} kB")
        text = self.git("cat-file", "blob", found[1], to=f"read {path}")
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    # --- merging ---------------------------------------------------------------------------------

    def merge_tree(self, ours: str, theirs: str) -> str | None:
        """Return the tree of the merge of two commits; None: they conflict."""
        answer = self.git.ask("merge-tree", "--write-tree", "--no-messages", self._sha(ours), self._sha(theirs))
        return answer.split("\n")[0].strip() if answer is not None else None

    def merge_commit(self, *, head: str, base: str, message: str, at: datetime) -> str:
        """Make the commit that takes `base` into `head`; the same arguments always give the same commit.

        at: its date. Raises CheckoutError when the two conflict.
        """
        tree = self.merge_tree(head, base)
        if tree is None:
            raise CheckoutError(f"{self.git.what}: {base[:10]} cannot be merged into {head[:10]}: they conflict")
        date = f"{int(at.timestamp())} +0000"
        git = self.git.with_variables(GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date)
        parents = ("-p", self._sha(head), "-p", self._sha(base))
        return git("commit-tree", *parents, "-F", "-", tree, stdin=message, to="make the merge commit").strip()

    # --- care ------------------------------------------------------------------------------------

    def mend(self) -> bool:
        """Make it anew from the forge if anything is missing or torn; tell whether that was so.

        The damaged one is kept aside for a while: it may hold what the forge no longer has.
        """
        with self._turn():
            self._tidy()
            if self._is_sound():
                return False
            pulls = self._refs("refs/pull/")
            self._begin_anew()
            self._fetch_all()
            for pull in pulls:
                # Some may be gone from the forge, and one of them would stop all.
                with suppress(CheckoutError):
                    self._fetch(f"+{pull}:{pull}", to=f"fetch {pull}")
        return True

    @property
    def packs(self) -> int:
        """How many packs its objects are in."""
        return len(list((self.objects / "pack").glob("*.pack")))

    def repack(self, *, above: int = 1) -> bool:
        """Make one pack of more than `above`; tell whether there were so many.

        What no ref leads to stays, for a checkout may borrow it.
        """
        with self._turn():
            self._tidy()
            if self.packs <= above:
                return False
            self.git("repack", "-a", "-d", "-q", "-n", "--keep-unreachable", to="repack")
        return True

    def take_away(self, to: Path) -> bool:
        """Move it away, in one step; tell whether it was still there."""
        with self._turn():
            try:
                self.path.rename(to)
            except FileNotFoundError:
                return False
        return True

    def _is_sound(self) -> bool:
        """Tell whether every pack is whole and every object is there that a ref leads to."""
        try:
            packs = [str(path) for path in sorted((self.objects / "pack").glob("*.idx"))]
            if packs:
                self.git("verify-pack", *packs, to="check the packs")
            self.git("rev-list", "--objects", "--all", "--quiet", to="check the objects")
        except CheckoutError as error:
            if self.git.is_over():
                raise
            log.warning("mirror is damaged", extra={"repo": self.git.what, "why": str(error)})
            return False
        return True

    def _begin_anew(self) -> None:
        spare = _spare(self.path)
        self.path.rename(spare)
        log.warning("damaged mirror made anew", extra={"repo": self.git.what, "kept_at": str(spare)})
        self._disarm()

    def _refs(self, below: str) -> list[str]:
        try:
            return self.git("for-each-ref", "--format=%(refname)", below, to="list the refs").split()
        except CheckoutError:
            return []

    def _turn(self) -> AbstractContextManager[None]:
        owner, name = self.path.parent.name, self.path.name.removesuffix(".git")
        folder = self.path.parent.parent / TURNS / owner / name
        return turn(folder, deadline=self.git.deadline, is_unwanted=self.git.is_unwanted, what=self.git.what)

    def _disarm(self) -> None:
        """Put in place what git must find, and take away what could make it act for somebody else."""
        for part in ("objects/pack", "refs"):
            folder = self.path / part
            for step in (*reversed(folder.relative_to(self.path).parents[:-1]), Path(part)):
                if (self.path / step).is_symlink() or (self.path / step).is_file():
                    (self.path / step).unlink()
            folder.mkdir(parents=True, exist_ok=True)
        for name in _HARMFUL:
            with suppress(FileNotFoundError):
                remove(self.path / name)
        # Not in the mirror: whoever has the turn sweeps up there what he does not know.
        drafts = self.path.parents[len(MIRRORS.parts)]
        head = self.path / "HEAD"
        if head.is_symlink() or not head.is_file() or head.read_bytes() != b"ref: refs/heads/none\n":
            write(head, "ref: refs/heads/none\n", mode=0o600, drafts=drafts)
        write(self.path / "config", _CONFIG, mode=0o600, drafts=drafts)

    def _tidy(self) -> None:
        """Sweep up what a killed git left. Only in one's turn: the locks of a running git look the same."""
        try:
            self._disarm()
            for entry in self.path.iterdir():
                if entry.is_symlink() or entry.name not in _KEPT | {"config"}:
                    remove(entry)
            for draft in (*(self.path / "refs").rglob("*.lock"), *(self.objects / "pack").glob("tmp_*")):
                remove(draft)
        except OSError as error:
            raise CheckoutError(f"{self.git.what}: the mirror at {self.path} cannot be used: {error}") from error

    def _fetch_all(self, *specs: str) -> None:
        to = "fetch " + (", ".join(spec.partition(":")[0].strip("+") for spec in specs) or "the branches")
        self._fetch_or_mend(_BRANCHES, *specs, to=to, prune=True)

    def _fetch_or_mend(self, *specs: str, to: str, prune: bool = False) -> None:
        """Fetch; when that fails because objects are missing or torn, and not because of the forge, begin anew."""
        try:
            self._fetch(*specs, to=to, prune=prune)
        except CheckoutError as error:
            if self.git.is_over() or any(words in str(error) for words in _NO_DAMAGE) or not self._forge_answers():
                raise
            if self._is_sound():
                raise
            self._begin_anew()
            self._fetch(*specs, to=to, prune=prune)

    def _forge_answers(self) -> bool:
        try:
            self._on_forge("HEAD")
        except CheckoutError:
            return False
        return True

    def _fetch(self, *specs: str, to: str, prune: bool = False) -> None:
        options = ["--quiet", "--force", "--no-recurse-submodules", "--no-write-fetch-head", "--update-head-ok"]
        options += ["--prune"] if prune else []
        self.git("fetch", *options, "--", self.clone_url, *specs, to=to)

    def _commit(self, name: str) -> str | None:
        sha = self.git.ask("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", no=(1, 128))
        return sha.strip() if sha else None

    def _sha(self, text: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{40,64}", text):
            raise CheckoutError(f"{self.git.what}: {text!r} is no commit id")
        return text


def place(root: Path, repo: str) -> Path:
    """Return where the mirror of a repository belongs; refuse names, and links, that lead elsewhere."""
    try:
        owner, name = check_repo("repo", repo).split("/")
    except BadInput as error:
        raise CheckoutError(str(error)) from None
    path = root.absolute() / MIRRORS / owner / f"{name}.git"
    if path.resolve() != root.resolve() / MIRRORS / owner / f"{name}.git":
        raise CheckoutError(f"{repo}: {path} is a link to another place; remove the link")
    return path


def _full(repo: str, ref: str) -> str:
    """Return the whole name of a ref."""
    check_ref(repo, ref)
    return ref if PULL.fullmatch(ref) else f"refs/heads/{ref}"


def _spare(path: Path) -> Path:
    """Return a place, that nothing is at yet, for a damaged mirror."""
    folder = path.parent.parent / DAMAGED
    folder.mkdir(mode=0o700, exist_ok=True)
    prefix = f"{path.parent.name}-{path.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-"
    return Path(tempfile.mkdtemp(dir=folder, prefix=prefix)) / path.name
