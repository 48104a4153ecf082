"""Whether a worker is alive, dead or hung, as far as rows, clocks and host ids tell."""

from __future__ import annotations

import time

import pytest

from queuectl.recovery import ALIVE, DEAD, condition
from queuectl.runner import identity
from tests.store.build import worker

LEASE_S = 30.0
HOUR_S = 3600.0


class AStore:
    """What the verdict asks of a store."""

    def __init__(self, many_hosts: bool) -> None:
        self.many_hosts = many_hosts

    def now(self) -> float:
        return time.time()


def seen(many_hosts, host_id, lease_left_s, silent_s):
    """Return what a worker is taken for whose lease has so long to go, and who renewed it so long ago."""
    row = worker(
        "w1",
        host_id=host_id,
        lease_expires_at=time.time() + lease_left_s,
        renewed_mono_s=time.monotonic() - silent_s,
    )
    return condition(row, AStore(many_hosts), LEASE_S)


@pytest.fixture
def here(monkeypatch):
    """This process is on a machine whose boot is known."""
    monkeypatch.setattr(identity, "_known_host", "machine:boot:4026531836")


@pytest.mark.parametrize("many_hosts", [False, True])
@pytest.mark.parametrize("machine", ["machine", "c0ffee"])
def test_in_another_container_the_monotonic_clock_decides(here, many_hosts, machine):
    """A wall clock that jumped, or hours of suspend, end nobody there either, and keep nobody who is gone."""
    there = f"{machine}:boot:4026532999"

    assert ALIVE == seen(many_hosts, there, -HOUR_S, 10)
    assert DEAD == seen(many_hosts, there, HOUR_S, 1.5 * LEASE_S)


def test_after_a_new_start_of_the_machine_all_are_dead(here):
    """Where the store is a file; on a server it may be another machine."""
    assert DEAD == seen(False, "machine:earlier:4026531836", HOUR_S, 10)
    assert ALIVE == seen(True, "machine:earlier:4026531836", HOUR_S, 10)


@pytest.mark.parametrize("its", ["", "boot"])
def test_a_boot_that_is_not_known_is_none_other(monkeypatch, its):
    """Then the lease decides."""
    monkeypatch.setattr(identity, "_known_host", f"machine:{'' if its else 'boot'}:1")

    assert ALIVE == seen(False, f"machine:{its}:2", LEASE_S, 10)
    assert DEAD == seen(False, f"machine:{its}:2", -LEASE_S, 10)
