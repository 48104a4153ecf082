"""``service install``, ``uninstall``, ``status`` and ``show``: workers that the system starts."""

from __future__ import annotations

import os

from queuectl.cli_commands.spec import Command, Option
from queuectl.cli_commands.workers import CONCURRENCY_OPTION, COUNT_OPTION, SERVED_OPTION, check_start
from queuectl.db import folders
from queuectl.errors import QueuectlError
from queuectl.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Sequence, Tuple

    from queuectl.cli_commands.spec import Args
    from queuectl.service import Plan, Service

MISSING = "it is not installed"


def _wanted(args: Args) -> Service:
    from queuectl.service import Service

    count, concurrency = getattr(args, "count", 1), getattr(args, "concurrency", 1)
    return Service(count, concurrency, getattr(args, "queue", None) or (), bool(args.system), args.db)


def _plan(args: Args, create: bool) -> Plan:
    """Return what is to be written, which depends on the settings of the store."""
    from queuectl.service import check, plan

    check(_wanted(args))
    with Queue(args.db, create=create) as queue:
        config = queue.config()
    return plan(_wanted(args), config)


def _there(args: Args) -> Plan:
    """Return where things are and how they are undone, whatever was written: the store may be away for good."""
    from queuectl.config import Config
    from queuectl.service import plan

    return plan(_wanted(args), Config({}))


def show(args: Args) -> int:
    """``service show``."""
    check_start(args)
    found = _plan(args, create=args.may_make_store)
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
    check_start(args)
    found = _plan(args, create=True)
    if found.path is not None:
        _install_file(args, found, found.path)
    if args.no_start:
        if not args.quiet:
            print("To start it: " + "; ".join(" ".join(words) for words in found.enable))
        return 0
    why = _unreachable(found)
    if why == MISSING:
        raise QueuectlError(
            f"{found.ask[0]} is not installed, so nothing was started. "
            "'queuectl worker start' runs under any other service manager too."
        )
    if why is not None:
        raise QueuectlError(
            f"{found.ask[0]} cannot be reached here ({why}), so the {found.kind} was written but not started. "
            "Log in to the machine itself and run the same command there."
        )
    was_there = _failure(found.status) is None  # no service manager starts anew what runs
    _run_all(found.enable, f"The {found.kind} may be only partly set up. 'queuectl service uninstall' removes it.")
    if was_there:
        from queuectl.render import note

        note(
            "the service was there already, and workers that it is running go on as they were started. "
            "To start it anew: queuectl service uninstall, and then this command again."
        )
    elif not args.quiet:
        print(f"Started the {found.kind} queuectl; from now on it starts by itself.")
    return 0


def uninstall(args: Args) -> int:
    """``service uninstall``."""
    found = _there(args)
    if found.path is not None and not os.path.exists(found.path):
        raise QueuectlError(f"there is no {found.kind} at {found.path}. Nothing was changed.")
    why = _unreachable(found)
    if why is None:
        _run_all(found.disable, f"The {found.kind} is still there.")
    else:
        for link in found.links:
            if os.path.islink(link):
                os.remove(link)
    if found.path is not None:
        os.remove(found.path)
    if not args.quiet:
        print(f"Removed the {found.kind} queuectl; its jobs are kept.")
    if why is not None:
        from queuectl.render import note

        note(f"{found.ask[0]} cannot be reached here ({why}). If the service is running, stop it: queuectl worker stop")
    return 0


def status(args: Args) -> int:
    """``service status``."""
    import subprocess

    found = _there(args)
    why = _unreachable(found)
    if not args.json:
        if why is not None:
            raise QueuectlError(
                f"{found.ask[0]} cannot be reached here ({why}). 'queuectl worker list' shows the live workers."
            )
        return 1 if subprocess.run(found.status, check=False).returncode else 0
    from queuectl.render import write_json

    document: Dict[str, Any] = {"kind": found.kind, "path": found.path, "installed": None, "running": None, "told": why}
    if found.path is not None:
        document["installed"] = os.path.exists(found.path)
    if why is None:
        answer = subprocess.run(found.status, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        document["running"] = not answer.returncode
        document["told"] = _text(answer.stdout)
    write_json(document)
    return 0 if document["running"] else 1


def _install_file(args: Args, found: Plan, path: str) -> None:
    from queuectl.render import note
    from queuectl.service import holds_password

    secret = holds_password(_wanted(args))
    # systemd complains at each reload about a unit of the system that others may not read.
    _write(path, found.text, found.encoding, 0o644 if args.system and not secret else 0o600)
    if not args.quiet:
        print(f"Wrote {path}")
    if secret:
        note(
            f"{path} holds the password of the store's URL, and the service manager may show it to others. "
            "Put it into ~/.pgpass and leave it out of the URL."
        )


def _write(path: str, text: str, encoding: str, mode: int) -> None:
    """Write the file whole or not at all; *mode* is the new one's, whatever an older one's was."""
    folders.make(os.path.dirname(path), 0o755)
    hidden = path + ".new"
    if os.path.lexists(hidden):
        os.remove(hidden)
    with open(os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding=encoding) as file:
        file.write(text)
    os.replace(hidden, path)


def _unreachable(found: Plan) -> Optional[str]:
    """Return why the service manager cannot be asked, in its words; None if it can.

    As in a container that is being built, or in a session without a bus of its own (sudo, some of ssh).
    """
    try:
        return _failure(found.ask)
    except FileNotFoundError:
        return MISSING


def _failure(words: Sequence[str]) -> Optional[str]:
    """Run a command; return the last line it said if it failed, else None."""
    import subprocess

    answer = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if not answer.returncode:
        return None
    said = _text(answer.stdout).splitlines()
    return said[-1].rstrip(".") if said else f"exit code {answer.returncode}"


def _text(said: bytes) -> str:
    """Return as text what a service manager said: on Windows in the code page of its language, unless UTF-8 is set."""
    try:
        return said.decode().strip()
    except UnicodeDecodeError:
        return said.decode("oem" if os.name == "nt" else "utf-8", "replace").strip()


def _run_all(commands: Sequence[Tuple[str, ...]], then: str) -> None:
    """Run commands, up to the first that fails; *then* says how things stand if one does."""
    for words in commands:
        why = _failure(words)
        if why is not None:
            raise QueuectlError(f"'{' '.join(words)}' failed: {why}. {then}")


SYSTEM = Option("--system", "a system-wide service instead of your own (needs root, or an administrator)")
WANTED = (COUNT_OPTION, CONCURRENCY_OPTION, SERVED_OPTION)

COMMANDS = (
    Command(
        "service install",
        install,
        "Install the service and start it",
        options=[*WANTED, SYSTEM, Option("--no-start", "write the file, but start nothing")],
        examples=[
            ("queuectl service install --count 3", "as a systemd unit, launchd agent or scheduled task of yours"),
            ("sudo queuectl service install --system", "for the whole system"),
        ],
        details=(
            "Starts workers now and whenever you log in; with --system, at boot. 'queuectl service show' prints what\n"
            "it writes."
        ),
    ),
    Command(
        "service uninstall",
        uninstall,
        "Stop and remove the service",
        options=[SYSTEM],
        examples=[("queuectl service uninstall", "the jobs are kept")],
        details="If the service manager cannot be reached, the file is removed all the same, and a note says so.",
    ),
    Command(
        "service status",
        status,
        "Show what the service manager says about the service",
        options=[SYSTEM],
        examples=[("queuectl service status", "")],
        exit_codes=[(0, "it is running"), (1, "it is not running, or that cannot be found out")],
    ),
    Command(
        "service show",
        show,
        "Print what 'service install' would write",
        options=[*WANTED, SYSTEM],
        examples=[("queuectl service show --count 3", "")],
    ),
)
