"""A claim goes on from the place of the last one: it does not walk over claimed jobs, and it leaves out nothing."""

from __future__ import annotations

import pytest

from queuectl.db import postgres_claim
from queuectl.job import JobFilter
from tests.store.build import claim_ids, completed, spec, specs, stopped
from tests.store.postgres_only.test_plans import Watch, walk

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

#: Long ago: due by the server's clock, which these turns go by.
LONG_AGO = 1_000_000.0
BATCHES = pytest.mark.parametrize("batch", [1, 3])


@pytest.fixture(autouse=True)
def for_ever(monkeypatch):
    """A place holds for the whole test, at the least for a 256th of this, and so does what is known of the queues."""
    monkeypatch.setattr(postgres_claim, "AHEAD_S", 256 * 3600.0)
    monkeypatch.setattr(postgres_claim, "LINES_S", 3600.0)


def go_on(store, claims, count, worker_id="w1"):
    """End these and claim as a worker does; return the new claims."""
    return store.finish(worker_id, [completed(claim, LONG_AGO + 5) for claim in claims], count).claims


def settle_in(store, batch, queue="default"):
    """Make the turns after which the store knows its only queue and a place in it; return what is claimed."""
    claims = store.claim("w1", batch)
    for _ in range(2):
        claims = go_on(store, claims, batch)
    assert [queue] == list(store.places_until_s)
    return claims


def pages_of(watch):
    """Return how many pages of the ready jobs' index were read since the last call."""
    pages = sum(
        node["Shared Hit Blocks"] + node["Shared Read Blocks"]
        for plan in watch.plans
        for node in walk(plan["Plan"])
        if node.get("Index Name") == "jobs_ready"
    )
    watch.plans.clear()
    return pages


@BATCHES
def test_a_turn_does_not_read_what_was_claimed_before(store, batch):
    """Behind thousands of claimed jobs a turn reads as many pages as at the beginning; one without a place, all."""
    watch = Watch(store)
    store._connected().execute("SET auto_explain.log_buffers = on")
    store.add(specs(6000), LONG_AGO)
    claims = settle_in(store, batch)
    watch.plans.clear()
    claims = go_on(store, claims, batch)
    at_first = pages_of(watch)
    for _ in range(10):
        claims = go_on(store, claims, 500)
    claims = go_on(store, claims, batch)
    watch.plans.clear()

    claims = go_on(store, claims, batch)
    from_its_place = pages_of(watch)
    store.places_until_s = {}
    go_on(store, claims, batch)
    from_the_head = pages_of(watch)

    assert from_its_place <= at_first + 10 * batch
    assert from_the_head >= from_its_place + 15


@BATCHES
def test_a_more_urgent_job_is_next(store, url, open_one, batch):
    """Somebody else enqueues one of a higher priority: the very next claim takes it, and then goes on."""
    store.add(specs(30), LONG_AGO)
    claims = settle_in(store, batch)
    last = max(claim.job.seq for claim in claims)
    open_one(url).add([spec(id="urgent", priority=7)], LONG_AGO + 1)

    first = go_on(store, claims, batch)
    then = go_on(store, first, batch)

    assert "urgent" == first[0].job.id
    assert [last + step for step in range(1, 2 * batch)] == [claim.job.seq for claim in [*first, *then][1:]]


@BATCHES
@pytest.mark.parametrize("queues", [(), ("default",)])
def test_jobs_that_come_back_before_the_place_are_not_left_out(store, url, open_one, batch, queues):
    """Another worker hands back an older job: a queue is empty only when it ran too."""
    other = open_one(url)
    store.add(specs(30), LONG_AGO)
    held = other.claim("w2", 1)
    claims = settle_in(store, batch)
    other.finish("w2", [stopped(claim, LONG_AGO - 1) for claim in held])

    ids = []
    while claims:
        ids += claim_ids(claims)
        ends = [completed(claim, LONG_AGO + 5) for claim in claims]
        claims = store.finish("w1", ends, batch, queues).claims

    assert held[0].job.id in ids
    assert 30 == len(store.jobs(JobFilter(("completed",)), 0, 100))


@BATCHES
def test_what_a_dead_transaction_had_locked_is_not_left_out(store, url, batch):
    """The head was locked by a claim that was rolled back: its jobs come when there are no others."""
    store.add(specs(20), LONG_AGO)
    holder = psycopg.connect(url.partition("?")[0])
    holder.execute(f"SELECT 1 FROM {store.schema}.jobs WHERE seq <= 2 FOR UPDATE")
    claims = settle_in(store, batch)
    holder.rollback()
    holder.close()

    while claims:
        claims = go_on(store, claims, batch)

    assert 20 == len(store.jobs(JobFilter(("completed",)), 0, 100))


def test_a_job_that_this_store_puts_before_the_place_is_next(store):
    """Its own enqueue or hand-back makes a store look from the head again."""
    store.add(specs(20), LONG_AGO)
    claims = settle_in(store, 1)
    early = store.add([spec(id="early")], LONG_AGO - 5)
    claims = go_on(store, claims, 1)
    assert early == claim_ids(claims)

    claims = go_on(store, claims, 1)
    handed_back = claim_ids(claims)
    store.finish("w1", [stopped(claim, LONG_AGO - 1) for claim in claims])

    assert handed_back == claim_ids(store.claim("w1", 1))


def test_a_place_that_is_old_is_not_used(store, url, open_one, monkeypatch):
    """After its time a claim looks from the head: a job that came back earlier is next."""
    monkeypatch.setattr(postgres_claim, "AHEAD_S", 0.0)
    store.add(specs(20), LONG_AGO)
    claims = settle_in(store, 1)
    open_one(url).add([spec(id="early")], LONG_AGO - 5)

    assert ["early"] == claim_ids(go_on(store, claims, 1))


def test_places_in_queues_of_the_past_are_forgotten(store):
    """A worker for which each job is of another queue does not grow with every one of them."""
    for number in range(40):
        store.add([spec(queue=f"q{number}")], LONG_AGO)
        claims = store.claim("w1", 1)
        assert [f"q{number}"] == [claim.job.queue for claim in claims]
        go_on(store, claims, 0)

    assert len(store.places) < 10
