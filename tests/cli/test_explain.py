"""``queuectl explain``: why a job is where it is, and what will move it on."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from typing import Any, Callable, Optional

import pytest


def test_pending_without_a_worker(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """The most frequent question of all."""
    add("true", "--at", "2020-01-01T00:00:00Z")
    add("true", "--at", "2020-01-01T00:00:01Z")

    lines = cli("explain", "job2", code=0).out.splitlines()

    # Since it was there, not since 2020.
    assert re.fullmatch(r"job2 is pending, and has been due for [\d.]+ m?s\.", lines[0])
    assert lines[1:] == [
        "1 due job is ahead of it in queue default.",
        "No live worker serves queue default. Start one: queuectl worker start",
    ]


def test_not_due_yet(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """When it is, and how to change that."""
    add("true", "--delay", "2h")

    lines = cli("explain", "job1", code=0).out.splitlines()

    assert lines[0] == "job1 is pending and not due yet."
    assert lines[1].startswith("It is due at ")
    assert lines[1].endswith((", in 2 h.", ", in 1 h 59 min."))  # a slow machine takes its time
    assert lines[-1] == "Make it due now: queuectl edit job1 delay=0"


def test_a_paused_queue_and_a_limit(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """Each with the command that lifts it."""
    add("true", "--queue", "mail")
    cli("queue", "pause", "mail", code=0)

    assert "Queue mail is paused. Resume it: queuectl queue resume mail\n" in cli("explain", "job1", code=0).out


def test_a_running_job_and_one_behind_a_limit(
    cli: Callable[..., Any], add: Callable[..., str], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """Which run, since when, where, and what a failure would do."""
    cli("queue", "limit", "default", "1", code=0)
    add("sleep 60", "--timeout", "5m")
    add("true")
    with worker("--count", "2") as group:
        eventually(lambda: "picked job job1" in group.out)
        running = cli("explain", "job1", code=0).out
        waiting = cli("explain", "job2", code=0).out
        cli("cancel", "job1", code=0)

    assert running.startswith("job1 is running: run 1, started at ")
    assert "Its timeout is 5 min. Then its processes are ended, and the run fails." in running
    assert "If it fails, retry 1 of 3 follows after 2 s." in running
    assert "Follow it: queuectl logs -f job1. Cancel it: queuectl cancel job1.\n" in running
    assert "Queue default is at its limit: 1 job is running, and at most 1 may. Remove the limit: " in waiting
    assert "2 live workers serve queue default." in waiting


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), r"Its only slot is taken by job1 since \S+\. job4 is waiting for it\."),
        (("--concurrency", "2"), r"All 2 of its slots are taken\. job4 is waiting for one\."),
        (("--count", "3"), r"All 3 slots of the 3 workers are taken\. job4 is waiting for one\."),
        (("--concurrency", "3"), None),
    ],
)
def test_a_job_that_waits_for_a_slot(
    cli: Callable[..., Any],
    add: Callable[..., str],
    worker: Callable[..., Any],
    eventually: Callable[..., Any],
    words: Any,
    said: Optional[str],
) -> None:
    """The most usual reason: everybody is busy. It is not given where somebody has a slot free."""
    jobs = ["job1", "job2", "job3"][: int(words[1]) if said and words else 1]
    for job_id in jobs:
        add("sleep 60", "--id", job_id)
    with worker(*words) as group:
        eventually(lambda: all(f"picked job {job_id}:" in group.out for job_id in jobs))
        add("sleep 60", "--id", "job4", *([] if said else ["--delay", "1h"]))
        lines = cli("explain", "job4", code=0).out.splitlines()
        cli("cancel", *jobs, "job4", code=0)

    if said is None:
        assert not any("taken" in line for line in lines)
    else:
        assert re.fullmatch(said, lines[-1]), lines


@pytest.mark.posix("signals that stop a process")
@pytest.mark.skipif(sys.platform != "linux", reason="whether a process is stopped is read from /proc")
def test_a_worker_that_a_signal_holds(
    cli: Callable[..., Any], add: Callable[..., str], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """It lives and does nothing: told by ``explain`` of what it runs and of what waits, by the lists and ``doctor``."""
    add("sleep 60")
    add("true", "--queue", "mail")
    with worker("--queue", "default") as group, worker("--queue", "mail"):
        eventually(lambda: "picked job job1" in group.out)
        eventually(lambda: "completed" in cli("show", "job2").out)
        pids = {each["queues"][0]: each["pid"] for each in json.loads(cli("worker", "list", "--json").out)}
        for pid in pids.values():
            os.kill(pid, signal.SIGSTOP)
        try:
            add("true", "--queue", "mail")
            running, waiting = (cli("explain", job_id, code=0).out for job_id in ("job1", "job3"))
            seen = [cli(*words).out for words in (["status"], ["worker", "list", "--table"], ["doctor"])]
        finally:
            for pid in pids.values():
                os.kill(pid, signal.SIGCONT)
        after = cli("explain", "job1", code=0).out
        cli("cancel", "job1", code=0)

    held = "paused by a signal such as Ctrl-Z."
    assert (
        f"That worker is {held} Resume it within 42 s, or another worker ends it and makes the job pending again, "
        f"which costs no retry: kill -CONT {pids['default']}\n"
    ) in running
    assert waiting.endswith(f"1 live worker serves queue mail.\nIt is {held} Resume it: kill -CONT {pids['mail']}\n")
    assert [", paused by a signal\n" in text for text in seen[:2]] == [True, True]
    assert f"worker 0, pid {pids['mail']}, is {held}\n" in seen[2]
    assert f"Resume it: kill -CONT {pids['mail']}\n" in seen[2]
    assert "paused" not in after


def test_failed_and_dead(
    cli: Callable[..., Any], add: Callable[..., str], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """The reason, the retry that comes, and what to type."""
    add("exit 3", "--backoff-base", "1000")
    add("(echo why) && exit 4", "--max-retries", "0")
    add("exit 5", "--max-retries", "0")
    with worker() as group:
        eventually(lambda: "job job3 dead" in group.out)
        failed = cli("explain", "job1", code=0).out
        dead = cli("explain", "job2", code=0).out

    assert failed.startswith("job1 failed (exit 3) and is waiting for retry 1 of 3.\n")
    assert "Make it due now: queuectl retry job1\n" in failed
    assert dead.startswith("job2 died at ")
    assert " ago, and is in the DLQ: exit 4.\n" in dead
    assert "It failed 1 time, and its max_retries is 0." in dead
    assert "See its last output: queuectl logs job2. Run it again: queuectl dlq retry job2.\n" in dead
    silent = cli("explain", "job3", code=0).out
    assert "Its last run printed nothing. Run it again: queuectl dlq retry job3.\n" in silent


def test_a_retry_that_is_due(
    cli: Callable[..., Any], add: Callable[..., str], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """It waits for a worker, not for a time: nothing is to be done that would make it due."""
    add("exit 3", "--backoff-base", "1000")
    with worker() as group:
        eventually(lambda: "job job1 failed" in group.out)
    cli("edit", "job1", "delay=0", code=0)

    lines = cli("explain", "job1", code=0).out.splitlines()

    assert re.fullmatch(r"job1 failed \(exit 3\), and retry 1 of 3 has been due for [\d.]+ m?s\.", lines[0])
    assert lines[1:] == [
        "No job is ahead of it in queue default.",
        "No live worker serves queue default. Start one: queuectl worker start",
    ]


def test_completed_and_cancelled(cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]) -> None:
    """When, and how to run it again."""
    add("true")
    drain()
    add("true")
    cli("cancel", "job2", code=0)

    assert cli("explain", "job1", code=0).out.startswith("job1 completed at ")
    assert cli("explain", "job2", code=0).out.startswith("job2 was cancelled at ")


def test_json_and_unknown(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """The sentences as data."""
    add("true")

    document = json.loads(cli("explain", "--json", "job1", code=0).out)

    assert (document["id"], document["state"], len(document["sentences"])) == ("job1", "pending", 3)
    assert cli("explain", "job9").code == 1
