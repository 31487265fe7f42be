"""The road to the forge: what is tried again, what is not, where a list ends, and that the token stays here."""

import gzip
import threading
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import ForgeError, ForgeUnavailable, NotAccepted, NotAllowed, NotThere
from tasks import forge_http
from tasks.forge import Forge
from tasks.forge_http import TRIES, Pace, repo_path
from tasks.forge_values import MergeStyle
from tests.helpers.answers import REPO, SHA, TOKEN, URL, Answers, comment, issue, says

USER = {"login": "boss", "is_admin": False}
ISSUE = f"/repos/{REPO}/issues/7"
MERGE = f"/repos/{REPO}/pulls/8/merge"


@pytest.fixture
def answers() -> Answers:
    return Answers()


# --- pace ----------------------------------------------------------------------------------------


class Watch:
    """A clock that runs only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_calls_are_made_at_a_polite_rate() -> None:
    watch = Watch()
    pace = Pace(4, monotonic=watch, sleep=watch.sleep)
    at = []

    for _ in range(5):
        pace.wait()
        at.append(watch.now)

    assert at == [100.0, 100.25, 100.5, 100.75, 101.0]


def test_time_without_calls_is_not_saved_up() -> None:
    watch = Watch()
    pace = Pace(1, monotonic=watch, sleep=watch.sleep)
    pace.wait()
    watch.now += 60

    pace.wait()
    pace.wait()

    assert watch.now == 161.0


def test_threads_share_one_rate() -> None:
    waits: list[float] = []
    pace = Pace(10, monotonic=lambda: 0.0, sleep=waits.append)
    threads = [threading.Thread(target=pace.wait) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(round(wait, 6) for wait in waits) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_every_try_waits_for_its_turn(answers: Answers) -> None:
    watch = Watch()
    answers.on("GET /user", says(503), says(200, USER))
    forge = answers.forge(pace=Pace(1, monotonic=watch, sleep=watch.sleep))

    forge.get("/user")

    assert watch.now == 101.0


# --- second tries --------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [says(500), says(502), says(503), says(504), says(429), httpx.ReadTimeout("late")])
def test_what_only_reads_is_asked_again(answers: Answers, trouble: httpx.Response | Exception) -> None:
    answers.on("GET /user", trouble, says(200, USER))

    assert answers.forge().get("/user") == USER
    assert len(answers.calls) == 2


def test_pauses_grow_and_end(answers: Answers) -> None:
    answers.on("GET /user", httpx.ConnectError("refused"))

    with pytest.raises(ForgeUnavailable, match="the forge does not answer GET /user: ConnectError"):
        answers.forge().get("/user")

    assert len(answers.calls) == TRIES
    assert 0.25 + 0.5 + 1.0 <= sum(answers.pauses) <= 0.5 + 1.0 + 2.0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 412, 413, 422, 423])
def test_a_clear_no_is_not_asked_again(answers: Answers, status: int) -> None:
    answers.on("GET /user", says(status))

    with pytest.raises(ForgeError):
        answers.forge().get("/user")

    assert len(answers.calls) == 1


@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
def test_what_sets_what_is_set_is_sent_again(answers: Answers, method: str) -> None:
    answers.on(f"{method} /thing", httpx.ReadError("broken"), says(204, text=""))

    answers.forge().send(method, "/thing")

    assert len(answers.calls) == 2


@pytest.mark.parametrize("trouble", [says(500), says(502), says(503), says(504), httpx.ReadTimeout("late")])
def test_what_creates_is_never_sent_twice(answers: Answers, trouble: httpx.Response | Exception) -> None:
    answers.on(f"POST {ISSUE}/comments", trouble, says(201, comment()))

    with pytest.raises(ForgeUnavailable):
        answers.forge().add_comment(REPO, 7, "hello")

    assert len(answers.calls) == 1


@pytest.mark.parametrize("unheard", [httpx.ConnectError("refused"), httpx.ConnectTimeout("late"), says(429)])
def test_what_the_forge_cannot_have_carried_out_is_sent_again(
    answers: Answers, unheard: httpx.Response | Exception
) -> None:
    answers.on(f"POST {ISSUE}/comments", unheard, says(201, comment()))

    assert answers.forge().add_comment(REPO, 7, "hello").id == 1


@pytest.mark.parametrize("trouble", [says(500), says(503), says(429), httpx.ConnectError("refused")])
def test_a_merge_is_never_sent_twice(answers: Answers, trouble: httpx.Response | Exception) -> None:
    answers.on(f"POST {MERGE}", trouble, says(200, text=""))

    with pytest.raises(ForgeUnavailable):
        answers.forge().merge(REPO, 8, head_sha=SHA, style=MergeStyle.MERGE)

    assert len(answers.calls) == 1


def test_the_pause_that_the_forge_asks_for_is_made(answers: Answers) -> None:
    answers.on("GET /user", says(429, Retry_After="7"), says(200, USER))

    answers.forge().get("/user")

    assert sum(answers.pauses) == pytest.approx(7)


def test_the_forge_may_name_a_moment_instead(answers: Answers) -> None:
    at = (answers.clock.now + timedelta(seconds=20)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    answers.on("GET /user", says(503, Retry_After=at), says(200, USER))

    answers.forge().get("/user")

    assert sum(answers.pauses) == pytest.approx(20)


@pytest.mark.parametrize("told", ["3600", "9" * 400, "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_forge_that_wants_a_long_rest_counts_as_away(answers: Answers, told: str) -> None:
    answers.on("GET /user", says(429, Retry_After=told), says(200, USER))

    with pytest.raises(ForgeUnavailable):
        answers.forge().get("/user")

    assert answers.pauses == []


@pytest.mark.parametrize("told", ["soon", "-5", "٣", "Fri, 99 Foo", ""])
def test_a_pause_that_cannot_be_read_is_our_own(answers: Answers, told: str) -> None:
    answers.on("GET /user", httpx.Response(503, headers={b"Retry-After": told.encode()}), says(200, USER))

    answers.forge().get("/user")

    assert sum(answers.pauses) <= 0.5


def test_nobody_waits_for_what_is_no_longer_wanted(answers: Answers) -> None:
    answers.on("GET /user", says(429, Retry_After="60"))
    forge = answers.forge(is_unwanted=lambda: len(answers.pauses) >= 3)

    with pytest.raises(ForgeUnavailable):
        forge.get("/user")

    assert len(answers.pauses) == 3
    assert len(answers.calls) == 1


# --- lists ---------------------------------------------------------------------------------------


def pages(answers: Answers, *sizes: int, **headers: str) -> None:
    """Let the forge give a list of numbered items, page by page, and then empty pages."""
    numbers = iter(range(1, 1000))
    given = [says(200, [{"id": next(numbers)} for _ in range(size)], **headers) for size in sizes]
    answers.on("GET /things", *given, says(200, []))


def test_a_list_ends_at_an_empty_page(answers: Answers) -> None:
    pages(answers, 30, 30, 1)

    found = [one["id"] for one in answers.forge().pages("/things", state="open")]

    assert found == list(range(1, 62))
    assert [dict(request.url.params)["page"] for request in answers.asked] == ["1", "2", "3", "4"]
    assert dict(answers.asked[0].url.params) == {"state": "open", "page": "1", "limit": "50"}


def test_a_short_page_is_not_the_last(answers: Answers) -> None:
    """Forges leave out of a page what the account may not see, and give smaller pages than they are asked for."""
    pages(answers, 2, 50, 1)

    assert len(list(answers.forge().pages("/things"))) == 53


def test_a_list_ends_where_the_forge_says_so(answers: Answers) -> None:
    pages(answers, 50, 10, X_Total_Count="60")

    assert len(list(answers.forge().pages("/things"))) == 60
    assert len(answers.calls) == 2


def test_a_list_ends_where_no_link_leads_on(answers: Answers) -> None:
    link = f'<{URL}/api/v1/things?page=1>; rel="prev"'
    answers.on("GET /things", says(200, [{"id": 1}], Link=f'<{URL}/x>; rel="next"'), says(200, [{"id": 2}], Link=link))

    assert len(list(answers.forge().pages("/things"))) == 2
    assert len(answers.calls) == 2


def test_a_list_that_is_given_whole_each_time_ends(answers: Answers) -> None:
    answers.on("GET /things", says(200, [{"id": 1}, {"id": 2}]))

    assert [one["id"] for one in answers.forge().pages("/things")] == [1, 2]


def test_what_moved_to_the_next_page_meanwhile_is_told_once(answers: Answers) -> None:
    answers.on("GET /things", says(200, [{"id": 2}, {"id": 3}]), says(200, [{"id": 3}, {"id": 4}]), says(200, []))

    assert [one["id"] for one in answers.forge().pages("/things")] == [2, 3, 4]


def test_an_empty_list_may_be_null(answers: Answers) -> None:
    answers.on("GET /things", says(200, text="null"))

    assert list(answers.forge().pages("/things")) == []


def test_a_list_that_never_ends_is_an_error(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forge_http, "MOST_PAGES", 5)
    answers.on("GET /things", lambda _: says(200, [{"id": len(answers.asked)}]))

    with pytest.raises(ForgeError, match="more than 5 pages"):
        list(answers.forge().pages("/things"))


def test_items_without_an_id_are_all_kept(answers: Answers) -> None:
    answers.on("GET /things", says(200, [{"id": 0}, {"id": 0}, {}], X_Total_Count="3"))

    assert len(list(answers.forge().pages("/things"))) == 3


# --- answers that are none -----------------------------------------------------------------------


@pytest.mark.parametrize("text", ["<html>log in</html>", "", "{", "[" * 100_000, '{"a": ' * 100_000, b"\xff\xfe"])
def test_an_answer_that_is_no_json_names_the_call(answers: Answers, text: str) -> None:
    answers.on("GET /user", says(200, text=text))

    with pytest.raises(ForgeError, match="GET /user") as caught:
        answers.forge().get("/user")

    assert type(caught.value) is ForgeError
    assert caught.value.call == "GET /user"
    assert len(str(caught.value)) < 400


def test_an_object_in_place_of_a_list_is_an_error(answers: Answers) -> None:
    answers.on("GET /things", says(200, {"id": 1}))

    with pytest.raises(ForgeError, match="no list"):
        list(answers.forge().pages("/things"))


def test_a_value_of_the_wrong_kind_is_named_by_its_path(answers: Answers) -> None:
    answers.on(f"GET {ISSUE}", says(200, issue(labels=[{"name": "a"}, {"name": 5}])))

    with pytest.raises(ForgeError, match=rf"GET {ISSUE} .*answer\.labels\[1\]\.name = 5"):
        answers.forge().issue(REPO, 7)


def test_an_answer_does_not_fill_the_memory(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forge_http, "MAX_BODY", 10_000)
    bomb = gzip.compress(b" " * 1_000_000)
    answers.on("GET /user", lambda _: httpx.Response(200, content=bomb, headers={"Content-Encoding": "gzip"}))

    with pytest.raises(ForgeError, match="larger than 10000 bytes"):
        answers.forge().get("/user")

    assert len(answers.calls) == 1


def test_an_answer_that_trickles_is_given_up(answers: Answers) -> None:
    def trickle() -> Iterator[bytes]:
        for _ in range(1000):
            answers.clock.advance(10)
            yield b" "

    answers.on("GET /user", lambda _: httpx.Response(200, content=trickle()))

    with pytest.raises(ForgeUnavailable, match="ReadTimeout"):
        answers.forge(timeout_s=15).get("/user")

    assert len(answers.calls) == TRIES


# --- where the token goes, and where not ---------------------------------------------------------


def test_the_token_comes_with_each_call(answers: Answers) -> None:
    answers.on("GET /user", says(200, USER))

    answers.forge().get("/user")

    assert answers.asked[0].headers["Authorization"] == f"token {TOKEN}"
    assert TOKEN not in str(answers.asked[0].url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(answers: Answers, status: int) -> None:
    answers.on("GET /user", says(status, Location="https://evil.example/user"))

    with pytest.raises(NotThere, match="redirects"):
        answers.forge().get("/user")

    assert [request.url.host for request in answers.asked] == ["forge.example"]


def test_a_session_of_the_web_pages_is_not_taken_up(answers: Answers) -> None:
    answers.on("GET /user", says(200, USER, Set_Cookie="i_like_gitea=abc; Path=/"))
    forge = answers.forge()

    forge.get("/user")
    forge.get("/user")

    assert "Cookie" not in answers.asked[1].headers


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "line\r\nX-Evil: 1", "naïve", "zero\0"])
def test_what_cannot_be_a_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        Forge(URL, token=token)

    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("repo", ["acme/..", "../shop", "acme/.", "acme", "/shop", "acme/"])
def test_dots_in_a_name_lead_nowhere(answers: Answers, repo: str) -> None:
    with pytest.raises(NotAccepted):
        answers.forge().repository(repo)

    assert answers.asked == []


def test_names_are_quoted() -> None:
    assert repo_path("acme/shop?x#y%2e", "a/b", 7) == "/repos/acme/shop%3Fx%23y%252e/a%2Fb/7"


def test_a_forge_may_live_below_a_path(answers: Answers) -> None:
    answers.on("GET /git/api/v1/user", says(200, USER))

    answers.forge(url=f"{URL}/git/").get("/user")

    assert str(answers.asked[0].url) == f"{URL}/git/api/v1/user"


@pytest.mark.parametrize(("host", "is_used"), [("127.0.0.1", False), ("localhost", False), ("forge.example", True)])
def test_a_proxy_of_the_environment_is_for_other_machines(
    monkeypatch: pytest.MonkeyPatch, host: str, *, is_used: bool
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with Forge(f"http://{host}", token=TOKEN) as forge:
        assert forge._client.trust_env is is_used


#: Bodies in which the token may come back.
ECHOES = st.sampled_from(
    (
        '{{"message": "bad header Authorization: token {0}"}}',
        '{{"errors": ["{0}"]}}',
        '{{"error": "{0}", "url": "https://x/{0}"}}',
        '{{"Style": "merge", "StdErr": "{0}"}}',
        "{0}",
        '{{"number": "{0}", "login": ["{0}"], "id": "{0}"}}',
        '["{0}"]',
        '[{{"id": "{0}", "number": "{0}"}}]',
        '{{"number": 7, "state": "{0}", "title": {{"{0}": 1}}}}',
    )
)


@given(
    status=st.sampled_from((200, 201, 302, 400, 401, 403, 404, 405, 409, 412, 413, 418, 422, 423, 429, 500, 503)),
    echo=ECHOES,
    lead=st.text("x \n", max_size=300),
)
def test_a_token_that_the_forge_echoes_is_in_no_error(status: int, echo: str, lead: str) -> None:
    answers = Answers()
    body = lead.replace("x", "") + echo.format(TOKEN) if echo.startswith(("{", "[")) else lead + TOKEN
    forge = answers.forge(is_unwanted=lambda: True)
    answers.on(f"GET {ISSUE}", says(status, text=body, Location=f"https://x/{TOKEN}"))
    answers.on(f"POST {MERGE}", says(status, text=body))
    answers.on(f"GET /repos/{REPO}/pulls", says(status, text=body))
    told = [repr(forge), str(forge)]

    for call in (
        lambda: forge.issue(REPO, 7),
        lambda: forge.merge(REPO, 8, head_sha=SHA, style=MergeStyle.MERGE),
        lambda: forge.open_pulls(REPO),
    ):
        try:
            call()
        except ForgeError as error:
            told += [str(error), repr(error), error.call, str(error.__cause__)]

    assert not [text for text in told if TOKEN in text or TOKEN[:12] in text]


def test_a_token_that_a_broken_connection_names_is_in_no_error(answers: Answers) -> None:
    answers.on("GET /user", httpx.ConnectError(f"cannot send Authorization: token {TOKEN}"))

    with pytest.raises(ForgeUnavailable) as caught:
        answers.forge().get("/user")

    assert TOKEN not in f"{caught.value!r} {caught.value.__cause__}"


def test_an_issue_that_quotes_the_token_does_not_carry_it_on(answers: Answers) -> None:
    answers.on(f"GET {ISSUE}", says(200, issue(body=f"what is {TOKEN}?")))

    assert answers.forge().issue(REPO, 7).body == "what is ***?"
