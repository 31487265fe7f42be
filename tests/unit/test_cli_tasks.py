"""`forgepool tasks`, `explain` and `dispatch`."""

import threading
from pathlib import Path

import pytest

from pool.lanes import MergeStep
from pool.model import Evidence, Kind, Request
from pool.states import Move, State, Verdict
from pool.store import Claim
from tests.helpers.config import Deployment


@pytest.fixture(autouse=True)
def _instances(cli: Deployment) -> None:
    with cli.store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")
        tx.add_instance("dev-bravo", "dev", match_labels=["ui"])


def dispatch(cli: Deployment, *options: str, number: int = 7) -> int:
    """Queue a task for dev by hand; return its id."""
    task = cli.json("dispatch", "dev", "--repo", "acme/shop", "--number", str(number), *options)
    return int(task["id"])


def claim(cli: Deployment, instance: str) -> Claim:
    """Start the next task of an instance."""
    with cli.store.writing() as tx:
        claimed = tx.claim(instance, lease_s=60)
    assert isinstance(claimed, Claim)
    return claimed


def end(cli: Deployment, claimed: Claim, move: Move = Move.SUCCEED, why: str = "pushed a commit") -> None:
    """End a run."""
    evidence = Evidence(exit_code=0, duration_s=75, summary="All done.", cost_usd=0.25, notes=("log cut",))
    with cli.store.writing() as tx:
        tx.finish(claimed.task.id, move, fence=claimed.fence, evidence=evidence, why=why)


def write_log(cli: Deployment, task: int, content: bytes) -> Path:
    """Write what an agent printed."""
    path = cli.settings.state_dir / "logs" / "tasks" / f"{task}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# --- dispatch ------------------------------------------------------------------------------------


def test_a_task_is_queued_and_it_is_told_where_and_why(cli: Deployment) -> None:
    result = cli.run("dispatch", "dev", "--repo", "acme/shop", "--number", "7", "--label", "ui")

    assert result.stdout == "Task 1 is queued on dev-bravo: the only candidate, shares ui.\n"
    assert cli.bell.rung == [("dev-bravo", 1)]


def test_the_words_of_a_custom_task_are_its_detail(cli: Deployment, tmp_path: Path) -> None:
    (tmp_path / "task.md").write_text("Remove dead code.")
    task = dispatch(cli, "--title", "Tidy", "--body-file", str(tmp_path / "task.md"), "--base", "next")

    request = cli.json("tasks", "show", str(task))["request"]

    assert (request["kind"], request["title"], request["detail"]) == ("custom", "Tidy", "Remove dead code.")
    assert (request["base"], request["url"]) == ("next", "http://127.0.0.1:1/acme/shop/issues/7")


def test_the_words_of_another_task_are_the_text_of_the_issue(cli: Deployment) -> None:
    task = dispatch(cli, "--kind", "implement", "--body", "It crashes.")

    assert cli.json("tasks", "show", str(task))["request"]["body"] == "It crashes."


def test_a_task_survives_a_broker_that_is_away(cli: Deployment) -> None:
    cli.bell.break_down()

    result = cli.run("dispatch", "dev", "--repo", "acme/shop", "--number", "7")

    assert "Warning: the broker does not answer; the task is stored" in result.stderr
    assert cli.json("tasks", "list")[0]["published_at"] is None


def test_a_task_that_nobody_can_take_is_refused_and_stays_visible(cli: Deployment) -> None:
    result = cli.run("dispatch", "reviewer", "--repo", "acme/shop", "--number", "7", status=1)

    assert "no instance of type 'reviewer' is registered" in result.stderr
    assert [(t["state"], t["instance"]) for t in cli.json("tasks", "list")] == [("failed", None)]


@pytest.mark.parametrize(("move", "status"), [(Move.SUCCEED, 0), (Move.FAIL, 1)])
def test_waiting_ends_with_the_task(cli: Deployment, move: Move, status: int) -> None:
    # The doorbell is answered at once by a worker that is very fast.
    cli.bell.on_ring = lambda: end(cli, claim(cli, "dev-alpha"), move)

    result = cli.run("dispatch", "dev", "--repo", "acme/shop", "--number", "7", "--wait", status=status)

    assert f"Task 1 is {'succeeded' if status == 0 else 'failed'}" in result.stdout


def test_waiting_goes_on_over_an_interrupted_run(cli: Deployment) -> None:
    def lose_one_run_then_end() -> None:
        end(cli, claim(cli, "dev-alpha"), Move.INTERRUPT, "its worker went away")
        with cli.store.writing() as tx:
            tx.retry_interrupted(1, cap=3, by="test")
        end(cli, claim(cli, "dev-alpha"))

    cli.bell.on_ring = lose_one_run_then_end

    result = cli.run("dispatch", "dev", "--repo", "acme/shop", "--number", "7", "--wait")

    assert "Task 2 is succeeded: pushed a commit." in result.stdout


# --- list, show ----------------------------------------------------------------------------------


def test_every_filter_narrows_the_list(cli: Deployment) -> None:
    dispatch(cli, number=1)
    dispatch(cli, "--label", "ui", number=2)
    end(cli, claim(cli, "dev-alpha"))

    def ids(*options: str) -> list[int]:
        return [task["id"] for task in cli.json("tasks", "list", *options)]

    assert ids() == [2, 1]
    assert ids("--state", "queued") == [2]
    assert ids("--state", "queued", "--state", "succeeded") == [2, 1]
    assert ids("--instance", "dev-alpha") == [1]
    assert ids("--type", "reviewer") == []
    assert ids("--repo", "acme/shop", "--number", "2") == [2]
    assert ids("--limit", "1") == [2]


def test_everything_of_a_task_is_shown(cli: Deployment) -> None:
    task = dispatch(cli, "--title", "Tidy up", "--body", "Remove dead code.")
    end(cli, claim(cli, "dev-alpha"))
    write_log(cli, task, b"x")

    shown = cli.run("tasks", "show", f"#{task}").stdout

    for words in (
        "succeeded",
        "pushed a commit",
        "Tidy up",
        "Remove dead code.",
        "idle, next after the start",
        "All done.",
        "0.25",
        "log cut",
        "1m",
        "claim by dev-alpha",
        f"{task}.log",
    ):
        assert words in shown


# --- cancel --------------------------------------------------------------------------------------


def test_a_queued_task_is_cancelled_without_a_broker(cli: Deployment) -> None:
    task = dispatch(cli)
    cli.bell.break_down()

    result = cli.run("tasks", "cancel", str(task), "--why", "wrong issue")

    assert result.stdout == "Task 1 is cancelled.\n"
    assert cli.json("tasks", "show", str(task))["reason"] == "wrong issue"


def test_a_running_task_is_asked_to_stop(cli: Deployment) -> None:
    task = dispatch(cli)
    claim(cli, "dev-alpha")

    answer = cli.json("tasks", "cancel", str(task))

    assert answer == {"id": 1, "state": "running", "is_asked_to_stop": True}
    assert cli.json("tasks", "show", str(task))["cancel_requested_at"] is not None
    assert "Its agent has been asked to stop." in cli.run("explain", str(task)).stdout


def test_a_task_that_has_ended_cannot_be_cancelled(cli: Deployment) -> None:
    task = dispatch(cli)
    end(cli, claim(cli, "dev-alpha"))

    assert "task 1 cannot cancel: it is succeeded" in cli.run("tasks", "cancel", str(task), status=1).stderr


# --- explain -------------------------------------------------------------------------------------


def test_the_whole_chain_is_explained(cli: Deployment) -> None:
    with cli.store.writing() as tx:
        delivery = tx.add_delivery(
            source="forgejo",
            event_type="issue_assign",
            action="assigned",
            sender="alice",
            signed=True,
            verdict=Verdict.ACCEPTED,
            status=202,
            rule="issue-assigned",
            reason="alice assigned it to dev",
        )
        request = Request(kind=Kind.IMPLEMENT, repo="acme/shop", number=7, labels=("ui",))
        tx.submit("dev", request, by="webhook", rule="issue-assigned", delivery=delivery)

    shown, told = cli.run("explain", "1").stdout, cli.json("explain", "1")

    assert "Delivery 1 (issue_assign assigned by alice) met the rule issue-assigned: alice assigned it to dev." in shown
    assert "dev-bravo was chosen: it is the only one that fits." in shown
    assert "It waits on dev-bravo, where nothing runs: no worker is running at all." in shown
    assert "What helps\n  `forgepool up`, or `forgepool fleet`" in shown
    assert told["cause"]["sender"] == "alice"
    assert told["decision"]["chosen"] == "dev-bravo"
    assert told["sentences"][0] == "Type dev had 2 candidates:"


def test_a_task_by_hand_names_the_hand(cli: Deployment) -> None:
    task = dispatch(cli)

    assert "(command line)." in cli.run("tasks", "explain", str(task)).stdout


def test_a_task_that_the_workflow_began_tells_its_rule_and_its_reason(cli: Deployment) -> None:
    """It once read as if it had been dispatched by somebody called look."""
    with cli.store.writing() as tx:
        tx.note_work("acme/shop", 8, issue=7)
        tx.tell("acme/shop", 7, source="look", what="fix-ci", why="the checks of abc are red")
        request = Request(kind=Kind.FIX_CI, repo="acme/shop", number=8)
        tx.submit("dev", request, by="look", rule="fix-ci")
        tx.submit("dev", request, by="look", rule="in place of 1")
        tx.tell("acme/shop", 7, source="look", what="wait", why="task 1 runs")

    reason = "A look at the forge met the rule fix-ci: the checks of abc are red."
    assert reason in cli.run("explain", "1").stdout
    assert cli.json("explain", "1")["origin"] == reason
    assert "rule fix-ci" in cli.run("tasks", "show", "1").stdout
    assert "It was queued in place of task 1" in cli.run("explain", "2").stdout
    assert "in place of task 1" in cli.run("tasks", "show", "2").stdout


def test_a_link_of_a_merge_tells_what_it_does_and_what_led_to_it(cli: Deployment) -> None:
    with cli.store.writing() as tx:
        delivery = tx.add_delivery(
            source="forgejo",
            event_type="pull_request_approved",
            sender="alice",
            signed=True,
            verdict=Verdict.ACCEPTED,
            status=202,
            rule="approved",
            reason="alice approved it",
        )
        for link, step in ((1, MergeStep.CHECK), (2, MergeStep.MERGE)):
            request = Request(kind=Kind.MERGE, repo="acme/shop", number=8, merge=3, link=link, step=step)
            tx.submit("dev", request, by="merge", rule=f"merge-{step}", delivery=delivery if link == 1 else None)

    first, second = cli.run("explain", "1").stdout, cli.run("explain", "2").stdout

    assert "It is link 1 of merge 3, the one that sees whether it may be merged." in first
    assert "Delivery 1 (pull_request_approved by alice) met the rule approved: alice approved it." in first
    assert "It is link 2 of merge 3, the one that merges it." in second


def test_a_retry_names_what_it_repeats(cli: Deployment) -> None:
    dispatch(cli)
    end(cli, claim(cli, "dev-alpha"), Move.INTERRUPT, "its worker went away")
    with cli.store.writing() as tx:
        tx.retry_interrupted(1, cap=3, by="reconcile")

    assert "It repeats task 1, whose run was lost." in cli.run("explain", "2").stdout
    assert "Its worker went away." in cli.run("explain", "1").stdout


def test_a_refusal_is_explained(cli: Deployment) -> None:
    cli.run("dispatch", "reviewer", "--repo", "acme/shop", "--number", "7", status=1)

    assert "Why failed\n  No instance of type 'reviewer' is registered" in cli.run("explain", "1").stdout


# --- log -----------------------------------------------------------------------------------------


def test_a_log_cannot_steer_a_terminal(cli: Deployment) -> None:
    task = dispatch(cli)
    write_log(cli, task, "a\tb\r\n\x1b]0;title\x07\x1b[31mä\rover\n".encode() + b"\xff\n")

    assert cli.run("tasks", "log", str(task)).stdout == "a\tb\n\\x1b]0;title\\x07\\x1b[31mä\\rover\n\\xff\n"


def test_a_log_can_be_had_as_it_is(cli: Deployment) -> None:
    task = dispatch(cli)
    write_log(cli, task, b"\x1b[31m\xff\r\n")

    assert cli.run("tasks", "log", str(task), "--raw").stdout_bytes == b"\x1b[31m\xff\r\n"


def test_the_end_of_a_log_can_be_had(cli: Deployment) -> None:
    task = dispatch(cli)
    write_log(cli, task, b"1\n2\n3\n4")

    assert cli.run("tasks", "log", str(task), "--tail", "2").stdout == "3\n4"
    assert cli.run("tasks", "log", str(task), "--tail", "0").stdout == ""
    assert cli.run("tasks", "log", str(task), "--tail", "99").stdout == "1\n2\n3\n4"


def test_a_log_that_is_not_there_is_told_with_the_state(cli: Deployment) -> None:
    task = dispatch(cli)

    assert "task 1 has no log: it is queued" in cli.run("tasks", "log", str(task), status=1).stderr


def test_a_log_is_followed_to_the_end_of_its_task(cli: Deployment) -> None:
    task = dispatch(cli)
    claimed = claim(cli, "dev-alpha")
    path = write_log(cli, task, b"first\n")

    def go_on() -> None:
        with path.open("ab") as file:
            file.write("zweite Z\u00e4hlung\n".encode())
        end(cli, claimed)

    later = threading.Timer(0.3, go_on)
    later.start()
    shown = cli.run("tasks", "log", str(task), "--follow").stdout
    later.join()

    assert shown == "first\nzweite Z\u00e4hlung\n"
    assert cli.json("tasks", "show", str(task))["state"] == State.SUCCEEDED
