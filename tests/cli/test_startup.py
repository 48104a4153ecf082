"""Start-up is part of the design: what a command imports is counted, since a time would depend on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import List, Set

import pytest

# Each of these costs more than all of queuectl's own modules that an enqueue needs.
HEAVY = {"argparse", "asyncio", "ctypes", "json", "logging", "multiprocessing", "re", "shutil", "subprocess", "typing"}
ROOT = Path(__file__).resolve().parents[2]


def imported(words: List[str]) -> Set[str]:
    """Return the modules that are there after a command, and were not before it."""
    program = (
        "import sys; before = set(sys.modules); from queuectl.main import main; main(sys.argv[1:]);"
        "sys.stderr.write(' '.join(set(sys.modules) - before))"
    )
    # Into a pipe: NUL counts as a terminal on Windows, for which help is wrapped.
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, check=True)
    return set(done.stderr.decode().split())


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["-h"]])
def test_help_and_version_import_nothing(words: List[str]) -> None:
    """But the small table and the help's own modules: no store, no typing, no regular expressions."""
    modules = imported(words)

    heavy = modules & (HEAVY | {"sqlite3", "threading"})
    assert not heavy
    assert len(modules) < 12


@pytest.mark.parametrize(
    "words", [["enqueue", '{"command":"true"}'], ["enqueue", "--", "true"], ["enqueue", "-q", "--command", "a"]]
)
def test_an_enqueue_imports_only_what_it_needs(words: List[str]) -> None:
    """JSON is read by its C scanner; the package around it would bring regular expressions."""
    imported(words)  # the first one makes the store, which takes more

    modules = imported(words)

    heavy = modules & (HEAVY | {"contextlib", "importlib", "threading"})
    own = {name for name in modules if name.startswith("queuectl.")} & {
        "queuectl.job", "queuectl.worker", "queuectl.recovery", "queuectl.runner", "queuectl.render",
        "queuectl.supervisor",
    }  # fmt: skip
    assert (set(), set()) == (heavy, own)


@pytest.mark.posix("Windows's half waits for Ctrl-Break in a thread")
def test_a_job_without_tags_and_variables_is_shown_without_json() -> None:
    """It would only be read to find that there are none."""
    imported(["enqueue", "--", "true"])

    assert set() == imported(["show", "job1"]) & {"json", "re", "threading"}


def test_a_worker_starts_without_what_it_does_not_need() -> None:
    """Its record types come without typing, its arguments without JSON: together a third of its start."""
    program = "import sys; import queuectl.worker_main, queuectl.db.sqlite; print(*sys.modules)"

    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, check=True, cwd=ROOT)

    # The Windows half needs these two.
    assert set() == set(done.stdout.decode().split()) & (HEAVY - {"ctypes", "subprocess"})


def test_a_command_imports_its_own_module_alone() -> None:
    """Not those of its neighbours."""
    modules = imported(["config", "get", "timeout"])

    assert "queuectl.cli_commands.settings" in modules
    assert not modules & {f"queuectl.cli_commands.{name}" for name in ("enqueue", "jobs", "workers", "doctor", "demo")}
