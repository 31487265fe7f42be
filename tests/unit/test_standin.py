"""The stand-in forge does what is hard about the real one. Real git, real HTTP; the names of facts are Forgejo's."""

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from tests.helpers.checkouts import REPO
from tests.helpers.deliveries import REAL
from webapp import events
from webapp.standin.bare import MergeConflict
from webapp.standin.forge import Sent, StandInForge, Unprocessable
from webapp.standin.shapes import encode, headers

SECRET = b"a secret of the hook"


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[StandInForge]:
    """Return a forge with three agents and a person, where nobody listens."""
    with StandInForge(tmp_path / "forge", secret=SECRET) as forge:
        for login in ("me", "dev", "reviewer", "boss"):
            forge.create_user(login)
        forge.create_repo(REPO)
        yield forge


@pytest.fixture
def pull(forge: StandInForge) -> int:
    """Return the number of an open pull request; the deliveries so far are forgotten."""
    forge.commit(REPO, "feature", {"new.txt": "1\n"}, sender="dev")
    number = forge.open_pull(REPO, "dev", "feature", "Add new", body="Closes #1")
    forge.deliveries.clear()
    return number


def _said(forge: StandInForge) -> list[tuple[str, str, str]]:
    """Return Event, Event-Type and action of all deliveries."""
    return [(sent.event, sent.event_type, json.loads(sent.body)["action"]) for sent in forge.deliveries]


def _body(sent: Sent) -> dict[str, Any]:
    return dict(json.loads(sent.body))


def _logins(users: list[dict[str, Any]] | None) -> list[str] | None:
    return None if users is None else [user["login"] for user in users]


class _Listener:
    """A receiver of deliveries that answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 202
        self.server = make_server("127.0.0.1", 0, Request.application(self.answer), threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}/webhooks"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def answer(self, request: Request) -> Response:
        self.got.append((dict(request.headers), request.get_data()))
        return Response("noted", status=self.status)

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def listener() -> Iterator[_Listener]:
    listener = _Listener()
    yield listener
    listener.close()


# --- deliveries ----------------------------------------------------------------------------------


def test_a_delivery_is_signed_and_named_as_forgejo_does(forge: StandInForge, listener: _Listener) -> None:
    forge.sender.url = listener.url
    number = forge.create_issue(REPO, "A <b>", "x & y\u2028é", ("bug",))
    forge.assign(REPO, number, "dev")

    got, body = listener.got[-1]
    right = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    for brand in ("Forgejo", "Gitea", "Gogs"):
        assert got[f"X-{brand}-Signature"] == right
    assert got["X-Hub-Signature-256"] == f"sha256={right}"
    assert got["X-Hub-Signature"] == f"sha1={hmac.new(SECRET, body, hashlib.sha1).hexdigest()}"
    for brand in ("Forgejo", "Gitea", "Gogs", "Github"):
        assert got[f"X-{brand}-Event"] == "issues"
        assert got[f"X-{brand}-Event-Type"] == "issue_assign"
        assert got[f"X-{brand}-Delivery"] == forge.deliveries[-1].uuid
    assert got["User-Agent"] == "Go-http-client/1.1"
    assert got["Content-Type"] == "application/json"
    assert b'\n    "title": "A \\u003cb\\u003e",' in body
    assert '"body": "x \\u0026 y\\u2028é"'.encode() in body
    assert (forge.deliveries[-1].status, forge.deliveries[-1].answer) == (202, "noted")


def test_without_a_secret_the_signatures_are_there_and_empty(tmp_path: Path, listener: _Listener) -> None:
    forge = StandInForge(tmp_path / "forge", secret=b"", webhook_url=listener.url)
    forge.create_repo(REPO)
    forge.create_issue(REPO, "A")

    got = listener.got[-1][0]
    assert (got["X-Forgejo-Signature"], got["X-Hub-Signature-256"]) == ("", "sha256=")


def test_go_is_imitated_to_the_byte() -> None:
    value: dict[str, Any] = {"a": [], "b": None, "c": '<>&\u2028\u2029é"\\\n', "d": {"e": [1, True]}}
    text = (
        '{\n  "a": [],\n  "b": null,\n  "c": "\\u003c\\u003e\\u0026\\u2028\\u2029é\\"\\\\\\n",\n'
        '  "d": {\n    "e": [\n      1,\n      true\n    ]\n  }\n}'
    )

    assert encode(value) == text.encode()


def test_nothing_is_sent_twice_by_itself(forge: StandInForge, listener: _Listener) -> None:
    forge.sender.url, listener.status = listener.url, 500
    forge.create_issue(REPO, "A")
    forge.sender.url = "http://127.0.0.1:9/"
    forge.create_issue(REPO, "B")

    assert len(listener.got) == 1
    assert [sent.status for sent in forge.deliveries] == [500, None]
    assert forge.deliveries[1].error.startswith("ConnectError")


def test_a_replay_has_the_same_body_and_another_uuid(forge: StandInForge, listener: _Listener) -> None:
    forge.sender.url = listener.url
    forge.create_issue(REPO, "A")
    again = forge.replay(0)

    assert listener.got[0][1] == listener.got[1][1] == again.body
    assert again.uuid != forge.deliveries[0].uuid
    assert again == forge.deliveries[1]


def test_deliveries_are_lost_doubled_and_disordered_on_request(forge: StandInForge, listener: _Listener) -> None:
    forge.sender.url = listener.url
    forge.sender.drop_next()
    forge.create_issue(REPO, "lost")
    forge.sender.duplicate_next()
    forge.create_issue(REPO, "doubled")
    forge.sender.hold()
    for title in ("one", "two", "three"):
        forge.create_issue(REPO, title)
    before = len(listener.got)
    forge.sender.release(order=[1, 2, 0])

    titles = [json.loads(body)["issue"]["title"] for _, body in listener.got]
    assert titles == ["doubled", "doubled", "two", "three", "one"]
    assert before == 2
    assert forge.deliveries[0].error == "dropped on request"
    assert len({sent.uuid for sent in forge.deliveries}) == 6


@pytest.fixture
def everything(forge: StandInForge) -> dict[str, Sent]:
    """Return the first delivery of each Event-Type that the stand-in sends."""
    forge.create_issue(REPO, "A", "text", ("bug",), assignees=("dev",))
    forge.set_labels(REPO, 1, "bug")
    forge.comment(REPO, 1, "hello", author="me")
    forge.commit(REPO, "feature", {"new.txt": "1\n"}, sender="dev")
    pull = forge.open_pull(REPO, "dev", "feature", "Add new")
    forge.commit(REPO, "feature", {"new.txt": "2\n"}, sender="dev")
    forge.assign(REPO, pull, "dev")
    forge.set_labels(REPO, pull, "bug")
    forge.comment(REPO, pull, "hello", author="me")
    forge.request_review(REPO, pull, "reviewer")
    for verdict in ("comment", "rejected", "approved"):
        forge.review(REPO, pull, "reviewer", verdict, "So be it.")
    for status in ("success", "failure", "success"):
        forge.action_run(REPO, pull, status)
    return {sent.event_type: sent for sent in reversed(forge.deliveries)}


def test_our_own_door_understands_all_of_it(everything: dict[str, Sent]) -> None:
    for event_type, sent in everything.items():
        named = headers(sent.body, secret=SECRET, uuid=sent.uuid, event_type=event_type)
        events.verify(sent.body, headers=named, secret=SECRET)
        event = events.parse(sent.body, headers=named)

        assert (event_type, event.repo) == (event_type, REPO)


@pytest.mark.parametrize(
    ("file", "event_type"),
    [
        ("forgejo-issue-comment", "issue_comment"),
        ("forgejo-pr", "pull_request_sync"),
        ("forgejo-pr-comment", "pull_request_comment"),
        ("forgejo-action-run-pr", "action_run_success"),
    ],
)
def test_it_sends_nothing_that_a_real_server_does_not(everything: dict[str, Sent], file: str, event_type: str) -> None:
    path = REAL / f"{file}.json"
    if not path.exists():
        pytest.skip("recorded deliveries are not at hand")

    assert list(_unlike(_body(everything[event_type]), json.loads(path.read_text()), "")) == []


def _unlike(ours: Any, real: Any, where: str) -> Iterator[str]:
    """Name the members that only we have, and those of another type."""
    match ours, real:
        case dict(), dict():
            yield from (f"{where}.{name}: not in the real one" for name in ours.keys() - real.keys())
            for name in ours.keys() & real.keys():
                yield from _unlike(ours[name], real[name], f"{where}.{name}")
        case [first, *_], [other, *_]:
            yield from _unlike(first, other, f"{where}[]")
        case _ if ours is not None and real is not None and type(ours) is not type(real):
            yield f"{where}: {type(ours).__name__}, not {type(real).__name__}"


# --- issues --------------------------------------------------------------------------------------


def test_nobody_assigned_is_null_and_not_an_empty_list(forge: StandInForge) -> None:
    forge.create_issue(REPO, "A")

    issue = _body(forge.deliveries[0])["issue"]
    assert (issue["assignees"], issue["assignee"], issue["labels"]) == (None, None, [])
    assert '"assignees": null' in forge.deliveries[0].body.decode()


def test_each_assignee_makes_an_event_with_the_full_list_that_names_nobody(forge: StandInForge) -> None:
    number = forge.create_issue(REPO, "A")
    forge.assign(REPO, number, "boss")
    forge.assign(REPO, number, "dev", "reviewer", sender="me")
    forge.assign(REPO, number, "dev")

    assert _said(forge) == [("issues", "issues", "opened"), *[("issues", "issue_assign", "assigned")] * 3]
    for sent in forge.deliveries[2:]:
        assert _logins(_body(sent)["issue"]["assignees"]) == ["boss", "dev", "reviewer"]
        assert _body(sent)["issue"]["assignee"]["login"] == "boss"
        assert "assignee" not in _body(sent)


def test_an_issue_made_with_assignees_is_assigned_before_it_is_opened(forge: StandInForge) -> None:
    forge.create_issue(REPO, "A", assignees=("dev", "boss"))

    assert [action for _, _, action in _said(forge)] == ["assigned", "assigned", "opened"]
    assert all(_logins(_body(sent)["issue"]["assignees"]) == ["dev", "boss"] for sent in forge.deliveries)


def test_who_is_taken_off_is_not_named(forge: StandInForge) -> None:
    number = forge.create_issue(REPO, "A", assignees=("dev",))
    forge.unassign(REPO, number, "dev", "boss")

    assert _said(forge)[2:] == [("issues", "issue_assign", "unassigned")]
    assert _body(forge.deliveries[-1])["issue"]["assignees"] is None


def test_labels_comments_closing_and_reopening_are_told(forge: StandInForge) -> None:
    number = forge.create_issue(REPO, "A")
    forge.set_labels(REPO, number, "bug")
    forge.set_labels(REPO, number)
    forge.comment(REPO, number, "hello", author="dev")
    forge.close_issue(REPO, number)
    forge.reopen_issue(REPO, number)

    assert _said(forge)[1:] == [
        ("issues", "issue_label", "label_updated"),
        ("issues", "issue_label", "label_cleared"),
        ("issue_comment", "issue_comment", "created"),
        ("issues", "issues", "closed"),
        ("issues", "issues", "reopened"),
    ]
    assert "number" not in _body(forge.deliveries[3])
    assert _body(forge.deliveries[4])["issue"]["state"] == "closed"


# --- pull requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "event"),
    [
        ("approved", "pull_request_approved"),
        ("rejected", "pull_request_rejected"),
        ("comment", "pull_request_comment"),
    ],
)
def test_a_review_has_a_long_type_and_neither_id_nor_commit(
    forge: StandInForge, pull: int, verdict: str, event: str
) -> None:
    forge.review(REPO, pull, "reviewer", verdict, "So be it.")

    assert _said(forge) == [(event, f"pull_request_review_{verdict}", "reviewed")]
    body = _body(forge.deliveries[0])
    assert body["review"] == {"type": f"pull_request_review_{verdict}", "content": "So be it."}
    assert body["sender"]["login"] == body["requested_reviewer"]["login"] == "reviewer"


def test_nobody_approves_his_own_pull_request(forge: StandInForge, pull: int) -> None:
    with pytest.raises(Unprocessable):
        forge.review(REPO, pull, "dev", "approved")
    with pytest.raises(Unprocessable):
        forge.request_review(REPO, pull, "dev")

    assert _said(forge) == []


def test_a_plain_comment_and_a_review_are_told_apart_by_the_event_type_only(forge: StandInForge, pull: int) -> None:
    forge.comment(REPO, pull, "hello", author="me")
    forge.review(REPO, pull, "reviewer", "comment", "hello")

    assert _said(forge) == [
        ("issue_comment", "pull_request_comment", "created"),
        ("pull_request_comment", "pull_request_review_comment", "reviewed"),
    ]


def test_who_is_asked_for_a_review_is_named_and_stays_listed_after_it(forge: StandInForge, pull: int) -> None:
    forge.request_review(REPO, pull, "reviewer")
    forge.request_review(REPO, pull, "boss", sender="boss")
    forge.review(REPO, pull, "reviewer", "approved")
    forge.remove_review_request(REPO, pull, "boss")

    assert [said[1:] for said in _said(forge)] == [
        ("pull_request_review_request", "review_requested"),
        ("pull_request_review_approved", "reviewed"),
        ("pull_request_review_request", "review_request_removed"),
    ]
    assert _body(forge.deliveries[0])["requested_reviewer"]["login"] == "reviewer"
    assert _logins(_body(forge.deliveries[2])["pull_request"]["requested_reviewers"]) == ["reviewer"]


def test_a_run_names_its_pull_request_only_inside_and_as_text(forge: StandInForge, pull: int) -> None:
    forge.action_run(REPO, pull, "failure")

    assert _said(forge) == [("action_run_failure", "action_run_failure", "failure")]
    body = _body(forge.deliveries[0])
    run = body["run"]
    assert set(body) == {"action", "run", "prior_status"}
    assert run["repository"]["full_name"] == REPO
    assert run["prettyref"] == f"#{pull}"
    assert json.loads(run["event_payload"])["number"] == pull
    assert run["commit_sha"] == forge.repos[REPO].git.branches()["feature"]


def test_a_success_after_a_failure_is_told_twice_and_a_cancelled_run_is_a_failure(
    forge: StandInForge, pull: int
) -> None:
    for status in ("success", "cancelled", "success"):
        forge.action_run(REPO, pull, status)

    assert [action for _, _, action in _said(forge)] == ["success", "failure", "success", "recover"]
    bodies = [_body(sent) for sent in forge.deliveries]
    assert bodies[1]["run"]["status"] == "cancelled"
    assert bodies[2]["run"]["id"] == bodies[3]["run"]["id"] != bodies[1]["run"]["id"]


def test_merging_makes_a_real_commit_closes_the_issue_and_says_so(forge: StandInForge) -> None:
    issue = forge.create_issue(REPO, "A")
    forge.commit(REPO, "feature", {"new.txt": "1\n"}, sender="dev")
    pull = forge.open_pull(REPO, "dev", "feature", "Add", body=f"Closes #{issue}")
    forge.deliveries.clear()
    sha = forge.merge(REPO, pull, sender="boss", delete_branch=True)

    assert _said(forge) == [("pull_request", "pull_request", "closed"), ("issues", "issues", "closed")]
    merged, closed = (_body(sent) for sent in forge.deliveries)
    assert (merged["pull_request"]["merged"], merged["pull_request"]["merge_commit_sha"]) == (True, sha)
    assert merged["commit_id"] == ""
    assert merged["pull_request"]["merged_by"]["login"] == "boss"
    assert merged["pull_request"]["head"]["ref"] == f"refs/pull/{pull}/head"
    assert merged["pull_request"]["head"]["label"] == "feature"
    assert closed["commit_id"] == sha
    assert forge.repos[REPO].git.file("main", "new.txt") == "1\n"
    with pytest.raises(Unprocessable):
        forge.merge(REPO, pull)


def test_a_conflict_shows_as_not_mergeable_and_cannot_be_merged(forge: StandInForge, pull: int) -> None:
    forge.comment(REPO, pull, "before", author="me")
    forge.commit(REPO, "main", {"new.txt": "other\n"})
    forge.comment(REPO, pull, "after", author="me")

    assert [_body(sent)["pull_request"]["mergeable"] for sent in forge.deliveries] == [True, False]
    with pytest.raises(MergeConflict):
        forge.merge(REPO, pull)
