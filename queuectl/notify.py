"""Telling systemd the state of a service, and feeding its watchdog, without libsystemd.

The protocol is that of sd_notify(3): a datagram of ``NAME=value`` lines to the socket that NOTIFY_SOCKET names.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

#: What a service manager gives to the process that it starts, and to nobody else.
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Talks to the service manager that started this process; does nothing if there is none."""

    def __init__(self) -> None:
        self._address: Optional[str] = os.environ.pop("NOTIFY_SOCKET", None)
        self._every_s = _watchdog_s()
        #: When to call ``alive`` next, by the monotonic clock.
        self.due_mono = 0.0 if self._every_s else float("inf")

    def tell(self, *lines: str) -> None:
        """Send *lines*, such as ``READY=1``. Errors are ignored, as the work must go on."""
        if sys.platform == "win32" or not self._address:
            return
        import socket

        # An abstract socket's name begins with a NUL, which the environment cannot hold.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.sendto("\n".join(lines).encode(), address)
        except OSError:
            pass

    def alive(self, now_mono: float) -> None:
        """Feed the watchdog if half of its timeout has passed."""
        if now_mono >= self.due_mono:
            self.due_mono = now_mono + self._every_s / 2
            self.tell("WATCHDOG=1")


def _watchdog_s() -> float:
    """Return the watchdog's timeout in seconds; 0 if there is no watchdog or it is for another process."""
    text, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
    if not text.isdigit() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(text) / 1e6
