"""The store's contract: the verbs of the domain, each with its guarantees.

Every engine implements this class and passes ``tests/store``. All instants are Unix seconds by the store's clock,
which ``now()`` reads; tests may pass another instant to a verb that takes ``now``. Every verb is one transaction
unless it says otherwise, and what it did is durable when it returns, except for ``claim`` and ``finish``, for which
it takes a ``sync``. If a guard refuses a write, that is an answer (False, an empty list), not an exception.

Errors, both of them ``QueuectlError``: ``StoreUnavailable`` if the store cannot be reached or written now,
``StoreRefused`` if what is there is not a queuectl store that this version can use.
"""

from __future__ import annotations

from _thread import allocate_lock
from abc import ABC, abstractmethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

    from queuectl.db.depth import Depth
    from queuectl.db.hooks import Hooks
    from queuectl.db.rules import Finished
    from queuectl.db.run_folder import RunFolder
    from queuectl.db.spool import Specs
    from queuectl.db.transfer import Port
    from queuectl.job import Claim, Job, JobFilter, Orders, Problem, QueueInfo, Rates, Run, RunEnd, Verdict, Worker
    from queuectl.jobspec import JobSpec

    Ended = Tuple[Claim, RunEnd, Verdict]
    Part = Tuple[int, bytes]  # the offset in the run's output, and the bytes from there
    OutputWrite = Tuple[int, Sequence[Part], Optional[Tuple[int, int]]]  # see ``append_outputs``


class Store(ABC):
    """Where jobs live. One object is used by one thread at a time, and never on both sides of a fork."""

    #: The store's random id, chosen when the store was made; half of a run's mark.
    store_id: str
    #: The URL or path for messages; never with a password.
    location: str
    #: The version of the settings as of the last claim or read of orders; it grows with each change of them.
    settings_seen: int = 0
    #: Whether ``sync`` has something to do.
    syncs: bool = False
    #: Whether workers of other hosts may use this store, so that only the lease tells whether a worker lives.
    many_hosts: bool = False
    #: If True, calls wait for other writers for a second at most. A signal handler may set it while a call waits.
    in_a_hurry: bool = False
    #: What a worker does now and then while one of its calls waits. It must not call the store.
    meanwhile: Optional[Callable[[], None]] = None
    #: Whether this process may fork although a thread is inside a call of this store: nothing is under way on the
    #: connection, or a child can open its own without touching this one.
    at_rest: bool = True
    #: Whoever holds this lock keeps ``at_rest`` from changing.
    gate = allocate_lock()
    #: Where the workers of this host keep bells, notes and journals.
    run_folder: RunFolder
    #: How many seconds a read waits for an unavailable server before it fails.
    outlast_s: float = 0.0
    #: When the store's clock was last seen to have been set forward, by the monotonic clock.
    clock_set_mono: float = float("-inf")

    # -- life ---------------------------------------------------------------------------------

    @abstractmethod
    def close(self) -> None:
        """Close the store; calling it twice is allowed."""

    def leave(self) -> None:
        """Close the store in a child process that inherited it, without disturbing the parent."""
        return

    @abstractmethod
    def now(self) -> float:
        """Return the time by the store's clock: the one that decides ``run_at`` and leases."""

    @abstractmethod
    def sync(self) -> None:
        """Make all commits so far durable, including those of other processes.

        ``claim`` and ``finish`` return before their commit is on the disk. The loss of a claim does no harm; and a
        worker syncs the ends of its runs while the next command starts, before it announces them.
        """

    def tidy(self) -> None:
        """Do maintenance that is due now and then, such as shortening a long WAL; cheap if there is nothing to do."""
        return

    def shrink(self) -> bool:
        """Give some of the space of deleted rows back to the file system; return whether to call this again."""
        return False

    def is_open_in(self, pid: int) -> Optional[bool]:
        """Return whether a process of this host has this very store open, and not a copy of it; None: not known."""
        del pid
        return None

    def disown(self, worker_ids: Sequence[str]) -> bool:
        """Make a copy a store of its own: with another id, and without the entries of these workers of the original.

        Returns False, and changes nothing, if none of them is registered any more.
        """
        del worker_ids  # where it is not known what a process has open, nobody is taken for a stranger
        return False

    def lock_holder(self) -> Optional[int]:
        """Return the pid of the process on this host that holds the store's write lock; None if there is none."""
        return None

    @abstractmethod
    def changed(self) -> bool:
        """Return whether another connection may have committed since the last call; cheap."""

    # -- jobs come in -------------------------------------------------------------------------

    @abstractmethod
    def add(self, specs: Specs, now: Optional[float] = None) -> Sequence[str]:
        """Store all jobs of *specs*, or none, and return their ids in order.

        Ids not given are ``job1``, ``job2`` ... in order of arrival: never one that any job has had before; refused
        input leaves no gap. A ``max_retries`` not given is the setting's value now. The commit wakes idle workers.

        Raises:
            JobExists: A given id is taken, or was generated in the past; nothing is stored.
        """

    @abstractmethod
    def add_one(self, spec: JobSpec, now: Optional[float] = None) -> Job:
        """Store one job as ``add`` does, and return it as it was stored: pending, whatever has become of it since."""

    @abstractmethod
    def add_within(self, connection: Any, specs: Specs) -> List[Job]:
        """Store jobs as ``add`` does, but in the transaction of *connection*, the caller's own, to this very store.

        When the caller commits, the jobs become visible and idle workers are woken; a rollback undoes the jobs and
        their numbers. Until then other enqueuers wait. In autocommit mode this is a transaction of its own. Several
        threads may call this at once, and while another one uses the store: only *connection* is used.

        Raises:
            JobExists: As in ``add``.
            QueuectlError: *connection* is not a suitable connection.
            StoreRefused: *connection* is to another store.
        """

    # -- runs ---------------------------------------------------------------------------------

    @abstractmethod
    def claim(self, worker_id: str, count: int, queues: Sequence[str] = (), now: Optional[float] = None) -> List[Claim]:
        """Give *worker_id* up to *count* due jobs, the most urgent first: by priority, ``run_at``, arrival.

        *queues* empty means all. No job is given to two workers. Jobs of paused queues, or beyond a queue's
        ``max_running``, are not given out. The attempt is counted here and not when the run ends, so that a command
        that takes its worker down runs out of attempts too. An unregistered or condemned worker is given nothing.
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
        hooks: Optional[Hooks] = None,
    ) -> Finished:
        """Write the verdicts of *ended* runs and claim up to *count* jobs, in one transaction.

        In it *outputs* is written, as by ``append_outputs``, and what *hooks* has for the ends that are accepted. If
        many jobs wait, up to *ahead* more are claimed, but none from a queue with a limit: such a job would count
        against the limit while it only waits for a slot.

        An end is accepted if its run still owns its job, and refused if the job was taken away: the guard (job, run,
        worker, state) is the whole protection against a worker that was presumed dead and comes back. An accepted end
        of a failed run counts as a failure, and any accepted end sets the losses in a row back to 0.
        """

    @abstractmethod
    def give_back(self, worker_id: str, run_ids: Sequence[int], now: Optional[float] = None) -> int:
        """Undo claims of *worker_id* whose command has not begun; return how many were undone.

        Such a run leaves no trace, and its id is not used again. The job is pending in its old place, or cancelled.
        """

    def append_output(self, run_id: int, parts: Sequence[Part], gone: Optional[Tuple[int, int]] = None) -> None:
        """Store *parts* of one run's output; see ``append_outputs``."""
        self.append_outputs([(run_id, parts, gone)])

    @abstractmethod
    def append_outputs(self, writes: Sequence[OutputWrite]) -> None:
        """Store parts of the output of several runs, for each (run id, parts, *gone*).

        If *gone* is given, stored parts that start in that range of offsets, its end not included, are deleted first:
        of an output that is too long to be kept whole, they are between its head and its present tail.
        """

    @abstractmethod
    def output(self, run_id: int, start: int = 0, most: Optional[int] = None) -> List[Part]:
        """Return *most* parts of a run's output from offset *start* (None: all); what is missing between was cut."""

    @abstractmethod
    def last_output(self, job_id: str, size: int, run_id: Optional[int] = None) -> List[Part]:
        """Return the last *size* bytes of a run's output (default: the job's last run), reading nothing before."""

    @abstractmethod
    def next_due(self, queues: Sequence[str] = (), now: Optional[float] = None) -> Optional[float]:
        """Return when the next waiting job becomes due, which may be in the past; None if none waits.

        Jobs of paused queues and of queues at their limit do not count.
        """

    @abstractmethod
    def work_left(self, queues: Sequence[str] = ()) -> int:
        """Return how many jobs run or wait, even for a later time or a retry, in queues that are not paused."""

    # -- workers ------------------------------------------------------------------------------

    @abstractmethod
    def register(self, worker: Worker) -> None:
        """Enter a worker or supervisor; its ``lease_expires_at`` is by the store's clock."""

    @abstractmethod
    def renew(self, worker_id: str, lease_s: float, mono_s: float) -> bool:
        """Renew the lease; return False if the worker is unknown or condemned, and so has lost its jobs."""

    @abstractmethod
    def unregister(self, worker_id: str) -> None:
        """Remove a worker that ends in an orderly way; runs that it still owns count as a lost worker's."""

    @abstractmethod
    def workers(self) -> List[Worker]:
        """Return all registered workers and supervisors, oldest first, including dead ones not yet swept."""

    @abstractmethod
    def orders(self, worker_id: str) -> Orders:
        """Return the orders for this worker, to stop or to cancel runs; set ``settings_seen`` as well."""

    def news(self, worker_id: str, anyway: bool = False) -> Optional[Orders]:
        """Return ``orders``; but None if nothing can have been committed since the last call of this or ``changed``.

        With *anyway*, return the orders in any case.
        """
        return self.orders(worker_id) if self.changed() or anyway else None

    @abstractmethod
    def request_stop(self, worker_ids: Sequence[str], level: int) -> None:
        """Ask workers to stop. *level*: ``job.GRACEFUL`` or ``job.NOW``."""

    @abstractmethod
    def runs_of(self, worker_id: str) -> List[Tuple[str, int]]:
        """Return (job id, run id) of each run that *worker_id* owns now."""

    @abstractmethod
    def condemn(self, worker_id: str, renewed_mono_s: float) -> bool:
        """Refuse all renewals of a worker from now on, unless it has renewed since its row was read.

        Returns False if it has, so that its ``renewed_mono_s`` differs from the one given, or if the worker is gone.
        """

    @abstractmethod
    def release_lost(
        self, worker_id: str, max_lost: int, now: Optional[float] = None, hooks: Optional[Hooks] = None
    ) -> List[Tuple[str, str]]:
        """Take the runs of a condemned or missing worker away and remove the worker.

        Each run becomes ``lost``. Its job is pending and due at once; or dead, after *max_lost* losses in a row; or
        cancelled, if that was requested; dead ones may have *hooks*. Returns (job id, new state) of each. The caller
        must have made sure that no process of these runs is alive.
        """

    @abstractmethod
    def ownerless(self) -> List[str]:
        """Return the ids of workers that own runs but are not registered, as after the restore of a backup."""

    # -- what users do ------------------------------------------------------------------------

    @abstractmethod
    def cancel(self, job_ids: Sequence[str], now: Optional[float] = None) -> Dict[str, str]:
        """Cancel waiting jobs at once and ask the workers of running ones to end them; all or none.

        Returns the state of each job after the call: ``cancelled``, or ``processing`` if its worker was asked.

        Raises:
            JobNotFound, WrongState: Nothing was changed.
        """

    @abstractmethod
    def cancel_where(
        self, which: JobFilter, now: Optional[float] = None, tell: Optional[Callable[[int], None]] = None
    ) -> Tuple[int, List[str]]:
        """Cancel all jobs of *which* that may be; return how many waited, and the ids of those that run.

        This takes several transactions; *tell* is called after each of them with the number of jobs so far.
        """

    @abstractmethod
    def retry(self, job_ids: Sequence[str], only_dead: bool = False, now: Optional[float] = None) -> None:
        """Start completed, dead, cancelled or failed jobs over: pending, due now, with all counts at 0; all or none.

        Raises:
            JobNotFound, WrongState: Nothing was changed.
            NotInDlq: With *only_dead*, a job is not dead or does not exist; nothing was changed.
        """

    @abstractmethod
    def retry_where(
        self, which: JobFilter, now: Optional[float] = None, tell: Optional[Callable[[int], None]] = None
    ) -> int:
        """Start over all jobs of *which* that may be, in steps as ``cancel_where``; return how many."""

    @abstractmethod
    def edit(self, job_id: str, changes: Mapping[str, Any], now: Optional[float] = None) -> None:
        """Change a waiting job; *changes* has attributes of JobSpec with their new values.

        Raises:
            JobNotFound, WrongState, InvalidJob: Nothing was changed.
        """

    @abstractmethod
    def prune(self, which: JobFilter, limit: int = 1000) -> Optional[int]:
        """Delete up to *limit* ended jobs of *which* with their runs and output; return how many.

        Jobs with large output are deleted in smaller numbers, as other writers have to wait meanwhile: a return of
        None means that one has so much of it that only a part was deleted. So only 0 means that no such job is left.
        """

    @abstractmethod
    def reset(self) -> None:
        """Delete all jobs, runs, output, queues and settings; job ids start from job1 again.

        Run ids go on growing, as they are fencing tokens. Workers stay registered.
        """

    def refuse_reset(self) -> None:
        """Raise StoreRefused if ``reset`` is known not to be allowed; called before workers are stopped for it."""
        return

    # -- looking ------------------------------------------------------------------------------

    @abstractmethod
    def get(self, job_id: str) -> Optional[Job]:
        """Return a job; None if there is no such job."""

    @abstractmethod
    def find(self, job_ids: Sequence[str]) -> Dict[str, Job]:
        """Return those of these jobs that exist, by id; if they are few, all as they were at one moment."""

    @abstractmethod
    def jobs(
        self,
        which: JobFilter,
        after_seq: int = 0,
        limit: int = 1000,
        sort: Optional[str] = None,
        descending: bool = False,
    ) -> List[Job]:
        """Return one page of the jobs of *which*: up to *limit* jobs after the row *after_seq*, oldest first.

        *sort* names a field of Job to order by instead; in that case *after_seq* is how many jobs to skip.
        """

    @abstractmethod
    def ids(self, which: JobFilter, after_seq: int = 0, limit: int = 1000) -> List[Tuple[int, str]]:
        """Return the row number and id of each job of one page of ``jobs``, oldest first; cheaper than the jobs."""

    @abstractmethod
    def order(self, which: JobFilter, skip: int, limit: int, sort: Optional[str], descending: bool) -> Sequence[int]:
        """Return the row numbers of the jobs that ``jobs`` would return, after the first *skip*.

        With ``jobs_at``, this serves many pages of one order.
        """

    @abstractmethod
    def jobs_at(self, seqs: Sequence[int], which: JobFilter) -> List[Job]:
        """Return the jobs in these rows, in this order, without those that are gone or no longer match *which*."""

    @abstractmethod
    def states(self, job_ids: Sequence[str]) -> Dict[str, str]:
        """Return the state of each job that exists; cheap enough to poll."""

    @abstractmethod
    def runs(self, job_id: str) -> List[Run]:
        """Return all runs of a job, first to last, including the current one."""

    @abstractmethod
    def ahead_of(self, job: Job, now: Optional[float] = None) -> int:
        """Return how many due jobs of the same queue are claimed before *job*; no more than 1000 are counted."""

    @abstractmethod
    def needs(self, job_id: str) -> List[Tuple[Optional[str], Optional[str]]]:
        """Return (id, state) of each job that has still to complete before this one; (None, None): it was deleted."""

    @abstractmethod
    def needed_by(self, job_id: str, limit: int = 100) -> List[str]:
        """Return the ids of up to *limit* jobs that are held until this one has completed, oldest first."""

    @abstractmethod
    def stuck(self, job_ids: Sequence[str]) -> Dict[str, Tuple[Optional[str], Optional[str]]]:
        """Return what dead, cancelled or deleted job, (id, state) or (None, None), holds each of them up, by id."""

    @abstractmethod
    def queues(self) -> List[QueueInfo]:
        """Return all queues that have jobs or a switch set, by name; the cost does not depend on the number of jobs."""

    @abstractmethod
    def depths(self) -> List[Depth]:
        """Return what is to be done in each queue, by name; ``queues`` is cheaper."""

    @abstractmethod
    def oldest_due(self, now: Optional[float] = None) -> Optional[float]:
        """Return the earliest ``run_at`` of all due jobs, None if none is; the cost does not depend on their number."""

    @abstractmethod
    def rates(self, now: Optional[float] = None) -> Rates:
        """Return how many jobs completed and how many runs failed lately, per minute."""

    @abstractmethod
    def check(self) -> List[Problem]:
        """Look for damage: a corrupt database, a wrong schema, counters that disagree with the rows, stuck jobs."""

    def read_only(self) -> Optional[Problem]:
        """Return why the store's server refuses changes from here; None if it takes them, or there is no server."""
        return None

    @abstractmethod
    def port(self) -> Port:
        """Return the object that copies this whole store, or copies another one into it."""

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
        """Set a setting to a checked value; None puts it back to its default."""
