"""Forks of a process with open queues: the child gets connections of its own, whatever other threads were doing.

A connection must not be used on both sides of a fork: two processes would share one socket, or one file position. With
SQLite, the child must not even keep the inherited connection open unused. SQLite records for each file which locks this
process holds. The child inherits the record but not the locks, so a second connection in the child would rely on locks
that nobody holds: the parent, on closing the store, would remove the log to which the child is writing, and
acknowledged jobs with it. So the child closes the inherited connection before it opens its own. This is safe only if
no statement is under way on the connection; hence a fork waits for the threads that are inside a ``Queue``, and for
those that open or close one.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import RLock  # not threading: with what it imports, it takes a tenth of a short command
from _weakrefset import WeakSet  # for the same reason; weakref takes a millisecond

from queuectl.db import located, open_store
from queuectl.errors import QueuectlError, QueueInUse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Callable, List, NoReturn, Optional

    from queuectl.db import Location
    from queuectl.db.base import Store

# How long a fork waits for other threads. A transaction takes a fraction of this; only the copy of a whole store may
# take longer.
PATIENCE_S = 5.0


def _new_lock() -> RLock:
    """Return a lock for the threads that a program has: gevent and the like put others in the place of the system's.

    They all look like one to the lock of ``_thread``, which would let them in together.
    """
    threading = sys.modules.get("threading")
    return RLock() if threading is None else threading.RLock()


class Forkable:
    """A store and the lock that guards it, both of which belong to this process alone, even after a fork."""

    _open: Optional[Store] = None
    _pid = 0

    def __init__(self, location: Optional[Location], create: bool) -> None:
        # Made absolute now: the child may have another working directory or environment.
        self._location = located(location)
        self._lock = _new_lock()
        self._pid = os.getpid()
        self._torn = False  # whether another thread was using the store when this process was forked off
        self._anew = False  # whether to open the store once it is needed
        self._beside: List[FrameType] = []  # functions that use other connections than the store's own
        with self._lock:  # from the moment that a fork knows of this object, it waits until the store is open
            with _fork:
                _all.add(self)
            _close_dropped()
            self._open = open_store(self._location, create)

    def __del__(self) -> None:
        """Close the store of a ``Queue`` that was dropped instead of closed: between forks, as none waits for this."""
        store, self._open = self._open, None
        if store is None:
            return
        if self._pid != os.getpid():
            _inherited.append(store)
        else:
            _dropped.append(store)
            _close_dropped()

    @property
    def store(self) -> Store:
        """The store of this process; for queuectl's own modules."""
        if self._beside:
            self._refuse_amid()
        if self._pid != os.getpid():
            self._forked()  # the fork was made without Python's hooks, by a C library say
        if self._torn:
            raise QueuectlError(
                f"another thread was using this Queue for more than {PATIENCE_S:.0f} s, when this process was forked. "
                "Start a new process to open the store in."
            )
        if self._anew:
            self._open = open_store(self._location, create=False)
            self._anew = False
        if self._open is None:
            raise QueuectlError("this Queue is closed. Open a new one.")
        return self._open

    def _store_beside(self) -> Store:
        """Return the store for what happens on a connection that is not its own: without the lock, once it is open.

        Whoever has the lock may be waiting for the caller's transaction to end, which would wait for the lock here.
        """
        store = self._open
        if store is not None and self._pid == os.getpid():
            self._refuse_amid()
            return store
        with self._lock:
            return self.store

    def _refuse_amid(self) -> None:
        """Refuse a call by a signal's handler that has interrupted one on a connection that is not the store's own.

        It would wait for the locks of that connection's transaction, and the transaction for it.
        """
        from queuectl.db.amid import is_running

        if any(map(is_running, list(self._beside))):
            raise QueueInUse

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
        """Wait until the connection is at rest, and keep it so; return the function that ends this.

        Gives up at *deadline*, by the monotonic clock; the function returned then does nothing.
        """
        while not self._lock.acquire(timeout=0.005):
            store = self._open
            if store is not None:
                # The thread that holds the lock may be waiting for another process, with its connection at rest.
                store.gate.acquire()
                if store.at_rest:
                    return store.gate.release
                store.gate.release()
            if time.monotonic() > deadline:
                return bool  # nothing to undo
        return self._lock.release

    def _forked(self) -> None:
        """Make this object usable in a forked child: with a new lock, and a connection to be opened when needed."""
        # If another thread held the lock, the child has the held lock but not the thread that would release it.
        free = self._lock.acquire(blocking=False)
        self._lock = _new_lock()
        self._pid = os.getpid()
        store, self._open = self._open, None
        if store is None:
            self._torn = not free  # it was still being opened
            return
        _inherited.append(store)
        self._anew = free or store.at_rest
        self._torn = not self._anew
        if self._anew:
            store.leave()


_all: WeakSet[Forkable] = WeakSet()
_inherited: List[Store] = []  # a parent's stores, kept because garbage collection would close them
_dropped: List[Store] = []  # stores of which nobody knows any more, to be closed between forks
_held: List[Callable[[], object]] = []
_fork = _new_lock()  # forks go one at a time


def _close_dropped() -> None:
    """Close dropped stores, unless a fork is under way; whoever has ``_fork`` looks for more after giving it back."""
    while _dropped and _fork.acquire(blocking=False):
        try:
            while _dropped:
                _dropped.pop().close()
        except Exception:  # nobody is there who could be told of it
            pass
        finally:
            _fork.release()


def _before_fork() -> None:
    _fork.acquire()
    deadline = time.monotonic() + PATIENCE_S
    for each in list(_all):
        _held.append(each._hold(deadline))


def _in_parent() -> None:
    while _held:
        _held.pop()()
    _fork.release()
    _close_dropped()


def _in_child() -> None:
    global _fork
    _fork = _new_lock()
    _held.clear()
    for store in _dropped:
        store.leave()
    _inherited.extend(_dropped)
    _dropped.clear()
    for each in list(_all):
        each._forked()


if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
