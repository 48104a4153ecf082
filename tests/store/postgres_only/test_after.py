"""Jobs that wait for others, as only a PostgreSQL store has them: in open transactions, from SQL, by other roles."""

from __future__ import annotations

import time

import psycopg
import pytest

from queuectl import Queue
from queuectl.job import JobFilter
from tests.store.build import T0, claim_ids, completed, spec


@pytest.fixture
def connect(server):
    """Open plain connections, closed at the end."""
    opened = []

    def connect(**options):
        opened.append(psycopg.connect(server.url().partition("?")[0], **options))
        return opened[-1]

    yield connect
    for line in opened:
        line.close()


def test_a_transaction_that_stays_open_does_not_hold_up_the_worker(store, url, connect):
    """It makes a job wait for one that completes meanwhile: at its commit that is seen."""
    store.add([spec(id="a")], T0)
    claims = store.claim("w1", 1, (), T0)
    line = connect()
    with Queue(url) as queue:
        job = queue.enqueue("true", after="a", connection=line)
    assert job.held
    assert store.get(job.id) is None

    begun_s = time.monotonic()
    assert [True] == store.finish("w1", [completed(claims[0], T0)], now=T0).accepted
    assert time.monotonic() - begun_s < 5  # not until somebody gave up waiting
    line.commit()

    assert (False, ["a"]) == (store.get(job.id).held, store.get(job.id).after)
    assert [job.id] == claim_ids(store.claim("w1", 1, ()))


def test_a_transaction_that_is_rolled_back_leaves_nothing(store, url, connect):
    """Neither the job nor what it needed."""
    store.add([spec(id="a")], T0)
    line = connect()
    with Queue(url) as queue:
        queue.enqueue_many([{"command": "true", "after": "a"}] * 3, connection=line)
    line.rollback()

    assert ([], 1) == (store.needed_by("a"), len(store.jobs(JobFilter())))


def test_the_sql_function_takes_after(store, raw):
    """One id or a list; held, and let go, like any other."""
    store.add([spec(id="a"), spec(id="b")], T0)
    one = raw("""SELECT {s}.enqueue('true', '{"after": "a"}')""")[0][0]
    two = raw("""SELECT {s}.enqueue('true', '{"after": ["b", "a", "b"], "delay": 9}')""")[0][0]

    assert (["a"], True) == (store.get(one).after, store.get(one).held)
    assert (["b", "a"], True) == (store.get(two).after, store.get(two).held)
    assert 9 == pytest.approx(store.get(two).run_at - store.get(two).created_at)
    claims = store.claim("w1", 2, (), T0)
    store.finish("w1", [completed(claim, T0) for claim in claims], now=T0)

    done = raw("""SELECT {s}.enqueue('true', '{"after": ["a", "b"]}')""")[0][0]
    assert [False] * 3 == [store.get(name).held for name in (one, two, done)]


def test_what_the_sql_function_refuses(store, raw):
    """A job that does not exist, with a sentence; nothing is stored."""
    for options, told in (
        ('{"after": "a"}', "job field 'after' names a, but there is no such job."),
        ('{"after": [7]}', "job field 'after' must be 1-128 of"),
        ('{"after": {"a": 1}}', "job field 'after' must be 1-128 of"),
    ):
        with pytest.raises(psycopg.DataError, match=told):
            raw("SELECT {s}.enqueue('true', %s::jsonb)", options)

    assert "job1" == raw("""SELECT {s}.enqueue('true', '{"after": []}')""")[0][0]
    assert ([], False) == (store.get("job1").after, store.get("job1").held)


def test_many_jobs_that_need_many_come_in_at_once(store):
    """More than are copied with the numbers locked; each of them is held for what it names, and for nothing else."""
    names = [f"n{number}" for number in range(50)]
    store.add([spec(id=name, queue="first") for name in names], T0)

    ids = store.add([spec(after=names[number % 40 : number % 40 + 10]) for number in range(6000)], T0)

    assert names[7:17] == [name for name, _ in store.needs(ids[7])]
    claims = store.claim("w1", 50, ("first",), T0)
    assert names == claim_ids(claims)
    store.finish("w1", [completed(claim, T0) for claim in claims[:25]], now=T0)
    assert sum(job.held for job in store.jobs(JobFilter(), limit=9999)) == 6000 - 16 * 150
    store.finish("w1", [completed(claim, T0) for claim in claims[25:]], now=T0)
    assert not any(job.held for job in store.jobs(JobFilter(), limit=9999))


def test_a_role_that_only_enqueues_can_make_jobs_wait(store, server, open_one, raw, schema):
    """With the rights of the how-to; the release needs none of its own."""
    role = f"enqueuer_{schema}"
    server.execute(f"CREATE ROLE {role} LOGIN")
    try:
        for right in (
            "USAGE ON SCHEMA {s}", "SELECT ON ALL TABLES IN SCHEMA {s}",
            "INSERT ON {s}.jobs, {s}.queues, {s}.counts, {s}.taken_numbers, {s}.needs",
            "UPDATE ON {s}.numbers, {s}.counts", "DELETE ON {s}.taken_numbers",
        ):  # fmt: skip
            raw(f"GRANT {right} TO {role}")
        other = open_one(server.url(schema, user=role))
        store.add([spec(id="a")], T0)

        other.add([spec(id="b", after=["a"])], T0)

        assert store.get("b").held
        claims = store.claim("w1", 1, (), T0)
        store.finish("w1", [completed(claims[0], T0)], now=T0)
        assert not store.get("b").held
        other.close()
    finally:
        server.execute(f"DROP OWNED BY {role}")
        server.execute(f"DROP ROLE {role}")


def test_doctor_notices_a_trigger_that_is_disabled(store, raw):
    """Without it, what waits would wait for ever."""
    raw("ALTER TABLE {s}.jobs DISABLE TRIGGER needs_met")

    assert ["the trigger needs_met is missing or disabled"] == [problem.what for problem in store.check()]
    raw("ALTER TABLE {s}.jobs ENABLE TRIGGER needs_met")
