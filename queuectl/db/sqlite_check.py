"""What ``doctor`` looks for in a SQLite store."""

from __future__ import annotations

from queuectl.db.migrate import checksum, migrations, upgrade_sqlite
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
    return _schema(file) + _counters(file) + _runs(file)


def _schema(file: SqliteFile) -> List[Problem]:
    return _missing(file) + _foreign_migrations(file)


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


def _foreign_migrations(file: SqliteFile) -> List[Problem]:
    applied = dict(file._rows("SELECT n, checksum FROM schema_version"))
    return [
        Problem(
            f"migration {migration.name} is not the one that made this store",
            "Install the release that wrote it, or a newer one.",
        )
        for migration in migrations("sqlite")
        if applied.get(migration.number) != checksum(migration.sql)
    ]


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
    return [
        Problem(f"the counters of queue {name} do not match its jobs", "Please report this as a bug.")
        for (name,) in wrong
    ]


def _runs(file: SqliteFile) -> List[Problem]:
    problems = []
    stray = file._rows(
        """
        SELECT count(*) FROM runs
         WHERE state = 'running'
           AND NOT EXISTS (SELECT 1 FROM jobs WHERE worker_id IS NOT NULL AND last_run_id = runs.run_id)
        """
    )[0][0]
    if stray:
        problems.append(Problem(f"{stray} runs are open without a job", "Please report this as a bug."))
    for (worker_id,) in file._rows(
        """
        SELECT DISTINCT worker_id FROM jobs
         WHERE worker_id IS NOT NULL AND worker_id NOT IN (SELECT id FROM workers)
        """
    ):
        problems.append(
            Problem(
                f"jobs are processing under worker {worker_id}, which does not exist",
                "'queuectl worker start' recovers them within seconds.",
            )
        )
    return problems
