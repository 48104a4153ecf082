"""``queuectl show``: everything about one job."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict

import pytest


def test_a_waiting_job(cli: Callable[..., Any], add: Callable[..., str], home: Any) -> None:
    """Aligned fields; what was not given is not shown."""
    add("echo hi", "--tag", "a", "--tag", "b", "--timeout", "90", "--env", "K=v", "--delay", "1h")

    lines = cli("show", "job1", code=0).out.splitlines()

    assert lines[:11] == [
        "id:          job1",
        "state:       pending",
        "command:     echo hi",
        "queue:       default",
        "priority:    0",
        "attempts:    0 (0 failed, 0 lost in a row)",
        "max retries: 3",
        f"directory:   {home.parent}",
        "timeout:     1 min 30 s",
        "tags:        a, b",
        "environment: K=v",
    ]
    assert lines[-1].startswith("runs at:     ")
    assert re.search(r"\(in (1 h|59 min 5\d s)\)$", lines[-1])  # a slow machine takes its time


def test_a_job_that_is_unknown(cli: Callable[..., Any]) -> None:
    """Exit code 1 and where to look."""
    assert ("", "queuectl: Job not found: job9. 'queuectl list' shows the ids.\n", 1) == cli("show", "job9")


def test_runs_as_data(add: Callable[..., str], drain: Callable[..., Any], job: Callable[[str], Dict[str, Any]]) -> None:
    """Each run with the keys that scripts may rely on."""
    add("echo out&& exit 3", "--max-retries", "1", "--backoff-base", "1")
    drain()

    found = job("job1")

    assert (found["state"], found["attempts"], found["failures"], found["reason"]) == ("dead", 2, 2, "exit 3")
    assert [1, 2] == [run["number"] for run in found["runs"]]
    for run in found["runs"]:
        assert {
            "run_id", "number", "state", "exit_code", "signal", "started_at", "ended_at", "worker", "host",
            "peak_memory_bytes", "cpu_s",
        } <= set(run)  # fmt: skip
        assert (run["state"], run["exit_code"], run["signal"]) == ("failed", 3, None)
        assert run["started_at"] <= run["ended_at"]
        assert run["started_at"].endswith("Z")
    assert found["runs"][0]["run_id"] < found["runs"][1]["run_id"]
    assert found["output_tail"] == "out"


@pytest.mark.posix("its command is written for a POSIX shell")
def test_runs_and_output_for_people(
    cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]
) -> None:
    """A table of runs, and the last lines with control characters escaped."""
    add("for i in $(seq 20); do echo line $i; done; printf '\\033[31mred\\033[0m\\n'; exit 5", "--max-retries", "0")
    drain()

    out = cli("show", "job1", code=0).out

    assert "\nreason:      exit 5\n" in out
    header, row = out.partition("\nRuns:\n")[2].splitlines()[:2]
    assert ["RUN", "STATE", "STARTED", "TOOK", "EXIT", "MEMORY", "CPU", "WORKER", "HOST"] == header.split()
    assert row.split()[:2] == ["1", "failed"]
    tail = out.partition("Last lines of run 1 (all of them: queuectl logs job1):\n")[2].splitlines()
    assert tail == [f"  line {number}" for number in range(12, 21)] + ["  \\x1b[31mred\\x1b[0m"]


@pytest.mark.posix("its command is written for a POSIX shell")
def test_of_a_progress_bar_its_last_state_is_shown(
    cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any], job: Callable[[str], Dict[str, Any]]
) -> None:
    """As on a terminal; in JSON and in ``logs`` everything is there."""
    bar = "for i in 1 50 99; do printf '\\r%d%%' $i; done"
    add(f"printf 'begun\\r\\n'; {bar}; echo; echo failed; {bar}; printf '\\r'; exit 5", "--max-retries", "0")
    drain()

    out = cli("show", "job1", code=0).out

    tail = out.partition("Last lines of run 1 (all of them: queuectl logs job1):\n")[2].splitlines()
    assert tail == ["  begun", "  99%", "  failed", "  99%"]
    written = "begun\r\n\r1%\r50%\r99%\nfailed\n\r1%\r50%\r99%"
    assert job("job1")["output_tail"] == written


@pytest.mark.posix
def test_signals_have_their_names(cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]) -> None:
    """In the table of runs as in the reason."""
    add("kill -9 $$", "--max-retries", "0")
    drain()

    out = cli("show", "job1", code=0).out

    assert "\nreason:      signal KILL\n" in out
    assert " signal KILL " in out.partition("\nRuns:\n")[2]


@pytest.mark.posix("a terminal")
def test_the_state_has_its_colour_on_a_terminal(
    cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any], terminal: Callable[..., str]
) -> None:
    """As in the lists; not where the output goes elsewhere, or nobody wants it."""
    add("false", "--max-retries", "0")
    drain()

    assert "\nstate:       \x1b[31mdead\x1b[0m\n" in terminal("show", "job1")
    assert "\nstate:       dead\n" in terminal("show", "job1", "--no-color")
    assert "\nstate:       dead\n" in cli("show", "job1", code=0).out


def test_a_run_that_wrote_nothing(cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]) -> None:
    """Is said to have."""
    add("true")
    drain()

    assert "\nRun 1 has no output.\n" in cli("show", "job1", code=0).out
