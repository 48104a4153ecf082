"""Starting queuectl's own processes, in the foreground and as daemons: how they find this code and the store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

from queuectl import notify
from queuectl.console import open_log
from queuectl.control import local_workers
from queuectl.db import home
from queuectl.errors import Interrupted, QueuectlError, StoreError, StoreUnavailable, why
from queuectl.pidfile import PidFile
from queuectl.records import NamedTuple
from queuectl.runner import RUN_VARIABLES, WORKER, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any, Callable, Dict, Iterator, List, Optional, Protocol, Sequence

    from queuectl.db.base import Store
    from queuectl.job import Worker

    class Process(Protocol):
        """A worker's process to its supervisor: what a ``subprocess.Popen`` and a ``Spare`` have in common."""

        @property
        def pid(self) -> int: ...
        @property
        def stdin(self) -> Optional[IO[bytes]]: ...
        def poll(self) -> Optional[int]: ...
        def wait(self) -> Optional[int]: ...
        def send_signal(self, number: int, /) -> None: ...

    Start = Callable[[Optional[str], Sequence[str]], Process]  # such as ``start_worker``


# How long ``--daemon`` waits until all workers have registered.
START_S = 30.0
# How long ``--daemon`` waits for other processes that are writing ``pids.json``.
SAVE_S = 1.0


def python_command() -> List[str]:
    """Return the words that start another queuectl process with this interpreter and this code.

    Not with ``-m``, which would put the current directory first on the path: a worker changes to the directories of
    its jobs. With ``-S``, and this process's path handed over: otherwise each start would run the ``.pth`` files of
    all installed packages, which may cost more than the rest of a worker's start. What is relative in it, by
    ``PYTHONPATH``, is left out: this process's path has it in full. The garbage collector is off during the imports,
    which leave nothing to collect; the new process turns it on.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # Without the first entry, which belongs to the script or the current directory. If it is one of the standard
    # library's, as in a process that was started this way, nothing is lost: the new process has these by itself.
    path = [entry for entry in sys.path[1:] if os.path.isabs(entry) and os.path.exists(entry)]
    first = [] if root in path else [root]
    is_full = "entry[:1] == '/'" if os.name == "posix" else "entry[1:2] == ':'"
    code = (
        f"import gc, sys; gc.disable(); own = [entry for entry in sys.path if {is_full}]; "
        f"sys.path[:] = {first!r} + own + [entry for entry in {path!r} if entry not in own]; "
        "from queuectl.main import main; main()"
    )
    # Python does not know its own path where it was started under another program's name, as by "exec -a".
    return [sys.executable or "/proc/self/exe", "-S", "-c", code]


def environment(location: Optional[str]) -> Dict[str, str]:
    """Return the environment for supervisors and workers: this process's, without the mark of a run it may be part of.

    The store's location is passed here and not as an argument, as a URL may hold a password, which ``ps`` would show.
    The commands of jobs inherit it, so it must name the same store from any directory.
    """
    inherited = {name: text for name, text in os.environ.items() if name not in (*RUN_VARIABLES, WORKER)}
    inherited["QUEUECTL_HOME"] = home()
    if location is not None:
        inherited["QUEUECTL_DB"] = location
    return inherited


def worker_environment(location: Optional[str]) -> Dict[str, str]:
    """Return the environment for one worker, which includes the origin: what the worker's id begins with.

    The service manager's variables are left out: a job that used them would speak for the service.
    """
    inherited = {name: text for name, text in environment(location).items() if name not in notify.VARIABLES}
    return {**inherited, WORKER: identity.new_origin()}


def start_worker(location: Optional[str], words: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the worker that *words* describe (see ``worker_main``) by exec, with a pipe as its standard input."""
    command = [*python_command(), "worker", "run", *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=worker_environment(location), bufsize=0)


def send(worker: Process, number: int) -> None:
    """Send a signal to a worker; on Windows, which has no signals, write the number to the lifeline."""
    if sys.platform != "win32":
        worker.send_signal(number)
        worker.send_signal(signal.SIGCONT)  # a paused worker must act on the signal too
    elif worker.stdin is not None:
        try:
            worker.stdin.write(bytes([number]))
        except OSError:
            pass  # the worker has ended


class Started(NamedTuple):
    """A group of workers that runs in the background now, or that has drained already."""

    workers: List[Worker]  # sorted by number
    over: bool  # whether the group has drained and exited


def start_daemon(store: Store, options: Dict[str, Any]) -> Started:
    """Start a supervisor in a session of its own and wait until all its workers have registered.

    Raises:
        QueuectlError: They did not register in time, or the store cannot be used; what was started is told to stop.
    """
    import json

    log_path = os.path.join(home(), "logs", "supervisor.log")
    log = open_log(log_path)
    begin = os.fstat(log).st_size
    given = json.dumps({**options, "location": None})  # the location goes by the environment
    process = None
    try:
        with _later() as interrupts:  # a process of which this one has not heard yet could not be told to stop
            try:
                process = _start_apart([*python_command(), "worker", "supervise", given], options["location"], log)
            except OSError as error:
                file = f": {error.filename}" if error.filename else ""
                raise QueuectlError(f"cannot start the workers: {why(error, starting=True)}{file}.") from error
            finally:
                os.close(log)
        if interrupts:
            raise KeyboardInterrupt
        started = _until_started(store, options, process, log_path, begin)
    except KeyboardInterrupt as error:
        if process is None:
            raise
        _dismiss(process)
        raise Interrupted("The workers that were being started are told to stop.") from error
    _save_pids(store)
    process.returncode = 0  # the supervisor goes on alone: Popen must not warn about it
    return started


@contextmanager
def _later() -> Iterator[List[int]]:
    """Collect the interrupts that come meanwhile instead of raising them."""
    interrupts: List[int] = []
    before = signal.getsignal(signal.SIGINT)
    # Elsewhere than in the main thread none is raised; another handler is somebody else's, or nothing is to be heard.
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    signal.signal(signal.SIGINT, lambda number, _frame: interrupts.append(number))
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _until_started(
    store: Store, options: Dict[str, Any], process: subprocess.Popen[bytes], log_path: str, begin: int
) -> Started:
    """Wait until all workers of the supervisor *process* have registered; *begin* is where its log begins."""
    deadline = time.monotonic() + START_S
    seen: Dict[int, Worker] = {}  # by number; a worker that drains may be gone before the next has registered
    while True:
        over = options["drain"] and process.poll() == 0
        trouble, mine = None, []
        try:
            mine = [each for each in store.workers() if each.group_id == options["group_id"] and each.role == "worker"]
        except StoreUnavailable as error:  # the supervisor outlasts this, and so does this process
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
                f"{tidy_path(os.path.dirname(log_path))} says why."
                if trouble is None
                else f"it is not known whether the workers started, so they were told to stop: {trouble}"
            )
        time.sleep(0.005 if trouble is None else 0.1)
    return Started([seen[number] for number in sorted(seen)], over)


def _dismiss(process: subprocess.Popen[bytes]) -> None:
    """Tell the supervisor of a group that failed to start to stop; its workers finish their jobs and exit."""
    process.terminate()
    process.returncode = 0  # this process does not wait for it: Popen must not warn about it


def _last_words(log_path: str, begin: int, code: int) -> str:
    """Return why a supervisor ended too soon: the last line of its log beyond *begin*, or its exit *code*."""
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
    """Bring ``pids.json`` up to date before the command ends; from then on the supervisor does it."""
    file = PidFile(store.store_id)
    deadline = time.monotonic() + SAVE_S
    try:
        while not file.keep(local_workers(store)) and time.monotonic() < deadline:
            time.sleep(0.005)
    except StoreUnavailable:  # the workers run all the same
        pass


def _start_apart(words: List[str], location: Optional[str], log: int) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one's terminal and window."""
    env = environment(location)
    # Not in the caller's directory: its disk could not be unmounted, nor on Windows itself be removed, for as long.
    if sys.platform != "win32":
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd="/", start_new_session=True
        )

    def start(flags: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=home(), creationflags=flags
        )

    # Not DETACHED_PROCESS: without a console to inherit, each worker would open a window.
    flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    try:
        return start(flags | subprocess.CREATE_BREAKAWAY_FROM_JOB)
    except PermissionError:  # the job object of the terminal or service lets no process out
        return start(flags)


def tidy_path(path: str) -> str:
    """Return *path* with the user's home directory written as ``~``."""
    user = os.path.expanduser("~")
    return "~" + path[len(user) :] if user != os.sep and path.startswith(user + os.sep) else path
