"""Claims from a SQLite store with many queues, by what a look at all of them has found (see ``heads``)."""

from __future__ import annotations

import time
from heapq import heapify, heappop, heappush

from queuectl.db.heads import FIRST, MOST, Heads
from queuectl.db.rules import FEW_QUEUES, MOST_NEW, PLENTY
from queuectl.db.sqlite import HEAD_COLUMNS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any, Dict, List, Optional, Sequence, Tuple

    from queuectl.db.base import Ended
    from queuectl.db.heads import Key
    from queuectl.db.sqlite import SqliteStore
    from queuectl.db.sqlite_desk import Moves
    from queuectl.job import Claim


class Crowd:
    """The queues that a worker serves, as they were at one look, updated by what was learnt since.

    ``many`` says whether there are so many queues that this pays.
    """

    def __init__(self, store: SqliteStore, queues: Sequence[str]) -> None:
        """Look at all of *queues*; empty: all queues of the store."""
        self._store = store
        self._queues = tuple(queues)
        self._served = frozenset(queues)
        self._look()

    def _look(self) -> None:
        """Look at the heads of all queues."""
        begun_s = time.monotonic()
        rows, queues = self._store._rows, self._queues
        served = " AND name IN (%s)" % ", ".join("?" * len(queues)) if queues else ""
        self._newest_seq: int = rows(_NEWEST)[0][0]
        count, self._jobs, limits = rows(_ALL + served, queues)[0]
        self.many, self._limited = count > FEW_QUEUES, limits > 0
        heads = rows(_FIRST + served + _ORDER, [*queues, MOST + 1])
        self._heads = Heads(
            ((name, (-priority, run_at, seq)) for name, priority, run_at, seq in heads[:MOST]),
            begun_s,
            more=len(heads) > MOST,
        )
        # A heap of (when the first waiting job of a queue is due, the queue).
        self._waiting: List[Tuple[float, str]] = rows(_WAITING + served, queues)
        heapify(self._waiting)

    def serves(self, queues: Sequence[str]) -> bool:
        """Return whether this is about these queues and fresh enough to rely on."""
        return self._queues == tuple(queues) and self._heads.fresh()

    def claim(
        self, db: sqlite3.Connection, worker_id: str, count: int, now: float, moves: Moves, ahead: int
    ) -> List[Claim]:
        """Claim up to *count* jobs, and up to *ahead* more, in the transaction that is open on *db*.

        If too few jobs are known, look at all queues again. *moves* collects the changes of the counters.
        """
        self._store.settings_seen, alive = db.execute(_MAY_CLAIM, (worker_id,)).fetchone()
        if not alive:
            return []
        rows = self._choose(db, count + self._bounded(ahead), now, moves) if self._take_new(db) else []
        if len(rows) < count + self._bounded(ahead):
            self._look()
            rows = self._choose(db, count + self._bounded(ahead), now, moves)
        # Leave the last jobs to idle workers. Claim none ahead if the look has just met a limit.
        for row in rows[count:] if len(rows) < count + ahead or self._limited else ():
            self._heads.found(row[2], _key(row))
            rows.pop()
        return self._store._hand_over(db, worker_id, rows, now, moves)

    def _bounded(self, ahead: int) -> int:
        """Return how many jobs may be claimed ahead: 0 if few jobs wait, or if any queue has a limit."""
        return 0 if self._limited or self._jobs < ahead * PLENTY else ahead

    def _choose(self, db: sqlite3.Connection, wanted: int, now: float, moves: Moves) -> List[Any]:
        """Return the rows of the *wanted* most urgent jobs; fewer if no more are known."""
        while self._waiting and self._waiting[0][0] <= now:
            _, name = heappop(self._waiting)
            self._store._promote(db, name, now)
            self._came_back(db, name)
        chosen: Dict[str, List[Any]] = {}
        missing = wanted
        while missing > 0:
            names = self._heads.first()
            if not names:
                break
            missing -= self._choose_from(db, names[0], chosen.setdefault(names[0], []), missing, moves)
        return sorted((row for rows in chosen.values() for row in rows), key=_key)

    def _choose_from(self, db: sqlite3.Connection, name: str, chosen: List[Any], wanted: int, moves: Moves) -> int:
        """Append jobs of the most urgent queue to *chosen*, those more urgent than the next queue's; return how many.

        Nothing is handed over yet, so the jobs chosen from this queue before are still at its head. The first call for
        a queue reads one job, each further call as many as were chosen so far. A job with the key of the next queue's
        head is taken too: it is the same job, known under both queues since it was moved from one to the other.
        """
        limit = self._heads.behind(1)
        wanted = min(wanted, max(1, len(chosen)))
        found = db.execute(_READY_OF, (name, wanted + 1, len(chosen))).fetchall()
        room = wanted
        if found and found[0][-1] is not None:
            self._limited = True
            room = max(0, found[0][-1] + self._store._left(name, moves) - len(chosen))
        taken = 0
        while taken < min(wanted, room, len(found)) and (limit is None or _key(found[taken]) <= limit):
            taken += 1
        chosen += found[:taken]
        has_more = taken < len(found) and (taken < room or room >= wanted)
        self._heads.set(name, _key(found[taken]) if has_more else None)
        return taken

    def _take_new(self, db: sqlite3.Connection) -> bool:
        """Note the jobs that were enqueued since the last call; return False if they were too many."""
        new = db.execute(_NEW, (self._newest_seq, MOST_NEW)).fetchall()
        for seq, name, priority, run_at in new:
            if not self._served or name in self._served:
                self._heads.found(name, (-priority, run_at, seq))
        if new:
            self._newest_seq = new[-1][0]
        return len(new) < MOST_NEW

    def take_ends(self, db: sqlite3.Connection, ended: Sequence[Ended], states: Sequence[Optional[str]]) -> None:
        """Note how these ends, which left their jobs in *states*, change the queues."""
        for ((job, _, _), _, _), state in zip(ended, states):
            if state in ("pending", "failed") or (state is not None and self._limited):
                self._came_back(db, job.queue)

    def _came_back(self, db: sqlite3.Connection, name: str) -> None:
        """Note that a queue may have other jobs than before, so that the next claim asks it."""
        if self._served and name not in self._served:
            return
        self._heads.found(name, FIRST)
        waiting = db.execute(_NEXT_WAITING, (name,)).fetchone()
        if waiting:
            heappush(self._waiting, (waiting[0], name))


def _key(row: Any) -> Key:
    return -row[4], row[5], row[0]


# The version of the settings, and whether the worker may claim.
_MAY_CLAIM = """
    SELECT settings_version, EXISTS (SELECT 1 FROM workers WHERE id = ? AND state = 'alive')
      FROM store
    """

_NEWEST = "SELECT coalesce(max(seq), 0) FROM jobs"

_ALL = """
    SELECT count(*), coalesce(sum(pending + failed), 0), count(max_running)
      FROM queues
     WHERE paused = 0 AND pending + failed > 0
    """

# The most urgent heads of all queues; the claim's index gives the head of each.
_FIRST = """
    SELECT name, priority, run_at, seq
      FROM queues
      JOIN jobs ON seq = (SELECT seq FROM jobs
                           WHERE queue = name AND ready = 1
                           ORDER BY priority DESC, run_at, seq
                           LIMIT 1)
     WHERE paused = 0 AND pending + failed > 0
    """
_ORDER = " ORDER BY priority DESC, run_at, seq LIMIT ?"

_NEXT_WAITING = "SELECT run_at FROM jobs WHERE queue = ? AND ready = 2 ORDER BY run_at LIMIT 1"
_WAITING = """
    SELECT run_at, name
      FROM queues
      JOIN jobs ON seq = (SELECT seq FROM jobs WHERE queue = name AND ready = 2 ORDER BY run_at LIMIT 1)
     WHERE paused = 0 AND pending + failed > 0
    """

# Read by number, in the order of arrival; the + keeps SQLite from using the claim's index.
_NEW = "SELECT seq, queue, priority, run_at FROM jobs WHERE seq > ? AND +ready = 1 ORDER BY seq LIMIT ?"

# The ready jobs of a queue as a claim needs them, and how many more may run; nothing for a paused queue.
_READY_OF = f"""
    SELECT {HEAD_COLUMNS}, max_running - processing
      FROM queues
     CROSS JOIN jobs
     WHERE name = ? AND paused = 0 AND queue = name AND ready = 1
     ORDER BY priority DESC, run_at, seq
     LIMIT ? OFFSET ?
    """
