"""A worker that was killed while it made a command: there is a process, and it is no program yet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from queuectl import recovery
from queuectl.runner import WORKER, identity
from tests.store.build import claim_ids, spec, worker

pytestmark = pytest.mark.posix("fork")

# Between fork and exec a process has its parent's environment, descriptors and name.
MAKER = """
import os, signal, sys
from queuectl.runner import identity
if sys.argv[1:]:
    identity.mark(sys.argv[1])
    identity.name_process("queuectl-0")
if os.fork() == 0:
    os.setsid()
    print(os.getpid(), flush=True)
    os.close(1)
    signal.pause()
sys.stdin.read()
"""


@pytest.fixture(
    params=[
        "started by exec",
        pytest.param(
            "forked", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has forked workers")
        ),
    ]
)
def maker(request):
    """A process like a worker, which has made another; yields both, and the pid of the second."""
    origin = identity.new_origin()
    words, env = ([origin], {}) if request.param == "forked" else ([], {WORKER: origin})
    process = subprocess.Popen(
        [sys.executable, "-c", MAKER, *words], env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    made = int(process.stdout.readline())
    started = identity.process_started(made)
    yield origin, process, made, started
    process.communicate()
    identity.send_signal(made, started, signal.SIGKILL)


def test_what_is_no_program_yet_is_ended_before_its_job_is_given_away(store, maker, eventually):
    """It would run beside the job's next run. It has no mark, and descends from nobody any more."""
    origin, process, made, started = maker
    store.register(
        worker(
            origin + "0001", host_id=identity.host_id(), pid=process.pid,
            pid_started=identity.process_started(process.pid), lease_expires_at=store.now() + 30,
        )
    )  # fmt: skip
    store.add([spec(), spec()])
    assert ["job1"] == claim_ids(store.claim(origin + "0001", 1))
    assert [] == [each for each in recovery.sweep(store) if each.job_id == "job1"]
    assert identity.is_running(made, started)

    process.communicate()
    lost = recovery.sweep(store)

    assert ["job1"] == [each.job_id for each in lost if each.job_id == "job1"]
    assert not identity.is_running(made, started)
    assert "pending" == store.get("job1").state


def test_what_another_worker_makes_is_left_alone(store, maker):
    """Only the dead one's was never begun."""
    _, process, made, started = maker
    dead = identity.new_origin() + "0001"
    store.register(
        worker(dead, host_id=identity.host_id(), pid=process.pid, pid_started="1", lease_expires_at=store.now() + 30)
    )
    store.add([spec()])
    store.claim(dead, 1)

    assert ["job1"] == [each.job_id for each in recovery.sweep(store)]
    assert identity.is_running(made, started)
