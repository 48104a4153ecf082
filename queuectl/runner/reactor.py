"""What a worker waits for on POSIX: output, ended commands, signals, its bell, its supervisor."""

from __future__ import annotations

import os
import select
import signal
import sys
import time

assert sys.platform != "win32"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    from queuectl.runner.posix import Command


# A wait as short as this may be for the ends of children alone ...
BRIEF_S = 0.003
# ... as long as everything else was looked at within this time.
BRIEFLY_S = 0.01
_HAS_SIGTIMEDWAIT = hasattr(signal, "sigtimedwait")  # macOS has none


class Reactor:
    """One place to sleep. After ``wait`` the attributes say what happened.

    Signal handlers only set a flag: Python's own C handler writes the signal's number into a pipe that the
    loop reads (``set_wakeup_fd``), and the loop acts.
    """

    #: Whether the end of a command is told without its output being watched.
    tells_ends = True

    def __init__(self, signals: Tuple[int, ...], lifeline: Optional[int]) -> None:
        self.readable: List[Command] = []
        self.exits: List[Tuple[int, int, Any]] = []  # (pid, wait status, resource usage)
        self.signals: List[int] = []
        self.rung = False
        self.orphaned = False
        self._commands: Dict[int, Command] = {}
        self._children = 0
        self._ends = (signal.SIGCHLD,)
        self._lifeline = lifeline
        self._bell: Optional[int] = None
        self._wake, self._waker = os.pipe()
        for fd in (self._wake, self._waker):
            os.set_blocking(fd, False)
        # Before the handlers: a signal that one of them took already, and that woke nobody, would be lost for good.
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in (*signals, signal.SIGCHLD):
            signal.signal(number, _nothing)
        if _HAS_SIGTIMEDWAIT:
            signal.pthread_sigmask(signal.SIG_BLOCK, self._ends)
        self._briefly_until_mono = 0.0
        epoll = getattr(select, "epoll", None)  # Linux alone has it
        self._poll: Any = select.poll() if epoll is None else _Epoll(epoll())
        self._poll.register(self._wake, select.POLLIN)
        if lifeline is not None:
            self._poll.register(lifeline, select.POLLIN)

    def expect(self) -> None:
        """Note that a child was started: its end is to be collected."""
        self._children += 1

    def watch(self, command: Command) -> None:
        """Begin to look for output of *command*."""
        fd = command.fileno()
        self._commands[fd] = command
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Forget a command's descriptor, which its caller closes."""
        if self._commands.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def nudge(self) -> None:
        """End ``wait`` from another thread."""
        try:
            os.write(self._waker, b"\0")  # no signal has this number
        except BlockingIOError:
            pass  # it is full of reasons to wake up

    def set_bell(self, fd: Optional[int]) -> None:
        """Sleep on this bell from now on, or on none."""
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
        """Poll, where the end of a child is told like other signals: by a byte in the pipe."""
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
        """Wait for the end of a child alone, if everything else was looked at a moment ago; say whether it was done.

        This is what a worker with a full queue of short commands does most: taking the blocked signal is one call,
        where a handler, its byte and two polls are six.
        """
        if sys.platform == "darwin" or not _HAS_SIGTIMEDWAIT or time.monotonic() > self._briefly_until_mono:
            return False
        if signal.sigtimedwait(self._ends, timeout_s) is not None:
            self._collect()
        return True

    def _drop_lifeline(self, fd: int) -> None:
        """The supervisor is gone. Descriptor 0 stays taken, so that no pipe of a command gets it."""
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
        """Collect every child that has ended; where none is left to ask for, ask no more."""
        while self._children > 0:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._children -= 1
            self.exits.append((pid, status, usage))


class _Epoll:
    """epoll with the calls and units of poll: its cost does not grow with the commands that are silent."""

    def __init__(self, epoll: Any) -> None:
        self._epoll = epoll
        self.register = epoll.register

    def unregister(self, fd: int) -> None:
        """Do nothing: the kernel forgets a descriptor when it is closed, which is always next."""

    def poll(self, timeout_ms: int) -> List[Tuple[int, int]]:
        found: List[Tuple[int, int]] = self._epoll.poll(timeout_ms / 1000)
        return found


def _nothing(number: int, frame: object) -> None:
    """Be a handler: without one Python would not write the wake-up byte."""
