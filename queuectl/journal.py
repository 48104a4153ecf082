"""A worker's journal: what recovery must know if the worker is killed while it has claims made ahead.

The journal holds the ends that the store does not know yet, and the claims whose command has not begun. It is a file
beside the worker's other notes, written before each command that follows another without a transaction in between. It
is not synced: what a process has written outlives the process, and after a loss of power the journal is not needed,
since no command runs any more and runs whose end is not in the store count as lost.
"""

from __future__ import annotations

import marshal
import os
from binascii import crc32

from queuectl.db.run_folder import NO_FOLLOW, let_in, opener
from queuectl.job import Claim, Job, Outcome, RunEnd, State, Verdict
from queuectl.runner.identity import OUT_OF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator, List, Optional, Sequence, Tuple

    from queuectl.db.base import Ended, OutputWrite

NAME = ".ahead"  # after the worker's id
#: Ends that would make a larger record are not kept back but recorded in the store at once.
MOST_BYTES = 64 * 1024
_WRITING = os.O_WRONLY | os.O_CREAT | NO_FOLLOW | getattr(os, "O_BINARY", 0)
_HEAD = 12  # bytes before each record: its size, its checksum, the number of its batch
# Part of each checksum; to be changed with the layout of a record. A release with another layout then finds the
# journal empty, and the runs count as lost.
_FORMAT = 2
_NEW_FILE = _WRITING | os.O_TRUNC


class Left:
    """What a journal says about the worker that left it."""

    __slots__ = ("ended", "known", "outputs", "waiting")

    def __init__(self) -> None:
        self.ended: List[Ended] = []  # ends that the store may not know
        self.outputs: List[OutputWrite] = []  # the output that goes with them
        self.waiting: List[int] = []  # ids of runs that were claimed and whose command has not begun
        #: Set if a claim was in flight: the ids of the only runs whose command had begun.
        self.known: Optional[List[int]] = None


class Journal:
    """The journal of this process's worker, as its writer sees it.

    A batch of claims begins at the start of the file, over the batch before it; further records are appended.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: Optional[int] = None
        self._batch = 0

    @property
    def is_open(self) -> bool:
        """Whether a batch has been begun."""
        return self._fd is not None

    def begin(self, waiting: Sequence[int]) -> bool:
        """Begin a new batch, in which the runs *waiting* are claimed and not begun; return whether it was written."""
        self._batch += 1
        try:
            if self._fd is None:
                self._fd = os.open(self._path, _WRITING, 0o600)
                let_in(self._fd, os.path.dirname(self._path))
            os.lseek(self._fd, 0, os.SEEK_SET)
            if self._write(_packed(waiting, (), ())):
                return True
        except OSError:
            pass
        self._discard()  # what the file still says may be out of date
        return False

    def add(
        self,
        waiting: Sequence[int],
        ended: Sequence[Ended],
        outputs: Sequence[OutputWrite],
        known: Optional[Iterable[int]] = None,
    ) -> bool:
        """Append which claimed runs still wait and what has ended since the last record; return False if that fails.

        *known* says that a claim is in flight: until the next record, these are the only runs that have begun.
        """
        data = _packed(waiting, ended, outputs, known)
        return len(data) <= MOST_BYTES and self._write(data)

    def replace(
        self, waiting: Sequence[int], ended: Sequence[Ended], outputs: Sequence[OutputWrite], known: Iterable[int]
    ) -> bool:
        """Replace the journal by one last record of any size; return False, and leave it as it is, if that fails."""
        self.close()
        data = _packed(waiting, ended, outputs, known)
        spare = self._path + ".new"
        try:
            with open(os.open(spare, _NEW_FILE, 0o600), "wb") as file:
                let_in(file.fileno(), os.path.dirname(spare))
                file.write(_head(data, 1) + data)
            os.replace(spare, self._path)
        except OSError:
            try:
                os.remove(spare)
            except OSError:
                pass
            return False
        return True

    def _write(self, data: bytes) -> bool:
        if self._fd is None:
            return False
        record = _head(data, self._batch) + data
        try:
            return os.write(self._fd, record) == len(record)
        except OSError:
            return False

    def _discard(self) -> None:
        self.close()
        try:
            os.remove(self._path)
        except OSError:
            pass

    def close(self) -> None:
        """Close the file, which stays."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def read(path: str) -> Left:
    """Return what the journal at *path* says; an empty ``Left`` if there is none.

    The last batch ends at the first record that is incomplete or belongs to another batch: beyond it are the remains
    of earlier batches. A journal by a release with another layout, or by a Python whose marshal format this one cannot
    read, counts as empty.

    Raises:
        OSError: There may be a journal, but this process is out of descriptors or memory.
    """
    try:
        with open(path, "rb", opener=opener) as file:
            return _understood(file.read())
    except OSError as error:
        if error.errno in OUT_OF:
            raise
    except (EOFError, TypeError, ValueError):
        pass
    return Left()


def _understood(data: bytes) -> Left:
    left = Left()
    for waiting, ended, outputs, known in _records(data):
        left.waiting, left.known = waiting, known
        left.outputs += outputs
        for job, run_id, started_at, (outcome, *end), (state, *verdict) in ended:
            claim = Claim(Job(*job), run_id, started_at)
            left.ended.append((claim, RunEnd(Outcome(outcome), *end), Verdict(State(state), *verdict)))
    return left


def _packed(
    waiting: Sequence[int],
    ended: Sequence[Ended],
    outputs: Sequence[OutputWrite],
    known: Optional[Iterable[int]] = None,
) -> bytes:
    return marshal.dumps(
        (
            list(waiting),
            [
                (tuple(claim.job), claim.run_id, claim.started_at, (end.outcome._value_, *end[1:]),
                 (verdict.state._value_, *verdict[1:]))
                for claim, end, verdict in ended
            ],
            list(outputs),
            known if known is None else list(known),
        )
    )  # fmt: skip


def _head(data: bytes, batch: int) -> bytes:
    return (len(data) | crc32(data, _FORMAT) << 32 | (batch & 0xFFFFFFFF) << 64).to_bytes(_HEAD, "little")


def _records(data: bytes) -> Iterator[Tuple[Any, Any, Any, Any]]:
    """Yield the records of the last batch, oldest first."""
    batch = int.from_bytes(data[8:_HEAD], "little")
    place = 0
    while place + _HEAD <= len(data):
        size = int.from_bytes(data[place : place + 4], "little")
        body = data[place + _HEAD : place + _HEAD + size]
        if len(body) != size or data[place : place + _HEAD] != _head(body, batch):
            return
        yield marshal.loads(body)
        place += _HEAD + size
