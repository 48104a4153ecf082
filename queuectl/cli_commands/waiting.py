"""``wait``: until jobs have ended; and what is said, here and by ``run``, of jobs that nothing moves on."""

from __future__ import annotations

import time

from queuectl.cli_commands.spec import DURATION, QUEUE_OPTION, TAG_OPTION, Command, Option, Positional
from queuectl.errors import QueuectlError, StoreUnavailable, UsageError
from queuectl.following import LOOK
from queuectl.patience import StillOpen, deadline_of
from queuectl.queue import Queue
from queuectl.render import note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Optional, Sequence, Tuple

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
        self._told_needs = ""  # what was last said of jobs that have to complete before
        self.told = silent

    def look(self, job: Job) -> None:
        """Look, if it is time to, and tell."""
        from queuectl.job import WAITING

        if self.told or job.state not in WAITING or time.monotonic() < self._next_look_mono:
            return
        from queuectl.explain import serving

        self._next_look_mono = time.monotonic() + WORKERS_LOOK_S
        if job.held:
            self._tell_needs(job)
            return
        if job.state == "failed" and not job.is_due(self._queue.now()):
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

    def _tell_needs(self, job: Job) -> None:
        """Say which jobs have to complete before, and again if one of them has ended otherwise."""
        from queuectl.explain import in_its_way

        stuck = self._queue.store.stuck([job.id]).get(job.id)
        told = in_its_way(job.id, *stuck) if stuck else f"{job.id} is waiting for {', '.join(job.after)} to complete."
        if told != self._told_needs:
            self._told_needs = told
            self._say(told)

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
        deadline = deadline_of(args.timeout)
        job_ids, is_cut = _open_jobs(queue, args, deadline) if chosen else (list(dict.fromkeys(args.ids)), False)
        if is_cut:
            return _told_timeout(job_ids, len(job_ids), "at least ", args)
        if args.timeout is None and not chosen and is_own(queue, job_ids):
            raise QueuectlError("cannot wait for the job that this command is part of. Leave out its id.")
        left_s = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        try:
            jobs = queue.wait_all(job_ids, left_s, _teller(queue, job_ids, bool(args.quiet)))
        except StillOpen as error:
            count = len(error.open_ids) + error.unseen
            return _told_timeout(error.open_ids, count, "up to " if error.unseen else "", args)
        held = [job.id for job in jobs if job.held]
        stuck = queue.store.stuck(held) if held else {}
        if args.json:
            from queuectl.job import job_json
            from queuectl.render import write_json_array

            write_json_array(map(job_json, jobs))
    if not (args.quiet or args.json):
        from queuectl.render import escape

        for job in jobs:
            name, state = stuck.get(job.id, (None, None))
            needed = f"waits for {name}, which is {state}" if name else "waits for a job that was deleted"
            why = needed if job.held else job.reason
            print(f"{job.id} {job.state}" + (f" ({escape(why)})" if why else ""))
    return 0 if all(job.state == "completed" for job in jobs) else 1


def _open_jobs(queue: Queue, args: Args, deadline: Optional[float]) -> Tuple[List[str], bool]:
    """Return the ids of the jobs that ``--queue`` and ``--tag`` choose of those that have not ended; not one's own.

    If there are more than can be read before *deadline*, return those read so far, and True.
    """
    from queuectl.control import own_job
    from queuectl.job import WAITING, JobFilter

    own = own_job(queue.store)
    which = JobFilter((*WAITING, "processing"), tuple(args.queue), tuple(args.tag))
    job_ids: List[str] = []
    after = 0
    while True:
        page = queue.store.ids(which, after, LOOK)
        job_ids += [job_id for _, job_id in page if job_id != own]
        if len(page) < LOOK:
            return job_ids, False
        if deadline is not None and time.monotonic() >= deadline:
            return job_ids, True
        after = page[-1][0]


def _teller(queue: Queue, job_ids: Sequence[str], silent: bool) -> Callable[[], None]:
    """Return a function to call now and then: it says which queues of these jobs no worker serves, or are paused."""
    waiting: Dict[str, Waiting] = {}
    next_look_mono = 0.0

    def look() -> None:
        nonlocal next_look_mono
        if silent or time.monotonic() < next_look_mono:
            return
        next_look_mono = time.monotonic() + ALONE_S
        try:
            now = queue.now()
            for job_id in _waiting(queue, job_ids):
                job = queue.get(job_id)
                if job.is_due(now):
                    waiting.setdefault(job.queue, Waiting(queue, False)).look(job)
        except StoreUnavailable:
            pass  # who waits puts up with that, for longer than a look

    return look


def _waiting(queue: Queue, job_ids: Sequence[str]) -> List[str]:
    """Return the first ``MOST_LOOKED_AT`` of these jobs that wait."""
    from queuectl.job import WAITING

    found: List[str] = []
    for first in range(0, len(job_ids), LOOK):
        some = job_ids[first : first + LOOK]
        states = queue.store.states(some)
        found += [job_id for job_id in some if states.get(job_id) in WAITING]
        if len(found) >= MOST_LOOKED_AT:
            break
    return found[:MOST_LOOKED_AT]


def _told_timeout(left: Sequence[str], count: int, about: str, args: Args) -> int:
    """Tell that the time is over, and of *left*, which are *count* with those that it was too short for."""
    from queuectl.clock import format_duration

    named = left[:5]
    more = f" and {about}{count - len(named)} more" if count > len(named) else ""
    note(f"{', '.join(named)}{more} had not ended after {format_duration(args.timeout)}.")
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
            "nothing of a job that died before; where ids are given, it does. A job that is held for one that is\n"
            "dead, cancelled or deleted (see enqueue --after) is not waited for: it counts as not completed."
        ),
        exit_codes=[(0, "all completed"), (1, "some did not, or were not found"), (124, "timed out")],
    ),
)
