"""Recovery of dead workers: notice them, end what they left running, give their jobs back."""

from __future__ import annotations

import os
import signal
import time

from queuectl import faults, journal
from queuectl.db import doorbell
from queuectl.db.hooks import hooks_of
from queuectl.db.run_folder import opener
from queuectl.job import boot_of
from queuectl.records import NamedTuple
from queuectl.runner import end_runs_at_once, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, FrozenSet, List, Optional

    from queuectl.config import Config
    from queuectl.db.base import Store
    from queuectl.job import Worker


class Lost(NamedTuple):
    """A job that was taken from a dead worker, and that worker's number."""

    number: int
    job_id: str
    state: str  # the job's state now


ALIVE, DEAD, HUNG = "alive", "dead", "hung"
# A silent worker keeps its jobs beyond its lease for this fraction of the lease: time for the worker to end its
# commands by itself. Of the contract's 45 s, 30 s are the lease, 12 s this margin, and 3 s are left to the next sweep.
MARGIN = 0.4
# A process that has closed the store is given this long to be gone, before it is taken for a copy's.
ENDING_S = 0.1
NOTES = ".runs"
# Notes this old of a worker that the store does not know are useless: a worker registers soon after it makes them.
STRAY_S = 86400.0


def is_here(worker: Worker) -> bool:
    """Return whether a worker, alive or dead, is of this host: its pid is one of this process's own process table."""
    return worker.host_id == identity.host_id()


def runs_here(worker: Worker) -> bool:
    """Return whether a worker's process is running on this host."""
    return is_here(worker) and identity.is_running(worker.pid, worker.pid_started)


def _is_of_this_boot(worker: Worker) -> bool:
    """Return whether a worker is known to be of this boot of this machine, maybe of another pid namespace."""
    return boot_of(worker.host_id) == boot_of(identity.host_id()) != ""


def condition(worker: Worker, store: Store, lease_s: float, now_mono: Optional[float] = None) -> str:
    """Return whether a worker is ALIVE, DEAD, or HUNG (its process lives, but does not renew its lease).

    *now_mono* is an instant before the worker's row was read (None: now), up to which the worker's silence is
    measured: if this process is paused after the read, the worker may have been paused with it.

    On this host, the process table decides, together with the monotonic clock. That clock stands still while the
    machine sleeps, so neither a jump of the wall clock nor hours of suspend make a worker dead. For another pid
    namespace of this machine, such as a container, the monotonic clock alone decides, and so it does for another user's
    process that is hidden from this one; for another host, the lease.
    """
    silent = (time.monotonic() if now_mono is None else now_mono) - worker.renewed_mono_s > lease_s * (1 + MARGIN)
    if is_here(worker):
        if not runs_here(worker):
            return DEAD
        if silent and identity.is_hidden(worker.pid):
            return DEAD  # the pid may be another process's by now
        return HUNG if worker.state == "lost" or silent else ALIVE
    if _is_of_this_boot(worker):
        return DEAD if silent else ALIVE
    boots = [boot_of(host) for host in (identity.host_id(), worker.host_id)]
    if not store.many_hosts and all(boots):  # an unknown boot might be this one
        return DEAD  # the store is a file on this machine, which was restarted since
    if store.now() <= worker.lease_expires_at + lease_s * MARGIN:
        return ALIVE
    # If the store's clock was set forward, leases that were renewed a moment ago are over: all who live renew theirs.
    return ALIVE if time.monotonic() - store.clock_set_mono < lease_s / 2 else DEAD


def live_workers(store: Store) -> List[Worker]:
    """Return those workers and supervisors of the store that are not dead."""
    workers = store.workers()
    lease_s = lease_of(store) if workers else 0.0
    return [
        worker for worker in workers if condition(worker, store, lease_s) != DEAD and not is_stranger(worker, store)
    ]


def is_stranger(worker: Worker, store: Store) -> bool:
    """Return whether *worker*, registered in this store, works on another one, of which this one is a copy.

    A backup or a copy of the file, made while workers were running, has their entries, and they live.
    """
    return runs_here(worker) and store.is_open_in(worker.pid) is False


def disown_strangers(store: Store) -> None:
    """Make a copied store one of its own: whoever works on it must not take the original's workers for its own.

    It would end them, as they do not renew their leases here, and with them commands that have the marks of both.
    """
    strangers = [worker for worker in store.workers() if is_stranger(worker, store)]
    if strangers:
        time.sleep(ENDING_S)
        strangers = [worker for worker in strangers if is_stranger(worker, store)]
    if strangers:
        store.disown([worker.id for worker in strangers])


def is_paused(worker: Worker) -> bool:
    """Return whether a worker of this host is suspended by a signal, as by Ctrl-Z: alive, but doing nothing."""
    return is_here(worker) and identity.is_stopped(worker.pid)


def lease_of(store: Store) -> float:
    """Return the configured lease, in seconds."""
    from queuectl.config import Config

    return Config(store.settings()).lease


def sweep(
    store: Store,
    judge_hung: bool = False,
    now_mono: Optional[float] = None,
    config: Optional[Config] = None,
    workers: Optional[List[Worker]] = None,
) -> List[Lost]:
    """Give back the jobs of all dead workers; return these jobs.

    Args:
        store: The store.
        judge_hung: Also end workers of this host that live but have not renewed their lease. Only for a
            caller that could itself renew all the time: otherwise the cause may be a full disk, not the worker.
        now_mono: An instant, by the monotonic clock, up to which the silence of workers is measured (None: now). The
            caller may have been paused since, and the workers with it.
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
        # A hung worker without a run keeps no job from running, so it may stay.
        if state == DEAD or (state == HUNG and (judge_hung or worker.state == "lost") and store.runs_of(worker.id)):
            try:
                released += _recover(store, worker, state, config)
            except OSError:
                pass  # the process table could not be read, for want of descriptors say; the next sweep tries again
    for worker_id in store.ownerless():
        run_ids = [run_id for _, run_id in store.runs_of(worker_id)]
        try:
            gone = end_runs_at_once(store.store_id, frozenset(run_ids), {})
        except OSError:
            gone = False
        if gone:
            released += [
                Lost(0, *given) for given in store.release_lost(worker_id, config.max_lost, hooks=hooks_of(config))
            ]
    return released


def _is_kept(worker: Worker, workers: List[Worker], lease_s: float, now_mono: float) -> bool:
    """Return whether to leave a dead or silent worker to a live supervisor whose processes are out of reach from here.

    On a store of one host, a worker does not end its commands when its lease is over. A process in this namespace
    cannot end those of another one, nor those of another user whose processes are hidden; the supervisor there, or
    that of the worker's group, can. If that is gone too, so most likely is its container, with all that ran in it.
    """
    return _is_of_this_boot(worker) and any(
        other.role == "supervisor" and other.host_id == worker.host_id and now_mono - other.renewed_mono_s <= lease_s
        and (not is_here(worker) or (other.group_id == worker.group_id and identity.is_hidden(other.pid)))
        for other in workers
    )  # fmt: skip


def _recover(store: Store, worker: Worker, state: str, config: Config) -> List[Lost]:
    """Condemn a worker, end the worker and what its runs left on this host, then release its jobs.

    This order guarantees that no process of a run is alive when its job is given to another worker. Every step may
    be repeated, so if a sweeper dies half way, the next one completes the work.

    Raises:
        OSError: The process table cannot be read now; the worker stays condemned.
    """
    if not store.condemn(worker.id, worker.renewed_mono_s):
        return []  # the worker has renewed its lease meanwhile, or another sweeper was faster
    faults.point("condemned")
    if is_here(worker):
        if state == HUNG and not _end_process(worker):
            return []
        run_ids = frozenset(run_id for _, run_id in store.runs_of(worker.id))
        born_by = identity.start_time_at(worker.renewed_mono_s + config.lease)
        leaders = leaders_of(store, worker.id, run_ids)
        born_after = identity.as_start_time(worker.pid_started)  # no process of a run is older than its worker
        origin = identity.origin_of(worker.id)
        if run_ids and not end_runs_at_once(store.store_id, run_ids, leaders, born_by, born_after, origin):
            return []
    if is_here(worker) or _is_of_this_boot(worker):
        _take_up(store, worker.id, config)
    faults.point("cleared")
    released = store.release_lost(worker.id, config.max_lost, hooks=hooks_of(config))
    faults.point("released")
    forget_notes(store, worker.id)
    return [Lost(worker.number, *given) for given in released]


def _take_up(store: Store, worker_id: str, config: Config) -> None:
    """Act on the journal of a dead worker of this machine: record its ends, give back the jobs it had not begun.

    The worker may be of another pid namespace, such as a container, if its journal is where this process looks. It must
    be of this boot: what a process wrote outlives the process, but not necessarily a restart of the machine.
    """
    path = note_path(store, worker_id, journal.NAME)
    left = journal.read(path) if path is not None else journal.Left()
    if left.ended:
        store.finish(worker_id, left.ended, outputs=left.outputs, hooks=hooks_of(config))
    unbegun = list(left.waiting)
    if left.known is not None:
        unbegun += [run_id for _, run_id in store.runs_of(worker_id) if run_id not in left.known]
    if unbegun:
        store.give_back(worker_id, unbegun)


def unblock(store: Store, lease_s: float) -> bool:
    """End a worker of this host that was suspended (SIGSTOP, Ctrl-Z) while it held the store's write lock.

    For a caller that waited for the lock in vain. As nobody can write until the holder is gone, it cannot be
    condemned first: it is killed, SQLite undoes its transaction, and it is recovered like any dead worker. Only a
    worker that is *suspended* beyond its lease is killed: one that waits for a slow disk also holds the lock, but
    will go on by itself. Returns whether a worker was ended.
    """
    holder = store.lock_holder()
    for worker in store.workers() if holder is not None else ():
        silent_s = time.monotonic() - worker.renewed_mono_s
        if worker.pid == holder and silent_s > lease_s * (1 + MARGIN) and is_paused(worker):
            return _end_process(worker)
    return False


def _end_process(worker: Worker) -> bool:
    """Kill a worker of this host; return False if it may still be there after 2 s, stuck in the kernel say."""
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
    """Return the folder in which the store's workers on this host keep notes and bells; None if none can be trusted."""
    return store.run_folder.find()


def note_path(store: Store, worker_id: str, name: str) -> Optional[str]:
    """Return the path of a worker's notes of the kind *name*, on this host; None if there is no trusted folder."""
    folder = run_folder(store)
    return None if folder is None else os.path.join(folder, worker_id + name)


def leaders_of(store: Store, worker_id: str, run_ids: FrozenSet[int]) -> Dict[int, Optional[str]]:
    """Return the first processes of these runs, pid to start time, as far as the worker noted them.

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
        if not line:  # the end: any further lines are remains of earlier, longer notes
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
    """Remove old notes and bells of workers that the store no longer knows.

    If a dead worker is recovered by another host, that host cannot remove the files: they are on this one.
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
