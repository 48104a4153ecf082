"""The SQLite store's verbs for users: cancel, retry, edit, prune, reset, queues and settings."""

from __future__ import annotations

import time
from itertools import chain

from queuectl import faults
from queuectl.db.rules import (
    CANCELLABLE,
    CANCELLED_WAITING,
    COUNTED,
    HELD_AT,
    MAX_RETRIES,
    NO_JOB,
    PRUNABLE,
    RETRIABLE,
    STEP,
    edited_columns,
    only_in,
    refuse_spent_retries,
    refuse_state,
)
from queuectl.db.sought import Steps
from queuectl.db.sqlite_views import SqliteViews, conditions, page, page_by_end
from queuectl.errors import StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

    from queuectl.job import JobFilter

    Moves = Dict[Tuple[str, str, Optional[str]], int]  # (queue, state before, state after or None): how many jobs

# Of the row in ``store``: the largest row number of a job that was ever given.
LAST_SEQ = "max(last_seq, (SELECT coalesce(max(seq), 0) FROM jobs))"
# Run ids are fencing tokens and row numbers keys of pages: the largest are remembered before their rows may go.
_KEEP_LAST_NUMBERS = f"""
    UPDATE store
       SET last_run_id = max(last_run_id, (SELECT coalesce(max(run_id), 0) FROM runs)), last_seq = {LAST_SEQ}
    """
_CHAIN = """
    WITH RECURSIVE chain(run_id) AS (
        SELECT last_run_id FROM jobs WHERE seq = ? AND last_run_id IS NOT NULL
        UNION ALL
        SELECT previous_id FROM runs JOIN chain USING (run_id) WHERE previous_id IS NOT NULL)
    SELECT run_id FROM chain
    """
# A job that was cancelled while it waited for others, and is started over, waits for them again.
_HOLD_AGAIN = f"""
    UPDATE jobs SET not_before = run_at, run_at = {HELD_AT}, ready = 2
     WHERE seq = ? AND (SELECT 1 FROM needs WHERE seq = ? LIMIT 1)
    """
_DELETE_PART = "DELETE FROM output WHERE run_id = ? AND start = (SELECT min(start) FROM output WHERE run_id = ?)"
# Queues that nobody uses any more: each claim looks at all there are, and a new day or branch may bring a new one.
_FORGET_QUEUES = f"""
    DELETE FROM queues WHERE {" + ".join(COUNTED)} = 0 AND paused = 0 AND max_running IS NULL AND name <> 'default'
    """

# Of so many pages rows may be deleted at once: with large outputs a thousand jobs would take ten seconds and more,
# in which nobody else can write, and a log of a gigabyte where SQLite overwrites what it deletes (Debian's does).
PRUNE_PAGES = 4000
# How many pages are given back to the file system at once, with the write lock held.
SHRINK_PAGES = 500
# So little is written anew at once instead.
SMALL_PAGES = 1000


class SqliteDesk(SqliteViews):
    """What people do to jobs that workers do not."""

    def __init__(self, path: str, create: bool = True, unfinished: bool = False) -> None:
        super().__init__(path, create, unfinished)
        self._prunes = Steps()

    def _row(self, db: sqlite3.Connection, job_id: str) -> Any:
        return db.execute("SELECT seq, queue, state FROM jobs WHERE id = ?", (job_id,)).fetchone() or NO_JOB

    def cancel(self, job_ids: Sequence[str], now: Optional[float] = None) -> Dict[str, str]:
        """See ``Store.cancel``."""
        answer = {}
        moves: Moves = {}
        with self._write as db:
            now = time.time() if now is None else now
            for job_id in dict.fromkeys(job_ids):
                seq, queue, state = self._row(db, job_id)
                refuse_state("cancel", job_id, state)
                answer[job_id] = self._cancel(db, seq, state, now)
                if state != "processing":
                    note_move(moves, queue, state, "cancelled")
            write_moves(db, moves)
            faults.point("cancelling")
        return answer

    def _cancel(self, db: sqlite3.Connection, seq: int, state: str, now: float) -> str:
        """Cancel a job that waits, or ask the worker of one that runs to end it; return its state then."""
        if state == "processing":  # updated_at stays: it says since when it runs
            db.execute("UPDATE jobs SET cancel_requested = 1 WHERE seq = ?", (seq,))
            return state
        db.execute(
            """
            UPDATE jobs
               SET state = 'cancelled', ready = 0, updated_at = ?, ended_at = ?, reason = ?
             WHERE seq = ? AND state = ?
            """,
            (now, now, CANCELLED_WAITING, seq, state),
        )
        return "cancelled"

    def cancel_where(
        self, which: JobFilter, now: Optional[float] = None, tell: Optional[Callable[[int], None]] = None
    ) -> Tuple[int, List[str]]:
        """See ``Store.cancel_where``; what workers move meanwhile, the second walk finds."""
        some = only_in(CANCELLABLE, which)
        if some is None:
            return 0, []
        cancelled, running = 0, {}
        where, parameters = conditions(some)
        for seqs in chain(self._found(some), self._found(some)):
            with self._write as db:
                moves: Moves = {}
                for seq, queue, state in _still(db, seqs, where, parameters):
                    if self._cancel(db, seq, state, time.time() if now is None else now) == "cancelled":
                        note_move(moves, queue, state, "cancelled")
                        cancelled += 1
                    else:
                        running[seq] = db.execute("SELECT id FROM jobs WHERE seq = ?", (seq,)).fetchone()[0]
                write_moves(db, moves)
                faults.point("cancelling")
            self._cut_log()
            if tell is not None:
                tell(cancelled + len(running))
        return cancelled, list(running.values())

    def retry(self, job_ids: Sequence[str], only_dead: bool = False, now: Optional[float] = None) -> None:
        """See ``Store.retry``."""
        moves: Moves = {}
        with self._write as db:
            now = time.time() if now is None else now
            for job_id in dict.fromkeys(job_ids):
                seq, queue, state = self._row(db, job_id)
                refuse_state("retry", job_id, state, only_dead)
                self._start_over(db, seq, state, now)
                note_move(moves, queue, state, "pending")
            write_moves(db, moves)
            faults.point("retrying")
            self._ring_after = True

    def _start_over(self, db: sqlite3.Connection, seq: int, state: str, now: float) -> None:
        db.execute(
            """
            UPDATE jobs
               SET state = 'pending', ready = 1, run_at = ?, attempts = 0, failures = 0, losses = 0,
                   updated_at = ?, ended_at = NULL, reason = NULL, not_before = NULL
             WHERE seq = ? AND state = ?
            """,
            (now, now, seq, state),
        )
        if state != "completed":  # others have not run since something was needed
            db.execute(_HOLD_AGAIN, (seq, seq))

    def retry_where(
        self, which: JobFilter, now: Optional[float] = None, tell: Optional[Callable[[int], None]] = None
    ) -> int:
        """See ``Store.retry_where``."""
        some = only_in(RETRIABLE, which)
        if some is None:
            return 0
        where, parameters = conditions(some)
        retried = 0
        for seqs in self._found(some):
            with self._write as db:
                moves: Moves = {}
                for seq, queue, state in _still(db, seqs, where, parameters):
                    self._start_over(db, seq, state, time.time() if now is None else now)
                    note_move(moves, queue, state, "pending")
                    retried += 1
                write_moves(db, moves)
                self._ring_after = True
            self._cut_log()
            if tell is not None:
                tell(retried)
        return retried

    def _cut_log(self) -> None:
        """Cut a long WAL between two steps of many.

        While others write too, the checkpoints of commits may never catch up with it, and there may be no worker that
        looks after it.
        """
        try:
            self.tidy()
        except StoreUnavailable:  # the step is done; a full disk tells itself by the next one
            pass

    def _found(self, which: JobFilter) -> Iterator[Sequence[int]]:
        """Yield the rows of jobs of *which*, STEP at a time and each once, as they are seen without the write lock."""
        taken = self._taken_states(which)
        if not taken:
            return
        which = which._replace(states=tuple(state for state in taken if state in which.states))
        after, ended_at = 0, 0.0
        while True:
            if which.ended_before is None:
                sql, parameters = page("seq, NULL", which, after, STEP)
            else:
                sql, parameters = page_by_end(which, (ended_at, after), STEP)
            rows = self._rows(sql, parameters)
            if rows:
                yield [row[0] for row in rows]
            if len(rows) < STEP:
                return
            after, ended_at = rows[-1]

    def edit(self, job_id: str, changes: Mapping[str, Any], now: Optional[float] = None) -> None:
        """See ``Store.edit``."""
        from queuectl.db.sqlite_needs import edit_needs

        with self._write as db:
            now = time.time() if now is None else now
            seq, queue, state = self._row(db, job_id)
            refuse_state("edit", job_id, state)
            columns = edited_columns(changes, now, lambda: self._default_max_retries(db))
            columns = edit_needs(db, job_id, changes, columns, now)
            if "max_retries" in columns:
                failures = db.execute("SELECT failures FROM jobs WHERE seq = ?", (seq,)).fetchone()[0]
                refuse_spent_retries(job_id, columns["max_retries"], failures)
            assignments = ", ".join(f"{column} = ?" for column in columns)
            db.execute(f"UPDATE jobs SET {assignments} WHERE seq = ? AND state = ?", [*columns.values(), seq, state])
            if columns.get("queue", queue) != queue:
                move_to_queue(db, queue, columns["queue"], state)
            self._ring_after = True

    def _default_max_retries(self, db: sqlite3.Connection) -> int:
        found = db.execute("SELECT value FROM settings WHERE key = 'max_retries'").fetchone()
        return int(found[0]) if found else MAX_RETRIES

    def prune(self, which: JobFilter, limit: int = STEP) -> Optional[int]:
        """See ``Store.prune``."""
        some = only_in(PRUNABLE, which)
        if some is None:
            return 0
        return self._prunes.step(some, lambda: self._found(some), limit, lambda seqs: self._delete(seqs, some))

    def _delete(self, seqs: Sequence[int], which: JobFilter) -> Tuple[int, Sequence[int]]:
        """Delete those of these rows that are still of *which*; return how many, and the rows that are left."""
        where, parameters = conditions(which)
        moves: Moves = {}
        deleted, left = 0, seqs[len(seqs) :]
        with self._write as db:
            enough = self._free_pages() + PRUNE_PAGES
            rows = _still(db, seqs, where, parameters)
            if rows:
                db.execute(_KEEP_LAST_NUMBERS)
            for seq, queue, state in rows:
                if not self._delete_runs(db, seq, enough):
                    left = seqs[seqs.index(seq) :]
                    break
                db.execute("DELETE FROM jobs WHERE seq = ?", (seq,))
                db.execute("DELETE FROM needs WHERE seq = ?", (seq,))
                note_move(moves, queue, state, None)
                deleted += 1
                if self._free_pages() >= enough:
                    left = seqs[seqs.index(seq) + 1 :]
                    break
            write_moves(db, moves)
            if deleted:
                db.execute(_FORGET_QUEUES)
            faults.point("pruning")
        self._cut_log()
        return deleted, left

    def _delete_runs(self, db: sqlite3.Connection, seq: int, enough: int) -> bool:
        """Delete the runs of a job with their output, the oldest first; return False if that is not done yet.

        Those of one job alone may have printed too much for one transaction.
        """
        for (run_id,) in reversed(db.execute(_CHAIN, (seq,)).fetchall()):
            while db.execute(_DELETE_PART, (run_id, run_id)).rowcount > 0:
                if self._free_pages() >= enough:
                    return False
            db.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))
        return True

    def shrink(self) -> bool:
        """See ``Store.shrink``: step by step, as a VACUUM would lock everybody out."""
        free = self._free_pages()
        if free == 0:
            return False
        kept = int(self._rows("PRAGMA page_count")[0][0]) - free
        if kept < min(free, SMALL_PAGES):  # then all at once is a matter of milliseconds, however large the file was
            self._rows("VACUUM")
            self._rows("PRAGMA wal_checkpoint(PASSIVE)")
            return False
        with self._write as db:
            self._sync_after = False
            for _ in range(min(free, SHRINK_PAGES)):
                # One page at a time: Python 3.11 ends the statement after the first, however many it is told.
                db.execute("PRAGMA incremental_vacuum(1)").fetchall()
        self._cut_log()
        left = self._free_pages()
        if left == 0:
            self._rows("PRAGMA wal_checkpoint(PASSIVE)")  # only that makes the file itself shorter
        return 0 < left < free  # in a file that another program copied it may not be possible

    def _free_pages(self) -> int:
        return int(self._rows("PRAGMA freelist_count")[0][0])

    def reset(self) -> None:
        """See ``Store.reset``."""
        # What is deleted is not overwritten, as Debian's SQLite would, with a log as large as the store, while others
        # wait: the file is cut afterwards.
        overwrites = self._rows("PRAGMA secure_delete")[0][0]
        self._rows("PRAGMA secure_delete = 0")
        try:
            self._delete_all()
        finally:
            self._rows("PRAGMA secure_delete = %d" % overwrites)
        try:
            while self.shrink():
                pass
        except StoreUnavailable:  # all is deleted; the room is wanted, but not more
            pass

    def _delete_all(self) -> None:
        with self._write as db:
            db.execute(_KEEP_LAST_NUMBERS)
            # Without a WHERE SQLite truncates each table instead of visiting its rows.
            for table in ("output", "runs", "needs", "jobs", "queues", "settings", "taken_numbers"):
                db.execute(f"DELETE FROM {table}")
            db.execute("INSERT INTO queues (name) VALUES ('default')")
            db.execute("UPDATE store SET seq_ahead = last_seq, settings_version = settings_version + 1")
            faults.point("resetting")

    # -- switches -----------------------------------------------------------------------------

    def set_paused(self, queue: str, paused: bool) -> None:
        """See ``Store.set_paused``."""
        self._switch(queue, "paused", paused)

    def set_limit(self, queue: str, max_running: Optional[int]) -> None:
        """See ``Store.set_limit``."""
        self._switch(queue, "max_running", max_running)

    def _switch(self, queue: str, column: str, value: Optional[int]) -> None:
        with self._write as db:
            db.execute("INSERT OR IGNORE INTO queues (name) VALUES (?)", (queue,))
            db.execute(f"UPDATE queues SET {column} = ? WHERE name = ?", (value, queue))
            self._ring_after = True

    def set_setting(self, key: str, text: Optional[str]) -> None:
        """See ``Store.set_setting``."""
        with self._write as db:
            if text is None:
                db.execute("DELETE FROM settings WHERE key = ?", (key,))
            else:
                db.execute("INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", (key, text))
            db.execute("UPDATE store SET settings_version = settings_version + 1")


_COLUMN = {state: column for column, state in enumerate(COUNTED)}
_ADD_COUNTS = "UPDATE queues SET {} WHERE name = ?".format(", ".join(f"{state} = {state} + ?" for state in COUNTED))


def _still(db: sqlite3.Connection, seqs: Sequence[int], where: Sequence[str], parameters: Sequence[Any]) -> List[Any]:
    """Return (seq, queue, state) of those of these rows for which the conditions hold now, inside a transaction."""
    sql = f"SELECT seq, queue, state FROM jobs WHERE {' AND '.join(['seq = ?', *where])}"
    rows = (db.execute(sql, [seq, *parameters]).fetchone() for seq in seqs)
    return [row for row in rows if row is not None]


def note_move(moves: Moves, queue: str, before: str, after: Optional[str]) -> None:
    """Note that a job of *queue* went from one state to another (None: it was deleted), for ``write_moves``."""
    move = queue, before, after
    moves[move] = moves.get(move, 0) + 1


def write_moves(db: sqlite3.Connection, moves: Moves) -> None:
    """Count what was noted, and forget it."""
    changes: Dict[str, List[int]] = {}
    for (queue, before, after), number in moves.items():
        change = changes.setdefault(queue, [0] * len(COUNTED))
        change[_COLUMN[before]] -= number
        if after is not None:
            change[_COLUMN[after]] += number
    for queue, change in changes.items():
        if any(change):
            db.execute(_ADD_COUNTS, (*change, queue))
    moves.clear()


def move_count(db: sqlite3.Connection, queue: str, before: str, after: str) -> None:
    """Count one job of *queue* out of one state and into another."""
    db.execute(f"UPDATE queues SET {before} = {before} - 1, {after} = {after} + 1 WHERE name = ?", (queue,))


def move_to_queue(db: sqlite3.Connection, before: str, after: str, state: str) -> None:
    """Count one job in *state* out of one queue and into another."""
    assert state in COUNTED
    db.execute("INSERT OR IGNORE INTO queues (name) VALUES (?)", (after,))
    db.execute(f"UPDATE queues SET {state} = {state} - 1 WHERE name = ?", (before,))
    db.execute(f"UPDATE queues SET {state} = {state} + 1 WHERE name = ?", (after,))
