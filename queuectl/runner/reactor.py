"""What a worker waits for on POSIX: output, ended commands, signals, its bell, the end of its supervisor."""

from __future__ import annotations

import os
import select
import signal
import sys
import time

assert sys.platform != "win32"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Set, Tuple

    from queuectl.runner.posix import Command


# A wait no longer than this may be for ended children only ...
BRIEF_S = 0.003
# ... if everything else was polled no longer than this ago.
BRIEFLY_S = 0.01
_HAS_SIGTIMEDWAIT = hasattr(signal, "sigtimedwait")  # macOS has none


class Reactor:
    """The one place where a worker sleeps. After ``wait``, the attributes say what happened.

    Signal handlers do nothing: Python's own C handler writes the signal's number into a pipe (``set_wakeup_fd``),
    and the worker's loop acts on it.
    """

    #: Whether the end of a command is reported even if its output is not watched.
    tells_ends = True

    def __init__(self, signals: Tuple[int, ...], lifeline: Optional[int]) -> None:
        self.readable: List[Command] = []
        self.exits: List[Tuple[int, int, Any]] = []  # (pid, wait status, resource usage)
        self.signals: List[int] = []
        self.rung = False
        self.orphaned = False
        self._commands: Dict[int, Command] = {}
        self._children: Set[int] = set()  # the pids of the commands that have not been reaped
        self._ends = (signal.SIGCHLD,)
        self._lifeline = lifeline
        self._bell: Optional[int] = None
        self._wake, self._waker = os.pipe()
        for fd in (self._wake, self._waker):
            os.set_blocking(fd, False)
        # Before the handlers are set: a signal that a handler took before there was a pipe would be lost.
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in (*signals, signal.SIGCHLD):
            signal.signal(number, _nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)  # whoever started this group may have blocked them
        if _HAS_SIGTIMEDWAIT:
            signal.pthread_sigmask(signal.SIG_BLOCK, self._ends)
        self._briefly_until_mono = 0.0
        epoll = getattr(select, "epoll", None)  # Linux alone has it
        self._poll: Any = select.poll() if epoll is None else _Epoll(epoll())
        self._poll.register(self._wake, select.POLLIN)
        if lifeline is not None:
            self._poll.register(lifeline, select.POLLIN)

    def expect(self, pid: int) -> None:
        """Note that a command was started with this first process, so that its end will be reported."""
        self._children.add(pid)

    def watch(self, command: Command) -> None:
        """Begin to report output of *command*."""
        fd = command.fileno()
        self._commands[fd] = command
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Forget a command's descriptor, which the caller has closed or is about to close."""
        if self._commands.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def nudge(self) -> None:
        """End ``wait`` from another thread."""
        try:
            os.write(self._waker, b"\0")  # no signal has the number 0
        except BlockingIOError:
            pass  # the pipe is full, and will end the wait anyway

    def set_bell(self, fd: Optional[int]) -> None:
        """Wait for rings on this descriptor from now on; None: for none."""
        if fd == self._bell:
            return
        if self._bell is not None:
            self._poll.unregister(self._bell)
        self._bell = fd
        if fd is not None:
            self._poll.register(fd, select.POLLIN)

    def wait(self, timeout_s: float) -> None:
        """Sleep until something happens, *timeout_s* seconds at most."""
        if self.readable:
            self.readable = []
        if self.exits:
            self.exits = []
        if self.signals:
            self.signals = []
        self.rung = False
        if self._children and timeout_s <= BRIEF_S and self._waits_for_ends(timeout_s):
            return
        self._briefly_until_mono = time.monotonic() + BRIEFLY_S
        # Rounded up: a timeout cut to whole milliseconds would make the loop spin before each deadline.
        for fd, _ in self._sleep(int(timeout_s * 1000 + 0.999) if timeout_s > 0 else 0):
            if fd == self._wake:
                self._take_signals()
            elif fd == self._bell:
                self.rung = True
            elif fd == self._lifeline:
                self._drop_lifeline(fd)
            else:
                command = self._commands.get(fd)
                if command is not None:
                    self.readable.append(command)

    def _sleep(self, timeout_ms: int) -> List[Tuple[int, int]]:
        """Poll with SIGCHLD unblocked, so that the end of a child arrives as a byte in the pipe like other signals."""
        if not _HAS_SIGTIMEDWAIT:
            found: List[Tuple[int, int]] = self._poll.poll(timeout_ms)
            return found
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._ends)
        try:
            found = self._poll.poll(timeout_ms)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, self._ends)
        return found

    def _waits_for_ends(self, timeout_s: float) -> bool:
        """Wait only for the end of a child, if everything else was polled a moment ago; return whether this was done.

        A worker with a full queue of short commands does this most of the time. To take the blocked signal is one
        system call; a handler, its byte and two polls would be six.
        """
        if sys.platform == "darwin" or not _HAS_SIGTIMEDWAIT or time.monotonic() > self._briefly_until_mono:
            return False
        if signal.sigtimedwait(self._ends, timeout_s) is not None:
            self._collect()
        return True

    def _drop_lifeline(self, fd: int) -> None:
        """Note that the supervisor is gone, and put /dev/null in place of *fd*, so that no pipe gets that number."""
        self._poll.unregister(fd)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, fd)
        os.close(nothing)
        self._lifeline = None
        self.orphaned = True

    def _take_signals(self) -> None:
        numbers = os.read(self._wake, 512)
        self.signals = [number for number in numbers if number not in (signal.SIGCHLD, 0)]
        if signal.SIGCHLD in numbers:
            self._collect()

    def _collect(self) -> None:
        """Reap all children that have ended; make no further system call once all known children are reaped.

        There are others, such as a ``cat`` that reads on behind a command, whose ends must not be counted as commands'.
        """
        while self._children:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._children.discard(pid)
            self.exits.append((pid, status, usage))


class _Epoll:
    """An epoll with the interface of poll; its cost does not grow with the number of silent commands."""

    def __init__(self, epoll: Any) -> None:
        self._epoll = epoll
        self.register = epoll.register

    def unregister(self, fd: int) -> None:
        """Have the kernel forget the descriptor.

        It does so by itself when a descriptor is closed, but not while another process has it: a ``cat`` reads on.
        """
        try:
            self._epoll.unregister(fd)
        except OSError:
            pass  # it was closed

    def poll(self, timeout_ms: int) -> List[Tuple[int, int]]:
        found: List[Tuple[int, int]] = self._epoll.poll(timeout_ms / 1000)
        return found


def _nothing(number: int, frame: object) -> None:
    """Do nothing: Python writes the wake-up byte only for a signal that has a handler."""
