"""The looking verbs: jobs page by page, states, runs, what is ahead, rates, damage, and who else wrote."""

from __future__ import annotations

import pytest

from queuectl.errors import JobNotFound
from queuectl.job import STATES, JobFilter, Orders, Outcome
from tests.store.build import (
    EVERYTHING,
    T0,
    bring_to,
    completed,
    counters,
    dead,
    drain,
    failed,
    recount,
    snapshot,
    spec,
    specs,
    stopped,
    worker,
)


def ids(jobs):
    """Return the ids of jobs, in order."""
    return [job.id for job in jobs]


# -- one job ----------------------------------------------------------------------------------


def test_a_job_that_does_not_exist_is_none(store):
    """No exception: absence is an answer."""
    store.add([spec()], T0)

    assert (None, None, []) == (store.get("job2"), store.get("JOB1"), store.runs("job2"))


def test_whether_a_job_is_to_be_cancelled_is_true_or_false(store):
    """No number, whatever the engine keeps: alone, in a list, and as it was claimed."""
    store.add(specs(2), T0)
    claims = store.claim("w1", 2, (), T0)
    store.cancel(["job1"], T0)

    listed = [job.cancel_requested for job in store.jobs(EVERYTHING)]
    found = [store.get(job_id).cancel_requested for job_id in ("job1", "job2")]
    assert ([True, False], listed) == (found, [True, False])
    assert {bool} == {type(flag) for flag in (*listed, *found, *(claim.job.cancel_requested for claim in claims))}


@pytest.mark.parametrize("job_id", [7, 2**40, None, b"job1", "job1\0", "jöb1"], ids=repr)
def test_what_can_be_no_id_is_the_id_of_no_job(store, job_id):
    """Not found, as any other id that no job has; no trouble with the store."""
    store.add([spec()], T0)

    assert (None, [], {"job1": "pending"}) == (store.get(job_id), store.runs(job_id), store.states([job_id, "job1"]))
    for verb in (store.cancel, store.retry, lambda ids: store.edit(ids[0], {"priority": 1})):
        with pytest.raises(JobNotFound):
            verb([job_id])


@pytest.mark.parametrize("name", [7, b"a", "a\0", "ä"], ids=repr)
def test_what_can_be_no_name_chooses_no_job(store, name):
    """Neither as a queue nor as a tag, alone and beside one."""
    store.add([spec(queue="a", tags=("a",))], T0)

    for which in (JobFilter(queues=(name,)), JobFilter(tags=(name,)), JobFilter(("pending",), (name,))):
        assert [] == store.jobs(which)
    for which in (JobFilter(queues=(name, "a")), JobFilter(tags=(name, "a"))):
        assert ["job1"] == ids(store.jobs(which))


def test_states_of_the_jobs_that_exist(store):
    """Unknown ids are left out; thousands may be asked for in one call."""
    for state in STATES:
        bring_to(store, state, state)
    store.add(specs(1200), T0)
    asked = [f"job{number}" for number in range(1, 1301)]

    assert {state: state for state in STATES} == store.states([*STATES, "nope"])
    assert dict.fromkeys(asked[:1200], "pending") == store.states(asked)
    assert {} == store.states([])


@pytest.mark.parametrize("state", ["pendng", "1=1 OR pending", "pending'", ""])
def test_a_state_is_never_taken_for_sql(store, state):
    """What is no state chooses no job, alone and beside one, in whatever order."""
    store.add([spec()], T0)

    for order in ((None, False), (None, True), ("priority", False)):
        assert [] == store.jobs(JobFilter((state,)), 0, 10, *order)
        assert ["job1"] == ids(store.jobs(JobFilter((state, "pending")), 0, 10, *order))


def test_runs_are_listed_first_to_last(store):
    """Ended, lost and current ones alike, numbered without a gap, each with its outcome."""
    store.add([spec()], T0)
    for number, end in enumerate((failed, stopped, dead)):
        store.finish("w1", [end(store.claim("w1", 1, (), T0 + 20 * number)[0], T0 + 20 * number)], now=T0 + 20 * number)
    store.retry(["job1"], now=T0 + 60)
    store.claim("w2", 1, (), T0 + 60)
    store.condemn("w2", 100.0)
    store.release_lost("w2", 3, T0 + 70)
    store.claim("w1", 1, (), T0 + 80)

    runs = store.runs("job1")

    assert [1, 2, 3, 4, 5] == [run.number for run in runs]
    assert sorted(run.run_id for run in runs) == [run.run_id for run in runs]
    assert [Outcome.FAILED, Outcome.STOPPED, Outcome.FAILED, Outcome.LOST, Outcome.RUNNING] == [
        run.state for run in runs
    ]
    assert ["w1", "w1", "w1", "w2", "w1"] == [run.worker for run in runs]


# -- listings ---------------------------------------------------------------------------------


def test_jobs_are_listed_oldest_first(store):
    """By arrival, whatever their priority, state and time."""
    store.add([spec(id="c", priority=1), spec(id="a", run_at=T0 + 99), spec(id="b", run_at=T0 - 99)], T0)

    assert ["c", "a", "b"] == ids(store.jobs(EVERYTHING))
    assert [] == ids(store.jobs(EVERYTHING, limit=0))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_pages_by_key_miss_nothing_and_repeat_nothing(store, size):
    """The next page begins after the last row of this one."""
    added = store.add(specs(7), T0)
    seen, after = [], 0
    while True:
        page = store.jobs(EVERYTHING, after, size)
        assert [(job.seq, job.id) for job in page] == store.ids(EVERYTHING, after, size)
        if not page:
            break
        seen += ids(page)
        after = page[-1].seq

    assert added == seen


def test_deleted_and_new_jobs_do_not_disturb_the_pages(store):
    """A page by key stays right when jobs before it go and others come, also when the last one went."""
    store.add(specs(6), T0)
    first = store.jobs(EVERYTHING, 0, 3)
    store.cancel(["job1", "job3", "job6"], T0)
    store.prune(EVERYTHING)
    store.add([spec()], T0)

    rest = store.jobs(EVERYTHING, first[-1].seq, 10)

    assert ["job4", "job5", "job7"] == ids(rest)


@pytest.mark.parametrize("states", [*[(state,) for state in STATES], ("pending", "dead"), ("completed", "failed")])
def test_jobs_are_filtered_by_state(store, states):
    """One state or several."""
    for state in STATES * 2:
        bring_to(store, state)

    found = store.jobs(JobFilter(states=states))

    assert 2 * len(states) == len(found)
    assert set(states) == {job.state for job in found}


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (JobFilter(queues=("a",)), ["j0", "j2", "j4"]),
        (JobFilter(queues=("a", "b")), ["j0", "j1", "j2", "j3", "j4"]),
        (JobFilter(queues=("nope",)), []),
        (JobFilter(tags=("x",)), ["j0", "j1"]),
        (JobFilter(tags=("x", "z")), ["j0", "j1", "j2"]),
        (JobFilter(tags=("xx",)), ["j3"]),
        (JobFilter(tags=("a",)), []),
        (JobFilter(tags=("-",)), []),
        (JobFilter(("pending",), ("a",), ("x", "z")), ["j0", "j2"]),
        (JobFilter(("dead",), ("a",)), []),
    ],
)
def test_jobs_are_filtered_by_queue_and_tag(store, which, expected):
    """A job has any of the tags, whole; all conditions hold together."""
    for number, (queue, tags) in enumerate(
        [("a", ["x", "y"]), ("b", ["y", "x"]), ("a", ["z"]), ("b", ["xx", "x-y"]), ("a", None)]
    ):
        store.add([spec(id=f"j{number}", queue=queue, tags=tags)], T0)

    assert expected == ids(store.jobs(which))


def test_jobs_are_filtered_by_the_time_of_their_end(store):
    """Before that instant, not at it; what has not ended is never among them."""
    for at in (0, 10, 20):
        bring_to(store, "completed", f"at{at}", now=T0 + at)
    bring_to(store, "pending")

    assert ["at0"] == ids(store.jobs(JobFilter(ended_before=T0 + 10)))
    assert ["at0", "at10"] == ids(store.jobs(JobFilter(ended_before=T0 + 10.001)))


SORTABLE = ["id", "queue", "state", "priority", "run_at", "command", "attempts", "failures", "max_retries",
            "created_at", "updated_at"]  # fmt: skip


@pytest.fixture
def mixed(store):
    """Jobs of every state that differ in each field, in no order."""
    for number, state in enumerate((*STATES, *STATES)):
        at = T0 + (number * 7 % 12) / 10  # all before the first retry is due
        job_id = f"id{number * 5 % 12:02d}"
        bring_to(store, state, job_id, now=at, queue=f"q{number % 5}", command=f"echo {number * 11 % 13:02d}",
                 max_retries=number * 3 % 7)  # fmt: skip
    return store


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", SORTABLE)
def test_jobs_are_sorted_by_a_field(mixed, sort, descending):
    """By the field, equal ones by arrival, both turned round if descending; pages by position."""
    plain = mixed.jobs(EVERYTHING)
    expected = sorted(plain, key=lambda job: (getattr(job, sort), job.seq), reverse=descending)

    whole = mixed.jobs(EVERYTHING, 0, 100, sort, descending)
    paged = [job for skip in range(0, 12, 5) for job in mixed.jobs(EVERYTHING, skip, 5, sort, descending)]

    assert ids(expected) == ids(whole) == ids(paged)


@pytest.mark.parametrize("descending", [False, True])
def test_jobs_that_have_not_ended_come_before_all_ends(mixed, descending):
    """Sorted by their end, so that the last to end are the first if descending; the order of rows is the same."""
    plain = mixed.jobs(EVERYTHING)
    expected = sorted(plain, key=lambda job: (job.ended_at or 0.0, job.seq), reverse=descending)

    jobs = mixed.jobs(EVERYTHING, 0, 100, "ended_at", descending)

    assert 12 == len(jobs)
    assert ids(expected) == ids(jobs)
    assert [job.seq for job in jobs] == list(mixed.order(EVERYTHING, 0, 100, "ended_at", descending))


@pytest.mark.parametrize("newest", [4, 5, 6, 100])
def test_the_last_to_end_are_in_order_wherever_the_search_for_them_ends(store, monkeypatch, newest):
    """It is among the newest ends first, which may not have all of those that ended at the same moment."""
    module = "postgres_views" if "postgres" in type(store).__module__ else "sqlite_views"
    monkeypatch.setattr(f"queuectl.db.{module}.NEWEST_ENDS", newest)
    store.register(worker("w1"))
    for ended_at in (5, 1, 3, 3, 3, 2, 3, 4):
        bring_to(store, "completed", now=T0 + ended_at, queue="mail" if ended_at == 3 else "default")
    store.add([spec(priority=-1)], T0)
    last = ["job1", "job8", "job7", "job5", "job4", "job3", "job6", "job2", "job9"]

    for limit in range(1, newest):
        assert last[:limit] == ids(store.jobs(EVERYTHING, 0, limit, "ended_at", True))
        assert last[2:6][:limit] == ids(store.jobs(JobFilter(queues=("mail",)), 0, limit, "ended_at", True))


def test_the_newest_jobs_come_first_when_descending(mixed):
    """Without a field the order is that of arrival, turned round."""
    jobs = mixed.jobs(EVERYTHING)

    newest = mixed.jobs(EVERYTHING, 2, 3, None, True)

    assert ids(jobs[::-1][2:5]) == ids(newest)


def test_a_sorted_listing_may_be_filtered(mixed):
    """Both together."""
    jobs = mixed.jobs(JobFilter(states=("dead", "completed")), 0, 100, "priority")

    assert 4 == len(jobs)
    assert {"dead", "completed"} == {job.state for job in jobs}


@pytest.mark.parametrize(("sort", "descending"), [("priority", False), ("command", True), (None, True)])
@pytest.mark.parametrize("which", [EVERYTHING, JobFilter(states=("dead", "failed")), JobFilter(queues=("q1", "q2"))])
def test_the_rows_of_an_order_are_those_of_its_jobs(mixed, which, sort, descending):
    """Found for many pages at once; the jobs in them come in that order, without what has changed since."""
    jobs = mixed.jobs(which, 0, 100, sort, descending)

    rows = [seq for skip in range(0, 12, 5) for seq in mixed.order(which, skip, 5, sort, descending)]

    assert [job.seq for job in jobs] == rows
    assert jobs == mixed.jobs_at(rows, which)
    assert [job for job in jobs if job.queue == "q1"] == mixed.jobs_at(rows, which._replace(queues=("q1",)))
    assert [] == mixed.jobs_at([10**6], which)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("states", [("dead",), ("processing",), ("failed", "dead"), ("pending", "processing"),
                                    ("completed", "cancelled"), STATES])  # fmt: skip
def test_jobs_of_some_states_come_in_their_order(mixed, states, descending):
    """Page by page, however each state is found."""
    chosen = [job for job in mixed.jobs(EVERYTHING) if job.state in states]
    expected = ids(chosen[::-1] if descending else chosen)

    which = JobFilter(states=states, queues=("q0", "q1", "q2", "q3", "q4"))
    first = mixed.jobs(which, 0, 2, None, descending)
    rest = mixed.jobs(which, 2 if descending else first[-1].seq, 100, None, descending)

    assert expected == ids(first + rest)


# -- what is ahead, what is due ---------------------------------------------------------------


def test_ahead_of_a_job_are_those_a_claim_takes_first(store):
    """Counted in the job's own queue: it equals the job's place in the order of claims."""
    store.add([spec(priority=number % 3, run_at=T0 - number % 4, queue="a") for number in range(20)], T0)
    store.add(specs(5, priority=9), T0)
    ahead = {job.id: store.ahead_of(job) for job in store.jobs(JobFilter(queues=("a",)))}

    order = drain(store, queues=("a",))

    assert list(range(20)) == [ahead[job_id] for job_id in order]


def test_what_is_not_ready_is_not_ahead(store):
    """Jobs that wait for a time, run or have ended take nobody's place."""
    for state in ("processing", "failed", "completed", "dead", "cancelled"):
        bring_to(store, state)
    store.add([spec(priority=5, delay_s=60), spec(id="me")], T0)

    assert 0 == store.ahead_of(store.get("me"), T0)


def test_what_has_become_due_is_ahead(store):
    """Also where no worker has claimed since: jobs that waited for a time, and one that waits for its retry."""
    bring_to(store, "failed")
    store.add([spec(delay_s=number % 5, priority=number % 2) for number in range(10)] + specs(3), T0)
    store.add([spec(queue="other", delay_s=1), spec(delay_s=1000, priority=9)], T0)
    later = T0 + 100
    jobs = [job for job in store.jobs(JobFilter(queues=("default",))) if job.run_at <= later]
    ahead = {job.id: store.ahead_of(job, later) for job in jobs}

    order = drain(store, now=later, queues=("default",))

    assert 14 == len(order)
    assert list(range(14)) == [ahead[job_id] for job_id in order]


def test_counting_what_is_ahead_stops_at_a_thousand(store):
    """A number beyond that tells nobody more."""
    store.add(specs(1100), T0)

    assert (999, 1000, 1000) == tuple(store.ahead_of(store.get(f"job{number}")) for number in (1000, 1001, 1100))


def test_the_oldest_due_job(store):
    """The earliest run_at of all that is due, whatever its priority, queue or state; None if nothing is."""
    assert store.oldest_due(T0) is None
    store.add([spec(run_at=T0 + 50), spec(run_at=T0 + 60, priority=9)], T0)
    assert store.oldest_due(T0 + 49.9) is None
    bring_to(store, "failed", queue="other")
    assert (T0 + 2, T0 + 2) == (store.oldest_due(T0 + 2), store.oldest_due(T0 + 99))
    store.add([spec(run_at=T0 - 7, priority=-3, queue="third"), spec(run_at=T0 - 5, priority=7, queue="third")], T0)
    assert T0 - 7 == store.oldest_due(T0)


def test_what_runs_or_has_ended_is_not_due(store):
    """Only what waits can be late."""
    for state in ("processing", "completed", "dead", "cancelled"):
        bring_to(store, state)

    assert store.oldest_due(T0 + 1000) is None


# -- counters and rates -----------------------------------------------------------------------


def test_queues_show_their_jobs_by_state(store):
    """Sorted by name, with counts that equal the jobs, and the switches."""
    for number, state in enumerate(STATES):
        for _ in range(number + 1):
            bring_to(store, state, queue="b")
    bring_to(store, "pending", queue="a")
    store.set_limit("b", 40)
    store.set_paused("c", True)

    assert [
        ("a", False, None, 1, 0, 0, 0, 0, 0),
        ("b", False, 40, 1, 2, 3, 4, 5, 6),
        ("c", True, None, 0, 0, 0, 0, 0, 0),
    ] == [tuple(queue) for queue in store.queues()]
    assert recount(store) == counters(store.queues())


def test_a_queue_without_jobs_and_switches_is_not_listed(store):
    """It is as if it had never been."""
    store.set_paused("a", True)
    store.set_limit("b", 2)
    store.set_paused("a", False)
    store.set_limit("b", None)

    assert [] == store.queues()


def test_rates_count_the_ends_of_the_last_minute(store):
    """Completed jobs and failed runs, timeouts included; what was stopped, lost or long ago is not counted."""
    store.add(specs(8), T0)
    claims = store.claim("w1", 8, (), T0)
    store.finish("w1", [completed(claims[0], T0 - 100)], now=T0)
    store.finish(
        "w1",
        [
            *[completed(claim, T0 + 50) for claim in claims[1:4]],
            failed(claims[4], T0 + 50),
            failed(claims[5], T0 + 50, outcome=Outcome.TIMED_OUT),
            stopped(claims[6], T0 + 50),
        ],
        now=T0 + 50,
    )

    assert (3.0, 2.0) == tuple(store.rates(T0 + 60))


def test_ends_of_a_clock_that_was_set_back_since_do_not_count(store):
    """They are hours ahead, and would count as those of the last minute until it is that late again."""
    bring_to(store, "completed", now=T0 + 7200)

    assert (0.0, 0.0) == tuple(store.rates(T0))
    assert (1.0, 0.0) == tuple(store.rates(T0 + 7210))


def test_a_quiet_store_has_no_rates(store):
    """Nothing ended lately, or ever."""
    assert (0.0, 0.0) == tuple(store.rates(T0))
    bring_to(store, "completed")
    assert (0.0, 0.0) == tuple(store.rates(T0 + 3600))


# -- check and changed ------------------------------------------------------------------------


def test_a_healthy_store_has_no_problems(store):
    """Jobs in every state, switches and settings are no damage."""
    for state in STATES:
        bring_to(store, state)
    store.set_paused("x", True)
    store.set_setting("lease", "40")

    assert [] == store.check()


def test_a_job_under_an_unknown_worker_is_a_problem(store):
    """``check`` names the worker and says what to do; once released all is well."""
    store.register(worker("ghost"))
    store.add([spec()], T0)
    store.claim("ghost", 1, (), T0)
    store.unregister("ghost")

    problem = store.check()[0]

    assert "ghost" in problem.what
    assert problem.advice
    store.release_lost("ghost", 3, T0)


def test_what_another_connection_writes_is_noticed(store, open_again):
    """``changed`` is true after a commit of anybody else, and only once for it."""
    other = open_again()
    other.changed()
    quiet = other.changed()
    store.add([spec()], T0)
    seen = [other.changed(), other.changed()]
    store.set_paused("default", True)

    assert (False, [True, False], True) == (quiet, seen, other.changed())


def test_news_are_orders_after_a_commit_of_others(store, open_again):
    """None if there was none since the last look by either call, unless they are wanted anyway."""
    other = open_again()
    other.register(worker("w1"))
    other.news("w1")
    quiet = other.news("w1")
    store.request_stop(["w1"], 2)
    news = [other.news("w1"), other.news("w1"), other.news("w1", anyway=True)]
    store.set_setting("lease", "40")
    looked = other.changed(), other.news("w1")

    stop = Orders(True, 2, ())
    assert (None, [stop, None, stop], (True, None)) == (quiet, news, looked)
    assert not other.news("never there", anyway=True).known


def test_news_tell_of_settings_and_cancels(store, open_again):
    """As a look at orders does."""
    other = open_again()
    other.register(worker("w1"))
    store.add([spec()], T0)
    (claim,) = other.claim("w1", 1, (), T0)
    other.news("w1")
    before = other.settings_seen
    store.set_setting("lease", "40")
    store.cancel(["job1"], T0)

    assert Orders(True, 0, (claim.run_id,)) == other.news("w1")
    assert other.settings_seen > before


def test_looking_changes_nothing(mixed, open_again):
    """No looking verb writes, so a watcher never wakes another watcher."""
    watcher = open_again()
    watcher.changed()
    before = snapshot(mixed)

    mixed.ahead_of(mixed.jobs(EVERYTHING)[0])
    mixed.oldest_due(T0 + 100)
    mixed.next_due((), T0 + 100)
    mixed.rates(T0)
    mixed.check()
    mixed.work_left()
    mixed.orders("w1")
    mixed.ownerless()
    mixed.runs_of("w1")

    assert (before, False) == (snapshot(mixed), watcher.changed())


def test_a_store_may_be_closed_twice(open_again):
    """The second closing does nothing."""
    closed = open_again()

    closed.close()
    closed.close()
