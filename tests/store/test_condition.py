"""Whether a worker is alive, dead or hung, as far as rows, clocks and host ids tell."""

from __future__ import annotations

import time

import pytest

from queuectl.recovery import ALIVE, DEAD, MARGIN, condition
from queuectl.runner import identity
from tests.store.build import worker

LEASE_S = 30.0
HOUR_S = 3600.0


def seen(store, host_id, lease_left_s, silent_s):
    """Return what a worker is taken for whose lease has so long to go, and who renewed it so long ago."""
    now = store.now()
    store.register(
        worker("there", host_id=host_id, started_at=now, lease_expires_at=now + lease_left_s,
               renewed_mono_s=time.monotonic() - silent_s)
    )  # fmt: skip
    verdict = condition(next(row for row in store.workers() if row.id == "there"), store, LEASE_S)
    store.unregister("there")
    return verdict


@pytest.fixture
def here(monkeypatch):
    """This process is on a machine whose boot is known."""
    monkeypatch.setattr(identity, "_known_host", "machine:boot:4026531836")


@pytest.mark.parametrize("machine", ["machine", "c0ffee"])
def test_in_another_container_the_monotonic_clock_decides(store, here, machine):
    """A wall clock that jumped, or hours of suspend, end nobody there either, and keep nobody who is gone."""
    there = f"{machine}:boot:4026532999"

    assert ALIVE == seen(store, there, -HOUR_S, 10)
    assert DEAD == seen(store, there, HOUR_S, 1.5 * LEASE_S)


def test_after_a_new_start_of_the_machine_all_are_dead(store, here):
    """Where the store is a file; on a server it may be another machine."""
    verdict = seen(store, "machine:earlier:4026531836", HOUR_S, 10)

    assert (ALIVE if store.many_hosts else DEAD) == verdict


@pytest.mark.parametrize("its", ["", "boot"])
def test_a_boot_that_is_not_known_is_none_other(store, monkeypatch, its):
    """Then the lease decides."""
    monkeypatch.setattr(identity, "_known_host", f"machine:{'' if its else 'boot'}:1")

    assert ALIVE == seen(store, f"machine:{its}:2", LEASE_S, 10)
    assert DEAD == seen(store, f"machine:{its}:2", -LEASE_S, 10)


def test_a_worker_keeps_its_jobs_for_a_margin_beyond_its_lease(store, here):
    """In that time it ends its commands by itself: given away before, a job would run twice."""
    margin_s = MARGIN * LEASE_S

    assert ALIVE == seen(store, "machine:boot:4026532999", -HOUR_S, LEASE_S + margin_s / 2)
    if store.many_hosts:
        assert ALIVE == seen(store, "another:start:1", -margin_s / 2, HOUR_S)
        assert DEAD == seen(store, "another:start:1", -margin_s - 1, 0)


def test_of_a_process_that_is_hidden_the_lease_decides(store, here, monkeypatch):
    """It may be the worker, or another program that has the worker's pid now."""
    monkeypatch.setattr(identity, "is_hidden", lambda pid: True)
    monkeypatch.setattr(identity, "process_started", lambda pid: None)

    assert ALIVE == seen(store, identity.host_id(), -HOUR_S, LEASE_S)
    assert DEAD == seen(store, identity.host_id(), HOUR_S, 1.5 * LEASE_S)
