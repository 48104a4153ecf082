"""How a PostgreSQL store wakes an idle worker: LISTEN on a connection of its own.

A transaction that makes jobs ready sends a notification. Enqueues do so at most once in ``QUIET_S``, since the server
has a single lock for notifications, and each notification wakes every idle worker. An enqueue is only silent within
that time after a notification. So a worker that was woken, or has begun to listen, looks once more when the time is
over: ``again_s``.

A notification can be lost, and a pooler in transaction mode never passes one on; so workers also look by themselves.
"""

from __future__ import annotations

import os
import select
import sys
import time

import psycopg

from queuectl.db.postgres_add import NOTIFY, QUIET_S
from queuectl.db.postgres_line import is_lost
from queuectl.db.postgres_session import listen
from queuectl.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional

    from queuectl.db.postgres_line import Line
    from queuectl.db.postgres_store import PostgresStore

# How long after a notification enqueues may be silent: longer than QUIET_S, as one commits later than it decides.
ECHO_S = QUIET_S * 1.5
# How long a test notification may take, behind a pooler.
TEST_S = 0.5
# How long to do without a bell after a failed attempt.
PAUSE_S = 5.0


class PostgresBell:
    """A worker's bell: ``arm`` returns a descriptor that is readable after a notification.

    The descriptor is not the connection's socket but an epoll or kqueue around it, made by ``arm`` and closed by
    ``disarm``: the connection lives on while the worker is busy, and may be replaced while the worker sleeps.
    """

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._line: Optional[Line] = None
        self._around: Any = None
        self._not_before_s = 0.0
        self._useless = False  # whether notifications do not come through at all
        self._echo_s = 0.0  # until when enqueues may be silent
        #: Whether jobs may have come in before the last ``arm`` without the worker's knowing.
        self.missed = True

    def arm(self) -> Optional[int]:
        """Listen, if this is not done yet, and return the descriptor to sleep on; None if there can be none now.

        Look for jobs once more after this, since those committed before did not ring.
        """
        if sys.platform == "win32":
            return None  # a completion port cannot wait for libpq's socket, so the worker has to look by itself
        was_there = self._line is not None
        self.missed = self.drain() or not was_there
        if self._line is None and not self._useless and time.monotonic() >= self._not_before_s:
            self._not_before_s = time.monotonic() + PAUSE_S
            self._listen()
        if self._line is None:
            self.disarm()  # the caller has its reactor forget the old descriptor: see Reactor.set_bell
            return None
        if self._around is None:
            self._around = _Around()
            self._around.watch(self._line.pgconn.socket)
        fd: int = self._around.fileno()
        return fd

    def _listen(self) -> None:
        try:
            self._line = line = self._store._open()
            listen(line, self._store.channel, self._store.pooled)
            if self._store.pooled and not self._hears(line):
                self._useless = True
                self._forget()
                return
        except (psycopg.Error, StoreError):
            self._forget()
            return
        if self._around is not None:
            self._around.watch(line.pgconn.socket)
        self._echo_s = time.monotonic() + ECHO_S

    def _hears(self, line: Line) -> bool:
        """Return whether a test notification arrives; behind a pooler in transaction mode, it does not."""
        self._store._rows(NOTIFY, {"channel": self._store.channel})
        deadline_s = time.monotonic() + TEST_S
        while time.monotonic() < deadline_s and not is_lost(line):
            if line.pgconn.notifies() is not None:
                return True
            time.sleep(0.01)
        return False

    def hush(self) -> None:
        """Take the notifications that have arrived."""
        self.drain()

    def drain(self) -> bool:
        """Take the notifications that have arrived; return whether there were any, or the connection was lost.

        A busy worker calls this too, so that notifications do not pile up at the server.
        """
        line = self._line
        if line is None:
            return False
        any_came = False
        lost = is_lost(line)  # this reads what has arrived
        try:
            while not lost and line.pgconn.notifies() is not None:
                any_came = True
                self._echo_s = time.monotonic() + ECHO_S
        except psycopg.Error:
            lost = True
        if lost:
            self._forget()
            # A random pause, so that not all workers connect at once when the server is back.
            self._not_before_s = time.monotonic() + os.urandom(1)[0] / 256
        return any_came or lost

    def again_s(self) -> Optional[float]:
        """Return in how many seconds to look again for jobs from silent enqueues; None if there can be none."""
        left_s = self._echo_s - time.monotonic()
        return left_s if left_s > 0 else None

    def disarm(self) -> None:
        """Close the descriptor but go on listening, as a busy worker will soon be idle again."""
        if self._around is not None:
            self._around.close()
            self._around = None

    def _forget(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def close(self) -> None:
        """Stop listening."""
        self.disarm()
        self._forget()
        self._useless = True


class _Around:
    """A descriptor that is readable when the socket inside it is; the socket may be replaced."""

    def __init__(self) -> None:
        inner: Any = _poller()
        self._inner = inner
        self.fileno = inner.fileno
        self.close = inner.close

    def watch(self, fd: int) -> None:
        """Watch this socket from now on; the kernel forgets the one before when it is closed."""
        if sys.platform == "linux":
            self._inner.register(fd, select.EPOLLIN)
        elif sys.platform != "win32":
            self._inner.control([select.kevent(fd)], 0)


def _poller() -> Any:
    if sys.platform == "linux":
        return select.epoll()
    if sys.platform != "win32":
        return select.kqueue()
    return None
