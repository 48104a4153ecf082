"""The SQLite store: jobs are claimed and finished. The rest of the contract is in its bases.

Every writing verb is one BEGIN IMMEDIATE transaction: SQLite has one write lock, so what a verb reads
in it cannot change before it writes. No RETURNING and no upsert beyond what SQLite 3.24 has.
"""

from __future__ import annotations

import os
import time

from queuectl import faults
from queuectl.db.base import Store
from queuectl.db.rules import FEW_QUEUES, PLENTY, Finished
from queuectl.db.sqlite_add import SqliteAdd
from queuectl.db.sqlite_desk import note_move, write_moves
from queuectl.db.sqlite_views import SqliteViews
from queuectl.db.sqlite_workers import SqliteWorkers

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any, List, Optional, Sequence, Tuple

    from queuectl.db.base import Ended, OutputWrite
    from queuectl.db.hooks import Hooks
    from queuectl.db.sqlite_crowd import Crowd
    from queuectl.db.sqlite_desk import Moves
    from queuectl.job import Claim

# Rows that became due and are moved into the claim's index before a claim: all, for the most urgent of
# them may be the last. 100,000 take a quarter of a second; what is beyond waits for the next claim.
PROMOTE_MOST = 100_000


class SqliteStore(SqliteAdd, SqliteWorkers, SqliteViews, Store):
    """A store in one SQLite file."""

    #: Whether the last claim met many queues; what it knows of them, and how often it had rung then.
    _many_queues = False
    _crowd: Optional[Crowd] = None
    _crowd_rings = 0

    def __del__(self) -> None:
        """Close what sqlite3 does not close by itself if nobody has closed the store."""
        wal = getattr(self, "_wal", None)
        if wal is not None:
            self._wal = None
            try:
                os.close(wal)
            except OSError:  # a program that became a daemon may have closed all it had open
                pass

    def now(self) -> float:
        """Return the wall clock: the store is on this machine."""
        return time.time()

    # -- runs ---------------------------------------------------------------------------------

    def claim(self, worker_id: str, count: int, queues: Sequence[str] = (), now: Optional[float] = None) -> List[Claim]:
        """See ``Store.claim``."""
        at = time.time() if now is None else now
        due = self.next_due(queues, at)
        if due is None or due > at:  # most looks of an idle worker end here, without the write lock
            return []
        return self.finish(worker_id, (), count, queues, now).claims

    def finish(
        self,
        worker_id: str,
        ended: Sequence[Ended],
        count: int = 0,
        queues: Sequence[str] = (),
        now: Optional[float] = None,
        outputs: Sequence[OutputWrite] = (),
        ahead: int = 0,
        hooks: Optional[Hooks] = None,
    ) -> Finished:
        """See ``Store.finish``."""
        moves: Moves = {}
        crowd = self._look_around(queues) if self._many_queues and count + ahead > 0 else None
        with self._write as db:
            # Not before the lock is there: whoever had it until now may have ended the run before this one.
            now = time.time() if now is None else now
            self._sync_after = False  # the worker does it while the next command starts
            if outputs:
                self._append(db, outputs)
            changes = db.total_changes
            states = [self._finish_one(db, worker_id, end, now, moves) for end in ended]
            # Beyond an end and its run, only the trigger has changed rows: jobs that are no longer held.
            frees = db.total_changes - changes > 2 * (len(states) - states.count(None))
            waits = "pending" in states or "failed" in states
            found = hooks.after_ends(ended) if hooks else None
            if found:
                from queuectl.db.sqlite_hooks import add_hooks

                add_hooks(db, (hook for place, hook in found.items() if states[place] is not None), now)
            # A sleeper knows neither of a retry's time nor of a place that nobody here takes.
            self._ring_after = waits or frees or bool(found) or (not count + ahead and self._frees(db, states))
            if waits:
                write_moves(db, moves)  # a job that was put back may be the one to claim
            claims: List[Claim] = []
            if crowd is not None:
                crowd.take_ends(db, ended, states)
                claims = crowd.claim(db, worker_id, count, now, moves, ahead)
            elif count + ahead > 0:
                claims = self._claim(db, worker_id, count, queues, now, moves, ahead)
            write_moves(db, moves)
            faults.point("finishing" if ended else "claiming")
        self._crowd, self._crowd_rings = crowd, self.rings
        faults.point("finished" if ended else "claimed")
        return Finished([state is not None for state in states], claims)

    def _frees(self, db: sqlite3.Connection, states: Sequence[Optional[str]]) -> bool:
        """Say whether these ends may leave a place in a queue with a limit."""
        limited = "SELECT 1 FROM queues WHERE max_running IS NOT NULL LIMIT 1"
        return any(states) and db.execute(limited).fetchone() is not None

    def _finish_one(
        self, db: sqlite3.Connection, worker_id: str, ended: Ended, now: float, moves: Moves
    ) -> Optional[str]:
        """Write one end under guard, and its run; return the job's state, None if it was taken away."""
        (job, run_id, started_at), end, verdict = ended
        state, outcome, reason = verdict.state._value_, end.outcome._value_, verdict.reason
        waits = state == "failed" or state == "pending"
        if waits:
            asked = db.execute(
                "SELECT cancel_requested FROM jobs WHERE seq = ? AND last_run_id = ?", (job.seq, run_id)
            ).fetchone()
            if asked and asked[0]:  # the worker had not yet read that it was to be cancelled
                state, reason, waits = "cancelled", "cancelled while it ran", False
        run_at = verdict.run_at if waits and verdict.run_at is not None else job.run_at
        done = db.execute(
            """
            UPDATE jobs
               SET state = ?, ready = ?, run_at = ?, failures = failures + ?, losses = 0,
                   worker_id = NULL, cancel_requested = 0, updated_at = ?, ended_at = ?, reason = ?
             WHERE seq = ? AND last_run_id = ? AND worker_id = ? AND state = 'processing'
            """,
            (
                state, (1 if run_at <= now else 2) if waits else 0, run_at, outcome in _FAILURES,
                now, None if waits else end.ended_at, reason,
                job.seq, run_id, worker_id,
            ),
        )  # fmt: skip
        if done.rowcount != 1:
            return None
        db.execute(
            """
            UPDATE runs
               SET state = ?, exit_code = ?, signal = ?, started_at = ?, ended_at = ?, peak_memory_bytes = ?, cpu_s = ?,
                   reason = ?
             WHERE run_id = ?
            """,
            (
                outcome, end.exit_code, end.signal, started_at, end.ended_at,
                end.peak_memory_bytes, end.cpu_s, end.reason, run_id,
            ),
        )  # fmt: skip
        note_move(moves, job.queue, "processing", state)
        return state

    def _claim(
        self,
        db: sqlite3.Connection,
        worker_id: str,
        count: int,
        queues: Sequence[str],
        now: float,
        moves: Moves,
        ahead: int = 0,
    ) -> List[Claim]:
        """Choose up to *count* jobs, and *ahead* more, and hand them over, inside the caller's transaction."""
        if count == 1 and not ahead:
            return self._claim_one(db, worker_id, queues, now, moves)
        rows: List[Any] = []
        open_queues = self._open_queues(queues, worker_id)
        self._many_queues = len(open_queues) > FEW_QUEUES
        if any(row[1] is not None for row in open_queues) or sum(row[4] for row in open_queues) < ahead * PLENTY:
            ahead = 0
        for name, room, waiting_at, version, _ in open_queues:
            self.settings_seen = version
            if room is not None:
                room += self._left(name, moves)
                if room <= 0:
                    continue
            if waiting_at is not None and waiting_at <= now:
                self._promote(db, name, now)
            rows += db.execute(_READY, (name, count + ahead if room is None else min(count, room))).fetchall()
        if len(open_queues) > 1:
            rows.sort(key=lambda row: (-row[4], row[5], row[0]))
        if len(rows) < count + ahead:
            ahead = 0  # these are the last: whoever is idle is to have them
        return self._hand_over(db, worker_id, rows[: count + ahead], now, moves)

    def _claim_one(
        self, db: sqlite3.Connection, worker_id: str, queues: Sequence[str], now: float, moves: Moves
    ) -> List[Claim]:
        """Choose one job with one statement: the head of each queue, and of these the most urgent."""
        best: Any = None
        heads = self._open_queues(queues, worker_id, _HEADS)
        self._many_queues = len(heads) > FEW_QUEUES
        late = [row[0] for row in heads if row[2] and row[2] <= now]
        if late:
            for name in late:
                self._promote(db, name, now)
            heads = self._open_queues(queues, worker_id, _HEADS)
        for name, room, _, version, _, *row in heads:
            self.settings_seen = version
            if room is not None:
                room += self._left(name, moves)
                if room <= 0:
                    continue
            if row[0] is not None and (best is None or (-row[4], row[5], row[0]) < (-best[4], best[5], best[0])):
                best = row
        return [] if best is None else self._hand_over(db, worker_id, [best], now, moves)

    def _look_around(self, queues: Sequence[str]) -> Optional[Crowd]:
        """Return what is known of many queues; None if they are few. Not under the lock: it may take a while."""
        crowd, self._crowd = self._crowd, None
        if crowd is None or self._crowd_rings != self.rings or not crowd.serves(queues):
            from queuectl.db.sqlite_crowd import Crowd

            crowd = Crowd(self, queues)
        self._many_queues = crowd.many
        return crowd if crowd.many else None

    def _open_queues(self, queues: Sequence[str], worker_id: Optional[str] = None, sql: str = "") -> List[Any]:
        """Return a row for each queue that has waiting jobs and is not paused.

        The columns: name; how many more jobs may run, None without a limit; when the next job that waits for a time is
        due, None if none does; the version of the settings; how many jobs wait. *sql* may add more (``_HEADS``).
        With *worker_id*, no rows if that worker is not registered or was condemned.
        """
        sql = sql or _OPEN_QUEUES
        parameters: List[Any] = []
        if queues:
            sql += " AND name IN (%s)" % ", ".join("?" * len(queues))
            parameters += queues
        if worker_id is not None:
            sql += " AND EXISTS (SELECT 1 FROM workers WHERE id = ? AND state = 'alive')"
            parameters.append(worker_id)
        return self._rows(sql, parameters)

    def _promote(self, db: sqlite3.Connection, queue: str, now: float) -> None:
        """Move jobs of *queue* whose time has come into the claim's index."""
        db.execute(
            """
            UPDATE jobs SET ready = 1
             WHERE seq IN (SELECT seq FROM jobs WHERE queue = ? AND ready = 2 AND run_at <= ? ORDER BY run_at LIMIT ?)
            """,
            (queue, now, PROMOTE_MOST),
        )
        faults.point("promoting")

    def _hand_over(
        self, db: sqlite3.Connection, worker_id: str, rows: Sequence[Any], now: float, moves: Moves
    ) -> List[Claim]:
        from queuectl.job import Claim, Job

        if not rows:
            return []
        host, pid = self._whereabouts(worker_id)
        run = db.execute(_BEGIN_RUN, (rows[0][_LAST_RUN_ID], rows[0][_RUN_NO], now, worker_id, host, pid))
        first = run.lastrowid or 0
        db.execute(_OWN, (first, worker_id, now, rows[0][0]))
        if len(rows) > 1:
            rest = list(enumerate(rows[1:], first + 1))
            runs = [(run_id, row[_LAST_RUN_ID], row[_RUN_NO], now, worker_id, host, pid) for run_id, row in rest]
            db.executemany(_BEGIN_NEXT_RUN, runs)
            db.executemany(_OWN, [(run_id, worker_id, now, row[0]) for run_id, row in rest])
        claims = []
        for run_id, row in enumerate(rows, first):
            note_move(moves, row[2], row[_STATE_BEFORE], "processing")
            fields = (*row[:17], run_id, worker_id, False, row[_CREATED_AT], now, None, None, row[_AFTER], False)
            claims.append(Claim(Job._make(fields), run_id, now))
        return claims

    def _left(self, queue: str, moves: Moves) -> int:
        """Return how many jobs of *queue* the ends in this transaction leave no longer running."""
        left = sum(number for (name, before, _), number in moves.items() if name == queue and before == "processing")
        if left:
            self._ring_after = True  # another worker may take the place that this one leaves
        return left

    # -- output -------------------------------------------------------------------------------

    def append_outputs(self, writes: Sequence[OutputWrite]) -> None:
        """See ``Store.append_outputs``."""
        with self._write as db:
            self._append(db, writes)
            faults.point("flushing")

    def _append(self, db: sqlite3.Connection, writes: Sequence[OutputWrite]) -> None:
        """Add output, in the order of *writes*."""
        rows: List[Tuple[int, bytes, int]] = []
        for run_id, parts, gone in writes:
            if gone is not None:
                db.executemany(_ADD_OUTPUT, rows)
                rows = []
                db.execute("DELETE FROM output WHERE run_id = ? AND start >= ? AND start < ?", (run_id, *gone))
            rows += [(start, data, run_id) for start, data in parts]
        db.executemany(_ADD_OUTPUT, rows)


# Not for a run that was deleted: a worker given up for lost may write on after its job was pruned.
_ADD_OUTPUT = """
    INSERT OR REPLACE INTO output (run_id, start, bytes)
    SELECT run_id, ?, ? FROM runs WHERE run_id = ?
    """

_OPEN_QUEUES = """
    SELECT name, max_running - processing,
           (SELECT run_at FROM jobs WHERE queue = name AND ready = 2 ORDER BY run_at LIMIT 1),
           (SELECT settings_version FROM store), pending + failed
      FROM queues
     WHERE paused = 0 AND pending + failed > 0
    """

# A waiting job, up to run_no as it is once it is claimed, and what it is now.
HEAD_COLUMNS = """
    seq, id, queue, 'processing', priority, run_at, command, cwd, env, tags, timeout_s, backoff_base, max_retries,
    attempts + 1, failures, losses, run_no + 1, last_run_id, created_at, state, after
    """
_RUN_NO, _LAST_RUN_ID, _CREATED_AT, _STATE_BEFORE, _AFTER = 16, 17, 18, 19, 20
_FAILURES = ("failed", "timed_out")
_READY = f"""
    SELECT {HEAD_COLUMNS}
      FROM jobs
     WHERE queue = ? AND ready = 1
     ORDER BY priority DESC, run_at, seq
     LIMIT ?
    """

# The same, and the job that a claim would take of each queue, if there is one.
_HEADS = _OPEN_QUEUES.replace(
    "FROM queues",
    f"""
           , {HEAD_COLUMNS}
      FROM queues
      LEFT JOIN jobs ON seq = (SELECT seq FROM jobs
                                WHERE queue = name AND ready = 1
                                ORDER BY priority DESC, run_at, seq
                                LIMIT 1)""",
)

_BEGIN = "INSERT INTO runs (run_id, previous_id, number, state, started_at, worker_id, host, pid) VALUES "
_BEGIN_RUN = f"""
    {_BEGIN} (1 + max((SELECT coalesce(max(run_id), 0) FROM runs), (SELECT last_run_id FROM store)),
              ?, ?, 'running', ?, ?, ?, ?)
    """
# For a run that begins in the same transaction as the one before it: its id is the next.
_BEGIN_NEXT_RUN = f"{_BEGIN} (?, ?, ?, 'running', ?, ?, ?, ?)"

_OWN = """
    UPDATE jobs
       SET state = 'processing', ready = 0, attempts = attempts + 1, run_no = run_no + 1,
           last_run_id = ?, worker_id = ?, updated_at = ?, reason = NULL
     WHERE seq = ?
    """
