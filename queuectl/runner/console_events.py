"""Ctrl-C, Ctrl-Break and the closing of the console, on Windows; and how a supervisor sleeps there."""

from __future__ import annotations

import ctypes
import signal
import sys
import time
from ctypes import wintypes

assert sys.platform == "win32"

import _winapi

from queuectl.runner.windows_api import kernel32, last_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import Callable, List, Sequence

CTRL_C, CTRL_BREAK, CTRL_CLOSE, CTRL_LOGOFF, CTRL_SHUTDOWN = 0, 1, 2, 5, 6
# WaitForMultipleObjects takes 64 handles, but Python 62 at most, as it adds one of its own; one is the event's.
MOST_HANDLES = 61
# How often to look at the processes beyond that number.
LOOK_S = 0.1
# When its console is closed, Windows ends a process after some seconds, or at once when the handler returns.
FAREWELL_S = 60.0

_Handler = ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)
_handlers: List[object] = []  # keeps them alive: Windows's own references are not counted by Python


def listen(callback: Callable[[int], None]) -> Callable[[int], bool]:
    """Have *callback* called with SIGINT on Ctrl-C and Ctrl-Break, and with QUIT when the console or session ends.

    The call is made in a thread that Windows creates; no other handler of this process is called. Returns the handler.
    """
    from queuectl.runner import QUIT

    def handle(event: int) -> bool:
        if event in (CTRL_C, CTRL_BREAK):
            callback(signal.SIGINT)
        else:
            callback(QUIT)
            time.sleep(FAREWELL_S)  # gives the process time to finish; its end ends this thread
        return True

    handler = _Handler(handle)
    _handlers.append(handler)
    kernel32.SetConsoleCtrlHandler(handler, True)
    return handle


class Waiter:
    """Lets a supervisor sleep until a worker ends or a user presses Ctrl-C."""

    def __init__(self) -> None:
        self._numbers: List[int] = []
        self._event: int = kernel32.CreateEventW(None, True, False, None)
        if not self._event:
            raise last_error()
        self.handler = listen(self._wake)

    def _wake(self, number: int) -> None:
        self._numbers.append(number)
        kernel32.SetEvent(self._event)

    def wait(self, processes: Sequence[subprocess.Popen[bytes]], timeout_s: float) -> List[int]:
        """Sleep until one of *processes* ends or a console event arrives, *timeout_s* seconds at most.

        Returns the number of each event since the last call: SIGINT or QUIT.
        """
        if len(processes) > MOST_HANDLES:
            timeout_s = min(timeout_s, LOOK_S)
        handles = [self._event, *[int(process._handle) for process in processes[:MOST_HANDLES]]]  # type: ignore[attr-defined]
        _winapi.WaitForMultipleObjects(handles, False, int(timeout_s * 1000 + 0.999))
        kernel32.ResetEvent(self._event)
        # Taken one by one, as the list may grow meanwhile; a number missed now has set the event for the next call.
        return [self._numbers.pop(0) for _ in range(len(self._numbers))]
