"""One writer at a time: who waits for whom, how long, and what a waiter is told."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import time

import pytest

from queuectl.db import open_store, sqlite_file, sqlite_make
from queuectl.errors import StoreUnavailable
from queuectl.job import JobFilter
from tests.store.build import T0, spec
from tests.store.sqlite_only.files import ADD_ONE


def test_readers_do_not_wait_for_a_writer(store, raw, monkeypatch):
    """While somebody holds the write lock every look answers at once: with no patience at all."""
    store.add([spec(delay_s=50)], T0)
    monkeypatch.setattr(sqlite_file, "PATIENCE_S", -1.0)
    raw.execute("BEGIN IMMEDIATE")
    raw.execute("UPDATE queues SET pending = 7")

    assert ("pending", 1) == (store.get("job1").state, store.queues()[0].pending)
    assert ([], T0 + 50, []) == (store.claim("w1", 1, (), T0), store.next_due((), T0), store.check())
    assert 1 == len(store.jobs(JobFilter()))
    raw.execute("ROLLBACK")


def test_a_writer_does_not_wait_for_readers(store, raw):
    """A long look elsewhere, in a transaction of its own, holds up nobody."""
    store.add([spec()], T0)
    raw.execute("BEGIN")
    before = raw.execute("SELECT count(*) FROM jobs").fetchone()

    store.add([spec()], T0)

    assert before == raw.execute("SELECT count(*) FROM jobs").fetchone()
    assert 2 == len(store.jobs(JobFilter()))


def test_a_writer_waits_for_another(path, raw, start):
    """A locked store makes an enqueue late, not wrong: nobody ever reads that a database is locked."""
    raw.execute("BEGIN IMMEDIATE")
    process = start(ADD_ONE, path)
    process.stdin.write("go\n")
    process.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):  # it waits, and does not give up
        process.wait(1.0)
    raw.execute("COMMIT")

    out, err = process.communicate()

    assert ("job1\n", "") == (out, err)


@pytest.mark.posix
def test_an_interrupt_amid_the_wait_says_nothing_of_an_earlier_job(store, raw):
    """One that came behind a commit names what was stored; here nothing was."""

    def interrupt(_number, _frame):
        raise KeyboardInterrupt

    store.add([spec()], T0)
    raw.execute("BEGIN IMMEDIATE")
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            store.add([spec()], T0)
    finally:
        signal.signal(signal.SIGALRM, before)
    raw.execute("ROLLBACK")

    assert type(caught.value) is KeyboardInterrupt
    assert 1 == len(store.jobs(JobFilter()))


@pytest.mark.parametrize("verb", ["claim", "add", "cancel", "release_lost"])
def test_an_instant_is_not_from_before_the_wait(store, raw, monkeypatch, verb):
    """Whoever had the lock may have ended the run before: what comes after is not noted as earlier than that."""
    store.add([spec(), spec()])
    store.claim("w1", 1)
    nap, freed = time.sleep, []

    def wait(seconds):
        nap(0.02)
        if not freed:
            freed.append(time.time())
            raw.execute("COMMIT")

    monkeypatch.setattr(sqlite_file.time, "sleep", wait)
    if verb == "release_lost":
        store.condemn("w1", store.workers()[0].renewed_mono_s)
    raw.execute("BEGIN IMMEDIATE")

    if verb == "claim":
        at = store.claim("w1", 1)[0].started_at
    elif verb == "add":
        at = store.get(store.add([spec()])[0]).created_at
    elif verb == "cancel":
        store.cancel(["job2"])
        at = store.get("job2").ended_at
    else:
        store.release_lost("w1", 3)
        at = store.runs("job1")[0].ended_at

    assert freed
    assert at >= freed[0]


def test_patience_ends_with_a_sentence(path, store, raw, monkeypatch):
    """A lock that is never given back ends in an error that a person understands; nothing was written."""
    monkeypatch.setattr(sqlite_file, "PATIENCE_S", 0.05)
    raw.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailable, match="was busy for .* Try again") as refused:
        store.add([spec()], T0)

    raw.execute("ROLLBACK")
    assert "locked" not in str(refused.value)
    assert ["job1"] == store.add([spec()], T0)


HOLD_CHECKPOINTS = """
import fcntl, sys, time
with open(sys.argv[1] + "-shm", "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, 121)
    print("held", flush=True)
    time.sleep(0.3)
"""


@pytest.mark.posix("fcntl's locks")
def test_a_long_log_is_shortened_though_others_are_at_it(path, store, start, monkeypatch):
    """Each commit to a long log is a checkpoint, which SQLite does not wait for: who shortens it tries again."""
    monkeypatch.setattr(sqlite_file, "WAL_LIMIT_BYTES", 4096)
    monkeypatch.setattr(sqlite_make, "TIDY_S", 20.0)
    store.add([spec()], T0)
    assert os.path.getsize(path + "-wal") > 4096
    holder = start(HOLD_CHECKPOINTS, path)
    assert "held\n" == holder.stdout.readline()

    store.tidy()

    assert 0 == os.path.getsize(path + "-wal")
    assert [(0,)] == store._rows("PRAGMA busy_timeout")


@pytest.mark.posix
@pytest.mark.parametrize("found", ["nothing", "an empty file", "a database without tables"])
def test_opening_keeps_the_locks_of_the_process(path, start, found):
    """However a store came to be, whoever opens it holds it.

    POSIX locks of a file go when the process closes any descriptor of it. Without them the next
    process to leave takes itself for the last one and removes the WAL under everybody's feet.
    """
    if found != "nothing":
        os.makedirs(os.path.dirname(path))
        with contextlib.closing(sqlite3.connect(path)) as db:
            if found != "an empty file":
                db.execute("PRAGMA journal_mode = WAL")
    with contextlib.closing(open_store(path)) as first, contextlib.closing(open_store(path)) as second:
        first.add([spec()], T0)
        wal = os.stat(path + "-wal").st_ino

        out, err = start(ADD_ONE, path).communicate("go\n")

        assert ("job2\n", "", wal) == (out, err, os.stat(path + "-wal").st_ino)
        assert ["job3", "job4"] == first.add([spec()], T0) + second.add([spec()], T0)
