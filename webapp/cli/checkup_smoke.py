"""`forgepool doctor --smoke`: the forge sends a signed test delivery, and it is seen to arrive."""

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pool.errors import ForgeError
from pool.store import Receipt, Store
from tasks.forge_setup import SetupForge
from tasks.settings import Settings
from webapp.cli.checkup import Check, fail, ok, warn
from webapp.cli.checkup_forge import ASK_OWNER, INIT, ours, served
from webapp.cli.setup_forge import HOST_LIST
from webapp.cli.setup_scene import ANY_ADDRESS, Scene

NAME = "smoke"
#: Forgejo gives up after 5 s (setting.Webhook.DeliverTimeout), and a busy one has others to serve first.
DEADLINE_S = 15.0
LOOK_S = 0.2
CONNECT_S = 2.0
#: The event of a test delivery (routers/api/v1/repo/hook.go, TestHook).
EVENT = "push"


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoke:
    """What a trial works with."""

    settings: Settings
    store: Store
    admin_token: str | None = field(default=None, repr=False)
    deadline_s: float = DEADLINE_S
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def examine(self) -> Iterator[Check]:
        """Try every repository."""
        if not _listens(self.settings.service.listen):
            yield fail(
                NAME, f"nothing answers at {self.settings.service.listen}: no delivery can arrive", "`forgepool up`"
            )
            return
        with Scene(settings=self.settings, admin_token=self.admin_token) as scene:
            try:
                for repo in served(scene):
                    yield from self._repository(scene, repo)
            except ForgeError as error:
                yield fail(NAME, str(error), "see that the forge runs, and check service.forge_url")

    def _repository(self, scene: Scene, repo: str) -> Iterator[Check]:
        manager = scene.manager(repo)
        if manager is None:
            yield fail(NAME, f"{repo}: nobody whose token is here may call for a test delivery", ASK_OWNER)
            return
        awake = [hook for hook in ours(manager.hooks(repo)) if hook.active]
        if not awake:
            yield fail(NAME, f"{repo} has no webhook that is awake and goes to a forgepool", INIT)
        elif manager.repository(repo).is_empty:
            yield warn(NAME, f"{repo} is empty, and of such a repository the forge sends no test", "push a commit")
        else:
            for hook in awake:
                yield self._try(manager, repo, hook.id, hook.url)

    def _try(self, manager: SetupForge, repo: str, hook: int, url: str) -> Check:
        before = self._newest()
        began = self.monotonic()
        manager.test_hook(repo, hook)
        while True:
            for receipt in self._since(before):
                if _is_test(receipt, repo):
                    took_s = self.monotonic() - began
                    return ok(NAME, f"{repo}: a test delivery arrived after {took_s:.1f} s, as number {receipt.id}")
                if not receipt.signed:
                    step = (
                        f"the secret is another one: {INIT}, by making the webhook anew with the one that is configured"
                    )
                    return fail(NAME, f"{repo}: a delivery arrived, and was refused: {receipt.reason}", step)
            if self.monotonic() - began >= self.deadline_s:
                return fail(
                    NAME, f"{repo}: no test delivery to {url} arrived within {self.deadline_s:g} s", _causes(url)
                )
            self.sleep(LOOK_S)

    def _newest(self) -> int:
        with self.store.reading() as tx:
            return max((receipt.id for receipt in tx.list_deliveries(limit=1)), default=0)

    def _since(self, before: int) -> list[Receipt]:
        with self.store.reading() as tx:
            return [receipt for receipt in tx.list_deliveries() if receipt.id > before]


def _is_test(receipt: Receipt, repo: str) -> bool:
    is_here = receipt.repo is None or receipt.repo.lower() == repo.lower()
    return receipt.signed and receipt.event_type == EVENT and is_here


def _causes(url: str) -> str:
    """Name what may be wrong, the likeliest first."""
    return (
        f"most likely: {HOST_LIST}. Else {url} does not lead to this service: give the right one with "
        "`forgepool init --hook-url`. The page of the webhook on the forge shows what it was answered"
    )


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection(("127.0.0.1" if host in ANY_ADDRESS else host, int(port)), timeout=CONNECT_S):
            return True
    except OSError:
        return False
