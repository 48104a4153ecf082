"""``queuectl dlq``: the dead letter queue."""

from __future__ import annotations

import json
import sys
from typing import Any, Callable, Dict, List

import pytest


@pytest.fixture
def dead(add: Callable[..., str], drain: Callable[..., Any]) -> None:
    """job1 and job2 dead, job3 completed."""
    add("echo starting&& echo disk \033[31mfull>&2&& exit 3", "--max-retries", "1", "--backoff-base", "1")
    add("exit 4", "--max-retries", "0", "--queue", "mail", "--tag", "t")
    add("true")
    drain()


def test_list_with_reason_and_last_error(cli: Callable[..., Any], dead: None) -> None:
    """The last line that the job wrote usually says what was wrong."""
    rows = cli("dlq", "list", "--table", code=0).out.splitlines()
    found = [json.loads(line) for line in cli("dlq", "list", code=0).out.splitlines()]

    assert ["ID", "QUEUE", "FAILED", "DIED", "REASON", "LAST", "ERROR", "COMMAND"] == rows[0].split()
    assert "  exit 3  disk \\x1b[31mfull  echo starting&& echo" in rows[1]
    assert 3 == len(rows)
    assert [("job2", "exit 4", ""), ("job1", "exit 3", "disk \x1b[31mfull")] == sorted(
        ((job["id"], job["reason"], job["last_error"]) for job in found), reverse=True
    )
    assert ["dead", "dead"] == [job["state"] for job in found]
    assert found == json.loads(cli("dlq", "list", "--json", code=0).out)


def test_the_last_error_may_stand_far_above_the_end(
    cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]
) -> None:
    """Some commands end with thousands of empty lines."""
    blank = f"{sys.executable} -c \"print('disk full' + chr(10) * 30000); exit(3)\""
    add(blank, "--max-retries", "0")
    drain()

    assert "disk full" == json.loads(cli("dlq", "list", code=0).out)["last_error"]


def test_list_takes_filters(cli: Callable[..., Any], dead: None) -> None:
    """As ``list`` does."""
    assert "job2\n" == cli("dlq", "list", "-q", "--queue", "mail").out
    assert "job2\n" == cli("dlq", "list", "-q", "--tag", "t").out
    assert "job1\n" == cli("dlq", "list", "-q", "--limit", "1", "--sort", "id").out


@pytest.mark.posix
def test_an_empty_dlq(terminal: Callable[..., str], cli: Callable[..., Any]) -> None:
    """Is said to people, and is nothing to a pipe."""
    assert "No jobs in the DLQ.\n" == terminal("dlq", "list")
    assert ("", "", 0) == cli("dlq", "list")
    assert ("[]\n", "", 0) == cli("dlq", "list", "--json")


def test_retry_one(cli: Callable[..., Any], dead: None, job: Callable[[str], Dict[str, Any]]) -> None:
    """Everything starts over, but the history stays."""
    assert ("Job retried\n", "", 0) == cli("dlq", "retry", "job1")

    found = job("job1")
    assert (found["state"], found["attempts"], found["failures"], found["losses"]) == ("pending", 0, 0, 0)
    assert 2 == len(found["runs"])


def test_retry_several_and_all(cli: Callable[..., Any], dead: None, jobs: Callable[..., List[Any]]) -> None:
    """Only dead ones, however it is said."""
    assert ("2 jobs retried\n", "", 0) == cli("dlq", "retry", "job1", "job2")
    assert ("0\n", "", 0) == cli("dlq", "retry", "--all", "-q")  # as "retry --state dead -q" says it
    assert ("No jobs in the DLQ.\n", "", 0) == cli("dlq", "retry", "--all")
    assert ["pending", "pending", "completed"] == [found["state"] for found in jobs()]


@pytest.mark.parametrize("missing", ["job3", "job9"])
def test_retry_of_what_is_not_dead(
    cli: Callable[..., Any], dead: None, jobs: Callable[..., List[Any]], missing: str
) -> None:
    """All or nothing, with exit code 1."""
    assert ("", f"queuectl: Job not found in DLQ: {missing}.\n", 1) == cli("dlq", "retry", "job1", missing)
    assert "dead" == jobs()[0]["state"]


@pytest.mark.parametrize("words", [["retry"], ["retry", "job1", "--all"], ["list", "job1"], ["purge", "job1"]])
def test_wrong_usage(cli: Callable[..., Any], words: List[str]) -> None:
    """Exit code 2."""
    assert cli("dlq", *words).code == 2


def test_purge_asks(cli: Callable[..., Any], dead: None) -> None:
    """The end of input is no."""
    question = "This will delete 2 jobs (2 dead) with their runs and output. Continue? (y/N): \n"

    assert (question + "Purge cancelled.\n", "", 1) == cli("dlq", "purge")
    assert (question + "Purge cancelled.\n", "", 1) == cli("dlq", "purge", input="n\n")
    assert (question + "Deleted 2 jobs.\n", "", 0) == cli("dlq", "purge", input="y\n")
    assert ("No jobs to delete.\n", "", 0) == cli("dlq", "purge")
    assert "job3\n" == cli("list", "-q").out


def test_purge_by_age_and_filter(cli: Callable[..., Any], dead: None) -> None:
    """For scripts, without a question."""
    assert ("No jobs to delete.\n", "", 0) == cli("dlq", "purge", "--older-than", "1h", "--yes")
    assert ("Deleted 1 job.\n", "", 0) == cli("dlq", "purge", "--queue", "mail", "-y")
    assert {"deleted": 1} == json.loads(cli("dlq", "purge", "--older-than", "0", "--yes", "--json").out)
