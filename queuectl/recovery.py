"""Workers that died: noticing them, ending what they left behind, giving their jobs back."""

from __future__ import annotations

import os
import signal
import time

from queuectl import faults, journal
from queuectl.db import doorbell
from queuectl.db.run_folder import opener
from queuectl.records import NamedTuple
from queuectl.runner import end_runs_at_once, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, FrozenSet, List, Optional

    from queuectl.config import Config
    from queuectl.db.base import Store
    from queuectl.job import Worker


class Lost(NamedTuple):
    """A job that was given back, and the number of the worker that lost it."""

    number: int
    job_id: str
    state: str  # what the job is now


ALIVE, DEAD, HUNG = "alive", "dead", "hung"
# Beyond its lease a silent worker keeps its jobs for this part of it: it must have had the time to end its commands
# by itself. Of the 45 s of the contract, 30 s are the lease, 12 s this, and the rest is until somebody looks.
MARGIN = 0.4
NOTES = ".runs"
# Notes this old, of nobody whom the store knows, are of no use: a new worker registers soon after it has made its own.
STRAY_S = 86400.0


def condition(worker: Worker, store: Store, lease_s: float, now_mono: Optional[float] = None) -> str:
    """Say whether a worker is alive, dead, or hung (its process lives, but does not renew its lease).

    *now_mono* is an instant before the worker's row was read (None: now). Its silence is measured up to then: if this
    process is paused between the look and the verdict, the worker may have been paused with it.

    On one host the process table decides, and the monotonic clock, which stands still while the
    machine sleeps: neither a jump of the wall clock nor hours of suspend make a worker dead. In another
    pid namespace of this machine, a container say, that clock alone does; across hosts only the lease tells.
    """
    here = identity.host_id()
    silent = (time.monotonic() if now_mono is None else now_mono) - worker.renewed_mono_s > lease_s * (1 + MARGIN)
    if worker.host_id == here:
        if not identity.is_running(worker.pid, worker.pid_started):
            return DEAD
        return HUNG if worker.state == "lost" or silent else ALIVE
    boot, its_boot = identity.boot_of(here), identity.boot_of(worker.host_id)
    if boot == its_boot != "":
        return DEAD if silent else ALIVE
    if not store.many_hosts and boot and its_boot:  # where one is not known it may be the other
        return DEAD  # the store is a file of this machine, which has started anew since
    return DEAD if store.now() > worker.lease_expires_at + lease_s * MARGIN else ALIVE


def live_workers(store: Store, lease_s: Optional[float] = None) -> List[Worker]:
    """Return the workers and supervisors that are not dead, whatever the store still says."""
    workers = store.workers()
    if workers and lease_s is None:
        lease_s = lease_of(store)
    return [worker for worker in workers if condition(worker, store, lease_s or 0.0) != DEAD]


def is_paused(worker: Worker) -> bool:
    """Say whether a worker of this host was stopped by a signal, Ctrl-Z say: it lives, and takes and ends nothing."""
    return worker.host_id == identity.host_id() and identity.is_stopped(worker.pid)


def lease_of(store: Store) -> float:
    """Return the lease in force, in seconds."""
    from queuectl.config import Config

    return Config(store.settings()).lease


def sweep(
    store: Store,
    judge_hung: bool = False,
    now_mono: Optional[float] = None,
    config: Optional[Config] = None,
    workers: Optional[List[Worker]] = None,
) -> List[Lost]:
    """Give back the jobs of all dead workers; return them.

    Args:
        store: The store.
        judge_hung: Also end workers of this host that live but have not renewed their lease. Only for a
            caller that could itself renew all the time: a disk that was full is nobody's fault.
        now_mono: An instant at which the caller still kept up; silence is measured up to then. It may have been paused
            since, and the workers with it.
        config: The settings, if the caller has just read them.
        workers: All workers, if the caller has just read them, after *now_mono*.
    """
    if config is None:
        from queuectl.config import Config

        config = Config(store.settings())
    released: List[Lost] = []
    if judge_hung:
        faults.point("judging")
    now_mono = time.monotonic() if now_mono is None else now_mono
    workers = store.workers() if workers is None else workers
    for worker in workers:
        state = condition(worker, store, config.lease, now_mono)
        if state == DEAD and not store.many_hosts and _is_kept(worker, workers, config.lease, now_mono):
            continue
        # A hung worker without a run keeps no job waiting, and may go on when it wakes up.
        if state == DEAD or (state == HUNG and (judge_hung or worker.state == "lost") and store.runs_of(worker.id)):
            try:
                released += _recover(store, worker, state, config)
            except OSError:
                pass  # out of descriptors, say: what it left cannot be seen now, so it is for the next sweep
    for worker_id in store.ownerless():
        run_ids = [run_id for _, run_id in store.runs_of(worker_id)]
        try:
            gone = end_runs_at_once(store.store_id, frozenset(run_ids), {})
        except OSError:
            gone = False
        if gone:
            released += [Lost(0, *given) for given in store.release_lost(worker_id, config.max_lost)]
    return released


def _is_kept(worker: Worker, workers: List[Worker], lease_s: float, now_mono: float) -> bool:
    """Say whether a silent worker of another pid namespace is for a supervisor there, which can end what it runs.

    A worker on a store of one host does not end its commands by itself when its lease is over, and from here
    nobody can. Where the supervisor is gone too, its container most likely is, with all that ran in it.
    """
    here, there = identity.host_id(), worker.host_id
    return here != there and identity.boot_of(here) == identity.boot_of(there) != "" and any(
        other.role == "supervisor" and other.host_id == there and now_mono - other.renewed_mono_s <= lease_s
        for other in workers
    )  # fmt: skip


def _recover(store: Store, worker: Worker, state: str, config: Config) -> List[Lost]:
    """Fence one worker, end it and what its runs left on this host, then release its jobs.

    The order is the promise: nothing of a run is alive when its job is given away. Each step may
    be repeated, so a sweeper that dies in between is followed by another.

    Raises:
        OSError: What was left cannot be seen now; the worker stays condemned.
    """
    if not store.condemn(worker.id, worker.renewed_mono_s):
        return []  # it has renewed meanwhile, or another sweeper was faster
    faults.point("condemned")
    here = identity.host_id()
    if worker.host_id == here:
        if state == HUNG and not _end_process(worker):
            return []
        run_ids = frozenset(run_id for _, run_id in store.runs_of(worker.id))
        born_by = identity.start_time_at(worker.renewed_mono_s + config.lease)
        leaders = leaders_of(store, worker.id, run_ids)
        born_after = identity.as_start_time(worker.pid_started)  # the worker's own: it made them all
        origin = identity.origin_of(worker.id)
        if run_ids and not end_runs_at_once(store.store_id, run_ids, leaders, born_by, born_after, origin):
            return []
    if worker.host_id == here or identity.boot_of(worker.host_id) == identity.boot_of(here) != "":
        _take_up(store, worker.id)
    faults.point("cleared")
    released = store.release_lost(worker.id, config.max_lost)
    faults.point("released")
    forget_notes(store, worker.id)
    return [Lost(worker.number, *given) for given in released]


def _take_up(store: Store, worker_id: str) -> None:
    """Hand in what a dead worker of this machine had not, and give back what it had not begun, by its journal.

    Also one of another pid namespace, a container say, if it kept its journal where this process looks: what a process
    wrote since the machine was started is there, whatever became of it. After a new start it need not be.
    """
    path = note_path(store, worker_id, journal.NAME)
    left = journal.read(path) if path is not None else journal.Left()
    if left.ended:
        store.finish(worker_id, left.ended, outputs=left.outputs)
    unbegun = list(left.waiting)
    if left.known is not None:
        unbegun += [run_id for _, run_id in store.runs_of(worker_id) if run_id not in left.known]
    if unbegun:
        store.give_back(worker_id, unbegun)


def unblock(store: Store, lease_s: float) -> bool:
    """End a worker of this host that was stopped (SIGSTOP, Ctrl-Z) with the store's write lock in its hands.

    For a caller that waited for the lock in vain. Nobody can write as long as it stands, so it cannot be
    condemned first; its transaction is undone, and it is recovered like any other that died. Only if it is
    *stopped*, beyond its lease: one that waits for a slow disk has the lock too, and goes on by itself.
    Returns whether one was ended.
    """
    holder = store.lock_holder()
    for worker in store.workers() if holder is not None else ():
        silent_s = time.monotonic() - worker.renewed_mono_s
        mine = worker.pid == holder and worker.host_id == identity.host_id()
        if mine and silent_s > lease_s * (1 + MARGIN) and identity.is_stopped(worker.pid):
            return _end_process(worker)
    return False


def _end_process(worker: Worker) -> bool:
    """Kill a hung worker; False if it may still be there after a while (stuck in the kernel)."""
    try:
        identity.send_signal(worker.pid, worker.pid_started, getattr(signal, "SIGKILL", signal.SIGTERM))
    except OSError:
        return False
    deadline = time.monotonic() + 2.0
    while identity.is_running(worker.pid, worker.pid_started):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def run_folder(store: Store) -> Optional[str]:
    """Return where the store's workers on this host keep notes and bells; None if there is no place to be trusted."""
    return store.run_folder.find()


def note_path(store: Store, worker_id: str, name: str) -> Optional[str]:
    """Return where a worker of this host keeps its notes of that *name*; None if there is no place to be trusted."""
    folder = run_folder(store)
    return None if folder is None else os.path.join(folder, worker_id + name)


def leaders_of(store: Store, worker_id: str, run_ids: FrozenSet[int]) -> Dict[int, Optional[str]]:
    """Return pid and start time of the first process of each run, as far as the worker noted them.

    Raises:
        OSError: There may be notes, but this process is out of descriptors or memory.
    """
    path = note_path(store, worker_id, NOTES)
    found: Dict[int, Optional[str]] = {}
    if path is None:
        return found
    try:
        with open(path, encoding="ascii", opener=opener) as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno in identity.OUT_OF:
            raise
        return found
    for line in lines:
        if not line:  # what follows are the remains of longer notes
            break
        fields = line.split(" ", 2)
        if len(fields) == 3 and fields[0].isdigit() and fields[1].isdigit() and int(fields[0]) in run_ids:
            found[int(fields[1])] = fields[2]
    return found


def forget_notes(store: Store, worker_id: str) -> None:
    """Remove a worker's notes and bell."""
    folder = run_folder(store)
    if folder is None:
        return
    doorbell.forget(folder, worker_id)
    for name in (NOTES, journal.NAME):
        try:
            os.remove(os.path.join(folder, worker_id + name))
        except OSError:
            pass


def forget_strays(store: Store) -> None:
    """Remove old notes and bells of workers that the store does not know any more.

    Those of a worker that died and was recovered by another host would stay for ever: that host does not see them.
    """
    folder = run_folder(store)
    try:
        names = os.listdir(folder) if folder is not None else []
    except OSError:
        return
    known = {worker.id for worker in store.workers()} if names else set()
    for name in names:
        path = os.path.join(folder or "", name)
        try:
            if name.partition(".")[0] not in known and time.time() - os.lstat(path).st_mtime > STRAY_S:
                os.remove(path)
        except OSError:
            pass
