"""``queuectl.pyz``: the program as one file finds itself, its migrations and its workers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.conftest import PACKAGE_PARENT, said_by

sys.path.insert(0, str(Path(PACKAGE_PARENT, "tools")))
pyz = pytest.importorskip("pyz", reason="tools/ is not beside the package: an installed queuectl is under test")


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Build the file beside the home and run it by its relative name, where nothing else of queuectl is to be found."""
    pyz.build_pyz(home.parent / "queuectl.pyz")
    monkeypatch.delenv("PYTHONPATH")

    def call(*words: str, cwd: Path = home.parent) -> str:
        name = os.path.relpath(str(home.parent / "queuectl.pyz"), str(cwd))
        # -I: neither the current directory nor what is installed in the user's home is on the path.
        return said_by([sys.executable, "-I", name, *words], cwd)

    return call


def test_two_builds_have_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the dates and modes of the sources."""
    copy = tmp_path / "copy"
    for name in pyz.package_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(Path(PACKAGE_PARENT, name).read_bytes())
        os.utime(str(copy / name), (1, 1))
        (copy / name).chmod(0o700)

    pyz.build_pyz(tmp_path / "one.pyz")
    pyz.build_pyz(tmp_path / "two.pyz", copy)

    assert (tmp_path / "one.pyz").read_bytes() == (tmp_path / "two.pyz").read_bytes()


@pytest.mark.slow
def test_the_demo_runs_from_the_one_file(run: Callable[..., str], home: Path) -> None:
    """In an empty directory, which it leaves empty."""
    empty = home.parent / "empty"
    empty.mkdir()

    assert "All figures are fine." in run("demo", cwd=empty)
    assert [] == list(empty.iterdir())


def test_workers_come_from_the_file_wherever_their_jobs_are(run: Callable[..., str], home: Path) -> None:
    """It was named by a relative path; the daemon and its workers leave that directory."""
    away = home.parent / "away"
    away.mkdir()
    run("enqueue", "--cwd", str(away), "--", sys.executable, "-c", "import os; print(os.getcwd())")

    started = run("worker", "start", "--count", "2", "--daemon", cwd=away)
    try:
        run("wait", "job1", "--timeout", "30")
    finally:
        run("worker", "stop")

    assert 2 == started.count("Started worker pid=")
    assert "away" in run("logs", "job1")


def test_the_service_runs_the_file(run: Callable[..., str], home: Path) -> None:
    """By its absolute path."""
    if not sys.platform.startswith("linux"):
        pytest.skip("systemd is Linux's service manager")

    assert f"{home.parent / 'queuectl.pyz'} worker start" in run("service", "show")


def test_every_command_is_in_the_file(run: Callable[..., Any]) -> None:
    """The help of each is made from its own module."""
    assert "worker start" in run("help")
    assert "queuectl doctor" in run("help", "doctor")
    assert run("--version").startswith("queuectl ")
