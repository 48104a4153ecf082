"""What users do to jobs: cancel, retry, edit. All or none, in the states that allow it."""

from __future__ import annotations

import time

import pytest

from queuectl.db import sqlite_transfer
from queuectl.db.transfer import TABLES
from queuectl.errors import InvalidJob, JobNotFound, NotInDlq, WrongState
from queuectl.job import ENDED, STATES, JobFilter
from tests.store.build import (
    T0,
    bring_to,
    claim_ids,
    completed,
    dead,
    drain,
    failed,
    snapshot,
    spec,
    specs,
)

LATER = T0 + 500


def one_of_each(store):
    """Add a job in each state, named after it."""
    for state in STATES:
        bring_to(store, state, state)


# -- cancel -----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["pending", "failed"])
def test_a_waiting_job_is_cancelled_at_once(store, state):
    """Ended, with reason and time; nobody claims it any more."""
    bring_to(store, state)

    answer = store.cancel(["job1"], LATER)
    job = store.get("job1")

    assert {"job1": "cancelled"} == answer
    assert ("cancelled", LATER, LATER, "cancelled while it waited") == (
        job.state, job.ended_at, job.updated_at, job.reason,
    )  # fmt: skip
    assert [] == store.claim("w1", 1, (), LATER)


def test_a_scheduled_job_is_cancelled_too(store):
    """A job whose time has not come waits as well."""
    store.add([spec(delay_s=3600)], T0)

    assert {"job1": "cancelled"} == store.cancel(["job1"], T0)
    assert store.next_due((), T0) is None


def test_a_running_job_is_asked_to_end(store):
    """It goes on as processing, marked, until its worker has ended it; asking twice is allowed.

    It runs since it was claimed, whenever it was asked: that is what ``list`` and ``worker list`` tell.
    """
    bring_to(store, "processing")
    since_at = store.get("job1").updated_at

    answers = [store.cancel(["job1"], LATER), store.cancel(["job1"], LATER + 1)]
    job = store.get("job1")

    assert 2 * [{"job1": "processing"}] == answers
    assert ("processing", True, "w1") == (job.state, job.cancel_requested, job.worker_id)
    assert since_at == job.updated_at < LATER


def test_the_mark_of_rows_tells_that_a_running_job_is_to_end(store, monkeypatch):
    """A copy that compared them before compares them again, though the time of the job's last change is the same."""
    monkeypatch.setattr(sqlite_transfer, "LONGEST_TICK_S", time.time() - LATER)
    bring_to(store, "processing")
    (jobs,) = [table for table in TABLES if table.name == "jobs"]
    ports = store.port()
    (row,) = ports.rows(jobs, None, None, None)
    before = ports.mark_of(jobs, None, jobs.key_of(row))

    store.cancel(["job1"], LATER)

    assert before is not None
    assert before != ports.mark_of(jobs, None, jobs.key_of(row))


@pytest.mark.parametrize("state", ENDED)
def test_an_ended_job_cannot_be_cancelled(store, state):
    """WrongState names the job and its state; a good id beside it is not touched."""
    bring_to(store, state, "over")
    bring_to(store, "pending", "good")
    before = snapshot(store)

    with pytest.raises(WrongState, match=f"^cannot cancel over: it is {state}, not "):
        store.cancel(["good", "over"], LATER)

    assert before == snapshot(store)


def test_cancelling_a_job_that_does_not_exist_changes_nothing(store):
    """All or none: the others stay as they were, running ones unasked."""
    bring_to(store, "processing", "runs")
    bring_to(store, "pending", "waits")
    before = snapshot(store)

    with pytest.raises(JobNotFound, match="^Job not found: nope"):
        store.cancel(["runs", "waits", "nope"], LATER)

    assert before == snapshot(store)


def test_several_jobs_are_cancelled_in_one_call(store):
    """Each id is answered once, also when it is given twice; none is fine."""
    bring_to(store, "processing", "runs")
    store.add(specs(2), T0)

    answer = store.cancel(["job1", "runs", "job1", "job2"], LATER)

    assert {"job1": "cancelled", "runs": "processing", "job2": "cancelled"} == answer
    assert {} == store.cancel([], LATER)


# -- retry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["completed", "dead", "cancelled", "failed"])
def test_a_retried_job_starts_over(store, state):
    """Pending, due now, all counts at 0; its runs so far stay on record."""
    bring_to(store, state)
    runs = store.runs("job1")

    store.retry(["job1"], now=LATER)
    job = store.get("job1")

    assert ("pending", LATER, LATER) == (job.state, job.run_at, job.updated_at)
    assert (0, 0, 0, None, None) == (job.attempts, job.failures, job.losses, job.ended_at, job.reason)
    assert (len(runs), runs) == (job.run_no, store.runs("job1"))


def test_run_numbers_go_on_after_a_retry(store):
    """The second run is number 2 though it is the first attempt again."""
    bring_to(store, "dead")
    store.retry(["job1"], now=T0)

    claim = store.claim("w1", 1, (), T0)[0]

    assert (1, 2) == (claim.job.attempts, claim.job.run_no)
    assert [1, 2] == [run.number for run in store.runs("job1")]


def test_a_retried_job_has_all_its_retries_again(store):
    """The failures of before do not count."""
    store.add([spec(max_retries=1)], T0)
    for end in (failed, dead):
        store.finish("w1", [end(store.claim("w1", 1, (), T0 + 9)[0], T0)], now=T0)
    assert 2 == store.get("job1").failures
    store.retry(["job1"], now=T0)

    claim = store.claim("w1", 1, (), T0)[0]

    assert (0, 1) == (claim.job.failures, claim.job.max_retries)


@pytest.mark.parametrize("state", ["pending", "processing"])
def test_a_job_that_waits_or_runs_cannot_be_retried(store, state):
    """WrongState, and the good id beside it stays as it was."""
    bring_to(store, state, "busy")
    bring_to(store, "cancelled", "good")
    before = snapshot(store)

    with pytest.raises(WrongState, match=f"^cannot retry busy: it is {state}, not "):
        store.retry(["good", "busy"], now=LATER)

    assert before == snapshot(store)


def test_retrying_a_job_that_does_not_exist_changes_nothing(store):
    """All or none."""
    bring_to(store, "dead", "good")
    before = snapshot(store)

    with pytest.raises(JobNotFound, match="^Job not found: nope"):
        store.retry(["good", "nope"], now=LATER)

    assert before == snapshot(store)


def test_an_id_may_be_given_twice(store):
    """The second mention is the same wish."""
    bring_to(store, "dead")

    store.retry(["job1", "job1"], now=LATER)

    assert "pending" == store.get("job1").state


@pytest.mark.parametrize("other", ["pending", "processing", "failed", "completed", "cancelled", "nope"])
def test_the_dlq_is_retried_all_or_none(store, other):
    """With only_dead, an id that is not dead or does not exist is NotInDlq, and nothing changes."""
    bring_to(store, "dead", "good")
    if other != "nope":
        bring_to(store, other, other)
    before = snapshot(store)

    with pytest.raises(NotInDlq, match=f"^Job not found in DLQ: {other}.$"):
        store.retry(["good", other], only_dead=True, now=LATER)

    assert before == snapshot(store)


def test_dead_jobs_leave_the_dlq(store):
    """With only dead ones named, all start over."""
    for job_id in ("a", "b"):
        bring_to(store, "dead", job_id)

    store.retry(["a", "b"], only_dead=True, now=LATER)

    assert {"a": "pending", "b": "pending"} == store.states(["a", "b"])


# -- cancel_where -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "waiting", "running"),
    [
        ((), {"pending", "failed"}, ["processing"]),
        (("failed",), {"failed"}, []),
        (("processing",), set(), ["processing"]),
        (("pending", "dead"), {"pending"}, []),
        (("completed", "cancelled"), set(), []),
    ],
)
def test_all_jobs_of_a_filter_are_cancelled_if_they_may(store, states, waiting, running):
    """Those that wait at once, those that run through their workers; what has ended is passed over."""
    one_of_each(store)

    assert (len(waiting), running) == store.cancel_where(JobFilter(states=states), LATER)

    assert waiting == {job.id for job in store.jobs(JobFilter(("cancelled",))) if job.updated_at == LATER}
    assert bool(running) == store.get("processing").cancel_requested
    assert [] == store.check()


def test_a_filter_narrows_a_bulk_cancel(store):
    """Queues and tags choose among the jobs."""
    store.add([spec(id="hit", queue="a", tags=["x"]), spec(id="queue", tags=["x"]), spec(id="tag", queue="a")], T0)

    assert (1, []) == store.cancel_where(JobFilter((), ("a",), ("x",)), LATER)
    assert {"hit": "cancelled", "queue": "pending", "tag": "pending"} == store.states(["hit", "queue", "tag"])


def test_thousands_are_cancelled(store):
    """More than any step of a bulk cancel; each is told of."""
    store.add(specs(2500), T0)
    (claim,) = store.claim("w1", 1, (), T0)
    told = []

    assert (2499, [claim.job.id]) == store.cancel_where(JobFilter(), LATER, told.append)
    assert (0, 2500, sorted(told)) == (store.queues()[0].pending, told[-1], told)


def test_workers_go_on_during_a_bulk_cancel(store, open_again):
    """A job that is claimed between two steps is ended by its worker, and one that has ended stays as it is."""
    store.add(specs(2500), T0)
    other = open_again()
    claims = []

    def work(_so_far):
        if not claims:
            claims.extend(other.claim("w1", 2, (), LATER))
            other.finish("w1", [completed(claims[0], LATER)], 0, (), LATER)

    cancelled, running = store.cancel_where(JobFilter(), LATER, work)

    assert ([claims[1].job.id], 2498) == (running, cancelled)
    assert "completed" == store.get(claims[0].job.id).state
    assert [] == store.check()


# -- retry_where ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((), {"failed", "completed", "dead", "cancelled"}),
        (("dead",), {"dead"}),
        (("dead", "failed"), {"dead", "failed"}),
        (("pending", "processing"), set()),
        (("processing", "completed"), {"completed"}),
    ],
)
def test_all_jobs_of_a_filter_start_over_if_they_may(store, states, expected):
    """States that cannot be retried are passed over; the number says how many were."""
    one_of_each(store)

    count = store.retry_where(JobFilter(states=states), LATER)

    assert len(expected) == count
    assert expected == {job.id for job in store.jobs(JobFilter()) if job.updated_at == LATER and job.state == "pending"}


def test_a_filter_narrows_a_bulk_retry(store):
    """Queues, tags and the time of the end choose among the jobs."""
    bring_to(store, "dead", "hit", queue="a", tags=["x"])
    bring_to(store, "dead", "other-queue", queue="b", tags=["x"])
    bring_to(store, "dead", "other-tag", queue="a", tags=["y"])
    bring_to(store, "dead", "too-late", now=T0 + 100, queue="a", tags=["x"])

    count = store.retry_where(JobFilter(("dead",), ("a",), ("x",), T0 + 50), LATER)

    assert (1, "pending") == (count, store.get("hit").state)
    assert 3 == len(store.jobs(JobFilter(("dead",))))


def test_thousands_are_retried(store):
    """More than any step of a bulk retry."""
    store.add(specs(2500), T0)
    store.cancel([f"job{number}" for number in range(1, 2501)], T0)

    assert 2500 == store.retry_where(JobFilter(("cancelled",)), LATER)
    assert (2500, 0) == (store.queues()[0].pending, store.retry_where(JobFilter(("cancelled",)), LATER))


# -- edit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["pending", "failed"])
@pytest.mark.parametrize(
    ("attribute", "value", "field"),
    [
        ("command", "echo new", "command"),
        ("cwd", "/elsewhere", "cwd"),
        ("priority", -9, "priority"),
        ("max_retries", 1, "max_retries"),
        ("backoff_base", 1.5, "backoff_base"),
        ("backoff_base", None, "backoff_base"),
        ("timeout_s", 7.5, "timeout_s"),
        ("timeout_s", None, "timeout_s"),
        ("run_at", T0 + 99, "run_at"),
        ("env", {"B": "2"}, "env"),
        ("env", {}, "env"),
        ("tags", ["new", "er"], "tags"),
        ("tags", [], "tags"),
        ("queue", "moved", "queue"),
    ],
)
def test_a_waiting_job_may_be_changed(store, state, attribute, value, field):
    """The field has its new value, nothing else changes but the time of the update."""
    bring_to(store, state, timeout_s=5.0, backoff_base=2.0, env={"A": "1"}, tags=["old"])
    before = store.get("job1")

    store.edit("job1", {attribute: value}, LATER)
    after = store.get("job1")

    assert (value, LATER) == (getattr(after, field), after.updated_at)
    changed = {name for name in before._fields if getattr(before, name) != getattr(after, name)}
    assert changed <= {"updated_at", field, field + "_json"}


def test_no_environment_or_tags_is_none_at_all(store):
    """A null takes them away like an empty one."""
    bring_to(store, "pending", env={"A": "1"}, tags=["old"])

    store.edit("job1", {"env": None, "tags": None}, LATER)

    assert ({}, []) == (store.get("job1").env, store.get("job1").tags)


def test_several_fields_change_together(store):
    """One call, one update."""
    bring_to(store, "pending")

    store.edit("job1", {"command": "b", "priority": 4, "queue": "q2"}, LATER)
    job = store.get("job1")

    assert ("b", 4, "q2") == (job.command, job.priority, job.queue)


def test_a_delay_counts_from_the_edit(store):
    """The job is due that long after now, and not before."""
    bring_to(store, "pending")

    store.edit("job1", {"delay_s": 60.0}, LATER)

    assert LATER + 60 == store.get("job1").run_at
    assert [] == store.claim("w1", 1, (), LATER + 59)
    assert ["job1"] == claim_ids(store.claim("w1", 1, (), LATER + 60))


@pytest.mark.parametrize(
    ("changes", "due_at"),
    [
        ({"run_at": None, "delay_s": 60.0}, LATER + 60),
        ({"delay_s": 60.0, "run_at": None}, LATER + 60),
        ({"run_at": T0 + 999, "delay_s": None}, T0 + 999),
        ({"delay_s": None, "run_at": T0 + 999}, T0 + 999),
        ({"run_at": None}, LATER),
        ({"delay_s": None}, LATER),
    ],
)
def test_a_null_time_is_now_unless_its_rival_is_given(store, changes, due_at):
    """A null does not undo the time or delay it stands beside, in either order; alone it means now."""
    store.add([spec(delay_s=3600)], T0)

    store.edit("job1", changes, LATER)

    assert due_at == store.get("job1").run_at


def test_a_time_in_the_past_makes_a_job_due(store):
    """A scheduled job that is moved to the past runs at the next claim, in its place in the order."""
    store.add([spec(id="far", delay_s=3600), spec(id="near")], T0)

    store.edit("far", {"run_at": T0 - 5}, T0)

    assert ["far", "near"] == drain(store)


def test_an_edited_priority_moves_a_job_in_the_line(store):
    """The next claim goes by the new priority."""
    store.add([spec(id="a"), spec(id="b"), spec(id="c")], T0)

    store.edit("c", {"priority": 1}, T0)
    store.edit("a", {"priority": -1}, T0)

    assert ["c", "b", "a"] == drain(store)


def test_a_moved_job_counts_in_its_new_queue(store):
    """The switches and counters of the new queue hold for it, one that did not exist before too."""
    store.add(specs(2), T0)
    store.set_paused("held", True)

    store.edit("job1", {"queue": "held"}, T0)
    store.edit("job2", {"queue": "new"}, T0)

    assert ["job2"] == drain(store)
    assert {"held": 1, "new": 0} == {queue.name: queue.pending for queue in store.queues()}


def test_default_retries_are_settled_when_edited(store):
    """A null number of retries means the configured default at the edit."""
    bring_to(store, "pending", max_retries=1)
    store.set_setting("max_retries", "8")

    store.edit("job1", {"max_retries": None}, LATER)

    assert 8 == store.get("job1").max_retries


def test_a_job_that_waits_for_a_retry_keeps_the_right_to_it(store):
    """Fewer retries than its failures have used would be a limit that its next run exceeds; as many are none."""
    bring_to(store, "failed")
    before = snapshot(store)

    with pytest.raises(InvalidJob, match="^job1 has failed once .* max_retries = 0 does not allow. Give it at least 1"):
        store.edit("job1", {"max_retries": 0, "priority": 7}, LATER)
    assert before == snapshot(store)
    store.edit("job1", {"max_retries": 1}, LATER)

    assert 1 == store.get("job1").max_retries


@pytest.mark.parametrize("state", ["processing", *ENDED])
def test_a_job_that_does_not_wait_cannot_be_changed(store, state):
    """WrongState, and the job is as it was."""
    bring_to(store, state)
    before = snapshot(store)

    with pytest.raises(WrongState, match=f"^cannot edit job1: it is {state}, not pending or failed"):
        store.edit("job1", {"priority": 5}, LATER)

    assert before == snapshot(store)


def test_a_job_that_does_not_exist_cannot_be_changed(store):
    """JobNotFound."""
    with pytest.raises(JobNotFound, match="^Job not found: nope"):
        store.edit("nope", {"priority": 5}, LATER)


def test_a_change_is_seen_by_the_next_claim(store):
    """What runs is the edited command."""
    bring_to(store, "failed")
    store.edit("job1", {"command": "echo mended"}, T0)

    claim = store.claim("w1", 1, (), T0 + 2)[0]

    assert "echo mended" == claim.job.command
    assert [True] == store.finish("w1", [completed(claim)], now=T0 + 3).accepted
