"""Making folders into which nobody else can put anything, whatever the umask says."""

from __future__ import annotations

import os


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
