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
    """Return ``fault(step, number="KILL", count=1)``: what the first process that comes to *step* meets there."""
    made: List[Fault] = []

    def make(step: str, number: str = "KILL", count: int = 1) -> Fault:
        made.append(Fault(step, number, count, home.parent / f"met-{len(made)}"))
        return made[-1]

    return make
