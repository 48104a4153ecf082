"""Numbered migrations: which there are, and bringing a SQLite file up to the newest."""

from __future__ import annotations

import os

from queuectl import faults
from queuectl.errors import StoreRefused, StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import List

    from queuectl.db.sqlite_file import SqliteFile

# The newest schema this version writes; tests hold it against the files.
NEWEST = 5
# What an unfinished copy bears in its place: larger than that of any release.
UNFINISHED = 2**31 - 1
# The tables that a SQLite store of that schema has; tests hold them against the files too.
TABLES = (
    "jobs", "needs", "output", "queues", "runs", "schema_version", "settings", "store", "taken_numbers", "workers",
)  # fmt: skip


class Migration:
    """One step: its number, file name and SQL. No NamedTuple: every opening of a store imports this module."""

    __slots__ = ("name", "number", "sql")

    def __init__(self, number: int, name: str, sql: str) -> None:
        self.number = number
        self.name = name
        self.sql = sql


def migrations(engine: str) -> List[Migration]:
    """Return all migrations of *engine* (``sqlite`` or ``postgres``) in order."""
    import pkgutil

    found = []
    for name in _names(engine):
        data = pkgutil.get_data("queuectl.db", f"migrations/{engine}/{name}")
        if data is None:
            raise StoreRefused(f"migration file {name} is missing. Reinstall queuectl.")
        found.append(Migration(int(name[:4]), name, data.decode()))
    return found


def _names(engine: str) -> List[str]:
    """List the files; inside a zip file (queuectl.pyz) there is no directory to read."""
    folder = os.path.join(os.path.dirname(__file__), "migrations", engine)
    if os.path.isdir(folder):
        return sorted(name for name in os.listdir(folder) if name.endswith(".sql"))
    from zipfile import ZipFile

    prefix = f"queuectl/db/migrations/{engine}/"
    with ZipFile(globals()["__loader__"].archive) as archive:
        names = [name[len(prefix) :] for name in archive.namelist() if name.startswith(prefix)]
    return sorted(name for name in names if name.endswith(".sql"))


def checksum(sql: str) -> str:
    """Return what identifies a migration's text, whatever the line ends."""
    import hashlib

    return hashlib.sha256(sql.replace("\r\n", "\n").encode()).hexdigest()


def upgrade_sqlite(db: sqlite3.Connection, now: float) -> None:
    """Apply the migrations that *db* lacks, inside the transaction that the caller holds.

    The number is kept twice: in ``schema_version`` with checksums, for people and ``doctor``, and in
    ``user_version``, which every opening reads for nothing.
    """
    have = int(db.execute("PRAGMA user_version").fetchone()[0])
    for migration in migrations("sqlite"):
        if migration.number <= have:
            continue
        for statement in _statements(migration.sql):
            db.execute(statement)
        db.execute(
            "INSERT INTO schema_version (n, checksum, applied_at) VALUES (?, ?, ?)",
            (migration.number, checksum(migration.sql), now),
        )
        faults.point("migrating")
        db.execute(f"PRAGMA user_version = {migration.number}")


def upgrade_file(file: SqliteFile, version: int) -> None:
    """Bring an open store of schema *version* up to the newest.

    Raises:
        StoreUnavailable: It cannot be written; nothing was changed.
    """
    import time

    try:
        with file._write as db:
            upgrade_sqlite(db, time.time())
    except StoreUnavailable as error:
        if os.access(file.path, os.W_OK):  # a log that may not be written, say: the message names it
            raise
        raise StoreUnavailable(
            f"{file.path} was written by an older queuectl (schema {version}; this one needs {NEWEST}), and this user "
            "may not upgrade it. Call one command, such as 'queuectl status', as the user who owns it."
        ) from error


def _statements(sql: str) -> List[str]:
    """Split *sql* at its semicolons; ``executescript`` would commit the caller's transaction."""
    import sqlite3

    found = []
    rest = ""
    for line in sql.splitlines(keepends=True):
        rest += line
        if line.rstrip().endswith(";") and sqlite3.complete_statement(rest):
            found.append(rest)
            rest = ""
    return found
