"""Thirty-two processes that enqueue one job after the other while sixteen workers run them."""

from __future__ import annotations

import multiprocessing
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

from bench.measure import QUEUECTL, median, percentile, scratch_home
from queuectl import Queue, QueuectlError

ENQUEUERS = 32
WORKERS = 16
BEFORE_S = 10.0
SECONDS = 5.0
DEADLINE_S = 300.0


class Answer(NamedTuple):
    """What one enqueuer saw."""

    times_s: List[float]
    errors: List[str]


def enqueue(begin_at: float) -> Answer:
    """Enqueue single jobs for SECONDS, beginning when the others do."""
    late_s = time.time() - begin_at
    if late_s > 0:
        raise RuntimeError(f"an enqueuer came {late_s:.1f} s late: raise BEFORE_S")
    time.sleep(-late_s)
    times_s: List[float] = []
    errors: List[str] = []
    with Queue() as queue:
        while time.time() < begin_at + SECONDS:
            begin = time.perf_counter()
            try:
                queue.enqueue_many(["true"])
            except QueuectlError as error:
                errors.append(str(error))
            else:
                times_s.append(time.perf_counter() - begin)
    return Answer(times_s, errors)


def once() -> Dict[str, Any]:
    """Return the figures of one run; its jobs must all have been run in the end."""
    with scratch_home() as home, Queue() as queue:
        log = home / "workers"
        with log.open("wb") as file:
            words = [*QUEUECTL, "worker", "start", "--count", str(WORKERS)]
            group = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=file)
        try:
            while len([one for one in queue.workers() if one.role == "worker"]) < WORKERS:
                time.sleep(0.05)
            with multiprocessing.get_context("spawn").Pool(ENQUEUERS) as pool:
                begin = time.time() + BEFORE_S  # all are up by then
                waiting = pool.map_async(enqueue, [begin] * ENQUEUERS, 1)
                wal, answers = _largest(home / "jobs.db-wal", waiting.ready), waiting.get()
            count = sum(len(answer.times_s) for answer in answers)
            wal = max(wal, _largest(home / "jobs.db-wal", lambda: queue.status().jobs["completed"] >= count))
        finally:
            subprocess.run([*QUEUECTL, "worker", "stop"], check=True, stdout=subprocess.DEVNULL)
            group.wait()
        done = queue.status().jobs["completed"]
        if done != count:
            raise SystemExit(f"{count} jobs were enqueued, {done} completed")
        times_s = [time_s for answer in answers for time_s in answer.times_s]
        errors = [error for answer in answers for error in answer.errors]
        locked = sum("locked" in error for error in errors) + log.read_text().count("locked")
        return {"times": times_s, "locked": locked, "errors": len(errors), "wal": wal}


def _largest(path: Path, over: Any) -> int:
    """Return the largest size that the file had until *over*."""
    largest, give_up = 0, time.monotonic() + DEADLINE_S
    while not over():
        if time.monotonic() > give_up:
            raise SystemExit(f"not over after {DEADLINE_S:.0f} s")
        largest = max(largest, path.stat().st_size if path.exists() else 0)
        time.sleep(0.01)
    return largest


def run(rounds: int, jobs: int) -> Dict[str, Any]:
    """Return the worst of all rounds where a limit is to hold, the median otherwise."""
    del jobs
    found = [once() for _ in range(rounds)]
    return {
        "'database is locked', all rounds": sum(one["locked"] for one in found),
        "other errors, all rounds": sum(one["errors"] - min(one["locked"], one["errors"]) for one in found),
        "longest single enqueue of all rounds, ms": round(max(max(one["times"]) for one in found) * 1000),
        "enqueue, p99 ms": round(median([percentile(one["times"], 0.99) for one in found]) * 1000, 1),
        "enqueue, median ms": round(median([median(one["times"]) for one in found]) * 1000, 2),
        "jobs enqueued a second": round(median([len(one["times"]) for one in found]) / SECONDS),
        "largest WAL of all rounds, MiB": round(max(one["wal"] for one in found) / 2**20, 1),
    }
