"""Running shell commands: ``start`` begins one, on whichever system this is.

The interface that both halves share:

``start(command, cwd, env, run_id, store_id, limit)``
    begins a command and returns a ``Command``; raises ``CannotStart``.
``Command.pid``, ``Command.fileno()``
    the first process, and the descriptor that is readable when there is output (POSIX).
``Command.buffer``
    what it printed and is not yet stored.
``Command.read()``
    takes output that is there, without waiting; returns it.
``Command.reaped()``
    hears that the first process has ended; unless the run is being ended, what else is alive lives on.
``Command.close()``, ``Command.leave()``
    let go of the output; after ``leave`` what still writes to it may go on, where the system can do that (POSIX).
``terminate(commands)``, ``kill(commands)``
    TERM or KILL to the whole trees of several commands of one store.
``left_over(commands)``
    those of them of whose tree anything is still alive.
``end_runs_at_once(store_id, run_ids, leaders, born_by, born_after, origin)``
    kills what the runs of a dead worker left and waits until it is gone; says whether it is.
``how_ended(status)``, ``used(usage)``
    read what a reactor reports of an end: (exit code, signal), and (peak memory in bytes, CPU seconds).
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple


class CannotStart(Exception):
    """A command could not be begun.

    ``transient`` says whose fault it is: False, the job's (its directory does not exist); True, the
    machine's (no more processes, descriptors or memory), so that another try may work.
    """

    def __init__(self, reason: str, transient: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.transient = transient


RUN_ID = "QUEUECTL_RUN_ID"
STORE_ID = "QUEUECTL_STORE_ID"
#: Variables that queuectl sets for each run; a worker drops those it inherited.
RUN_VARIABLES: Tuple[str, ...] = ("QUEUECTL_JOB_ID", "QUEUECTL_QUEUE", "QUEUECTL_ATTEMPT", RUN_ID, STORE_ID)
#: Not for commands either: a fault is meant for the worker.
FAULT = "QUEUECTL_FAULT"
#: What a worker's own id begins with, from its supervisor. A command that was made and has not become a program yet,
#: because its worker was killed in that moment, still has the worker's environment: by this it is found.
WORKER = "QUEUECTL_WORKER"
NOT_FOR_COMMANDS: Tuple[str, ...] = (*RUN_VARIABLES, FAULT, WORKER)
#: SIGQUIT, which ends a worker and its commands at once; on Windows, a number that stands for it.
QUIT = 3

if sys.platform == "win32":
    from queuectl.runner.windows import Command, end_runs_at_once, how_ended, kill, left_over, start, terminate, used
else:
    from queuectl.runner.posix import Command, end_runs_at_once, how_ended, kill, left_over, start, terminate, used

__all__ = [
    "FAULT", "NOT_FOR_COMMANDS", "QUIT", "RUN_ID", "RUN_VARIABLES", "STORE_ID", "WORKER", "CannotStart", "Command",
    "end_runs_at_once", "how_ended", "kill", "left_over", "start", "terminate", "used",
]  # fmt: skip
