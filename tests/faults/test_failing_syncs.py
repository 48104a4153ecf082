"""A disk that takes what is written into its cache and fails to keep it: what was stored is not told as refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict

import pytest

from queuectl import Queue
from tests.conftest import Result
from tests.process.scene import Scene

pytestmark = [pytest.mark.posix, pytest.mark.skipif(sys.platform != "linux", reason="the library is made for Linux")]

SAID = (
    "queuectl: cannot write {}: Input/output error. The store has {} all the same, but a power cut may still "
    "lose it. Do not repeat this; check the disk.\n"
)


@pytest.fixture
def failing(tmp_path: Path) -> Dict[str, str]:
    """The environment of a process whose syncs fail."""
    return _preloaded(tmp_path)


def _preloaded(tmp_path: Path, *options: str) -> Dict[str, str]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the library that has syncs fail cannot be made")
    library = tmp_path / "sync_shim.so"
    source = Path(__file__).with_name("sync_shim.c")
    subprocess.run([compiler, *options, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return {"LD_PRELOAD": str(library)}


def test_an_enqueue_that_the_disk_does_not_take(
    scene: Scene, cli: Callable[..., Result], failing: Dict[str, str], tmp_path: Path
) -> None:
    """Exit code 1, but the jobs are named, are there once, and run: nobody is told to enqueue them again."""
    store = f"{scene.queue.store.location} to disk"
    three = tmp_path / "three"
    three.write_text("true\n" * 3)
    scene.queue.enqueue("true")  # so that there is a log: its beginning SQLite itself syncs, within the transaction

    one = cli("enqueue", "--", "true", env=failing)
    more = cli("enqueue", "--lines", "--file", str(three), env=failing)

    assert Result("", SAID.format(store, "job2"), 1) == one
    assert Result("", SAID.format(store, "3 jobs (job3 .. job5)"), 1) == more
    scene.drain()
    assert ["completed"] * 5 == [job.state for job in scene.queue.jobs()]


def test_a_ctrl_c_while_the_disk_syncs(scene: Scene, cli: Callable[..., Result], tmp_path: Path) -> None:
    """That is where an enqueue is when somebody loses patience; by then the job is stored, and that is said."""
    scene.queue.enqueue("true")

    result = cli("enqueue", "--", "true", env=_preloaded(tmp_path, "-DINTERRUPT"))

    assert Result("", "queuectl: interrupted. The store has job2 all the same.\n", 130) == result
    assert "job2" == scene.queue.get("job2").id


def test_a_change_that_the_disk_does_not_take(cli: Callable[..., Result], home: Path, failing: Dict[str, str]) -> None:
    """It stands, and that is said."""
    with Queue() as queue:
        queue.enqueue("true")

        result = cli("cancel", "job1", env=failing)

        assert Result("", SAID.format(f"{home / 'jobs.db'} to disk", "the change"), 1) == result
        assert "cancelled" == queue.get("job1").state
