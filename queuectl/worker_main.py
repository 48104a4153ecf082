"""The entry of a worker process."""

from __future__ import annotations

import json
import signal
import sys

from queuectl.console import Console, LogFile
from queuectl.db import open_store
from queuectl.errors import QueuectlError
from queuectl.worker import WorkerProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence


def main(argv: Sequence[str]) -> int:
    """Be the worker process that a supervisor started; *argv* is one JSON object."""
    given = json.loads(argv[0])
    for name in ("SIGINT", "SIGHUP"):  # the supervisor decides what a Ctrl-C means
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    console = LogFile(given["log"]) if given.get("log") else Console()
    try:
        store = open_store(create=False)
        process = WorkerProcess(
            store, console, given["number"], given["group_id"], given["concurrency"], given["queues"],
            given["drain"], lifeline=0,
        )  # fmt: skip
        try:
            return process.run()
        except QueuectlError:
            process.abandon()  # the store was replaced or has vanished
            raise
    except QueuectlError as error:
        console.finish()
        print(f"queuectl: worker {given['number']}: {error}", file=sys.stderr)
        return error.exit_code
