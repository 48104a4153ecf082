"""A claim from a few queues: the most urgent job of all that nobody holds, by one call of a function."""

from __future__ import annotations

import random
import threading
import time

import pytest

from queuectl.db import postgres_claim
from queuectl.job import JobFilter
from tests.store.build import claim_ids, completed, spec, stopped
from tests.store.postgres_only.test_place import LONG_AGO, pages_of
from tests.store.postgres_only.test_plans import Watch

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

#: Any queue, whichever there are; two that the worker was told.
SERVED = pytest.mark.parametrize("queues", [(), ("b", "a")])


@pytest.fixture(autouse=True)
def for_ever(monkeypatch):
    """A place, and what is known of the queues, hold for the whole test."""
    monkeypatch.setattr(postgres_claim, "AHEAD_S", 256 * 3600.0)
    monkeypatch.setattr(postgres_claim, "LINES_S", 3600.0)


def turn(store, claims, queues=(), at=LONG_AGO + 5):
    """End these and claim one."""
    return store.finish("w1", [completed(claim, at) for claim in claims], 1, queues).claims


def filled(store, count=20):
    """Put jobs into two queues in turn, and let the store find out which there are."""
    for number in range(count):
        store.add([spec(queue="ab"[number % 2])], LONG_AGO + number / 1000)
    return store.claim("w1", 1)


@SERVED
@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_that_of_all_queues_together(store, seed, queues):
    """Priorities, times and queues in any mixture come out as sorted."""
    dice = random.Random(seed)
    rows = []
    for number in range(40):
        priority, run_at = dice.randrange(3), LONG_AGO + dice.randrange(10)
        store.add([spec(id=f"j{number}", queue=dice.choice("ab"), priority=priority)], run_at)
        rows.append((-priority, run_at, number))

    got = claim_ids(claims := store.claim("w1", 1, queues))
    while claims := turn(store, claims, queues):
        got += claim_ids(claims)

    assert [f"j{number}" for _, _, number in sorted(rows)] == got


@SERVED
def test_what_others_hold_makes_no_less_urgent_job_overtake(store, url, queues):
    """The head of the first queue is locked: what comes next is the head of the second, not the rest of the first."""
    store.add([spec(id="held", queue="a", priority=5), spec(id="last", queue="a")], LONG_AGO)
    store.add([spec(id="next", queue="b", priority=3), spec(id="second last", queue="b")], LONG_AGO - 1)
    holder = psycopg.connect(url.partition("?")[0])
    holder.execute(f"SELECT 1 FROM {store.schema}.jobs WHERE id = 'held' FOR UPDATE")

    got, claims = [], store.claim("w1", 1, queues)
    while claims:
        got += claim_ids(claims)
        claims = turn(store, claims, queues)
    holder.rollback()  # the server notices the end of a connection a little later
    holder.close()

    assert ["next", "second last", "last"] == got
    assert ["held"] == claim_ids(store.claim("w1", 1, queues))


@SERVED
def test_a_more_urgent_job_of_either_queue_is_next(store, url, open_one, queues):
    """Somebody else enqueues it: the very next claim takes it, and then goes on where it was."""
    claims = turn(store, filled(store), queues)
    assert ["job2"] == claim_ids(claims)
    for queue in "ba":
        open_one(url).add([spec(id=f"urgent {queue}", queue=queue, priority=7)], LONG_AGO + 1)
        claims = turn(store, claims, queues)
        assert [f"urgent {queue}"] == claim_ids(claims)

    assert ["job3"] == claim_ids(turn(store, claims, queues))


def test_a_queue_that_was_not_there_is_noticed_at_once(store, url, open_one):
    """Before, between and behind those that are known."""
    claims = turn(store, filled(store))
    for queue in ("0", "aa", "c"):
        open_one(url).add([spec(id=queue, queue=queue, priority=9)], LONG_AGO)
        claims = turn(store, claims)
        assert [queue] == claim_ids(claims)

    assert ["job3"] == claim_ids(turn(store, claims))


@SERVED
def test_a_paused_queue_gives_nothing(store, url, open_one, queues):
    """Its neighbour goes on, and it does when it is resumed."""
    claims = turn(store, filled(store), queues)
    open_one(url).set_paused("a", True)
    second = turn(store, claims, queues)
    third = turn(store, second, queues)
    open_one(url).set_paused("a", False)

    assert ["job4", "job6"] == claim_ids([*second, *third])
    assert ["job3"] == claim_ids(turn(store, third, queues))


@SERVED
def test_a_limit_is_kept(store, url, open_one, queues):
    """A queue that has all it may run is passed over; the other one is not."""
    claims = filled(store)
    other = open_one(url)
    other.set_limit("a", 1)
    assert ["a"] == [claim.job.queue for claim in claims]

    got = [store.claim("w1", 1, queues) for _ in range(3)]
    store.finish("w1", [completed(claim, LONG_AGO + 5) for claim in claims])

    assert ["job2", "job4", "job6"] == claim_ids([claim for some in got for claim in some])
    assert ["job3"] == claim_ids(store.claim("w1", 1, queues))


@pytest.mark.parametrize("queues", [(), ("a",)])
def test_a_turn_with_a_limit_is_one_call_too(store, queues):
    """The run that ends makes room for the job that is claimed; after the first no other statement is sent."""
    store.add([spec(queue="a")] * 9, LONG_AGO)
    store.set_limit("a", 1)
    claims = turn(store, store.claim("w1", 1, queues), queues)
    watch = Watch(store)
    for _ in range(7):
        claims = turn(store, claims, queues)

    texts = [plan["Query Text"] for plan in watch.plans]
    assert ["job9"] == claim_ids(claims)
    assert 7 == sum(f"{store.schema}._turn_lines(" in text for text in texts)
    assert not any("WITH " in text for text in texts)


def test_who_holds_the_lock_of_one_queue_does_not_wait_for_another(store, url, open_one):
    """Two queues with limits; the most urgent job of the first is in other hands, and so is the lock of the second."""
    store.add([spec(id="held", queue="a", priority=9), spec(id="next", queue="b", priority=5)], LONG_AGO)
    store.add([spec(id="last", queue="a")], LONG_AGO)
    for queue in "ab":
        store.set_limit(queue, 1)
    holder = psycopg.connect(url.partition("?")[0])
    holder.execute(f"SELECT 1 FROM {store.schema}.jobs WHERE id = 'held' FOR UPDATE")
    holder.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{store.schema} b",))
    claimed = []
    thread = threading.Thread(target=lambda: claimed.extend(open_one(url).claim("w1", 1, ("a", "b"))))
    thread.start()
    deadline = time.monotonic() + 20
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while not holder.execute(waiting).fetchone()[0] and time.monotonic() < deadline:
        time.sleep(0.01)
    holder.rollback()
    holder.close()
    thread.join(20)

    assert ["held"] == claim_ids(claimed)


@SERVED
def test_jobs_that_come_back_before_the_place_are_not_left_out(store, url, open_one, queues):
    """Another worker hands back an older job: all have run when nothing is left."""
    other = open_one(url)
    claims = filled(store)
    held = other.claim("w2", 2)
    claims = turn(store, turn(store, claims, queues), queues)
    other.finish("w2", [stopped(claim, LONG_AGO - 1) for claim in held])

    while claims:
        claims = turn(store, claims, queues)

    assert 20 == len(store.jobs(JobFilter(("completed",)), 0, 100))


@SERVED
def test_the_rest_of_a_queue_is_not_left_out_where_its_urgent_jobs_ended(store, queues):
    """The last claim there was of a higher priority than what is left."""
    store.add([spec(id=f"high {number}", queue="a", priority=5) for number in range(3)], LONG_AGO)
    store.add([spec(id="middle", queue="a", priority=3)], LONG_AGO - 7)
    store.add([spec(id=f"low {number}", queue="b") for number in range(2)], LONG_AGO - 9)
    got, claims = [], store.claim("w1", 1, queues)
    while claims:
        got += claim_ids(claims)
        claims = turn(store, claims, queues)

    assert ["high 0", "high 1", "high 2", "middle", "low 0", "low 1"] == got


def test_a_turn_does_not_read_what_was_claimed_before(store):
    """A queue that has become empty, and one that has not: a turn reads few pages of thousands of claimed jobs."""
    watch = Watch(store)
    store._connected().execute("SET auto_explain.log_buffers = on")
    store.add([spec(queue="a")] * 3000, LONG_AGO)
    store.add([spec(queue="b")] * 3000, LONG_AGO + 1)
    both = ("a", "b")
    claims = turn(store, store.claim("w1", 1, both), both)
    watch.plans.clear()
    claims = turn(store, claims, both)
    at_first = pages_of(watch)
    for _ in range(11):
        claims = store.finish("w1", [completed(claim, LONG_AGO + 9) for claim in claims], 500, both).claims
    claims = turn(store, claims, both)
    watch.plans.clear()

    claims = turn(store, claims, both)
    from_its_place = pages_of(watch)
    store.places_until_s = {}
    turn(store, claims, both)
    from_the_heads = pages_of(watch)

    assert ["b"] == [claim.job.queue for claim in claims]
    assert from_its_place <= at_first + 10
    assert from_the_heads >= from_its_place + 15
