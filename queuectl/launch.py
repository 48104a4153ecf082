"""Starting queuectl's own processes: how they find this code and the store, daemons, ``pids.json``."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from queuectl.console import open_log
from queuectl.control import local_workers
from queuectl.db import home
from queuectl.errors import QueuectlError
from queuectl.runner import RUN_VARIABLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    from queuectl.db.base import Store

# How long ``--daemon`` waits until all workers have registered.
START_S = 30.0


def python_command() -> List[str]:
    """Return the words that start another queuectl process with this interpreter and this code.

    Not ``-m``: it would put the current directory first on the path, and a worker goes into the
    directories of its jobs. ``-S``, with the path of this process handed over: what others hang into the start
    of every interpreter (.pth files that import half a library) costs more than a worker's whole start. The
    garbage collector looks at nothing while modules are imported, of which nothing is garbage.
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

    The store's location goes this way and not by argument: a URL may hold a password, which ``ps`` shows.
    """
    inherited = {name: text for name, text in os.environ.items() if name not in RUN_VARIABLES}
    if location is not None:
        inherited["QUEUECTL_DB"] = location
    return inherited


def write_pids(pids: List[int]) -> bool:
    """Write ``pids.json`` whole or not at all; say which. On Windows nobody may be reading it just now."""
    path = os.path.join(home(), "pids.json")
    hidden = f"{path}.{os.getpid()}"
    try:
        os.makedirs(home(), mode=0o700, exist_ok=True)
        # Readable for its owner alone, as all of the home, whatever the umask says.
        with open(os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write('{"pids": %s}\n' % pids)
        os.replace(hidden, path)
        return True
    except OSError:  # it is a courtesy: nothing reads it to decide
        try:
            os.remove(hidden)
        except OSError:
            pass
        return False


def start_daemon(store: Store, options: Dict[str, Any]) -> int:
    """Start a supervisor in a session of its own and wait until all its workers have registered."""
    import json

    logs = os.path.join(home(), "logs")
    log_path = os.path.join(logs, "supervisor.log")
    log = open_log(log_path)
    begin = os.fstat(log).st_size
    process = _start_apart([*python_command(), "worker", "supervise", json.dumps(options)], options["location"], log)
    os.close(log)
    deadline = time.monotonic() + START_S
    while True:
        workers = [
            worker for worker in store.workers() if worker.group_id == options["group_id"] and worker.role == "worker"
        ]
        if len(workers) == options["count"] or (options["drain"] and process.poll() == 0):
            break
        if process.poll() is not None:
            with open(log_path, encoding="utf-8", errors="replace") as file:
                file.seek(begin)
                said = file.read().strip().splitlines()
            why = said[-1].replace("queuectl: ", "", 1) if said else f"it ended with exit code {process.returncode}"
            raise QueuectlError(f"the workers did not start: {why}")
        if time.monotonic() > deadline:
            process.terminate()  # what "did not start" must not run on: those that did finish their jobs and exit
            raise QueuectlError(
                f"the workers did not all start within {START_S:.0f} s, so the others were stopped. "
                f"{tidy_path(logs)} says why."
            )
        time.sleep(0.005)
    for worker in sorted(workers, key=lambda worker: worker.number):
        print(f"Started worker pid={worker.pid}")
    write_pids([worker.pid for worker in local_workers(store) if worker.role == "worker"])
    print(f"Saved PIDs to {tidy_path(os.path.join(home(), 'pids.json'))}", flush=True)
    process.returncode = 0  # it goes on alone: Popen must not warn about it
    return 0


def _start_apart(words: List[str], location: Optional[str], log: int) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one's terminal and window."""
    env = environment(location)
    if sys.platform != "win32":
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
        )
    # Windows keeps a directory that is some process's current one from being removed: not the caller's, then.
    env["QUEUECTL_HOME"] = home()
    if "://" not in env.get("QUEUECTL_DB", "://"):
        env["QUEUECTL_DB"] = os.path.abspath(os.path.expanduser(env["QUEUECTL_DB"]))

    def start(flags: int) -> subprocess.Popen[bytes]:
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
