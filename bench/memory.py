"""Memory of idle workers and of one that runs five hundred commands: PSS, so that shared pages count once."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List

from bench.measure import QUEUECTL, median, quiet, ratio, scratch_home, tree_usage
from queuectl import Queue

SLEEPERS = 500
SETTLE_S = 3.0
DEADLINE_S = 120.0
BARE = [sys.executable, "-c", "import sqlite3, sys; print(1, flush=True); sys.stdin.read()"]


@contextmanager
def workers(queue: Queue, count: int, *words: str) -> Iterator[List[int]]:
    """Start a supervisor and *count* workers; give their pids, the supervisor's first."""
    start = [*QUEUECTL, "worker", "start", "--count", str(count), *words]
    group = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + DEADLINE_S
        while len(pids := _pids(queue, group.pid)) < count + 1:
            if time.monotonic() > give_up:
                raise SystemExit(f"only {len(pids)} of {count} workers and their supervisor came up")
            time.sleep(0.1)
        yield pids
    finally:
        quiet([*QUEUECTL, "worker", "stop", "--now"], stderr=subprocess.DEVNULL)
        group.wait()


def _pids(queue: Queue, supervisor: int) -> List[int]:
    return [supervisor, *(worker.pid for worker in queue.workers() if worker.pid != supervisor)]


def mib(pids: List[int]) -> float:
    """Return what these processes hold, in MiB."""
    return tree_usage(pids)[1] / 2**20


def idle(count: int) -> float:
    """Return what *count* idle workers and their supervisor hold."""
    with scratch_home(), Queue() as queue, workers(queue, count) as pids:
        time.sleep(SETTLE_S)
        return mib(pids)


def beside_bare(rows: Dict[str, List[float]]) -> None:
    """Measure four workers and four bare interpreters that are there at the same time."""
    bare = [subprocess.Popen(BARE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
    try:
        for process in bare:
            assert process.stdout is not None
            process.stdout.readline()
        with scratch_home(), Queue() as queue, workers(queue, 4) as pids:
            time.sleep(SETTLE_S)
            rows["worker"].append(mib(pids[1:]) / 4)
            rows["bare"].append(mib([process.pid for process in bare]) / 4)
    finally:
        for process in bare:
            process.communicate()


def busy() -> float:
    """Return what one worker with SLEEPERS running commands and its supervisor hold, without the commands."""
    with scratch_home(), Queue() as queue:
        queue.enqueue_many(["sleep 300"] * SLEEPERS)
        with workers(queue, 1, "--concurrency", str(SLEEPERS)) as pids:
            give_up = time.monotonic() + DEADLINE_S
            while (running := queue.status().jobs["processing"]) < SLEEPERS or _commands(pids[1]) < SLEEPERS:
                if time.monotonic() > give_up:
                    raise SystemExit(f"only {running} of {SLEEPERS} commands run")
                time.sleep(0.1)
            time.sleep(SETTLE_S)
            return mib(pids)


def _commands(worker: int) -> int:
    return len(Path(f"/proc/{worker}/task/{worker}/children").read_text().split())


def run(rounds: int, jobs: int) -> Dict[str, Any]:
    """Return sums in MiB, and a worker beside a bare interpreter."""
    del jobs
    found: Dict[str, List[float]] = {name: [] for name in ("worker", "bare", "four", "sixty-four", "busy")}
    for _ in range(rounds):
        beside_bare(found)
        found["four"].append(idle(4))
        found["sixty-four"].append(idle(64))
        found["busy"].append(busy())
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {
        "a worker / an interpreter with sqlite3 imported": ratio(found["worker"], found["bare"]),
        "a worker, MiB PSS": round(median(found["worker"]), 1),
        "an interpreter with sqlite3 imported, MiB PSS": round(median(found["bare"]), 1),
        "4 idle workers and their supervisor, MiB PSS": round(median(found["four"]), 1),
        "64 idle workers and their supervisor, MiB PSS": round(median(found["sixty-four"]), 1),
        f"a worker with {SLEEPERS} running commands and its supervisor, MiB PSS": round(median(found["busy"]), 1),
    }
