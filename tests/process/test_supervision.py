"""What a supervisor does besides starting workers must not keep it from them, nor end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Iterator, List

import pytest

from queuectl.pruning import PRUNE_S, Pruner
from tests.faults.faulty import state_of
from tests.process.scene import Scene

pytestmark = pytest.mark.posix


@pytest.fixture
def supervisor(scene: Scene) -> Iterator[Callable[..., Any]]:
    """Start ``worker start`` in which *changes*, statements in Python, are in force; not so in its workers."""
    started: List[Any] = []

    def start(changes: str, **env: str) -> Any:
        code = f"{changes}; from queuectl.main import main; main()"
        words = [sys.executable, "-c", code, "worker", "start"]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, **env}))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_signal_is_heard_while_old_jobs_are_deleted(scene: Scene, supervisor: Callable[..., Any]) -> None:
    """Between one step and the next: 3,000 are to go, and it is told to stop in the middle of the first 1,000."""
    ids = scene.queue.enqueue_many(["true"] * 3000)
    scene.queue.set_setting("keep_completed", "0.001")
    scene.queue.cancel(*ids)
    met = scene.folder / "met"
    process = supervisor(
        "import queuectl.pruning as pruning; pruning.PRUNE_S = 0.2",
        QUEUECTL_FAULT=f"worker start/pruning:1:STOP@{met}",
    )
    scene.eventually(lambda: met.exists() and state_of(process.pid) == "T", what="the first step")

    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)

    assert 0 == process.wait(60)
    assert 2000 == scene.queue.status().jobs["cancelled"]


def test_all_that_is_old_is_deleted_step_by_step(scene: Scene) -> None:
    """One step after another, and the last says that nothing is left to do for a while."""
    ids = scene.queue.enqueue_many(["true"] * 2500)
    scene.queue.set_setting("keep_completed", "0.001")
    scene.queue.cancel(*ids)
    pruner = Pruner(scene.queue.store)
    at_mono = time.monotonic() + PRUNE_S

    left = []
    while pruner.step(at_mono) <= at_mono:
        left.append(scene.queue.status().jobs["cancelled"])

    assert [1500, 500] == left
    assert 0 == scene.queue.status().jobs["cancelled"]
