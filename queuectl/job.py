"""Jobs and runs as the store returns them, the states, and what a finished run does to its job.

Pure: nothing here touches a store, a process or the clock. Fields name their types with builtins alone: what is
imported for type checkers only is unknown to ``typing.get_type_hints``, by which pydantic and FastAPI read them.
"""

from __future__ import annotations

import enum

from queuectl.errors import QueuectlError, shown
from queuectl.records import NamedTuple
from queuectl.retry import backoff_delay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any, Dict, List, Optional, Tuple, Union

    from queuectl.config import Config


#: Orders to a worker to stop: when its running jobs have ended, or at once.
GRACEFUL, NOW = 1, 2


class State(str, enum.Enum):
    """The states of a job, and what moves a job out of each."""

    #: Waiting to run, now or at its ``run_at``. A claim -> processing; ``cancel`` -> cancelled.
    PENDING = "pending"
    #: A worker runs it. The run's end -> completed, failed or dead; ``cancel`` -> cancelled;
    #: ``worker stop --now`` -> pending; the death of its worker -> pending, or dead after ``max_lost``.
    PROCESSING = "processing"
    #: The last run failed; waiting for a retry at ``run_at``. A claim -> processing;
    #: ``retry`` -> pending; ``cancel`` -> cancelled.
    FAILED = "failed"
    #: The last run ended with exit code 0. ``retry`` -> pending.
    COMPLETED = "completed"
    #: Out of retries: in the dead letter queue. ``dlq retry`` or ``retry`` -> pending.
    DEAD = "dead"
    #: Cancelled by a user. ``retry`` -> pending.
    CANCELLED = "cancelled"

    def __str__(self) -> str:
        return self.value


STATES = tuple(state.value for state in State)
WAITING = ("pending", "failed")
ENDED = ("completed", "dead", "cancelled")

# Fields of Job by which a listing may be sorted; each is also a column of that name.
SORTABLE = (
    "id", "queue", "state", "priority", "run_at", "command", "attempts", "failures", "max_retries", "created_at",
    "updated_at", "ended_at",
)  # fmt: skip


# How many of each a JobFilter may list: SQLite before 3.32 takes 999 parameters, and a listing may name each queue once
# for every state.
MOST = {"queues": 100, "tags": 50}


class Outcome(str, enum.Enum):
    """How a run ended, or RUNNING; this is ``runs.state`` in the store and in ``show --json``."""

    RUNNING = "running"
    COMPLETED = "completed"
    #: A non-zero exit code, a signal, or a command or directory that does not exist.
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    #: Ended by ``worker stop --now`` or a second Ctrl-C; costs no retry.
    STOPPED = "stopped"
    #: Its worker died; costs no retry.
    LOST = "lost"

    def __str__(self) -> str:
        return self.value


class Job(NamedTuple):
    """One job, as the store has it. Instants are Unix seconds, durations are seconds."""

    seq: int  # the store's row number, by order of arrival
    id: str
    queue: str
    state: str
    priority: int
    run_at: float  # the earliest time of the next run; once claimed, of the current or last one
    command: str
    cwd: str
    env_json: str | None  # an object of strings, as JSON
    tags_json: str | None  # a list of strings, as JSON
    timeout_s: float | None  # None: the setting decides when a run starts
    backoff_base: float | None  # None: the setting decides when a run fails
    max_retries: int
    attempts: int  # runs begun since the enqueue or the last retry by hand
    failures: int  # how many of these attempts failed: only these count against max_retries
    losses: int  # lost runs in a row
    run_no: int  # all runs of this job ever begun; never reset
    run_id: int | None  # the run that owns it; set only while processing
    worker_id: str | None  # set only while processing
    cancel_requested: bool
    created_at: float
    updated_at: float
    ended_at: float | None  # set only when completed, dead or cancelled
    reason: str | None  # why it is failed, dead or cancelled
    after_json: str | None = None  # a list of the ids of jobs that had to complete before it, as JSON
    held: bool = False  # whether some of these have still to complete; run_at is then what it was given

    @property
    def env(self) -> Dict[str, str]:
        """The variables that the job adds to the worker's environment."""
        if not self.env_json:
            return {}
        import json

        return dict(json.loads(self.env_json))

    @property
    def tags(self) -> List[str]:
        """The job's tags, as given."""
        if not self.tags_json:
            return []
        import json

        return list(json.loads(self.tags_json))

    @property
    def after(self) -> List[str]:
        """The ids of the jobs that had to complete before this one, as given."""
        if not self.after_json:
            return []
        import json

        return list(json.loads(self.after_json))

    def is_due(self, now: float) -> bool:
        """Return whether this job, which waits, may run: what was due when it was last written stays so.

        Where the clock has been set back since then, its ``run_at`` is in the future for all that. What is held for
        other jobs is not due.
        """
        return not self.held and self.run_at <= max(now, self.created_at, self.updated_at)


class Run(NamedTuple):
    """One run of a job, as the store has it."""

    run_id: int  # unique in the store and ever growing: a fencing token
    job_id: str
    number: int  # counts the runs of the job, from 1; never reset
    state: str  # the value of an Outcome
    exit_code: int | None
    signal: int | None
    started_at: float
    ended_at: float | None
    worker: str  # the worker's id
    host: str
    pid: int | None  # the worker's process
    peak_memory_bytes: int | None
    cpu_s: float | None
    reason: str | None


class Claim(NamedTuple):
    """A job given to a worker, and the run begun for it."""

    job: Job  # after the claim: it is processing, and the attempt is counted
    run_id: int
    started_at: float


class RunEnd(NamedTuple):
    """How one run ended, as its worker saw it."""

    outcome: Outcome
    exit_code: int | None
    signal: int | None
    reason: str | None  # for people: "exit 3", "signal KILL", "timed out after 1 s"
    ended_at: float
    peak_memory_bytes: int | None = None
    cpu_s: float | None = None


class Verdict(NamedTuple):
    """What one finished run does to its job: decided here, written by a store."""

    state: State
    run_at: float | None  # Unix seconds; set for FAILED and PENDING
    reason: str | None
    delay_s: float = 0.0  # how long the retry waits; set for FAILED


COMPLETED = Verdict(State.COMPLETED, None, None)


def settle(job: Job, end: RunEnd, config: Config, now: float, random: float = 0.0) -> Verdict:
    """Decide what *end* does to *job*.

    Args:
        job: The job as it was claimed: the attempt is counted, a failure of this run is not.
        end: The end of the run, with any outcome but RUNNING and LOST (lost runs are settled by the store).
        config: The settings in force.
        now: Unix seconds by the store's clock.
        random: A number in [0, 1) for the jitter.
    """
    if end.outcome is Outcome.COMPLETED:
        return COMPLETED
    if end.outcome is Outcome.CANCELLED:
        return Verdict(State.CANCELLED, None, "cancelled while it ran")
    if end.outcome is Outcome.STOPPED:
        return Verdict(State.PENDING, now, None)
    if job.failures >= job.max_retries:
        return Verdict(State.DEAD, None, end.reason)
    base = config.backoff_base if job.backoff_base is None else job.backoff_base
    delay_s = backoff_delay(job.failures + 1, base, config.backoff_max, config.backoff_jitter, random)
    return Verdict(State.FAILED, now + delay_s, end.reason, delay_s)


class JobFilter(NamedTuple):
    """Which jobs a listing, a bulk retry or a prune is about; a field that is None or empty sets no condition."""

    states: Union[Tuple[str, ...], List[str], List[State]] = ()
    queues: Union[Tuple[str, ...], List[str]] = ()
    tags: Union[Tuple[str, ...], List[str]] = ()  # the job must have at least one of these
    ended_before: Union[float, datetime, None] = None  # Unix seconds, or a datetime

    def checked(self) -> JobFilter:
        """Return this filter as a store takes it: tuples, and states by their names.

        Raises:
            QueuectlError: There is no such state; a single text was given in place of a list, so that its letters
            would be taken; a list is too long, or what is in it is no text that a store can look for; or a time is
            not a finite number, and some databases take NaN to be larger than any other.
        """
        lists = []
        given: Any = (("states", self.states), ("queues", self.queues), ("tags", self.tags))
        for name, values in given:
            several = () if values is None else values  # not "or": "" for a name would choose all jobs
            if isinstance(several, (str, bytes)) or not hasattr(several, "__iter__"):
                raise QueuectlError(f"{name} of a JobFilter must be a list, not {shown(values)}. Put it into brackets.")
            chosen = tuple(several) if name == "states" else tuple(_sought(name, each) for each in several)
            if len(chosen) > MOST.get(name, len(chosen)):
                raise QueuectlError(
                    f"{name} of a JobFilter may be at most {MOST[name]:,}, not {len(chosen):,}. Take them in turns."
                )
            lists.append(chosen)
        before: Any = self.ended_before
        try:
            if hasattr(before, "timestamp"):  # a datetime
                before = before.timestamp()
            if before is not None:
                before = float(before) if type(before) in (int, float) else float("nan")
        except (OverflowError, ValueError, OSError, TypeError):  # beyond what a clock or a float can tell; or a class
            before = float("nan")
        if before is not None and before - before != 0:
            got = shown(self.ended_before)
            raise QueuectlError(f"ended_before of a JobFilter must be a time in Unix seconds, not {got}.")
        states = tuple(map(state_name, lists[0]))
        return self._replace(states=states, queues=lists[1], tags=lists[2], ended_before=before)


def _sought(name: str, text: Any) -> str:
    """Return *text*, one of the list *name* of a ``JobFilter``, as a string of Python's own kind."""
    try:
        str.encode(text)
    except (TypeError, UnicodeEncodeError):
        raise QueuectlError(f"{name} of a JobFilter must be strings, not {shown(text)}.") from None
    return str.__str__(text)


def checked_filter(which: Any) -> JobFilter:
    """Return *which* as a store takes it.

    Raises:
        QueuectlError: *which* is not a ``JobFilter``, or ``JobFilter.checked`` refuses it.
    """
    if not isinstance(which, JobFilter):
        raise QueuectlError(f"jobs must be chosen by a JobFilter, not {shown(which)}.")
    return which.checked()


def state_name(state: Any) -> str:
    """Return the name of *state*, which is a ``State`` or a name.

    Raises:
        QueuectlError: There is no such state; the message suggests the nearest.
    """
    if isinstance(state, str) and state in STATES:
        return STATES[STATES.index(state)]
    from difflib import get_close_matches

    near = get_close_matches(state[:40].lower(), STATES, 1) if isinstance(state, str) else []
    hint = f"Did you mean {near[0]!r}?" if near else f"The states are {', '.join(STATES)}."
    raise QueuectlError(f"unknown state {shown(state)}. {hint}")


class Worker(NamedTuple):
    """A worker or supervisor process, as it registered in the store."""

    id: str  # new at each registration
    role: str  # "worker" or "supervisor"
    group_id: str  # the id of the group's supervisor
    number: int  # the N of "[worker N]"
    host: str  # for people
    host_id: str  # machine, boot and pid namespace: where equal, processes share one process table
    pid: int
    pid_started: str  # when the process started: tells it from a later one with the same pid
    queues: tuple[str, ...]  # empty: all
    concurrency: int
    started_at: float
    lease_expires_at: float  # by the store's clock
    renewed_mono_s: float  # CLOCK_MONOTONIC at the last renewal; comparable within one boot of one machine
    state: str = "alive"  # or "lost": condemned by a sweeper, so that its renewals are refused
    stop: int = 0  # the order given to it: none, GRACEFUL or NOW


def boot_of(host_id: str) -> str:
    """Return the part of a worker's ``host_id`` that names the boot; empty if it is not known."""
    return host_id.split(":")[1] if host_id.count(":") == 2 else ""


class Orders(NamedTuple):
    """What the store has to tell a worker."""

    known: bool  # False: the worker's row is gone or condemned, so it must end its commands
    stop: int  # as in Worker
    cancelled_runs: tuple[int, ...]


class QueueInfo(NamedTuple):
    """A queue, its switches, and its jobs by state."""

    name: str
    paused: bool
    max_running: int | None
    pending: int
    processing: int
    failed: int
    completed: int
    dead: int
    cancelled: int


class Rates(NamedTuple):
    """How many runs ended lately, per minute."""

    completed_per_min: float
    failed_per_min: float


class Status(NamedTuple):
    """What ``status`` shows."""

    jobs: dict[str, int]  # how many, by state
    workers: list[Worker]  # only those that live
    oldest_due_age_s: float | None  # None: no job is due
    rates: Rates
    paused_queues: list[str]


class Problem(NamedTuple):
    """Something ``doctor`` found."""

    what: str
    advice: str


def job_json(job: Job) -> Dict[str, Any]:
    """Return *job* as the object that ``list --json`` and ``show --json`` print."""
    from queuectl.clock import iso_utc

    def instant(at: Optional[float]) -> Optional[str]:
        return None if at is None else iso_utc(at)

    return {
        "id": job.id,
        "state": job.state,
        "command": job.command,
        "queue": job.queue,
        "priority": job.priority,
        "attempts": job.attempts,
        "failures": job.failures,
        "losses": job.losses,
        "max_retries": job.max_retries,
        "backoff_base": job.backoff_base,
        "timeout": job.timeout_s,
        "run_at": instant(job.run_at),
        "cwd": job.cwd,
        "env": job.env,
        "tags": job.tags,
        "after": job.after,
        "held": job.held,
        "cancel_requested": bool(job.cancel_requested),
        "created_at": instant(job.created_at),
        "updated_at": instant(job.updated_at),
        "ended_at": instant(job.ended_at),
        "reason": job.reason,
    }
