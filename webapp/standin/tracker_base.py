"""What the parts of the stand-in forge share: accounts, repositories, rights, time, and the way out for deliveries."""

import itertools
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pool.model import check_repo
from webapp.standin.bare import BareRepo
from webapp.standin.faults import Faults
from webapp.standin.model import Model
from webapp.standin.records import (
    RIGHTS,
    Clock,
    Happening,
    Hook,
    Issue,
    Label,
    Pull,
    Repo,
    User,
    stamp,
    wall_clock,
)
from webapp.standin.refusals import Unprocessable, not_found
from webapp.standin.sender import Sender, Sent
from webapp.standin.shapes import Json
from webapp.standin.shapes_rest import RestShapes

#: Repository, Event-Type, body, and for a test delivery the hook.
Outbox = list[tuple[Repo, str, Json, int | None]]


class Base:
    """Accounts and repositories. All state changes under one lock; what came of a change is sent after it."""

    def __init__(
        self,
        root: Path,
        *,
        secret: bytes,
        webhook_url: str | None = None,
        clock: Clock = wall_clock,
        checking_s: float = 0.0,
        checking_reads: int = 0,
    ) -> None:
        """Keep the repositories below `root`; sign with `secret`; None: deliveries are only recorded.

        checking_s: how long a pull request is being checked after a change, by `clock`.
        checking_reads: how many answers over REST show it as being checked besides.
        """
        self.root = root
        self.users: dict[str, User] = {}
        self.repos: dict[str, Repo] = {}
        self.model = Model()
        self.faults = Faults()
        self.sender = Sender(secret=secret, url=webhook_url, faults=self.faults, model=self.model)
        self.clock = clock
        self.checking_s, self.checking_reads = checking_s, checking_reads
        self._ids = itertools.count(1)
        self._outbox: Outbox = []
        self._lock = threading.RLock()
        self._depth = 0

    @property
    def url(self) -> str:
        """Where the forge is."""
        return "http://forge.invalid"

    @property
    def deliveries(self) -> list[Sent]:
        """All deliveries so far, also the failed and the dropped ones."""
        return self.sender.deliveries

    @property
    def shapes(self) -> RestShapes:
        """What makes JSON of what is remembered."""
        return RestShapes(url=self.url, users=self.users, model=self.model)

    def replay(self, index: int) -> Sent:
        """Send a recorded delivery again under another UUID."""
        return self.sender.replay(index)

    # --- accounts and rights ---

    def create_user(self, login: str, *, is_admin: bool = False, password: str = "") -> str:
        """Make an account and return its token."""
        with self._changing():
            token = secrets.token_hex(20)
            self.users[login] = User(
                id=self.next_id(), login=login, token=token, is_admin=is_admin, password=password or token
            )
            return token

    def account_of(self, secret: str, login: str | None = None) -> User | None:
        """Return whose token it is, or whose password if a login is given; None: nobody's."""
        for user in self.users.values():
            if login not in (None, "", user.login):
                continue
            known = [user.token, *user.tokens.values(), *([user.password] if login else [])]
            if any(one and secrets.compare_digest(one.encode(), secret.encode()) for one in known):
                return user
        return None

    def right_of(self, repo: Repo, login: str | None) -> str:
        """Return what an account may do in a repository, one of RIGHTS; None: nobody's."""
        user = self.users.get(login or "")
        if user is None:
            return "none" if repo.private else "read"
        if user.login == repo.owner:
            return "owner"
        if user.is_admin:
            return "admin"
        found = repo.rights.get(user.login, repo.everybody)
        return "read" if found == "none" and not repo.private else found

    def may(self, repo: Repo, login: str | None, right: str) -> bool:
        """Tell whether an account may do something."""
        return RIGHTS.index(self.right_of(repo, login)) >= RIGHTS.index(right)

    def set_right(self, repo: str, login: str, right: str) -> None:
        """Let an account do more or less in a repository than everybody."""
        with self._changing():
            self.repos[repo].rights[login] = right

    # --- repositories ---

    def create_repo(self, full_name: str, *, private: bool = True, everybody: str = "write") -> Repo:
        """Make a repository with one commit on `main`; a public one can be read without an account.

        everybody: what accounts may do without being named: none, read, write or admin.
        """
        check_repo("full_name", full_name)
        with self._changing():
            git = BareRepo(self.root / f"{full_name}.git")
            self.repos[full_name] = Repo(
                id=self.next_id(), full_name=full_name, private=private, git=git, everybody=everybody
            )
            return self.repos[full_name]

    def commit(
        self,
        repo: str,
        branch: str,
        files: Mapping[str, str | None],
        *,
        message: str = "Change",
        sender: str | None = None,
        start: str | None = None,
    ) -> str:
        """Commit files to a branch as if `sender` had pushed it; None deletes one. Return the sha.

        A new branch begins at `start`; None: at the default branch.
        """
        with self._changing():
            found = self.repos[repo]
            before = found.git.branches()
            sha = found.git.commit(branch, files, message=message, start=start or found.default_branch)
            self._pushed(found, before, sender)
            return sha

    def force(self, repo: str, branch: str, sha: str | None, *, sender: str | None = None) -> None:
        """Let a branch point to a commit as a forced push does; None: delete it."""
        with self._changing():
            found = self.repos[repo]
            before = found.git.branches()
            if sha is None:
                found.git.delete_branch(branch)
            else:
                found.git.set_ref(f"refs/heads/{branch}", sha)
            self._pushed(found, before, sender)

    def create_label(self, repo: str, name: str, *, color: str = "ee0701", description: str = "") -> Label:
        """Make a label that issues can have."""
        with self._changing():
            found = self.repos[repo]
            label = Label(id=self.next_id(), name=name, color=color.removeprefix("#"), description=description)
            return found.labels.setdefault(name, label)

    # --- for the parts ---

    def _pushed(self, repo: Repo, before: Mapping[str, str], sender: str | None) -> None:
        """Follow what was pushed; `before`: where the branches were."""
        raise NotImplementedError

    def _payload_mergeable(self, repo: Repo, issue: Issue) -> bool:
        """Tell what a delivery says of an issue that may be a pull request."""
        raise NotImplementedError

    @property
    def now(self) -> str:
        """The present, as the forge writes it."""
        return stamp(self.clock())

    def next_id(self) -> int:
        """Return a number that nothing has yet."""
        return next(self._ids)

    def send_test(self, repo: Repo, hook: Hook, *, sender: str) -> None:
        """Send a test delivery: services/webhook, a push of the commit that is there."""
        tip = repo.git.info(repo.git.branches()[repo.default_branch])
        if tip is not None and hook.active:
            self._emit(repo, "push", self.shapes.push_event(repo, tip, sender=sender), only_hook=hook.id)

    def _happened(
        self,
        issue: Issue,
        kind: str,
        user: str,
        *,
        body: str = "",
        assignee: str | None = None,
        removed: bool = False,
    ) -> int:
        """Write an entry of the timeline; return its id."""
        entry = Happening(
            id=self.next_id(),
            kind=kind,
            user=user,
            created_at=self.now,
            body=body,
            assignee=assignee,
            removed=removed,
        )
        issue.timeline.append(entry)
        return entry.id

    def find_repo(self, full_name: str) -> Repo:
        """Return a repository. Raises Refusal when there is none."""
        found = self.repos.get(full_name)
        if found is None:
            raise not_found()
        return found

    def find_issue(self, repo: Repo, number: int) -> Issue:
        """Return an issue or pull request. Raises Refusal when there is none."""
        found = repo.issues.get(number)
        if found is None:
            raise not_found()
        return found

    def find_pull(self, repo: Repo, number: int) -> Pull:
        """Return a pull request. Raises Refusal when there is none."""
        found = repo.issues.get(number)
        if not isinstance(found, Pull):
            raise not_found()
        return found

    def _touch(self, repo: str, number: int) -> tuple[Repo, Issue]:
        found = self.repos[repo]
        issue = found.issues[number]
        issue.updated_at = self.now
        return found, issue

    def _touch_pull(self, repo: str, number: int) -> tuple[Repo, Pull]:
        found, issue = self._touch(repo, number)
        if not isinstance(issue, Pull):
            raise Unprocessable(f"{repo}#{number} is no pull request")
        return found, issue

    # --- the way out ---

    @contextmanager
    def holding(self) -> Iterator[Callable[[], None]]:
        """Change the state alone; what came of it goes out when the function that this yields is called afterwards."""
        outbox: Outbox = []
        with self._lock:
            self._depth += 1
            is_outermost = self._depth == 1
            try:
                yield lambda: self._send(outbox) if is_outermost else None
            finally:
                self._depth -= 1
                if self._depth == 0:
                    outbox += self._outbox
                    self._outbox = []

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change the state alone; then, without holding anybody up, send what came of it."""
        try:
            with self.holding() as send:
                yield
        finally:
            # Also after a refusal: what happened before it is told.
            send()

    def _emit(self, repo: Repo, event_type: str, value: Json, *, only_hook: int | None = None) -> None:
        self._outbox.append((repo, event_type, value, only_hook))

    def _send(self, outbox: Outbox) -> None:
        for repo, event_type, value, only_hook in outbox:
            self.sender.send(repo, event_type, value, only_hook=only_hook)
        outbox.clear()
        self.tick()

    def tick(self) -> None:
        """Do what is due."""
