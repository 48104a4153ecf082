"""Very many new jobs: their rows are made beside the write lock, in a temporary table of the connection.

With the lock, one statement moves them into the store: others wait less than half as long as for row after row.
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import contextmanager

from queuectl.db.rules import to_json
from queuectl.errors import JobExists, StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Iterator, Tuple

    from queuectl.db.sqlite_file import SqliteFile
    from queuectl.jobspec import JobSpec


@contextmanager
def staged(file: SqliteFile, specs: Iterable[JobSpec]) -> Iterator[Dict[str, int]]:
    """Keep rows for *specs* in a temporary table of *file*, for the length of a ``with`` block; give counts by queue.

    Raises:
        StoreUnavailable: There is no room for them.
    """
    counts: Dict[str, int] = {}
    db = file._db
    file._write.take(sys._getframe())
    try:
        try:
            db.execute("BEGIN")  # of the temporary file alone: nobody waits for it
            db.execute(_CREATE)
            db.executemany(_STAGE, _rows(specs, counts))
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if str(error) == "interrupted":
                raise KeyboardInterrupt from error
            raise StoreUnavailable(
                f"cannot keep so many jobs in a temporary file ({error}); nothing was enqueued. "
                "SQLITE_TMPDIR names a directory with more room."
            ) from error
        finally:
            file._write.give_back()
        yield counts
    finally:
        if not file._closed:  # by a signal's handler
            if db.in_transaction:
                db.execute("ROLLBACK")
            db.execute("DROP TABLE IF EXISTS temp.new_jobs")


def move_in(db: sqlite3.Connection, first: int, last_seq: int, max_retries: int, now: float) -> None:
    """Make jobs of what is staged, with the ids they bring or numbered from *first* on, in the transaction of *db*."""
    db.execute(_MOVE_IN, {"first": first, "last_seq": last_seq, "max_retries": max_retries, "now": now})


def refuse_existing(db: sqlite3.Connection) -> None:
    """Refuse what is staged if a job has one of its ids, in the transaction of *db*.

    Raises:
        JobExists: It names the first of them.
    """
    found = db.execute(_FIRST_EXISTING).fetchone()
    if found is not None:
        raise JobExists(found[0])


def _rows(specs: Iterable[JobSpec], counts: Dict[str, int]) -> Iterator[Tuple[Any, ...]]:
    for spec in specs:
        counts[spec.queue] = counts.get(spec.queue, 0) + 1
        yield (
            spec.id or "", spec.queue, spec.priority, -1 if spec.run_at is None else spec.run_at,
            -1 if spec.delay_s is None else spec.delay_s, spec.command, spec.cwd,
            to_json(spec.env) if spec.env else "", to_json(spec.tags) if spec.tags else "",
            spec.timeout_s or 0, spec.backoff_base or 0, -1 if spec.max_retries is None else spec.max_retries,
        )  # fmt: skip


_CREATE = """
    CREATE TEMP TABLE new_jobs (n INTEGER PRIMARY KEY, id, queue, priority, run_at, delay_s, command, cwd, env, tags,
                                timeout_s, backoff_base, max_retries)
    """

# No parameter is None, as in ``sqlite._ADD``.
_STAGE = """
    INSERT INTO temp.new_jobs (id, queue, priority, run_at, delay_s, command, cwd, env, tags, timeout_s, backoff_base,
                               max_retries)
    VALUES (nullif(?, ''), ?, ?, nullif(?, -1), nullif(?, -1), ?, ?, nullif(?, ''), nullif(?, ''), nullif(?, 0),
            nullif(?, 0), nullif(?, -1))
    """

_FIRST_EXISTING = """
    SELECT id FROM temp.new_jobs AS new WHERE (SELECT 1 FROM jobs WHERE jobs.id = new.id) ORDER BY n LIMIT 1
    """

_MOVE_IN = """
    INSERT INTO jobs (seq, id, queue, state, priority, run_at, ready, command, cwd, env, tags,
                      timeout_s, backoff_base, max_retries, created_at, updated_at)
    SELECT :last_seq + n, coalesce(id, 'job' || (:first - 1 + n)), queue, 'pending', priority,
           coalesce(:now + delay_s, run_at, :now),
           CASE WHEN coalesce(:now + delay_s, run_at, :now) <= :now THEN 1 ELSE 2 END, command, cwd, env, tags,
           timeout_s, backoff_base, coalesce(max_retries, :max_retries), :now, :now
      FROM temp.new_jobs
     ORDER BY n
    """
