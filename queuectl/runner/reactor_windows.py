"""What a worker waits for on Windows: output, ended commands, its bell, the end of its supervisor or console.

The counterpart of ``reactor``. Everything arrives at one completion port, as in asyncio's proactor.
"""

from __future__ import annotations

import os
import sys
import threading

assert sys.platform == "win32"

import _overlapped  # type: ignore[import-not-found,unused-ignore]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    from queuectl.runner.windows import Command

FOR_EVER = 0xFFFFFFFF
# Completion keys of what this module itself posts to the port.
_LIFELINE, _STOP, _NUDGE = 1, 2, 3


class Reactor:
    """The one place where a worker sleeps. After ``wait``, the attributes say what happened.

    *signals* is for POSIX. Here the supervisor writes the number of a signal into the *lifeline*, which is this
    process's standard input; end of file means that the supervisor is gone.
    """

    #: Whether the end of a command is reported even if its output is not watched; here ``watch`` does both.
    tells_ends = False

    def __init__(self, signals: Tuple[int, ...], lifeline: Optional[int]) -> None:
        from queuectl.runner import QUIT, console_events

        self.readable: List[Command] = []
        self.exits: List[Tuple[int, int, Any]] = []  # (pid, exit code, usage)
        self.signals: List[int] = []
        self.rung = False
        self.orphaned = False
        self._port = _overlapped.CreateIoCompletionPort(_overlapped.INVALID_HANDLE_VALUE, 0, 0, 1)
        self._posted = _overlapped.Overlapped(0)  # its address marks what this module posts; 0 would mean an error
        self._reads: Dict[int, Tuple[Command, Any]] = {}  # reads of output under way, by address
        self._waits: Dict[int, Tuple[Command, Any, int]] = {}  # waits for the end of a command, by address
        self._bell: Optional[int] = None
        self._bell_read: Any = None
        self._old_bells: Dict[int, Any] = {}  # cancelled reads of former bells, kept until the port has reported them
        # Ctrl-C and Ctrl-Break are left to the supervisor; the end of the window or session is for every process.
        console_events.listen(lambda number: self._post(_STOP, number) if number == QUIT else None)
        if lifeline is not None:
            threading.Thread(target=self._hold_lifeline, args=(lifeline,), daemon=True).start()

    def expect(self, pid: int) -> None:
        """Do nothing: ``watch`` takes care of the end of a command."""

    def nudge(self) -> None:
        """End ``wait`` from another thread."""
        self._post(_NUDGE, 0)

    def _post(self, key: int, number: int) -> None:
        _overlapped.PostQueuedCompletionStatus(self._port, number, key, self._posted.address)

    def _hold_lifeline(self, fd: int) -> None:
        """Post each byte from the supervisor, and the end of file, to the port; runs in a thread of its own."""
        data = b"-"
        while data:
            try:
                data = os.read(fd, 1)
            except OSError:
                data = b""
            self._post(_STOP if data else _LIFELINE, data[0] if data else 0)

    def watch(self, command: Command) -> None:
        """Begin to report output and the end of *command*."""
        command.attach(self._port, self._reads)
        mark = _overlapped.Overlapped(0)
        wait = _overlapped.RegisterWaitWithQueue(command.process, self._port, mark.address, FOR_EVER)
        self._waits[mark.address] = (command, mark, wait)

    def unwatch(self, fd: int) -> None:
        """Do nothing: the pipe is closed, and reports nothing more."""

    def set_bell(self, fd: Optional[int]) -> None:
        """Wait for rings on this socket from now on; None: for none. The caller closes the bell that it replaces."""
        if fd == self._bell:
            return
        if self._bell_read is not None:
            self._old_bells[self._bell_read.address] = self._bell_read
            self._bell_read.cancel()
            self._bell_read = None
        self._bell = fd
        if fd is not None:
            _overlapped.CreateIoCompletionPort(fd, self._port, 0, 0)

    def wait(self, timeout_s: float) -> None:
        """Sleep until something happens, *timeout_s* seconds at most."""
        self.readable = []
        self.exits = []
        self.signals = []
        self.rung = False
        if self._bell is not None and self._bell_read is None:
            self._listen_to_bell(self._bell)
        # Rounded up: a timeout cut to whole milliseconds would make the loop spin before each deadline.
        timeout_ms = int(timeout_s * 1000 + 0.999) if timeout_s > 0 else 0
        told = _overlapped.GetQueuedCompletionStatus(self._port, timeout_ms)
        while told is not None:
            _, number, key, address = told
            if address != self._posted.address:
                self._done(address)
            elif key == _LIFELINE:
                self.orphaned = True
            elif key == _STOP:
                self.signals.append(number)
            told = _overlapped.GetQueuedCompletionStatus(self._port, 0)

    def _listen_to_bell(self, fd: int) -> None:
        read = _overlapped.Overlapped(0)
        try:
            read.WSARecv(fd, 16, 0)
        except OSError:  # a datagram that is too long, say; the next wait tries again
            self.rung = True
            return
        self._bell_read = read

    def _done(self, address: int) -> None:
        """Act on the completion of the operation whose structure is at *address*."""
        if address in self._reads:
            command, _ = self._reads.pop(address)
            if command.fileno() >= 0:
                self.readable.append(command)
        elif address in self._waits:
            command, _, wait = self._waits.pop(address)
            try:
                _overlapped.UnregisterWait(wait)
            except OSError:  # the wait is over, but Windows may still be busy reporting it
                pass
            self.exits.append((command.pid, command.exit_code(), command.usage()))
        elif self._bell_read is not None and address == self._bell_read.address:
            self._bell_read = None
            self.rung = True
        else:
            self._old_bells.pop(address, None)
