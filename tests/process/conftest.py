"""The fixture of the process tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Iterator

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
