"""The output buffer: what is handed out is the output, or its first and last half."""

from __future__ import annotations

from typing import Dict, List

from hypothesis import given
from hypothesis import strategies as st

from queuectl.runner.output import OutputBuffer


@given(st.integers(2, 40), st.lists(st.tuples(st.binary(max_size=90), st.booleans()), max_size=15))
def test_stored_parts_are_the_first_and_the_last_half(limit: int, feeds: List) -> None:
    """However the bytes come and whenever they are stored, the parts join to head and tail."""
    buffer = OutputBuffer(limit)
    stored: Dict[int, bytes] = {}
    printed = b""

    def store() -> None:
        parts, replace_from = buffer.take()
        if replace_from is not None:
            for start in [start for start in stored if start >= replace_from]:
                del stored[start]
        stored.update(parts)

    for data, take_now in feeds:
        printed += data
        buffer.feed(data)
        if take_now and buffer.dirty:
            store()
    if buffer.dirty:
        store()
    kept = printed if len(printed) <= limit else printed[: limit // 2] + printed[-(limit - limit // 2) :]

    assert kept == b"".join(stored[start] for start in sorted(stored))
    assert len(printed) == buffer.total
    assert not buffer.dirty


def test_memory_is_bounded_without_any_store() -> None:
    """A gigabyte printed between two stores leaves at most one and a half times the limit in memory."""
    buffer = OutputBuffer(1000)
    for _ in range(1000):
        buffer.feed(b"x" * 5000)

    held = len(buffer._head) + len(buffer._tail)

    assert held <= 1500
