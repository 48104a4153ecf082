"""When a lease is renewed: after a third of it, on one machine by all at the same time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl import membership
from queuectl.membership import Membership, is_time


@given(st.floats(0, 1e9), st.floats(0.5, 100), st.floats(0.1, 2), st.booleans())
def test_a_lease_is_renewed_one_tick_after_its_period_at_the_latest(begun_mono, period_s, tick_s, together):
    """However the ticks fall."""
    last_mono = now_mono = begun_mono
    while not is_time(last_mono, now_mono, period_s, together):
        now_mono += tick_s
    assert last_mono < now_mono <= last_mono + period_s + tick_s + 1e-3


@pytest.mark.parametrize("last_mono", [100.1, 104.0, 109.9])
def test_on_one_machine_all_are_due_at_once(last_mono):
    """Whenever each was renewed last."""
    assert not is_time(last_mono, 109.95, 10.0, together=True)
    assert is_time(last_mono, 110.0, 10.0, together=True)


def test_over_a_network_each_has_its_own_time():
    """Hundreds of workers do not all come at once."""
    assert not is_time(104.0, 113.9, 10.0, together=False)
    assert is_time(104.0, 114.0, 10.0, together=False)


class AStore:
    """Renews every lease, and counts how often."""

    def __init__(self, many_hosts: bool) -> None:
        self.many_hosts = many_hosts
        self.renewals = 0

    def renew(self, worker_id: str, lease_s: float, mono_s: float) -> bool:
        self.renewals += 1
        return True


@pytest.mark.parametrize(("many_hosts", "renewals"), [(True, 1), (False, 0)])
def test_a_machine_that_wakes_up_asks_at_once_whether_its_jobs_are_still_its_own(monkeypatch, many_hosts, renewals):
    """Its own clock stood still, those of other hosts did not; where there are none, nobody has taken anything."""
    slept = [5.0]
    monkeypatch.setattr(membership, "slept_s", lambda: slept[0])
    store = AStore(many_hosts)
    place = Membership(store, 0, "g", 1, ())
    assert place.renew_in_time(30.0, 100.0)  # the first is always due

    for now_mono in (100.5, 101.0):
        place.renew_in_time(30.0, now_mono)
    assert 1 == store.renewals
    slept[0] += 3600
    for now_mono in (101.5, 102.0, 102.5):
        place.renew_in_time(30.0, now_mono)

    assert 1 + renewals == store.renewals
