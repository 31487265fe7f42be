"""`forgepool doctor`: each thing that can be wrong is found, and told with what to do."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pool.model import Kind, Request
from pool.states import InstanceState, Verdict
from tasks.reconcile import LEADER
from tasks.settings import Settings
from tests.helpers.config import Deployment, type_table, write_config
from webapp.cli import checkup_machine, checkup_pool, main
from webapp.cli.checkup import Check, Status


def report(cli: Deployment, name: str, *, status: int = 0) -> list[tuple[str, str]]:
    """Return status and message of the checks of one name."""
    answer = cli.json("doctor", status=status)
    return [(one["status"], one["message"]) for one in answer["checks"] if one["name"] == name]


def settings_with(cli: Deployment, **service: Any) -> Settings:
    """Load a changed configuration."""
    return Settings.load(write_config(cli.path.parent, **service))


@pytest.fixture
def serving(cli: Deployment) -> Deployment:
    """Return a deployment that looks as if it were running."""
    with cli.store.writing() as tx:
        for kind in ("dev", "reviewer"):
            tx.add_instance(f"{kind}-alpha", kind)
            tx.take_worker_lease(f"{kind}-alpha", holder="me", token=kind, lease_s=60)
        tx.take_lease(LEADER, holder="me", token="t", lease_s=60)
        tx.add_delivery(source="forgejo", signed=True, verdict=Verdict.IGNORED, status=200, reason="no rule")
    return cli


def test_nothing_is_broken_in_a_deployment_that_runs(serving: Deployment) -> None:
    answer = serving.json("doctor")

    assert answer["ok"] is True
    assert [c["name"] for c in answer["checks"] if c["status"] == "warn"] == ["limits", "broker", "forge"]


def test_every_finding_has_a_remedy_and_is_told_to_people(cli: Deployment) -> None:
    answer, shown = cli.json("doctor"), cli.run("doctor").stdout

    for one in answer["checks"]:
        assert set(one) == {"name", "status", "message", "remedy"}
        assert one["remedy"] or one["status"] == "ok"
        assert f"{one['status']:<4}  {one['name']}: " in shown
        assert f"-> {one['remedy']}" in shown or not one["remedy"]


def test_a_configuration_that_is_not_usable_is_a_finding(cli: Deployment) -> None:
    write_config(cli.path.parent, listen="x")

    assert report(cli, "configuration", status=1) == [
        ("fail", "service.listen = 'x': write host:port, as in 127.0.0.1:8420")
    ]


def test_a_missing_configuration_is_a_finding(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--config", str(tmp_path / "none"), "doctor", "--json"])

    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False


# --- the machine ---------------------------------------------------------------------------------


def test_files_that_are_missing_or_open_to_others_are_found(serving: Deployment) -> None:
    write_config(serving.path.parent, types={"dev": type_table("dev", token_file="none")})
    (serving.path.parent / "secret").chmod(0o644)

    found = report(serving, "files", status=1)

    assert [status for status, _ in found] == ["fail", "warn"]
    assert "secret can be read by other users" in found[1][1]


def test_a_state_folder_that_is_not_there_yet_is_no_finding(cli: Deployment) -> None:
    settings = settings_with(cli, state_dir="not/yet")

    first, *_ = checkup_machine.state_folder(settings)

    assert first.status is Status.OK
    assert "not there yet" in first.message


def test_the_file_system_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    mounts = [("/", "ext4"), (str(tmp_path), "nfs4"), (str(tmp_path / "other"), "xfs")]

    assert checkup_machine.file_system(tmp_path / "state", mounts) == "nfs4"
    assert checkup_machine.file_system(Path("/usr"), mounts) == "ext4"
    assert checkup_machine.file_system(Path("/usr"), []) == ""


def test_a_database_that_is_not_in_wal_mode_is_found(cli: Deployment) -> None:
    with cli.store.writing() as tx:
        tx.seed([])
    good = next(checkup_machine.journal(cli.settings))
    cli.store.close()
    path = cli.settings.state_dir / "forgepool.db"
    content = bytearray(path.read_bytes())
    content[checkup_machine.WAL_AT] = 1
    path.write_bytes(content)

    assert good.status is Status.OK
    assert next(checkup_machine.journal(cli.settings)).status is Status.FAIL


def test_a_broker_that_does_not_answer_is_found(cli: Deployment) -> None:
    (found,) = checkup_machine.broker(settings_with(cli, broker_url="redis://:pw@127.0.0.1:1/0"))

    assert found.status is Status.FAIL
    assert found.message.startswith("redis://:***@127.0.0.1:1/0 does not answer: ")


def test_an_embedded_broker_that_does_not_run_is_only_a_warning(cli: Deployment) -> None:
    assert [one.status for one in checkup_machine.broker(cli.settings)] == [Status.WARN]


def test_git_is_found_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = checkup_machine.git()
    monkeypatch.setenv("PATH", "/nowhere")
    (missing,) = checkup_machine.git()

    assert (found.status, missing.status) == (Status.OK, Status.FAIL)
    assert found.message.startswith("git version ")


def test_an_agent_that_is_not_installed_is_only_a_warning(cli: Deployment) -> None:
    settings = settings_with(cli, types={"dev": type_table("dev", command=["no-such-agent"])})

    assert [one.status for one in checkup_machine.agents(settings)] == [Status.WARN]


class _Forge(BaseHTTPRequestHandler):
    """Answers one path, with a clock that is an hour late."""

    answer = b'{"version": "13.0.1"}'

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200 if self.path == "/api/v1/version" else 404)
        self.end_headers()
        self.wfile.write(self.answer)

    def date_time_string(self, timestamp: float | None = None) -> str:  # noqa: ARG002 - signature of http.server
        """Return the time of a clock that stands still."""
        return "Mon, 05 Jan 2026 09:00:00 GMT"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - signature of http.server
        """Say nothing."""


@pytest.fixture
def forge_url() -> Iterator[str]:
    """Return the address of a server that says that it is a forge."""
    server = HTTPServer(("127.0.0.1", 0), _Forge)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_forge_that_answers_is_found_with_its_version_and_its_clock(cli: Deployment, forge_url: str) -> None:
    found, clock = checkup_machine.forge(settings_with(cli, forge_url=forge_url + "/"))

    assert (found.status, found.message) == (Status.OK, f"{forge_url}/ is version 13.0.1")
    assert clock.status is Status.WARN


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'"x"', b"{}"])
def test_a_server_that_is_no_forge_is_only_a_warning(
    cli: Deployment, forge_url: str, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(_Forge, "answer", answer)

    assert [one.status for one in checkup_machine.forge(settings_with(cli, forge_url=forge_url))] == [Status.WARN]


def test_a_clock_is_compared_only_with_one_that_can_be_read() -> None:
    now = datetime(2026, 1, 5, 9, 0, 30, tzinfo=UTC)

    assert checkup_machine.clock_skew_s("Mon, 05 Jan 2026 09:00:00 GMT", now) == 30
    assert checkup_machine.clock_skew_s("soon", now) is None
    assert checkup_machine.clock_skew_s(None, now) is None


# --- the pool ------------------------------------------------------------------------------------


def test_a_missing_database_is_a_finding(cli: Deployment) -> None:
    cli.store.close()
    for left in cli.settings.state_dir.glob("forgepool.db*"):
        left.unlink()

    assert report(cli, "database", status=1)[0][0] == "fail"


def test_a_type_without_instances_is_found(serving: Deployment) -> None:
    with serving.store.writing() as tx:
        tx.set_instance_state("reviewer-alpha", InstanceState.DRAINING)

    assert report(serving, "instances") == [
        ("warn", "no instance of type reviewer takes tasks: every task for it fails")
    ]


def test_an_instance_without_a_type_is_found(serving: Deployment) -> None:
    with serving.store.writing() as tx:
        tx.add_instance("old-one", "old")

    assert ("fail", "old-one is of type old, which is not configured") in report(serving, "instances", status=1)


def test_one_dead_worker_among_live_ones_is_broken(serving: Deployment) -> None:
    with serving.store.writing() as tx:
        tx.take_worker_lease("dev-alpha", holder="me", token="dev", lease_s=-90)

    assert report(serving, "workers", status=1) == [("fail", "dev-alpha has none since 2m")]


def test_no_worker_at_all_is_only_a_warning(cli: Deployment) -> None:
    with cli.store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")

    assert report(cli, "workers") == [("warn", "none is running")]


def queues(cli: Deployment, monkeypatch: pytest.MonkeyPatch, stuck_s: float) -> list[Check]:
    """Look at the queues. stuck_s: how long a task may wait."""
    monkeypatch.setattr(checkup_pool, "STUCK_S", stuck_s)
    with cli.store.reading() as tx:
        return list(checkup_pool.queues(cli.settings, tx.list_instances(), tx))


def test_a_task_that_waits_for_nothing_is_found(serving: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving.store.writing() as tx:
        tx.submit("dev", Request(kind=Kind.CUSTOM, repo="acme/shop", number=1), by="test")

    (early,) = queues(serving, monkeypatch, 60)
    (late,) = queues(serving, monkeypatch, -1)
    with serving.store.writing() as tx:
        tx.claim("dev-alpha", lease_s=60)
        tx.submit("dev", Request(kind=Kind.CUSTOM, repo="acme/shop", number=2), by="test")
    (busy,) = queues(serving, monkeypatch, -1)

    assert [one.status for one in (early, late, busy)] == [Status.OK, Status.FAIL, Status.OK]
    assert "1 waiting on dev-alpha, task 1" in late.message


def test_a_paused_queue_is_only_a_warning(serving: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving.store.writing() as tx:
        tx.submit("dev", Request(kind=Kind.CUSTOM, repo="acme/shop", number=1), by="test")
        tx.set_instance_state("dev-alpha", InstanceState.PAUSED)

    (found,) = queues(serving, monkeypatch, -1)

    assert (found.status, found.remedy) == (Status.WARN, "`forgepool instances resume dev-alpha`")


def test_a_forge_that_never_called_is_told_about_its_list_of_hosts(cli: Deployment) -> None:
    (found,) = checkup_pool.deliveries([])

    assert found.status is Status.WARN
    assert "ALLOWED_HOST_LIST" in found.remedy


def test_a_wrong_secret_is_found_until_a_good_delivery_comes(serving: Deployment) -> None:
    with serving.store.writing() as tx:
        for _ in range(2):
            tx.add_delivery(
                source="forgejo", signed=False, verdict=Verdict.REFUSED, status=403, reason="it does not fit"
            )
    bad = report(serving, "deliveries", status=1)
    with serving.store.writing() as tx:
        tx.add_delivery(source="forgejo", signed=True, verdict=Verdict.ACCEPTED, status=202, reason="fine")

    assert bad == [("fail", "the newest 2 came without a good signature: it does not fit")]
    assert report(serving, "deliveries")[0][0] == "ok"
