"""Run the test suite: ``python3 tools/test.py [PYTEST ARGUMENT ...]``.

Makes a virtual environment of its own first (see ``environment.py``) and runs in parallel unless told otherwise.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Dict

from environment import FOLDER, ROOT, python_with

MOST_PROCESSES = 10


def environment() -> Dict[str, str]:
    """Return this process's environment, where it forbids bytecode with a place for it beside the virtual ones.

    The tests start more than ten thousand processes of queuectl: each takes three times as long if it compiles all.
    """
    found = dict(os.environ)
    if found.pop("PYTHONDONTWRITEBYTECODE", None):
        found["PYTHONPYCACHEPREFIX"] = str(FOLDER / "bytecode")
    return found


def main() -> int:
    """Run pytest with the arguments given and return its exit code."""
    arguments = sys.argv[1:]
    command = [python_with("test"), "-m", "pytest"]
    serial = any(argument in ("--pdb", "-s", "--collect-only", "--co") for argument in arguments)
    if not serial:
        if not any(argument.startswith("-n") for argument in arguments):
            # Three for each core: many tests wait for something most of the time.
            command.append(f"-n{min(3 * (os.cpu_count() or 1), MOST_PROCESSES)}")
        command.append("--dist=worksteal")  # the order in conftest.py is made for it
    return subprocess.run([*command, *arguments], cwd=str(ROOT), env=environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
