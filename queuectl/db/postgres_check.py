"""What ``doctor`` looks for in a PostgreSQL store."""

from __future__ import annotations

from queuectl.db.postgres_add import UNNOTED
from queuectl.db.problems import foreign_migrations, held_for_nothing, stray_runs, unknown_owners, wrong_counters
from queuectl.db.rules import COUNTED
from queuectl.job import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional

    from queuectl.db.postgres_link import PostgresLink
    from queuectl.db.postgres_run import Run

# Indexes without which claims and listings read whole tables.
INDEXES = (
    "jobs_pkey", "jobs_id_key", "jobs_ready", "jobs_waiting", "jobs_listed", "jobs_owned", "jobs_ended", "needs_pkey",
    "needs_of", "runs_pkey",
)  # fmt: skip
# Without which jobs that wait for others are never let go.
TRIGGERS = ("needs_met", "need_noted", "waiter_gone")
# A transaction that is open so long keeps all dead rows: claims get slower and slower.
LONG_S = 600.0
# So many numbers are named at once.
MOST_NUMBERS = 20


def check(store: PostgresLink) -> List[Problem]:
    """Return what is wrong with *store*; an empty list if nothing is."""

    def body(run: Run) -> List[Problem]:
        # Counting everything is the one thing for which reading whole tables is right.
        for method in ("seqscan", "bitmapscan", "hashjoin", "mergejoin"):
            run(f"SET LOCAL enable_{method} = on")
        problems: List[Problem] = []
        for look in _LOOKS:
            problems += look(run, store)
        return problems

    return store._write(body)


def read_only(store: PostgresLink) -> Optional[Problem]:
    """See ``Store.read_only``."""
    standby, session = store._rows("SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'")[0]
    what = f"you may only read {store.location}, so you cannot enqueue or run jobs"
    if standby:
        return Problem(
            f"{what} (the server is a standby)",
            "Give the primary's host, or all hosts with ?target_session_attrs=read-write.",
        )
    if session:
        return Problem(
            f"{what} (default_transaction_read_only is on)",
            "Set it to off for this role, database or server, or use another role.",
        )
    return None


def _migrations(run: Run, _: PostgresLink) -> List[Problem]:
    return foreign_migrations("postgres", dict(run("SELECT n, checksum FROM queuectl.schema_version").fetchall()))


def _indexes(run: Run, store: PostgresLink) -> List[Problem]:
    sound = {row[0] for row in run(_SOUND_INDEXES, {"schema": store.schema})}
    return [
        Problem(
            f"the index {name} is missing or incomplete",
            "Create it as in the migrations' SQL; until then claims and listings read whole tables.",
        )
        for name in INDEXES
        if name not in sound
    ]


def _triggers(run: Run, store: PostgresLink) -> List[Problem]:
    there = {row[0] for row in run(_ENABLED_TRIGGERS, {"schema": store.schema})}
    return [
        Problem(
            f"the trigger {name} is missing or disabled",
            "Create it as in the migrations' SQL, or enable it; until then held jobs may stay so for ever.",
        )
        for name in TRIGGERS
        if name not in there
    ]


def _held(run: Run, _: PostgresLink) -> List[Problem]:
    return held_for_nothing(job_id for (job_id,) in run(_HELD_FOR_NOTHING))


def _counters(run: Run, _: PostgresLink) -> List[Problem]:
    return wrong_counters(name for (name,) in run(_WRONG_COUNTERS))


def _numbers(run: Run, store: PostgresLink) -> List[Problem]:
    numbers = [row[0] for row in run(UNNOTED + "LIMIT %s", (MOST_NUMBERS,))]
    if not numbers:
        return []
    names = ", ".join("job%d" % number for number in numbers)
    values = ", ".join("(%d)" % number for number in numbers)
    note = store.text(
        f"INSERT INTO queuectl.taken_numbers VALUES {values}; UPDATE queuectl.numbers SET has_taken = true"
    )
    return [
        Problem(
            f"ids that are in use may be given to new jobs: {names}",
            f"Mark them as taken, as the store's owner: {note}",
        )
    ]


def _runs(run: Run, _: PostgresLink) -> List[Problem]:
    stray = run(_STRAY_RUNS).fetchone()[0]
    return stray_runs(stray) + unknown_owners(worker_id for (worker_id,) in run(_UNKNOWN_OWNERS))


def _open_to_all(run: Run, store: PostgresLink) -> List[Problem]:
    """Notice a store that was restored without its rights: with none noted, everybody may call a function."""
    if not run(_MAY_ALL_ENQUEUE).fetchone()[0]:
        return []
    name = store.text("queuectl.enqueue(text, jsonb)")
    return [
        Problem(
            f"any role that may use the schema {store.schema} may call {name}, and so run commands as the workers",
            f"Forbid it, as the store's owner: REVOKE EXECUTE ON FUNCTION {name} FROM PUBLIC",
        )
    ]


def _old_transactions(run: Run, _: PostgresLink) -> List[Problem]:
    """Name the oldest open transaction that keeps dead rows, among those that this role may see."""
    row = run(_OLDEST_TRANSACTION, {"long": LONG_S}).fetchone()
    if row is None:
        return []
    pid, name, age_s = row
    return [
        Problem(
            f"a transaction of {name or 'an unnamed program'} (server process {pid}) has been open for {age_s:.0f} s; "
            "until it ends, PostgreSQL cannot clean up after the jobs",
            f"End it: SELECT pg_terminate_backend({pid})",
        )
    ]


_LOOKS: List[Callable[[Any, Any], List[Problem]]] = [
    _migrations, _indexes, _triggers, _counters, _numbers, _runs, _held, _open_to_all, _old_transactions,
]  # fmt: skip

_SOUND_INDEXES = """
    SELECT c.relname
      FROM pg_index AS i
      JOIN pg_class AS c ON c.oid = i.indexrelid
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = %(schema)s AND i.indisvalid AND i.indisready
    """

_ENABLED_TRIGGERS = """
    SELECT t.tgname
      FROM pg_trigger AS t
      JOIN pg_class AS c ON c.oid = t.tgrelid
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = %(schema)s AND t.tgenabled IN ('O', 'A')
    """

_HELD_FOR_NOTHING = """
    SELECT id FROM queuectl.jobs AS j
     WHERE not_before IS NOT NULL AND ready = 2 AND NOT EXISTS (SELECT 1 FROM queuectl.needs AS n WHERE n.seq = j.seq)
     LIMIT 20
    """

_WRONG_COUNTERS = f"""
    WITH told AS (
        SELECT queue, {", ".join(f"sum({state}) AS {state}" for state in COUNTED)}
          FROM queuectl.counts GROUP BY queue
    ), counted AS (
        SELECT queue, {", ".join(f"count(*) FILTER (WHERE state = '{state}') AS {state}" for state in COUNTED)}
          FROM queuectl.jobs GROUP BY queue)
    SELECT coalesce(told.queue, counted.queue)
      FROM told FULL JOIN counted ON told.queue = counted.queue
     WHERE {" OR ".join(f"coalesce(told.{state}, 0) <> coalesce(counted.{state}, 0)" for state in COUNTED)}
    UNION
    SELECT queue FROM counted WHERE queue NOT IN (SELECT name FROM queuectl.queues)
     ORDER BY 1
    """

_STRAY_RUNS = """
    SELECT count(*)
      FROM queuectl.runs AS r
     WHERE state = 'running'
       AND NOT EXISTS (SELECT 1 FROM queuectl.jobs AS j WHERE j.worker_id IS NOT NULL AND j.last_run_id = r.run_id)
    """

_UNKNOWN_OWNERS = """
    SELECT DISTINCT worker_id
      FROM queuectl.jobs AS j
     WHERE worker_id IS NOT NULL
       AND NOT EXISTS (SELECT 1 FROM queuectl.workers AS w WHERE w.id = j.worker_id)
     ORDER BY 1
    """

_MAY_ALL_ENQUEUE = """
    SELECT has_function_privilege('public', to_regprocedure('queuectl.enqueue(text, jsonb)'), 'EXECUTE')
    """

_OLDEST_TRANSACTION = """
    SELECT pid, application_name, extract(epoch FROM clock_timestamp() - xact_start)::float8
      FROM pg_stat_activity
     WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
       AND backend_type = 'client backend' AND datname = current_database()
       AND xact_start < clock_timestamp() - %(long)s::float8 * interval '1 second'
     ORDER BY xact_start
     LIMIT 1
    """
