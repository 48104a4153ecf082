"""What the running commands of a worker print: on its way to the console and to the store."""

from __future__ import annotations

import time

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

# How often a running command's output goes to the store, for whoever follows it.
FLUSH_S = 0.25
# A command that is not over by then is watched for output.
WATCH_AFTER_S = 0.002
# A short command ends before its output is worth a transaction of its own.
FIRST_FLUSH_S = 0.05


class OutputFlow:
    """The output of all commands of one worker."""

    def __init__(self, store: Store, console: Console, reactor: Reactor) -> None:
        self.pending: List[OutputWrite] = []  # taken from the commands' buffers, not yet in the store
        self._store = store
        self._console = console
        self._reactor = reactor
        self._executions: Dict[Command, Execution] = {}
        self._dirty: Dict[Command, Execution] = {}  # those of them with output in their buffers
        self._lingering: Dict[int, Command] = {}  # by descriptor: pipes that ended runs' background children hold
        self._flush_mono = 0.0
        self._fresh: List[Command] = []  # started just now, not watched yet
        self.watch_mono: Optional[float] = None  # when these are to be watched

    def begin(self, execution: Execution) -> None:
        """Look for output of a command that was just started.

        Where the system reports the end of a command, its output is not watched in the first moments: most commands of
        a busy queue end within them, and all of their output is then read at once.
        """
        self._executions[execution.command] = execution
        self._reactor.expect()
        if not self._reactor.tells_ends:
            self._reactor.watch(execution.command)
            return
        self._fresh.append(execution.command)
        if self.watch_mono is None:
            self.watch_mono = time.monotonic() + WATCH_AFTER_S

    def watch_fresh(self) -> None:
        """Watch the output of what was started a moment ago."""
        for command in self._fresh:
            self._reactor.watch(command)
        self._fresh.clear()
        self.watch_mono = None

    def read(self, command: Command) -> None:
        """Take output that is there."""
        fd = command.fileno()
        data = command.read()
        if command.fileno() < 0:
            self._reactor.unwatch(fd)
            self._lingering.pop(fd, None)
            return
        execution = self._executions.get(command)
        if execution is not None and data:
            if not self._dirty:
                self._flush_mono = max(self._flush_mono, time.monotonic() + FIRST_FLUSH_S)
            self._dirty[command] = execution
            if self._console.shows_output:
                self._console.raw(data)

    def end(self, execution: Execution) -> None:
        """Take the rest of an ended run's output; it goes to the store with the run's end."""
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
                # A background child holds the pipe. It must neither delay this end nor die of SIGPIPE
                # now, so its output is read and dropped, by this worker as long as it lives.
                self._lingering[fd] = command
                if fresh:
                    self._reactor.watch(command)
        if command.buffer.dirty:
            self._take(command, execution)

    def _take(self, command: Command, execution: Execution) -> None:
        parts, replace_from = command.buffer.take()
        self.pending.append((execution.claim.run_id, parts, replace_from))

    def due_mono(self) -> Optional[float]:
        """Return when ``flush`` is due, by the monotonic clock; None if there is nothing to store."""
        return self._flush_mono if self._dirty or self.pending else None

    def flush(self, now_mono: float) -> None:
        """Store what running commands printed.

        Raises:
            StoreUnavailable: What could not be stored is kept, and taken up again next time.
        """
        self._flush_mono = now_mono + FLUSH_S
        self._store_pending()  # what a store that was away has not yet got comes first: memory stays bounded
        for command, execution in self._dirty.items():
            self._take(command, execution)
        self._dirty.clear()
        self._store_pending()

    def _store_pending(self) -> None:
        if self.pending:
            self._store.append_outputs(self.pending)
            self.pending = []

    def close(self) -> None:
        """Leave the pipes that background children still hold to others, so that these may go on writing."""
        for command in self._lingering.values():
            command.leave()
