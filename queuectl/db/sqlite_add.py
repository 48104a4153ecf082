"""Jobs come into a SQLite store."""

from __future__ import annotations

import time

from queuectl import faults
from queuectl.db.rules import (
    HUGE_BATCH,
    MAX_RETRIES,
    any_after,
    generated_number,
    given_ids,
    number_jobs,
    numbered,
    refuse_spent,
    taken_near,
    to_json,
)
from queuectl.db.sqlite_desk import LAST_SEQ, SqliteDesk
from queuectl.db.sqlite_views import JOB_COLUMNS, job_row
from queuectl.errors import Interrupted, NotDurable, QueueInUse

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

    from queuectl.db.spool import Specs
    from queuectl.job import Job
    from queuectl.jobspec import JobSpec


class SqliteAdd(SqliteDesk):
    """The verbs ``add``, ``add_one`` and ``add_within``."""

    def add(self, specs: Specs, now: Optional[float] = None) -> Sequence[str]:
        """See ``Store.add``."""
        specs = specs if hasattr(specs, "__len__") else list(specs)
        if not specs:
            return []
        if len(specs) > HUGE_BATCH and _has_plain_ids(specs) and not any_after(specs):
            from queuectl.db.sqlite_stage import staged

            with staged(self, specs) as counts:
                return self._add(specs, now, counts)
        return self._add(specs, now)

    def add_one(self, spec: JobSpec, now: Optional[float] = None) -> Job:
        """See ``Store.add_one``."""
        from queuectl.job import Job

        rows: List[Sequence[Any]] = []
        self._add([spec], now, rows=rows)
        return Job._make(job_row(rows[0]) if spec.after else _as_stored(*rows[0]))

    def _add(
        self,
        specs: Specs,
        now: Optional[float],
        staged: Optional[Dict[str, int]] = None,
        rows: Optional[List[Sequence[Any]]] = None,
    ) -> Sequence[str]:
        """Add jobs; see ``_insert``."""
        ids: Sequence[str] = []
        try:
            with self._write as db:
                ids = self._insert(db, specs, now, staged, rows)
                self._ring_after = True
                faults.point("adding")
            faults.point("added")
        except NotDurable as error:
            raise NotDurable(error.trouble, ids) from error
        except KeyboardInterrupt as error:
            if not self._write.is_done():
                raise
            self.sync()
            raise Interrupted.behind(ids) from error
        return ids

    def _insert(
        self,
        db: sqlite3.Connection,
        specs: Specs,
        now: Optional[float] = None,
        staged: Optional[Dict[str, int]] = None,
        rows: Optional[List[Sequence[Any]]] = None,
    ) -> Sequence[str]:
        """Add jobs in the open transaction of *db*, and return their ids.

        *staged* counts them by queue if their rows are made. *rows*, if given, gets the parameters of _ADD; or the row
        of a single job that is to wait for others.
        """
        last_seq, seq_ahead, taken, default = db.execute(_BEFORE_ADD).fetchone()
        next_number = last_seq + 1 - seq_ahead
        given = given_ids(specs) if staged is not None else []
        if given:
            from queuectl.db.sqlite_stage import refuse_existing

            refuse_existing(db)
        ids: Sequence[str] = given
        after = next_number
        if not given:
            ids, after = self._take_ids(db, specs, next_number, bool(taken))
        ahead_after = last_seq + 1 + len(specs) - after
        if ahead_after != seq_ahead:  # else no page is written for it
            db.execute("UPDATE store SET seq_ahead = ?", (ahead_after,))
        counts: Dict[str, int] = {}
        now = time.time() if now is None else now
        default = int(default or MAX_RETRIES)
        if staged is not None and (given or not taken):
            from queuectl.db.sqlite_stage import move_in

            counts = staged
            move_in(db, next_number, last_seq, default, now)
        else:
            new = _new_rows(specs, ids, last_seq, default, now, counts)
            if any_after(specs):
                from queuectl.db.sqlite_needs import add_with_needs

                add_with_needs(db, _ADD, specs, ids, new)
                if rows is not None:
                    rows += db.execute(f"SELECT {JOB_COLUMNS} FROM jobs WHERE seq = ?", (last_seq + 1,))
            else:
                if rows is not None:
                    rows += new
                db.executemany(_ADD, new if rows is None else rows)
        for queue, pending in counts.items():
            if db.execute("UPDATE queues SET pending = pending + ? WHERE name = ?", (pending, queue)).rowcount == 0:
                db.execute("INSERT INTO queues (name, pending) VALUES (?, ?)", (queue, pending))
        return ids

    def add_within(self, connection: Any, specs: Specs) -> List[Job]:
        """See ``Store.add_within``."""
        from queuectl.db.sqlite_within import add_within

        if self._write.is_amid():
            raise QueueInUse
        return add_within(self, connection, specs)

    def _take_ids(
        self, db: sqlite3.Connection, specs: Specs, next_number: int, taken: bool
    ) -> Tuple[Sequence[str], int]:
        """Return the ids of new jobs (given ones if they are free, generated ones for the rest) and the next number.

        These count on from *next_number*; *taken* says whether callers took numbers behind it.
        """
        given = given_ids(specs)
        if not given and not taken:
            return numbered(next_number, len(specs)), next_number + len(specs)
        existing = {name for name in given if db.execute("SELECT 1 FROM jobs WHERE id = ?", (name,)).fetchone()}
        numbers = {number for number in map(generated_number, given) if number is not None}
        spent = {number for number in numbers if _taken_between(db, number, number)}
        refuse_spent(given, existing, next_number, spent)
        generated = len(specs) - len(given)
        near = taken_near(lambda first, last: _taken_between(db, first, last), next_number, generated, numbers)
        ids, after, ahead = number_jobs(specs, next_number, near)
        db.execute("DELETE FROM taken_numbers WHERE number < ?", (after,))
        db.executemany("INSERT INTO taken_numbers (number) VALUES (?)", [(each,) for each in sorted(ahead & numbers)])
        return ids, after


def _has_plain_ids(specs: Specs) -> bool:
    """Return whether no job brings an id, or each one another that does not look like a generated one."""
    given = given_ids(specs)
    if not given:
        return True
    return len(specs) == len(given) == len(set(given)) and all(generated_number(name) is None for name in given)


# A row number is the key of pages of a listing: none comes again, not even after the newest job was deleted.
# What is read is no plain column, here and below: see sqlite_within.
_BEFORE_ADD = f"""
    SELECT {LAST_SEQ}, +seq_ahead, EXISTS (SELECT 1 FROM taken_numbers),
           (SELECT +value FROM settings WHERE key = 'max_retries')
      FROM store
    """

# No parameter is None: to sqlite3 that is a stranger whose type it asks for adapters, 0.25 us each.
_ADD = """
    INSERT INTO jobs (seq, id, queue, state, priority, run_at, ready, command, cwd, env, tags,
                      timeout_s, backoff_base, max_retries, created_at, updated_at)
    VALUES (?, ?, ?, 'pending', ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, ''),
            nullif(?, 0), nullif(?, 0), ?, ?, ?)
    """


def _as_stored(
    seq: int, job_id: str, queue: str, priority: int, run_at: float, _ready: int, command: str, cwd: str, env: str,
    tags: str, timeout_s: float, backoff_base: float, max_retries: int, created_at: float, updated_at: float,
) -> Sequence[Any]:  # fmt: skip
    """Return the fields of the ``Job`` that _ADD makes of these parameters: reading it would take 25 us more."""
    return (
        seq, job_id, queue, "pending", priority, run_at, command, cwd, env or None, tags or None, timeout_s or None,
        backoff_base or None, max_retries, 0, 0, 0, 0, None, None, False, created_at, updated_at, None, None, None,
        False,
    )  # fmt: skip


def _taken_between(db: sqlite3.Connection, first: int, last: int) -> List[int]:
    """Return the numbers from *first* to *last* that callers took."""
    found = db.execute("SELECT +number FROM taken_numbers WHERE number BETWEEN ? AND ?", (first, last))
    return [row[0] for row in found]


def _new_rows(
    specs: Specs,
    ids: Sequence[str],
    last_seq: int,
    max_retries: int,
    now: float,
    counts: Dict[str, int],
) -> Iterator[Tuple[Any, ...]]:
    """Yield the rows of new jobs; count them by queue on the way."""
    for seq, (spec, job_id) in enumerate(zip(specs, ids), last_seq + 1):
        run_at = now if spec.run_at is None else spec.run_at
        if spec.delay_s is not None:
            run_at = now + spec.delay_s
        counts[spec.queue] = counts.get(spec.queue, 0) + 1
        yield (
            seq, job_id, spec.queue, spec.priority, run_at, 1 if run_at <= now else 2, spec.command, spec.cwd,
            to_json(spec.env) if spec.env else "", to_json(spec.tags) if spec.tags else "",
            spec.timeout_s or 0, spec.backoff_base or 0,
            max_retries if spec.max_retries is None else spec.max_retries, now, now,
        )  # fmt: skip
