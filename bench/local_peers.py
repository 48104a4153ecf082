"""Draining ``true`` on one machine at 1, 2, 4 and 16 at a time: queuectl beside ``xargs -P`` and other queues.

Nothing is installed here: a peer that is missing is named as missing, one that did not do its work as failed. Slower
peers get fewer jobs. The start of the workers counts for queuectl, not for the libraries. queuectl has as many workers
as the machine has cores, but no more than slots, and the rest as ``--concurrency``. Take the Python of an environment
that has the libraries (``huey rq celery redis runqd procrastinate pgqueuer asyncpg psycopg[binary,pool]``), with its
``bin`` on the PATH; the programs are the packages ``parallel task-spooler nq redis-server tmux``.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from contextlib import ExitStack
from typing import Any, Callable, Dict, List, Tuple

import queuectl
from bench import library_peers, program_peers
from bench.drain import queuectl as drained
from bench.drain import xargs
from bench.measure import median, paired, ratio
from bench.peer import NotDoneError, Peer, version

SLOTS = (1, 2, 4, 16)
FLOOR, OURS = "xargs -P", "queuectl"


def everyone(jobs: int, stack: ExitStack) -> Tuple[Dict[str, Peer], Dict[str, str]]:
    """Return who is here, and what each that is missing would have needed."""
    programs, no_programs = program_peers.peers(jobs)
    libraries, no_libraries = library_peers.peers(jobs, stack)
    kept = "synced before enqueue returns; each run with its output"
    found = {
        FLOOR: Peer(version("xargs", "--version"), "no queue", jobs, lambda n, slots: xargs("true", n, slots)()),
        OURS: Peer(queuectl.__version__, kept, jobs, ours),
        **programs,
        **libraries,
    }
    return found, {**no_programs, **no_libraries}


def ours(jobs: int, slots: int) -> float:
    """Return how long ``worker start --drain`` takes."""
    workers = min(slots, os.cpu_count() or 1)
    return drained("true", jobs, workers, slots // workers)()


def timed(name: str, peer: Peer, slots: int, failed: Dict[str, str]) -> Callable[[], float]:
    """Return what tells the seconds per job; once it has failed, it is not tried again."""

    def work() -> float:
        if name in failed:
            return math.nan
        try:
            each_s = peer.drain(peer.jobs, slots) / peer.jobs
        except (NotDoneError, OSError, ValueError, subprocess.SubprocessError) as error:
            if name in (FLOOR, OURS):
                raise  # there is nothing to compare with
            failed[name] = str(error)
            return math.nan
        print(f"  {slots} at a time, {name}: {1 / each_s:.4g} jobs/s", file=sys.stderr)
        return each_s

    return work


def row(name: str, peer: Peer, times: Dict[str, List[float]], failed: Dict[str, str]) -> Dict[str, Any]:
    """Return what is recorded of one peer at one number of slots."""
    about = {"jobs": peer.jobs, "version": peer.version, "kept": peer.kept}
    if name in failed:
        return {**_nothing(f"failed: {failed[name]}"), **about}
    rate = 1 / median(times[name])
    return {
        "share of xargs": ratio(times[FLOOR], times[name]),
        "jobs a second": round(rate, 0 if rate > 20 else 2),
        "queuectl's rate over it": ratio(times[name], times[OURS]),
        **about,
    }


def run(rounds: int, jobs: int) -> Dict[str, Any]:
    """Return each one's rate as a share of that of xargs in the same rounds."""
    rows: Dict[str, Any] = {}
    with ExitStack() as stack:
        found, missing = everyone(jobs, stack)
        for slots in SLOTS:
            failed: Dict[str, str] = {}
            works = [timed(name, peer, slots, failed) for name, peer in found.items()]
            times = dict(zip(found, paired(rounds, *works)))
            for name, peer in found.items():
                rows[f"{name}: {slots}"] = row(name, peer, times, failed)
    for name, need in missing.items():
        rows[f"{name}: -"] = {**_nothing("missing"), "jobs": "-", "version": "-", "kept": f"not installed: {need}"}
    return rows


def _nothing(reason: str) -> Dict[str, Any]:
    return {"share of xargs": reason, "jobs a second": "-", "queuectl's rate over it": "-"}
