"""Starting queuectl's own processes: how they find this code and the store, daemons."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from queuectl.console import open_log
from queuectl.control import local_workers
from queuectl.db import home
from queuectl.errors import QueuectlError, StoreError, StoreUnavailable
from queuectl.pidfile import PidFile
from queuectl.records import NamedTuple
from queuectl.runner import RUN_VARIABLES, WORKER, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    from queuectl.db.base import Store
    from queuectl.job import Worker

# How long ``--daemon`` waits until all workers have registered.
START_S = 30.0
# How long it waits for others that are writing ``pids.json``.
SAVE_S = 1.0


def python_command() -> List[str]:
    """Return the words that start another queuectl process with this interpreter and this code.

    Not ``-m``: it would put the current directory first on the path, and a worker goes into the
    directories of its jobs. ``-S``, with the path of this process handed over: the ``.pth`` files that other packages
    have run at the start of every interpreter may cost more than the rest of a worker's start. The garbage collector is
    off while modules are imported: nothing of them is garbage.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # Less the first entry, which belongs to the script or the current directory. The standard library's
    # entries the new process has of its own: in one that was started this way they may be the first.
    path = [entry for entry in sys.path[1:] if os.path.isabs(entry) and os.path.exists(entry)]
    first = [] if root in path else [root]
    code = (
        "import gc, sys; gc.disable(); own = [entry for entry in sys.path if entry]; "
        f"sys.path[:] = {first!r} + own + [entry for entry in {path!r} if entry not in own]; "
        "from queuectl.main import main; main()"
    )
    return [sys.executable, "-S", "-c", code]


def environment(location: Optional[str]) -> Dict[str, str]:
    """Return the environment for workers: this process's without the marks of a run it may be part of.

    The store's location goes this way and not by argument: a URL may hold a password, which ``ps`` shows. What they
    hand on to their commands must name the same store from the directory of any job.
    """
    inherited = {name: text for name, text in os.environ.items() if name not in (*RUN_VARIABLES, WORKER)}
    inherited["QUEUECTL_HOME"] = home()
    if location is not None:
        inherited["QUEUECTL_DB"] = location
    return inherited


def worker_environment(location: Optional[str]) -> Dict[str, str]:
    """Return the environment for one worker, with what its id is to begin with."""
    return {**environment(location), WORKER: identity.new_origin()}


class Started(NamedTuple):
    """A group that runs in the background now, or that has drained already."""

    workers: List[Worker]  # by their numbers
    over: bool  # whether all has been done, and they have exited


def start_daemon(store: Store, options: Dict[str, Any]) -> Started:
    """Start a supervisor in a session of its own and wait until all its workers have registered.

    Raises:
        QueuectlError: They have not, or the store cannot be used; what was started is told to stop.
    """
    import json

    logs = os.path.join(home(), "logs")
    log_path = os.path.join(logs, "supervisor.log")
    log = open_log(log_path)
    begin = os.fstat(log).st_size
    given = json.dumps({**options, "location": None})  # that goes by the environment
    process = _start_apart([*python_command(), "worker", "supervise", given], options["location"], log)
    os.close(log)
    deadline = time.monotonic() + START_S
    seen: Dict[int, Worker] = {}  # by number; one that drains may have gone before the next comes
    while True:
        over = options["drain"] and process.poll() == 0
        trouble, mine = None, []
        try:
            mine = [each for each in store.workers() if each.group_id == options["group_id"] and each.role == "worker"]
        except StoreUnavailable as error:  # the group puts up with that, and so does who waits for it
            trouble = error
        except StoreError:
            _dismiss(process)
            raise
        seen.update((worker.number, worker) for worker in mine)
        if over or len(seen if options["drain"] else mine) == options["count"]:
            break
        if process.poll() is not None and not (options["drain"] and process.returncode == 0):
            raise QueuectlError(f"the workers did not start: {_last_words(log_path, begin, process.returncode)}")
        if time.monotonic() > deadline:
            _dismiss(process)
            raise QueuectlError(
                f"the workers did not all start within {START_S:.0f} s, so the others were stopped. "
                f"{tidy_path(logs)} says why."
                if trouble is None
                else f"it is not known whether the workers started, so they were told to stop: {trouble}"
            )
        time.sleep(0.005 if trouble is None else 0.1)
    _save_pids(store)
    process.returncode = 0  # it goes on alone: Popen must not warn about it
    return Started([seen[number] for number in sorted(seen)], over)


def _dismiss(process: subprocess.Popen[bytes]) -> None:
    """Stop what is said not to have started; workers that did start finish their jobs and exit."""
    process.terminate()
    process.returncode = 0  # nobody waits for it: Popen must not warn about it


def _last_words(log_path: str, begin: int, code: int) -> str:
    """Return what a supervisor said last before it ended too soon."""
    if code == 0:
        return "they were told to stop."
    with open(log_path, encoding="utf-8", errors="replace") as file:
        file.seek(begin)
        said = file.read().strip().splitlines()
    if said:
        return said[-1].replace("queuectl: ", "", 1)
    import shutil

    free = shutil.disk_usage(os.path.dirname(log_path)).free
    return (
        f"their supervisor ended with exit code {code} and wrote nothing to {tidy_path(log_path)}, "
        f"whose disk has {free // 1024} KiB free."
    )


def _save_pids(store: Store) -> None:
    """Have ``pids.json`` true when the command ends; later the supervisor sees to that."""
    file = PidFile(store.store_id)
    deadline = time.monotonic() + SAVE_S
    try:
        while not file.keep(local_workers(store)) and time.monotonic() < deadline:
            time.sleep(0.005)
    except StoreUnavailable:  # they run all the same
        pass


def _start_apart(words: List[str], location: Optional[str], log: int) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one's terminal and window."""
    env = environment(location)
    if sys.platform != "win32":
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
        )

    def start(flags: int) -> subprocess.Popen[bytes]:
        # Windows keeps a directory that is some process's current one from being removed: not the caller's, then.
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=home(), creationflags=flags
        )

    # Not DETACHED_PROCESS: without a console that they inherit, each worker would get a window.
    flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    try:
        return start(flags | subprocess.CREATE_BREAKAWAY_FROM_JOB)
    except PermissionError:  # the job object of a terminal or a service that lets nobody out
        return start(flags)


def tidy_path(path: str) -> str:
    """Return *path* with the user's home as ``~``, as people write it."""
    user = os.path.expanduser("~")
    return "~" + path[len(user) :] if user != os.sep and path.startswith(user + os.sep) else path
