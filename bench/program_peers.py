"""The programs beside queuectl: GNU parallel, task-spooler, nq, gflow.

All get their jobs before the clock starts, except GNU parallel, which reads them, and gflow, which gets them in one
call. Those that hold a waiting process per job get fewer jobs.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, Tuple

from bench.measure import seconds
from bench.peer import Peer, folder, must, output, package_version, running, until, version, without

FEW = 400  # task-spooler and nq: a process waits for each job
GATE = ": < gate"  # a pipe: it opens when somebody writes to it


def parallel(jobs: int, slots: int) -> float:
    """Return how long GNU parallel takes; its own log says what ended well."""
    with folder():
        lines = b"true\n" * jobs
        words = ["parallel", f"-j{slots}", "--joblog", "jobs"]
        took_s = seconds(lambda: subprocess.run(words, input=lines, stdout=subprocess.DEVNULL, check=True))
        ended = [line.split("\t") for line in Path("jobs").read_text().splitlines()[1:]]
        must(sum(fields[6] == "0" for fields in ended), jobs)
        return took_s


@contextmanager
def opened_gate() -> Iterator[None]:
    """Let go the jobs that wait at the gate."""
    pipe = os.open("gate", os.O_RDWR)
    try:
        yield
    finally:
        os.close(pipe)


def task_spooler(jobs: int, slots: int) -> float:
    """Return how long task-spooler takes from the moment its slots are free."""
    with folder() as home:
        server = {"TS_SOCKET": str(home / "s"), "TS_MAXFINISHED": str(jobs + slots), "TMPDIR": str(home)}
        environment = {**os.environ, **server}

        def listed() -> bytes:
            return output("tsp", "-l", env=environment)

        def over() -> bool:
            found = listed()
            return b"queued" not in found and b"running" not in found

        os.mkfifo("gate")
        output("tsp", "-S", str(slots), env=environment)
        try:
            for command in [GATE] * slots + ["true"] * jobs:
                output("tsp", "sh", "-c", command, env=environment)
            with opened_gate():
                begin = time.perf_counter()
                until(over)
                took_s = time.perf_counter() - begin
            ended = [line.split() for line in listed().splitlines()[1:]]
            must(sum(fields[1:2] == [b"finished"] and fields[3] == b"0" for fields in ended) - slots, jobs)
            return took_s
        finally:
            subprocess.run(["tsp", "-K"], check=False, env=environment)


def nq(jobs: int, slots: int) -> float:
    """Return how long as many queues of nq, which runs one job at a time, take from the moment their first job ends."""
    with folder():
        os.mkfifo("gate")
        queues = [{**os.environ, "NQDIR": f"q{number}"} for number in range(slots)]
        for number in range(-slots, jobs):
            command = GATE if number < 0 else "true"
            output("nq", "sh", "-c", command, env=queues[number % slots])
        with opened_gate():
            begin = time.perf_counter()
            for environment in queues:
                output("nq", "-w", env=environment)
            took_s = time.perf_counter() - begin

        def ended() -> int:
            return sum("exited with status 0" in path.read_text() for path in Path().glob("q*/,*")) - slots

        until(lambda: ended() == jobs)  # the last one's line may come after the waiting is over
        return took_s


def gflow(jobs: int, slots: int) -> float:
    """Return how long gflow takes to run an array of jobs, each in a session of tmux, its way unless told otherwise."""
    with folder() as home:
        environment = without("XDG_", "TMUX", HOME=str(home), TMUX_TMPDIR=str(home), SHELL="/bin/bash")
        # The shells that tmux starts are login shells: they set PATH anew, and each job ends by calling gcancel.
        Path(".profile").write_text(f"export PATH={shlex.quote(os.environ['PATH'])}\n")
        init = ["--yes", "--host", "127.0.0.1", "--port", str(_free_port())]
        output("gflowd", "init", *init, env=environment, stderr=subprocess.DEVNULL)

        def listed(*words: str) -> bytes:
            found = subprocess.run(
                ["gqueue", "-o", "csv", *words],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, check=False,
            )  # fmt: skip
            return found.stdout

        try:
            with running(["gflowd"], env=environment) as daemon:
                until(lambda: b"No jobs" in listed(), daemon)
                words = ["--array", f"1-{jobs}", "--max-concurrent", str(slots), "--auto-close", "--", "true"]
                begin = time.perf_counter()
                output("gbatch", *words, env=environment, stderr=subprocess.DEVNULL)
                until(lambda: listed().count(b"\n") == 1, daemon, pause_s=0.05)  # the heads, or "No jobs found."
                took_s = time.perf_counter() - begin
                must(listed("-a").count(b",Finished,"), jobs)
                return took_s
        finally:
            subprocess.run(["tmux", "kill-server"], env=environment, stderr=subprocess.DEVNULL, check=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def peers(jobs: int) -> Tuple[Dict[str, Peer], Dict[str, str]]:
    """Return the programs that are here, and what each that is missing would have needed."""
    found: Dict[str, Peer] = {}
    missing: Dict[str, str] = {}
    if shutil.which("parallel") and shutil.which("parcat"):  # moreutils has a parallel too
        kept = "no queue; a log, not synced"
        found["GNU parallel"] = Peer(version("parallel", "--version"), kept, max(jobs // 5, 1), parallel)
    else:
        missing["GNU parallel"] = "the package parallel"
    if shutil.which("tsp"):
        kept = "jobs in RAM, output in files"
        found["task-spooler"] = Peer(package_version("task-spooler"), kept, min(jobs, FEW), task_spooler)
    else:
        missing["task-spooler"] = "the package task-spooler"
    if shutil.which("nq"):
        kept = "jobs are waiting processes; a file with the output each, not synced"
        found["nq, a queue per slot"] = Peer(package_version("nq"), kept, min(jobs, FEW), nq)
    else:
        missing["nq"] = "the package nq"
    if shutil.which("gflowd") and shutil.which("tmux"):
        kept = "journal, not synced; output in files"
        found["gflow, in tmux"] = Peer(version("gbatch", "--version"), kept, max(jobs // 1000, 2), gflow)
    else:
        missing["gflow"] = "runqd from PyPI, its programs on the PATH, and the package tmux"
    return found, missing
