"""Many clients at one PostgreSQL store at once."""

from __future__ import annotations

import collections
import contextlib
import re
import threading
import time

import pytest

from queuectl.db import open_store
from queuectl.errors import JobNotFound, StoreUnavailable, WrongState
from queuectl.job import JobFilter
from tests.store.build import EVERYTHING, T0, completed, failed, spec, specs, worker

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")


@pytest.fixture
def crowd(url):
    """Run ``body(store, number)`` in as many threads as wanted, each with a store of its own; return the answers."""

    def run(count, body):
        answers, troubles = [None] * count, []
        gate = threading.Barrier(count)

        def work(number):
            mine = open_store(url)
            try:
                mine.register(worker(f"c{number}", number=number))
                gate.wait()
                answers[number] = body(mine, number)
                mine.unregister(f"c{number}")
            except BaseException as trouble:
                troubles.append(trouble)
                gate.abort()
            finally:
                mine.close()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [] == troubles
        return answers

    return run


def drain_as(me, batch=1, queues=(), seen=None):
    """Return a body that claims and completes until nothing is left."""

    def body(store, number):
        done = []
        claims = store.claim(f"c{number}", batch, queues, T0)
        while claims:
            done += [(claim.job.id, claim.run_id) for claim in claims]
            if seen is not None:
                seen.append(store.queues()[0].processing)
            ends = [completed(claim, T0) for claim in claims]
            answer = store.finish(f"c{number}", ends, batch, queues, T0)
            assert all(answer.accepted)
            claims = answer.claims
            if not claims and store.work_left():
                claims = store.claim(f"c{number}", batch, queues, T0)
        return done

    return body


@pytest.mark.parametrize(("batch", "queues"), [(1, 1), (7, 1), (1, 5), (40, 3)])
def test_each_of_2000_jobs_is_given_to_one_of_8_clients(store, crowd, batch, queues):
    """Exactly once each, from one queue and from several, one at a time and in batches; the counters agree."""
    ids = store.add([spec(queue=f"q{number % queues}") for number in range(2000)], T0)

    answers = crowd(8, drain_as("c", batch))

    given = collections.Counter(job_id for done in answers for job_id, _ in done)
    assert (set(ids), {1}) == (set(given), set(given.values()))
    assert 2000 == len({run_id for done in answers for _, run_id in done})
    assert 2000 == sum(queue.completed for queue in store.queues())
    assert 0 == store.work_left()


def test_a_limit_holds_over_clients(store, crowd):
    """Eight clients, at most three at once, whoever looks."""
    store.set_limit("default", 3)
    store.add(specs(150), T0)
    seen = []

    crowd(8, drain_as("c", 2, seen=seen))

    assert max(seen) <= 3
    assert 150 == store.queues()[0].completed


def test_ends_of_one_queue_do_not_wait_for_each_other(store, open_one, url):
    """A worker whose transaction hangs after it counted holds up no other worker's ends."""
    store.add(specs(2), T0)
    first, second = store.claim("w1", 1, (), T0)[0], store.claim("w2", 1, (), T0)[0]
    with psycopg.connect(url.partition("?")[0]) as hanging:
        hanging.execute(
            f"""
            INSERT INTO {store.schema}.counts AS c (queue, shard, pending) VALUES ('default', %s, 0)
            ON CONFLICT (queue, shard) DO UPDATE SET pending = c.pending
            """,
            (shard("w1"),),
        )
        assert [True] == open_one(url).finish("w2", [completed(second, T0)], now=T0).accepted
        hanging.rollback()
    assert [True] == store.finish("w1", [completed(first, T0)], now=T0).accepted


def test_an_open_transaction_that_enqueues_is_waited_for_by_no_worker(store, open_one, url):
    """Claims are given back, lost jobs released, workers leave; the counts are right when it has ended, too."""
    store.add(specs(4), T0)
    first, second = store.claim("w1", 2, (), T0)
    store.claim("w2", 1, (), T0)
    with psycopg.connect(url.partition("?")[0]) as app:
        store.add_within(app, [spec()])

        assert 1 == store.give_back("w1", [second.run_id], T0)
        assert [True] == store.finish("w1", [completed(first, T0)], now=T0).accepted
        assert store.condemn("w2", store.workers()[1].renewed_mono_s)
        assert [("job3", "pending")] == store.release_lost("w2", 3, T0)
        open_one(url).unregister("w1")
    (queue,) = store.queues()
    assert (4, 0, 1) == (queue.pending, queue.processing, queue.completed)
    assert [] == store.check()


def test_users_and_an_open_transaction_that_enqueues_leave_each_other_alone(store, url):
    """No verb waits for it, with rows in its hands that workers need, and none brings it into a deadlock."""
    store.add([spec(queue="a", id="runs")], T0)
    store.add([spec(queue=queue) for queue in "abab"], T0)
    (claim,) = store.claim("w1", 1, ("a",), T0)
    with psycopg.connect(url.partition("?")[0]) as app:
        store.add_within(app, [spec(queue="b")])

        assert {"runs": "processing", "job1": "cancelled", "job2": "cancelled"} == store.cancel(
            ["runs", "job1", "job2"], T0
        )
        store.edit("job3", {"queue": "b"}, T0)
        store.retry(["job1"], now=T0)
        assert (0, ["runs"]) == store.cancel_where(JobFilter(("processing",), ("a",)), T0)
        assert 1 == store.prune(EVERYTHING)
        assert [True] == store.finish("w1", [completed(claim, T0)], now=T0).accepted
        store.add_within(app, [spec(queue="a")])
    assert {"a": (2, 0, 1), "b": (3, 0, 0)} == {
        queue.name: (queue.pending, queue.processing, queue.completed) for queue in store.queues()
    }


@pytest.mark.parametrize("change", ["limit", "pause"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_claim_that_waited_for_a_queue_heeds_what_was_changed_meanwhile(store, url, raw, eventually, change, count):
    """Whoever has lowered its limit, or paused it, sees no job begin there afterwards."""
    store.add(specs(9, queue="tight"), T0)
    store.set_limit("tight", 5)
    store.claim("w1", 1, ("tight",), T0)
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    claims = []

    def claim():
        with contextlib.closing(open_store(url)) as other:
            claims.extend(other.claim("w2", count, ("tight",), T0))

    with psycopg.connect(url.partition("?")[0]) as turn:  # of another worker, until its commit
        turn.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{store.schema} tight",))
        thread = threading.Thread(target=claim)
        thread.start()
        eventually(lambda: raw(waiting) == [(1,)])
        if change == "limit":
            store.set_limit("tight", 1)
        else:
            store.set_paused("tight", True)
    thread.join()

    assert [] == claims
    store.set_limit("tight", 4)
    store.set_paused("tight", False)
    assert 3 == len(store.claim("w2", 9, ("tight",), T0))


def test_questions_behind_a_lock_leave_no_sessions_behind(store, open_one, url):
    """Behind a table lock a worker that asks again and again does not leave a session of its own each time."""
    mine = open_one(url)
    mine.be_patient(1.5)
    count = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
    like = f"%{store.schema}.%"
    with psycopg.connect(url.partition("?")[0]) as holder, psycopg.connect(url.partition("?")[0]) as look:
        look.autocommit = True
        holder.execute(f"LOCK TABLE {store.schema}.jobs IN ACCESS EXCLUSIVE MODE")
        for _ in range(6):
            with pytest.raises(StoreUnavailable):
                mine.claim("w1", 1, (), T0)
        deadline = time.monotonic() + 10
        while look.execute(count, (like,)).fetchone()[0] > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        waiting = look.execute(count, (like,)).fetchone()[0]
    assert waiting <= 1


def shard(worker_id):
    """Return where a worker counts."""
    from queuectl.db.postgres_turn import shard_of

    assert shard_of("w1") != shard_of("w2")
    return shard_of(worker_id)


def test_shards_do_not_pile_up(store, raw):
    """What a worker counted goes to everybody's shard when it leaves or is released."""
    store.add(specs(4), T0)
    for number, leave in enumerate([store.unregister, lambda name: store.release_lost(name, 3, T0)] * 2):
        name = f"passing{number}"
        store.register(worker(name))
        store.finish(name, [completed(store.claim(name, 1, (), T0)[0], T0)], now=T0)
        store.condemn(name, 100.0)
        leave(name)

    assert [(0,)] == raw("SELECT shard FROM {s}.counts")
    assert (0, 4) == (store.queues()[0].pending, store.queues()[0].completed)


def test_users_and_workers_at_once(store, crowd):
    """Cancels, retries, edits, prunes, adds and turns get in each other's way and no deadlock reaches anybody."""
    store.add(specs(120), T0)
    deadline = time.monotonic() + 3.0

    def body(store, number):
        turns = 0
        while time.monotonic() < deadline:
            turns += 1
            if number < 3:
                name = f"c{number}"
                claims = store.claim(name, 4, (), T0 + turns)
                ends = [completed(claim, T0) if claim.run_id % 3 else failed(claim, T0, T0) for claim in claims]
                store.finish(name, ends, 0, (), T0 + turns)
                continue
            interfere(store, number, turns)
        return turns

    turns = crowd(6, body)

    assert min(turns) > 3
    for claim in store.jobs(EVERYTHING, limit=10_000):
        assert claim.worker_id is None


def interfere(store, number, turns):
    """Do what a user may do, to jobs that others may have moved on meanwhile."""
    jobs = store.jobs(EVERYTHING)
    waiting = [job.id for job in jobs if job.state in ("pending", "failed")][number::3][:5]
    ended = [job.id for job in jobs if job.state in ("completed", "cancelled")][number::4][:5]
    for call in (
        lambda: store.cancel(waiting[::-1], T0),
        lambda: store.retry(ended, now=T0),
        lambda: store.edit(waiting[0], {"queue": f"q{turns % 2}", "priority": turns % 3}, T0),
        lambda: store.prune(EVERYTHING, 3),
        lambda: store.add([spec(id=f"own{number}-{turns}"), spec()], T0),
    ):
        try:
            call()
        except (WrongState, JobNotFound, IndexError):
            pass


@pytest.fixture
def large_add(open_one, url, monkeypatch):
    """Begin to add 6,000 jobs, which stops amid the copying; return an event that lets it go on, and a list of ids."""
    from queuectl.db import postgres_add

    started, go_on = threading.Event(), threading.Event()
    blocks = postgres_add.blocks

    def slow(lines):
        started.set()
        assert go_on.wait(20)
        yield from blocks(lines)

    bulk, answer = open_one(url), []
    monkeypatch.setattr(postgres_add, "blocks", slow)
    thread = threading.Thread(target=lambda: answer.extend(bulk.add(specs(6000), T0)))
    thread.start()
    assert started.wait(10)
    yield go_on, answer
    go_on.set()
    thread.join()


def test_a_large_batch_holds_up_nobody(store, open_one, url, large_add, eventually):
    """While it is copied, another enqueuer gets a number and an answer."""
    go_on, answer = large_add

    assert ["job6001"] == open_one(url).add([spec()], T0)

    go_on.set()
    eventually(lambda: len(answer) == 6000)
    assert ("job1", "job6000") == (answer[0], answer[-1])


def test_a_large_batch_takes_the_numbers_before_the_counters(store, url, raw, large_add, eventually):
    """As every other: holding these and waiting for the numbers, it and a small one would be in a deadlock."""
    go_on, answer = large_add
    store.add([spec()], T0)
    with psycopg.connect(url.partition("?")[0]) as small:
        small.execute(f"SELECT 1 FROM {store.schema}.numbers FOR UPDATE")
        go_on.set()
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%{s}.numbers%%'"
        eventually(lambda: raw(waiting))

        assert [(1,)] == small.execute(f"SELECT 1 FROM {store.schema}.counts FOR UPDATE NOWAIT").fetchall()

    eventually(lambda: len(answer) == 6000)


def test_a_claim_looks_past_what_others_hold(store, url):
    """A transaction holds the most urgent jobs of one queue of many: the claim takes the next ones."""
    store.add([spec(queue=f"q{number % 2}") for number in range(300)], T0)
    holder = psycopg.connect(url.partition("?")[0])
    holder.execute(f"SELECT 1 FROM {store.schema}.jobs WHERE seq <= 200 FOR UPDATE")
    claims = store.claim("w1", 5, (), T0)
    holder.close()

    assert ["job201", "job202", "job203", "job204", "job205"] == [claim.job.id for claim in claims]


@pytest.mark.parametrize(
    ("names", "queues"), [(["default"], ()), (["default"], ("default",)), (["a", "b"], ()), (["a", "b"], ("b", "a"))]
)
def test_the_usual_turn_is_one_call_of_a_function(store, names, queues):
    """One end, its output and one claim: after the first look at all queues no other statement is sent."""
    store.add([spec(queue=names[number % len(names)]) for number in range(10)], T0)
    claims = store.claim("w1", 2, (), T0)[:1]
    line = store._connected()
    before = set(line.execute("SELECT statement FROM pg_prepared_statements").fetchall())

    for _ in range(7):
        outputs = [(claims[0].run_id, [(0, b"out")], None)]
        claims = store.finish("w1", [completed(claims[0])], 1, queues, T0, outputs).claims

    sent = {row[0] for row in set(line.execute("SELECT statement FROM pg_prepared_statements").fetchall()) - before}
    function = "_turn_line" if len(names) == 1 else "_turn_lines"
    assert ["job9"] == [claim.job.id for claim in claims]
    assert sent
    assert {True} == {f"{store.schema}.{function}(" in statement for statement in sent}


@pytest.mark.parametrize("kind", ["none", "known", "alone", "many", "limited"])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_long_statement_is_taken_apart_once(kind, ahead):
    """The driver does so at each call where a text has more than 4096 characters: that was a fifth of a turn."""
    from queuectl.db.postgres_line import numbered
    from queuectl.db.postgres_turn import turn_sql

    ahead = ahead and kind in ("known", "alone")
    sql = turn_sql(kind, 3, ahead=ahead)
    text, names = numbered(sql)

    assert text is numbered(turn_sql(kind, 3, ahead=ahead))[0]
    assert "%" not in text
    assert len(set(names)) == len(names) == len(set(re.findall(r"%\((\w+)\)s", sql)))
    assert re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found.group(1)) + 1}", sql) == text
