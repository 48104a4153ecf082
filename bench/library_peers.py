"""The libraries beside queuectl: Huey on SQLite, RQ and Celery on Redis, procrastinate and pgqueuer on PostgreSQL.

And queuectl itself on that server. Each is measured from the end of the first job to that of the last, as its store
tells it: start-up is left out, which for few jobs would weigh heavily. The servers are started here, in folders of
their own, and sync what they are told before they answer: Redis with ``appendfsync always``, PostgreSQL with ``fsync``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import count
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from bench.peer import Peer, folder, must, running, until, version

WORKERS = [sys.executable, "-c", "from bench.peer_workers import main; main()"]
REDIS = ["redis-server", "--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
LOOK_S = 0.02  # between two looks at what is done, which cost the peer something
DONE_BY_PROCRASTINATE = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
DONE_BY_QUEUECTL = "SELECT coalesce(sum(completed), 0) FROM queuectl.counts"
DONE_BY_PGQUEUER = "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'"
_numbers = count(1)


def fill(name: str, url: str, jobs: int) -> None:
    """Hand in the jobs, by the library's own calls."""
    subprocess.run([*WORKERS, name, "fill", url, str(jobs)], check=True)


def drain(workers: Sequence[Sequence[str]], done: Callable[[], int], jobs: int) -> float:
    """Return how long *workers* take for that many jobs, by the time from the first that is *done* to the last."""
    with running(*workers) as processes:
        begin = time.perf_counter()
        until(lambda: done() > 0, processes, LOOK_S)
        first = done()
        if first < jobs:  # otherwise they are too few to see the first end: with start-up, then
            begin = time.perf_counter()
            until(lambda: done() >= jobs, processes, LOOK_S)
        took_s = time.perf_counter() - begin
        return took_s * jobs / (jobs - first) if first < jobs else took_s


# -- SQLite -----------------------------------------------------------------------------------


def huey(jobs: int, slots: int) -> float:
    """Return how long Huey's consumer takes; a pickled True says that a command ended well."""
    from huey import SqliteHuey

    with folder() as home:
        path = str(home / "huey.db")
        fill("huey", path, jobs)
        store = SqliteHuey(filename=path).storage
        took_s = drain([[*WORKERS, "huey", "work", path, str(slots)]], store.result_store_size, jobs)
        must(sum(b"\x88" in bytes(value) for value in store.result_items().values()), jobs)
        store.close()
        return took_s


# -- Redis ------------------------------------------------------------------------------------


@contextmanager
def redis_server() -> Iterator[Tuple[str, Any]]:
    """Give the URL of a server of its own on a socket, and a client."""
    from redis import Redis
    from redis.exceptions import ConnectionError as NotThereError

    with folder() as home:
        path = str(home / "redis")
        client = Redis(unix_socket_path=path)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except NotThereError:
                return False

        with running([*REDIS, "--unixsocket", path, "--dir", str(home)]) as server:
            until(answers, server)
            yield f"unix://{path}", client
            client.close()


def rq(jobs: int, slots: int) -> float:
    """Return how long as many ``rq worker`` as slots take; what failed is not in the registry of finished jobs."""
    with redis_server() as (url, client):
        fill("rq", url, jobs)
        worker = [sys.executable, "-m", "rq.cli", "worker", "--quiet", "--url", url]
        took_s = drain([worker] * slots, lambda: int(client.zcard("rq:finished:default")), jobs)
        must(int(client.zcard("rq:finished:default")), jobs)
        return took_s


def celery(jobs: int, slots: int) -> float:
    """Return how long Celery's worker with as many processes as slots takes; it keeps a result per job."""
    with redis_server() as (url, client):
        fill("celery", url, jobs)

        def results() -> List[bytes]:
            return list(client.scan_iter("celery-task-meta-*", count=10_000))

        took_s = drain([[*WORKERS, "celery", "work", url, str(slots)]], lambda: len(results()), jobs)
        must(sum(b'"status": "SUCCESS"' in value for value in client.mget(results())), jobs)
        return took_s


# -- PostgreSQL -------------------------------------------------------------------------------


def on_postgres(server: Any, name: str, question: str) -> Callable[[int, int], float]:
    """Return what times a library in a database of its own; *question* asks how many jobs ended well."""

    def work(jobs: int, slots: int) -> float:
        import psycopg

        database = f"{name}{next(_numbers)}"
        server.execute(f"CREATE DATABASE {database}")
        url = f"postgresql://postgres@127.0.0.1:{server.port}/{database}"
        try:
            with folder(), psycopg.connect(url, autocommit=True) as line:
                fill(name, url, jobs)
                line.execute("ANALYZE")

                def done() -> int:
                    return int(line.execute(question).fetchone()[0])  # type: ignore[index]

                took_s = drain([[*WORKERS, name, "work", url, str(slots)]], done, jobs)
                must(done(), jobs)
                return took_s
        finally:
            server.execute(f"DROP DATABASE {database} WITH (FORCE)")

    return work


def _server(stack: ExitStack) -> Tuple[Optional[Any], str]:
    """Return a PostgreSQL server that ends with *stack*, or None and what is missing."""
    from bench.postgres_store import SETTINGS
    from tests.postgres_server import PostgresServer, why_not

    reason = why_not()
    if reason:
        return None, reason
    server = PostgresServer(SETTINGS)
    stack.callback(server.close)
    return server, ""


# -- which are here ---------------------------------------------------------------------------


def peers(jobs: int, stack: ExitStack) -> Tuple[Dict[str, Peer], Dict[str, str]]:
    """Return the libraries that are here, and what each that is missing would have needed."""
    found: Dict[str, Peer] = {}
    missing: Dict[str, str] = {}
    if find_spec("huey"):
        kept = "synced; a job is deleted before it runs; no output"
        found["Huey on SQLite"] = Peer(_package("huey"), kept, max(jobs * 2 // 5, 1), huey)
    else:
        missing["Huey on SQLite"] = "huey from PyPI"
    for name, work, kept, share in (
        ("RQ", rq, "synced (appendfsync always); result, no output", 20),
        ("Celery", celery, "synced (appendfsync always), late ack; result, no output", 5),
    ):
        title, module = f"{name} on Redis", name.lower()
        if find_spec(module) and find_spec("redis") and shutil.which("redis-server"):
            both = f"{_package(module)}, Redis {version('redis-server', '--version')}"
            found[title] = Peer(both, kept, max(jobs // share, 1), work)
        else:
            missing[title] = f"{module} and redis from PyPI and the package redis-server"
    _on_postgres(jobs, stack, found, missing)
    return found, missing


def _on_postgres(jobs: int, stack: ExitStack, found: Dict[str, Peer], missing: Dict[str, str]) -> None:
    server, reason = None, ""
    end = "synced; the end of each job; no output"
    for name, question, drivers, share, kept in (
        ("queuectl", DONE_BY_QUEUECTL, (), 1, "synced before enqueue returns; each run with its output"),
        ("procrastinate", DONE_BY_PROCRASTINATE, ("psycopg_pool",), 5, end),
        ("pgqueuer", DONE_BY_PGQUEUER, ("asyncpg",), 2.5, end),
    ):
        title = f"{name} on PostgreSQL"
        if not all(find_spec(module) for module in (name, *drivers)):
            missing[title] = f"{name}, {', '.join(drivers)} and psycopg from PyPI"
            continue
        if server is None and not reason:
            server, reason = _server(stack)
        if server is None:
            missing[title] = reason
            continue
        both = f"{_package(name)}, PostgreSQL {server.execute('SHOW server_version')[0][0].split()[0]}"
        found[title] = Peer(both, kept, max(int(jobs / share), 1), on_postgres(server, name, question))


def _package(name: str) -> str:
    if name == "queuectl":
        from queuectl import __version__

        return __version__
    from importlib.metadata import version as of_package

    return of_package(name)
