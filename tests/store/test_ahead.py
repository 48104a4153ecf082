"""Claims ahead of free slots, and giving them back."""

from __future__ import annotations

import pytest

from queuectl import journal
from queuectl.ahead import HOLD_S, MOST, TRIALS, Ahead
from queuectl.db.rules import PLENTY
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
    """What waits for its worker would take up the places of what could run; nor is what else this worker serves."""
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


# -- how many, and for how long ---------------------------------------------------------------


@pytest.fixture
def ahead(store, tmp_path):
    """A worker's claims ahead, on a store with more than enough jobs."""
    made = Ahead(store)
    made.enter(str(tmp_path / "w1.ahead"))
    store.add(specs(8 + 8 * PLENTY), T0)
    yield made
    made.close()


def hurry(ahead, times, every=0.25, start_mono=0.0):
    """Hand in so many times, this part of ``HOLD_S`` one after the other; return how many are wanted after each."""
    wanted = []
    for number in range(times):
        ahead.handed_in(start_mono + number * every * HOLD_S)
        wanted.append(ahead.ask(()))
    return wanted


def test_more_is_wanted_the_longer_the_row(ahead):
    """None at first, then twice as many and one each time, up to fifteen."""
    assert [0] * (1 + TRIALS) + [1, 3, 7, MOST, MOST] == hurry(ahead, TRIALS + 6, start_mono=100.0)


def test_where_jobs_take_their_time_none_is_wanted(ahead):
    """Each one that takes longer than anything is held begins the trials anew."""
    assert {0} == set(hurry(ahead, 50, every=1.5))
    assert {0} == set(hurry(ahead, 50, every=0.75, start_mono=1000.0))


def test_what_is_held_is_begun_in_order_and_its_ends_wait(store, ahead, tmp_path):
    """One for each free slot, with the moment of its beginning; the journal knows the rest."""
    claims = turn(store, count=2)
    assert claims[:2] == ahead.take(claims, 2, 100.0)
    assert not ahead.is_over(100.0 + HOLD_S / 2)

    following = ahead.follow([completed(claims[0])], [(claims[0].run_id, [(0, b"hi")], None)], 1)

    assert claims[2:3] == [claim._replace(started_at=T0) for claim in following]
    assert T0 != following[0].started_at
    left = journal.read(str(tmp_path / "w1.ahead"))
    assert ([claim.run_id for claim in claims[3:]], [completed(claims[0])]) == (left.waiting, left.ended)
    assert ahead.is_over(100.0 + HOLD_S)


def test_a_row_that_did_not_go_on_is_begun_anew(store, ahead):
    """If nothing that was held began, all trials are before it; if some did, half as many are held next."""
    hurry(ahead, TRIALS + 8, start_mono=100.0)
    claims = turn(store)
    ahead.take(claims, 1, 100.0)
    ahead.follow([completed(claims[0])], [], 1)
    ahead.give_back("w1")
    assert MOST // 2 == ahead.ask(())

    ahead.take(turn(store), 1, 100.0)
    ahead.give_back("w1")

    assert 0 == ahead.ask(())
    assert 3 == store.queues()[0].processing  # the first of each turn, and the one that followed
    assert [] == store.check()


def test_what_cannot_be_noted_is_not_kept_back(store, ahead):
    """An end with much output is handed in, and what was held given back."""
    claims = turn(store)
    ahead.take(claims, 1, 100.0)

    assert [] == ahead.follow([completed(claims[0])], [(claims[0].run_id, [(0, b"x" * journal.MOST_BYTES)], None)], 1)

    assert [] == ahead.ended


def test_without_a_note_of_what_has_begun_nothing_is_claimed_ahead(ahead):
    """Were the worker killed before the answer, nobody could tell which of its runs had begun."""
    assert MOST == hurry(ahead, TRIALS + 6, start_mono=100.0)[-1]

    assert 0 == ahead.ask(range(journal.MOST_BYTES))


def test_what_is_held_without_a_note_is_over_at_once(store, ahead):
    """No command of it is begun: where the worker was killed, it would count as lost."""
    ahead.enter("/nowhere/w1.ahead")

    ahead.take(turn(store), 1, 100.0)

    assert ahead.is_over(100.0)


@pytest.mark.parametrize("failed", [False, True])
def test_a_claim_that_was_answered_is_no_longer_on_its_way(ahead, tmp_path, failed):
    """Whatever begins after it, whether it brought nothing to hold or failed, is not to be undone."""
    hurry(ahead, TRIALS + 6, start_mono=100.0)
    assert MOST == ahead.ask([17])
    assert [17] == journal.read(str(tmp_path / "w1.ahead")).known

    if failed:
        ahead.unanswered()
    else:
        assert [] == ahead.take([], 1, 200.0)

    assert None is journal.read(str(tmp_path / "w1.ahead")).known


def test_what_is_held_no_more_is_not_begun(store, ahead):
    """A claim whose cancellation was asked for is taken out; those around it keep their order."""
    claims = turn(store, count=1)
    ahead.take(claims, 1, 100.0)

    assert claims[2:3] == ahead.remove([claims[2].run_id])

    following = ahead.follow([completed(claims[0])], [], 2)
    assert [claims[1].run_id, claims[3].run_id] == [claim.run_id for claim in following]
