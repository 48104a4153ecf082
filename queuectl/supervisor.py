"""The supervisor behind ``worker start``: start workers, restart those that die, give back their jobs, stop all."""

from __future__ import annotations

import os
import signal
import sys
import time

from queuectl import clock, events, numbering, recovery
from queuectl.config import Config
from queuectl.console import Console, LogFile
from queuectl.control import local_workers, on_this_host, own_job
from queuectl.db import doorbell, folders, home, open_store
from queuectl.draining import refuse_within
from queuectl.errors import QueuectlError, StoreRefused, StoreUnavailable, why
from queuectl.execution import signal_name
from queuectl.job import GRACEFUL, NOW, Worker
from queuectl.launch import send, start_daemon, start_worker
from queuectl.membership import hurry_at, is_time, next_time
from queuectl.notify import Notifier
from queuectl.pidfile import PidFile
from queuectl.pruning import Pruner
from queuectl.runner import IN_ORDER, QUIT, identity
from queuectl.wakeup import place_to_sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence

    from queuectl.db.base import Store
    from queuectl.launch import Process, Start, Started

# Well below the 5 s within which the death of any worker of this host must be noticed.
SWEEP_S = 2.0
LOOK_S = 10.0  # how often to read the store even if nothing was committed to it
# How often to check, at the start, whether all workers have registered.
READY_LOOK_S = 0.1
# How much later than this process a worker may be back at a store that was out of reach: it waits between attempts, and
# each takes a few answers. A lease may be shorter than that.
COMES_BACK_S = 6.0
FIRST_RESTART_S = 0.2
LAST_RESTART_S = 30.0
# A worker that lived this long started properly: if it dies, its restart is quick again.
SETTLED_S = 20.0
INTERRUPTED = 130


class Slot:
    """The place of one worker in the group, kept through all restarts."""

    __slots__ = ("born_mono", "delay_s", "number", "process", "restart_mono")

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Optional[Process] = None
        self.born_mono = 0.0
        self.restart_mono: Optional[float] = 0.0  # when to start the worker, by the monotonic clock; None: never again
        self.delay_s = 0.0


class Supervisor:
    """The process that looks after one group of workers on this machine."""

    def __init__(self, store: Store, options: Dict[str, Any], start: Start) -> None:
        self._store = store
        self._start = start
        self._options = options
        self._id: str = options["group_id"]
        self._slots = [Slot(number) for number in _numbers(store, options)]
        self._stop = self._interrupts = 0
        # Not print, which a terminal held by Ctrl-S would block: workers must be stopped even then.
        self._console = LogFile(_log_path("supervisor")) if options["daemon"] else Console()
        self._lease_s = recovery.lease_of(store)
        self._healthy_since_mono = time.monotonic()
        self._sweep_mono = self._look_mono = 0.0
        self._living: List[Worker] = []  # all workers and supervisors of this store on this host, at the last look
        self._pruner = Pruner(store)
        self._pids = PidFile(store.store_id)
        self._notifier = Notifier()
        self._begun = False  # whether any worker could be started yet
        self._ready = False  # whether all workers were registered at some moment
        self._said_trouble = ""
        self._wake = place_to_sleep()
        hurry_at(store, "SIGINT", "SIGTERM", "SIGQUIT")
        try:
            self._register()
        except StoreUnavailable:
            if not self._unblock():
                raise
            self._register()

    def _register(self) -> None:
        now_mono, now, pid = time.monotonic(), self._store.now(), os.getpid()
        mine = Worker(
            self._id, "supervisor", self._id, 0, identity.host_name(), identity.host_id(), pid,
            identity.process_started(pid) or "", tuple(self._options["queues"]), 0, now, now + self._lease_s, now_mono,
        )  # fmt: skip
        self._store.register(mine)
        self._renewed_mono = now_mono

    def run(self) -> int:
        """Keep the group running until it is stopped or has drained; return the exit code."""
        identity.name_process("queuectl")
        try:
            self._give_back()  # jobs of workers that died while no supervisor ran
        except StoreUnavailable:
            pass  # the first sweep looks again
        while True:
            now_mono = time.monotonic()
            self._collect(now_mono)
            if not self._stop:
                self._start_due(now_mono)
            if now_mono >= self._sweep_mono:
                self._sweep(now_mono)
            self._notifier.alive(now_mono)
            if all(slot.process is None and (self._stop or slot.restart_mono is None) for slot in self._slots):
                break
            self._console.release()
            self._console.flush()
            self._sleep(now_mono)
        if not self._stop:
            self._pruner.last_round()
        self._leave()
        return INTERRUPTED if self._interrupts > 1 else 0

    # -- the group ----------------------------------------------------------------------------

    def _start_due(self, now_mono: float) -> None:
        for slot in self._slots:
            if slot.process is None and slot.restart_mono is not None and now_mono >= slot.restart_mono:
                slot.restart_mono = None
                slot.born_mono = now_mono
                try:
                    slot.process = self._start_worker(slot.number)
                    self._begun = True
                except OSError as error:
                    self._not_started(slot, error, now_mono)

    def _not_started(self, slot: Slot, error: OSError, now_mono: float) -> None:
        """Plan another try: the machine has no room for one more worker now, but the others go on.

        If not even the first could be started, raise ``QueuectlError``, so that whoever starts the group hears of it.
        """
        if not self._begun:
            self._leave()
            raise QueuectlError(f"cannot start a worker: {_reason(error)}. Fix that, then start the workers again.")
        slot.delay_s = _next_delay(slot.delay_s, 0.0)
        slot.restart_mono = now_mono + slot.delay_s
        self._console.line(events.not_started(slot.number, _reason(error), clock.format_duration(slot.delay_s)))

    def _start_worker(self, number: int) -> Process:
        """Start a worker, which must inherit no connection of this process.

        The worker's standard input is its lifeline, a pipe whose other end only this process holds. End of
        file on it tells the worker that the supervisor is gone, however that happened.
        """
        options = self._options
        log = _log_path(f"worker-{number}") if options["daemon"] else ""
        given = [str(number), self._id, str(options["concurrency"]), "drain" if options["drain"] else "", log]
        given += options["queues"]
        return self._start(options["location"], given)

    def _collect(self, now_mono: float) -> None:
        """Notice workers that have ended, and plan the restart of those that died."""
        if os.getpid() == 1:
            identity.reap_orphans([slot.process.pid for slot in self._slots if slot.process is not None])
        for slot in self._slots:
            code = None if slot.process is None else slot.process.poll()
            if slot.process is None or code is None:
                continue
            if slot.process.stdin is not None:
                slot.process.stdin.close()
            slot.process = None
            self._sweep_mono = 0.0  # give back its jobs at once
            if code == IN_ORDER or self._stop:
                continue
            slot.delay_s = _next_delay(slot.delay_s, now_mono - slot.born_mono)
            slot.restart_mono = now_mono + slot.delay_s
            how = f"signal {signal_name(-code)}" if code < 0 else f"exit {code}"
            self._console.line(events.restarted(slot.number, how, clock.format_duration(slot.delay_s)))

    def _signal_all(self, number: int) -> None:
        for slot in self._slots:
            if slot.process is not None:
                send(slot.process, number)

    def _ask_stop(self, level: int) -> None:
        if level <= self._stop:
            return
        self._stop = level
        self._notifier.tell("STOPPING=1", "STATUS=finishing the running jobs")
        self._signal_all(signal.SIGTERM if level == GRACEFUL else QUIT)

    # -- now and then -------------------------------------------------------------------------

    def _sweep(self, now_mono: float) -> None:
        sweep_s = min(SWEEP_S, self._lease_s / 3)
        self._sweep_mono = next_time(now_mono, sweep_s, sweep_s / 20)
        try:
            if is_time(self._renewed_mono, now_mono, self._lease_s / 3, not self._store.many_hosts):
                self._renew(now_mono)
            changed = self._store.many_hosts or self._store.changed()  # a lease of another host ends without a commit
            if changed and not self._store.many_hosts:
                doorbell.ring(recovery.run_folder(self._store))
            if changed or not self._all_as_before(now_mono):
                self._look(now_mono)
            if not self._stop:  # pruning would delay the stop
                self._sweep_mono = min(self._sweep_mono, self._pruner.step(now_mono))
            self._store.tidy()
            self._said_trouble = ""
        except (StoreUnavailable, OSError) as error:
            self._look_mono = 0.0
            self._healthy_since_mono = time.monotonic() + COMES_BACK_S
            if isinstance(error, StoreUnavailable):
                self._unblock()
            elif self._said_trouble != _reason(error):
                self._said_trouble = _reason(error)
                self._console.line(events.not_looked(self._said_trouble))

    def _all_as_before(self, now_mono: float) -> bool:
        """Return whether all workers seen at the last look are alive and within their leases.

        If nothing was committed since, a new look would find nothing, at several times the cost of this check.
        """
        if now_mono >= self._look_mono:
            return False
        # A child that has not been collected keeps its pid: the process table need not be asked for it.
        mine = {os.getpid(), *(slot.process.pid for slot in self._slots if slot.process is not None)}
        return all(
            (worker.pid in mine or identity.is_running(worker.pid, worker.pid_started))
            and now_mono - worker.renewed_mono_s <= self._lease_s
            for worker in self._living
        )

    def _look(self, now_mono: float) -> None:
        """Read the workers from the store: give back the jobs of the dead, note the living, obey orders."""
        config = Config(self._store.settings())
        if config.lease != self._lease_s:
            self._lease_s = config.lease
            self._healthy_since_mono = time.monotonic()  # the workers need a moment to learn of the new lease
        workers = self._store.workers()
        self._give_back(now_mono, config, workers)
        self._living = on_this_host(workers)
        self._pids.keep(self._living)
        self._tell_ready()
        self._obey(workers)
        # An entry without a living process was just recovered, or could not be: look again at the next sweep.
        self._look_mono = now_mono + LOOK_S if len(self._living) == len(workers) else 0.0

    def _give_back(
        self, now_mono: Optional[float] = None, config: Optional[Config] = None, workers: Optional[List[Worker]] = None
    ) -> None:
        judge = time.monotonic() - self._healthy_since_mono > self._lease_s * 2
        for lost in recovery.sweep(self._store, judge, now_mono, config, workers):
            self._console.line(events.lost(*lost))

    def _unblock(self) -> bool:
        """End a paused worker that holds the store's write lock, if there is one; return whether one was ended."""
        try:
            return recovery.unblock(self._store, self._lease_s)
        except StoreUnavailable:
            return False

    def _renew(self, now_mono: float) -> None:
        renewed = self._store.renew(self._id, self._lease_s, now_mono)
        after_mono = time.monotonic()
        if after_mono - self._renewed_mono > self._lease_s:
            # This process was paused, or held up by the store's lock or disk, and so may the workers have been.
            self._healthy_since_mono = after_mono
        if renewed:
            self._renewed_mono = now_mono
        else:  # another process took this one for dead; the workers register again on their own
            self._register()

    def _obey(self, workers: Sequence[Worker]) -> None:
        """Stop if this supervisor's entry says so: a stop from Windows or another host arrives without a signal."""
        for worker in workers:
            if worker.id == self._id and worker.stop:
                self._ask_stop(worker.stop)

    def _tell_ready(self) -> None:
        """Tell systemd, once, that all workers have registered; until then, have the next sweep soon."""
        if self._ready:
            return
        mine = sum(worker.role == "worker" and worker.group_id == self._id for worker in self._living)
        self._ready = mine == len(self._slots)
        if self._ready:
            self._notifier.tell("READY=1", f"STATUS={mine} {'worker' if mine == 1 else 'workers'}")
        else:
            self._sweep_mono = time.monotonic() + READY_LOOK_S

    def _sleep(self, now_mono: float) -> None:
        """Sleep until a signal arrives, a worker ends, or something is due; act on the signals."""
        wake_mono = min(self._sweep_mono, self._notifier.due_mono)
        for slot in self._slots:
            if slot.process is None and slot.restart_mono is not None and not self._stop:
                wake_mono = min(wake_mono, slot.restart_mono)
        timeout_s = max(wake_mono - now_mono, 0.0)
        for number in self._wake([slot.process for slot in self._slots if slot.process is not None], timeout_s):
            self._heed(number)

    def _heed(self, number: int) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            self._ask_stop(GRACEFUL if self._interrupts == 1 else NOW)
        elif number == QUIT:
            self._ask_stop(NOW)
        elif number != getattr(signal, "SIGCHLD", None):
            self._ask_stop(GRACEFUL)

    def _leave(self) -> None:
        """Give back the jobs of dead workers, unregister, and update ``pids.json``.

        A step that fails does not prevent the others, but an unavailable store is waited for only once.
        """
        for step in (self._give_back, self._unregister):
            try:
                step()
            except StoreUnavailable:
                break
            except (QueuectlError, OSError):
                pass
        self._keep_pids()
        self._console.finish()

    def _keep_pids(self) -> None:
        self._pids.keep([each for each in self._living if identity.is_running(each.pid, each.pid_started)])

    def _unregister(self) -> None:
        self._store.unregister(self._id)
        self._living = local_workers(self._store)

    def abandon(self) -> None:
        """Stop the workers and wait for them, but leave the store alone: it refuses this process."""
        self._signal_all(signal.SIGTERM)
        for slot in self._slots:
            if slot.process is not None:
                if slot.process.stdin is not None:
                    slot.process.stdin.close()
                slot.process.wait()
        self._keep_pids()


def _numbers(store: Store, options: Dict[str, Any]) -> Sequence[int]:
    """Return the workers' numbers: from 0 in a terminal; for a daemon, whose logs bear them, numbers not in use."""
    if not options["daemon"]:
        return range(options["count"])
    return numbering.take(options["count"], options["group_id"], local_workers(store))


def _log_path(name: str) -> str:
    return os.path.join(home(), "logs", f"{name}.log")


def _reason(error: OSError) -> str:
    return why(error, starting=True) + (f": {error.filename}" if error.filename else "")


def _next_delay(delay_s: float, lived_s: float) -> float:
    """Return how many seconds to wait before restarting a worker that died: twice as many each time it dies young."""
    if lived_s > SETTLED_S or delay_s == 0:
        return FIRST_RESTART_S
    return min(delay_s * 2, LAST_RESTART_S)


def start(
    location: Optional[str],
    count: int = 1,
    concurrency: int = 1,
    queues: Sequence[str] = (),
    daemon: bool = False,
    drain: bool = False,
    tell: Optional[Callable[[Started], None]] = None,
) -> int:
    """Start a group of workers, in the foreground or as a daemon; return the exit code.

    Without a standard output, as under Windows's Task Scheduler, the workers write log files as a daemon's do.

    Args:
        location: The store, as ``--db`` names it; None: the default one.
        count: How many worker processes to start.
        concurrency: How many commands each worker runs at once.
        queues: The queues to serve; empty: all.
        daemon: Return as soon as all workers are live, and let them run in the background.
        drain: Have the workers end when no job is left to run, now or later.
        tell: Called with what was started, once all workers of a daemon are live.
    """
    way = start_worker if daemon else _way_to_start(count, location)
    store = open_store(location)
    recovery.disown_strangers(store)
    if drain and not daemon:
        refuse_within(own_job(store), store, queues)
    location = location or os.environ.get("QUEUECTL_DB") or None
    if location is not None and "://" not in store.location:
        location = store.location  # absolute, for the workers' commands run in any directory
    unheard = getattr(sys.stdout, "name", "") == os.devnull  # what main opens if there is no standard output
    options = {
        "location": location, "group_id": os.urandom(8).hex(), "count": count, "concurrency": concurrency,
        "queues": list(queues), "daemon": daemon or unheard, "drain": drain,
    }  # fmt: skip
    if options["daemon"]:
        folders.make(home())
        folders.make(os.path.dirname(_log_path("")))
    if daemon:
        try:
            started = start_daemon(store, options)
        finally:
            store.close()
        if tell is not None:
            tell(started)
        return 0
    return _supervise(store, options, way)


def _way_to_start(count: int, location: Optional[str] = None) -> Start:
    """Return the function that starts the *count* workers of this process, which must not have opened a store yet."""
    if sys.platform == "linux":
        from queuectl.spares import starter

        return starter(count, location)
    return start_worker


def _supervise(store: Store, options: Dict[str, Any], start: Start) -> int:
    supervisor = Supervisor(store, options, start)
    try:
        return supervisor.run()
    except StoreRefused:
        supervisor.abandon()
        raise
    finally:
        store.close()


def main(argv: Sequence[str]) -> int:
    """Be the supervisor of a daemon group; *argv* is one JSON object, the options of ``Supervisor``."""
    import gc
    import json

    gc.freeze()  # ``python_command`` starts this process with the collector off
    gc.enable()
    options = json.loads(argv[0])
    way = _way_to_start(options["count"])
    return _supervise(open_store(create=False), options, way)
