"""``queuectl status``: how the queue stands."""

from __future__ import annotations

import json
import os
import signal
from typing import Any, Callable, List

import pytest

from queuectl.cli_commands.status import running_jobs
from queuectl.queue import Queue
from tests.store.build import worker as row_of


def test_an_empty_store(cli: Callable[..., Any]) -> None:
    """Every state has its line, in the order of a job's life."""
    result = cli("status", code=0)

    assert result.err == ""
    assert result.out == (
        "Job states:\n"
        "  pending: 0\n"
        "  processing: 0\n"
        "  failed: 0\n"
        "  completed: 0\n"
        "  dead: 0\n"
        "  cancelled: 0\n"
        "Workers: 0 alive\n"
    )


def test_counts_and_what_to_do(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """Due jobs without a worker: how long they wait, and what starts one."""
    add("true")
    add("true")
    add("true", "--queue", "mail")
    cli("cancel", "job2", code=0)
    cli("queue", "pause", "mail", code=0)

    lines = cli("status", code=0).out.splitlines()

    assert lines[1] == "  pending: 2"
    assert lines[6] == "  cancelled: 1"
    assert lines[7:9] == ["Workers: 0 alive", "  Start one: queuectl worker start"]
    assert lines[9].startswith("Oldest due job: waiting for ")
    assert lines[10] == "Paused queues: mail"


@pytest.mark.posix
def test_what_a_dead_worker_left(
    cli: Callable[..., Any], add: Callable[..., str], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """With nobody alive a job that is processing goes on when somebody starts a worker: that is said."""
    add("sleep 60")
    with worker() as group:
        eventually(lambda: "picked job job1" in group.out)
        (pid,) = json.loads("[" + cli("worker", "list", "-q", code=0).out + "]")
        group.send(signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: cli("worker", "list", "-q").out == "")
        lines = cli("status", code=0).out.splitlines()

    assert "  processing: 1" == lines[2]
    assert "  Start one, which also recovers the jobs in processing: queuectl worker start" == lines[8]
    cli("cancel", "job1", code=0)
    cli("worker", "start", "--drain", code=0)


def test_json(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """One document with the contract's keys."""
    add("true", "--at", "2020-01-01T00:00:00Z")

    document = json.loads(cli("status", "--json", code=0).out)

    assert document["jobs"] == {
        "pending": 1, "processing": 0, "failed": 0, "completed": 0, "dead": 0, "cancelled": 0,
    }  # fmt: skip
    assert document["workers"] == []
    assert document["oldest_due_age_s"] > 86400
    alone = json.loads(cli("--json", code=0).out)
    assert {**alone, "oldest_due_age_s": 0} == {**document, "oldest_due_age_s": 0}


def test_a_future_job_has_no_age(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """Only what is due counts."""
    add("true", "--delay", "1h")

    assert json.loads(cli("status", "--json", code=0).out)["oldest_due_age_s"] is None


def test_workers_and_what_they_do(
    cli: Callable[..., Any], add: Callable[..., str], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """Each with pid, host, queues, job and since when."""
    add("sleep 30", "--queue", "mail")
    with worker("--queue", "mail", "--count", "2") as group:
        eventually(lambda: "picked job job1" in group.out and group.out.count("started") == 2)
        out = cli("status", code=0).out
        document = json.loads(cli("status", "--json", code=0).out)
        cli("cancel", "job1", code=0)

    assert "\nWorkers: 2 alive\n  [worker 0] pid " in out
    assert " [mail]: job1 since " in out
    assert " [mail]: idle\n" in out
    assert [0, 1] == [found["number"] for found in document["workers"]]
    busy = next(found for found in document["workers"] if found["jobs"])
    assert (busy["queues"], busy["concurrency"], busy["stopping"]) == (["mail"], 1, False)
    assert busy["jobs"][0]["id"] == "job1"
    assert f"pid={busy['pid']} started" in group.out
    assert document["jobs"]["processing"] == 1


def test_quiet_is_the_counts_alone(cli: Callable[..., Any]) -> None:
    """What was asked for, nothing about it."""
    assert 7 == len(cli("status", "-q", code=0).out.splitlines())


def test_what_runs_is_asked_for_at_once(home: Any) -> None:
    """However many workers run however many jobs: a database server may be far away."""
    with Queue() as queue:
        queue.enqueue_many(["true"] * 50)
        for name in ("w1", "w2"):
            queue.store.register(row_of(name))
        claims = {name: queue.store.claim(name, 20) for name in ("w1", "w2")}
        seen: List[str] = []
        queue.store._db.set_trace_callback(seen.append)

        running = running_jobs(queue)

        assert len(seen) <= 2
    assert running == {name: [(claim.job.id, claim.started_at) for claim in own] for name, own in claims.items()}
