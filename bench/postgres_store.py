"""The PostgreSQL store: turns, enqueues, bulk and wake-up on a server of its own with fsync on.

``python3 -m bench.postgres_store [--seconds N] [--pending N] [--clients N] [PART ...]``, in an environment that has
psycopg and the server's programs. Parts: turns, adds, bulk, wake. A turn is one ``finish`` that ends the jobs of the
turn before and claims as many: library calls, no commands are run. The server's CPU is that of the clients' backends,
from /proc: on a machine that does other things too it says more than the rate.
"""

from __future__ import annotations

import argparse
import multiprocessing
import select
import statistics
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from queuectl.db import open_store
from queuectl.db.postgres_add import _COPY
from queuectl.db.postgres_rows import blocks, copy_lines
from queuectl.job import Claim, Outcome, RunEnd, State, Verdict, Worker
from queuectl.jobspec import JobSpec
from tests.postgres_server import PostgresServer, fresh_schema

SETTINGS = ("fsync=on", "max_connections=100", "shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=30min")


class Answer(NamedTuple):
    """What one client measured."""

    jobs: int
    times_s: List[float]
    server_cpu_s: float
    client_cpu_s: float


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process so far, to the microsecond."""
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0]) / 1e9


def enter(store: Any, name: str) -> None:
    """Register a worker."""
    now = store.now()
    store.register(Worker(name, "worker", "g", 0, "h", "h", 1, "1", (), 1, now, now + 30, 1.0))


def completed(claim: Claim) -> Tuple[Claim, RunEnd, Verdict]:
    """Return the end of a command that did nothing."""
    end = RunEnd(Outcome.COMPLETED, 0, None, None, claim.started_at + 0.001, 1_000_000, 0.001)
    return claim, end, Verdict(State.COMPLETED, None, None)


def turns(store: Any, name: str, batch: int, until: float) -> Answer:
    """Claim and complete until the time is over."""
    enter(store, name)
    claims = store.claim(name, batch)
    jobs, times_s = 0, []
    backend = store._connected().info.backend_pid
    server_s, client_s = cpu_of(backend), time.process_time()
    while time.time() < until:
        begin = time.perf_counter()
        answer = store.finish(name, [completed(claim) for claim in claims], batch)
        times_s.append(time.perf_counter() - begin)
        jobs += sum(answer.accepted)
        claims = answer.claims
    return Answer(jobs, times_s, cpu_of(backend) - server_s, time.process_time() - client_s)


def adds(store: Any, _name: str, _batch: int, until: float) -> Answer:
    """Enqueue one at a time until the time is over."""
    jobs, times_s = 0, []
    backend = store._connected().info.backend_pid
    server_s, client_s = cpu_of(backend), time.process_time()
    while time.time() < until:
        begin = time.perf_counter()
        store.add([JobSpec("true", "/")])
        times_s.append(time.perf_counter() - begin)
        jobs += 1
    return Answer(jobs, times_s, cpu_of(backend) - server_s, time.process_time() - client_s)


def client(
    work: Callable[..., Answer], url: str, name: str, batch: int, until: float, out: multiprocessing.Queue[Answer]
) -> None:
    """Be one client process."""
    store = open_store(url)
    out.put(work(store, name, batch, until))
    store.close()


def crowd(
    work: Callable[..., Answer], url: str, clients: int, batch: int, seconds: float, refill: Optional[int] = None
) -> Dict[str, Any]:
    """Let *clients* processes work for some time; keep *refill* jobs pending meanwhile."""
    out: multiprocessing.Queue[Answer] = multiprocessing.Queue()
    until = time.time() + seconds + 0.5
    processes = [
        multiprocessing.Process(target=client, args=(work, url, f"c{number}", batch, until, out))
        for number in range(clients)
    ]
    for process in processes:
        process.start()
    if refill is not None:
        store = open_store(url)
        while time.time() < until:
            pending = store.queues()[0].pending
            if pending < refill:
                store.add([JobSpec("true", "/")] * (refill + 300 - pending))
            time.sleep(0.01)
        store.close()
    answers = [out.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    jobs = sum(answer.jobs for answer in answers)
    times_s = sorted(time_s for answer in answers for time_s in answer.times_s)
    return {
        "jobs/s": round(jobs / seconds),
        "median ms": round(1000 * statistics.median(times_s), 2),
        "p99 ms": round(1000 * times_s[int(len(times_s) * 0.99)], 2),
        "server CPU us/job": round(1e6 * sum(answer.server_cpu_s for answer in answers) / max(jobs, 1)),
        "client CPU us/job": round(1e6 * sum(answer.client_cpu_s for answer in answers) / max(jobs, 1)),
    }


FINISHED = """
INSERT INTO {s}.jobs (id, queue, state, ready, priority, run_at, created_at, updated_at, ended_at, max_retries,
                      command, cwd, last_run_id, run_no, attempts)
SELECT 'old' || n, 'default', 'completed', 0, 0, 1, 0, 0, n, 3, 'true', '/', n, 1, 1
  FROM generate_series(1, {count}) AS n;
INSERT INTO {s}.runs (run_id, number, state, started_at, ended_at, worker_id, host)
SELECT n, 1, 'completed', 1, n, 'w0', 'h' FROM generate_series(1, {count}) AS n;
SELECT setval('{s}.run_ids', {count});
INSERT INTO {s}.counts (queue, shard, completed) VALUES ('default', -1, {count});
"""


def filled(url: str, pending: int, finished: int, server: PostgresServer) -> None:
    """Make a store with so many jobs; vacuumed, as one that has stood for a while is."""
    store = open_store(url)
    schema = store._connected() and url.rpartition("=")[2]
    if finished:
        server.execute(FINISHED.replace("{s}", schema).replace("{count}", str(finished)))
    for first in range(0, pending, 100_000):
        store.add([JobSpec("true", "/")] * min(100_000, pending - first))
    store.close()
    server.execute(f"VACUUM ANALYZE {schema}.jobs")
    server.execute("CHECKPOINT")


def part_turns(server: PostgresServer, given: argparse.Namespace) -> None:
    """Claim and finish with few and many pending jobs, and with many finished ones."""
    for batch in (1, 16):
        for pending, finished in ((1000, 0), (given.pending, 0), (given.pending, given.pending)):
            with fresh_schema(server) as url:
                filled(url, pending, finished, server)
                row = crowd(turns, url, given.clients, batch, given.seconds, 1000 if pending == 1000 else None)
            say(f"turns of {batch}, {given.clients} clients, {pending:,} pending, {finished:,} finished", row)


def part_adds(server: PostgresServer, given: argparse.Namespace) -> None:
    """Single enqueues, by one client and by several at once."""
    for clients in (1, given.clients):
        with fresh_schema(server) as url:
            open_store(url).close()
            say(f"single adds, {clients} clients", crowd(adds, url, clients, 1, given.seconds))


def raw_copy(store: Any, specs: List[JobSpec]) -> float:
    """Return how long COPY takes for the same rows when their text is ready."""
    ids = [f"job{number}" for number in range(1, len(specs) + 1)]
    pieces = list(blocks(copy_lines(specs, ids, 1, store.now(), 3, {})))
    begin = time.perf_counter()
    store._write(lambda run: run.copy(_COPY, pieces))
    return time.perf_counter() - begin


def adding(server: PostgresServer) -> Dict[str, Any]:
    """Return the figures of a bulk enqueue beside COPY of the same, ready-made lines into the same table, in turns."""
    count = 200_000
    specs = [JobSpec(f"convert --size {number} in.png out.png", "/srv/work") for number in range(count)]
    ours, theirs = [], []
    for _ in range(3):
        with fresh_schema(server) as url:
            store = open_store(url)
            begin = time.perf_counter()
            store.add(specs)
            ours.append(time.perf_counter() - begin)
            store.close()
        with fresh_schema(server) as url:
            store = open_store(url)
            theirs.append(raw_copy(store, specs))
            store.close()
    return {
        "jobs": count,
        "jobs/s": round(count / statistics.median(ours)),
        "raw COPY rows/s": round(count / statistics.median(theirs)),
        "share": round(statistics.median(theirs) / statistics.median(ours), 2),
    }


def part_bulk(server: PostgresServer, _given: argparse.Namespace) -> None:
    """A bulk enqueue beside COPY."""
    say("bulk enqueue", adding(server))


def woken(server: PostgresServer) -> Dict[str, Any]:
    """Return how long it takes from the call of add by one client to the claim by another that slept."""
    with fresh_schema(server) as url:
        adder, sleeper = open_store(url), open_store(url)
        enter(sleeper, "s")
        fd = sleeper.wake_fd()
        times_s = []
        for _ in range(100):
            time.sleep(0.08)
            sleeper.hush()
            begin = time.perf_counter()
            adder.add([JobSpec("true", "/")])
            select.select([fd], [], [], 1)
            sleeper.hush()
            claims = sleeper.claim("s", 1)
            times_s.append(time.perf_counter() - begin)
            sleeper.finish("s", [completed(claim) for claim in claims])
        adder.close()
        sleeper.close()
    times_s.sort()
    return {"median ms": round(1000 * times_s[50], 2), "p99 ms": round(1000 * times_s[98], 2)}


def part_wake(server: PostgresServer, _given: argparse.Namespace) -> None:
    """From the call to the claim."""
    say("enqueue to claimed elsewhere", woken(server))


def say(name: str, row: Dict[str, Any]) -> None:
    """Print one line."""
    print(f"{name}: " + ", ".join(f"{value:,} {key}" for key, value in row.items()), flush=True)


PARTS = {"turns": part_turns, "adds": part_adds, "bulk": part_bulk, "wake": part_wake}


def main() -> None:
    """Measure the parts asked for, or all."""
    parser = argparse.ArgumentParser(prog="python3 -m bench.postgres_store", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[], metavar="PART")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--pending", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    server = PostgresServer(SETTINGS)
    try:
        for name in given.parts or PARTS:
            PARTS[name](server, given)
    finally:
        server.close()


if __name__ == "__main__":
    main()
