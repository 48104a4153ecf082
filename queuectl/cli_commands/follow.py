"""``run`` and ``logs``: following jobs; job output passes through byte for byte."""

from __future__ import annotations

import os
import sys
import time

from queuectl.cli_commands.enqueue import FIELD_OPTIONS, job_fields
from queuectl.cli_commands.spec import JOB, Command, Option, Positional, whole_from
from queuectl.cli_commands.waiting import TIMED_OUT, Waiting, is_own
from queuectl.errors import QueuectlError, StoreUnavailable, Unwritten, UsageError, is_without_reader
from queuectl.jobspec import from_fields
from queuectl.patience import Patient
from queuectl.queue import Queue
from queuectl.render import is_terminal, note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, Iterator, Optional

    from queuectl.cli_commands.spec import Args
    from queuectl.job import Job, Run

CANCELLED = 130
SIGNALLED = 128  # plus the signal's number, as shells say it
# How often ``run`` looks for its job's next run while it has nothing to show.
LOOK_S = 0.02


def pass_through(pieces: Iterable[bytes], done: str = "") -> None:
    """Write *pieces* to standard output as they are, each at once; *done* is said if it cannot be written."""
    raw = getattr(sys.stdout, "buffer", None)
    for piece in pieces:
        try:
            if raw is None:  # a caller's text stream
                sys.stdout.write(piece.decode("utf-8", "replace"))
            else:
                raw.write(piece)
                raw.flush()
        except OSError as error:
            if is_without_reader(error):
                raise
            raise Unwritten(error, done) from error


def _on_one_screen() -> bool:
    """Say whether standard output and standard error go to the same place."""
    if os.name == "nt":  # there all consoles and pipes look the same
        return is_terminal() and is_terminal(sys.stderr)
    try:
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):
        return False


# -- run --------------------------------------------------------------------------------------


class _Runner:
    """Follows a job through its runs and retries to its end, for ``run`` and ``logs -f``."""

    def __init__(self, queue: Queue, job_id: str, args: Args, is_own: bool = False) -> None:
        self.queue = queue
        self.job_id = job_id
        self.silent = bool(args.quiet)
        self.hidden = bool(args.json)  # one JSON document at the end instead of the output
        self.seen = 0  # runs that were followed, or that nobody asked for
        self._is_own = is_own  # whether this command enqueued it: then an error must not look as if it had not
        self._waits = True  # as of the last look
        self._waiting = Waiting(queue, self.silent, self.note)
        self._told_retry = False
        self._lines: Optional[int] = args.tail if not is_own else None  # of the first run, what it has printed so far
        self._line_is_open = False  # whether what was shown ends in the middle of a line
        self._cut = 0  # bytes missing in what was shown

    def to_its_end(self) -> Job:
        """Show each run's output live; return the job in its final state."""
        from queuectl.job import ENDED, WAITING

        while True:
            job = self.queue.get(self.job_id)
            self._waits = job.state in WAITING
            if job.run_no > self.seen:
                self._waiting = Waiting(self.queue, self.silent, self.note)
                self._told_retry = False
                if self.hidden:
                    self.seen += 1
                else:
                    pass_through(self._next_run(), self.goes_on() if self._is_own else "")
                    self._tell_lost()
                continue
            if job.state in ENDED:
                return job
            self._while_it_waits(job)
            time.sleep(LOOK_S)

    def _next_run(self) -> Iterator[bytes]:
        """Yield the output of the next run after those in ``seen``, and count it there."""
        pieces = self.queue.follow_next(self.job_id, self.seen, self.count_cut, self._lines)
        self._lines = None
        while True:
            try:
                piece = next(pieces)
            except StopIteration as end:
                # Not simply one more: the run may have been given back, and none have come in its place.
                self.seen = end.value
                return
            if piece:
                self._line_is_open = not piece.endswith(b"\n")
            yield piece

    def goes_on(self) -> str:
        """Return what is said of the job when this command does not wait for its end."""
        how = "stays in the queue" if self._waits else "keeps running"
        return f"{self.job_id} {how}. Follow it: queuectl logs -f {self.job_id}."

    def count_cut(self, count: int) -> None:
        """Count *count* bytes as missing in what was shown."""
        self._cut += count

    def tell_cut(self) -> None:
        """Say if what was shown was cut: whoever reads it by program does not see the line in its middle."""
        from queuectl.config import SETTINGS

        if self._cut and not self.silent:
            limit = self.queue.settings().get("output_limit", SETTINGS["output_limit"].default)
            self.note(
                f"{self._cut} bytes of the output were cut, as it is longer than output_limit ({limit}). "
                "Write large output to a file in the command itself."
            )

    def note(self, message: str) -> None:
        """Say *message* on a line of its own, also behind output that did not end its last one."""
        self.end_line()
        note(message)

    def end_line(self) -> None:
        """End the line on the screen that the output left open, if it did: something else is to be said."""
        if self._line_is_open and _on_one_screen():
            sys.stderr.write("\n")
        self._line_is_open = False

    def marked(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield *pieces*, to be shown, and remember whether they end in the middle of a line."""
        for piece in pieces:
            if piece:
                self._line_is_open = not piece.endswith(b"\n")
            yield piece

    def _while_it_waits(self, job: Job) -> None:
        """Say once per wait what it waits for: a retry, a worker, a paused queue."""
        if job.state == "failed" and not (self.silent or self._told_retry):
            self._told_retry = True
            self._tell_retry(job)
        else:
            self._waiting.look(job)

    def _tell_lost(self) -> None:
        """Say if the run that was just shown was lost or stopped: it did not fail, and the output begins anew."""
        run = next((run for run in self.queue.runs(self.job_id) if run.number == self.seen), None)
        how = ""
        if run is not None and run.state == "lost":
            how = "lost its worker"
        elif run is not None and run.state == "stopped":
            why = "by a worker that stopped" if run.reason in (None, "stopped") else f"({run.reason})"
            how = f"was put back {why}"
        if how and not self.silent and self.queue.get(self.job_id).state not in ("dead", "cancelled"):
            self.note(f"{self.job_id} {how}, and runs again.")

    def _tell_retry(self, job: Job) -> None:
        from queuectl.clock import format_duration

        delay = format_duration(max(job.run_at - self.queue.now(), 0.0))
        self.note(f"{job.id} failed ({job.reason}), retry {job.failures} of {job.max_retries} in {delay}.")


def run(args: Args) -> int:
    """``run``: add a job, show its output, exit as its last run did."""
    spec = from_fields(job_fields(args, "run"))
    with Queue(args.db) as queue:
        job_id = queue.add([spec])[0]
        runner = _Runner(queue, job_id, args, is_own=True)
        cancel = f" Cancel it: queuectl cancel {job_id}."
        try:
            if args.verbose and not args.quiet:
                note(f"enqueued {job_id}.")
            with Patient(queue.store):
                job = runner.to_its_end()
                runs = queue.runs(job_id)
        except KeyboardInterrupt:
            runner.note(runner.goes_on() + cancel)
            return CANCELLED
        except StoreUnavailable:
            runner.note(runner.goes_on() + cancel)
            raise
        if args.json:
            _print_run_json(queue, job, runner.count_cut)
        with Patient(queue.store):
            runner.tell_cut()
    code = exit_code_of(job, runs[-1] if runs else None)
    if job.state == "dead" and not args.quiet:
        runner.note(f"{job_id} is dead ({job.reason}) after {job.attempts} run{'s' * (job.attempts != 1)}.")
    elif job.state == "cancelled" and not args.quiet:
        runner.note(f"{job_id} was cancelled.")
    return code


def exit_code_of(job: Job, last: Optional[Run]) -> int:
    """Return what ``run`` exits with: as the last run did, 124 timed out, 130 cancelled, 128+N for signal N."""
    if job.state == "completed":
        return 0
    if job.state == "cancelled":
        return CANCELLED
    if last is None:
        return 1
    if last.state == "timed_out":
        return TIMED_OUT
    if last.signal:
        return SIGNALLED + last.signal
    return _for_this_system(last.exit_code or 1)  # lost, or never started: it has no code of its own


def _for_this_system(code: int) -> int:
    """Return a command's exit code, which on Windows has 32 bits, as this program can exit with it."""
    if sys.platform == "win32":
        return code - 2**32 if code >= 2**31 else code  # to Python the number is a signed one
    return min(code, 255)  # the command ran on a host with Windows; 256 must not look like 0


def _print_run_json(queue: Queue, job: Job, tell_cut: Callable[[int], None]) -> None:
    from queuectl.cli_commands.jobs import run_json
    from queuectl.following import cut_bytes
    from queuectl.job import job_json
    from queuectl.render import write_json
    from queuectl.runner.output import joined

    runs = queue.runs(job.id)
    parts = queue.store.output(runs[-1].run_id) if runs else []
    tell_cut(cut_bytes(parts, 0))
    output = b"".join(joined(parts, 0)).decode("utf-8", "replace")
    write_json({**job_json(job), "runs": [run_json(run) for run in runs], "output": output})


# -- logs -------------------------------------------------------------------------------------


def logs(args: Args) -> int:
    """``logs ID``."""
    if args.json and args.follow:
        raise UsageError("--json and --follow do not go together. Give only one of them.")
    with Queue(args.db, create=args.may_make_store) as queue:
        if args.json:
            _print_logs_json(queue, args)
        elif not args.follow:
            pass_through(queue.output_pieces(args.id, args.run, args.tail))
        elif is_own(queue, [args.id]):
            raise QueuectlError(
                f"cannot follow {args.id} from inside it: it would wait for itself. Leave out --follow."
            )
        else:
            _follow(queue, args)
    return 0


def _follow(queue: Queue, args: Args) -> None:
    runner = _Runner(queue, args.id, args)
    try:
        if args.run is not None:
            pass_through(runner.marked(queue.follow(args.id, args.run, args.tail)))
        else:
            with Patient(queue.store):
                runner.seen = max(queue.get(args.id).run_no - 1, 0)
                runner.to_its_end()
    except (KeyboardInterrupt, QueuectlError):
        runner.end_line()  # what is said of it must not go on in the output's last line
        raise


def _print_logs_json(queue: Queue, args: Args) -> None:
    from queuectl.render import write_json

    output = queue.output(args.id, args.run, args.tail)
    number = args.run or queue.get(args.id).run_no or None
    document: Dict[str, Any] = {"id": args.id, "run": number, "output": output.decode("utf-8", "replace")}
    write_json(document)


COMMANDS = (
    Command(
        "run",
        run,
        positionals=[Positional("job", "JSON", "a job as a JSON object, instead of CMD", 0)],
        options=FIELD_OPTIONS,
        words="CMD ARG ...",
        usage="[OPTIONS] [JSON | --command CMD | -- CMD ARG ...]",
        examples=[
            ("queuectl run -- make test", ""),
            ("queuectl run --max-retries 0 --timeout 10m --command 'curl -f example.org | wc -c'", ""),
        ],
        details=(
            "Waits for the job to end, retries included, and exits as its last run did. Ctrl-C stops the waiting, not\n"
            "the job, and says how to follow or cancel it. If a run wrote more than the setting output_limit, a line\n"
            "in its output says how much was cut, and so does standard error at the end."
        ),
        exit_codes=[
            (124, "the last run timed out"),
            (130, "the job was cancelled, or the waiting was interrupted (the job stays, waiting or running)"),
            (128, "plus N: the last run was ended by signal N"),
        ],
    ),
    Command(
        "logs",
        logs,
        positionals=[JOB],
        options=[
            Option("--run", "the run with this number, from 1 (default: the last)", "N", whole_from(1)),
            Option("--tail", "only the last N lines; with -f, of what there is so far", "N", whole_from(0)),
            Option("-f --follow", "follow the output until the job ends; with --run, until that run ends"),
        ],
        examples=[
            ("queuectl logs job1", ""),
            ("queuectl logs -f job1", "follow it, on whichever host it runs"),
            ("queuectl logs -f --tail 20 job1", "the same from the last 20 lines on"),
        ],
        details=(
            "Prints the bytes as the command wrote them, standard output and error in order of arrival. If a run\n"
            "wrote more than the setting output_limit, a line says how much was cut. A job that has not run prints\n"
            "nothing. -f starts with the last run and continues with the next ones, retries included; standard error\n"
            "says why there is another run."
        ),
    ),
)
