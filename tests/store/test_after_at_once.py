"""Jobs that wait for others, where what lets them go and what holds them happens at the same moment."""

from __future__ import annotations

import threading

import pytest

from queuectl.job import JobFilter
from tests.store.build import T0, claim_ids, completed, spec, worker

ROUNDS = 40


def at_once(*calls):
    """Make calls at the same moment, each in a thread; raise what one of them raised."""
    barrier = threading.Barrier(len(calls))
    errors = []

    def run(call):
        barrier.wait()
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def finisher(store, worker_id, claims):
    """Return a call that completes *claims*."""
    return lambda: store.finish(worker_id, [completed(claim, T0) for claim in claims], now=T0)


def test_two_workers_complete_the_last_two(store, open_again):
    """Neither may take the other's for missing still: one of them lets the job go."""
    other = open_again()
    for number in range(ROUNDS):
        needs = [f"a{number}", f"b{number}"]
        store.add([*(spec(id=name) for name in needs), spec(id=f"c{number}", after=needs)], T0)
        mine, its = store.claim("w1", 1, (), T0), other.claim("w2", 1, (), T0)

        at_once(finisher(store, "w1", mine), finisher(other, "w2", its))

        assert not store.get(f"c{number}").held
        claims = store.claim("w1", 1, (), T0)
        assert [f"c{number}"] == claim_ids(claims)
        finisher(store, "w1", claims)()


def test_workers_complete_many_that_many_need(store, open_again):
    """Each of several jobs needs some of those that four workers complete at once, several in a call."""
    stores = [store, open_again(), open_again(), open_again()]
    for number in range(3, 5):
        store.register(worker(f"w{number}", number=number))
    for number in range(ROUNDS // 2):
        names = [f"a{number}.{n}" for n in range(12)]
        store.add([spec(id=name) for name in names], T0)
        store.add(
            [spec(id=f"d{number}.{n}", after=names[n % 5 :: 1 + n % 4], priority=-1) for n in range(20)],
            T0,
        )
        calls = []
        for worker_number, each in enumerate(stores, 1):
            calls.append(finisher(each, f"w{worker_number}", each.claim(f"w{worker_number}", 3, (), T0)))

        at_once(*calls)

        assert [] == [job.id for job in store.jobs(JobFilter(("pending",))) if job.held]
        claims = store.claim("w1", 50, (), T0)
        assert {f"d{number}.{n}" for n in range(20)} == set(claim_ids(claims))
        finisher(store, "w1", claims)()


@pytest.mark.parametrize("several", [False, True])
def test_a_job_comes_in_while_what_it_needs_completes(store, open_again, several):
    """It is not held for what has completed, whichever of the two was first."""
    other = open_again()
    for number in range(ROUNDS):
        store.add([spec(id=f"a{number}")], T0)
        claims = store.claim("w1", 1, (), T0)
        new = [spec(id=f"b{number}", after=[f"a{number}"])]
        new += [spec(id=f"c{number}", after=[f"a{number}", f"b{number}"])] * several

        at_once(finisher(store, "w1", claims), lambda new=new: other.add(new, T0))

        assert (False, ["a%d" % number]) == (store.get(f"b{number}").held, store.get(f"b{number}").after)
        assert [(f"b{number}", "pending")] * several == store.needs(f"c{number}")
        for name in "bc"[: 1 + several]:
            [claim] = store.claim("w1", 1, (), T0)
            assert f"{name}{number}" == claim.job.id
            finisher(store, "w1", [claim])()


@pytest.mark.parametrize("verb", ["retry", "retry_where", "edit"])
def test_a_job_is_held_again_while_what_it_needs_completes(store, open_again, verb):
    """A cancelled one that is retried, by id or by filter, and one to which an edit gives the need."""
    other = open_again()
    for number in range(ROUNDS):
        name = f"b{number}"
        store.add([spec(id=f"a{number}", priority=1)], T0)
        claims = store.claim("w1", 1, (), T0)
        store.add([spec(id=name, after=None if verb == "edit" else [f"a{number}"])], T0)
        if verb != "edit":
            store.cancel([name], T0)
        again = {
            "retry": lambda name=name: other.retry([name], now=T0),
            "retry_where": lambda: other.retry_where(JobFilter(("cancelled",)), T0),
            "edit": lambda name=name, number=number: other.edit(name, {"after": [f"a{number}"]}, T0),
        }

        at_once(finisher(store, "w1", claims), again[verb])

        assert ("pending", False) == (store.get(name).state, store.get(name).held)
        claims = store.claim("w1", 1, (), T0)
        assert [name] == claim_ids(claims)
        finisher(store, "w1", claims)()


def test_a_job_is_cancelled_while_what_it_needs_completes(store, open_again):
    """It is cancelled either way; and the retry finds nothing that would hold it."""
    other = open_again()
    for number in range(ROUNDS):
        name = f"b{number}"
        store.add([spec(id=f"a{number}", priority=1), spec(id=name, after=[f"a{number}"])], T0)
        claims = store.claim("w1", 1, (), T0)

        at_once(finisher(store, "w1", claims), lambda name=name: other.cancel([name], T0))

        assert ("cancelled", []) == (store.get(name).state, store.needs(name))
        store.retry([name], now=T0)
        claims = store.claim("w1", 1, (), T0)
        assert [name] == claim_ids(claims)
        finisher(store, "w1", claims)()


def test_two_edits_at_once_make_no_circle(store, open_again):
    """One of them is refused, or else none of the jobs could ever run."""
    other = open_again()
    refused = []

    def edit(which, job_id, need):
        from queuectl.errors import InvalidJob

        try:
            which.edit(job_id, {"after": [need]}, T0)
        except InvalidJob:
            refused.append(job_id)

    for number in range(ROUNDS // 2):
        a, b = f"a{number}", f"b{number}"
        store.add([spec(id=a), spec(id=b)], T0)

        at_once(lambda a=a, b=b: edit(store, a, b), lambda a=a, b=b: edit(other, b, a))

        assert number + 1 == len(refused)
        for _ in range(2):
            [claim] = store.claim("w1", 1, (), T0)
            finisher(store, "w1", [claim])()
