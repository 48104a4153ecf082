"""What a sweep does about a dead worker of this host: what its journal says, and what it leaves alone."""

from __future__ import annotations

import pytest

from queuectl import journal, recovery
from queuectl.runner import identity
from tests.store.build import T0, completed, specs, worker


@pytest.fixture
def dead(store, home):
    """The id of a worker of this host whose process is gone; there is a folder for its notes."""
    store.run_folder.make()
    fields = {"host_id": identity.host_id(), "pid": 2**22 + 1, "pid_started": "1"}
    store.register(worker("gone", lease_expires_at=store.now() + 30, **fields))
    store.register(worker("w1", host_id=identity.host_id() + "-other", lease_expires_at=store.now() + 9e6))
    store.register(worker("w2", host_id=identity.host_id() + "-other", lease_expires_at=store.now() + 9e6))
    return "gone"


def noted(store, worker_id):
    """Return the journal of a worker."""
    return journal.Journal(recovery.note_path(store, worker_id, journal.NAME))


def test_a_journal_settles_what_ended_what_began_and_what_waits(store, dead):
    """An end is recorded with its output, a run that began is lost, a claim whose command never began is undone."""
    store.add(specs(3), T0)
    ended, began, waits = store.claim(dead, 3, (), T0)
    written = noted(store, dead)
    assert written.begin([began.run_id, waits.run_id])
    assert written.add([waits.run_id], [completed(ended)], [(ended.run_id, [(0, b"out")], None)])
    written.close()

    lost = recovery.sweep(store)

    assert [began.job.id] == [each.job_id for each in lost]
    jobs = [store.get(claim.job.id) for claim in (ended, began, waits)]
    assert [("completed", 1, 0), ("pending", 1, 1), ("pending", 0, 0)] == [
        (job.state, job.attempts, job.losses) for job in jobs
    ]
    assert [(0, b"out")] == [(start, bytes(data)) for start, data in store.output(ended.run_id)]
    assert [] == store.runs(waits.job.id)


def test_of_a_claim_on_its_way_only_what_is_named_began(store, dead):
    """The worker died before it knew what it got: none of that is lost, only what ran meanwhile."""
    store.add(specs(3), T0)
    began, *got = store.claim(dead, 3, (), T0)
    written = noted(store, dead)
    assert written.begin([])
    assert written.add([], [], [], [began.run_id])
    written.close()

    lost = recovery.sweep(store)

    assert [began.job.id] == [each.job_id for each in lost]
    assert [1, 0, 0] == [store.get(claim.job.id).losses for claim in (began, *got)]
    assert [[], []] == [store.runs(claim.job.id) for claim in got]


def test_a_worker_that_renewed_after_the_look_keeps_its_jobs(store, dead):
    """What the sweeper has read is out of date: not even a claim that the worker holds is undone."""
    store.add(specs(2), T0)
    began, waits = store.claim(dead, 2, (), T0)
    written = noted(store, dead)
    assert written.begin([waits.run_id])
    written.close()
    seen = store.workers()
    assert store.renew(dead, 30.0, 5000.0)

    assert [] == recovery.sweep(store, workers=seen)

    for claim in (began, waits):
        assert ("processing", dead) == (store.get(claim.job.id).state, store.get(claim.job.id).worker_id)
