"""`forgepool deliveries`."""

from typing import Any

import pytest

from pool.states import Verdict
from tests.helpers.config import Deployment
from tests.helpers.deliveries import load


def add(cli: Deployment, **values: Any) -> int:
    """Store a receipt."""
    usual = {"source": "forgejo", "signed": True, "verdict": Verdict.IGNORED, "status": 200, "reason": "no rule"}
    with cli.store.writing() as tx:
        return tx.add_delivery(**{**usual, **values})


@pytest.fixture
def assigned(cli: Deployment) -> int:
    """Return the receipt of a delivery that assigns an issue to dev, refused then for want of an instance."""
    sample = load("issue-assigned.json")
    headers = {"event": "issues", "event-type": "issue_assign"}
    return add(cli, body=sample.body.replace(b"acme/widgets", b"acme/shop"), headers=headers, verdict=Verdict.ERROR)


def test_every_filter_narrows_the_list(cli: Deployment) -> None:
    add(cli, repo="acme/shop", number=7)
    add(cli, repo="acme/shop", verdict=Verdict.REFUSED)

    def ids(*options: str) -> list[int]:
        return [one["id"] for one in cli.json("deliveries", "list", *options)]

    assert ids() == [2, 1]
    assert ids("--verdict", "refused") == [2]
    assert ids("--repo", "acme/shop", "--number", "7") == [1]
    assert ids("--limit", "1") == [2]


def test_the_body_is_shown_on_request(cli: Deployment) -> None:
    add(cli, body=b'{"title": "\\u001b[31m \xc3\xa4"}')

    assert "title" not in cli.run("deliveries", "show", "1").stdout
    assert '"title": "\\u001b[31m ä"' in cli.run("deliveries", "show", "1", "--body").stdout
    assert cli.json("deliveries", "show", "1", "--body")["body"] == '{"title": "\\u001b[31m \u00e4"}'


def test_a_body_that_was_not_kept_is_told(cli: Deployment) -> None:
    add(cli, signed=False, verdict=Verdict.REFUSED)

    assert "It was refused unread, so it was not kept." in cli.run("deliveries", "show", "1", "--body").stdout


def test_a_body_that_is_no_json_is_shown_safely(cli: Deployment) -> None:
    add(cli, body=b"\x1b]0;x\x07\xff")

    assert "\\x1b]0;x\\x07\\xff" in cli.run("deliveries", "show", "1", "--body").stdout


def test_what_a_stranger_wrote_cannot_steer_the_terminal(cli: Deployment) -> None:
    add(cli, sender="\x1b[2Jx", reason="\u202eevil")

    shown = cli.run("deliveries", "list").stdout + cli.run("deliveries", "show", "1").stdout

    assert not {"\x1b", "\u202e"} & set(shown)


def test_a_delivery_can_be_taken_again(cli: Deployment, assigned: int) -> None:
    with cli.store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")

    answer = cli.json("deliveries", "replay", str(assigned))

    assert answer["verdict"] == "accepted"
    assert cli.bell.rung == [("dev-alpha", answer["tasks"][0])]
    caused = cli.json("deliveries", "show", str(answer["receipt"]))["tasks"]
    assert [task["instance"] for task in caused] == ["dev-alpha"]


def test_a_replay_that_fails_again_ends_with_1(cli: Deployment, assigned: int) -> None:
    result = cli.run("deliveries", "replay", str(assigned), status=1)

    assert "error" in result.stdout
    assert "no instance of type 'dev' is registered" in result.stdout


def test_a_delivery_without_a_body_cannot_be_replayed(cli: Deployment) -> None:
    add(cli, signed=False, verdict=Verdict.REFUSED)

    assert "there is nothing to replay" in cli.run("deliveries", "replay", "1", status=1).stderr
