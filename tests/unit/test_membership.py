"""When a lease is renewed: after a third of it, on one machine by all at the same time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl.membership import is_time, next_time


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


@given(st.floats(0, 1e9), st.floats(0.1, 100), st.floats(0, 1))
def test_who_sleeps_until_the_next_time_finds_it_due(now_mono, period_s, share):
    """And sleeps for one period at most; who comes a little later finds what the others have done."""
    next_mono = next_time(now_mono, period_s)
    assert now_mono - 1e-6 <= next_mono <= now_mono + period_s + 1e-6
    assert is_time(now_mono - 1e-6, next_mono + 1e-6, period_s, together=True)
    after_s = share * period_s
    assert now_mono - 1e-6 <= next_time(now_mono, period_s, after_s) <= now_mono + period_s + 1e-6
