"""``list``, ``show`` and ``explain``: looking at jobs."""

from __future__ import annotations

from queuectl.cli_commands.spec import (
    JOB,
    QUEUE_OPTION,
    STATE_OPTION,
    TABLE_OPTION,
    TAG_OPTION,
    Command,
    Kind,
    Option,
    whole_from,
)
from queuectl.errors import UsageError
from queuectl.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

    from queuectl.cli_commands.spec import Args
    from queuectl.job import Job, JobFilter, Run

SORT_FIELDS = (
    "id", "state", "queue", "priority", "run_at", "attempts", "failures", "max_retries", "created_at", "updated_at",
    "ended_at", "command",
)  # fmt: skip
TAIL_LINES = 10
TAIL_BYTES = 16 * 1024


def sort_key(text: str) -> Tuple[Optional[str], bool]:
    """Return (field, descending) of ``--sort F`` or ``--sort -F``; the field None is the order of arrival."""
    name = text.lstrip("-").replace("-", "_")
    if name not in SORT_FIELDS:
        from queuectl.cli_commands.suggest import did_you_mean

        raise UsageError(f"cannot sort by {name[:40]!r}. {did_you_mean(name, SORT_FIELDS, 'The fields are ')}")
    # Ids as text would put job10 before job2: the order of arrival is what is meant.
    return (None if name == "id" else name), text.startswith("-")


SORT = Kind(sort_key, "a field, or -FIELD for descending order")
SORT_HELP = f"sort by this field; -F sorts in descending order (default: id): {', '.join(SORT_FIELDS)}"
SORT_OPTION = Option("--sort", SORT_HELP, "F", SORT, complete="sort", default=(None, False))
LIMIT_OPTION = Option("--limit", "at most N jobs", "N", whole_from(0))


def filter_of(args: Args) -> JobFilter:
    """Return the jobs that ``--state``, ``--queue`` and ``--tag`` choose."""
    from queuectl.job import JobFilter

    return JobFilter(tuple(args.state), tuple(args.queue), tuple(args.tag))


def list_jobs(args: Args) -> int:
    """``list``."""
    with Queue(args.db, create=args.may_make_store) as queue:
        field, descending = args.sort
        found = queue.jobs(filter_of(args), args.limit, field, descending)
        chosen = args.state or args.queue or args.tag or args.limit is not None
        none = "No jobs match." if chosen else "No jobs. Add one: queuectl enqueue -- echo hello"
        write_jobs(found, args, job_rows(found, queue.now()), HEADERS, none)
    return 0


HEADERS = ("ID", "STATE", "QUEUE", "PRIORITY", "RUNS", "WHEN", "COMMAND")
# What a narrow terminal does not show, first to last; of the DLQ too.
SPARE = ("PRIORITY", "FAILED", "QUEUE", "RUNS", "WHEN", "DIED", "REASON")


def job_rows(found: Iterable[Job], now: float) -> Iterator[Tuple[str, ...]]:
    """Yield a table's row for each job, every text escaped."""
    from queuectl.render import escape, when

    for job in found:
        yield (
            job.id, job.state, job.queue, str(job.priority), str(job.attempts), when(job, now), escape(job.command),
        )  # fmt: skip


def write_jobs(
    found: Iterator[Job],
    args: Args,
    rows: Iterator[Tuple[str, ...]],
    headers: Tuple[str, ...],
    none: str,
    to_json: Optional[Callable[[Job], Dict[str, Any]]] = None,
) -> None:
    """Write jobs as ``list`` does: a table for people, JSON Lines when piped, ``--json`` an array, ``-q`` ids.

    *rows* reads from *found*: one of the two is used. *none* is said where a table would be empty.
    """
    from queuectl import render
    from queuectl.job import job_json

    objects = map(to_json or job_json, found)
    if args.json:
        render.write_json_array(objects)
    elif args.quiet:
        for job in found:
            print(job.id)
    elif args.table or render.is_terminal():
        right = ("PRIORITY", "RUNS", "FAILED")
        spare = [name for name in SPARE if name in headers]
        colour = render.wants_colour(args.no_color)
        names = ("ID", "QUEUE")
        if not render.write_table(headers, rows, right, "STATE", colour, ("LAST ERROR",), spare, names=names):
            render.say(none)
    else:
        if args.verbose:
            render.note("standard output is not a terminal, so this is JSON Lines. --table forces a table.")
        render.write_json_lines(objects)


# -- show -------------------------------------------------------------------------------------


def run_json(run: Run) -> Dict[str, Any]:
    """Return *run* as an object of ``show --json``'s ``runs``."""
    from queuectl.clock import iso_utc

    return {
        "run_id": run.run_id,
        "number": run.number,
        "state": run.state,
        "exit_code": run.exit_code,
        "signal": run.signal,
        "started_at": iso_utc(run.started_at),
        "ended_at": None if run.ended_at is None else iso_utc(run.ended_at),
        "worker": run.worker,
        "host": run.host,
        "pid": run.pid,
        "peak_memory_bytes": run.peak_memory_bytes,
        "cpu_s": run.cpu_s,
        "reason": run.reason,
    }


def show(args: Args) -> int:
    """``show ID``."""
    from queuectl.render import write_json

    with Queue(args.db, create=args.may_make_store) as queue:
        job = queue.get(args.id)
        runs = queue.runs(args.id)
        output = last_bytes(queue, args.id, TAIL_BYTES)
        now = queue.now()
        states = queue.store.states(job.after) if job.after else {}
    if args.json:
        from queuectl.job import job_json

        document = {**job_json(job), "runs": [run_json(run) for run in runs], "output_tail": tail(output)}
        write_json(document)
        return 0
    print_job(job, now, args, states)
    if runs:
        print("\nRuns:")
        print_runs(runs, now, args)
        print_output(output, runs[-1])
    return 0


def last_bytes(queue: Queue, job_id: str, size: int) -> bytes:
    """Return the last *size* bytes of what a job's last run wrote, without reading all of it."""
    from queuectl.runner.output import joined

    parts = queue.store.last_output(job_id, size)
    return b"".join(joined(parts, parts[0][0] if parts else 0))


def tail(output: bytes) -> str:
    """Return the last lines of *output* as text."""
    text = output[-TAIL_BYTES:].decode("utf-8", "replace")
    return "\n".join(text.rstrip("\r\n").split("\n")[-TAIL_LINES:])


def print_job(job: Job, now: float, args: Args, states: Mapping[str, str]) -> None:
    """Print a job's fields, aligned; *states* are those of the jobs that had to complete before."""
    from queuectl.clock import format_duration, local_text
    from queuectl.job import WAITING
    from queuectl.render import escape, paint, wants_colour, when, write_fields

    state = paint(job.state, job.state, wants_colour(args.no_color))
    fields = [
        ("id", job.id),
        ("state", state + (" (being cancelled)" if job.cancel_requested else "")),
        ("command", "\n".join(map(escape, job.command.split("\n")))),
        ("queue", job.queue),
        ("priority", str(job.priority)),
        ("attempts", f"{job.attempts} ({job.failures} failed, {job.losses} lost in a row)"),
        ("max retries", str(job.max_retries)),
        ("directory", escape(job.cwd)),
    ]
    if job.reason:
        fields.insert(2, ("reason", escape(job.reason)))
    if job.timeout_s is not None:
        fields.append(("timeout", format_duration(job.timeout_s)))
    if job.backoff_base is not None:
        fields.append(("backoff base", f"{job.backoff_base:g}"))
    if job.tags:
        fields.append(("tags", ", ".join(job.tags)))
    fields += [("environment", escape(f"{name}={value}")) for name, value in job.env.items()]
    if job.after:
        fields.append(("after", ", ".join(f"{name} ({states.get(name, 'deleted')})" for name in job.after)))
    fields.append(("created", local_text(job.created_at, now)))
    if job.state in WAITING:
        at = local_text(job.run_at, now)
        later = f", at {at} or later" if job.run_at > now else ""
        fields.append(("runs at", f"{at} ({when(job, now)})" if not job.held else f"when these have completed{later}"))
    if job.ended_at is not None:
        fields.append(("ended", f"{local_text(job.ended_at, now)} ({when(job, now)})"))
    write_fields(fields)


RUN_HEADERS = ("RUN", "STATE", "STARTED", "TOOK", "EXIT", "MEMORY", "CPU", "WORKER", "HOST")


def print_runs(runs: List[Run], now: float, args: Args) -> None:
    """Print the table of a job's runs."""
    from queuectl.clock import format_duration, local_text
    from queuectl.execution import signal_name
    from queuectl.render import escape, size_text, wants_colour, write_table

    rows = []
    for run in runs:
        took_s = (now if run.ended_at is None else run.ended_at) - run.started_at
        exit_text = "" if run.exit_code is None else str(run.exit_code)
        rows.append(
            (
                str(run.number),
                run.state,
                local_text(run.started_at, now),
                format_duration(max(took_s, 0.0)),
                exit_text if run.signal is None else f"signal {signal_name(run.signal)}",
                "" if run.peak_memory_bytes is None else size_text(run.peak_memory_bytes),
                "" if run.cpu_s is None else f"{run.cpu_s:.2f} s",
                run.worker[:8],
                escape(run.host),
            )
        )
    spare = ("WORKER", "CPU", "MEMORY", "STARTED")
    write_table(RUN_HEADERS, rows, ("RUN", "EXIT", "MEMORY", "CPU"), "STATE", wants_colour(args.no_color), (), spare)


def print_output(output: bytes, run: Run) -> None:
    """Print the last lines of a run's output, escaped; of a line that was written over, what is left to see.

    A progress bar may be thousands of such writes in one line, and nobody would find the error behind it.
    """
    from queuectl.render import escape

    lines = tail(output).split("\n") if output else []
    if not lines:
        print(f"\nRun {run.number} has no output" + (" yet." if run.ended_at is None else "."))
        return
    print(f"\nLast lines of run {run.number} (all of them: queuectl logs {run.job_id}):")
    for line in lines:
        print("  " + escape(line.rstrip("\r").rpartition("\r")[2]))


def explain(args: Args) -> int:
    """``explain ID``."""
    with Queue(args.db, create=args.may_make_store) as queue:
        sentences = queue.explain(args.id)
        state = queue.get(args.id).state if args.json else ""
    if args.json:
        from queuectl.render import write_json

        write_json({"id": args.id, "state": state, "sentences": sentences})
        return 0
    from queuectl.render import escape

    for sentence in sentences:
        print(escape(sentence))
    return 0


COMMANDS = (
    Command(
        "list",
        list_jobs,
        options=[STATE_OPTION, QUEUE_OPTION, TAG_OPTION, LIMIT_OPTION, SORT_OPTION, TABLE_OPTION],
        examples=[
            ("queuectl list", ""),
            ("queuectl list --state failed --state dead", "what went wrong"),
            ("queuectl list --sort -ended_at --limit 10", "the last ten to end"),
            ("queuectl list --tag nightly | jq -r .id", "piped, it is JSON Lines"),
        ],
        details=(
            "A table on a terminal; JSON Lines (one object per line) when standard output is not a terminal, unless\n"
            "--table is given; one array with --json; ids only with -q. WHEN says how long a job has been due or when\n"
            "it will be, how long it has been running, or how long ago it ended. A narrow terminal shows fewer\n"
            "columns and shortens long ids. An option given several times matches any of its values; different\n"
            "options must all match: --tag a --tag b --state dead lists the dead jobs with either tag."
        ),
    ),
    Command(
        "show",
        show,
        positionals=[JOB],
        examples=[("queuectl show job1", ""), ("queuectl show job1 --json", "for scripts, with its runs")],
        details=(
            "Shows its fields, its runs (start, duration, exit code, memory, CPU, worker) and its last output. Of a\n"
            "line that was written over, such as a progress bar, only its last state is shown; 'queuectl logs' has\n"
            "all of it."
        ),
    ),
    Command(
        "explain",
        explain,
        positionals=[JOB],
        examples=[("queuectl explain job1", "")],
        details="Looks at its due time, the workers, pauses, limits, the jobs ahead of it, retries and lost runs.",
    ),
)
