"""The output of one run, kept in memory until it is stored, and cut in the middle if it exceeds the limit."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Iterator, List, Optional, Sequence, Tuple


class OutputBuffer:
    """Takes a run's output as it comes and hands out what to store.

    Of an output longer than *limit* bytes, the first and the last *limit* / 2 bytes are kept. Memory is bounded by
    one and a half times the limit, whatever the command prints. Each byte is handed out once, or twice if the cut goes
    through a part that was handed out before.
    """

    _stored = 0  # offset up to which output was handed out
    total = 0  # bytes printed so far

    def __init__(self, limit: int) -> None:
        self._head_size = limit // 2
        self._tail_size = limit - self._head_size
        self._head = bytearray()  # the part of the first half that was not handed out yet
        self._tail = bytearray()  # the last bytes of what follows the first half
        self._starts: List[int] = []  # the offsets of the stored parts behind the first half, in order

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

    def take(self, last: bool = False) -> Tuple[List[Tuple[int, bytes]], Optional[Tuple[int, int]]]:
        """Return the (offset, bytes) parts to store now, and the range of offsets whose stored parts go before that.

        The range is None if nothing has to go. Until the *last* call, a part stays as long as any of its bytes is kept.
        """
        parts: List[Tuple[int, bytes]] = []
        gone: Optional[Tuple[int, int]] = None
        if self._head:
            parts.append((self._stored, bytes(self._head)))
            self._head.clear()
        if self._tail:
            del self._tail[: max(len(self._tail) - self._tail_size, 0)]
            kept_from = self.total - len(self._tail)
            since = max(self._stored, kept_from)
            if since < self.total:
                parts.append((since, bytes(self._tail[since - kept_from :])))
                self._starts.append(since)
            if kept_from > self._head_size:
                gone = self._cut(kept_from, parts, last)
        self._stored = self.total
        return parts, gone

    def _cut(self, kept_from: int, parts: List[Tuple[int, bytes]], last: bool) -> Optional[Tuple[int, int]]:
        """Return the range of offsets whose stored parts are kept no longer; add what is left of a part cut through."""
        starts = self._starts
        whole = 0  # how many parts are gone altogether: each ends where the next one begins
        while whole + 1 < len(starts) and starts[whole + 1] <= kept_from:
            whole += 1
        del starts[:whole]
        if last and starts[0] < kept_from:
            end = starts[1] if len(starts) > 1 else self.total
            parts.append((kept_from, bytes(self._tail[: end - kept_from])))
            starts[0] = kept_from
            return self._head_size, kept_from
        return (self._head_size, starts[0]) if whole else None


def begin_of_lines(parts: Sequence[Tuple[int, bytes]], lines: int) -> Optional[int]:
    """Return the offset at which the last *lines* lines of *parts* begin; None if that is not in them.

    As for ``tail``, what follows the last line's end is no line.
    """
    if lines == 0:
        return parts[-1][0] + len(parts[-1][1]) if parts else None
    left = lines
    behind: Optional[int] = None  # where the part behind begins, maybe after a cut
    for start, data in reversed(parts):
        place = len(data) - (behind is None and data.endswith(b"\n"))
        while True:
            place = data.rfind(b"\n", 0, place)
            if place < 0:
                break
            left -= 1
            if left == 0:
                return behind if behind is not None and place + 1 == len(data) else start + place + 1
        behind = start
    return None


def joined(parts: Iterable[Tuple[int, bytes]], end: int) -> Iterator[bytes]:
    """Yield the bytes of *parts*, which follow offset *end*; where bytes were cut out, yield a line that says so."""
    for start, data in parts:
        if start > end:
            yield b"\n[queuectl: %d bytes were cut here]\n" % (start - end)
        yield data
        end = start + len(data)
