"""``queuectl list``: jobs, oldest first, in the form that suits where they go."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List

import pytest

POSIX = pytest.mark.posix


@pytest.fixture
def three(add: Callable[..., str]) -> None:
    """Three jobs that differ in everything a listing may ask for."""
    add("echo one", "--queue", "mail", "--priority", "1", "--tag", "a")
    add("echo two", "--priority", "9", "--tag", "b", "--delay", "1h")
    add("echo three", "--queue", "mail", "--priority", "5", "--tag", "ab")


def test_json_lines_when_piped(cli: Callable[..., Any], three: None) -> None:
    """An object a line, nothing else: for ``jq`` and ``while read``."""
    result = cli("list", code=0)

    found = [json.loads(line) for line in result.out.splitlines()]
    assert ["job1", "job2", "job3"] == [job["id"] for job in found]
    assert result.err == ""


def test_json_is_one_array(cli: Callable[..., Any], three: None) -> None:
    """The same objects; and an empty array is one too."""
    lines = cli("list").out.splitlines()

    assert [json.loads(line) for line in lines] == json.loads(cli("list", "--json").out)
    assert "[]\n" == cli("list", "--json", "--queue", "none").out


def test_table_on_demand(cli: Callable[..., Any], three: None) -> None:
    """Piped, nothing is cut off."""
    cli("enqueue", "--", "echo", "x" * 300, code=0)

    lines = cli("list", "--table", code=0).out.splitlines()

    assert ["ID", "STATE", "QUEUE", "PRIORITY", "RUNS", "WHEN", "COMMAND"] == lines[0].split()
    assert lines[1].split()[:6] == ["job1", "pending", "mail", "1", "0", "due"]
    assert lines[2].split() == ["job2", "pending", "default", "9", "0", "in", *lines[2].split()[6:]]
    assert lines[4].endswith("x" * 300)
    assert len({line.index(word) for line, word in zip(lines, ("COMMAND", "echo one", "echo two", "echo three"))}) == 1


@POSIX
def test_a_long_id_on_a_terminal(terminal: Callable[..., str], cli: Callable[..., Any]) -> None:
    """No line is wider than the terminal; whoever wants to go on with the id gets all of it."""
    name = "n" * 95
    cli("enqueue", "--id", name, "--queue", name, "--", "true", code=0)
    cli("enqueue", "--", "true", code=0)

    shown = terminal("list", columns=100)
    queues = terminal("queue", "list", columns=100)

    assert all(len(line) <= 100 for line in (shown + queues).splitlines())
    assert [line[:31] for line in shown.splitlines()[1:]] == ["n" * 29 + "\u2026 ", "job1" + " " * 27]
    assert terminal("list", "-q", columns=100) == f"{name}\njob1\n"
    assert name in cli("list", "--table", code=0).out


@POSIX
def test_table_on_a_terminal(terminal: Callable[..., str], add: Callable[..., str]) -> None:
    """No line is wider than the terminal; states are coloured, unless that is not wanted."""
    add("echo " + "x" * 300)
    add("\u4e2d" * 100)

    shown = terminal("list", columns=80)
    plain = terminal("list", columns=80, env={"NO_COLOR": "1"})
    wide = terminal("list", columns=200, env={"COLUMNS": "70", "TERM": "dumb"})

    assert all(len(line) <= 80 for line in plain.splitlines())
    assert plain.splitlines()[1].endswith("xxx\u2026")
    assert "\u4e2d\u4e2d\u2026" in plain
    assert all(len(line) <= 70 for line in wide.splitlines())
    assert "\x1b" not in shown + plain  # pending has no colour
    terminal("cancel", "job1")
    assert "\x1b[35mcancelled\x1b[0m" in terminal("list")
    assert "\x1b" not in terminal("list", "--no-color")
    assert "\x1b" not in terminal("list", env={"TERM": "dumb"})


@POSIX
def test_an_empty_table_is_said_to_people(terminal: Callable[..., str], cli: Callable[..., Any]) -> None:
    """And piped nothing is printed."""
    assert "No jobs. Add one: queuectl enqueue -- echo hello\n" == terminal("list")
    assert "No jobs match.\n" == terminal("list", "--state", "dead")
    assert ("", "", 0) == cli("list")
    assert ("", "", 0) == cli("list", "--table")


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["--queue", "mail"], "13"),
        (["--queue", "mail", "--queue", "default"], "123"),
        (["--tag", "a"], "1"),
        (["--tag", "a", "--tag", "b"], "12"),
        (["--state", "pending"], "123"),
        (["--state", "dead", "--state", "failed"], ""),
        (["--state", "DEAD"], ""),
        (["--limit", "2"], "12"),
        (["--limit", "0"], ""),
        (["--queue", "nobody"], ""),
        (["--sort", "priority"], "132"),
        (["--sort", "-priority"], "231"),
        (["--sort", "id"], "123"),
        (["--sort", "-id"], "321"),
        (["--sort=-run-at"], "231"),
        (["--sort", "-priority", "--limit", "1", "--queue", "mail"], "3"),
    ],
)
def test_choosing_and_sorting(cli: Callable[..., Any], three: None, words: List[str], ids: str) -> None:
    """Filters join: the same option widens, another narrows."""
    assert [f"job{number}" for number in ids] == cli("list", "-q", *words, code=0).out.split()


@pytest.mark.parametrize(("limit", "code"), [("-1", 2), ("x", 2), ("1.5", 2), ("9" * 30, 2), ("", 2)])
def test_a_limit_is_a_number(cli: Callable[..., Any], limit: str, code: int) -> None:
    """Anything else is wrong usage."""
    assert cli("list", "--limit", limit).code == code


def test_ids_by_number_not_by_letter(cli: Callable[..., Any]) -> None:
    """job10 comes after job9."""
    cli("enqueue", "--lines", "--file", "-", input="true\n" * 12, code=0)

    assert [f"job{number}" for number in range(1, 13)] == cli("list", "-q", "--sort", "id").out.split()


def test_more_jobs_than_a_page(cli: Callable[..., Any]) -> None:
    """None is left out, none comes twice."""
    cli("enqueue", "--lines", "--file", "-", input="true\n" * 2500, code=0)
    expected = [f"job{number}" for number in range(1, 2501)]

    assert expected == cli("list", "-q").out.split()
    assert expected[::-1] == cli("list", "-q", "--sort", "-id").out.split()
    assert expected[:1500] == [json.loads(line)["id"] for line in cli("list", "--limit", "1500").out.splitlines()]
    assert 2501 == len(cli("list", "--table").out.splitlines())


HOSTILE = {
    "\x1b[2J\x1b]0;title\x07": "\\x1b[2J\\x1b]0;title\\x07",
    "a\nb\r\tc": "a\\nb\\r\\tc",
    "\u009b31m": "\\x9b31m",
    "\u202etxt.exe\u202c": "\\u202etxt.exe\\u202c",
    "\u2066x\u2069\u200f\u2028": "\\u2066x\\u2069\\u200f\\u2028",
    "\x7f\ufeff": "\\x7f\\ufeff",
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items())
def test_no_control_character_reaches_the_screen(
    cli: Callable[..., Any], jobs: Callable[..., List[Dict[str, Any]]], text: str, shown: str
) -> None:
    """Somebody else's command must not move the cursor, hide text or turn it round; JSON keeps it exactly."""
    cli("enqueue", json.dumps({"command": "echo " + text + "."}), code=0)

    table = cli("list", "--table", code=0).out
    details = cli("show", "job1", code=0).out

    assert f"echo {shown}.\n" in table
    assert f"echo {shown}.\n".replace("\\n", "\n" + " " * 13) in details  # lines stand below each other there
    assert "echo " + text + "." == jobs()[0]["command"]


def test_verbose_says_why_it_is_json_lines(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """Somebody may wonder where the table is."""
    add("true")

    assert "standard output is not a terminal, so this is JSON Lines" in cli("list", "-v", code=0).err
