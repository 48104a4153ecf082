"""Telling when a worker that drains is done: it looks often at first, and more rarely the longer it has been idle.

What is left may be a job that is due in an hour, and a worker that only waits is to cost next to nothing.
"""

from __future__ import annotations

import time

from queuectl.errors import StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence

    from queuectl.db.base import Store

# How often it looks, at first and at last; it has been idle for four times as long as it then rests.
LOOK_S, REST_S = 0.02, 0.5


class Draining:
    """What one worker knows of the end of its work."""

    def __init__(self, store: Store, queues: Sequence[str]) -> None:
        self.due_mono = 0.0  # when to look, by the monotonic clock, if nothing happens until then
        self._store = store
        self._queues = queues
        self._idle_mono: Optional[float] = None  # since when the worker has been idle

    def is_over(self, idle: bool) -> bool:
        """Say whether nothing is left to run, now or later; *idle*: whether the worker itself has nothing to do."""
        now_mono = time.monotonic()
        if not idle:
            self._idle_mono, self.due_mono = None, now_mono + LOOK_S
            return False
        if self._idle_mono is None:
            self._idle_mono = now_mono
        elif now_mono < self.due_mono:
            return False
        self.due_mono = now_mono + min(max((now_mono - self._idle_mono) / 4, LOOK_S), REST_S)
        try:
            return self._store.work_left(self._queues) == 0
        except StoreUnavailable:
            return False
