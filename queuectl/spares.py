"""Workers made by fork: they share with their supervisor, and with each other, the memory that the imports take.

A worker started by exec imports the same modules as its supervisor, into memory of its own and in 20 ms of CPU. So a
supervisor forks its first workers off before it opens the store, as a connection must not cross a fork. These spares
wait on their lifelines, on which the supervisor later tells each of them what worker to be. A worker that replaces one
that died is started by exec, and so are all where forking is not possible or not safe, and off Linux: libraries of
macOS do not stand a fork.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

assert sys.platform == "linux"

from queuectl import db
from queuectl.errors import QueuectlError
from queuectl.launch import start_worker, worker_environment
from queuectl.runner import WORKER, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, List, NoReturn, Optional, Sequence

    from queuectl.launch import Process, Start

    Work = Callable[[Sequence[str]], int]  # takes what ``become`` was told, returns an exit code

LENGTH_BYTES = 4


class Spare:
    """A forked process that is to become a worker; to its supervisor it is like a ``subprocess.Popen``."""

    def __init__(self, pid: int, lifeline: int) -> None:
        self.pid = pid
        self.returncode: Optional[int] = None  # minus the number of the signal that ended the process, if one did
        self.stdin = open(lifeline, "wb", buffering=0)  # noqa: SIM115

    def become(self, location: Optional[str], words: Sequence[str]) -> bool:
        """Tell the process to be the worker that *words* describe (see ``worker_main``); False if it has ended."""
        told = "\0".join([location or "", *words]).encode("utf-8", "surrogateescape")
        told = len(told).to_bytes(LENGTH_BYTES, "big") + told
        try:
            while told:
                told = told[self.stdin.write(told) :]
        except BrokenPipeError:
            self.stdin.close()
            self.wait()
            return False
        return True

    def poll(self) -> Optional[int]:
        """Return how the process has ended; None if it runs."""
        return self._collect(os.WNOHANG)

    def wait(self) -> Optional[int]:
        """Wait until the process has ended, and return how."""
        return self._collect(0)

    def _collect(self, options: int) -> Optional[int]:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:  # somebody else has reaped it: how it ended is not known
                self.returncode = 0
            else:
                if pid:
                    self.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:  # until it is reaped here, its pid cannot be another's
            os.kill(self.pid, number)


def starter(count: int, location: Optional[str] = None) -> Start:
    """Return a function like ``start_worker`` that has *count* spares to begin with; fewer where that does not work.

    This process must not have opened any store yet.

    Args:
        count: How many.
        location: The store that they are to open, as for ``open_store``, so that its engine is imported once for all.
    """
    spares = _make(count, location)

    def start(location: Optional[str], words: Sequence[str]) -> Process:
        while spares:
            spare = spares.pop(0)
            if spare.become(location, words):
                return spare
        return start_worker(location, words)

    return start


def _make(count: int, location: Optional[str]) -> List[Spare]:
    if not _can_fork():
        return []
    try:
        from queuectl.worker_main import main

        db.import_engine(location)
    except (QueuectlError, ImportError):
        return []  # the supervisor, which opens the store next, says why
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # lest what is buffered is written twice
    gc.freeze()  # the collector would write to each object, and so make a copy of all memory in each worker
    found: List[Spare] = []
    try:
        while len(found) < count:
            found.append(_fork(main))
    except OSError:
        pass  # no room for more: the supervisor tries the rest one by one, and reports it
    return found


def _can_fork() -> bool:
    """Return whether a fork of this process is safe, and would be found if it died while it starts a command.

    Other threads would be missing in the child, with their locks held. A process that does not end with this command is
    a program of somebody else's, whose memory is not for workers.
    """
    if not db.process_ends_soon:
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1 and identity.can_mark()
    except OSError:
        return False


def _fork(work: Work) -> Spare:
    reading, writing = os.pipe()
    # No handler of this process may run in the child.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _wait_in_child(work, reading, before)
    except OSError:
        os.close(writing)
        raise
    finally:
        os.close(reading)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Spare(pid, writing)


def _wait_in_child(work: Work, lifeline: int, signals: Iterable[int]) -> NoReturn:
    """Be a spare, and then a worker; end the process."""
    code = 1
    try:
        # Until the worker sets its own: the supervisor decides what Ctrl-C means, and TERM ends a spare.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        os.dup2(lifeline, 0)
        # The lifelines of the other spares among them: each must end with the supervisor, its only holder.
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                _close(int(name))
        told = _read_all()
        if told is not None:
            code = _become(work, *told.decode("utf-8", "surrogateescape").split("\0"))
    finally:
        os._exit(code)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass  # the descriptor of the listing itself


def _read_all() -> Optional[bytes]:
    """Read what ``become`` wrote; None if the supervisor has ended before that."""
    found, missing = b"", LENGTH_BYTES
    while missing > 0:
        data = os.read(0, missing)
        if not data:
            return None
        found += data
        missing = LENGTH_BYTES - len(found)
        if missing <= 0:
            missing += int.from_bytes(found[:LENGTH_BYTES], "big")
    return found[LENGTH_BYTES:]


def _become(work: Work, location: str, *words: str) -> int:
    environment = worker_environment(location or None)
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    sys.argv = ["queuectl", "worker", "run", *words]
    try:
        identity.mark(environment[WORKER])
        code = work(words)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return code
    except Exception as error:
        what = f"{type(error).__name__}: {error}. Set QUEUECTL_DEBUG=1 to see where it comes from."
        if os.environ.get("QUEUECTL_DEBUG"):
            import traceback

            what = traceback.format_exc()
        print(f"queuectl: worker {words[0]}: {what}", file=sys.stderr, flush=True)
        return 1
