"""One bare repository of the stand-in forge. Starts git."""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

_IDENTITY = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Stand-in"), ("EMAIL", "stand-in@example.org"))
}


def environment(**more: str) -> dict[str, str]:
    """Return the environment for git: without the settings of the machine, the operator, or a hook that started us."""
    own = {"LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, **_IDENTITY}
    return {"PATH": os.environ.get("PATH", os.defpath), **own, **more}


class MergeConflict(Exception):
    """The two branches changed the same lines."""


class BareRepo:
    """A bare repository on disk; all writes go straight to its objects and refs."""

    def __init__(self, path: Path) -> None:
        """Open the repository at `path`, or make it with one commit on `main`."""
        self.path = path
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._git("init", "--quiet", "--bare", "--initial-branch=main", "--template=", str(path))
            self.commit("main", {"README.md": f"# {path.stem}\n"}, message="Initial commit")

    def branches(self) -> dict[str, str]:
        """Return the sha of each branch."""
        lines = self._git("for-each-ref", "--format=%(objectname) %(refname:lstrip=2)", "refs/heads").splitlines()
        return {name: sha for sha, _, name in (line.partition(" ") for line in lines)}

    def commit(self, branch: str, files: Mapping[str, str], *, message: str, start: str = "main") -> str:
        """Write files on a branch, which begins at `start` when it is new; return the commit's sha."""
        branches = self.branches()
        parent = branches.get(branch) or branches.get(start)
        with tempfile.TemporaryDirectory() as folder:
            index = f"{folder}/index"
            self._git("read-tree", parent or "--empty", index=index)
            for name, text in files.items():
                blob = self._git("hash-object", "-w", "--stdin", stdin=text)
                self._git("update-index", "--add", "--cacheinfo", f"100644,{blob},{name}", index=index)
            tree = self._git("write-tree", index=index)
        sha = self._git("commit-tree", tree, *(["-p", parent] if parent else []), "-m", message)
        self.set_ref(f"refs/heads/{branch}", sha)
        return sha

    def merge(self, base: str, head: str, *, message: str) -> str:
        """Merge commit `head` into branch `base`; return the merge commit's sha. Raises MergeConflict."""
        ours = self.branches()[base]
        sha = self._git("commit-tree", self._merged_tree(ours, head), "-p", ours, "-p", head, "-m", message)
        self.set_ref(f"refs/heads/{base}", sha)
        return sha

    def can_merge(self, base: str, head: str) -> bool:
        """Tell whether commit `head` goes into branch `base` without a conflict."""
        try:
            self._merged_tree(self.branches()[base], head)
        except (MergeConflict, KeyError):
            return False
        return True

    def merge_base(self, one: str, other: str) -> str:
        """Return the sha where two histories part; empty when they have nothing in common."""
        return self._git("merge-base", one, other, okay=(0, 1))

    def set_ref(self, ref: str, sha: str) -> None:
        """Let a ref point to a commit."""
        self._git("update-ref", ref, sha)

    def delete_branch(self, branch: str) -> None:
        """Delete a branch; its pull request keeps a ref of its own."""
        self._git("update-ref", "-d", f"refs/heads/{branch}")

    def subject(self, sha: str) -> str:
        """Return the first line of a commit's message."""
        return self._git("log", "-1", "--format=%s", sha)

    def file(self, branch: str, name: str) -> str:
        """Return the text of a file on a branch."""
        return self._git("cat-file", "blob", f"refs/heads/{branch}:{name}")

    def _merged_tree(self, ours: str, theirs: str) -> str:
        tree, *conflicts = self._git("merge-tree", "--write-tree", "--name-only", ours, theirs, okay=(0, 1)).split("\n")
        if conflicts:
            raise MergeConflict(conflicts[0])
        return tree

    def _git(self, *arguments: str, stdin: str = "", okay: tuple[int, ...] = (0,), index: str = "") -> str:
        folder = [] if arguments[0] == "init" else [f"--git-dir={self.path}"]
        done = subprocess.run(
            ["git", *folder, *arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            env=environment(**({"GIT_INDEX_FILE": index} if index else {})),
            check=False,
            timeout=60,
        )
        if done.returncode not in okay:
            raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
        return done.stdout.strip() if arguments[0] != "cat-file" else done.stdout
