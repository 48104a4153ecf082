"""queuectl as an installer leaves it: among the packages of an environment, behind the standard library on the path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Callable

import pytest

from tests.conftest import PACKAGE_PARENT, said_by

SCRIPT = "import sys\nfrom queuectl.main import main\nsys.exit(main(sys.argv[1:]))\n"


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the script of an environment that has queuectl; no checkout is on the path, nor in the current directory."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    environment = home.parent / "environment"
    venv.create(str(environment), with_pip=False, symlinks=os.name != "nt")
    folder = environment / ("Scripts" if os.name == "nt" else "bin")
    python = str(folder / ("python.exe" if os.name == "nt" else "python"))
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(asked, stdout=subprocess.PIPE, check=True).stdout.decode().strip()
    shutil.copytree(str(Path(PACKAGE_PARENT, "queuectl")), str(Path(packages, "queuectl")))
    script = folder / "queuectl-script.py"
    script.write_text(SCRIPT)

    def call(*words: str) -> str:
        return said_by([python, str(script), *words], home.parent)

    return call


def test_daemons_and_their_workers_start(run: Callable[..., str]) -> None:
    """Each is started by the one before: the script starts a supervisor, and that its workers."""
    run("enqueue", "--", sys.executable, "-c", "print('it ran')")
    started = run("worker", "start", "--count", "2", "--daemon")
    try:
        run("wait", "job1", "--timeout", "30")
    finally:
        run("worker", "stop")

    assert 2 == started.count("Started worker pid=")
    assert "it ran" in run("logs", "job1")


def test_a_module_in_a_directory_of_jobs_is_not_taken(run: Callable[..., str]) -> None:
    """A file in its directory that is called like a module of the standard library is none of theirs."""
    run("enqueue", "--", sys.executable, "-c", "open('json.py', 'w').write('1 / 0')")

    run("worker", "start", "--drain")
    run("enqueue", "--", sys.executable, "-S", "-c", "print('again')")
    run("worker", "start", "--drain")

    assert "again" in run("logs", "job2")
