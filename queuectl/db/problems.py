"""The problems that ``doctor`` may find in a store of any engine, in words."""

from __future__ import annotations

from queuectl.db.migrate import checksum, migrations
from queuectl.job import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, List, Mapping

REPORT = "Please report this as a bug."


def foreign_migrations(engine: str, applied: Mapping[int, str]) -> List[Problem]:
    """Return the migrations of *engine* that a store lacks or had in another form.

    *applied* has the checksums of those it had, by number.
    """
    return [
        Problem(
            f"migration {migration.name} is not the one that made this store",
            "Install the release that wrote it, or a newer one.",
        )
        for migration in migrations(engine)
        if applied.get(migration.number) != checksum(migration.sql)
    ]


def wrong_counters(queues: Iterable[str]) -> List[Problem]:
    """Return a problem for each of *queues*, whose counters do not match the rows of ``jobs``."""
    return [Problem(f"the counters of queue {name} do not match its jobs", REPORT) for name in queues]


def stray_runs(count: int) -> List[Problem]:
    """Return the problem that *count* runs are open although no job is processing under them; nothing if 0."""
    return [Problem(f"{count} runs are open without a job", REPORT)] if count else []


def held_for_nothing(job_ids: Iterable[str]) -> List[Problem]:
    """Return a problem for each of *job_ids*, which are held although nothing is left that they need."""
    return [
        Problem(f"{job_id} is held for other jobs, but none is left", f"Let it go: queuectl edit {job_id} after=none")
        for job_id in job_ids
    ]


def unknown_owners(worker_ids: Iterable[str]) -> List[Problem]:
    """Return a problem for each of *worker_ids*, which own jobs and are not registered."""
    return [
        Problem(
            f"jobs are processing under worker {worker_id}, which does not exist",
            "'queuectl worker start' recovers them within seconds.",
        )
        for worker_id in worker_ids
    ]
