"""Claim and finish of jobs that do nothing, 8 clients, beside procrastinate and pgqueuer in the same run.

``python3 -m bench.peers [--seconds N] [--pending N] [--rounds N]``, in an environment that has psycopg, the server's
programs, ``procrastinate`` and ``pgqueuer`` (with asyncpg): their own calls, as their workers make them; no command
is run. All keep each end; each table holds as many pending jobs. Beside them the least SQL that does it
(``bench.bare``). The figures go into the part ``postgres``.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from datetime import timedelta
from typing import Any, Callable, Dict, List
from uuid import uuid4

from bench.bare import make_bare, work_bare
from bench.measure import keep, machine, median
from bench.postgres_store import SETTINGS, adding, crowd, filled, turns, woken
from bench.report import write
from queuectl.ahead import MOST
from tests.postgres_server import PostgresServer, fresh_schema

CLIENTS = 8
ROW = 1 + MOST  # what queuectl's worker takes at a time in a row of short commands
BATCH = 10  # what pgqueuer's worker takes at a time unless it is told otherwise; procrastinate's takes one
HEARTBEAT = timedelta(minutes=5)


# -- procrastinate ----------------------------------------------------------------------------


def procrastinate_app(server: PostgresServer) -> Any:
    """Return an app whose pool is one connection."""
    from procrastinate import App, PsycopgConnector

    return App(connector=PsycopgConnector(conninfo=plain(server), min_size=1, max_size=1))


async def make_procrastinate(server: PostgresServer, pending: int) -> None:
    """Make its tables and fill them."""
    app = procrastinate_app(server)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
    # Without its triggers, which note each job and notify: they are not what is measured.
    server.execute(
        "SET session_replication_role = replica; INSERT INTO procrastinate_jobs (queue_name, task_name, args) "
        f"SELECT 'default', 'noop', '{{}}' FROM generate_series(1, {pending})"
    )
    server.execute("VACUUM ANALYZE procrastinate_jobs")


async def work_procrastinate(server: PostgresServer, until: float) -> int:
    """Fetch and finish one job after the other, as its worker does."""
    from procrastinate.jobs import Status

    app = procrastinate_app(server)
    done = 0
    async with app.open_async():
        worker = await app.job_manager.register_worker()
        while time.time() < until:
            job = await app.job_manager.fetch_job(queues=None, worker_id=worker)
            if job is None:
                break
            await app.job_manager.finish_job(job=job, status=Status.SUCCEEDED, delete_job=False)
            done += 1
    return done


# -- pgqueuer ---------------------------------------------------------------------------------


async def pgqueuer_queries(server: PostgresServer) -> Any:
    """Return its queries on a connection of asyncpg, the driver that it recommends."""
    import asyncpg
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries

    return Queries(AsyncpgDriver(await asyncpg.connect(plain(server))))


async def make_pgqueuer(server: PostgresServer, pending: int) -> None:
    """Make its tables and fill them."""
    queries = await pgqueuer_queries(server)
    await queries.install()
    for first in range(0, pending, 50_000):
        count = min(50_000, pending - first)
        await queries.enqueue(["noop"] * count, [None] * count, [0] * count)
    await queries.driver._connection.close()
    server.execute("VACUUM ANALYZE pgqueuer")


def work_pgqueuer(batch: int) -> Callable[[PostgresServer, float], Any]:
    """Return a client that dequeues and logs *batch* jobs at a time."""

    async def work(server: PostgresServer, until: float) -> int:
        from pgqueuer.queries import EntrypointExecutionParameter

        queries = await pgqueuer_queries(server)
        entrypoints = {"noop": EntrypointExecutionParameter(0)}
        me, done = uuid4(), 0
        while time.time() < until:
            jobs = await queries.dequeue(batch, entrypoints, me, None, HEARTBEAT)
            if not jobs:
                break
            await queries.log_jobs([(job, "successful", None) for job in jobs])
            done += len(jobs)
        await queries.driver._connection.close()
        return done

    return work


# -- measuring --------------------------------------------------------------------------------


def plain(server: PostgresServer) -> str:
    """Return the URL without our own part."""
    return server.url().partition("?")[0]


def one_client(work: Callable[..., Any], server: PostgresServer, until: float, out: Any) -> None:
    """Be one client process."""
    out.put(asyncio.run(work(server, until)))


def rate(work: Callable[..., Any], server: PostgresServer, seconds: float) -> float:
    """Return the jobs a second of *CLIENTS* processes together."""
    out: Any = multiprocessing.Queue()
    until = time.time() + seconds + 1.0
    started = time.time() + 1.0
    processes = [multiprocessing.Process(target=one_client, args=(work, server, until, out)) for _ in range(CLIENTS)]
    for process in processes:
        process.start()
    done = sum(out.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return done / (until - started)


def compare(server: PostgresServer, given: argparse.Namespace) -> Dict[str, Any]:
    """Return ratios of the rates of one round after the other, and our own from little to much."""
    asyncio.run(make_procrastinate(server, given.pending))
    asyncio.run(make_pgqueuer(server, given.pending))
    figures: Dict[str, List[float]] = {}

    def note(name: str, figure: float) -> None:
        figures.setdefault(name, []).append(figure)
        print(f"{name}: {figure:.0f} jobs/s", flush=True)

    with fresh_schema(server) as few, fresh_schema(server) as many, fresh_schema(server) as old:
        filled(few, 1000, 0, server)
        filled(many, given.pending, 0, server)
        filled(old, given.pending, given.pending, server)
        for _ in range(given.rounds):
            for name, url, batch in (
                ("1k pending", few, 1), ("pending", many, 1), ("finished", old, 1), ("batches", many, BATCH),
                ("row", many, ROW),
            ):  # fmt: skip
                row = crowd(turns, url, CLIENTS, batch, given.seconds, 1000 if url == few else None)
                note(name, row["jobs/s"])
                note(name + ", server us", row["server CPU us/job"])
            note("procrastinate", rate(work_procrastinate, server, given.seconds))
            note("pgqueuer", rate(work_pgqueuer(1), server, given.seconds))
            note("pgqueuer in batches", rate(work_pgqueuer(BATCH), server, given.seconds))
            for name, batch in (("bare", 1), ("bare in batches", BATCH), ("bare row", ROW)):
                make_bare(server, given.pending)
                note(name, rate(work_bare(batch), server, given.seconds))
    return ratios(figures, given)


def ratios(figures: Dict[str, List[float]], given: argparse.Namespace) -> Dict[str, Any]:
    """Return the medians of the rounds' ratios."""

    def over(above: str, below: str) -> float:
        return round(median([a / b for a, b in zip(figures[above], figures[below])]), 2)

    size = f"{given.pending:,}"
    return {
        f"claim and finish, one at a time, {size} pending / procrastinate": over("pending", "procrastinate"),
        f"claim and finish, one at a time, {size} pending / pgqueuer": over("pending", "pgqueuer"),
        f"claim and finish, {BATCH} at a time, {size} pending / procrastinate (one at a time)": over(
            "batches", "procrastinate"
        ),
        f"claim and finish, {BATCH} at a time, {size} pending / pgqueuer, {BATCH} at a time": over(
            "batches", "pgqueuer in batches"
        ),
        f"claim and finish as workers do, {ROW} at a time, {size} pending / procrastinate (one at a time)": over(
            "row", "procrastinate"
        ),
        f"claim and finish as workers do, {ROW} at a time, {size} pending / pgqueuer, {BATCH} at a time": over(
            "row", "pgqueuer in batches"
        ),
        "claim and finish, one at a time / the least SQL": over("pending", "bare"),
        f"claim and finish, {BATCH} at a time / the least SQL": over("batches", "bare in batches"),
        f"claim and finish as workers do, {ROW} at a time / the least SQL": over("row", "bare row"),
        "the least SQL, one at a time / pgqueuer": over("bare", "pgqueuer"),
        f"the least SQL, {BATCH} at a time / pgqueuer, {BATCH} at a time": over(
            "bare in batches", "pgqueuer in batches"
        ),
        f"rate, {size} pending / 1,000 pending": over("pending", "1k pending"),
        f"rate, {size} pending and {size} finished / 1,000 pending": over("finished", "1k pending"),
        f"server CPU a job, {size} pending / 1,000 pending": over("pending, server us", "1k pending, server us"),
        f"server CPU a job, {size} pending and {size} finished / 1,000 pending": over(
            "finished, server us", "1k pending, server us"
        ),
        "jobs a second, one at a time": round(median(figures["pending"])),
        f"jobs a second, {BATCH} at a time": round(median(figures["batches"])),
    }


def main() -> None:
    """Measure, keep, write."""
    parser = argparse.ArgumentParser(prog="python3 -m bench.peers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--pending", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    server = PostgresServer(SETTINGS)
    try:
        rows = compare(server, given)
        bulk = adding(server)
        rows["bulk enqueue / raw COPY of the same lines"] = bulk["share"]
        rows["from enqueue to claimed by a client that slept, median ms"] = woken(server)["median ms"]
    finally:
        server.close()
    keep("postgres", rows)
    write()
    print(machine())


if __name__ == "__main__":
    main()
