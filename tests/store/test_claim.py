"""``claim``, ``next_due``, ``work_left``: who gets which job when, and who does not."""

from __future__ import annotations

import pytest

from queuectl.job import JobFilter, Outcome
from tests.store.build import (
    T0,
    bring_to,
    claim_ids,
    completed,
    drain,
    failed,
    snapshot,
    spec,
    specs,
    stopped,
    worker,
)

# -- order ------------------------------------------------------------------------------------


def test_priority_comes_before_time_and_time_before_arrival(store):
    """The order is priority, larger first; then run_at, earlier first; then arrival."""
    store.add(
        [
            spec(id="late", run_at=T0 - 1),
            spec(id="early-second", run_at=T0 - 5),
            spec(id="urgent", priority=7, run_at=T0),
            spec(id="early-third", run_at=T0 - 5),
            spec(id="patient", priority=-7, run_at=T0 - 99),
        ],
        T0,
    )

    assert ["urgent", "early-second", "early-third", "late", "patient"] == drain(store)


def test_the_order_holds_across_queues(store):
    """A worker of all queues gets the most urgent job of them all."""
    store.add([spec(id="a", queue="one", priority=1), spec(id="b", queue="two", priority=3)], T0)
    store.add([spec(id="c", queue="one", priority=2), spec(id="d", queue="two", priority=1)], T0)

    assert ["b", "c", "a", "d"] == drain(store)


def test_a_batch_is_in_the_order_of_single_claims(store):
    """Several jobs in one call are those that as many calls would have given, in that order."""
    store.add([spec(priority=number % 3, queue=f"q{number % 2}") for number in range(12)], T0)

    batch = claim_ids(store.claim("w1", 5, (), T0))

    assert batch + drain(store) == [
        job.id for job in sorted(store.jobs(JobFilter()), key=lambda job: (-job.priority, job.run_at, job.seq))
    ]


def test_a_job_that_became_due_takes_its_place_in_the_order(store):
    """A job that waited for its time is ordered with the others by priority and run_at, once it is due."""
    store.add([spec(id="now"), spec(id="soon", delay_s=5), spec(id="urgent-later", delay_s=8, priority=1)], T0)

    assert ["urgent-later", "now", "soon"] == claim_ids(store.claim("w1", 9, (), T0 + 8))


def test_a_retry_is_ordered_by_the_time_it_waits_for(store):
    """A failed job that is due again stands behind those that were due before it."""
    store.add([spec(id="flaky")], T0)
    store.finish("w1", [failed(store.claim("w1", 1, (), T0)[0], T0, retry_at=T0 + 2)], now=T0)
    store.add([spec(id="second", run_at=T0 + 1), spec(id="fourth", run_at=T0 + 3)], T0)

    assert ["second", "flaky", "fourth"] == claim_ids(store.claim("w1", 9, (), T0 + 3))


# -- what is not claimed ----------------------------------------------------------------------


def test_nothing_to_claim_is_an_empty_list(store):
    """An empty store, or one where nothing waits, gives nothing."""
    bring_to(store, "completed")

    assert [] == store.claim("w1", 5, (), T0)


def test_a_job_is_not_claimed_before_its_time(store):
    """A job is due at its run_at, not a millisecond earlier."""
    store.add([spec(run_at=T0 + 10)], T0)

    assert [] == store.claim("w1", 1, (), T0 + 9.999)
    assert ["job1"] == claim_ids(store.claim("w1", 1, (), T0 + 10))


def test_a_retry_is_not_claimed_before_its_time(store):
    """A failed job waits for its run_at like any other."""
    bring_to(store, "failed")

    assert [] == store.claim("w1", 1, (), T0 + 1.999)
    assert ["job1"] == claim_ids(store.claim("w1", 1, (), T0 + 2))


def test_jobs_that_wait_never_block_others(store):
    """Scheduled and backing-off jobs, however urgent and many, do not hold up a job that is due."""
    for _ in range(3):
        bring_to(store, "failed")
    store.add(specs(1500, priority=9, delay_s=3600), T0)
    store.add([spec(id="due", priority=-9)], T0)

    assert ["due"] == claim_ids(store.claim("w1", 99, (), T0 + 1))


def test_more_jobs_than_one_step_become_due_and_all_run(store):
    """Thousands of jobs that become due at once are all claimed, once each, in order."""
    ids = store.add(specs(2500, delay_s=5), T0)

    claimed = [job_id for _ in range(30) for job_id in claim_ids(store.claim("w1", 100, (), T0 + 5))]

    assert ids == claimed


@pytest.mark.parametrize("state", ["processing", "completed", "dead", "cancelled"])
def test_only_waiting_jobs_are_claimed(store, state):
    """A job that runs or has ended is not given to anybody."""
    bring_to(store, state)

    assert [] == store.claim("w2", 5, (), T0 + 100)


def test_an_unregistered_worker_is_given_nothing(empty):
    """Without a row there is no lease, so nobody could tell when the job is lost."""
    empty.add([spec()], T0)
    before = snapshot(empty)

    assert [] == empty.claim("nobody", 1, (), T0)
    assert before == snapshot(empty)


def test_a_condemned_worker_is_given_nothing(store):
    """A worker that was given up for lost cannot begin anything new."""
    store.add([spec()], T0)
    store.condemn("w1", 100.0)

    assert [] == store.claim("w1", 1, (), T0)
    assert ["job1"] == claim_ids(store.claim("w2", 1, (), T0))


def test_a_worker_that_left_is_given_nothing(store):
    """After it took itself out a worker is unknown, until it registers anew."""
    store.add([spec()], T0)
    store.unregister("w1")

    assert [] == store.claim("w1", 1, (), T0)
    store.register(worker("w1"))
    assert ["job1"] == claim_ids(store.claim("w1", 1, (), T0))


# -- what a claim does ------------------------------------------------------------------------


def test_a_claimed_job_says_who_runs_it(store):
    """The claim returns the job as it is after the claim, and so does the store from then on."""
    store.add([spec("echo hi")], T0)

    claim = store.claim("w1", 1, (), T0 + 1)[0]

    assert ("processing", "w1", claim.run_id) == (claim.job.state, claim.job.worker_id, claim.job.run_id)
    assert (1, 1, T0 + 1, T0 + 1) == (claim.job.attempts, claim.job.run_no, claim.started_at, claim.job.updated_at)
    assert claim.job == store.get("job1")


def test_a_claim_begins_a_run(store):
    """The run is on record from its first moment, with its worker's whereabouts."""
    store.register(worker("far", host="elsewhere", pid=77))
    store.add([spec()], T0)

    claim = store.claim("far", 1, (), T0 + 1)[0]
    run = store.runs("job1")[0]

    assert (claim.run_id, "job1", 1, Outcome.RUNNING) == (run.run_id, run.job_id, run.number, run.state)
    assert (T0 + 1, None, None, None) == (run.started_at, run.ended_at, run.exit_code, run.signal)
    assert ("far", "elsewhere", 77) == (run.worker, run.host, run.pid)


def test_the_attempt_is_counted_at_the_claim(store):
    """A command that takes its worker down with it has used an attempt, though no end was ever written."""
    store.add([spec()], T0)

    for expected in (1, 2, 3):
        store.register(worker("doomed"))
        claim = store.claim("doomed", 1, (), T0)[0]
        store.condemn("doomed", 100.0)
        store.release_lost("doomed", 99, T0)

        assert (expected, expected) == (claim.job.attempts, store.get("job1").attempts)


def test_no_job_is_given_twice(store, open_again):
    """Whatever the connection and worker, a job that was claimed is gone."""
    ids = store.add(specs(6), T0)
    other = open_again()

    claimed = [
        *claim_ids(store.claim("w1", 2, (), T0)),
        *claim_ids(other.claim("w2", 2, (), T0)),
        *claim_ids(store.claim("w1", 9, (), T0)),
        *claim_ids(other.claim("w2", 9, (), T0)),
    ]

    assert ids == claimed


def test_run_ids_grow_and_are_never_reused(store):
    """Over retries, prunes and a reset each run has a larger number than all before: a fencing token."""
    run_ids = []
    for _ in range(2):
        store.add(specs(3), T0)
        claims = store.claim("w1", 3, (), T0)
        store.finish("w1", [completed(claim) for claim in claims], now=T0)
        store.retry([claims[0].job.id], now=T0)
        again = store.claim("w1", 1, (), T0)
        store.finish("w1", [completed(again[0])], now=T0)
        run_ids += [claim.run_id for claim in claims + again]
        store.prune(JobFilter())
    store.reset()
    store.add([spec()], T0)
    run_ids.append(store.claim("w1", 1, (), T0)[0].run_id)

    assert sorted(set(run_ids)) == run_ids


def test_a_count_of_zero_claims_nothing(store):
    """A worker without a free slot asks for none and gets none."""
    store.add([spec()], T0)

    assert [] == store.finish("w1", [], count=0, now=T0).claims
    assert "pending" == store.get("job1").state


# -- queues -----------------------------------------------------------------------------------


def test_a_worker_of_some_queues_gets_their_jobs_only(store):
    """The filter may name several queues, and ones that do not exist."""
    store.add([spec(id=f"{queue}{number}", queue=queue) for number in (1, 2) for queue in ("a", "b", "c")], T0)

    assert ["a1", "c1", "a2", "c2"] == drain(store, queues=("a", "c", "missing"))
    assert [] == store.claim("w1", 9, ("missing",), T0)
    assert ["b1", "b2"] == drain(store)


def test_jobs_of_a_paused_queue_stay(store):
    """A paused queue gives nothing, even when named, until it is resumed; other queues go on."""
    store.add([spec(id="held", queue="a"), spec(id="free", queue="b")], T0)
    store.set_paused("a", True)

    assert ["free"] == drain(store)
    assert [] == store.claim("w1", 9, ("a",), T0)
    store.set_paused("a", False)
    assert ["held"] == drain(store)


def test_a_queue_may_be_paused_before_it_has_jobs(store):
    """What is enqueued later waits as well."""
    store.set_paused("later", True)
    store.add([spec(queue="later")], T0)

    assert [] == store.claim("w1", 1, (), T0)


def test_a_paused_queue_lets_its_running_jobs_end(store):
    """Pausing touches only what waits."""
    store.add(specs(2), T0)
    claim = store.claim("w1", 1, (), T0)[0]
    store.set_paused("default", True)

    answer = store.finish("w1", [completed(claim)], count=1, now=T0)

    assert ([True], []) == (answer.accepted, answer.claims)


@pytest.mark.parametrize("batch", [1, 2, 50])
def test_no_more_jobs_of_a_queue_run_than_its_limit(store, batch):
    """The limit counts over all workers and within a batch; an end makes room, a raised limit too."""
    store.set_limit("tight", 3)
    store.add(specs(10, queue="tight"), T0)
    running = []
    for worker_id in ("w1", "w2") * 5:
        running += [(worker_id, claim) for claim in store.claim(worker_id, batch, (), T0)]
    assert 3 == len(running)

    owner, claim = running[0]
    answer = store.finish(owner, [completed(claim)], count=batch, now=T0)
    assert 1 == len(answer.claims)

    store.set_limit("tight", 5)
    assert 2 == len(store.claim("w1", 50, (), T0))
    store.set_limit("tight", None)
    assert 4 == len(store.claim("w1", 50, (), T0))


def test_a_full_queue_does_not_hold_up_others(store):
    """Jobs beyond a limit, however urgent, let those of other queues pass."""
    store.set_limit("tight", 1)
    store.add([*specs(3, queue="tight", priority=9), spec(id="other", queue="wide")], T0)

    assert ["job1", "other"] == claim_ids(store.claim("w1", 9, (), T0))


def test_a_limit_below_what_runs_stops_nothing_but_starts_nothing(store):
    """A lowered limit leaves running jobs alone and waits for their ends."""
    store.add(specs(5), T0)
    claims = store.claim("w1", 3, (), T0)
    store.set_limit("default", 2)

    first = store.finish("w1", [completed(claims[0])], count=9, now=T0)
    second = store.finish("w1", [completed(claims[1])], count=9, now=T0)

    assert ([True], [], [True]) == (first.accepted, first.claims, second.accepted)
    assert ["job4"] == claim_ids(second.claims)


@pytest.mark.parametrize("end", [completed, failed, stopped])
def test_an_end_makes_room_in_the_same_call(store, end):
    """``finish`` and its claim are one step, for a queue at its limit too."""
    store.set_limit("default", 1)
    store.add([spec(id="first"), spec(id="second", priority=-1)], T0)
    claim = store.claim("w1", 9, (), T0)[0]

    answer = store.finish("w1", [end(claim, T0)], count=9, now=T0)

    # A stopped job is pending again at once and is still the more urgent one.
    assert ["first" if end is stopped else "second"] == claim_ids(answer.claims)


# -- when there is something to do ------------------------------------------------------------


def test_next_due_is_when_the_next_job_may_run(store):
    """None if nothing waits; the earliest time of what waits; now or earlier if something is due."""
    assert store.next_due((), T0) is None
    store.add([spec(run_at=T0 + 30, priority=9), spec(run_at=T0 + 20)], T0)
    assert T0 + 20 == store.next_due((), T0)
    bring_to(store, "failed")
    assert T0 + 2 == store.next_due((), T0)
    store.add([spec()], T0)
    assert store.next_due((), T0) <= T0


def test_next_due_sees_only_what_may_be_claimed(store):
    """Paused queues, full queues and queues not asked for do not count; neither do jobs that ended."""
    store.add([spec(queue="paused"), spec(queue="other"), *specs(2, queue="full"), spec(run_at=T0 + 9)], T0)
    store.set_paused("paused", True)
    store.set_limit("full", 1)
    store.claim("w1", 1, ("full",), T0)
    bring_to(store, "completed", queue="other2")

    assert T0 + 9 == store.next_due(("paused", "full", "default", "other2"), T0)
    assert store.next_due(("paused", "full", "other2"), T0) is None


def test_next_due_in_the_past_means_now(store):
    """A job whose time came while nobody looked is due."""
    store.add([spec(run_at=T0 + 5)], T0)

    assert store.next_due((), T0 + 60) <= T0 + 60


def test_work_left_counts_what_waits_or_runs(store):
    """Waiting for now, for a time or for a retry, and running: all are work; what has ended is not."""
    for state in ("completed", "dead", "cancelled", "failed", "processing", "pending"):
        bring_to(store, state)
    store.add([spec(delay_s=3600)], T0)

    assert 4 == store.work_left()


def test_work_left_leaves_paused_and_other_queues_out(store):
    """A worker that drains its queues does not wait for what it will not be given."""
    store.add([spec(queue="a"), spec(queue="b"), spec(queue="b"), spec(queue="c")], T0)
    store.set_paused("c", True)

    assert (3, 2, 0, 1) == (
        store.work_left(), store.work_left(("b",)), store.work_left(("c", "none")), store.work_left(("a", "c")),
    )  # fmt: skip
