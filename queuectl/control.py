"""Finding workers and stopping them, on this host and on others; what ``worker stop`` and ``reset`` need."""

from __future__ import annotations

import os
import signal
import sys
import time

from queuectl import faults, recovery
from queuectl.db import doorbell
from queuectl.errors import StoreError
from queuectl.patience import deadline_of
from queuectl.runner import QUIT, RUN_ID, STORE_ID, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Optional, Sequence, Set

    from queuectl.db.base import Store
    from queuectl.job import Worker

LOOK_S = 0.02
# How often to ask the store about workers that only it knows of.
FAR_LOOK_S = 0.1


def local_workers(store: Store) -> List[Worker]:
    """Return the workers and supervisors of this store whose processes live on this host.

    Each is known by pid *and* start time from the store: ``pids.json`` is for people, and however stale
    it is, nobody is signalled because of it.
    """
    return on_this_host(store.workers())


def on_this_host(workers: List[Worker]) -> List[Worker]:
    """Return those of *workers* whose processes live on this host; as ``local_workers``."""
    here = identity.host_id()
    return [
        worker for worker in workers if worker.host_id == here and identity.is_running(worker.pid, worker.pid_started)
    ]


def own_workers(store: Store) -> List[Worker]:
    """Return the worker of which this process is a command, or a part of one, and its supervisor; usually nobody.

    They are there as long as this process is, so it cannot wait until they are gone.
    """
    run_id = os.environ.get(RUN_ID)
    if not run_id or os.environ.get(STORE_ID) != store.store_id:
        return []
    workers = store.workers()
    for own in workers:
        if any(str(run) == run_id for _, run in store.runs_of(own.id)):
            of_it = [each for each in workers if each.group_id == own.group_id and each.role == "supervisor"]
            return [own, *of_it]
    return []


class Reach:
    """Which workers a stop is for: those of this host, of hosts with these names, or of all hosts.

    On this host the process table says who is there. On another it is the store: who has not unregistered, and
    whose lease has not been over for so long that it is given away.
    """

    def __init__(self, store: Store, hosts: Sequence[str] = (), all_hosts: bool = False) -> None:
        self._store = store
        self._hosts = hosts
        self._all = all_hosts
        self._here = identity.host_id()
        self._lease_s = recovery.lease_of(store)

    def covers(self, worker: Worker) -> bool:
        """Say whether *worker* is one of those to be stopped."""
        if self._all:
            return True
        return worker.host in self._hosts if self._hosts else worker.host_id == self._here

    def is_here(self, worker: Worker) -> bool:
        """Say whether *worker* is a process of this host, which signals reach."""
        return worker.host_id == self._here

    def present(self) -> List[Worker]:
        """Return the workers and supervisors to be stopped that are there now."""
        return [worker for worker in self._store.workers() if self.covers(worker) and self._lives(worker)]

    def _lives(self, worker: Worker) -> bool:
        if self.is_here(worker):
            return identity.is_running(worker.pid, worker.pid_started)
        return recovery.condition(worker, self._store, self._lease_s) != recovery.DEAD


def stop_workers(
    store: Store,
    now: bool = False,
    timeout_s: Optional[float] = None,
    hosts: Sequence[str] = (),
    all_hosts: bool = False,
    newcomers: bool = False,
    nap: Callable[[float], object] = time.sleep,
) -> List[Worker]:
    """Stop the workers and supervisors in reach; return those left when *timeout_s* is over.

    Where only ``own_workers`` are left, they are returned at once: they stop when the job that called this has ended.
    A group that is started while this waits goes on, since it was not there when somebody decided to stop them all;
    unless *newcomers* is set.

    Args:
        store: The store they work for.
        now: End their commands and put the jobs back, instead of letting them finish.
        timeout_s: How long to wait until they are gone; None: as long as it takes.
        hosts: Only those of hosts with these names; empty: of this host.
        all_hosts: Those of every host.
        newcomers: Also groups that are started meanwhile.
        nap: What sleeps between two looks.
    """
    deadline = deadline_of(timeout_s)
    reach = Reach(store, hosts, all_hosts)
    asked: Dict[str, Worker] = {}
    own = {worker.id for worker in ([] if now else own_workers(store))}
    groups: Optional[Set[str]] = None
    while True:
        present = reach.present()
        if groups is None:
            groups = {worker.group_id for worker in present}
        elif not newcomers:  # a worker of a group that was there may have been about to start
            present = [worker for worker in present if worker.group_id in groups]
        new = [worker for worker in present if worker.id not in asked]
        asked.update((worker.id, worker) for worker in new)
        # A worker takes its entry away a moment before its process ends.
        left = [worker for worker in present if not reach.is_here(worker)] + [
            worker
            for worker in asked.values()
            if reach.is_here(worker) and identity.is_running(worker.pid, worker.pid_started)
        ]
        if not left:
            _sweep(store)
            return []
        if new:
            _ask(store, new, [worker for worker in new if reach.is_here(worker)], now)
            faults.point("stopping")
        if own.issuperset(worker.id for worker in left) or (deadline is not None and time.monotonic() >= deadline):
            return left
        nap(LOOK_S if all(map(reach.is_here, left)) else FAR_LOOK_S)


def _ask(store: Store, workers: List[Worker], here: List[Worker], now: bool) -> None:
    """Tell them by the store, and those *here* by signal too.

    The signal wakes them; the store reaches where no signal does: another host's workers or their supervisors read it
    within two seconds.
    """
    try:
        store.request_stop([worker.id for worker in workers], 2 if now else 1)
    except StoreError:
        if len(here) < len(workers):
            raise  # nothing else reaches the others
        # A full disk: the signal says the same.
    if sys.platform == "win32":  # there a signal would end the process at once
        doorbell.ring(recovery.run_folder(store))
        return
    number = QUIT if now else signal.SIGTERM
    # Supervisors first: they must not replace a worker that goes.
    for worker in sorted(here, key=lambda worker: worker.role):
        for each in (number, signal.SIGCONT):  # one that Ctrl-Z has paused is to hear of it too
            identity.send_signal(worker.pid, worker.pid_started, each)


def _sweep(store: Store) -> None:
    """Leave nothing of workers that died on the way."""
    try:
        recovery.sweep(store)
    except StoreError:
        pass
