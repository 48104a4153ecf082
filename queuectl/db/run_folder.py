"""The run folder: where the workers of one store on one host keep their bells, notes and journals.

What is in it is believed: a bell is written to, a journal is handed in, a process that a note names may be ended. It
lies beside the store, and where others may make files too, in ``/tmp`` say, somebody else may have made it first. So
it is used only if those alone can have put something there who can write to the store itself.
"""

from __future__ import annotations

import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

# A file in it that is a link was not made by a worker. Windows has neither such a flag nor links that anybody can make.
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def opener(path: str, flags: int) -> int:
    """Open a file of the folder for ``open``: itself, not what it leads to, and without waiting for a writer."""
    return os.open(path, flags | NO_FOLLOW | getattr(os, "O_NONBLOCK", 0))


class RunFolder:
    """The run folder of a store.

    Args:
        path: Where it is, or would be.
        beside: The file whose owner and mode say who may write to the store: the store's own, or for one on a server
            the home.
    """

    def __init__(self, path: str, beside: str) -> None:
        self.path = path
        self._beside = beside
        self._known: Optional[str] = None

    def __fspath__(self) -> str:
        return self.path

    def find(self) -> Optional[str]:
        """Return the folder, looked at anew; None if there is none, or it is not to be trusted."""
        self._known = None
        try:
            if not self.trouble():
                self._known = self.path
        except OSError:
            pass
        return self._known

    def at_hand(self) -> Optional[str]:
        """Return what ``find`` found, looking only until it has found one: every commit asks for it."""
        return self._known or self.find()

    def make(self) -> Optional[str]:
        """Make the folder if there is none and return it; None if it is not to be trusted.

        Raises:
            OSError: It cannot be made.
        """
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
        except FileExistsError:  # something else has its name
            pass
        return self.find()

    def trouble(self) -> str:
        """Say why the folder is not to be trusted, behind its name; nothing if it is.

        Raises:
            OSError: There is none, or it cannot be looked at.
        """
        found = os.lstat(self.path)
        if not stat.S_ISDIR(found.st_mode):
            return "is not a directory"
        if sys.platform == "win32":
            return ""
        store = os.stat(self._beside)
        # Whoever owns the store decides about it anyway; the same is true of root.
        if found.st_uid not in (os.geteuid(), 0, store.st_uid):
            return "belongs to another user"
        more = found.st_mode & ~store.st_mode & 0o022
        if more or (found.st_mode & 0o020 and found.st_gid != store.st_gid):
            return f"may be written to by others (mode {found.st_mode & 0o7777:03o})"
        return ""
