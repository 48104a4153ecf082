"""``queuectl prune``: delete jobs that have ended."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, List

import pytest

from queuectl import Queue


@pytest.fixture
def ended(cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]) -> None:
    """job1 completed, job2 dead, job3 cancelled, job4 pending."""
    add("echo hi")
    add("exit 1", "--max-retries", "0")
    add("true", "--delay", "1h")
    cli("cancel", "job3", code=0)
    drain()
    add("true")


def test_it_asks_and_no_is_the_default(cli: Callable[..., Any], ended: None) -> None:
    """With the number of jobs by state; only y or yes is yes."""
    question = (
        "This will delete 3 jobs (1 completed, 1 dead, 1 cancelled) with their runs and output. Continue? (y/N): \n"
    )

    for answer in ("", "\n", "n\n", "no\n", "yep\n"):
        assert (question + "Prune cancelled.\n", "", 1) == cli("prune", input=answer)
    assert (question + "Deleted 3 jobs.\n", "", 0) == cli("prune", input="Yes\n")
    assert "job4\n" == cli("list", "-q").out
    assert ("No jobs to delete.\n", "", 0) == cli("prune")


def test_by_state_and_age(cli: Callable[..., Any], ended: None) -> None:
    """What waits or runs is never deleted."""
    assert ("No jobs to delete.\n", "", 0) == cli("prune", "--older-than", "1h", "--yes")
    assert ("Deleted 1 job.\n", "", 0) == cli("prune", "--state", "completed", "--yes")
    assert {"deleted": 2} == json.loads(cli("prune", "--json", "--yes").out)
    assert cli("prune", "--state", "pending").code == 2
    assert cli("prune", "--older-than", "soon").code == 2


def test_the_question_says_of_what_age(cli: Callable[..., Any], ended: None) -> None:
    """A number is in seconds: who meant days sees it before anything is gone."""
    with Queue() as queue:
        with contextlib.closing(sqlite3.connect(queue.store.location)) as db, db:
            db.execute("UPDATE jobs SET ended_at = ended_at - 7200 WHERE state <> 'dead'")
        asked = {
            age: cli("prune", "--older-than", age, input="n\n").out.partition(". ")[0]
            for age in ("90", "1h", "0", "3h")
        }

    some = "(1 completed, 1 cancelled) with their runs and output"
    assert asked == {
        "90": f"This will delete 2 jobs that ended more than 1 min 30 s ago {some}",
        "1h": f"This will delete 2 jobs that ended more than 1 h ago {some}",
        "0": "This will delete 3 jobs (1 completed, 1 dead, 1 cancelled) with their runs and output",
        "3h": "No jobs to delete.\n",
    }


def test_a_number_is_not_used_again(cli: Callable[..., Any], ended: None) -> None:
    """Ids go on counting."""
    cli("prune", "--yes", code=0)

    assert "Enqueued job job5\n" == cli("enqueue", "--", "true").out


def test_json_leaves_standard_output_to_the_document(cli: Callable[..., Any], ended: None) -> None:
    """The question goes to standard error."""
    result = cli("prune", "--json", input="y\n")

    assert {"deleted": 3} == json.loads(result.out)
    assert result.err.startswith("This will delete 3 jobs")


@pytest.mark.parametrize("words", [["prune"], ["dlq", "purge"]], ids=" ".join)
def test_what_ends_while_it_asks_stays(
    cli: Callable[..., Any], ended: None, add: Callable[..., str], drain: Callable[..., Any], words: List[str]
) -> None:
    """It is not among those that the question counted: nobody has agreed to its deletion."""
    command = [sys.executable, "-m", "queuectl", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as asking:
        assert asking.stdin is not None
        assert asking.stdout is not None
        said = b""
        while not said.endswith(b"(y/N): "):
            said += asking.stdout.read(1)
        late = add("exit 1", "--max-retries", "0")
        drain()
        out, _ = asking.communicate(b"y\n")

    deleted = 3 if words == ["prune"] else 1
    assert f"Deleted {deleted} job" in out.decode()
    assert late + "\n" in cli("list", "-q", "--state", "dead").out


def test_one_job_is_asked_about_in_the_singular(cli: Callable[..., Any], ended: None) -> None:
    """Its runs, not theirs."""
    result = cli("prune", "--state", "dead", input="n\n")

    assert result.out.startswith("This will delete 1 job (1 dead) with its runs and output. Continue? ")


@pytest.mark.posix
def test_bars_on_a_terminal(home: Path, terminal: Callable[..., str], cli: Callable[..., Any]) -> None:
    """What takes seconds where jobs are many says how far it is, and nothing in a pipe; it is gone at the end."""
    with Queue() as queue:
        queue.cancel(*queue.enqueue_many(["true"] * 2500))
        retried = terminal("retry", "--state", "cancelled")
        cancelled = terminal("cancel", "--state", "pending")
        deleted = terminal("prune", "--yes")
        checked = terminal("doctor")
        queue.cancel(*queue.enqueue_many(["true"] * 1500))
        piped = cli("retry", "--state", "cancelled", code=0)

    assert "1,000 jobs retried" in retried
    assert "Retried 2,500 jobs" == retried.rpartition("\r")[2].strip()
    assert "1,000 jobs cancelled" in cancelled
    assert "Cancelled 2,500 jobs" == cancelled.rpartition("\r")[2].strip()
    assert "] 100%  2,500 jobs deleted" in deleted
    assert "Deleted 2,500 jobs." == deleted.rpartition("\r")[2].strip()
    assert "reading the whole store\r" in checked
    assert ("Retried 1,500 jobs\n", "") == (piped.out, piped.err)
