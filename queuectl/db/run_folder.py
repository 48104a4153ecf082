"""The run folder: where the workers of one store on one host keep their bells, notes and journals.

Files in it are trusted: bells are written to, the ends in journals are recorded, and processes named by notes may be
killed. The folder is beside the store. In a directory like ``/tmp``, another user may have created it first. So it is
used only if nobody can put files there who cannot write to the store itself. And whoever can write to the store should
be able to use it: without the notes, another user's leftovers cannot be found, as their environment may not be read.
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


def let_in(fd: int, folder: str) -> None:
    """Let whoever may use the run folder *folder* use a file that was made there and is open as *fd*."""
    if sys.platform == "win32":
        return
    try:
        above, mine = os.stat(folder), os.fstat(fd)
        if mine.st_uid != os.geteuid() or mine.st_nlink != 1:  # not made here: another name of some other file
            return
        if above.st_mode & 0o020:
            os.fchmod(fd, 0o660)
    except OSError:
        return
    folders.give(fd, folder)


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
        """Make the folder if there is none, and return its path; None if it may not be made, or cannot be trusted.

        Raises:
            OSError: The folder cannot be made now.
        """
        there = os.path.lexists(self.path)
        try:
            folders.make(os.path.dirname(self.path))
            folders.make(self.path)
            self._share(not there)
        except (FileExistsError, PermissionError):  # something that is not a folder has this name, for instance
            pass
        return self.find()

    def _share(self, is_new: bool) -> None:
        """Let those use the folder who may write to the store, as SQLite does with the log; for its owner to do.

        Raises:
            OSError: It cannot be done.
        """
        if sys.platform == "win32":
            return
        store = os.stat(self._beside)
        try:
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | NO_FOLLOW)
        except OSError:  # no folder, or not this user's: ``find`` tells
            return
        try:
            found = os.fstat(folder)
            if found.st_uid != os.geteuid():
                return
            if store.st_mode & 0o060 == 0o060 and (found.st_mode & 0o070 != 0o070 or found.st_gid != store.st_gid):
                os.fchown(folder, -1, store.st_gid)
                os.fchmod(folder, 0o2770)  # what is made in it gets its group
            if is_new and found.st_uid == 0 != store.st_uid:
                os.fchown(folder, store.st_uid, store.st_gid)
        finally:
            os.close(folder)

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
        if found.st_uid not in (os.geteuid(), 0, store.st_uid) and not self._is_the_groups(found, store):
            return "belongs to another user"
        more = found.st_mode & ~store.st_mode & 0o022
        if more or (found.st_mode & 0o020 and found.st_gid != store.st_gid):
            return f"may be written to by others (mode {found.st_mode & 0o7777:03o})"
        return ""

    def refusal(self) -> str:
        """Return that this user may put nothing into the folder, as in ``trouble``; an empty text if that is not so.

        On a disk that is read-only nobody may, which is no matter of the folder.
        """
        if sys.platform != "win32" and os.statvfs(self.path).f_flag & os.ST_RDONLY:
            return ""
        return "" if os.access(self.path, os.R_OK | os.W_OK | os.X_OK) else "may not be written to by you"

    def _is_the_groups(self, found: os.stat_result, store: os.stat_result) -> bool:
        """Return whether only a member of the group that may write to the store can have made the folder.

        Nobody else gives a folder to the group, except by making it in a folder that passes its group on.
        """
        above = os.stat(os.path.dirname(self.path))
        shared = found.st_mode & store.st_mode & 0o020 and found.st_gid == store.st_gid
        return bool(shared and not above.st_mode & 0o002)
