"""Enqueuing on the caller's own connection, in the caller's transaction: psycopg's or sqlite3's."""

from __future__ import annotations

import contextlib
import os
import sqlite3

import pytest

from queuectl import JobExists, Queue, QueuectlError
from queuectl.errors import InvalidJob, StoreRefused, StoreUnavailable


def connect(location, autocommit=False):
    """Return a connection as a program has one, with its own ideas of rows."""
    if "://" in location:
        import psycopg
        from psycopg.rows import dict_row

        plain = location.partition("?")[0]
        return contextlib.closing(psycopg.connect(plain, autocommit=autocommit, row_factory=dict_row))
    line = sqlite3.connect(location, isolation_level=None if autocommit else "")
    line.row_factory = sqlite3.Row
    return contextlib.closing(line)


@pytest.fixture
def queue(location):
    """A queue; nothing may be wrong with it at the end."""
    with Queue(location) as queue:
        yield queue
        assert [] == queue.check()


def test_it_comes_with_the_commit_and_goes_with_the_rollback(queue, location):
    """The program's own rows and the job share one fate; no number is missing."""
    with connect(location) as line:
        line.execute("CREATE TEMPORARY TABLE mine (n integer)")
        line.commit()
        line.execute("INSERT INTO mine VALUES (1)")
        job = queue.enqueue("echo hi", connection=line, priority=4, tags=["a"], delay="1h", env={"K": "v"})
        assert ("job1", "pending", 4, ["a"], {"K": "v"}) == (job.id, job.state, job.priority, job.tags, job.env)
        assert [] == list(queue.jobs())
        line.rollback()
        assert [0] == [next(iter(dict(row).values())) for row in line.execute("SELECT count(*) AS n FROM mine")]
        line.rollback()
        assert [] == list(queue.jobs())

        again = queue.enqueue("echo hi", connection=line)
        second = queue.enqueue("echo two", connection=line, id="mine")
        line.commit()

    assert (["job1", "mine"], [again, second]) == ([job.id for job in queue.jobs()], list(queue.jobs()))
    assert "job2" == queue.enqueue("true").id


def test_autocommit_is_a_transaction_of_its_own(queue, location):
    """The job is there at once; a refused one leaves nothing."""
    with connect(location, autocommit=True) as line:
        job = queue.enqueue("true", connection=line)
        assert job == queue.get("job1")
        with pytest.raises(JobExists):
            queue.enqueue("true", connection=line, id="job1")
        assert "job2" == queue.enqueue("true", connection=line).id
        line.execute("BEGIN")
        assert "job3" == queue.enqueue("true", connection=line).id
        line.execute("ROLLBACK")
    assert ["job1", "job2"] == [job.id for job in queue.jobs()]


def test_what_is_refused_leaves_the_transaction_usable(queue, location):
    """A bad field, a taken id: the caller may go on and commit."""
    queue.enqueue("true")
    with connect(location) as line:
        queue.enqueue("true", connection=line)
        with pytest.raises(InvalidJob):
            queue.enqueue("true", connection=line, nme="x")
        with pytest.raises(JobExists):
            queue.enqueue("true", connection=line, id="job1")
        queue.enqueue("true", connection=line)
        line.commit()
    assert ["job1", "job2", "job3"] == [job.id for job in queue.jobs()]


def test_no_such_connection(queue, location, tmp_path):
    """Another kind, another store, a closed one: a sentence each."""
    with pytest.raises(QueuectlError, match=r"connection must be an open .*Connection.*, not a builtins\.str"):
        queue.enqueue("true", connection=location)
    with connect(location) as line:
        pass
    with pytest.raises(StoreUnavailable, match="closed"):
        queue.enqueue("true", connection=line)
    if "://" in location:
        other = location.replace("?schema=", "?schema=o")
        with Queue(other) as another, connect(location) as line:
            try:
                line.execute(f"DROP SCHEMA {location.rpartition('=')[2]} CASCADE")
                with pytest.raises(StoreRefused, match="does not lead to the store"):
                    queue.enqueue("true", connection=line)
            finally:
                line.rollback()
                with connect(location, autocommit=True) as admin:
                    admin.execute(f"DROP SCHEMA {other.rpartition('=')[2]} CASCADE")
            assert another.store.schema != queue.store.schema
    else:
        for where in (str(tmp_path / "other.db"), ":memory:"):
            with connect(where) as line, pytest.raises(StoreRefused, match="not to the store"):
                queue.enqueue("true", connection=line)


def test_a_commit_wakes_a_worker(queue, location, background, eventually, monkeypatch):
    """The job runs soon after, though nobody polled the caller."""
    monkeypatch.setenv("QUEUECTL_DB", location)
    with background("worker", "start") as group:
        eventually(queue.workers)
        with connect(location) as line:
            queue.enqueue("echo hi", connection=line)
            line.commit()
        assert "completed" == queue.wait("job1", 20).state
    assert b"hi" + os.linesep.encode() == queue.output("job1")
    assert 0 == group.wait().code
