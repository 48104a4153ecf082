"""Hooks, as only a PostgreSQL store has them: beside open transactions, over links that break, over far ones."""

from __future__ import annotations

import time

import psycopg
import pytest

from queuectl import Queue
from queuectl.errors import StoreUnavailable
from queuectl.job import JobFilter
from tests.store.build import T0, completed, counters, dead, recount, spec, specs
from tests.store.postgres_only.test_lost_answers import again
from tests.store.test_hooks import BOTH, hooks_in


@pytest.mark.parametrize("given", [{}, {"id": "job9"}, {"queue": "new"}], ids=str)
def test_a_transaction_that_stays_open_holds_up_no_end(store, url, server, given):
    """Somebody enqueues in a transaction of their own, and takes their time: an end with a hook does not wait."""
    store.add(specs(2), T0)
    claims = store.claim("w1", 2, (), T0)
    with psycopg.connect(server.url().partition("?")[0]) as line, Queue(url) as queue:
        queue.enqueue("true", connection=line, **given)
        begun_s = time.monotonic()
        assert [True] == store.finish("w1", [dead(claims[0], T0)], 1, now=T0, hooks=BOTH).accepted
        store.unregister("w1")
        assert [("job2", "dead"), ("hook-1", "dead")] == store.release_lost("w1", 1, T0, BOTH)
        assert time.monotonic() - begun_s < 5  # not until somebody gave up waiting

    assert 2 == len(hooks_in(store))
    assert recount(store) == counters(store.queues())


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("before", [False, True], ids=["answer lost", "request lost"])
def test_an_end_whose_answer_was_lost_has_one_hook(store, far_store, proxy, before, count):
    """It is sent again; it was written with its hook before, or is now."""
    store.add(specs(2), T0)
    claim = far_store.claim("w1", 1, (), T0)[0]
    if before:
        proxy.delay_next_request()
    else:
        proxy.lose_next_answer()
    with pytest.raises(StoreUnavailable):
        far_store.finish("w1", [completed(claim, T0)], count, (), T0, hooks=BOTH)
    if not before:  # nor is it made again if it has ended and was deleted meanwhile
        store.cancel([f"hook-{claim.run_id}"], T0)
        store.prune(JobFilter(states=("cancelled",)))

    answer = again(lambda: far_store.finish("w1", [completed(claim, T0)], count, (), T0, hooks=BOTH))

    assert [True] == answer.accepted
    proxy.deliver_late()

    assert int(before) == len(hooks_in(store))


def test_a_far_server_is_waited_for_once_more(store, far_store, proxy):
    """The ends with their hooks, and the claim, which may be of a hook."""
    store.add(specs(9), T0)
    claims = far_store.claim("w1", 2, (), T0)
    before = proxy.round_trips
    far_store.finish("w1", [completed(claims[0], T0)], 1, (), T0, hooks=BOTH)
    assert 2 >= proxy.round_trips - before


def test_idle_workers_are_told(store, url):
    """A hook may be for a worker that has nothing to do: it is woken as by an enqueue."""
    store.add([spec()], T0)
    [claim] = store.claim("w1", 1, (), T0)
    with psycopg.connect(url.partition("?")[0], autocommit=True) as line:
        line.execute(f"LISTEN {store.channel}")
        store.finish("w1", [completed(claim, T0)], now=T0, hooks=BOTH)
        assert [store.channel] == [each.channel for each in line.notifies(timeout=10, stop_after=1)]
