"""The store's contract: the verbs of the domain, each with what it guarantees.

Every engine implements this class and passes ``tests/store``. All instants are Unix seconds by
the store's clock, which ``now()`` reads; a verb that takes ``now`` may be given another
instant by a test. Every verb is one transaction unless it says otherwise, and durable when
it returns; ``claim`` and ``finish`` are after ``sync``. A guarded write that is refused is an
answer (False, an empty list), not an exception.

Errors: ``StoreUnavailable`` when the store cannot be reached or written now, ``StoreRefused`` when
what is there is not a store of ours that this version can use; both are ``QueuectlError``.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

    from queuectl.db.run_folder import RunFolder
    from queuectl.db.spool import Specs
    from queuectl.db.transfer import Port
    from queuectl.job import (
        Claim,
        Job,
        JobFilter,
        Orders,
        Problem,
        QueueInfo,
        Rates,
        Run,
        RunEnd,
        Verdict,
        Worker,
    )
    from queuectl.jobspec import JobSpec

    Ended = Tuple[Claim, RunEnd, Verdict]
    Part = Tuple[int, bytes]  # where in the run's output the bytes start, and the bytes
    OutputWrite = Tuple[int, Sequence[Part], Optional[int]]


class Finished:
    """The answer of ``finish``: which ends were accepted, and what was claimed next."""

    __slots__ = ("accepted", "claims")

    def __init__(self, accepted: List[bool], claims: List[Claim]) -> None:
        self.accepted = accepted
        self.claims = claims


class Store(ABC):
    """Where jobs live. One object is used by one thread at a time, and never across a fork."""

    #: The store's random name, made with it; half of a run's mark.
    store_id: str
    #: The URL or path for messages; never with a password.
    location: str
    #: The version of the settings that the last claim or look at orders saw: it grows with each change, and tells when
    #: to read them again.
    settings_seen: int = 0
    #: Whether ``sync`` has something to do.
    syncs: bool = False
    #: Whether workers of other hosts may use this store, so that only a lease tells that they live.
    many_hosts: bool = False
    #: Whether whoever uses this store is in a hurry: calls wait for other writers for a second at most. A handler
    #: of a signal may set it, while a call waits.
    in_a_hurry: bool = False
    #: Whether this process may fork although a thread is inside a call of this store: nothing is on its way over the
    #: connection just now, or a child can open its own without touching this one.
    at_rest: bool = True
    #: While it is held, ``at_rest`` stays as it is.
    gate = threading.Lock()
    #: Where the workers of this host keep bells and notes.
    run_folder: RunFolder
    #: How long a look waits for a server that is away, in seconds, before it fails.
    outlast_s: float = 0.0

    # -- life ---------------------------------------------------------------------------------

    @abstractmethod
    def close(self) -> None:
        """Let go of the store. Calling it twice is allowed."""

    def leave(self) -> None:
        """Let go of it in a child process, where this was inherited; what is the parent's is not disturbed."""
        return

    @abstractmethod
    def now(self) -> float:
        """Return the time by the store's clock: the one that decides ``run_at`` and leases."""

    @abstractmethod
    def sync(self) -> None:
        """Make all commits so far durable, also those of other processes.

        ``claim`` and ``finish`` return before their commit is on the disk: a lost claim does no harm, and
        a worker syncs its ends while the next command starts, before it reports them.
        """

    def tidy(self) -> None:
        """Do what a host's processes should do now and then, such as shortening a long WAL; cheap if not needed."""
        return

    def shrink(self) -> bool:
        """Give some of the room of what was deleted back to the file system; say whether to go on with it."""
        return False

    def lock_holder(self) -> Optional[int]:
        """Return the pid of the process of this host that keeps all others from writing, if there is such a lock."""
        return None

    @abstractmethod
    def changed(self) -> bool:
        """Say whether another connection may have committed since the last call; cheap."""

    # -- jobs come in -------------------------------------------------------------------------

    @abstractmethod
    def add(self, specs: Specs, now: Optional[float] = None) -> Sequence[str]:
        """Store all jobs of *specs*, or none, and return their ids in order.

        Ids not given are ``job1``, ``job2`` ... in order of arrival: never one that any job had
        before, and no number is left out because of refused input. ``max_retries`` is settled here.
        Idle workers are woken after the commit.

        Raises:
            JobExists: A given id is taken, or is a generated one of the past; nothing is stored.
        """

    @abstractmethod
    def add_within(self, connection: Any, specs: Sequence[JobSpec]) -> List[Job]:
        """Store jobs as ``add`` does, but on the caller's open *connection* to this very store, in its transaction.

        They are there for others, and idle workers are woken, when the caller commits; a rollback takes them away with
        their numbers. Until then other enqueuers wait. In autocommit mode it is a transaction of its own.

        Raises:
            JobExists, QueuectlError: A given id is taken; not such a connection; StoreRefused: to another store.
        """

    # -- runs ---------------------------------------------------------------------------------

    @abstractmethod
    def claim(self, worker_id: str, count: int, queues: Sequence[str] = (), now: Optional[float] = None) -> List[Claim]:
        """Give *worker_id* up to *count* due jobs, the most urgent first: priority, ``run_at``, arrival.

        No job is given to two workers. Jobs of paused queues and beyond a queue's ``max_running`` stay.
        The attempt is counted here, not when the run ends: a command that takes its worker down
        with it must still run out of attempts. *queues* empty means all. A worker that is not
        registered, or was condemned, is given nothing.
        """

    @abstractmethod
    def finish(
        self,
        worker_id: str,
        ended: Sequence[Ended],
        count: int = 0,
        queues: Sequence[str] = (),
        now: Optional[float] = None,
        outputs: Sequence[OutputWrite] = (),
        ahead: int = 0,
    ) -> Finished:
        """Write the *ended* runs' verdicts and claim up to *count* jobs, in one transaction.

        *outputs* is written in the same transaction, as ``append_outputs`` would. Up to *ahead* jobs more are claimed
        if many jobs wait, none of them of a queue with a limit: its jobs are not to take up places while they wait for
        their worker.

        An end is accepted if its run still owns its job, and refused if the job was taken away:
        the guard (job, run, worker, state) is the whole protection against a worker that was presumed
        dead and comes back. A failed run counts a failure and ends the row of losses.
        """

    @abstractmethod
    def give_back(self, worker_id: str, run_ids: Sequence[int], now: Optional[float] = None) -> int:
        """Undo claims of *worker_id* whose command has not begun; return of how many.

        Such a run leaves no trace, its job is pending in its old place, or cancelled if that was asked for. Its id does
        not come again.
        """

    def append_output(self, run_id: int, parts: Sequence[Part], replace_from: Optional[int] = None) -> None:
        """Store *parts* of one run's output; see ``append_outputs``."""
        self.append_outputs([(run_id, parts, replace_from)])

    @abstractmethod
    def append_outputs(self, writes: Sequence[OutputWrite]) -> None:
        """Store parts of several runs' output: (run id, parts, *replace_from*) each.

        With *replace_from*, stored parts that start at or after that offset are deleted first: the old
        tail of an output that is too long to be kept whole.
        """

    @abstractmethod
    def output(self, run_id: int, start: int = 0) -> List[Part]:
        """Return the run's output from offset *start*, in order; a gap between parts was cut out."""

    @abstractmethod
    def last_output(self, job_id: str, size: int) -> List[Part]:
        """Return the last *size* bytes that the job's last run wrote, in order, without reading what is before them."""

    @abstractmethod
    def next_due(self, queues: Sequence[str] = (), now: Optional[float] = None) -> Optional[float]:
        """Return when the next waiting job becomes due (now or earlier: one is due), None if none waits.

        Jobs of paused queues and of queues at their limit do not count.
        """

    @abstractmethod
    def work_left(self, queues: Sequence[str] = ()) -> int:
        """Return how many jobs wait, for a time or a retry too, or run, in queues not paused."""

    # -- workers ------------------------------------------------------------------------------

    @abstractmethod
    def register(self, worker: Worker) -> None:
        """Enter a worker or supervisor. ``lease_expires_at`` counts from the store's clock."""

    @abstractmethod
    def renew(self, worker_id: str, lease_s: float, mono_s: float) -> bool:
        """Renew the lease; False if the worker is unknown or condemned: it is fenced."""

    @abstractmethod
    def unregister(self, worker_id: str) -> None:
        """Take a worker out that ends in order; runs it still owns become those of a lost worker."""

    @abstractmethod
    def workers(self) -> List[Worker]:
        """Return all registered workers and supervisors, oldest first, also dead ones not yet swept."""

    @abstractmethod
    def orders(self, worker_id: str) -> Orders:
        """Return what others ask of this worker: to stop, to cancel runs. Sees the version of the settings too."""

    def news(self, worker_id: str, anyway: bool = False) -> Optional[Orders]:
        """Return ``orders``, or None if nobody can have committed since the last look by this or ``changed``.

        With *anyway* in any case.
        """
        return self.orders(worker_id) if self.changed() or anyway else None

    @abstractmethod
    def request_stop(self, worker_ids: Sequence[str], level: int) -> None:
        """Ask workers to stop: 1 after the running jobs, 2 now."""

    @abstractmethod
    def runs_of(self, worker_id: str) -> List[Tuple[str, int]]:
        """Return (job id, run id) of the runs that *worker_id* owns now."""

    @abstractmethod
    def condemn(self, worker_id: str, renewed_mono_s: float) -> bool:
        """Refuse all renewals of a worker from now on, if it has not renewed since it was looked at.

        Returns False if it has (another ``renewed_mono_s``) or is gone.
        """

    @abstractmethod
    def release_lost(self, worker_id: str, max_lost: int, now: Optional[float] = None) -> List[Tuple[str, str]]:
        """Take a condemned or missing worker's runs away and forget the worker.

        Each run becomes ``lost``; its job is pending and due at once, dead after *max_lost* losses
        in a row, or cancelled if that was asked for. Returns (job id, new state). Whoever calls
        has made sure that nothing of these runs is alive.
        """

    @abstractmethod
    def ownerless(self) -> List[str]:
        """Return ids of workers that own runs but are not registered (a restored backup, a lost row)."""

    # -- what users do ------------------------------------------------------------------------

    @abstractmethod
    def cancel(self, job_ids: Sequence[str], now: Optional[float] = None) -> Dict[str, str]:
        """Cancel waiting jobs at once and ask the workers of running ones to end them; all or none.

        Returns the state of each after the call: ``cancelled``, or ``processing`` where it was asked for.

        Raises:
            JobNotFound, WrongState: Nothing was changed.
        """

    @abstractmethod
    def retry(self, job_ids: Sequence[str], only_dead: bool = False, now: Optional[float] = None) -> None:
        """Start completed, dead, cancelled or failed jobs over: pending, due now, counts at 0; all or none.

        Raises:
            JobNotFound, WrongState: Nothing was changed.
            NotInDlq: *only_dead*, and one is not dead or does not exist.
        """

    @abstractmethod
    def retry_where(
        self, which: JobFilter, now: Optional[float] = None, tell: Optional[Callable[[int], None]] = None
    ) -> int:
        """Start all jobs of *which* over that may be retried; return how many. In steps, not atomic.

        *tell* is called after each of them with how many it were so far.
        """

    @abstractmethod
    def edit(self, job_id: str, changes: Mapping[str, Any], now: Optional[float] = None) -> None:
        """Change a waiting job; *changes* are JobSpec attributes with their new values.

        Raises:
            JobNotFound, WrongState: Nothing was changed.
        """

    @abstractmethod
    def prune(self, which: JobFilter, limit: int = 1000) -> int:
        """Delete up to *limit* ended jobs of *which* with their runs and output; return how many.

        Fewer where their output is large: others wait for as long as it takes. Only at 0 is nothing left.
        """

    @abstractmethod
    def reset(self) -> None:
        """Delete all jobs, runs, output, queues and settings; ids start from job1 again.

        Run ids go on growing: they are fencing tokens. Workers stay registered.
        """

    def refuse_reset(self) -> None:
        """Raise StoreRefused if it is known that ``reset`` would not be allowed: workers are stopped for it first."""
        return

    # -- looking ------------------------------------------------------------------------------

    @abstractmethod
    def get(self, job_id: str) -> Optional[Job]:
        """Return a job, or None."""

    @abstractmethod
    def find(self, job_ids: Sequence[str]) -> Dict[str, Job]:
        """Return each job that exists, by its id, as they were at one moment if they are few."""

    @abstractmethod
    def jobs(
        self,
        which: JobFilter,
        after_seq: int = 0,
        limit: int = 1000,
        sort: Optional[str] = None,
        descending: bool = False,
    ) -> List[Job]:
        """Return up to *limit* jobs of *which*, oldest first, after row *after_seq*: one page.

        *sort* names a field of Job to order by instead; then *after_seq* is how many jobs to skip.
        """

    @abstractmethod
    def order(self, which: JobFilter, skip: int, limit: int, sort: Optional[str], descending: bool) -> Sequence[int]:
        """Return the row numbers of what ``jobs`` would return, after the first *skip*: for many pages of one order."""

    @abstractmethod
    def jobs_at(self, seqs: Sequence[int], which: JobFilter) -> List[Job]:
        """Return the jobs in these rows, in this order, without those that are gone or no longer of *which*."""

    @abstractmethod
    def states(self, job_ids: Sequence[str]) -> Dict[str, str]:
        """Return the state of each job that exists; cheap enough to poll."""

    @abstractmethod
    def runs(self, job_id: str) -> List[Run]:
        """Return all runs of a job, first to last, the current one too."""

    @abstractmethod
    def ahead_of(self, job: Job) -> int:
        """Return how many ready jobs of its queue a claim takes before this one, counted up to 1000."""

    @abstractmethod
    def queues(self) -> List[QueueInfo]:
        """Return all queues that have jobs or a switch set, by name. Costs nothing per job."""

    @abstractmethod
    def oldest_due(self, now: Optional[float] = None) -> Optional[float]:
        """Return the earliest ``run_at`` of all jobs due, None if none is. Costs nothing per job."""

    @abstractmethod
    def rates(self, now: Optional[float] = None) -> Rates:
        """Return how many jobs completed and how many runs failed a minute, lately."""

    @abstractmethod
    def check(self) -> List[Problem]:
        """Look for damage: integrity, schema, counters that disagree with the rows, stuck jobs."""

    def read_only(self) -> Optional[Problem]:
        """Return why this store's server takes no changes from here, None if it does; a file's mode tells by itself."""
        return None

    @abstractmethod
    def port(self) -> Port:
        """Return what copies this whole store, or into it."""

    # -- switches -----------------------------------------------------------------------------

    @abstractmethod
    def set_paused(self, queue: str, paused: bool) -> None:
        """Pause or resume a queue, which may have no jobs yet."""

    @abstractmethod
    def set_limit(self, queue: str, max_running: Optional[int]) -> None:
        """Let at most *max_running* jobs of a queue run at once, over all hosts; None: no limit."""

    @abstractmethod
    def settings(self) -> Dict[str, str]:
        """Return the settings that were set, as text."""

    @abstractmethod
    def set_setting(self, key: str, text: Optional[str]) -> None:
        """Set a checked setting, or with None put it back to its default."""
