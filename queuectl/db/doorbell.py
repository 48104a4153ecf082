"""Doorbells: how a commit wakes idle workers at once.

A worker that has no job makes a FIFO, its bell, in the store's run folder and sleeps on it. A process that makes jobs
ready writes a byte into each of these FIFOs after the commit. Not every commit rings: one through a program's own
connection does not, nor one whose process dies too early. So supervisors look every two seconds whether anything was
committed, and ring if so; and a worker that can have no bell looks for jobs every second. A busy worker has no bell,
so that the only cost for an enqueue is reading one small directory.

It is a FIFO and not a socket because a FIFO's path may exceed 107 bytes, and nothing has to be imported. Windows has no
suitable FIFOs and no sockets with paths. There, a bell is a UDP socket on the loopback address and an empty file whose
name contains the port; nobody has to open this file, since Windows could not remove an open one.
"""

from __future__ import annotations

import os
import stat
import sys

from queuectl.db.run_folder import NO_FOLLOW, let_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Optional, Tuple

SUFFIX = ".bell"
NOBODY_READS = 6  # ENXIO
_RINGING = os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | NO_FOLLOW


def ring(folder: Optional[str]) -> None:
    """Wake every worker that sleeps on a bell in *folder*. Errors are ignored, as a bell is only a hint."""
    if folder is None:
        return
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if name.endswith(SUFFIX):
            _ring_one(os.path.join(folder, name))


def _ring_one(path: str) -> None:
    if sys.platform == "win32":
        _ring_udp(path[: -len(SUFFIX)].rpartition(".")[2])
        return
    try:
        bell = os.open(path, _RINGING)
    except OSError as error:
        if error.errno == NOBODY_READS:
            _remove_dead(path)
        return
    try:
        if stat.S_ISFIFO(os.fstat(bell).st_mode):  # never write to any other file of that name
            os.write(bell, b"!")
    except OSError:  # the FIFO is full, so the bell has been rung already
        pass
    finally:
        os.close(bell)


def _remove_dead(path: str) -> None:
    """Remove a bell that nobody reads, if its worker is dead.

    A live worker removes its bell before it stops reading, and may have put up another one of the same name since. So
    the file is removed only if it was the same one before and after the check that nobody reads it.
    """
    before = _identity(path)
    try:
        os.close(os.open(path, _RINGING))
    except OSError as error:
        if error.errno == NOBODY_READS and before is not None and before == _identity(path):
            _remove(path)


def _identity(path: str) -> Optional[Tuple[int, int]]:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _ring_udp(port: str) -> None:
    import socket

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bell:
            bell.sendto(b"!", ("127.0.0.1", int(port)))
    except (OSError, ValueError, OverflowError):
        pass


def forget(folder: str, worker_id: str) -> None:
    """Remove the bell of a dead worker."""
    if os.name != "nt":
        _remove(os.path.join(folder, worker_id + SUFFIX))
        return
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if name.startswith(worker_id + ".") and name.endswith(SUFFIX):
            _remove(os.path.join(folder, name))


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        pass


class Doorbell:
    """A worker's own bell; the descriptor that ``arm`` returns is readable after a ring."""

    def __init__(self, folder: str, worker_id: str) -> None:
        self._stem = os.path.join(folder, worker_id)
        self._path = self._stem + SUFFIX
        self._fd: Optional[int] = None
        self._socket: Optional[socket.socket] = None  # on Windows

    def arm(self) -> Optional[int]:
        """Put up the bell, if it is not up, and return the descriptor to sleep on; None if there can be no bell.

        Look for jobs once more after this, since those committed before did not ring.
        """
        if sys.platform == "win32":
            if self._fd is None:
                self._hang_socket()
        elif self._fd is None and hasattr(os, "mkfifo"):
            hidden = self._path + ".new"
            try:
                os.mkfifo(hidden, 0o600)
                # Opened before it gets its name, so that nobody who rings finds a bell without a reader.
                self._fd = os.open(hidden, os.O_RDWR | os.O_NONBLOCK)
                let_in(self._fd, os.path.dirname(hidden))
                os.rename(hidden, self._path)
            except OSError:
                _remove(hidden)
                self.disarm()
        return self._fd

    def _hang_socket(self) -> None:
        import socket

        bell = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            bell.setblocking(False)
            bell.bind(("127.0.0.1", 0))
            self._path = f"{self._stem}.{bell.getsockname()[1]}{SUFFIX}"
            os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError:
            bell.close()
            return
        self._socket, self._fd = bell, bell.fileno()

    def hush(self) -> None:
        """Take the rings so far, so that the descriptor is no longer readable."""
        if self._socket is not None:
            try:
                while True:
                    self._socket.recv(16)
            except OSError:
                pass
        elif self._fd is not None:
            try:
                os.read(self._fd, 4096)
            except OSError:
                pass

    def again_s(self) -> Optional[float]:
        """Return None: this bell rings each time that jobs become ready, so that no further look is needed."""
        return None

    def disarm(self) -> None:
        """Take the bell down, as this worker is busy or ends."""
        if self._fd is not None:
            _remove(self._path)
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            else:
                os.close(self._fd)
            self._fd = None
