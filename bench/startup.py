"""What one command costs as a process, beside bare interpreters in the same environment."""

from __future__ import annotations

import sys
from typing import Any, Callable, Dict

from bench.measure import QUEUECTL, median, paired, quiet, ratio, scratch_home, seconds


def run(rounds: int, jobs: int) -> Dict[str, Any]:
    """Return start-to-exit times as multiples of a bare interpreter's."""
    del jobs
    rows: Dict[str, Any] = {}
    with scratch_home():
        quiet([*QUEUECTL, "enqueue", '{"command":"true"}'])

        def timed(*words: str) -> Callable[[], float]:
            return lambda: seconds(lambda: quiet(words))

        python = sys.executable
        enqueue, imports, version, usage, bare = paired(
            rounds * 5,
            timed(*QUEUECTL, "enqueue", '{"command":"true"}'),
            timed(python, "-c", "import sqlite3, json"),
            timed(*QUEUECTL, "--version"),
            timed(*QUEUECTL, "--help"),
            timed(python, "-c", "pass"),
        )
    rows["enqueue / import sqlite3, json"] = ratio(enqueue, imports)
    rows["--version / pass"] = ratio(version, bare)
    rows["--help / pass"] = ratio(usage, bare)
    rows["enqueue, ms"] = round(median(enqueue) * 1000, 1)
    return rows
