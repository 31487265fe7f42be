"""One client for each type that has a token."""

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from pool.errors import NotAllowed
from tasks.forges import Forges, Pace
from tasks.settings import Settings
from tests.helpers.answers import Answers, says
from tests.helpers.config import type_table, write_config


@pytest.fixture
def answers() -> Answers:
    answers = Answers()
    answers.on("GET /user", says(200, {"login": "x"}))
    return answers


def deployment(folder: Path, answers: Answers, **service: Any) -> Forges:
    """Return the clients of a deployment in which dev and boss have tokens, and reviewer has none."""
    types = {name: type_table(name, token_file=f"{name}.token") for name in ("dev", "boss")}
    for name in types:
        (folder / f"{name}.token").write_text(f"token-of-{name}-0123\n")
    path = write_config(folder, types={**types, "reviewer": type_table("reviewer")}, merge_type="boss", **service)
    pace = Pace(1e6, sleep=lambda _: None)
    transport = httpx.MockTransport(answers.answer)
    return Forges(Settings.load(path), pace=pace, transport=transport, sleep=lambda _: None)


def asked_as(answers: Answers) -> list[str]:
    return [request.headers["Authorization"] for request in answers.asked]


def test_each_type_asks_with_its_own_token(tmp_path: Path, answers: Answers) -> None:
    with deployment(tmp_path, answers) as forges:
        for name in ("dev", "boss"):
            forge = forges.of(name)
            assert forge is not None
            forge.get("/user")

    assert asked_as(answers) == ["token token-of-dev-0123", "token token-of-boss-0123"]


@pytest.mark.parametrize("name", ["reviewer", "nobody"])
def test_a_type_without_a_token_has_no_client(tmp_path: Path, answers: Answers, name: str) -> None:
    with deployment(tmp_path, answers) as forges:
        assert forges.of(name) is None


def test_the_account_that_reports_is_the_one_that_merges_unless_another_is_named(
    tmp_path: Path, answers: Answers
) -> None:
    with deployment(tmp_path, answers) as forges:
        assert forges.main() is forges.of("boss")
    with deployment(tmp_path, answers, report_type="dev") as forges:
        assert forges.main() is forges.of("dev")


def test_a_client_is_made_once(tmp_path: Path, answers: Answers) -> None:
    with deployment(tmp_path, answers) as forges:
        assert forges.of("dev") is forges.of("dev")


def test_a_new_token_is_used_also_by_who_has_the_client_already(tmp_path: Path, answers: Answers) -> None:
    with deployment(tmp_path, answers) as forges:
        held = forges.of("dev")
        assert held is not None
        file = tmp_path / "dev.token"
        before = file.stat().st_mtime_ns
        file.write_text("another-token-of-dev\n")
        os.utime(file, ns=(before + 1, before + 1))
        assert forges.of("dev") is held
        held.get("/user")

    assert asked_as(answers) == ["token another-token-of-dev"]


@pytest.mark.parametrize("content", [None, "", "  \n", "two words\n", b"\xff\xfe"])
def test_a_token_that_cannot_be_read_is_told_by_its_file(
    tmp_path: Path, answers: Answers, content: str | bytes | None
) -> None:
    with deployment(tmp_path, answers) as forges:
        file = tmp_path / "dev.token"
        file.unlink()
        if content is not None:
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(NotAllowed, match="token") as caught:
            forges.of("dev")

    assert "two words" not in str(caught.value)
    assert "dev" in str(caught.value)


def test_a_token_that_comes_back_is_used_again(tmp_path: Path, answers: Answers) -> None:
    with deployment(tmp_path, answers) as forges:
        file = tmp_path / "dev.token"
        file.unlink()
        with pytest.raises(NotAllowed):
            forges.of("dev")
        file.write_text("token-that-came-back\n")
        assert forges.of("dev") is not None


def test_all_clients_are_closed_together(tmp_path: Path, answers: Answers) -> None:
    with deployment(tmp_path, answers) as forges:
        held = [forges.of("dev"), forges.of("boss")]

    assert all(forge is not None and forge._client.is_closed for forge in held)


def test_no_client_shows_its_token(tmp_path: Path, answers: Answers) -> None:
    with deployment(tmp_path, answers) as forges:
        assert "token-of-dev" not in f"{forges.of('dev')!r} {forges!r}"
