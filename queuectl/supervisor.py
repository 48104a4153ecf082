"""The supervisor behind ``worker start``: starts workers, watches, replaces, stops them, sweeps the dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

from queuectl import clock, events, recovery
from queuectl.control import local_workers
from queuectl.db import home, open_store
from queuectl.errors import QueuectlError, StoreRefused, StoreUnavailable
from queuectl.execution import signal_name
from queuectl.job import JobFilter, Worker
from queuectl.runner import RUN_VARIABLES, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Sequence

    from queuectl.db.base import Store

GRACEFUL, NOW = 1, 2
# Well below the 5 s in which the death of any worker of this host must be noticed.
SWEEP_S = 2.0
PRUNE_S = 60.0
FIRST_RESTART_S = 0.2
LAST_RESTART_S = 30.0
# How long ``--daemon`` waits until all workers have registered.
START_S = 30.0
# A worker that lived this long has not died at once: its next restart is quick again.
SETTLED_S = 20.0
INTERRUPTED = 130


class Slot:
    """One worker of the group, through all its restarts."""

    __slots__ = ("born_mono", "delay_s", "number", "process", "restart_mono")

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.born_mono = 0.0
        self.restart_mono: Optional[float] = 0.0  # when it is to be started; None: not again
        self.delay_s = 0.0


class Supervisor:
    """A group of workers of this machine."""

    def __init__(self, store: Store, options: Dict[str, Any]) -> None:
        self._store = store
        self._options = options
        self._id: str = options["group_id"]
        self._slots = [Slot(number) for number in range(options["count"])]
        self._stop = 0
        self._interrupts = 0
        self._quiet = bool(options["daemon"])
        self._config_lease = recovery.lease_of(store)
        self._healthy_since_mono = time.monotonic()
        self._sweep_mono = 0.0
        self._prune_mono = time.monotonic() + PRUNE_S
        self._pids: List[int] = []
        self._wake = _wakeup_pipe()
        self._register()

    def _register(self) -> None:
        now_mono, now, pid = time.monotonic(), self._store.now(), os.getpid()
        self._store.register(
            Worker(
                self._id, "supervisor", self._id, 0, identity.host_name(), identity.host_id(), pid,
                identity.process_started(pid) or "", tuple(self._options["queues"]), 0, now,
                now + self._config_lease, now_mono,
            )  # fmt: skip
        )
        self._renewed_mono = now_mono

    def run(self) -> int:
        """Keep the group running until it is stopped or has drained; return the exit code."""
        recovery.sweep(self._store)  # what died while nobody was there
        while True:
            now_mono = time.monotonic()
            self._collect(now_mono)
            if not self._stop:
                self._start_due(now_mono)
            if now_mono >= self._sweep_mono:
                self._sweep(now_mono)
            if all(slot.process is None and (self._stop or slot.restart_mono is None) for slot in self._slots):
                break
            self._sleep(now_mono)
        self._leave()
        return INTERRUPTED if self._interrupts > 1 else 0

    # -- the group ----------------------------------------------------------------------------

    def _start_due(self, now_mono: float) -> None:
        for slot in self._slots:
            if slot.process is None and slot.restart_mono is not None and now_mono >= slot.restart_mono:
                slot.restart_mono = None
                slot.born_mono = now_mono
                slot.process = self._start_worker(slot.number)

    def _start_worker(self, number: int) -> subprocess.Popen[bytes]:
        """Start a worker by exec: nothing of this process's connections crosses over.

        Its standard input is a pipe that only this process holds: its end tells the worker that the
        supervisor is gone, however that happened.
        """
        options = self._options
        log = os.path.join(home(), "logs", f"worker-{number}.log") if options["daemon"] else None
        given = {
            "number": number, "group_id": self._id, "concurrency": options["concurrency"],
            "queues": options["queues"], "drain": options["drain"], "log": log,
        }  # fmt: skip
        return subprocess.Popen(
            [*python_command(), "worker", "run", json.dumps(given)],
            stdin=subprocess.PIPE,
            env=environment(options["location"]),
            bufsize=0,
        )

    def _collect(self, now_mono: float) -> None:
        """Notice workers that ended; plan the restart of those that died."""
        for slot in self._slots:
            if slot.process is None or slot.process.poll() is None:
                continue
            code = slot.process.returncode
            if slot.process.stdin is not None:
                slot.process.stdin.close()
            slot.process = None
            self._sweep_mono = 0.0  # its jobs are given back at once
            if code == 0 or self._stop:
                continue
            slot.delay_s = _next_delay(slot.delay_s, now_mono - slot.born_mono)
            slot.restart_mono = now_mono + slot.delay_s
            how = f"signal {signal_name(-code)}" if code < 0 else f"exit {code}"
            self._say(events.restarted(slot.number, how, clock.format_duration(slot.delay_s)))

    def _signal_all(self, number: int) -> None:
        for slot in self._slots:
            if slot.process is not None:
                slot.process.send_signal(number)

    def _ask_stop(self, level: int) -> None:
        if level <= self._stop:
            return
        self._stop = level
        if os.name == "nt":
            mine = [worker.id for worker in self._store.workers() if worker.group_id == self._id]
            self._store.request_stop(mine, level)
        else:
            self._signal_all(signal.SIGTERM if level == GRACEFUL else signal.SIGQUIT)

    # -- now and then -------------------------------------------------------------------------

    def _sweep(self, now_mono: float) -> None:
        self._sweep_mono = now_mono + SWEEP_S
        try:
            if now_mono - self._renewed_mono > self._config_lease / 3:
                self._renew(now_mono)
            judge = now_mono - self._healthy_since_mono > self._config_lease * 2
            for lost in recovery.sweep(self._store, judge):
                self._say(events.lost(*lost))
            self._write_pids()
            self._obey()
            if now_mono >= self._prune_mono:
                self._prune_mono = now_mono + PRUNE_S
                self._prune()
            self._store.tidy()
        except StoreUnavailable:
            self._healthy_since_mono = time.monotonic()

    def _renew(self, now_mono: float) -> None:
        if now_mono - self._renewed_mono > self._config_lease:
            self._healthy_since_mono = now_mono  # this process was paused: its view of others is stale
        if self._store.renew(self._id, self._config_lease, now_mono):
            self._renewed_mono = now_mono
        else:
            self._id_lost()

    def _id_lost(self) -> None:
        """Somebody took this supervisor for dead; its workers look after themselves."""
        self._register()

    def _obey(self) -> None:
        """Read from the store what no signal could say (Windows, another host)."""
        stop = self._store.orders(self._id).stop
        if stop:
            self._ask_stop(stop)

    def _prune(self) -> None:
        from queuectl.config import Config

        config = Config(self._store.settings())
        now = self._store.now()
        for keep_s, states in ((config.keep_completed, ("completed", "cancelled")), (config.keep_dead, ("dead",))):
            while keep_s is not None and self._store.prune(JobFilter(states, ended_before=now - keep_s)) == 1000:
                pass

    def _write_pids(self) -> None:
        """Keep ``pids.json`` true: the live workers of this store on this host, for people to read."""
        pids = [worker.pid for worker in local_workers(self._store) if worker.role == "worker"]
        if pids != self._pids:
            self._pids = pids
            write_pids(pids)

    def _sleep(self, now_mono: float) -> None:
        """Sleep until a signal comes or something is due."""
        import select

        wake_mono = self._sweep_mono
        for slot in self._slots:
            if slot.process is None and slot.restart_mono is not None and not self._stop:
                wake_mono = min(wake_mono, slot.restart_mono)
        timeout_s = max(wake_mono - now_mono, 0.0)
        if os.name == "nt":
            time.sleep(min(timeout_s, 0.1))
            return
        select.select([self._wake], [], [], timeout_s)
        try:
            numbers = os.read(self._wake, 512)
        except BlockingIOError:
            return
        for number in numbers:
            self._heed(number)

    def _heed(self, number: int) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            self._ask_stop(GRACEFUL if self._interrupts == 1 else NOW)
        elif number == getattr(signal, "SIGQUIT", None):
            self._ask_stop(NOW)
        elif number != getattr(signal, "SIGCHLD", None):
            self._ask_stop(GRACEFUL)

    def _leave(self) -> None:
        try:
            self._sweep(time.monotonic())
            self._store.unregister(self._id)
            self._write_pids()
        except QueuectlError:
            pass

    def _say(self, line: str) -> None:
        if not self._quiet:
            try:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
            except (OSError, ValueError):
                pass

    def abandon(self) -> None:
        """The store is gone: let the workers end what they can and go."""
        self._signal_all(signal.SIGTERM)
        for slot in self._slots:
            if slot.process is not None:
                if slot.process.stdin is not None:
                    slot.process.stdin.close()
                slot.process.wait()


def _next_delay(delay_s: float, lived_s: float) -> float:
    """Return how long to wait before a worker that died is started again: longer each time it dies young."""
    if lived_s > SETTLED_S or delay_s == 0:
        return FIRST_RESTART_S
    return min(delay_s * 2, LAST_RESTART_S)


def _wakeup_pipe() -> int:
    """Have signals write their number into a pipe; return its reading end."""
    if os.name == "nt":
        return -1
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGCHLD"):
        number = getattr(signal, name)
        # A job of ``nohup`` has SIGHUP ignored, and means it.
        if name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def python_command() -> List[str]:
    """Return the words that start another queuectl process with this interpreter and this code.

    Not ``-m``: it would put the current directory first on the path, and a worker goes into the
    directories of its jobs.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = (
        f"import sys; r = {root!r}; sys.path[0:1] = [] if r in sys.path[1:] else [r]; "
        "from queuectl.main import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-c", code]


def environment(location: Optional[str]) -> Dict[str, str]:
    """Return the environment for workers: this process's without the marks of a run it may be part of.

    The store's location goes this way and not by argument: a URL may hold a password, which ``ps`` shows.
    """
    inherited = {name: text for name, text in os.environ.items() if name not in RUN_VARIABLES}
    if location is not None:
        inherited["QUEUECTL_DB"] = location
    return inherited


def write_pids(pids: List[int]) -> None:
    """Write ``pids.json`` whole or not at all."""
    path = os.path.join(home(), "pids.json")
    hidden = f"{path}.{os.getpid()}"
    try:
        os.makedirs(home(), mode=0o700, exist_ok=True)
        with open(hidden, "w", encoding="ascii") as file:
            json.dump({"pids": pids}, file)
            file.write("\n")
        os.replace(hidden, path)
    except OSError:
        pass  # it is a courtesy: nothing reads it to decide


def start(
    location: Optional[str],
    count: int = 1,
    concurrency: int = 1,
    queues: Sequence[str] = (),
    daemon: bool = False,
    drain: bool = False,
    verbose: int = 0,
) -> int:
    """Start a group of workers, in the foreground or as a daemon; return the exit code.

    Args:
        location: The store, as ``--db`` names it; None: the default one.
        count: Worker processes.
        concurrency: Commands that each runs at once.
        queues: Which queues they serve; empty: all.
        daemon: Return as soon as all are live.
        drain: End when nothing is left to run now or later.
        verbose: Say more, on stderr.
    """
    store = open_store(location)
    if location is not None and "://" not in location:
        location = store.location  # absolute: the workers' commands may be anywhere
    options = {
        "location": location, "group_id": os.urandom(8).hex(), "count": count, "concurrency": concurrency,
        "queues": list(queues), "daemon": daemon, "drain": drain,
    }  # fmt: skip
    if daemon:
        try:
            return _start_daemon(store, options)
        finally:
            store.close()
    return _supervise(store, options)


def _supervise(store: Store, options: Dict[str, Any]) -> int:
    supervisor = Supervisor(store, options)
    try:
        return supervisor.run()
    except StoreRefused:
        supervisor.abandon()
        raise
    finally:
        store.close()


def _start_daemon(store: Store, options: Dict[str, Any]) -> int:
    """Start a supervisor in a session of its own and wait until all its workers have registered."""
    logs = os.path.join(home(), "logs")
    os.makedirs(logs, mode=0o700, exist_ok=True)
    log_path = os.path.join(logs, "supervisor.log")
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    begin = os.fstat(log).st_size
    apart: Dict[str, Any] = {"start_new_session": True}
    if os.name == "nt":
        apart = {"creationflags": 0x00000008 | 0x00000200}  # DETACHED_PROCESS, CREATE_NEW_PROCESS_GROUP
    process = subprocess.Popen(
        [*python_command(), "worker", "supervise", json.dumps(options)],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(options["location"]), **apart,
    )  # fmt: skip
    os.close(log)
    deadline = time.monotonic() + START_S
    while True:
        workers = [
            worker
            for worker in store.workers()
            if worker.group_id == options["group_id"] and worker.role == "worker"
        ]
        if len(workers) == options["count"] or (options["drain"] and process.poll() == 0):
            break
        if process.poll() is not None:
            with open(log_path, encoding="utf-8", errors="replace") as file:
                file.seek(begin)
                said = file.read().strip().splitlines()
            why = said[-1].replace("queuectl: ", "", 1) if said else f"it ended with exit code {process.returncode}"
            raise QueuectlError(f"the workers did not start: {why}")
        if time.monotonic() > deadline:
            raise QueuectlError(f"the workers did not all start within {START_S:.0f} s. {tidy_path(logs)} says why.")
        time.sleep(0.005)
    for worker in sorted(workers, key=lambda worker: worker.number):
        print(f"Started worker pid={worker.pid}")
    write_pids([worker.pid for worker in local_workers(store) if worker.role == "worker"])
    print(f"Saved PIDs to {tidy_path(os.path.join(home(), 'pids.json'))}", flush=True)
    process.returncode = 0  # it goes on alone: Popen must not warn about it
    return 0


def tidy_path(path: str) -> str:
    """Return *path* with the user's home as ``~``, as people write it."""
    user = os.path.expanduser("~")
    return "~" + path[len(user) :] if user != os.sep and path.startswith(user + os.sep) else path


def main(argv: Sequence[str]) -> int:
    """Be the supervisor of a daemon group; *argv* is one JSON object."""
    options = json.loads(argv[0])
    return _supervise(open_store(create=False), options)
