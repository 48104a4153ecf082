"""The other end of ``library_peers``: what a user of Huey, RQ, Celery, procrastinate, pgqueuer or queuectl would write.

``NAME fill URL JOBS`` hands the jobs in, ``NAME work URL SLOTS`` is the worker. A job is ``sh -c true`` as a
subprocess; one that does not end well raises, so that the library knows.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Tuple

COMMAND = ["/bin/sh", "-c", "true"]


def run_command() -> bool:
    """Be the job."""
    subprocess.run(COMMAND, check=True)
    return True


# -- Huey -------------------------------------------------------------------------------------


def huey_and_task(path: str) -> Tuple[Any, Any]:
    """Return the queue in the SQLite file and its task."""
    from huey import SqliteHuey

    huey = SqliteHuey(filename=path, fsync=True)
    return huey, huey.task()(run_command)


def fill_huey(path: str, jobs: int) -> None:
    _, task = huey_and_task(path)
    for _ in range(jobs):
        task()


def work_huey(path: str, slots: int) -> None:
    huey, _ = huey_and_task(path)
    huey.create_consumer(workers=slots, worker_type="process", initial_delay=0.01, periodic=False).run()


# -- RQ: its worker is ``rq worker``, one process per slot -------------------------------------


def fill_rq(url: str, jobs: int) -> None:
    from redis import Redis
    from rq import Queue

    queue = Queue(connection=Redis.from_url(url))
    queue.enqueue_many([Queue.prepare_data(run_command) for _ in range(jobs)])


# -- Celery -----------------------------------------------------------------------------------


def celery_app(url: str) -> Tuple[Any, Any]:
    """Return an app that keeps results and takes a job off the queue when it has ended, and its task."""
    from celery import Celery

    app = Celery("bench", broker=f"redis+socket://{url[7:]}", backend=f"redis+socket://{url[7:]}")
    app.conf.update(task_acks_late=True, broker_connection_retry_on_startup=True)
    return app, app.task(name="run_command")(run_command)


def fill_celery(url: str, jobs: int) -> None:
    _, task = celery_app(url)
    for _ in range(jobs):
        task.apply_async()


def work_celery(url: str, slots: int) -> None:
    app, _ = celery_app(url)
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR"]
    app.worker_main(["worker", "--pool=prefork", f"--concurrency={slots}", *quiet])


# -- procrastinate ----------------------------------------------------------------------------


def procrastinate_app(url: str) -> Tuple[Any, Any]:
    """Return an app and its task, which procrastinate runs in a thread."""
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=url))
    return app, app.task(name="run_command")(run_command)


async def _fill_procrastinate(url: str, jobs: int) -> None:
    app, task = procrastinate_app(url)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await task.batch_defer_async(*[{}] * jobs)


def fill_procrastinate(url: str, jobs: int) -> None:
    asyncio.run(_fill_procrastinate(url, jobs))


def work_procrastinate(url: str, slots: int) -> None:
    app, _ = procrastinate_app(url)
    app.run_worker(concurrency=slots)


# -- pgqueuer ---------------------------------------------------------------------------------


async def _fill_pgqueuer(url: str, jobs: int) -> None:
    import asyncpg
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries

    connection = await asyncpg.connect(url)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await queries.enqueue(["run_command"] * jobs, [None] * jobs, [0] * jobs)
    await connection.close()


async def _work_pgqueuer(url: str, slots: int) -> None:
    import asyncpg
    from pgqueuer import PgQueuer

    worker = PgQueuer.from_asyncpg_connection(await asyncpg.connect(url))
    threads = ThreadPoolExecutor(slots)  # it picks ten jobs at a time, of which as many run as there are slots

    @worker.entrypoint("run_command")
    async def entry(_job: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(threads, run_command)

    await worker.run()


def fill_pgqueuer(url: str, jobs: int) -> None:
    asyncio.run(_fill_pgqueuer(url, jobs))


def work_pgqueuer(url: str, slots: int) -> None:
    asyncio.run(_work_pgqueuer(url, slots))


# -- queuectl, on the same server -------------------------------------------------------------


def fill_queuectl(url: str, jobs: int) -> None:
    from queuectl import Queue

    with Queue(url) as queue:
        queue.enqueue_many([{"command": "true"}] * jobs)


def work_queuectl(url: str, slots: int) -> None:
    workers = min(slots, os.cpu_count() or 1)
    words = ["worker", "start", "--count", str(workers), "--concurrency", str(slots // workers)]
    os.environ["QUEUECTL_DB"] = url
    os.execv(sys.executable, [sys.executable, "-m", "queuectl", *words])


CALLS: Dict[Tuple[str, str], Callable[[str, int], None]] = {
    ("huey", "fill"): fill_huey,
    ("huey", "work"): work_huey,
    ("rq", "fill"): fill_rq,
    ("celery", "fill"): fill_celery,
    ("celery", "work"): work_celery,
    ("procrastinate", "fill"): fill_procrastinate,
    ("procrastinate", "work"): work_procrastinate,
    ("pgqueuer", "fill"): fill_pgqueuer,
    ("pgqueuer", "work"): work_pgqueuer,
    ("queuectl", "fill"): fill_queuectl,
    ("queuectl", "work"): work_queuectl,
}


def main() -> None:
    """Do what the command line says."""
    name, call, url, number = sys.argv[1:]
    CALLS[name, call](url, int(number))
