"""The least SQL that a durable queue with a history can do: what ``bench.peers`` holds queuectl's store against.

One statement, prepared, ends the jobs of the turn before, writes a row for each of their runs, and takes the next ones.
No ids, queues, priorities, retries, limits, counts, checks, output or cancels; a worker that dies is nobody's business.
"""

from __future__ import annotations

import time
from typing import Any, Awaitable, Callable, List
from uuid import uuid4

from tests.postgres_server import PostgresServer

TABLES = """
CREATE TABLE bare (
    seq bigserial PRIMARY KEY, command text NOT NULL, state smallint NOT NULL DEFAULT 0, worker text,
    started_at double precision, ended_at double precision);
CREATE INDEX bare_ready ON bare (seq) WHERE state = 0;
CREATE TABLE bare_runs (
    run_id bigserial PRIMARY KEY, seq bigint NOT NULL, state smallint NOT NULL, worker text NOT NULL,
    started_at double precision, ended_at double precision)
"""
TURN = """
    WITH done AS (
        UPDATE bare SET state = 2, ended_at = extract(epoch FROM statement_timestamp())
         WHERE seq = ANY(%s::bigint[]) AND worker = %s AND state = 1
        RETURNING seq, worker, started_at, ended_at
    ), runs AS (
        INSERT INTO bare_runs (seq, state, worker, started_at, ended_at)
        SELECT seq, 2, worker, started_at, ended_at FROM done
    ), next AS MATERIALIZED (
        SELECT seq FROM bare WHERE state = 0 AND seq > %s ORDER BY seq LIMIT {count} FOR UPDATE SKIP LOCKED
    )
    UPDATE bare AS b SET state = 1, worker = %s, started_at = extract(epoch FROM statement_timestamp())
      FROM next
     WHERE b.seq = next.seq
    RETURNING b.seq, b.command
    """
AHEAD_S = 0.3  # how long a client goes on from its last claim before it looks from the head again


def make_bare(server: PostgresServer, pending: int) -> None:
    """Make the tables anew and fill them."""
    server.execute(f"DROP TABLE IF EXISTS bare, bare_runs; {TABLES}")
    server.execute(f"INSERT INTO bare (command) SELECT 'true' FROM generate_series(1, {pending})")
    server.execute("VACUUM ANALYZE bare")


def work_bare(batch: int) -> Callable[[PostgresServer, float], Awaitable[int]]:
    """Return a client that ends and takes *batch* jobs at a time."""

    async def work(server: PostgresServer, until: float) -> int:
        import psycopg

        seqs: List[int] = []
        me, done, after, head_at = str(uuid4()), 0, 0, 0.0
        with psycopg.connect(server.url().partition("?")[0], autocommit=True, prepare_threshold=0) as connection:
            cursor: Any = connection.cursor(binary=True)
            while time.time() < until:
                if time.time() > head_at:
                    after, head_at = 0, time.time() + AHEAD_S
                try:
                    rows = cursor.execute(TURN.format(count=batch), (seqs, me, after, me)).fetchall()
                except psycopg.errors.DeadlockDetected:
                    continue
                done += len(seqs)
                seqs = [row[0] for row in rows]
                after = max(seqs, default=after)
        return done

    return work
