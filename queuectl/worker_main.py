"""The entry point of a worker process."""

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

# How many times an orphaned worker tries to leave ``pids.json``, and how long it rests in between.
TRIES, REST_S = 20, 0.05


def main(argv: Sequence[str]) -> int:
    """Be the worker process that a supervisor started.

    *argv* is the worker's number, its group's id, its concurrency, ``drain`` or an empty text, the path of its log
    or an empty text (for standard output), and the queues.
    """
    gc.freeze()  # ``python_command`` starts this process with the collector off
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
            process.give_up()  # the store was replaced, removed, or upgraded by a newer release
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
    """Take this worker, which has left the store, out of ``pids.json``, in place of the supervisor that is gone.

    The other workers of the group do the same at the same time. So the store is read again after the file was
    written, and the file is written once more if the workers have changed.
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
            return  # left to the next 'worker stop' or the next supervisor
        time.sleep(REST_S)
