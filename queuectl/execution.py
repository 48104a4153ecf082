"""One run inside a worker: start its command, end it at its timeout, tell how it ended."""

from __future__ import annotations

import signal
import time

from queuectl import clock
from queuectl.job import Outcome, RunEnd
from queuectl.runner import RUN_ID, STORE_ID, how_ended, kill, left_over, start, terminate, used

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Sequence

    from queuectl.config import Config
    from queuectl.job import Claim
    from queuectl.runner import Command

# How often to check whether a process tree that is being ended is gone.
LOOK_S = 0.05
# How long what a failed command leaves behind has to end by itself, as the ``tee`` that it printed to does.
TAIL_S = 0.5
# How long a worker waits after the machine could not start a command: the first wait, and the longest.
FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 30.0


class Slots:
    """How many more commands a worker may start now.

    The upper bound is the worker's concurrency, or less if the machine could not run that many commands: there are
    limits on processes, descriptors and memory. In that case the worker tries one more now and then, at growing
    intervals. Otherwise it would claim a job for every slot, fail to start them and give them back, again and again.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._fits = concurrency  # how many commands the machine can run, as far as is known
        self._pause_s = 0.0
        self._pause_until_mono = 0.0

    def free(self, running: int, now_mono: float) -> int:
        """Return how many commands may be started while *running* others run."""
        free = self._fits - running
        if free <= 0 and running < self._concurrency and now_mono >= self._pause_until_mono:
            return 1
        return free

    def again_mono(self, now_mono: float) -> float:
        """Return when one more may be tried, by the monotonic clock; infinity if no pause is in force."""
        return self._pause_until_mono if now_mono < self._pause_until_mono else float("inf")

    def lacking(self, running: int, now_mono: float) -> None:
        """Note that the machine could not start another command beside the *running* ones."""
        self._fits = running
        if now_mono >= self._pause_until_mono:  # of several jobs claimed together, only the first counts
            self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LAST_PAUSE_S)
            self._pause_until_mono = now_mono + self._pause_s

    def started(self, running: int) -> None:
        """Note that a command was started, and that *running* run now."""
        if running > self._fits:
            self._fits = running
            self._pause_s = self._pause_until_mono = 0.0


class Execution:
    """A run from its claim to its end. Names in ``_mono`` are instants of the monotonic clock."""

    # Defaults are on the class to make the constructor cheap: most runs never change them.
    command: Command
    outcome: Optional[Outcome] = None  # why the run is being ended; None: it is not
    term_mono: Optional[float] = None  # when to send TERM to what a failed command has left behind
    kill_mono: Optional[float] = None  # when to send KILL after TERM; later, when to send KILL again
    deadline_mono: Optional[float] = None
    killed = False  # whether KILL was sent; it is sent again until nothing is left
    noted = False  # whether the first process was written down for recovery
    pid = 0
    started_mono = 0.0
    ended_mono: Optional[float] = None  # when ``has_ended`` first found that the first process had ended
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
        """Return when ``look_at`` is due next, by the monotonic clock; None if never."""
        if self.outcome is None:
            return self.deadline_mono
        return self.kill_mono if self._status is None else self._look_mono

    def is_due(self, now_mono: float) -> bool:
        """Return whether ``look_at`` is due."""
        due_mono = self.next_mono()
        return due_mono is not None and now_mono >= due_mono

    def look_by(self, mono: float) -> None:
        """Set when ``look_at`` is due next if the first process has been reaped while the rest of its tree is ended."""
        self._look_mono = mono

    def collected(self, status: int, usage: Any) -> None:
        """Note that the first process was reaped, with its wait status and resource usage."""
        self._status = status
        self._usage = usage
        self.command.reaped(self.outcome is None and status == 0)

    def has_ended(self, now_mono: float) -> Optional[bool]:
        """Return whether the first process has ended, None if that cannot be told; note when that was first seen."""
        if self.ended_mono is None:
            has_ended = self.command.has_ended()
            if not has_ended:
                return has_ended
            self.ended_mono = now_mono
        return True

    @property
    def is_collected(self) -> bool:
        """Whether the first process has been reaped."""
        return self._status is not None

    @property
    def is_to_be_cleared(self) -> bool:
        """Whether nothing may be left of the tree once the first process has been reaped, and something may be."""
        if self.outcome is None or self.term_mono is not None:
            return self._status != 0 and self.command.has_left()
        return True

    def begin_to_clear(self, now_mono: float) -> None:
        """Have what is left of the tree ended, after a while, if that was not begun."""
        if self.outcome is None:
            self.outcome = Outcome.FAILED
            self.term_mono = now_mono + TAIL_S

    def result(self, now: float) -> RunEnd:
        """Return how the run ended, by *now*; call only for a run that ``that_are_over`` has returned."""
        ended_at = now
        if self.ended_mono is not None and self.outcome is None:
            ended_at = max(now - (time.monotonic() - self.ended_mono), self.claim.started_at)
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
    """Begin to end runs: TERM to their whole trees, KILL after their grace.

    Runs that are being ended already keep their outcome and their time of KILL.
    """
    fresh = [execution for execution in executions if execution.outcome is None or execution.term_mono is not None]
    for execution in fresh:
        execution.outcome = execution.outcome or outcome
        execution.term_mono = None
        execution.kill_mono = now_mono + execution.grace_s
    if fresh:
        terminate([execution.command for execution in fresh])


def kill_all(executions: Sequence[Execution], outcome: Outcome, now_mono: float) -> None:
    """Send KILL to the whole trees of runs at once, without grace."""
    for execution in executions:
        execution.outcome = execution.outcome or outcome
        execution.kill_mono = now_mono + LOOK_S
        execution.killed = True
    if executions:
        kill([execution.command for execution in executions])


def look_at(executions: Sequence[Execution], now_mono: float) -> None:
    """Do what is due for each run: time it out, send TERM or KILL to what is left of it, again until that is gone."""
    late, stubborn = [], []
    for execution in executions:
        execution.look_by(now_mono + LOOK_S)
        if execution.outcome is None or (execution.term_mono is not None and now_mono >= execution.term_mono):
            late.append(execution)
        elif execution.kill_mono is not None and now_mono >= execution.kill_mono:
            stubborn.append(execution)
    end_all(late, Outcome.TIMED_OUT, now_mono)
    kill_all(stubborn, Outcome.STOPPED, now_mono)


class Meanwhile:
    """Keeps the time of the *running* ones, by run id, while a call of the store waits; see ``Store.meanwhile``.

    A run whose command has ended by then is left to the loop, which collects it: all that is noted is when it ended.
    *read* reads what the commands print, so that none has to wait for its reader.
    """

    def __init__(self, running: Dict[int, Execution], read: Callable[[], None]) -> None:
        self._running, self._read = running, read

    def __call__(self) -> None:
        """Do what is due."""
        self._read()
        now_mono = time.monotonic()
        alive = [each for each in self._running.values() if each.outcome or each.has_ended(now_mono) is False]
        look_at([each for each in alive if each.is_due(now_mono)], now_mono)


def that_are_over(executions: Sequence[Execution]) -> Sequence[Execution]:
    """Return the runs that are over: the first process has ended and, unless the command succeeded, its whole tree too.

    A command that succeeded may leave background processes behind; they do not keep its run from being over. What
    others leave is ended: a retry is not to meet it.
    """
    ended = [execution for execution in executions if execution.is_collected]
    cleared = [execution for execution in ended if execution.is_to_be_cleared]
    if not cleared:
        return ended
    left = set(left_over([execution.command for execution in cleared]))
    now_mono = time.monotonic()
    for execution in cleared:
        if execution.command in left:
            execution.begin_to_clear(now_mono)
    return [execution for execution in ended if execution.command not in left]


def signal_name(number: int) -> str:
    """Return ``KILL`` for 9; the number as text if this system has no name for it."""
    try:
        return signal.Signals(number).name[3:]
    except ValueError:
        return str(number)
