"""``queuectl queue``: list, pause, resume, limit."""

from __future__ import annotations

import json
from typing import Any, Callable, List

import pytest


def test_switches_and_their_answers(cli: Callable[..., Any]) -> None:
    """Before a queue has jobs, too."""
    assert ("Paused queue mail\n", "", 0) == cli("queue", "pause", "mail")
    assert ("Queue mail now runs at most 2 at once\n", "", 0) == cli("queue", "limit", "mail", "2")
    assert [(True, 2)] == [
        (found["paused"], found["max_running"])
        for found in json.loads(cli("queue", "list", "--json").out)
        if found["name"] == "mail"
    ]
    assert ("Resumed queue mail\n", "", 0) == cli("queue", "resume", "mail")
    assert ("Queue mail now has no limit\n", "", 0) == cli("queue", "limit", "mail", "none")


def test_list(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """JSON Lines when piped, a table on demand, names with -q."""
    add("true")
    add("true", "--queue", "mail")
    cli("queue", "limit", "mail", "3", code=0)
    cli("queue", "pause", "mail", code=0)

    lines = [json.loads(line) for line in cli("queue", "list", code=0).out.splitlines()]
    table = cli("queue", "list", "--table", code=0).out.splitlines()

    assert lines[1] == {
        "name": "mail", "paused": True, "max_running": 3, "pending": 1, "processing": 0, "failed": 0, "completed": 0,
        "dead": 0, "cancelled": 0,
    }  # fmt: skip
    assert table[0].split() == [
        "QUEUE", "PAUSED", "LIMIT", "PENDING", "PROCESSING", "FAILED", "COMPLETED", "DEAD", "CANCELLED",
    ]  # fmt: skip
    assert ["default", "no", "none", "1", "0", "0", "0", "0", "0"] == table[1].split()
    assert ["mail", "yes", "3", "1", "0", "0", "0", "0", "0"] == table[2].split()
    assert "default\nmail\n" == cli("queue", "list", "-q").out


def test_a_paused_queue_waits(
    cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any], jobs: Callable[..., List[Any]]
) -> None:
    """And a drain does not wait for it."""
    cli("queue", "pause", "mail", code=0)
    add("true", "--queue", "mail")
    add("true")
    drain()

    assert ["pending", "completed"] == [found["state"] for found in jobs()]


def test_a_limit_of_none_at_all_is_a_pause(cli: Callable[..., Any]) -> None:
    """Other tools take 0 for it; here it is told how to."""
    said = "queuectl: a queue's limit must be at least 1. To let none of its jobs run: queuectl queue pause Q\n"

    assert ("", said, 1) == cli("queue", "limit", "mail", "0")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["pause"], 2),
        (["pause", "a", "b"], 2),
        (["pause", "a b"], 1),
        (["resume", "../x"], 1),
        (["limit", "mail"], 2),
        (["limit", "mail", "0"], 1),
        (["limit", "mail", "-1"], 1),
        (["limit", "mail", "two"], 1),
        (["limit", "mail", "9" * 30], 1),
    ],
)
def test_what_is_refused(cli: Callable[..., Any], words: List[str], code: int) -> None:
    """A missing word is wrong usage; a value that does not fit could not be set."""
    result = cli("queue", *words)

    assert (result.out, result.code) == ("", code)
    assert result.err.count("\n") == 1
