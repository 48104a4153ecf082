"""From an enqueue to the command's first instruction with idle workers, and what idling costs."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any, Dict, List

from bench.measure import QUEUECTL, median, percentile, quiet, scratch_home, tree_usage
from queuectl import Queue

TRIES = 60
IDLE_S = 30.0  # three renewals of the leases


def _pids(supervisor: int) -> List[int]:
    children = subprocess.run(["pgrep", "-P", str(supervisor)], stdout=subprocess.PIPE, check=True).stdout.split()
    return [supervisor, *map(int, children)]


def _spawn_alone() -> List[float]:
    """Return how long ``sh -c date`` takes from the call to its first instruction, for comparison."""
    found = []
    for _ in range(TRIES):
        begin = time.time()
        answer = subprocess.run(["/bin/sh", "-c", "date +%s.%N"], stdout=subprocess.PIPE, check=True).stdout
        found.append(float(answer) - begin)
    return found


def run(rounds: int, jobs: int) -> Dict[str, Any]:
    """Return latencies in ms and the idle CPU of four workers in percent of a core."""
    del rounds, jobs
    with scratch_home(), Queue() as queue:
        group = subprocess.Popen([*QUEUECTL, "worker", "start", "--count", "4"], stdout=subprocess.DEVNULL)
        try:
            while len(queue.workers()) < 4:
                time.sleep(0.02)
            library = [_latency(queue, by_cli=False) for _ in range(TRIES)]
            by_cli = [_latency(queue, by_cli=True) for _ in range(TRIES)]
            time.sleep(2)
            pids = _pids(group.pid)
            before, pss = tree_usage(pids)
            time.sleep(IDLE_S)
            idle_s = tree_usage(pids)[0] - before
        finally:
            quiet([*QUEUECTL, "worker", "stop"])
            group.wait()
    alone = _spawn_alone()
    return {
        "spawning alone, ms": round(median(alone) * 1000, 2),
        "after the library's return, ms": round(median(library) * 1000, 2),
        "after the library's return, p99 ms": round(percentile(library, 0.99) * 1000, 2),
        "after the command line's return, ms": round(median(by_cli) * 1000, 2),
        "idle CPU of 4 workers and their supervisor, % of a core": round(idle_s / IDLE_S * 100, 3),
        "memory of these, MiB PSS": round(pss / 2**20, 1),
    }


def _latency(queue: Queue, by_cli: bool) -> float:
    """Return the seconds from the return of one enqueue to the first instruction of its command."""
    command = "date +%s.%N"
    if by_cli:
        words = [*QUEUECTL, "--json", "enqueue", json.dumps({"command": command})]
        answer = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
        returned = time.time()
        job_id = answer["id"]
    else:
        job_id = queue.enqueue_many([command])[0]
        returned = time.time()
    queue.wait(job_id, timeout=30)
    time.sleep(0.03)  # all workers are asleep again
    return float(queue.output(job_id)) - returned
