"""The run folder: where the workers of one store on one host keep their bells, notes and journals.

Files in it are trusted: bells are written to, the ends in journals are recorded, and processes named by notes may be
killed. The folder is beside the store. In a directory like ``/tmp``, another user may have created it first. So it is
used only if nobody can put files there who cannot write to the store itself.
"""

from __future__ import annotations

import os
import stat
import sys

from queuectl.db import folders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

# Links in the folder are not followed, as no worker makes any. Windows has no such flag, and not every user may make
# links there.
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def opener(path: str, flags: int) -> int:
    """Open a file of the folder, as the *opener* of ``open``: follow no link, and do not wait for a FIFO's writer."""
    return os.open(path, flags | NO_FOLLOW | getattr(os, "O_NONBLOCK", 0))


class RunFolder:
    """The run folder of a store.

    Args:
        path: Where the folder is, or would be.
        beside: The file whose owner and mode say who may write to the store: the store itself or, for a store on a
            server, queuectl's home.
    """

    def __init__(self, path: str, beside: str) -> None:
        self.path = path
        self._beside = beside
        self._known: Optional[str] = None

    def __fspath__(self) -> str:
        return self.path

    def find(self) -> Optional[str]:
        """Check the folder anew and return its path; None if there is none, or it cannot be trusted."""
        self._known = None
        try:
            if not self.trouble():
                self._known = self.path
        except OSError:
            pass
        return self._known

    def at_hand(self) -> Optional[str]:
        """Return the folder that ``find`` found last, or call it; every commit needs the folder, so it is cached."""
        return self._known or self.find()

    def make(self) -> Optional[str]:
        """Make the folder if there is none, and return its path; None if it cannot be trusted.

        Raises:
            OSError: The folder cannot be made.
        """
        try:
            folders.make(os.path.dirname(self.path))
            folders.make(self.path)
        except FileExistsError:  # something that is not a folder has this name
            pass
        return self.find()

    def trouble(self) -> str:
        """Return why the folder cannot be trusted, to be written after its name; an empty text if it can.

        Raises:
            OSError: There is no folder, or it cannot be examined.
        """
        found = os.lstat(self.path)
        if not stat.S_ISDIR(found.st_mode):
            return "is not a directory"
        if sys.platform == "win32":
            return ""
        store = os.stat(self._beside)
        # The owner of the store, and root, can write to the store anyway.
        if found.st_uid not in (os.geteuid(), 0, store.st_uid):
            return "belongs to another user"
        more = found.st_mode & ~store.st_mode & 0o022
        if more or (found.st_mode & 0o020 and found.st_gid != store.st_gid):
            return f"may be written to by others (mode {found.st_mode & 0o7777:03o})"
        return ""
