"""What a worker tells people, and when: an end only after it is on the disk.

A worker commits an end, starts the next command, and has the disk catch up in a thread: on a disk that needs
milliseconds for a sync the loop would otherwise stand still, with commands ended and nothing started. Ends
that follow each other closely share one sync.
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
    """The lines of one worker on their way to its console."""

    def __init__(self, store: Store, console: Console, wake: Callable[[], None]) -> None:
        self._store = store
        self._console = console
        self._wake = wake  # ends the sleep of the worker's loop
        self.holds = False  # whether the console has lines of ends that the store has not been told
        self._unsynced = False  # whether an end was accepted that no sync covers yet
        self._upto: Optional[int] = None  # how far the console may be shown when the running sync is over
        self._busy = False  # set by the loop, cleared by the thread
        self._error: Optional[Exception] = None  # of the last sync; for the loop, where errors are dealt with
        self._sync_mono = 0.0
        self._wanted: Optional[threading.Lock] = None  # the loop releases it to wake the thread for a sync

    def accepted(self) -> None:
        """Note that the store accepted ends whose lines the console has got."""
        self._unsynced = self._store.syncs
        self.holds = False

    def say(self, text: str) -> None:
        """Have the console take a line that depends on no end; at once where lines of ends are held."""
        (self._console.at_once if self.holds else self._console.line)(text)

    def show(self, text: str) -> None:
        """Have the console write a line now, unless lines of ends are before it: the command may kill this process."""
        self._console.line(text)
        if self._upto is None and not self.holds and not self._unsynced:
            self._console.release()
            self._console.flush()

    def drop_held(self) -> None:
        """Forget the lines of ends that the store has not been told, and will not be told by this worker."""
        if self.holds:
            self._console.drop()
            self.holds = False

    def tell(self, now_mono: float, not_before_mono: float = 0.0) -> Optional[StoreUnavailable]:
        """Show what may be shown; begin a sync if one is due. Returns the error of a sync that is to be tried again.

        Raises:
            StoreRefused: The store is not to be used any more. Whatever else went wrong in the thread is raised too.
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
        """Say whether a sync is over whose lines are still to be shown."""
        return self._upto is not None and not self._busy

    def due_mono(self) -> Optional[float]:
        """Return when the next sync is due, by the monotonic clock; None if none is, or one runs."""
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
        """Start the thread and return what wakes it; None if the user's limit of processes is reached."""
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
        """Make the last ends durable and write the rest; nothing runs any more that could go on meanwhile."""
        try:
            self._store.sync()
        except QueuectlError as error:
            self._console.drop()
            self._console.line(f"queuectl: {error}")
        self._console.finish()
