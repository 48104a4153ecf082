"""The fixture of the process tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from queuectl import Queue
from tests.process.scene import Scene


@pytest.fixture
def scene(home: Path, background: Callable[..., Any], eventually: Callable[..., Any]) -> Iterator[Scene]:
    """A store of the test's own, and what is needed to put workers and commands on it and watch them."""
    with Queue() as queue:
        opened = Scene(home.parent, queue, background, eventually)
        yield opened
        opened.close()


@pytest.fixture
def slow_worker(scene: Scene) -> Iterator[Callable[[], Any]]:
    """Start a worker process alone, its lifeline a pipe, that looks at nothing by itself for a quarter of an hour.

    What it does sooner it was woken for.
    """
    scene.queue.set_setting("lease", "3600")
    code = (
        "import queuectl.worker as worker; worker.DEAF_TICK_S = worker.IDLE_TICK_S = 900.0; "
        "from queuectl.main import main; main()"
    )
    started: List[Any] = []

    def start() -> Any:
        words = [sys.executable, "-c", code, "worker", "run", "0", "alone", "1", "", ""]
        started.append(subprocess.Popen(words, stdin=subprocess.PIPE, bufsize=0))
        return started[-1]

    yield start
    for process in started:
        process.stdin.close()
        process.kill()
        process.wait()
