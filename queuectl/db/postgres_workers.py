"""The PostgreSQL store's verbs about workers: registration, leases, orders, lost runs."""

from __future__ import annotations

from queuectl import faults
from queuectl.db.postgres_counts import count, move
from queuectl.db.postgres_desk import PostgresDesk
from queuectl.db.postgres_line import boot_s
from queuectl.db.postgres_turn import shard_of
from queuectl.db.rules import CANCELLED_WAITING, COUNTED, after_loss

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Sequence, Tuple

    from queuectl.db.hooks import Hooks
    from queuectl.db.postgres_counts import Moves
    from queuectl.db.postgres_run import Run
    from queuectl.job import Orders, Worker

WORKER_COLUMNS = (
    "id", "role", "group_id", "number", "host", "host_id", "pid", "pid_started", "queues", "concurrency",
    "started_at", "lease_expires_at", "renewed_mono_s", "state", "stop",
)  # fmt: skip


class PostgresWorkers(PostgresDesk):
    """The part of the PostgreSQL store that implements these verbs."""

    def register(self, worker: Worker) -> None:
        """See ``Store.register``."""
        row: List[Any] = list(worker)
        row[8] = list(worker.queues)
        self._once(_REGISTER, row)
        # From now on, no call may outlast the lease.
        lease_s = worker.lease_expires_at - worker.started_at
        self.be_patient(lease_s)
        self.lease_ends(worker.renewed_mono_s + lease_s)

    def renew(self, worker_id: str, lease_s: float, mono_s: float) -> bool:
        """See ``Store.renew``."""
        self.be_patient(lease_s)
        faults.point("renewing")
        sent_s = boot_s()
        rows = self._once(_RENEW, {"worker": worker_id, "lease": lease_s, "mono": mono_s})
        for (clock_at,) in rows:
            self._clock_is(clock_at, sent_s)
            self.lease_ends(mono_s + lease_s)
        return bool(rows)

    def unregister(self, worker_id: str) -> None:
        """See ``Store.unregister``."""

        def body(run: Run) -> None:
            run("DELETE FROM queuectl.workers WHERE id = %s", (worker_id,))
            self._fold(run, shard_of(worker_id))

        self._write(body)

    def _fold(self, run: Run, shard: int) -> None:
        """Add the counters of a shard to those of shard 0, which all share, so that shards do not pile up.

        A program that enqueues in a transaction of its own locks counters of shard 0 until it commits. This function
        skips these: no worker's turn and no recovery may wait for another program.
        """
        run(_FOLD, {"shard": shard})

    def workers(self) -> List[Worker]:
        """See ``Store.workers``."""
        from queuectl.job import Worker

        rows = self._rows(f"SELECT {', '.join(WORKER_COLUMNS)} FROM queuectl.workers ORDER BY started_at, number, id")
        return [Worker._make((*row[:8], tuple(row[8]), *row[9:])) for row in rows]

    def orders(self, worker_id: str) -> Orders:
        """See ``Store.orders``."""
        return self._orders(*self._rows(_ORDERS, {"worker": worker_id})[0])

    def news(self, worker_id: str, anyway: bool = False) -> Optional[Orders]:
        """See ``Store.news``. A worker calls this all the time, perhaps over a slow link: it is one round trip."""
        before = "" if anyway else self._snapshot
        self._snapshot, *answer = self._rows(_NEWS, {"worker": worker_id, "before": before})[0]
        return None if answer[0] is None else self._orders(*answer)

    def _orders(self, settings: int, state: Optional[str], stop: Optional[int], cancelled: List[int]) -> Orders:
        from queuectl.job import Orders

        self.settings_seen = settings
        return Orders(state == "alive", stop or 0, tuple(cancelled))

    def request_stop(self, worker_ids: Sequence[str], level: int) -> None:
        """See ``Store.request_stop``."""
        self._once(
            "UPDATE queuectl.workers SET stop = greatest(stop, %s::int) WHERE id = ANY(%s::text[]) RETURNING 1",
            (level, list(worker_ids)),
        )

    def runs_of(self, worker_id: str) -> List[Tuple[str, int]]:
        """See ``Store.runs_of``."""
        return self._rows(
            "SELECT id, last_run_id FROM queuectl.jobs WHERE worker_id = %s ORDER BY last_run_id", (worker_id,)
        )

    def condemn(self, worker_id: str, renewed_mono_s: float) -> bool:
        """See ``Store.condemn``."""
        done = self._once(
            "UPDATE queuectl.workers SET state = 'lost' WHERE id = %s AND renewed_mono_s = %s::float8 RETURNING 1",
            (worker_id, renewed_mono_s),
        )
        return bool(done)

    def release_lost(
        self, worker_id: str, max_lost: int, now: Optional[float] = None, hooks: Optional[Hooks] = None
    ) -> List[Tuple[str, str]]:
        """See ``Store.release_lost``."""

        def body(run: Run) -> List[Tuple[str, str]]:
            clock = self._clock(run, now)
            row = run("SELECT state FROM queuectl.workers WHERE id = %s FOR UPDATE", (worker_id,)).fetchone()
            if row is not None and row[0] == "alive":
                return []
            owned = run(_OWNED, (worker_id,)).fetchall()
            moves: Moves = {}
            states, reasons = [], []
            found = []
            for _, job_id, queue, losses, cancel, run_id, command, env in owned:
                state, reason = after_loss(losses + 1, max_lost, cancel)
                found.append(hooks.after(run_id, state, reason, job_id, queue, command, env) if hooks else None)
                move(moves, queue, "processing", state)
                states.append(state)
                reasons.append(reason)
            if owned:
                run(_RELEASE, {"seqs": [row[0] for row in owned], "states": states, "reasons": reasons, "now": clock()})
                # Not in the dead worker's own shard: a session of that worker may still be open and have it locked.
                count(run, moves, shard_of(worker_id + " lost"))
                self._wake(run)
                dead = [hook for hook in found if hook is not None]
                if dead:
                    from queuectl.db.postgres_hooks import add_hooks

                    add_hooks(run, dead, now, shard_of(worker_id + " lost"), self.channel)
            run("DELETE FROM queuectl.workers WHERE id = %s", (worker_id,))
            for shard in (shard_of(worker_id), shard_of(worker_id + " lost")):
                self._fold(run, shard)
            faults.point("releasing")
            return [(row[1], state) for row, state in zip(owned, states)]

        return self._write(body)

    def give_back(self, worker_id: str, run_ids: Sequence[int], now: Optional[float] = None) -> int:
        """See ``Store.give_back``."""

        def body(run: Run) -> int:
            clock = self._clock(run, now)
            unbegun = run(_UNBEGUN, (worker_id, list(run_ids))).fetchall()
            moves: Moves = {}
            for _, queue, cancel, _ in unbegun:
                move(moves, queue, "processing", "cancelled" if cancel else "pending")
            if unbegun:
                run(_GIVE_BACK, {"seqs": [row[0] for row in unbegun], "now": clock(), "reason": CANCELLED_WAITING})
                run("DELETE FROM queuectl.runs WHERE run_id = ANY(%s::bigint[])", ([row[3] for row in unbegun],))
                count(run, moves, shard_of(worker_id))
                self._wake(run)
            faults.point("giving")
            return len(unbegun)

        return self._write(body)

    def ownerless(self) -> List[str]:
        """See ``Store.ownerless``."""
        rows = self._rows(
            """
            SELECT DISTINCT worker_id
              FROM queuectl.jobs AS j
             WHERE worker_id IS NOT NULL
               AND NOT EXISTS (SELECT 1 FROM queuectl.workers AS w WHERE w.id = j.worker_id)
            """
        )
        return [row[0] for row in rows]


_REGISTER = f"""
    INSERT INTO queuectl.workers ({", ".join(WORKER_COLUMNS)})
    VALUES ({", ".join("%s::text[]" if column == "queues" else "%s" for column in WORKER_COLUMNS)})
    ON CONFLICT (id) DO UPDATE
       SET {", ".join(f"{column} = excluded.{column}" for column in WORKER_COLUMNS[1:])}
    RETURNING 1
    """

_RENEW = """
    UPDATE queuectl.workers
       SET lease_expires_at = extract(epoch FROM clock_timestamp())::float8 + %(lease)s::float8,
           renewed_mono_s = %(mono)s::float8
     WHERE id = %(worker)s AND state = 'alive'
    RETURNING extract(epoch FROM clock_timestamp())::float8
    """

_OF_ORDERS = (
    "(SELECT settings_version FROM queuectl.store WHERE one)",
    "(SELECT state FROM queuectl.workers WHERE id = %(worker)s)",
    "(SELECT stop FROM queuectl.workers WHERE id = %(worker)s)",
    "ARRAY(SELECT last_run_id FROM queuectl.jobs WHERE worker_id = %(worker)s AND cancel_requested)",
)
_ORDERS = "SELECT " + ", ".join(_OF_ORDERS)

# CASE keeps the orders from being looked up if the snapshot is the same as before.
_NEWS = f"""
    SELECT now.snapshot,
           {", ".join(f"CASE WHEN now.snapshot <> %(before)s::text THEN {part} END" for part in _OF_ORDERS)}
      FROM (SELECT txid_current_snapshot()::text AS snapshot) AS now
    """

_OWNED = """
    SELECT seq, id, queue, losses, cancel_requested, last_run_id, command, env
      FROM queuectl.jobs
     WHERE worker_id = %s
     ORDER BY seq
       FOR UPDATE
    """

_RELEASE = """
    WITH lost AS (
        SELECT *
          FROM unnest(%(seqs)s::bigint[], %(states)s::queuectl.job_state[], %(reasons)s::text[])
               AS l (seq, state, reason)
    ), freed AS (
        UPDATE queuectl.jobs AS j
           SET state = lost.state, ready = CASE WHEN lost.state = 'pending' THEN 1 ELSE 0 END,
               losses = j.losses + 1, worker_id = NULL, cancel_requested = false, updated_at = %(now)s::float8,
               ended_at = CASE WHEN lost.state = 'pending' THEN NULL ELSE %(now)s::float8 END, reason = lost.reason
          FROM lost
         WHERE coalesce(lost.seq, -1) = lost.seq AND j.seq = lost.seq  -- see postgres_turn
        RETURNING j.last_run_id)
    UPDATE queuectl.runs AS r
       SET state = 'lost', ended_at = %(now)s::float8, reason = 'its worker died'
      FROM freed
     WHERE r.run_id = freed.last_run_id
    """

_UNBEGUN = """
    SELECT seq, queue, cancel_requested, last_run_id
      FROM queuectl.jobs
     WHERE worker_id = %s AND last_run_id = ANY(%s::bigint[]) AND state = 'processing'
     ORDER BY seq
       FOR UPDATE
    """

_GIVE_BACK = """
    UPDATE queuectl.jobs AS j
       SET state = CASE WHEN j.cancel_requested THEN 'cancelled' ELSE 'pending' END::queuectl.job_state,
           ready = CASE WHEN j.cancel_requested THEN 0 ELSE 1 END,
           attempts = j.attempts - 1, run_no = j.run_no - 1, last_run_id = r.previous_id,
           worker_id = NULL, cancel_requested = false, updated_at = %(now)s::float8,
           ended_at = CASE WHEN j.cancel_requested THEN %(now)s::float8 END,
           reason = CASE WHEN j.cancel_requested THEN %(reason)s::text END
      FROM unnest(%(seqs)s::bigint[]) AS g (seq), queuectl.runs AS r
     WHERE coalesce(g.seq, -1) = g.seq AND j.seq = g.seq AND r.run_id = j.last_run_id  -- see postgres_turn
    """

# Rows that are locked at this moment are left for the next time: the counts are right even if a shard stays.
_FOLD = f"""
    WITH open AS (
        SELECT queue
          FROM queuectl.counts
         WHERE shard = 0 AND queue IN (SELECT queue FROM queuectl.counts WHERE shard = %(shard)s::int)
         ORDER BY queue
           FOR UPDATE SKIP LOCKED
    ), mine AS (
        SELECT queue
          FROM queuectl.counts
         WHERE shard = %(shard)s::int AND queue IN (SELECT queue FROM open)
         ORDER BY queue
           FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM queuectl.counts AS c USING mine WHERE c.queue = mine.queue AND c.shard = %(shard)s::int
        RETURNING c.*
    )
    UPDATE queuectl.counts AS c
       SET {", ".join(f"{state} = c.{state} + gone.{state}" for state in COUNTED)}
      FROM gone
     WHERE c.queue = gone.queue AND c.shard = 0
    """
