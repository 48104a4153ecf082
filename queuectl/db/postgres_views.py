"""The PostgreSQL store's looking verbs: nothing here writes."""

from __future__ import annotations

from queuectl.db.postgres_schema import PostgresSchema
from queuectl.db.rules import COUNTED, HELD_AT, PARTS, RATE_AHEAD_S, RATE_ROWS, RATE_WINDOW_S, last_parts, possible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Sequence, Tuple

    from queuectl.db.base import Part
    from queuectl.db.depth import Depth
    from queuectl.job import Job, JobFilter, Problem, QueueInfo, Rates, Run

JOB_COLUMNS = (
    "seq, id, queue, state, priority, coalesce(not_before, run_at), command, cwd, env, tags, timeout_s, backoff_base, "
    "max_retries, attempts, failures, losses, run_no, "
    "CASE WHEN worker_id IS NOT NULL THEN last_run_id END AS run_id, worker_id, "
    "cancel_requested, created_at, updated_at, ended_at, reason, after, not_before IS NOT NULL AND ready = 2 AS held"
)
# States with an index of their own: those of which there may be few among very many jobs.
LISTED = frozenset(("pending", "failed", "dead", "cancelled"))
# The last jobs to end are looked for among so many ends first: to sort all takes seconds.
NEWEST_ENDS = 5000
# Fields of Job that a listing may be sorted by, and what they are sorted by.
SORTABLE = {
    name: name
    for name in (
        "id", "queue", "priority", "run_at", "command", "attempts", "failures", "max_retries",
        "created_at", "updated_at", "ended_at",
    )
}  # fmt: skip
SORTABLE["state"] = 'state::text COLLATE "C"'
# How many jobs that wait for a time next_due looks at. If all of them may not be claimed, the time of the last is the
# answer: not later than the true one.
LOOK_AHEAD = 1000


class PostgresViews(PostgresSchema):
    """Looking at jobs, runs, output, queues."""

    def get(self, job_id: str) -> Optional[Job]:
        """See ``Store.get``."""
        from queuectl.job import Job

        if not possible([job_id]):
            return None
        rows = self._rows(f"SELECT {JOB_COLUMNS} FROM queuectl.jobs WHERE id = %s", (job_id,))
        return Job._make(rows[0]) if rows else None

    def jobs(
        self,
        which: JobFilter,
        after_seq: int = 0,
        limit: int = 1000,
        sort: Optional[str] = None,
        descending: bool = False,
    ) -> List[Job]:
        """See ``Store.jobs``."""
        from queuectl.job import Job

        if sort is None and not descending and tuple(which.states) == ("completed",) and not self._any_completed():
            return []
        if sort == "ended_at" and descending and after_seq == 0 and limit < NEWEST_ENDS:
            sql, parameters = _page_of_newest_ends(which, limit)
            rows = self._rows(sql, parameters, prepare=False)
            if len(rows) == limit:  # else there may be more among the older ones
                return [Job._make(row) for row in rows]
        sql, parameters = _page(JOB_COLUMNS, which, after_seq, limit, sort, descending)
        # Never prepared: the best plan depends on what is asked for.
        return [Job._make(row) for row in self._rows(sql, parameters, prepare=False)]

    def ids(self, which: JobFilter, after_seq: int = 0, limit: int = 1000) -> List[Tuple[int, str]]:
        """See ``Store.ids``."""
        sql, parameters = _page("seq, id", which, after_seq, limit, None, False)
        return self._rows(sql, parameters, prepare=False)

    def order(self, which: JobFilter, skip: int, limit: int, sort: Optional[str], descending: bool) -> Sequence[int]:
        """See ``Store.order``."""
        from array import array

        sql, parameters = _page("seq", which, skip, limit, sort, descending)
        return array("q", [row[0] for row in self._rows(sql, parameters, prepare=False)])

    def jobs_at(self, seqs: Sequence[int], which: JobFilter) -> List[Job]:
        """See ``Store.jobs_at``."""
        from queuectl.job import Job

        where, values = conditions(which)
        clause = " AND ".join(["seq = ANY(%s::bigint[])", *where])
        rows = self._rows(
            f"SELECT {JOB_COLUMNS} FROM queuectl.jobs WHERE {clause}", [list(seqs), *values], prepare=False
        )
        found = {row[0]: Job._make(row) for row in rows}
        return [found[seq] for seq in seqs if seq in found]

    def _any_completed(self) -> bool:
        """Ask the counters: where none is completed, a walk through all jobs would find that out too late."""
        return bool(self._rows("SELECT coalesce(sum(completed), 0) > 0 FROM queuectl.counts")[0][0])

    def states(self, job_ids: Sequence[str]) -> Dict[str, str]:
        """See ``Store.states``."""
        return dict(self._rows("SELECT id, state FROM queuectl.jobs WHERE id = ANY(%s::text[])", (possible(job_ids),)))

    def find(self, job_ids: Sequence[str]) -> Dict[str, Job]:
        """See ``Store.find``."""
        from queuectl.job import Job

        rows = self._rows(f"SELECT {JOB_COLUMNS} FROM queuectl.jobs WHERE id = ANY(%s::text[])", (possible(job_ids),))
        jobs = [Job._make(row) for row in rows]
        return {job.id: job for job in jobs}

    def runs(self, job_id: str) -> List[Run]:
        """See ``Store.runs``."""
        from queuectl.job import Run

        rows = self._rows(_RUNS, {"id": job_id}) if possible([job_id]) else []
        return [Run._make(row) for row in rows]

    def output(self, run_id: int, start: int = 0, most: Optional[int] = None) -> List[Part]:
        """See ``Store.output``."""
        rows = self._rows(_OUTPUT, {"run_id": run_id, "start": start, "most": most})
        return [(max(first, start), bytes(data[max(start - first, 0) :])) for first, data in rows]

    def last_output(self, job_id: str, size: int, run_id: Optional[int] = None) -> List[Part]:
        """See ``Store.last_output``."""
        names = {"id": job_id, "run_id": run_id, "size": size}
        return last_parts(lambda before: self._rows(_LAST_PARTS, {**names, "before": before}), size)

    def ahead_of(self, job: Job, now: Optional[float] = None) -> int:
        """See ``Store.ahead_of``."""
        names = {"queue": job.queue, "priority": job.priority, "run_at": job.run_at, "seq": job.seq, "now": now}
        return int(self._rows(_AHEAD, names)[0][0])

    def needs(self, job_id: str) -> List[Tuple[Optional[str], Optional[str]]]:
        """See ``Store.needs``."""
        from queuectl.db.postgres_needs import NEEDS

        return self._rows(NEEDS, {"id": job_id}) if possible([job_id]) else []

    def needed_by(self, job_id: str, limit: int = 100) -> List[str]:
        """See ``Store.needed_by``."""
        from queuectl.db.postgres_needs import NEEDED_BY

        return [row[0] for row in self._rows(NEEDED_BY, {"id": job_id, "limit": limit})]

    def stuck(self, job_ids: Sequence[str]) -> Dict[str, Tuple[Optional[str], Optional[str]]]:
        """See ``Store.stuck``."""
        from queuectl.db.postgres_needs import STUCK

        return {row[0]: (row[1], row[2]) for row in self._rows(STUCK, {"ids": possible(job_ids)})}

    def queues(self) -> List[QueueInfo]:
        """See ``Store.queues``."""
        from queuectl.job import QueueInfo

        rows = self._rows(_QUEUES)
        return [QueueInfo._make(row) for row in rows]

    def next_due(self, queues: Sequence[str] = (), now: Optional[float] = None) -> Optional[float]:
        """See ``Store.next_due``.

        Where a thousand jobs that may not be claimed wait before the first that may, the answer is the time of the last
        of those: earlier than the true one, never later.
        """
        parameters = {"queues": list(queues) or None, "now": now}
        found = self._rows(_NEXT_DUE, parameters, prepare=True)[0]
        ready_at, waiting_at = found
        if ready_at is not None:
            return float(ready_at)
        return None if waiting_at in (None, HELD_AT) else float(waiting_at)

    def depths(self) -> List[Depth]:
        """See ``Store.depths``."""
        from queuectl.db.depth import Depth

        rows = self._rows(f"SELECT {', '.join(Depth._fields)} FROM queuectl.queue_depth ORDER BY queue")
        return [Depth._make(row) for row in rows]

    def work_left(self, queues: Sequence[str] = ()) -> int:
        """See ``Store.work_left``."""
        return int(self._rows(_WORK_LEFT, {"queues": list(queues) or None, "held_at": HELD_AT})[0][0])

    def oldest_due(self, now: Optional[float] = None) -> Optional[float]:
        """See ``Store.oldest_due``."""
        found: Optional[float] = self._rows(_OLDEST_DUE, {"now": now})[0][0]
        return found

    def rates(self, now: Optional[float] = None) -> Rates:
        """See ``Store.rates``."""
        from queuectl.job import Rates

        # The newest ends only, so that a busy store is counted as cheaply as a quiet one.
        completed, failed, ends, first_at, now_at = self._rows(
            _RATES, {"now": now, "rows": RATE_ROWS, "window": RATE_WINDOW_S, "ahead": RATE_AHEAD_S}
        )[0]
        span_s = RATE_WINDOW_S
        if ends > RATE_ROWS // 2:
            span_s = max(now_at - first_at, 1.0)
        return Rates(round(completed * 60.0 / span_s, 1), round(failed * 60.0 / span_s, 1))

    def settings(self) -> Dict[str, str]:
        """See ``Store.settings``."""
        return dict(self._rows("SELECT key, value FROM queuectl.settings ORDER BY key"))

    def check(self) -> List[Problem]:
        """See ``Store.check``."""
        from queuectl.db.postgres_check import check

        return check(self)

    def read_only(self) -> Optional[Problem]:
        """See ``Store.read_only``."""
        from queuectl.db.postgres_check import read_only

        return read_only(self)


def within(state: str) -> str:
    """Return the condition "in this state, after row %s" for one of LISTED; rows come by ``ORDER BY state, seq``.

    It is put as a range of the index of listed jobs: with ``state = ...`` a walk through all jobs in their order would
    look as good to the planner, and it takes that for a state which has become rare since it last counted.
    """
    of_index = "state IN ('pending', 'failed', 'dead', 'cancelled')"
    return f"{of_index} AND state <= '{state}' AND (state, seq) > ('{state}', %s::bigint)"


def _page(
    columns: str, which: JobFilter, after: int, limit: int, sort: Optional[str], descending: bool
) -> Tuple[str, List[Any]]:
    """Return the statement for one page of ``Store.jobs``."""
    if sort is None and which.states and LISTED.issuperset(which.states):
        return _page_by_state(columns, which, after, limit, descending)
    where, parameters = conditions(which)
    direction = " DESC" if descending else ""
    if sort is None and not descending:
        where.append("seq > %s::bigint")
        tail = "ORDER BY seq LIMIT %s"
        parameters += [after, limit]
    else:
        order = "seq" if sort is None else SORTABLE[sort]
        # A job that has not ended comes before all ends, as on SQLite: the last to end are the first if descending.
        nulls = (" NULLS LAST" if descending else " NULLS FIRST") if sort == "ended_at" else ""
        tail = f"ORDER BY {order}{direction}{nulls}, seq{direction} LIMIT %s OFFSET %s"
        parameters += [limit, after]
    clause = " WHERE " + " AND ".join(where) if where else ""
    return f"SELECT {columns} FROM queuectl.jobs{clause} {tail}", parameters


def _page_by_state(columns: str, which: JobFilter, after: int, limit: int, descending: bool) -> Tuple[str, List[Any]]:
    """Return the statement for a page of jobs in some of the LISTED states: each by the index, then merged."""
    where, values = conditions(which._replace(states=()))
    direction = " DESC" if descending else ""
    skip, after = (after, 0) if descending else (0, after)
    parts = []
    parameters: List[Any] = []
    for state in dict.fromkeys(which.states):
        condition = " AND ".join([within(state), *where])
        order = f"ORDER BY state{direction}, seq{direction} LIMIT %s"
        parts.append(f"(SELECT {columns} FROM queuectl.jobs WHERE {condition} {order})")
        parameters += [after, *values, limit + skip]
    sql = f"SELECT * FROM ({' UNION ALL '.join(parts)}) AS page ORDER BY seq{direction} LIMIT %s OFFSET %s"
    return sql, [*parameters, limit, skip]


def _page_of_newest_ends(which: JobFilter, limit: int) -> Tuple[str, List[Any]]:
    """Return the statement for the last jobs of *which* to end, looked for among the NEWEST_ENDS of all.

    The index has no order among those that ended at the same moment. To sort them, some servers would read all ends, so
    the earliest moment, of which there may be more, is left out instead.
    """
    where, parameters = conditions(which)
    sql = f"""
        WITH newest AS (SELECT * FROM queuectl.jobs WHERE ended_at IS NOT NULL
                         ORDER BY ended_at DESC LIMIT {NEWEST_ENDS})
        SELECT {JOB_COLUMNS}
          FROM newest
         WHERE {" AND ".join(["ended_at > (SELECT min(ended_at) FROM newest)", *where])}
         ORDER BY ended_at DESC, seq DESC LIMIT %s
        """
    return sql, [*parameters, limit]


def conditions(which: JobFilter) -> Tuple[List[str], List[Any]]:
    """Return the SQL conditions and parameters of *which*; a state that has an index is named as the index does."""
    where: List[str] = []
    parameters: List[Any] = []
    if which.states:
        # Literals, since a partial index is used only where the planner sees that its condition holds.
        states = ", ".join(f"'{state}'" for state in which.states if state in COUNTED)
        where.append(f"state IN ({states})" if states else "false")
        if tuple(which.states) == ("processing",):
            where.append("worker_id IS NOT NULL")
    if which.queues:
        where.append("queue = ANY(%s::text[])")
        parameters.append(possible(which.queues))
    if which.tags:
        # Tags have no character that JSON escapes, so the quoted tag is found as text.
        tags = possible(which.tags)
        where.append("(" + (" OR ".join(["strpos(tags, %s) > 0"] * len(tags)) or "false") + ")")
        parameters += [f'"{tag}"' for tag in tags]
    if which.ended_before is not None:
        where.append("ended_at IS NOT NULL AND ended_at < %s::float8")
        parameters.append(which.ended_before)
    return where, parameters


_NOW = "coalesce(%(now)s::float8, extract(epoch FROM statement_timestamp())::float8)"

# By the place of the part in which it begins: an output may have been cut into a million parts.
_OUTPUT = """
    SELECT start, bytes
      FROM queuectl.output
     WHERE run_id = %(run_id)s::bigint
       AND start >= coalesce((SELECT max(start) FROM queuectl.output
                               WHERE run_id = %(run_id)s::bigint AND start <= %(start)s::bigint), 0)
       AND start + octet_length(bytes) > %(start)s::bigint
     ORDER BY start
     LIMIT %(most)s::bigint
    """

_LAST_PARTS = f"""
    SELECT start, octet_length(bytes),
           substring(bytes FROM greatest(octet_length(bytes) - %(size)s::int + 1, 1)::int)
      FROM queuectl.output
     WHERE run_id = coalesce(%(run_id)s::bigint, (SELECT last_run_id FROM queuectl.jobs WHERE id = %(id)s))
       AND start < %(before)s::bigint
     ORDER BY start DESC
     LIMIT {PARTS}
    """

_RUNS = """
    WITH RECURSIVE chain(run_id) AS (
        SELECT last_run_id FROM queuectl.jobs WHERE id = %(id)s
        UNION ALL
        SELECT previous_id FROM queuectl.runs JOIN chain USING (run_id))
    SELECT run_id, %(id)s::text, number, state, exit_code, signal, started_at, ended_at,
           worker_id, host, pid, peak_memory_bytes, cpu_s, reason
      FROM queuectl.runs
      JOIN chain USING (run_id)
     ORDER BY run_id
    """

# What became due since the last claim is moved among the ready ones only by the next claim.
# Of the ready ones the more urgent and the earlier are two ranges of the index: with an OR, all that are behind the job
# would be passed over too.
_AHEAD = f"""
    SELECT count(*)
      FROM ((SELECT 1 FROM queuectl.jobs
              WHERE queue = %(queue)s AND ready = 1 AND priority > %(priority)s
              ORDER BY priority DESC, run_at, seq
              LIMIT 1000)
            UNION ALL
            (SELECT 1 FROM queuectl.jobs
              WHERE queue = %(queue)s AND ready = 1 AND priority = %(priority)s
                AND (run_at, seq) < (%(run_at)s::float8, %(seq)s::bigint)
              ORDER BY priority DESC, run_at, seq
              LIMIT 1000)
            UNION ALL
            (SELECT 1 FROM queuectl.jobs
              WHERE queue = %(queue)s AND ready = 2 AND run_at <= {_NOW}
                AND (priority > %(priority)s
                     OR priority = %(priority)s AND (run_at, seq) < (%(run_at)s::float8, %(seq)s::bigint))
              ORDER BY run_at, seq
              LIMIT 1000)
            LIMIT 1000) AS ahead
    """

_QUEUES = f"""
    SELECT *
      FROM (SELECT name, paused, max_running,
                   {", ".join(f"coalesce(sum({state}), 0)::bigint AS {state}" for state in COUNTED)}
              FROM queuectl.queues
              LEFT JOIN queuectl.counts ON counts.queue = name
             GROUP BY name) AS q
     WHERE paused OR max_running IS NOT NULL OR {" + ".join(COUNTED)} > 0
     ORDER BY name
    """

# The names of all queues that have ready jobs: one probe of the index for each, however many jobs there are.
READY_QUEUES = """line(name) AS (
        (SELECT queue FROM queuectl.jobs WHERE ready = 1 ORDER BY queue LIMIT 1)
        UNION ALL
        SELECT (SELECT queue FROM queuectl.jobs WHERE ready = 1 AND queue > line.name ORDER BY queue LIMIT 1)
          FROM line WHERE line.name IS NOT NULL)"""

# Queues whose jobs may be claimed: asked for, not paused, with room.
_OPEN = """(%(queues)s::text[] IS NULL OR q.name = ANY(%(queues)s::text[])) AND NOT q.paused
       AND (q.max_running IS NULL OR q.max_running > (
            SELECT coalesce(sum(c.processing), 0) FROM queuectl.counts AS c WHERE c.queue = q.name))"""

_NEXT_DUE = f"""
    WITH RECURSIVE {READY_QUEUES}, ahead AS (
        SELECT run_at, queue FROM queuectl.jobs WHERE ready = 2 ORDER BY run_at, seq LIMIT {LOOK_AHEAD})
    SELECT (SELECT {_NOW} FROM line JOIN queuectl.queues AS q USING (name) WHERE {_OPEN} LIMIT 1),
           (SELECT min(due) FROM (
                SELECT run_at AS due FROM ahead JOIN queuectl.queues AS q ON q.name = ahead.queue WHERE {_OPEN}
                UNION ALL
                SELECT max(run_at) FROM ahead HAVING count(*) = {LOOK_AHEAD}) AS times)
    """

# Without what is held for other jobs: as long as these are left they count, and without them nothing lets it go.
_WORK_LEFT = """
    SELECT coalesce((
        SELECT sum(c.pending + c.failed + c.processing)
          FROM queuectl.queues AS q
          JOIN queuectl.counts AS c ON c.queue = q.name
         WHERE NOT q.paused AND (%(queues)s::text[] IS NULL OR q.name = ANY(%(queues)s::text[]))), 0)::bigint - (
        SELECT count(*)
          FROM queuectl.jobs AS j
          JOIN queuectl.queues AS q ON q.name = j.queue
         WHERE j.ready = 2 AND j.run_at >= %(held_at)s::float8 AND NOT q.paused
           AND (%(queues)s::text[] IS NULL OR q.name = ANY(%(queues)s::text[])))
    """

# The earliest of each queue and priority among the ready ones, found by skipping through the index.
_OLDEST_DUE = f"""
    WITH RECURSIVE head(queue, priority, run_at, n) AS (
        (SELECT queue, priority, run_at, 1 FROM queuectl.jobs
          WHERE ready = 1 ORDER BY queue, priority DESC, run_at, seq LIMIT 1)
        UNION ALL
        SELECT next.queue, next.priority, next.run_at, head.n + 1
          FROM head
         CROSS JOIN LATERAL (
             (SELECT queue, priority, run_at FROM queuectl.jobs
               WHERE ready = 1 AND queue = head.queue AND priority < head.priority
               ORDER BY queue, priority DESC, run_at, seq LIMIT 1)
             UNION ALL
             (SELECT queue, priority, run_at FROM queuectl.jobs
               WHERE ready = 1 AND queue > head.queue
               ORDER BY queue, priority DESC, run_at, seq LIMIT 1)
             LIMIT 1) AS next
         WHERE head.n < 1000)
    SELECT min(run_at)
      FROM (SELECT run_at FROM head
            UNION ALL
            (SELECT run_at FROM queuectl.jobs WHERE ready = 2 ORDER BY run_at, seq LIMIT 1)) AS heads
     WHERE run_at <= {_NOW}
    """

_RATES = f"""
    SELECT count(*) FILTER (WHERE state = 'completed'), count(*) FILTER (WHERE state IN ('failed', 'timed_out')),
           count(run_id), min(ended_at), max(clock.now)
      FROM (SELECT {_NOW} AS now, (SELECT coalesce(max(run_id), 0) FROM queuectl.runs) AS last) AS clock
      LEFT JOIN queuectl.runs ON run_id > clock.last - %(rows)s::bigint
           AND ended_at > clock.now - %(window)s::float8 AND ended_at < clock.now + %(ahead)s::float8
    """
