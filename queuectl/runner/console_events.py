"""Ctrl-C, Ctrl-Break and the end of the console, on Windows; and a supervisor's place to sleep."""

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
# WaitForMultipleObjects takes 64 handles.
MOST_HANDLES = 63
# How often what does not fit in is looked at.
LOOK_S = 0.1
# Windows ends a process some seconds after its console was closed, and at once when its handler returns.
FAREWELL_S = 60.0

_Handler = ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)
_handlers: List[object] = []  # Windows has no reference that Python could count


def listen(callback: Callable[[int], None]) -> Callable[[int], bool]:
    """Call *callback* with SIGINT for Ctrl-C and Ctrl-Break, with QUIT when the console or the session ends.

    It is called in a thread of its own. Nothing else in this process hears of them. Returns the handler.
    """
    from queuectl.runner import QUIT

    def handle(event: int) -> bool:
        if event in (CTRL_C, CTRL_BREAK):
            callback(signal.SIGINT)
        else:
            callback(QUIT)
            time.sleep(FAREWELL_S)  # the process ends when its work is done, and this thread with it
        return True

    handler = _Handler(handle)
    _handlers.append(handler)
    kernel32.SetConsoleCtrlHandler(handler, True)
    return handle


class Waiter:
    """Where a supervisor sleeps until a worker ends, or somebody presses Ctrl-C."""

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
        """Sleep until one of *processes* ends, *timeout_s* seconds at most; return what was pressed."""
        if len(processes) > MOST_HANDLES:
            timeout_s = min(timeout_s, LOOK_S)
        handles = [self._event, *[int(process._handle) for process in processes[:MOST_HANDLES]]]  # type: ignore[attr-defined]
        _winapi.WaitForMultipleObjects(handles, False, int(timeout_s * 1000 + 0.999))
        kernel32.ResetEvent(self._event)
        # One by one: the list may grow meanwhile, and what comes then has set the event for the next time.
        return [self._numbers.pop(0) for _ in range(len(self._numbers))]
