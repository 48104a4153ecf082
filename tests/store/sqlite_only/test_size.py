"""What looks and deeds cost in a large store, in steps of SQLite's machine: no more than their answer, or one walk."""

from __future__ import annotations

from functools import partial

import pytest

from queuectl import Queue
from queuectl.cli_commands.dlq import last_error
from queuectl.job import JobFilter
from tests.store.build import T0, bring_to, completed, spec, specs

#: Jobs of which a look is to pass over.
MANY = 20_000
#: Less than a step for each of those.
FEW = 10_000


class Steps:
    """Counts the steps of a connection to a store."""

    def __init__(self, store):
        self._store = store
        self._tens = 0

    def _ten_more(self):
        self._tens += 1

    def of(self, call):
        """Return how many steps *call* takes."""
        self._tens = 0
        self._store._db.set_progress_handler(self._ten_more, 10)
        try:
            call()
        finally:
            self._store._db.set_progress_handler(None, 0)
        return 10 * self._tens


@pytest.fixture
def steps(store):
    """What counts the steps of *store*."""
    return Steps(store)


LOOKS = {
    "what failed or is dead": lambda store: store.jobs(JobFilter(("failed", "dead"))),
    "the newest of what failed or is dead": lambda store: store.jobs(JobFilter(("failed", "dead")), 0, 10, None, True),
    "what runs": lambda store: store.jobs(JobFilter(("processing",))),
    "the newest that runs or failed": lambda store: store.jobs(JobFilter(("processing", "failed")), 0, 10, None, True),
    "what is there of no state": lambda store: store.jobs(JobFilter(("completed", "cancelled"))),
    "an unknown queue": lambda store: store.jobs(JobFilter(queues=("nothing",))),
    "a queue without such jobs": lambda store: store.jobs(JobFilter(("pending",), ("other",))),
}


@pytest.mark.parametrize("name", sorted(LOOKS))
def test_a_look_passes_over_no_other_jobs(store, steps, name):
    """Few jobs in some states or queues are found among very many."""
    for state in ("dead", "failed", "processing"):
        bring_to(store, state, queue="other")
    store.add(specs(MANY), T0)
    for state in ("dead", "failed", "processing"):
        bring_to(store, state, queue="other")

    assert steps.of(lambda: LOOKS[name](store)) < FEW


def test_what_is_ahead_of_a_job_is_counted_without_what_is_behind_it(store, steps):
    """The first of very many, and the more urgent one before it."""
    store.add(specs(MANY), T0)
    store.add([spec(id="urgent", priority=1)], T0 + 1)
    jobs = [store.get("urgent"), store.get("job1")]
    ahead = []

    assert steps.of(lambda: ahead.extend(store.ahead_of(job) for job in jobs)) < FEW

    assert [0, 1] == ahead


def test_the_last_to_end_are_found_without_sorting_all(store, steps, monkeypatch):
    """Of all jobs, and of a queue; of one with too few among them all are looked through, and the answer is right."""
    monkeypatch.setattr("queuectl.db.sqlite_views.NEWEST_ENDS", 100)
    old = bring_to(store, "completed", queue="old")
    store.add(specs(MANY), T0)
    store._db.execute(
        "UPDATE jobs SET state = 'completed', ready = 0, ended_at = ? + seq WHERE state = 'pending'", (T0 + 50,)
    )
    store._db.execute("UPDATE queues SET pending = 0, completed = ? WHERE name = 'default'", (MANY,))
    last = [job.id for job in store.jobs(JobFilter(), MANY - 9, 10)][::-1]
    found = []

    for which in (JobFilter(), JobFilter(("completed",), ("default",))):
        assert steps.of(lambda which=which: found.append(store.jobs(which, 0, 10, "ended_at", True))) < FEW

    assert [last, last] == [[job.id for job in jobs] for jobs in found]
    assert [old] == [job.id for job in store.jobs(JobFilter(queues=("old",)), 0, 10, "ended_at", True)]


@pytest.mark.parametrize(("sort", "descending"), [("priority", False), ("command", True), (None, True)])
def test_a_sorted_listing_is_sorted_once(path, sort, descending):
    """Not for each page: ten times the jobs are ten times the work, and a bit for the sorting."""
    taken = []
    with Queue(path) as queue:
        for count in (2000, 18_000):
            queue.enqueue_many([{"command": f"echo {number * 7 % 11}"} for number in range(count)])
            listed = set()
            taken.append(Steps(queue.store).of(partial(listed.update, queue.jobs(None, None, sort, descending))))
            assert len(listed) == queue.status().jobs["pending"]

    assert taken[1] < 15 * taken[0]


def test_an_enqueue_does_not_read_all_numbers_that_callers_took(store, steps):
    """Who moved very many jobs here gave them the ids of elsewhere, far ahead; others wait while one is enqueued."""
    store.add([spec(id=f"job{10**6 + number}") for number in range(MANY)], T0)

    assert steps.of(lambda: store.add(specs(1), T0)) < FEW
    assert steps.of(lambda: store.add([spec(id=f"job{10**6 + MANY + 5}")], T0)) < FEW
    assert ["job2", "job3"] == store.add(specs(2), T0)


def test_a_listing_of_the_dead_reads_the_ends_of_their_outputs(path, store):
    """One question for each, and not the megabytes before the last line."""
    with Queue(path) as queue:
        for _ in range(3):
            bring_to(store, "dead")
        jobs = list(queue.jobs(JobFilter(("dead",))))
        for job in jobs:
            run = queue.runs(job.id)[-1].run_id
            store.append_output(run, [(0, b"x" * 400_000), (400_000, b"line\n" * 80_000), (800_000, b"the last\n")])
        asked = []
        rows = queue.store._rows
        queue.store._rows = lambda *words: (asked.append(rows(*words)), asked[-1])[1]

        assert ["the last"] * 3 == [last_error(queue, job) for job in jobs]

    assert 3 == len(asked)
    assert sum(len(data) for found in asked for _, _, data in found) < 3 * 10_000


def test_an_output_of_many_parts_is_read_from_where_it_is_wanted(store, steps):
    """A page costs as much at the end as at the begin: whoever reads all of it does not walk from the first part on."""
    store.add(specs(1), T0)
    (claim,) = store.claim("w1", 1, (), T0)
    store.append_outputs([(claim.run_id, [(2 * number, b"xy") for number in range(MANY)], None)])
    found = []

    for start in (0, MANY, 2 * MANY - 20):
        assert steps.of(lambda start=start: found.append(store.output(claim.run_id, start, 10))) < FEW

    assert [10, 10, 10] == list(map(len, found))


class Watched:
    """So many jobs; another connection enqueues one while they are looked through."""

    def __init__(self, path, count, prefix):
        self._path, self._count, self._prefix = path, count, prefix
        self.given = [f"{prefix}{number}" for number in range(count)] if prefix else []
        self.any_after = False

    def __len__(self):
        return self._count

    def __iter__(self):
        for number in range(self._count):
            if number == self._count // 2:
                with Queue(self._path) as queue:
                    queue.store.in_a_hurry = True
                    queue.enqueue("the other")
            yield spec(id=f"{self._prefix}{number}" if self._prefix else None)


def test_a_job_that_completes_during_a_look_is_not_left_out(store, monkeypatch):
    """Counted, none had completed; looked at, none was running: it was one or the other all the time."""
    store.add([spec()], T0)
    claims = store.claim("w1", 1, (), T0)
    counted = store._taken_states

    def completes_then(which):
        states = counted(which)
        if claims:
            assert [True] == store.finish("w1", [completed(claims.pop())], now=T0 + 11).accepted
        return states

    monkeypatch.setattr(store, "_taken_states", completes_then)

    assert ["job1"] == [job.id for job in store.jobs(JobFilter(("processing", "completed")))]


@pytest.mark.parametrize(("prefix", "first", "last"), [("", "job2", f"job{MANY + 1}"), ("x", "x0", f"x{MANY - 1}")])
def test_others_write_while_very_many_jobs_are_made_ready(path, store, monkeypatch, prefix, first, last):
    """The write lock is taken for one statement that moves them in, not for as long as each of them takes."""
    monkeypatch.setattr("queuectl.db.sqlite_add.HUGE_BATCH", MANY // 2)
    ids = store.add(Watched(path, MANY, prefix))

    assert "the other" == store.get("job1").command
    assert (first, last, MANY) == (ids[0], ids[-1], len(ids))
    assert [] == store.check()


class Locked:
    """Counts the steps that a store's connection takes while it has the write lock: others wait as long."""

    def __init__(self, store):
        self._store = store
        self._tens = self._longest = 0
        store._db.set_progress_handler(self._ten_more, 10)

    def _ten_more(self):
        self._tens = self._tens + 1 if self._store._db.in_transaction else 0
        self._longest = max(self._longest, self._tens)

    def longest(self):
        """Return how many steps the longest transaction took, and stop counting."""
        self._store._db.set_progress_handler(None, 0)
        return 10 * self._longest


DEEDS = {
    "retry": lambda queue: queue.retry_where(JobFilter(tags=("rare",))),
    "prune": lambda queue: queue.prune(JobFilter(tags=("rare",))),
    "prune the old": lambda queue: queue.prune(JobFilter(tags=("rare",), ended_before=T0 + 100)),
}


@pytest.mark.parametrize("name", sorted(DEEDS))
def test_who_looks_for_jobs_to_change_keeps_nobody_from_writing(path, store, name):
    """Three among very many that have ended: the walk to them is not made with the lock."""
    store.add(specs(MANY), T0)
    for state in ("completed", "dead", "cancelled"):
        bring_to(store, state, tags=["rare"])
    store._db.execute(
        "UPDATE jobs SET state = 'completed', ready = 0, ended_at = ? WHERE state = 'pending'", (T0 + 50,)
    )
    store._db.execute("UPDATE queues SET pending = 0, completed = completed + ?", (MANY,))
    with Queue(path) as queue:
        locked = Locked(queue.store)

        assert 3 == DEEDS[name](queue)

        assert locked.longest() < FEW
        assert [] == queue.store.check()


@pytest.mark.parametrize("age", [None, T0 + 100])
def test_a_prune_in_many_steps_walks_once(store, steps, age):
    """And once more, to see that nothing is left; not from the first job on in each of its steps."""
    for number in range(40):
        bring_to(store, "dead", queue="rare" if number % 2 else "other")
    kept, at_once = (
        JobFilter(("dead",), ("other",), ended_before=age),
        JobFilter(("dead",), ("rare",), ended_before=age),
    )
    store.add(specs(5000), T0)
    store._db.execute("UPDATE jobs SET state = 'dead', ready = 0, ended_at = ? WHERE state = 'pending'", (T0 + 50,))
    store._db.execute("UPDATE queues SET pending = 0, dead = ? WHERE name = 'default'", (5000,))
    walk = steps.of(lambda: store.jobs(kept, limit=100))

    deleted = []
    taken = steps.of(lambda: deleted.extend(iter(lambda: store.prune(at_once, 1), 0)))

    assert 20 == len(deleted)
    assert 20 == len(store.jobs(kept))
    assert taken < 10 * walk
