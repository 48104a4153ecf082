"""Faults at named steps (``queuectl/faults.py``), and looking at the processes that met them."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Optional


class Fault:
    """A signal that waits at a step for the first process that comes there with ``env`` in its environment.

    The step may be preceded by a command and a slash: ``worker run/renewing`` is for workers, not for supervisors.
    """

    def __init__(self, step: str, number: str, count: int, path: Path) -> None:
        self.step = step
        self._path = path
        self.env: Dict[str, Optional[str]] = {"QUEUECTL_FAULT": f"{step}:{count}:{number}@{path}"}

    @property
    def met(self) -> bool:
        """Whether some process has come to the step and got its signal, or gets it in this moment."""
        return self._path.exists()


def state_of(pid: int) -> str:
    """Return the letter that /proc has for a process: R, S, D, T (stopped), Z; nothing if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return ""


def stopped(pids: List[int]) -> List[int]:
    """Return those of *pids* that are stopped by a signal."""
    return [pid for pid in pids if state_of(pid) == "T"]
