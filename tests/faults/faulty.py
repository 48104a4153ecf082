"""Faults at named steps (``queuectl/faults.py``), and looking at the processes that met them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Dict, Iterator, List, Optional

import pytest

#: A user that nobody else is.
STRANGER = 61234
SYSTEM_PYTHON = "/usr/bin/python3"


class Fault:
    """A signal that waits at a step for the first process that comes there with ``env`` in its environment.

    The step may be preceded by a command and a slash: ``worker run/renewing`` is for workers, not for supervisors.
    The step may be held back until ``let()``: a process that comes there earlier goes on.
    """

    def __init__(self, step: str, number: str, count: int, path: Path) -> None:
        self.step = step
        self._path = path
        self.env: Dict[str, Optional[str]] = {"QUEUECTL_FAULT": f"{step}:{count}:{number}@{path}"}

    @property
    def met(self) -> bool:
        """Whether some process has come to the step and got its signal, or gets it in this moment."""
        return self._path.exists()

    def let(self) -> None:
        """Have the signal wait from now on, if it was held back."""
        self._path.parent.mkdir()


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


def as_stranger(user: int = STRANGER) -> List[str]:
    """Return the words that run a Python as a user of this number, who may do nothing that root may; or skip the test.

    It is the system's Python: the one that runs the tests may lie where others may not look.
    """
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to become another user")
    words = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", "--", SYSTEM_PYTHON]
    if subprocess.run([*words, "-c", "import queuectl.db"], capture_output=True).returncode != 0:
        pytest.skip("another user cannot read this checkout, or the system has no Python")
    return words


def give_to_stranger(*paths: Path, user: int = STRANGER) -> None:
    """Make a stranger the owner of files and folders."""
    for path in paths:
        os.chown(path, user, user)


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Leave this process without a free descriptor for a while; whatever it imports in there it must have already."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: List[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 2, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
