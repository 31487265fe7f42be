"""Checks of reviews, of asking for them, and of commit statuses."""

from tests.forge.check import check
from tests.forge.driver import World


@check("no-review-of-ones-own")
def nobody_reviews_his_own_pull_request(w: World) -> None:
    path = f"{w.api}/pulls/{w.pull()}/reviews"

    for event in ("APPROVED", "REQUEST_CHANGES"):
        answer = w.dev.call("POST", path, {"event": event, "body": "Fine."})
        assert answer.status_code == 422
        assert "your own pull is not allowed" in answer.json()["message"]
    w.dev.ask("POST", path, {"event": "COMMENT", "body": "See above."}, status=200)
    assert w.reviewer.call("POST", path, {"event": "REQUEST_CHANGES", "body": ""}).status_code == 422


@check("review-goes-stale")
def a_review_goes_stale_with_the_next_commit(w: World) -> None:
    number = w.pull()
    head = w.get_pull(number)["head"]["sha"]
    made = w.review(number, "APPROVED")
    assert (made["state"], made["commit_id"], made["stale"], made["official"]) == ("APPROVED", head, False, True)
    w.commit("feature", "feature.txt", "two\n")

    w.until(lambda: w.reviews(number)[0]["stale"], bool)
    assert w.reviews(number)[0]["dismissed"] is False


@check("same-diff-keeps-review")
def a_review_stays_fresh_when_only_the_base_was_brought_in(w: World) -> None:
    number = w.pull()
    w.review(number, "APPROVED")
    w.commit("main", "other.txt", "other\n")
    old = w.get_pull(number)["head"]["sha"]
    w.owner.ask("POST", f"{w.api}/pulls/{number}/update", status=200)
    w.until(lambda: w.get_pull(number), lambda pull: pull["head"]["sha"] != old)
    w.checked(number)

    assert w.reviews(number)[0]["stale"] is False
    assert w.reviews(number)[0]["commit_id"] == old


@check("official-needs-write")
def only_the_word_of_those_who_may_write_is_official(w: World) -> None:
    number = w.pull()

    assert w.review(number, "APPROVED", by=w.reader)["official"] is False
    assert w.review(number, "APPROVED", by=w.reviewer)["official"] is True


@check("newer-verdict-dismisses")
def a_newer_verdict_dismisses_the_older_one(w: World) -> None:
    number = w.pull()
    w.review(number, "REQUEST_CHANGES")
    w.review(number, "APPROVED")

    told = [(one["state"], one["dismissed"], one["official"]) for one in w.reviews(number)]
    assert told == [("REQUEST_CHANGES", True, False), ("APPROVED", False, True)]


def _ask(w: World, number: int, *logins: str) -> list[str]:
    path = f"{w.api}/pulls/{number}/requested_reviewers"
    answer = w.dev.ask("POST", path, {"reviewers": list(logins)}, status=201)
    return [one["user"]["login"] for one in answer]


@check("review-answers-request")
def a_request_is_an_entry_among_the_reviews_until_it_is_answered(w: World) -> None:
    number = w.pull()
    assert _ask(w, number, w.reviewer.login) == [w.reviewer.login]
    (asked,) = w.reviews(number)
    assert (asked["state"], asked["user"]["login"]) == ("REQUEST_REVIEW", w.reviewer.login)
    w.review(number, "COMMENT")

    assert [one["state"] for one in w.reviews(number)] == ["COMMENT"]
    path = f"{w.api}/pulls/{number}/requested_reviewers"
    assert w.dev.call("POST", path, {"reviewers": [w.dev.login]}).status_code == 422
    assert w.dev.call("POST", path, {"reviewers": ["nobody-of-that-name"]}).status_code == 404


@check("reviewers-stay-listed")
def who_has_reviewed_stays_in_the_list_of_those_asked(w: World) -> None:
    number = w.pull()
    _ask(w, number, w.reviewer.login)
    w.review(number, "APPROVED")

    assert [one["login"] for one in w.get_pull(number)["requested_reviewers"]] == [w.reviewer.login]


@check("request-again")
def asking_twice_is_one_request_and_asking_after_a_review_a_new_one(w: World) -> None:
    hook = w.hook("pull_request_review_request")
    number = w.pull()
    _ask(w, number, w.reviewer.login)
    assert _ask(w, number, w.reviewer.login) == []
    w.review(number, "REQUEST_CHANGES")
    assert _ask(w, number, w.reviewer.login) == [w.reviewer.login]

    assert len(w.heard(hook, "review_requested", 2)) == 2
    assert [one["state"] for one in w.reviews(number)] == ["REQUEST_CHANGES", "REQUEST_REVIEW"]
    path = f"{w.api}/pulls/{number}/requested_reviewers"
    w.dev.ask("DELETE", path, {"reviewers": [w.reviewer.login]}, status=204)
    w.heard(hook, "review_request_removed")
    assert [one["state"] for one in w.reviews(number)] == ["REQUEST_CHANGES"]


@check("self-request-is-silent")
def who_asks_himself_for_a_review_causes_no_event(w: World) -> None:
    hook = w.hook("pull_request_review_request", "issue_comment")
    number = w.pull()
    path = f"{w.api}/pulls/{number}/requested_reviewers"
    w.reviewer.ask("POST", path, {"reviewers": [w.reviewer.login]}, status=201)

    assert w.all_until_now(hook) == []
    assert [one["state"] for one in w.reviews(number)] == ["REQUEST_REVIEW"]


@check("dismissal-is-silent")
def a_dismissed_review_is_told_to_nobody(w: World) -> None:
    hook = w.hook("pull_request", "issue_comment")
    number = w.pull()
    review = w.review(number, "APPROVED")
    w.heard(hook, "reviewed")
    before = len(w.all_until_now(hook))
    path = f"{w.api}/pulls/{number}/reviews/{review['id']}/dismissals"
    assert w.dev.call("POST", path, {"message": "No."}).status_code == 403
    w.owner.ask("POST", path, {"message": "No."}, status=200)

    assert w.reviews(number)[0]["dismissed"] is True
    assert len(w.all_until_now(hook)) == before


@check("review-event-is-poor")
def the_event_of_a_review_has_neither_id_nor_commit(w: World) -> None:
    hook = w.hook("pull_request")
    w.review(w.pull(), "REQUEST_CHANGES", body="No.")

    heard = w.heard(hook, "reviewed")[0]
    assert heard.event == "pull_request_review_rejected"
    assert heard.body["review"] == {"type": "pull_request_review_rejected", "content": "No."}


@check()
def comments_on_lines_are_with_their_review(w: World) -> None:
    number = w.pull()
    path = f"{w.api}/pulls/{number}/reviews"
    line = {"path": "feature.txt", "body": "Why?", "new_position": 1, "old_position": 0}
    made = w.reviewer.ask("POST", path, {"event": "COMMENT", "body": "See.", "comments": [line]}, status=200)

    (comment,) = w.owner.get(f"{path}/{made['id']}/comments")
    assert (comment["path"], comment["body"], comment["position"]) == ("feature.txt", "Why?", 1)
    assert made["comments_count"] == 1


# --- statuses ---


@check("no-status-is-empty")
def no_statuses_are_an_empty_word_and_not_pending(w: World) -> None:
    told = w.combined(w.commit("feature", "feature.txt", "one\n"))

    assert (told["state"], told["total_count"]) == ("", 0)


@check("worst-status-wins")
def the_worst_status_wins_and_a_warning_hides_what_is_pending(w: World) -> None:
    sha = w.commit("feature", "feature.txt", "one\n")
    w.set_status(sha, "warning", "a")
    w.set_status(sha, "pending", "b")
    w.set_status(sha, "success", "c")

    told = w.combined(sha)
    assert told["state"] == "warning"
    assert {(one["context"], one["status"]) for one in told["statuses"]} == {
        ("a", "warning"),
        ("b", "pending"),
        ("c", "success"),
    }


@check("error-shown-as-failure")
def an_error_is_shown_as_a_failure(w: World) -> None:
    sha = w.commit("feature", "feature.txt", "one\n")
    w.set_status(sha, "error", "a")

    assert w.combined(sha)["state"] == "failure"


@check("combined-over-one-page")
def the_combined_state_does_not_see_beyond_one_page(w: World) -> None:
    sha = w.commit("feature", "feature.txt", "one\n")
    w.set_status(sha, "failure", "the first")
    for number in range(30):
        w.set_status(sha, "success", f"later {number}")

    assert w.combined(sha)["state"] == "success"
    assert w.combined(sha)["total_count"] == 31


@check("newest-status-of-context")
def the_newest_status_of_a_context_counts_and_the_older_ones_stay_listed(w: World) -> None:
    sha = w.commit("feature", "feature.txt", "one\n")
    for state in ("pending", "failure", "success"):
        w.set_status(sha, state, "ci", description=f"It is {state}", target_url="https://ci.example.org/1")

    assert (w.combined(sha)["state"], w.combined(sha)["total_count"]) == ("success", 1)
    listed = w.owner.get(f"{w.api}/commits/{sha}/statuses")
    assert sorted(one["status"] for one in listed) == ["failure", "pending", "success"]
    newest = max(listed, key=lambda one: one["id"])
    assert (newest["status"], newest["description"]) == ("success", "It is success")
    assert newest["creator"]["login"] == w.dev.login
    answer = w.reader.call("POST", f"{w.api}/statuses/{sha}", {"state": "success", "context": "ci"})
    assert answer.status_code == 403
