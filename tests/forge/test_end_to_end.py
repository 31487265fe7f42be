"""From an assigned issue to a merged pull request: `init`, the real engine, scripted agents, on each kind of forge."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.states import Verdict
from pool.work import Order
from tests.forge import conftest
from tests.forge.street import Place, Street, street
from webapp.standin.forge import StandInForge

pytestmark = pytest.mark.engine


@pytest.fixture(params=["standin", "real"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Return each kind of forge."""
    if request.param == "real":
        conftest.need_real()
        yield Place(url=conftest.URL, token=conftest.token(), host=conftest.HOOK_HOST, poll_s=3)
        return
    with StandInForge(tmp_path / "forge", secret=b"of nobody", checking_s=0.2) as forge:
        yield Place(url=forge.url, token=forge.create_user("root", is_admin=True), host="127.0.0.1", poll_s=1)


@pytest.fixture(name="street")
def _street(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Street]:
    """Return a deployment on that forge, set up by `forgepool init`."""
    with street(place, tmp_path / "pool", monkeypatch) as found:
        yield found


def _assert_merged(street: Street, issue: int) -> None:
    """Hold what the forge shows at the end against what was promised."""
    pull = street.pull()
    head = pull["head"]["sha"]
    assert pull["merged"]
    assert ("APPROVED", head) in street.reviews(pull["number"])
    assert street.told[head] == "success"
    assert head in street.merged_into_main()
    assert street.branches() == ["main"]
    for number in (issue, pull["number"]):
        reports = [mark for mark in street.marks(number) if mark.startswith("report:")]
        assert len(reports) == 1


def test_an_assigned_issue_becomes_a_merged_pull_request(street: Street) -> None:
    """By way of a red check and a review that asked for changes."""
    issue = street.issue("red-ci", "changes")

    with street.open() as house:
        street.assign(issue)
        street.until(house, lambda: street.is_done(issue))

    _assert_merged(street, issue)
    assert "failure" in street.told.values()
    states = [state for state, _ in street.reviews(street.pull()["number"])]
    assert states.index("REQUEST_CHANGES") < states.index("APPROVED")
    with street.deployment.store.reading() as tx:
        heard = [one for one in tx.list_deliveries(number=issue) if one.event_type == "issue_assign"]
    # Whoever comes first, the webhook or a look at the forge: it was let in and understood.
    assert [(one.signed, one.verdict in {Verdict.ACCEPTED, Verdict.DUPLICATE}) for one in heard] == [(True, True)]


def test_the_same_comes_true_without_any_webhook(street: Street) -> None:
    assert street.remove_hooks() == 1
    issue = street.issue("red-ci", "changes")

    with street.open() as house:
        street.assign(issue)
        street.until(house, lambda: street.is_done(issue))

    _assert_merged(street, issue)
    with street.deployment.store.reading() as tx:
        assert tx.list_deliveries() == []
        assert tx.repair_counts()["untold"].count > 0


def test_the_owner_steers_by_comments_and_a_stranger_does_not(street: Street) -> None:
    issue = street.issue()

    def orders(login: str) -> list[Order]:
        with street.deployment.store.reading() as tx:
            return [one for one in tx.list_orders(street.repo, issue) if one.by == login and one.done_at]

    with street.open() as house:
        street.say(issue, "/forgepool hold", by=street.owner)
        street.until(house, lambda: orders(street.owner.login))
        street.assign(issue)
        street.say(issue, "/forgepool go", by=street.stranger)
        street.until(house, lambda: orders(street.stranger.login))
        street.say(issue, "/forgepool go", by=street.owner)
        street.until(house, lambda: street.is_done(issue))

    _assert_merged(street, issue)
    (refused,) = orders(street.stranger.login)
    assert "write access" in refused.answer
    hold, go = orders(street.owner.login)
    assert (hold.verb, go.verb) == ("hold", "go")
    with street.deployment.store.reading() as tx:
        assert all(task.created_at >= go.created_at for task in tx.list_tasks(repo=street.repo))
