"""Every sample, and every body that a real server sent, gets the answer that is documented for it."""

from pathlib import Path

import pytest

from pool.model import Kind
from pool.states import State
from pool.store import Store
from tests.door.house import Door, make_settings
from tests.helpers.clock import Clock
from tests.helpers.deliveries import Delivery, load, names, real_deliveries

#: Sample -> type and kind of the task that it queues. No other sample queues any.
QUEUES = {
    "issue-assigned.json": ("dev", "implement"),
    "issue-assigned-two.json": ("dev", "implement"),
    "issue-reassigned.json": ("reviewer", "implement"),
    "issue-opened-assigned.json": ("dev", "implement"),
    "pull-review-requested.json": ("reviewer", "review"),
    "pull-review-requested-fork.json": ("reviewer", "review"),
    "pull-approved.json": ("boss", "merge"),
    "pull-rejected.json": ("dev", "address-review"),
    "gitea-pull-rejected.json": ("dev", "address-review"),
    "action-run-failed.json": ("dev", "fix-ci"),
    "gitea-status-failure.json": ("dev", "fix-ci"),
}

#: File -> rule and status, where every repository is served and the accounts are dev, reviewer and boss.
REAL = {
    "forgejo-issue-comment.json": ("comment-command", 200),
    "forgejo-pr.json": ("pull-changed", 200),
    "forgejo-pr-comment.json": ("comment-command", 200),
    "forgejo-action-run-pr.json": ("ci-not-failed", 200),
    "forgejo-push.json": ("anything-else", 200),
    "issue-assign-event.json": ("issue-assigned", 200),
    "issue-label-event.json": ("issue-changed", 200),
    "pull-request-review-event.json": ("review-comment", 200),
    "hookpullrequestreviewack.json": ("approved", 202),
}


@pytest.mark.parametrize("name", names())
def test_every_sample_gets_the_documented_answer(door: Door, name: str) -> None:
    sample = load(name)
    for earlier in sample.after:
        door.post(earlier)
    before = {task.id for task in door.tasks()}

    reply = door.post(sample)

    assert (reply.status, reply.verdict, reply.rule) == (sample.status, sample.verdict, sample.rule)
    queued = [task for task in door.tasks() if task.id not in before]
    assert [(task.type, task.request.kind) for task in queued] == ([QUEUES[name]] if name in QUEUES else [])
    assert reply.tasks == tuple(task.id for task in queued)
    # What was approved enters its lane, and the first link of its chain is queued.
    rule = "merge-check" if sample.rule == "approved" else sample.rule
    assert all((task.rule, task.delivery, task.state) == (rule, reply.receipt, "queued") for task in queued)
    assert {(task.instance, task.id) for task in queued} <= set(door.bell.rung)
    receipt = door.receipts()[-1]
    assert (receipt.id, receipt.status, receipt.rule) == (reply.receipt, reply.status, reply.rule)
    assert (str(receipt.verdict), receipt.reason) == (reply.verdict, reply.reason)
    assert (receipt.signed, receipt.repo) == (True, "acme/widgets")
    assert receipt.source == ("gitea" if name.startswith("gitea") else "forgejo")
    assert receipt.delivery_id == sample.headers["X-Gitea-Delivery"]
    assert door.kept(receipt.id)[1] == sample.body


@pytest.mark.parametrize("delivery", [pytest.param(d, id=d.name) for d in real_deliveries()])
def test_what_real_servers_sent_gets_its_answer(tmp_path: Path, store: Store, clock: Clock, delivery: Delivery) -> None:
    door = Door(tmp_path, store, clock, make_settings(tmp_path, repos=["*"]))
    door.add_usual()
    rule, status = REAL[delivery.name]

    reply = door.post(delivery)

    assert (reply.rule, reply.status) == (rule, status)
    assert len(reply.tasks) == len(door.tasks()) == (1 if status == 202 else 0)
    receipt = door.receipts()[-1]
    assert (str(receipt.verdict), receipt.reason) == (reply.verdict, reply.reason)


def test_the_samples_in_the_order_of_the_story_leave_only_the_care_of_the_merge(door: Door) -> None:
    """Assigned, reviewed, rejected, repaired, approved, merged by a person: the chain that merges ends by itself."""
    for name in (
        "issue-assigned.json",
        "pull-opened.json",
        "pull-review-requested.json",
        "action-run-failed.json",
        "pull-rejected.json",
        "pull-approved.json",
        "pull-merged.json",
        "issue-closed.json",
    ):
        assert door.post(name).status < 300

    waiting = [task.request.kind for task in door.tasks() if task.state is not State.SUPERSEDED]
    assert waiting == [Kind.MERGE]
    assert len(door.tasks()) == 5
