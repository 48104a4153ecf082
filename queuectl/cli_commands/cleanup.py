"""``prune`` and ``reset``: deleting jobs."""

from __future__ import annotations

from queuectl.cli_commands.progress import counting
from queuectl.cli_commands.prompt import confirmed, declined
from queuectl.cli_commands.spec import DURATION, QUEUE_OPTION, STATE, TAG_OPTION, YES_OPTION, Command, Option
from queuectl.errors import Interrupted, UsageError
from queuectl.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence, Tuple

    from queuectl.cli_commands.spec import Args
    from queuectl.job import JobFilter

RESET_QUESTION = "This will stop all workers and delete all jobs. Continue?"
# The question says how many jobs it is about; counting more than these would take too long to be asked.
MOST_COUNTED = 100_000
# The least step between two instants, more or less.
CLOCK_STEP_S = 1e-6


def delete_jobs(states: Sequence[str], args: Args, what: str) -> int:
    """Delete the ended jobs in *states* that the filters choose, after asking; *what* is "Prune" or "Purge"."""
    from queuectl.clock import format_duration
    from queuectl.job import JobFilter
    from queuectl.render import plural, write_json

    with Queue(args.db, create=args.may_make_store) as queue:
        now = queue.now()
        before = None if args.older_than is None else now - args.older_than
        which = JobFilter(tuple(states), tuple(args.queue), tuple(args.tag), before)
        aged = f" that ended more than {format_duration(args.older_than)} ago" if args.older_than else ""
        count, text, last = _count(queue, which, aged)
        if count and not confirmed(f"This will delete {text}. Continue?", args):
            return declined(what, args)
        if before is None and not args.yes:  # jobs that ended while the question stood were not agreed to
            which = which._replace(ended_before=max(now, last + CLOCK_STEP_S))
        with counting(args, "deleted", count if count <= MOST_COUNTED else 0) as tell:
            deleted = queue.prune(which, tell) if count else 0
    if args.json:
        write_json({"deleted": deleted})
    elif args.quiet:
        print(deleted)
    else:
        print(f"Deleted {plural(deleted, 'job')}." if deleted else "No jobs to delete.")
    return 0


def _count(queue: Queue, which: JobFilter, aged: str) -> Tuple[int, str, float]:
    """Return how many jobs *which* chooses, up to MOST_COUNTED + 1; the same in words, by state; when the last ended.

    The words include *aged*: whoever took ``--older-than 30`` for days sees that it means seconds.
    """
    from queuectl.render import plural

    by_state = dict.fromkeys(which.states, 0)
    count, last = 0, 0.0
    for job in queue.jobs(which, MOST_COUNTED + 1):
        by_state[job.state] += 1
        count += 1
        last = max(last, job.ended_at or 0.0)
    if count > MOST_COUNTED:
        return count, f"more than {MOST_COUNTED:,} jobs{aged}", last
    parts = ", ".join(f"{number} {state}" for state, number in by_state.items() if number)
    whose = "its" if count == 1 else "their"
    return count, f"{plural(count, 'job')}{aged} ({parts}) with {whose} runs and output", last


def prune(args: Args) -> int:
    """``prune``."""
    from queuectl.job import ENDED

    for state in args.state:
        if state not in ENDED:
            raise UsageError(f"prune deletes jobs that have ended ({', '.join(ENDED)}), not {state} ones.")
    return delete_jobs(args.state or ENDED, args, "Prune")


def reset(args: Args) -> int:
    """``reset``."""
    from queuectl.render import write_json

    if not confirmed(RESET_QUESTION, args):
        return declined("Reset", args)
    with Queue(args.db, create=args.may_make_store) as queue:
        try:
            queue.reset()
        except KeyboardInterrupt as error:
            told = "Workers that were told to stop still do; 'queuectl status' shows what is left."
            raise Interrupted(told) from error
    if args.json:
        write_json({"reset": True})
    elif not args.quiet:
        print("Queue reset.")
    return 0


COMMANDS = (
    Command(
        "prune",
        prune,
        options=[
            Option("--state", "only completed, dead or cancelled jobs (default: all three)", "S", STATE, repeat=True,
                   complete="ended"),
            Option("--older-than", "only those that ended longer ago than this", "D", DURATION),
            QUEUE_OPTION,
            TAG_OPTION,
            YES_OPTION,
        ],
        examples=[
            ("queuectl prune --older-than 7d", "asks first"),
            ("queuectl prune --state completed --yes", "for scripts"),
            ("queuectl config set keep_completed 7d", "let the workers do it from now on"),
        ],
        details=(
            "Asks first, then deletes them with their runs and output. What ends while it asks is kept. The answer is\n"
            "read from standard input."
        ),
        exit_codes=[(1, "the answer was no")],
    ),
    Command(
        "reset",
        reset,
        options=[YES_OPTION],
        examples=[("queuectl reset", ""), ("queuectl reset --yes", "for scripts")],
        details=(
            "Stops the workers on all hosts at once, deletes all jobs and runs, and resets all settings. Ids start\n"
            "from job1 again. Asks first; the answer is read from standard input, and end of input means no. A job\n"
            "cannot reset its own store."
        ),
        exit_codes=[(1, "the answer was no, or it was called by a job of this store")],
    ),
)  # fmt: skip
