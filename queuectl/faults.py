"""Named steps at which a test may kill or suspend this process, to see how other processes cope.

``QUEUECTL_FAULT=[command/]step[:count][:signal][@file]``: when the process reaches *step* for the *count*-th time
(default 1), it gets *signal* (default KILL; STOP suspends it). With *command* (``worker run``, ``worker start``), only
a process started by that command does; with *file*, only the first process that can create that file, so that its
successor lives; while the file's folder is not there, nothing counts. If the variable is unset, a step costs one look
at a module variable.

The steps, in the order of a job's life: ``adding`` and ``added`` (before and after the commit of an enqueue);
``promoting``; ``claiming``, ``claimed`` (before and after the commit); ``spawned``; ``flushing`` (output of a running
command); ``ended`` (the command's end is seen); ``finishing``, ``finished`` (before and after the commit),
``synced``; ``noting`` (an end that is kept back is about to be noted), ``noted``, ``giving`` (claims back);
``renewing``; ``judging`` (whether workers hang); ``condemned``, ``clearing`` (one process that a lost run left was
killed), ``cleared`` (all are gone), ``releasing``, ``released``; ``cancelling``; ``retrying``; ``pruning``;
``resetting``; ``migrating``; ``making`` and ``made`` (a new store's file); ``stopping``; ``copying`` (after each block
of a copy), ``checking`` (after each block that was compared), ``checked`` (all is equal, before the last commit),
``copied`` (after it).
"""

from __future__ import annotations

import os
import sys

STEPS = (
    "making", "made", "migrating", "adding", "added", "promoting", "claiming", "claimed", "spawned", "flushing",
    "ended", "finishing", "finished", "synced", "noting", "noted", "giving", "renewing", "judging", "condemned",
    "clearing", "cleared", "releasing", "released", "cancelling", "retrying", "pruning", "resetting", "stopping",
    "copying", "checking", "checked", "copied",
)  # fmt: skip

_fault = os.environ.get("QUEUECTL_FAULT")
_seen = 0


def point(step: str) -> None:
    """Mark that the process has reached *step*; this does nothing unless a test asked for a fault there."""
    if _fault is not None:
        _meet(_fault, step)


def _meet(fault: str, step: str) -> None:
    global _seen
    what, _, file = fault.partition("@")
    command, _, rest = what.rpartition("/")
    fields = rest.split(":")
    if fields[0] != step or command not in " ".join(sys.argv[1:3]):
        return
    count = next((int(field) for field in fields[1:] if field.isdigit()), 1)
    name = next((field for field in fields[1:] if not field.isdigit()), "KILL")
    _seen += 1
    if _seen != count:
        return
    if file:
        try:
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileNotFoundError:  # not yet
            _seen -= 1
            return
        except OSError:
            return
    import signal

    os.kill(os.getpid(), getattr(signal, "SIG" + name, signal.SIGTERM))
