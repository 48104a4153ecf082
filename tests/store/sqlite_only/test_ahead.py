"""Claims ahead of free slots, and giving them back.

For SQLite only: a store that hosts share claims nothing ahead, for nobody on another host could read what a dead
worker noted of it.
"""

from __future__ import annotations

import pytest

from queuectl.db.sqlite import PLENTY
from tests.store.build import T0, claim_ids, completed, failed, spec, specs, worker

AHEAD = 3
ENOUGH = PLENTY * AHEAD


def turn(store, claims=(), count=1, ahead=AHEAD, queues=()):
    """Hand in the ends of *claims* and claim; return what was claimed."""
    return store.finish("w1", [completed(claim) for claim in claims], count, queues, T0, ahead=ahead).claims


def test_more_is_claimed_where_much_waits(store):
    """The most urgent first, each with a run of its own."""
    store.add([*specs(ENOUGH), spec(priority=5)], T0)

    claims = turn(store)

    assert [f"job{ENOUGH + 1}", "job1", "job2", "job3"] == claim_ids(claims)
    assert 4 == len({claim.run_id for claim in claims})
    assert ["job4"] == claim_ids(turn(store, claims, ahead=0))


def test_where_little_waits_there_is_nothing_ahead(store):
    """Others are to have what is left."""
    store.add(specs(ENOUGH - 1), T0)

    assert ["job1"] == claim_ids(turn(store))


def test_jobs_that_are_not_due_are_not_much(store):
    """They count as waiting, but a claim that does not find enough takes no more than it has slots for."""
    store.add([*specs(AHEAD), *specs(ENOUGH, delay_s=60)], T0)

    assert ["job1"] == claim_ids(turn(store))


def test_a_queue_with_a_limit_is_not_claimed_ahead(store):
    """What waits for its worker would take up the places of what could run; nor is any other queue beside it."""
    store.add([*specs(ENOUGH + 1), *specs(ENOUGH, queue="few")], T0)
    store.set_limit("few", 100)

    assert 1 == len(turn(store))
    assert 4 == len(turn(store, queues=["default"]))


def test_a_claim_given_back_was_never_made(store):
    """The job is as before but for ``updated_at``; the run has left no trace, and its id does not come again."""
    store.add([spec(tags=["a"])], T0)
    store.finish("w1", [failed(store.claim("w1", 1, (), T0)[0], T0, retry_at=T0)], now=T0)
    store.register(worker("doomed"))
    store.claim("doomed", 1, (), T0)
    store.condemn("doomed", 100.0)
    store.release_lost("doomed", 3, T0)
    before, runs = store.get("job1"), store.runs("job1")
    claim = store.claim("w1", 1, (), T0)[0]

    assert 1 == store.give_back("w1", [claim.run_id], T0 + 1)

    assert before._replace(updated_at=T0 + 1, reason=None) == store.get("job1")
    assert runs == store.runs("job1")
    assert [] == store.check()
    again = store.claim("w1", 1, (), T0 + 1)[0]
    assert again.run_id > claim.run_id
    assert claim.job.run_no == again.job.run_no


def test_its_place_in_the_line_is_the_old_one(store):
    """It came first and goes first."""
    store.add(specs(3), T0)
    store.register(worker("w2"))
    claim = store.claim("w1", 1, (), T0)[0]
    store.give_back("w1", [claim.run_id], T0)

    assert ["job1", "job2"] == claim_ids(store.claim("w2", 2, (), T0))


def test_a_cancelled_claim_is_cancelled_when_it_is_given_back(store):
    """It was asked for while the claim waited; nothing has run."""
    store.add([spec()], T0)
    claim = store.claim("w1", 1, (), T0)[0]
    assert {"job1": "processing"} == store.cancel(["job1"], T0)

    store.give_back("w1", [claim.run_id], T0 + 2)

    job = store.get("job1")
    assert ("cancelled", T0 + 2, "cancelled while it waited", 0) == (job.state, job.ended_at, job.reason, job.attempts)
    assert [] == store.runs("job1")
    assert [] == store.check()


@pytest.mark.parametrize("how", ["another worker's", "ended", "lost", "unknown"])
def test_nobody_gives_back_what_is_not_his(store, how):
    """A run that has ended, was taken away, or is another's, stays as it is."""
    store.add([spec()], T0)
    store.register(worker("w2"))
    claim = store.claim("w2" if how == "another worker's" else "w1", 1, (), T0)[0]
    if how == "ended":
        store.finish("w1", [completed(claim)], now=T0)
    if how == "lost":
        store.condemn("w1", 100.0)
        store.release_lost("w1", 3, T0)
    before = store.get("job1"), store.runs("job1")

    assert 0 == store.give_back("w1", [claim.run_id + (how == "unknown")], T0)

    assert before == (store.get("job1"), store.runs("job1"))
    assert [] == store.check()
