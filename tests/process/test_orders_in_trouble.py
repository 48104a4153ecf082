"""A worker's look for orders, on a store that fails in the very tick that saw them come."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Callable

import pytest

from queuectl.db import open_store

pytestmark = pytest.mark.posix("the worker's standard input is a pipe")

# The worker of a process, whose first call of a method fails once an order is there. It sees a commit once, and the
# next look at everything without one is far away.
WORKER = """
import sys
from queuectl import membership, worker, worker_main
from queuectl.db.sqlite import SqliteStore
from queuectl.errors import StoreUnavailable

worker.LOOK_S = 3600.0
membership.is_time = lambda *_: True  # to renew the lease at each tick
method = getattr(SqliteStore, sys.argv[1])
failed = []

def call(store, *arguments):
    if not failed and store._rows("SELECT 1 FROM jobs WHERE cancel_requested"):
        failed.append(1)
        raise StoreUnavailable("the store is busy.")
    return method(store, *arguments)

setattr(SqliteStore, sys.argv[1], call)
sys.exit(worker_main.main(["0", "group", "1", "", ""]))
"""


def cancel_and_set() -> None:
    """Ask for the cancel in a transaction that changes the settings too, so that both are read in one tick."""
    store = open_store()
    try:
        with store._write as db:
            db.execute("UPDATE jobs SET cancel_requested = 1")
            db.execute("UPDATE store SET settings_version = settings_version + 1")
    finally:
        store.close()


@pytest.mark.parametrize("failing", ["settings", "renew", "orders"])
def test_orders_that_could_not_be_read_are_read_at_the_next_tick(
    cli: Callable[..., Any], eventually: Callable[..., Any], failing: str
) -> None:
    """Else a cancel or a stop would lie there for ten seconds."""
    cli("enqueue", "--", "sleep", "600", code=0)
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, failing], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        eventually(lambda: "processing" == json.loads(cli("show", "job1", "--json").out)["state"])
        cancel_and_set()
        eventually(lambda: "cancelled" == json.loads(cli("show", "job1", "--json").out)["state"])
    finally:
        process.terminate()
        said = process.communicate(timeout=30)[0]

    assert "the store is busy. Waiting." in said
    assert 0 == process.returncode
