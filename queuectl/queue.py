"""The Python API: everything the command line does is a method of ``Queue`` first.

Threads and forks: a ``Queue`` may be shared by threads. One lock lets them in one at a time; what waits (``wait``,
``follow``, ``cancel``, ``stop_workers``, ``reset``) holds it only while it looks, ``copy_to`` as long as it copies.
``enqueue`` with a connection does not hold it: several threads may be in ``Store.add_within`` at once.
After a fork the child gets a connection of its own by itself: see ``queuectl.forking``.
"""

from __future__ import annotations

import sys
import time

from queuectl import jobspec
from queuectl.db.rules import HUGE_BATCH
from queuectl.errors import (
    InvalidJob,
    JobExists,
    NotInDlq,
    QueuectlError,
    StoreRefused,
    StoreUnavailable,
    shown,
)
from queuectl.following import FIRST_LOOK_S, Following
from queuectl.switches import Switches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

    from queuectl.copying import Copied
    from queuectl.db import Location
    from queuectl.db.spool import Specs, Spool
    from queuectl.job import Job, JobFilter, Problem, Status, Worker
    from queuectl.jobspec import JobSpec

    JobLike = Union[str, Mapping[str, Any], JobSpec]

PAGE = 1000
# Of so many jobs the order is found at once: sorting takes as long for one page of them, and each takes a few bytes.
ORDERED = 200_000


class Queue(Following, Switches):
    """A job queue over one store.

    Args:
        location: A path or URL; None: ``QUEUECTL_DB``, else ``jobs.db`` in the home.
        create: Make a SQLite store that is missing; otherwise that is ``StoreRefused``.
    """

    def __init__(self, location: Optional[Location] = None, create: bool = True) -> None:
        super().__init__(location, create)

    # -- life ---------------------------------------------------------------------------------

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

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
                delay, cwd, env, tags, after.

        Raises:
            InvalidJob, JobExists: Nothing was stored.
            StoreUnavailable: Nor was it then, unless the message names the job: do not store that again.
        """
        spec = jobspec.from_fields({"command": command, **fields})
        if connection is not None:
            return self._add_within(connection, [spec])[0]
        with self._lock:
            return self.store.add_one(spec)

    def _add_within(self, connection: Any, specs: Specs) -> List[Job]:
        """Store jobs in the transaction of *connection*, and note meanwhile that this thread is at it."""
        store, frame = self._store_beside(), sys._getframe()
        self._beside.append(frame)
        try:
            return store.add_within(connection, specs)
        finally:
            self._beside.remove(frame)

    def enqueue_many(self, jobs: Iterable[JobLike], connection: Any = None) -> List[str]:
        """Store all *jobs* (commands or mappings of job fields) in one transaction; return their ids.

        Args:
            jobs: What is to be stored, all or none.
            connection: As in ``enqueue``: the transaction is this connection's.

        Raises:
            InvalidJob, JobExists: Nothing was stored; the message names the position, from 1.
        """
        # Their letters, or their fields' names, would be taken for commands.
        if isinstance(jobs, (str, bytes)) or hasattr(jobs, "keys") or not hasattr(jobs, "__iter__"):
            raise InvalidJob(f"enqueue_many takes a list of jobs, not {shown(jobs)}. Put it into brackets.")
        if getattr(jobs, "__len__", lambda: HUGE_BATCH + 1)() <= HUGE_BATCH:
            return self._check_and_add(jobs, [], connection)
        from queuectl.db.spool import Spool

        with Spool() as spool:
            return self._check_and_add(jobs, spool, connection)

    def _check_and_add(self, jobs: Iterable[JobLike], specs: Union[Spool, List[JobSpec]], connection: Any) -> List[str]:
        """Check *jobs*, collect them in *specs*, and store them."""
        cwd = jobspec.usual_directory()
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
            if connection is not None:
                return [job.id for job in self._add_within(connection, specs)]
            return list(self.add(specs))
        except JobExists as error:
            position = 1 + error.index([spec.id for spec in specs])
            raise JobExists(error.job_id, error.why, f"job {position}: ") from None
        except InvalidJob as error:
            if error.place is None:
                raise
            raise InvalidJob(f"job {error.place + 1}: {error}") from None

    def add(self, specs: Specs) -> Sequence[str]:
        """Store checked job descriptions, all or none, and return their ids in order."""
        with self._lock:
            return self.store.add(specs)

    # -- looking ------------------------------------------------------------------------------

    def jobs(
        self,
        which: Optional[JobFilter] = None,
        limit: Optional[int] = None,
        sort: Optional[str] = None,
        descending: bool = False,
    ) -> Iterator[Job]:
        """Yield jobs, oldest first, or by the field *sort*; read page by page, never all at once."""
        from queuectl.job import SORTABLE, JobFilter, checked_filter

        if sort is not None and sort not in SORTABLE:
            raise QueuectlError(f"cannot sort by {shown(sort)}. Choose from {', '.join(SORTABLE)}.")
        if limit is not None and (type(limit) is not int or limit < 0):
            raise QueuectlError(f"a limit must be a whole number from 0, or None for no limit, not {shown(limit)}.")
        which = checked_filter(JobFilter() if which is None else which)
        if (sort is not None or descending) and (limit is None or limit > PAGE):
            yield from self._in_order(which, limit, sort, descending)
            return
        left = limit
        after = 0
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            with self._lock:
                page = self.store.jobs(which, after, size, sort, descending)
            yield from page
            if len(page) < size or sort is not None or descending:
                return
            after = page[-1].seq
            if left is not None:
                left -= len(page)

    def _in_order(self, which: JobFilter, limit: Optional[int], sort: Optional[str], descending: bool) -> Iterator[Job]:
        """Yield many jobs by a field: all are sorted once for a great many pages, and not for each."""
        skip = 0
        while limit is None or skip < limit:
            size = ORDERED if limit is None else min(ORDERED, limit - skip)
            with self._lock:
                seqs = self.store.order(which, skip, size, sort, descending)
            for first in range(0, len(seqs), PAGE):
                with self._lock:
                    page = self.store.jobs_at(seqs[first : first + PAGE], which)
                yield from page
            if len(seqs) < size:
                return
            skip += len(seqs)

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

        Returns the state of each: at once, or after up to *wait_s* seconds for those that were running; ``deleted`` for
        one that somebody has deleted meanwhile.
        """
        from queuectl.patience import deadline_of

        ids = jobspec.check_ids(job_ids)
        deadline = deadline_of(wait_s)
        with self._lock:
            states = self.store.cancel(ids)
        running = [job_id for job_id, state in states.items() if state == "processing"]
        while running and (deadline is None or time.monotonic() < deadline):
            time.sleep(FIRST_LOOK_S * 2)
            with self._lock:
                found = self.store.states(running)
            states.update((job_id, found.get(job_id, "deleted")) for job_id in running)
            running = [job_id for job_id in running if states[job_id] == "processing"]
        return states

    def cancel_where(self, which: JobFilter, tell: Optional[Callable[[int], None]] = None) -> Tuple[int, List[str]]:
        """Cancel all jobs of *which* that wait or run; return how many waited, and the ids of those that run.

        When this returns, the workers of the latter are ending them. *tell* as ``retry_where``.
        """
        from queuectl.job import checked_filter
        from queuectl.patience import check_function

        check_function("tell", tell)
        which = checked_filter(which)
        with self._lock:
            return self.store.cancel_where(which, tell=tell)

    def retry(self, *job_ids: str) -> None:
        """Start jobs over (completed, dead, cancelled, or failed): pending, due now, counts at 0; all or none."""
        ids = jobspec.check_ids(job_ids)
        with self._lock:
            self.store.retry(ids)

    def retry_dead(self, *job_ids: str) -> None:
        """Start jobs of the DLQ over; all or none.

        Raises:
            NotInDlq: One is not dead or does not exist; nothing was changed.
        """
        ids = jobspec.check_ids(job_ids, NotInDlq)
        with self._lock:
            self.store.retry(ids, only_dead=True)

    def retry_where(self, which: JobFilter, tell: Optional[Callable[[int], None]] = None) -> int:
        """Start all jobs of *which* over that are ended or failed; return how many.

        *tell* is called after each step with how many it were so far.
        """
        from queuectl.job import checked_filter
        from queuectl.patience import check_function

        check_function("tell", tell)
        which = checked_filter(which)
        with self._lock:
            return self.store.retry_where(which, tell=tell)

    def edit(self, job_id: str, **fields: Any) -> Job:
        """Change fields of a job that waits (pending or failed) and return it; None: as if it had not been given.

        Raises:
            InvalidJob, WrongState, JobNotFound: Nothing was changed.
        """
        [job_id] = jobspec.check_ids([job_id])
        changes = jobspec.check_fields(fields)
        if "id" in changes:
            raise InvalidJob("job field 'id' cannot be changed. Enqueue a new job and cancel this one.")
        if changes.get("cwd", "") is None:  # where the job was enqueued is nowhere kept
            raise InvalidJob("job field 'cwd' cannot be removed: every job has a directory. Give another one.")
        with self._lock:
            self.store.edit(job_id, changes)
        return self.get(job_id)

    def prune(self, which: JobFilter, tell: Optional[Callable[[int], None]] = None) -> int:
        """Delete the ended jobs of *which* with their runs and output; return how many; *tell* as ``retry_where``."""
        from queuectl.job import checked_filter
        from queuectl.patience import check_function

        check_function("tell", tell)
        which = checked_filter(which)
        deleted = 0
        while True:
            with self._lock:
                step = self.store.prune(which, PAGE)
            if step == 0:
                break
            deleted += step or 0
            if tell is not None:
                tell(deleted)
        more = deleted > 0
        while more:
            try:
                with self._lock:
                    more = self.store.shrink()
            except StoreUnavailable:  # the jobs are deleted all the same
                break
        return deleted

    def reset(self, timeout: Optional[float] = None) -> None:
        """Stop all workers now, on every host, delete all jobs and runs, put the settings to default.

        Raises:
            QueuectlError: Workers were left after *timeout* seconds, this user may not reset, or this process is part
                of a job; nothing was deleted.
        """
        from queuectl.control import own_job, stop_workers

        with self._lock:
            self.store.refuse_reset()  # before anybody is stopped
            job_id = own_job(self.store)
            if job_id is not None:
                raise QueuectlError(
                    f"cannot reset from inside {job_id}: its worker would end this command, and run the job again "
                    "later."
                )
            left = stop_workers(self.store, True, timeout, all_hosts=True, newcomers=True, nap=self._leave)
            if left:
                names = ", ".join(f"pid {worker.pid} on {worker.host}" for worker in left[:5])
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

        Returns those still there when *timeout* ended; usually none. Called by a job of theirs, it waits for all but
        the worker of that job and those that only run jobs begun later, and returns these: they stop when their jobs
        have ended.
        """
        from queuectl.control import stop_workers

        hosts = _names_of_hosts(hosts)
        with self._lock:
            return stop_workers(self.store, now, timeout, hosts, all_hosts, nap=self._leave)

    def _leave(self, seconds: float) -> None:
        """Sleep, and let other threads in meanwhile: however often this one has come in, it is out."""
        from threading import Condition

        Condition(self._lock).wait(seconds)

    # -- the store ----------------------------------------------------------------------------

    def copy_to(
        self,
        location: Location,
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
            Refused, StoreError: See ``queuectl.copying.copy``; called again it goes on where it was. Refused also if
                this process is part of a job, before any worker is stopped.
        """
        from queuectl.control import own_job
        from queuectl.copying import copy, refuse_job, refuse_left
        from queuectl.patience import check_function

        check_function("tell", tell)
        if not location:  # which elsewhere means the usual store
            raise StoreRefused("a copy needs a location: a path or a URL.")
        with self._lock:
            refuse_job(own_job(self.store))
            if stop:
                refuse_left(self.stop_workers(now, timeout, all_hosts=True), timeout)
            return copy(self.store, location, tell, stopped=stop)

    def check(self) -> List[Problem]:
        """Look for damage and stuck jobs; return what was found."""
        with self._lock:
            return self.store.check()


def _names_of_hosts(hosts: Any) -> List[str]:
    """Return *hosts* as a list: it is gone through for each worker."""
    if isinstance(hosts, (str, bytes)) or not hasattr(hosts, "__iter__"):  # the letters would be taken for hosts
        raise QueuectlError(f"hosts must be a list, not {shown(hosts)}. Put it into brackets.")
    names = list(hosts)
    for name in names:
        if not isinstance(name, str):
            raise QueuectlError(
                f"a host's name must be a string, not {shown(name)}. 'queuectl worker list' shows them."
            )
    return names
