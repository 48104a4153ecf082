"""Files that are not a store of ours, or not any more, are refused with a sentence and left as they are."""

from __future__ import annotations

import contextlib
import os
import sqlite3

import pytest

from queuectl.db import open_store
from queuectl.errors import StoreRefused, StoreUnavailable
from tests.store.build import T0, bring_to, spec, specs
from tests.store.sqlite_only.files import contents, open_bytes, write_bytes


def refuse(path, match):
    """Open what is at *path*; it has to be refused, and no byte of any file there may change."""
    before = contents(os.path.dirname(path))

    for create in (True, False):
        with pytest.raises(StoreRefused, match=match):
            open_store(path, create)

    # Beside a damaged store in WAL mode SQLite leaves the two files of that mode.
    after = contents(os.path.dirname(path))
    assert before == {name: after[name] for name in before}
    assert {name for name in after if not name.endswith(("-wal", "-shm"))} <= before.keys()


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_another_programs_database_is_left_alone(path, journal):
    """It is told by its header before anything is written."""
    os.makedirs(os.path.dirname(path))
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = " + journal)
        db.execute("CREATE TABLE jobs (id TEXT)")
        db.execute("INSERT INTO jobs VALUES ('theirs')")
        db.commit()

    refuse(path, "another program's database")


def test_a_newer_schema_is_left_alone(path, store, raw):
    """An older release does not touch what a newer one wrote, and says what to do."""
    raw.execute("PRAGMA user_version = 999")
    raw.close()
    store.close()

    refuse(path, "newer queuectl .schema 999.*Install the newer release")


@pytest.mark.parametrize(
    "data",
    [b"x", b"not a database at all\n" * 500, os.urandom(64) * 200, b"SQLite format 3\0" + b"\xff" * 5000],
    ids=["one byte", "text", "noise", "header only"],
)
def test_a_file_that_is_no_database_is_left_alone(path, data):
    """Whatever it is, it is somebody's."""
    write_bytes(path, data)

    refuse(path, "damaged or not a SQLite database|another program")


@pytest.mark.parametrize("keep", [50, 99, 100, 512, 4095, 4096, 8192, 12288, -4096])
def test_a_truncated_store_is_left_alone(path, store, keep):
    """A store that lost its end, however much, is refused and stays as it is for a rescue."""
    store.add(specs(200), T0)
    store.close()
    whole = open_bytes(path)
    write_bytes(path, whole[:keep])

    refuse(path, "damaged or not a SQLite database")


@pytest.mark.parametrize("offset", [0, 16, 100, 4096])
def test_a_store_with_an_overwritten_part_is_left_alone(path, store, offset):
    """Garbage in the header, the schema or the next page: refused when opened or when looked at, never written."""
    store.add(specs(50), T0)
    store.close()
    data = bytearray(open_bytes(path))
    data[offset : offset + 2000] = b"\xa5" * 2000
    write_bytes(path, bytes(data))

    with pytest.raises(StoreRefused, match="damaged|another program|not a complete"):
        with contextlib.closing(open_store(path)) as damaged:
            problems = damaged.check()
            assert problems
            raise StoreRefused("damaged: " + problems[0].what)

    assert bytes(data) == open_bytes(path)


@pytest.mark.posix("Windows neither moves nor replaces a file that is open")
def test_a_store_that_vanished_is_not_written_into_nothing(path, store):
    """What would be lost is refused, and no new store is made in its place."""
    store.add([spec()], T0)
    os.rename(path, path + ".moved")

    with pytest.raises(StoreRefused, match="has vanished"):
        store.add([spec()], T0)
    assert not os.path.exists(path)
    os.rename(path + ".moved", path)
    assert ["job2"] == store.add([spec()], T0)


@pytest.mark.posix("Windows neither moves nor replaces a file that is open")
def test_a_store_that_was_replaced_is_not_written(path, store, tmp_path):
    """Neither the old file, which nobody can find any more, nor the new one, which is another store."""
    other = str(tmp_path / "other.db")
    open_store(other).close()
    os.replace(other, path)
    before = open_bytes(path)

    for write in (lambda: store.add([spec()], T0), lambda: store.renew("w1", 30, 1.0), store.reset):
        with pytest.raises(StoreRefused, match="was replaced"):
            write()

    assert before == open_bytes(path)


def test_a_closed_store_says_so(store):
    """Reading and writing after the closing are errors of the family, not SQLite's."""
    store.close()

    for use in (lambda: store.get("job1"), lambda: store.add([spec()], T0), store.check):
        with pytest.raises(StoreUnavailable, match="is closed"):
            use()


@pytest.mark.parametrize(
    "change",
    [
        "state = 'sleeping'",
        "state = 'processing'",
        "state = 'completed', ready = 0",
        "state = 'failed', ready = 0",
        "ready = 0",
        "ready = 3",
        "ended_at = 1.0",
        "worker_id = 'w1'",
        "cancel_requested = 1",
        "failures = 1",
        "losses = 1",
        "attempts = 1",
        "attempts = -1",
        "max_retries = -1",
        "timeout_s = 0",
        "backoff_base = 0.5",
        "command = NULL",
    ],
)
def test_the_database_itself_holds_the_rules(store, raw, change):
    """A job cannot be brought into a state that makes no sense, not even by hand."""
    store.add([spec()], T0)

    with pytest.raises(sqlite3.IntegrityError):
        raw.execute(f"UPDATE jobs SET {change}")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ("UPDATE queues SET pending = pending + 1", "counters"),
        ("UPDATE jobs SET queue = 'elsewhere'", "counters"),
        ("UPDATE schema_version SET checksum = 'x'", "migration"),
        ("DELETE FROM workers", "worker w1"),
        ("DELETE FROM jobs WHERE state = 'processing'", "run"),
    ],
)
def test_check_finds_what_is_wrong(store, raw, damage, word):
    """Wrong counters, a changed migration, jobs without a worker, runs without a job: each is told with advice."""
    bring_to(store, "processing")
    assert [] == store.check()

    raw.execute(damage)
    problems = store.check()

    assert any(word in problem.what for problem in problems)
    assert all(problem.advice for problem in problems)
