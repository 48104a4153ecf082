"""``pids.json``: the pids of all live workers of one home, for people and scripts; nothing is decided by it."""

from __future__ import annotations

import os

from queuectl.db import home
from queuectl.numbering import lock
from queuectl.runner import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, List

    from queuectl.job import Worker


def path() -> str:
    """Return where it is."""
    return os.path.join(home(), "pids.json")


class PidFile:
    """What one process that knows the workers of one store does for the file.

    Several stores may have the same home. Whose a pid is, and which process it was when it was written down, is in
    ``pids.known`` beside it, so that nobody takes another store's workers out, nor keeps one that has ended.
    """

    def __init__(self, store_id: str) -> None:
        self._store_id = store_id
        self._written = False  # until then the file may hold anything

    def keep(self, workers: Iterable[Worker]) -> bool:
        """See to it that the file has the live *workers* of this store, and those of others that live.

        False if that could not be done, perhaps because another process is at it. It waits for nobody: a process
        that was paused at it must not hold up those that look after workers.
        """
        mine = [f"{self._store_id} {each.pid} {each.pid_started}\n" for each in workers if each.role == "worker"]
        try:
            if not self._written:
                os.makedirs(home(), mode=0o700, exist_ok=True)
            known = os.path.join(home(), "pids.known")
            with open(os.open(known, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="ascii", errors="replace") as file:
                lock(file.fileno(), wait=False)
                before = file.read()
                lines = self._of_others(before) + mine
                if "".join(lines) != before or not self._written:
                    _write([int(line.split(" ")[1]) for line in lines])  # first: if that fails, it is tried again
                    file.seek(0)
                    file.truncate()
                    file.writelines(lines)
            self._written = True
            return True
        except OSError:
            return False

    def _of_others(self, text: str) -> List[str]:
        """Return the lines of *text* that are of other stores and of processes that live."""
        found = []
        for line in text.splitlines(keepends=True):
            words = line.rstrip("\n").split(" ", 2)  # a start may be a date of several words
            if len(words) != 3 or not words[1].isdecimal() or words[0] == self._store_id:
                continue  # what a loss of power left, or ours
            if identity.is_running(int(words[1]), words[2]):
                found.append(line)
        return found


def _write(pids: List[int]) -> None:
    """Write the file whole or not at all. On Windows nobody may be reading it just now."""
    hidden = f"{path()}.{os.getpid()}"
    try:
        # Readable for its owner alone, as all of the home, whatever the umask says.
        with open(os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write('{"pids": %s}\n' % pids)
        os.replace(hidden, path())
    except OSError:
        try:
            os.remove(hidden)
        except OSError:
            pass
        raise
