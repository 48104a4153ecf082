"""Copying a whole store into another, of the same engine or of another.

First everything is copied a block at a time while others may go on to enqueue; a copy that was killed goes on behind
its last block. Then, with the source locked, both stores are read once more and compared row by row: what
has changed meanwhile is copied again, and the numbers are set. The lock is held only for that.

A copy may be killed after its last commit, before it could say that it was done. So a target that is neither empty nor
an unfinished copy is compared as well: if it is equal in everything, it is the copy that was asked for.
"""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple

from queuectl import faults, recovery
from queuectl.db import open_store
from queuectl.db.transfer import TABLES
from queuectl.errors import Refused, StoreError, StoreRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Sequence

    from queuectl.db import Location
    from queuectl.db.base import Store
    from queuectl.db.transfer import Key, Port, Row, Table
    from queuectl.job import Worker

    Tell = Callable[[str, int, int], None]

# A block is about so large, however large its rows are.
BLOCK_BYTES = 4 << 20
FEWEST_ROWS, FIRST_ROWS, MOST_ROWS = 20, 500, 5000


class Copied(NamedTuple):
    """What a copy has done: how many rows of each table, and a checksum of each, the same on both sides."""

    source: str
    target: str
    rows: Dict[str, int]
    checksums: Dict[str, str]  # SHA-256 over the rows in order
    resumed: bool  # whether an unfinished copy was gone on with
    already: bool = False  # whether the copy was complete before, so that nothing was written


def copy(source: Store, location: Location, tell: Optional[Tell] = None) -> Copied:
    """Copy *source* into the store at *location*, which is new, empty, or a copy of the same source, finished or not.

    Args:
        source: The store.
        location: A path or URL.
        tell: Called with what is being done (``copying``, ``checking``), how many rows are done, and of how many.

    Raises:
        Refused: Workers run, or jobs are processing.
        StoreError: A store cannot be used, or the target is not one that may be copied into. What was copied stays.
    """
    _refuse_workers(source)
    target = open_store(location, unfinished=True)
    try:
        if target.store_id == source.store_id:
            raise StoreError(f"{target.location} is the store itself, or a copy of its file. Choose another target.")
        ours, theirs = source.port(), target.port()
        progress = _Progress(ours, tell)
        try:
            resumed = _begin(source, target, theirs)
        except StoreRefused:
            equal = _look_whether_equal(source, target, ours, theirs, progress)
            if equal is None:
                raise
            return Copied(source.location, target.location, *equal, resumed=False, already=True)
        for table in TABLES:
            _copy_table(ours, theirs, table, progress)
        rows, checksums = _check(source, target, ours, theirs, progress)
        faults.point("copied")
        return Copied(source.location, target.location, rows, checksums, resumed)
    finally:
        target.close()


def _refuse_workers(store: Store) -> None:
    recovery.sweep(store)  # what dead workers had is given back, so that no row speaks of a run
    live = recovery.live_workers(store)
    if live:
        raise Refused(
            f"cannot copy while workers are running ({_names(live)}). --stop stops them first, on all hosts, once they "
            "have finished their jobs; with --now they put their jobs back instead."
        )


def refuse_left(left: Sequence[Worker], timeout: Optional[float]) -> None:
    """Refuse to copy where *left* have not stopped, as they were told, within *timeout* seconds."""
    if left:
        raise Refused(
            f"workers were still running after {timeout or 0:g} s ({_names(left)}), so nothing was copied. They "
            "stop after their jobs. Run the command again then, or with --now, which puts the jobs back."
        )


def _names(found: Sequence[Worker]) -> str:
    workers = [worker for worker in found if worker.role == "worker"] or found
    names = ", ".join(f"pid {worker.pid} on {worker.host}" for worker in workers[:5])
    return names + (f" and {len(workers) - 5} more" if len(workers) > 5 else "")


def _begin(source: Store, target: Store, theirs: Port) -> bool:
    """Mark the target; say whether a copy that was begun earlier goes on."""
    mark = theirs.mark()
    if mark is not None and mark != source.store_id:
        raise StoreError(
            f"{target.location} is an unfinished copy of another store (id {mark}, not {source.store_id}). "
            "Finish that copy, delete it, or choose another target."
        )
    if recovery.live_workers(target):
        raise Refused(f"cannot copy into {target.location}: workers are running on it. Stop them first.")
    if mark is None:
        theirs.begin(source.store_id)
    faults.point("copying")
    return mark is not None


class _Progress:
    """How far a copy is: each row is read once to be copied and once to be compared."""

    def __init__(self, source: Port, tell: Optional[Tell]) -> None:
        self._tell = tell
        self.rows = sum(source.count(table) for table in TABLES) if tell is not None else 0
        self._done = 0

    def add(self, what: str, rows: int) -> None:
        """Note that so many more rows are done."""
        self._done += rows
        if self._tell is not None:
            self._tell(what, min(self._done, 2 * self.rows), 2 * self.rows)


class _Blocks:
    """How many rows to read at once, so that a block is neither huge nor tiny."""

    def __init__(self) -> None:
        self.limit = FIRST_ROWS

    def seen(self, rows: Sequence[Row], size: int) -> None:
        """Learn from a block of *size* bytes how large rows are here."""
        each = max(size // max(len(rows), 1), 1)
        self.limit = max(FEWEST_ROWS, min(BLOCK_BYTES // each, MOST_ROWS, self.limit * 4))


def _copy_table(source: Port, target: Port, table: Table, progress: _Progress) -> None:
    """Copy what is behind the target's last row."""
    after = target.last_key(table) if table.large else None
    blocks = _Blocks()
    while True:
        rows = source.rows(table, after, None, blocks.limit)
        if not rows:
            return
        until = table.key_of(rows[-1])
        target.replace(table, after, until, rows)
        after = until
        blocks.seen(rows, sum(len(value) for row in rows for value in row if isinstance(value, (str, bytes))))
        progress.add("copying", len(rows))
        faults.point("copying")


def _check(
    source: Store, target: Store, ours: Port, theirs: Port, progress: _Progress
) -> Tuple[Dict[str, int], Dict[str, str]]:
    """Read both once more, copy again what differs, set the numbers, take the mark away.

    Returns how many rows each table has, and their checksums.
    """
    rows: Dict[str, int] = {}
    checksums: Dict[str, str] = {}
    with ours.locked():
        _refuse_workers_now(source)
        for table in TABLES:
            rows[table.name], count, checksums[table.name], checksum = _compare(
                ours, theirs, table, progress, mend=True
            )
            if (count, checksum) != (rows[table.name], checksums[table.name]):
                raise StoreError(
                    f"the copy in {target.location} still differs from {source.location} (table {table.name}), so "
                    "it stays unfinished. Try again with a new target, and please report this as a bug."
                )
        theirs.finish(ours.numbers())
        target.sync()
        if target.queues() != source.queues():
            raise StoreError(
                f"the copy in {target.location} is complete, but the counters of {source.location} do not match its "
                "jobs ('queuectl doctor' says more). Those of the copy are right."
            )
    return rows, checksums


def _look_whether_equal(
    source: Store, target: Store, ours: Port, theirs: Port, progress: _Progress
) -> Optional[Tuple[Dict[str, int], Dict[str, str]]]:
    """Return the counts and checksums of both if they do not differ in anything that is copied; else None."""
    rows: Dict[str, int] = {}
    checksums: Dict[str, str] = {}
    with ours.locked():
        if ours.numbers() != theirs.numbers() or source.queues() != target.queues():
            return None
        for table in TABLES:
            rows[table.name], count, checksums[table.name], checksum = _compare(
                ours, theirs, table, progress, mend=False
            )
            if (count, checksum) != (rows[table.name], checksums[table.name]):
                return None
    return rows, checksums


def _compare(source: Port, target: Port, table: Table, progress: _Progress, mend: bool) -> Tuple[int, int, str, str]:
    """Return the counts and checksums of what was read, of each side; first make each block equal if *mend* is set."""
    from hashlib import sha256

    digests = sha256(), sha256()
    counts = [0, 0]
    after: Optional[Key] = None
    blocks = _Blocks()
    while True:
        rows = source.rows(table, after, None, blocks.limit)
        until = table.key_of(rows[-1]) if len(rows) == blocks.limit else None
        found = target.rows(table, after, until, None)
        if found != rows and mend:
            target.replace(table, after, until, rows)
            found = target.rows(table, after, until, None)
        counts = [counts[0] + len(rows), counts[1] + len(found)]
        if found == rows:  # as nearly always: others wait while the rows are made text, so once must do
            size = _digest(rows, *digests)
        else:
            size = _digest(rows, digests[0])
            _digest(found, digests[1])
        progress.add("checking", len(rows))
        if until is None or (found != rows and not mend):
            return counts[0], counts[1], digests[0].hexdigest(), digests[1].hexdigest()
        after = until
        blocks.seen(rows, size)


def _digest(rows: Sequence[Row], *digests: Any) -> int:
    """Add *rows* to the digests; return how many bytes they were."""
    size = 0
    for row in rows:
        data = repr(row).encode("utf-8", "surrogatepass")
        size += len(data)
        for digest in digests:
            digest.update(data)
    return size


def _refuse_workers_now(source: Store) -> None:
    """Refuse a source that somebody began to work for while it was copied; it is locked now."""
    if recovery.live_workers(source) or any(queue.processing for queue in source.queues()):
        raise Refused(
            f"workers started on {source.location} during the copy, so the copy is unfinished. Stop them and "
            "run the same command again."
        )
