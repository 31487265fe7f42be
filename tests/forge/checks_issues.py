"""Checks of issues, rights and lists."""

from tests.forge.check import check
from tests.forge.driver import World


def _logins(users: list[dict[str, str]] | None) -> set[str] | None:
    return None if users is None else {user["login"] for user in users}


@check("assignees-null")
def nobody_assigned_is_null_and_not_an_empty_list(w: World) -> None:
    found = w.owner.get(f"{w.api}/issues/{w.issue()}")

    assert found["assignees"] is None
    assert found["assignee"] is None
    assert found["labels"] == []


@check("assigned-before-opened", why_not_real="a real forge promises no order of deliveries")
def an_issue_made_with_assignees_is_assigned_before_it_is_opened(w: World) -> None:
    hook = w.hook("issues")
    w.issue(assignees=[w.dev.login])

    assert [one.action for one in w.town.listener.of(hook)] == ["assigned", "opened"]


@check("event-per-assignee")
def each_assignee_makes_an_event_that_names_all_and_nobody_as_the_new_one(w: World) -> None:
    hook = w.hook("issues")
    number = w.issue()
    both = [w.dev.login, w.reviewer.login]
    w.owner.ask("PATCH", f"{w.api}/issues/{number}", {"assignees": both}, status=201)

    heard = w.heard(hook, "assigned", 2)
    assert len(heard) == 2
    for one in heard:
        assert one.event == "issue_assign"
        assert "assignee" not in one.body
    entries = w.owner.get(f"{w.api}/issues/{number}/timeline")
    assigned = {one["assignee"]["login"] for one in entries if one["type"] == "assignees"}
    assert assigned == set(both)


@check("assignees-need-write")
def who_may_only_read_assigns_nobody_and_is_not_told(w: World) -> None:
    number = w.issue(by=w.reader)
    answer = w.reader.ask("PATCH", f"{w.api}/issues/{number}", {"assignees": [w.dev.login]}, status=201)

    assert not answer["assignees"]


@check("unknown-assignee-is-500")
def an_unknown_assignee_breaks_the_forge(w: World) -> None:
    number = w.issue()

    answer = w.owner.call("PATCH", f"{w.api}/issues/{number}", {"assignees": ["nobody-of-that-name"]})
    assert answer.status_code == 500
    assert not answer.json()["message"]


@check()
def assigning_replaces_the_set_and_closing_answers_201(w: World) -> None:
    number = w.issue(assignees=[w.dev.login])
    path = f"{w.api}/issues/{number}"
    w.owner.ask("PATCH", path, {"assignees": [w.reviewer.login]}, status=201)
    closed = w.owner.ask("PATCH", path, {"state": "closed"}, status=201)

    assert _logins(closed["assignees"]) == {w.reviewer.login}
    assert closed["state"] == "closed"
    assert closed["closed_at"]
    listed = w.owner.get(f"{w.api}/issues", assigned_by=w.reviewer.login, state="open", type="issues")
    assert listed == []


@check("unknown-labels-dropped")
def labels_that_there_are_not_are_dropped_without_a_word(w: World) -> None:
    w.owner.ask("POST", f"{w.api}/labels", {"name": "bug", "color": "#ff0000"}, status=201)
    path = f"{w.api}/issues/{w.issue()}/labels"

    put = w.owner.ask("POST", path, {"labels": ["bug", "no such label"]}, status=200)
    assert [label["name"] for label in put] == ["bug"]
    w.owner.ask("DELETE", f"{path}/{put[0]['id']}", status=204)
    assert w.owner.get(path) == []


@check()
def comments_are_edited_listed_since_a_moment_and_reacted_to(w: World) -> None:
    number = w.issue()
    comment = w.comment(number, "first", by=w.dev)
    path = f"{w.api}/issues/comments/{comment}"
    w.dev.ask("PATCH", path, {"body": "second"}, status=200)
    first = w.owner.call("POST", f"{path}/reactions", {"content": "eyes"})
    w.owner.call("POST", f"{path}/reactions", {"content": "eyes"})

    assert first.status_code == 201
    assert len(w.owner.get(f"{path}/reactions")) == 1
    (listed,) = w.owner.get(f"{w.api}/issues/comments", since="2020-01-01T00:00:00Z")
    assert (listed["id"], listed["body"], listed["user"]["login"]) == (comment, "second", w.dev.login)
    assert listed["issue_url"].endswith(f"/issues/{number}")
    assert w.owner.get(f"{w.api}/issues/comments", since="2100-01-01T00:00:00Z") == []


@check("dependency-blocks-closing")
def an_issue_with_an_open_dependency_cannot_be_closed(w: World) -> None:
    first, second = w.issue(), w.issue()
    owner, _, name = w.repo.partition("/")
    body = {"owner": owner, "repo": name, "index": first}
    w.owner.ask("POST", f"{w.api}/issues/{second}/dependencies", body, status=201)

    assert w.owner.call("PATCH", f"{w.api}/issues/{second}", {"state": "closed"}).status_code == 412
    assert [one["number"] for one in w.owner.get(f"{w.api}/issues/{second}/dependencies")] == [first]
    assert [one["number"] for one in w.owner.get(f"{w.api}/issues/{first}/blocks")] == [second]
    w.owner.ask("PATCH", f"{w.api}/issues/{first}", {"state": "closed"}, status=201)
    w.owner.ask("PATCH", f"{w.api}/issues/{second}", {"state": "closed"}, status=201)


@check("private-looks-absent")
def a_private_repository_looks_absent_to_strangers(w: World) -> None:
    number = w.issue()

    assert w.stranger.call("GET", w.api).status_code == 404
    assert w.stranger.call("GET", f"{w.api}/issues/{number}").status_code == 404
    assert w.reader.call("GET", w.api).status_code == 200
    assert w.reader.call("GET", f"{w.api}/hooks").status_code == 403


@check("pages-are-bounded")
def a_page_has_at_most_fifty_entries(w: World) -> None:
    for number in range(51):
        w.owner.ask("POST", f"{w.api}/labels", {"name": f"l{number:02}", "color": "#00ff00"}, status=201)
    first = w.owner.call("GET", f"{w.api}/labels", limit=100)
    second = w.owner.call("GET", f"{w.api}/labels", limit=100, page=2)

    assert (len(first.json()), len(second.json())) == (50, 1)
    assert first.headers["X-Total-Count"] == "51"
    assert 'rel="next"' in first.headers["Link"]
    assert 'rel="next"' not in second.headers.get("Link", "")
    assert len(w.owner.get(f"{w.api}/labels")) == 30


@check("tokens-need-a-password")
def a_token_makes_no_token(w: World) -> None:
    body = {"name": "another", "scopes": ["write:repository"]}

    assert w.dev.call("POST", f"/users/{w.dev.login}/tokens", body).status_code == 401


@check("rights-of-others-are-secret")
def only_administrators_learn_the_rights_of_others(w: World) -> None:
    path = f"{w.api}/collaborators/{w.reviewer.login}/permission"

    assert w.dev.call("GET", path).status_code == 403
    assert w.owner.get(path)["permission"] == "write"
    assert w.reviewer.get(path)["permission"] == "write"
    assert w.owner.get(f"{w.api}/collaborators/{w.owner.login}/permission")["permission"] == "owner"


@check()
def whoever_may_write_can_be_assigned_and_everybody_may_ask_who_that_is(w: World) -> None:
    logins = {user["login"] for user in w.dev.get(f"{w.api}/assignees")}

    assert {w.owner.login, w.dev.login, w.reviewer.login} <= logins
    # An order of somebody in this list is obeyed.
    assert not {w.reader.login, w.stranger.login} & logins


@check()
def a_folder_is_a_list_of_what_is_in_it_without_the_contents(w: World) -> None:
    w.commit("feature", "teas/green.txt", "a\n")
    w.commit("feature", "teas/old/black.txt", "bc\n")
    listed = w.dev.get(f"{w.api}/contents/teas", ref="feature")

    found = [(one["name"], one["path"], one["type"], one["content"]) for one in listed]
    assert sorted(found) == [("green.txt", "teas/green.txt", "file", None), ("old", "teas/old", "dir", None)]
    assert w.dev.get(f"{w.api}/contents/teas/green.txt", ref="feature")["content"] == "YQo="
    assert w.dev.call("GET", f"{w.api}/contents/no-teas", ref="feature").status_code == 404


@check()
def the_forge_says_what_it_is_and_who_asks(w: World) -> None:
    assert w.dev.get("/version")["version"]
    assert w.dev.get("/user")["login"] == w.dev.login
    assert w.dev.get("/settings/api")["max_response_items"] > 0
    assert w.repo in [one["full_name"] for one in w.dev.get("/user/repos", limit=50)]
    rights = w.dev.get(w.api)["permissions"]
    assert (rights["admin"], rights["push"], rights["pull"]) == (False, True, True)
