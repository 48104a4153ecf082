"""``status``, and what ``queuectl`` alone prints."""

from __future__ import annotations

from queuectl.cli_commands.spec import Command
from queuectl.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Sequence, Tuple

    from queuectl.cli_commands.spec import Args
    from queuectl.job import Status, Worker

    Running = Tuple[str, float]  # a job's id, and since when it runs

OPTIONS = ()
# A worker may run hundreds of jobs at once; people want to see that, not read it.
MOST_JOBS_SHOWN = 3

FIRST_STEPS = """\
No jobs yet. To get started:

  queuectl enqueue '{"command":"echo hello"}'   add a job
  queuectl worker start                         run jobs until Ctrl-C
  queuectl status                               see how they are doing

'queuectl help' lists all commands; 'queuectl demo' shows a queue at work."""


def running_jobs(queue: Queue) -> Dict[str, List[Running]]:
    """Return the jobs that each worker runs now, by the worker's id, and since when.

    All in one look: a worker may run hundreds, and a database server may be far away.
    """
    from queuectl.job import JobFilter

    found: Dict[str, List[Running]] = {}
    for job in sorted(queue.jobs(JobFilter(("processing",))), key=lambda job: job.run_id or 0):
        found.setdefault(job.worker_id or "", []).append((job.id, job.updated_at))
    return found


def worker_json(worker: Worker, running: Sequence[Running]) -> Dict[str, Any]:
    """Return *worker*, which runs these jobs, as an object for ``--json``."""
    from queuectl.clock import iso_utc

    return {
        "id": worker.id,
        "number": worker.number,
        "pid": worker.pid,
        "host": worker.host,
        "queues": list(worker.queues),
        "concurrency": worker.concurrency,
        "started_at": iso_utc(worker.started_at),
        "stopping": bool(worker.stop),
        "jobs": [{"id": job_id, "since": iso_utc(since_at)} for job_id, since_at in running],
    }


def jobs_text(running: Sequence[Running], now: float) -> str:
    """Return what a worker does, for people: ``job1 since 14:03:07``, ``idle``."""
    from queuectl.clock import local_text

    if not running:
        return "idle"
    shown = [f"{job_id} since {local_text(since_at, now)}" for job_id, since_at in running[:MOST_JOBS_SHOWN]]
    more = len(running) - MOST_JOBS_SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def orders_text(worker: Worker) -> str:
    """Return what else is to be said of a worker: that it stops, or that a signal holds it."""
    from queuectl.recovery import is_paused

    return (", stopping" if worker.stop else "") + (", paused by a signal" if is_paused(worker) else "")


def in_order(workers: Sequence[Worker]) -> List[Worker]:
    """Return *workers* group by group, the oldest first, each by the numbers in its lines."""
    first: Dict[str, float] = {}
    for worker in workers:
        first[worker.group_id] = min(worker.started_at, first.get(worker.group_id, worker.started_at))
    return sorted(workers, key=lambda worker: (first[worker.group_id], worker.group_id, worker.number))


def show_status(args: Args) -> int:
    """``status``."""
    with Queue(args.db, create=args.may_make_store) as queue:
        return _print_status(queue, queue.status(), args)


def bare(args: Args) -> int:
    """``queuectl`` alone: the status, or for a queue without jobs the commands to start with."""
    with Queue(args.db, create=args.may_make_store) as queue:
        status = queue.status()
        if args.json or args.quiet or any(status.jobs.values()) or status.workers:
            return _print_status(queue, status, args)
    print(FIRST_STEPS)
    return 0


def _print_status(queue: Queue, status: Status, args: Args) -> int:
    running = running_jobs(queue) if status.workers else {}
    if args.json:
        from queuectl.render import write_json

        write_json(
            {
                "jobs": status.jobs,
                "workers": [worker_json(each, running.get(each.id, ())) for each in in_order(status.workers)],
                "oldest_due_age_s": status.oldest_due_age_s,
                "completed_per_min": status.rates.completed_per_min,
                "failed_per_min": status.rates.failed_per_min,
                "paused_queues": status.paused_queues,
            }
        )
        return 0
    from queuectl.render import paint, wants_colour

    colour = wants_colour(args.no_color)
    print("Job states:")
    for state, count in status.jobs.items():
        print(f"  {paint(state, state, colour and count > 0)}: {count}")
    if not args.quiet:
        _print_workers(status, running, queue.now())
        _print_pace(status)
    return 0


def _print_workers(status: Status, running: Mapping[str, Sequence[Running]], now: float) -> None:
    from queuectl.render import escape

    print(f"Workers: {len(status.workers)} alive")
    for worker in in_order(status.workers):
        queues = f" [{', '.join(worker.queues)}]" if worker.queues else ""
        doing = jobs_text(running.get(worker.id, ()), now) + orders_text(worker)
        print(f"  [worker {worker.number}] pid {worker.pid} on {escape(worker.host)}{queues}: {doing}")
    if not status.workers and status.jobs["processing"]:
        print("  Start one, which also recovers the jobs in processing: queuectl worker start")
    elif not status.workers and status.jobs["pending"] + status.jobs["failed"]:
        print("  Start one: queuectl worker start")


def _print_pace(status: Status) -> None:
    from queuectl.clock import format_duration

    if status.oldest_due_age_s is not None:
        print(f"Oldest due job: waiting for {format_duration(status.oldest_due_age_s)}")
    if status.paused_queues:
        print(f"Paused queues: {', '.join(status.paused_queues)}")
    if status.rates.completed_per_min or status.rates.failed_per_min:
        print(f"Runs per minute: {status.rates.completed_per_min:g} completed, {status.rates.failed_per_min:g} failed")


COMMANDS = (
    Command(
        "status",
        show_status,
        options=OPTIONS,
        examples=[("queuectl status", ""), ("queuectl status --json", "for scripts and monitoring")],
        details="Counts the jobs in each state, lists live workers, and shows how long the oldest due job has waited.",
    ),
)
