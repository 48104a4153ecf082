"""What a job costs, counted: these figures do not depend on the machine, and its speed rests on them."""

from __future__ import annotations

import os

import pytest

from queuectl.db import sqlite_file
from queuectl.db.rules import PLENTY
from queuectl.job import JobFilter
from tests.store.build import T0, completed, specs

JOBS = 50


def statements(store):
    """Begin to note the statements that reach SQLite over this connection.

    One whose trigger is looked at is told twice, or the second time as a comment: that is no statement of its own.
    """
    seen = []
    store._db.set_trace_callback(lambda text: text.startswith("--") or text in seen[-1:] or seen.append(text))
    return seen


def run_all(store, jobs=JOBS):
    """Finish one job and claim the next, as a busy worker does, until *jobs* have been handed in."""
    claims = store.claim("w1", 1, (), T0)
    for _ in range(jobs):
        claims = store.finish("w1", [completed(claims[0], T0)], 1, now=T0).claims


def test_an_end_and_the_next_claim_are_eight_statements(store):
    """BEGIN, two for the end, one that chooses, two for the new run, one for the counters, COMMIT."""
    store.add(specs(JOBS + 2), T0)
    claims = store.claim("w1", 1, (), T0)
    seen = statements(store)

    claims = store.finish("w1", [completed(claims[0], T0)], 1, now=T0).claims

    assert 1 == len(claims)
    words = [text.split()[0] for text in seen]
    assert ["BEGIN", "UPDATE", "UPDATE", "SELECT", "INSERT", "UPDATE", "UPDATE", "COMMIT"] == words


def test_eight_ends_and_claims_of_a_row_share_a_transaction(store, path):
    """Four and a half statements for each, and less than two pages."""
    store.add(specs(8 + 8 * PLENTY + 64), T0)
    claims = store.finish("w1", [], 1, now=T0, ahead=7).claims
    assert 8 == len(claims)
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    seen = statements(store)

    for _ in range(4):
        claims = store.finish("w1", [completed(claim, T0) for claim in claims], 1, now=T0, ahead=7).claims
        assert 8 == len(claims)

    assert len(seen) / 32 <= 4.75
    assert os.path.getsize(path + "-wal") / (4096 + 24) / 32 <= 2


def test_an_end_and_the_next_claim_dirty_few_pages(store, path):
    """Each page that a transaction dirties is written to the log whole: eight and a bit on average."""
    store.add(specs(JOBS + 2), T0)
    store.claim("w1", 0, (), T0)
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    run_all(store)

    pages = os.path.getsize(path + "-wal") / (4096 + 24)
    assert pages / JOBS <= 9


def test_ends_wait_for_no_disk_and_share_a_sync(store, monkeypatch):
    """Handing in syncs nothing; the worker's ``sync`` then covers all ends with one call, and the next one none."""
    calls = []
    real = sqlite_file._fdatasync
    monkeypatch.setattr(sqlite_file, "_fdatasync", lambda fd: (calls.append(fd), real(fd))[1])
    store.add(specs(JOBS + 2), T0)
    assert 1 == len(calls)  # an enqueue, of however many jobs, is on the disk when it returns
    calls.clear()

    run_all(store)
    assert [] == calls

    store.sync()
    assert 1 == len(calls)


def test_one_enqueue_is_five_statements(store):
    """BEGIN, what is there, the job, the counter, COMMIT; however many jobs there are already."""
    store.add(specs(2000), T0)
    seen = statements(store)

    store.add(specs(1), T0)

    assert ["BEGIN", "SELECT", "INSERT", "UPDATE", "COMMIT"] == [text.split()[0] for text in seen]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.posix
def test_nobody_looks_at_the_times_of_the_log(store, path, monkeypatch):
    """Since Linux 6.13, the next write would give it new ones, and its sync would take longer."""
    store.add(specs(1), T0)
    looked_at = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda name, **how: (looked_at.append(os.fspath(name)), real(name, **how))[1])

    store.add(specs(1), T0)
    run_all(store, 1)
    store.changed()

    assert {path} == {name for name in looked_at if name.startswith(path) and not name.endswith("-run")}


def test_one_enqueue_dirties_five_pages(store, path):
    """The job, its three entries in indexes, the counters of its queue; and half a page where one is full."""
    store.add(specs(2000), T0)
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    for _ in range(JOBS):
        store.add(specs(1), T0)

    assert os.path.getsize(path + "-wal") / (4096 + 24) / JOBS <= 6


def test_the_running_jobs_are_found_among_many_that_have_ended(store):
    """``status`` and ``worker list`` ask for them: a walk through all jobs would take ten steps for each."""
    store.add(specs(5000), T0)
    claims = store.claim("w1", 5000, (), T0)
    store.finish("w1", [completed(claim, T0) for claim in claims[:-2]], now=T0)
    steps = []
    store._db.set_progress_handler(lambda: steps.append(1), 1)

    found = store.jobs(JobFilter(("processing",)))

    assert [claim.job.id for claim in claims[-2:]] == [job.id for job in found]
    assert len(steps) < 5000
