"""What a store's size costs: the same calls in a large store and in a nearly empty one, SQLite.

The large store is filled by SQL as the library would have left it: each ended job with its run and a line of output,
one in fifty of them dead. The small one has a few thousand jobs, so that there is work to claim and a page to list.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

from bench.measure import QUEUECTL, median, paired, ratio, scratch_home, seconds
from queuectl import Queue
from queuectl.db.base import Store
from queuectl.job import Claim, JobFilter, Outcome, RunEnd, State, Verdict, Worker

SMALL = (5_000, 5_000)  # pending, ended
SIZES = ((100_000, 100_000), (1_000_000, 1_000_000))
LARGE = (1_000_000, 5_000_000)
STEP = 100_000  # rows a transaction
CALLS = 300
LOOKS = 5
LINES = 50  # a screen
ME = "growth"

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last) "
ENDED = (
    NUMBERS
    + """
    INSERT INTO jobs (seq, id, queue, state, priority, run_at, ready, command, cwd, max_retries, attempts, failures,
                      run_no, last_run_id, created_at, updated_at, ended_at, reason)
    SELECT i, 'job' || i, 'default', CASE WHEN i % 50 THEN 'completed' ELSE 'dead' END, 0, :now - 9000000 + i, 0,
           'backup --host web' || i || '.example', '/srv/app', 0, 1, i % 50 = 0, 1, i, :now - 9000000 + i,
           :now - 9000000 + i, :now - 9000000 + i, CASE WHEN i % 50 THEN NULL ELSE 'exit 3' END
      FROM n
    """
)
RUNS = (
    NUMBERS
    + """
    INSERT INTO runs (run_id, number, state, exit_code, started_at, ended_at, worker_id, host, pid, reason)
    SELECT i, 1, CASE WHEN i % 50 THEN 'completed' ELSE 'failed' END, CASE WHEN i % 50 THEN 0 ELSE 3 END,
           :now - 9000001 + i, :now - 9000000 + i, 'worker', 'host', 4711, CASE WHEN i % 50 THEN NULL ELSE 'exit 3' END
      FROM n
    """
)
OUTPUT = NUMBERS + "INSERT INTO output (run_id, start, bytes) SELECT i, 0, CAST('copied file ' || i AS BLOB) FROM n"
PENDING = (
    NUMBERS
    + """
    INSERT INTO jobs (seq, id, queue, state, priority, run_at, ready, command, cwd, max_retries, created_at, updated_at)
    SELECT i, 'job' || i, 'default', 'pending', 0, :now - 9000000 + i, 1, 'backup --host web' || i || '.example',
           '/srv/app', 3, :now - 9000000 + i, :now - 9000000 + i
      FROM n
    """
)


def fill(path: Path, pending: int, ended: int) -> None:
    """Put that many jobs into an empty store."""
    db = sqlite3.connect(str(path), isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    for statements, first, last in (((ENDED, RUNS, OUTPUT), 1, ended), ((PENDING,), ended + 1, ended + pending)):
        for start in range(first, last + 1, STEP):
            values = {"first": start, "last": min(start + STEP - 1, last), "now": time.time()}
            db.execute("BEGIN IMMEDIATE")
            for statement in statements:
                db.execute(statement, values)
            db.execute("COMMIT")
    dead = ended // 50
    db.execute(
        "INSERT INTO queues (name, pending, completed, dead) VALUES ('default', ?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET pending = excluded.pending, completed = excluded.completed, "
        "dead = excluded.dead",
        (pending, ended - dead, dead),
    )
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    with path.open("rb+") as file:
        os.fsync(file.fileno())


class Side:
    """One of the two stores, and the calls that are timed in it."""

    def __init__(self, path: Path, pending: int, ended: int) -> None:
        self.path = path
        Queue(str(path)).store.close()
        fill(path, pending, ended)
        self.queue = Queue(str(path))
        self.store: Store = self.queue.store
        counted = self.queue.status().jobs
        if counted["pending"] != pending or counted["dead"] != ended // 50:
            raise SystemExit(f"the store was not filled: {counted}")
        now = self.store.now()
        self.store.register(Worker(ME, "worker", "g", 0, "h", "h", 1, "1", (), 1, now, now + 86400, 1.0))
        self._claims = self.store.claim(ME, 1)

    def close(self) -> None:
        """Close the store."""
        self.queue.close()

    def turns(self) -> float:
        """Return how long CALLS ends, each with the next claim, take."""
        begin = time.perf_counter()
        for _ in range(CALLS):
            answer = self.store.finish(ME, [completed(claim) for claim in self._claims], 1)
            if answer.accepted != [True] or len(answer.claims) != 1:
                raise SystemExit("a finish was refused, or there was nothing to claim")
            self._claims = answer.claims
        return time.perf_counter() - begin

    def enqueues(self) -> float:
        """Return how long CALLS enqueues of one job take."""
        begin = time.perf_counter()
        for _ in range(CALLS):
            self.queue.enqueue_many(["true"])
        return time.perf_counter() - begin

    def status(self) -> float:
        """Return how long ``Queue.status`` takes."""
        return seconds(lambda: [self.queue.status() for _ in range(LOOKS)]) / LOOKS

    def page(self, *states: str) -> float:
        """Return how long a screen of jobs takes in the library."""

        def look() -> None:
            if len(list(self.queue.jobs(JobFilter(states), LINES))) != LINES:
                raise SystemExit("the page is not full")

        return seconds(lambda: [look() for _ in range(LOOKS)]) / LOOKS

    def command(self, lines: int, *words: str) -> float:
        """Return how long ``queuectl WORDS`` takes until *lines* lines are printed, start-up included."""
        begin = time.perf_counter()
        words = (*QUEUECTL, "--db", str(self.path), *words)
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        for _ in range(lines):
            if not process.stdout.readline():
                raise SystemExit(f"{words} printed less than {lines} lines")
        took_s = time.perf_counter() - begin
        process.stdout.close()
        process.wait()
        return took_s


def completed(claim: Claim) -> Tuple[Claim, RunEnd, Verdict]:
    """Return the end of a command that did nothing."""
    end = RunEnd(Outcome.COMPLETED, 0, None, None, claim.started_at + 0.001, 1_000_000, 0.001)
    return claim, end, Verdict(State.COMPLETED, None, None)


@contextmanager
def sides(pending: int, ended: int) -> Iterator[List[Side]]:
    """Give a store of that size and a small one, and take them away again."""
    folder = Path(tempfile.mkdtemp(prefix="qb-"))
    with scratch_home(), ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        found = []
        for name, size in (("large", (pending, ended)), ("small", SMALL)):
            found.append(Side(folder / f"{name}.db", *size))
            stack.callback(found[-1].close)
        yield found


CASES: Dict[str, Callable[[Side], float]] = {
    "claim and finish": Side.turns,
    "enqueue": Side.enqueues,
    "status": Side.status,
    "first 50 of list": lambda side: side.page(),
    "first 50 of dlq list": lambda side: side.page("dead"),
    "queuectl status": lambda side: side.command(1, "status"),
    "queuectl list": lambda side: side.command(LINES, "list"),
    "queuectl dlq list": lambda side: side.command(LINES, "dlq", "list"),
}


def measure(rounds: int, pending: int, ended: int) -> Dict[str, Any]:
    """Return what each call costs in a store of that size over what it costs in a small one."""
    rows: Dict[str, Any] = {}
    size = f"{pending:,} pending, {ended:,} ended"
    with sides(pending, ended) as (large, small):
        for name, call in CASES.items():
            call(large), call(small)  # each starts with its pages in memory
            there, here = paired(rounds, lambda: call(large), lambda: call(small))  # noqa: B023
            rows[f"{size}: {name} / in a small store"] = ratio(there, here)
            if name.startswith("queuectl"):
                lines = "1 line" if name == "queuectl status" else f"{LINES} lines"
                rows[f"{size}: {name}, ms until {lines} are out, start-up included"] = round(median(there) * 1000, 1)
            elif name in ("claim and finish", "enqueue"):
                rows[f"{size}: {name}, us"] = round(median(there) / CALLS * 1e6)
            else:
                rows[f"{size}: {name} in the library, ms"] = round(median(there) * 1000, 2)
    return rows


def run(rounds: int, jobs: int) -> Dict[str, Any]:
    """Return ratios for 100,000 and for a million pending and as many ended jobs."""
    del jobs
    rows: Dict[str, Any] = {}
    for pending, ended in SIZES:
        rows.update(measure(rounds, pending, ended))
    return rows


def run_large(rounds: int, jobs: int) -> Dict[str, Any]:
    """Return the same, and what five million ended jobs cost."""
    return {**run(rounds, jobs), **measure(rounds, *LARGE)}
