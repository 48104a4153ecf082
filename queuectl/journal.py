"""What a worker has to leave behind in case it is killed: ends not handed in yet, claims whose command has not begun.

A file beside its other notes, written before each command that follows another without a transaction between them.
It is not synced: what a killed process wrote is there, and after a loss of power nothing of it is needed, for then
nothing runs any more and what was not in the store counts as lost.
"""

from __future__ import annotations

import marshal
import os
from binascii import crc32

from queuectl.db.run_folder import NO_FOLLOW, opener
from queuectl.job import Claim, Job, Outcome, RunEnd, State, Verdict
from queuectl.runner.identity import OUT_OF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator, List, Optional, Sequence, Tuple

    from queuectl.db.base import Ended, OutputWrite

NAME = ".ahead"  # after the worker's id
#: A larger record is not worth it: the ends in it are handed in at once.
MOST_BYTES = 64 * 1024
_WRITING = os.O_WRONLY | os.O_CREAT | NO_FOLLOW | getattr(os, "O_BINARY", 0)
_HEAD = 12  # bytes before each record: its size, its checksum, the number of its batch
# Goes into each checksum. Another one where what is in a record has changed: to a release that writes it in another
# way the journal says nothing, and its runs count as lost.
_FORMAT = 1
_NEW_FILE = _WRITING | os.O_TRUNC


class Left:
    """What a journal says."""

    __slots__ = ("ended", "known", "outputs", "waiting")

    def __init__(self) -> None:
        self.ended: List[Ended] = []  # ends that may not have been handed in
        self.outputs: List[OutputWrite] = []  # that belong to them
        self.waiting: List[int] = []  # run ids that were claimed and whose command has not begun
        #: Set if a claim was on its way: the only runs whose commands had begun by then.
        self.known: Optional[List[int]] = None


class Journal:
    """The writing end."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: Optional[int] = None
        self._batch = 0

    @property
    def is_open(self) -> bool:
        """Whether a batch was begun."""
        return self._fd is not None

    def begin(self, waiting: Sequence[int]) -> bool:
        """Begin a batch of claims, writing over the batch before it; say whether it was written."""
        self._batch += 1
        try:
            if self._fd is None:
                self._fd = os.open(self._path, _WRITING, 0o600)
            os.lseek(self._fd, 0, os.SEEK_SET)
            if self._write(_packed(waiting, (), ())):
                return True
        except OSError:
            pass
        self._discard()  # what the file says may be out of date
        return False

    def add(
        self,
        waiting: Sequence[int],
        ended: Sequence[Ended],
        outputs: Sequence[OutputWrite],
        known: Optional[Iterable[int]] = None,
    ) -> bool:
        """Write which claims still wait, and what has ended since the last record; say whether it was written.

        With *known* a claim is on its way: until the next record no other run of this worker has begun.
        """
        data = _packed(waiting, ended, outputs, known)
        return len(data) <= MOST_BYTES and self._write(data)

    def replace(
        self, waiting: Sequence[int], ended: Sequence[Ended], outputs: Sequence[OutputWrite], known: Iterable[int]
    ) -> bool:
        """Replace the whole journal by one last record, of any size; without room for that, it stays as it is."""
        self.close()
        data = _packed(waiting, ended, outputs, known)
        spare = self._path + ".new"
        try:
            with open(os.open(spare, _NEW_FILE, 0o600), "wb") as file:
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
        """Let go of the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def read(path: str) -> Left:
    """Return what the journal at *path* says; nothing if there is none.

    Behind the last batch stand the remains of earlier ones: a record of another batch is the end, as is one that was
    written in part. One of another release, or of a Python whose marshal this one cannot read, says nothing either.

    Raises:
        OSError: There may be one, but this process is out of descriptors or memory.
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
            claim = Claim(Job._make(job), run_id, started_at)
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
    """Yield the records of the last batch."""
    batch = int.from_bytes(data[8:_HEAD], "little")
    place = 0
    while place + _HEAD <= len(data):
        size = int.from_bytes(data[place : place + 4], "little")
        body = data[place + _HEAD : place + _HEAD + size]
        if len(body) != size or data[place : place + _HEAD] != _head(body, batch):
            return
        yield marshal.loads(body)
        place += _HEAD + size
