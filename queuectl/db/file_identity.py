"""Which file, and which log beside it, a store was opened with: if another takes its place, it is not written to."""

from __future__ import annotations

import os

from queuectl.errors import StoreRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple


class FileIdentity:
    """The store's file as it was opened, and the log that SQLite has open beside it."""

    __slots__ = ("_file", "_log", "_log_path", "_path")

    def __init__(self, path: str, log_path: str, file: Tuple[int, int]) -> None:
        self._path = path
        self._log_path = log_path
        self._file = file
        self._log: Optional[int] = None

    def note_log(self) -> None:
        """Note which log SQLite has open: from the first read on nobody removes it but the last to close the store."""
        try:
            self._log = os.stat(self._log_path).st_ino
        except OSError:  # not in WAL mode: another program's doing
            self._log = None

    def check(self) -> None:
        """Refuse a file that was deleted or replaced: writes would be lost without a word, and news not come.

        The same where only the log was: whoever comes later has another one, and neither sees what the other writes.
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
