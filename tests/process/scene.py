"""The scene of a process test: a store, groups of workers, and commands that note what happens to them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest

from queuectl import Queue
from queuectl.job import Job, Worker
from queuectl.runner.identity import process_started, send_signal
from tests import oracle

#: Notes a beat 10 times a second for a minute at most, and its own pid first.
BEAT = """
echo $$ >> "$4"
count=0
while [ $count -lt 600 ]; do
    echo "$1 $2 beat $(date +%s.%N)" >> "$3"
    sleep 0.1
    count=$((count + 1))
done
"""
#: Holds a command until the test makes the file ``go`` in the directory that it runs in.
HELD = "until [ -e go ]; do sleep 0.1; done"
#: Ways of leaving something behind; {beat} beats until it is killed.
WAYS = {
    "a child": "{beat} &",
    "a child in a session of its own": "setsid {beat} &",
    "a child with an emptied environment": 'env -i PATH="$PATH" {beat} &',
    "a grandchild whose parent is gone": "( {beat} & )",
    "a grandchild in a session of its own whose parent is gone": "( setsid {beat} & )",
    "a child that ignores TERM": "(trap '' TERM HUP INT; {beat}) &",
    "a child with an emptied environment in a session of its own": 'setsid env -i PATH="$PATH" {beat} &',
}


def alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not, unless only its first thread has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return fields[0] not in (b"Z", b"X") or (fields[0] == b"Z" and int(fields[17]) > 1)
    except OSError:
        pass
    if os.path.isdir("/proc/self"):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def collected(pid: int) -> bool:
    """Say whether a process has ended and its parent has seen that: no zombie is left either."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def seconds_of_its_own() -> str:
    """Return a time for ``sleep`` by which its processes are told from all others of the machine: a minute and some."""
    return f"6{secrets.randbelow(10)}.{secrets.randbelow(10**6):06d}"


def sleeping(seconds: str) -> List[int]:
    """Return the processes that have this as one of their words, by whatever name; in inner pid namespaces too."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            if seconds.encode() in words:
                found.append(int(name))
    return found


class Journal:
    """The file that the commands note their starts and ends in, and beats in between."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._beat = path.parent / "beat.sh"
        self._beat.write_text(BEAT)

    def command(self, body: str = "") -> str:
        """Return a command that runs *body* between two notes."""
        return oracle.recorded(body, shlex.quote(str(self.path)))

    def leaving(self, *ways: str, pids: str = "beats") -> str:
        """Return shell text that starts a beating process in each of these WAYS and waits until all beat.

        Their pids are appended to the file *pids*, a name in which the shell may fill in variables.
        """
        file = f'"{self.path.parent}/{pids}"'
        beat = f'sh {self._beat} "$QUEUECTL_JOB_ID" "$QUEUECTL_RUN_ID" {shlex.quote(str(self.path))} {file}'
        begun = f"until [ $(cat {file} 2>/dev/null | wc -l) -ge {len(ways)} ]; do sleep 0.1; done"
        return "\n".join([*[WAYS[way].format(beat=beat) for way in ways], begun])

    def records(self) -> List[oracle.Record]:
        return oracle.read_records(self.path)

    def count(self, what: str, job_id: Optional[str] = None) -> int:
        """Return how many notes of one word there are, of one job or of all."""
        return sum(record.what == what and job_id in (None, record.job_id) for record in self.records())


class Group:
    """A supervisor and its workers, started by ``worker start`` in a session of their own.

    What the fixture ``background`` returns is in ``process``; its ``out``, ``stop()`` ... can be asked here too.
    """

    def __init__(self, process: Any, queue: Queue) -> None:
        self.process = process
        self.pid: int = process.pid
        self._queue = queue
        self._group_id = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.process, name)

    def workers(self) -> List[Worker]:
        """Return its live workers in the order of their numbers."""
        everyone = self._queue.store.workers()
        for row in everyone:
            if row.role == "supervisor" and row.pid == self.pid:
                self._group_id = row.group_id
        mine = [row for row in everyone if row.role == "worker" and row.group_id == self._group_id and alive(row.pid)]
        return sorted(mine, key=lambda row: row.number)

    def is_registered(self) -> bool:
        """Say whether the supervisor is in the store."""
        return any(row.pid == self.pid for row in self._queue.store.workers())

    def has_said(self, text: str) -> bool:
        return text in self.out

    def pids(self) -> List[int]:
        """Return the pids of its live workers."""
        return [worker.pid for worker in self.workers()]

    def kill_all(self, supervisor_first: bool = True) -> None:
        """Kill the supervisor and all workers, none of them prepared."""
        victims = [self.pid, *self.pids()]
        for pid in victims[1:] if supervisor_first else ():
            os.kill(pid, signal.SIGSTOP)  # else it may end by itself, once its supervisor is gone
        for pid in victims if supervisor_first else reversed(victims):
            os.kill(pid, signal.SIGKILL)
        self.process.process.wait()
        while any(map(alive, victims)):  # a signal takes its time; the test's own limit ends this
            time.sleep(0.005)


class Scene:
    """Everything that a process test needs, on the store of its own home."""

    def __init__(self, folder: Path, queue: Queue, background: Callable[..., Any], eventually: Callable[..., Any]):
        self.folder = folder
        self.queue = queue
        self.journal = Journal(folder / "journal")
        self.eventually = eventually
        self._background = background
        self._seen: Dict[int, str] = {}

    def start(self, *words: str, wait: bool = True, **how: Any) -> Group:
        """Start ``worker start WORD ...`` and, unless told not to, wait until its workers are registered."""
        group = Group(self._background("worker", "start", *words, **how), self.queue)
        count = int(words[words.index("--count") + 1]) if "--count" in words else 1
        if wait:
            self.eventually(lambda: len(group.workers()) == count, timeout=30, what=f"{count} workers")
        return group

    def successor(self, group: Group, dead: Worker) -> Worker:
        """Wait until a worker that was killed has been replaced, and return the new one."""

        def replaced() -> Optional[Worker]:
            return next((each for each in group.workers() if each.number == dead.number and each.id != dead.id), None)

        found: Worker = self.eventually(replaced, timeout=30, what=f"a successor of worker {dead.number}")
        return found

    def drain(self, *words: str, timeout: float = 60.0, **how: Any) -> None:
        """Run ``worker start --drain WORD ...`` to its end, which is in order."""
        done = self.start("--drain", *words, wait=False, **how).wait(timeout)
        if (0, "") != (done.code, done.err):
            pytest.fail(f"draining ended with exit code {done.code}: {done.out}{done.err}")

    def state(self, job_id: str) -> str:
        return self.queue.get(job_id).state

    def outcomes(self, job_id: str) -> List[str]:
        """Return how the runs of a job ended, first to last."""
        return [run.state for run in self.queue.runs(job_id)]

    def output(self, job_id: str) -> str:
        """Return what the job's last run printed."""
        return self.queue.output(job_id).decode()

    def until(self, job_id: str, *states: str, timeout: float = 30.0) -> Job:
        """Wait until a job is in one of these states and return it."""

        def there() -> Job:
            job = self.queue.get(job_id)
            if job.state not in states:
                raise AssertionError(f"{job_id} is {job.state}, not {' or '.join(states)}")
            return job

        found: Job = self.eventually(there, timeout=timeout, what=f"{job_id} {' or '.join(states)}")
        return found

    def noted(self, what: str, count: int = 1, job_id: Optional[str] = None, timeout: float = 30.0) -> None:
        """Wait until commands have noted one word so many times."""
        self.eventually(
            lambda: self.journal.count(what, job_id) >= count, timeout=timeout, what=f"{count} notes of {what}"
        )

    def pids(self, name: str, count: int = 1) -> List[int]:
        """Wait until commands have written *count* pids to a file and return them; none survives the test."""

        def written() -> Optional[List[int]]:
            path = self.folder / name
            words = path.read_text().split() if path.exists() else []
            return [int(word) for word in words] if len(words) >= count else None

        found: List[int] = self.eventually(written, timeout=30, what=f"{count} pids in {name}")
        self._seen.update((pid, process_started(pid) or "") for pid in found if pid not in self._seen)
        return found

    def gone(self, pids: List[int], timeout: float = 15.0) -> None:
        """Wait until none of these processes runs."""
        self.eventually(lambda: not any(map(alive, pids)), timeout=timeout, what=f"the end of {pids}")

    def judge(self, **how: Any) -> None:
        """Let the oracle judge the store and the journal; keywords as ``oracle.problems``."""
        found = oracle.problems(self.queue.store, self.journal.records(), **how)
        if found:
            pytest.fail("\n".join(found))

    def close(self) -> None:
        """Kill what commands left and said so."""
        for pid, started in self._seen.items():
            send_signal(pid, started, signal.SIGKILL)


def bells(scene: Scene) -> List[Path]:
    """Return the doorbells that hang beside the store: each is of an idle worker."""
    return list((scene.folder / ".queuectl" / "jobs.db-run").glob("*.bell"))


def most_at_once(records: List[oracle.Record]) -> int:
    """Return how many commands ran at the same time at most, by the order of their notes."""
    most = running = 0
    for record in records:
        running += {"start": 1, "end": -1}.get(record.what, 0)
        most = max(most, running)
    return most
