"""From an enqueue on one host to the command's first instruction on another, idle one, over a network between them.

``sudo python3 -m bench.hosts [--tries N]`` (Linux, root), in an environment that has psycopg and the server's programs.
Two hosts and the server are in network namespaces (``tests/fleet``): host 1 enqueues, by the library and by the command
line, and host 2 has one idle worker. Both read the same kernel's clock. The figures go into the part ``hosts``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

from bench.measure import keep, machine, median, percentile
from bench.report import write
from queuectl import Queue
from tests.fleet.hosts import Fleet, Host, why_not

COMMAND = "date +%s.%N"
SETTINGS = ("fsync=on",)
# Host 1's program: enqueues each time it is told to, and says when it called and when it had its answer.
ENQUEUER = """
import sys, time
from queuectl import Queue
with Queue() as queue:
    for line in sys.stdin:
        called_at = time.time()
        job_id = queue.enqueue(sys.argv[1]).id
        print(job_id, called_at, time.time(), flush=True)
"""
Times = List[Tuple[float, float]]  # of each job: seconds from the call, and from the answer, to its first instruction


def started_at(queue: Queue, job_id: str) -> float:
    """Wait for the job and return when its command began."""
    queue.wait(job_id, timeout=30)
    time.sleep(0.1)  # the worker is asleep again
    return float(queue.output(job_id))


def by_library(host: Host, queue: Queue, tries: int) -> Times:
    """Enqueue by one program that has its connection open."""
    found = []
    program = host.open(sys.executable, "-c", ENQUEUER, COMMAND)
    assert program.stdin is not None
    assert program.stdout is not None
    for _ in range(tries):
        program.stdin.write(b"\n")
        program.stdin.flush()
        job_id, called_at, answered_at = program.stdout.readline().decode().split()
        began_at = started_at(queue, job_id)
        found.append((began_at - float(called_at), began_at - float(answered_at)))
    program.communicate()
    return found


def by_command_line(host: Host, queue: Queue, tries: int) -> Times:
    """Enqueue by one process for each job."""
    found = []
    for _ in range(tries):
        called_at = time.time()
        answer = host.call("--json", "enqueue", json.dumps({"command": COMMAND}))
        answered_at = time.time()
        began_at = started_at(queue, json.loads(answer)["id"])
        found.append((began_at - called_at, began_at - answered_at))
    return found


def measure(fleet: Fleet, tries: int) -> Dict[str, Any]:
    """Return the latencies in ms."""
    here, there = fleet.hosts
    with Queue(fleet.server.url()) as queue:
        there.start("worker", "start")
        deadline = time.monotonic() + 30
        while not queue.workers() and time.monotonic() < deadline:
            time.sleep(0.05)
        library = by_library(here, queue, tries)
        command_line = by_command_line(here, queue, tries)
        there.call("worker", "stop")
    rows = {}
    for name, times, ends in (
        ("the library's call", library, 0),
        ("the library's return", library, 1),
        ("the start of the command line", command_line, 0),
        ("the command line's return", command_line, 1),
    ):
        figures = [1000 * each[ends] for each in times]
        rows[f"from {name}, median ms"] = round(median(figures), 2)
        rows[f"from {name}, p99 ms"] = round(percentile(figures, 0.99), 2)
    return rows


def main() -> None:
    """Measure, keep, write."""
    parser = argparse.ArgumentParser(prog="python3 -m bench.hosts", description=__doc__)
    parser.add_argument("--tries", type=int, default=100)
    given = parser.parse_args()
    reason = why_not()
    if reason is not None:
        sys.exit(f"bench.hosts: {reason}")
    os.environ.pop("QUEUECTL_DB", None)
    with tempfile.TemporaryDirectory(prefix="qh-") as folder, Fleet(Path(folder), 2, SETTINGS) as fleet:
        keep("hosts", measure(fleet, given.tries))
    write()
    print(machine())


if __name__ == "__main__":
    main()
