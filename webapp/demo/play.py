"""`forgepool demo`: the real engine, a stand-in forge, scripted agents, and a verdict on every promise."""

import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from pool import migrate
from pool.errors import BadInput, ForgepoolError
from pool.store import Store
from tasks import logs
from tasks.settings import Settings
from webapp.demo import evidence, screen, verdict
from webapp.demo.screen import Screen
from webapp.demo.script import INSTANCES, OUTSIDE_CI, PERSON, REPOS, SCRIPT, SHOWN, check, number_of, repo_of
from webapp.demo.story import Story
from webapp.demo.verdict import Promise, Weather
from webapp.standin.ci import CiResult
from webapp.standin.forge import StandInForge
from webapp.up import House

WORKERS_S = 60.0  #: for every worker to take its lease
CHECKS_S = 0.5  #: that a check of the stand-in forge takes
CHECKING_S = 0.3  #: for which it does not know whether a pull request can be merged
ONE_IN = 5  #: calls that fail in a storm

CONFIG = """\
# Written by `forgepool demo`.
[service]
forge_url = "{forge_url}"
webhook_secret_file = "webhook-secret"
repos = {repos}
state_dir = "state"
listen = "127.0.0.1:0"
flower_listen = "127.0.0.1:0"
reconcile_s = 0.5
drain_s = 10
forge_poll_s = {poll_s}
forge_rate = 100
ci_grace_s = 3
settle_s = 2
"""

TYPE = """
[types.{name}]
forge_user = "{name}"
token_file = "{name}-token"
git_name = "{name}"
git_email = "{name}@example.org"
command = ['{python}', '-m', 'webapp.demo.agent']
pass_env = ["DEMO_TRACE", "DEMO_SCRIPT"]
silence_limit_s = 6
grace_s = 1
"""


def play(
    weather: str = "calm", *, keep: bool = False, state_dir: Path | None = None, console: Console | None = None
) -> int:
    """Play the demo; return 0 only when every promise was kept.

    weather: calm, silent (no webhook arrives) or stormy (they come repeated and shuffled, and one call in five fails).
    keep: leave the engine running afterwards, until Ctrl-C. state_dir: an empty or new folder; None: a temporary one,
    removed at the end.
    """
    console = console or _console()
    logs.configure("console", level=logging.WARNING)
    folder = _fresh(state_dir)
    try:
        with StandInForge(folder / "forge", secret=b"demo-secret", checking_s=CHECKING_S) as forge:
            kept = _play(folder, forge, console, weather, keep=keep)
    finally:
        if state_dir is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if kept else 1


def _console() -> Console:
    """Return the terminal; where there is none, a width that a log can hold."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


def _play(folder: Path, forge: StandInForge, console: Console, weather: str, *, keep: bool) -> bool:
    settings = _set_the_stage(folder, forge, weather)
    store = Store.open(settings.database_url)
    trace = folder / "trace"
    environ = {**os.environ, "DEMO_TRACE": str(trace), "DEMO_SCRIPT": str(folder / "script.json")}
    try:
        with House(settings, environ=environ) as house:
            console.print(f"Starting broker, web app, Flower and {len(INSTANCES)} workers in {folder} ...")
            forge.sender.url = f"{house.web_url}/webhooks/forgejo"
            house.start()
            _wait_for_workers(store, house)
            _let_it_blow(forge, weather)
            story = Story(forge, store, is_calm=weather == "calm")
            trouble = _tell(story, store, house, forge, console)
            promises = _judge(story, forge, store, trace, weather)
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


def _set_the_stage(folder: Path, forge: StandInForge, weather: str) -> Settings:
    """Make accounts and repositories on the forge, and a configuration that knows them."""
    forge.create_user(PERSON)
    # Without a webhook asking is the only way, so it is done more often.
    poll_s = 2 if weather == "silent" else 5
    text = CONFIG.format(forge_url=forge.url, repos=json.dumps(REPOS), poll_s=poll_s)
    for name in sorted(set(INSTANCES.values())):
        token = folder / f"{name}-token"
        token.touch(mode=0o600)
        token.write_text(forge.create_user(name), encoding="ascii")
        text += TYPE.format(name=name, python=sys.executable)
    for repo in REPOS:
        forge.create_repo(repo)
        forge.ci[repo] = _checked
    forge.ci.delay_s = CHECKS_S
    forge.ci.external.add(OUTSIDE_CI)
    (folder / "webhook-secret").touch(mode=0o600)
    (folder / "webhook-secret").write_bytes(forge.sender.secret)
    (folder / "script.json").write_text(json.dumps({issue: list(bad) for issue, bad in SCRIPT.items()}), "utf-8")
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


def _checked(_repo: str, _pull: int | None, _sha: str, files: Mapping[str, str]) -> CiResult:
    passes, log = check(files)
    return CiResult(state="success" if passes else "failure", log=log)


def _let_it_blow(forge: StandInForge, weather: str) -> None:
    """Have the forge do what the weather says, from now on."""
    match weather:
        case "silent":
            forge.faults.lose_all()
        case "stormy":
            forge.faults.duplicate(chance=0.4)
            forge.faults.reorder(chance=0.4)
            # Every fifth call: half of them before anything is done, half after it, with the answer lost.
            forge.faults.refuse(chance=0.5 / ONE_IN)
            forge.faults.lose_answers(chance=0.5 / ONE_IN)


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


def _tell(story: Story, store: Store, house: House, forge: StandInForge, console: Console) -> str | None:
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
            # The forge's own time: checks come to their end, deliveries that were put off go out.
            forge.tick()
            thread.join(0.1)
    return troubles[0] if troubles else None


def _judge(story: Story, forge: StandInForge, store: Store, trace: Path, weather: str) -> list[Promise]:
    lines = trace.read_text(encoding="ascii").splitlines() if trace.exists() else []
    counts = forge.faults.counts
    return verdict.judge(
        forges=evidence.of_forge(forge),
        records=evidence.of_store(store),
        runs=verdict.read_trace(lines),
        weather=Weather(
            lost=story.lost,
            repeats=story.repeats + counts["duplicated"],
            strangers=story.strangers,
            failures=counts["api-before"] + counts["api-after"],
            is_silent=weather == "silent",
            is_stormy=weather == "stormy",
        ),
        script=SCRIPT,
    )


def _report(console: Console, store: Store, promises: list[Promise], trouble: str | None) -> None:
    with store.reading() as tx:
        console.print(screen.summary(tx.list_tasks(limit=1000, newest_first=False)))
    console.print(screen.trail(store, repo_of(SHOWN), number_of(SHOWN)))
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
    for repo in REPOS:
        console.print(f"Forge    {forge.clone_url(repo)}")
    console.print(f"CLI      FORGEPOOL_CONFIG={settings.path} forgepool tasks list", soft_wrap=True)
    console.print("Ctrl-C stops everything.")
    house.run()
