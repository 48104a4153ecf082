"""What of a store is copied, in which form, and what a store has to offer for it: its port.

A row is a tuple of whole numbers, floats, text, bytes and None, the same in every engine. Rows are read and replaced in
the order of a table's key, a block at a time, each block in one transaction: a copy that was killed has its
rows up to some key and none beyond.

A store that is being copied into bears a mark instead of its schema's number, larger than that of any release, so that
no other command takes half a store for a whole one; and whoever has it open already can no longer write to it. The last
transaction takes the mark away. It also names the command that copies: one that goes on with the copy puts itself in
its place, and the other, should it be still at work, stops before its next block.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import NamedTuple, Tuple

from queuectl.errors import Refused, StoreRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ContextManager, Iterator, List, Optional, Sequence

    Key = Tuple[Any, ...]
    Row = Tuple[Any, ...]
    Mark = Tuple[Any, ...]

MARK = "copy of "


class Table(NamedTuple):
    """A table whose rows are copied; the key's columns come first."""

    name: str
    key: Tuple[str, ...]
    columns: Tuple[str, ...]
    large: bool = True  # whether a copy that goes on skips what is there
    unique: str = ""  # another column in which no two rows are equal
    sized: Tuple[str, ...] = ()  # the columns that may make a row large

    def key_of(self, row: Row) -> Key:
        """Return the part of *row* by which rows are ordered."""
        return row[: len(self.key)]


TABLES = (
    Table("settings", ("key",), ("key", "value"), large=False),
    Table("queues", ("name",), ("name", "paused", "max_running"), large=False),
    Table("taken_numbers", ("number",), ("number",), large=False),
    Table(
        "jobs",
        ("seq",),
        (
            "seq", "id", "queue", "state", "priority", "run_at", "ready", "command", "cwd", "env", "tags", "timeout_s",
            "backoff_base", "max_retries", "attempts", "failures", "losses", "run_no", "last_run_id", "worker_id",
            "cancel_requested", "created_at", "updated_at", "ended_at", "reason", "after", "not_before",
        ),
        unique="id",
        sized=("command", "env", "tags", "after"),
    ),
    Table("needs", ("on_seq", "seq"), ("on_seq", "seq")),
    Table(
        "runs",
        ("run_id",),
        (
            "run_id", "previous_id", "number", "state", "exit_code", "signal", "started_at", "ended_at", "worker_id",
            "host", "pid", "peak_memory_bytes", "cpu_s", "reason",
        ),
    ),
    Table("output", ("run_id", "start"), ("run_id", "start", "bytes"), sized=("bytes",)),
)  # fmt: skip


class Numbers(NamedTuple):
    """Where a store's counting stands."""

    next_number: int  # of the next generated id
    last_run_id: int  # the largest run id that was ever given: a fencing token, so none comes again
    last_seq: int  # the largest row number of a job that was ever given


class Port(ABC):
    """A store as the source or the target of a copy."""

    @abstractmethod
    def mark(self) -> Optional[str]:
        """Return the id of the store that this one is an unfinished copy of, None if it is none."""

    @abstractmethod
    def begin(self, source_id: str) -> bool:
        """Mark this store as an unfinished copy of *source_id*, which this port goes on with; say if it was one before.

        Raises:
            StoreRefused: It has or had jobs.
        """

    @abstractmethod
    def count(self, table: Table) -> int:
        """Return how many rows there are."""

    @abstractmethod
    def last_key(self, table: Table) -> Optional[Key]:
        """Return the key of the last row, None if there is none."""

    @abstractmethod
    def rows(self, table: Table, after: Optional[Key], until: Optional[Key], limit: Optional[int]) -> List[Row]:
        """Return up to *limit* rows after one key and up to another, in order; None: no bound."""

    @abstractmethod
    def sizes(self, table: Table, after: Optional[Key], until: Optional[Key], limit: int) -> List[Row]:
        """Return the key and, as one more field, the size of up to *limit* rows after one key and up to another."""

    @abstractmethod
    def mark_of(self, table: Table, after: Optional[Key], until: Optional[Key]) -> Optional[Mark]:
        """Return what is another value once a row after one key and up to another is changed, added or deleted.

        None: it cannot be told.
        """

    @abstractmethod
    def replace(self, table: Table, after: Optional[Key], until: Optional[Key], rows: Sequence[Row]) -> None:
        """Put *rows* in the place of those after one key and up to another, in one transaction.

        A row elsewhere that is equal to one of them in the ``unique`` column goes: it was deleted in the source since.

        Raises:
            Refused: Another port has begun since.
        """

    @abstractmethod
    def locked(self) -> ContextManager[None]:
        """Keep everybody else from writing, for the length of a ``with`` block."""

    @abstractmethod
    def numbers(self) -> Numbers:
        """Return where the counting stands."""

    @abstractmethod
    def finish(self, numbers: Numbers) -> None:
        """Set counters and numbers to what the rows and the source say, and take the mark away, in one transaction.

        Raises:
            Refused: Another port has begun since.
        """

    @abstractmethod
    def tidy(self) -> None:
        """Do what may take a while, and need not be done for the copy to be one."""


def names_in(table: Table, rows: Sequence[Row]) -> List[str]:
    """Return what stands in the ``unique`` column of *rows*."""
    place = table.columns.index(table.unique)
    return [row[place] for row in rows]


def new_mark(source_id: str) -> str:
    """Return the mark of a copy of *source_id*, by a command that nobody else is."""
    return f"{MARK}{source_id} by {os.urandom(8).hex()}"


def source_of(mark: str) -> str:
    """Return the id of the store that a mark names."""
    return mark[len(MARK) :].partition(" by ")[0]


def refuse_unfinished(location: str) -> StoreRefused:
    """Return the error for whoever takes an unfinished copy for a store."""
    return StoreRefused(
        f"{location} is an unfinished copy of another store. Run the same 'queuectl copy' again to finish it, or "
        "delete it."
    )


def refuse_taken_over(location: str) -> Refused:
    """Return the error for a copy that another command has gone on with, or finished, since this one began."""
    return Refused(
        f"another 'queuectl copy' has meanwhile gone on with the copy in {location}, so this one stopped. Run the same "
        "command again once that one has ended."
    )


def refuse_used(location: str) -> StoreRefused:
    """Return the error for a copy into a store that has or had jobs."""
    return StoreRefused(
        f"{location} is not empty, so nothing was copied into it. Choose a new one, or 'queuectl reset' that one."
    )


def refuse_release(location: str) -> StoreRefused:
    """Return the error for a copy that another release has begun."""
    return StoreRefused(
        f"the unfinished copy {location} was started by another release of queuectl. Delete it and start again."
    )


def between(columns: Sequence[str], marks: Sequence[str], after: Optional[Key], until: Optional[Key]) -> Iterator[str]:
    """Yield the conditions "after that key" and "up to this one", for placeholders *marks* of the key's columns."""
    key, values = ", ".join(columns), ", ".join(marks)
    if after is not None:
        yield f"({key}) > ({values})"
    if until is not None:
        yield f"({key}) <= ({values})"


def where(columns: Sequence[str], marks: Sequence[str], after: Optional[Key], until: Optional[Key]) -> str:
    """Return a WHERE clause with the conditions of ``between``, empty if there are none."""
    found = list(between(columns, marks, after, until))
    return " WHERE " + " AND ".join(found) if found else ""
