"""Workers in the store: leases, orders, and what becomes of the runs of those that died."""

from __future__ import annotations

import time

import pytest

from queuectl import membership
from queuectl.job import Orders, Outcome
from queuectl.membership import Membership
from tests.store.build import T0, bring_to, claim_ids, completed, failed, snapshot, spec, specs, stopped, worker

# -- registering and leases -------------------------------------------------------------------


def test_a_worker_is_listed_as_it_registered(empty):
    """All that a worker says about itself comes back."""
    entered = worker(
        "w-é", role="worker", group_id="g7", number=3, host="höst", host_id="m/b", pid=7, pid_started="99",
        queues=("a", "b"), concurrency=500, started_at=T0 + 1, lease_expires_at=T0 + 31, renewed_mono_s=12.5,
    )  # fmt: skip
    empty.register(entered)

    assert [entered] == empty.workers()


def test_workers_are_listed_oldest_first(empty):
    """Supervisors and workers in the order they started, those of one moment by number."""
    empty.register(worker("young", started_at=T0 + 9))
    empty.register(worker("second", number=1))
    empty.register(worker("first", number=0))
    empty.register(worker("old", role="supervisor", started_at=T0 - 9))

    assert ["old", "first", "second", "young"] == [one.id for one in empty.workers()]


def test_registering_anew_replaces_the_row(store):
    """A worker that was fenced comes back alive, with no order left over."""
    store.request_stop(["w1"], 2)
    store.condemn("w1", 100.0)

    store.register(worker("w1", renewed_mono_s=200.0))

    row = {one.id: one for one in store.workers()}["w1"]
    assert ("alive", 0, 200.0) == (row.state, row.stop, row.renewed_mono_s)
    assert 2 == len(store.workers())


def test_renewing_moves_the_lease(store):
    """The lease runs from the store's clock, and the monotonic time of the renewal is kept."""
    before = store.now()
    accepted = store.renew("w1", 30.0, 123.25)
    after = store.now()

    row = {one.id: one for one in store.workers()}["w1"]
    assert (True, 123.25) == (accepted, row.renewed_mono_s)
    assert before + 30.0 <= row.lease_expires_at <= after + 30.0


def test_an_unknown_worker_cannot_renew(store):
    """Its row is gone: it is fenced and must end its commands."""
    store.unregister("w1")

    assert (False, False) == (store.renew("w1", 30.0, 1.0), store.renew("never", 30.0, 1.0))


def test_a_condemned_worker_cannot_renew(store):
    """Once condemned always condemned: no renewal is accepted, now or later."""
    store.condemn("w1", 100.0)

    assert (False, False) == (store.renew("w1", 30.0, 101.0), store.renew("w1", 30.0, 102.0))
    assert "lost" == {one.id: one for one in store.workers()}["w1"].state


def test_renewing_one_worker_leaves_the_others(store):
    """A lease is one worker's own."""
    other = {one.id: one for one in store.workers()}["w2"]

    store.renew("w1", 99.0, 123.0)

    assert other == {one.id: one for one in store.workers()}["w2"]


def test_the_stores_clock_is_the_time(store):
    """``now`` is wall-clock time between two looks at this machine's clock (the store is on it)."""
    before = time.time()
    now = store.now()
    after = time.time()

    assert before - 1 <= now <= after + 1


# -- orders -----------------------------------------------------------------------------------


def test_a_worker_without_orders_goes_on(store):
    """Known, nothing asked."""
    assert Orders(True, 0, ()) == store.orders("w1")


def test_a_stop_reaches_the_workers_it_names(store):
    """Each worker named is asked, no other; unknown ones do no harm."""
    store.request_stop(["w1", "never"], 1)

    assert (1, 0) == (store.orders("w1").stop, store.orders("w2").stop)


def test_a_stop_is_never_taken_back_by_a_lesser_one(store):
    """2 (now) stays when somebody then asks for 1 (after the running jobs)."""
    for level in (1, 2, 1):
        store.request_stop(["w1", "w2"], level)

    assert (2, 2) == (store.orders("w1").stop, store.orders("w2").stop)


def test_a_cancel_reaches_the_worker_of_the_run(store):
    """The run to cancel is named to its owner until it has ended."""
    store.add(specs(3), T0)
    claims = store.claim("w1", 2, (), T0)
    store.claim("w2", 1, (), T0)

    store.cancel(["job1", "job2"], T0)

    assert {claims[0].run_id, claims[1].run_id} == set(store.orders("w1").cancelled_runs)
    assert () == store.orders("w2").cancelled_runs
    store.finish("w1", [completed(claims[0])], now=T0)
    assert (claims[1].run_id,) == store.orders("w1").cancelled_runs


@pytest.mark.parametrize("fate", ["condemned", "gone", "never there"])
def test_a_fenced_worker_is_told_that_it_is_not_known(store, fate):
    """A worker whose row is condemned or gone must end its commands."""
    if fate == "condemned":
        store.condemn("w1", 100.0)
    elif fate == "gone":
        store.unregister("w1")

    assert not store.orders("w1" if fate != "never there" else "never").known


def test_runs_of_a_worker_are_those_it_owns_now(store):
    """Begun and not ended, by this worker, oldest first."""
    store.add(specs(4), T0)
    first, second, third = store.claim("w1", 3, (), T0)
    store.claim("w2", 1, (), T0)
    store.finish("w1", [completed(second)], now=T0)

    assert [("job1", first.run_id), ("job3", third.run_id)] == store.runs_of("w1")
    assert [] == store.runs_of("never")


# -- condemning -------------------------------------------------------------------------------


def test_a_worker_that_has_renewed_meanwhile_is_not_condemned(store):
    """Whoever wants to condemn says which renewal it looked at; a later one saves the worker."""
    store.renew("w1", 30.0, 101.0)

    assert not store.condemn("w1", 100.0)
    assert ("alive", True) == (store.workers()[0].state, store.orders("w1").known)
    assert store.condemn("w1", 101.0)


def test_a_worker_that_is_gone_is_not_condemned(store):
    """There is nothing to condemn."""
    store.unregister("w1")

    assert (False, False) == (store.condemn("w1", 100.0), store.condemn("never", 100.0))


# -- releasing --------------------------------------------------------------------------------


def condemn_and_release(store, worker_id="w1", max_lost=3, now=T0 + 50):
    """Give a worker up and take its runs away; return what became of its jobs."""
    row = {one.id: one for one in store.workers()}[worker_id]
    assert store.condemn(worker_id, row.renewed_mono_s)
    return store.release_lost(worker_id, max_lost, now)


def test_a_lost_job_is_pending_and_due_at_once(store):
    """No failure, no retry spent, one loss more; nobody owns it, and anybody may claim it."""
    bring_to(store, "processing")

    released = condemn_and_release(store)
    job = store.get("job1")

    assert [("job1", "pending")] == released
    assert ("pending", 1, 0, 1, None, None) == (
        job.state, job.attempts, job.failures, job.losses, job.run_id, job.worker_id,
    )  # fmt: skip
    assert T0 + 50 == job.updated_at
    assert ["job1"] == claim_ids(store.claim("w2", 1, (), T0 + 50))


def test_a_lost_run_is_on_record_as_lost(store):
    """The run has an end and a reason, but no exit code."""
    bring_to(store, "processing")
    condemn_and_release(store)

    run = store.runs("job1")[0]

    assert (Outcome.LOST, None, None, T0 + 50) == (run.state, run.exit_code, run.signal, run.ended_at)
    assert run.reason


def test_all_runs_of_a_lost_worker_are_taken_and_none_of_others(store):
    """Runs that ended before keep their end; other workers keep theirs."""
    store.add(specs(4), T0)
    ended, *_ = store.claim("w1", 3, (), T0)
    store.claim("w2", 1, (), T0)
    store.finish("w1", [completed(ended)], now=T0)

    released = condemn_and_release(store)

    assert [("job2", "pending"), ("job3", "pending")] == sorted(released)
    assert ("completed", "processing") == (store.get("job1").state, store.get("job4").state)


def test_a_released_worker_is_forgotten(store):
    """Its row is gone, and a second release finds nothing."""
    bring_to(store, "processing")
    condemn_and_release(store)

    assert ["w2"] == [one.id for one in store.workers()]
    assert [] == store.release_lost("w1", 3, T0 + 60)


@pytest.mark.parametrize("max_lost", [1, 2, 3])
def test_a_job_that_is_lost_too_often_in_a_row_is_dead(store, max_lost):
    """max_lost lost runs in a row end the job with that as reason: a killer command must not loop."""
    store.add([spec()], T0)
    states = []
    for number in range(max_lost):
        store.register(worker(f"victim{number}"))
        store.claim(f"victim{number}", 1, (), T0)
        states.append(condemn_and_release(store, f"victim{number}", max_lost)[0][1])
    job = store.get("job1")

    assert ["pending"] * (max_lost - 1) + ["dead"] == states
    assert (max_lost, max_lost, 0, T0 + 50) == (job.attempts, job.losses, job.failures, job.ended_at)
    assert "lost" in job.reason


@pytest.mark.parametrize("end", [failed, stopped])
def test_a_run_that_ended_breaks_the_row_of_losses(store, end):
    """Only losses in a row count."""
    store.add([spec()], T0)
    for number in range(2):
        store.register(worker(f"victim{number}"))
        store.claim(f"victim{number}", 1, (), T0)
        condemn_and_release(store, f"victim{number}")
    claim = store.claim("w2", 1, (), T0)[0]
    store.finish("w2", [end(claim, T0)], now=T0)
    store.register(worker("victim2"))
    store.claim("victim2", 1, (), T0 + 10)

    assert [("job1", "pending")] == condemn_and_release(store, "victim2")
    assert 1 == store.get("job1").losses


def test_starting_over_forgets_the_losses(store):
    """A job that died of losses has all its chances again after a retry by hand."""
    store.add([spec()], T0)
    store.claim("w1", 1, (), T0)
    condemn_and_release(store, max_lost=1)
    store.retry(["job1"], now=T0)
    store.claim("w2", 1, (), T0)

    assert [("job1", "pending")] == condemn_and_release(store, "w2", max_lost=2)


@pytest.mark.parametrize("max_lost", [1, 3])
def test_a_lost_job_that_was_to_be_cancelled_is_cancelled(store, max_lost):
    """The user's wish is granted by the loss, whatever the number of losses."""
    bring_to(store, "processing")
    store.cancel(["job1"], T0)

    released = condemn_and_release(store, max_lost=max_lost)
    job = store.get("job1")

    assert ([("job1", "cancelled")], "cancelled", False) == (released, job.state, job.cancel_requested)
    assert T0 + 50 == job.ended_at


def test_a_live_worker_is_not_released(store):
    """Without being condemned first a worker keeps its runs: it might renew at any moment."""
    bring_to(store, "processing")
    before = snapshot(store)

    assert [] == store.release_lost("w1", 3, T0 + 50)
    assert before == snapshot(store)


def test_a_worker_that_left_in_order_leaves_no_runs(store):
    """Nothing to release, nobody ownerless."""
    bring_to(store, "completed")
    store.unregister("w1")

    assert ([], []) == (store.ownerless(), store.release_lost("w1", 3, T0))


def test_runs_of_a_worker_without_a_row_are_found_and_released(store):
    """A row lost with runs still owned (a restored backup, an early exit) is told by ``ownerless`` and ``check``."""
    store.add(specs(3), T0)
    store.claim("w1", 2, (), T0)
    store.claim("w2", 1, (), T0)
    store.unregister("w1")

    assert ["w1"] == store.ownerless()
    assert 1 == len(store.check())
    assert [("job1", "pending"), ("job2", "pending")] == sorted(store.release_lost("w1", 3, T0))
    assert [] == store.ownerless()


def test_counters_follow_a_release(store):
    """Counters follow a release into each of its three ends."""
    store.add([spec(id="cancel"), spec(id="again")], T0)
    store.claim("w1", 2, (), T0)
    store.cancel(["cancel"], T0)
    condemn_and_release(store)
    store.claim("w2", 1, (), T0)
    condemn_and_release(store, "w2", max_lost=1)

    queue = store.queues()[0]

    assert (0, 0, 0, 0, 1, 1) == queue[3:]


def test_a_machine_that_wakes_up_asks_at_once_whether_its_jobs_are_still_its_own(empty, monkeypatch):
    """Its own clock stood still, those of other hosts did not; where there are none, nobody has taken anything."""
    slept = [5.0]
    monkeypatch.setattr(membership, "slept_s", lambda: slept[0])
    place = Membership(empty, 0, "g", 1, ())
    place.enter(30.0)
    now_mono = 1000.0
    monkeypatch.setattr(place, "_renewed_mono", now_mono)  # not near the end of a period that all have together

    def renewed(now_mono):
        assert place.renew_in_time(30.0, now_mono)
        return {row.renewed_mono_s for row in empty.workers()} == {now_mono}

    assert not renewed(now_mono + 0.5)
    slept[0] += 3600

    assert empty.many_hosts == renewed(now_mono + 1)
    assert not renewed(now_mono + 1.5)
    place.leave()
