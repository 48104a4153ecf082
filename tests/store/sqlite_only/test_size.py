"""What looks and deeds cost in a large store, in steps of SQLite's machine: no more than their answer, or one walk."""

from __future__ import annotations

import pytest

from queuectl import Queue
from queuectl.job import JobFilter
from tests.store.build import T0, bring_to, specs

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


@pytest.mark.parametrize(("sort", "descending"), [("priority", False), ("command", True), (None, True)])
def test_a_sorted_listing_is_sorted_once(path, sort, descending):
    """Not for each page: ten times the jobs are ten times the work, and a bit for the sorting."""
    taken = []
    with Queue(path) as queue:
        for count in (2000, 18_000):
            queue.enqueue_many([{"command": f"echo {number * 7 % 11}"} for number in range(count)])
            jobs = []
            taken.append(Steps(queue.store).of(lambda: jobs.extend(queue.jobs(None, None, sort, descending))))
            assert len(jobs) == len({job.id for job in jobs}) == queue.status().jobs["pending"]

    assert taken[1] < 15 * taken[0]
