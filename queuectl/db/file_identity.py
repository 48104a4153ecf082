"""What becomes of a store's files while they are open: whether they were deleted or replaced, who has locked them."""

from __future__ import annotations

import errno
import os
import sys

from queuectl.errors import StoreRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple


class FileIdentity:
    """The identity of a store's file when it was opened, and of the log that SQLite has open beside it."""

    __slots__ = ("_file", "_log", "_log_link", "_log_name", "_log_path", "_path")

    def __init__(self, path: str, log_path: str, file: Tuple[int, int]) -> None:
        self._path = path
        self._log_path = log_path
        self._file = file
        self._log: Optional[int] = None
        self._log_link = self._log_name = ""  # what /proc calls the log as long as it is at its place

    def note_log(self) -> None:
        """Note which log SQLite has open; call this after the first read.

        From then on, the log stays until the last connection to the store is closed.
        """
        try:
            self._log = os.stat(self._log_path).st_ino
        except OSError:  # another program has switched WAL mode off
            self._log = None

    def open_log(self) -> int:
        """Open the log, to sync it, and return the descriptor.

        Raises:
            OSError: It cannot be opened.
        """
        try:
            fd = os.open(self._log_path, os.O_RDWR)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS):
                raise
            fd = os.open(self._log_path, os.O_RDONLY)  # a user who may only read can sync the file as well
        if sys.platform == "linux" and os.fstat(fd).st_ino == self._log:
            try:
                self._log_name = os.readlink(f"/proc/self/fd/{fd}")
                self._log_link = f"/proc/self/fd/{fd}"
            except OSError:  # no /proc
                pass
        return fd

    def is_open_in(self, pid: int) -> Optional[bool]:
        """Return whether a process has this very file open; None: it cannot be told, or the process is just ending."""
        if sys.platform != "linux":
            return None
        folder = f"/proc/{pid}/fd"
        try:
            names = os.listdir(folder)
        except OSError:  # it is gone, or another user's
            return None
        for name in names:
            try:
                found = os.stat(f"{folder}/{name}")
            except FileNotFoundError:  # it was closed meanwhile
                continue
            except OSError:
                return None
            if (found.st_dev, found.st_ino) == self._file:
                return True
        try:
            return False if os.listdir(folder) else None  # a process that ends loses all its files at once
        except OSError:
            return None

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
        if self._log is None or self._log_is_in_place():
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

    def _log_is_in_place(self) -> bool:
        """Return whether the log has its name still, without looking at its times; False: it is not known.

        Since Linux 6.13, a file whose times were looked at gets new ones by the next write, which makes the sync of
        that write take longer. The descriptor may be closed, or another file's; then the name is another.
        """
        try:
            return bool(self._log_link) and os.readlink(self._log_link) == self._log_name
        except OSError:
            return False


def holder_of(path: str, byte: int) -> Optional[int]:
    """Return the pid of the process that has locked this byte of a file for writing; None if it is not known.

    Read from the kernel's table of locks: to ask through the file, one would have to open and close it, which
    drops the locks that this process holds on it.
    """
    try:
        inode = os.stat(path).st_ino
        with open("/proc/locks", encoding="ascii") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in lines:  # 3: POSIX  ADVISORY  WRITE 1234 fe:00:56789 120 120
        fields = line.split()
        if fields[1] != "POSIX" or fields[3] != "WRITE" or not fields[5].endswith(f":{inode}"):
            continue
        if int(fields[6]) <= byte and fields[7] != "EOF" and int(fields[7]) >= byte:
            return int(fields[4])
    return None
