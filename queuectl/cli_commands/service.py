"""``service install``, ``uninstall``, ``status`` and ``show``: workers that the system starts."""

from __future__ import annotations

import os

from queuectl.cli_commands.spec import Command, Option, whole_from
from queuectl.errors import QueuectlError
from queuectl.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence, Tuple

    from queuectl.cli_commands.spec import Args
    from queuectl.service import Plan


def _plan(args: Args) -> Plan:
    from queuectl.service import Service, plan

    with Queue(args.db) as queue:
        config = queue.config()
    count, concurrency = getattr(args, "count", 1), getattr(args, "concurrency", 1)
    return plan(Service(count, concurrency, getattr(args, "queue", None) or (), bool(args.system), args.db), config)


def show(args: Args) -> int:
    """``service show``."""
    found = _plan(args)
    if args.json:
        from queuectl.render import write_json

        write_json({"kind": found.kind, "path": found.path, "text": found.text, "enable": found.enable})
        return 0
    if found.path is not None and not args.quiet:
        print(f"# {found.path}")
    print(found.text, end="")
    return 0


def install(args: Args) -> int:
    """``service install``."""
    found = _plan(args)
    if found.path is not None:
        _write(found.path, found.text, found.encoding)
        if not args.quiet:
            print(f"Wrote {found.path}")
    if args.no_start:
        if not args.quiet:
            print("To start it: " + "; ".join(" ".join(words) for words in found.enable))
        return 0
    _run_all(found.enable, found)
    if not args.quiet:
        print(f"Started the {found.kind} queuectl; it starts by itself from now on.")
    return 0


def uninstall(args: Args) -> int:
    """``service uninstall``."""
    found = _plan(args)
    if found.path is not None and not os.path.exists(found.path):
        raise QueuectlError(f"there is no {found.kind} at {found.path}. Nothing was changed.")
    _run_all(found.disable, found)
    if found.path is not None:
        os.remove(found.path)
    if not args.quiet:
        print(f"Removed the {found.kind} queuectl; its jobs are kept.")
    return 0


def status(args: Args) -> int:
    """``service status``."""
    import subprocess

    found = _plan(args)
    try:
        return 1 if subprocess.run(found.status, check=False).returncode else 0
    except FileNotFoundError:
        raise _no_manager(found.status[0]) from None


def _write(path: str, text: str, encoding: str) -> None:
    """Write the file whole or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    hidden = path + ".new"
    with open(hidden, "w", encoding=encoding) as file:
        file.write(text)
    os.replace(hidden, path)


def _run_all(commands: Sequence[Tuple[str, ...]], found: Plan) -> None:
    import subprocess

    for words in commands:
        try:
            answer = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        except FileNotFoundError:
            raise _no_manager(words[0]) from None
        if answer.returncode:
            said = answer.stdout.decode("utf-8", "replace").strip().splitlines()
            why = said[-1].rstrip(".") if said else f"exit code {answer.returncode}"
            raise QueuectlError(f"'{' '.join(words)}' failed: {why}. The {found.kind} may be half set up.")


def _no_manager(name: str) -> QueuectlError:
    return QueuectlError(
        f"{name} is not there, so nothing was started. 'queuectl worker start' runs under any other supervisor too."
    )


SYSTEM = Option("--system", "a service of the system instead of yours (needs root, or an administrator)")
WANTED = (
    Option("--count", "worker processes (default: 1)", "N", whole_from(1), default=1),
    Option("--concurrency", "commands that each runs at once (default: 1)", "M", whole_from(1), default=1),
    Option("--queue", "serve only this queue", "Q", repeat=True, complete="queues"),
)

COMMANDS = (
    Command(
        "service install",
        install,
        "Have the system start workers, now and at every start",
        options=[*WANTED, SYSTEM, Option("--no-start", "write the file, but start nothing")],
        examples=[
            ("queuectl service install --count 3", "a systemd unit, a launchd agent or a scheduled task of yours"),
            ("sudo queuectl service install --system", "one of the system"),
        ],
        details="What it writes is what 'queuectl service show' prints.",
    ),
    Command(
        "service uninstall",
        uninstall,
        "Stop the service and remove it",
        options=[SYSTEM],
        examples=[("queuectl service uninstall", "the jobs are kept")],
    ),
    Command(
        "service status",
        status,
        "Show how the service stands, as the service manager sees it",
        options=[SYSTEM],
        examples=[("queuectl service status", "")],
        exit_codes=[(0, "it runs"), (1, "it does not")],
    ),
    Command(
        "service show",
        show,
        "Print what 'service install' would write, with its reasons",
        options=[*WANTED, SYSTEM],
        examples=[("queuectl service show --count 3", "")],
    ),
)
