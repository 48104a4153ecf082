"""``enqueue --file``: a job a line, all or nothing, at the pace of the disk.

Everything is read and checked before the store is touched: its one write lock must not wait for a
slow pipe, and a bad line must leave no trace. What was read waits in a temporary file, not in memory.
The work per line is kept tiny: one call of the C scanner, and for lines that give nothing but a
command no further checks than a command needs.
"""

from __future__ import annotations

import sys
from array import array

from queuectl.cli_commands.enqueue import apply_options
from queuectl.cli_commands.jsonobject import make_reader
from queuectl.cli_commands.progress import Bar
from queuectl.config import MAX_COMMAND_BYTES
from queuectl.db.spool import Spool
from queuectl.errors import (
    Interrupted,
    InvalidJob,
    JobExists,
    QueuectlError,
    Unwritten,
    UsageError,
    is_without_reader,
    shown,
)
from queuectl.jobspec import MAX_ENV_BYTES, JobSpec, check_fields, from_fields, usual_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Sequence

    from queuectl.cli_commands.spec import Args

CHUNK_BYTES = 1 << 20
# JSON may write each byte of a command and of an environment as \u00XX; with room for the other fields.
MAX_LINE_BYTES = 6 * (MAX_COMMAND_BYTES + MAX_ENV_BYTES) + (1 << 20)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class _TooLong(Exception):
    """A line of absurd length: its beginning."""


def enqueue_file(args: Args) -> int:
    """``enqueue --file FILE``."""
    if args.job is not None or args.words is not None or args.command is not None:
        raise UsageError("--file and a job on the command line do not go together. Give only one of them.")
    if args.id is not None:
        raise UsageError("option --id is for a single job. With --file, put the ids into the file.")
    added: List[Sequence[str]] = []
    try:
        with Spool() as specs:
            _enqueue(specs, args, added)
        _tell(added[0], args)
        sys.stdout.flush()
    except OSError as error:
        if not added or is_without_reader(error):
            raise
        raise Unwritten(error, f"{_summary(added[0])} all the same.") from error
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        if not any(added):
            raise
        raise Interrupted.behind(added[0]) from error
    return 0


def _enqueue(specs: Spool, args: Args, added: List[Sequence[str]]) -> None:
    """Read the file into *specs*, and store them; put their ids into *added* as soon as they are stored."""
    blank = array("Q")
    bar = Bar(args)
    try:
        _read_all(args, specs, blank, bar)
        if bar.on:
            specs.tell = lambda done: bar.show(done / len(specs), f"{len(specs):,} jobs read, storing them")
        from queuectl.queue import Queue

        with Queue(args.db) as queue:
            added.append(queue.add(specs))
    except JobExists as error:
        specs.tell = None
        number = _line_number(error.index([spec.id for spec in specs]), blank)
        raise QueuectlError(f"line {number}: {error} Nothing was enqueued.") from None
    except InvalidJob as error:
        if error.place is None:
            raise
        number = _line_number(error.place, blank)
        raise InvalidJob(f"line {number}: {error} Nothing was enqueued.") from None
    finally:
        bar.clear()


def _line_number(index: int, blank: Sequence[int]) -> int:
    """Return on which line, from 1, the job with this *index* stands, from 0; *blank* lines hold none."""
    number = index + 1
    for skipped in blank:
        if skipped > number:
            break
        number += 1
    return number


def _tell(ids: Sequence[str], args: Args) -> None:
    if args.json:
        from queuectl.render import write_json

        write_json({"count": len(ids), "ids": list(ids)})
    elif args.quiet:
        sys.stdout.writelines(job_id + "\n" for job_id in ids)
    else:
        print(_summary(ids))


def _summary(ids: Sequence[str]) -> str:
    if not ids:
        return "Enqueued 0 jobs"
    if len(ids) == 1:
        return f"Enqueued 1 job ({ids[0]})"
    return f"Enqueued {len(ids)} jobs ({ids[0]} .. {ids[-1]})"


def _read_all(args: Args, specs: Spool, blank: array[int], bar: Bar) -> None:
    """Read and check the whole file; add its jobs to *specs* and the numbers of its blank lines to *blank*.

    Raises:
        InvalidJob: A line is none; the message names it.
    """
    file = _open(args.file)
    try:
        _read(file, _line_reader(args), bar, specs, blank, not args.lines)
    finally:
        if file is not sys.stdin.buffer:
            file.close()


def _open(name: str) -> BinaryIO:
    if name == "-":
        return sys.stdin.buffer
    from os.path import expanduser  # as for --cwd, --db and --to: bash leaves a ~ behind = to the program

    try:
        return open(expanduser(name), "rb")
    except OSError as error:
        raise QueuectlError(f"cannot read {name}: {error.strerror}.") from None


def _size(file: BinaryIO) -> int:
    """Return a file's length, 0 for a pipe."""
    import os

    try:
        return os.fstat(file.fileno()).st_size
    except (AttributeError, OSError, ValueError):
        return 0


def _read(
    file: BinaryIO, read_line: Callable[[str], JobSpec], bar: Bar, specs: Spool, blank: array[int], are_json: bool
) -> None:
    size = _size(file) if bar.on else 0
    append = specs.append
    before = number = 0
    line = b""
    try:
        for lines in _chunks(file):
            for number, line in enumerate(lines, before + 1):
                if line and not line.isspace():
                    append(read_line(line.decode()))
                else:
                    blank.append(number)
            before = number
            if bar.on:
                bar.show(file.tell() / size if size else None, f"{len(specs):,} jobs read")
    except UnicodeDecodeError as error:
        what = f"not valid UTF-8 (byte {error.start + 1} is 0x{error.object[error.start]:02x})."
        if number == 1 and error.object.startswith(UTF_16_MARKS):
            what = "not UTF-8 but UTF-16, as '>' in Windows PowerShell writes. Use: | Set-Content -Encoding utf8 FILE."
        raise InvalidJob(f"line {number}: {what} Nothing was enqueued.") from None
    except _TooLong as error:
        told = f"job field 'command' is more than {MAX_LINE_BYTES:,} bytes long, more than a shell takes."
        if are_json:
            told = _no_object(error.args[0], f"not a JSON object: longer than {MAX_LINE_BYTES:,} bytes, as no job is.")
        raise InvalidJob(f"line {before + 1}: {told} Nothing was enqueued.") from None
    except InvalidJob as error:
        told = _no_object(line, str(error)) if are_json else str(error)
        raise InvalidJob(f"line {number}: {told} Nothing was enqueued.") from None


def _no_object(line: bytes, error: str) -> str:
    """Return the message about *line*, which is no JSON object: what it is instead, if that can be told, else *error*.

    The advice in *error* is for one job on a command line, and does not help with a file.
    """
    tidy = line.strip()
    if tidy[:1] == b"[":
        return "an array begins here, but each line must be an object. Convert the file: jq -c '.[]' FILE."
    if tidy == b"{":
        return "an object of several lines begins here, but each must be on one line. Convert the file: jq -c . FILE."
    if tidy[:1] == b"{" or not error.startswith("not a JSON object"):
        return error
    text = shown(tidy.decode("utf-8", "replace"))
    return f"not a JSON object: {text}. For a file of plain commands: queuectl enqueue --lines --file FILE."


def _chunks(file: BinaryIO) -> Iterator[List[bytes]]:
    """Yield the file's lines, many at a time, without their ends; a line of absurd length is refused."""
    rest = b""
    first = True
    while True:
        chunk = _read_chunk(file)
        is_last = len(chunk) < CHUNK_BYTES  # and at a terminal another read would want a second Ctrl-D
        if first and chunk.startswith(BYTE_ORDER_MARK):
            chunk = chunk[len(BYTE_ORDER_MARK) :]
        first = False
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        yield lines
        if len(rest) > MAX_LINE_BYTES:
            raise _TooLong(rest[:100])
        if is_last:
            break
    if rest:
        yield [rest]


def _read_chunk(file: BinaryIO) -> bytes:
    """Read CHUNK_BYTES, fewer only at the end of the file.

    Another program may have made the pipe non-blocking, which a buffered file takes for an end where it is empty.
    """
    raw = getattr(file, "raw", file)
    parts: List[bytes] = []
    missing = CHUNK_BYTES
    while missing > 0:
        part = raw.read(missing)
        if part == b"":
            break
        if part is None:  # nothing is there yet
            import select

            select.select([raw], [], [])
        else:
            parts.append(part)
            missing -= len(part)
    return b"".join(parts)


def _line_reader(args: Args) -> Callable[[str], JobSpec]:
    """Return the function that makes a job of a line: JSON or a plain command, under the options of *args*."""
    options: Dict[str, Any] = {}
    apply_options(options, args)
    cwd = check_fields(options).get("cwd") or usual_directory()  # a bad option is not the fault of line 1
    read_object = make_reader()

    def from_line(line: str) -> JobSpec:
        return from_fields({"command": line.strip()}, cwd)

    def from_json(line: str) -> JobSpec:
        return from_fields(read_object(line), cwd)

    def with_options(line: str) -> JobSpec:
        fields = {"command": line.strip()} if args.lines else read_object(line)
        apply_options(fields, args)
        return from_fields(fields, cwd)

    if options:
        return with_options
    return from_line if args.lines else from_json
