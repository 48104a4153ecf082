"""Many jobs and several workers on Windows: each job once, all at once, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

if os.name != "nt":
    pytest.skip("about Windows: no signals, files in use", allow_module_level=True)

from queuectl import Queue

PYTHON = f'"{sys.executable}" -S'
# Notes its begin and its end; a line is written in one piece, and nobody else writes meanwhile.
NOTE = """
import os, sys, time
def note(word):
    with open("journal-" + os.environ["QUEUECTL_RUN_ID"], "a") as file:
        file.write("%s %s %.3f\\n" % (word, os.environ["QUEUECTL_JOB_ID"], time.time()))
note("begin")
time.sleep(float(sys.argv[1]))
note("end")
"""


@pytest.fixture
def queue(home: Path) -> Iterator[Queue]:
    (home.parent / "note.py").write_text(NOTE)
    with Queue() as opened:
        yield opened


def journal(folder: Path) -> Dict[str, List[List[str]]]:
    """Return for each job its runs' notes, run by run."""
    found: Dict[str, List[List[str]]] = {}
    for path in sorted(folder.glob("journal-*"), key=lambda path: int(path.name[8:])):
        lines = [line.split() for line in path.read_text().splitlines()]
        if lines:  # a run that was killed between opening its journal and writing has begun nothing
            found.setdefault(lines[0][1], []).append([word for word, _, _ in lines])
    return found


def noted_at(folder: Path, job_id: str) -> List[float]:
    """Return the instants of a job's notes, run by run."""
    lines = [
        line.split()
        for path in sorted(folder.glob("journal-*"), key=lambda path: int(path.name[8:]))
        for line in path.read_text().splitlines()
    ]
    return [float(at) for _, found, at in lines if found == job_id]


def test_each_job_runs_once(queue: Queue, cli: Callable[..., Any], home: Path) -> None:
    """Four workers, with four commands at once each, and nobody dies."""
    for _ in range(40):
        queue.enqueue(f"{PYTHON} note.py 0")

    cli("worker", "start", "--drain", "--count", "4", "--concurrency", "4", code=0, timeout=110)

    assert {f"job{number}": [["begin", "end"]] for number in range(1, 41)} == journal(home.parent)
    assert 40 == queue.status().jobs["completed"]


def test_killed_workers_lose_no_job(
    queue: Queue, background: Callable[..., Any], eventually: Callable[..., Any], home: Path
) -> None:
    """Three are killed in the middle; each job's last run goes from begin to end, after those before it are over."""
    for _ in range(24):
        queue.enqueue(f"{PYTHON} note.py 0.3")
    group = background("worker", "start", "--drain", "--count", "3", "--concurrency", "2")
    for kills in range(1, 4):
        eventually(lambda least=4 * kills: queue.status().jobs["completed"] >= least, timeout=60)
        busy = [worker for worker in queue.workers() if worker.role == "worker"]
        os.kill(busy[kills % len(busy)].pid, signal.SIGTERM)

    ended = group.wait(110)

    assert 0 == ended.code
    runs = journal(home.parent)
    assert 24 == len(runs)
    for job_id, notes in runs.items():
        assert ["begin", "end"] == notes[-1], job_id
    for job_id in runs:  # its runs do not overlap
        times = noted_at(home.parent, job_id)
        assert sorted(times) == times, job_id
    assert 24 == queue.status().jobs["completed"]


def test_one_worker_for_many_commands(queue: Queue, cli: Callable[..., Any], eventually: Callable[..., Any]) -> None:
    """More than the 63 handles that Windows waits for in one call."""
    for _ in range(70):
        queue.enqueue("ping -n 60 127.0.0.1 > nul")
    cli("worker", "start", "--daemon", "--concurrency", "70", code=0, timeout=60)

    eventually(lambda: queue.status().jobs["processing"] == 70, timeout=60)
    began = time.monotonic()
    cli("worker", "stop", "--now", code=0, timeout=60)

    assert 70 == queue.status().jobs["pending"]
    assert time.monotonic() - began < 45


def test_retries_to_the_dlq_and_back(queue: Queue, cli: Callable[..., Any], home: Path) -> None:
    """A job fails, waits, dies, and is retried by hand; the history of runs stays."""
    cli("enqueue", "--max-retries", "1", "--backoff-base", "1", "--command", "if not exist go (exit 7)", code=0)
    drain = ["worker", "start", "--drain"]

    first = cli(*drain, code=0, timeout=60)
    dead = cli("dlq", "list", "--table", code=0)
    (home.parent / "go").touch()
    cli("dlq", "retry", "job1", code=0)
    cli(*drain, code=0, timeout=60)

    assert "[worker 0] job job1 failed (exit 7), retry 1 of 1 in 1 s\n" in first.out
    assert "[worker 0] job job1 dead (exit 7) after 2 runs\n" in first.out
    assert "exit 7" in dead.out
    assert ["failed", "failed", "completed"] == [run.state for run in queue.runs("job1")]


@pytest.mark.parametrize("code", [0, 3, 1000, 0xC0000005])
def test_run_exits_as_its_command_did(queue: Queue, cli: Callable[..., Any], code: int) -> None:
    """With all 32 bits."""
    cli("worker", "start", "--daemon", code=0, timeout=60)
    signed = code - 2**32 if code >= 2**31 else code

    script = f"import os; print('hi', flush=True); os._exit({signed})"
    done = cli("run", "--max-retries", "0", "--", sys.executable, "-c", script)
    cli("worker", "stop", code=0)

    assert ("hi\n", code) == (done.out, done.code)
    assert code == queue.runs("job1")[0].exit_code


def test_logs_follow_a_running_job(
    queue: Queue, background: Callable[..., Any], eventually: Callable[..., Any], home: Path
) -> None:
    """As it writes, to its end."""
    (home.parent / "wait.py").write_text(
        "import os, time\nprint('first', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.02)\nprint('last')\n"
    )
    queue.enqueue(f"{PYTHON} wait.py")
    with background("worker", "start"):
        eventually(lambda: queue.get("job1").state == "processing", timeout=30)  # else it says that nobody serves it
        follower = background("logs", "-f", "job1")
        eventually(lambda: follower.out == "first\n", timeout=30)
        (home.parent / "go").touch()

        assert ("first\nlast\n", "", 0) == follower.wait()


def test_the_parts_of_show(queue: Queue, cli: Callable[..., Any]) -> None:
    """Exit code, CPU time and the worker's host are known here too."""
    queue.enqueue(f'{PYTHON} -c "sum(range(10**6))"')
    cli("worker", "start", "--drain", code=0, timeout=60)

    run = json.loads(cli("show", "job1", "--json", code=0).out)["runs"][0]

    assert (0, None, os.environ["COMPUTERNAME"]) == (run["exit_code"], run["signal"], run["host"])
    assert run["cpu_s"] >= 0


def test_the_store_in_use_cannot_be_removed(queue: Queue, cli: Callable[..., Any], home: Path) -> None:
    """Windows itself protects it; ``reset`` does without."""
    queue.enqueue("echo hi")

    with pytest.raises(PermissionError):
        (home / "jobs.db").unlink()

    assert "Queue reset.\n" == cli("reset", "--yes", code=0).out
    assert {"pending": 0} == {"pending": queue.status().jobs["pending"]}


def test_a_reader_that_goes_away_is_no_error(cli: Callable[..., Any], queue: Queue) -> None:
    """``queuectl list | more``, closed half way."""
    for _ in range(2000):
        queue.enqueue("echo " + "x" * 50)
    with subprocess.Popen(
        [sys.executable, "-m", "queuectl", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as lister:
        assert lister.stdout is not None
        assert lister.stderr is not None
        lister.stdout.readline()
        lister.stdout.close()

        assert b"" == lister.stderr.read()
    assert 141 == lister.returncode
