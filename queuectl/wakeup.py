"""How a supervisor sleeps: until a signal arrives, a worker ends, or some time has passed."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Sequence


def place_to_sleep() -> Callable[[Sequence[Any], float], Sequence[int]]:
    """Return a function of (workers, seconds) that sleeps until a signal arrives, a worker ends, or time is up.

    The function returns the numbers of the signals. On POSIX it reads them from a pipe that Python's own signal
    handler writes to; the end of a worker is a SIGCHLD.
    """
    if sys.platform == "win32":
        from queuectl.runner.console_events import Waiter

        return Waiter().wait
    import select

    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    # Before the handlers are set: a signal that a handler took before there was a pipe would be lost.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGCHLD")
    for name in names:
        number = getattr(signal, name)
        # Under ``nohup``, SIGHUP is ignored on purpose.
        if name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _nothing)
    # A program that takes its own signals by sigwait has blocked them, and what it starts inherits that.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [getattr(signal, name) for name in names])
    look = select.poll()  # select() cannot take descriptors from 1024 on
    look.register(reading, select.POLLIN)

    def sleep(_workers: Sequence[object], timeout_s: float) -> Sequence[int]:
        look.poll(timeout_s * 1000)
        try:
            return os.read(reading, 512)
        except BlockingIOError:
            return ()

    return sleep


def _nothing(number: int, frame: object) -> None:
    """Do nothing: Python writes the wake-up byte only for a signal that has a handler."""
