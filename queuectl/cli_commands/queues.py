"""``queue list``, ``queue pause``, ``queue resume`` and ``queue limit``."""

from __future__ import annotations

from queuectl.cli_commands.spec import TABLE_OPTION, Command, Positional
from queuectl.errors import QueuectlError
from queuectl.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

    from queuectl.cli_commands.spec import Args
    from queuectl.job import QueueInfo

HEADERS = ("QUEUE", "PAUSED", "LIMIT", "PENDING", "PROCESSING", "FAILED", "COMPLETED", "DEAD", "CANCELLED")
# What a narrow terminal does not show, first to last.
SPARE = ("CANCELLED", "COMPLETED", "LIMIT", "FAILED", "DEAD", "PROCESSING")


def queue_json(info: QueueInfo) -> Dict[str, Any]:
    """Return a queue as an object for ``--json``."""
    return dict(info._asdict())


def list_queues(args: Args) -> int:
    """``queue list``."""
    from queuectl import render

    with Queue(args.db, create=args.may_make_store) as queue:
        infos = queue.queues()
    if args.json:
        render.write_json_array(map(queue_json, infos))
    elif args.quiet:
        for info in infos:
            print(info.name)
    elif not (args.table or render.is_terminal()):
        render.write_json_lines(map(queue_json, infos))
    else:
        rows = [
            (
                info.name,
                "yes" if info.paused else "no",
                "none" if info.max_running is None else str(info.max_running),
                *(str(count) for count in info[3:]),
            )
            for info in infos
        ]
        if not render.write_table(HEADERS, rows, HEADERS[2:], spare=SPARE, names=("QUEUE",)):
            render.say("No queues yet. The first job makes one: queuectl enqueue -- echo hello")
    return 0


def pause(args: Args) -> int:
    """``queue pause Q``."""
    with Queue(args.db) as queue:
        queue.pause(args.queue_name)
        running = _running(queue, args.queue_name)
    more = f"; {running} running {'job continues' if running == 1 else 'jobs continue'}" if running else ""
    return _told(f"Paused queue {args.queue_name}{more}", args)


def _running(queue: Queue, name: str) -> int:
    return next((info.processing for info in queue.queues() if info.name == name), 0)


def resume(args: Args) -> int:
    """``queue resume Q``."""
    with Queue(args.db, create=args.may_make_store) as queue:
        queue.resume(args.queue_name)
    return _told(f"Resumed queue {args.queue_name}", args)


def limit(args: Args) -> int:
    """``queue limit Q N``."""
    text = args.most.lower()
    if text != "none" and not (text.isascii() and text.isdigit() and len(text) < 12):
        raise QueuectlError(
            f"a queue's limit must be a whole number from 1 to {2**31 - 1}, or none, not {args.most[:40]!r}."
        )
    if text.strip("0") == "":
        raise QueuectlError("a queue's limit must be at least 1. To let none of its jobs run: queuectl queue pause Q")
    most = None if text == "none" else int(text)
    with Queue(args.db) as queue:
        queue.limit(args.queue_name, most)
    if most is None:
        return _told(f"Queue {args.queue_name} now has no limit", args)
    return _told(f"Queue {args.queue_name} now runs at most {most} at once", args)


def _told(sentence: str, args: Args) -> int:
    if args.json:
        from queuectl.render import write_json

        with Queue(args.db) as queue:
            found = [queue_json(info) for info in queue.queues() if info.name == args.queue_name]
        write_json(found[0] if found else {"name": args.queue_name, "paused": False, "max_running": None})
    elif not args.quiet:
        print(sentence)
    return 0


QUEUE = Positional("queue_name", "Q", "the queue's name (it may have no jobs yet)", complete="queues")

COMMANDS = (
    Command(
        "queue list",
        list_queues,
        "List queues with pauses, limits and job counts",
        options=[TABLE_OPTION],
        examples=[("queuectl queue list", "")],
        details="A table on a terminal, JSON Lines when piped, an array with --json, names with -q.",
    ),
    Command(
        "queue pause",
        pause,
        "Pause a queue: its jobs wait",
        positionals=[QUEUE],
        examples=[("queuectl queue pause mail", "running jobs finish")],
    ),
    Command(
        "queue resume",
        resume,
        "Resume a paused queue",
        positionals=[QUEUE],
        examples=[("queuectl queue resume mail", "")],
    ),
    Command(
        "queue limit",
        limit,
        "Run at most N of a queue's jobs at once, on all hosts together",
        positionals=[QUEUE, Positional("most", "N", "how many at once; none removes the limit", complete="none")],
        examples=[("queuectl queue limit mail 2", ""), ("queuectl queue limit mail none", "remove the limit")],
    ),
)
