"""``copy``: a whole store into another."""

from __future__ import annotations

from queuectl.cli_commands.spec import DURATION, Command, Option
from queuectl.errors import Interrupted, UsageError
from queuectl.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from queuectl.cli_commands.spec import Args
    from queuectl.copying import Copied


def copy(args: Args) -> int:
    """``copy --to URL|PATH``."""
    from queuectl.cli_commands.progress import Bar
    from queuectl.render import note, plural

    if not args.to:
        raise UsageError("copy needs --to: the store to copy to, a path or postgresql://...")
    if (args.now or args.timeout is not None) and not args.stop:
        raise UsageError("--now and --timeout say how to stop workers. Give --stop too.")
    bar = Bar(args)

    def tell(what: str, done: int, most: int) -> None:
        bar.show(done / most if most else 1.0, f"{what} {done // 2:,} of {most // 2:,} rows")

    with Queue(args.db, create=False) as queue:
        try:
            copied = queue.copy_to(args.to, bool(args.stop), bool(args.now), args.timeout, tell if bar.on else None)
        except KeyboardInterrupt as error:
            told = "The same command goes on where this one was."
            if args.stop:
                told = "Workers that were told to stop still do; 'queuectl worker list' shows which are left. " + told
            raise Interrupted(told) from error
        finally:
            bar.clear()
    if args.json:
        _print_json(copied)
    elif not args.quiet:
        rows = copied.rows
        counts = [plural(rows[table], noun) for table, noun in (("jobs", "job"), ("runs", "run"), ("output", "piece"))]
        what = f"{counts[0]}, {counts[1]} and {counts[2]} of output"
        if copied.already:
            print(f"{copied.target} is already a complete copy ({what}); nothing was written.")
        else:
            went_on = " (continued an unfinished copy)" if copied.resumed else ""
            print(f"Copied {what} to {copied.target}{went_on}.")
        print("All counts and checksums agree.")
        note(f"from now on use the copy (--db or QUEUECTL_DB). {copied.source} is unchanged.")
    return 0


def _print_json(copied: Copied) -> None:
    from queuectl.render import write_json

    write_json(
        {
            "from": copied.source,
            "to": copied.target,
            "resumed": copied.resumed,
            "already": copied.already,
            "rows": copied.rows,
            "sha256": copied.checksums,
        }
    )


COMMANDS = (
    Command(
        "copy",
        copy,
        options=[
            Option("--to", "the store to copy to: a path, or postgresql://...", "PATH|URL", complete="files"),
            Option("--stop", "stop the workers on all hosts first; they finish their jobs"),
            Option("--now", "with --stop: end running commands and put their jobs back in the queue"),
            Option("--timeout", "with --stop: give up waiting after this long", "S", DURATION),
        ],
        examples=[
            ("queuectl copy --to postgresql://queue@db.example/jobs", "from one machine to a fleet"),
            ("queuectl --db postgresql://queue@db.example/jobs copy --to jobs.db", "and back"),
            ("queuectl copy --to /data/jobs.db --stop", "stops the workers first"),
        ],
        details=(
            "Copies jobs, runs, output, settings and queues; ids, order and counts stay the same. The target must be\n"
            "new or empty. Everything is read back and compared. If a copy is interrupted, run the same command\n"
            "again: it continues where it stopped. Run on a complete copy, it compares and writes nothing. It\n"
            "refuses to start while workers are running. A job cannot copy its own store."
        ),
        exit_codes=[(1, "workers are running, the target is not empty, or a store failed")],
    ),
)
