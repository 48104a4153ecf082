"""Forks of a process with open queues: the child has connections of its own, whatever other threads were about to do.

A connection must not cross a fork: two processes would share one file position, one socket. SQLite's must not even
lie idle there: it notes by file what this process has locked, and the child, whose locks are not inherited, would have
a second connection lean on locks that nobody holds; when its parent closes the store, the log would be removed under
its hands, with jobs that were acknowledged. So the child lets go of the inherited one before it opens its own. That
takes a connection at rest: a fork waits for the threads that are inside a ``Queue``.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from _weakrefset import WeakSet  # as threading does: weakref itself takes a millisecond more

from queuectl.db import located, open_store
from queuectl.errors import QueuectlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, NoReturn, Optional

    from queuectl.db import Location
    from queuectl.db.base import Store

# How long a fork waits for other threads: a transaction takes a fraction of that. Behind it is a copy of a whole store.
PATIENCE_S = 5.0


class Forkable:
    """A lock and a store behind it, which are this process's own also after a fork."""

    def __init__(self, location: Optional[Location], create: bool) -> None:
        # As it was meant here: the child may have another working directory, or another environment.
        self._location = located(location)
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._torn = False  # whether a thread was inside when this process was forked off
        self._anew = False  # whether to open the store when it is needed
        self._open: Optional[Store] = open_store(self._location, create)
        _all.add(self)

    @property
    def store(self) -> Store:
        """The store of this process; for queuectl's own modules."""
        if self._pid != os.getpid():
            self._forked()  # by something that did not tell Python
        if self._torn:
            raise QueuectlError(
                f"another thread was using this Queue, for more than {PATIENCE_S:.0f} s, when this process was forked. "
                "Start a new process to open the store in."
            )
        if self._anew:
            self._open = open_store(self._location, create=False)
            self._anew = False
        if self._open is None:
            raise QueuectlError("this Queue is closed. Open a new one.")
        return self._open

    def close(self) -> None:
        """Close the store; later calls raise ``QueuectlError``."""
        with self._lock:
            if self._open is not None and self._pid == os.getpid():
                self._open.close()
            self._open, self._anew = None, False

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a Queue cannot be pickled or copied. Open one where it is needed: Queue(location).")

    def _hold(self, deadline: float) -> Callable[[], object]:
        """Keep the connection at rest, and return what undoes that; behind *deadline* it may not be."""
        while not self._lock.acquire(timeout=0.005):
            store = self._open
            if store is not None:
                # The thread that is inside may be waiting for another process.
                store.gate.acquire()
                if store.at_rest:
                    return store.gate.release
                store.gate.release()
            if time.monotonic() > deadline:
                return bool  # nothing to undo
        return self._lock.release

    def _forked(self) -> None:
        """Begin anew, in a child."""
        # Of another thread's lock the child has a copy, and not the thread.
        free = self._lock.acquire(blocking=False)
        self._lock = threading.RLock()
        self._pid = os.getpid()
        store, self._open = self._open, None
        if store is None:
            return
        _inherited.append(store)
        self._anew = free or store.at_rest
        self._torn = not self._anew
        if self._anew:
            store.leave()


_all: WeakSet[Forkable] = WeakSet()
_inherited: List[Store] = []  # of a parent process: if they were forgotten, they would be closed
_held: List[Callable[[], object]] = []
_fork = threading.Lock()  # one at a time


def _before_fork() -> None:
    _fork.acquire()
    deadline = time.monotonic() + PATIENCE_S
    for each in list(_all):
        _held.append(each._hold(deadline))


def _in_parent() -> None:
    while _held:
        _held.pop()()
    _fork.release()


def _in_child() -> None:
    global _fork
    _fork = threading.Lock()
    _held.clear()
    for each in list(_all):
        each._forked()


if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
