"""``pids.json``: the pids of all live workers of one home, for people and scripts; queuectl never relies on it."""

from __future__ import annotations

import os

from queuectl.db import folders, home
from queuectl.numbering import known_path, lock
from queuectl.runner import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, List

    from queuectl.job import Worker


def path() -> str:
    """Return the path of ``pids.json``."""
    return os.path.join(home(), "pids.json")


class PidFile:
    """Keeps the workers of one store in ``pids.json``.

    Several stores may share a home. To which store each pid belongs, and when its process was started, is in
    ``pids.known`` beside the file. So no process removes another store's workers, and none keeps a worker that has
    ended. Behind a tab it has the worker's group and number, for who gives numbers to another store's workers.
    """

    def __init__(self, store_id: str) -> None:
        self._store_id = store_id
        self._written = False  # whether this process has written the file; before that it may hold anything

    def keep(self, workers: Iterable[Worker]) -> bool:
        """Make the file hold the live *workers* of this store, and those of other stores that are still alive.

        Returns False if that was not possible, perhaps because another process is writing. This call never waits: a
        process that was suspended while writing must not hold up supervisors.
        """
        mine = [
            f"{self._store_id} {each.pid} {each.pid_started}\t{each.group_id} {each.number}\n"
            for each in workers
            if each.role == "worker"
        ]
        try:
            if not self._written:
                folders.make(home())
            known = known_path()
            with open(folders.open_file(known, os.O_RDWR), "r+", encoding="ascii", errors="replace") as file:
                lock(file.fileno(), wait=False)
                before = file.read()
                lines = self._of_others(before) + mine
                if "".join(lines) != before or not self._written:
                    _write([int(line.split(" ")[1]) for line in lines])  # first, so that a failure is tried again
                    file.seek(0)
                    file.truncate()
                    file.writelines(lines)
            self._written = True
            return True
        except OSError:
            return False

    def _of_others(self, text: str) -> List[str]:
        """Return the lines of *text* about live workers of other stores."""
        found = []
        for line in text.splitlines(keepends=True):
            words = line.rstrip("\n").split(" ", 2)  # the start time may be a date of several words
            if len(words) != 3 or not words[1].isdecimal() or words[0] == self._store_id:
                continue  # damaged by a loss of power, or a line of this store
            if identity.is_running(int(words[1]), words[2].partition("\t")[0]):
                found.append(line)
        return found


def _write(pids: List[int]) -> None:
    """Replace the file by a new one, whole or not at all.

    Raises:
        OSError: It could not be replaced; on Windows, perhaps because another process is reading it.
    """
    hidden = f"{path()}.{os.getpid()}"
    try:
        # Readable by its owner only, like everything in the home, whatever the umask says.
        with open(folders.open_file(hidden, os.O_WRONLY | os.O_EXCL), "w", encoding="ascii") as file:
            file.write('{"pids": %s}\n' % pids)
        os.replace(hidden, path())
    except OSError:
        try:
            os.remove(hidden)
        except OSError:
            pass
        raise
