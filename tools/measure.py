"""Take the measurements that the decision records quote: ``python3 tools/measure.py [NAME ...]``.

``parser`` the price of argparse at each start, ``counters`` of counting rows, ``doorbell`` of noticing a new job,
``output`` of keeping output in the store or in files, ``commit`` of syncing, ``argument`` the longest command
that a shell can be given. Figures are medians; run it on a quiet machine and compare ratios, not machines.
"""

from __future__ import annotations

import os
import platform
import select
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def median_ms(work: Callable[[], object], times: int) -> float:
    """Return the median duration of *work* in milliseconds."""
    durations = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        durations.append((time.perf_counter() - began) * 1000)
    return statistics.median(durations)


def parser() -> None:
    """Print how long an interpreter takes from start to exit, by what it imports."""
    variants = {
        "nothing imported": "pass",
        "_sqlite3": "import _sqlite3",
        "_sqlite3, json": "import _sqlite3, json",
        "_sqlite3, argparse": "import _sqlite3, argparse",
        "_sqlite3, argparse, 28 commands of 6 options": "import _sqlite3\n" + _ARGPARSE_TREE,
        "_sqlite3, json, argparse, 28 commands of 6 options": "import _sqlite3, json\n" + _ARGPARSE_TREE,
    }
    durations: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(60):  # in turn, so that a busy moment of the machine meets all of them
        for variant, program in variants.items():
            command = [sys.executable, "-I", "-S", "-c", program]
            began = time.perf_counter()
            subprocess.run(command, check=True)
            durations[variant].append((time.perf_counter() - began) * 1000)
    for variant, found in durations.items():
        print(f"  {variant:<52} {statistics.median(found):6.1f} ms")


_ARGPARSE_TREE = """
import argparse
parser = argparse.ArgumentParser()
commands = parser.add_subparsers()
for number in range(28):
    command = commands.add_parser(f"command{number}", help="what it does")
    for option in range(6):
        command.add_argument(f"--option{option}", help="what it means")
parser.parse_args(["command3", "--option2", "x"])
"""


def counters() -> None:
    """Print how long counts by state take at a million jobs: from the rows, and from the counters."""
    from queuectl.db import open_store
    from queuectl.jobspec import JobSpec

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "jobs.db")
        store = open_store(path)
        for _ in range(10):
            store.add([JobSpec("true", "/") for _ in range(100_000)])
        db = sqlite3.connect(path)
        by_row = "SELECT state, count(*) FROM jobs GROUP BY state"
        print(f"  count(*) of 1,000,000 rows   {median_ms(lambda: db.execute(by_row).fetchall(), 20):8.3f} ms")
        print(f"  the queue's counters         {median_ms(store.queues, 2000):8.3f} ms")
        db.close()
        store.close()


def doorbell() -> None:
    """Print the time from a ring to the sleeper's return from its sleep, by kind of bell, and for polling."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("fifo", "unix datagram", "udp loopback", "poll every 20 ms", "poll every 200 ms"):
            times = 30 if "200" in name else 200
            latencies = [_one_ring(name, folder, number) for number in range(times)]
            p99 = sorted(latencies)[int(len(latencies) * 0.99)]
            print(f"  {name:<18} median {statistics.median(latencies):7.3f} ms   p99 {p99:7.3f} ms")


def _one_ring(name: str, folder: str, number: int) -> float:
    """Let a child process sleep on a bell, ring it, and return how long it took to wake, in milliseconds."""
    from queuectl.db.doorbell import Doorbell
    from queuectl.db.doorbell import ring as ring_all

    path = os.path.join(folder, f"{name.replace(' ', '-')}{number}")
    ready, told = os.pipe(), os.pipe()
    handle = -1
    bell = ear = None
    if name == "fifo":
        bell = Doorbell(folder, "bell")
        handle = bell.arm() or -1
    elif not name.startswith("poll"):
        ear = socket.socket(socket.AF_UNIX if name.startswith("unix") else socket.AF_INET, socket.SOCK_DGRAM)
        ear.bind(path if name.startswith("unix") else ("127.0.0.1", 0))
        handle = ear.fileno()

    def ring() -> None:
        if bell:
            ring_all(folder)
        elif ear:
            with socket.socket(ear.family, socket.SOCK_DGRAM) as mouth:
                mouth.sendto(b"!", ear.getsockname())
        else:
            os.close(os.open(path, os.O_CREAT))

    child = os.fork()
    if child == 0:
        os.write(ready[1], b"r")
        if name.startswith("poll"):
            while not os.path.exists(path):
                time.sleep(int(name.split()[2]) / 1000)
        else:
            select.select([handle], [], [], 10)
        os.write(told[1], str(time.monotonic_ns()).encode())
        os._exit(0)
    os.read(ready[0], 1)
    time.sleep(0.01 + (number * 7919 % 1000) / 1000 * 0.2 * name.startswith("poll"))
    began = time.monotonic_ns()
    ring()
    woke = int(os.read(told[0], 40))
    os.waitpid(child, 0)
    for end in (*ready, *told):
        os.close(end)
    if bell:
        bell.disarm()
    if ear:
        ear.close()
        if name.startswith("unix"):
            os.unlink(path)
    return (woke - began) / 1e6


def output() -> None:
    """Print what it costs to end a run durably with its output in the same commit, or in a file beside it."""
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        db = sqlite3.connect(os.path.join(folder, "o.db"), isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            (
                "CREATE TABLE output (run_id INTEGER, start INTEGER, bytes BLOB, PRIMARY KEY (run_id, start))"
                " WITHOUT ROWID"
            ),
            "CREATE TABLE runs (run_id INTEGER PRIMARY KEY, state TEXT)",
        ):
            db.execute(statement)
        for size in (0, 100, 10_000, 1_000_000):
            data = os.urandom(size)

            def in_store(data: bytes = data) -> None:
                db.execute("BEGIN IMMEDIATE")
                run_id = db.execute("INSERT INTO runs (state) VALUES ('completed')").lastrowid
                if data:
                    db.execute("INSERT INTO output VALUES (?, 0, ?)", (run_id, data))
                db.execute("COMMIT")

            def in_file(data: bytes = data) -> None:
                name = os.path.join(folder, str(time.monotonic_ns()))
                handle = os.open(name, os.O_CREAT | os.O_WRONLY)
                os.write(handle, data)
                os.fsync(handle)
                os.close(handle)
                parent = os.open(folder, os.O_RDONLY)
                os.fsync(parent)
                os.close(parent)
                in_store(b"")

            times = 300 if size < 100_000 else 40
            print(
                f"  {size:>9,} bytes of output: in the store {median_ms(in_store, times):6.2f} ms, "
                f"in a synced file {median_ms(in_file, times):6.2f} ms"
            )
        db.close()


def commit() -> None:
    """Print enqueues a second, one job each, by how a commit is synced and how many processes write."""
    for writers in (1, 4):
        for name in ("synced inside the lock (FULL)", "synced after the lock", "not synced"):
            with tempfile.TemporaryDirectory(dir=ROOT) as folder:
                counts = _enqueue_for(2.0, os.path.join(folder, "jobs.db"), writers, name)
            print(f"  {writers} at once, {name:<30} {sum(counts) / 2.0:8,.0f} a second")


def _enqueue_for(seconds: float, path: str, writers: int, name: str) -> list[int]:
    """Let *writers* processes enqueue one job after the other into one store; return how many each did."""
    from queuectl.db import open_store
    from queuectl.db.sqlite import SqliteStore
    from queuectl.jobspec import JobSpec

    open_store(path).close()
    pipes = []
    for _ in range(writers):
        reading, writing = os.pipe()
        pipes.append(reading)
        if os.fork() == 0:
            if name == "not synced" or "FULL" in name:
                os.environ["QUEUECTL_SYNCHRONOUS"] = "normal"
            store = open_store(path)
            assert isinstance(store, SqliteStore)
            if "FULL" in name:
                store._rows("PRAGMA synchronous = FULL")
            count, deadline = 0, time.monotonic() + seconds
            while time.monotonic() < deadline:
                store.add([JobSpec("true", "/")])
                count += 1
            os.write(writing, str(count).encode())
            os._exit(0)
        os.close(writing)
    counts = [int(os.read(reading, 20)) for reading in pipes]
    for reading in pipes:
        os.close(reading)
        os.wait()
    return counts


def argument() -> None:
    """Print the longest command that the system hands to ``/bin/sh -c``."""
    for size in (131_071, 131_072):
        command = ": " + "x" * (size - 2)
        try:
            subprocess.run(["/bin/sh", "-c", command], check=True)
            print(f"  {size:,} bytes: runs")
        except OSError as error:
            print(f"  {size:,} bytes: {error.strerror}")


MEASUREMENTS = {function.__name__: function for function in (parser, counters, doorbell, output, commit, argument)}


def main() -> int:
    """Take the measurements named on the command line, or all."""
    names = sys.argv[1:] or list(MEASUREMENTS)
    python, sqlite = platform.python_version(), sqlite3.sqlite_version
    print(f"Python {python}, SQLite {sqlite}, {platform.system()}, {os.cpu_count()} cores")
    for name in names:
        print(name)
        MEASUREMENTS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
