"""The entry of a worker process."""

from __future__ import annotations

import gc
import signal
import sys
import time

from queuectl.console import Console, LogFile
from queuectl.db import open_store
from queuectl.errors import QueuectlError, StoreError
from queuectl.membership import hurry_at
from queuectl.runner.identity import name_process
from queuectl.worker import WorkerProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

    from queuectl.db.base import Store

# How often a worker without a supervisor tries to leave ``pids.json``, and how long it rests before the next time.
TRIES, REST_S = 20, 0.05


def main(argv: Sequence[str]) -> int:
    """Be the worker process that a supervisor started.

    *argv* is the worker's number, its group's id, how many commands it runs at once, ``drain`` or nothing, the
    path of its log or nothing (for its standard output), and the queues.
    """
    gc.freeze()  # off until now, see ``python_command``
    gc.enable()
    number, group_id, concurrency, drain, log, *queues = argv
    name_process(f"queuectl-{number}")
    for name in ("SIGINT", "SIGHUP"):  # the supervisor decides what a Ctrl-C means
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    console = LogFile(log) if log else Console()
    try:
        store = open_store(create=False)
        process = WorkerProcess(
            store, console, int(number), group_id, int(concurrency), queues, bool(drain), lifeline=0
        )
        hurry_at(store, "SIGTERM", "SIGQUIT")
        try:
            code = process.run()
        except QueuectlError:
            process.abandon()  # the store was replaced or has vanished
            raise
        if process.is_orphaned:
            _take_out(store)
        return code
    except QueuectlError as error:
        console.drop()
        console.finish()
        print(f"queuectl: worker {number}: {error}", file=sys.stderr)
        return error.exit_code


def _take_out(store: Store) -> None:
    """Take this worker, which has left, out of ``pids.json``: the supervisor, who would have done it, is gone.

    Its mates do the same at the same time: the file has to be what the store says after it was written, too.
    """
    from queuectl.control import local_workers
    from queuectl.pidfile import PidFile

    file = PidFile(store.store_id)
    for _ in range(TRIES):
        try:
            mates = local_workers(store)
            if file.keep(mates) and {mate.id for mate in local_workers(store)} == {mate.id for mate in mates}:
                return
        except StoreError:
            return  # the next 'worker stop', or the next supervisor, does it
        time.sleep(REST_S)
