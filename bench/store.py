"""The library's enqueue beside bare ``sqlite3`` statements on the same rows and the same table."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

from bench.measure import paired, ratio, scratch_home
from queuectl import Queue

SINGLE = 1000
INSERT = """
    INSERT INTO jobs (id, queue, state, priority, run_at, ready, command, cwd, max_retries, created_at, updated_at)
    VALUES (?, 'default', 'pending', 0, ?, 1, 'true', '/', 3, ?, ?)
    """


def _rows(first: int, count: int) -> List[Tuple[Any, ...]]:
    now = time.time()
    return [(f"bare{number}", now, now, now) for number in range(first, first + count)]


def _bare(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(str(path), isolation_level=None)
    db.execute("PRAGMA synchronous = FULL")
    return db


def bare_single() -> float:
    """Return how long single durable inserts into a store's table take without queuectl."""
    with scratch_home() as home:
        Queue().close()
        db = _bare(home / "jobs.db")
        begin = time.perf_counter()
        for row in _rows(0, SINGLE):
            db.execute("BEGIN IMMEDIATE")
            db.execute(INSERT, row)
            db.execute("COMMIT")
        took_s = time.perf_counter() - begin
        db.close()
    return took_s


def single() -> float:
    """Return how long as many calls of ``Queue.enqueue`` take."""
    with scratch_home(), Queue() as queue:
        begin = time.perf_counter()
        for _ in range(SINGLE):
            queue.enqueue("true")
        return time.perf_counter() - begin


def bare_bulk(count: int) -> float:
    """Return how long ``executemany`` of *count* rows in one transaction takes without queuectl."""
    with scratch_home() as home:
        Queue().close()
        db = _bare(home / "jobs.db")
        rows = _rows(0, count)
        begin = time.perf_counter()
        db.execute("BEGIN IMMEDIATE")
        db.executemany(INSERT, rows)
        db.execute("COMMIT")
        took_s = time.perf_counter() - begin
        db.close()
    return took_s


def bulk(count: int) -> float:
    """Return how long one ``enqueue_many`` of *count* commands takes, checks included."""
    with scratch_home(), Queue() as queue:
        commands = ["true"] * count
        begin = time.perf_counter()
        queue.enqueue_many(commands)
        return time.perf_counter() - begin


def run(rounds: int, jobs: int) -> Dict[str, Any]:
    """Return rates as shares of the bare statements'."""
    del jobs
    count = 100_000
    one, bare_one, many, bare_many = paired(rounds, single, bare_single, lambda: bulk(count), lambda: bare_bulk(count))
    os.sync()
    return {
        "single enqueue / bare insert and commit": ratio(bare_one, one),
        "bulk enqueue / bare executemany": ratio(bare_many, many),
        "bulk, jobs a second": round(count / sorted(many)[len(many) // 2]),
    }
