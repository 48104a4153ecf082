"""Containers that share a store: each sees the rows of the others, and none of their processes."""

from __future__ import annotations

import time

import pytest

from queuectl import recovery
from queuectl.runner import identity
from tests.store.build import claim_ids, spec, worker

LEASE_S = 30.0


@pytest.fixture
def there(monkeypatch):
    """The host id of another container; this process is in one too."""
    monkeypatch.setattr(identity, "_known_host", "machine:boot:4026531836")
    return "machine:boot:4026532999"


def enter(store, worker_id, there, silent_s, role="worker"):
    """Register somebody over there who was last heard of so long ago; the wall clock has jumped since."""
    now = time.time()
    store.register(
        worker(
            worker_id, role=role, host_id=there, started_at=now, lease_expires_at=now - 3600,
            renewed_mono_s=time.monotonic() - silent_s,
        )
    )  # fmt: skip


def test_a_jump_of_the_wall_clock_takes_no_job_from_another_container(store, there):
    """Its worker renews in time by the clock that both share."""
    store.add([spec()])
    enter(store, "w1", there, 12)
    assert ["job1"] == claim_ids(store.claim("w1", 1))

    assert [] == recovery.sweep(store, judge_hung=True)
    assert "processing" == store.get("job1").state


@pytest.mark.parametrize("supervisor_silent_s", [12, 43])
def test_a_silent_worker_is_for_its_own_supervisor(store, there, supervisor_silent_s):
    """Its command may go on, and only over there it can be ended; if nobody is left there, nothing goes on."""
    store.add([spec()])
    enter(store, "w1", there, 43)
    enter(store, "boss", there, supervisor_silent_s, role="supervisor")
    store.claim("w1", 1)

    lost = recovery.sweep(store, judge_hung=True)

    assert ([] if supervisor_silent_s < LEASE_S else ["job1"]) == [each.job_id for each in lost]
    assert ("processing" if supervisor_silent_s < LEASE_S else "pending") == store.get("job1").state
