"""The log of an open store is deleted: nobody acknowledges what only a deleted file holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from queuectl.db import open_store
from queuectl.errors import StoreRefused
from tests.store.build import T0, specs
from tests.store.sqlite_only.files import ADD_ONE

GONE = "-wal was deleted or replaced while the store was open. Stop everything that uses the store"


def add_elsewhere(path):
    """Have another process add a job; return its id."""
    done = subprocess.run(
        [sys.executable, "-c", ADD_ONE, path], input="\n", stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def backup(path, store, tmp_path):
    """A complete copy of the store with two jobs."""
    store.add(specs(2), T0)
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    copy = str(tmp_path / "backup.db")
    subprocess.run(["cp", path, copy], check=True)  # not from this process: it would drop its locks
    return copy


@pytest.mark.posix("Windows deletes no open file")
@pytest.mark.parametrize("written_before", [True, False])
def test_a_log_that_is_deleted(path, store, backup, written_before):
    """Writers and those who wait say so; what was in the file itself is still there."""
    late = open_store(path)
    if written_before:
        late.add(specs(1), T0)
    for suffix in ("-wal", "-shm"):
        os.unlink(path + suffix)

    with pytest.raises(StoreRefused, match=GONE):
        late.add(specs(1), T0)
    for look in (late.changed, lambda: late.get("job1")):
        with pytest.raises(StoreRefused, match=GONE):
            look()
    late.close()


@pytest.mark.posix("Windows deletes no open file")
def test_a_backup_that_is_put_into_the_open_file(path, store, backup):
    """By ``cp``: the file is the same, but whoever opens it now has another log; one of the two would be lost."""
    for suffix in ("-wal", "-shm"):
        os.unlink(path + suffix)
    shutil.copyfile(backup, path + ".tmp")
    subprocess.run(["cp", path + ".tmp", path], check=True)
    assert "job3" == add_elsewhere(path)

    with pytest.raises(StoreRefused, match=GONE):
        store.add(specs(1), T0)

    assert "job4" == add_elsewhere(path)
