"""A rampage on one machine: jobs run while workers, supervisors and commands are killed and paused; the oracle judges.

What is done to whom and when comes from a seed; what meets it there does not, so a seed repeats the dice and not the
history. The store has a witness of its own: a trigger notes every attempt to end a run a second time, which is
what an accepted result of a stale worker would be.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from queuectl import Queue
from queuectl.errors import QueuectlError
from queuectl.runner import end_runs_at_once
from queuectl.runner.identity import is_running, process_started, send_signal
from tests import oracle

WITNESS = """
CREATE TABLE witness (run_id INTEGER, was TEXT, became TEXT);
CREATE TRIGGER witness AFTER UPDATE ON runs WHEN old.ended_at IS NOT NULL
BEGIN
    INSERT INTO witness VALUES (old.run_id, old.state, new.state);
END;
"""
#: Beats 10 times a second for half a minute.
BEAT = """
count=0
while [ $count -lt 300 ]; do
    echo "$1 $2 beat $(date +%s.%N)" >> "$3"
    sleep 0.1
    count=$((count + 1))
done
"""


class Kind(NamedTuple):
    """A kind of job: its share of all, what its command does, its other fields."""

    share: float
    body: str
    fields: Dict[str, Any] = {}


AGAIN = {"backoff_base": 1, "max_retries": 5}
ONCE = {"max_retries": 0}
#: {beat} runs BEAT beside the command.
KINDS = {
    "quick": Kind(0.60, ""),
    "half a second": Kind(0.14, "sleep 0.5"),
    "fails at first": Kind(0.05, '[ "$QUEUECTL_ATTEMPT" -gt 1 ]', AGAIN),
    "fails": Kind(0.03, "exit 3", ONCE),
    "delayed": Kind(0.06, "", {"delay": 8}),
    "urgent": Kind(0.04, "", {"priority": 5}),
    "limited": Kind(0.02, "sleep 0.2", {"queue": "two-at-once"}),
    "prints": Kind(0.01, "head -c 60000 /dev/zero | tr '\\0' x; echo"),
    "beats": Kind(0.03, "for beat in $(seq 12); do note beat; sleep 0.2; done"),
    "longer than the lease": Kind(0.004, "for beat in $(seq 25); do note beat; sleep 0.4; done"),
    "timed out with its child": Kind(0.008, "{beat} & sleep 30", {**ONCE, "timeout": 1}),
    "timed out with a child that called setsid": Kind(0.008, "setsid {beat} & sleep 30", {**ONCE, "timeout": 1}),
}
#: What is done, and how often in comparison.
DEEDS = {
    "kill a worker": 28, "pause a worker": 20, "kill a supervisor": 8, "pause a supervisor": 6, "kill a group": 6,
    "pause a group": 6, "kill an enqueuer": 8, "pause an enqueuer": 4, "worker stop": 2, "worker stop --now": 2,
    "kill a worker stop": 3, "cancel a job": 7,
}  # fmt: skip
#: What the oracle says of two runs at once.
OVERLAPS = ("overlap", "after its end", "began before")
GROUPS = (3, 3, 2)  # workers of each
BATCH = 25


class Plan(NamedTuple):
    """How long, how much, how bad; in seconds."""

    jobs: int = 30_000
    lasts_s: float = 1800.0
    least_deeds: int = 0  # it goes on until so many are done
    every_s: Tuple[float, float] = (0.5, 3.0)  # from one deed to the next
    pauses_s: Tuple[float, float] = (0.1, 12.0)  # shorter and longer than the lease and its margin
    lease_s: float = 5.0
    patience_s: float = 300.0  # how long the rest may take when it is over
    seed: int = 1


class Process:
    """A queuectl process that was started here."""

    def __init__(self, folder: Path, *words: str, stdin: Any = subprocess.DEVNULL) -> None:
        with open(folder / "said", "ab") as said:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "queuectl", *words],
                stdin=stdin, stdout=said if stdin is subprocess.DEVNULL else subprocess.PIPE, stderr=said,
                start_new_session=True,
            )  # fmt: skip
        self.pid = self.popen.pid
        self.started = process_started(self.pid) or ""

    @property
    def running(self) -> bool:
        return self.popen.poll() is None


class Rampage:
    """One rampage on the store of QUEUECTL_HOME; ``run`` returns the figures, the oracle's ``problems`` among them."""

    def __init__(self, folder: Path, plan: Plan, say: Callable[[str], None] = lambda text: None) -> None:
        self._folder = folder
        self._plan = plan
        self._say = say
        self._log = folder / "journal"
        self._dice = random.Random(plan.seed)
        (folder / "beat.sh").write_text(BEAT)
        self._groups: List[Process] = []
        self._enqueuers: List[Process] = []
        self._stoppers: List[Process] = []
        self._paused: List[Tuple[float, int, str]] = []  # until when, pid, its start
        self._acknowledged: List[str] = []
        self._done: Dict[str, int] = collections.Counter()
        self._troubles: List[str] = []
        self.queue = Queue()

    def run(self) -> Dict[str, Any]:
        """Let it rage, wait for the rest, judge."""
        for key, value in (("max_lost", "1000000"), ("lease", f"{self._plan.lease_s:g}"), ("kill_grace", "0.5")):
            self.queue.set_setting(key, value)
        for state in ("completed", "dead"):
            self.queue.set_setting(f"on_{state}", self._command(""))
        self.queue.store.set_limit("two-at-once", 2)
        with contextlib.closing(sqlite3.connect(self.queue.store.location)) as db:
            db.executescript(WITNESS)
        begin = time.monotonic()
        self._groups = [self._start(count) for count in GROUPS]
        adders = [threading.Thread(target=self._add, args=(begin, number), daemon=True) for number in range(2)]
        for adder in adders:
            adder.start()
        try:
            self._rage(begin)
            self._calm()
            for adder in adders:
                adder.join(60)
            stuck = self._wait_for_rest(begin)
            took_s = time.monotonic() - begin
            return self._judge(took_s, stuck)
        finally:
            self._end_all()

    # -- jobs come in -------------------------------------------------------------------------

    def _add(self, begin: float, number: int) -> None:
        """Enqueue half of all jobs through processes that may be killed: a quarter at once, the others bit by bit."""
        dice = random.Random(self._plan.seed * 10 + number)
        count, calm_s = self._plan.jobs // 2, self._plan.lasts_s * 0.9
        added = 0
        while added < count:
            if added >= count * min(1.0, 0.25 + 0.75 * (time.monotonic() - begin) / calm_s):
                time.sleep(0.05)
                continue
            answered = self._enqueue(dice, min(BATCH if dice.random() < 0.8 else 1, count - added))
            self._acknowledged += answered
            added += len(answered)

    def _enqueue(self, dice: random.Random, count: int) -> List[str]:
        """Run ``enqueue --file -`` with *count* jobs; return the ids that it answered, none if it was killed."""
        import json

        kinds = dice.choices(list(KINDS.values()), [kind.share for kind in KINDS.values()], k=count)
        lines = [json.dumps({"command": self._command(kind.body), **kind.fields}) + "\n" for kind in kinds]
        process = Process(self._folder, "enqueue", "--file", "-", stdin=subprocess.PIPE)
        self._enqueuers.append(process)
        answer = process.popen.communicate("".join(lines).encode())[0].decode()
        self._enqueuers.remove(process)
        if process.popen.returncode not in (0, -signal.SIGKILL):
            self._troubles.append(f"an enqueue ended with {process.popen.returncode}: {answer}")
        if not answer.endswith(")\n"):
            return []
        first, _, last = answer.rstrip(")\n").partition("(")[2].partition(" .. ")
        return [f"job{number}" for number in range(int(first[3:]), int((last or first)[3:]) + 1)]

    def _command(self, body: str) -> str:
        log = shlex.quote(str(self._log))
        beat = f'sh {self._folder}/beat.sh "$QUEUECTL_JOB_ID" "$QUEUECTL_RUN_ID" {log}'
        return oracle.recorded(body.replace("{beat}", beat), log)

    # -- the rampage --------------------------------------------------------------------------

    def _start(self, count: int) -> Process:
        return Process(self._folder, "worker", "start", "--count", str(count))

    def _rage(self, begin: float) -> None:
        deed_at = told_at = begin + 1.0
        while time.monotonic() < begin + self._plan.lasts_s or self._deeds() < self._plan.least_deeds:
            now = time.monotonic()
            self._go_on(now)
            if now >= deed_at:
                deed_at = now + self._dice.uniform(*self._plan.every_s)
                self._do(self._dice.choices(list(DEEDS), list(DEEDS.values()))[0])
            if now >= told_at:
                told_at = now + 30
                self._say(f"{now - begin:.0f} s: {self._states()}, {sum(self._done.values())} deeds")
            time.sleep(0.02)

    def _go_on(self, now: float) -> None:
        """Let those go on whose pause is over; start anew what has ended; forget stops that are done."""
        for until, pid, started in [pause for pause in self._paused if now >= pause[0]]:
            self._paused.remove((until, pid, started))
            send_signal(pid, started, signal.SIGCONT)
        for place, group in enumerate(self._groups):
            if not group.running:
                self._groups[place] = self._start(GROUPS[place])
                self._done["groups started anew"] += 1
        self._stoppers = [stopper for stopper in self._stoppers if stopper.running]

    def _deeds(self) -> int:
        return sum(self._done[deed] for deed in DEEDS)

    def _do(self, deed: str) -> None:
        """Do one deed; it counts if there was somebody to do it to."""
        verb, _, whom = deed.partition(" ")
        victims = self._victims(whom.split(" ", 1)[-1]) if verb in ("kill", "pause") else []
        if verb == "worker":
            self._stoppers.append(Process(self._folder, *deed.split(), "--timeout", "60"))
        elif verb == "cancel":
            if not self._acknowledged:
                return
            Process(self._folder, "cancel", self._dice.choice(self._acknowledged)).popen.wait()
        elif not victims:
            return
        until = time.monotonic() + self._dice.uniform(*self._plan.pauses_s)
        for pid, started in victims:
            send_signal(pid, started, signal.SIGKILL if verb == "kill" else signal.SIGSTOP)
            if verb == "pause":
                self._paused.append((until, pid, started))
        self._done[deed] += 1

    def _victims(self, whom: str) -> List[Tuple[int, str]]:
        """Return pid and start time of who is meant, chosen by the dice."""
        try:
            rows = [row for row in self.queue.store.workers() if is_running(row.pid, row.pid_started)]
        except QueuectlError:
            return []
        workers = [row for row in rows if row.role == "worker"]
        if whom == "worker":
            chosen = self._dice.sample(workers, min(1, len(workers)))
        elif whom == "supervisor":
            group = self._dice.choice(self._groups)
            return [(group.pid, group.started)]
        elif whom == "group":
            names = sorted({row.group_id for row in rows})
            name = self._dice.choice(names) if names else ""
            chosen = [row for row in rows if row.group_id == name]
        else:
            if whom == "worker stop":
                self._stoppers.append(Process(self._folder, "worker", "stop", "--timeout", "60"))
                time.sleep(self._dice.uniform(0.0, 0.5))
            there = list(self._stoppers[-1:] if whom == "worker stop" else self._enqueuers)
            deadline = time.monotonic() + 2.0
            while not there and time.monotonic() < deadline:
                there = list(self._enqueuers)
            return [(process.pid, process.started) for process in there[:1]]
        return [(row.pid, row.pid_started) for row in chosen]

    def _calm(self) -> None:
        """Let everybody go on."""
        for _, pid, started in self._paused:
            send_signal(pid, started, signal.SIGCONT)
        self._paused = []

    def _states(self) -> Dict[str, int]:
        return {state: count for state, count in self.queue.status().jobs.items() if count}

    def _wait_for_rest(self, begin: float) -> int:
        """Return how many jobs have still not ended when patience ends."""
        deadline = time.monotonic() + self._plan.patience_s
        told_at = 0.0
        while True:
            self._go_on(time.monotonic())
            left = self.queue.store.work_left()
            if left == 0 or time.monotonic() > deadline:
                return left
            if time.monotonic() > told_at:
                told_at = time.monotonic() + 30
                self._say(f"{time.monotonic() - begin:.0f} s, calm: {self._states()}")
            time.sleep(0.1)

    # -- the judgement ------------------------------------------------------------------------

    def _entered(self) -> None:
        """Wait until the groups that were started just now have entered: a stop is for those that have."""
        deadline = time.monotonic() + 30.0
        while time.monotonic() < deadline:
            there = {row.pid for row in self.queue.store.workers()}
            if all(group.pid in there for group in self._groups if group.running):
                return
            time.sleep(0.05)

    def _judge(self, took_s: float, stuck: int) -> Dict[str, Any]:
        self._entered()
        stop = subprocess.run(
            [sys.executable, "-m", "queuectl", "worker", "stop", "--timeout", "60"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        store = self.queue.store
        found = oracle.problems(store, oracle.read_records(self._log), self._acknowledged)
        with contextlib.closing(sqlite3.connect(store.location)) as db:
            integrity = db.execute("PRAGMA integrity_check").fetchone()[0]
            ends = db.execute("SELECT run_id, was, became FROM witness").fetchall()
            outcomes = dict(db.execute("SELECT state, count(*) FROM runs GROUP BY state ORDER BY state"))
        found += [f"run {run_id} ended as {was} and again as {became}" for run_id, was, became in ends]
        found += [] if stop.returncode == 0 else [f"worker stop: {stop.stdout.decode()}"]
        found += [f"left running: {line}" for line in left_running()]
        found += self._wrong_hooks()
        found += self._troubles
        said = (self._folder / "said").read_bytes().decode("utf-8", "replace")
        found += [f"a traceback: {said[said.index('Traceback') :][:2000]}"] if "Traceback" in said else []
        jobs = self.queue.status().jobs
        return {
            "seed": self._plan.seed,
            "jobs": sum(jobs.values()),
            "acknowledged": len(self._acknowledged),
            "jobs by state": {state: count for state, count in jobs.items() if count},
            "runs by outcome": outcomes,
            "took s": round(took_s),
            "deeds": self._deeds(),
            **self._done,
            "lost": sum("is gone" in what or "no job has the id" in what for what in found),
            "overlapping": sum(any(word in what for word in OVERLAPS) for what in found),
            "stale accepted": len(ends) + sum("accepted completions" in what for what in found),
            "stuck": stuck,
            "integrity": integrity,
            "problems": found,
        }

    def _wrong_hooks(self) -> List[str]:
        """Say which jobs have not just as many hooks as they have to: as nobody retries one, that is one or none."""
        states: Dict[str, str] = {}
        hooks: Dict[str, int] = collections.Counter()
        for job in self.queue.jobs():
            ended = job.env.get("QUEUECTL_ENDED_ID")
            if ended is None:
                states[job.id] = job.state
            else:
                hooks[ended] += 1
        return [
            f"{job_id} is {state} and has {hooks[job_id]} hooks"
            for job_id, state in states.items()
            if hooks[job_id] != (state in ("completed", "dead"))
        ]

    def _end_all(self) -> None:
        """Leave no process behind."""
        self._calm()
        for process in [*self._groups, *self._stoppers, *self._enqueuers]:
            if process.running:
                process.popen.kill()
            process.popen.wait()
        store = self.queue.store
        workers = store.workers()
        for row in workers:
            send_signal(row.pid, row.pid_started, signal.SIGKILL)
        owners = [*[row.id for row in workers], *store.ownerless()]
        end_runs_at_once(store.store_id, frozenset(run_id for one in owners for _, run_id in store.runs_of(one)), {})
        self.queue.close()


def left_running() -> List[str]:
    """Return the command lines of processes with our QUEUECTL_HOME; some time is given to those about to end."""
    mark = b"\0QUEUECTL_HOME=" + os.fsencode(os.environ["QUEUECTL_HOME"]) + b"\0"
    deadline = time.monotonic() + 5.0
    while True:
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in b"\0" + Path("/proc", entry, "environ").read_bytes():
                        found.append(Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode())
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def rage(folder: Path, plan: Plan, say: Optional[Callable[[str], None]] = None) -> Dict[str, Any]:
    """Let a rampage go over the store of QUEUECTL_HOME and return its figures."""
    return Rampage(folder, plan, say or (lambda text: None)).run()
