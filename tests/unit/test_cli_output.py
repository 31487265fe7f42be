"""How commands speak: tables that fit, text of strangers that cannot steer a terminal."""

import io
import sys
from datetime import UTC, datetime, timedelta

import pytest
from click import unstyle
from hypothesis import given
from hypothesis import strategies as st

from webapp.cli import output
from webapp.cli.output import Column, Fit, Styled, age, fitted, iso, safe, shared, table

COLUMNS = (
    Column("ID", is_number=True),
    Column("STATE"),
    Column("ABOUT", Fit.CUT_START),
    Column("TITLE", Fit.CUT, is_optional=True),
    Column("NOTES", Fit.WRAP, is_optional=True),
)
ROWS: list[list[output.Cell]] = [
    ["7", Styled("running", "cyan"), "acme/a-shop-with-a-long-name#1234", "A title that is rather long", "x " * 20],
    ["12", Styled("queued", "yellow"), "acme/shop#2", "", "-"],
]


class Terminal(io.StringIO):
    """A standard output that a person looks at."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, width: int, rows: list[list[output.Cell]] = ROWS) -> list[str]:
    """Return the lines of the table on a terminal of that width."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    table(COLUMNS, rows, empty="Nothing.")
    return [line.rstrip() for line in unstyle(terminal.getvalue()).splitlines()]


def test_a_pipe_gets_every_column_uncut_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    table(COLUMNS, ROWS, empty="Nothing.")

    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "STATE", "ABOUT", "TITLE", "NOTES"]
    assert str(ROWS[0][2]) in first
    assert second.split() == ["12", "queued", "acme/shop#2", "-", "-"]
    assert head.index("STATE") == first.index("running") == second.index("queued")


def test_an_empty_table_is_only_its_head_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    table(COLUMNS, [], empty="Nothing.")

    assert len(capsys.readouterr().out.splitlines()) == 1


def test_an_empty_table_is_a_sentence_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, 80, []) == ["Nothing."]


@pytest.mark.parametrize("width", [50, 80, 100, 200])
def test_a_table_is_no_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    assert max(map(len, drawn(monkeypatch, width))) <= width


def test_of_a_long_name_the_number_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(monkeypatch, 60)

    assert "#1234" in lines[1]
    assert "…" in lines[1]


def test_a_column_without_room_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(monkeypatch, 30)

    assert lines[0].split() == ["ID", "STATE", "ABOUT"]
    assert "No room for NOTES, TITLE" in " ".join(lines)


def test_a_column_that_is_empty_everywhere_is_left_out_on_a_terminal() -> None:
    widths, left_out = fitted(COLUMNS, [["1", "queued", "a/b#1", "title", "-"]], 100)

    assert (list(widths), left_out) == ([0, 1, 2, 3], [])


@given(natural=st.lists(st.integers(1, 200), min_size=1, max_size=6), room=st.integers(60, 300))
def test_room_is_shared_without_waste_and_without_excess(natural: list[int], room: int) -> None:
    given_out = shared(dict(enumerate(natural)), room)

    assert all(given_out[i] <= width for i, width in enumerate(natural))
    assert sum(given_out.values()) <= max(room, output.NARROW * len(natural))
    assert sum(given_out.values()) >= min(sum(natural), room - len(natural))


@given(text=st.text())
def test_no_text_can_steer_a_terminal(text: str) -> None:
    shown = safe(text, keep="\n\t")

    assert all(c.isprintable() or c in "\n\t" for c in shown)


def test_an_escape_is_shown_as_what_it_is() -> None:
    assert safe("\x1b[31mred\u202e") == r"\x1b[31mred\u202e"


def test_markup_of_a_title_is_only_text(monkeypatch: pytest.MonkeyPatch) -> None:
    row: list[output.Cell] = ["1", "queued", "a/b#1", "[bold]x[/bold] :smile:", ""]

    assert "[bold]x[/bold] :smile:" in drawn(monkeypatch, 100, [row])[1]


@pytest.mark.parametrize(
    ("seconds", "words"), [(-3, "0s"), (59, "59s"), (61, "1m"), (7200, "2h"), (86400, "24h"), (3 * 86400, "3d")]
)
def test_an_age_has_one_unit(seconds: float, words: str) -> None:
    now = datetime(2026, 1, 5, tzinfo=UTC)

    assert age(now - timedelta(seconds=seconds), now) == words


def test_a_time_is_iso_in_utc() -> None:
    assert iso(datetime(2026, 1, 5, 9, 0, 0, 123456, tzinfo=UTC)) == "2026-01-05T09:00:00.123Z"
