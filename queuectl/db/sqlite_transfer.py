"""A SQLite store as the source or the target of a copy."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress

from queuectl.db.migrate import NEWEST, UNFINISHED
from queuectl.db.rules import COUNTED
from queuectl.db.sqlite_desk import LAST_SEQ
from queuectl.db.sqlite_make import COPIED_INTO
from queuectl.db.transfer import Numbers, Port, names_in, new_mark, refuse_taken_over, refuse_used, source_of, where
from queuectl.errors import StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Iterator, List, Optional, Sequence

    from queuectl.db.sqlite_file import SqliteFile
    from queuectl.db.transfer import Key, Mark, Row, Table

# By table, a whole number that is another one for a row that has changed, and the instant of its last change. Each verb
# that changes a job sets updated_at, but for the promotion, which sets ready, and the wish to cancel one that runs.
# A run changes when it ends; and output is a part of a stream, which has the same bytes at the same place for ever.
MARKS = {
    "taken_numbers": ("number", "0"),
    "jobs": ("CAST(updated_at * 1000000 AS INTEGER) + ready + 4 * cancel_requested", "updated_at"),
    "needs": ("on_seq * 1000003 + seq", "0"),
    "runs": ("CAST((started_at + coalesce(ended_at, 0)) * 1000000 AS INTEGER)", "0"),
    "output": ("start + length(bytes)", "0"),
}
LONGEST_TICK_S = 1.0
# Of the row in ``store``: the number of the next generated id.
_NEXT_NUMBER = f"{LAST_SEQ} + 1 - seq_ahead"


# What a store is closed to while it is copied into, also for those who had it open before. Whoever changes a job counts
# it; and a copy leaves these alone, but for queues without jobs.
_CLOSED = {
    "no_change": "UPDATE ON queues",
    "no_job": "INSERT ON queues WHEN NEW.pending > 0",
    "no_worker": "INSERT ON workers",
    "no_setting": "UPDATE ON store",
}


class SqlitePort(Port):
    """See ``Port``."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._mark = ""  # what the store bears while this port copies into it

    def mark(self) -> Optional[str]:
        """See ``Port.mark``."""
        rows = self._file._rows("SELECT checksum FROM schema_version WHERE n = ?", (UNFINISHED,))
        return source_of(rows[0][0]) if rows else None

    def begin(self, source_id: str) -> bool:
        """See ``Port.begin``."""
        self._mark = new_mark(source_id)
        with self._file._write as db:
            if db.execute("UPDATE schema_version SET checksum = ? WHERE n = ?", (self._mark, UNFINISHED)).rowcount:
                return True
            used = db.execute(f"SELECT {_NEXT_NUMBER} > 1 OR EXISTS (SELECT 1 FROM jobs) FROM store").fetchone()[0]
            if used:
                raise refuse_used(self._file.location)
            db.execute(
                "INSERT INTO schema_version (n, checksum, applied_at) VALUES (?, ?, strftime('%s', 'now') + 0.0)",
                (UNFINISHED, self._mark),
            )
            for name, event in _CLOSED.items():
                db.execute(f"CREATE TRIGGER {name} BEFORE {event} BEGIN SELECT RAISE(ABORT, '{COPIED_INTO}'); END")
            db.execute(f"PRAGMA user_version = {UNFINISHED}")
        return False

    def _go_on(self, db: sqlite3.Connection) -> None:
        """Refuse to write what another command copies, or has copied."""
        if not db.execute("SELECT 1 FROM schema_version WHERE checksum = ?", (self._mark,)).fetchone():
            raise refuse_taken_over(self._file.location)

    def count(self, table: Table) -> int:
        """See ``Port.count``."""
        return int(self._file._rows(f"SELECT count(*) FROM {table.name}")[0][0])

    def last_key(self, table: Table) -> Optional[Key]:
        """See ``Port.last_key``."""
        columns = ", ".join(table.key)
        order = ", ".join(f"{column} DESC" for column in table.key)
        rows = self._file._rows(f"SELECT {columns} FROM {table.name} ORDER BY {order} LIMIT 1")
        return rows[0] if rows else None

    def rows(self, table: Table, after: Optional[Key], until: Optional[Key], limit: Optional[int]) -> List[Row]:
        """See ``Port.rows``."""
        clause = where(table.key, ["?"] * len(table.key), after, until)
        order = ", ".join(table.key)
        return self._file._rows(
            f"SELECT {', '.join(table.columns)} FROM {table.name}{clause} ORDER BY {order} LIMIT ?",
            [*(after or ()), *(until or ()), -1 if limit is None else limit],
        )

    def sizes(self, table: Table, after: Optional[Key], until: Optional[Key], limit: int) -> List[Row]:
        """See ``Port.sizes``."""
        columns = ", ".join(table.key)
        size = " + ".join(["0", *(f"coalesce(length({column}), 0)" for column in table.sized)])
        clause = where(table.key, ["?"] * len(table.key), after, until)
        return self._file._rows(
            f"SELECT {columns}, {size} FROM {table.name}{clause} ORDER BY {columns} LIMIT ?",
            [*(after or ()), *(until or ()), limit],
        )

    def mark_of(self, table: Table, after: Optional[Key], until: Optional[Key]) -> Optional[Mark]:
        """See ``Port.mark_of``."""
        if table.name not in MARKS:
            return None
        number, newest = MARKS[table.name]
        clause = where(table.key, ["?"] * len(table.key), after, until)
        rows = self._file._rows(
            f"SELECT count(*), sum({number} & 0xFFFFFFFF), max({newest}) FROM {table.name}{clause}",
            [*(after or ()), *(until or ())],
        )
        # A clock of 16 ms may give two changes of a row one instant; so an instant has to be over.
        return None if (rows[0][2] or 0) > time.time() - LONGEST_TICK_S else rows[0]

    def replace(self, table: Table, after: Optional[Key], until: Optional[Key], rows: Sequence[Row]) -> None:
        """See ``Port.replace``."""
        clause = where(table.key, ["?"] * len(table.key), after, until)
        marks = ", ".join("?" * len(table.columns))
        with self._file._write as db:
            self._go_on(db)
            self._file._sync_after = False  # once at the end: what a loss of power takes is copied again
            db.execute(f"DELETE FROM {table.name}{clause}", [*(after or ()), *(until or ())])
            if table.unique:
                names = [(name,) for name in names_in(table, rows)]
                db.executemany(f"DELETE FROM {table.name} WHERE {table.unique} = ?", names)
            db.executemany(f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({marks})", rows)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See ``Port.locked``."""
        with self._file._write:
            yield

    def numbers(self) -> Numbers:
        """See ``Port.numbers``."""
        return Numbers._make(
            self._file._rows(
                f"""
                SELECT {_NEXT_NUMBER}, max(last_run_id, (SELECT coalesce(max(run_id), 0) FROM runs)), {LAST_SEQ}
                  FROM store
                """
            )[0]
        )

    def finish(self, numbers: Numbers) -> None:
        """See ``Port.finish``."""
        with self._file._write as db:
            self._go_on(db)
            for name in _CLOSED:
                db.execute(f"DROP TRIGGER {name}")
            db.execute(
                f"""
                UPDATE store
                   SET seq_ahead = max({LAST_SEQ}, :last_seq) + 1 - :next_number, last_seq = max(last_seq, :last_seq),
                       last_run_id = max(last_run_id, :last_run_id), settings_version = settings_version + 1
                """,
                numbers._asdict(),
            )
            _count_anew(db)
            db.execute("DELETE FROM schema_version WHERE n = ?", (UNFINISHED,))
            db.execute(f"PRAGMA user_version = {NEWEST}")

    def tidy(self) -> None:
        """See ``Port.tidy``."""
        with suppress(StoreUnavailable):  # it is done; and what is in the log is not lost
            # Copies are sent on, and the file alone is to be one.
            self._file._rows("PRAGMA wal_checkpoint(TRUNCATE)")


def _count_anew(db: sqlite3.Connection) -> None:
    """Set the counters of all queues to what the rows say."""
    db.execute("INSERT OR IGNORE INTO queues (name) SELECT DISTINCT queue FROM jobs")
    db.execute(f"UPDATE queues SET {', '.join(f'{state} = 0' for state in COUNTED)}")
    for queue, state, count in db.execute("SELECT queue, state, count(*) FROM jobs GROUP BY queue, state").fetchall():
        assert state in COUNTED
        db.execute(f"UPDATE queues SET {state} = ? WHERE name = ?", (count, queue))
