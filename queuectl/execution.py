"""One run inside a worker: its command, its deadlines, how it ends."""

from __future__ import annotations

import signal
import time

from queuectl import clock
from queuectl.job import Outcome, RunEnd
from queuectl.runner import RUN_ID, STORE_ID, how_ended, kill, left_over, start, terminate, used

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Sequence

    from queuectl.config import Config
    from queuectl.job import Claim
    from queuectl.runner import Command

# How often a tree that is being ended is looked at.
LOOK_S = 0.05
# How long a worker waits after the machine could not start a command, at first and at last.
FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 30.0


class Slots:
    """How many commands a worker may start now.

    As many as it is told to run at once, or fewer if the machine could not run that many (there are limits on
    processes, descriptors and memory). Then it tries one more now and then, more and more rarely. Without this it would
    claim jobs to its full number, fail to start them and put them back, again and again.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._fits = concurrency  # how many the machine is known to be able to run
        self._pause_s = 0.0
        self._pause_until_mono = 0.0

    def free(self, running: int, now_mono: float) -> int:
        """Return how many may be started beside those that run."""
        free = self._fits - running
        if free <= 0 and running < self._concurrency and now_mono >= self._pause_until_mono:
            return 1
        return free

    def again_mono(self, now_mono: float) -> float:
        """Return when one more may be tried, by the monotonic clock; infinity if nothing is waited for."""
        return self._pause_until_mono if now_mono < self._pause_until_mono else float("inf")

    def lacking(self, running: int, now_mono: float) -> None:
        """Note that the machine could not start one more."""
        self._fits = running
        if now_mono >= self._pause_until_mono:  # the first of those that were claimed together
            self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LAST_PAUSE_S)
            self._pause_until_mono = now_mono + self._pause_s

    def started(self, running: int) -> None:
        """Note that one was started, and how many run now."""
        if running > self._fits:
            self._fits = running
            self._pause_s = self._pause_until_mono = 0.0


class Execution:
    """A run from its claim to its end. Instants with ``_mono`` are of the monotonic clock."""

    # Defaults on the class, as most runs never change them: a worker makes one of these for each command.
    command: Command
    outcome: Optional[Outcome] = None  # why it is being ended, if it is
    kill_mono: Optional[float] = None  # when TERM is followed by KILL, then when to look again
    deadline_mono: Optional[float] = None
    killed = False  # whether it was sent KILL, and is until nothing is left
    noted = False  # whether the leader was written down for recovery
    pid = 0
    started_mono = 0.0
    _look_mono = 0.0
    _status: Optional[int] = None
    _usage: Any = None

    def __init__(self, claim: Claim, config: Config) -> None:
        self.claim = claim
        self.timeout_s = claim.job.timeout_s if claim.job.timeout_s is not None else config.timeout
        self.grace_s = config.kill_grace

    def begin(self, environment: Dict[str, str], store_id: str, output_limit: int) -> None:
        """Start the command.

        Raises:
            CannotStart: See there.
        """
        job = self.claim.job
        env = environment.copy()
        if job.env_json:
            env.update(job.env)
        env["QUEUECTL_JOB_ID"] = job.id
        env["QUEUECTL_QUEUE"] = job.queue
        env["QUEUECTL_ATTEMPT"] = str(job.attempts)
        env[RUN_ID] = str(self.claim.run_id)
        env[STORE_ID] = store_id
        self.started_mono = time.monotonic()
        self.command = start(job.command, job.cwd, env, self.claim.run_id, store_id, output_limit)
        self.pid = self.command.pid
        if self.timeout_s is not None:
            self.deadline_mono = self.started_mono + self.timeout_s

    def next_mono(self) -> Optional[float]:
        """Return when ``look_at`` is due next, None if never."""
        if self.outcome is None:
            return self.deadline_mono
        return self.kill_mono if self._status is None else self._look_mono

    def is_due(self, now_mono: float) -> bool:
        """Say whether ``look_at`` is due."""
        due_mono = self.next_mono()
        return due_mono is not None and now_mono >= due_mono

    def look_by(self, mono: float) -> None:
        """Have the next look at a tree whose first process has ended be at *mono*."""
        self._look_mono = mono

    def collected(self, status: int, usage: Any) -> None:
        """Note that the first process ended."""
        self._status = status
        self._usage = usage
        self.command.reaped()

    @property
    def is_collected(self) -> bool:
        """Whether the first process has ended."""
        return self._status is not None

    def result(self, ended_at: float) -> RunEnd:
        """Return how the run ended; only when it is ``over``."""
        exit_code, number = how_ended(self._status or 0)
        outcome = self.outcome
        if outcome is None:
            outcome = Outcome.COMPLETED if exit_code == 0 else Outcome.FAILED
        memory, cpu_s = used(self._usage) if self._usage else (None, None)
        return RunEnd(outcome, exit_code, number, self._reason(outcome, exit_code, number), ended_at, memory, cpu_s)

    def _reason(self, outcome: Outcome, exit_code: Optional[int], number: Optional[int]) -> Optional[str]:
        if outcome is Outcome.COMPLETED:
            return None
        if outcome is Outcome.TIMED_OUT:
            return f"timed out after {clock.format_duration(self.timeout_s or 0)}"
        if outcome is Outcome.CANCELLED:
            return "cancelled"
        if outcome is Outcome.STOPPED:
            return "stopped"
        return f"exit {exit_code}" if number is None else f"signal {signal_name(number)}"


def end_all(executions: Sequence[Execution], outcome: Outcome, now_mono: float) -> None:
    """Begin to end runs: TERM to the whole trees, KILL after their grace. Those that are being ended go on so."""
    fresh = [execution for execution in executions if execution.outcome is None]
    for execution in fresh:
        execution.outcome = outcome
        execution.kill_mono = now_mono + execution.grace_s
    if fresh:
        terminate([execution.command for execution in fresh])


def kill_all(executions: Sequence[Execution], outcome: Outcome, now_mono: float) -> None:
    """End runs without grace."""
    for execution in executions:
        execution.outcome = execution.outcome or outcome
        execution.kill_mono = now_mono + LOOK_S
        execution.killed = True
    if executions:
        kill([execution.command for execution in executions])


def look_at(executions: Sequence[Execution], now_mono: float) -> None:
    """Do what is due: the timeout, or the KILL after TERM, again until nothing of the trees is left."""
    late, stubborn = [], []
    for execution in executions:
        execution.look_by(now_mono + LOOK_S)
        if execution.outcome is None:
            late.append(execution)
        elif execution.kill_mono is not None and now_mono >= execution.kill_mono:
            stubborn.append(execution)
    end_all(late, Outcome.TIMED_OUT, now_mono)
    kill_all(stubborn, Outcome.STOPPED, now_mono)


def that_are_over(executions: Sequence[Execution]) -> Sequence[Execution]:
    """Return the runs that have ended: their first process, and of those that are being ended, the whole tree."""
    ended = [execution for execution in executions if execution.is_collected]
    ending = [execution.command for execution in ended if execution.outcome is not None]
    if not ending:
        return ended
    left = set(left_over(ending))
    return [execution for execution in ended if execution.command not in left]


def signal_name(number: int) -> str:
    """Return ``KILL`` for 9; the number where it has no name."""
    try:
        return signal.Signals(number).name[3:]
    except ValueError:
        return str(number)
