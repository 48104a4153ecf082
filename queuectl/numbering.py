"""Numbers for the workers of daemons: live workers of one home never share a number, nor the log named by it."""

from __future__ import annotations

import os
import sys

from queuectl.db import folders, home
from queuectl.runner import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, List, Set, Tuple

    from queuectl.job import Worker

# Where Windows locks one byte: far beyond the text, which other processes may read meanwhile.
LOCKED_BYTE = 1 << 20


def take(count: int, group_id: str, workers: Iterable[Worker]) -> List[int]:
    """Return the *count* lowest numbers that no other daemon of this home uses, and reserve them for this process.

    The reservation ends with the process. In a home that cannot be written to, numbers count from 0, unreserved.

    Args:
        count: How many numbers are wanted.
        group_id: The group that they are for.
        workers: Live workers of this host. A worker whose supervisor has died keeps its number until it ends, and so
            does another store's, which is known by ``pids.known``.
    """
    finishing = {(worker.group_id, worker.number) for worker in workers if worker.role == "worker"} | _known()
    pid = os.getpid()
    try:
        with open(folders.open_file(_path(), os.O_RDWR), "r+", encoding="ascii", errors="replace") as file:
            lock(file.fileno())
            taken = _in_use(file.read(), finishing)
            numbers = _lowest(count, taken)
            taken.update((number, (pid, group_id, identity.process_started(pid) or "")) for number in numbers)
            file.seek(0)
            file.truncate()
            file.writelines(f"{number} {holder[0]} {holder[1]} {holder[2]}\n" for number, holder in taken.items())
            return numbers
    except OSError:  # mixed logs are better than no workers
        return list(range(count))


def known_path() -> str:
    """Return the path of ``pids.known``, which has the live workers of all stores of this home; see ``PidFile``."""
    return os.path.join(home(), "pids.known")


def _known() -> Set[Tuple[str, int]]:
    """Return (group id, number) of each live worker in ``pids.known``."""
    found = set()
    try:
        with open(known_path(), encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return set()
    for line in lines:
        process, _, place = line.partition("\t")
        words, (group_id, _, number) = process.split(" ", 2), place.partition(" ")
        is_whole = len(words) == 3 and words[1].isdecimal() and number.isdecimal()
        if is_whole and identity.is_running(int(words[1]), words[2]):
            found.add((group_id, int(number)))
    return found


def _path() -> str:
    return os.path.join(home(), "logs", "numbers")


def _in_use(text: str, finishing: Iterable[Tuple[str, int]]) -> Dict[int, Tuple[int, str, str]]:
    """Return the numbers in *text* whose supervisor or worker lives, each with the supervisor's pid, group and start.

    *finishing* has (group id, number) of each live worker.
    """
    taken = {}
    for line in text.splitlines():
        words = line.split(" ", 3)  # the start time may be a date of several words
        if len(words) != 4 or not (words[0].isdecimal() and words[1].isdecimal()):
            continue  # damaged by a loss of power
        number, pid, group_id, started = int(words[0]), int(words[1]), words[2], words[3]
        if identity.is_running(pid, started) or (group_id, number) in finishing:
            taken[number] = (pid, group_id, started)
    return taken


def _lowest(count: int, taken: Iterable[int]) -> List[int]:
    used = set(taken)
    numbers: List[int] = []
    number = 0
    while len(numbers) < count:
        if number not in used:
            numbers.append(number)
        number += 1
    return numbers


def lock(fd: int, wait: bool = True) -> None:
    """Lock a file, for this process alone, until it is closed.

    Raises:
        OSError: Without *wait*, another process has locked it.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(fd, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        os.lseek(fd, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
