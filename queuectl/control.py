"""Finding the workers of this machine and stopping them; what ``worker stop`` and ``reset`` need."""

from __future__ import annotations

import signal
import sys
import time

from queuectl import faults, recovery
from queuectl.db import doorbell
from queuectl.errors import StoreError
from queuectl.runner import QUIT, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional

    from queuectl.db.base import Store
    from queuectl.job import Worker

LOOK_S = 0.02


def local_workers(store: Store) -> List[Worker]:
    """Return the workers and supervisors of this store whose processes live on this host.

    Each is known by pid *and* start time from the store: ``pids.json`` is for people, and however stale
    it is, nobody is signalled because of it.
    """
    here = identity.host_id()
    return [
        worker
        for worker in store.workers()
        if worker.host_id == here and identity.is_running(worker.pid, worker.pid_started)
    ]


def stop_workers(store: Store, now: bool = False, timeout_s: Optional[float] = None) -> List[Worker]:
    """Stop all workers and supervisors on this host; return those left when *timeout_s* is over.

    Args:
        store: The store they work for.
        now: End their commands and put the jobs back, instead of letting them finish.
        timeout_s: How long to wait until they are gone; None: as long as it takes.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    asked: Dict[str, Worker] = {}
    while True:
        new = [worker for worker in local_workers(store) if worker.id not in asked]
        asked.update((worker.id, worker) for worker in new)
        # A worker takes its entry away a moment before its process ends.
        left = [worker for worker in asked.values() if identity.is_running(worker.pid, worker.pid_started)]
        if not left:
            _sweep(store)
            return []
        if new:
            _ask(store, new, now)
            faults.point("stopping")
        if deadline is not None and time.monotonic() >= deadline:
            return left
        time.sleep(LOOK_S)


def _ask(store: Store, workers: List[Worker], now: bool) -> None:
    """Tell them by the store and by signal: the signal wakes them, the store reaches where no signal does."""
    try:
        store.request_stop([worker.id for worker in workers], 2 if now else 1)
    except StoreError:
        pass  # a full disk: the signal says the same
    if sys.platform == "win32":  # there a signal would end the process at once
        doorbell.ring(recovery.run_folder(store) or "")
        return
    number = QUIT if now else signal.SIGTERM
    # Supervisors first: they must not replace a worker that goes.
    for worker in sorted(workers, key=lambda worker: worker.role):
        for each in (number, signal.SIGCONT):  # one that Ctrl-Z has paused is to hear of it too
            identity.send_signal(worker.pid, worker.pid_started, each)


def _sweep(store: Store) -> None:
    """Leave nothing of workers that died on the way."""
    try:
        recovery.sweep(store)
    except StoreError:
        pass
