"""The console script: finds the command, runs it, and is the one place where errors are printed.

Exit codes: 0 done; 1 could not; 2 wrong usage; 130 interrupted; 141 nobody reads the output any
more, as for every tool that SIGPIPE ends. ``run`` and ``wait`` have more of their own.
"""

from __future__ import annotations

import io
import os
import sys

from queuectl.errors import QueuectlError, Unwritten, UsageError, is_without_reader, shown, why

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, List, Optional, Sequence, TextIO, Type

    from queuectl.cli_commands.spec import Args

COULD_NOT = 1
INTERRUPTED = 130
NO_READER = 141  # 128 + SIGPIPE


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command line and return its exit code; *argv* is without the program's name."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _outcome(words, argv is None)
        _give_up_unwritten()
    except KeyboardInterrupt:  # one more, while the first was being told of
        code = INTERRUPTED
    if argv is None:
        # As the console script: nothing is left to be done, and taking the interpreter apart takes longer
        # than an enqueue.
        os._exit(code)
    return code


def _outcome(words: List[str], alone: bool) -> int:
    """Run the command *words*, say what went wrong, and return the exit code; *alone* as in ``_carry_out``."""
    done = "What was done before stays done."
    try:
        code = _carry_out(words, alone)
        done = "The command itself was carried out."
        sys.stdout.flush()
    except KeyboardInterrupt as error:  # perhaps an Interrupted, with a sentence
        code = _say(f"interrupted. {error}".rstrip(), INTERRUPTED)
    except Exception as error:
        if os.environ.get("QUEUECTL_DEBUG"):
            raise
        code = _report(error, done)
    return code


def _carry_out(words: List[str], alone: bool) -> int:
    """Run the command *words*. *alone*: this process exists for this one command, and ends with it."""
    if sys.platform == "win32" and alone and any("{" in word for word in words):
        from queuectl.cli_commands.windows_words import restored

        words = restored(words)
    _prepare_streams()
    if os.getpid() == 1:
        _heed_term()
    if alone:
        _replace_streams()
    if alone and words and words[0] not in ("--version", "--help", "-h"):  # these import nothing
        from queuectl import db

        db.process_ends_soon = True
    return _dispatch(words)


def _dispatch(words: List[str]) -> int:
    # queuectl starts its own processes by these two lines, which skip the tables of commands, for a quick start.
    # Whoever types something like it gives other arguments, and is told below that there is no such command.
    if words[:2] == ["worker", "run"] and len(words) > 6 and words[2].isdigit():
        from queuectl import worker_main

        return worker_main.main(words[2:])
    if words[:2] == ["worker", "supervise"] and words[2:3] and words[2].startswith("{"):
        from queuectl import supervisor

        return supervisor.main(words[2:])
    if words[:1] == ["--version"]:
        return _print_version()
    from queuectl.cli_commands.parser import locate, parse, split

    found = locate(words)
    if not found:
        return _without_command(words)
    name, rest = split(words, found)
    from queuectl.cli_commands import TABLE, commands_of

    entry = TABLE[words[found[0]]]
    if entry.subcommands and name == entry.name:
        return _noun_alone(name, rest)
    command = commands_of(entry.name)[name]
    args = parse(command, rest)
    if args.version:
        return _print_version()
    if args.help:
        from queuectl.cli_commands.help import print_command

        return print_command(command)
    if args.verbose and not args.quiet:
        _say_store(args)
    return command.run(args)


def _without_command(words: List[str]) -> int:
    """Answer ``queuectl`` with options alone: the version, help, or how the queue stands."""
    from queuectl.cli_commands.parser import parse
    from queuectl.cli_commands.spec import Command

    if "--version" not in words and ("--help" in words or "-h" in words):
        from queuectl.cli_commands.help import print_root

        return print_root()
    from queuectl.cli_commands import status

    args = parse(Command("status", status.bare, options=status.OPTIONS), words)
    if args.version:
        return _print_version()
    return status.bare(args)


def _noun_alone(noun: str, rest: List[str]) -> int:
    """Answer ``queuectl dlq``: help if that was asked for, else what may follow."""
    from queuectl.cli_commands import TABLE

    if "--version" in rest:
        return _print_version()
    if "--help" in rest or "-h" in rest:
        from queuectl.cli_commands.help import print_noun

        return print_noun(noun)
    raise UsageError(f"{noun} needs a command: queuectl {noun} {'|'.join(TABLE[noun].subcommands)}.")


def _print_version() -> int:
    from queuectl import __version__

    print("queuectl " + __version__)
    return 0


def _say_store(args: Args) -> None:
    if args.db:
        where, why = args.db, "--db"
    elif os.environ.get("QUEUECTL_DB"):
        where, why = os.environ["QUEUECTL_DB"], "QUEUECTL_DB"
    else:
        from queuectl.db import default_path

        where, why = default_path(), "QUEUECTL_HOME" if os.environ.get("QUEUECTL_HOME") else "the default"
    if "://" in where:
        where = _without_password(where)
    _say(f"the store is {where} ({why}).", 0)


def _without_password(url: str) -> str:
    """Return what may be shown of *url*, which may hold a password before its host or among its options."""
    try:
        from queuectl.db.postgres import parse_url

        return parse_url(url).location
    except (ImportError, QueuectlError):  # no psycopg, or a URL that cannot be read: the command itself says so
        return f"{url.partition('://')[0]}://..."


# -- errors and streams -----------------------------------------------------------------------


def _report(error: Exception, done: str) -> int:
    """Print *error* as one sentence and return the exit code it ends with.

    *done* is added where only the output failed, lest somebody repeats a command that was carried out.
    """
    if isinstance(error, QueuectlError):
        return _say(str(error), error.exit_code)
    if is_without_reader(error):
        return NO_READER
    if isinstance(error, MemoryError):
        return _say("out of memory.", COULD_NOT)
    if isinstance(error, UnicodeEncodeError):  # an id or a name on its way to the store
        return _say(f"{shown(error.object)} is not valid UTF-8, so nothing in the store can have that name.", COULD_NOT)
    if isinstance(error, OSError):
        if error.filename is None and not _takes_output():
            return _say(str(Unwritten(error, done)), COULD_NOT)
        if error.filename is None and isinstance(error, FileNotFoundError) and _is_nowhere():
            return _say("the current directory no longer exists. Change to another, or use absolute paths.", COULD_NOT)
        what = why(error) or type(error).__name__
        where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, (str, bytes)) else ""
        return _say(f"{what}{where}.", COULD_NOT)
    return _say(f"{type(error).__name__}: {error}. Set QUEUECTL_DEBUG=1 to see where it comes from.", COULD_NOT)


def _is_nowhere() -> bool:
    """Say whether the current directory was deleted: then no relative path means anything."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


class _Stream(io.FileIO):
    """A stream that waits for room where another program made it non-blocking."""

    before: Optional[TextIO] = None  # the stream that it replaced

    def write_some(self, data: Any) -> int:
        """Write what there is room for; wait until there is some."""
        while True:
            count: Optional[int] = super().write(data)
            if count is not None:
                return count
            import select

            select.select([], [self], [])


class _Output(_Stream):
    """Standard output that remembers a failed write: a long text is not kept, so a later flush would not fail again.

    After a Ctrl-C amid a write it drops what comes: the buffer before it takes that write for one that has not been
    done, and would do it once more.
    """

    failed = False
    _is_amid = False

    def write(self, data: Any) -> int:
        """Write as a file does, and note it where that fails."""
        if self._is_amid:
            return len(data)
        self._is_amid = True
        try:
            count = self.write_some(data)
        except OSError:
            self._is_amid = False
            self.failed = True
            raise
        self._is_amid = False
        return count


class _Messages(_Stream):
    """Standard error: what cannot be written is dropped, as nobody can be told of it; the exit code stays as it is.

    No buffer stands before it that would write once more what a Ctrl-C has interrupted.
    """

    def write(self, data: Any) -> int:
        """Write all of *data*, as far as that is possible."""
        left = memoryview(data)
        try:
            while left:
                left = left[self.write_some(left) :]
        except OSError:
            pass
        return len(data)


def _takes_output() -> bool:
    """Say whether standard output can be written: no write has failed so far, and the rest can be flushed."""
    if getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "failed", False):
        return False
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        return False
    return True


def _say(message: str, code: int) -> int:
    """Print *message* on standard error, on one line; return *code*."""
    try:
        from queuectl.render import escape

        message = escape(message)
    except (ImportError, OSError, MemoryError):  # too few descriptors, or too little memory, to read another module
        message = ascii(message)[1:-1]
    try:
        print("queuectl: " + message, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # nobody can be told; the exit code still says it
    return code


def _prepare_streams() -> None:
    """Make sure that writing text can neither crash nor land in a file that was opened later.

    A stream that the caller closed is None, and the next file that is opened would get its
    descriptor: the store, say, and with it every line that a command prints.
    """
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
            if getattr(sys, name) is None:
                # The lowest free descriptor is this one: those below it are open by now.
                fallback = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
                setattr(sys, name, fallback)
                if fallback.fileno() != number:
                    os.dup2(fallback.fileno(), number)
                os.set_inheritable(number, True)  # a worker started from here wants it too
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a test's StringIO has none
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _replace_streams() -> None:
    """Replace standard output by one that remembers failed writes, and is buffered even under ``PYTHONUNBUFFERED``.

    What has to be seen at once is flushed explicitly. The rest is written when the command is done, so that an error
    then is known to be that of the output. Standard error becomes one that never fails.
    """
    output = _in_place_of(sys.stdout, _Output)
    if output is not None:
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(output),
            encoding=sys.stdout.encoding,
            errors="backslashreplace",
            line_buffering=sys.stdout.isatty(),
        )
    messages = _in_place_of(sys.stderr, _Messages)
    if messages is not None:
        sys.stderr = io.TextIOWrapper(
            messages, encoding=sys.stderr.encoding, errors="backslashreplace", line_buffering=True
        )


def _in_place_of(text: TextIO, kind: Type[_Stream]) -> Optional[_Stream]:
    """Return a file of this *kind* for what *text* writes to; None if that is a Windows console or no file."""
    buffer = getattr(text, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if type(raw) is not io.FileIO:
        return None
    file = kind(raw.fileno(), "w", closefd=False)
    file.name = raw.name  # by which the stand-in for a stream that the caller closed is known
    file.before = text  # kept alive: it would close the descriptor when it is collected
    return file


def _heed_term() -> None:
    """Let TERM interrupt the first process of a container, for which the kernel drops signals without a handler."""
    import signal

    if sys.platform == "win32":  # where no process has the number 1
        return

    def interrupt(_number: int, frame: Optional[FrameType]) -> None:
        if _is_unheard(frame):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGALRM, interrupt)


def _is_unheard(frame: Optional[FrameType]) -> bool:
    """Return whether Python only prints what is raised in *frame*, and goes on, as in what it calls after an import."""
    while frame is not None and frame.f_code.co_name not in ("__del__", "cb", "remove", "_remove"):
        frame = frame.f_back
    return frame is not None


def _give_up_unwritten() -> None:
    """Drop what could not be written, lest the interpreter's last flush fails with a trace."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            try:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
            except (OSError, ValueError):
                pass
