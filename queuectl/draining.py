"""Finding out when a worker that drains is done: when no job is left in its queues, now or later.

The longer the worker has been idle, the more rarely it looks: the last job may be due in an hour, and a worker that
only waits should cost next to nothing.
"""

from __future__ import annotations

import time

from queuectl.errors import QueuectlError, StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence

    from queuectl.db.base import Store

# The shortest and the longest pause between two looks; in between, a quarter of the time that the worker has been idle.
LOOK_S, REST_S = 0.02, 0.5


class Draining:
    """Decides for one worker when to look, and whether it is done."""

    def __init__(self, store: Store, queues: Sequence[str]) -> None:
        self.due_mono = 0.0  # when to look next, by the monotonic clock, if the worker stays idle
        self._store = store
        self._queues = queues
        self._idle_mono: Optional[float] = None  # since when the worker has been idle

    def is_over(self, idle: bool) -> bool:
        """Return whether no job is left to run, now or later; *idle* says whether this worker has nothing to do."""
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


def refuse_within(job_id: Optional[str], store: Store, queues: Sequence[str]) -> None:
    """Refuse to drain *queues* in the foreground inside the job *job_id* if it is one of those to wait for.

    To leave out this job would not do: two such jobs would wait for each other.

    Raises:
        QueuectlError: It says what to do.
    """
    job = None if job_id is None else store.get(job_id)
    if job is not None and (not queues or job.queue in queues):
        raise QueuectlError(
            f"cannot drain from inside {job_id}: that would wait for {job_id} itself. Name other queues with --queue, "
            "or add --daemon."
        )
