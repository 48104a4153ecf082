"""The one statement that writes ends and claims jobs, so that a worker's turn costs one round trip and one commit.

Its parts, all on one snapshot: the ends, each under its fence, with their runs and output; the gate, which says whether
jobs may be claimed by this statement; the choice of jobs, locked with SKIP LOCKED; their hand-over, with new runs; the
counters. The gate is closed, and nothing is claimed, if jobs have become due that must be promoted first, if a queue
has ready jobs that this statement does not know, or if a queue with a limit has. The caller then promotes the jobs, or
chooses another statement, or claims under the locks that limits need (``Turn._claim_limited``).

Counts in LIMIT are literals: with parameters, PostgreSQL would keep a generic plan made for a tenth of all jobs. So
there is one text for each count; ``chunk`` keeps their number small.

A statement that covers all cases pays for all its parts each time. But most turns have one end and one claim. For these
there are functions in the schema (``SINGLE`` for one queue, ``SINGLE_OF_LINES`` for a few), which answer with the same
columns.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

from queuectl.db.postgres_hooks import HOOKED, TALLIED, TOLD
from queuectl.db.postgres_views import READY_QUEUES
from queuectl.db.rules import FEW_QUEUES

# The kinds of claim. NONE: no claim. KNOWN: from the only queue that the worker serves. ALONE: from a queue that seems
# to be the only one with ready jobs. LINES: one job from a few queues whose names are known; FEW: several jobs from
# these. MANY: from all queues. LIMITED: from given queues with room for given numbers of jobs, under locks.
NONE, KNOWN, ALONE, LINES, FEW, MANY, LIMITED = "none", "known", "alone", "lines", "few", "many", "limited"
# How many queues a claim of the kind LINES looks at, one after the other, at most.
MOST_LINES = FEW_QUEUES
# How many jobs beyond the wanted ones are considered when several queues are merged, as others may hold some locked.
SLACK = 32
MOST = 512
SHARDS = 1024


def shard_of(worker_id: str) -> int:
    """Return the shard of the counters that a worker uses; workers that share one wait for each other's commits."""
    return 1 + zlib.crc32(worker_id.encode()) % SHARDS


def chunk(count: int) -> int:
    """Return how many of *count* wanted jobs one statement asks for: all if they are few, else a power of two."""
    return count if count <= 32 else min(1 << (count.bit_length() - 1), MOST)


NEWEST = "(SELECT coalesce(max(seq), 0) FROM queuectl.jobs)"


@lru_cache(128)
def turn_sql(kind: str, count: int, slack: int = SLACK, ahead: bool = False) -> str:
    """Return the statement for a turn of this kind that claims up to *count* jobs.

    With *ahead*, it claims from one queue, from the place of an earlier claim on, and nothing if more urgent jobs are
    ready.

    The columns: settings version; now; ords of the accepted ends; ords of ends that were written before (only if ends
    are sent again). Then, unless *kind* is NONE: due, others, limited (why the gate is closed); the number of jobs
    considered; the queues with ready jobs (for MANY; not all if more than MOST_LINES); the claimed job, or NULLs.
    """
    if kind == NONE:
        return "WITH " + _ENDS + _TALLY.format(taken="") + _ANSWER_ENDS.format(told="")
    gate = {KNOWN: _GATE_KNOWN, ALONE: _GATE_ALONE, FEW: _GATE_FEW, MANY: _GATE_MANY, LIMITED: _GATE_LIMITED}[kind]
    lines = _LINES if kind == MANY else "NULL"
    choice = (_CHOICE_ONE if kind in (KNOWN, ALONE) else _CHOICE_MANY).format(
        count=count, most=count + slack, lines=lines, behind=_BEHIND if ahead else ""
    )
    if ahead:
        gate = gate.replace("q.paused,", _NOT_AHEAD)
    head = "WITH RECURSIVE " if kind == MANY else "WITH "
    return head + _ENDS + gate + choice + _HAND_OVER + _TALLY.format(taken=_TAKEN_TALLY) + _ANSWER


# The conditions ``coalesce(x, -1) = x`` are true for every row, but the planner takes them to be true for one in two
# hundred. They are needed because rows from a parameter or a CTE are few beside the table that they are joined to, and
# the planner cannot know that: it takes a list for a hundred rows, and reads a table of a thousand jobs from end to end
# rather than look up a hundred. It would keep that plan even when the table has a million jobs.
#
# The owner is compared by IS NOT DISTINCT FROM, which no index serves, so that an end is found by its job's number and
# not among all jobs of its worker.
_ENDS = """args AS MATERIALIZED (
        SELECT coalesce(%(now)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
    ), ends AS MATERIALIZED (
        SELECT * FROM json_to_recordset(%(ends)s::json) AS e (
            ord int, seq bigint, run_id bigint, state queuectl.job_state, run_at float8, waits boolean, failed int,
            reason text, outcome queuectl.run_state, exit_code bigint, signal int, ended_at float8, memory bigint,
            cpu_s float8, why text, started_at float8)
    ), done AS (
        UPDATE queuectl.jobs AS j
           SET state = CASE WHEN e.waits AND j.cancel_requested THEN 'cancelled' ELSE e.state END,
               ready = CASE WHEN NOT e.waits OR j.cancel_requested THEN 0
                            WHEN coalesce(e.run_at, j.run_at) <= args.now THEN 1 ELSE 2 END,
               run_at = CASE WHEN e.waits AND NOT j.cancel_requested AND e.run_at IS NOT NULL
                             THEN e.run_at ELSE j.run_at END,
               failures = j.failures + e.failed, losses = 0, worker_id = NULL, cancel_requested = false,
               updated_at = args.now,
               ended_at = CASE WHEN e.waits AND NOT j.cancel_requested THEN NULL ELSE e.ended_at END,
               reason = CASE WHEN e.waits AND j.cancel_requested THEN 'cancelled while it ran' ELSE e.reason END
          FROM ends AS e, args
         WHERE coalesce(e.seq, -1) = e.seq AND j.seq = e.seq AND j.last_run_id = e.run_id AND j.state = 'processing'
           AND j.worker_id IS NOT DISTINCT FROM %(worker)s::text
        RETURNING e.ord, j.queue, j.state
    ), ended AS (
        UPDATE queuectl.runs AS r
           SET state = e.outcome, exit_code = e.exit_code, signal = e.signal,
               started_at = coalesce(e.started_at, r.started_at), ended_at = e.ended_at,
               peak_memory_bytes = e.memory, cpu_s = e.cpu_s, reason = e.why
          FROM done
          JOIN ends AS e USING (ord)
         WHERE r.run_id = e.run_id
    ), already AS (
        SELECT e.ord
          FROM ends AS e
          JOIN queuectl.runs AS r USING (run_id)
         WHERE %(again)s::boolean AND coalesce(e.run_id, -1) = e.run_id
           AND r.worker_id = %(worker)s::text AND r.state = e.outcome AND r.ended_at = e.ended_at
    ), printed AS (
        INSERT INTO queuectl.output AS o (run_id, start, bytes)
        SELECT p.run_id, p.start, p.bytes
          FROM unnest(%(run_ids)s::bigint[], %(starts)s::bigint[], %(parts)s::bytea[]) AS p (run_id, start, bytes)
         WHERE EXISTS (SELECT 1 FROM queuectl.runs AS r WHERE r.run_id = p.run_id)
        ON CONFLICT (run_id, start) DO UPDATE SET bytes = excluded.bytes
    )"""

_DUE = """(SELECT run_at FROM queuectl.jobs WHERE ready = 2 ORDER BY run_at, seq LIMIT 1) <= args.now
               AND NOT %(promoted)s::boolean"""

_GATE_KNOWN = f""", gate AS MATERIALIZED (
        SELECT coalesce({_DUE}, false) AS due, false AS others, q.paused,
               q.max_running IS NOT NULL AND NOT q.paused AS limited
          FROM args LEFT JOIN queuectl.queues AS q ON q.name = %(queue)s
    )"""

_GATE_ALONE = f""", gate AS MATERIALIZED (
        SELECT coalesce({_DUE}, false) AS due,
               EXISTS (SELECT 1 FROM queuectl.jobs WHERE ready = 1 AND queue < %(queue)s)
               OR EXISTS (SELECT 1 FROM queuectl.jobs WHERE ready = 1 AND queue > %(queue)s) AS others,
               q.paused, q.max_running IS NOT NULL AND NOT q.paused AS limited
          FROM args LEFT JOIN queuectl.queues AS q ON q.name = %(queue)s
    )"""

_CHOICE_ONE = """, chosen AS MATERIALIZED (
        SELECT seq, state, last_run_id, row_number() OVER () AS place
          FROM (SELECT seq, state, last_run_id
                  FROM queuectl.jobs
                 WHERE queue = %(queue)s AND ready = 1 {behind}
                   AND (SELECT NOT (due OR others OR limited OR paused) FROM gate)
                 ORDER BY priority DESC, run_at, seq
                 LIMIT {count}
                   FOR UPDATE SKIP LOCKED) AS locked
    ), looked AS (SELECT 0 AS at, NULL AS lines)"""

# For a claim from the place of the last one on (see Place in postgres_claim).
_BEHIND = """AND priority = %(after_priority)s::int
                   AND (run_at, seq) > (%(after_run_at)s::float8, %(after_seq)s::bigint)"""
_NOT_AHEAD = """q.paused OR EXISTS (
                   SELECT 1 FROM queuectl.jobs
                    WHERE ready = 1 AND queue = %(queue)s AND priority > %(after_priority)s::int) AS paused,"""

_GATE_MANY = f""", {READY_QUEUES}, open AS MATERIALIZED (
        SELECT q.name, NULL::bigint AS room, q.max_running IS NOT NULL AS limited
          FROM line JOIN queuectl.queues AS q USING (name)
         WHERE NOT q.paused
    ), gate AS MATERIALIZED (
        SELECT coalesce({_DUE}, false) AS due, false AS others, false AS paused,
               EXISTS (SELECT 1 FROM open WHERE limited) AS limited
          FROM args
    )"""

_LINES = f"""(SELECT array_agg(name ORDER BY name)
                      FROM (SELECT name FROM line WHERE name IS NOT NULL LIMIT {MOST_LINES + 1}) AS l)"""

# Without EXISTS: to answer that for several queues, the server may read all ready jobs.
_HAS_READY = """(SELECT true FROM queuectl.jobs AS j
                 WHERE j.queue = q.name AND j.ready = 1
                 ORDER BY j.priority DESC, j.run_at, j.seq LIMIT 1)"""

_GATE_FEW = f""", open AS MATERIALIZED (
        SELECT q.name, NULL::bigint AS room, q.max_running IS NOT NULL AS limited
          FROM unnest(%(queues)s::text[]) AS n (name)
          JOIN queuectl.queues AS q ON q.name = n.name
         WHERE coalesce(n.name, '') = n.name AND NOT q.paused
           AND {_HAS_READY}
    ), gate AS MATERIALIZED (
        SELECT coalesce({_DUE}, false) AS due, false AS others, false AS paused,
               EXISTS (SELECT 1 FROM open WHERE limited) AS limited
          FROM args
    )"""

_GATE_LIMITED = f""", open AS MATERIALIZED (
        SELECT name, room FROM unnest(%(names)s::text[], %(rooms)s::bigint[]) AS o (name, room)
    ), gate AS MATERIALIZED (
        SELECT coalesce({_DUE}, false) AS due, false AS others, false AS paused, false AS limited
          FROM args
    )"""

# The most urgent jobs of all queues together are found first, then locked in their order, skipping those that others
# hold. A queue with a limit gives no more jobs than it has room for. ``least``: the lowest priority to take, if any.
_CHOICE_MANY = """, top AS MATERIALIZED (
        SELECT j.seq, j.priority, j.run_at
          FROM open
         CROSS JOIN LATERAL (
              SELECT seq, priority, run_at, row_number() OVER (ORDER BY priority DESC, run_at, seq) AS place
                FROM (SELECT seq, priority, run_at
                        FROM queuectl.jobs
                       WHERE queue = open.name AND ready = 1
                       ORDER BY priority DESC, run_at, seq
                       LIMIT {most}) AS picked) AS j
         WHERE (SELECT NOT (due OR limited) FROM gate) AND (open.room IS NULL OR j.place <= open.room)
           AND j.priority >= coalesce(%(least)s::int, j.priority)
         ORDER BY j.priority DESC, j.run_at, j.seq
         LIMIT {most}
    ), chosen AS MATERIALIZED (
        SELECT seq, state, last_run_id, row_number() OVER () AS place
          FROM (SELECT j.seq, j.state, j.last_run_id
                  FROM top JOIN queuectl.jobs AS j USING (seq)
                 WHERE coalesce(top.seq, -1) = top.seq AND j.ready = 1
                 ORDER BY top.priority DESC, top.run_at, top.seq
                 LIMIT {count}
                   FOR UPDATE OF j SKIP LOCKED) AS locked
    ), looked AS (SELECT (SELECT count(*) FROM top) AS at, {lines} AS lines)"""

# The worker's row is locked so that it cannot be condemned meanwhile; only if there is something to claim, so that an
# idle look writes nothing.
_HAND_OVER = """, me AS MATERIALIZED (
        SELECT id, host, pid
          FROM queuectl.workers
         WHERE id = %(worker)s AND state = 'alive' AND EXISTS (SELECT 1 FROM chosen)
           FOR SHARE
    ), numbered AS MATERIALIZED (
        SELECT c.seq, c.state, c.last_run_id AS previous_id, c.place, nextval('queuectl.run_ids') AS run_id
          FROM (SELECT * FROM chosen ORDER BY place) AS c, me
    ), taken AS (
        UPDATE queuectl.jobs AS j
           SET state = 'processing', ready = 0, attempts = j.attempts + 1, run_no = j.run_no + 1,
               last_run_id = n.run_id, worker_id = me.id, updated_at = args.now, reason = NULL
          FROM numbered AS n, me, args
         WHERE coalesce(n.seq, -1) = n.seq AND j.seq = n.seq AND j.ready = 1
        RETURNING n.place, n.state AS before, n.previous_id,
                  j.seq, j.id, j.queue, j.state, j.priority, j.run_at, j.command, j.cwd, j.env, j.tags, j.timeout_s,
                  j.backoff_base, j.max_retries, j.attempts, j.failures, j.losses, j.run_no, j.last_run_id, j.worker_id,
                  j.cancel_requested, j.created_at, j.updated_at, j.ended_at, j.reason, j.after, false AS held
    ), begun AS (
        INSERT INTO queuectl.runs (run_id, previous_id, number, state, started_at, worker_id, host, pid)
        SELECT taken.last_run_id, previous_id, run_no, 'running', updated_at, worker_id, me.host, me.pid
          FROM taken, me
    )"""

_TAKEN_TALLY = "UNION ALL SELECT queue, before, state FROM taken"

# In the order of the queues, so that two workers of one shard cannot deadlock.
_TALLY = """, tally AS (
        INSERT INTO queuectl.counts AS c (queue, shard, pending, processing, failed, completed, dead, cancelled)
        SELECT queue, %(shard)s::int,
               count(*) FILTER (WHERE after = 'pending') - count(*) FILTER (WHERE before = 'pending'),
               count(*) FILTER (WHERE after = 'processing') - count(*) FILTER (WHERE before = 'processing'),
               count(*) FILTER (WHERE after = 'failed') - count(*) FILTER (WHERE before = 'failed'),
               count(*) FILTER (WHERE after = 'completed'),
               count(*) FILTER (WHERE after = 'dead'),
               count(*) FILTER (WHERE after = 'cancelled')
          FROM (SELECT queue, 'processing' AS before, state AS after FROM done {taken}) AS moves
         GROUP BY queue
         ORDER BY queue
        ON CONFLICT (queue, shard) DO UPDATE
           SET pending = c.pending + excluded.pending, processing = c.processing + excluded.processing,
               failed = c.failed + excluded.failed, completed = c.completed + excluded.completed,
               dead = c.dead + excluded.dead, cancelled = c.cancelled + excluded.cancelled
    )"""

_ANSWER_ENDS = """
    SELECT (SELECT settings_version FROM queuectl.store WHERE one), args.now, (SELECT array_agg(ord) FROM done),
           (SELECT array_agg(ord) FROM already){told}
      FROM args
    """

_ANSWER = """
    SELECT (SELECT settings_version FROM queuectl.store WHERE one), args.now, (SELECT array_agg(ord) FROM done),
           (SELECT array_agg(ord) FROM already), gate.due, gate.others, gate.limited, looked.at, looked.lines, taken.*
      FROM args CROSS JOIN gate CROSS JOIN looked LEFT JOIN taken ON true
     ORDER BY taken.place
    """
# In place of the turn that claims nothing, where what ends has hooks.
ENDS_WITH_HOOKS = f"WITH {_ENDS}, {HOOKED}" + _TALLY.format(taken=TALLIED) + _ANSWER_ENDS.format(told=f", {TOLD}")
FIRST_OF_JOB = 12  # where in a row the job begins: after the columns above, the place, state before and previous run

# Answers with the same columns.
_SINGLE = """
    SELECT t.settings, t.now_at, CASE WHEN t.accepted THEN ARRAY[%(ord)s::int] END, NULL, t.due, t.others, t.limited,
           0, {seen}, 1, NULL, NULL,
           (t.job).seq, (t.job).id, (t.job).queue, (t.job).state, (t.job).priority, (t.job).run_at, (t.job).command,
           (t.job).cwd, (t.job).env, (t.job).tags, (t.job).timeout_s, (t.job).backoff_base, (t.job).max_retries,
           (t.job).attempts, (t.job).failures, (t.job).losses, (t.job).run_no, (t.job).last_run_id, (t.job).worker_id,
           (t.job).cancel_requested, (t.job).created_at, (t.job).updated_at, (t.job).ended_at, (t.job).reason,
           (t.job).after, false
      FROM queuectl.{function}(
           %(worker)s::text, %(shard)s::int, %(now)s::float8, {queue}, %(only)s::boolean,{roomy}
           %(promoted)s::boolean, %(seq)s::bigint, %(run_id)s::bigint, %(state)s::queuectl.job_state, %(reason)s::text,
           %(failed)s::int, %(outcome)s::queuectl.run_state, %(exit_code)s::bigint, %(signal)s::int,
           %(ended_at)s::float8, %(memory)s::bigint, %(cpu_s)s::float8, %(why)s::text,
           %(run_ids)s::bigint[], %(starts)s::bigint[], %(parts)s::bytea[],
           %(after_priority)s::int{s}, %(after_run_at)s::float8{s}, %(after_seq)s::bigint{s}) AS t
    """
# For ``seen`` of a claim from many queues: the number of the newest job, and the priority, run_at and seq of the next
# job in the queue that was claimed from.
_NEXT = """SELECT ARRAY[j.priority, j.run_at, j.seq]::float8[]
                 FROM queuectl.jobs AS j
                WHERE j.queue = (t.job).queue AND j.ready = 1 AND {behind}
                ORDER BY j.priority DESC, j.run_at, j.seq
                LIMIT 1"""
_BEHIND_IT = "j.priority = (t.job).priority AND (j.run_at, j.seq) > ((t.job).run_at, (t.job).seq)"
_SEEN = f"""ARRAY[{NEWEST}]::float8[] || coalesce(
               ({_NEXT.format(behind=_BEHIND_IT)}),
               ({_NEXT.format(behind="j.priority < (t.job).priority")}))"""
# The queues to claim from, or none if none of their jobs has at least the priority that is wanted. Without EXISTS,
# as in _HAS_READY.
_WITHIN = """CASE WHEN %(least)s::int IS NULL OR EXISTS (
                    SELECT 1
                      FROM unnest(%(queue)s::text[]) AS n (name)
                     WHERE (SELECT true FROM queuectl.jobs AS j
                             WHERE j.queue = n.name AND j.ready = 1 AND j.priority >= %(least)s::int
                             ORDER BY j.priority DESC, j.run_at, j.seq LIMIT 1)
                       AND (SELECT NOT q.paused AND (q.max_running IS NULL OR queuectl._has_room(
                                   q.name, q.max_running, %(worker)s::text, %(seq)s::bigint, %(run_id)s::bigint))
                              FROM queuectl.queues AS q WHERE q.name = n.name))
                THEN %(queue)s::text[] ELSE '{}' END"""
SINGLE = _SINGLE.format(function="_turn_line", queue="%(queue)s::text", roomy=" false,", s="", seen="NULL")
SINGLE_OF_LINES = _SINGLE.format(function="_turn_lines", queue="%(queue)s::text[]", roomy="", s="[]", seen="NULL")
SINGLE_OF_MANY = _SINGLE.format(function="_turn_lines", queue=_WITHIN, roomy="", s="[]", seen=_SEEN)
# The parameters of SINGLE where no run ends.
NO_END = dict.fromkeys((
    "ord", "seq", "run_id", "state", "reason", "failed", "outcome", "exit_code", "signal", "ended_at", "memory",
    "cpu_s", "why",
))  # fmt: skip

PROMOTE = """
    WITH due AS MATERIALIZED (
        SELECT seq
          FROM queuectl.jobs
         WHERE ready = 2 AND run_at <= coalesce(%(now)s::float8, extract(epoch FROM statement_timestamp())::float8)
         ORDER BY run_at, seq
         LIMIT 1000
           FOR UPDATE SKIP LOCKED)
    UPDATE queuectl.jobs AS j SET ready = 1 FROM due
     WHERE coalesce(due.seq, -1) = due.seq AND j.seq = due.seq AND j.ready = 2
    RETURNING j.queue, j.priority, j.run_at, j.seq
    """

# The queues from which a claim may take, for claims under locks.
LOOK = f"""
    WITH RECURSIVE {READY_QUEUES}
    SELECT q.name, q.max_running
      FROM line JOIN queuectl.queues AS q USING (name)
     WHERE NOT q.paused
     ORDER BY q.name
    """

# The same for given queues.
LOOK_AT = f"""
    SELECT q.name, q.max_running
      FROM queuectl.queues AS q
     WHERE q.name = ANY(%(queues)s::text[]) AND NOT q.paused AND {_HAS_READY}
     ORDER BY q.name
    """

RUNNING = """
    SELECT queue, sum(processing)::bigint FROM queuectl.counts WHERE queue = ANY(%(names)s::text[]) GROUP BY queue
    """

# Only one claim at a time may choose from a queue with a limit: until its commit, no other may count what runs there.
LOCK_QUEUE = "SELECT pg_advisory_xact_lock(hashtextextended(%(name)s, 0))"
