"""Jobs that wait until others have completed: held, let go in the transaction that ends the last of these."""

from __future__ import annotations

import pytest

from queuectl.errors import InvalidJob
from queuectl.job import ENDED, JobFilter
from tests.store.build import (
    T0,
    bring_to,
    claim_ids,
    completed,
    dead,
    drain,
    failed,
    recount,
    snapshot,
    spec,
    stopped,
)

LATER = T0 + 500


def complete(store, job_id, now=T0, worker_id="w1"):
    """Run a job that is the next, and complete it."""
    [claim] = store.claim(worker_id, 1, (), now)
    assert job_id == claim.job.id
    assert [True] == store.finish(worker_id, [completed(claim, now)], now=now).accepted


def test_a_job_waits_until_the_other_has_completed(store):
    """It is pending, not due, nobody can claim it; with the other's end it is due at once."""
    store.add([spec(id="first"), spec(id="second", after=["first"])], T0)
    job = store.get("second")

    assert ("pending", True, ["first"], T0) == (job.state, job.held, job.after, job.run_at)
    assert not job.is_due(LATER)
    assert (["first"], []) == (drain(store, now=T0), drain(store, now=LATER))
    assert store.next_due((), LATER) is None


def test_the_last_of_several_lets_it_go(store):
    """In whatever order they complete, and whoever completes them; it is due from the last end on."""
    store.add([spec(id="a"), spec(id="b"), spec(id="c", after=["a", "b"])], T0)
    a, b = store.claim("w1", 2, (), T0)

    store.finish("w1", [completed(b, T0 + 3)], now=T0 + 3)
    assert store.get("c").held
    store.finish("w1", [completed(a, T0 + 7)], now=T0 + 7)

    job = store.get("c")
    assert (False, T0 + 7, T0 + 7, ["a", "b"]) == (job.held, job.run_at, job.updated_at, job.after)
    assert ["c"] == claim_ids(store.claim("w1", 1, (), T0 + 7))


def test_several_ends_at_once_let_all_go(store):
    """One call ends two jobs: what needs either or both is let go, and no more."""
    store.add([spec(id="a"), spec(id="b"), spec(id="z", delay_s=9999)], T0)
    store.add(
        [
            spec(id="on-a", after=["a"]), spec(id="on-both", after=["b", "a"]), spec(id="on-z", after=["a", "z"]),
            spec(id="on-b", after=["b"]),
        ],
        T0,
    )  # fmt: skip
    claims = store.claim("w1", 5, (), T0)
    assert ["a", "b"] == claim_ids(claims)

    store.finish("w1", [completed(claim, T0 + 1) for claim in claims], now=T0 + 1)

    assert ["on-a", "on-both", "on-b"] == drain(store, now=T0 + 1)
    assert store.get("on-z").held


def test_a_chain_runs_link_by_link(store):
    """Each is let go by the one before it."""
    store.add([spec(id="1"), spec(id="2", after=["1"]), spec(id="3", after=["2"])], T0)

    for job_id in ("1", "2", "3"):
        complete(store, job_id)

    assert {"completed"} == {job.state for job in store.jobs(JobFilter())}


def test_what_the_end_let_go_can_be_claimed_with_the_next_call(store):
    """The worker that ended the other gets it, in the same call or in the next."""
    store.add([spec(id="a"), spec(id="b", after=["a"])], T0)
    [claim] = store.claim("w1", 1, (), T0)

    found = store.finish("w1", [completed(claim, T0)], 1, now=T0).claims or store.claim("w1", 1, (), T0)

    assert ["b"] == claim_ids(found)
    assert (["a"], False) == (found[0].job.after, found[0].job.held)


@pytest.mark.parametrize("end", [failed, dead, stopped])
def test_only_completion_counts(store, end):
    """A run that failed, or was put back, lets nothing go; nor does the other's death."""
    store.add([spec(id="a"), spec(id="b", after=["a"])], T0)
    [claim] = store.claim("w1", 1, (), T0)

    store.finish("w1", [end(claim, T0)], now=T0)

    assert store.get("b").held
    assert "b" not in drain(store, now=LATER)


def test_a_retry_of_the_dead_one_lets_it_go(store):
    """The DLQ is not the end: the other is retried, completes, and what waited for it goes on."""
    store.add([spec(id="a"), spec(id="b", after=["a"])], T0)
    [claim] = store.claim("w1", 1, (), T0)
    store.finish("w1", [dead(claim, T0)], now=T0)

    store.retry(["a"], only_dead=True, now=LATER)
    complete(store, "a", LATER)

    assert ["b"] == drain(store, now=LATER)


@pytest.mark.parametrize("state", ["pending", "processing", "failed", "dead", "cancelled"])
def test_every_state_but_completed_holds(store, state):
    """Whatever the other is at the time of the enqueue."""
    bring_to(store, state, "a")

    store.add([spec(id="b", after=["a"])], T0)

    assert (["a"], True) == (store.get("b").after, store.get("b").held)


def test_a_completed_one_holds_nothing(store):
    """It is due at once, and still tells what it came after."""
    bring_to(store, "completed", "a")

    job = store.add_one(spec(id="b", after=["a"]), T0)

    assert (["a"], False, T0) == (job.after, job.held, job.run_at)
    assert job == store.get("b")
    assert ["b"] == drain(store)


def test_one_that_completed_once_is_no_longer_waited_for(store):
    """It may be retried and fail: what it has let go stays so."""
    store.add([spec(id="a"), spec(id="b", after=["a"])], T0)
    complete(store, "a")
    store.retry(["a"], now=LATER)

    assert not store.get("b").held
    assert ["b", "a"] == drain(store, now=LATER)


def test_its_own_time_is_waited_for_as_well(store):
    """A delay counts from the enqueue; what completes before that does not hurry it."""
    store.add([spec(id="a"), spec(id="b", after=["a"], delay_s=100), spec(id="c", after=["a"], run_at=T0 + 5)], T0)
    complete(store, "a", T0 + 50)

    assert {"b": (T0 + 100, False), "c": (T0 + 50, False)} == {
        name: (store.get(name).run_at, store.get(name).held) for name in "bc"
    }
    assert (["c"], ["b"]) == (drain(store, now=T0 + 50), drain(store, now=T0 + 100))


def test_it_is_behind_what_was_due_before(store):
    """From its release on it waits in line like any other; a larger priority comes first all the same."""
    store.add([spec(id="a", priority=9), spec(id="b", after=["a"]), spec(id="urgent", after=["a"], priority=1)], T0)
    store.add([spec(id="other")], T0 + 1)
    complete(store, "a", T0 + 2)

    assert ["urgent", "other", "b"] == drain(store, now=T0 + 3)


# -- what users do ----------------------------------------------------------------------------


def test_a_held_job_can_be_cancelled(store):
    """At once, as any that waits; the end of the other does not bring it back."""
    store.add([spec(id="a"), spec(id="b", after=["a"])], T0)

    assert {"b": "cancelled"} == store.cancel(["b"], T0)
    complete(store, "a")

    job = store.get("b")
    assert ("cancelled", False, T0) == (job.state, job.held, job.run_at)
    assert [] == drain(store, now=LATER)


def test_a_cancelled_one_that_is_retried_waits_again(store):
    """For what has still to complete, and for nothing else."""
    store.add([spec(id="a"), spec(id="b", after=["a"], delay_s=1000)], T0)
    store.cancel(["b"], T0)
    store.retry(["b"], now=T0 + 1)

    assert ("pending", True, T0 + 1) == (store.get("b").state, store.get("b").held, store.get("b").run_at)
    complete(store, "a", T0 + 2)
    assert ["b"] == drain(store, now=T0 + 2)


def test_a_cancelled_one_whose_need_is_met_runs_when_it_is_retried(store):
    """By id or by filter: nothing holds it any more."""
    store.add([spec(id="a"), spec(id="b", after=["a"]), spec(id="c", after=["a"])], T0)
    store.cancel(["b", "c"], T0)
    complete(store, "a")

    store.retry(["b"], now=T0 + 1)
    assert 1 == store.retry_where(JobFilter(("cancelled",)), T0 + 1)

    assert (False, False) == (store.get("b").held, store.get("c").held)
    assert ["b", "c"] == drain(store, now=T0 + 1)


def test_a_filter_cancels_and_retries_held_jobs(store):
    """As it does the others."""
    store.add([spec(id="a"), spec(id="b", after=["a"]), spec(id="c", after=["b"])], T0)

    assert (3, []) == store.cancel_where(JobFilter(("pending",)), T0)
    assert 3 == store.retry_where(JobFilter(("cancelled",)), T0 + 1)

    assert [False, True, True] == [store.get(name).held for name in "abc"]
    for name in "abc":
        complete(store, name, T0 + 1)


def test_an_edit_changes_what_it_waits_for(store):
    """Other jobs, or none; the first are then not waited for any more."""
    store.add([spec(id="a"), spec(id="b"), spec(id="c", after=["a"])], T0)

    store.edit("c", {"after": ["b"]}, T0)
    complete(store, "a")
    assert (["b"], True) == (store.get("c").after, store.get("c").held)
    store.edit("c", {"after": []}, LATER)

    assert ([], False, LATER) == (store.get("c").after, store.get("c").held, store.get("c").run_at)
    assert ["b", "c"] == drain(store, now=LATER)


@pytest.mark.parametrize("state", ["pending", "failed"])
def test_an_edit_may_hold_a_job_that_waited_for_nothing(store, state):
    """Also one that waits for a retry, which stays failed meanwhile."""
    bring_to(store, state, "b")
    before = store.get("b").run_at
    store.add([spec(id="a", priority=7)], T0)

    store.edit("b", {"after": ["a"]}, T0)
    assert (state, True, before) == (store.get("b").state, store.get("b").held, store.get("b").run_at)
    assert ["a"] == claim_ids(store.claim("w2", 5, (), LATER))
    store.edit("b", {"after": None}, LATER)

    assert (state, False) == (store.get("b").state, store.get("b").held)
    assert ["b"] == drain(store, now=LATER)


def test_an_edit_of_the_time_does_not_let_it_go(store):
    """``delay=0`` is no way past the other."""
    store.add([spec(id="a"), spec(id="b", after=["a"], delay_s=1000)], T0)

    store.edit("b", {"delay_s": 0.0, "priority": 9}, T0 + 1)

    assert (True, T0 + 1, 9) == (store.get("b").held, store.get("b").run_at, store.get("b").priority)
    complete(store, "a", T0 + 1)
    assert ["b"] == drain(store, now=T0 + 1)


def test_an_edit_after_which_it_needs_only_what_is_done_lets_it_go(store):
    """Completed jobs may be named, too."""
    bring_to(store, "completed", "done")
    store.add([spec(id="a"), spec(id="b", after=["a"])], T0)

    store.edit("b", {"after": ["done"]}, T0)

    assert (["done"], False) == (store.get("b").after, store.get("b").held)


def test_a_job_cannot_wait_for_itself(store):
    """Nor for one that waits for it, through however many; nothing is changed."""
    store.add([spec(id="a"), spec(id="b", after=["a"]), spec(id="c", after=["b"])], T0)
    before = snapshot(store)

    for job_id, needs in (("a", ["a"]), ("a", ["b"]), ("a", ["c"]), ("b", ["a", "c"])):
        with pytest.raises(InvalidJob, match=f"{job_id} would wait for itself"):
            store.edit(job_id, {"after": needs}, T0)
    assert before == snapshot(store)
    for job_id in "abc":
        complete(store, job_id)


@pytest.mark.parametrize("named", ["missing", "z", "y"])
def test_a_job_that_does_not_exist_cannot_be_waited_for(store, named):
    """Nor one that comes behind it in the same batch, nor itself: nothing is stored, no id is used up."""
    before = snapshot(store)

    with pytest.raises(InvalidJob, match=f"'after' names {named}, but there is no such job") as caught:
        store.add([spec(id="x"), spec(id="y", after=["x", named]), spec(id="z")], T0)
    assert 1 == caught.value.place

    assert before == snapshot(store)
    assert ["job1"] == store.add([spec()], T0)
    with pytest.raises(InvalidJob):
        store.edit("job1", {"after": [named]}, T0)


# -- counts, deletion -------------------------------------------------------------------------


def test_held_jobs_are_not_left_to_do(store):
    """A worker that drains waits for what they need, not for them: of a dead job, for ever."""
    store.add([spec(id="a"), spec(id="b", after=["a"]), spec(id="c", queue="other", after=["a"])], T0)
    assert (1, 1, 0) == (store.work_left(), store.work_left(("default",)), store.work_left(("other",)))

    [claim] = store.claim("w1", 1, (), T0)
    assert 1 == store.work_left()
    store.finish("w1", [completed(claim, T0)], now=T0)

    assert (2, 1, 1) == (store.work_left(), store.work_left(("default",)), store.work_left(("other",)))


def test_held_jobs_of_a_paused_queue_are_not_taken_off_twice(store):
    """They were not counted in the first place."""
    store.add([spec(id="a"), spec(id="b", queue="paused", after=["a"])], T0)
    store.set_paused("paused", True)

    assert 1 == store.work_left()


def test_the_counters_agree_with_the_rows(store):
    """Held jobs are pending ones."""
    store.add([spec(id="a"), spec(id="b", after=["a"]), spec(id="c", after=["b"])], T0)
    complete(store, "a")

    assert {("default", "completed"): 1, ("default", "pending"): 2} == recount(store)


@pytest.mark.parametrize("state", ["dead", "cancelled"])
def test_a_deleted_one_is_waited_for_until_somebody_says_otherwise(store, state):
    """What was to run after a backup does not run because the backup has failed and was purged."""
    bring_to(store, state, "a")
    store.add([spec(id="b", after=["a"])], T0)
    assert 1 == store.prune(JobFilter((state,)))

    assert (True, ["a"]) == (store.get("b").held, store.get("b").after)
    store.edit("b", {"after": []}, T0)

    assert ["b"] == drain(store)


def test_a_deleted_waiter_leaves_nothing_behind(store):
    """The other may complete, be retried and deleted as if nobody had waited for it."""
    store.add([spec(id="a"), spec(id="b", after=["a"])], T0)
    store.cancel(["b"], T0)
    assert 1 == store.prune(JobFilter(("cancelled",)))
    assert {"a": []} == {name: store.needs(name) for name in "a"}
    complete(store, "a")

    assert 1 == store.prune(JobFilter(ENDED))


def test_a_reset_forgets_what_was_needed(store):
    """Rows of the next jobs do not wait for those of the last."""
    store.add([spec(id="a"), spec(id="b", after=["a"])], T0)
    store.reset()

    store.add([spec(id="a"), spec(id="b")], T0)

    assert ["a", "b"] == drain(store)


# -- looking ----------------------------------------------------------------------------------


def test_what_a_job_still_needs_is_told(store):
    """By id and state; None for what was deleted; nothing for a job that is not held."""
    store.add([spec(id="a"), spec(id="b"), spec(id="c", delay_s=99)], T0)
    bring_to(store, "dead", "d")
    store.add([spec(id="e", after=["a", "b", "c", "d"])], T0)
    assert [("a", "pending"), ("b", "pending"), ("c", "pending"), ("d", "dead")] == store.needs("e")

    complete(store, "a")
    store.claim("w1", 1, (), T0)
    store.prune(JobFilter(("dead",)))

    assert [("b", "processing"), ("c", "pending"), (None, None)] == store.needs("e")
    assert ([], []) == (store.needs("a"), store.needs("nobody"))


def test_who_waits_for_a_job_is_told(store):
    """Those that are held by it now."""
    store.add([spec(id="a"), spec(id="b", after=["a"]), spec(id="c", after=["a", "b"]), spec(id="d")], T0)
    store.cancel(["b"], T0)

    assert (["c"], ["c"], []) == (store.needed_by("a"), store.needed_by("b"), store.needed_by("d"))


def test_what_can_never_run_as_things_are_is_told(store):
    """A job that needs one that is dead, cancelled or deleted, through however many others; and that one."""
    bring_to(store, "dead", "d")
    store.add(
        [
            spec(id="ok"), spec(id="fine", after=["ok"]), spec(id="b", after=["ok", "d"]), spec(id="c", after=["b"]),
            spec(id="gone"), spec(id="e", after=["gone"]), spec(id="f", after=["ok"]), spec(id="g", after=["f"]),
        ],
        T0,
    )  # fmt: skip
    store.cancel(["gone", "f"], T0)
    names = ["ok", "fine", "b", "c", "e", "g", "nobody"]

    assert {"b": ("d", "dead"), "c": ("d", "dead"), "e": ("gone", "cancelled"), "g": ("f", "cancelled")} == (
        store.stuck(names)
    )
    store.prune(JobFilter(("cancelled",)))
    assert {"e": (None, None), "g": (None, None)} == {
        name: why for name, why in store.stuck(names).items() if name in "eg"
    }
    store.retry(["d"], now=T0)
    assert {"e", "g"} == set(store.stuck(names))


def test_listings_show_held_jobs_with_their_own_time(store):
    """In whatever way they are read."""
    store.add([spec(id="a"), spec(id="b", after=["a"], delay_s=7, tags=["x"])], T0)

    job = store.get("b")
    assert (T0 + 7, True) == (job.run_at, job.held)
    assert job == store.find(["b"])["b"] == store.jobs(JobFilter(tags=("x",)))[0]
    assert [job] == store.jobs_at([job.seq], JobFilter())
    assert job == store.jobs(JobFilter(), sort="run_at")[-1]
    assert T0 == store.oldest_due(T0)
