"""Deleting jobs whose time in the store is over: a few at a time, since the supervisor also looks after its workers."""

from __future__ import annotations

import time

from queuectl import recovery
from queuectl.config import Config
from queuectl.errors import StoreUnavailable
from queuectl.job import JobFilter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from queuectl.db.base import Store

# How often to look for such jobs.
PRUNE_S = 60.0
# How many are deleted at once. It takes a tenth of a second or two, in which nobody else can write.
STEP, LEAST = 1000, 10
# How long others may write before the next ones are deleted.
REST_S = 0.05


class Pruner:
    """What one supervisor does for ``keep_completed`` and ``keep_dead``; last it gives the room back."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._due_mono = time.monotonic() + PRUNE_S
        self._deleted = False  # whether there may be room to give back
        self._began_at: Optional[float] = None  # as long as there are more of the jobs that were to go then
        self._step = STEP  # fewer where a database server does not answer in time

    def step(self, now_mono: float) -> float:
        """Delete some of the jobs that are to go, if it is time; return when the next step is due."""
        if now_mono < self._due_mono:
            return self._due_mono
        self._due_mono = now_mono + PRUNE_S
        recovery.forget_strays(self._store)
        config = Config(self._store.settings())
        now, more = self._began_at or self._store.now(), False
        for keep_s, states in ((config.keep_completed, ("completed", "cancelled")), (config.keep_dead, ("dead",))):
            # One after the other: a search goes on only where it is the same as the last.
            if not more and keep_s is not None and self._prune(JobFilter(states, ended_before=now - keep_s)):
                more = True
        self._began_at = now if more else None
        if not more and self._deleted:
            self._deleted = more = self._store.shrink()
        if more:
            self._due_mono = time.monotonic() + REST_S
        return self._due_mono

    def _prune(self, which: JobFilter) -> bool:
        """Delete some jobs of *which*; say whether there were any, so that there may be more.

        Raises:
            StoreUnavailable: Next time it is tried with half as many: what takes too long once always would.
        """
        step = self._step
        try:
            deleted = self._store.prune(which, step)
        except StoreUnavailable:
            self._step = max(step // 2, LEAST)
            raise
        self._step = min(step * 2, STEP)
        self._deleted = self._deleted or deleted > 0
        return deleted > 0
