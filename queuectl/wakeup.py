"""What a supervisor sleeps on: signals, the end of a worker, or some time."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import Callable, Sequence


def place_to_sleep() -> Callable[[Sequence[subprocess.Popen[bytes]], float], Sequence[int]]:
    """Return a function of (workers, seconds) that sleeps until a signal comes, one of them ends, or time is up.

    It returns the numbers of the signals, which come through a pipe that Python's own handler writes to.
    """
    if sys.platform == "win32":
        from queuectl.runner.console_events import Waiter

        return Waiter().wait
    import select

    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    # Before the handlers: a signal that one of them took already, and that woke nobody, would be lost for good.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGCHLD"):
        number = getattr(signal, name)
        # A job of ``nohup`` has SIGHUP ignored, and means it.
        if name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _nothing)

    def sleep(_workers: Sequence[subprocess.Popen[bytes]], timeout_s: float) -> Sequence[int]:
        select.select([reading], [], [], timeout_s)
        try:
            return os.read(reading, 512)
        except BlockingIOError:
            return ()

    return sleep


def _nothing(number: int, frame: object) -> None:
    """Be a handler: without one Python would not write the wake-up byte."""
