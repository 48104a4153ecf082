"""Tables, widths and escapes."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl import render


@given(st.text())
def test_escaped_text_is_one_harmless_line(text: str) -> None:
    """Nothing that is left can move a cursor, start a line or turn the text round."""
    shown = render.escape(text)

    assert all(char.isprintable() or char in "\u00a0\u3000\u200d" for char in shown)
    assert len(shown.splitlines()) <= 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \u00fc \u4e2d \U0001f600", "plain \u00fc \u4e2d \U0001f600"),
        ("\x1b[0m\n\t\r\0", "\\x1b[0m\\n\\t\\r\\x00"),
        ("\udcff\ud800", "\\udcff\\ud800"),
        ("a\\nb", "a\\nb"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    """Readable text stays as it is, emoji joined by a joiner too."""
    assert shown == render.escape(text)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("abc", 3), ("\u4e2d\u4e2d", 4), ("e\u0301", 1), ("", 0),
        ("\u0e17\u0e35\u0e48", 1),  # Thai: a letter, a vowel above it and a tone above that
        ("\u0915\u0941", 1), ("1\u20e3", 1), ("\u2764\ufe0f", 1),
    ],
)  # fmt: skip
def test_width(text: str, columns: int) -> None:
    """As a terminal counts: wide characters take two, combining ones none."""
    assert columns == render.width(text)


@pytest.mark.parametrize(
    ("encoding", "text", "columns", "shown"),
    [
        ("utf-8", "abcdef", 6, "abcdef"),
        ("utf-8", "abcdef", 5, "abcd\u2026"),
        ("ascii", "abcdef", 5, "ab..."),
        ("utf-8", "\u4e2d\u4e2d\u4e2d", 5, "\u4e2d\u4e2d\u2026"),
        ("cp1252", "abcdef", 4, "abc\u2026"),
    ],
)
def test_shortening(monkeypatch: pytest.MonkeyPatch, encoding: str, text: str, columns: int, shown: str) -> None:
    """With an ellipsis that the output can say."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))

    assert shown == render.shorten(text, columns)


def test_a_table_of_no_rows_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Not even its headers."""
    assert 0 == render.write_table(("A", "B"), [])
    assert "" == capsys.readouterr().out


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns as wide as their widest cell, numbers to the right, no blanks at the end of lines."""
    assert 2 == render.write_table(("NAME", "N", "TEXT"), [("a", "7", "x y"), ("\u4e2d\u4e2d\u4e2d", "10", "")], ("N",))
    assert "NAME     N  TEXT\na        7  x y\n\u4e2d\u4e2d\u4e2d  10\n" == capsys.readouterr().out


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make standard output a terminal of so many columns."""

    def set_width(columns: int) -> None:
        monkeypatch.setattr(render, "is_terminal", lambda stream=None: True)
        monkeypatch.setenv("COLUMNS", str(columns))

    return set_width


ROW = ("job1", "default", "a long error that goes on", "a long command that goes on")


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (80, f"ID    QUEUE    ERROR                      COMMAND\n{ROW[0]}  {ROW[1]}  {ROW[2]}  {ROW[3]}\n"),
        (
            60,
            """\
ID    QUEUE    ERROR                  COMMAND
job1  default  a long error that go\u2026  a long command that g\u2026
""",
        ),
        (38, "ID    ERROR            COMMAND\njob1  a long error t\u2026  a long command\u2026\n"),
    ],
)
def test_a_table_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], on_terminal: Callable[[int], None], columns: int, shown: str
) -> None:
    """Texts share the room; a column that can be spared goes when they would become too short; no line is too long."""
    on_terminal(columns)

    render.write_table(("ID", "QUEUE", "ERROR", "COMMAND"), [ROW], cut=("ERROR",), spare=("QUEUE",))

    out = capsys.readouterr().out
    assert shown == out
    assert all(render.width(line) <= columns for line in out.splitlines())


def test_a_width_that_is_no_number_is_not_heeded(
    on_terminal: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one that Python takes for a digit and yet reads no number from."""
    on_terminal(0)
    monkeypatch.setattr("os.get_terminal_size", lambda fd: os.terminal_size((38, 24)))
    monkeypatch.setattr("sys.stdout", _Terminal())
    for columns in ("\u00b2", "wide", "-5", "0"):
        monkeypatch.setenv("COLUMNS", columns)
        assert 38 == render.terminal_width() + render._SPARED_COLUMNS


class _Terminal(io.StringIO):
    """Standard output that has a descriptor, for who asks how wide it is."""

    def fileno(self) -> int:
        return 1


@pytest.mark.parametrize(("windows", "widest"), [(False, 38), (True, 37)])
def test_the_last_column_of_a_windows_console_stays_free(
    monkeypatch: pytest.MonkeyPatch, on_terminal: Callable[[int], None], windows: bool, widest: int
) -> None:
    """A full line moves its cursor on, and each cut row would be followed by an empty line."""
    on_terminal(0)
    monkeypatch.delenv("COLUMNS")
    shown = _Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setattr("os.get_terminal_size", lambda fd: os.terminal_size((38, 24)))
    monkeypatch.setattr(render, "_SPARED_COLUMNS", 1 if windows else 0)

    render.write_table(("ID", "COMMAND"), [("job1", "x" * 100)])

    assert widest == max(render.width(line) for line in shown.getvalue().splitlines())


def test_the_last_column_may_be_wrapped(capsys: pytest.CaptureFixture[str], on_terminal: Callable[[int], None]) -> None:
    """Where a text is to be read and not recognised."""
    on_terminal(30)

    render.write_table(
        ("NAME", "MEANING"), [("lease", "how long a silent worker keeps its jobs"), ("b", "c")], wrap=True
    )

    assert (
        "NAME   MEANING\n"
        "lease  how long a silent\n"
        "       worker keeps its jobs\n"
        "b      c\n"
    ) == capsys.readouterr().out  # fmt: skip


def test_an_id_is_never_cut(capsys: pytest.CaptureFixture[str], on_terminal: Callable[[int], None]) -> None:
    """Not even one that is wider than the thousand rows that the widths are taken from."""
    on_terminal(20)

    render.write_table(("ID", "COMMAND"), [*[("j1", "x")] * 1000, ("job100000", "true")])

    assert "job100000  true" == capsys.readouterr().out.splitlines()[-1]


def test_rows_beyond_those_that_the_widths_are_from(
    capsys: pytest.CaptureFixture[str], on_terminal: Callable[[int], None]
) -> None:
    """One with a longer id is cut to the terminal all the same, and one with a longer text not before it has to be."""
    on_terminal(30)
    rows = [("j1", "make"), *[("j2", "x")] * 1000, ("job100000", "y" * 30), ("j3", "z" * 26), ("j4", "z" * 27)]

    render.write_table(("ID", "COMMAND"), rows)

    out = capsys.readouterr().out.splitlines()
    assert ["job100000  " + "y" * 18 + "\u2026", "j3  " + "z" * 26, "j4  " + "z" * 25 + "\u2026"] == out[-3:]


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (120, f"ID{'':94}QUEUE    COMMAND\n{'a' * 94}  default  true\n{'job1':94}  default  make all\n"),
        (60, f"ID{'':30}QUEUE    COMMAND\n{'a' * 29}\u2026  default  true\n{'job1':30}  default  make all\n"),
        (44, f"ID{'':30}COMMAND\n{'a' * 29}\u2026  true\n{'job1':30}  make all\n"),
    ],
)
def test_one_long_id_does_not_wreck_a_table(
    capsys: pytest.CaptureFixture[str], on_terminal: Callable[[int], None], columns: int, shown: str
) -> None:
    """It is cut, as far as a name is, before a column is left out; with room enough it stays whole."""
    on_terminal(columns)
    rows = [("a" * 94, "default", "true"), ("job1", "default", "make all")]

    render.write_table(("ID", "QUEUE", "COMMAND"), rows, spare=("QUEUE",), names=("ID", "QUEUE"))

    out = capsys.readouterr().out
    assert shown == out
    assert all(render.width(line) <= columns for line in out.splitlines())


def test_a_value_of_several_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """They stand below each other, where no line looks like another field."""
    render.write_fields([("id", "job1"), ("command", "cd /tmp\nstate: dead")])

    assert "id:      job1\ncommand: cd /tmp\n         state: dead\n" == capsys.readouterr().out


@pytest.mark.parametrize("items", [[], [{"a": 1}], [{"a": "\u00fc\x1b"}, {}]])
def test_an_array_is_streamed_and_valid(capsys: pytest.CaptureFixture[str], items: list) -> None:
    """Item by item, and one document in the end."""
    render.write_json_array(iter(items))

    out = capsys.readouterr().out
    assert items == json.loads(out)
    assert out.isascii()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3_500_000, "3.3 MiB"), (2**40, "1024 GiB")],
)
def test_sizes(size: int, text: str) -> None:
    """Short, with one digit behind the point where it says something."""
    assert text == render.size_text(size)
