"""The profile for a real forge works from nothing and leaves nothing: shown on a stand-in behind a real socket."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forge import checks_hooks, checks_merges, checks_reviews
from tests.forge.check import Function
from tests.forge.driver import Town
from tests.forge.street import Place, street
from webapp.standin.forge import StandInForge


@pytest.fixture
def served(tmp_path: Path) -> Iterator[StandInForge]:
    """Give a forge with a server that delivers after it has answered, as a real one does."""
    with StandInForge(tmp_path / "forge", secret=b"", checking_reads=2) as forge:
        forge.create_user("root", is_admin=True)
        yield forge


@pytest.mark.parametrize(
    "function",
    [
        checks_hooks.deliveries_are_signed_with_the_secret_of_their_hook,
        checks_merges.a_merge_closes_what_its_text_names_in_the_name_of_its_author,
        checks_reviews.who_asks_himself_for_a_review_causes_no_event,
    ],
)
def test_checks_pass_over_a_socket_and_clean_up(served: StandInForge, function: Function) -> None:
    town = Town.of_real(served.url, served.users["root"].token, "127.0.0.1")
    try:
        with town.world() as world:
            assert world.is_real
            function(world)
    finally:
        town.close()

    assert set(served.users) == {"root"}
    assert served.repos == {}


def test_a_wrong_token_is_told_at_once(served: StandInForge) -> None:
    with pytest.raises(AssertionError, match="the token of the real forge is not accepted"):
        Town.of_real(served.url, "wrong", "127.0.0.1")


def test_a_set_up_that_fails_midway_leaves_nothing_on_the_forge(
    served: StandInForge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(url=served.url, token=served.users["root"].token, host="nobody@nowhere", poll_s=1)

    with pytest.raises(AssertionError, match="hook-url"), street(place, tmp_path / "pool", monkeypatch):
        pytest.fail("such an address is refused")
    assert set(served.users) == {"root"}
    assert served.repos == {}
