"""The schema's numbered steps, and what a store says about those it has had."""

from __future__ import annotations

import contextlib
import time

from queuectl.db import open_store
from queuectl.db.migrate import NEWEST, TABLES, checksum, migrations


def test_migrations_are_numbered_without_a_gap():
    """From 0001 up to the number that the code knows as the newest."""
    steps = migrations("sqlite")

    assert list(range(1, NEWEST + 1)) == [step.number for step in steps]
    assert all(step.name.startswith(f"{step.number:04d}_") and step.name.endswith(".sql") for step in steps)


def test_a_new_store_has_had_every_migration(path):
    """Each is on record with its text's checksum and the time it was applied."""
    before = time.time()
    with contextlib.closing(open_store(path)) as store:
        rows = store._rows("SELECT n, checksum, applied_at FROM schema_version ORDER BY n")
        version = store._rows("PRAGMA user_version")
        tables = store._rows("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")

    assert [(step.number, checksum(step.sql)) for step in migrations("sqlite")] == [row[:2] for row in rows]
    assert all(before - 1 <= applied_at <= time.time() + 1 for _, _, applied_at in rows)
    assert [(NEWEST,)] == version
    assert sorted(TABLES) == sorted(name for (name,) in tables)


def test_line_ends_do_not_change_a_checksum():
    """A checkout on Windows has the same migrations."""
    assert checksum("a;\nb;\n") == checksum("a;\r\nb;\r\n")
    assert checksum("a;\n") != checksum("b;\n")


def test_opening_again_applies_nothing(path):
    """The record is as it was."""
    records = []
    for _ in range(2):
        with contextlib.closing(open_store(path)) as store:
            records.append(store._rows("SELECT * FROM schema_version"))

    assert records[0] == records[1]
