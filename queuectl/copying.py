"""Copying a whole store into another, of the same engine or of another.

First everything is copied, a block at a time, while others may go on enqueueing; a copy that was killed is continued
after its last block. Then both stores are read again and compared row by row, still without a lock. For each block, the
source's mark is kept: a value that differs once a row of the block was changed, added or deleted. Last, with the source
locked, all marks are read again, blocks whose mark has changed are compared and copied again, and the counters of ids
are set. So others have to wait only for what has changed during the copy.

A copy may be killed after its last commit, before it could say that it was done. So a target that is neither empty nor
an unfinished copy is compared as well: if it is equal in everything, it is the copy that was asked for.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Tuple

from queuectl import faults, recovery
from queuectl.db import open_store
from queuectl.db.transfer import TABLES
from queuectl.errors import Refused, StoreError, StoreRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, Sequence

    from queuectl.db import Location
    from queuectl.db.base import Store
    from queuectl.db.transfer import Key, Mark, Port, Row, Table
    from queuectl.job import Worker

    Tell = Callable[[str, int, int], None]

# A block ends with the row by which it is so large, and has no more rows than that.
BLOCK_BYTES = 4 << 20
FIRST_ROWS, MOST_ROWS = 500, 5000


class Copied(NamedTuple):
    """What a copy has done: how many rows of each table, and a checksum of each, the same on both sides."""

    source: str
    target: str
    rows: Dict[str, int]
    checksums: Dict[str, str]  # the SHA-256 of each row, added up
    resumed: bool  # whether an unfinished copy was continued
    already: bool = False  # whether the copy was complete before, so that nothing was written


def copy(source: Store, location: Location, tell: Optional[Tell] = None, stopped: bool = False) -> Copied:
    """Copy *source* into the store at *location*, which is new, empty, or a copy of the same source, finished or not.

    Args:
        source: The store.
        location: A path or URL.
        tell: Called with what is being done (``copying``, ``checking``), how many rows are done, and of how many.
        stopped: Whether the workers were stopped for this, so that those that run have started since.

    Raises:
        Refused: Workers run, or jobs are processing.
        StoreError: A store cannot be used, or the target is not one that may be copied into. What was copied stays.
    """
    _refuse_workers(source, stopped)
    ours = source.port()
    with ours.locked():
        pass  # only to find out, before a target is made, whether this user may lock out writers at the end
    target = open_store(location, unfinished=True)
    try:
        if target.store_id == source.store_id:
            raise StoreError(f"{target.location} is the store itself, or a copy of its file. Choose another target.")
        theirs = target.port()
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


def _refuse_workers(store: Store, stopped: bool) -> None:
    recovery.sweep(store)  # what dead workers had is given back, so that no row speaks of a run
    live = recovery.live_workers(store)
    if live and stopped:
        raise Refused(
            f"workers started while others were stopped ({_names(live)}), so nothing was copied. See to it that none "
            "start, and run the same command again."
        )
    if live:
        raise Refused(
            f"cannot copy while workers are running ({_names(live)}). --stop stops them first, on all hosts, once they "
            "have finished their jobs; with --now they put their jobs back instead."
        )


def refuse_job(job_id: Optional[str]) -> None:
    """Refuse to copy from inside *job_id*, a job of the source."""
    if job_id is not None:
        raise Refused(
            f"cannot copy from inside {job_id}: its worker runs as long as this command does. Copy from outside the "
            "queue."
        )


def refuse_left(left: Sequence[Worker], timeout: Optional[float]) -> None:
    """Refuse to copy where *left* have not stopped, as they were told, within *timeout* seconds."""
    if left and timeout is not None:  # without one, none is left: no job comes this far
        raise Refused(
            f"workers were still running after {timeout:g} s ({_names(left)}), so nothing was copied. They "
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
    resumed = theirs.begin(source.store_id)
    faults.point("copying")
    return resumed


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

    def skip(self, target: Port, table: Table) -> None:
        """Note that the rows that *target* has were copied before."""
        if self._tell is not None:
            self.add("copying", target.count(table))


def _end_of_block(source: Port, table: Table, after: Optional[Key], last: Optional[Key], most: int) -> Optional[Key]:
    """Return the key at which a block that begins after one key ends; None if it ends with the rows up to *last*.

    Sizes are asked for first: behind thousands of small rows there may be thousands of a megabyte each.
    """
    size = 0
    for place, row in enumerate(source.sizes(table, after, last, most), 1):
        size += row[-1]
        if size >= BLOCK_BYTES or place == most:
            return row[:-1]
    return None


def _copy_table(source: Port, target: Port, table: Table, progress: _Progress) -> None:
    """Copy what is behind the target's last row."""
    after = target.last_key(table) if table.large else None
    if after is not None:
        progress.skip(target, table)
    limit = FIRST_ROWS
    while True:
        until = _end_of_block(source, table, after, None, limit)
        rows = source.rows(table, after, until, limit)  # if somebody adds some meanwhile, the comparison finds it
        if until is None:
            if not rows:
                return
            until = table.key_of(rows[-1])
        target.replace(table, after, until, rows)
        after, limit = until, min(limit * 4, MOST_ROWS)
        progress.add("copying", len(rows))
        faults.point("copying")


class _Part(NamedTuple):
    """A part of a table that is equal on both sides, as long as the mark is the same."""

    after: Optional[Key]
    until: Optional[Key]
    mark: Optional[Mark]
    rows: int
    checksum: int


class _DiffersError(Exception):
    """A table is not equal on both sides."""


class _Comparison:
    """Comparing two stores, a part at a time, and then again what has changed since."""

    def __init__(self, source: Port, target: Port, progress: _Progress, mend: bool) -> None:
        self._source, self._target = source, target
        self._progress = progress
        self._mend = mend  # whether to copy what differs; if so, nobody else writes to the target
        self._parts: Dict[str, List[_Part]] = {}

    def begin(self) -> None:
        """Compare everything.

        Raises:
            _DiffersError: They differ, and are to be left as they are; or a row does not arrive as it is.
        """
        for table in TABLES:
            self._parts[table.name] = []
            for part in self._compare(table, None, None):
                self._parts[table.name].append(part)
                self._progress.add("checking", part.rows)
                faults.point("checking")

    def go_on(self) -> None:
        """Compare what has changed since, or may have; see ``begin``."""
        for table in TABLES:
            found: List[_Part] = []
            for part in self._parts[table.name]:
                if part.mark is not None and part.mark == self._mark(table, part.after, part.until):
                    found.append(part)
                else:
                    found.extend(self._compare(table, part.after, part.until))
            self._parts[table.name] = found

    def result(self) -> Tuple[Dict[str, int], Dict[str, str]]:
        """Return how many rows each table has, and their checksums."""
        rows = {name: sum(part.rows for part in parts) for name, parts in self._parts.items()}
        sums = {name: sum(part.checksum for part in parts) for name, parts in self._parts.items()}
        return rows, {name: f"{number % 2**256:064x}" for name, number in sums.items()}

    def _compare(self, table: Table, after: Optional[Key], last: Optional[Key]) -> Iterator[_Part]:
        """Compare the rows of *table* after one key and up to another, and yield the parts that are equal now."""
        limit = FIRST_ROWS
        while True:
            until = _end_of_block(self._source, table, after, last, limit)
            end = last if until is None else until
            mark = self._mark(table, after, end)  # first: what comes after it is noticed
            rows = self._source.rows(table, after, end, limit + 1)
            if len(rows) > limit:
                continue  # somebody added some just now
            if self._differs(table, after, end, rows):
                if self._mend:
                    self._target.replace(table, after, end, rows)
                if not self._mend or self._differs(table, after, end, rows):
                    raise _DiffersError(table.name)
            yield _Part(after, end, mark, len(rows), _checksum(rows))
            if until is None:
                return
            after, limit = until, min(limit * 4, MOST_ROWS)

    def _differs(self, table: Table, after: Optional[Key], until: Optional[Key], rows: Sequence[Row]) -> bool:
        """Return whether the target's rows are others. One more is read, not all: the source's may have been pruned."""
        return self._target.rows(table, after, until, len(rows) + 1) != rows

    def _mark(self, table: Table, after: Optional[Key], until: Optional[Key]) -> Optional[Mark]:
        ours = self._source.mark_of(table, after, until)
        if self._mend or ours is None:
            return ours
        theirs = self._target.mark_of(table, after, until)
        return None if theirs is None else ours + theirs


def _check(
    source: Store, target: Store, ours: Port, theirs: Port, progress: _Progress
) -> Tuple[Dict[str, int], Dict[str, str]]:
    """Read both once more, copy again what differs, set the numbers, take the mark away.

    Returns how many rows each table has, and their checksums.
    """
    comparison = _Comparison(ours, theirs, progress, mend=True)
    try:
        comparison.begin()
        comparison.go_on()  # so that little is left for which others have to wait
        target.sync()
        with ours.locked():
            _refuse_workers_now(source)
            comparison.go_on()
            faults.point("checked")
            theirs.finish(ours.numbers())
            agree = target.queues() == source.queues()
    except _DiffersError as error:
        raise StoreError(
            f"the copy in {target.location} still differs from {source.location} (table {error}), so it stays "
            "unfinished. Try again with a new target, and please report this as a bug."
        ) from None
    target.sync()
    theirs.tidy()
    if not agree:
        raise StoreError(
            f"the copy in {target.location} is complete, but the counters of {source.location} do not match its "
            "jobs ('queuectl doctor' says more). Those of the copy are right."
        )
    return comparison.result()


def _look_whether_equal(
    source: Store, target: Store, ours: Port, theirs: Port, progress: _Progress
) -> Optional[Tuple[Dict[str, int], Dict[str, str]]]:
    """Return the counts and checksums of both if they do not differ in anything that is copied; else None."""
    comparison = _Comparison(ours, theirs, progress, mend=False)

    def counts_differ() -> bool:
        return ours.numbers() != theirs.numbers() or source.queues() != target.queues()

    if counts_differ():
        return None
    try:
        comparison.begin()
        with ours.locked():
            comparison.go_on()
            return None if counts_differ() else comparison.result()
    except _DiffersError:
        return None


def _checksum(rows: Sequence[Row]) -> int:
    """Return a number for *rows*, whatever their order and their blocks."""
    from hashlib import sha256

    return sum(int.from_bytes(sha256(repr(row).encode("utf-8", "surrogatepass")).digest(), "big") for row in rows)


def _refuse_workers_now(source: Store) -> None:
    """Refuse a source that somebody began to work for while it was copied; it is locked now."""
    if recovery.live_workers(source) or any(queue.processing for queue in source.queues()):
        raise Refused(
            f"workers started on {source.location} during the copy, so the copy is unfinished. Stop them and "
            "run the same command again."
        )
