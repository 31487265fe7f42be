"""Logs of failed checks: the right one, its end, and from nowhere but the forge."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.forge_logs import LOG_BYTES, tail_of
from tasks.forge_values import Status
from tests.helpers.answers import REPO, URL, Answers, says

JOB = f"/{REPO}/actions/runs/12/jobs/3"
ID = f"/repos/{REPO}/actions/jobs/3"


@pytest.fixture
def answers() -> Answers:
    return Answers()


def check(target: str) -> Status:
    """Return a failed check with this address."""
    return Status(context="ci", state="failure", description="", target_url=target, creator="")


def text(content: str | bytes = "boom\n") -> httpx.Response:
    return says(200, text=content, Content_Type="text/plain; charset=utf-8")


def log(answers: Answers, target: str = f"{URL}{JOB}", *, url: str = URL) -> str | None:
    return answers.forge(url=url).failing_log(REPO, check(target))


# --- the right one -------------------------------------------------------------------------------


def test_the_last_attempt_is_read_and_not_the_first(answers: Answers) -> None:
    """A job that failed again was explained by the log of the run before."""
    answers.on(f"GET {JOB}", says(307, Location=f"{JOB}/attempt/2"))
    answers.on(f"GET {JOB}/attempt/1/logs", text("old"))
    answers.on(f"GET {JOB}/attempt/2/logs", text("new"))

    assert log(answers) == "new"


def test_an_attempt_in_the_address_is_the_one(answers: Answers) -> None:
    answers.on(f"GET {JOB}/attempt/4/logs", text("four"))

    assert log(answers, f"{URL}{JOB}/attempt/4") == "four"


def test_a_forge_without_attempts_is_asked_for_the_job(answers: Answers) -> None:
    answers.on(f"GET {JOB}", says(200, text="<html>"))
    answers.on(f"GET {JOB}/logs", text())

    assert log(answers) == "boom\n"


def test_an_address_without_a_host_is_the_forges_own(answers: Answers) -> None:
    answers.on(f"GET {JOB}/logs", text())

    assert log(answers, JOB) == "boom\n"


def test_a_forge_below_a_path_has_its_jobs_there(answers: Answers) -> None:
    answers.on(f"GET /git{JOB}/logs", text())

    assert log(answers, f"{URL}/git{JOB}", url=f"{URL}/git") == "boom\n"
    assert log(answers, f"{URL}{JOB}", url=f"{URL}/git") is None


def test_a_job_is_asked_for_by_its_id(answers: Answers) -> None:
    answers.on(f"GET {ID}", says(200, {"id": 3, "html_url": f"{URL}{JOB}"}))
    answers.on(f"GET {ID}/logs", text("by id"))

    assert log(answers) == "by id"


def test_the_log_of_another_job_is_not_read(answers: Answers) -> None:
    """Older versions of Gitea count the jobs of a run in their addresses, so that the number is the id of another."""
    answers.on(f"GET {ID}", says(200, {"id": 3, "html_url": f"{URL}/{REPO}/actions/runs/2/jobs/0"}))
    answers.on(f"GET {ID}/logs", text("another's"))
    answers.on(f"GET {JOB}/logs", text("ours"))

    assert log(answers) == "ours"


# --- from nowhere else ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "",
        "https://evil.example/acme/shop/actions/runs/12/jobs/3",
        f"http://forge.example{JOB}",
        f"https://forge.example:8443{JOB}",
        f"https://forge.example@evil.example{JOB}",
        f"https://evil.example#@forge.example{JOB}",
        f"//evil.example{JOB}",
        f"{URL}/other/repo/actions/runs/12/jobs/3",
        f"{URL}/acme/shop/actions/runs/12/jobs/../../../../admin",
        f"{URL}/acme/shop/actions/runs/12/jobs/3/attempt/1/../../x",
        f"{URL}/acme/shop/actions/runs/x/jobs/3",
        f"{URL}/acme/shop/actions/runs/٣/jobs/3",
        f"{URL}/acme/shop/issues/7",
        f"{URL}/api/v1/admin/users",
        "https://[broken",
        f"javascript:{JOB}",
        "javascript:alert(1)",
    ],
)
def test_an_address_of_anything_else_is_not_asked(answers: Answers, target: str) -> None:
    assert log(answers, target) is None
    assert answers.asked == []


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/x",
        f"https://evil.example{JOB}/attempt/2/../../x",
        "/user/login",
        f"{JOB}/attempt/../../x",
        f"{JOB}/attempt/9/logs",
        "https://[broken",
        "",
    ],
)
def test_a_redirect_leads_nowhere(answers: Answers, location: str) -> None:
    answers.on(f"GET {JOB}", says(302, Location=location))

    assert log(answers) is None
    assert answers.calls == [f"GET {ID}", f"GET {JOB}", f"GET {JOB}/logs"]
    assert {request.url.host for request in answers.asked} == {"forge.example"}


def test_of_a_redirect_to_another_host_only_the_number_is_taken(answers: Answers) -> None:
    """Behind another server a forge may call itself by another name."""
    answers.on(f"GET {JOB}", says(302, Location=f"https://inside.example{JOB}/attempt/2"))
    answers.on(f"GET {JOB}/attempt/2/logs", text("two"))

    assert log(answers) == "two"
    assert {request.url.host for request in answers.asked} == {"forge.example"}


@pytest.mark.parametrize(
    "answer",
    [
        says(200, text="<html>log in</html>", Content_Type="text/html"),
        says(200, text="boom"),
        says(303, Location="/user/login"),
        says(401),
        says(403),
        says(404),
        says(410),
        says(500),
        httpx.ReadTimeout("late"),
        text(""),
    ],
)
def test_what_is_no_log_is_none(answers: Answers, answer: httpx.Response | Exception) -> None:
    answers.on(f"GET {JOB}/logs", answer)

    assert log(answers) is None


def test_a_job_that_cannot_be_read_does_not_hide_the_page(answers: Answers) -> None:
    answers.on(f"GET {ID}", says(200, text="<html>"))
    answers.on(f"GET {JOB}/logs", text())

    assert log(answers) == "boom\n"


# --- the end of it -------------------------------------------------------------------------------


def test_only_the_end_of_a_log_is_kept(answers: Answers) -> None:
    lines = "".join(f"line {at}\n" for at in range(100_000))
    answers.on(f"GET {JOB}/logs", text(lines))

    found = log(answers) or ""

    assert lines.endswith(found)
    assert found.startswith("line ")
    assert LOG_BYTES - 20 < len(found) <= LOG_BYTES


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link", "textlink"),
        ("\x1b(Bplain\x1b=", "plain"),
        ("10%\r20%\r\ndone\tok", "10%\n20%\ndone\tok"),
        ("a\0b\x08c\x7fd\x9be\u202ef", "abcdef"),
        ("naïve 茶", "naïve 茶"),
    ],
)
def test_a_log_is_text_to_read(raw: str, shown: str) -> None:
    assert tail_of(raw.encode(), is_whole=True) == shown


@given(st.binary(max_size=LOG_BYTES), st.booleans())
def test_any_bytes_become_a_bounded_text(body: bytes, is_whole: bool) -> None:  # noqa: FBT001 - from hypothesis
    found = tail_of(body, is_whole=is_whole)

    assert len(found.encode()) <= LOG_BYTES
    assert all(char in "\n\t" or char.isprintable() for char in found)


@given(st.lists(st.sampled_from("\x1b[]0;m\x07\\Px\n"), max_size=60).map("".join))
def test_no_escape_is_left(raw: str) -> None:
    assert "\x1b" not in tail_of(raw.encode(), is_whole=True)
