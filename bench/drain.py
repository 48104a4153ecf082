"""Draining a full queue of tiny commands, beside ``xargs -P`` starting the same commands."""

from __future__ import annotations

import subprocess
from typing import Any, Callable, Dict

from bench.measure import QUEUECTL, median, paired, quiet, ratio, scratch_home, seconds
from queuectl import Queue

CASES = (
    ("true", 1, 1), ("true", 2, 1), ("true", 4, 1), ("true", 16, 1), ("true", 1, 4), ("true", 1, 16),
    ("true", 2, 2), ("true", 2, 8), ("echo hi", 2, 1), ("echo hi", 4, 1), ("echo hi", 2, 2),
)  # fmt: skip


def xargs(command: str, jobs: int, slots: int) -> Callable[[], float]:
    """Return what times ``xargs -P`` on *jobs* commands."""
    lines = (command + "\n").encode() * jobs

    def work() -> None:
        subprocess.run(
            ["xargs", f"-P{slots}", "-d", "\n", "-n1", "sh", "-c"],
            input=lines, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip

    return lambda: seconds(work)


def queuectl(command: str, jobs: int, workers: int, concurrency: int) -> Callable[[], float]:
    """Return what times ``worker start --drain`` on a full queue: start-up and stop included."""

    def work() -> float:
        with scratch_home(), Queue() as queue:
            queue.enqueue_many([command] * jobs)
            words = ["worker", "start", "--count", str(workers), "--concurrency", str(concurrency), "--drain"]
            took_s = seconds(lambda: quiet([*QUEUECTL, *words]))
            done = queue.status().jobs["completed"]
            kept = queue.output(f"job{jobs}")
            if done != jobs or (command.startswith("echo") and kept != b"hi\n"):
                raise SystemExit(f"the work was not done: {done} of {jobs} completed, output {kept!r}")
            return took_s

    return work


def run(rounds: int, jobs: int) -> Dict[str, Any]:
    """Return rates as shares of xargs's, each the median of paired runs."""
    rows: Dict[str, Any] = {}
    for command, workers, concurrency in CASES:
        slots = workers * concurrency
        ours, theirs = paired(rounds, queuectl(command, jobs, workers, concurrency), xargs(command, jobs, slots))
        name = f"{command}, {workers} worker{'s' * (workers > 1)}" + (f" x {concurrency}" if concurrency > 1 else "")
        rows[name] = {
            "share of xargs": ratio(theirs, ours),
            "jobs a second": round(jobs / median(ours)),
            "xargs, jobs a second": round(jobs / median(theirs)),
        }
    return rows
