"""The PostgreSQL store's verbs for users: cancel, retry, edit, prune, reset, queues and settings."""

from __future__ import annotations

from queuectl import faults
from queuectl.db.postgres_add import NOTIFY, PostgresAdd
from queuectl.db.postgres_counts import count, move
from queuectl.db.postgres_views import LISTED, conditions, within
from queuectl.db.rules import (
    CANCELLED_WAITING,
    HELD_AT,
    MAX_RETRIES,
    NO_JOB,
    PRUNABLE,
    RETRIABLE,
    STEP,
    edited_columns,
    only_in,
    possible,
    refuse_spent_retries,
    refuse_state,
)
from queuectl.db.sought import Steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Container, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

    from queuectl.db.postgres import Address
    from queuectl.db.postgres_counts import Moves
    from queuectl.db.postgres_run import Run
    from queuectl.job import JobFilter

    Parts = Sequence[Tuple[int, int, int, int]]  # of output: the job's row, the run, the part's place there, its size

# Of so many bytes of output, and so many parts of it, rows may be deleted at once: a server needs seconds for a
# gigabyte, and who waits for it may give up before.
PRUNE_BYTES, PRUNE_PARTS = 16 << 20, 4000


class PostgresDesk(PostgresAdd):
    """What people do to jobs that workers do not."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._prunes = Steps()

    def _lock(self, run: Run, job_ids: Sequence[str], more: str = "") -> Dict[str, Any]:
        """Lock jobs, in one order for everybody, and return (seq, queue, state), and *more* columns, by id."""
        rows = run(
            f"""
            SELECT id, seq, queue, state{more} FROM queuectl.jobs WHERE id = ANY(%s::text[]) ORDER BY seq FOR UPDATE
            """,
            (possible(job_ids),),
        )
        return {row[0]: row[1:] for row in rows}

    def _clock(self, run: Run, now: Optional[float]) -> Callable[[], float]:
        """Return a function that returns *now*; if that is None, the time at which the transaction began on the server.

        The server is asked at once, but only the function waits for the answer: call it after the next statements.
        """
        if now is not None:
            return lambda: now
        answer = run("SELECT extract(epoch FROM now())::float8")
        return lambda: float(answer.fetchone()[0])

    def _wake(self, run: Run) -> None:
        run(NOTIFY, {"channel": self.channel})

    # -- jobs ---------------------------------------------------------------------------------

    def cancel(self, job_ids: Sequence[str], now: Optional[float] = None) -> Dict[str, str]:
        """See ``Store.cancel``."""

        def body(run: Run) -> Dict[str, str]:
            clock = self._clock(run, now)
            found = self._lock(run, job_ids)
            moves: Moves = {}
            answer = {}
            for job_id in dict.fromkeys(job_ids):
                _, queue, state = found.get(job_id, NO_JOB)
                refuse_state("cancel", job_id, state)
                answer[job_id] = "processing" if state == "processing" else "cancelled"
                if state != "processing":
                    move(moves, queue, state, "cancelled")
            run(_CANCEL, {"seqs": [row[0] for row in found.values()], "now": clock(), "reason": CANCELLED_WAITING})
            count(run, moves)
            faults.point("cancelling")
            return answer

        return self._write(body)

    def cancel_where(
        self, which: JobFilter, now: Optional[float] = None, tell: Optional[Callable[[int], None]] = None
    ) -> Tuple[int, List[str]]:
        """See ``Store.cancel_where``."""
        # Those that wait once more, last: meanwhile a worker may have failed a job that was to be ended.
        order = ("pending", "failed", "processing", "pending", "failed")
        cancelled, running = 0, []
        for state in order if "processing" in (which.states or order) else order[:2]:
            if which.states and state not in which.states:
                continue
            for rows in self._in_steps(which, state, "seq, queue, state, id", now, self._cancel_rows):
                if state == "processing":
                    running += [row[3] for row in rows]
                else:
                    cancelled += len(rows)
                if tell is not None:
                    tell(cancelled + len(running))
        return cancelled, running

    def _cancel_rows(self, run: Run, rows: Sequence[Any], now: float) -> None:
        moves: Moves = {}
        for _, queue, state, _ in rows:
            if state != "processing":
                move(moves, queue, state, "cancelled")
        run(_CANCEL, {"seqs": [row[0] for row in rows], "now": now, "reason": CANCELLED_WAITING})
        count(run, moves)
        faults.point("cancelling")

    def retry(self, job_ids: Sequence[str], only_dead: bool = False, now: Optional[float] = None) -> None:
        """See ``Store.retry``."""

        def body(run: Run) -> None:
            clock = self._clock(run, now)
            found = self._lock(run, job_ids)
            moves: Moves = {}
            for job_id in dict.fromkeys(job_ids):
                _, queue, state = found.get(job_id, NO_JOB)
                refuse_state("retry", job_id, state, only_dead)
                move(moves, queue, state, "pending")
            self._start_over(run, [row[0] for row in found.values()], clock())
            count(run, moves)
            self._wake(run)
            faults.point("retrying")

        self._write(body)

    def retry_where(
        self, which: JobFilter, now: Optional[float] = None, tell: Optional[Callable[[int], None]] = None
    ) -> int:
        """See ``Store.retry_where``."""
        some = only_in(RETRIABLE, which)
        if some is None:
            return 0
        retried = 0
        for state in dict.fromkeys(some.states):
            for rows in self._in_steps(some, state, "seq, queue, state", now, self._start_rows_over):
                retried += len(rows)
                if tell is not None:
                    tell(retried)
        return retried

    def _start_over(self, run: Run, seqs: Sequence[int], now: float) -> None:
        run(_START_OVER, {"seqs": seqs, "now": now, "held_at": HELD_AT})
        run(_SETTLE, {"seqs": seqs})
        run("SELECT queuectl._let_go(%s::bigint[], NULL)", (seqs,))

    def _start_rows_over(self, run: Run, rows: Sequence[Any], now: float) -> None:
        moves: Moves = {}
        for _, queue, before in rows:
            move(moves, queue, before, "pending")
        self._start_over(run, [row[0] for row in rows], now)
        count(run, moves)
        self._wake(run)

    def _in_steps(
        self,
        which: JobFilter,
        state: str,
        columns: str,
        now: Optional[float],
        change: Callable[[Run, Sequence[Any], float], None],
    ) -> Iterator[List[Any]]:
        """Call *change* for all jobs of *which* in one state, STEP in a transaction; yield the rows of each."""
        choose, parameters = _choose(which, state, columns)
        after = 0

        def body(run: Run) -> List[Any]:
            clock = self._clock(run, now)
            rows: List[Any] = run(choose + "FOR UPDATE", [after, *parameters, STEP]).fetchall()
            change(run, rows, clock())
            return rows

        while True:
            rows = self._write(body)
            yield rows
            if len(rows) < STEP:
                return
            after = rows[-1][0]

    def edit(self, job_id: str, changes: Mapping[str, Any], now: Optional[float] = None) -> None:
        """See ``Store.edit``."""
        from queuectl.db.postgres_needs import edit_needs

        def body(run: Run) -> None:
            clock = self._clock(run, now)
            found = self._lock(run, [job_id], ", run_at, not_before")
            seq, queue, state, *times = found.get(job_id, NO_JOB)
            refuse_state("edit", job_id, state)
            at = clock()
            columns = edited_columns(changes, at, lambda: self._default_max_retries(run))
            columns = edit_needs(run, job_id, (seq, *times), changes, columns, at)
            if "max_retries" in columns:
                failures = run("SELECT failures FROM queuectl.jobs WHERE seq = %s", (seq,)).fetchone()[0]
                refuse_spent_retries(job_id, columns["max_retries"], failures)
            assignments = ", ".join(f"{column} = %s" for column in columns)
            run(f"UPDATE queuectl.jobs SET {assignments} WHERE seq = %s", [*columns.values(), seq])
            after = columns.get("queue", queue)
            if after != queue:
                self._make_queue(run, after)
                count(run, {(queue, state): -1, (after, state): 1})
            self._wake(run)

        self._write(body)

    def _default_max_retries(self, run: Run) -> int:
        found = run("SELECT value FROM queuectl.settings WHERE key = 'max_retries'").fetchone()
        return int(found[0]) if found else MAX_RETRIES

    def prune(self, which: JobFilter, limit: int = STEP) -> Optional[int]:
        """See ``Store.prune``."""
        some = only_in(PRUNABLE, which)
        if some is None:
            return 0
        deleted = self._prunes.step(some, lambda: self._found(some), limit, lambda seqs: self._delete(seqs, some))
        if deleted == 0:
            self._delete((), some)  # a role that may not delete hears of it also where there is nothing to delete
        return deleted

    def _found(self, which: JobFilter) -> Iterator[Sequence[int]]:
        """Yield the rows of ended jobs of *which*, STEP at a time, as they are seen without locks.

        What has ended before a time comes in the order of its end, as completed jobs do, which may be nearly all;
        the others by their states.
        """
        by_state = () if which.ended_before is not None else tuple(filter(LISTED.__contains__, which.states))
        for state in dict.fromkeys(by_state):
            yield from self._pages(*_choose(which, state), [0])
        rest = tuple(state for state in which.states if state not in by_state)
        if rest:
            where, parameters = conditions(which._replace(states=()))
            where = ["ended_at IS NOT NULL AND (ended_at, seq) > (%s::float8, %s::bigint)", *where]
            # As text: by the states' own index those that ended too late would be looked at too.
            sql = f"""
                SELECT ended_at, seq FROM queuectl.jobs
                 WHERE {" AND ".join(where)} AND state::text = ANY(%s::text[])
                 ORDER BY ended_at, seq LIMIT %s
                """
            yield from self._pages(sql, [*parameters, list(rest)], [0.0, 0])

    def _pages(self, sql: str, parameters: Sequence[Any], after: Sequence[Any]) -> Iterator[Sequence[int]]:
        """Yield the rows that *sql* finds, page by page; each begins behind the last row of the one before."""
        while True:
            rows = self._rows(sql, [*after, *parameters, STEP], prepare=False)
            if rows:
                yield [row[-1] for row in rows]
            if len(rows) < STEP:
                return
            after = rows[-1]

    def _delete(self, seqs: Sequence[int], which: JobFilter) -> Tuple[int, Sequence[int]]:
        """Delete those of these rows that are still of *which*; return how many, and the rows that are left."""
        where, parameters = conditions(which)
        choose = f"""
            SELECT seq, queue, state FROM queuectl.jobs
             WHERE {" AND ".join(["seq = ANY(%s::bigint[])", *where])}
             ORDER BY seq FOR UPDATE SKIP LOCKED
            """

        def body(run: Run) -> Tuple[int, Sequence[int]]:
            chosen = run(choose, [list(seqs), *parameters])  # what another pruner has locked is left to it
            outputs = run(_OUTPUTS, {"seqs": list(seqs), "parts": PRUNE_PARTS}).fetchall()
            rows = chosen.fetchall()
            first_left, parts = _enough(outputs, {row[0] for row in rows})
            whole = [row for row in rows if first_left is None or row[0] < first_left]
            moves: Moves = {}
            for _, queue, state in whole:
                move(moves, queue, state, None)
            if parts:
                run(_DELETE_PARTS, {"runs": [part[1] for part in parts], "starts": [part[2] for part in parts]})
            if whole:
                run(_DELETE, {"seqs": [row[0] for row in whole]})
                count(run, moves)
                faults.point("pruning")
            later = {row[0] for row in rows[len(whole) :]}
            return len(whole), [seq for seq in seqs if seq in later]

        return self._write(body)

    def reset(self) -> None:
        """See ``Store.reset``."""

        def body(run: Run) -> None:
            run(
                """
                TRUNCATE queuectl.jobs, queuectl.needs, queuectl.runs, queuectl.output, queuectl.counts, queuectl.queues
                """
            )
            run("DELETE FROM queuectl.settings")
            run("DELETE FROM queuectl.taken_numbers")
            self._make_queue(run, "default")
            run("UPDATE queuectl.numbers SET next_number = 1, has_taken = false WHERE one")
            run("UPDATE queuectl.store SET settings_version = settings_version + 1 WHERE one")
            faults.point("resetting")

        self._write(body)

    def refuse_reset(self) -> None:
        """See ``Store.refuse_reset``."""
        lacking = [row[0] for row in self._rows(_RIGHTS_LACKING, {"schema": self.schema})]
        if lacking:
            raise self._not_allowed(f"reset needs {', '.join(lacking)}")

    # -- switches -----------------------------------------------------------------------------

    def _make_queue(self, run: Run, queue: str) -> None:
        run("INSERT INTO queuectl.queues (name) VALUES (%s) ON CONFLICT (name) DO NOTHING", (queue,))

    def set_paused(self, queue: str, paused: bool) -> None:
        """See ``Store.set_paused``."""
        self._switch(queue, "paused", paused)

    def set_limit(self, queue: str, max_running: Optional[int]) -> None:
        """See ``Store.set_limit``."""
        self._switch(queue, "max_running", max_running)

    def _switch(self, queue: str, column: str, value: Any) -> None:
        def body(run: Run) -> None:
            self._make_queue(run, queue)
            run(f"UPDATE queuectl.queues SET {column} = %s WHERE name = %s", (value, queue))
            self._wake(run)

        self._write(body)

    def set_setting(self, key: str, text: Optional[str]) -> None:
        """See ``Store.set_setting``."""

        def body(run: Run) -> None:
            run("UPDATE queuectl.store SET settings_version = settings_version + 1 WHERE one")
            run("DELETE FROM queuectl.settings WHERE key = %s", (key,))
            if text is not None:
                run("INSERT INTO queuectl.settings (key, value) VALUES (%s, %s)", (key, text))

        self._write(body)


def _choose(which: JobFilter, state: str, columns: str = "seq") -> Tuple[str, List[Any]]:
    """Return the statement for rows of *which* in one state; its first parameter is a row, its last a limit."""
    where, parameters = conditions(which._replace(states=()))
    if state in LISTED:
        condition, order = within(state), "state, seq"
    else:
        indexed = "worker_id" if state == "processing" else "ended_at"
        condition, order = f"state = '{state}' AND {indexed} IS NOT NULL AND seq > %s::bigint", "seq"
    conjunction = " AND ".join([condition, *where])
    return f"SELECT {columns} FROM queuectl.jobs WHERE {conjunction} ORDER BY {order} LIMIT %s ", parameters


def _enough(outputs: Parts, locked: Container[int]) -> Tuple[Optional[int], Parts]:
    """Return the first job that is not to be deleted in this step (None: all are), and the parts of it that are.

    *outputs* has what jobs printed as ``_OUTPUTS`` returns it; of jobs that are not *locked*, nothing may be deleted.
    """
    size = 0
    for place, (seq, _, _, part) in enumerate(outputs):
        if size >= PRUNE_BYTES or place + 1 == PRUNE_PARTS:
            return seq, [each for each in outputs[:place] if each[0] == seq and seq in locked]
        if seq in locked:
            size += part
    return None, []


# What ``reset`` does, and this role may not.
_RIGHTS_LACKING = """
    SELECT word || ' on ' || name
      FROM (VALUES ('TRUNCATE', 'jobs'), ('TRUNCATE', 'needs'), ('TRUNCATE', 'runs'), ('TRUNCATE', 'output'),
                   ('TRUNCATE', 'counts'), ('TRUNCATE', 'queues'), ('INSERT', 'queues'), ('DELETE', 'settings'),
                   ('DELETE', 'taken_numbers'),
                   ('UPDATE', 'numbers'), ('UPDATE', 'store')) AS needed (word, name)
     WHERE NOT has_table_privilege(%(schema)s || '.' || name, word)
    """

# While a job runs, updated_at says since when.
_CANCEL = """
    UPDATE queuectl.jobs
       SET cancel_requested = (state = 'processing'),
           state = CASE WHEN state = 'processing' THEN state ELSE 'cancelled' END,
           ready = 0,
           updated_at = CASE WHEN state = 'processing' THEN updated_at ELSE %(now)s::float8 END,
           ended_at = CASE WHEN state = 'processing' THEN NULL ELSE %(now)s::float8 END,
           reason = CASE WHEN state = 'processing' THEN reason ELSE %(reason)s::text END
     WHERE seq = ANY(%(seqs)s::bigint[])
    """

# A job that was cancelled while it waited for others, and is started over, waits for them again.
_START_OVER = """
    UPDATE queuectl.jobs AS j
       SET state = 'pending', attempts = 0, failures = 0, losses = 0, updated_at = %(now)s::float8, ended_at = NULL,
           reason = NULL, ready = CASE WHEN o.held THEN 2 ELSE 1 END,
           run_at = CASE WHEN o.held THEN %(held_at)s::float8 ELSE %(now)s::float8 END,
           not_before = CASE WHEN o.held THEN %(now)s::float8 END
      FROM (SELECT seq, not_before IS NOT NULL
                        AND EXISTS (SELECT 1 FROM queuectl.needs AS n WHERE n.seq = k.seq) AS held
              FROM queuectl.jobs AS k
             WHERE seq = ANY(%(seqs)s::bigint[])) AS o
     WHERE j.seq = o.seq
    """

# What it needs may complete at this very moment, and its worker would find it cancelled still: what is needed is locked
# and looked at again, and then it is let go if nothing is left.
_SETTLE = """
    SELECT queuectl._settle_need(seq, on_seq) FROM queuectl.needs WHERE seq = ANY(%(seqs)s::bigint[]) ORDER BY on_seq
    """

# Run by run, the oldest first, each from its begin on, and no more than are asked for.
_OUTPUTS = """
    WITH RECURSIVE chain(seq, run_id) AS (
        SELECT seq, last_run_id FROM queuectl.jobs WHERE seq = ANY(%(seqs)s::bigint[]) AND last_run_id IS NOT NULL
        UNION ALL
        SELECT chain.seq, r.previous_id FROM queuectl.runs AS r JOIN chain USING (run_id)
         WHERE r.previous_id IS NOT NULL
    )
    SELECT c.seq, c.run_id, o.start, octet_length(o.bytes)
      FROM (SELECT seq, run_id FROM chain ORDER BY seq, run_id) AS c,
           LATERAL (SELECT start, bytes FROM queuectl.output WHERE run_id = c.run_id
                     ORDER BY start LIMIT %(parts)s::integer) AS o
     LIMIT %(parts)s::integer
    """

_DELETE_PARTS = """
    DELETE FROM queuectl.output AS o USING unnest(%(runs)s::bigint[], %(starts)s::bigint[]) AS p (run_id, start)
     WHERE o.run_id = p.run_id AND o.start = p.start
    """

_DELETE = """
    WITH RECURSIVE chain(run_id) AS (
        SELECT last_run_id FROM queuectl.jobs WHERE seq = ANY(%(seqs)s::bigint[]) AND last_run_id IS NOT NULL
        UNION ALL
        SELECT r.previous_id FROM queuectl.runs AS r JOIN chain USING (run_id) WHERE r.previous_id IS NOT NULL
    ), printed AS (
        DELETE FROM queuectl.output AS o USING chain WHERE o.run_id = chain.run_id
    ), ran AS (
        DELETE FROM queuectl.runs AS r USING chain WHERE r.run_id = chain.run_id
    )
    DELETE FROM queuectl.jobs WHERE seq = ANY(%(seqs)s::bigint[])
    """
