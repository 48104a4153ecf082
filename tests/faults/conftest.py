"""Fixtures of the fault tests: the scene of the process tests, and faults to put into it."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List

import pytest

from tests.faults.faulty import Fault
from tests.process.conftest import scene, slow_worker

__all__ = ["fault", "scene", "slow_worker"]


@pytest.fixture
def fault(home: Path) -> Callable[..., Fault]:
    """Return ``fault(step, number="KILL", count=1)``: what the first process that comes to *step* meets there.

    With ``held=True`` only from its ``let()`` on.
    """
    made: List[Fault] = []

    def make(step: str, number: str = "KILL", count: int = 1, held: bool = False) -> Fault:
        folder = home.parent / f"from-{len(made)}" if held else home.parent
        made.append(Fault(step, number, count, folder / f"met-{len(made)}"))
        return made[-1]

    return make
