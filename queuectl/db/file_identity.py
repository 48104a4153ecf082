"""Noticing that a store's file, or the log beside it, was deleted or replaced while the store is open."""

from __future__ import annotations

import os

from queuectl.errors import StoreRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple


class FileIdentity:
    """The identity of a store's file when it was opened, and of the log that SQLite has open beside it."""

    __slots__ = ("_file", "_log", "_log_path", "_path")

    def __init__(self, path: str, log_path: str, file: Tuple[int, int]) -> None:
        self._path = path
        self._log_path = log_path
        self._file = file
        self._log: Optional[int] = None

    def note_log(self) -> None:
        """Note which log SQLite has open; call this after the first read.

        From then on, the log stays until the last connection to the store is closed.
        """
        try:
            self._log = os.stat(self._log_path).st_ino
        except OSError:  # another program has switched WAL mode off
            self._log = None

    def check(self) -> None:
        """Refuse to go on if the file was deleted or replaced: writes would be lost silently, and no news would arrive.

        The same if only the log was: processes that open the store later use another log, and neither side sees what
        the other writes.

        Raises:
            StoreRefused: The file or the log is gone, or another one is in its place.
        """
        try:
            found = os.stat(self._path)
        except OSError:
            raise StoreRefused(
                f"the store {self._path} has vanished. Put it back, or start again with a new one."
            ) from None
        if (found.st_dev, found.st_ino) != self._file:
            raise StoreRefused(f"the store {self._path} was replaced by another file. Run the command again.")
        if self._log is None:
            return
        try:
            if os.stat(self._log_path).st_ino == self._log:
                return
        except OSError:
            pass
        raise StoreRefused(
            f"the log {self._log_path} was deleted or replaced while the store was open. Stop everything that uses "
            "the store, and run the command again."
        )
