"""Run the test suite: ``python3 tools/test.py [PYTEST ARGUMENT ...]``.

Makes a virtual environment of its own first (see ``environment.py``) and runs in parallel unless told otherwise.

Where CI is set, what failed is run once more, one after the other, if it is little, and both answers are shown:
thousands of tests with processes, signals and disks of their own share a machine with each other and with others' work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import List

from environment import ROOT, python_with

MOST_PROCESSES = 10
# More failures than this are no accident.
MOST_AGAIN = 5


def main() -> int:
    """Run pytest with the arguments given and return its exit code."""
    arguments = sys.argv[1:]
    command = [python_with("test"), "-m", "pytest"]
    serial = any(argument in ("--pdb", "-s", "--collect-only", "--co") for argument in arguments)
    parallel = []
    if not serial and not any(argument.startswith("-n") for argument in arguments):
        # Two more than there are cores: many tests wait for something most of the time.
        parallel = [f"-n{min((os.cpu_count() or 1) + 2, MOST_PROCESSES)}", "--dist=worksteal"]
    if not (parallel and os.environ.get("CI")):
        return _run([*command, *parallel, *arguments])
    with tempfile.TemporaryDirectory() as cache:
        command += ["-o", f"cache_dir={cache}"]
        code = _run([*command, *parallel, *arguments])
        failed = _failed(cache) if code == 1 else []
        if not 0 < len(failed) <= MOST_AGAIN:
            return code
        print("\nFailed beside others, now once more alone:", *failed, sep="\n  ", flush=True)
        return _run([*command, "-n0", "--last-failed", *arguments])


def _run(command: List[str]) -> int:
    return subprocess.run(command, cwd=str(ROOT), check=False).returncode


def _failed(cache: str) -> List[str]:
    """Return the ids of the tests that failed, as pytest notes them."""
    try:
        with open(os.path.join(cache, "v", "cache", "lastfailed"), encoding="utf-8") as file:
            return sorted(json.load(file))
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main())
