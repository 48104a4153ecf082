"""What one host sees of another's workers, and does to them: listing, following, cancelling, stopping.

The other host is a pid and uts namespace with a name of its own: no pid of it means anything here, no signal
and no bell crosses, so that whatever works does so through the store.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from queuectl import Queue
from queuectl.db.rules import PLENTY
from queuectl.runner.identity import host_name
from tests import oracle
from tests.conftest import Background, Result
from tests.process.scene import seconds_of_its_own, sleeping
from tests.store.engines import ENGINES

APART = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts")
HELD = "echo begun; until [ -e go ]; do sleep 0.1; done; echo over"
Cli = Callable[..., Result]


def why_not() -> str:
    """Return why there can be no second host here; empty if there can."""
    if sys.platform != "linux" or not shutil.which("unshare"):
        return "a second host is made with Linux's namespaces"
    done = subprocess.run([*APART, "hostname", "there"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode else ""


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(params=sorted(ENGINES), autouse=True)
def queue(request: Any, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    """The store that both hosts use; on SQLite two containers that share a directory."""
    with ENGINES[request.param](tmp_path) as location:
        monkeypatch.setenv("QUEUECTL_DB", location)
        with Queue() as queue:
            yield queue


@pytest.fixture
def there(queue: Queue, tmp_path: Path, eventually: Callable[..., Any]) -> Iterator[Callable[..., Background]]:
    """Start ``worker start WORD ...`` on another host of this name; it must have ended when the test does."""
    with contextlib.ExitStack() as stack:

        def start(name: str, *words: str, count: int = 1) -> Background:
            folder = tmp_path / f"host-{name}"
            folder.mkdir()
            script = 'hostname "$0"; exec "$@"'
            command = [sys.executable, "-m", "queuectl", "worker", "start", "--count", str(count), *words]
            group = _Group(folder, [*APART, "sh", "-c", script, name, *command])
            stack.callback(group.end)
            eventually(lambda: sum(worker.host == name for worker in queue.workers()) == count, timeout=30)
            return group

        yield start


class _Group(Background):
    """A group of workers on another host."""

    def __init__(self, folder: Path, command: List[str]) -> None:
        self.words = command
        self._out_path, self._err_path = folder / "out", folder / "err"
        with open(str(self._out_path), "wb") as out, open(str(self._err_path), "wb") as err:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        self.pid = self.process.pid

    def end(self) -> None:
        self.process.kill()  # and with it the whole namespace
        self.process.wait()


def picked(group: Background, eventually: Callable[..., Any]) -> None:
    eventually(lambda: "begun" in group.out, timeout=30)


def test_all_of_it_is_seen_from_here(
    queue: Queue, there: Callable[..., Background], cli: Cli, eventually: Callable[..., Any]
) -> None:
    """``worker list``, ``status``, ``show`` and ``explain`` tell host, job and run of a worker elsewhere."""
    job_id = queue.enqueue(HELD).id
    group = there("web2")
    picked(group, eventually)

    (listed,) = json.loads(cli("worker", "list", "--json", code=0).out)
    status = cli("status", code=0)
    counted = json.loads(cli("status", "--json", code=0).out)
    shown = json.loads(cli("show", job_id, "--json", code=0).out)
    table = cli("worker", "list", "--table", code=0).out
    explained = cli("explain", job_id, code=0).out

    assert ("web2", [job_id]) == (listed["host"], [job["id"] for job in listed["jobs"]])
    assert f" on web2: {job_id} since " in status.out
    assert (1, ["web2"]) == (counted["jobs"]["processing"], [worker["host"] for worker in counted["workers"]])
    assert ("processing", "web2", "running") == (shown["state"], shown["runs"][0]["host"], shown["runs"][0]["state"])
    assert "web2" in table
    assert "web2" in explained
    Path("go").touch()
    queue.wait(job_id, 20)
    cli("worker", "stop", "--all-hosts", code=0)
    assert 0 == group.wait().code


def test_logs_follow_a_run_on_another_host(
    queue: Queue, there: Callable[..., Background], background: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """What is printed there shows here while the job runs, and the following ends with it."""
    job_id = queue.enqueue(HELD).id
    there("web2")

    follower = background("logs", "-f", job_id)
    eventually(lambda: follower.out == "begun\n", timeout=30)
    assert follower.running
    Path("go").touch()
    done = follower.wait()

    assert ("begun\nover\n", 0) == (done.out, done.code)


def test_cancel_ends_a_run_on_another_host(
    queue: Queue, there: Callable[..., Background], cli: Cli, eventually: Callable[..., Any]
) -> None:
    """Its tree is gone, the worker goes on."""
    seconds = seconds_of_its_own()
    job_id = queue.enqueue(f"echo begun; sleep {seconds} & sleep {seconds}").id
    group = there("web2")
    picked(group, eventually)
    eventually(lambda: len(sleeping(seconds)) == 2)

    done = cli("cancel", job_id, code=0)

    assert f"Cancelled {job_id}\n" == done.out
    eventually(lambda: queue.get(job_id).state == "cancelled")
    assert [] == sleeping(seconds)
    assert "completed" == queue.wait(queue.enqueue("true").id, 20).state


def test_stop_is_for_one_host_unless_told_otherwise(
    queue: Queue, there: Callable[..., Background], background: Callable[..., Any], cli: Cli, eventually: Any
) -> None:
    """Without options only this host's go; ``--host`` names another; ``--all-hosts`` stops the rest."""
    groups = {name: there(name, count=2) for name in ("web2", "web3")}
    here = background("worker", "start")
    eventually(lambda: len(queue.workers()) == 5, timeout=30)

    only_here = cli("worker", "stop", code=0)
    assert 0 == here.wait().code
    nobody = cli("worker", "stop", "--host", "web9", code=0)
    one = cli("worker", "stop", "--host", "web2", "-v", code=0)
    assert 0 == groups["web2"].wait().code
    assert {"web3"} == {worker.host for worker in queue.store.workers()}
    rest = cli("worker", "stop", "--all-hosts", "--json", code=0)
    assert 0 == groups["web3"].wait().code
    again = cli("worker", "stop", "--all-hosts")

    assert "Stopped 1 worker.\n" == only_here.out
    assert (
        "queuectl: 4 workers on other hosts keep running. 'queuectl worker stop --all-hosts' stops them too.\n"
        == only_here.err
    )
    assert "No workers are running on web9.\n" == nobody.out
    assert "queuectl: 4 workers on web2, web3 keep running.\n" == nobody.err
    assert "Stopped 2 workers.\n" == one.out
    assert " on web2, to finish its jobs and stop." in one.err
    assert {"stopped": 2, "left": []} == json.loads(rest.out)
    assert ("No workers are running.\n", "", 0) == again
    assert [] == queue.store.workers()


def test_stop_waits_for_the_jobs_there(
    queue: Queue, there: Callable[..., Background], cli: Cli, eventually: Callable[..., Any]
) -> None:
    """A timeout says who is left and on which host; ``--now`` puts the job back at no cost of a retry."""
    job_id = queue.enqueue(HELD).id
    group = there("web2")
    picked(group, eventually)

    slow = cli("worker", "stop", "--host", "web2", "--timeout", "0.5")
    assert "processing" == queue.get(job_id).state
    quick = cli("worker", "stop", "--host", "web2", "--now", code=0)

    assert 1 == slow.code
    assert "queuectl: still running after 0.5 s: pid " in slow.err
    assert " on web2" in slow.err
    assert "Stopped 1 worker.\n" == quick.out
    job = queue.get(job_id)
    assert ("pending", 0, ["stopped"]) == (job.state, job.failures, [run.state for run in queue.runs(job_id)])
    assert 0 == group.wait().code


def test_stop_does_not_wait_for_ever_for_a_host_that_is_gone(
    queue: Queue, there: Callable[..., Background], cli: Cli, eventually: Callable[..., Any]
) -> None:
    """When its lease has been given away it is gone, and its jobs are pending again."""
    queue.set_setting("lease", "2")
    job_id = queue.enqueue(HELD).id
    group = there("web2")
    picked(group, eventually)
    group.end()

    cli("worker", "stop", "--all-hosts", code=0)

    assert ("pending", 1) == (queue.get(job_id).state, queue.get(job_id).losses)
    assert [] == queue.store.workers()


def test_a_row_goes_on_without_the_host_that_died_in_it(
    queue: Queue,
    there: Callable[..., Background],
    background: Callable[..., Any],
    eventually: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Its folder is there: what had ended stands, what was held has not begun, and one run at most is lost."""
    queue.set_setting("lease", "2")
    ids = queue.enqueue_many(["echo $QUEUECTL_JOB_ID >> begun"] * (15 * PLENTY + 200))
    met = tmp_path / "met"
    monkeypatch.setenv("QUEUECTL_FAULT", f"worker run/noted:3:STOP@{met}")
    group = there("web2")
    monkeypatch.delenv("QUEUECTL_FAULT")
    eventually(met.exists, timeout=30)
    group.end()

    assert 0 == background("worker", "start", "--drain").wait(timeout=60).code

    runs = [[run.state for run in queue.runs(job_id)] for job_id in ids]
    assert len(runs) - 1 <= runs.count(["completed"])
    assert {"completed"} == {states[-1] for states in runs}
    assert len(Path("begun").read_text().split()) <= len(ids) + 1
    assert [] == oracle.problems(queue.store)


def test_reset_stops_the_workers_of_all_hosts(queue: Queue, there: Callable[..., Background], cli: Cli) -> None:
    """As its question says."""
    queue.enqueue(HELD)
    group = there("web2")

    assert "Queue reset.\n" == cli("reset", "--yes", code=0).out

    assert 0 == group.wait().code
    assert [] == list(queue.jobs())


def test_hosts_are_completed(queue: Queue, there: Callable[..., Background], cli: Cli) -> None:
    """``--host`` offers the hosts that have workers."""
    there("web2", count=2)

    offered = cli("__complete", "--", "worker", "stop", "--host", "+we", code=0).out

    assert "web2\t2 workers\n" == offered
    assert host_name() != "web2"
    assert not os.path.exists("go")
