"""Claims from thousands of queues beside claims from one, with as many jobs: the SQLite store."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, List

from bench.growth import completed
from bench.measure import median, paired, ratio, scratch_home
from queuectl.db import open_store
from queuectl.job import Claim, Worker
from queuectl.jobspec import JobSpec

JOBS = 100_000
QUEUES = (1, 8, 100, 5000)
CALLS = 500
BATCHES = (1, 16)
ME = "queues"


class Side:
    """A store whose jobs are spread over some queues, and a worker that takes them."""

    def __init__(self, path: Path, queues: int) -> None:
        self.store = open_store(str(path))
        self.store.add([JobSpec("true", "/", queue=f"customer{number % queues}") for number in range(JOBS)])
        now = self.store.now()
        self.store.register(Worker(ME, "worker", "g", 0, "h", "h", 1, "1", (), 1, now, now + 86400, 1.0))
        self._claims: List[Claim] = []

    def turns(self, batch: int) -> float:
        """Return how long it takes to end CALLS jobs and to claim as many, *batch* at a time."""
        self._claims += self.store.claim(ME, batch - len(self._claims)) if len(self._claims) < batch else []
        begin = time.perf_counter()
        for _ in range(CALLS // batch):
            answer = self.store.finish(ME, [completed(claim) for claim in self._claims], batch)
            if not all(answer.accepted) or len(answer.claims) != batch:
                raise SystemExit("a finish was refused, or there was nothing to claim")
            self._claims = answer.claims
        took_s = time.perf_counter() - begin
        self.store.finish(ME, [completed(claim) for claim in self._claims])
        self._claims = []
        return took_s


def run(rounds: int, jobs: int) -> Dict[str, Any]:
    """Return what an end and a claim cost where the jobs are in many queues, over their cost where they are in one."""
    del jobs
    rows: Dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="qb-"))
    with scratch_home(), ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        sides = []
        for queues in QUEUES:
            sides.append(Side(folder / f"{queues}.db", queues))
            stack.callback(sides[-1].store.close)
        for batch in BATCHES:
            at_a_time = "one at a time" if batch == 1 else f"{batch} at a time"
            works = [lambda side=side: side.turns(batch) for side in sides]  # type: ignore[misc]  # noqa: B023
            one, *more = paired(rounds, *works)
            rows[f"end and claim {at_a_time}, 1 queue, us per job"] = round(median(one) / CALLS * 1e6)
            for queues, times in zip(QUEUES[1:], more):
                rows[f"end and claim {at_a_time}, {queues:,} queues / 1 queue"] = ratio(times, one)
    return rows
