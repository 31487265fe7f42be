"""One bare repository of the stand-in forge. Starts git; refs are read from their files, which costs no process."""

import io
import os
import subprocess
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_NAME, _EMAIL = "Stand-in", "stand-in@example.org"
_IDENTITY = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", _NAME), ("EMAIL", _EMAIL))
}


def environment(**more: str) -> dict[str, str]:
    """Return the environment for git: without the settings of the machine, the operator, or a hook that started us."""
    own = {"LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, **_IDENTITY}
    return {"PATH": os.environ.get("PATH", os.defpath), **own, **more}


class MergeConflict(Exception):
    """The two branches changed the same lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitInfo:
    """What a commit says."""

    sha: str
    tree: str
    parents: tuple[str, ...]
    author: str  #: Name <address>
    date: str  #: seconds since 1970 and the offset, as git writes it
    message: str

    @property
    def subject(self) -> str:
        """First line of the message."""
        return self.message.partition("\n")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file or a folder in a commit."""

    path: str
    is_folder: bool
    sha: str
    size: int  #: in bytes; of a folder 0


class BareRepo:
    """A bare repository on disk; all writes go straight to its objects and refs.

    What follows from the shas of commits alone is asked from git once and remembered.
    """

    def __init__(self, path: Path) -> None:
        """Open the repository at `path`, or make it with one commit on `main`."""
        self.path = path
        self._trees: dict[tuple[str, str], str | None] = {}
        self._bases: dict[tuple[str, str], str] = {}
        self._diffs: dict[tuple[str, str], str] = {}
        self._commits: dict[str, CommitInfo | None] = {}
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._git("init", "--quiet", "--bare", "--initial-branch=main", "--template=", str(path))
            self.commit("main", {"README.md": f"# {path.stem}\n"}, message="Initial commit")

    # --- reading ---

    def branches(self) -> dict[str, str]:
        """Return the sha of each branch."""
        found = dict(self._packed())
        heads = self.path / "refs/heads"
        for folder, _, names in os.walk(heads):
            for name in names:
                file = Path(folder, name)
                if name.endswith(".lock"):
                    continue
                try:
                    found[str(file.relative_to(heads))] = file.read_text("ascii").strip()
                except FileNotFoundError:
                    # Deleted, or packed, while we looked.
                    continue
        return dict(sorted(found.items()))

    def _packed(self) -> list[tuple[str, str]]:
        try:
            lines = (self.path / "packed-refs").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        parts = (line.split(" ", 1) for line in lines if line[:1] not in "#^" and " refs/heads/" in line)
        return [(ref.removeprefix("refs/heads/"), sha) for sha, ref in parts]

    def can_merge(self, base: str, head: str) -> bool:
        """Tell whether commit `head` goes into branch `base` without a conflict."""
        ours = self.branches().get(base)
        return ours is not None and self._merge_tree(ours, head) is not None

    def merge_base(self, one: str, other: str) -> str:
        """Return the sha where two histories part; empty when they have nothing in common."""
        if (one, other) not in self._bases:
            self._bases[one, other] = self._git("merge-base", one, other, okay=(0, 1))
        return self._bases[one, other]

    def is_ancestor(self, old: str, new: str) -> bool:
        """Tell whether commit `new` contains commit `old`."""
        return self.merge_base(old, new) == old

    def is_same_diff(self, base: str, one: str, other: str) -> bool:
        """Tell whether two heads change the same against where they left the commit `base`."""
        return self._diff(base, one) == self._diff(base, other)

    def _diff(self, base: str, head: str) -> str:
        if (base, head) not in self._diffs:
            self._diffs[base, head] = self._git("diff-tree", "-r", "--raw", "--merge-base", base, head)
        return self._diffs[base, head]

    def subject(self, sha: str) -> str:
        """Return the first line of a commit's message."""
        found = self.info(sha)
        return found.subject if found else ""

    def info(self, sha: str) -> CommitInfo | None:
        """Return what a commit says; None: there is no such commit."""
        if sha not in self._commits:
            text = self._git("cat-file", "commit", sha, okay=(0, 128))
            if not text:
                return None
            self._commits[sha] = _parse(sha, text)
        return self._commits[sha]

    def file(self, branch: str, name: str) -> str:
        """Return the text of a file on a branch."""
        return self._git("cat-file", "blob", f"refs/heads/{branch}:{name}")

    def blob(self, commit: str, name: str) -> tuple[str, str] | None:
        """Return sha and text of a file in a commit; None: it is not there."""
        sha = self._git("rev-parse", "--verify", "--quiet", f"{commit}:{name}", okay=(0, 1, 128))
        return (sha, self._git("cat-file", "blob", sha)) if sha else None

    def entries(self, commit: str, folder: str) -> list[Entry]:
        """Return what is in a folder of a commit, by name; nothing: there is no such folder."""
        listed = self._git("ls-tree", "-z", "--long", commit, f"{folder.rstrip('/')}/")
        found = (line.partition("\t") for line in listed.split("\0") if line)
        return [_entry(words.split(), path) for words, _, path in found]

    def files(self, commit: str) -> dict[str, str]:
        """Return the text of all files of a commit."""
        done = subprocess.run(
            ["git", f"--git-dir={self.path}", "archive", "--format=tar", commit],
            capture_output=True,
            env=environment(),
            check=True,
            timeout=60,
        )
        found = {}
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    found[member.name] = content.read().decode(errors="replace")
        return found

    # --- writing ---

    def commit(
        self,
        branch: str,
        files: Mapping[str, str | None],
        *,
        message: str,
        start: str = "main",
        author: str = f"{_NAME} <{_EMAIL}>",
    ) -> str:
        """Write files on a branch, which begins at `start` when it is new; None deletes one. Return the sha."""
        branches = self.branches()
        parent = branches.get(branch) or branches.get(start)
        when = f"{int(time.time())} +0000"
        lines = [f"commit refs/heads/{branch}", "mark :1", f"author {author} {when}", f"committer {author} {when}"]
        stream = "\n".join([*lines, _data(message), *([f"from {parent}"] if parent else [])])
        for name, text in files.items():
            stream += f"\nD {_quoted(name)}" if text is None else f"\nM 100644 inline {_quoted(name)}\n{_data(text)}"
        # One process instead of one for each object.
        return self._git("fast-import", "--quiet", "--date-format=raw", stdin=stream + "\nget-mark :1\ndone\n")

    def merge(self, base: str, head: str, *, message: str) -> str:
        """Merge commit `head` into branch `base`; return the merge commit's sha. Raises MergeConflict."""
        ours = self.branches()[base]
        sha = self.merge_commits(ours, head, message=message)
        self.set_ref(f"refs/heads/{base}", sha)
        return sha

    def merge_commits(self, ours: str, theirs: str, *, message: str) -> str:
        """Make a merge commit of two commits, on no branch yet. Raises MergeConflict."""
        return self._git("commit-tree", self._merged_tree(ours, theirs), "-p", ours, "-p", theirs, "-m", message)

    def squash(self, ours: str, theirs: str, *, message: str) -> str:
        """Make one commit on `ours` of all that `theirs` changed, on no branch yet. Raises MergeConflict."""
        return self._git("commit-tree", self._merged_tree(ours, theirs), "-p", ours, "-m", message)

    def rebase(self, onto: str, head: str) -> str:
        """Copy the commits of `head` that `onto` lacks on top of it; return the last. Raises MergeConflict."""
        for sha in self._git("rev-list", "--reverse", "--no-merges", f"{onto}..{head}").split():
            onto = self._pick(onto, sha)
        return onto

    def _pick(self, onto: str, sha: str) -> str:
        picked = self.info(sha)
        ours = self.info(onto)
        if picked is None or ours is None or not picked.parents:
            raise MergeConflict(sha)
        # A commit with the files of `onto` whose parent is that of `sha`: so the merge base is what a pick needs.
        stand_in = self._git("commit-tree", ours.tree, "-p", picked.parents[0], "-m", "stand-in")
        tree = self._merged_tree(stand_in, sha)
        name, _, rest = picked.author.partition(" <")
        who = {"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": rest.rstrip(">"), "GIT_AUTHOR_DATE": f"@{picked.date}"}
        return self._git("commit-tree", tree, "-p", onto, "-m", picked.message.rstrip("\n"), variables=who)

    def set_ref(self, ref: str, sha: str) -> None:
        """Let a ref point to a commit."""
        self._git("update-ref", ref, sha)

    def delete_branch(self, branch: str) -> None:
        """Delete a branch; its pull request keeps a ref of its own."""
        self._git("update-ref", "-d", f"refs/heads/{branch}")

    # --- inside ---

    def _merged_tree(self, ours: str, theirs: str) -> str:
        tree = self._merge_tree(ours, theirs)
        if tree is None:
            raise MergeConflict(f"{ours} and {theirs}")
        return tree

    def _merge_tree(self, ours: str, theirs: str) -> str | None:
        """Return the tree of a merge; None: there is a conflict, or no common history."""
        if (ours, theirs) not in self._trees:
            told = self._git("merge-tree", "--write-tree", "--name-only", ours, theirs, okay=(0, 1, 128)).split("\n")
            self._trees[ours, theirs] = told[0] if len(told) == 1 and told[0] else None
        return self._trees[ours, theirs]

    def _git(
        self,
        *arguments: str,
        stdin: str = "",
        okay: tuple[int, ...] = (0,),
        variables: Mapping[str, str] | None = None,
    ) -> str:
        folder = [] if arguments[0] == "init" else [f"--git-dir={self.path}"]
        done = subprocess.run(
            ["git", *folder, *arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environment(**(variables or {})),
            check=False,
            timeout=60,
        )
        if done.returncode not in okay:
            raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
        return done.stdout.strip() if arguments[0] != "cat-file" else done.stdout


def _data(text: str) -> str:
    return f"data {len(text.encode())}\n{text}"


def _quoted(name: str) -> str:
    """Return a path as git's fast-import wants one that may contain anything."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _entry(words: list[str], path: str) -> Entry:
    """Read the mode, type, sha and size that `git ls-tree --long` prints before a path."""
    _, kind, sha, size = words
    return Entry(path=path, is_folder=kind == "tree", sha=sha, size=int(size) if size.isdigit() else 0)


def _parse(sha: str, text: str) -> CommitInfo:
    head, _, message = text.partition("\n\n")
    fields = [line.partition(" ") for line in head.split("\n") if not line.startswith(" ")]
    (author,) = (value for name, _, value in fields if name == "author")
    name, seconds, offset = author.rsplit(" ", 2)
    return CommitInfo(
        sha=sha,
        tree=next(value for key, _, value in fields if key == "tree"),
        parents=tuple(value for key, _, value in fields if key == "parent"),
        author=name,
        date=f"{seconds} {offset}",
        message=message,
    )
