"""The output of a worker's commands, on its way to the console and to the store."""

from __future__ import annotations

import time

from queuectl.runner.output import OutputBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sys
    from typing import Dict, List, Optional

    from queuectl.console import Console
    from queuectl.db.base import OutputWrite, Store
    from queuectl.execution import Execution
    from queuectl.runner import Command

    if sys.platform == "win32":
        from queuectl.runner.reactor_windows import Reactor
    else:
        from queuectl.runner.reactor import Reactor

# How often the output of running commands is written to the store, for those who follow it.
FLUSH_S = 0.25
# How long a command must have run before its output is watched.
WATCH_AFTER_S = 0.002
# How long the first output waits: that of a short command is written with its end, without a transaction of its own.
FIRST_FLUSH_S = 0.05


class OutputFlow:
    """The output of all commands of one worker."""

    def __init__(self, store: Store, console: Console, reactor: Reactor) -> None:
        self.pending: List[OutputWrite] = []  # output taken from the commands' buffers, not yet in the store
        self._store = store
        self._console = console
        self._reactor = reactor
        self._executions: Dict[Command, Execution] = {}
        self._dirty: Dict[Command, Execution] = {}  # the running commands with output in their buffers
        self._lingering: Dict[int, Command] = {}  # by descriptor: ended commands whose children still hold the pipe
        self._flush_mono = 0.0
        self._fresh: List[Command] = []  # commands started just now, not watched yet
        self.watch_mono: Optional[float] = None  # when to watch the fresh commands, by the monotonic clock

    def begin(self, execution: Execution) -> None:
        """Take care of the output of a command that was just started.

        Where the reactor reports the end of a command without its output being watched, the output is watched only
        after ``WATCH_AFTER_S``: most commands of a busy queue are over by then, and their output is read in one go.
        """
        self._executions[execution.command] = execution
        self._reactor.expect(execution.pid)
        if not self._reactor.tells_ends:
            self._reactor.watch(execution.command)
            return
        self._fresh.append(execution.command)
        if self.watch_mono is None:
            self.watch_mono = time.monotonic() + WATCH_AFTER_S

    def watch_fresh(self) -> None:
        """Watch the output of the commands that were started a moment ago."""
        for command in self._fresh:
            if command.fileno() >= 0:  # else ``catch_up`` came to the end of its output
                self._reactor.watch(command)
        self._fresh.clear()
        self.watch_mono = None

    def read(self, command: Command) -> None:
        """Read the output of *command* that is there, without waiting."""
        self._got(command, command.fileno(), command.read())

    def catch_up(self) -> None:
        """Read what there is of all output: called while something keeps the loop from doing so.

        Otherwise a command would have to wait as soon as its pipe is full, 64 KiB on Linux.
        """
        for command in [*self._executions, *self._lingering.values()]:
            self._got(command, command.fileno(), command.drain())

    def _got(self, command: Command, fd: int, data: bytes) -> None:
        if command.fileno() < 0:
            self._reactor.unwatch(fd)
            self._lingering.pop(fd, None)
        execution = self._executions.get(command)
        if execution is not None and data:
            if not self._dirty:
                self._flush_mono = max(self._flush_mono, time.monotonic() + FIRST_FLUSH_S)
            self._dirty[command] = execution
            if self._console.shows_output:
                self._console.raw(data)

    def end(self, execution: Execution) -> None:
        """Take the rest of an ended run's output, to be written to the store with the run's end."""
        command = execution.command
        del self._executions[command]
        self._dirty.pop(command, None)
        fresh = command in self._fresh  # not watched yet
        if fresh:
            self._fresh.remove(command)
            if not self._fresh:
                self.watch_mono = None
        fd = command.fileno()
        if fd >= 0:
            rest = command.drain()
            if rest and self._console.shows_output:
                self._console.raw(rest)
            if command.fileno() < 0:
                if not fresh:
                    self._reactor.unwatch(fd)
            else:
                # A background child holds the pipe. It must neither delay the run's end nor die of SIGPIPE,
                # so this worker reads and drops its output from now on.
                self._lingering[fd] = command
                if fresh:
                    self._reactor.watch(command)
        if command.buffer.total:
            self._take(command, execution, last=True)
        if command.fileno() >= 0:
            command.buffer = OutputBuffer(0)  # what comes from now on is not kept
            if len(self._lingering) > command.most_lingering():
                self._hand_over(next(iter(self._lingering)))

    def _hand_over(self, fd: int) -> None:
        """Leave an ended command's output to another process, as its descriptor is needed for commands to come."""
        self._reactor.unwatch(fd)
        self._lingering.pop(fd).leave()

    def _take(self, command: Command, execution: Execution, last: bool = False) -> None:
        parts, gone = command.buffer.take(last)
        if parts or gone:
            self.pending.append((execution.claim.run_id, parts, gone))

    def due_mono(self) -> Optional[float]:
        """Return when ``flush`` is due, by the monotonic clock; None if there is no output to write."""
        return self._flush_mono if self._dirty or self.pending else None

    def flush(self, now_mono: float) -> None:
        """Write the output of running commands to the store.

        Raises:
            StoreUnavailable: The output that could not be written is kept for the next flush.
        """
        self._flush_mono = now_mono + FLUSH_S
        self._store_pending()  # output left from a failed flush first: until it is stored, no more is taken
        for command, execution in self._dirty.items():
            self._take(command, execution)
        self._dirty.clear()
        self._store_pending()

    def _store_pending(self) -> None:
        if self.pending:
            self._store.append_outputs(self.pending)
            self.pending = []

    def close(self) -> None:
        """Hand over the pipes that background children hold, so that these may go on writing after this worker."""
        for command in self._lingering.values():
            command.leave()
