"""Why a job is where it is, and what will move it on: sentences for ``queuectl explain``."""

from __future__ import annotations

import os

from queuectl.clock import format_duration, local_text
from queuectl.config import Config
from queuectl.job import WAITING
from queuectl.recovery import MARGIN, is_paused, live_workers
from queuectl.retry import backoff_delay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Sequence, Tuple

    from queuectl.db.base import Store
    from queuectl.job import Job, QueueInfo, Run, Worker

# As far as Store.ahead_of counts.
MOST_AHEAD = 1000
# So many other jobs are named.
MOST_NAMED = 5
# A disk with less than this has no room for what SQLite writes to begin or end a run.
FULL_BYTES = 64 * 1024


def explain(store: Store, job: Job) -> List[str]:
    """Return sentences about *job*: its state and the reason, what it waits for, what to type next."""
    now = store.now()
    needs = store.needs(job.id) if job.held else []
    if job.held and not needs:  # it was let go at this moment
        job = store.get(job.id) or job
    if needs:
        told = _held(store, job, needs, now)
    elif job.state in WAITING:
        told = _waiting(store, job, now) + _full_disk(store)
    elif job.state == "processing":
        told = _processing(store, job, now) + _full_disk(store)
    else:
        told = _ended(store, job, now)
    return told + _needed_by(store, job)


def _full_disk(store: Store) -> List[str]:
    """Return that nothing can be written beside a store that is a file; nothing if it can."""
    from shutil import disk_usage

    if "://" in store.location:
        return []
    try:
        free = disk_usage(os.path.dirname(os.path.realpath(store.location))).free
    except OSError:
        return []
    told = f"The disk of {store.location} is full: until there is space again, no run starts and no result is stored."
    return [told] if free < FULL_BYTES else []


# -- waiting for others -----------------------------------------------------------------------


def _held(store: Store, job: Job, needs: Sequence[Tuple[Optional[str], Optional[str]]], now: float) -> List[str]:
    named = [f"{name} ({state})" if name else "a job that was deleted" for name, state in needs]
    told = [
        f"{job.id} is {job.state}, and held until {_listed(named)} {'has' if len(needs) == 1 else 'have'} completed."
    ]
    if job.run_at > now:
        told.append(f"Nor does it run before {local_text(job.run_at, now)}, in {format_duration(job.run_at - now)}.")
    blocked = store.stuck([job.id]).get(job.id)
    if blocked is not None:
        told.append(in_its_way(job.id, *blocked))
    told.append(f"To run it without waiting for them: queuectl edit {job.id} after=none")
    return told


def in_its_way(job_id: str, name: Optional[str], state: Optional[str]) -> str:
    """Return the sentence about what has to happen before a held job can run, as ``Store.stuck`` has it."""
    if name is None:
        return f"A job that has to complete before it was deleted, so {job_id} cannot run as it is."
    return f"{name} is {state}, so {job_id} cannot run until that has run again and completed: queuectl retry {name}"


def _needed_by(store: Store, job: Job) -> List[str]:
    """Return which jobs are held for this one."""
    waiting = store.needed_by(job.id, MOST_NAMED + 1)
    if not waiting:
        return []
    if len(waiting) > MOST_NAMED:
        waiting = [*waiting[:MOST_NAMED], "others"]
    return [f"{_listed(waiting)} {'waits' if len(waiting) == 1 else 'wait'} for it to complete."]


def _listed(names: Sequence[str]) -> str:
    """Return ``a``, ``a and b``, ``a, b and c``; of very many, the first and how many more."""
    shown = list(names) if len(names) <= MOST_NAMED + 1 else [*names[:MOST_NAMED], f"{len(names) - MOST_NAMED} more"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


# -- waiting ----------------------------------------------------------------------------------


def _waiting(store: Store, job: Job, now: float) -> List[str]:
    told = [_why_it_waits(job, now)]
    if job.losses:
        lost = "run was" if job.losses == 1 else f"{job.losses} runs were"
        most = Config(store.settings()).max_lost
        told.append(f"Its last {lost} lost with the worker. That costs no retry, but {most} in a row make it dead.")
    told += _put_back(store, job)
    info = next((queue for queue in store.queues() if queue.name == job.queue), None)
    workers = serving(live_workers(store), job.queue)
    blocked = _switches(job, info)
    told += blocked
    is_due = job.is_due(now)
    if not is_due:
        told.append(f"It is due at {local_text(job.run_at, now)}, in {format_duration(job.run_at - now)}.")
    elif not blocked:
        told.append(_in_line(store.ahead_of(job, now), job.queue))
    told.append(_who_runs_it(workers, job.queue))
    paused = [worker for worker in workers if is_paused(worker)]
    if paused:
        told.append(_who_is_paused(paused, len(workers)))
    awake = [worker for worker in workers if worker not in paused]
    if awake and not blocked and is_due:
        told += _busy(store, awake, job, now)
    if not is_due:
        command = f"queuectl retry {job.id}" if job.state == "failed" else f"queuectl edit {job.id} delay=0"
        told.append(f"Make it due now: {command}")
    return told


def _put_back(store: Store, job: Job) -> List[str]:
    """Return why its last run was put back, unless its worker was told to stop."""
    last = store.runs(job.id)[-1:] if job.state == "pending" and job.attempts else []
    return [
        f"Worker pid {run.pid} on {run.host} has put it back: {run.reason}. That costs no retry."
        for run in last
        if run.state == "stopped" and run.reason not in (None, "stopped")
    ]


def _why_it_waits(job: Job, now: float) -> str:
    # It was given a time long past: nobody has kept it waiting before it was there.
    since_at = job.run_at if job.state == "failed" else max(job.run_at, job.created_at)
    due = f"for {format_duration(now - since_at)}" if since_at <= now else "since before the clock was set back"
    if job.state == "failed":
        failed = f"{job.id} failed ({job.reason or 'no reason was recorded'})"
        retry = f"retry {job.failures} of {job.max_retries}"
        if not job.is_due(now):
            return f"{failed} and is waiting for {retry}."
        return f"{failed}, and {retry} has been due {due}."
    if not job.is_due(now):
        return f"{job.id} is pending and not due yet."
    if job.attempts:
        return f"{job.id} is pending again, and has been due {due}."
    return f"{job.id} is pending, and has been due {due}."


def _switches(job: Job, info: Optional[QueueInfo]) -> List[str]:
    """Return what the queue's own switches hold back."""
    told = []
    if info is not None and info.paused:
        told.append(f"Queue {job.queue} is paused. Resume it: queuectl queue resume {job.queue}")
    if info is not None and info.max_running is not None and info.processing >= info.max_running:
        running = f"{_plural(info.processing, 'job')} {'is' if info.processing == 1 else 'are'} running"
        told.append(
            f"Queue {job.queue} is at its limit: {running}, and at most {info.max_running} may. "
            f"Remove the limit: queuectl queue limit {job.queue} none"
        )
    return told


def _in_line(ahead: int, queue: str) -> str:
    if ahead == 0:
        return f"No job is ahead of it in queue {queue}."
    more = "At least " if ahead >= MOST_AHEAD else ""
    return f"{more}{_plural(ahead, 'due job')} {'is' if ahead == 1 else 'are'} ahead of it in queue {queue}."


def serving(workers: List[Worker], queue: str) -> List[Worker]:
    """Return those of *workers* that take jobs of *queue*, and are not told to stop."""
    return [
        worker
        for worker in workers
        if worker.role == "worker" and not worker.stop and (not worker.queues or queue in worker.queues)
    ]


def _who_runs_it(workers: List[Worker], queue: str) -> str:
    if not workers:
        return f"No live worker serves queue {queue}. Start one: queuectl worker start"
    slots = sum(worker.concurrency for worker in workers)
    at_once = f", up to {slots} jobs at once" if slots > len(workers) else ""
    return (
        f"{_plural(len(workers), 'live worker')} {'serves' if len(workers) == 1 else 'serve'} queue {queue}{at_once}."
    )


def _who_is_paused(paused: List[Worker], of: int) -> str:
    who = "It is" if of == 1 else f"{len(paused)} of them {'is' if len(paused) == 1 else 'are'}"
    pids = " ".join(str(worker.pid) for worker in paused)
    return f"{who} paused by a signal such as Ctrl-Z. Resume {'it' if len(paused) == 1 else 'them'}: kill -CONT {pids}"


def are_busy(store: Store, workers: List[Worker]) -> bool:
    """Return whether none of *workers* has a slot free."""
    return all(len(store.runs_of(worker.id)) >= worker.concurrency for worker in workers)


def _busy(store: Store, workers: List[Worker], job: Job, now: float) -> List[str]:
    """Return that nobody has a slot free, the most usual reason of all; nothing if somebody has."""
    if not are_busy(store, workers):
        return []
    slots = sum(worker.concurrency for worker in workers)
    if slots == 1:
        running = next(iter(store.runs_of(workers[0].id)), None)
        taker = store.get(running[0]) if running else None
        if taker is None:
            return []  # it has just ended
        since = local_text(taker.updated_at, now)
        return [f"Its only slot is taken by {taker.id} since {since}. {job.id} is waiting for it."]
    whose = f"slots of the {len(workers)} workers" if len(workers) > 1 else "of its slots"
    return [f"All {slots} {whose} are taken. {job.id} is waiting for one."]


# -- running ----------------------------------------------------------------------------------


def _processing(store: Store, job: Job, now: float) -> List[str]:
    run: Optional[Run] = next((run for run in store.runs(job.id) if run.run_id == job.run_id), None)
    if run is None:
        return [f"{job.id} is processing."]
    begun = f"{local_text(run.started_at, now)}, {format_duration(max(now - run.started_at, 0.0))} ago"
    told = [f"{job.id} is running: run {run.number}, started at {begun}, by worker pid {run.pid} on {run.host}."]
    config = Config(store.settings())
    worker = next((worker for worker in live_workers(store) if worker.id == run.worker), None)
    if worker is None:
        told.append(
            "That worker is dead. Any live worker ends what the run left behind and makes the job pending again, which "
            "costs no retry. If none is running, start one: queuectl worker start"
        )
    elif is_paused(worker):
        told.append(
            f"That worker is paused by a signal such as Ctrl-Z. Resume it within "
            f"{format_duration(config.lease * (1 + MARGIN))}, or another worker ends it and makes the job pending "
            f"again, which costs no retry: kill -CONT {worker.pid}"
        )
    timeout_s = config.timeout if job.timeout_s is None else job.timeout_s
    if timeout_s is not None:
        told.append(f"Its timeout is {format_duration(timeout_s)}. Then its processes are ended, and the run fails.")
    if job.cancel_requested:
        told.append("It is being cancelled: its worker is ending its processes.")
    else:
        told.append(_if_it_fails(job, config))
        told.append(f"Follow it: queuectl logs -f {job.id}. Cancel it: queuectl cancel {job.id}.")
    return told


def _if_it_fails(job: Job, config: Config) -> str:
    if job.failures >= job.max_retries:
        return "If it fails, it is dead: it has no retries left."
    base = config.backoff_base if job.backoff_base is None else job.backoff_base
    delay_s = backoff_delay(job.failures + 1, base, config.backoff_max, 0.0, 0.0)
    return f"If it fails, retry {job.failures + 1} of {job.max_retries} follows after {format_duration(delay_s)}."


# -- ended ------------------------------------------------------------------------------------


def _ended(store: Store, job: Job, now: float) -> List[str]:
    ended_at = job.ended_at or job.updated_at
    when = f"at {local_text(ended_at, now)}, {format_duration(max(now - ended_at, 0.0))} ago"
    runs = _plural(job.attempts, "run")
    if job.state == "completed":
        return [f"{job.id} completed {when}, after {runs}.", f"Run it again: queuectl retry {job.id}"]
    if job.state == "cancelled":
        return [f"{job.id} was cancelled {when}.", f"Run it again: queuectl retry {job.id}"]
    why = job.reason or "no reason was recorded"
    told = [f"{job.id} died {when}, and is in the DLQ: {why}."]
    if job.failures > job.max_retries:
        told.append(f"It failed {_plural(job.failures, 'time')}, and its max_retries is {job.max_retries}.")
    output = f"See its last output: queuectl logs {job.id}."
    if not store.last_output(job.id, 1):
        output = "Its last run printed nothing."
    told.append(f"{output} Run it again: queuectl dlq retry {job.id}.")
    return told


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
