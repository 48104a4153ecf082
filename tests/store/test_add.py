"""``add``: ids in order and never twice, all or none, what is settled at enqueue."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from queuectl.db.spool import CHUNK, Spool
from queuectl.errors import JobExists
from queuectl.job import JobFilter
from tests.store.build import T0, bring_to, claim_ids, drain, snapshot, spec, specs


def test_ids_are_numbered_in_order_of_arrival(store):
    """The first job is job1, and each batch goes on where the last one ended."""
    first = store.add([spec()], T0)
    more = store.add(specs(3), T0)

    assert ["job1"] == first
    assert ["job2", "job3", "job4"] == more


def test_an_added_job_has_what_it_was_given(store):
    """Every field of the description is stored, and the state begins clean."""
    description = spec(
        "echo 'é' \"x\"\n", id="mine", queue="mail", priority=-5, max_retries=7, backoff_base=1.5, timeout_s=0.25,
        run_at=T0 - 3, env={"A": "é=1"}, tags=["x", "y"],
    )  # fmt: skip

    store.add([description], T0)
    job = store.get("mine")

    assert ("echo 'é' \"x\"\n", "/", "mail", -5, 7) == (job.command, job.cwd, job.queue, job.priority, job.max_retries)
    assert (1.5, 0.25, T0 - 3, {"A": "é=1"}, ["x", "y"]) == (
        job.backoff_base, job.timeout_s, job.run_at, job.env, job.tags,
    )  # fmt: skip
    assert ("pending", 0, 0, 0, 0, None, None, False) == (
        job.state, job.attempts, job.failures, job.losses, job.run_no, job.run_id, job.worker_id, job.cancel_requested,
    )  # fmt: skip
    assert (T0, T0, None, None) == (job.created_at, job.updated_at, job.ended_at, job.reason)


@pytest.mark.parametrize("taken", [[], ["job2", "job4"]], ids=["in order", "numbers are taken"])
def test_one_job_is_returned_as_it_was_stored(store, taken):
    """Also under an id of its own, and where callers took numbers: then it is not so simple."""
    store.add([spec(id=name) for name in taken], T0)
    every = spec(
        "echo 'é'\n", queue="mail", priority=-5, max_retries=7, backoff_base=1.5, timeout_s=5, delay_s=9,
        env={"A": "é=1"}, tags=["x"],
    )  # fmt: skip

    jobs = [store.add_one(each, T0) for each in (spec(), every, spec(id="mine"))]

    assert [*(["job1", "job3"] if taken else ["job1", "job2"]), "mine"] == [job.id for job in jobs]
    assert [store.get(job.id) for job in jobs] == jobs
    with pytest.raises(JobExists):
        store.add_one(spec(id="mine"), T0)
    assert len(taken) + 3 == sum(queue.pending for queue in store.queues())


@pytest.mark.parametrize("huge", [10**9, 5000])
def test_very_many_jobs_have_what_they_were_given(store, huge, monkeypatch):
    """They take other ways than few do, through files; each of them arrives as it would have alone."""
    monkeypatch.setattr("queuectl.db.sqlite_add.HUGE_BATCH", huge)
    fields = [
        {}, {"queue": "mail", "priority": -5}, {"run_at": T0 + 50}, {"run_at": T0 - 50}, {"delay_s": 2.5},
        {"delay_s": 0.0}, {"max_retries": 0}, {"backoff_base": 1.5, "timeout_s": 0.25},
        {"env": {"A": "é=1"}, "tags": ["x", "y"]}, {"command": "echo 'é' \"x\"\t\\n"},
    ]  # fmt: skip
    store.set_setting("max_retries", "9")
    few = store.add([spec(**each) for each in fields], T0)

    with Spool() as spool:
        for number in range(2 * CHUNK + 10):
            spool.append(spec(**fields[number % len(fields)]))
        many = store.add(spool, T0)

    assert [f"job{11 + number}" for number in range(2 * CHUNK + 10)] == list(many)
    assert {each.name: each.pending for each in store.queues()} == {"default": 9 * 2002, "mail": 2002}
    alone = [store.get(job_id)._replace(seq=0, id="") for job_id in few]
    for page in (store.jobs(JobFilter(), 10, 10), store.jobs(JobFilter(), len(few) + 2 * CHUNK, 10)):
        assert alone == [job._replace(seq=0, id="") for job in page]
    assert [] == store.check()


@pytest.mark.parametrize("huge", [10**9, 5000])
def test_very_many_jobs_with_ids_of_their_own(store, huge, monkeypatch):
    """They come in under these, whether or not numbers were taken; one that is not free refuses all, by its name."""
    monkeypatch.setattr("queuectl.db.sqlite_add.HUGE_BATCH", huge)
    names = [f"order-{number}" for number in range(CHUNK)]
    store.add([spec(id="job7")], T0)

    assert names == list(store.add([spec(id=name, queue="mail", delay_s=5.0) for name in names], T0))
    assert ["job1"] == store.add(specs(1), T0)
    for refused, why in (
        (["x1", "order-8", "order-7"], "order-8 is taken"),
        (["x1", "x1", "order-7"], "x1 is given twice"),
        (["x1", "job7", "order-7"], "job7 is taken"),
    ):
        others = [f"other-{number}" for number in range(CHUNK)]
        with pytest.raises(JobExists, match=why):
            store.add([spec(id=name) for name in (*others, *refused)], T0)

    assert {"default": 2, "mail": CHUNK} == {each.name: each.pending for each in store.queues()}
    late = store.get("order-77")
    assert (T0 + 5, "mail", "pending") == (late.run_at, late.queue, late.state)
    assert ["job7", *names, "job1"] == [job.id for job in store.jobs(JobFilter(), 0, CHUNK + 2)]
    assert [] == store.check()


def test_very_many_jobs_where_callers_took_numbers(store):
    """The generated ids go around them, and a given one that is not free refuses all."""
    store.add([spec(id="job3")], T0)
    store.add(specs(1), T0)

    assert ["job2", "job4"] == list(store.add(specs(CHUNK), T0))[:2]
    with Spool() as spool:
        for each in (*specs(CHUNK + 5), spec(id="job3")):
            spool.append(each)
        with pytest.raises(JobExists, match="job3 is taken"):
            store.add(spool, T0)
    assert [f"job{CHUNK + 3}"] == store.add(specs(1), T0)


def test_what_is_not_given_is_left_to_the_settings(store):
    """Timeout and backoff_base stay open until they are needed; env and tags are empty."""
    store.add([spec()], T0)
    job = store.get("job1")

    assert (None, None, {}, [], T0) == (job.timeout_s, job.backoff_base, job.env, job.tags, job.run_at)


def test_nothing_to_add_is_no_job(store):
    """An empty batch is allowed, uses up no number and may come from a generator."""
    none = store.add(iter(()), T0)

    assert [] == none
    assert ["job1"] == store.add((spec() for _ in range(1)), T0)


def test_a_job_is_due_at_its_time(store):
    """``run_at`` is an instant, a delay counts from the enqueue, and neither means now."""
    store.add([spec(run_at=T0 + 50), spec(delay_s=2.5), spec()], T0)

    assert [T0 + 50, T0 + 2.5, T0] == [store.get(job_id).run_at for job_id in ("job1", "job2", "job3")]


def test_the_number_of_retries_is_settled_at_enqueue(store):
    """The configured default at the enqueue holds, whatever it becomes later; the job's own wins."""
    store.add([spec()], T0)
    store.set_setting("max_retries", "9")
    store.add([spec(), spec(max_retries=0)], T0)
    store.set_setting("max_retries", None)
    store.add([spec()], T0)

    assert [3, 9, 0, 3] == [store.get(f"job{number}").max_retries for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("state", ["pending", "processing", "failed", "completed", "dead", "cancelled"])
def test_a_taken_id_is_refused(store, state):
    """The id of any job that exists is taken, whatever its state; nothing of the batch is stored."""
    bring_to(store, state, "mine")
    before = snapshot(store)

    with pytest.raises(JobExists, match="^the id mine is taken"):
        store.add([spec(), spec(id="mine"), spec()], T0)

    assert before == snapshot(store)


def test_a_refused_batch_uses_up_no_number(store):
    """After a refusal the next generated id is the one it would have been, and given ids stay free."""
    store.add([spec(id="mine")], T0)
    with pytest.raises(JobExists):
        store.add([spec(), spec(id="job9"), spec(id="fresh"), spec(id="mine")], T0)

    ids = store.add([spec(), spec(id="job9"), spec(id="fresh")], T0)

    assert ["job1", "job9", "fresh"] == ids


def test_an_id_given_twice_in_one_batch_is_refused(store):
    """Two jobs of a batch cannot have one id."""
    before = snapshot(store)

    with pytest.raises(JobExists, match="^the id mine is given twice"):
        store.add([spec(id="mine"), spec(id="mine")], T0)

    assert before == snapshot(store)


def test_generated_ids_step_over_given_ones(store):
    """job2 and job4 given beforehand are left out of the numbering."""
    store.add([spec(id="job2"), spec(id="job4")], T0)

    assert ["job1", "job3", "job5", "job6"] == store.add(specs(4), T0)


def test_a_given_id_after_the_generated_one_is_refused(store):
    """A generated id is taken like any other."""
    store.add(specs(2), T0)

    with pytest.raises(JobExists, match="^the id job2 is taken"):
        store.add([spec(id="job2")], T0)


def test_given_and_generated_ids_of_one_batch_do_not_collide(store):
    """A given id that the numbering would reach within the batch is stepped over, wherever it stands."""
    ids = store.add([spec(), spec(id="job1"), spec(), spec(id="job3"), spec()], T0)

    assert ["job2", "job1", "job4", "job3", "job5"] == ids


@pytest.mark.parametrize("taken", ["job1", "job2", "job7"])
def test_a_generated_id_of_the_past_is_never_given_again(store, taken):
    """An id that was generated, or given in the generated form, is refused even after its job was deleted."""
    store.add([spec(), spec(id="job7"), spec()], T0)
    store.cancel(["job1", "job2", "job7"], T0)
    store.prune(JobFilter())
    assert [] == store.jobs(JobFilter())

    with pytest.raises(JobExists, match=f"^the id {taken} was used by an earlier job"):
        store.add([spec(id=taken)], T0)


def test_numbering_goes_on_after_a_prune(store):
    """Deleted jobs leave their numbers behind, also the newest ones."""
    store.add(specs(3), T0)
    store.cancel(["job2", "job3"], T0)
    store.prune(JobFilter())

    assert ["job4"] == store.add([spec()], T0)


def test_an_own_id_is_free_again_after_a_prune(store):
    """Only generated ids are spent for ever; a caller's own name may come back."""
    bring_to(store, "cancelled", "nightly")
    store.prune(JobFilter())

    assert ["nightly"] == store.add([spec(id="nightly")], T0)


@pytest.mark.parametrize("job_id", ["job0", "job01", "JOB1", "job", "job1x", "job-1", "job" + "9" * 30])
def test_an_id_that_only_resembles_a_generated_one_is_free(store, job_id):
    """Such an id is never generated, so it neither blocks nor shifts the numbering."""
    assert [job_id] == store.add([spec(id=job_id)], T0)
    assert ["job1"] == store.add([spec()], T0)


def test_a_very_large_number_may_be_given(store):
    """A given number far ahead of the numbering is only stepped over when it is reached."""
    store.add([spec(id="job999999999999999999")], T0)

    assert ["job1"] == store.add([spec()], T0)
    with pytest.raises(JobExists):
        store.add([spec(id="job999999999999999999")], T0)


def test_a_large_batch_is_in_order(store):
    """Thousands of jobs in one call have ids, rows and claims in the order given."""
    ids = store.add([spec(f"echo {number}") for number in range(3000)], T0)
    listed = store.jobs(JobFilter(), limit=5000)

    assert [f"job{number}" for number in range(1, 3001)] == ids
    assert [f"echo {number}" for number in range(3000)] == [job.command for job in listed]
    assert ["job1", "job2", "job3"] == claim_ids(store.claim("w1", 3, (), T0))


def test_jobs_are_claimed_by_arrival_not_by_id(store):
    """Ids of any form do not change the order."""
    store.add([spec(id="z"), spec(), spec(id="a"), spec(id="job1000")], T0)

    assert ["z", "job1", "a", "job1000"] == drain(store)


def test_a_second_connection_sees_the_job_at_once(store, open_again):
    """What ``add`` acknowledged is there for everybody."""
    store.add([spec("echo seen")], T0)

    assert "echo seen" == open_again().get("job1").command


def test_numbering_is_shared_by_all_connections(store, open_again):
    """Two enqueuers never get one number, and leave none out."""
    other = open_again()

    ids = store.add([spec()], T0) + other.add(specs(2), T0) + store.add([spec()], T0)

    assert ["job1", "job2", "job3", "job4"] == ids


values = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    values,
    st.none() | st.dictionaries(values, values),
    st.none() | st.floats(1e-9, 1e9),
    st.integers(-(2**31) + 1, 2**31 - 1),
)
def test_any_checked_value_comes_back_as_it_was(store, command, env, timeout_s, priority):
    """Text of any kind and numbers at any size are stored without loss, and JSON stays JSON."""
    job_id = store.add([spec(command, env=env, timeout_s=timeout_s, priority=priority)], T0)[0]
    job = store.get(job_id)

    assert (command, env or {}, timeout_s, priority) == (job.command, job.env, job.timeout_s, job.priority)
    assert job.env_json is None or env == json.loads(job.env_json)


def test_generated_ids_pass_over_long_rows_of_taken_numbers(store):
    """Two hundred right ahead, a gap of one, a hundred more, and then every second one: none comes twice."""
    numbers = [*range(3, 203), *range(204, 304), *range(305, 505, 2)]
    store.add([spec(id=f"job{number}") for number in numbers], T0)
    free = (number for number in range(1, 1000) if number not in numbers)

    one = store.add(specs(2), T0)
    mixed = store.add([spec(), spec(id="job504"), spec(id="job700"), *specs(60)], T0)
    rest = [*store.add(specs(70), T0), *store.add(specs(100), T0)]

    assert [f"job{next(free)}" for _ in range(2)] == one
    free = iter([number for number in free if number not in (504, 700)])
    assert [f"job{next(free)}" for _ in range(61)] == [mixed[0], *mixed[3:]]
    assert [f"job{next(free)}" for _ in range(170)] == rest
    for taken in ("job305", "job700", "job10"):
        with pytest.raises(JobExists):
            store.add([spec(id=taken)], T0)
