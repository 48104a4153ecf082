"""How much is to be done in a queue."""

from __future__ import annotations

from queuectl.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional


class Depth(NamedTuple):
    """What is to be done in a queue: a row of the view ``queue_depth``."""

    queue: str
    due: int  # could run now
    delayed: int  # wait for a time, for a retry or for other jobs
    running: int
    dead: int
    oldest_due_age_s: Optional[float]  # None: no job is due
    max_running: Optional[int]
    paused: bool
