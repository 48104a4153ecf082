"""Deletion of old jobs by the supervisor: a few at a time, so that it can look after its workers meanwhile."""

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

# How often to look for old jobs.
PRUNE_S = 60.0
# How many jobs to delete at once, at most and at least. It takes a tenth of a second or two, and blocks other writers.
STEP, LEAST = 1000, 10
# How long to leave the store to other writers between two deletions.
REST_S = 0.05
# How long a group that has drained goes on with it, at most, before it ends.
LAST_S = 2.0


class Pruner:
    """Deletes jobs as ``keep_completed`` and ``keep_dead`` say, then gives the freed space back to the system."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._due_mono = time.monotonic() + PRUNE_S
        self._deleted = False  # whether there may be space to give back
        self._began_at: Optional[float] = None  # when the round in progress began, by the store's clock; None: no round
        self._step = STEP  # how many jobs to delete at once; fewer if a database server does not answer in time

    def step(self, now_mono: float) -> float:
        """Delete some old jobs, if it is time to; return when the next step is due, by the monotonic clock."""
        if now_mono < self._due_mono:
            return self._due_mono
        self._due_mono = now_mono + PRUNE_S
        recovery.forget_strays(self._store)
        config = Config(self._store.settings())
        now, more = self._began_at or self._store.now(), False
        for keep_s, states in ((config.keep_completed, ("completed", "cancelled")), (config.keep_dead, ("dead",))):
            # One filter after the other: the store resumes a search only if it is the same as the last one.
            if not more and keep_s is not None and self._prune(JobFilter(states, ended_before=now - keep_s)):
                more = True
        self._began_at = now if more else None
        if not more and self._deleted:
            self._deleted = more = self._store.shrink()
        if more:
            self._due_mono = time.monotonic() + REST_S
        return self._due_mono

    def last_round(self) -> None:
        """Delete what is old by now, for a moment at most: a group that drains may live for less than a minute."""
        self._due_mono = time.monotonic()
        until_mono = self._due_mono + LAST_S
        try:
            while self.step(time.monotonic()) <= until_mono:
                time.sleep(max(self._due_mono - time.monotonic(), 0.0))
        except StoreUnavailable:  # the next group deletes them
            pass

    def _prune(self, which: JobFilter) -> bool:
        """Delete some of the jobs *which* selects; return whether there were any, so that there may be more.

        Raises:
            StoreUnavailable: The next try is with half as many jobs: a step that took too long would again.
        """
        step = self._step
        try:
            deleted = self._store.prune(which, step)
        except StoreUnavailable:
            self._step = max(step // 2, LEAST)
            raise
        self._step = min(step * 2, STEP)
        self._deleted = self._deleted or deleted != 0
        return deleted != 0
