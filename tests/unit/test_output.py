"""The output buffer: what is handed out is the output, or its first and last half."""

from __future__ import annotations

from typing import Dict, List

from hypothesis import given
from hypothesis import strategies as st

from queuectl.runner.output import OutputBuffer, begin_of_lines


@given(st.integers(2, 40), st.lists(st.tuples(st.binary(max_size=90), st.booleans()), max_size=15))
def test_stored_parts_are_the_first_and_the_last_half(limit: int, feeds: List) -> None:
    """However the bytes come and whenever they are stored, the parts join to head and tail."""
    buffer = OutputBuffer(limit)
    stored: Dict[int, bytes] = {}
    printed = b""

    def store(last: bool = False) -> None:
        parts, gone = buffer.take(last)
        if gone is not None:
            for start in [start for start in stored if gone[0] <= start < gone[1]]:
                del stored[start]
        assert not stored.keys() & {start for start, _ in parts}
        stored.update(parts)

    for data, take_now in feeds:
        printed += data
        buffer.feed(data)
        if take_now:
            store()
            assert sum(map(len, stored.values())) <= limit + max(map(len, stored.values()), default=0)
    store(last=True)
    kept = printed if len(printed) <= limit else printed[: limit // 2] + printed[-(limit - limit // 2) :]

    assert kept == b"".join(stored[start] for start in sorted(stored))
    assert len(printed) == buffer.total
    assert ([], None) == buffer.take()


@given(st.lists(st.sampled_from([b"a", b"\n", b"bc\nd", b"\n\n", b"e\r"]), max_size=8), st.integers(0, 12))
def test_the_last_lines_are_found_over_any_parts(pieces: List[bytes], lines: int) -> None:
    """They begin where ``tail`` begins, or before the first part if there are no more of them."""
    whole = b"".join(pieces)
    starts = [sum(map(len, pieces[:number])) for number in range(len(pieces))]
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n") or place == len(whole) - 1]

    begin = begin_of_lines(list(zip(starts, pieces)), lines)

    begins = [0, *ends]
    expected = begins[-1 - lines] if lines < len(begins) else 0
    assert expected == (begin or 0)
    assert begin is None or begin > 0


def test_memory_is_bounded_without_any_store() -> None:
    """A gigabyte printed between two stores leaves at most one and a half times the limit in memory."""
    buffer = OutputBuffer(1000)
    for _ in range(1000):
        buffer.feed(b"x" * 5000)

    held = len(buffer._head) + len(buffer._tail)

    assert held <= 1500


def test_each_byte_is_handed_out_once() -> None:
    """Though the output is far beyond the limit: what is kept of it moves on by whole parts."""
    buffer = OutputBuffer(100_000)
    buffer.feed(b"x" * 300_000)
    handed_out = sum(len(data) for _, data in buffer.take()[0])
    assert 100_000 == handed_out

    for _ in range(2000):
        buffer.feed(b"a line of output\n")
        handed_out += sum(len(data) for _, data in buffer.take()[0])
    handed_out += sum(len(data) for _, data in buffer.take(last=True)[0])

    assert 100_000 + 2000 * 17 + 16_000 == handed_out  # 16,000 of the first part are still kept
