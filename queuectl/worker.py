"""One worker process: claim jobs, run up to *concurrency* of them at once, and record how they ended.

One thread, one loop. Each turn records all ends so far and claims the next jobs in a single transaction,
starts the commands of the claimed jobs, and sleeps until something happens.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from queuectl import events, faults, journal, recovery
from queuectl.config import Config
from queuectl.draining import Draining
from queuectl.ends import Ends
from queuectl.errors import StoreError, StoreUnavailable
from queuectl.execution import Execution, Meanwhile, Slots, end_all, kill_all, look_at, that_are_over
from queuectl.job import GRACEFUL, NOW, Outcome, RunEnd, settle
from queuectl.membership import Membership, next_time
from queuectl.output_flow import OutputFlow
from queuectl.report import Report
from queuectl.runner import IN_ORDER, NOT_FOR_COMMANDS, QUIT, CannotStart

if sys.platform == "win32":
    from queuectl.runner.reactor_windows import Reactor
else:
    from queuectl.runner.reactor import Reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Sequence

    from queuectl.console import Console
    from queuectl.db.base import Store
    from queuectl.job import Claim, Orders

# How often a worker checks for orders (cancel, stop) while commands run, and for jobs that no bell announced.
TICK_S = 0.5
DEAF_TICK_S, IDLE_TICK_S = 1.0, 10.0  # when idle: without a bell; with one, which a commit or the supervisor rings
LOOK_S = 10.0  # how often to read the orders even if nothing was committed to the store
SWEEP_S = 2.0  # how often an orphaned worker looks for dead workers
TROUBLE_S = 0.5  # how long a worker leaves the store alone after an error
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGQUIT") if hasattr(signal, name))


class WorkerProcess:
    """The worker of this process."""

    def __init__(
        self,
        store: Store,
        console: Console,
        number: int,
        group_id: str,
        concurrency: int = 1,
        queues: Sequence[str] = (),
        drain: bool = False,
        lifeline: Optional[int] = None,
    ) -> None:
        self._store, self._console, self._number = store, console, number
        self._slots = Slots(concurrency)
        self._queues = tuple(queues)
        self._draining = Draining(store, self._queues) if drain else None
        self._reactor = Reactor(STOP_SIGNALS, lifeline)
        self._flow = OutputFlow(store, console, self._reactor)
        self._report = Report(store, console, self._reactor.nudge)
        self._environment = {name: text for name, text in os.environ.items() if name not in NOT_FOR_COMMANDS}
        # By run id, not pid: the system may reuse the first process's pid while the rest of its tree is being ended.
        self._running: Dict[int, Execution] = {}
        self._by_pid: Dict[int, Execution] = {}  # the running ones whose first process has not been reaped yet
        self._timed: Dict[int, Execution] = {}  # the running ones that have a deadline or are being ended
        self._config, self._settings_seen = Config(store.settings()), store.settings_seen
        self._ends = Ends(store, console, number, self._flow, self._report, self._running, self._config)
        self._stop, self._said_trouble = 0, ""
        self._hungry, self._listening = True, False  # whether to try a claim this turn; whether the bell is armed
        self._not_before_mono = 0.0  # after an error, leave the store alone until then
        self._chore_mono = 0.0  # when the next chore is due; may be too early, never too late
        self._tick_mono = self._look_mono = self._sweep_mono = 0.0
        self._idle_tick_s = DEAF_TICK_S
        self._due_mono: Optional[float] = None
        self._membership = Membership(store, number, group_id, concurrency, self._queues)
        store.meanwhile = Meanwhile(self._running, self._flow.catch_up)
        self._enter()

    # -- life ---------------------------------------------------------------------------------

    def run(self) -> int:
        """Work until told to stop or, when draining, until no job is left; return the exit code."""
        self._console.line(events.started(self._number, os.getpid()))
        self._report.tell(0.0)
        self._reactor.wait(0.0)
        self._react()  # a stop that arrived during start-up must keep the first command from starting
        while not (self._stop and self._is_done()):
            now_mono = time.monotonic()
            if now_mono >= self._chore_mono:
                self._chores(now_mono)
            self._turn(now_mono)
            if self._draining is not None and self._draining.is_over(not self._stop and self._is_done()):
                break
            error = self._report.tell(now_mono, self._not_before_mono)
            if error is not None:
                self._trouble(str(error))
            self._sleep()
        return self._leave()

    @property
    def is_orphaned(self) -> bool:
        """Whether this worker's supervisor is gone."""
        return self._reactor.orphaned

    def _enter(self) -> None:
        self._membership.enter(self._config.lease)
        self._ends.enter(recovery.note_path(self._store, self._membership.id, journal.NAME))

    def _is_done(self) -> bool:
        return not self._running and (self._ends.is_empty or (self._stop == NOW and self._ends.is_hopeless))

    def _leave(self) -> int:
        told = self._ends.leave()
        if told:
            self._membership.leave()
        self._console.line(events.exiting(self._number))
        self._flow.close()
        self._report.finish()
        return IN_ORDER if told else 1

    # -- the turn -----------------------------------------------------------------------------

    def _turn(self, now_mono: float) -> None:
        """Record ends and claim new jobs, if there is a reason to."""
        free = self._free(now_mono)
        ends, idle = self._ends, free > 0 and self._hungry
        if now_mono < self._not_before_mono or not (ends.due or idle or ends.ahead.is_over(now_mono)):
            return
        claims: List[Claim] = []  # to be started even if a later step fails: for the store these jobs are running
        try:
            claims += ends.follow(self._membership.id, free, now_mono)
            if not claims:
                if ends.due:
                    claims += ends.hand_in(self._membership.id, free, self._queues)
                elif idle:
                    claims += self._store.claim(self._membership.id, free, self._queues)
                if free > len(claims):
                    claims += self._look_again(free - len(claims))
                elif self._listening and free > 0:
                    self._disarm_bell()  # all slots are taken: new jobs are of no use to this worker
            if self._store.settings_seen != self._settings_seen:
                self._read_settings()
            self._said_trouble = ""
        except StoreUnavailable as error:
            self._trouble(str(error))
        for claim in ends.ahead.take(claims, free, now_mono):
            self._begin(claim)
        if ends.ahead.is_low and not self._stop:
            trouble = ends.refill(self._membership.id, self._queues)
            if trouble:
                self._trouble(trouble)
        if not ends.ahead.is_empty:
            self._chore_by(ends.ahead.until_mono)

    def _free(self, now_mono: float) -> int:
        over = self._stop or self._membership.lease_is_over(self._config.lease)  # claim nothing on an expired lease
        return 0 if over else self._slots.free(len(self._running), now_mono)

    def _look_again(self, free: int) -> List[Claim]:
        """Prepare to wait, as the store had too few jobs: arm the bell, claim once more, note when to try again.

        The second claim is for jobs that were committed before the bell was armed, and so did not ring.
        """
        claims: List[Claim] = []
        bell, missed = self._membership.arm(), self._membership.has_missed(self._listening)
        self._listening = True
        self._reactor.set_bell(bell)  # even if None: the system may reuse the old descriptor's number
        self._idle_tick_s = DEAF_TICK_S if bell is None or self._store.many_hosts else IDLE_TICK_S
        if bell is not None and missed:
            claims = self._store.claim(self._membership.id, free, self._queues)
        self._hungry = len(claims) == free
        self._due_mono = None
        if not self._hungry:
            try:
                wait_s = self._membership.look_in_s()
            except StoreUnavailable:
                return claims  # these must be started; the next tick tries again
            if wait_s is not None:
                self._due_mono = time.monotonic() + wait_s
                self._chore_by(self._due_mono)
        return claims

    def _disarm_bell(self) -> None:
        """Take the bell down, so that nobody wakes this worker for new jobs."""
        self._listening = False
        self._reactor.set_bell(None)
        self._membership.disarm()

    def _read_settings(self) -> None:
        config = Config(self._store.settings())
        if config.lease < self._config.lease:  # the last renewal may be too old for the shorter lease
            self._membership.renew_in_time(config.lease, time.monotonic())
        self._config = self._ends.config = config
        self._settings_seen, self._chore_mono = self._store.settings_seen, 0.0  # a shortened lease applies at once

    def _trouble(self, what: str, pause_s: float = TROUBLE_S) -> None:
        """Leave the store alone for *pause_s* seconds, and report *what* unless it was the last thing reported."""
        self._not_before_mono = time.monotonic() + pause_s
        if what != self._said_trouble:
            self._said_trouble = what
            self._report.say(events.trouble(self._number, what))

    # -- a run's life -------------------------------------------------------------------------

    def _begin(self, claim: Claim) -> None:
        self._report.show(events.picked(self._number, claim.job.id, claim.job.command))
        execution = Execution(claim, self._config)
        over_mono = self._membership.over_mono(self._config.lease)
        if over_mono is not None:
            if time.monotonic() >= over_mono:
                self._settle(claim, RunEnd(Outcome.STOPPED, None, None, "the lease was over", self._store.now()))
                return
            self._chore_by(over_mono)
        try:
            execution.begin(self._environment, self._store.store_id, self._config.output_limit)
        except CannotStart as error:
            outcome = Outcome.STOPPED if error.transient else Outcome.FAILED
            self._settle(claim, RunEnd(outcome, None, None, error.reason, self._store.now()))
            if error.transient:
                self._slots.lacking(len(self._running), time.monotonic())
                self._trouble(error.reason + ".", 0.0)
            return
        faults.point("spawned")
        self._running[claim.run_id] = self._by_pid[execution.pid] = execution
        self._slots.started(len(self._running))
        if execution.deadline_mono is not None:
            self._timed[claim.run_id] = execution
            self._chore_by(execution.deadline_mono)
        self._flow.begin(execution)
        self._tick_mono = min(self._tick_mono, execution.started_mono + TICK_S)  # an idle worker ticks less often
        self._chore_by(self._membership.note_by(execution))

    def _sleep(self) -> None:
        """Sleep until the loop has something to do; output is read meanwhile, without leaving this function."""
        while True:
            now_mono = time.monotonic()
            wake_mono = self._wake_mono(now_mono)
            self._reactor.wait(wake_mono - now_mono if wake_mono > now_mono else 0.0)
            if self._react() or time.monotonic() >= wake_mono:
                return

    def _react(self) -> bool:
        """Act on what the reactor reported; return whether the loop has something to do now."""
        reactor = self._reactor
        for command in reactor.readable:
            self._flow.read(command)
            self._chore_by(self._flow.due_mono() or self._chore_mono)
        ended = []
        for pid, status, usage in reactor.exits:
            execution = self._by_pid.pop(pid, None)
            if execution is not None:
                execution.collected(status, usage)
                ended.append(execution)
        self._settle_over(ended)
        if reactor.rung:
            self._hungry = True
            self._membership.hush()
            if sys.platform == "win32":
                self._tick_mono = self._chore_mono = 0.0  # Windows has no signals: a ring may announce orders as well
        if reactor.orphaned and not self._stop:
            reactor.signals.append(signal.SIGTERM)  # the supervisor's death means a graceful stop
        for number in reactor.signals:
            self._ask_stop(NOW if number == QUIT else GRACEFUL)
        if self._flow.watch_mono is not None and time.monotonic() >= self._flow.watch_mono:
            self._flow.watch_fresh()
        wants = self._ends.due or reactor.signals or self._report.is_synced() or self._console.is_filling
        return bool(wants or (self._hungry and self._free(time.monotonic()) > 0))

    def _settle_over(self, executions: Sequence[Execution]) -> None:
        """Settle those of *executions* that are over, after reading the rest of their output; look at others again."""
        over = that_are_over(executions)
        if len(over) < len(executions):
            self._watch([each for each in executions if each.is_collected and each not in over])
        for execution in over:
            del self._running[execution.claim.run_id]
            self._timed.pop(execution.claim.run_id, None)
            self._flow.end(execution)
            faults.point("ended")
            self._settle(execution.claim, execution.result(self._store.now()))

    def _settle(self, claim: Claim, end: RunEnd) -> None:
        """Decide what *end* does to the job; the next turn writes this verdict to the store."""
        chance = 0.0
        if end.outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
            try:
                self._read_settings()  # the backoff in force is the one configured at the moment of the failure
            except StoreError:
                pass  # use the settings read last; whatever the store's trouble is, the next turn finds it too
            if self._config.backoff_jitter:
                chance = int.from_bytes(os.urandom(6), "big") / 2**48
        self._ends.due.append((claim, end, settle(claim.job, end, self._config, end.ended_at, chance)))

    # -- chores -------------------------------------------------------------------------------

    def _chore_by(self, mono: float) -> None:
        """Have the next round of chores no later than *mono*, by the monotonic clock."""
        if mono < self._chore_mono:
            self._chore_mono = mono

    def _chores(self, now_mono: float) -> None:
        """Do what is due by the clock, as opposed to what an event triggers; note when the next chore is due."""
        if self._running and self._membership.lease_is_over(self._config.lease):  # even if the store cannot be reached
            self._kill([execution for execution in self._running.values() if not execution.killed], now_mono)
        if now_mono >= self._tick_mono:
            self._tick(now_mono)
        self._look(now_mono)
        if self._due_mono is not None and now_mono >= self._due_mono:
            self._due_mono, self._hungry = None, True
        self._membership.note_in_time(self._running.values(), now_mono)
        due = self._flow.due_mono()
        if due is not None and now_mono >= max(due, self._not_before_mono) and not self._ends.due:
            try:
                self._flow.flush(now_mono)
            except StoreUnavailable as error:
                self._trouble(str(error))
        self._chore_mono = self._next_chore_mono()

    def _look(self, now_mono: float) -> None:
        """Time out the commands whose time is up, and press on with those that are being ended."""
        due = [execution for execution in self._timed.values() if execution.is_due(now_mono)]
        look_at(due, now_mono)
        self._settle_over(due)

    def _next_chore_mono(self) -> float:
        times = [self._tick_mono, self._due_mono, self._membership.note_mono]
        times += [execution.next_mono() for execution in self._timed.values()]
        if not all(execution.killed for execution in self._running.values()):
            times.append(self._membership.over_mono(self._config.lease))
        due = self._flow.due_mono()
        if due is not None:
            times.append(max(due, self._not_before_mono))
        if not self._ends.ahead.is_empty:
            times.append(max(self._ends.ahead.until_mono, self._not_before_mono))
        return min(time_mono for time_mono in times if time_mono is not None)

    def _tick(self, now_mono: float) -> None:
        """Renew the lease in time, read orders, and have a claim tried if anything was committed."""
        tick_s = min(TICK_S if self._running else self._idle_tick_s, self._config.lease / 3)
        self._tick_mono = now_mono + tick_s if self._running else next_time(now_mono, tick_s)
        try:
            if not self._membership.renew_in_time(self._config.lease, now_mono):  # first: a read may wait for a lock
                self._fenced()
                return
            # The rare look without a commit covers a wall clock that was set forward: jobs may be due by now.
            orders = self._store.news(self._membership.id, now_mono >= self._look_mono)
            if orders is not None:
                self._hungry = True
                if self._store.settings_seen != self._settings_seen:
                    self._read_settings()
                self._obey(orders, now_mono)
                self._look_mono = now_mono + LOOK_S
            self._store.tidy()
        except StoreUnavailable as error:
            self._look_mono = 0.0  # the commit was noticed but not read: read it at the next tick regardless
            self._ends.found_away()  # a renewal that fails may keep the loop from trying to record the ends
            self._trouble(str(error))
            return
        if self._reactor.orphaned and now_mono >= self._sweep_mono:
            self._sweep(now_mono)

    def _obey(self, orders: Orders, now_mono: float) -> None:
        if not orders.known:
            self._fenced()
            return
        if orders.stop:
            self._ask_stop(orders.stop)
        cancelled = [each for each in self._running.values() if each.claim.run_id in orders.cancelled_runs]
        self._end(cancelled, Outcome.CANCELLED, now_mono)
        for claim in self._ends.ahead.remove(orders.cancelled_runs):
            self._settle(claim, RunEnd(Outcome.CANCELLED, None, None, "cancelled", self._store.now()))

    def _sweep(self, now_mono: float) -> None:
        """Give back the jobs of dead workers, in place of the supervisor that is gone."""
        self._sweep_mono = now_mono + SWEEP_S
        try:
            for lost in recovery.sweep(self._store):
                self._console.line(events.lost(*lost))
        except StoreUnavailable as error:
            self._trouble(str(error))

    def give_up(self) -> None:
        """Kill all commands, as the store refuses this process, and leave all ends to recovery."""
        self.abandon()
        self._ends.leave()

    def abandon(self) -> None:
        """Kill all commands and wait until they are gone: their ends can no longer be recorded."""
        self._reactor.wait(0.0)
        self._react()  # what has ended by itself was not stopped
        self._kill(list(self._running.values()), time.monotonic())
        while self._running:
            self._reactor.wait(0.05)
            self._react()
            self._look(time.monotonic())

    def _kill(self, executions: Sequence[Execution], now_mono: float) -> None:
        kill_all(executions, Outcome.STOPPED, now_mono)
        self._watch(executions)

    def _watch(self, executions: Sequence[Execution]) -> None:
        """Have the chores look at *executions*, which are being ended, until they are gone."""
        if executions:
            self._timed.update((execution.claim.run_id, execution) for execution in executions)
            self._chore_mono = 0.0

    def _fenced(self) -> None:
        """Start anew after being condemned: kill the commands, drop their results, register under a new id."""
        self.abandon()
        self._disarm_bell()
        self._ends.ahead.close()
        self._membership.leave()
        self._enter()
        self._console.line(events.fenced(self._number))

    def _ask_stop(self, level: int) -> None:
        if level <= self._stop:
            return
        self._report.say(events.stopping(self._number, level == NOW, self._stop > 0))
        self._stop = level
        self._ends.ahead.stop()
        self._disarm_bell()
        if level == NOW:
            self._ends.hurry()
            self._end(list(self._running.values()), Outcome.STOPPED, time.monotonic())

    def _end(self, executions: Sequence[Execution], outcome: Outcome, now_mono: float) -> None:
        end_all(executions, outcome, now_mono)
        self._watch(executions)

    def _wake_mono(self, now_mono: float) -> float:
        """Return until when the loop may sleep, by the monotonic clock; an instant in the past if it may not."""
        wake_mono = min(self._chore_mono, self._slots.again_mono(now_mono))
        if self._ends.due or (self._hungry and self._free(now_mono) > 0):
            wake_mono = min(wake_mono, self._not_before_mono)
        sync_mono, watch_mono = self._report.due_mono(), self._flow.watch_mono
        if sync_mono is not None:
            wake_mono = min(wake_mono, max(sync_mono, self._not_before_mono))
        if watch_mono is not None and watch_mono < wake_mono:
            wake_mono = watch_mono
        if self._draining is not None and not self._running:
            wake_mono = min(wake_mono, self._draining.due_mono)
        return wake_mono
