"""Running shell commands: start them, read their output, end their process trees; on POSIX and on Windows.

The interface that both implementations share:

``start(command, cwd, env, run_id, store_id, limit)``
    starts a command and returns a ``Command``; raises ``CannotStart``.
``Command.pid``, ``Command.fileno()``
    the pid of the first process, and the descriptor that is readable when there is output (POSIX).
``Command.buffer``
    the output that was read and not yet stored.
``Command.read()``
    reads the output that is there, without waiting, and returns it.
``Command.reaped(lets_go)``
    is told that the first process has ended, and whether the rest of its tree may live on.
``Command.has_left()``
    returns whether anything of the tree may be left but daemons: cheaply, after ``reaped(False)``.
``Command.close()``, ``Command.leave()``
    stop reading the output; after ``leave``, processes that still write may go on, where the system allows it (POSIX).
``Command.most_lingering()``
    returns of how many ended commands a worker reads on, as background processes hold their pipes.
``terminate(commands)``, ``kill(commands)``
    send TERM or KILL to the whole trees of several commands of one store.
``left_over(commands)``
    returns those of the commands of whose tree any process may still be alive.
``end_runs_at_once(store_id, run_ids, leaders, born_by, born_after, origin)``
    kills what the runs of a dead worker left behind, waits until it is gone, and returns whether it is.
``how_ended(status)``, ``used(usage)``
    translate what a reactor reports of an end: into (exit code, signal), and (peak memory in bytes, CPU seconds).
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple


class CannotStart(Exception):
    """A command could not be started.

    If ``transient`` is False, the cause is the job, whose directory does not exist for instance. If True, the cause
    is the machine, which lacks processes, descriptors, memory or a shell, so that another try may succeed.
    """

    def __init__(self, reason: str, transient: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.transient = transient


RUN_ID = "QUEUECTL_RUN_ID"
STORE_ID = "QUEUECTL_STORE_ID"
#: Variables that queuectl sets for each run; a worker does not pass on those that it has inherited itself.
RUN_VARIABLES: Tuple[str, ...] = ("QUEUECTL_JOB_ID", "QUEUECTL_QUEUE", "QUEUECTL_ATTEMPT", RUN_ID, STORE_ID)
#: Not passed on to commands either, as a fault is meant for the worker.
FAULT = "QUEUECTL_FAULT"
#: The origin, with which a worker's ids begin; set by its supervisor. If a worker is killed while it starts a command,
#: the new process may not have reached its exec and still have the worker's environment: this variable identifies it.
WORKER = "QUEUECTL_WORKER"
NOT_FOR_COMMANDS: Tuple[str, ...] = (*RUN_VARIABLES, FAULT, WORKER)
#: The number of SIGQUIT, which ends a worker and its commands at once; on Windows, a number that stands for it.
QUIT = 3
#: What a worker exits with that has left in order. On Windows whoever ends a process chooses its code, often 0.
IN_ORDER = 20821 if sys.platform == "win32" else 0

if sys.platform == "win32":
    from queuectl.runner.windows import Command, end_runs_at_once, how_ended, kill, left_over, start, terminate, used
else:
    from queuectl.runner.posix import Command, end_runs_at_once, how_ended, kill, left_over, start, terminate, used

__all__ = [
    "FAULT", "IN_ORDER", "NOT_FOR_COMMANDS", "QUIT", "RUN_ID", "RUN_VARIABLES", "STORE_ID", "WORKER", "CannotStart",
    "Command", "end_runs_at_once", "how_ended", "kill", "left_over", "start", "terminate", "used",
]  # fmt: skip
