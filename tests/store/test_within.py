"""Enqueuing on the caller's own connection, in the caller's transaction: psycopg's or sqlite3's."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
import time

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


def test_many_come_together(queue, location):
    """From a list or an iterator, with ids or without; what is wrong with one of them undoes none before."""
    with connect(location) as line:
        assert ["job1", "mine"] == queue.enqueue_many(["true", {"command": "true", "id": "mine"}], connection=line)
        assert ["job2"] == queue.enqueue_many(iter(["false"]), line)
        assert [] == queue.enqueue_many([], line)
        assert [f"job{n}" for n in range(3, 303)] == queue.enqueue_many((f"echo {n}" for n in range(300)), line)
        with pytest.raises(JobExists, match="job 2: the id mine is taken"):
            queue.enqueue_many(["true", {"command": "true", "id": "mine"}], line)
        with pytest.raises(InvalidJob, match="job 2: "):
            queue.enqueue_many(["true", ""], line)
        assert [] == list(queue.jobs())
        line.commit()

    assert (303, "echo 299") == (len(list(queue.jobs())), queue.get("job302").command)
    assert "job303" == queue.enqueue("true").id


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
                with pytest.raises(StoreRefused, match="is not one to the store"):
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


def clock_of(location):
    """Return the time by the store's clock itself; ``Queue.now`` knows a server's to within a round trip."""
    if "://" not in location:
        return time.time()
    with connect(location) as line:
        return float(line.execute("SELECT extract(epoch FROM clock_timestamp()) AS now").fetchone()["now"])


def test_the_connection_may_have_its_own_ideas_of_text(queue, location):
    """Of text, numbers and cursors; they are as they were afterwards."""
    with connect(location) as line:
        if "://" in location:
            import psycopg
            from psycopg.types.numeric import NumericLoader

            line.cursor_factory = psycopg.RawCursor
            line.adapters.register_loader("float8", NumericLoader)
            line.execute("SET extra_float_digits = -15")
        else:
            line.text_factory = bytes
        queue.enqueue("true", connection=line, delay=90)
        job = queue.enqueue("true", connection=line, delay=90, tags=["a"])
        if "://" in location:
            assert {"extra_float_digits": "-15"} == line.execute("SHOW extra_float_digits").fetchone()
        else:
            assert bytes is line.text_factory
        line.commit()

    assert job == queue.get("job2")
    assert 80 < job.run_at - clock_of(location) <= 90


def test_the_connection_may_read_its_types_in_its_own_way(queue, location, monkeypatch):
    """Converters of SQLite's declared types, adapters of PostgreSQL's: the job's fields are as they always are."""
    if "://" in location:
        import psycopg

        line = psycopg.connect(location.partition("?")[0])
        for kind in ("bool", "int4", "int8", "float8", "text"):
            line.adapters.register_loader(kind, psycopg.types.string.ByteaLoader)
        line.adapters.register_dumper(list, psycopg.types.json.JsonbDumper)
    else:
        for kind in ("INTEGER", "REAL", "TEXT"):
            monkeypatch.setitem(sqlite3.converters, kind, lambda _: object())
        line = sqlite3.connect(location, detect_types=sqlite3.PARSE_DECLTYPES)
    queue.set_setting("max_retries", 5)
    queue.enqueue("true", id="job2")
    with contextlib.closing(line):
        job = queue.enqueue("true", connection=line, delay=90, timeout=5, tags=["a"])
        again = queue.enqueue("true", connection=line)
        line.commit()

    assert ("job1", 5, 5.0) == (job.id, job.max_retries, job.timeout_s)
    assert [job, again] == [queue.get("job1"), queue.get("job3")]


def test_a_temporary_table_takes_no_job(queue, location):
    """On that connection its name means it, and not the store's table: the job would be gone with it."""
    if "://" in location:
        pytest.skip("there, names of tables have their schema's before them")
    with connect(location) as line:
        line.execute("CREATE TEMPORARY TABLE Jobs AS SELECT * FROM jobs")
        with pytest.raises(QueuectlError, match="has a temporary table 'Jobs'"):
            queue.enqueue("true", connection=line)
        line.execute("DROP TABLE temp.Jobs")
        queue.enqueue("true", connection=line)
        line.commit()
    assert ["job1"] == [job.id for job in queue.jobs()]


@pytest.mark.posix("Windows neither moves nor replaces a file that is open")
@pytest.mark.parametrize("queue_too", [False, True])
def test_a_file_that_was_replaced_takes_no_job(location, queue_too):
    """Neither for a connection that is still one to the old file, nor for a queue that is: nobody would run it."""
    if "://" in location:
        pytest.skip("a server's store has no file")
    with Queue(location) as old, connect(location) as line:
        old.enqueue("true")
        assert 1 == line.execute("SELECT count(*) FROM jobs").fetchone()[0]
        for ending in ("", "-wal", "-shm"):
            os.unlink(location + ending)
        with Queue(location) as new:
            with pytest.raises(StoreRefused, match="was replaced by another file"):
                (old if queue_too else new).enqueue("true", connection=line)
            line.rollback()
            assert [] == list(new.jobs())


def test_a_transaction_that_has_failed_can_be_rolled_back(queue, location):
    """A statement of the program's failed: the enqueue says so, and takes nothing of what the program can do."""
    if "://" not in location:
        pytest.skip("there, a transaction goes on after an error")
    import psycopg

    with connect(location) as line:
        with pytest.raises(psycopg.errors.DivisionByZero):
            line.execute("SELECT 1 / 0")
        with pytest.raises(StoreUnavailable, match="has failed before. Roll back"):
            queue.enqueue("true", connection=line)
        line.rollback()
        queue.enqueue("true", connection=line)
        line.commit()
    assert ["job1"] == [job.id for job in queue.jobs()]


def test_a_transaction_that_sees_what_was_is_to_be_tried_again(queue, location):
    """It looked before somebody else enqueued, and is to see the same until its end."""
    with connect(location) as line:
        if "://" in location:
            from psycopg import IsolationLevel

            line.isolation_level = IsolationLevel.REPEATABLE_READ
            line.execute("SELECT 1")
        else:
            line.execute("BEGIN")
            line.execute("SELECT count(*) FROM jobs").fetchone()
        queue.enqueue("true")
        with pytest.raises(StoreUnavailable, match="could not enqueue on the given connection: .* Roll back and try"):
            queue.enqueue("true", connection=line)
        line.rollback()
        assert "job2" == queue.enqueue("true", connection=line).id
        line.commit()


def test_a_connection_in_a_pipeline_is_refused(queue, location):
    """It would not be better the next time; and the program goes on behind the pipeline."""
    if "://" not in location:
        pytest.skip("SQLite has no pipelines")
    with connect(location) as line:
        with line.pipeline(), pytest.raises(QueuectlError, match="in a pipeline, where no job can be stored") as got:
            queue.enqueue("true", connection=line)
        assert QueuectlError is got.type
        queue.enqueue("true", connection=line)
        line.commit()
    assert ["job1"] == [job.id for job in queue.jobs()]


def test_a_connection_that_may_only_read_is_refused(queue, location):
    """No second try would help."""
    with connect(location) as line:
        if "://" in location:
            line.read_only = True
        else:
            line.execute("PRAGMA query_only = on")
        with pytest.raises(StoreRefused, match="may only read. Enqueue on one that may write"):
            queue.enqueue("true", connection=line)
    assert [] == list(queue.jobs())


def test_a_connection_with_another_encoding_is_refused(queue, location):
    """It would store other letters than those that were given."""
    if "://" not in location:
        pytest.skip("SQLite knows one encoding")
    with connect(location) as line:
        line.execute("SET client_encoding = 'LATIN1'")
        with pytest.raises(QueuectlError, match="has client_encoding = LATIN1"):
            queue.enqueue("echo \u00e9", connection=line)
    assert [] == list(queue.jobs())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="connections have no autocommit before 3.12")
@pytest.mark.parametrize("autocommit", [True, False])
def test_autocommit_of_newer_pythons_is_followed(queue, location, autocommit):
    """With True nothing is left open, since commit() would do nothing; with False a transaction is always open."""
    if "://" in location:
        pytest.skip("this is about sqlite3")
    line = sqlite3.connect(location, autocommit=autocommit)
    with contextlib.closing(line):
        queue.enqueue("true", connection=line)
        assert autocommit is not line.in_transaction
        line.rollback()
        assert autocommit == bool(list(queue.jobs()))
        line.execute("BEGIN" if autocommit else "SELECT 1")
        queue.enqueue("true", connection=line, id="second")
        line.execute("ROLLBACK") if autocommit else line.commit()
        assert autocommit != any(job.id == "second" for job in queue.jobs())


@pytest.mark.parametrize("first", [True, False])
def test_a_refused_job_keeps_no_lock_that_nobody_knows_of(queue, location, first, monkeypatch):
    """A transaction that only the enqueue began ends with its error; one of the caller's goes on."""
    monkeypatch.setattr("queuectl.db.sqlite_file.PATIENCE_S", 0.2)
    queue.enqueue("true")
    with connect(location) as line:
        line.execute("CREATE TEMPORARY TABLE mine (n integer)")
        line.commit()
        if not first:
            line.execute("INSERT INTO mine VALUES (1)")
        with pytest.raises(JobExists):
            queue.enqueue("true", connection=line, id="job1")
        if first:
            if "://" in location:
                queue.store._line.execute("SET lock_timeout = '1s'")
            assert "job2" == queue.enqueue("true").id
        line.commit()
        rows = [next(iter(dict(row).values())) for row in line.execute("SELECT count(*) AS n FROM mine")]
        assert [0 if first else 1] == rows


def is_in(thread, name):
    """Return whether *thread* is inside a function *name*."""
    frame = sys._current_frames().get(thread.ident)
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return frame is not None


@pytest.mark.parametrize("over", ["a connection", "the queue"])
def test_another_thread_that_waits_for_the_commit_does_not_hold_it_up(queue, location, eventually, over):
    """Threads share the queue: one that waited with its lock for a second enqueue's transaction waited for ever."""
    results = []

    def second():
        if over == "the queue":
            results.append(queue.enqueue("theirs").id)
            return
        with connect(location) as other:
            if "://" in location:
                other.execute("SET lock_timeout = '20s'")
                other.commit()
            results.append(queue.enqueue("theirs", connection=other).id)
            other.commit()

    if "://" in location:
        queue.store._line.execute("SET lock_timeout = '20s'")
    with connect(location) as line:
        queue.enqueue("ours", connection=line)
        thread = threading.Thread(target=second)
        thread.start()
        try:
            eventually(lambda: is_in(thread, "add_within" if over == "a connection" else "_add"))
            eventually(lambda: is_waiting(location))
            results.append(queue.enqueue("ours too", connection=line).id)
            line.commit()
        finally:
            line.rollback()
            thread.join()

    assert ["job2", "job3"] == results
    assert ["ours", "ours too", "theirs"] == [job.command for job in queue.jobs()]


def is_waiting(location):
    """Return whether a session of the server waits for a lock; a SQLite connection does as soon as it has begun."""
    if "://" not in location:
        return True
    with connect(location) as line:
        return bool(line.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchall())


class Limit(BaseException):
    """What a signal's handler raises when a call takes too long."""


@pytest.mark.parametrize("name", ["to_json", "_make"])
def test_an_interrupted_enqueue_leaves_nothing_in_the_transaction(queue, location, name):
    """Before its row is written, and after: the caller may go on and commit, and no half of a job comes of it."""

    def watch(frame, what, _argument):
        if what == "call" and frame.f_code.co_name == name:
            sys.setprofile(None)
            raise Limit

    with connect(location) as line:
        line.execute("CREATE TEMPORARY TABLE mine (n integer)")
        line.execute("INSERT INTO mine VALUES (1)")
        sys.setprofile(watch)
        try:
            with pytest.raises(Limit):
                queue.enqueue("half", connection=line, tags=["a"])
        finally:
            sys.setprofile(None)
        line.commit()
        assert [{"n": 1}] == [dict(row) for row in line.execute("SELECT n FROM mine")]

    assert [] == list(queue.jobs())
    assert "job1" == queue.enqueue("true").id
