"""Finding workers and stopping them, on this host and on others, for ``worker stop`` and ``reset``."""

from __future__ import annotations

import os
import signal
import sys
import time

from queuectl import faults, recovery
from queuectl.db import doorbell
from queuectl.errors import StoreError
from queuectl.job import GRACEFUL, NOW, Worker
from queuectl.patience import deadline_of
from queuectl.runner import QUIT, RUN_ID, STORE_ID, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple

    from queuectl.db.base import Store

LOOK_S = 0.02
# How often to ask the store about workers on other hosts.
FAR_LOOK_S = 0.1


def local_workers(store: Store) -> List[Worker]:
    """Return the workers and supervisors of this store whose processes live on this host.

    Each is identified by pid *and* start time, as the store has them. ``pids.json`` is only for people: however
    stale it is, no process is signalled because of it.
    """
    return on_this_host(store.workers())


def on_this_host(workers: List[Worker]) -> List[Worker]:
    """Return those of *workers* whose processes live on this host."""
    return [worker for worker in workers if recovery.runs_here(worker)]


def own_workers(store: Store) -> List[Worker]:
    """Return the worker that runs the job to which this process belongs, and its supervisor; usually nobody.

    This process cannot wait until they are gone, as they wait for this process.
    """
    return _own_job_and_workers(store)[1]


def own_job(store: Store) -> Optional[str]:
    """Return the id of the job to which this process belongs, if its worker has that run still; usually None."""
    return _own_job_and_workers(store)[0]


def _own_job_and_workers(store: Store) -> Tuple[Optional[str], List[Worker]]:
    run_id = os.environ.get(RUN_ID)
    if run_id and os.environ.get(STORE_ID) == store.store_id:
        workers = store.workers()
        for own in workers:
            for job_id, run in store.runs_of(own.id):
                if str(run) == run_id:
                    of_it = [each for each in workers if each.group_id == own.group_id and each.role == "supervisor"]
                    return job_id, [own, *of_it]
    return None, []


def to_stop(workers: Sequence[Worker], hosts: Sequence[str] = (), all_hosts: bool = False) -> List[Worker]:
    """Return those of *workers* that a stop is for: of this host, of hosts with these names, or of all hosts."""
    if all_hosts:
        return list(workers)
    return [worker for worker in workers if (worker.host in hosts if hosts else recovery.is_here(worker))]


def _lives(worker: Worker, store: Store, lease_s: float) -> bool:
    """Return whether a worker lives: on this host the process table tells, elsewhere ``recovery.condition``."""
    if recovery.is_here(worker):
        return recovery.runs_here(worker)
    return recovery.condition(worker, store, lease_s) != recovery.DEAD


def stop_workers(
    store: Store,
    now: bool = False,
    timeout_s: Optional[float] = None,
    hosts: Sequence[str] = (),
    all_hosts: bool = False,
    newcomers: bool = False,
    nap: Callable[[float], object] = time.sleep,
) -> List[Worker]:
    """Stop workers and supervisors; return those that are left after *timeout_s*.

    Called by a job, it returns as soon as those left are ``own_workers``, which stop when that job has ended, and
    workers all of whose jobs were begun later: if jobs waited for one another's ends, they would wait for ever.
    A group that is started during the wait goes on, since it was not there when the user decided to stop; unless
    *newcomers* is set.

    Args:
        store: The store that the workers serve.
        now: End the running commands and put their jobs back, instead of letting them finish.
        timeout_s: How long to wait for the end of the workers, in seconds; None: as long as it takes.
        hosts: Stop the workers of hosts with these names; empty: of this host.
        all_hosts: Stop the workers of every host.
        newcomers: Also stop groups that are started during the wait.
        nap: Called with seconds to sleep between two looks.
    """
    deadline = deadline_of(timeout_s)
    recovery.disown_strangers(store)
    lease_s = recovery.lease_of(store)
    asked: Dict[str, Worker] = {}
    own = {worker.id for worker in ([] if now else own_workers(store))}
    groups: Optional[Set[str]] = None
    while True:
        present = [worker for worker in to_stop(store.workers(), hosts, all_hosts) if _lives(worker, store, lease_s)]
        if groups is None:
            groups = {worker.group_id for worker in present}
        elif not newcomers:  # but include new workers of the groups that were there: their start was under way
            present = [worker for worker in present if worker.group_id in groups]
        new = [worker for worker in present if worker.id not in asked]
        asked.update((worker.id, worker) for worker in new)
        # A worker unregisters a moment before its process ends, so on this host the process decides.
        left = [worker for worker in present if not recovery.is_here(worker)]
        left += filter(recovery.runs_here, asked.values())
        if not left:
            _sweep(store)
            return []
        if new:
            _ask(store, new, now)
            faults.point("stopping")
        if (own and _is_enough(store, left, own)) or (deadline is not None and time.monotonic() >= deadline):
            return left
        nap(LOOK_S if all(map(recovery.is_here, left)) else FAR_LOOK_S)


def _is_enough(store: Store, left: List[Worker], own: Set[str]) -> bool:
    """Return whether a stop by a job, whose worker and supervisor are *own*, need not wait for those *left*."""
    own_run = int(os.environ[RUN_ID])
    for worker in left:
        if worker.role == "worker" and worker.id not in own:
            runs = store.runs_of(worker.id)
            if not runs or min(run for _, run in runs) < own_run:  # without a run, it is about to end
                return False
    groups = {worker.group_id for worker in left if worker.role == "worker"}
    return all(worker.id in own or worker.group_id in groups for worker in left)


def _ask(store: Store, workers: List[Worker], now: bool) -> None:
    """Ask *workers* to stop: all of them through the store, and those of this host by a signal as well.

    The signal acts at once. The order in the store reaches workers and supervisors on other hosts, who read it within
    two seconds.
    """
    here = list(filter(recovery.is_here, workers))
    try:
        store.request_stop([worker.id for worker in workers], NOW if now else GRACEFUL)
    except StoreError:
        if len(here) < len(workers):
            raise  # no signal reaches the workers on other hosts
        # A full disk, say: all workers are here, and the signal suffices.
    if sys.platform == "win32":  # where any signal would kill the process
        doorbell.ring(recovery.run_folder(store))
        return
    number = QUIT if now else signal.SIGTERM
    # Supervisors first, so that they do not replace a worker that stops.
    for worker in sorted(here, key=lambda worker: worker.role):
        for each in (number, signal.SIGCONT):  # a worker suspended by Ctrl-Z must act on the signal too
            identity.send_signal(worker.pid, worker.pid_started, each)


def _sweep(store: Store) -> None:
    """Recover workers that died while they stopped, so that nothing of them is left."""
    try:
        recovery.sweep(store)
    except StoreError:
        pass
