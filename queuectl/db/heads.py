"""The queues of a store in the order of their most urgent jobs, as far as one worker knows them.

A claim takes the most urgent job of all queues. If there are few queues, each claim asks all of them for their most
urgent job, their *head*. With one queue for each of thousands of customers, that takes much longer than the job. So
a worker looks at the heads of all queues once, and remembers them for a little while: a claim asks the queue with the
most urgent head for its next job, and the queue after it only if that job is less urgent than the head was.

What is remembered may be out of date. A queue may have become less urgent, since other workers took its job: this is
seen when the queue is asked. It may have become more urgent, by a new job, which each claim looks for; or by one that
came back (a retry, an edit, a lifted limit), which is seen at the next look.
"""

from __future__ import annotations

import time
from heapq import heapify, heappop, heappush

from queuectl.db.rules import LOOKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, List, Optional, Sequence, Tuple

    Key = Tuple[int, float, int]  # -priority, run_at and seq of a job: the smaller, the more urgent

# How many heads are kept of one look: the most urgent ones.
MOST = 4096
# How long they are relied on, in seconds; longer if the look took long.
FRESH_S = 0.4
# More urgent than any job.
FIRST: Key = (-(2**63), 0.0, 0)


class Heads:
    """What a look at all queues has found: the queues with ready jobs, and how urgent the head of each is."""

    def __init__(self, rows: Iterable[Tuple[str, Key]], begun_s: float, more: bool = False) -> None:
        """Take (queue, key of its head) in any order, from a look begun at *begun_s* by ``time.monotonic``.

        With *more*, *rows* are not all queues, but the most urgent ones.
        """
        self._keys: Dict[str, Key] = dict(rows)
        self._heap = [(key, name) for name, key in self._keys.items()]
        heapify(self._heap)
        self._last: Optional[Key] = max(self._keys.values(), default=FIRST) if more else None
        now_s = time.monotonic()
        self._until_s = now_s + max(FRESH_S, LOOKS * (now_s - begun_s))

    def fresh(self) -> bool:
        """Return whether this may still be relied on."""
        return time.monotonic() < self._until_s

    def first(self, count: int = 1) -> List[str]:
        """Return up to *count* queues, the most urgent first.

        They are fewer if there are no more, or if a queue that is not kept here may be more urgent.
        """
        found: List[Tuple[Key, str]] = []
        while self._heap and len(found) < count:
            entry = heappop(self._heap)
            if self._keys.get(entry[1]) != entry[0] or entry in found:
                continue  # an outdated entry: the queue has another place by now
            found.append(entry)
            if self._last is not None and entry[0] > self._last:
                break
        for entry in found:
            heappush(self._heap, entry)
        if found and self._last is not None and found[-1][0] > self._last:
            found.pop()
        return [name for _, name in found]

    def behind(self, count: int) -> Optional[Key]:
        """Return how urgent the queues behind the first *count* may be: no more than this; None if there are none."""
        names = self.first(count + 1)
        return self._keys[names[count]] if len(names) > count else self._last

    def set(self, name: str, key: Optional[Key]) -> None:
        """Note the head of a queue; None: it has no job that may be claimed."""
        if key is None:
            self._keys.pop(name, None)
        elif self._keys.get(name) != key:
            self._keys[name] = key
            heappush(self._heap, (key, name))

    def not_before(self, names: Sequence[str], key: Key) -> None:
        """Note that none of these queues has a more urgent job than *key*."""
        for name in names:
            if name in self._keys and self._keys[name] < key:
                self.set(name, key)

    def found(self, name: str, key: Key) -> None:
        """Note a job that has become ready in a queue."""
        if name not in self._keys or key < self._keys[name]:
            self.set(name, key)
