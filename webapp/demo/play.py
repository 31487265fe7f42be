"""`forgepool demo`: the real engine, a stand-in forge, scripted agents, and a verdict on every promise."""

import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from rich.console import Console

from pool import migrate
from pool.errors import BadInput, ForgepoolError
from pool.store import Store
from tasks import logs
from tasks.settings import Settings
from webapp.demo import screen, verdict
from webapp.demo.screen import Screen
from webapp.demo.story import REPO, Story
from webapp.demo.verdict import Promise
from webapp.standin.forge import StandInForge
from webapp.up import House

INSTANCES = {"dev-alpha": "dev", "dev-bravo": "dev", "reviewer-default": "reviewer", "boss-default": "boss"}
WORKERS_S = 60.0  #: for every worker to take its lease

CONFIG = """\
# Written by `forgepool demo`.
[service]
forge_url = "{forge_url}"
webhook_secret_file = "webhook-secret"
repos = ["{repo}"]
state_dir = "state"
listen = "127.0.0.1:0"
flower_listen = "127.0.0.1:0"
reconcile_s = 1
drain_s = 10
"""

TYPE = """
[types.{name}]
forge_user = "{name}"
token_file = "{name}-token"
git_name = "{name}"
git_email = "{name}@example.org"
command = ['{python}', '-m', 'webapp.demo.agent']
pass_env = ["DEMO_TRACE"]
"""


def play(*, keep: bool = False, state_dir: Path | None = None, console: Console | None = None) -> int:
    """Play the demo; return 0 only when every promise was kept.

    keep: leave the engine running afterwards, until Ctrl-C. state_dir: an empty or new folder; None: a temporary one,
    removed at the end.
    """
    console = console or _console()
    logs.configure("console", level=logging.WARNING)
    folder = _fresh(state_dir)
    try:
        with StandInForge(folder / "forge", secret=b"demo-secret") as forge:
            kept = _play(folder, forge, console, keep=keep)
    finally:
        if state_dir is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if kept else 1


def _console() -> Console:
    """Return the terminal; where there is none, a width that a log can hold."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


def _play(folder: Path, forge: StandInForge, console: Console, *, keep: bool) -> bool:
    settings = _set_the_stage(folder, forge)
    store = Store.open(settings.database_url)
    trace = folder / "trace"
    try:
        with House(settings, environ={**os.environ, "DEMO_TRACE": str(trace)}) as house:
            console.print(f"Starting broker, web app, Flower and {len(INSTANCES)} workers in {folder} ...")
            forge.sender.url = f"{house.web_url}/webhooks/forgejo"
            house.start()
            _wait_for_workers(store, house)
            story = Story(forge, store)
            trouble = _tell(story, store, house, console)
            promises = _judge(story, store, trace)
            _report(console, store, promises, trouble)
            if keep:
                _stay(console, settings, house, forge)
    finally:
        store.close()
    return trouble is None and all(promise.kept for promise in promises)


def _fresh(state_dir: Path | None) -> Path:
    if state_dir is None:
        return Path(tempfile.mkdtemp(prefix="forgepool-demo-"))
    if state_dir.exists() and any(state_dir.iterdir()):
        raise BadInput("--state-dir", str(state_dir), "the demo wants an empty or a new folder")
    state_dir.mkdir(parents=True, exist_ok=True)
    return state_dir.absolute()


def _set_the_stage(folder: Path, forge: StandInForge) -> Settings:
    """Make accounts and the repository on the forge, and a configuration that knows them."""
    forge.create_user("maya")
    text = CONFIG.format(forge_url=forge.url, repo=REPO)
    for name in sorted(set(INSTANCES.values())):
        token = folder / f"{name}-token"
        token.touch(mode=0o600)
        token.write_text(forge.create_user(name), encoding="ascii")
        text += TYPE.format(name=name, python=sys.executable)
    forge.create_repo(REPO)
    (folder / "webhook-secret").write_bytes(forge.sender.secret)
    config = folder / "forgepool.toml"
    config.write_text(text, encoding="utf-8")
    settings = Settings.load(config)
    store = Store.open(settings.database_url)
    migrate.upgrade(store.engine)
    with store.writing() as tx:
        for name, type_name in INSTANCES.items():
            tx.add_instance(name, type_name)
    store.close()
    return settings


def _wait_for_workers(store: Store, house: House) -> None:
    deadline = time.monotonic() + WORKERS_S
    while True:
        house.tend()
        with store.reading() as tx:
            if all(row.worker is not None for row in tx.list_instances()):
                return
        if time.monotonic() > deadline:
            raise ForgepoolError(f"the workers did not start within {WORKERS_S:.0f} s; see logs/ in the state folder")
        time.sleep(0.05)


def _tell(story: Story, store: Store, house: House, console: Console) -> str | None:
    """Let the story happen while the screen follows; return what went wrong, if anything."""
    troubles: list[str] = []

    def tell() -> None:
        try:
            story.play()
        except Exception as error:  # noqa: BLE001 - the edge of a thread: whatever it was is the verdict
            troubles.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=tell, name="story", daemon=True)
    with Screen(console, store, story.told) as view:
        thread.start()
        while thread.is_alive():
            view.update()
            house.tend()
            thread.join(0.1)
    return troubles[0] if troubles else None


def _judge(story: Story, store: Store, trace: Path) -> list[Promise]:
    lines = trace.read_text(encoding="ascii").splitlines() if trace.exists() else []
    with store.reading() as tx:
        tasks = tx.list_tasks(limit=1000, newest_first=False)
        receipts = tx.list_deliveries(limit=1000)
    return verdict.judge(
        tasks=tasks,
        receipts=receipts,
        runs=verdict.read_trace(lines),
        repeats=story.repeats,
        strangers=story.strangers,
    )


def _report(console: Console, store: Store, promises: list[Promise], trouble: str | None) -> None:
    with store.reading() as tx:
        console.print(screen.summary(tx.list_tasks(limit=1000, newest_first=False)))
    console.print(screen.verdict(promises))
    broken = [promise for promise in promises if not promise.kept]
    if trouble:
        console.print(f"The story stopped: {trouble}", style="bold red")
    elif broken:
        console.print(f"{len(broken)} of {len(promises)} promises were broken.", style="bold red")
    else:
        console.print(f"All {len(promises)} promises were kept.", style="bold green")


def _stay(console: Console, settings: Settings, house: House, forge: StandInForge) -> None:
    password = settings.flower_password()
    console.print(f"Web app  {house.web_url}/healthz")
    console.print(f"Flower   {house.flower_url}  (user forgepool, password {password})", soft_wrap=True)
    console.print(f"Forge    {forge.clone_url(REPO)}")
    console.print(f"CLI      FORGEPOOL_CONFIG={settings.path} forgepool tasks list", soft_wrap=True)
    console.print("Ctrl-C stops everything.")
    house.run()
