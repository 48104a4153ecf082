"""``finish``: the guard of every end, what an end does to its job, and the claim in the same call."""

from __future__ import annotations

import pytest

from queuectl.job import Outcome, RunEnd, State, Verdict
from tests.store.build import (
    EVERYTHING,
    T0,
    cancelled,
    claim_ids,
    completed,
    dead,
    failed,
    snapshot,
    spec,
    specs,
    stopped,
    worker,
)

ENDS = [completed, failed, dead, stopped, cancelled]


@pytest.fixture
def claim(store):
    """One job that w1 runs, with one loss and one failure behind it."""
    store.add([spec()], T0)
    store.finish("w1", [failed(store.claim("w1", 1, (), T0)[0], T0, retry_at=T0)], now=T0)
    store.register(worker("doomed"))
    assert ["job1"] == claim_ids(store.claim("doomed", 1, (), T0))
    store.condemn("doomed", 100.0)
    store.release_lost("doomed", 3, T0)
    claim = store.claim("w1", 1, (), T0)[0]
    assert (3, 1, 1) == (claim.job.attempts, claim.job.failures, claim.job.losses)
    return claim


# -- what an end does -------------------------------------------------------------------------


def test_a_completed_job_has_ended(store, claim):
    """Completed: an end time, no reason, no owner, and the row of losses is over."""
    answer = store.finish("w1", [completed(claim, T0 + 5)], now=T0 + 6)
    job = store.get("job1")

    assert [True] == answer.accepted
    assert ("completed", T0 + 5, None, None, None) == (job.state, job.ended_at, job.reason, job.run_id, job.worker_id)
    assert (3, 1, 0, T0 + 6) == (job.attempts, job.failures, job.losses, job.updated_at)


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT])
def test_a_failed_job_waits_for_its_retry(store, claim, outcome):
    """Failed: one failure more, the row of losses over, due when the verdict says, with the reason."""
    store.finish("w1", [failed(claim, T0 + 5, retry_at=T0 + 9, outcome=outcome)], now=T0 + 5)
    job = store.get("job1")

    assert ("failed", T0 + 9, "exit 3", None) == (job.state, job.run_at, job.reason, job.ended_at)
    assert (3, 2, 0, None) == (job.attempts, job.failures, job.losses, job.worker_id)


def test_a_dead_job_is_in_the_dlq_with_its_reason(store, claim):
    """Dead: the failure counts, and the reason stays."""
    store.finish("w1", [dead(claim, T0 + 5)], now=T0 + 5)
    job = store.get("job1")

    assert ("dead", "exit 3", T0 + 5, 2) == (job.state, job.reason, job.ended_at, job.failures)


def test_a_stopped_job_is_pending_at_once(store, claim):
    """Stopped: it costs no retry, and the next worker takes it now."""
    store.finish("w1", [stopped(claim, T0 + 5)], now=T0 + 5)
    job = store.get("job1")

    assert ("pending", 3, 1, None, None) == (job.state, job.attempts, job.failures, job.ended_at, job.reason)
    assert ["job1"] == claim_ids(store.claim("w2", 1, (), T0 + 5))


def test_a_cancelled_job_says_so(store, claim):
    """Cancelled while it ran: ended, not asked any longer, no failure."""
    store.cancel(["job1"], T0 + 1)
    store.finish("w1", [cancelled(claim, T0 + 5)], now=T0 + 5)
    job = store.get("job1")

    assert ("cancelled", "cancelled while it ran", T0 + 5) == (job.state, job.reason, job.ended_at)
    assert (False, 1) == (job.cancel_requested, job.failures)


@pytest.mark.parametrize("end", [failed, stopped])
def test_a_job_that_was_to_be_cancelled_never_waits_again(store, claim, end):
    """The worker had not yet read the wish when its run ended: the store still grants it."""
    store.cancel(["job1"], T0 + 1)

    accepted = store.finish("w1", [end(claim, T0 + 5)], now=T0 + 5).accepted

    assert ([True], "cancelled") == (accepted, store.get("job1").state)
    assert [] == store.claim("w2", 1, (), T0 + 100)


def test_a_job_that_completed_before_its_cancel_was_seen_stays_completed(store, claim):
    """What was done is not undone; the wish goes with the run."""
    store.cancel(["job1"], T0 + 1)
    store.finish("w1", [completed(claim, T0 + 5)], now=T0 + 5)

    assert ("completed", False) == (store.get("job1").state, store.get("job1").cancel_requested)


def test_the_end_of_a_run_is_on_record(store, claim):
    """All that the worker measured is kept with the run."""
    end = RunEnd(Outcome.TIMED_OUT, None, 9, "timed out after 1 s", T0 + 5, 12345678, 0.75)
    store.finish("w1", [(claim, end, Verdict(State.DEAD, None, "timed out after 1 s"))], now=T0 + 6)

    run = store.runs("job1")[-1]

    assert (claim.run_id, 3, Outcome.TIMED_OUT, None, 9) == (
        run.run_id, run.number, run.state, run.exit_code, run.signal,
    )  # fmt: skip
    assert (T0, T0 + 5, 12345678, 0.75, "timed out after 1 s") == (
        run.started_at, run.ended_at, run.peak_memory_bytes, run.cpu_s, run.reason,
    )  # fmt: skip


def test_failures_add_up_and_losses_in_between_do_not_count(store):
    """Retries are counted by failures alone; a lost run between two failures is not one of them."""
    store.add([spec()], T0)
    for number in range(1, 4):
        store.finish("w1", [failed(store.claim("w1", 1, (), T0)[0], T0, retry_at=T0)], now=T0)
        assert number == store.get("job1").failures
        store.register(worker("doomed"))
        store.claim("doomed", 1, (), T0)
        store.condemn("doomed", 100.0)
        store.release_lost("doomed", 3, T0)

    job = store.get("job1")

    assert ("pending", 3, 1, 6) == (job.state, job.failures, job.losses, job.attempts)


# -- the guard --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
def test_an_end_is_accepted_once(store, claim, end):
    """The second writing of an end is refused and changes nothing."""
    store.finish("w1", [end(claim, T0 + 5)], now=T0 + 5)
    before = snapshot(store)

    again = store.finish("w1", [end(claim, T0 + 6)], now=T0 + 6)

    assert ([False], before) == (again.accepted, snapshot(store))


@pytest.mark.parametrize("end", ENDS)
def test_one_end_twice_in_one_call_is_accepted_once(store, claim, end):
    """The guard holds within a call too."""
    answer = store.finish("w1", [end(claim, T0 + 5), end(claim, T0 + 5)], now=T0 + 5)

    assert [True, False] == answer.accepted


@pytest.mark.parametrize("end", ENDS)
def test_a_worker_cannot_end_the_run_of_another(store, claim, end):
    """The guard knows the owner."""
    before = snapshot(store)

    answer = store.finish("w2", [end(claim, T0 + 5)], now=T0 + 5)

    assert ([False], before) == (answer.accepted, snapshot(store))


@pytest.mark.parametrize("end", ENDS)
def test_a_late_worker_cannot_finish_a_job_that_was_taken_away(store, claim, end):
    """A worker presumed dead whose job waits again finds its result refused."""
    store.condemn("w1", 100.0)
    assert [("job1", "pending")] == store.release_lost("w1", 3, T0 + 1)
    before = snapshot(store)

    answer = store.finish("w1", [end(claim, T0 + 5)], count=1, now=T0 + 5)

    assert ([False], [], before) == (answer.accepted, answer.claims, snapshot(store))


@pytest.mark.parametrize("end", ENDS)
def test_a_late_worker_cannot_finish_a_job_given_to_another(store, claim, end):
    """The job runs elsewhere: the late result is refused, the new one accepted."""
    store.condemn("w1", 100.0)
    store.release_lost("w1", 3, T0 + 1)
    fast = store.claim("w2", 1, (), T0 + 2)[0]
    before = snapshot(store)

    refused = store.finish("w1", [end(claim, T0 + 5)], now=T0 + 5).accepted
    unchanged = snapshot(store)
    accepted = store.finish("w2", [completed(fast, T0 + 6)], now=T0 + 6).accepted

    assert ([False], before, [True]) == (refused, unchanged, accepted)


@pytest.mark.parametrize("end", ENDS)
def test_a_late_run_cannot_finish_the_next_run_of_its_own_worker(store, claim, end):
    """The same worker, registered anew under its old name, runs the job again: the old run is still refused."""
    store.condemn("w1", 100.0)
    store.release_lost("w1", 3, T0 + 1)
    store.register(worker("w1"))
    fresh = store.claim("w1", 1, (), T0 + 2)[0]
    before = snapshot(store)

    refused = store.finish("w1", [end(claim, T0 + 5)], now=T0 + 5).accepted

    assert ([False], before) == (refused, snapshot(store))
    assert [True] == store.finish("w1", [completed(fresh)], now=T0 + 6).accepted


def test_an_end_after_a_prune_is_refused(store, claim):
    """The job is gone, and so is the run: nothing to write to."""
    store.condemn("w1", 100.0)
    store.release_lost("w1", 1, T0 + 1)
    assert 1 == store.prune(EVERYTHING)

    assert [False] == store.finish("w1", [completed(claim)], now=T0 + 5).accepted


def test_an_end_after_a_reset_is_refused(store, claim):
    """A job of the same id and row that came after the reset is another one."""
    store.reset()
    store.add([spec()], T0)
    other = store.claim("w1", 1, (), T0 + 1)[0]
    before = snapshot(store)

    refused = store.finish("w1", [completed(claim)], now=T0 + 5).accepted

    assert ([False], before) == (refused, snapshot(store))
    assert [True] == store.finish("w1", [completed(other)], now=T0 + 5).accepted


def test_a_condemned_worker_may_finish_until_its_jobs_are_taken(store, claim):
    """The taking away is the fence, not the verdict over the worker: its result is good and is kept."""
    store.condemn("w1", 100.0)

    answer = store.finish("w1", [completed(claim, T0 + 5)], count=1, now=T0 + 5)

    assert ([True], "completed") == (answer.accepted, store.get("job1").state)
    assert [] == store.release_lost("w1", 3, T0 + 6)


def test_an_end_that_comes_after_the_retry_is_refused(store):
    """A user started the lost job over: the old run no longer owns it."""
    store.add([spec()], T0)
    claim = store.claim("w1", 1, (), T0)[0]
    store.condemn("w1", 100.0)
    store.release_lost("w1", 1, T0 + 1)
    store.retry(["job1"], now=T0 + 2)
    before = snapshot(store)

    answer = store.finish("w1", [completed(claim)], now=T0 + 5)

    assert ([False], before) == (answer.accepted, snapshot(store))


# -- several at once --------------------------------------------------------------------------


def test_ends_and_claims_go_in_one_call(store):
    """Ends are answered in their order, good and bad ones mixed, and free slots are filled at once."""
    store.add(specs(6), T0)
    claims = store.claim("w1", 3, (), T0)
    foreign = store.claim("w2", 1, (), T0)[0]

    answer = store.finish(
        "w1",
        [completed(claims[0]), completed(foreign), failed(claims[1]), dead(claims[2])],
        count=5,
        now=T0 + 10,
    )

    assert [True, False, True, True] == answer.accepted
    assert ["job5", "job6"] == claim_ids(answer.claims)
    assert ["completed", "failed", "dead", "processing"] == [store.get(f"job{n}").state for n in (1, 2, 3, 4)]


def test_a_job_put_back_may_be_claimed_in_the_same_call(store):
    """A stopped job is due at once, for the very call that puts it back."""
    store.add([spec()], T0)
    first = store.claim("w1", 1, (), T0)[0]

    answer = store.finish("w1", [stopped(first, T0)], count=1, now=T0)

    assert ["job1"] == claim_ids(answer.claims)
    assert answer.claims[0].run_id > first.run_id


@pytest.mark.parametrize("end", [completed, dead, cancelled])
@pytest.mark.parametrize("lines", [("a", "a"), ("a", "b"), ("b", "a")])
def test_one_end_and_one_claim_are_counted_where_they_belong(store, lines, end):
    """The usual turn, also from one queue to another: each queue's counters move by its own job."""
    old, new = lines
    store.add([spec(queue=old)], T0)
    claim = store.claim("w1", 1, (), T0)[0]
    store.add([spec(queue=new), spec(queue=new)], T0)

    answer = store.finish("w1", [end(claim, T0)], count=1, queues=(new,), now=T0)

    assert ([True], ["job2"]) == (answer.accepted, claim_ids(answer.claims))
    ended = State(store.get("job1").state).value
    counted = {info.name: (info.pending, info.processing, getattr(info, ended)) for info in store.queues()}
    assert counted[new] == (1, 1, int(old == new))
    assert counted[old] == ((1, 1, 1) if old == new else (0, 0, 1))
    assert [] == store.check()


def test_the_claim_of_a_finish_follows_the_same_rules(store):
    """Queue filters hold, and what is not due stays."""
    store.add([spec(id="a"), spec(id="b", queue="other"), spec(id="c", delay_s=99), spec(id="d")], T0)
    claim = store.claim("w1", 1, (), T0)[0]

    answer = store.finish("w1", [completed(claim, T0)], count=9, queues=("default",), now=T0)

    assert ["d"] == claim_ids(answer.claims)


def test_output_travels_with_the_end(store, claim):
    """What the command printed last is stored in the transaction of its end."""
    store.finish("w1", [completed(claim)], now=T0 + 5, outputs=[(claim.run_id, [(0, b"out"), (3, b"put")], None)])

    assert [(0, b"out"), (3, b"put")] == store.output(claim.run_id)
