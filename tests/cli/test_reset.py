"""``queuectl reset``: stop all workers, delete everything."""

from __future__ import annotations

from typing import Any, Callable

import pytest

QUESTION = "This will stop all workers and delete all jobs. Continue? (y/N): "


@pytest.mark.parametrize("answer", [None, "", "\n", "n\n", "N\n", "maybe\n", "\0\n"])
def test_no_is_the_default(cli: Callable[..., Any], add: Callable[..., str], answer: Any) -> None:
    """The end of input means no; exit code 1, and all is as it was."""
    add("true")

    assert (QUESTION + "\nReset cancelled.\n", "", 1) == cli("reset", input=answer)
    assert "job1\n" == cli("list", "-q").out


def test_an_answer_that_is_no_text_is_no(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """A key of a keyboard in another encoding, say: where Python is strict about it too."""
    add("true")

    refused = cli("reset", input=b"\xffy\n", env={"PYTHONIOENCODING": "utf-8:strict"})

    assert (QUESTION + "\nReset cancelled.\n", "", 1) == refused
    assert "job1\n" == cli("list", "-q").out


@pytest.mark.parametrize("answer", ["y\n", "Y", "yes\n", " y \n"])
def test_yes(cli: Callable[..., Any], add: Callable[..., str], answer: str) -> None:
    """``echo y | queuectl reset``: jobs, settings and queues are gone, ids start again."""
    add("true")
    cli("config", "set", "max_retries", "9", code=0)
    cli("queue", "pause", "mail", code=0)

    assert (QUESTION + "\nQueue reset.\n", "", 0) == cli("reset", input=answer)
    assert "" == cli("list", "-q").out
    assert "3\n" == cli("config", "get", "max_retries").out
    assert "mail" not in cli("queue", "list").out
    assert "Enqueued job job1\n" == cli("enqueue", "--", "true").out


def test_without_a_question(cli: Callable[..., Any]) -> None:
    """For scripts; ``-q`` says nothing at all."""
    assert ("Queue reset.\n", "", 0) == cli("reset", "--yes")
    assert ("", "", 0) == cli("reset", "-y", "-q")


@pytest.mark.posix
def test_workers_are_stopped_first(
    cli: Callable[..., Any], add: Callable[..., str], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """Also one in the middle of a job, whose processes are ended."""
    add("sleep 60")
    with worker() as group:
        eventually(lambda: "picked job job1" in group.out)

        assert ("Queue reset.\n", "", 0) == cli("reset", "--yes")
        assert group.wait().code == 0


@pytest.mark.posix
def test_on_a_terminal(terminal: Callable[..., str], home: Any) -> None:
    """Asked there too; nobody answers for a second ``--yes``."""
    assert "Queue reset.\n" == terminal("reset", "--yes")
