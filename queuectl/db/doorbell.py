"""Doorbells: how a commit wakes idle workers at once.

A worker that runs out of work makes a FIFO beside the store and sleeps on it; whoever makes
work ready writes a byte into each FIFO there after the commit. A bell can be lost (a crash between
commit and ring, a file system without FIFOs), so sleepers look by themselves every second
too. A busy worker has no bell: ringing costs an enqueuer one empty directory.

FIFO and not a socket: no limit of 107 bytes on its path, and nothing to import.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

SUFFIX = ".bell"


def ring(folder: str) -> None:
    """Wake every worker that sleeps on a bell in *folder*. Never fails: a bell is only a hint."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if name.endswith(SUFFIX):
            _ring_one(os.path.join(folder, name))


def _ring_one(path: str) -> None:
    if os.name == "nt":
        _ring_udp(path)
        return
    try:
        bell = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == 6:  # ENXIO: nobody reads, the worker died
            _remove(path)
        return
    try:
        os.write(bell, b"!")
    except OSError:  # full: it has been rung often enough
        pass
    finally:
        os.close(bell)


def _ring_udp(path: str) -> None:
    import socket

    try:
        with open(path, encoding="ascii") as file:
            port = int(file.read())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bell:
            bell.sendto(b"!", ("127.0.0.1", port))
    except (OSError, ValueError):
        pass


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        pass


class Doorbell:
    """A worker's own bell. ``fileno()`` is readable after a ring; None where there can be none."""

    def __init__(self, folder: str, worker_id: str) -> None:
        self._path = os.path.join(folder, worker_id + SUFFIX)
        self._fd: Optional[int] = None

    def arm(self) -> Optional[int]:
        """Make the bell if need be and return the descriptor to sleep on.

        Look for work once more after this: what was committed before it did not ring.
        """
        if self._fd is None and hasattr(os, "mkfifo"):
            hidden = self._path + ".new"
            try:
                os.mkfifo(hidden, 0o600)
                # Opened before it gets its name, so that a ringer never finds a bell without a reader.
                self._fd = os.open(hidden, os.O_RDWR | os.O_NONBLOCK)
                os.rename(hidden, self._path)
            except OSError:
                _remove(hidden)
                self.disarm()
        return self._fd

    def hush(self) -> None:
        """Take the rings so far."""
        if self._fd is not None:
            try:
                os.read(self._fd, 4096)
            except OSError:
                pass

    def disarm(self) -> None:
        """Take the bell away: this worker is busy, or ends."""
        if self._fd is not None:
            _remove(self._path)
            os.close(self._fd)
            self._fd = None
