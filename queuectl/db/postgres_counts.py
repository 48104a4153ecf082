"""The PostgreSQL store's counters: how many jobs of each queue are in each state."""

from __future__ import annotations

from queuectl.db.postgres_turn import SHARDS
from queuectl.db.rules import COUNTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional, Tuple

    from queuectl.db.postgres_run import Run

    Moves = Dict[Tuple[str, str], int]  # (queue, state) and by how much it changes

# The shard of the counters for users' verbs. Programs that enqueue in a transaction of their own lock counters of shard
# 0, in an order of their own and until they commit: a verb that took these too could bring them into a deadlock, and
# would wait with the rows of running jobs in its hands.
DESK = SHARDS + 1


def move(moves: Moves, queue: str, before: str, after: Optional[str]) -> None:
    """Note that a job of *queue* went from one state to another (None: it was deleted)."""
    moves[queue, before] = moves.get((queue, before), 0) - 1
    if after is not None:
        moves[queue, after] = moves.get((queue, after), 0) + 1


def count(run: Run, moves: Moves, shard: int = DESK) -> None:
    """Write noted moves into one shard of the counters, the desk's or a worker's, in the order of the queues."""
    queues = sorted({queue for queue, _ in moves})
    if queues:
        changes = {state: [moves.get((queue, state), 0) for queue in queues] for state in COUNTED}
        run(_COUNT, {"queues": queues, "shard": shard, **changes})


def count_new(run: Run, counts: Dict[str, int]) -> None:
    """Count new jobs of queues, and make sure that these are there; whoever calls it holds the numbers."""
    run(_COUNT_NEW, {"names": list(counts), "counts": list(counts.values())})


_COUNT = f"""
    INSERT INTO queuectl.counts AS c (queue, shard, {", ".join(COUNTED)})
    SELECT queue, %(shard)s::int, {", ".join(COUNTED)}
      FROM unnest(%(queues)s::text[], {", ".join(f"%({state})s::bigint[]" for state in COUNTED)})
           AS m (queue, {", ".join(COUNTED)})
     ORDER BY queue
    ON CONFLICT (queue, shard) DO UPDATE
       SET {", ".join(f"{state} = c.{state} + excluded.{state}" for state in COUNTED)}
    """

# In no order: who adds holds the numbers, and nobody else waits for counters of shard 0.
_COUNT_NEW = """
    WITH fresh AS (
        SELECT * FROM unnest(%(names)s::text[], %(counts)s::bigint[]) AS f (name, pending)
    ), named AS (
        INSERT INTO queuectl.queues (name) SELECT name FROM fresh ON CONFLICT (name) DO NOTHING
    ), counted AS (
        UPDATE queuectl.counts AS c SET pending = c.pending + fresh.pending
          FROM fresh
         WHERE c.queue = fresh.name AND c.shard = 0
        RETURNING queue
    )
    INSERT INTO queuectl.counts AS c (queue, shard, pending)
    SELECT name, 0, pending FROM fresh WHERE name NOT IN (SELECT queue FROM counted)
    ON CONFLICT (queue, shard) DO UPDATE SET pending = c.pending + excluded.pending
    """
