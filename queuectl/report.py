"""When a worker prints its lines: the end of a run is announced only after it is on the disk.

The worker commits an end, starts the next command, and has a thread sync the disk. A sync may take
milliseconds, during which the loop would otherwise start nothing. Ends that follow each other closely
share one sync.
"""

from __future__ import annotations

import threading

from queuectl import faults
from queuectl.errors import QueuectlError, StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional

    from queuectl.console import Console
    from queuectl.db.base import Store

# Ends that come closer than this share one sync of the disk.
SYNC_S = 0.03
STACK_BYTES = 128 * 1024


class Report:
    """Decides which lines of one worker its console may show."""

    def __init__(self, store: Store, console: Console, wake: Callable[[], None]) -> None:
        self._store = store
        self._console = console
        self._wake = wake  # ends the sleep of the worker's loop
        self.holds = False  # whether the console has lines about ends that the store does not know yet
        self._unsynced = False  # whether the store has accepted an end that no sync covers yet
        self._upto: Optional[int] = None  # up to which position to release the console after the running sync
        self._busy = False  # whether a sync runs: set by the loop, cleared by the thread
        self._error: Optional[Exception] = None  # the last sync's, kept for the loop to handle
        self._sync_mono = 0.0
        self._wanted: Optional[threading.Lock] = None  # the loop releases it to wake the thread for a sync

    def accepted(self) -> None:
        """Note that the store has accepted all ends whose lines the console has."""
        self._unsynced = self._store.syncs
        self.holds = False

    def say(self, text: str) -> None:
        """Give the console a line that depends on no end; the line overtakes lines about ends that are held back."""
        (self._console.at_once if self.holds else self._console.line)(text)

    def show(self, text: str) -> None:
        """Print a line about a command that is about to start, which may kill this process, now if possible.

        It is not possible if lines about ends are before it and have to wait for a sync.
        """
        self._console.line(text)
        if self._upto is None and not self.holds and not self._unsynced:
            self._console.release()
            self._console.flush()

    def drop_held(self) -> None:
        """Forget the lines about ends that this worker will not record in the store."""
        if self.holds:
            self._console.drop()
            self.holds = False

    def tell(self, now_mono: float, not_before_mono: float = 0.0) -> Optional[StoreUnavailable]:
        """Print what may be printed, and begin a sync if one is due, but none before *not_before_mono*.

        Returns the error of a sync that failed and is to be tried again.

        Raises:
            StoreRefused: The store must not be used any more. Any other error in the thread is raised as well.
        """
        error = self._take() if self.is_synced() else None
        if self._upto is None and not self.holds:
            if not self._unsynced:
                self._console.release()
            elif now_mono >= self._sync_mono and now_mono >= not_before_mono:
                self._sync_mono = now_mono + SYNC_S
                self._unsynced = False
                self._upto = self._console.position()
                self._start()
        self._console.flush()
        return error

    def is_synced(self) -> bool:
        """Return whether a sync is over and the lines that waited for it can be printed."""
        return self._upto is not None and not self._busy

    def due_mono(self) -> Optional[float]:
        """Return when the next sync is due, by the monotonic clock; None if none is needed or one is running."""
        return self._sync_mono if self._unsynced and self._upto is None and not self.holds else None

    def _take(self) -> Optional[StoreUnavailable]:
        error = self._error
        if error is None:
            self._console.release(self._upto)
            faults.point("synced")
        elif isinstance(error, StoreUnavailable):
            self._unsynced = True
        else:
            raise error
        self._upto = None
        return error

    def _start(self) -> None:
        self._busy = True
        self._error = None
        if self._wanted is None:
            self._wanted = self._begin_thread()
        if self._wanted is None:
            self._sync()
        else:
            self._wanted.release()

    def _begin_thread(self) -> Optional[threading.Lock]:
        """Start the thread and return the lock whose release wakes it; None if the system allows no more threads."""
        wanted = threading.Lock()
        wanted.acquire()
        before = threading.stack_size(STACK_BYTES)
        try:
            threading.Thread(target=self._work, args=(wanted,), name="sync", daemon=True).start()
        except RuntimeError:
            return None
        finally:
            threading.stack_size(before)
        return wanted

    def _work(self, wanted: threading.Lock) -> None:
        while True:
            wanted.acquire()
            self._sync()

    def _sync(self) -> None:
        try:
            self._store.sync()
        except Exception as error:
            self._error = error
        self._busy = False
        self._wake()

    def finish(self) -> None:
        """Sync the last ends and print the rest, in this thread: no command runs any more that would have to wait."""
        try:
            self._store.sync()
        except QueuectlError as error:
            self._console.drop()
            self._console.line(f"queuectl: {error}")
        self._console.finish()
