"""``wait``: until jobs have ended; and what is said, here and by ``run``, of jobs that nothing moves on."""

from __future__ import annotations

import time

from queuectl.cli_commands.spec import DURATION, QUEUE_OPTION, TAG_OPTION, Command, Option, Positional
from queuectl.errors import QueuectlError, StoreUnavailable, UsageError
from queuectl.queue import Queue
from queuectl.render import note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterable, List, Sequence

    from queuectl.cli_commands.spec import Args
    from queuectl.job import Job, Worker

TIMED_OUT = 124  # as GNU timeout says it
WORKERS_LOOK_S = 2.0
# Of so many jobs ``wait`` says what they wait for; the others are like them.
MOST_LOOKED_AT = 100
# A queue without a worker for this long has none: one that died has another in its place by then.
ALONE_S = 1.0


class Waiting:
    """Says, once, what a job waits for that the user can change: a worker, a paused queue, this command's own slot."""

    def __init__(self, queue: Queue, silent: bool, say: Callable[[str], None] = note) -> None:
        self._queue = queue
        self._say = say
        self._next_look_mono = 0.0
        self._alone = False  # whether there was no worker at the last look
        self._full = False  # whether this command's own job held one of the slots then, and all were taken
        self.told = silent

    def look(self, job: Job) -> None:
        """Look, if it is time to, and tell."""
        from queuectl.job import WAITING

        if self.told or job.state not in WAITING or time.monotonic() < self._next_look_mono:
            return
        from queuectl.explain import serving

        self._next_look_mono = time.monotonic() + WORKERS_LOOK_S
        if job.state == "failed" and job.run_at > self._queue.now():
            return  # it is its retry's time that it waits for
        workers = serving(self._queue.workers(), job.queue)
        if not workers:
            if self._alone:
                self.told = True
                self._say(
                    f"no live worker serves queue {job.queue}, so {job.id} is waiting. Start one: queuectl worker start"
                )
                self._tell_pause(job)  # who starts one must not find that nothing happens
            else:
                self._next_look_mono = time.monotonic() + ALONE_S
            self._alone = True
            return
        self._alone = False
        self._tell_pause(job)
        if not self.told:
            self._tell_own_slot(job, workers)

    def _tell_pause(self, job: Job) -> None:
        if any(info.name == job.queue and info.paused for info in self._queue.queues()):
            self.told = True
            resume = f"queuectl queue resume {job.queue}"
            self._say(f"queue {job.queue} is paused, so {job.id} is waiting. Resume it: {resume}")

    def _tell_own_slot(self, job: Job, workers: List[Worker]) -> None:
        """Say that a job of this queue waits for another one, if no slot is left for that."""
        from queuectl.control import own_job
        from queuectl.explain import are_busy

        own = own_job(self._queue.store)
        was_full, self._full = self._full, own is not None and are_busy(self._queue.store, workers)
        if self._full and was_full:  # others may be about to end
            self.told = True
            self._say(
                f"all slots are taken, one of them by {own}, which this command is part of, so {job.id} is waiting. "
                "Start one more worker: queuectl worker start"
            )


def is_own(queue: Queue, job_ids: Sequence[str]) -> bool:
    """Return whether this process belongs to a run of one of these jobs, whose end it cannot live to see."""
    from queuectl.control import own_job

    return own_job(queue.store) in job_ids


def wait(args: Args) -> int:
    """``wait ID ...`` or ``wait --all``: 0 all completed, 1 some did not, 124 timeout."""
    chosen = bool(args.all or args.queue or args.tag)
    if bool(args.ids) == chosen:
        example = "" if chosen else ", such as: queuectl wait job1, or queuectl wait --all"
        raise UsageError(f"wait needs ids or filters{example or ', not both'}.")
    with Queue(args.db, create=args.may_make_store) as queue:
        job_ids = _open_jobs(queue, args) if chosen else list(dict.fromkeys(args.ids))
        if args.timeout is None and not chosen and is_own(queue, job_ids):
            raise QueuectlError("cannot wait for the job that this command is part of. Leave out its id.")
        try:
            jobs = queue.wait_all(job_ids, args.timeout, _teller(queue, job_ids, bool(args.quiet)))
        except TimeoutError:
            return _told_timeout(queue, job_ids, args)
        if args.json:
            from queuectl.job import job_json
            from queuectl.render import write_json_array

            write_json_array(map(job_json, jobs))
    if not (args.quiet or args.json):
        from queuectl.render import escape

        for job in jobs:
            print(f"{job.id} {job.state}" + (f" ({escape(job.reason)})" if job.reason else ""))
    return 0 if all(job.state == "completed" for job in jobs) else 1


def _open_jobs(queue: Queue, args: Args) -> List[str]:
    """Return the ids of the jobs that ``--queue`` and ``--tag`` choose of those that have not ended; not one's own."""
    from queuectl.control import own_job
    from queuectl.job import WAITING, JobFilter

    own = own_job(queue.store)
    which = JobFilter((*WAITING, "processing"), tuple(args.queue), tuple(args.tag))
    return [job.id for job in queue.jobs(which) if job.id != own]


def _teller(queue: Queue, job_ids: Sequence[str], silent: bool) -> Callable[[], None]:
    """Return a function to call now and then: it says which queues of these jobs no worker serves, or are paused."""
    from queuectl.job import WAITING

    waiting: Dict[str, Waiting] = {}
    next_look_mono = 0.0

    def look() -> None:
        nonlocal next_look_mono
        if silent or time.monotonic() < next_look_mono:
            return
        next_look_mono = time.monotonic() + ALONE_S
        try:
            now = queue.now()
            states = queue.store.states(list(job_ids))
            for job_id in [job_id for job_id in job_ids if states.get(job_id) in WAITING][:MOST_LOOKED_AT]:
                job = queue.get(job_id)
                if job.run_at <= now:
                    waiting.setdefault(job.queue, Waiting(queue, False)).look(job)
        except StoreUnavailable:
            pass  # who waits puts up with that, for longer than a look

    return look


def _told_timeout(queue: Queue, job_ids: Iterable[str], args: Args) -> int:
    from queuectl.clock import format_duration
    from queuectl.job import ENDED

    states = queue.store.states(list(job_ids))
    left = [job_id for job_id, state in states.items() if state not in ENDED]
    names = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
    note(f"{names or 'a job'} had not ended after {format_duration(args.timeout)}.")
    return TIMED_OUT


COMMANDS = (
    Command(
        "wait",
        wait,
        positionals=[Positional("ids", "ID", "the jobs' ids", 0, None, "jobs")],
        options=[
            Option("--all", "all jobs that have not ended"),
            QUEUE_OPTION,
            TAG_OPTION,
            Option("--timeout", "give up after this long", "T", DURATION),
        ],
        usage="ID ... | --all | [--queue Q ...] [--tag T ...]",
        examples=[
            ("queuectl wait job1 job2 --timeout 10m", ""),
            ("ids=$(queuectl enqueue -q --file jobs.jsonl); queuectl wait $ids && ./report.sh", ""),
            ("queuectl wait --all", "until nothing waits or runs any more"),
            ("queuectl wait --queue mail --tag nightly", "those that match and have not ended"),
        ],
        details=(
            "Waits until all of them have ended: completed, dead or cancelled. Filters choose among the jobs that\n"
            "have not ended when the command begins, without the one that it is part of. So the exit code says\n"
            "nothing of a job that died before; where ids are given, it does."
        ),
        exit_codes=[(0, "all completed"), (1, "some did not, or were not found"), (124, "timed out")],
    ),
)
