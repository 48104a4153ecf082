"""How long a failed job waits before it runs again."""

from __future__ import annotations


def backoff_delay(failures: int, base: float, cap_s: float, jitter: float = 0.0, random: float = 0.0) -> float:
    """Return how long a job waits after its *failures*-th failed run, in seconds.

    The delay is ``base ** failures``, at most *cap_s*, plus ``jitter * random`` of it.

    Args:
        failures: Failed runs so far, counting the one that just failed; from 1.
        base: Growth per failure; >= 1.
        cap_s: Upper bound of the exponential part, in seconds; >= 0.
        jitter: The most that is added at random, as a share of the delay; >= 0.
        random: A number in [0, 1), drawn by the caller.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """
    if failures < 1:
        raise ValueError(f"failures must be at least 1, not {failures}")
    if not base >= 1:
        raise ValueError(f"base must be at least 1, not {base}")
    if not cap_s >= 0:
        raise ValueError(f"cap_s must be at least 0, not {cap_s}")
    if not jitter >= 0:
        raise ValueError(f"jitter must be at least 0, not {jitter}")
    try:
        delay_s = float(base) ** failures
    except OverflowError:  # 2.0 ** 1024 and beyond: more than any cap
        delay_s = cap_s
    return min(delay_s, cap_s) * (1 + jitter * random)
