"""Jobs come in over the caller's own connection to the store's file, in the caller's transaction."""

from __future__ import annotations

import os
import sqlite3

from queuectl.db import doorbell
from queuectl.db.migrate import TABLES
from queuectl.db.sqlite_views import JOB_COLUMNS, job_row
from queuectl.errors import NotDurable, QueuectlError, StoreRefused, StoreUnavailable, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, List

    from queuectl.db.spool import Specs
    from queuectl.db.sqlite_add import SqliteAdd
    from queuectl.job import Job


# As expressions: a column's declared type would call a converter of the program's.
_PLAIN_COLUMNS = ", ".join("+" + column for column in JOB_COLUMNS.split(", "))


class _Within:
    """The caller's connection as the store's verbs use one; its rows are tuples whatever the caller likes better."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._theirs = connection

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        cursor = sqlite3.Cursor(self._theirs)  # not by cursor(), which a class of theirs may have made its own
        cursor.row_factory = None
        return cursor.execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        return sqlite3.Cursor(self._theirs).executemany(sql, rows)


def add_within(store: SqliteAdd, connection: Any, specs: Specs) -> List[Job]:
    """See ``Store.add_within``."""
    from queuectl.job import Job

    if not isinstance(connection, sqlite3.Connection):
        kind = f"{type(connection).__module__}.{type(connection).__qualname__}"
        raise QueuectlError(f"connection must be an open sqlite3.Connection to {store.path}, not a {kind}.")
    within: Any = _Within(connection)
    text_factory = connection.text_factory
    try:
        connection.text_factory = str  # fetched here, text has to be text
        _refuse_another(store, within)
        begins = not connection.in_transaction
        own = begins and _commits_by_itself(connection)
        # IMMEDIATE as every writer: a deferred one may fail when it comes to write.
        within.execute("BEGIN IMMEDIATE" if begins else "SAVEPOINT queuectl_enqueue")
        try:
            ids = store._insert(within, specs)
            look = f"SELECT {_PLAIN_COLUMNS} FROM jobs WHERE id = ?"
            rows = [within.execute(look, (each,)).fetchone() for each in ids]
            jobs = [Job._make(job_row(row)) for row in rows]
            if own:
                within.execute("COMMIT")
            elif not begins:
                within.execute("RELEASE queuectl_enqueue")
        except BaseException:
            _undo(connection, within, begins)
            raise
    except sqlite3.Error as error:
        if isinstance(error, sqlite3.ProgrammingError):
            raise StoreUnavailable(f"the given connection cannot be used: {str(error).rstrip('.')}.") from error
        if "readonly" in str(error):
            raise StoreRefused("the given connection may only read. Enqueue on one that may write.") from error
        raise StoreUnavailable(
            f"could not enqueue on the given connection: {error}. Roll back and try again."
        ) from error
    finally:
        connection.text_factory = text_factory
    if own:
        doorbell.ring(store.run_folder.at_hand())
        try:
            store.sync()
        except StoreUnavailable as error:
            raise NotDurable(str(error), ids) from error
    return jobs


def _undo(connection: sqlite3.Connection, within: Any, begun: bool) -> None:
    """Undo what was done here, and no more: a caller may go on after an error, and commit.

    A transaction that was begun here ends, as its caller does not know of it, and all others would wait for its lock.
    """
    if not connection.in_transaction:  # a full disk or an I/O error has ended it
        return
    if begun:
        within.execute("ROLLBACK")
    else:
        within.execute("ROLLBACK TO queuectl_enqueue")
        within.execute("RELEASE queuectl_enqueue")


def _commits_by_itself(connection: sqlite3.Connection) -> bool:
    """Say whether nobody would commit a transaction that is begun here: the connection is in autocommit mode.

    From Python 3.12 on that is what ``autocommit`` says, if it is True or False, and ``isolation_level`` means nothing.
    """
    autocommit = getattr(connection, "autocommit", None)
    return autocommit if isinstance(autocommit, bool) else connection.isolation_level is None


def _refuse_another(store: SqliteAdd, within: Any) -> None:
    """Refuse a connection to another file, or one on which the names of our tables mean others."""
    files = [row[2] for row in within.execute("PRAGMA database_list") if row[1] == "main"]
    try:
        same = bool(files and files[0]) and os.path.samefile(files[0], store.path)
    except OSError:
        same = False
    if not same:
        named = files[0] if files and files[0] else "a database in memory"
        raise StoreRefused(f"the given connection is one to {named}, not to the store {store.path}.")
    shadows = within.execute(f"SELECT +name FROM sqlite_temp_master WHERE lower(name) IN {TABLES}").fetchone()
    if shadows is not None:
        raise QueuectlError(
            f"the given connection has a temporary table {shown(shadows[0])}, which would be taken for the store's. "
            "Drop it first, or enqueue on another connection."
        )
    # The path says little: the file may have been replaced by another one since the connection was opened.
    store.identity.check()
    if within.execute("SELECT +store_id FROM store").fetchone() != (store.store_id,):
        raise StoreRefused(
            f"the store {store.path} was replaced by another file since the given connection was opened. Open it again."
        )
