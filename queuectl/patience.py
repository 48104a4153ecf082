"""What calls that wait for jobs share: checks of their arguments, and patience with an unavailable server."""

from __future__ import annotations

import time

from queuectl.errors import QueuectlError, StoreUnavailable, shown
from queuectl.jobspec import check_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, List, Optional, Sequence

    from queuectl.db.base import Store

# A restart takes seconds, a failover perhaps minutes.
OUTAGE_S = 300.0


class StillOpen(TimeoutError):
    """The time of a wait is over, and *open_ids* had not ended; for a last look at *unseen* more there was no time."""

    def __init__(self, open_ids: Sequence[str], unseen: int, timeout: Optional[float]) -> None:
        super().__init__(f"{', '.join(open_ids[:5])} had not ended after {timeout} s.")
        self.open_ids = open_ids
        self.unseen = unseen


class Patient:
    """A context in which reads from *store* wait for an unavailable server: until *deadline*, ``OUTAGE_S`` at most.

    *deadline* is an instant of the monotonic clock; None: no deadline.
    """

    __slots__ = ("_before", "_seconds", "_store")

    def __init__(self, store: Store, deadline: Optional[float] = None) -> None:
        self._store = store
        self._seconds = OUTAGE_S if deadline is None else min(max(deadline - time.monotonic(), 0.0), OUTAGE_S)

    def __enter__(self) -> None:
        self._before, self._store.outlast_s = self._store.outlast_s, self._seconds

    def __exit__(self, *error: object) -> None:
        self._store.outlast_s = self._before


def deadline_of(timeout: Optional[float]) -> Optional[float]:
    """Return the instant *timeout* seconds from now, by the monotonic clock; None for no timeout.

    Raises:
        QueuectlError: *timeout* is not a number.
    """
    if timeout is None:
        return None
    given: object = timeout
    try:
        if isinstance(given, (int, float)) and given == given:
            return time.monotonic() + given
    except OverflowError:  # an integer beyond all floats
        pass
    raise QueuectlError(f"a timeout must be a number of seconds, or None for no timeout, not {shown(given)}.")


def several(job_ids: Iterable[str]) -> List[str]:
    """Return *job_ids* as a list, checked.

    Raises:
        JobNotFound: One of them cannot be the id of any job.
        QueuectlError: *job_ids* is a single id, whose letters would be taken for ids, or not iterable; or one of
            them is not a text.
    """
    if isinstance(job_ids, (str, bytes)) or not hasattr(job_ids, "__iter__"):
        given = shown(job_ids)
        raise QueuectlError(f"wait_all takes several ids. Put it into brackets: wait_all([{given}]).")
    return check_ids(job_ids)


def check_function(name: str, function: object) -> None:
    """Refuse what cannot be called as the argument *name*: it would be found out after a step that cannot be undone.

    Raises:
        QueuectlError: *function* is neither a function nor None.
    """
    if function is not None and not callable(function):
        raise QueuectlError(f"{name} must be a function, or None for none, not {shown(function)}.")


def has_news(store: Store) -> bool:
    """Return whether to read *store* again: something was committed, or the server is unavailable."""
    try:
        return store.changed()
    except StoreUnavailable:
        return True  # the read raises the error, or waits until the server is back
