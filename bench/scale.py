"""How much one PostgreSQL carries: a discrete-event simulation from costs measured here, checked against 64 workers.

``python3 -m bench.scale [--seconds N]``, in an environment that has psycopg and the server's programs.
First it measures what turns of 1 and of 16 jobs cost the server and the client in CPU, and what a flush of the log
takes. Then 64 workers work beside the simulation of the same; then the simulation alone says what larger machines would
do: at best, with these costs alone, and at worst, with all else that the machine did meanwhile counted as theirs.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import statistics
import tempfile
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from bench.measure import keep
from bench.report import write

HEAD = ("hosts", "workers", "slots each", "command s", "jobs/s at best", "at worst", "server busy, at best")


class Costs(NamedTuple):
    """What a turn costs, in seconds: a part for itself and a part for each job in it."""

    server_turn: float
    server_job: float
    client_turn: float
    client_job: float
    flush: float  # of the server's log; those who wait together share one
    # Assumed, not measured: a good network, a worker's look for orders twice a second, its renewal every ten.
    round_trip: float = 0.0002
    idle_look: float = 0.0001
    renewal: float = 0.0003


class Cores:
    """Cores that work off what comes, first come first served."""

    def __init__(self, world: World, count: int) -> None:
        self._world = world
        self._free = count
        self._count = count
        self._waiting: List[Tuple[float, Callable[[], None]]] = []
        self._first = 0
        self.busy_s = 0.0

    def work(self, cost_s: float, then: Callable[[], None]) -> None:
        """Take a core for *cost_s*."""
        if self._free:
            self._free -= 1
            self.busy_s += cost_s
            self._world.after(cost_s, lambda: self._done(then))
        else:
            self._waiting.append((cost_s, then))

    def _done(self, then: Callable[[], None]) -> None:
        self._free += 1
        if self._first < len(self._waiting):
            cost_s, following = self._waiting[self._first]
            self._first += 1
            if self._first > 10_000:
                del self._waiting[: self._first]
                self._first = 0
            self.work(cost_s, following)
        then()

    def share(self, seconds: float) -> float:
        """Return how busy they were."""
        return self.busy_s / seconds / self._count


class Log:
    """The server's log: one flush at a time, which takes along all that wait when it begins."""

    def __init__(self, world: World, flush_s: float) -> None:
        self._world = world
        self._flush_s = flush_s
        self._waiting: List[Callable[[], None]] = []
        self._flushing = False

    def commit(self, then: Callable[[], None]) -> None:
        """Wait for a flush that begins from now on."""
        self._waiting.append(then)
        if not self._flushing:
            self._flush()

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        self._flushing = True
        self._world.after(self._flush_s, lambda: self._flushed(batch))

    def _flushed(self, batch: List[Callable[[], None]]) -> None:
        self._flushing = False
        if self._waiting:
            self._flush()
        for then in batch:
            then()


class World:
    """The clock and what is to come."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: List[Tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay_s: float, then: Callable[[], None]) -> None:
        """Call *then* later."""
        self._count += 1
        heapq.heappush(self._events, (self.now + delay_s, self._count, then))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._events and self._events[0][0] <= until:
            self.now, _, then = heapq.heappop(self._events)
            then()


class Worker:
    """A worker: its slots run commands; one turn at a time hands in what has ended and claims as many."""

    def __init__(self, world: World, host: Cores, server: Cores, log: Log, costs: Costs, slots: int, command_s: float):
        self._world, self._host, self._server, self._log, self._costs = world, host, server, log, costs
        self._command_s = command_s
        self._ended = slots
        self._in_turn = False
        self.done = 0
        self.turns_s: List[float] = []
        world.after(random.random() * 0.1, self._turn)
        world.after(random.random() * 0.5, self._look)

    def _look(self) -> None:
        self._server.work(self._costs.idle_look + self._costs.renewal / 20, lambda: None)
        self._world.after(0.5, self._look)

    def _turn(self) -> None:
        if self._in_turn or not self._ended:
            return
        self._in_turn = True
        count, self._ended = self._ended, 0
        began, costs = self._world.now, self._costs

        def over() -> None:
            self._in_turn = False
            self.done += count
            self.turns_s.append(self._world.now - began)
            for _ in range(count):
                self._world.after(self._command_s * random.uniform(0.9, 1.1), self._end)
            self._turn()

        def on_server() -> None:
            cost_s = costs.server_turn + costs.server_job * count
            self._server.work(cost_s, lambda: self._log.commit(lambda: self._world.after(costs.round_trip, over)))

        self._host.work(costs.client_turn + costs.client_job * count, on_server)

    def _end(self) -> None:
        self._ended += 1
        self._turn()


def simulate(
    costs: Costs, hosts: int, workers: int, slots: int, command_s: float, host_cores: int, server_cores: int,
    seconds: float = 10.0, together: bool = False,
) -> Dict[str, Any]:  # fmt: skip
    """Return the rate of *workers* on each of *hosts*; *together*: hosts and server share the server's cores."""
    random.seed(1)
    world = World()
    server, log = Cores(world, server_cores), Log(world, costs.flush)
    crowd = []
    for _ in range(hosts):
        host = server if together else Cores(world, host_cores)
        crowd += [Worker(world, host, server, log, costs, slots, command_s) for _ in range(workers)]
    world.run(seconds)
    turns_s = [turn_s for worker in crowd for turn_s in worker.turns_s]
    return {
        "jobs/s": round(sum(worker.done for worker in crowd) / seconds),
        "server busy": round(min(server.share(seconds), 1.0), 2),
        "turn median ms": round(1000 * statistics.median(turns_s), 1),
    }


# -- what is measured -------------------------------------------------------------------------


def flush_s() -> float:
    """Return the median of a small write and its sync."""
    with tempfile.TemporaryFile(dir=".") as file:
        times_s = []
        for _ in range(200):
            begin = time.perf_counter()
            file.write(b"x" * 8192)
            file.flush()
            os.fdatasync(file.fileno())
            times_s.append(time.perf_counter() - begin)
    return statistics.median(times_s)


def measured_costs(url: str, seconds: float) -> Tuple[Costs, float]:
    """Return the costs, and what the machine spends beside them: its time over what these add up to."""
    from bench.postgres_store import crowd, turns

    one, many = (crowd(turns, url, 8, batch, seconds) for batch in (1, 16))
    costs = []
    for who in ("server", "client"):
        key = f"{who} CPU us/job"
        job = max(16 * many[key] - one[key], 0) / 15
        costs += [max(one[key] - job, 0) / 1e6, job / 1e6]
    per_job = (one["server CPU us/job"] + one["client CPU us/job"]) / 1e6
    spare = (os.cpu_count() or 1) / (one["jobs/s"] * per_job)
    return Costs(costs[0], costs[1], costs[2], costs[3], flush_s()), spare


def sixty_four(_store: Any, name: str, _batch: int, until: float) -> Any:
    """Be eight workers in threads: each claims, waits as long as a command would take, ends it, claims the next."""
    from bench.postgres_store import Answer, completed, enter
    from queuectl.db import open_store

    command_s = float(os.environ["BENCH_COMMAND_S"])
    jobs: List[int] = []
    times_s: List[float] = []

    def work(number: int) -> None:
        mine = open_store(os.environ["BENCH_URL"])
        me = f"{name}-{number}"
        enter(mine, me)
        claims, done = mine.claim(me, 1), 0
        first_at = max(begin_at, time.time())  # 64 connections take their time to open
        while time.time() < until:
            time.sleep(command_s)
            begin = time.perf_counter()
            answer = mine.finish(me, [completed(claim) for claim in claims], 1)
            times_s.append(time.perf_counter() - begin)
            done += sum(answer.accepted) if first_at <= time.time() <= until else 0
            claims = answer.claims
        jobs.append(round(done * (until - begin_at) / (until - first_at)))
        mine.close()

    begin_at = until - float(os.environ["BENCH_SECONDS"])
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Answer(sum(jobs), times_s, 0.0, 0.0)


def check(rows: Dict[str, Any], seconds: float) -> Tuple[Costs, float]:
    """Measure costs, let 64 workers work, and put the simulation beside them; return the costs."""
    from bench.postgres_store import SETTINGS, crowd, filled
    from tests.postgres_server import PostgresServer, fresh_schema

    server = PostgresServer(SETTINGS)
    try:
        with fresh_schema(server) as url:
            filled(url, 300_000, 0, server)
            costs, spare = measured_costs(url, seconds)
            rows["the machine's time over the CPU of servers and clients, 8 clients"] = round(spare, 2)
            here = all_told(costs, spare)
            for command_s in (0.2, 0.1, 0.03):
                os.environ.update(BENCH_URL=url, BENCH_COMMAND_S=str(command_s), BENCH_SECONDS=str(seconds))
                real = crowd(sixty_four, url, 8, 1, seconds)["jobs/s"]
                cores = os.cpu_count() or 1
                told = simulate(here, 8, 8, 1, command_s, cores, cores, together=True)["jobs/s"]
                rows[f"64 workers, commands of {command_s} s: simulated / measured"] = round(told / real, 2)
                print(f"commands of {command_s} s: measured {real} jobs/s, simulated {told}", flush=True)
    finally:
        server.close()
    names = ("server, a turn", "server, a job in it", "client, a turn", "client, a job in it", "flush of the log")
    rows.update({f"{name}, us": round(1e6 * cost) for name, cost in zip(names, costs)})
    return costs, spare


def all_told(costs: Costs, spare: float) -> Costs:
    """Return the costs with everything that the machine did beside them counted as theirs."""
    return Costs(*(cost * spare for cost in costs[:4]), costs.flush)


def predict(costs: Costs, spare: float) -> Dict[str, Any]:
    """Return what larger machines would do: a server of 16 cores, hosts of 8."""
    rows = {}
    print(*HEAD, sep="\t")
    for hosts, workers, slots, command_s in (
        (4, 8, 1, 0.1), (16, 8, 1, 0.1), (64, 8, 1, 0.1), (256, 8, 1, 0.1), (64, 8, 1, 0.01),
        (64, 2, 32, 0.1), (256, 2, 32, 0.1), (256, 2, 32, 1.0),
    ):  # fmt: skip
        best, worst = (
            simulate(one, hosts, workers, slots, command_s, 8, 16, seconds=2.0)
            for one in (costs, all_told(costs, spare))
        )
        print(hosts, hosts * workers, slots, command_s, best["jobs/s"], worst["jobs/s"], best["server busy"], sep="\t")
        name = f"predicted, {hosts} hosts, {hosts * workers} workers of {slots} slots, commands of {command_s} s"
        rows[name] = f"{worst['jobs/s']} to {best['jobs/s']} jobs/s, server {best['server busy']:.0%} busy at best"
    return rows


def main() -> None:
    """Measure, check, predict, keep."""
    parser = argparse.ArgumentParser(prog="python3 -m bench.scale", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    rows: Dict[str, Any] = {}
    costs, spare = check(rows, given.seconds)
    rows.update(predict(costs, spare))
    keep("scale", rows)
    write()


if __name__ == "__main__":
    main()
