"""How a PostgreSQL store wakes an idle worker: LISTEN on a connection of its own.

Whoever makes work ready notifies in its transaction. Adds do so at most once in ``QUIET_S``: the notification lock is
one for the whole server, and each one wakes every idle worker. A silent add is within that time after a
notification, so whoever was woken, or has begun to listen, looks once more when it is over: ``again_s``.

A bell can be lost, and a pooler in transaction mode never passes one on; so workers look by themselves too.
"""

from __future__ import annotations

import os
import time

import psycopg

from queuectl.db.postgres_add import NOTIFY, QUIET_S
from queuectl.db.postgres_line import is_lost
from queuectl.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from queuectl.db.postgres_line import Line
    from queuectl.db.postgres_store import PostgresStore

# A silent add may commit a little later than it was silent.
ECHO_S = QUIET_S * 1.5
# Behind a pooler: how long a test notification may take.
TEST_S = 0.5
# How long to do without after trouble.
PAUSE_S = 5.0


class PostgresBell:
    """A worker's bell. ``arm`` returns a descriptor that is readable after a notification."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._line: Optional[Line] = None
        self._not_before_s = 0.0
        self._useless = False
        self._echo_s = 0.0  # until when adds may have been silent
        self._told_loss = True

    def arm(self) -> Optional[int]:
        """Listen, if that is not done yet, and return the descriptor to sleep on; None if there is none now.

        Look for work once more after this: what was committed before it did not ring. After a lost connection
        the first call returns None, so that the sleeper forgets a descriptor whose number may come again.
        """
        self.drain()
        if not self._told_loss:
            self._told_loss = True
            return None
        if self._line is None and not self._useless and time.monotonic() >= self._not_before_s:
            self._not_before_s = time.monotonic() + PAUSE_S
            self._listen()
        return None if self._line is None else self._line.pgconn.socket

    def _listen(self) -> None:
        try:
            self._line = line = self._store._open()
            line.execute(f'LISTEN "{self._store.channel}"')
            if self._store.pooled and not self._hears(line):
                self._useless = True
                self._forget()
                return
        except (psycopg.Error, StoreError):
            self._forget()
            return
        self._echo_s = time.monotonic() + ECHO_S

    def _hears(self, line: Line) -> bool:
        """Say whether a notification comes through: a pooler in transaction mode has given the listener away."""
        import select

        try:
            self._store._rows(NOTIFY, {"channel": self._store.channel})
        except StoreError:
            return False
        deadline_s = time.monotonic() + TEST_S
        while time.monotonic() < deadline_s:
            select.select([line.pgconn.socket], [], [], deadline_s - time.monotonic())
            line.pgconn.consume_input()
            if line.pgconn.notifies() is not None:
                return True
        return False

    def hush(self) -> None:
        """Take the notifications so far."""
        self.drain()

    def drain(self) -> None:
        """Take what has come, so that the server never has to keep it for a worker that is busy."""
        line = self._line
        if line is None:
            return
        lost = is_lost(line)  # which reads all there is
        try:
            while not lost and line.pgconn.notifies() is not None:
                self._echo_s = time.monotonic() + ECHO_S
        except psycopg.Error:
            lost = True
        if lost:
            self._lose()

    def again_s(self) -> Optional[float]:
        """Return in how many seconds to look again because of adds that were silent; None if there were none."""
        left_s = self._echo_s - time.monotonic()
        return left_s if left_s > 0 else None

    def disarm(self) -> None:
        """Go on listening: a worker that is busy now is idle again soon, and ``drain`` keeps the line empty."""

    def _lose(self) -> None:
        self._forget()
        self._told_loss = False
        self._not_before_s = time.monotonic() + os.urandom(1)[0] / 256

    def _forget(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def close(self) -> None:
        """Stop listening."""
        self._forget()
        self._useless = True
