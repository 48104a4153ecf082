"""The SQLite store's verbs about workers: who is there, leases, what is asked of them, lost runs."""

from __future__ import annotations

import os
import time

from queuectl import faults
from queuectl.db import sqlite_make
from queuectl.db.rules import CANCELLED_WAITING, after_loss, to_json
from queuectl.db.sqlite_desk import move_count
from queuectl.db.sqlite_file import SqliteFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any, Dict, List, Optional, Sequence, Tuple

    from queuectl.db.hooks import Hooks
    from queuectl.job import Orders, Worker

WORKER_COLUMNS = (
    "id, role, group_id, number, host, host_id, pid, pid_started, queues, concurrency, "
    "started_at, lease_expires_at, renewed_mono_s, state, stop"
)

ALL_QUEUES = "[]"
# A worker copies hot pages back less often than SQLite by itself, which does so from 1,000 pages on. Not whoever
# enqueues, and waits for the disk: while a WAL still grows, each sync takes twice as long as over an old part.
CHECKPOINT_PAGES = 4000

# More runs than can begin before the disk catches up: that takes 30 ms, or a minute if the disk stands still.
RUN_ID_GAP = 1_000_000

_LEAVE_GAP = """
    UPDATE store SET last_run_id = ? + max(last_run_id, (SELECT coalesce(max(run_id), 0) FROM runs))
    """

_UNBEGUN = """
    SELECT seq, queue, cancel_requested, (SELECT previous_id FROM runs WHERE run_id = last_run_id)
      FROM jobs
     WHERE worker_id = ? AND last_run_id = ? AND state = 'processing'
    """


class SqliteWorkers(SqliteFile):
    """Workers and their leases."""

    def register(self, worker: Worker) -> None:
        """See ``Store.register``."""
        from queuectl.job import boot_of

        row: List[Any] = list(worker)
        row[8] = to_json(list(worker.queues)) or ALL_QUEUES
        marks = ", ".join("?" * len(row))
        if worker.role == "supervisor":
            sqlite_make.refuse_network(os.path.dirname(os.path.realpath(self.path)))
        self._rows("PRAGMA wal_autocheckpoint = %d" % sqlite_make.log_pages(self._real_path, CHECKPOINT_PAGES))
        with self._write as db:
            # The row itself need not be on the disk: after a cut of the power there is no worker that it could tell of.
            self._sync_after = _begin_boot(db, boot_of(worker.host_id))
            db.execute(f"INSERT OR REPLACE INTO workers ({WORKER_COLUMNS}) VALUES ({marks})", row)

    def _whereabouts(self, worker_id: str) -> Tuple[str, Optional[int]]:
        """Return a worker's (host, pid); remembered, since they never change."""
        known: Dict[str, Tuple[str, Optional[int]]] = self.__dict__.setdefault("_places", {})
        if worker_id not in known:
            rows = self._rows("SELECT host, pid FROM workers WHERE id = ?", (worker_id,))
            known[worker_id] = rows[0] if rows else ("unknown", None)
        return known[worker_id]

    def renew(self, worker_id: str, lease_s: float, mono_s: float) -> bool:
        """See ``Store.renew``."""
        with self._write as db:
            self._sync_after = False  # as for the row itself: see ``register``
            done = db.execute(
                """
                UPDATE workers
                   SET lease_expires_at = ?, renewed_mono_s = ?
                 WHERE id = ? AND state = 'alive'
                """,
                (time.time() + lease_s, mono_s, worker_id),
            )
            faults.point("renewing")
        return done.rowcount == 1

    def unregister(self, worker_id: str) -> None:
        """See ``Store.unregister``."""
        with self._write as db:
            self._sync_after = False
            db.execute("DELETE FROM workers WHERE id = ?", (worker_id,))

    def is_open_in(self, pid: int) -> Optional[bool]:
        """See ``Store.is_open_in``."""
        return self.identity.is_open_in(pid)

    def disown(self, worker_ids: Sequence[str]) -> bool:
        """See ``Store.disown``."""
        store_id = os.urandom(8).hex()
        with self._write as db:
            marks = ", ".join("?" * len(worker_ids))
            # A worker leaves its entry before it closes the store: without the entry, it was no stranger.
            if db.execute(f"DELETE FROM workers WHERE id IN ({marks})", worker_ids).rowcount == 0:
                return False
            db.execute("UPDATE store SET store_id = ?", (store_id,))
        self.store_id = store_id
        return True

    def workers(self) -> List[Worker]:
        """See ``Store.workers``."""
        from queuectl.job import Worker

        rows = self._rows(f"SELECT {WORKER_COLUMNS} FROM workers ORDER BY started_at, number, id")
        return [Worker._make((*row[:8], _queues(row[8]), *row[9:])) for row in rows]

    def orders(self, worker_id: str) -> Orders:
        """See ``Store.orders``."""
        from queuectl.job import Orders

        rows = self._rows(
            """
            SELECT settings_version, (SELECT state FROM workers WHERE id = ?), (SELECT stop FROM workers WHERE id = ?)
              FROM store
            """,
            (worker_id, worker_id),
        )
        self.settings_seen, state, stop = rows[0]
        cancelled = self._rows(
            "SELECT last_run_id FROM jobs WHERE worker_id = ? AND cancel_requested = 1",
            (worker_id,),
        )
        return Orders(state == "alive", stop or 0, tuple(row[0] for row in cancelled))

    def request_stop(self, worker_ids: Sequence[str], level: int) -> None:
        """See ``Store.request_stop``."""
        with self._write as db:
            for worker_id in worker_ids:
                db.execute("UPDATE workers SET stop = max(stop, ?) WHERE id = ?", (level, worker_id))

    def runs_of(self, worker_id: str) -> List[Tuple[str, int]]:
        """See ``Store.runs_of``."""
        return self._rows("SELECT id, last_run_id FROM jobs WHERE worker_id = ? ORDER BY last_run_id", (worker_id,))

    def condemn(self, worker_id: str, renewed_mono_s: float) -> bool:
        """See ``Store.condemn``."""
        with self._write as db:
            done = db.execute(
                "UPDATE workers SET state = 'lost' WHERE id = ? AND renewed_mono_s = ?", (worker_id, renewed_mono_s)
            )
        return done.rowcount == 1

    def release_lost(
        self, worker_id: str, max_lost: int, now: Optional[float] = None, hooks: Optional[Hooks] = None
    ) -> List[Tuple[str, str]]:
        """See ``Store.release_lost``."""
        released = []
        with self._write as db:
            now = time.time() if now is None else now
            if db.execute("SELECT 1 FROM workers WHERE id = ? AND state = 'alive'", (worker_id,)).fetchone():
                return []
            rows = db.execute(
                """
                SELECT seq, id, queue, last_run_id, losses, cancel_requested, command, env FROM jobs
                 WHERE worker_id = ?
                 ORDER BY seq
                """,
                (worker_id,),
            ).fetchall()
            for seq, job_id, queue, run_id, losses, cancel, command, env in rows:
                state, reason = after_loss(losses + 1, max_lost, bool(cancel))
                db.execute(
                    """
                    UPDATE jobs
                       SET state = ?, ready = ?, losses = losses + 1, worker_id = NULL,
                           cancel_requested = 0, updated_at = ?, ended_at = ?, reason = ?
                     WHERE seq = ? AND last_run_id = ?
                    """,
                    (state, state == "pending", now, None if state == "pending" else now, reason, seq, run_id),
                )
                db.execute(
                    "UPDATE runs SET state = 'lost', ended_at = ?, reason = 'its worker died' WHERE run_id = ?",
                    (now, run_id),
                )
                move_count(db, queue, "processing", state)
                released.append((job_id, state))
                hook = hooks.after(run_id, state, reason, job_id, queue, command, env) if hooks else None
                if hook is not None:
                    from queuectl.db.sqlite_hooks import add_hooks

                    add_hooks(db, [hook], now)
            db.execute("DELETE FROM workers WHERE id = ?", (worker_id,))
            faults.point("releasing")
            self._ring_after = True
        return released

    def give_back(self, worker_id: str, run_ids: Sequence[int], now: Optional[float] = None) -> int:
        """See ``Store.give_back``."""
        given = 0
        with self._write as db:
            now = time.time() if now is None else now
            self._sync_after = False  # as the claim was: whoever loses it has the job lost, and not run
            for run_id in run_ids:
                row = db.execute(_UNBEGUN, (worker_id, run_id)).fetchone()
                if row is None:
                    continue
                seq, queue, cancel, previous_id = row
                state, ended_at, reason = ("cancelled", now, CANCELLED_WAITING) if cancel else ("pending", None, None)
                db.execute(
                    """
                    UPDATE jobs
                       SET state = ?, ready = ?, attempts = attempts - 1, run_no = run_no - 1, last_run_id = ?,
                           worker_id = NULL, cancel_requested = 0, updated_at = ?, ended_at = ?, reason = ?
                     WHERE seq = ?
                    """,
                    (state, not cancel, previous_id, now, ended_at, reason, seq),
                )
                db.execute("UPDATE store SET last_run_id = max(last_run_id, ?)", (run_id,))
                db.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))
                move_count(db, queue, "processing", state)
                given += 1
            faults.point("giving")
            self._ring_after = given > 0
        return given

    def ownerless(self) -> List[str]:
        """See ``Store.ownerless``."""
        rows = self._rows(
            """
            SELECT DISTINCT worker_id FROM jobs
             WHERE worker_id IS NOT NULL AND worker_id NOT IN (SELECT id FROM workers)
            """
        )
        return [row[0] for row in rows]


def _begin_boot(db: sqlite3.Connection, boot: str) -> bool:
    """Leave a gap in the run ids if this *boot* is a new one; return whether that must be on the disk before a claim.

    A claim is not synced. If power failed, the newest runs are gone whose commands knew their ids: as fencing
    tokens these must not come again.
    """
    known = db.execute("SELECT boot_id FROM store").fetchone()[0]
    if boot in ("", known):
        return False
    if known:
        db.execute(_LEAVE_GAP, (RUN_ID_GAP,))
    db.execute("UPDATE store SET boot_id = ?", (boot,))
    return True


def _queues(text: str) -> Tuple[str, ...]:
    """Return the queues of a worker's row; json, with its regular expressions, is imported only if it names any."""
    if text == ALL_QUEUES:
        return ()
    import json

    return tuple(json.loads(text))
