"""Checks of pull requests: whether they can be merged, and all that refuses it."""

from tests.forge.check import check
from tests.forge.driver import World, said

RACE = "on a real forge the check may be over before anybody looks"


@check()
def a_pull_request_says_where_it_comes_from_and_goes_to(w: World) -> None:
    number = w.pull(title="A change", body="Text")
    found = w.checked(number)

    assert (found["head"]["ref"], found["base"]["ref"]) == ("feature", "main")
    assert (found["state"], found["merged"], found["draft"]) == ("open", False, False)
    assert found["merge_base"] == found["base"]["sha"] == w.owner.get(f"{w.api}/branches/main")["commit"]["id"]
    commit = w.owner.get(f"{w.api}/git/commits/{found['head']['sha']}")
    assert [one["sha"] for one in commit["parents"]] == [found["base"]["sha"]]
    listed = w.owner.get(f"{w.api}/pulls", state="open")
    assert [one["number"] for one in listed] == [number]
    again = w.dev.call("POST", f"{w.api}/pulls", {"head": "feature", "base": "main", "title": "Again"})
    assert again.status_code == 409


@check("checking-after-push")
def a_push_shows_as_not_mergeable_until_it_was_checked(w: World) -> None:
    hook = w.hook("pull_request_sync")
    number = w.pull()
    w.checked(number)
    sha = w.commit("feature", "feature.txt", "two\n")

    body = w.heard(hook, "synchronized")[0].body
    assert body["pull_request"]["mergeable"] is False
    assert body["pull_request"]["head"]["sha"] == sha
    assert w.checked(number)["head"]["sha"] == sha


@check("checking-after-base-moved", why_not_real=RACE)
def after_a_merge_the_next_one_has_to_wait(w: World) -> None:
    first, second = w.pull("one", file="one.txt"), w.pull("two", file="two.txt")
    w.checked(second)
    w.merged(first)

    answer = w.merge(second)
    assert said(answer) == (405, "Please try again later")
    assert w.merge(second).status_code == 200


@check("conflict-is-405")
def a_conflict_answers_like_a_check_that_goes_on(w: World) -> None:
    number = w.pull(file="same.txt")
    w.checked(number)
    w.commit("main", "same.txt", "other\n")
    w.checked(number, mergeable=False)

    answers = [said(w.merge(number)) for _ in range(3)]
    assert answers[-1] == (405, "Please try again later")


@check("head-must-match")
def another_head_than_the_one_meant_is_not_merged(w: World) -> None:
    number = w.pull()
    old = w.checked(number)["head"]["sha"]
    new = w.commit("feature", "feature.txt", "two\n")
    w.checked(number)

    answer = w.merge(number, head_commit_id=old)
    assert said(answer) == (409, "head out of date")
    assert w.merged(number, head_commit_id=new)["merged"] is True


@check("merged-is-405")
def what_is_merged_already_answers_405_without_a_word(w: World) -> None:
    number = w.pull()
    path = f"{w.api}/pulls/{number}/merge"
    assert w.owner.call("GET", path).status_code == 404
    merged = w.merged(number)

    answer = w.merge(number)
    assert said(answer) == (405, "")
    assert w.owner.call("GET", path).status_code == 204
    assert merged["merge_commit_sha"] == w.owner.get(f"{w.api}/branches/main")["commit"]["id"]
    assert merged["merged_by"]["login"] == w.owner.login
    assert w.owner.call("PATCH", f"{w.api}/issues/{number}", {"state": "open"}).status_code == 412


@check("draft-is-405")
def a_draft_is_not_merged_before_its_title_says_so(w: World) -> None:
    number = w.pull(title="WIP: a change")
    assert w.get_pull(number)["draft"] is True
    answer = w.merge(number)

    assert answer.status_code == 405
    assert "Work in progress" in said(answer)[1]
    w.dev.ask("PATCH", f"{w.api}/pulls/{number}", {"title": "A change"}, status=201)
    assert w.merged(number)["merged"] is True


@check("style-is-checked")
def a_way_to_merge_that_is_not_allowed_is_405_and_an_unknown_one_422(w: World) -> None:
    number = w.pull()
    w.owner.ask("PATCH", w.api, {"has_pull_requests": True, "allow_squash_merge": False}, status=200)
    w.checked(number)

    assert w.merge(number, do="squash").status_code == 405
    assert w.merge(number, do="by magic").status_code == 422
    assert w.owner.call("POST", f"{w.api}/pulls/{number}/merge", {}).status_code == 422
    assert w.get_pull(number)["merged"] is False


@check("protection-is-405")
def rules_of_the_branch_refuse_a_merge_until_they_are_met(w: World) -> None:
    number = w.pull()
    rules = {"rule_name": "main", "required_approvals": 1, "enable_status_check": True, "status_check_contexts": ["ci"]}
    w.owner.ask("POST", f"{w.api}/branch_protections", rules, status=201)
    sha = w.checked(number)["head"]["sha"]

    unchecked = w.merge(number)
    w.set_status(sha, "success", "ci")
    unapproved = w.merge(number)
    assert [answer.status_code for answer in (unchecked, unapproved)] == [405, 405]
    assert "status checks" in said(unchecked)[1]
    assert "approvals" in said(unapproved)[1]
    w.review(number, "APPROVED")
    assert w.merged(number)["merged"] is True


@check("dependency-is-500")
def an_open_dependency_breaks_a_merge(w: World) -> None:
    number, blocker = w.pull(), w.issue()
    owner, _, name = w.repo.partition("/")
    body = {"owner": owner, "repo": name, "index": blocker}
    w.owner.ask("POST", f"{w.api}/issues/{number}/dependencies", body, status=201)
    w.checked(number)

    answer = w.merge(number)
    assert said(answer) == (500, "")
    assert w.get_pull(number)["merged"] is False


@check("scheduled-merge-waits")
def a_merge_when_the_checks_succeed_waits_for_a_later_success(w: World) -> None:
    number = w.pull()
    sha = w.checked(number)["head"]["sha"]
    w.set_status(sha, "success", "ci")

    assert w.merge(number, merge_when_checks_succeed=True).status_code == 201
    assert w.get_pull(number)["merged"] is False
    assert w.merge(number, merge_when_checks_succeed=True).status_code == 409
    w.set_status(sha, "success", "another")
    w.until(lambda: w.get_pull(number), lambda pull: pull["merged"])


@check("merge-closes-issues")
def a_merge_closes_what_its_text_names_in_the_name_of_its_author(w: World) -> None:
    hook = w.hook("issues_only", "pull_request_only")
    issue = w.issue()
    number = w.pull(body=f"Closes #{issue}")
    merged = w.merged(number)

    closed = w.until(lambda: w.owner.get(f"{w.api}/issues/{issue}"), lambda found: found["state"] == "closed")
    assert closed["closed_at"]
    heard = {one.event: one.body for one in w.heard(hook, "closed", 2)}
    assert heard["pull_request"]["pull_request"]["merged"] is True
    assert heard["issues"]["commit_id"] == merged["merge_commit_sha"]
    assert heard["issues"]["sender"]["login"] == w.dev.login
    assert heard["pull_request"]["sender"]["login"] == w.owner.login


@check("full-stop-hides-reference", why_not_real="a deliberate pessimism of the stand-in, see gaps.py")
def nobody_may_count_on_a_reference_that_ends_a_sentence(w: World) -> None:
    issue = w.issue()
    w.merged(w.pull(body=f"Closes #{issue}."))

    assert w.owner.get(f"{w.api}/issues/{issue}")["state"] == "open"


@check("head-ref-of-deleted-branch")
def the_head_of_a_deleted_branch_has_another_ref_and_keeps_its_label(w: World) -> None:
    number = w.pull()
    w.merged(number, delete_branch_after_merge=True)

    head = w.until(lambda: w.get_pull(number), lambda pull: pull["head"]["ref"] != "feature")["head"]
    assert head["ref"] == f"refs/pull/{number}/head"
    assert head["label"] == "feature"
    assert w.owner.call("DELETE", f"{w.api}/branches/feature").status_code == 404


@check("deleted-branch-closes-pulls")
def a_pull_request_whose_branch_is_deleted_is_closed(w: World) -> None:
    number = w.pull()
    w.dev.ask("DELETE", f"{w.api}/branches/feature", status=204)

    assert w.until(lambda: w.get_pull(number), lambda pull: pull["state"] == "closed")["merged"] is False
    assert w.dev.call("DELETE", f"{w.api}/branches/main").status_code in (403, 405)
    assert w.merge(number).status_code == 404


@check("update-when-behind-only")
def a_branch_is_brought_up_to_date_only_when_it_is_behind(w: World) -> None:
    number = w.pull()
    path = f"{w.api}/pulls/{number}/update"
    assert w.owner.call("POST", path).status_code == 500
    old = w.checked(number)["head"]["sha"]
    base = w.commit("main", "other.txt", "other\n")
    w.owner.ask("POST", path, status=200, style="merge")

    found = w.until(lambda: w.get_pull(number), lambda pull: pull["head"]["sha"] != old)
    parents = w.owner.get(f"{w.api}/git/commits/{found['head']['sha']}")["parents"]
    assert {one["sha"] for one in parents} == {old, base}


@check()
def each_way_to_merge_leaves_the_history_it_promises(w: World) -> None:
    parents = {}
    for do in ("merge", "squash", "rebase", "rebase-merge"):
        number = w.pull(f"by-{do}", file=f"{do}.txt", title=f"By {do}")
        sha = w.merged(number, do=do, MergeTitleField=f"Took {do}")["merge_commit_sha"]
        parents[do] = len(w.owner.get(f"{w.api}/git/commits/{sha}")["parents"])

    assert parents == {"merge": 2, "squash": 1, "rebase": 1, "rebase-merge": 2}


@check()
def a_reader_may_not_merge_and_a_stranger_sees_nothing(w: World) -> None:
    number = w.pull()
    w.checked(number)
    path = f"{w.api}/pulls/{number}/merge"

    assert w.reader.call("POST", path, {"Do": "merge"}).status_code in (403, 405)
    assert w.stranger.call("POST", path, {"Do": "merge"}).status_code == 404
