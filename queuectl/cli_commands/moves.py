"""``cancel``, ``retry`` and ``edit``: moving and changing jobs."""

from __future__ import annotations

from queuectl.cli_commands.enqueue import number, variables
from queuectl.cli_commands.jobs import filter_of
from queuectl.cli_commands.progress import counting
from queuectl.cli_commands.spec import QUEUE_OPTION, STATE, TAG_OPTION, Command, Option, Positional
from queuectl.db.rules import CANCELLABLE, RETRIABLE
from queuectl.errors import Interrupted, UsageError
from queuectl.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, NoReturn, Sequence, Tuple

    from queuectl.cli_commands.spec import Args

# How long, beyond the time a command has between TERM and KILL, ``cancel`` waits for a worker to act.
CANCEL_MARGIN_S = 5.0
SWEEP_S = 0.5
# Fields whose text may be "none" and mean it; for all others that is: as if the field had not been given.
NEVER_NONE = ("command", "id")


def print_jobs_json(queue: Queue, job_ids: Sequence[str]) -> None:
    """Print the jobs as one JSON array."""
    from queuectl.job import job_json
    from queuectl.render import write_json_array

    write_json_array(job_json(queue.get(job_id)) for job_id in job_ids)


def cancel(args: Args) -> int:
    """``cancel ID ...`` or ``cancel --state S ...``: also waits, for a bounded time, until running ones have ended."""
    chosen = _is_chosen(args, "cancel", "failed")
    for state in args.state:
        if state not in CANCELLABLE:
            raise UsageError(f"cancel takes jobs that wait or run ({', '.join(CANCELLABLE)}), not {state} ones.")
    return _cancel_chosen(args) if chosen else _cancel_named(args)


def _is_chosen(args: Args, verb: str, state: str) -> bool:
    """Return whether filters choose the jobs, not ids; *state* is one for the example."""
    chosen = bool(args.state or args.queue or args.tag)
    if bool(args.ids) == chosen:
        example = f"such as: queuectl {verb} job1, or queuectl {verb} --state {state}"
        raise UsageError(f"{verb} needs ids or filters, {'not both' if chosen else example}.")
    return chosen


def _cancel_chosen(args: Args) -> int:
    with Queue(args.db, create=args.may_make_store) as queue:
        with counting(args, "cancelled") as tell:
            count, running = queue.cancel_where(filter_of(args), tell)
        try:
            states = _until_ended(queue, running, args) if running else {}
        except KeyboardInterrupt as error:
            _tell_what_goes_on(queue, running, error)
    count += sum(state == "cancelled" for state in states.values())
    _tell_count(count, "cancelled", "cancel", args)
    return _not_cancelled(states)


def _cancel_named(args: Args) -> int:
    job_ids = list(dict.fromkeys(args.ids))
    with Queue(args.db, create=args.may_make_store) as queue:
        try:
            states = queue.cancel(*job_ids)
            running = [job_id for job_id in job_ids if states[job_id] == "processing"]
            if running:
                states.update(_until_ended(queue, running, args))
        except KeyboardInterrupt as error:
            _tell_what_goes_on(queue, job_ids, error)
        if args.json:
            print_jobs_json(queue, [job_id for job_id in job_ids if states[job_id] != "deleted"])
    for job_id in job_ids:
        if states[job_id] == "cancelled" and not (args.quiet or args.json):
            print("Cancelled " + job_id)
    return _not_cancelled({job_id: states[job_id] for job_id in job_ids})


def _until_ended(queue: Queue, job_ids: List[str], args: Args) -> Dict[str, str]:
    """Wait until the workers have ended *job_ids*; return the states then, or after a bounded time."""
    import time

    from queuectl.recovery import sweep
    from queuectl.render import note

    wait_s = queue.config().kill_grace + CANCEL_MARGIN_S
    if args.verbose and not args.quiet:
        note(f"waiting up to {wait_s:g} s for the workers to end {', '.join(job_ids)}.")
    deadline = time.monotonic() + wait_s
    next_sweep = 0.0
    while True:
        states = queue.store.states(job_ids)
        if "processing" not in states.values() or time.monotonic() >= deadline:
            return {job_id: states.get(job_id, "deleted") for job_id in job_ids}
        if time.monotonic() >= next_sweep:
            next_sweep = time.monotonic() + SWEEP_S
            if not queue.workers():  # nobody else is there to end what a dead worker left running
                sweep(queue.store)
                continue
        time.sleep(0.02)


def _tell_what_goes_on(queue: Queue, job_ids: Sequence[str], error: KeyboardInterrupt) -> NoReturn:
    """Raise *error*, with a sentence if workers were asked to end some of these jobs: the store knows, no caller does.

    The interrupt may have come between the cancel's commit and its return.
    """
    asked = [job.id for job in queue.store.find(job_ids).values() if job.cancel_requested]
    if not asked:
        raise error
    them = asked[0] if len(asked) == 1 else f"{len(asked)} jobs"
    raise Interrupted(f"The workers still end {them}. 'queuectl retry' undoes a cancel.") from error


def _not_cancelled(states: Dict[str, str]) -> int:
    """Say which jobs did not end as cancelled; return the exit code."""
    from queuectl.render import note

    code = 0
    for job_id, state in states.items():
        if state == "cancelled":
            continue
        code = 1
        if state == "processing":
            note(f"{job_id} is still being ended by its worker. Look again: queuectl show {job_id}")
        else:
            note(f"{job_id} was not cancelled: it is {state}, as it ended first.")
    return code


def retry(args: Args) -> int:
    """``retry ID ...`` or ``retry --state S ...``."""
    chosen = _is_chosen(args, "retry", "dead")
    for state in args.state:
        if state not in RETRIABLE:
            raise UsageError(f"retry takes jobs that have ended or failed ({', '.join(RETRIABLE)}), not {state} ones.")
    if chosen and not args.state:  # a queue's or a tag's completed jobs would all run once more
        raise UsageError(
            "retry by filter needs the states, or completed jobs would run again, too: "
            "add --state dead, or --state dead --state failed."
        )
    with Queue(args.db, create=args.may_make_store) as queue:
        if chosen:
            with counting(args, "retried") as tell:
                count = queue.retry_where(filter_of(args), tell)
            _tell_count(count, "retried", "retry", args)
            return 0
        job_ids = list(dict.fromkeys(args.ids))
        queue.retry(*job_ids)
        if args.json:
            print_jobs_json(queue, job_ids)
    if not (args.quiet or args.json):
        for job_id in job_ids:
            print("Retried " + job_id)
    return 0


def _tell_count(count: int, done: str, verb: str, args: Args) -> None:
    """Print how many jobs a filter chose, as ``Retried 3 jobs``."""
    from queuectl.render import plural, write_json

    if args.json:
        write_json({done: count})
    elif args.quiet:
        print(count)
    else:
        print(f"{done.capitalize()} {plural(count, 'job')}" if count else f"No jobs to {verb}.")


def edit(args: Args) -> int:
    """``edit ID FIELD=VALUE ...``."""
    fields, added = changes(args.changes)
    with Queue(args.db, create=args.may_make_store) as queue:
        if added:
            before = fields["env"] if "env" in fields else queue.get(args.id).env
            fields["env"] = {**(before or {}), **added} if before is None or isinstance(before, dict) else before
        job = queue.edit(args.id, **fields)
        if args.json:
            from queuectl.job import job_json
            from queuectl.render import write_json

            write_json(job_json(job))
    if not (args.quiet or args.json):
        print("Edited " + args.id)
    return 0


def changes(pairs: Sequence[str]) -> Tuple[Dict[str, Any], Dict[str, str]]:
    """Return the job fields that ``FIELD=VALUE`` words give, typed, and the variables that ``env.NAME=VALUE`` add."""
    from queuectl.jobspec import field_name

    found: Dict[str, Any] = {}
    variables_given: List[str] = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"edit takes FIELD=VALUE, not {pair[:40]!r}: queuectl edit job1 priority=5.")
        if name.startswith("env."):
            if name == "env.":
                raise UsageError(f"edit takes env.NAME=VALUE, not {pair[:40]!r}: queuectl edit job1 env.LEVEL=debug.")
            variables_given.append(f"{name[4:]}={text}")
            continue
        field = field_name("run_at" if name == "at" else name)
        if field in found:
            raise UsageError(f"field {field} is given twice.")
        found[field] = _value(field, text)
    return found, variables(variables_given)


def _value(field: str, text: str) -> Any:
    if text.lower() == "none" and field not in NEVER_NONE:
        return None
    if field in ("priority", "max_retries", "backoff_base"):
        return number(text)
    if field in ("tags", "after"):
        return [each.strip() for each in text.split(",") if each.strip()]
    if field == "env":
        from queuectl.jobspec import fields_from_json

        if not text.lstrip().startswith("{"):
            variable = text if text.find("=") > 0 else "NAME=VALUE"
            raise UsageError(
                f"edit takes env.NAME=VALUE for a variable, or env and a JSON object for all of them, not "
                f"{'env=' + text[:40]!r}: queuectl edit job1 env.{variable[:40]}."
            )
        return fields_from_json(text)
    return text


FILTERS = (
    Option("--state", "all jobs in this state", "S", STATE, repeat=True, complete="states"),
    QUEUE_OPTION,
    TAG_OPTION,
)
USAGE = "ID ... | [--state S ...] [--queue Q ...] [--tag T ...]"

COMMANDS = (
    Command(
        "cancel",
        cancel,
        positionals=[Positional("ids", "ID", "the jobs' ids; if one cannot be cancelled, none is", 0, None, "active")],
        options=FILTERS,
        usage=USAGE,
        examples=[
            ("queuectl cancel job1 job2", ""),
            ("queuectl cancel --queue mail", "all that wait or run there"),
            ("queuectl cancel --state pending --tag nightly", "all that match and have not begun"),
        ],
        details=(
            "A waiting job is cancelled at once. A running one is ended with all its processes, on any host: TERM\n"
            "first, KILL after the setting kill_grace. 'queuectl retry' undoes a cancel."
        ),
        exit_codes=[(1, "not found, already ended, or still running 5 s after kill_grace")],
    ),
    Command(
        "retry",
        retry,
        positionals=[Positional("ids", "ID", "the jobs' ids; if one cannot be retried, none is", 0, None, "retriable")],
        options=FILTERS,
        usage="ID ... | --state S ... [--queue Q ...] [--tag T ...]",
        examples=[
            ("queuectl retry job1", ""),
            ("queuectl retry --state dead --queue mail", "all dead jobs of a queue"),
        ],
        details="Starts jobs over: pending, due now, attempts, failures and losses back to 0. Past runs are kept.",
    ),
    Command(
        "edit",
        edit,
        positionals=[
            Positional("id", "ID", "the job's id", complete="waiting"),
            Positional("changes", "FIELD=VALUE", "the fields to change, and their new values", 1, None, "fields"),
        ],
        examples=[
            ("queuectl edit job1 priority=10", ""),
            ("queuectl edit job1 command='echo other' timeout=none", "none: as if never given"),
            ("queuectl edit job1 delay=0", "due now"),
            ("queuectl edit job3 after=job1,job2", "wait for these; after=none: for no other job"),
            ("queuectl edit job1 tags=a,b env.LEVEL=debug", "env.NAME sets one variable; env=none removes all"),
        ],
        details="Only a waiting job (pending or failed) can be changed, and its id cannot.",
    ),
)
