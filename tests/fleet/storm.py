"""A storm over a fleet: jobs run while the database is restarted and hosts are cut off; then the oracle judges.

The database has witnesses of its own: a trigger notes every attempt to end a run a second time, which is what an
accepted result of a stale worker would be, and one notes every claim from a queue beyond its limit.
"""

from __future__ import annotations

import collections
import random
import shlex
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from queuectl import Queue
from queuectl.errors import StoreUnavailable
from tests import oracle
from tests.fleet.hosts import Fleet, ways

WITNESS = """
CREATE TABLE witness (run_id bigint, was text, became text);
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.witness VALUES (old.run_id, old.state, new.state);
    RETURN new;
END $$;
CREATE TRIGGER witness AFTER UPDATE ON queuectl.runs FOR EACH ROW WHEN (old.ended_at IS NOT NULL)
    EXECUTE FUNCTION public.witness();
CREATE TABLE crowded (queue text, running bigint);
CREATE FUNCTION crowded() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.crowded
    SELECT q.name, count(*) FROM queuectl.queues AS q JOIN queuectl.jobs AS j ON j.queue = q.name
     WHERE q.name = new.queue AND j.worker_id IS NOT NULL
     GROUP BY q.name, q.max_running HAVING count(*) > q.max_running;
    RETURN new;
END $$;
CREATE TRIGGER crowded AFTER UPDATE ON queuectl.jobs FOR EACH ROW WHEN (new.state = 'processing')
    EXECUTE FUNCTION public.crowded();
"""
#: The queues, each with its share of the jobs and its limit.
QUEUES = {"default": (0.6, None), "narrow": (0.3, 3), "wide": (0.1, None)}
#: What commands do, and the share of all jobs that do it. The beats tell two runs at once from two in turn.
BODIES = {
    "": 0.90,
    "sleep 0.5": 0.08,
    "for beat in $(seq 12); do note beat; sleep 0.4; done": 0.018,
    "for beat in $(seq 150); do note beat; sleep 0.4; done": 0.002,
}
BATCH = 25
UP_S = 60.0


class Weather(NamedTuple):
    """How bad it gets; all in seconds."""

    jobs: int = 20_000
    workers: int = 4  # of each host
    lasts_s: float = 600.0
    restart_s: float = 20.0  # from one restart of the database to the next
    cut_s: float = 30.0  # from one host's being cut off to the next one's
    cuts_last_s: Tuple[float, ...] = (8.0, 55.0, 20.0)  # shorter and longer than a lease and its margin
    lease_s: float = 30.0
    patience_s: float = 600.0  # how long the rest may take when it is over
    seed: int = 1
    more_queues: int = 0  # beside QUEUES; all together get as many jobs as these


class Storm:
    """One storm; ``run`` returns the figures, the oracle's ``problems`` among them."""

    def __init__(self, fleet: Fleet, folder: Path, weather: Weather, say: Callable[[str], None] = lambda text: None):
        self._fleet = fleet
        self._weather = weather
        self._say = say
        self._log = folder / "journal"
        self._dice = random.Random(weather.seed)
        self._acknowledged: List[str] = []
        self._unknown = 0
        self._refusals = 0
        self._healing: Dict[int, float] = {}  # by host: when it is to be reached again
        self._done: Dict[str, int] = collections.Counter()
        self._shares = {name: share for name, (share, _) in QUEUES.items()}
        self._shares.update((f"more{number}", 1 / weather.more_queues) for number in range(weather.more_queues))
        self.queue = Queue(fleet.server.url())

    def run(self) -> Dict[str, Any]:
        """Let it rage, wait for the rest, judge."""
        self.queue.set_setting("max_lost", "1000")
        self.queue.set_setting("lease", str(self._weather.lease_s))
        for name, (_, limit) in QUEUES.items():
            self.queue.limit(name, limit)
        self._fleet.server.execute(WITNESS)
        for host in self._fleet.hosts:
            host.start("worker", "start", "--count", str(self._weather.workers))
        self._wait_for_workers()
        begin = time.monotonic()
        adder = threading.Thread(target=self._add, args=(begin,), daemon=True)
        adder.start()
        self._rage(begin)
        for number in list(self._healing):
            self._heal(number)
        adder.join(60)
        stuck = self._wait_for_rest(begin)
        took_s = time.monotonic() - begin
        ended = sum(not host.running for host in self._fleet.hosts)
        left = [host.call("worker", "stop", "--timeout", "60") for host in self._fleet.hosts]
        return self._judge(took_s, stuck, ended, left)

    def _wait_for_workers(self) -> None:
        """Let all of them start: the command that starts a group gives up if there is no database then."""
        wanted = len(self._fleet.hosts) * self._weather.workers
        deadline = time.monotonic() + UP_S
        while sum(worker.role == "worker" for worker in self.queue.workers()) < wanted:
            if time.monotonic() > deadline:
                raise RuntimeError("workers did not start: " + "".join(host.said() for host in self._fleet.hosts))
            time.sleep(0.1)

    # -- the storm ----------------------------------------------------------------------------

    def _add(self, begin: float) -> None:
        """Enqueue a quarter of the jobs at once and the others little by little, through every outage."""
        bodies, shares = list(BODIES), list(BODIES.values())
        count, calm_s = self._weather.jobs, self._weather.lasts_s * 0.8
        added = 0
        log = shlex.quote(str(self._log))
        while added < count:
            share = min(1.0, 0.25 + 0.75 * (time.monotonic() - begin) / calm_s)
            if added >= count * share:
                time.sleep(0.05)
                continue
            batch = min(BATCH, count - added)
            commands = [oracle.recorded(body, log) for body in self._dice.choices(bodies, shares, k=batch)]
            names = self._dice.choices(list(self._shares), list(self._shares.values()), k=batch)
            jobs = [{"command": command, "queue": name} for command, name in zip(commands, names)]
            try:
                self._acknowledged += self.queue.enqueue_many(jobs)
                added += batch
            except StoreUnavailable as trouble:
                unknown = "not known" in str(trouble)
                self._unknown += unknown
                self._refusals += 1
                added += batch if unknown else 0
                time.sleep(0.2)

    def _rage(self, begin: float) -> None:
        weather = self._weather
        restart_at, cut_at = begin + weather.restart_s, begin + weather.cut_s
        told_at = begin
        while time.monotonic() < begin + weather.lasts_s:
            now = time.monotonic()
            for number in [number for number, until in self._healing.items() if now >= until]:
                self._heal(number)
            if now >= cut_at:
                cut_at += weather.cut_s
                self._cut(now)
            if now >= restart_at:
                restart_at += weather.restart_s
                self._restart()
            if now >= told_at:
                told_at = now + 30
                self._say(f"{now - begin:.0f} s: {self._states()}, {dict(self._done)}")
            time.sleep(0.05)

    def _restart(self) -> None:
        """Restart the database, in order and as by a crash in turns."""
        fast = self._done["restarts"] % 2 == 0
        self._fleet.server.restart(signal.SIGINT if fast else signal.SIGQUIT)
        self._done["restarts"] += 1
        self._done["immediate restarts"] += not fast

    def _cut(self, now: float) -> None:
        """Cut the next host off, each time in another way and for another time."""
        turn = self._done["cuts"]
        number = turn % len(self._fleet.hosts)
        way = ways()[turn % len(ways())]
        lasts = self._weather.cuts_last_s
        # Whole rounds of hosts meet the lengths in turns.
        lasts_s = lasts[(turn + turn // len(self._fleet.hosts)) % len(lasts)]
        if number in self._healing:
            self._heal(number)
        self._fleet.switch.cut(self._fleet.hosts[number], way)
        self._healing[number] = now + lasts_s
        self._done["cuts"] += 1
        self._done[way] += 1

    def _heal(self, number: int) -> None:
        del self._healing[number]
        self._fleet.switch.heal(self._fleet.hosts[number])

    def _states(self) -> Dict[str, int]:
        try:
            return {state: count for state, count in self.queue.status().jobs.items() if count}
        except StoreUnavailable:
            return {}

    def _wait_for_rest(self, begin: float) -> int:
        """Return how many jobs have still not ended when patience ends."""
        deadline = time.monotonic() + self._weather.patience_s
        told_at = 0.0
        while True:
            try:
                left = self.queue.store.work_left()
                left += self.queue.status().jobs["processing"]
            except StoreUnavailable:
                left = -1
            if left == 0 or time.monotonic() > deadline:
                return left
            if time.monotonic() > told_at:
                told_at = time.monotonic() + 30
                self._say(f"{time.monotonic() - begin:.0f} s, calm again: {self._states()}")
            time.sleep(0.2)

    # -- the judgement ------------------------------------------------------------------------

    def _judge(self, took_s: float, stuck: int, ended: int, left: List[str]) -> Dict[str, Any]:
        records = oracle.read_records(self._log)
        store = self.queue.store
        problems = oracle.problems(store, records, self._acknowledged)
        outcomes = self._fleet.server.execute("SELECT state::text, count(*)::int FROM queuectl.runs GROUP BY state")
        second_ends = self._fleet.server.execute("SELECT run_id, was, became FROM public.witness")
        problems += [f"run {run_id} ended as {was} and again as {became}" for run_id, was, became in second_ends]
        crowded = self._fleet.server.execute("SELECT queue, running FROM public.crowded")
        problems += [f"{running} jobs of {name} ran at once" for name, running in crowded]
        problems += [f"{ended} groups of workers ended by themselves"] if ended else []
        problems += [f"a worker was left: {text}" for text in left if "still" in text]
        jobs = self.queue.status().jobs
        total = sum(jobs.values())
        if not len(self._acknowledged) <= total <= len(self._acknowledged) + BATCH * self._unknown:
            problems.append(
                f"{total} jobs, but {len(self._acknowledged)} acknowledged, {self._unknown} batches unknown"
            )
        said = "".join(host.said() for host in self._fleet.hosts)
        return {
            "jobs": total,
            "acknowledged": len(self._acknowledged),
            "completed": jobs["completed"],
            "took s": round(took_s),
            **self._done,
            "enqueues refused": self._refusals,
            "runs by outcome": dict(outcomes),
            "workers that ended their commands and began anew": said.count("lost its lease"),
            "stale ends refused": said.count("its result is dropped"),
            "lost": sum("is gone" in what for what in problems),
            "overlapping": sum("overlap" in what or "after its end" in what for what in problems),
            "stuck": stuck,
            "stale accepted": len(second_ends),
            "beyond a limit": len(crowded),
            "workers that died": said.count(" died ("),
            "groups that ended by themselves": ended,
            "problems": problems,
        }

    def close(self) -> None:
        """Close the store."""
        self.queue.close()


def rage(folder: Path, weather: Weather, say: Optional[Callable[[str], None]] = None) -> Dict[str, Any]:
    """Make a fleet of three hosts, let a storm rage over it and return the figures."""
    with Fleet(folder, settings=("fsync=on", "max_connections=200")) as fleet:
        storm = Storm(fleet, folder, weather, say or (lambda text: None))
        try:
            return storm.run()
        finally:
            storm.close()
