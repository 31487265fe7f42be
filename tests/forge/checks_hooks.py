"""Checks of webhooks: the traps of making them, and what is delivered."""

import hashlib
import hmac
import json

from tests.forge.check import check
from tests.forge.driver import SECRET, World


@check("hook-sleeps-by-default")
def a_hook_made_without_saying_so_sleeps(w: World) -> None:
    made = w.make_hook("/asleep", events=["issues"])

    assert made["active"] is False


@check("hook-without-events-is-push")
def a_hook_made_without_events_hears_pushes_only(w: World) -> None:
    assert w.make_hook("/push", active=True)["events"] == ["push"]


@check("hook-drops-unknown-events")
def events_that_there_are_not_are_dropped_without_a_word(w: World) -> None:
    assert w.make_hook("/some", events=["issue_comment", "no_such_event"], active=True)["events"] == ["issue_comment"]


@check()
def wide_names_turn_on_more_than_they_say(w: World) -> None:
    issues = w.make_hook("/issues", events=["issues"])["events"]
    pulls = w.make_hook("/pulls", events=["pull_request"])["events"]
    reviews = w.make_hook("/reviews", events=["pull_request_review"])["events"]

    assert {"issues", "issue_assign", "issue_label", "issue_comment"} <= set(issues)
    assert {"pull_request_sync", "pull_request_review_approved", "pull_request_comment"} <= set(pulls)
    assert "pull_request_review_approved" in reviews
    assert "pull_request" not in reviews


@check("hook-patch-forgets")
def changing_a_hook_forgets_its_events(w: World) -> None:
    made = w.make_hook("/patched", events=["issues", "pull_request"], active=True)
    w.owner.ask("PATCH", f"{w.api}/hooks/{made['id']}", {"active": True}, status=200)

    assert w.owner.get(f"{w.api}/hooks/{made['id']}")["events"] == ["push"]


@check("hook-hears-its-events")
def a_hook_hears_what_it_asked_for_and_nothing_else(w: World) -> None:
    comments, labels = w.hook("issue_comment"), w.hook("issue_label")
    w.comment(w.issue("One"), "hello")

    w.heard(comments, "created")
    assert {one.event for one in w.town.listener.of(comments)} == {"issue_comment"}
    assert w.town.listener.of(labels) == []


@check("go-encoding")
def bodies_are_written_as_go_writes_them(w: World) -> None:
    hook = w.hook("issues_only")
    w.issue("A <b> & c")

    raw = w.heard(hook, "opened")[0].raw
    assert raw.startswith(b'{\n  "action": "opened",\n')
    assert b"A \\u003cb\\u003e \\u0026 c" in raw


@check("deliveries-are-signed")
def deliveries_are_signed_with_the_secret_of_their_hook(w: World) -> None:
    hook = w.hook("issues_only")
    w.issue()

    heard = w.heard(hook, "opened")[0]
    right = hmac.new(SECRET.encode(), heard.raw, hashlib.sha256).hexdigest()
    assert heard.headers["X-Gitea-Signature"] == right
    assert heard.headers["X-Hub-Signature-256"] == f"sha256={right}"


@check()
def a_test_is_a_push_of_what_is_there_whatever_the_hook_hears(w: World) -> None:
    path = "/test-delivery"
    made = w.make_hook(path, events=["issues"], active=True)
    w.owner.ask("POST", f"{w.api}/hooks/{made['id']}/tests", status=204)

    body = w.town.listener.wait(path, lambda one: one.event == "push").body
    assert body["before"] == body["after"]
    assert body["repository"]["full_name"] == w.repo
    w.owner.ask("DELETE", f"{w.api}/hooks/{made['id']}", status=204)
    assert w.owner.call("GET", f"{w.api}/hooks/{made['id']}").status_code == 404


@check("status-is-silent")
def a_commit_status_is_told_to_nobody(w: World) -> None:
    hook = w.hook("issue_comment", "status", "pull_request")
    number = w.pull()
    before = len(w.all_until_now(hook))
    w.set_status(w.get_pull(number)["head"]["sha"], "success")

    assert len(w.all_until_now(hook)) == before
    assert "status" not in {one.event for one in w.town.listener.of(hook)}


@check("success-recovers", "cancelled-is-failure", why_not_real="a real forge needs a runner for its Actions")
def a_run_that_recovers_is_told_twice_and_a_cancelled_one_is_a_failure(w: World) -> None:
    hook = w.hook("action_run_success", "action_run_failure", "action_run_recover")
    number = w.pull()
    w.standin.action_run(w.repo, number, "cancelled")
    sha = w.get_pull(number)["head"]["sha"]
    (cancelled,) = w.combined(sha)["statuses"]
    w.standin.action_run(w.repo, number, "success")

    assert (cancelled["status"], cancelled["description"]) == ("failure", "Has been cancelled")
    assert cancelled["creator"]["login"] == "forgejo-actions"
    assert cancelled["context"].endswith("(pull_request)")
    heard = w.town.listener.of(hook)
    assert [one.event for one in heard] == ["action_run_failure", "action_run_success", "action_run_recover"]
    assert heard[0].body["run"]["status"] == "cancelled"
    assert json.loads(heard[0].body["run"]["event_payload"])["number"] == number
