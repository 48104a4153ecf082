"""Jobs come into a PostgreSQL store: one in a single statement, many through COPY.

The row of ``numbers`` is locked from the drawing of a number to the commit, so that ids come in order and
without gaps, and jobs are committed in the order of their rows. A very large batch draws its numbers first, in a
transaction of their own, and holds up nobody while it is copied.
"""

from __future__ import annotations

import os
import time

import psycopg

from queuectl import faults
from queuectl.db.postgres_counts import count_new
from queuectl.db.postgres_line import ConnectionLost
from queuectl.db.postgres_rows import blocks, copy_lines
from queuectl.db.postgres_views import JOB_COLUMNS, PostgresViews
from queuectl.db.rules import (
    MAX_RETRIES,
    any_after,
    generated_number,
    given_ids,
    number_jobs,
    numbered,
    refuse_spent,
    taken_near,
    to_json,
)
from queuectl.errors import Interrupted, JobNotFound, QueueInUse, StoreError, StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, NoReturn, Optional, Sequence

    from queuectl.db.postgres_run import Run
    from queuectl.db.spool import Specs
    from queuectl.job import Job
    from queuectl.jobspec import JobSpec

# Adds within this time of a notification send none of their own; whoever was woken by it looks again after it.
QUIET_S = 0.05
# How long an add whose answer was lost tries to find out what became of it, and among how many of the newest rows.
FIND_OUT_S, FIND_OUT_ROWS = 10.0, 5_000_000
# How long an add that a Ctrl-C has ended waits for each answer to that question.
LOOK_S = 2.0
# A batch larger than this draws its numbers beforehand.
LARGE = 5000
IDLE = psycopg.pq.TransactionStatus.IDLE
TAKEN = "23505"  # unique violation
CHECK = "Check with 'queuectl list' before you enqueue again."


class NotKnown(StoreUnavailable):
    """Whether the jobs were stored could not be found out."""


class PostgresAdd(PostgresViews):
    """The verbs ``add``, ``add_one`` and ``add_within``."""

    # Whether an add has sent what stores its jobs, and has not heard yet what became of it.
    _in_doubt = False

    def add(self, specs: Specs, now: Optional[float] = None) -> Sequence[str]:
        """See ``Store.add``."""
        specs = specs if hasattr(specs, "__len__") else list(specs)
        return self._add(specs, now, []) if specs else []

    def add_one(self, spec: JobSpec, now: Optional[float] = None) -> Job:
        """See ``Store.add_one``."""
        from queuectl.job import Job

        rows: List[Sequence[Any]] = []
        [job_id] = self._add([spec], now, rows)
        if rows:
            return Job._make(rows[0])
        try:
            job = self.get(job_id)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{job_id} is stored, but could not be read: {error}") from error
        if job is None:
            raise JobNotFound(job_id)
        return job

    def _add(self, specs: Specs, now: Optional[float], rows: List[Sequence[Any]]) -> Sequence[str]:
        """Add jobs; *rows* gets the row of a single one, unless there was more to it."""
        token = int.from_bytes(os.urandom(8), "big") >> 1
        ids: Sequence[str] = []
        self._in_doubt = False
        try:
            ids = self._add_as_fits(specs, token, now, rows)
            faults.point("added")
        except KeyboardInterrupt as error:
            ids = ids or (self._look_once(error, token, len(specs)) if self._in_doubt else ids)
            if not ids:
                raise
            raise Interrupted.behind(ids) from error
        return ids

    def _add_as_fits(self, specs: Specs, token: int, now: Optional[float], rows: List[Sequence[Any]]) -> Sequence[str]:
        ids: Optional[Sequence[str]] = None
        given = given_ids(specs)
        try:
            if len(specs) == 1 and not given and not any_after(specs):
                ids = self._add_plain(next(iter(specs)), token, now, rows)
            elif len(specs) > LARGE and not given:
                ids = self._add_large(specs, token, now)
            if ids is None:
                ids = self._add_batch(specs, token, now)
        except StoreUnavailable as error:
            self._note_taken(error)
            ids = self._add_batch(specs, token, now)
        return ids

    def _note_taken(self, error: StoreUnavailable) -> None:
        """Note the numbers that jobs bear and nobody noted, if *error* says that a new job was given one; else raise.

        Nobody noted them where ``enqueue()`` was called with ``standard_conforming_strings`` off: see migration 0006.
        """
        if getattr(error.__cause__, "sqlstate", None) != TAKEN:
            raise error

        def body(run: Run) -> None:
            run(_LOCK_NUMBERS)
            run(f"INSERT INTO queuectl.taken_numbers {UNNOTED}")
            run("UPDATE queuectl.numbers SET has_taken = true WHERE one")

        self._write(body)

    @property
    def channel(self) -> str:
        """The name under which idle workers listen."""
        return f"queuectl_{self.schema}"

    # -- one ----------------------------------------------------------------------------------

    def _add_plain(
        self, spec: JobSpec, token: int, now: Optional[float], rows: List[Sequence[Any]]
    ) -> Optional[List[str]]:
        """Add one job under a generated id in one statement, and its row to *rows*.

        Returns None if numbers were taken: then it is not so simple.
        """
        parameters = {**self.plain(spec, token), "now": now, "quiet_s": QUIET_S}
        faults.point("adding")
        self._in_doubt = True
        try:
            added = self._once(_ADD_PLAIN, parameters)
        except ConnectionLost as error:
            return self._find_out(error, token, 1)
        except KeyboardInterrupt:
            self._in_doubt = self._line is not None  # else it came while a connection was opened
            raise
        rows += [row[1:] for row in added]
        return [row[1] for row in rows] or None

    def plain(self, spec: JobSpec, token: int) -> Dict[str, Any]:
        """Return the parameters of ``ADD_DRAWN``."""
        return {
            "token": token, "queue": spec.queue, "priority": spec.priority, "run_at": spec.run_at,
            "delay_s": spec.delay_s, "command": spec.command, "cwd": spec.cwd, "env": to_json(spec.env),
            "tags": to_json(spec.tags), "timeout_s": spec.timeout_s, "backoff_base": spec.backoff_base,
            "max_retries": spec.max_retries, "channel": self.channel,
        }  # fmt: skip

    # -- many ---------------------------------------------------------------------------------

    def _add_batch(self, specs: Specs, token: int, now: Optional[float]) -> Sequence[str]:
        """Add jobs with given ids or more than one, holding the numbers to the commit."""
        return self._or_find_out(lambda run: self._batch(run, specs, token, now), specs, token)

    def _batch(self, run: Run, specs: Specs, token: int, now: Optional[float] = None) -> List[str]:
        """Add jobs in the transaction of *run*."""
        given = given_ids(specs)
        numbers = set(filter(None, map(generated_number, given)))
        fresh = len(specs) - len(given)
        drawn = run(_DRAW_OR_LOCK, {"count": 0 if numbers else fresh, "channel": self.channel})
        found = run("SELECT id FROM queuectl.jobs WHERE id = ANY(%s::text[])", (given,)) if given else ()
        spent = run(_TAKEN_OF, (list(numbers),)) if numbers else ()
        next_number, has_taken, clock_at, default, _ = drawn.fetchone()
        refuse_spent(given, {row[0] for row in found}, next_number, {row[0] for row in spent})

        def taken(first: int, last: int) -> List[int]:
            return [row[0] for row in run(_TAKEN_BETWEEN, (first, last))] if has_taken else []

        near = taken_near(taken, next_number, fresh, numbers)
        ids, after, ahead = number_jobs(specs, next_number, near)
        count_new(run, self._copy(run, specs, ids, token, clock_at if now is None else now, default))
        if has_taken or numbers:
            run("DELETE FROM queuectl.taken_numbers WHERE number < %s::bigint", (after,))
            run("INSERT INTO queuectl.taken_numbers SELECT unnest(%s::bigint[])", (sorted(ahead & numbers),))
            run(_SET_NUMBERS, (after,))
        faults.point("adding")
        return ids

    def add_within(self, connection: Any, specs: Specs) -> List[Job]:
        """See ``Store.add_within``."""
        from queuectl.db.postgres_within import add_within

        if self._alone.is_amid():
            raise QueueInUse
        return add_within(self, connection, specs)

    def _add_large(self, specs: Specs, token: int, now: Optional[float]) -> Optional[Sequence[str]]:
        """Add a large batch; None if numbers were taken."""

        def draw(run: Run) -> Any:
            return run(_DRAW_NUMBERS, {"count": len(specs)}).fetchone()

        try:
            drawn = self._write(draw)
        except ConnectionLost as error:
            self._not_stored(error, f"the {len(specs)} jobs were")
        if drawn is None:
            return None
        first, clock_at, default = drawn
        ids = numbered(first, len(specs))

        def body(run: Run) -> Sequence[str]:
            counts = self._copy(run, specs, ids, token, clock_at if now is None else now, default)
            # As every add does: locked to the commit (see _find_out), and before the counters.
            run(_DRAW_OR_LOCK, {"count": 0, "channel": self.channel})
            count_new(run, counts)
            faults.point("adding")
            return ids

        try:
            return self._or_find_out(body, specs, token)
        except BaseException:
            if not self._in_doubt:
                self._give_back(first, first + len(specs))
            raise

    def _give_back(self, first: int, after: int) -> None:
        """Undo the drawing of numbers if nobody has drawn since and nothing was stored."""
        try:
            self._write(lambda run: run(_RETURN_NUMBERS, {"first": first, "after": after, "id": "job%d" % first}))
        except StoreUnavailable:
            pass  # a gap is no harm

    def _copy(self, run: Run, specs: Specs, ids: Sequence[str], token: int, now: float, default: int) -> Dict[str, int]:
        """Write the rows of new jobs, and return how many there are for each queue."""
        counts: Dict[str, int] = {}
        if any_after(specs):
            from queuectl.db.postgres_needs import copy_with_needs

            copy_with_needs(run, COPY, specs, ids, copy_lines(specs, ids, token, now, default, counts))
        else:
            run.copy(COPY, blocks(copy_lines(specs, ids, token, now, default, counts)))
        return counts

    # -- answers that were lost ---------------------------------------------------------------

    def _or_find_out(self, body: Callable[[Run], Sequence[str]], specs: Specs, token: int) -> Sequence[str]:
        def all_but_the_commit(run: Run) -> Sequence[str]:
            self._in_doubt = False
            ids = body(run)
            self._in_doubt = True
            return ids

        try:
            return self._write(all_but_the_commit)
        except ConnectionLost as error:
            return self._find_out(error, token, len(specs))
        except Exception:  # the server has refused it
            self._in_doubt = False
            raise

    def _find_out(self, error: ConnectionLost, token: int, count: int) -> List[str]:
        """Learn whether an add whose answer was lost was done: never is it repeated on a guess.

        The numbers are locked for the look, so that an add that is still going on has ended before it.

        Raises:
            StoreUnavailable: It was not; or the server cannot be reached, and it is not known.
        """
        deadline_s = time.monotonic() + FIND_OUT_S
        self._in_doubt = True
        jobs = _jobs_were(count)
        while True:
            try:
                rows = self._stored(token)
                break
            except StoreUnavailable:
                if time.monotonic() > deadline_s:
                    self._unknown(error, jobs)
                time.sleep(0.05 + os.urandom(1)[0] / 1000)
        self._in_doubt = bool(rows)  # these ids have still to come back
        return rows or self._not_stored(error, jobs)

    def _look_once(self, interrupt: KeyboardInterrupt, token: int, count: int) -> List[str]:
        """Learn whether an add that *interrupt* has ended was done; not for long: somebody has lost patience."""
        # The driver has the server cancel a statement and hears its end: nothing goes on then, nobody is waited for.
        is_over = self._line is not None and self._line.pgconn.transaction_status == IDLE
        before, self._patience_s = self._patience_s, LOOK_S
        try:
            seen = self._rows(_STORED, {"token": token, "rows": FIND_OUT_ROWS})
            return [row[0] for row in seen] if seen or is_over else self._stored(token)
        except (StoreError, KeyboardInterrupt):
            raise Interrupted(f"It is not known whether {_jobs_were(count)} stored. {CHECK}") from interrupt
        finally:
            self._patience_s = before
            self._drop()  # on it, the server waits for locks no longer than this

    def _stored(self, token: int) -> List[str]:
        """Return the ids of the jobs that were added with *token*."""

        def look(run: Run) -> List[str]:
            run(_LOCK_NUMBERS).fetchone()
            return [row[0] for row in run(_STORED, {"token": token, "rows": FIND_OUT_ROWS})]

        return self._write(look)

    def _not_stored(self, error: ConnectionLost, jobs: str) -> NoReturn:
        raise StoreUnavailable(
            f"lost the connection to {self.location} ({error.why}); {jobs} not stored. Try again."
        ) from error

    def _unknown(self, error: ConnectionLost, jobs: str) -> NoReturn:
        raise NotKnown(
            f"lost the connection to {self.location} ({error.why}); it is not known whether {jobs} stored. {CHECK}"
        ) from error


def _jobs_were(count: int) -> str:
    return "the job was" if count == 1 else f"the {count} jobs were"


COPY = """
    COPY queuectl.jobs (id, queue, ready, run_at, priority, max_retries, command, cwd, env, tags, timeout_s,
                        backoff_base, created_at, updated_at, token)
    FROM STDIN
    """

_DEFAULT_RETRIES = f"coalesce((SELECT value::int FROM queuectl.settings WHERE key = 'max_retries'), {MAX_RETRIES})"

# The clock is read under the lock, so that jobs are due in the order in which they came, and that whoever has waited
# for the lock does not rely on what was announced before it waited.
_DRAWN = """
    WITH locked AS MATERIALIZED (
        SELECT announced_at FROM queuectl.numbers WHERE one AND NOT has_taken FOR UPDATE
    ), clock AS MATERIALIZED (
        SELECT announced_at, extract(epoch FROM clock_timestamp())::float8 AS now_at FROM locked
    ), drawn AS (
        UPDATE queuectl.numbers AS n
           SET next_number = n.next_number + 1,
               announced_at = CASE WHEN clock.now_at - clock.announced_at BETWEEN 0 AND %(quiet_s)s::float8
                                   THEN clock.announced_at ELSE clock.now_at END
          FROM clock
         WHERE n.one
        RETURNING n.next_number - 1 AS number, n.announced_at = clock.now_at AS announced,
                  coalesce(%(now)s::float8, clock.now_at) AS now
    )"""

# What follows the drawing of a number.
ADD_DRAWN = f""", named AS (
        INSERT INTO queuectl.queues (name) SELECT %(queue)s::text FROM drawn ON CONFLICT (name) DO NOTHING
    ), timed AS MATERIALIZED (
        SELECT number, now, announced,
               coalesce(now + %(delay_s)s::float8, %(run_at)s::float8, now) AS run_at
          FROM drawn
    ), added AS (
        INSERT INTO queuectl.jobs (id, queue, ready, run_at, priority, max_retries, command, cwd, env, tags, timeout_s,
                                   backoff_base, created_at, updated_at, token)
        SELECT 'job' || number, %(queue)s, CASE WHEN run_at <= now THEN 1 ELSE 2 END, run_at, %(priority)s::int,
               coalesce(%(max_retries)s::int, {_DEFAULT_RETRIES}), %(command)s, %(cwd)s, %(env)s, %(tags)s,
               %(timeout_s)s::float8, %(backoff_base)s::float8, now, now, %(token)s::bigint
          FROM timed
        RETURNING {JOB_COLUMNS}
    ), counted AS (
        UPDATE queuectl.counts AS c SET pending = c.pending + 1
          FROM drawn
         WHERE c.queue = %(queue)s AND c.shard = 0
        RETURNING 1
    ), first_counted AS (
        INSERT INTO queuectl.counts AS c (queue, shard, pending)
        SELECT %(queue)s, 0, 1 FROM drawn WHERE NOT EXISTS (SELECT 1 FROM counted)
        ON CONFLICT (queue, shard) DO UPDATE SET pending = c.pending + 1
    )
    SELECT CASE WHEN timed.announced THEN pg_notify(%(channel)s, '') END, added.*
      FROM added, timed
    """
_ADD_PLAIN = _DRAWN + ADD_DRAWN

_LOCK_NUMBERS = "SELECT 1 FROM queuectl.numbers WHERE one FOR UPDATE"

_TAKEN_OF = "SELECT number FROM queuectl.taken_numbers WHERE number = ANY(%s::bigint[])"
_TAKEN_BETWEEN = "SELECT number FROM queuectl.taken_numbers WHERE number BETWEEN %s::bigint AND %s::bigint"

_SET_NUMBERS = """
    UPDATE queuectl.numbers
       SET next_number = %s::bigint, has_taken = EXISTS (SELECT 1 FROM queuectl.taken_numbers)
     WHERE one
    """

# Locks the numbers to the commit; draws some if none were taken. The lock first, then the clock. By an update, as the
# next version of a row that was locked before it bears this lock too: see _ADD_PLAIN in postgres_within.py.
_DRAW_OR_LOCK = f"""
    WITH drawn AS (
        UPDATE queuectl.numbers
           SET next_number = next_number + CASE WHEN has_taken THEN 0 ELSE %(count)s::bigint END,
               announced_at = extract(epoch FROM clock_timestamp())
         WHERE one
        RETURNING next_number - CASE WHEN has_taken THEN 0 ELSE %(count)s::bigint END AS first, has_taken,
                  extract(epoch FROM clock_timestamp())::float8 AS now, {_DEFAULT_RETRIES} AS default_retries)
    SELECT first, has_taken, now, default_retries, pg_notify(%(channel)s, '') FROM drawn
    """

_DRAW_NUMBERS = f"""
    UPDATE queuectl.numbers
       SET next_number = next_number + %(count)s::bigint
     WHERE one AND NOT has_taken
    RETURNING next_number - %(count)s::bigint, extract(epoch FROM clock_timestamp())::float8, {_DEFAULT_RETRIES}
    """

_RETURN_NUMBERS = """
    UPDATE queuectl.numbers
       SET next_number = %(first)s::bigint
     WHERE one AND next_number = %(after)s::bigint AND NOT EXISTS (SELECT 1 FROM queuectl.jobs WHERE id = %(id)s)
    """

_STORED = """
    SELECT id
      FROM queuectl.jobs
     WHERE token = %(token)s::bigint AND seq > (SELECT coalesce(max(seq), 0) FROM queuectl.jobs) - %(rows)s::bigint
     ORDER BY seq
    """

# Numbers that are to be given to new jobs although a job bears them and nobody noted it.
UNNOTED = """
    SELECT number
      FROM (SELECT CASE WHEN id ~ '^job[1-9][0-9]{0,17}$' THEN substr(id, 4)::bigint END AS number
              FROM queuectl.jobs WHERE id >= 'job1' AND id < 'jok') AS j
     WHERE number >= (SELECT next_number FROM queuectl.numbers WHERE one)
       AND NOT EXISTS (SELECT 1 FROM queuectl.taken_numbers AS t WHERE t.number = j.number)
     ORDER BY number
    """

# Wakes idle workers after the commit; for the rare changes that make work ready without adding any.
NOTIFY = "SELECT pg_notify(%(channel)s, '')"
