"""``dlq list``, ``dlq retry`` and ``dlq purge``: the dead letter queue."""

from __future__ import annotations

from queuectl.cli_commands.cleanup import delete_jobs
from queuectl.cli_commands.jobs import LIMIT_OPTION, SORT_OPTION, last_bytes, write_jobs
from queuectl.cli_commands.moves import print_jobs_json
from queuectl.cli_commands.progress import counting
from queuectl.cli_commands.spec import (
    DURATION,
    QUEUE_OPTION,
    TABLE_OPTION,
    TAG_OPTION,
    YES_OPTION,
    Command,
    Option,
    Positional,
)
from queuectl.errors import UsageError
from queuectl.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Iterator, Tuple

    from queuectl.cli_commands.spec import Args
    from queuectl.job import Job, JobFilter

HEADERS = ("ID", "QUEUE", "FAILED", "DIED", "REASON", "LAST ERROR", "COMMAND")
ERROR_BYTES = 4096
BLANK_BYTES = 1024 * 1024  # where these are all blank
ERROR_WIDTH = 100


def dead(args: Args) -> JobFilter:
    """Return the dead jobs that the filters choose."""
    from queuectl.job import JobFilter

    return JobFilter(("dead",), tuple(args.queue), tuple(args.tag))


def list_dead(args: Args) -> int:
    """``dlq list``."""
    with Queue(args.db, create=args.may_make_store) as queue:
        field, descending = args.sort
        found = queue.jobs(dead(args), args.limit, field, descending)
        write_jobs(found, args, _rows(queue, found), HEADERS, "No jobs in the DLQ.", lambda job: dead_json(queue, job))
    return 0


def dead_json(queue: Queue, job: Job) -> Dict[str, Any]:
    """Return a dead job as ``list`` prints jobs, and its last error."""
    from queuectl.job import job_json

    return {**job_json(job), "last_error": last_error(queue, job)}


def _rows(queue: Queue, found: Iterable[Job]) -> Iterator[Tuple[str, ...]]:
    from queuectl.render import escape, shorten, when

    now = queue.now()
    for job in found:
        error = shorten(escape(last_error(queue, job)), ERROR_WIDTH)
        yield (
            job.id, job.queue, str(job.failures), when(job, now), escape(job.reason or ""), error, escape(job.command),
        )  # fmt: skip


def last_error(queue: Queue, job: Job) -> str:
    """Return the last line that the job's last run wrote: where commands say what is wrong."""
    for size in (ERROR_BYTES, BLANK_BYTES):
        text = last_bytes(queue, job.id, size).decode("utf-8", "replace").strip()
        if text:
            return text.splitlines()[-1]
    return ""


def retry_dead(args: Args) -> int:
    """``dlq retry ID ...`` or ``dlq retry --all``."""
    if bool(args.ids) == bool(args.all):
        raise UsageError("dlq retry needs either ids or --all: queuectl dlq retry job1.")
    with Queue(args.db, create=args.may_make_store) as queue:
        if args.all:
            from queuectl.job import JobFilter

            with counting(args, "retried", queue.status().jobs["dead"]) as tell:
                count = queue.retry_where(JobFilter(("dead",)), tell)
        else:
            job_ids = list(dict.fromkeys(args.ids))
            queue.retry_dead(*job_ids)
            count = len(job_ids)
            if args.json:
                print_jobs_json(queue, job_ids)
                return 0
    _tell(count, args)
    return 0


def _tell(count: int, args: Args) -> None:
    from queuectl.render import write_json

    if args.json:
        write_json({"retried": count})
    elif args.quiet:
        if args.all:  # of ids nobody asked how many they are
            print(count)
    elif count == 0:
        print("No jobs in the DLQ.")
    else:
        print("Job retried" if count == 1 else f"{count} jobs retried")


def purge(args: Args) -> int:
    """``dlq purge``."""
    return delete_jobs(("dead",), args, "Purge")


COMMANDS = (
    Command(
        "dlq list",
        list_dead,
        "List dead jobs with reason and last error",
        options=[QUEUE_OPTION, TAG_OPTION, LIMIT_OPTION, SORT_OPTION, TABLE_OPTION],
        examples=[("queuectl dlq list", ""), ("queuectl dlq list --json", "")],
        details=(
            "Prints as 'queuectl list' does: a table on a terminal, JSON Lines when piped, an array with --json.\n"
            "LAST ERROR is the last line of output of the job's last run."
        ),
    ),
    Command(
        "dlq retry",
        retry_dead,
        "Run dead jobs again",
        positionals=[Positional("ids", "ID", "ids of dead jobs; if one is not dead, none is retried", 0, None, "dead")],
        options=[Option("--all", "all dead jobs")],
        usage="ID ... | --all",
        examples=[("queuectl dlq retry job1", ""), ("queuectl dlq retry --all", "")],
        details="Starts them over: pending, due now, attempts, failures and losses back to 0. Past runs are kept.",
        exit_codes=[(1, "a job is not dead or does not exist; nothing was changed")],
    ),
    Command(
        "dlq purge",
        purge,
        "Delete dead jobs",
        options=[
            Option("--older-than", "only those that died longer ago than this", "D", DURATION),
            QUEUE_OPTION,
            TAG_OPTION,
            YES_OPTION,
        ],
        examples=[("queuectl dlq purge --older-than 30d --yes", "")],
        details="Asks first, then deletes them with their runs and output. The answer is read from standard input.",
        exit_codes=[(1, "the answer was no")],
    ),
)
