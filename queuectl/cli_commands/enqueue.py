"""``enqueue``: the hot path. Everything that is imported here counts, for every job."""

from __future__ import annotations

import os
import sys

from queuectl.cli_commands.spec import Command, Option, Positional
from queuectl.errors import Interrupted, Unwritten, UsageError, is_without_reader
from queuectl.jobspec import current_directory, from_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence

    from queuectl.cli_commands.spec import Args
    from queuectl.job import Job
    from queuectl.queue import Queue

FIELD_OPTIONS = (
    Option("--command", "the command, run by the shell", "CMD"),
    Option("--id", "the job's id (default: the next of job1, job2 ...)", "ID"),
    Option("--queue", "the queue it waits in (default: default)", "Q", complete="queues"),
    Option("--priority", "jobs with a larger number run first (default: 0)", "N"),
    Option("--max-retries", "retries after the first run (default: the setting max_retries)", "N"),
    Option("--backoff-base", "retry N waits B^N seconds (default: the setting backoff_base)", "B"),
    Option("--timeout", "end a run after this long: seconds, or 90s, 1.5h, 2h30m (default: the setting timeout)", "T"),
    Option("--delay", "wait this long before the first run: seconds, or 90s, 1.5h", "D"),
    Option("--at", "do not run before this time: 2030-01-31T08:00 (local), or with Z or an offset", "TIME"),
    Option("--after", "wait until this job has completed; for several, repeat it", "ID", repeat=True, complete="jobs"),
    Option("--cwd", "the directory it runs in (default: the current one)", "DIR", complete="files"),
    Option("--env", "set a variable in its environment", "K=V", repeat=True),
    Option("--tag", "a tag, instead of those in the JSON", "T", repeat=True),
)


def job_fields(args: Args, what: str) -> Dict[str, Any]:
    """Return the job fields that a command line gives: JSON, the words after ``--``, options over both.

    Raises:
        UsageError: The line gives no command, or two.
        InvalidJob: The JSON is none.
    """
    fields: Dict[str, Any] = {}
    if args.words is not None:
        if args.job is not None or args.command is not None:
            other = "JSON" if args.job is not None else "--command"
            raise UsageError(f"{what} was given {other} and words after --. Give only one of them.")
        if not (args.words and args.words[0]):  # a program without a name, such as an empty variable
            raise UsageError(f"{what} needs a command after --: queuectl {what} -- echo hi.")
        fields["command"] = quoted(args.words)
        if len(args.words) == 1 and " " in args.words[0] and not args.quiet:
            _doubt(args.words[0], what)
    elif args.job is not None:
        from queuectl.cli_commands.jsonobject import make_reader

        if what == "enqueue":
            _refuse_file(args.job)
        fields = make_reader(what)(args.job)
    elif args.command is None:
        raise UsageError(
            f"""{what} needs a job: queuectl {what} '{{"command":"echo hi"}}', or queuectl {what} -- echo hi."""
        )
    apply_options(fields, args)
    if fields.get("cwd") is None:
        fields["cwd"] = current_directory("give --cwd DIR")
    return fields


def _refuse_file(word: str) -> None:
    """Say how a file of jobs is given, if *word* is one: other tools take ``-``, a name or ``@NAME`` for it."""
    name = word[1:] if word.startswith("@") else word
    if "{" not in word and (name == "-" or os.path.isfile(name)):
        from queuectl.errors import InvalidJob, shown

        file = quoted([name])
        told = f"not a JSON object: {shown(word)}. For a file, one job per line: queuectl enqueue --file {file}"
        raise InvalidJob(told)


def _doubt(word: str, what: str) -> None:
    """Hint at --command if *word* names no program here: other tools would take it as a line for the shell."""
    from shutil import which

    if which(word) is None:
        from queuectl.render import note, shorten

        line = quoted([shorten(word, 200)])
        told = "a single word after -- is the name of a program, and there is none of this name."
        note(f"{told} For a shell command: queuectl {what} --command {line}")


def apply_options(fields: Dict[str, Any], args: Args) -> None:
    """Let the options of *args* override *fields*; ``--env`` adds to the JSON's ``env``."""
    # JSON may spell a field with hyphens: the option has to replace that one too.
    given = {name.replace("-", "_"): name for name in fields if "-" in name}
    for field in ("command", "id", "queue", "priority", "max_retries", "backoff_base", "timeout", "delay", "cwd"):
        text = getattr(args, field)
        if text is not None:
            fields.pop(given.get(field, field), None)
            fields[field] = number(text) if field in ("priority", "max_retries", "backoff_base") else text
    if args.at is not None:
        fields.pop(given.get("run_at", "run_at"), None)
        fields["run_at"] = args.at
    if args.at is not None and args.delay is None:
        fields.pop("delay", None)
    if args.delay is not None and args.at is None:
        fields.pop(given.get("run_at", "run_at"), None)
    if args.tag:
        fields["tags"] = args.tag
    if args.after:
        fields["after"] = [name for text in args.after for name in text.split(",")]
    if args.env:
        before = fields.get("env")
        added = variables(args.env)
        fields["env"] = {**before, **added} if isinstance(before, dict) else added if before is None else before


def number(text: str) -> Any:
    """Return *text* as a number if it is written as one, else as it is: the field's check refuses it."""
    for convert in (int, float):
        try:
            return convert(text) if text.isascii() and "_" not in text else text
        except ValueError:
            continue
    return text


def variables(pairs: Sequence[str]) -> Dict[str, str]:
    """Return the environment that ``--env K=V`` options give."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"option --env must be NAME=VALUE, not {pair[:40]!r}.")
        found[name] = value
    return found


def quoted(words: Sequence[str]) -> str:
    """Return *words* as one command that the platform's shell takes apart into exactly these words."""
    if os.name == "nt":
        from queuectl.cli_commands.windows_quote import command_for_cmd

        return command_for_cmd(words)
    # shlex.quote without shlex, whose import costs more than the rest of this module.
    return " ".join(
        word if word and _SAFE.issuperset(word) else "'" + word.replace("'", "'\"'\"'") + "'" for word in words
    )


_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-")


def enqueue(args: Args) -> int:
    """``enqueue``: one job, or with ``--file`` many."""
    if args.file is not None:
        from queuectl.cli_commands.bulk import enqueue_file

        return enqueue_file(args)
    if args.lines:
        raise UsageError("option --lines needs --file: queuectl enqueue --lines --file commands.txt.")
    spec = from_fields(job_fields(args, "enqueue"))
    from queuectl.queue import Queue

    with Queue(args.db) as queue:
        job_id = queue.add([spec])[0]
        try:
            if args.json or args.verbose:
                _tell(queue, job_id, args)
            if not args.json:
                print(job_id if args.quiet else "Enqueued job " + job_id)
            sys.stdout.flush()
        except OSError as error:
            if is_without_reader(error):
                raise
            raise Unwritten(error, f"The job was enqueued: {job_id}.") from error
        except KeyboardInterrupt as error:
            raise Interrupted.behind([job_id]) from error
    return 0


def _tell(queue: Queue, job_id: str, args: Args) -> None:
    job = queue.get(job_id)
    if args.verbose and not args.quiet:
        from queuectl.render import note

        now = queue.now()
        for line in decisions(queue.store.settings(), job, now):
            note(line)
    if args.json:
        from queuectl.job import job_json
        from queuectl.render import write_json

        write_json(job_json(job))


def decisions(settings: Dict[str, str], job: Job, now: float) -> List[str]:
    """Return what was settled for *job* that its command line did not say."""
    from queuectl.clock import local_text

    source = "the setting" if "max_retries" in settings else "the default"
    retries = "1 retry" if job.max_retries == 1 else f"{job.max_retries:,} retries"
    due = "now" if job.run_at <= now else "at " + local_text(job.run_at, now)
    if job.held:
        due += ", but after " + ", ".join(job.after)
    return [
        f"{job.id}: queue {job.queue}, priority {job.priority}, due {due}, directory {job.cwd}.",
        f"{job.id}: up to {retries} (its own max_retries, or {source}).",
    ]


COMMANDS = (
    Command(
        "enqueue",
        enqueue,
        positionals=[Positional("job", "JSON", """a job as a JSON object: {"command": "echo hi"}""", 0)],
        options=[
            *FIELD_OPTIONS,
            Option(
                "--file",
                "read one job per line, as JSON; - is standard input; all or nothing",
                "FILE",
                complete="files",
                once=True,
            ),
            Option("--lines", "with --file: each line is a plain command"),
        ],
        words="CMD ARG ...",
        usage="[OPTIONS] [JSON | --command CMD | --file FILE | -- CMD ARG ...]",
        examples=[
            ("""queuectl enqueue '{"command":"echo hello"}'""", "a job as JSON"),
            ("queuectl enqueue -- convert 'my photo.png' small.jpg", "a program and its arguments, as typed"),
            ("queuectl enqueue --command 'make && make install'", "a shell command line"),
            ("queuectl enqueue --priority 5 --delay 10m --tag nightly -- ./backup.sh", ""),
            ("queuectl enqueue --after job1 --after job2 -- ./report.sh", "once both have completed"),
            ("queuectl enqueue --file jobs.jsonl", "one job per line; all or nothing"),
            ("queuectl enqueue --lines --file commands.txt", "one shell command per line"),
            ("""find . -name '*.png' | jq -Rc '{command: @sh "optipng \\(.)"}' | queuectl enqueue --file -""", ""),
        ],
        details=(
            "A job is a JSON object with at least a command, the words after -- (quoted for the shell so that they\n"
            "arrive as typed), or --command. Options override the JSON; --env adds to it. With --file they hold for\n"
            "every line. An acknowledged job survives the death of every process and a loss of power."
        ),
    ),
)
