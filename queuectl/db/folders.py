"""Making folders into which nobody else can put anything, and giving what root makes to whom it is made for.

``sudo`` may keep HOME. What root then made in a user's home would shut the user out of the user's own queue. So what
root makes in somebody's folder belongs to that user; only what is new, as a link could lead to any other file.
"""

from __future__ import annotations

import os
import sys


def make(folder: str, mode: int = 0o700) -> None:
    """Make *folder* and what is missing above it, unless it is there; *mode* is only the folder's own.

    Whoever may write to a folder on the way could put another one in the place of the last, and with that another store
    or unit, whose commands would be run. ``os.makedirs`` leaves those on the way to the umask, which may be 0.

    Raises:
        OSError: It cannot be made, or something that is not a folder has its name.
    """
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    if above not in ("", folder):
        make(above, 0o755)
    try:
        os.mkdir(folder, mode)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise
    else:
        give_folder(folder)


def give_folder(folder: str) -> None:
    """Give the new *folder*, if root has made it, to the owner of the one that it is in."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        give(fd, os.path.dirname(folder))
    finally:
        os.close(fd)


def give(fd: int, folder: str) -> None:
    """Give what root has just made in *folder*, and has open as *fd*, to the owner of that folder."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return
    try:
        owner, made = os.stat(folder), os.fstat(fd)
        if owner.st_uid != 0 == made.st_uid:
            os.fchown(fd, owner.st_uid, owner.st_gid)
    except OSError:  # not in this user namespace, or not on this file system
        pass


def open_file(path: str, flags: int) -> int:
    """Open the file *path*, for its owner alone if there is none yet, and return the descriptor.

    Raises:
        OSError: As ``os.open``.
    """
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags | os.O_CREAT, 0o600)
    give(fd, os.path.dirname(path))
    return fd
