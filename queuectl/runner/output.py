"""The output of one run, kept in memory until it is stored, and cut in the middle if it exceeds the limit."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Iterator, List, Optional, Tuple


class OutputBuffer:
    """Takes a run's output as it comes and hands out what to store.

    Of an output longer than *limit* bytes, the first and the last *limit* / 2 bytes are kept. Memory is bounded by
    one and a half times the limit, whatever the command prints.
    """

    _stored = 0  # offset up to which output was handed out
    total = 0  # bytes printed so far

    def __init__(self, limit: int) -> None:
        self._head_size = limit // 2
        self._tail_size = limit - self._head_size
        self._head = bytearray()  # the part of the first half that was not handed out yet
        self._tail = bytearray()  # the last bytes of what follows the first half

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the output."""
        room = self._head_size - self.total
        self.total += len(data)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail += data
            # Cut at twice the size and not at each feed, to move the bytes less often.
            if len(self._tail) > 2 * self._tail_size:
                del self._tail[: len(self._tail) - self._tail_size]

    @property
    def dirty(self) -> bool:
        """Whether there is output that was not handed out yet."""
        return self._stored < self.total

    def take(self) -> Tuple[List[Tuple[int, bytes]], Optional[int]]:
        """Return the (offset, bytes) parts to store now, and the offset from which they replace stored parts.

        That offset is None as long as the output is within the limit, and nothing stored has to go.
        """
        parts: List[Tuple[int, bytes]] = []
        replace_from: Optional[int] = None
        if self._head:
            parts.append((self._stored, bytes(self._head)))
            self._head.clear()
        if self.total > self._head_size + self._tail_size:
            del self._tail[: len(self._tail) - self._tail_size]
            replace_from = self._head_size
            parts.append((self.total - self._tail_size, bytes(self._tail)))
        elif self._tail:
            since = max(self._stored, self._head_size)
            fresh = self._tail[since - self._head_size :]
            if fresh:
                parts.append((since, bytes(fresh)))
        self._stored = self.total
        return parts, replace_from


def joined(parts: Iterable[Tuple[int, bytes]], end: int) -> Iterator[bytes]:
    """Yield the bytes of *parts*, which follow offset *end*; where bytes were cut out, yield a line that says so."""
    for start, data in parts:
        if start > end:
            yield b"\n[queuectl: %d bytes were cut here]\n" % (start - end)
        yield data
        end = start + len(data)
