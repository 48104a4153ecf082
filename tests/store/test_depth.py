"""The view ``queue_depth``: what a scaler and a dashboard read, the same in every engine."""

from __future__ import annotations

import re

import pytest

from queuectl.db.migrate import migrations
from tests.store.build import EVERYTHING, completed, dead, failed, spec

COLUMNS = "queue, due, delayed, running, dead, oldest_due_age_s, max_running, paused"


@pytest.fixture
def depth(store, location):
    """Return the view's rows by queue, without the ages; and the ages."""
    name = "queuectl.queue_depth" if "://" in location else "queue_depth"

    def look():
        rows = store._rows(f"SELECT {COLUMNS} FROM {name} ORDER BY queue")
        told = store.depths()
        assert [(*row[:5], *row[6:]) for row in rows] == [(*each[:5], *each[6:]) for each in told]
        assert [row[5] for row in rows] == pytest.approx([each.oldest_due_age_s for each in told], abs=5)
        return {row[0]: (*row[1:5], row[6], bool(row[7])) for row in rows}, {row[0]: row[5] for row in rows}

    return look


def test_of_an_empty_store(depth):
    """Nothing waits, so nothing is old."""
    assert ({"default": (0, 0, 0, 0, None, False)}, {"default": None}) == depth()


def test_every_kind_of_job_is_counted_once(store, depth):
    """Due, delayed, in backoff, running, dead; what has become due counts although nobody has promoted it."""
    now = store.now()
    store.add([spec(queue="a", priority=n % 3) for n in range(10)], now - 50)
    store.add([spec(queue="a", delay_s=1000) for _ in range(3)], now - 60)
    store.add([spec(queue="a", delay_s=30) for _ in range(2)], now - 90)
    store.add([spec(queue="b")], now - 7)
    store.set_limit("b", 4)
    store.set_paused("c", True)
    claims = store.claim("w1", 6, ["a"], now - 40)
    store.finish("w1", [dead(claims[0], now), failed(claims[1], now, now + 500), completed(claims[2], now)], now=now)

    counts, ages = depth()

    assert 6 == len(claims)
    assert {
        "a": (6, 4, 3, 1, None, False), "b": (1, 0, 0, 0, 4, False), "c": (0, 0, 0, 0, None, True),
        "default": (0, 0, 0, 0, None, False),
    } == counts  # fmt: skip
    assert (None, None) == (ages["c"], ages["default"])
    assert pytest.approx(60, abs=5) == ages["a"]
    assert pytest.approx(7, abs=5) == ages["b"]
    waiting = [job for job in store.jobs(EVERYTHING) if job.state in ("pending", "failed")]
    assert len(waiting) == sum(row[0] + row[1] for row in counts.values())


def test_the_oldest_is_found_behind_more_urgent_ones(store, depth):
    """In each queue, whatever its priority."""
    now = store.now()
    for age_s, priority in ((10, 9), (300, 5), (20, 5), (90, -3)):
        store.add([spec(queue="x", priority=priority), spec(queue="y", priority=-priority)], now - age_s)

    _, ages = depth()

    assert [pytest.approx(300, abs=5)] * 2 == [ages["x"], ages["y"]]


def test_a_store_of_the_first_schema_is_brought_up_to_date(store, location, open_again, depth):
    """The next opening adds what was missing, and keeps the jobs."""
    store.add([spec(queue="a")])
    if "://" in location:
        raw = store._connected().execute
        raw(f"DROP VIEW {store.schema}.queue_depth")
        raw(f"DROP TRIGGER needs_met ON {store.schema}.jobs")
        raw(f"DROP TRIGGER waiter_gone ON {store.schema}.jobs")
        raw(f"DROP TABLE {store.schema}.needs")
        raw(f"ALTER TABLE {store.schema}.jobs DROP COLUMN after, DROP COLUMN not_before, DROP COLUMN needed")
        for (function,) in raw(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = %s::regnamespace", (store.schema,)
        ).fetchall():
            raw(f"DROP FUNCTION {function}")
        raw(f"DELETE FROM {store.schema}.schema_version WHERE n > 1")
    else:
        with store._write as db:
            db.execute("DROP VIEW queue_depth")
            db.execute("DROP TRIGGER needs_met")
            db.execute("DROP TABLE needs")
            first = migrations("sqlite")[0].sql
            db.execute("ALTER TABLE jobs RENAME TO newer")
            db.execute(re.search(r"CREATE TABLE jobs \(.*?\n\)", first, re.DOTALL).group())
            kept = ", ".join(row[1] for row in db.execute("PRAGMA table_info(jobs)").fetchall())
            db.execute(f"INSERT INTO jobs ({kept}) SELECT {kept} FROM newer")
            db.execute("DROP TABLE newer")
            for index in re.findall(r"CREATE INDEX jobs_[^;]*", first):
                db.execute(index)
            db.execute("ALTER TABLE store RENAME TO newer")
            db.execute(re.search(r"CREATE TABLE store \(.*?\n\)", migrations("sqlite")[0].sql, re.DOTALL).group())
            kept = "one, store_id, settings_version, last_run_id, last_seq, created_at"
            db.execute(f"INSERT INTO store ({kept}, next_number) SELECT {kept}, 2 FROM newer")
            db.execute("DROP TABLE newer")
            db.execute("DELETE FROM schema_version WHERE n > 1")
            db.execute("PRAGMA user_version = 1")

    again = open_again()

    assert 1 == depth()[0]["a"][0]
    assert ["job2"] == again.add([spec()])
    assert ["job1", "job2"] == [job.id for job in again.jobs(EVERYTHING)]
    assert [] == again.check()
