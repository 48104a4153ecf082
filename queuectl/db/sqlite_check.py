"""What ``doctor`` looks for in a SQLite store."""

from __future__ import annotations

from queuectl.db.migrate import upgrade_sqlite
from queuectl.db.problems import foreign_migrations, held_for_nothing, stray_runs, unknown_owners, wrong_counters
from queuectl.db.rules import COUNTED
from queuectl.job import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

    from queuectl.db.sqlite_file import SqliteFile


def check(file: SqliteFile) -> List[Problem]:
    """Return what is wrong with *file*; an empty list if nothing is."""
    problems: List[Problem] = []
    for (text,) in file._rows("PRAGMA integrity_check"):
        if text != "ok":
            problems.append(Problem(f"the database is damaged: {text}", "Stop the workers and restore a backup."))
    if problems:
        return problems
    return _missing(file) + _migrations(file) + _counters(file) + _runs(file) + _held(file)


def _missing(file: SqliteFile) -> List[Problem]:
    """Compare the tables and indexes that are there with those of a new store."""
    import contextlib
    import sqlite3

    listed = "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite%' ORDER BY type, name"
    there = set(file._rows(listed))
    with contextlib.closing(sqlite3.connect(":memory:")) as new:
        upgrade_sqlite(new, 0.0)
        wanted = new.execute(listed).fetchall()
    return [
        Problem(f"the {kind} {name} is missing", "Stop the workers and restore a backup.")
        for kind, name in wanted
        if (kind, name) not in there
    ]


def _migrations(file: SqliteFile) -> List[Problem]:
    return foreign_migrations("sqlite", dict(file._rows("SELECT n, checksum FROM schema_version")))


def _counters(file: SqliteFile) -> List[Problem]:
    """Compare the counters with the rows, in one reading transaction so that both are of one moment."""
    wrong = file._rows(
        f"""
        WITH counted AS (
            SELECT queue, {", ".join(f"sum(state = '{state}') AS {state}" for state in COUNTED)}
              FROM jobs GROUP BY queue)
        SELECT name FROM queues LEFT JOIN counted ON queue = name
         WHERE {" OR ".join(f"queues.{state} <> coalesce(counted.{state}, 0)" for state in COUNTED)}
        UNION
        SELECT queue FROM counted WHERE queue NOT IN (SELECT name FROM queues)
        """
    )
    return wrong_counters(name for (name,) in wrong)


def _held(file: SqliteFile) -> List[Problem]:
    return held_for_nothing(
        job_id
        for (job_id,) in file._rows(
            """
            SELECT id FROM jobs
             WHERE not_before IS NOT NULL AND ready = 2 AND NOT EXISTS (SELECT 1 FROM needs WHERE needs.seq = jobs.seq)
             LIMIT 20
            """
        )
    )


def _runs(file: SqliteFile) -> List[Problem]:
    stray = file._rows(
        """
        SELECT count(*) FROM runs
         WHERE state = 'running'
           AND NOT EXISTS (SELECT 1 FROM jobs WHERE worker_id IS NOT NULL AND last_run_id = runs.run_id)
        """
    )[0][0]
    owners = file._rows(
        """
        SELECT DISTINCT worker_id FROM jobs
         WHERE worker_id IS NOT NULL AND worker_id NOT IN (SELECT id FROM workers)
        """
    )
    return stray_runs(stray) + unknown_owners(worker_id for (worker_id,) in owners)
