"""The delay before a retry."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl.retry import backoff_delay

failures_counts = st.integers(1, 2**31 - 1)
bases = st.floats(1, 1e308, allow_nan=False)
caps_s = st.floats(0, 1e12)


@pytest.mark.parametrize(
    ("failures", "base", "expected_s"),
    [(1, 2, 2.0), (2, 2, 4.0), (3, 2, 8.0), (11, 2, 2048.0), (12, 2, 3600.0), (3, 1.5, 3.375), (5, 1, 1.0)],
)
def test_the_delay_grows_by_the_base(failures, base, expected_s):
    """The delay is the base to the power of the failed runs, up to the cap."""
    actual_s = backoff_delay(failures, base, cap_s=3600)

    assert expected_s == actual_s


@given(failures_counts, bases, caps_s)
def test_the_delay_is_capped_whatever_the_numbers(failures, base, cap_s):
    """No number of failures and no base overflows, or gives more than the cap or less than nothing."""
    actual_s = backoff_delay(failures, base, cap_s)

    assert 0 <= actual_s <= cap_s


@given(failures_counts, st.floats(1, 1e6), caps_s)
def test_the_delay_never_shrinks(failures, base, cap_s):
    """One failure more never waits shorter."""
    sooner_s = backoff_delay(failures, base, cap_s)
    later_s = backoff_delay(failures + 1, base, cap_s)

    assert sooner_s <= later_s


@given(st.integers(1, 50), bases, caps_s, st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_jitter_only_adds_and_at_most_its_share(failures, base, cap_s, jitter, random):
    """Jitter comes on top of the capped delay, in proportion to the delay and to the random number."""
    plain_s = backoff_delay(failures, base, cap_s)

    actual_s = backoff_delay(failures, base, cap_s, jitter, random)

    assert math.isclose(plain_s + jitter * random * plain_s, actual_s)
    assert plain_s <= actual_s <= plain_s * (1 + jitter)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 2, 10), "failures"),
        ((-1, 2, 10), "failures"),
        ((1, 0.5, 10), "base"),
        ((1, math.nan, 10), "base"),
        ((1, 2, -1), "cap_s"),
        ((1, 2, math.nan), "cap_s"),
        ((1, 2, 10, -0.1), "jitter"),
    ],
)
def test_an_argument_out_of_range_is_named(arguments, named):
    """A caller's mistake is a ValueError that says which argument it was."""
    with pytest.raises(ValueError, match=f"^{named} must be at least"):
        backoff_delay(*arguments)
