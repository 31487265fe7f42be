"""Flower shows the workers and the tasks: through its API and in a real browser."""

import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.helpers.up import Up
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.engine

#: Headless, as root, without asking anybody outside for anything.
CHROMIUM = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=10000",
)


@pytest.fixture
def flower(up: Up, tmp_path: Path) -> tuple[str, int]:
    """Run one task on a whole engine; return Flower's address with its login, and the task."""
    (tmp_path / "release").touch()
    [task] = up.post("issue-assigned.json").json()["tasks"]
    up.house.wait_for(task, timeout_s=60)
    password = (up.house.settings.state_dir / "secrets" / "flower-password").read_text(encoding="ascii").strip()
    return up.url("Flower").replace("http://", f"http://forgepool:{password}@"), task


def _names(url: str) -> set[str]:
    answer = httpx.get(url, timeout=10)
    return set(answer.json()) if answer.status_code == httpx.codes.OK else set()


def test_its_api_knows_the_workers_and_the_task_by_our_id(flower: tuple[str, int]) -> None:
    url, task = flower

    wait_until(lambda: any(name.startswith("dev-default@") for name in _names(f"{url}/api/workers?refresh=1")), 30)
    wait_until(lambda: str(task) in _names(f"{url}/api/tasks"), 30)
    told = httpx.get(f"{url}/api/task/info/{task}", timeout=10).json()

    assert (told["name"], told["state"]) == ("forgepool.run", "SUCCESS")


def test_it_lets_nobody_in_without_the_password(flower: tuple[str, int]) -> None:
    url, _ = flower
    stranger = "http://" + url.partition("@")[2]

    answers = {path: httpx.get(stranger + path, timeout=10).status_code for path in ("/", "/workers", "/api/workers")}

    assert answers == dict.fromkeys(answers, httpx.codes.UNAUTHORIZED)


@pytest.mark.browser
def test_a_browser_shows_the_workers_online_and_the_task(flower: tuple[str, int], tmp_path: Path) -> None:
    if shutil.which("chromium") is None:
        assert "CI" not in os.environ, "CI installs chromium"
        pytest.skip("there is no chromium")
    url, task = flower

    def page(path: str) -> str:
        argv = [*CHROMIUM, f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"{url}{path}"]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout

    wait_until(lambda: "dev-default@" in page("/workers"), 60)
    wait_until(lambda: f"/task/{task}" in page("/tasks"), 60)

    assert "Online" in page("/workers")
