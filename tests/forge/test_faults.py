"""What goes wrong on request does so as often as asked, the same with the same seed, and is counted."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.forge.listener import Listener
from tests.helpers.clock import Clock
from tests.helpers.waiting import wait_until
from webapp.standin.ci import CiResult
from webapp.standin.forge import StandInForge
from webapp.standin.gaps import GAPS

REPO = "me/app"
API = f"/api/v1/repos/{REPO}"


@pytest.fixture
def forge(tmp_path: Path) -> StandInForge:
    forge = StandInForge(tmp_path / "forge", secret=b"")
    for login in ("me", "dev"):
        forge.create_user(login)
    forge.create_repo(REPO)
    return forge


@pytest.fixture
def client(forge: StandInForge) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"token {forge.users['me'].token}"}
    transport = httpx.WSGITransport(app=forge.app)
    with httpx.Client(transport=transport, base_url=forge.url, headers=headers) as client:
        yield client


def _pull(forge: StandInForge) -> int:
    forge.commit(REPO, "feature", {"new.txt": "1\n"}, sender="dev")
    return forge.open_pull(REPO, "dev", "feature", "Add new")


# --- the REST interface ---


def test_a_refused_call_was_not_carried_out(forge: StandInForge, client: httpx.Client) -> None:
    forge.faults.refuse(count=1, on=lambda method, path: method == "POST" and path.endswith("/issues"))
    refused = client.post(f"{API}/issues", json={"title": "A"})
    read = client.get(f"{API}/issues")

    assert (refused.status_code, read.json()) == (503, [])
    assert client.post(f"{API}/issues", json={"title": "A"}).status_code == 201
    assert forge.faults.counts == {"api-before": 1}


@pytest.mark.parametrize("status", [None, 502])
def test_a_call_whose_answer_is_lost_was_carried_out_and_told(
    forge: StandInForge, client: httpx.Client, status: int | None
) -> None:
    forge.faults.lose_answers(count=1, status=status)
    if status is None:
        with pytest.raises(httpx.HTTPError, match="cut on request"):
            client.post(f"{API}/issues", json={"title": "A"})
    else:
        assert client.post(f"{API}/issues", json={"title": "A"}).status_code == status

    assert [issue["title"] for issue in client.get(f"{API}/issues").json()] == ["A"]
    assert [sent.event_type for sent in forge.deliveries] == ["issues"]
    assert forge.faults.counts == {"api-after": 1}


def test_over_a_socket_a_lost_answer_is_a_cut_connection(forge: StandInForge) -> None:
    forge.faults.lose_answers(count=1)
    with forge, pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        httpx.get(f"{forge.url}/api/v1/version", trust_env=False)


def test_every_fifth_call_fails(forge: StandInForge, client: httpx.Client) -> None:
    forge.faults.refuse(every=5)

    answers = [client.get("/api/v1/version").status_code for _ in range(10)]
    assert answers == [200, 200, 200, 200, 503] * 2


def test_chances_are_the_same_with_the_same_seed(forge: StandInForge, client: httpx.Client) -> None:
    forge.faults.refuse(chance=0.5)

    def ask(seed: int) -> list[int]:
        forge.faults.seed(seed)
        return [client.get("/api/v1/version").status_code for _ in range(20)]

    first = ask(1)
    assert first == ask(1)
    assert first != ask(2)
    assert set(first) == {200, 503}
    forge.faults.clear()
    assert set(ask(1)) == {200}


def test_a_base_that_moves_while_the_forge_merges_refuses_the_merge(forge: StandInForge, client: httpx.Client) -> None:
    number = _pull(forge)
    forge.faults.outrun_merges(count=1)

    answer = client.post(f"{API}/pulls/{number}/merge", json={"Do": "merge"})
    assert (answer.status_code, answer.json()["message"]) == (409, "merge push out of date")
    assert client.post(f"{API}/pulls/{number}/merge", json={"Do": "merge"}).status_code == 200


def test_a_conflict_of_a_rebase_that_a_merge_does_not_have_is_a_bare_struct(
    forge: StandInForge, client: httpx.Client
) -> None:
    base = forge.repos[REPO].git.branches()["main"]
    forge.commit(REPO, "feature", {"a.txt": "1\n"})
    forge.commit(REPO, "feature", {"a.txt": "2\n"})
    number = forge.open_pull(REPO, "dev", "feature", "Add")
    forge.commit(REPO, "main", {"a.txt": "2\n"})

    answer = client.post(f"{API}/pulls/{number}/merge", json={"Do": "rebase"})
    assert answer.status_code == 409
    assert "message" not in answer.json()
    assert answer.json()["Style"] == "rebase"
    assert base != forge.repos[REPO].git.branches()["main"]
    assert client.post(f"{API}/pulls/{number}/merge", json={"Do": "merge"}).status_code == 200


def test_being_checked_ends_with_the_clock(tmp_path: Path) -> None:
    clock = Clock()
    forge = StandInForge(tmp_path / "forge", secret=b"", clock=clock, checking_s=5)
    forge.create_user("dev")
    repo = forge.create_repo(REPO)
    pull = forge.find_pull(repo, _pull(forge))

    assert not forge.is_mergeable(repo, pull)
    clock.advance(5)
    assert forge.is_mergeable(repo, pull)
    forge.commit(REPO, "main", {"other.txt": "1\n"})
    assert not forge.is_mergeable(repo, pull)


# --- deliveries ---


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def test_deliveries_are_lost_doubled_and_put_off_by_rule(forge: StandInForge, listener: Listener) -> None:
    forge.sender.url = f"{listener.url}/all"
    forge.faults.lose(on=lambda event_type, _: event_type == "issue_label", every=1)
    forge.faults.duplicate(every=2)
    forge.faults.reorder(count=1)
    for title in ("one", "two", "three"):
        forge.create_issue(REPO, title)
    forge.set_labels(REPO, 1, "bug")

    titles = [one.body["issue"]["title"] for one in listener.heard]
    assert sorted(titles) == ["one", "three", "two", "two"]
    assert titles[0] != "one"
    assert forge.faults.counts == {"lost": 1, "duplicated": 1, "reordered": 1}


def test_what_was_put_off_goes_out_at_the_latest_when_asked(forge: StandInForge, listener: Listener) -> None:
    forge.sender.url = f"{listener.url}/all"
    forge.faults.reorder(every=1)
    for title in ("one", "two"):
        forge.create_issue(REPO, title)
    before = len(listener.heard)
    forge.sender.flush()

    assert before == 0
    assert [one.body["issue"]["title"] for one in listener.heard] == ["two", "one"]


def test_when_all_is_lost_nothing_is_told(forge: StandInForge, listener: Listener) -> None:
    forge.sender.url = f"{listener.url}/all"
    forge.faults.lose_all()
    forge.create_issue(REPO, "A", assignees=("dev",))

    assert listener.heard == []
    assert forge.faults.counts == {"lost": 2}


# --- checks of commits ---


def _states(client: httpx.Client, sha: str) -> list[tuple[str, str]]:
    told = client.get(f"{API}/commits/{sha}/status").json()["statuses"]
    return [(one["context"], one["status"]) for one in told]


def test_each_new_head_is_checked_and_the_log_can_be_read(forge: StandInForge, client: httpx.Client) -> None:
    forge.ci[REPO] = lambda _repo, _pull, _sha, files: CiResult(
        state="failure" if "bad.txt" in files else "success", log="it went boom\n"
    )
    number = _pull(forge)
    good = client.get(f"{API}/pulls/{number}").json()["head"]["sha"]
    bad = forge.commit(REPO, "feature", {"bad.txt": "1\n"})

    assert _states(client, good) == [("ci / test (pull_request)", "success")]
    assert _states(client, bad) == [("ci / test (pull_request)", "failure")]
    url = client.get(f"{API}/commits/{bad}/status").json()["statuses"][0]["target_url"]
    log = client.get(f"{url}/attempt/1/logs")
    assert (log.text, log.headers["Content-Type"].partition(";")[0]) == ("it went boom\n", "text/plain")
    assert httpx.Client(transport=httpx.WSGITransport(app=forge.app)).get(f"{forge.url}{url}/logs").status_code == 404
    events = [sent.event_type for sent in forge.deliveries]
    assert events.index("pull_request_sync") < events.index("action_run_failure")
    assert "action_run_success" in events


def test_a_push_to_the_base_is_checked_too(forge: StandInForge, client: httpx.Client) -> None:
    seen: list[int | None] = []

    def check(_repo: str, pull: int | None, _sha: str, _files: Mapping[str, str]) -> CiResult:
        seen.append(pull)
        return CiResult(state="success")

    forge.ci[REPO] = check
    sha = forge.commit(REPO, "main", {"new.txt": "1\n"})

    assert seen == [None]
    assert _states(client, sha) == [("ci / test (push)", "success")]
    run = json.loads(forge.deliveries[-1].body)["run"]
    assert (run["prettyref"], run["event"]) == ("main", "push")


def test_checks_from_outside_set_statuses_and_send_nothing(forge: StandInForge, client: httpx.Client) -> None:
    forge.ci.is_external = True
    forge.ci[REPO] = lambda *_: CiResult(state="error")
    number = _pull(forge)
    sha = client.get(f"{API}/pulls/{number}").json()["head"]["sha"]

    assert _states(client, sha) == [("ci/test", "error")]
    assert [sent.event_type for sent in forge.deliveries] == ["pull_request"]


def test_checks_wait_for_the_clock_or_for_the_test(tmp_path: Path) -> None:
    clock = Clock()
    forge = StandInForge(tmp_path / "forge", secret=b"", clock=clock)
    forge.create_user("dev")
    repo = forge.create_repo(REPO)
    forge.ci[REPO] = lambda *_: CiResult(state="success")
    forge.ci.delay_s = 10
    sha = forge.find_pull(repo, _pull(forge)).head_sha

    def states() -> list[str]:
        return [status.state for status in forge.newest_statuses(repo, sha)]

    forge.tick()
    assert states() == ["pending"]
    clock.advance(10)
    forge.tick()
    assert states() == ["success"]
    forge.ci.is_manual = True
    later = forge.commit(REPO, "feature", {"new.txt": "2\n"})
    clock.advance(100)
    forge.tick()
    assert [status.state for status in forge.newest_statuses(repo, later)] == ["pending"]
    assert forge.run_checks() == 1
    assert [status.state for status in forge.newest_statuses(repo, later)] == ["success"]


def test_a_served_forge_runs_its_checks_by_itself(forge: StandInForge) -> None:
    forge.ci[REPO] = lambda *_: CiResult(state="success")
    forge.ci.delay_s = 0.1
    with forge:
        _pull(forge)
        wait_until(lambda: forge.deliveries[-1].event_type == "action_run_success")


def test_its_gaps_are_told() -> None:
    assert all(gap.endswith(".") for gap in GAPS)


def test_a_slow_call_is_answered_late_and_right(forge: StandInForge, client: httpx.Client) -> None:
    forge.faults.slow(0.02, count=1)

    assert client.get("/api/v1/version").elapsed.total_seconds() >= 0.02
    assert forge.faults.counts == {"api-slow": 1}


def test_many_callers_at_once_lose_nothing(forge: StandInForge) -> None:
    number = forge.create_issue(REPO, "A")
    headers = {"Authorization": f"token {forge.users['me'].token}"}
    with forge:
        url = f"{forge.url}{API}/issues/{number}/comments"

        def write(text: int) -> int:
            return httpx.post(url, json={"body": str(text)}, headers=headers, trust_env=False).status_code

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(write, range(24))) == {201}
        wait_until(lambda: len(forge.deliveries) == 25)

    assert sorted(int(one.body) for one in forge.repos[REPO].issues[number].comments) == list(range(24))
    assert len({one.id for one in forge.repos[REPO].issues[number].comments}) == 24
