"""A worker's place in the store: its entry and lease, its bell, its notes for recovery."""

from __future__ import annotations

import os
import signal
import sys
import time

from queuectl import recovery
from queuectl.db.doorbell import Doorbell
from queuectl.db.run_folder import NO_FOLLOW, let_in
from queuectl.errors import QueuectlError, StoreUnavailable, why
from queuectl.job import Worker
from queuectl.runner import WORKER, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Collection, Optional, Tuple

    from queuectl.db.base import Store
    from queuectl.execution import Execution

# Runs that last longer than this are noted for recovery; shorter ones are spared the cost.
NOTE_AFTER_S = 0.02
# How soon to try again if a run could not be noted, for want of a descriptor or of room on the disk.
NOTE_AGAIN_S = 1.0


def is_time(last_mono: float, now_mono: float, period_s: float, together: bool) -> bool:
    """Return whether a period has passed since *last_mono*.

    With *together*, periods end at instants that are the same for all processes of this machine. Each commit makes
    all of them look for what is new in the store; if they renew their leases at the same time, they look only once.
    """
    if together:
        return now_mono // period_s > last_mono // period_s
    return now_mono - last_mono >= period_s


def next_time(now_mono: float, period_s: float, after_s: float = 0.0) -> float:
    """Return when the next period of ``is_time`` ends that all processes of this machine share, or *after_s* later."""
    return ((now_mono - after_s) // period_s + 1) * period_s + after_s


def slept_s() -> float:
    """Return how many seconds this machine has been asleep since its start, on Linux; 0 elsewhere."""
    if sys.platform != "linux":
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class Membership:
    """What one worker process has in the store and in the run folder under its current id."""

    def __init__(self, store: Store, number: int, group_id: str, concurrency: int, queues: Tuple[str, ...]) -> None:
        self.id = ""
        self._origin = os.environ.get(WORKER) or identity.new_origin()
        self._entered = 0  # how many ids this process has had
        self._store = store
        self._number = number
        self._group_id = group_id
        self._concurrency = concurrency
        self._queues = queues
        self._renewed_mono = 0.0
        self._slept_s = 0.0  # how long the machine had been asleep at the last renewal
        self._granted_s = 0.0  # the length of the lease at the last renewal
        self.note_mono: Optional[float] = None  # when to note runs for recovery; None: none waits for it
        self._notes: Optional[str] = None
        self._notes_fd: Optional[int] = None
        self._bell: Any = None  # a Doorbell, or what the store has in its place

    def enter(self, lease_s: float) -> None:
        """Register under a new id, so that the results of runs under an earlier one are refused.

        Raises:
            StoreUnavailable: The store, or the run folder beside it, takes nothing now.
        """
        self._entered += 1
        self.id = f"{self._origin}{self._entered:04x}"
        try:
            folder = self._store.run_folder.make()
        except OSError as error:
            raise StoreUnavailable(f"cannot make {self._store.run_folder.path}: {why(error)}.") from error
        self._notes = None if folder is None else os.path.join(folder, self.id + recovery.NOTES)
        # A store that many hosts share brings a bell of its own, which rings across hosts.
        doorbell = getattr(self._store, "doorbell", None)
        if doorbell is not None:
            self._bell = doorbell()
        else:
            self._bell = None if folder is None else Doorbell(folder, self.id)
        now_mono, now, pid = time.monotonic(), self._store.now(), os.getpid()
        self._slept_s = slept_s()
        self._store.register(
            Worker(
                self.id,
                "worker",
                self._group_id,
                self._number,
                identity.host_name(),
                identity.host_id(),
                pid,
                identity.process_started(pid) or "",
                self._queues,
                self._concurrency,
                now,
                now + lease_s,
                now_mono,
            )
        )
        self._renewed_mono = now_mono
        self._granted_s = lease_s

    def leave(self) -> None:
        """Unregister, and remove bell and notes; if the store is unavailable, a sweeper removes the entry later."""
        try:
            self._store.unregister(self.id)
        except QueuectlError:
            pass
        self.forget()

    def forget(self) -> None:
        """Remove bell and notes."""
        self.disarm()
        if self._notes_fd is not None:
            os.close(self._notes_fd)
            self._notes_fd = None
        recovery.forget_notes(self._store, self.id)

    # -- the lease ----------------------------------------------------------------------------

    def renew_in_time(self, lease_s: float, now_mono: float) -> bool:
        """Renew the lease if a third of it has passed; return False if the store has condemned this worker.

        The machine's sleep counts on a store of many hosts, as other hosts' clocks go on meanwhile: when this machine
        wakes up, its jobs may already run elsewhere.
        """
        slept = slept_s() if self._store.many_hosts else 0.0
        due = is_time(self._renewed_mono, now_mono, lease_s / 3, not self._store.many_hosts)
        if not due and slept - self._slept_s < lease_s / 3:
            return True
        renewed = self._store.renew(self.id, lease_s, now_mono)
        if renewed:
            self._renewed_mono, self._slept_s = now_mono, slept
            self._granted_s = lease_s
        return renewed

    def over_mono(self, lease_s: float) -> Optional[float]:
        """Return when the lease ends, by the monotonic clock, counted from the *start* of the last renewal.

        None on a store of one host, where a lease has no end for its holder: the others end this process before they
        take its jobs.
        """
        return self._renewed_mono + min(lease_s, self._granted_s) if self._store.many_hosts else None

    def lease_is_over(self, lease_s: float) -> bool:
        """Return whether the lease has ended, so that this worker's jobs may soon be given to others."""
        over_mono = self.over_mono(lease_s)
        return over_mono is not None and time.monotonic() >= over_mono

    # -- the bell -----------------------------------------------------------------------------

    def arm(self) -> Optional[int]:
        """Put up the bell, for others to ring, and return the descriptor to sleep on; None if there can be no bell."""
        fd: Optional[int] = None if self._bell is None else self._bell.arm()
        return fd

    def has_missed(self, hung: bool) -> bool:
        """Return whether jobs may have come in without a ring before the last ``arm``.

        *hung* says that the bell was up already. A store's own bell listens while the worker is busy as well, and
        knows by itself what it has missed.
        """
        missed: bool = getattr(self._bell, "missed", not hung)
        return missed

    def disarm(self) -> None:
        """Take the bell down."""
        if self._bell is not None:
            self._bell.disarm()

    def hush(self) -> None:
        """Silence the bell until somebody rings it again."""
        if self._bell is not None:
            self._bell.hush()

    def look_in_s(self) -> Optional[float]:
        """Return in how many seconds to look for jobs again without a ring; None if that is not needed.

        At that time either a job becomes due, or the bell itself asks for a look, as it may have missed a ring.

        Raises:
            StoreUnavailable: When the next job is due is not known.
        """
        now = self._store.now()
        due = self._store.next_due(self._queues, now)
        again_s: Optional[float] = None if self._bell is None else self._bell.again_s()
        waits_s = [again_s] if again_s is not None else []
        if due is not None:
            waits_s.append(max(due - now, 0.001))
        return min(waits_s, default=None)

    # -- notes --------------------------------------------------------------------------------

    def note_by(self, execution: Execution) -> float:
        """Have a run that was just started noted in time; return when the next note is due, by the monotonic clock."""
        if self.note_mono is None:
            self.note_mono = execution.started_mono + NOTE_AFTER_S
        return self.note_mono

    def note_in_time(self, running: Collection[Execution], now_mono: float) -> None:
        """Write all runs down once the oldest of those not yet noted has lasted for ``NOTE_AFTER_S``."""
        if self.note_mono is None or now_mono < self.note_mono:
            return
        fresh = [execution for execution in running if not execution.noted]
        self.note_mono = min((execution.started_mono + NOTE_AFTER_S for execution in fresh), default=None)
        if self.note_mono is not None and now_mono >= self.note_mono:
            self.note_mono = None if self._note(running) else now_mono + NOTE_AGAIN_S

    def _note(self, executions: Collection[Execution]) -> bool:
        """Write down the first process of each run, by pid and start time; return False if any could not be noted.

        After a crash of this worker, recovery finds nearly all processes by the mark in their environment; the note
        is for a command that has emptied its environment.
        """
        if self._notes is None:
            return True
        lines, seen = [], []
        for execution in executions:
            command = execution.command
            if command.started is None and not execution.is_collected:  # after that, the pid may be another process's
                try:
                    command.started = identity.process_started(execution.pid)
                except OSError:
                    continue  # the next note will have it
            seen.append(execution)
            if command.started is not None:
                lines.append(f"{execution.claim.run_id} {execution.pid} {command.started}\n")
        # Overwritten in place, with an empty line as the end. A new file renamed over the old one would cost a
        # millisecond or two in the file system's journal, and nobody reads the file before this process is dead.
        try:
            if self._notes_fd is None:
                self._notes_fd = os.open(self._notes, os.O_WRONLY | os.O_CREAT | NO_FOLLOW, 0o600)
                let_in(self._notes_fd, os.path.dirname(self._notes))
            os.lseek(self._notes_fd, 0, os.SEEK_SET)
            os.write(self._notes_fd, ("".join(lines) + "\n").encode("ascii"))
        except OSError:
            return False
        for execution in seen:
            execution.noted = True
        return len(seen) == len(executions)


def hurry_at(store: Store, *names: str) -> None:
    """Have these signals hurry a call that waits for the store's lock, which the loop could do only afterwards.

    This replaces handlers that do nothing; Python still writes the byte that wakes the loop.
    """

    def hurry(_number: int, _frame: object) -> None:
        store.in_a_hurry = True

    for name in names:
        if sys.platform != "win32" and hasattr(signal, name):
            signal.signal(getattr(signal, name), hurry)
