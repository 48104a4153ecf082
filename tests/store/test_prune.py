"""``prune`` and ``reset``: what is deleted with a job, and what never comes back."""

from __future__ import annotations

import contextlib
import os

import pytest

from queuectl import pruning
from queuectl.errors import StoreUnavailable
from queuectl.job import ENDED, STATES, JobFilter
from queuectl.pruning import Pruner
from tests.store.build import T0, bring_to, completed, counters, recount, snapshot, spec, specs

# -- prune ------------------------------------------------------------------------------------


def test_only_ended_jobs_are_pruned(store):
    """Without conditions all that has ended goes, and nothing that waits or runs."""
    for state in STATES:
        bring_to(store, state, state)

    count = store.prune(JobFilter())

    assert (3, ["pending", "processing", "failed"]) == (count, [job.id for job in store.jobs(JobFilter())])


@pytest.mark.parametrize("states", [("pending",), ("processing", "failed"), ("pending", "processing", "failed")])
def test_naming_a_state_that_has_not_ended_prunes_nothing(store, states):
    """A filter cannot delete what waits or runs."""
    for state in STATES:
        bring_to(store, state, state)
    before = snapshot(store)

    assert 0 == store.prune(JobFilter(states=states))
    assert before == snapshot(store)


@pytest.mark.parametrize("state", ENDED)
def test_a_state_narrows_a_prune(store, state):
    """Named with others, only the ended ones of them go."""
    for each in STATES:
        bring_to(store, each, each)

    count = store.prune(JobFilter(states=(state, "pending")))

    assert (1, None) == (count, store.get(state))


def test_age_queue_and_tag_narrow_a_prune(store):
    """All conditions hold together; the time is that of the job's end."""
    bring_to(store, "completed", "hit", queue="a", tags=["x", "y"])
    bring_to(store, "completed", "queue", queue="b", tags=["x"])
    bring_to(store, "completed", "tag", queue="a", tags=["xx", "z"])
    bring_to(store, "completed", "none", queue="a")
    bring_to(store, "completed", "young", now=T0 + 100, queue="a", tags=["x"])

    count = store.prune(JobFilter((), ("a",), ("x", "w"), T0 + 100))

    assert 1 == count
    assert ["queue", "tag", "none", "young"] == [job.id for job in store.jobs(JobFilter())]


def test_a_prune_goes_in_steps(store):
    """The limit bounds one step; the steps end with 0."""
    for _ in range(7):
        bring_to(store, "completed")
    bring_to(store, "pending")

    steps = [store.prune(JobFilter(), limit=3) for _ in range(4)]

    assert ([3, 3, 1, 0], 1) == (steps, len(store.jobs(JobFilter())))


@pytest.mark.parametrize("runs", [1, 40])
def test_the_output_of_one_job_is_deleted_in_steps(store, runs):
    """40 MiB of one run, or of all runs of a job that was retried; the jobs beside it go whole, before and after it."""
    part = 1 << 20
    store.add([spec()] * 3, T0)
    claims = store.claim("w1", 3, (), T0)
    store.append_output(claims[0].run_id, [(0, b"small")])
    store.finish("w1", [completed(claims[0]), completed(claims[2])], now=T0)
    claim = claims[1]
    for number in range(1, runs + 1):
        for start in range(0, 40 // runs * part, part):
            store.append_output(claim.run_id, [(start, os.urandom(part))])
        store.finish("w1", [completed(claim)], now=T0)
        if number < runs:
            store.retry(["job2"], now=T0)
            (claim,) = store.claim("w1", 1, (), T0)
    seen = [run.run_id for run in store.runs("job2")]

    steps = []
    while steps[-1:] != [0]:
        steps.append(store.prune(JobFilter()))
        assert steps[-1] is not None or store.get("job2") is not None

    assert [1, None, 2, 0] == list(dict.fromkeys(steps))
    assert [] == store.jobs(JobFilter())
    assert not any(store.output(run_id) or store.runs("job2") for run_id in seen)
    assert {} == counters(store.queues()) == recount(store)


def test_runs_and_output_go_with_their_job(store):
    """Nothing is left of a pruned job, and all of the others."""
    kept = bring_to(store, "completed", now=T0 + 100)
    gone = bring_to(store, "dead")
    runs = {job_id: store.runs(job_id)[0].run_id for job_id in (kept, gone)}
    for run_id in runs.values():
        store.append_output(run_id, [(0, b"text")])

    store.prune(JobFilter(ended_before=T0 + 50))

    assert ([], []) == (store.runs(gone), store.output(runs[gone]))
    assert (1, [(0, b"text")]) == (len(store.runs(kept)), store.output(runs[kept]))


def test_counters_follow_a_prune(store):
    """What is deleted is counted out of its queue, and an emptied queue is listed no more."""
    for queue in ("a", "b"):
        for state in ENDED:
            bring_to(store, state, queue=queue)
    bring_to(store, "pending", queue="a")

    store.prune(JobFilter())

    assert {("a", "pending"): 1} == counters(store.queues()) == recount(store)
    assert ["a"] == [queue.name for queue in store.queues()]


def test_output_that_comes_after_the_prune_leaves_nothing_behind(store):
    """A worker that was given up for lost writes on for a job that is gone: it must not pile up."""
    store.add([spec()], T0)
    claim = store.claim("w1", 1, (), T0)[0]
    store.condemn("w1", 100.0)
    store.release_lost("w1", 1, T0)
    store.prune(JobFilter())

    store.append_output(claim.run_id, [(0, b"late")])
    store.finish("w1", [completed(claim)], now=T0, outputs=[(claim.run_id, [(4, b"later")], None)])

    assert [] == store.output(claim.run_id)


# -- reset ------------------------------------------------------------------------------------


def test_a_reset_store_is_like_new(store):
    """No jobs, runs, output, queues or settings; ids from job1 again; workers stay registered."""
    for state in STATES:
        bring_to(store, state, state)
    bring_to(store, "processing", "job5", queue="other")
    run_id = store.get("job5").run_id
    store.append_output(run_id, [(0, b"text")])
    store.set_paused("default", True)
    store.set_limit("other", 3)
    store.set_setting("max_retries", "9")
    workers = store.workers()

    store.reset()

    assert ([], [], {}, []) == (store.jobs(JobFilter()), store.queues(), store.settings(), store.output(run_id))
    assert workers == store.workers()
    assert [f"job{number}" for number in range(1, 8)] == store.add(specs(7), T0)
    assert (3, 7) == (store.get("job1").max_retries, len(store.claim("w1", 9, (), T0)))


def test_an_id_of_before_is_free_after_a_reset(store):
    """Given and generated ids may all come again."""
    store.add([spec(), spec(id="mine"), spec(id="job7")], T0)

    store.reset()

    assert ["job7", "mine", "job1"] == store.add([spec(id="job7"), spec(id="mine"), spec()], T0)


def test_the_store_keeps_its_name_over_a_reset(store, open_again):
    """Run ids go on growing in the same store, so a run's mark stays unique."""
    name = store.store_id
    store.add([spec()], T0)
    before = store.claim("w1", 1, (), T0)[0].run_id

    store.reset()
    store.add([spec()], T0)
    after = store.claim("w1", 1, (), T0)[0].run_id

    assert (name, name) == (store.store_id, open_again().store_id)
    assert after > before


@pytest.mark.parametrize("most", [100, 60, 12])
def test_a_server_that_is_slow_is_asked_for_less(store, monkeypatch, most):
    """Large outputs on a slow disk: each try would be given up and undone, and none of them would ever go."""
    store.set_setting("keep_completed", "1h")
    then = store.now() - 7200
    store.add(specs(250), then)
    store.finish("w1", [completed(claim, then) for claim in store.claim("w1", 250, (), then)], now=then)
    monkeypatch.setattr(pruning, "STEP", 100)
    prune = store.prune

    def in_time(which, limit):
        if limit > most:
            raise StoreUnavailable("no answer for 5.0 s")
        return prune(which, limit)

    monkeypatch.setattr(store, "prune", in_time)
    pruner = Pruner(store)
    pruner._step = 100
    for _ in range(200):
        with contextlib.suppress(StoreUnavailable):
            pruner.step(pruner._due_mono + pruning.PRUNE_S)

    assert [] == list(store.jobs(JobFilter()))
