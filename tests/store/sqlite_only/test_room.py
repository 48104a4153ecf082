"""What deleted jobs took of the disk is given back to it, a little at a time."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest

from queuectl import Queue
from queuectl.db.sqlite_file import WAL_LIMIT_BYTES
from queuectl.job import JobFilter
from queuectl.pruning import PRUNE_S, Pruner
from tests.store.build import completed, snapshot, specs

LARGE = 1 << 20


def run_large(store, jobs):
    """Have *jobs* jobs completed, long ago, with an output of 1 MiB each, and one more waiting behind them."""
    then = store.now() - 7200
    store.add(specs(jobs), then)
    claims = store.claim("w1", jobs, (), then)
    for claim in claims:
        store.append_outputs([(claim.run_id, [(0, os.urandom(LARGE))], None)])
    store.finish("w1", [completed(claim, then) for claim in claims], now=then)
    store.add(specs(1), then)


def size(path, store):
    """Return how large the file is once the log is in it."""
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return os.path.getsize(path)


def prune(path, store):
    """By hand, as ``queuectl prune`` does it."""
    with Queue(path) as queue:
        assert 20 == queue.prune(JobFilter())


def keep(path, store):
    """As a supervisor does it, step by step."""
    store.set_setting("keep_completed", "1h")
    pruner = Pruner(store)
    at_mono = pruner._due_mono
    while pruner.step(at_mono) <= at_mono:
        pass
    assert at_mono + PRUNE_S == pruner._due_mono


def reset(path, store):
    """All of it."""
    store.reset()


@pytest.mark.parametrize("how", [prune, keep, reset])
def test_the_file_gets_smaller(path, store, how):
    """20 MiB of output go, and the file with them, on every Python: 3.11 steps a statement without columns but once."""
    run_large(store, 20)
    before = size(path, store)
    assert before > 20 * LARGE

    how(path, store)

    assert size(path, store) < LARGE
    assert [] == store.check()
    assert (how is not reset) == ("job21" in [job.id for job in store.jobs(JobFilter())])


def test_a_reset_writes_little(path, store):
    """Nothing is written over first, nor is the file cut page by page: others wait meanwhile."""
    run_large(store, 20)
    assert size(path, store) > 20 * LARGE
    before = store._rows("PRAGMA secure_delete")
    cuts = []
    store._db.set_trace_callback(lambda sql: cuts.append(sql) if "vacuum" in sql.lower() else None)

    store.reset()

    assert os.path.getsize(path + "-wal") < LARGE
    assert ["VACUUM"] == cuts
    assert before == store._rows("PRAGMA secure_delete")


STEPS = {
    "cancel": lambda store: store.cancel_where(JobFilter()),
    "retry": lambda store: store.retry_where(JobFilter()),
    "prune": lambda store: store.prune(JobFilter()),
    "shrink": lambda store: store.shrink(),
}


@pytest.mark.parametrize("name", sorted(STEPS))
def test_who_changes_jobs_in_many_steps_cuts_a_long_log(path, store, name):
    """Others that write at the same time may keep the checkpoints of commits from ever catching up with it."""
    store._rows("PRAGMA wal_autocheckpoint = 0")  # as if they did
    run_large(store, 1 + WAL_LIMIT_BYTES // LARGE)
    store._rows("DELETE FROM output WHERE run_id <= 20")  # pages to give back
    assert os.path.getsize(path + "-wal") > WAL_LIMIT_BYTES

    STEPS[name](store)

    assert os.path.getsize(path + "-wal") < WAL_LIMIT_BYTES
    assert [] == store.check()


def test_large_outputs_are_deleted_in_small_steps(store):
    """Others write in between; whoever prunes goes on until all of them are gone."""
    run_large(store, 50)

    steps = [store.prune(JobFilter()) for _ in range(5)]

    assert (50, 0) == (sum(steps), steps[-1])
    assert max(steps) < 20


@pytest.mark.parametrize("runs", [1, 40])
def test_the_output_of_one_job_is_deleted_in_small_steps(path, store, runs):
    """40 MiB of one run, or of all runs of a job that was retried: the log shows how long others had to wait."""
    store.add(specs(1))
    for _ in range(runs):
        (claim,) = store.claim("w1", 1)
        for part in range(40 // runs):
            store.append_outputs([(claim.run_id, [(part * LARGE, os.urandom(LARGE))], None)])
        store.finish("w1", [completed(claim)])
        if runs > 1:
            store.retry(["job1"])
    if runs > 1:
        store.cancel(["job1"])
    assert size(path, store) > 40 * LARGE

    steps = []
    while steps[-1:] != [0]:
        steps.append(store.prune(JobFilter()))
        assert len(store.runs("job1")) > 0 or steps[-1] is not None
        assert [] == store.check()

    assert [1, 0] == steps[-2:]
    assert {None} == set(steps[:-2])
    assert os.path.getsize(path + "-wal") < 32 * LARGE
    assert [(0, 0)] == store._rows("SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM output)")
    assert [] == store.check()


@pytest.mark.parametrize("how", [prune, keep])
def test_one_job_with_large_output_goes_to_the_end(path, store, how):
    """Whoever prunes does not take a step after which the job is still there for the last one."""
    run_large(store, 20)
    store._rows("UPDATE output SET run_id = 20, start = run_id * 1048576")

    how(path, store)

    assert size(path, store) < LARGE
    assert [] == store.check()


def test_queues_that_nobody_uses_any_more_are_forgotten(store):
    """Each claim looks at all queues: with one for each branch or day it got slower for ever."""
    store.add(
        [*specs(3, queue="old"), *specs(1, queue="in-use"), *specs(1, queue="paused"), *specs(1, queue="limited")]
    )
    store.cancel_where(JobFilter(queues=("old", "paused", "limited")))
    store.set_paused("paused", True)
    store.set_limit("limited", 2)

    first = store.prune(JobFilter(queues=("old",)), 2)
    half = [queue.name for queue in store.queues()]
    rest = store.prune(JobFilter())

    assert (2, 3) == (first, rest)
    assert ["in-use", "limited", "old", "paused"] == half
    assert [("default",), ("in-use",), ("limited",), ("paused",)] == store._rows(
        "SELECT name FROM queues ORDER BY name"
    )
    store.add(specs(1, queue="old"))
    assert ["in-use", "limited", "old", "paused"] == [queue.name for queue in store.queues()]
    assert [] == store.check()


def test_a_supervisor_deletes_large_outputs_in_small_steps(store):
    """It hears signals in between; the next step comes at once as long as there is something left."""
    store.set_setting("keep_completed", "1h")
    run_large(store, 50)
    pruner = Pruner(store)
    at_mono = pruner._due_mono

    left = []
    while pruner.step(at_mono) <= at_mono:
        left.append(store.queues()[0].completed)

    assert left[0] > 30
    assert 0 == store.queues()[0].completed


def test_a_file_that_cannot_get_smaller(path, store):
    """Another program made the copy of it, without what SQLite needs for that: it is left as it is, and no loop."""
    run_large(store, 3)
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE").fetchall()
        db.execute("PRAGMA auto_vacuum = NONE")
        db.execute("VACUUM")
        db.execute("PRAGMA journal_mode = WAL").fetchall()
    with Queue(path) as queue:
        before = snapshot(queue.store)[0][-1:]

        assert 3 == queue.prune(JobFilter())

        assert not queue.store.shrink()
        assert before == snapshot(queue.store)[0]
