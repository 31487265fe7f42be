"""`forgepool reconcile`: a round by hand, a look at what it would do, and what was done so far."""

import pytest

from pool.states import State
from tasks.reconcile import LEADER, REPAIRS
from tests.helpers.config import Deployment
from tests.helpers.factory import make_request
from tests.helpers.yard import snapshot
from webapp.cli import checkup_pool


@pytest.fixture
def broken(cli: Deployment) -> Deployment:
    """Return a deployment with a dead run, a wrong counter."""
    with cli.store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")
        tx.add_instance("dev-bravo", "dev")
        tx.submit("dev", make_request(), by="test")
        tx.claim("dev-alpha", lease_s=0.000001, host=cli.settings.service.host)
        tx.connection.exec_driver_sql("UPDATE instances SET queued = 3 WHERE name = 'dev-bravo'")
    return cli


def _states(cli: Deployment) -> list[State]:
    with cli.store.reading() as tx:
        return [task.state for task in tx.list_tasks(newest_first=False)]


def test_a_dry_run_names_what_each_repair_would_do_and_writes_nothing(broken: Deployment) -> None:
    before = snapshot(broken.settings.state_dir, broken.store)

    answer = broken.json("reconcile", "--dry-run")
    shown = broken.run("reconcile", "--dry-run").stdout

    assert snapshot(broken.settings.state_dir, broken.store) == before
    assert broken.bell.rung == []
    assert answer["dry_run"] is True
    assert [one["name"] for one in answer["repairs"]] == [repair.name for repair in REPAIRS]
    assert {one["name"]: one["found"] for one in answer["repairs"] if one["found"]} == {
        "interrupt-dead-runs": [f"task 1 on {broken.settings.service.host}, run 1"],
        "recount-load": ["dev-bravo: 3 queued and 0 running, in truth 0 queued and 0 running"],
    }
    assert all(one["repaired"] == 0 for one in answer["repairs"])
    assert "interrupt-dead-runs: 1 to repair; a worker died while its agent ran" in shown
    assert f"task 1 on {broken.settings.service.host}, run 1" in shown


def test_a_round_by_hand_makes_every_repair_and_a_second_one_finds_nothing(broken: Deployment) -> None:
    answer = broken.json("reconcile")
    again = broken.run("reconcile").stdout

    assert {one["name"]: one["repaired"] for one in answer["repairs"] if one["repaired"]} == {
        "interrupt-dead-runs": 1,
        "recount-load": 1,
    }
    assert _states(broken) == [State.INTERRUPTED, State.QUEUED]
    assert broken.bell.rung == [("dev-alpha", 2)]
    assert again == "There is nothing to repair.\n"


def test_a_round_by_hand_may_be_of_some_repairs_only(broken: Deployment) -> None:
    shown = broken.run("reconcile", "--only", "recount-load").stdout

    assert "recount-load: 1 repaired" in shown
    assert _states(broken) == [State.RUNNING]


def test_a_round_by_hand_works_beside_a_leader_and_leaves_it_the_lead(broken: Deployment) -> None:
    with broken.store.writing() as tx:
        tx.take_lease(LEADER, holder="the fleet", token="t", lease_s=60)

    assert broken.json("reconcile", "--only", "recount-load")["repairs"][0]["repaired"] == 1
    assert broken.json("reconcile", "--list")["leader"]["holder"] == "the fleet"


def test_an_unknown_repair_is_refused_with_those_there_are(cli: Deployment) -> None:
    for arguments in (["--only", "x"], ["--only", "x", "--list"]):
        refused = cli.run("reconcile", *arguments, status=2)

        assert "only" in refused.stderr
        assert "interrupt-dead-runs, " in refused.stderr


def test_a_repair_that_cannot_be_made_is_told_and_is_a_failure(cli: Deployment) -> None:
    with cli.store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")
        tx.submit("dev", make_request(), by="test")
        tx.connection.exec_driver_sql("UPDATE tasks SET published_at = 1")
    cli.bell.break_down()

    answer = cli.json("reconcile", "--only", "ring-again", status=1)
    shown = cli.run("reconcile", status=1).stdout

    assert answer["repairs"][0]["error"] == "the broker is away"
    assert "ring-again: the broker is away" in shown
    assert "nothing to repair" not in shown


def test_the_list_tells_how_often_each_repair_was_needed_and_why_there_is_one(broken: Deployment) -> None:
    broken.run("reconcile")

    answer = broken.json("reconcile", "--list")
    shown = broken.run("reconcile", "--list").stdout

    rows = {row["name"]: row for row in answer["repairs"]}
    assert list(rows) == [repair.name for repair in REPAIRS]
    assert rows["interrupt-dead-runs"]["count"] == rows["interrupt-dead-runs"]["last_count"] == 1
    assert rows["interrupt-dead-runs"]["by"] == "host"
    assert rows["interrupt-dead-runs"]["last_at"].endswith("Z")
    assert (rows["ring-again"]["count"], rows["ring-again"]["last_at"]) == (0, None)
    assert answer["leader"] is None
    assert all(repair.why in shown for repair in REPAIRS)
    assert "Nobody leads: no fleet runs." in shown


def test_the_list_tells_who_leads_and_who_did(cli: Deployment) -> None:
    with cli.store.writing() as tx:
        tx.take_lease(LEADER, holder="box (pid 7)", token="t", lease_s=60)
    leads = cli.run("reconcile", "--list").stdout
    with cli.store.writing() as tx:
        tx.now = tx.after(-600)
        tx.take_lease(LEADER, holder="box (pid 7)", token="t", lease_s=60)
    led = cli.run("reconcile", "--list")

    assert "box (pid 7) leads." in leads
    assert "Nobody leads: the lease of box (pid 7) ended 9m ago." in led.stdout
    assert cli.json("reconcile", "--list")["leader"]["alive"] is False


def test_a_list_repairs_nothing_so_it_has_no_dry_run(cli: Deployment) -> None:
    assert "--list makes no repair" in cli.run("reconcile", "--list", "--dry-run", status=2).stderr


# --- what the doctor says of it ------------------------------------------------------------------


def _doctor(cli: Deployment) -> list[tuple[str, str]]:
    with cli.store.reading() as tx:
        return [(check.status, check.message) for check in checkup_pool.repairs(tx.list_instances(), tx)]


def test_the_doctor_misses_a_leader_only_where_workers_run(cli: Deployment) -> None:
    assert _doctor(cli) == [("ok", "nothing breaks often")]

    with cli.store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")
        tx.take_worker_lease("dev-alpha", holder="me", token="t", lease_s=60)
    assert _doctor(cli) == [("warn", "workers run, but nobody makes repairs")]

    with cli.store.writing() as tx:
        tx.take_lease(LEADER, holder="the fleet", token="t", lease_s=60)
    assert _doctor(cli) == [("ok", "the fleet leads, and nothing breaks often")]


@pytest.mark.parametrize(
    ("name", "count", "ago_s", "is_told"),
    [
        ("ring-again", 10, 60, True),
        ("ring-again", 9, 60, False),
        ("ring-again", 1000, 7200, False),
        ("delete-old-tasks", 1000, 60, False),
    ],
)
def test_the_doctor_tells_of_a_repair_that_is_needed_again_and_again(
    cli: Deployment, name: str, count: int, ago_s: float, *, is_told: bool
) -> None:
    with cli.store.writing() as tx:
        tx.now = tx.after(-ago_s)
        tx.count_repair(name, count)

    told = [("warn", f"{name} was needed {count} times, the last 1m ago: a message was lost")]
    assert _doctor(cli) == (told if is_told else [("ok", "nothing breaks often")])
