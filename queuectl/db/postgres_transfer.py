"""A PostgreSQL store as the source or the target of a copy."""

from __future__ import annotations

from contextlib import contextmanager

import psycopg

from queuectl.db.migrate import UNFINISHED
from queuectl.db.postgres_line import COPIED_INTO
from queuectl.db.postgres_link import AGAIN, TRIES
from queuectl.db.postgres_rows import NULL, blocks, escape
from queuectl.db.rules import COUNTED
from queuectl.db.transfer import Numbers, Port, names_in, new_mark, refuse_taken_over, refuse_used, source_of, where
from queuectl.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator, List, Optional, Sequence

    from queuectl.db.postgres_line import Line
    from queuectl.db.postgres_link import Parameters, PostgresLink
    from queuectl.db.postgres_run import Run
    from queuectl.db.transfer import Key, Mark, Row, Table

# How columns are read where their type is not one that every engine has.
READ = {"state": "state::text", "paused": "paused::int", "cancel_requested": "cancel_requested::int"}
TYPES = {"key": "text", "name": "text"}


class PostgresPort(Port):
    """See ``Port``."""

    def __init__(self, store: PostgresLink) -> None:
        self._store = store
        self._locked: Optional[Line] = None
        self._mark = ""  # what the store bears while this port copies into it

    def _look(self, sql: str, parameters: Parameters = None) -> List[Any]:
        """Run one statement and return its rows; inside ``locked`` in its transaction and in no other."""
        if self._locked is None:
            return self._store._rows(sql, parameters, prepare=False)
        try:
            rows: List[Any] = self._locked.execute(self._store.text(sql), parameters, prepare=False).fetchall()
            return rows
        except psycopg.Error as error:
            self._store._fail(error)

    def mark(self) -> Optional[str]:
        """See ``Port.mark``."""
        rows = self._look("SELECT checksum FROM queuectl.schema_version WHERE n = %s", (UNFINISHED,))
        return source_of(rows[0][0]) if rows else None

    def begin(self, source_id: str) -> bool:
        """See ``Port.begin``."""
        self._mark = new_mark(source_id)

        def body(run: Run) -> bool:
            if self._take_over(run):
                return True
            run(_LOCK_CLOSED)
            if self._take_over(run):  # what was committed while it waited for the lock
                return True
            for table in _CLOSED:
                run(f"ALTER TABLE queuectl.{table} ADD CONSTRAINT {COPIED_INTO} {_COPIES} NOT VALID")
            run(
                """
                INSERT INTO queuectl.schema_version (n, checksum, applied_at)
                VALUES (%s, %s, extract(epoch FROM now()))
                """,
                (UNFINISHED, self._mark),
            )
            return False

        return self._store._write(body)

    def _take_over(self, run: Run) -> bool:
        """Go on with a copy if one was begun here; refuse a store that has or had jobs."""
        marked = "UPDATE queuectl.schema_version SET checksum = %s WHERE n = %s RETURNING n"
        if run(marked, (self._mark, UNFINISHED)).fetchone():
            return True
        used = "SELECT next_number > 1 OR EXISTS (SELECT 1 FROM queuectl.jobs) FROM queuectl.numbers WHERE one"
        if run(used).fetchone()[0]:
            raise refuse_used(self._store.location)
        return False

    def _go_on(self, run: Run) -> None:
        """Refuse to write what another command copies, or has copied; else be allowed to, in this transaction."""
        run("SELECT set_config('queuectl.copies', 'on', true)")
        found = run("SELECT 1 FROM queuectl.schema_version WHERE checksum = %s FOR SHARE", (self._mark,)).fetchone()
        if found is None:
            raise refuse_taken_over(self._store.location)

    def count(self, table: Table) -> int:
        """See ``Port.count``."""
        return int(self._look(f"SELECT count(*) FROM queuectl.{table.name}")[0][0])

    def last_key(self, table: Table) -> Optional[Key]:
        """See ``Port.last_key``."""
        order = ", ".join(f"{column} DESC" for column in table.key)
        rows = self._look(f"SELECT {', '.join(table.key)} FROM queuectl.{table.name} ORDER BY {order} LIMIT 1")
        return rows[0] if rows else None

    def rows(self, table: Table, after: Optional[Key], until: Optional[Key], limit: Optional[int]) -> List[Row]:
        """See ``Port.rows``."""
        columns = ", ".join(READ.get(column, column) for column in table.columns)
        return self._look(
            f"SELECT {columns} FROM queuectl.{table.name}{_where(table, after, until)} "
            f"ORDER BY {', '.join(table.key)} LIMIT %s::bigint",
            [*(after or ()), *(until or ()), limit],
        )

    def sizes(self, table: Table, after: Optional[Key], until: Optional[Key], limit: int) -> List[Row]:
        """See ``Port.sizes``."""
        columns = ", ".join(table.key)
        size = " + ".join(["0", *(f"coalesce(octet_length({column}), 0)" for column in table.sized)])
        return self._look(
            f"SELECT {columns}, {size} FROM queuectl.{table.name}{_where(table, after, until)} "
            f"ORDER BY {columns} LIMIT %s::bigint",
            [*(after or ()), *(until or ()), limit],
        )

    def mark_of(self, table: Table, after: Optional[Key], until: Optional[Key]) -> Optional[Mark]:
        """See ``Port.mark_of``; each version of a row names the transaction that wrote it."""
        rows = self._look(
            f"SELECT count(*), sum(xmin::text::bigint) FROM queuectl.{table.name}{_where(table, after, until)}",
            [*(after or ()), *(until or ())],
        )
        mark: Mark = rows[0]
        return mark

    def replace(self, table: Table, after: Optional[Key], until: Optional[Key], rows: Sequence[Row]) -> None:
        """See ``Port.replace``."""

        def body(run: Run) -> None:
            self._go_on(run)
            run(
                f"DELETE FROM queuectl.{table.name}{_where(table, after, until)}",
                [*(after or ()), *(until or ())],
            )
            if table.unique:
                names = names_in(table, rows)
                run(f"DELETE FROM queuectl.{table.name} WHERE {table.unique} = ANY(%s::text[])", (names,))
            run.copy(f"COPY queuectl.{table.name} ({', '.join(table.columns)}) FROM STDIN", blocks(map(_line, rows)))

        self._store._write(body)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See ``Port.locked``."""
        line = self._store._at_rest()
        try:
            self._lock(line)
            self._locked = line
            yield
        finally:
            self._locked = None
            self._store._roll_back(line)

    def _lock(self, line: Line) -> None:
        """Begin a transaction and take the lock, again after a deadlock with somebody who takes tables otherwise."""
        for attempt in range(TRIES):
            try:
                run = self._store._begin(line)
                run(_LOCK)
                run.flush()
                return
            except psycopg.Error as error:
                if error.sqlstate not in AGAIN or attempt == TRIES - 1:
                    self._store._fail(error)
                self._store._roll_back(line)
            self._store._nap(attempt)

    def numbers(self) -> Numbers:
        """See ``Port.numbers``."""
        return Numbers._make(self._look(_NUMBERS)[0])

    def finish(self, numbers: Numbers) -> None:
        """See ``Port.finish``."""

        def body(run: Run) -> None:
            run(_LOCK_CLOSED)  # first, as in ``begin``
            self._go_on(run)
            run(_SET_NUMBERS, {"next": numbers.next_number})
            run("UPDATE queuectl.store SET settings_version = settings_version + 1")
            run("INSERT INTO queuectl.queues (name) SELECT DISTINCT queue FROM queuectl.jobs ON CONFLICT DO NOTHING")
            run("UPDATE queuectl.jobs SET needed = true WHERE seq IN (SELECT on_seq FROM queuectl.needs)")
            run("DELETE FROM queuectl.counts")
            run(_COUNT_ANEW)
            run(_SET_SEQUENCES, {"run_id": numbers.last_run_id, "seq": numbers.last_seq})
            for table in _CLOSED:
                run(f"ALTER TABLE queuectl.{table} DROP CONSTRAINT {COPIED_INTO}")
            run("DELETE FROM queuectl.schema_version WHERE n = %s", (UNFINISHED,))

        self._store._write(body)

    def tidy(self) -> None:
        """See ``Port.tidy``."""
        try:
            self._store._connected().execute(self._store.text("ANALYZE queuectl.jobs, queuectl.runs, queuectl.output"))
        except (psycopg.Error, StoreError):
            pass  # autovacuum will, a minute later


def _where(table: Table, after: Optional[Key], until: Optional[Key]) -> str:
    return where(table.key, [f"%s::{TYPES.get(column, 'bigint')}" for column in table.key], after, until)


def _line(row: Row) -> str:
    """Return *row* in COPY's text format."""
    return "\t".join(map(_field, row)) + "\n"


def _field(value: Any) -> str:
    if value is None:
        return NULL
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, bytes):
        return "\\\\x" + value.hex()
    return repr(value)


# Stronger than what every writer takes, weaker than what a reader minds. In the order in which they take them: whoever
# enqueues, the numbers first; whoever cancels or prunes, the jobs before the counts.
_LOCK = """
    LOCK TABLE queuectl.numbers, queuectl.taken_numbers, queuectl.jobs, queuectl.output, queuectl.runs,
               queuectl.queues, queuectl.counts, queuectl.store, queuectl.settings, queuectl.workers
            IN EXCLUSIVE MODE
    """

# While a store is copied into, it is closed to everybody else, also to those who had it open before and to those who
# call its SQL functions: whoever changes a job counts it, and who sets something notes that in ``store``.
_CLOSED = ("workers", "store", "queues", "counts", "jobs")
_LOCK_CLOSED = f"LOCK TABLE queuectl.numbers, {', '.join(f'queuectl.{table}' for table in _CLOSED)}"
_COPIES = "CHECK (coalesce(current_setting('queuectl.copies', true), '') = 'on')"

# To read a sequence as a table takes a right that workers do not need. What was never called has no last value.
_NUMBERS = """
    SELECT next_number,
           greatest(pg_sequence_last_value('queuectl.run_ids'),
                    (SELECT coalesce(max(run_id), 0) FROM queuectl.runs)),
           greatest(pg_sequence_last_value('queuectl.jobs_seq_seq'),
                    (SELECT coalesce(max(seq), 0) FROM queuectl.jobs))
      FROM queuectl.numbers
     WHERE one
    """

_SET_NUMBERS = """
    UPDATE queuectl.numbers
       SET next_number = %(next)s::bigint, has_taken = EXISTS (SELECT 1 FROM queuectl.taken_numbers)
     WHERE one
    """

# A sequence never goes back: its numbers are fencing tokens.
_SET_SEQUENCES = """
    SELECT setval('queuectl.run_ids', greatest(last_value, %(run_id)s::bigint),
                  is_called OR %(run_id)s::bigint > 0),
           (SELECT setval('queuectl.jobs_seq_seq', greatest(last_value, %(seq)s::bigint),
                          is_called OR %(seq)s::bigint > 0)
              FROM queuectl.jobs_seq_seq)
      FROM queuectl.run_ids
    """

_COUNT_ANEW = f"""
    INSERT INTO queuectl.counts (queue, shard, {", ".join(COUNTED)})
    SELECT queue, 0, {", ".join(f"count(*) FILTER (WHERE state = '{state}')" for state in COUNTED)}
      FROM queuectl.jobs
     GROUP BY queue
    """
