"""A signal's handler that uses the ``Queue`` whose call it has interrupted: a program's own trap, on every engine."""

from __future__ import annotations

import contextlib
import functools
import signal
import sqlite3
import sys

import pytest

from queuectl import Queue, QueuectlError, QueueInUse
from queuectl.db import sqlite_add


@pytest.fixture
def queue(location):
    """A queue; nothing may be wrong with it at the end."""
    with Queue(location) as queue:
        yield queue
    with Queue(location) as queue:
        assert [] == queue.check()


def interrupted(call, act, name, event="call", package="queuectl"):
    """Call *call*, and *act* when the first function *name* of *package* begins or returns; return what it does."""
    called = []

    def watch(frame, what, _argument):
        if not called and what == event and frame.f_code.co_name == name and package in frame.f_code.co_filename:
            called.append(name)
            act()

    sys.setprofile(watch)
    try:
        return call()
    finally:
        sys.setprofile(None)
        assert called


def places(queue):
    """Return functions that are called in the middle of an enqueue, and of what package they are."""
    if queue.store.many_hosts:
        return [("_at_rest", "call", "queuectl"), ("fetchall", "call", "psycopg"), ("execute", "call", "psycopg")]
    return [("_begin", "call", "queuectl"), ("_begin", "return", "queuectl"), ("to_json", "call", "queuectl")]


def test_an_enqueue_amid_another_is_refused(queue):
    """The outer one is done as if nothing had been; the inner one stores nothing, and says so."""
    refused = []

    def handler():
        with pytest.raises(QueueInUse, match="in the middle of another call"):
            queue.enqueue("inner")
        refused.append(True)

    for name, event, package in places(queue):
        interrupted(lambda: queue.enqueue("outer", tags=["a"]), handler, name, event, package)

    assert [True] * 3 == refused
    assert [("job1", "outer"), ("job2", "outer"), ("job3", "outer")] == [(job.id, job.command) for job in queue.jobs()]


def test_an_enqueue_amid_another_undoes_that_if_the_handler_lets_the_error_out(queue):
    """All or none; and the queue can be used at once."""
    for name, event, package in places(queue):
        with pytest.raises(QueueInUse, match="in the middle of another call"):
            interrupted(
                lambda: queue.enqueue_many([{"command": "outer", "tags": ["a"]}] * 3),
                lambda: queue.enqueue("inner"),
                name if name != "fetchall" else "execute",
                event,
                package,
            )
        assert [] == list(queue.jobs())

    assert "job1" == queue.enqueue("later").id


def test_an_enqueue_on_a_program_s_connection_amid_another_is_refused(queue, location):
    """And another amid that one: each would wait for the other's locks, on PostgreSQL for ever."""
    many, one = ("number_jobs", "call"), ("_add", "return", "postgres_within")
    if not queue.store.many_hosts:
        many = one = ("given_ids", "call")
    if queue.store.many_hosts:
        import psycopg

        line = psycopg.connect(location.partition("?")[0])
        line.execute("SET lock_timeout = '5s'")
        line.commit()
    else:
        line = sqlite3.connect(location)

    def handler(inner):
        with pytest.raises(QueueInUse, match="in the middle of another call"):
            queue.enqueue("inner", **inner)

    with contextlib.closing(line):
        for theirs, inner in (
            ({}, {"connection": line}),
            ({"connection": line}, {}),
            ({"connection": line}, {"connection": line}),
        ):
            amid = functools.partial(handler, inner)
            interrupted(lambda theirs=theirs: queue.enqueue_many(["outer", "outer"], **theirs), amid, *many)
            if theirs:
                interrupted(lambda theirs=theirs: queue.enqueue("outer", **theirs), amid, *one)
            line.commit()

    assert ["outer"] * 8 == [job.command for job in queue.jobs()]


def test_very_many_jobs_are_kept_while_a_handler_enqueues(queue, monkeypatch):
    """On SQLite, their rows are made in a transaction of their own first."""
    monkeypatch.setattr(sqlite_add, "HUGE_BATCH", 5)
    if queue.store.many_hosts:
        pytest.skip("they take the same way as few do")

    def handler():
        with pytest.raises(QueueInUse, match="in the middle of another call"):
            queue.enqueue("inner")

    ids = interrupted(lambda: queue.enqueue_many(["outer"] * 20), handler, "_rows", "call", "sqlite_stage")

    assert ids == [job.id for job in queue.jobs()]
    assert 20 == len(ids)


def test_a_handler_may_enqueue_while_the_queue_is_at_rest(queue):
    """While a call waits for a job, for instance: it is inside only to look."""
    with contextlib.suppress(TimeoutError):
        interrupted(lambda: queue.wait(queue.enqueue("outer").id, 0.1), lambda: queue.enqueue("inner"), "_nap")

    assert ["outer", "inner"] == [job.command for job in queue.jobs()]


def test_a_queue_that_is_closed_amid_a_call_is_closed_after_it(queue, location):
    """The call has stored its jobs; the connection is closed then, and not before."""
    name, event, package = places(queue)[1]
    store = queue.store
    enqueued = interrupted(
        lambda: queue.enqueue("outer"), queue.close, name if name != "fetchall" else "execute", event, package
    )

    assert "outer" == enqueued.command
    with pytest.raises(QueuectlError, match="this Queue is closed"):
        queue.get(enqueued.id)
    with pytest.raises(QueuectlError, match="is closed"):
        store.check()
    with Queue(location) as other:
        assert ["outer"] == [job.command for job in other.jobs()]


@pytest.mark.posix
def test_signals_that_come_all_the_time_lose_nothing_and_double_nothing(queue):
    """Whatever was acknowledged is there, once, and nothing else."""
    stored = []

    def handler(_number, _frame):
        with contextlib.suppress(QueueInUse):
            stored.append(queue.enqueue("inner").id)

    before = signal.signal(signal.SIGALRM, handler)
    queue.enqueue("first", id="first")  # imports what an enqueue needs
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        for _ in range(150):
            stored.extend(queue.enqueue_many(["outer"] * 3))
            stored.append(queue.enqueue("outer").id)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert ["first", *sorted(stored)] == ["first", *sorted(job.id for job in queue.jobs() if job.id != "first")]
    assert len(stored) == len(set(stored))
