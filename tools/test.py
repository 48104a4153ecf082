"""Run the test suite: ``python3 tools/test.py [PYTEST ARGUMENT ...]``.

Makes a virtual environment of its own first (see ``environment.py``) and runs in parallel unless told otherwise.
"""

from __future__ import annotations

import os
import subprocess
import sys

from environment import ROOT, python_with

MOST_PROCESSES = 10


def main() -> int:
    """Run pytest with the arguments given and return its exit code."""
    arguments = sys.argv[1:]
    command = [python_with("test"), "-m", "pytest"]
    serial = any(argument in ("--pdb", "-s", "--collect-only", "--co") for argument in arguments)
    if not serial and not any(argument.startswith("-n") for argument in arguments):
        # Two more than there are cores: many tests wait for something most of the time.
        command += [f"-n{min((os.cpu_count() or 1) + 2, MOST_PROCESSES)}", "--dist=worksteal"]
    return subprocess.run([*command, *arguments], cwd=str(ROOT), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
