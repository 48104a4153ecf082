"""Jobs come in over the caller's own connection, in the caller's transaction."""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from queuectl.db.postgres_add import ADD_DRAWN
from queuectl.db.postgres_line import convert_as_usual, first_line, is_lost
from queuectl.db.postgres_run import Run
from queuectl.db.postgres_views import JOB_COLUMNS
from queuectl.db.rules import any_after, given_ids
from queuectl.errors import QueuectlError, StoreRefused, StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, List, NoReturn, Sequence

    from queuectl.db.postgres_add import PostgresAdd
    from queuectl.db.postgres_link import Parameters
    from queuectl.db.spool import Specs
    from queuectl.job import Job


class _Within(Run):
    """A ``Run`` on a connection that is not ours; its rows are as ours whatever the caller likes better."""

    __slots__ = ("_theirs",)

    def __init__(self, link: PostgresAdd, connection: Any) -> None:
        super().__init__(link, connection)
        self._theirs = connection

    def __call__(self, sql: str, parameters: Parameters = None) -> Any:
        # Not by cursor(): theirs may be of a kind that has parameters of another form.
        cursor = psycopg.Cursor(self._theirs, row_factory=tuple_row)
        convert_as_usual(cursor.adapters)
        return cursor.execute(self._link.text(sql), parameters)

    def copy(self, sql: str, blocks: Iterable[bytes]) -> None:
        """Send *blocks* into a COPY."""
        with psycopg.Cursor(self._theirs) as cursor, cursor.copy(self._link.text(sql)) as copy:
            for block in blocks:
                copy.write(block)


def add_within(store: PostgresAdd, connection: Any, specs: Specs) -> List[Job]:
    """See ``Store.add_within``."""
    if not isinstance(connection, psycopg.Connection):
        kind = f"{type(connection).__module__}.{type(connection).__qualname__}"
        raise QueuectlError(f"connection must be an open psycopg.Connection for {store.location}, not a {kind}.")
    if connection.closed:
        raise StoreUnavailable("the given connection is closed. Open it again.")
    if connection.info.encoding != "utf-8":
        encoding = connection.info.parameter_status("client_encoding")
        raise QueuectlError(
            f"the given connection has client_encoding = {encoding}, which cannot hold every "
            "character of a job. Open it with client_encoding='UTF8'."
        )
    if connection.pgconn.pipeline_status != PipelineStatus.OFF:
        raise QueuectlError("the given connection is in a pipeline, where no job can be stored. Enqueue outside of it.")
    if connection.info.transaction_status == TransactionStatus.INERROR:
        # Here, as after a savepoint that fails psycopg 3.2 refuses every rollback().
        raise StoreUnavailable("the given connection's transaction has failed before. Roll back and try again.")
    run = _Within(store, connection)
    begins = not connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE
    try:
        # In autocommit each statement would be a transaction of its own. A block inside another is a savepoint: the
        # caller may go on after an error, and commit.
        with nullcontext() if begins else connection.transaction():
            return _add(store, run, specs)
    except BaseException as error:
        if begins:  # its caller does not know of the transaction, and all other enqueuers would wait for its lock
            with suppress(psycopg.Error):
                connection.rollback()
        if isinstance(error, psycopg.Error):
            _fail(store, connection, error)
        raise


def _add(store: PostgresAdd, run: Any, specs: Specs) -> List[Job]:
    from queuectl.job import Job

    found = run(_STORE_AND_DIGITS).fetchone()
    if found is None or found[0] != store.store_id:
        raise StoreRefused(f"the given connection is not one to the store {store.location}.")
    digits = found[1]
    if digits < 1:  # times would come rounded
        run(_SET_DIGITS, ("1",))
    token = int.from_bytes(os.urandom(8), "big") >> 1
    rows: List[Sequence[Any]] = []
    if len(specs) == 1 and not given_ids(specs) and not any_after(specs):
        [spec] = specs
        rows = [row[1:] for row in run(_ADD_PLAIN, store.plain(spec, token))]
    if not rows:
        ids = store._batch(run, specs, token)
        rows = run(f"SELECT {JOB_COLUMNS} FROM queuectl.jobs WHERE id = ANY(%s::text[]) ORDER BY seq", (ids,))
    jobs = [Job._make(row) for row in rows]
    if digits < 1:
        run(_SET_DIGITS, (str(digits),))
    return jobs


# For a transaction that may go on for long, with a savepoint for each add: idle workers are told always, as what is
# told comes with the commit. Rows are not locked before they are updated, as their next versions would bear the locks
# of all savepoints before, and each add would read all of those.
_ADD_PLAIN = f"""
    WITH drawn AS (
        UPDATE queuectl.numbers AS n
           SET next_number = n.next_number + 1, announced_at = extract(epoch FROM clock_timestamp())::float8
         WHERE n.one AND NOT n.has_taken
        RETURNING n.next_number - 1 AS number, true AS announced,
                  extract(epoch FROM clock_timestamp())::float8 AS now
    ){ADD_DRAWN}"""

_STORE_AND_DIGITS = "SELECT store_id, current_setting('extra_float_digits')::int FROM queuectl.store WHERE one"
_SET_DIGITS = "SELECT set_config('extra_float_digits', %s, true)"


def _fail(store: PostgresAdd, connection: Any, error: psycopg.Error) -> NoReturn:
    """Raise the error that tells a person what went wrong on the given connection."""
    what = first_line(error)
    if is_lost(connection):
        raise StoreUnavailable(f"lost the given connection: {what}. Nothing was stored.") from error
    if error.sqlstate in ("42P01", "3F000"):
        raise StoreRefused(f"the given connection is not one to the store {store.location}.") from error
    if error.sqlstate == "25006":
        raise StoreRefused("the given connection may only read. Enqueue on one that may write.") from error
    if error.sqlstate == "42501":
        raise StoreRefused(f"the role of the given connection may not enqueue: {what}.") from error
    again = " and try again" if (error.sqlstate or "").startswith("40") else ""  # a deadlock, or the isolation level
    raise StoreUnavailable(f"could not enqueue on the given connection: {what}. Roll back{again}.") from error
