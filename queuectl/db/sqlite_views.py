"""The SQLite store's looking verbs: nothing here writes."""

from __future__ import annotations

import time

from queuectl.db.rules import COUNTED, HELD_AT, PARTS, RATE_AHEAD_S, RATE_ROWS, RATE_WINDOW_S, last_parts
from queuectl.db.sqlite_file import SqliteFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

    from queuectl.db.base import Part
    from queuectl.db.depth import Depth
    from queuectl.db.sqlite_transfer import SqlitePort
    from queuectl.job import Job, JobFilter, Problem, QueueInfo, Rates, Run

JOB_COLUMNS = (
    "seq, id, queue, state, priority, coalesce(not_before,run_at), command, cwd, env, tags, timeout_s, backoff_base, "
    "max_retries, "
    "attempts, failures, losses, run_no, "
    "CASE WHEN worker_id IS NOT NULL THEN last_run_id END, worker_id, "
    "cancel_requested, created_at, updated_at, ended_at, reason, after, not_before IS NOT NULL AND ready = 2"
)
CANCEL = 19  # the place of cancel_requested among them; held is the last
# States of which the jobs are found by an index.
INDEXED = frozenset(("pending", "processing", "failed", "dead", "cancelled"))
# The last jobs to end are looked for among so many ends first: to sort all takes seconds.
NEWEST_ENDS = 5000
# How many distinct priorities oldest_due looks at; a queue with more is told from its most urgent ones.
PRIORITIES = 1000

_HAS_ROOM = "paused = 0 AND pending + failed > 0 AND (max_running IS NULL OR max_running > processing)"
# No EXISTS, here and in sqlite_stage: SQLite 3.35 reads it as an IN, and lists all ready jobs first.
_ANY_READY = f"""
    SELECT 1 FROM queues WHERE {_HAS_ROOM} AND (SELECT 1 FROM jobs WHERE queue = name AND ready = 1 LIMIT 1)
    """
_EARLIEST = f"""
    SELECT min((SELECT run_at FROM jobs WHERE queue = name AND ready = 2 ORDER BY run_at LIMIT 1))
      FROM queues
     WHERE {_HAS_ROOM}
    """

# Without what is held for other jobs: as long as these are left they count, and without them nothing lets it go.
_WORK_LEFT = f"""
    SELECT coalesce(sum(pending + failed + processing - (
               SELECT count(*) FROM jobs WHERE queue = name AND ready = 2 AND run_at = {HELD_AT})), 0)
      FROM queues
     WHERE paused = 0 AND pending + failed + processing > 0
    """

# What became due since the last claim is moved among the ready ones only by the next claim.
# Of the ready ones those ahead are three ranges of the index: with an OR, or with a row value, of which SQLite searches
# for the first column alone, all that are behind the job would be passed over too.
_AHEAD = """
    SELECT count(*)
      FROM (SELECT 1 FROM jobs WHERE queue = :queue AND ready = 1 AND priority > :priority
            UNION ALL
            SELECT 1 FROM jobs WHERE queue = :queue AND ready = 1 AND priority = :priority AND run_at < :run_at
            UNION ALL
            SELECT 1 FROM jobs
             WHERE queue = :queue AND ready = 1 AND priority = :priority AND run_at = :run_at AND seq < :seq
            UNION ALL
            SELECT 1 FROM jobs
             WHERE queue = :queue AND ready = 2 AND run_at <= :now
               AND (priority > :priority
                    OR priority = :priority AND (run_at < :run_at OR run_at = :run_at AND seq < :seq))
             LIMIT 1000)
    """


class SqliteViews(SqliteFile):
    """Looking at jobs, runs, output, queues."""

    def get(self, job_id: str) -> Optional[Job]:
        """See ``Store.get``."""
        from queuectl.job import Job

        rows = self._rows(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?", (job_id,))
        self.identity.check()  # who looks again and again would wait for ever
        return Job._make(job_row(rows[0])) if rows else None

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

        looked_for = which
        if after_seq == 0 or sort is not None or descending:
            taken = self._taken_states(which)
            if not taken:
                return []
            # Those of the other states are found by an index, so that only this one costs a walk where there are none.
            if "completed" in which.states and "completed" not in taken:
                looked_for = which._replace(states=tuple(state for state in which.states if state != "completed"))
        if sort == "ended_at" and descending and after_seq == 0 and limit < NEWEST_ENDS:
            rows = self._rows(*_page_of_newest_ends(which, limit))
            if len(rows) == limit:  # else there may be more among the older ones
                return [Job._make(job_row(row)) for row in rows]
        while True:
            sql, parameters = page(JOB_COLUMNS, looked_for, after_seq, limit, sort, descending)
            rows = self._rows(sql, parameters)
            if looked_for is which or "completed" not in self._taken_states(which):
                return [Job._make(job_row(row)) for row in rows]
            looked_for = which  # the first one completed between the two looks

    def ids(self, which: JobFilter, after_seq: int = 0, limit: int = 1000) -> List[Tuple[int, str]]:
        """See ``Store.ids``."""
        return self._rows(*page("seq, id", which, after_seq, limit))

    def order(self, which: JobFilter, skip: int, limit: int, sort: Optional[str], descending: bool) -> Sequence[int]:
        """See ``Store.order``."""
        from array import array

        sql, parameters = page("seq", which, skip, limit, sort, descending)
        return array("q", [row[0] for row in self._rows(sql, parameters)])

    def jobs_at(self, seqs: Sequence[int], which: JobFilter) -> List[Job]:
        """See ``Store.jobs_at``."""
        from queuectl.job import Job

        where, values = conditions(which)
        found: Dict[int, Job] = {}
        for some in in_parts(seqs):
            clause = " AND ".join([f"seq IN ({', '.join('?' * len(some))})", *where])
            for row in self._rows(f"SELECT {JOB_COLUMNS} FROM jobs WHERE {clause}", [*some, *values]):
                found[row[0]] = Job._make(job_row(row))
        return [found[seq] for seq in seqs if seq in found]

    def _taken_states(self, which: JobFilter) -> Tuple[str, ...]:
        """Return those states of *which* in which any of its queues has a job, by the counters: no look at the jobs."""
        named = which.states or COUNTED
        there = ", ".join(f"EXISTS (SELECT 1 FROM queues WHERE {state} > 0{{0}})" for state in COUNTED)
        queues = f" AND name IN ({', '.join('?' * len(which.queues))})" if which.queues else ""
        taken = self._rows(f"SELECT {there.format(queues)}", [*which.queues] * len(COUNTED))[0]
        return tuple(state for state, is_taken in zip(COUNTED, taken) if is_taken and state in named)

    def states(self, job_ids: Sequence[str]) -> Dict[str, str]:
        """See ``Store.states``."""
        found: Dict[str, str] = {}
        for some in in_parts(job_ids):
            marks = ", ".join("?" * len(some))
            found.update(self._rows(f"SELECT id, state FROM jobs WHERE id IN ({marks})", some))
        return found

    def find(self, job_ids: Sequence[str]) -> Dict[str, Job]:
        """See ``Store.find``."""
        from queuectl.job import Job

        found: Dict[str, Job] = {}
        for some in in_parts(job_ids):
            marks = ", ".join("?" * len(some))
            rows = self._rows(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id IN ({marks})", some)
            jobs = [Job._make(job_row(row)) for row in rows]
            found.update((job.id, job) for job in jobs)
        return found

    def runs(self, job_id: str) -> List[Run]:
        """See ``Store.runs``."""
        from queuectl.job import Run

        rows = self._rows(
            """
            WITH RECURSIVE chain(run_id) AS (
                SELECT last_run_id FROM jobs WHERE id = :id
                UNION ALL
                SELECT previous_id FROM runs JOIN chain USING (run_id))
            SELECT run_id, :id, number, state, exit_code, signal, started_at, ended_at,
                   worker_id, host, pid, peak_memory_bytes, cpu_s, reason
              FROM runs
              JOIN chain USING (run_id)
             ORDER BY run_id
            """,
            {"id": job_id},  # type: ignore[arg-type]
        )
        return [Run._make(row) for row in rows]

    def output(self, run_id: int, start: int = 0, most: Optional[int] = None) -> List[Part]:
        """See ``Store.output``."""
        rows = self._rows(_OUTPUT, (run_id, run_id, start, start, -1 if most is None else most))
        return [(max(first, start), bytes(data[max(start - first, 0) :])) for first, data in rows]

    def last_output(self, job_id: str, size: int, run_id: Optional[int] = None) -> List[Part]:
        """See ``Store.last_output``."""
        return last_parts(lambda before: self._rows(_LAST_PARTS, (size, run_id, job_id, before)), size)

    def ahead_of(self, job: Job, now: Optional[float] = None) -> int:
        """See ``Store.ahead_of``."""
        now = time.time() if now is None else now
        names = {"queue": job.queue, "priority": job.priority, "run_at": job.run_at, "seq": job.seq, "now": now}
        return int(self._rows(_AHEAD, names)[0][0])  # type: ignore[arg-type]

    def needs(self, job_id: str) -> List[Tuple[Optional[str], Optional[str]]]:
        """See ``Store.needs``."""
        from queuectl.db.sqlite_needs import NEEDS

        return self._rows(NEEDS, {"id": job_id})  # type: ignore[arg-type]

    def needed_by(self, job_id: str, limit: int = 100) -> List[str]:
        """See ``Store.needed_by``."""
        from queuectl.db.sqlite_needs import NEEDED_BY

        return [row[0] for row in self._rows(NEEDED_BY, {"id": job_id, "limit": limit})]  # type: ignore[arg-type]

    def stuck(self, job_ids: Sequence[str]) -> Dict[str, Tuple[Optional[str], Optional[str]]]:
        """See ``Store.stuck``."""
        from queuectl.db.sqlite_needs import stuck

        return stuck(self._rows, job_ids)

    def queues(self) -> List[QueueInfo]:
        """See ``Store.queues``."""
        from queuectl.job import QueueInfo

        rows = self._rows(
            f"""
            SELECT name, paused, max_running, {", ".join(COUNTED)}
              FROM queues
             WHERE paused = 1 OR max_running IS NOT NULL OR {" + ".join(COUNTED)} > 0
             ORDER BY name
            """
        )
        return [QueueInfo(row[0], bool(row[1]), *row[2:]) for row in rows]

    def depths(self) -> List[Depth]:
        """See ``Store.depths``."""
        from queuectl.db.depth import Depth

        rows = self._rows(f"SELECT {', '.join(Depth._fields)} FROM queue_depth ORDER BY queue")
        return [Depth._make((*row[:-1], bool(row[-1]))) for row in rows]

    def work_left(self, queues: Sequence[str] = ()) -> int:
        """See ``Store.work_left``."""
        sql = _WORK_LEFT
        if queues:
            sql += " AND name IN (%s)" % ", ".join("?" * len(queues))
        return int(self._rows(sql, queues)[0][0])

    def next_due(self, queues: Sequence[str] = (), now: Optional[float] = None) -> Optional[float]:
        """See ``Store.next_due``."""
        now = time.time() if now is None else now
        served = " AND name IN (%s)" % ", ".join("?" * len(queues)) if queues else ""
        if self._rows(_ANY_READY + served + " LIMIT 1", queues):
            return now
        earliest: Optional[float] = self._rows(_EARLIEST + served, queues)[0][0]
        return None if earliest == HELD_AT else earliest

    def oldest_due(self, now: Optional[float] = None) -> Optional[float]:
        """See ``Store.oldest_due``."""
        now = time.time() if now is None else now
        oldest: Optional[float] = None
        for (name,) in self._rows("SELECT name FROM queues WHERE pending + failed > 0"):
            for found in self._first_of_each_priority(name) + self._rows(
                "SELECT run_at FROM jobs WHERE queue = ? AND ready = 2 ORDER BY run_at LIMIT 1", (name,)
            ):
                if found[0] <= now and (oldest is None or found[0] < oldest):
                    oldest = found[0]
        return oldest

    def _first_of_each_priority(self, queue: str) -> List[Tuple[float, int]]:
        """Return (run_at, priority) of the earliest ready job of each priority: the index skips the rest."""
        found: List[Tuple[float, int]] = []
        below = 2**40
        while len(found) < PRIORITIES:
            rows = self._rows(
                """
                SELECT run_at, priority FROM jobs
                 WHERE queue = ? AND ready = 1 AND priority < ?
                 ORDER BY priority DESC, run_at, seq
                 LIMIT 1
                """,
                (queue, below),
            )
            if not rows:
                break
            found += rows
            below = rows[0][1]
        return found

    def rates(self, now: Optional[float] = None) -> Rates:
        """See ``Store.rates``."""
        from queuectl.job import Rates

        now = time.time() if now is None else now
        # The newest ends only, so that a busy store is counted as cheaply as a quiet one.
        rows = self._rows(
            """
            SELECT state, ended_at FROM runs
             WHERE run_id > (SELECT coalesce(max(run_id), 0) - ? FROM runs) AND ended_at > ? AND ended_at < ?
            """,
            (RATE_ROWS, now - RATE_WINDOW_S, now + RATE_AHEAD_S),
        )
        span_s = RATE_WINDOW_S
        if len(rows) > RATE_ROWS // 2:
            span_s = max(now - min(row[1] for row in rows), 1.0)
        states = [row[0] for row in rows]
        completed, failed = states.count("completed"), states.count("failed") + states.count("timed_out")
        return Rates(round(completed * 60.0 / span_s, 1), round(failed * 60.0 / span_s, 1))

    def settings(self) -> Dict[str, str]:
        """See ``Store.settings``."""
        return dict(self._rows("SELECT key, value FROM settings"))

    def port(self) -> SqlitePort:
        """See ``Store.port``."""
        from queuectl.db.sqlite_transfer import SqlitePort

        return SqlitePort(self)

    def check(self) -> List[Problem]:
        """See ``Store.check``."""
        from queuectl.db.sqlite_check import check

        return check(self)


# By the place of the part in which it begins: an output may have been cut into a million parts.
_OUTPUT = """
    SELECT start, bytes FROM output
     WHERE run_id = ? AND start >= coalesce((SELECT max(start) FROM output WHERE run_id = ? AND start <= ?), 0)
       AND start + length(bytes) > ?
     ORDER BY start
     LIMIT ?
    """

_LAST_PARTS = f"""
    SELECT start, length(bytes), substr(bytes, -?) FROM output
     WHERE run_id = coalesce(?, (SELECT last_run_id FROM jobs WHERE id = ?)) AND start < ?
     ORDER BY start DESC
     LIMIT {PARTS}
    """


def job_row(row: Sequence[Any]) -> Sequence[Any]:
    """Return a row of JOB_COLUMNS as the fields of a Job: SQLite knows no truth values."""
    return (*row[:CANCEL], row[CANCEL] == 1, *row[CANCEL + 1 : -1], row[-1] == 1)


def in_parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield *values* in parts that fit into one statement: SQLite before 3.32 takes 999 parameters."""
    for first in range(0, len(values), 500):
        yield values[first : first + 500]


def page(
    columns: str, which: JobFilter, after: int, limit: int, sort: Optional[str] = None, descending: bool = False
) -> Tuple[str, List[Any]]:
    """Return the statement for one page of ``Store.jobs``."""
    direction = " DESC" if descending else ""
    skip = after if sort is not None or descending else 0
    if sort is None and which.states and INDEXED.issuperset(which.states):
        return _page_by_state(columns, which, 0 if descending else after, limit, skip, direction)
    where, parameters = conditions(which)
    order = f"seq{direction}"
    if sort is not None:
        order = f"{sort}{direction}, {order}"
    elif not descending:
        where.append("seq > ?")
        parameters.append(after)
    clause = " WHERE " + " AND ".join(where) if where else ""
    return f"SELECT {columns} FROM jobs{clause} ORDER BY {order} LIMIT ? OFFSET ?", [*parameters, limit, skip]


def _page_by_state(
    columns: str, which: JobFilter, after: int, limit: int, skip: int, direction: str
) -> Tuple[str, List[Any]]:
    """Return the statement for a page of jobs in some of the INDEXED states: each by its index, then merged."""
    parts = []
    parameters: List[Any] = []
    for state in dict.fromkeys(which.states):
        where, values = conditions(which._replace(states=(state,)))
        seq = "seq"
        if state == "processing":  # its index does not have the order, and SQLite would walk through all jobs for that
            where.append("worker_id IS NOT NULL")
            seq = "+seq"
        clause = " AND ".join([*where, f"{seq} > ?"])
        parts.append(f"SELECT seq FROM (SELECT seq FROM jobs WHERE {clause} ORDER BY {seq}{direction} LIMIT ?)")
        parameters += [*values, after, limit + skip]
    sql = f"SELECT {columns} FROM jobs WHERE seq IN ({' UNION ALL '.join(parts)})"
    return f"{sql} ORDER BY seq{direction} LIMIT ? OFFSET ?", [*parameters, limit, skip]


def _page_of_newest_ends(which: JobFilter, limit: int) -> Tuple[str, List[Any]]:
    """Return the statement for the last jobs of *which* to end, looked for among the NEWEST_ENDS of all."""
    newest = "SELECT seq FROM jobs WHERE ended_at IS NOT NULL ORDER BY ended_at DESC, seq DESC LIMIT ?"
    where, parameters = conditions(which)
    clause = " AND ".join([f"seq IN ({newest})", *where])
    sql = f"SELECT {JOB_COLUMNS} FROM jobs WHERE {clause} ORDER BY ended_at DESC, seq DESC LIMIT ?"
    return sql, [NEWEST_ENDS, *parameters, limit]


def page_by_end(which: JobFilter, after: Tuple[float, int], limit: int) -> Tuple[str, List[Any]]:
    """Return the statement for the rows and ends of jobs of *which*, which has a time, in the order of their ends."""
    # The jobs of a state may be very many more than those that ended before, and of both SQLite would choose the state.
    where, parameters = conditions(which._replace(states=()))
    where += ["(ended_at, seq) > (?, ?)", f"+state IN ({', '.join('?' * len(which.states))})"]
    sql = f"SELECT seq, ended_at FROM jobs WHERE {' AND '.join(where)} ORDER BY ended_at, seq LIMIT ?"
    return sql, [*parameters, *after, *which.states, limit]


def conditions(which: JobFilter) -> Tuple[List[str], List[Any]]:
    """Return the SQL conditions and parameters of *which*."""
    where: List[str] = []
    parameters: List[Any] = []
    for column, values in (("state", which.states), ("queue", which.queues)):
        if len(values) == 1:  # with an IN, even of one, SQLite does not see that a partial index covers it
            where.append(f"{column} = ?")
        elif values:
            where.append(f"{column} IN ({', '.join('?' * len(values))})")
        parameters += values
    if which.tags:
        # Tags have no character that JSON escapes, so the quoted tag is found as text.
        where.append("(" + " OR ".join(["instr(tags, ?) > 0"] * len(which.tags)) + ")")
        parameters += [f'"{tag}"' for tag in which.tags]
    if which.ended_before is not None:
        where.append("ended_at IS NOT NULL AND ended_at < ?")
        parameters.append(which.ended_before)
    return where, parameters
