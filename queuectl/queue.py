"""The Python API: everything the command line does is a method of ``Queue`` first.

Threads and forks: a ``Queue`` may be shared by threads (one lock lets them in one at a time;
``wait`` and ``follow`` hold it only while they look). After a fork the child gets a connection of its
own by itself; the inherited one is neither used nor closed there.
"""

from __future__ import annotations

import os
import threading
import time

from queuectl import jobspec
from queuectl.db import open_store
from queuectl.errors import InvalidJob, JobExists, JobNotFound, QueuectlError, shown
from queuectl.switches import Switches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Union

    from queuectl.copying import Copied
    from queuectl.db import Location
    from queuectl.db.base import Store
    from queuectl.job import Job, JobFilter, Problem, Run, Status, Worker
    from queuectl.jobspec import JobSpec

    JobLike = Union[str, Mapping[str, Any], JobSpec]

# How long a waiting call sleeps between two looks: quick at first, then gently.
FIRST_LOOK_S = 0.005
LAST_LOOK_S = 0.1
PAGE = 1000


class Queue(Switches):
    """A job queue over one store.

    Args:
        location: A path or URL; None: ``QUEUECTL_DB``, else ``jobs.db`` in the home.
        create: Make a SQLite store that is missing; otherwise that is ``StoreRefused``.
    """

    def __init__(self, location: Optional[Location] = None, create: bool = True) -> None:
        self._location = location
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._inherited: List[Store] = []  # of a parent process: kept alive, never touched
        self._open: Optional[Store] = open_store(location, create)

    # -- life ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the store; later calls raise ``QueuectlError``."""
        with self._lock:
            if self._open is not None and self._pid == os.getpid():
                self._open.close()
            self._open = None

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def store(self) -> Store:
        """The store of this process; for queuectl's own modules."""
        if self._open is None:
            raise QueuectlError("this Queue is closed. Open a new one.")
        if self._pid != os.getpid():
            # A connection must not cross a fork: two processes would share one file position and one lock.
            self._inherited.append(self._open)
            self._lock = threading.RLock()
            self._open = open_store(self._location, create=False)
            self._pid = os.getpid()
        return self._open

    def now(self) -> float:
        """Return the time by the store's clock, in Unix seconds."""
        with self._lock:
            return self.store.now()

    # -- jobs come in -------------------------------------------------------------------------

    def enqueue(self, command: str, connection: Any = None, **fields: Any) -> Job:
        """Store one job durably and return it.

        Args:
            command: What the shell is to run.
            connection: An open psycopg or sqlite3 connection to this same store: the job is stored in its
                transaction, and is there once that is committed. Until then other enqueuers wait.
            fields: Any other job field: id, queue, priority, max_retries, backoff_base, timeout, run_at,
                delay, cwd, env, tags.

        Raises:
            InvalidJob, JobExists: Nothing was stored.
        """
        spec = jobspec.from_fields({"command": command, **fields}, os.getcwd())
        if connection is not None:
            with self._lock:
                return self.store.add_within(connection, [spec])[0]
        return self.get(self.add([spec])[0])

    def enqueue_many(self, jobs: Iterable[JobLike]) -> List[str]:
        """Store all *jobs* (commands or mappings of job fields) in one transaction; return their ids.

        Raises:
            InvalidJob, JobExists: Nothing was stored; the message names the position, from 1.
        """
        # Their letters, or their fields' names, would be taken for commands.
        if isinstance(jobs, (str, bytes)) or hasattr(jobs, "keys"):
            raise InvalidJob(f"enqueue_many wants a list of jobs, not {shown(jobs)}. Put it into brackets.")
        cwd = os.getcwd()
        specs = []
        for position, job in enumerate(jobs, 1):
            try:
                if isinstance(job, str):
                    job = {"command": job}
                elif not (isinstance(job, jobspec.JobSpec) or hasattr(job, "keys")):
                    raise InvalidJob(f"it must be a command or a mapping of job fields, not {shown(job)}.")
                specs.append(job if isinstance(job, jobspec.JobSpec) else jobspec.from_fields(job, cwd))
            except InvalidJob as error:
                raise InvalidJob(f"job {position}: {error}") from None
        try:
            return self.add(specs)
        except JobExists as error:
            position = 1 + error.index([spec.id for spec in specs])
            raise JobExists(error.job_id, error.why, f"job {position}: ") from None

    def add(self, specs: Sequence[JobSpec]) -> List[str]:
        """Store checked job descriptions, all or none, and return their ids in order."""
        with self._lock:
            return self.store.add(specs)

    # -- looking ------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            JobNotFound: There is none with this id.
        """
        with self._lock:
            job = self.store.get(job_id)
        if job is None:
            raise JobNotFound(job_id)
        return job

    def jobs(
        self,
        which: Optional[JobFilter] = None,
        limit: Optional[int] = None,
        sort: Optional[str] = None,
        descending: bool = False,
    ) -> Iterator[Job]:
        """Yield jobs, oldest first, or by the field *sort*; read page by page, never all at once."""
        from queuectl.job import SORTABLE, JobFilter

        if sort is not None and sort not in SORTABLE:
            raise QueuectlError(f"cannot sort by {shown(sort)}. Choose from {', '.join(SORTABLE)}.")
        which = (which or JobFilter()).checked()
        left = limit
        after = 0
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            with self._lock:
                page = self.store.jobs(which, after, size, sort, descending)
            yield from page
            if len(page) < size:
                return
            after = after + len(page) if sort or descending else page[-1].seq
            if left is not None:
                left -= len(page)

    def runs(self, job_id: str) -> List[Run]:
        """Return all runs of a job, first to last."""
        self.get(job_id)
        with self._lock:
            return self.store.runs(job_id)

    def output(self, job_id: str, run: Optional[int] = None) -> bytes:
        """Return what a run wrote (default: the last run), with a line where the middle was cut out.

        Raises:
            JobNotFound, QueuectlError: No such job, or no such run.
        """
        from queuectl.runner.output import joined

        chosen = self._run(job_id, run)
        with self._lock:
            parts = self.store.output(chosen.run_id) if chosen else []
        return b"".join(joined(parts, 0))

    def follow(self, job_id: str, run: Optional[int] = None) -> Iterator[bytes]:
        """Yield a run's output as it comes, to the run's end; wait for its start if it has not begun.

        Without *run*, the current or last run; of a job that waits for its first run, the first.
        """
        from queuectl.patience import Patient
        from queuectl.runner.output import joined

        end = 0
        sleep_s = FIRST_LOOK_S
        while True:
            with self._lock, Patient(self.store):
                job = self.get(job_id)
                chosen = self._run(job_id, run)
                parts = self.store.output(chosen.run_id, end) if chosen is not None else []
            if chosen is not None:
                run = chosen.number
                yield from joined(parts, end)
                if parts:
                    end = parts[-1][0] + len(parts[-1][1])
                    sleep_s = FIRST_LOOK_S
                elif chosen.state != "running":
                    return
            elif job.state in ("cancelled", "dead", "completed"):
                return
            sleep_s = self._nap(sleep_s)

    def _run(self, job_id: str, number: Optional[int]) -> Optional[Run]:
        runs = self.runs(job_id)
        if number is None:
            return runs[-1] if runs else None
        for run in runs:
            if run.number == number:
                return run
        had = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
        raise QueuectlError(f"{job_id} has had {had}; there is no run {number}.")

    def _nap(self, sleep_s: float) -> float:
        """Sleep until the next look is worth it; return how long to sleep after it."""
        from queuectl.patience import has_news

        deadline = time.monotonic() + sleep_s
        while time.monotonic() < deadline:
            time.sleep(min(sleep_s, FIRST_LOOK_S * 4))
            with self._lock:
                if has_news(self.store):
                    return FIRST_LOOK_S
        return min(sleep_s * 1.5, LAST_LOOK_S)

    def wait(self, job_id: str, timeout: Optional[float] = None) -> Job:
        """Wait until a job has ended (completed, dead or cancelled) and return it.

        Raises:
            TimeoutError: It had not ended after *timeout* seconds.
            StoreUnavailable: The database server has been away for five minutes, or as long as *timeout* is.
            JobNotFound: There is no such job, or it was deleted meanwhile.
        """
        return self.wait_all([job_id], timeout)[0]

    def wait_all(
        self, job_ids: Sequence[str], timeout: Optional[float] = None, tick: Optional[Callable[[], None]] = None
    ) -> List[Job]:
        """Wait until all of *job_ids* have ended; as ``wait``. *tick* is called between looks."""
        from queuectl.job import ENDED
        from queuectl.patience import Patient, deadline_of, different

        deadline = deadline_of(timeout)
        open_ids = different(job_ids)
        sleep_s = FIRST_LOOK_S
        while True:
            with self._lock, Patient(self.store, deadline):
                states = self.store.states(open_ids)
            for job_id in open_ids:
                if job_id not in states:
                    raise JobNotFound(job_id)
            open_ids = [job_id for job_id in open_ids if states[job_id] not in ENDED]
            if not open_ids:
                with self._lock, Patient(self.store, deadline):
                    self.store.sync()  # an end that was told must survive a loss of power
                    return [self.get(job_id) for job_id in job_ids]
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{', '.join(open_ids[:5])} had not ended after {timeout} s.")
            if tick is not None:
                tick()
            if deadline is not None:
                sleep_s = min(sleep_s, max(deadline - time.monotonic(), 0.0))
            sleep_s = self._nap(sleep_s)

    def status(self) -> Status:
        """Return the counts of every state, live workers, the age of the oldest due job, and rates."""
        from queuectl.job import STATES, Status

        with self._lock:
            queues = self.store.queues()
            now = self.store.now()
            oldest = self.store.oldest_due(now)
            rates = self.store.rates(now)
        jobs = {state: sum(getattr(queue, state) for queue in queues) for state in STATES}
        age_s = None if oldest is None else max(now - oldest, 0.0)
        paused = [queue.name for queue in queues if queue.paused]
        return Status(jobs, self.workers(), age_s, rates, paused)

    def workers(self) -> List[Worker]:
        """Return the live workers; one whose process is gone is never among them."""
        from queuectl.recovery import live_workers

        with self._lock:
            return [worker for worker in live_workers(self.store) if worker.role == "worker"]

    def explain(self, job_id: str) -> List[str]:
        """Return sentences: why the job is where it is, and what will move it on."""
        from queuectl.explain import explain

        with self._lock:
            return explain(self.store, self.get(job_id))

    # -- moving jobs --------------------------------------------------------------------------

    def cancel(self, *job_ids: str, wait_s: float = 0.0) -> Dict[str, str]:
        """Cancel jobs, all or none: waiting ones at once, running ones through their workers.

        Returns the state of each: at once, or after up to *wait_s* seconds for those that were running.
        """
        with self._lock:
            states = self.store.cancel(job_ids)
        deadline = time.monotonic() + wait_s
        running = [job_id for job_id, state in states.items() if state == "processing"]
        while running and time.monotonic() < deadline:
            time.sleep(FIRST_LOOK_S * 2)
            with self._lock:
                states.update(self.store.states(running))
            running = [job_id for job_id in running if states[job_id] == "processing"]
        return states

    def retry(self, *job_ids: str) -> None:
        """Start jobs over (completed, dead, cancelled, or failed): pending, due now, counts at 0; all or none."""
        with self._lock:
            self.store.retry(job_ids)

    def retry_dead(self, *job_ids: str) -> None:
        """Start jobs of the DLQ over; all or none.

        Raises:
            NotInDlq: One is not dead or does not exist; nothing was changed.
        """
        with self._lock:
            self.store.retry(job_ids, only_dead=True)

    def retry_where(self, which: JobFilter) -> int:
        """Start all jobs of *which* over that are ended or failed; return how many."""
        which = which.checked()
        with self._lock:
            return self.store.retry_where(which)

    def edit(self, job_id: str, **fields: Any) -> Job:
        """Change fields of a job that waits (pending or failed) and return it; None: as if it had not been given.

        Raises:
            InvalidJob, WrongState, JobNotFound: Nothing was changed.
        """
        changes = jobspec.check_fields(fields)
        if "id" in changes:
            raise InvalidJob("job field 'id' cannot be changed. Enqueue a new job and cancel this one.")
        if changes.get("cwd", "") is None:  # where the job was enqueued is nowhere kept
            raise InvalidJob("job field 'cwd' cannot be taken away: a job runs somewhere. Give a directory.")
        with self._lock:
            self.store.edit(job_id, changes)
        return self.get(job_id)

    def prune(self, which: JobFilter) -> int:
        """Delete the ended jobs of *which* with their runs and output; return how many."""
        which = which.checked()
        deleted = 0
        while True:
            with self._lock:
                step = self.store.prune(which, PAGE)
            deleted += step
            if step == 0:
                return deleted

    def reset(self, timeout: Optional[float] = None) -> None:
        """Stop all workers now, on every host, delete all jobs and runs, put the settings to default.

        Raises:
            QueuectlError: Workers were left after *timeout* seconds; nothing was deleted.
        """
        from queuectl.control import stop_workers
        from queuectl.recovery import live_workers

        with self._lock:
            left = stop_workers(self.store, True, timeout, all_hosts=True, newcomers=True) or live_workers(self.store)
            names = ", ".join(f"pid {worker.pid} on {worker.host}" for worker in left[:5])
            if left:
                raise QueuectlError(f"cannot reset: workers are running ({names}). Stop them first.")
            self.store.reset()

    # -- workers ------------------------------------------------------------------------------

    def stop_workers(
        self,
        now: bool = False,
        timeout: Optional[float] = None,
        hosts: Sequence[str] = (),
        all_hosts: bool = False,
    ) -> List[Worker]:
        """Stop every worker of this store on this machine and wait until they are gone.

        Groups that are started meanwhile go on.

        Args:
            now: End running commands and put their jobs back, instead of letting them finish.
            timeout: Seconds to wait; None: as long as it takes.
            hosts: Those on the hosts with these names instead; they are asked through the store.
            all_hosts: Those on every host.

        Returns those still there when *timeout* ended; usually none.
        """
        from queuectl.control import stop_workers

        with self._lock:
            return stop_workers(self.store, now, timeout, hosts, all_hosts)

    # -- the store ----------------------------------------------------------------------------

    def copy_to(
        self,
        location: str,
        stop: bool = False,
        now: bool = False,
        timeout: Optional[float] = None,
        tell: Optional[Callable[[str, int, int], None]] = None,
    ) -> Copied:
        """Copy the whole store into the one at *location*: new, empty, or an unfinished copy of this one.

        Args:
            location: A path or URL.
            stop: Stop the workers of all hosts first, instead of refusing while any run.
            now: With *stop*: end running commands and put their jobs back.
            timeout: With *stop*: seconds to wait for them.
            tell: Called with what is being done, how many rows are done, and of how many.

        Raises:
            Refused, StoreError: See ``queuectl.copying.copy``; called again it goes on where it was.
        """
        from queuectl.copying import copy

        with self._lock:
            if stop:
                self.stop_workers(now, timeout, all_hosts=True)
            return copy(self.store, location, tell)

    def check(self) -> List[Problem]:
        """Look for damage and stuck jobs; return what was found."""
        with self._lock:
            return self.store.check()
