"""Draining ``true`` two at a time on one machine: xargs, GNU parallel, task-spooler, nq, Huey on SQLite.

Nothing is installed here: a peer that is missing is named as missing. All get their jobs before the clock starts,
except xargs and GNU parallel, which read them. Peers that hold a waiting process per job get fewer jobs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, NamedTuple, Tuple

import queuectl
from bench.drain import queuectl as drained
from bench.drain import xargs
from bench.measure import median, paired, ratio, scratch_home, seconds

SLOTS = 2
FEW = 400  # task-spooler and nq: a process waits for each job
DEADLINE_S = 300.0
GATE = "until [ -e go ]; do sleep 0.002; done"
HUEY = """
import os, subprocess, sys, threading, time
from huey import SqliteHuey
huey = SqliteHuey(filename=sys.argv[1], fsync=True)
@huey.task()
def work():
    return subprocess.run(["/bin/sh", "-c", "true"]).returncode == 0
if sys.argv[2] == "fill":
    for _ in range(int(sys.argv[3])):
        work()
else:
    def watch():
        while huey.storage.result_store_size() < int(sys.argv[3]):
            time.sleep(0.02)
        os._exit(0)
    threading.Thread(target=watch, daemon=True).start()
    huey.create_consumer(workers=2, worker_type="process", initial_delay=0.01, periodic=False).run()
"""


class Peer(NamedTuple):
    """One of those beside queuectl."""

    version: str
    kept: str  # what of a job is on disk or anywhere when it has ended
    jobs: int
    drain: Callable[[int], float]


@contextmanager
def folder() -> Iterator[Path]:
    """Work in a folder of its own."""
    before = os.getcwd()
    with scratch_home() as found:
        os.chdir(str(found))
        try:
            yield found
        finally:
            os.chdir(before)


def must(done: int, jobs: int) -> None:
    """Refuse a figure for work that was not done."""
    if done != jobs:
        raise SystemExit(f"the work was not done: {done} of {jobs}")


def parallel(jobs: int) -> float:
    """Return how long GNU parallel takes; its own log says what ended well."""
    with folder():
        lines = b"true\n" * jobs
        words = ["parallel", f"-j{SLOTS}", "--joblog", "log"]
        took_s = seconds(lambda: subprocess.run(words, input=lines, stdout=subprocess.DEVNULL, check=True))
        ended = [line.split("\t") for line in Path("log").read_text().splitlines()[1:]]
        must(sum(fields[6] == "0" for fields in ended), jobs)
        return took_s


def task_spooler(jobs: int) -> float:
    """Return how long task-spooler takes from the moment its two slots are free."""
    with folder() as home:
        os.environ.update(TS_SOCKET=str(home / "s"), TS_MAXFINISHED=str(jobs + SLOTS), TMPDIR=str(home))
        try:
            subprocess.run(["tsp", "-S", str(SLOTS)], check=True)
            for command in [GATE] * SLOTS + ["true"] * jobs:
                subprocess.run(["tsp", "sh", "-c", command], check=True, stdout=subprocess.DEVNULL)
            begin = time.perf_counter()
            Path("go").touch()
            _until(lambda: b"queued" not in (listed := _out("tsp", "-l")) and b"running" not in listed)
            took_s = time.perf_counter() - begin
            ended = [line.split() for line in _out("tsp", "-l").splitlines()[1:]]
            must(sum(fields[1:2] == [b"finished"] and fields[3] == b"0" for fields in ended) - SLOTS, jobs)
            return took_s
        finally:
            subprocess.run(["tsp", "-K"], check=False)
            for name in ("TS_SOCKET", "TS_MAXFINISHED", "TMPDIR"):
                del os.environ[name]


def nq(jobs: int) -> float:
    """Return how long two queues of nq, which runs one job at a time, take from the moment their first job ends."""
    with folder():
        for command in [GATE] + ["true"] * (jobs // SLOTS):
            for number in range(SLOTS):
                environment = {**os.environ, "NQDIR": f"q{number}"}
                subprocess.run(["nq", "sh", "-c", command], check=True, stdout=subprocess.DEVNULL, env=environment)
        begin = time.perf_counter()
        Path("go").touch()
        for number in range(SLOTS):
            subprocess.run(["nq", "-w"], check=True, env={**os.environ, "NQDIR": f"q{number}"})
        took_s = time.perf_counter() - begin

        def ended() -> int:
            return sum("exited with status 0" in path.read_text() for path in Path().glob("q*/,*")) - SLOTS

        _until(lambda: ended() == jobs)  # the last one's line may come after the waiting is over
        return took_s


def huey(jobs: int) -> float:
    """Return how long Huey's consumer with two processes takes; each task's result says that its command ended well."""
    with folder() as home:
        words = [sys.executable, "-c", HUEY, str(home / "huey.db")]
        subprocess.run([*words, "fill", str(jobs)], check=True)
        drain = [*words, "drain", str(jobs)]
        # In a session of its own: its processes outlive the one that saw the last result.
        begin = time.perf_counter()
        consumer = subprocess.Popen(drain, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            consumer.wait(DEADLINE_S)
            took_s = time.perf_counter() - begin
        finally:
            os.killpg(consumer.pid, 9)
        from huey import SqliteHuey

        store = SqliteHuey(filename=str(home / "huey.db")).storage
        must(sum(b"\x88" in bytes(value) for value in store.result_items().values()), jobs)  # a pickled True
        return took_s


def _out(*words: str) -> bytes:
    return subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout


def _until(over: Callable[[], bool]) -> None:
    give_up = time.monotonic() + DEADLINE_S
    while not over():
        if time.monotonic() > give_up:
            raise SystemExit(f"not over after {DEADLINE_S:.0f} s")
        time.sleep(0.01)


def _version(*words: str) -> str:
    found = re.search(r"\d+(\.\d+)+|\d{8}", _out(*words).decode("utf-8", "replace"))
    return found.group() if found else "?"


def _package(name: str) -> str:
    """Return the version of a Debian package, for programs that do not say theirs."""
    return _out("dpkg-query", "-W", "-f=${Version}", name).decode() if shutil.which("dpkg-query") else "?"


def peers(jobs: int) -> Tuple[Dict[str, Peer], Dict[str, str]]:
    """Return the peers that are here, and what each that is missing would have needed."""
    found: Dict[str, Peer] = {}
    missing: Dict[str, str] = {}
    if shutil.which("parallel") and shutil.which("parcat"):  # moreutils has a parallel too
        found["GNU parallel"] = Peer(_version("parallel", "--version"), "a log, not synced", jobs // 5, parallel)
    else:
        missing["GNU parallel"] = "the package parallel"
    if shutil.which("tsp"):
        kept = "output on disk, jobs in RAM"
        found["task-spooler"] = Peer(_package("task-spooler"), kept, min(jobs, FEW), task_spooler)
    else:
        missing["task-spooler"] = "the package task-spooler"
    if shutil.which("nq"):
        found["nq, two queues"] = Peer(_package("nq"), "output on disk, not synced", min(jobs, FEW), nq)
    else:
        missing["nq"] = "the package nq"
    try:
        import huey as found_huey
    except ImportError:
        missing["Huey on SQLite"] = "huey from PyPI"
    else:
        kept = "synced; no output; a job is deleted before it runs"
        found["Huey on SQLite"] = Peer(found_huey.__version__, kept, jobs // 5, huey)
    return found, missing


def run(rounds: int, jobs: int) -> Dict[str, Any]:
    """Return each one's rate as a share of that of xargs in the same rounds."""
    found, missing = peers(jobs)
    everyone = {
        "xargs -P": Peer(_version("xargs", "--version"), "nothing", jobs, lambda count: xargs("true", count, SLOTS)()),
        "queuectl": Peer(
            queuectl.__version__, "synced, with output and each run", jobs,
            lambda count: drained("true", count, SLOTS, 1)(),
        ),
        **found,
    }  # fmt: skip
    works = [lambda peer=peer: peer.drain(peer.jobs) / peer.jobs for peer in everyone.values()]
    times = dict(zip(everyone, paired(rounds, *works)))
    rows: Dict[str, Any] = {}
    for name, peer in everyone.items():
        rows[name] = {
            "share of xargs": ratio(times["xargs -P"], times[name]),
            "jobs a second": round(1 / median(times[name])),
            "queuectl's rate over it": ratio(times[name], times["queuectl"]),
            "jobs": peer.jobs,
            "version": peer.version,
            "kept": peer.kept,
        }
    for name, need in missing.items():
        row = dict.fromkeys(rows["queuectl"], "-")
        rows[name] = {**row, "share of xargs": "missing", "kept": f"not installed: {need}"}
    return rows
