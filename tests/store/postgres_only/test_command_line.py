"""The command line over PostgreSQL while the server is restarted under it."""

from __future__ import annotations

import signal
import time

import pytest

from queuectl.job import Outcome
from queuectl.queue import Queue
from tests.postgres_server import fresh_schema


@pytest.mark.slow
@pytest.mark.posix
def test_workers_outlive_restarts_of_the_server(frail_server, monkeypatch, background, eventually):
    """Commands go on, ends are handed in when it is back; no worker dies, no run is lost, none is done twice."""
    with fresh_schema(frail_server) as url:
        monkeypatch.setenv("QUEUECTL_DB", url)
        with Queue(url) as queue:
            ids = queue.enqueue_many([f"sleep 0.{number % 5}; echo {number}" for number in range(150)])
        with background("worker", "start", "--count", "2", "--concurrency", "4") as group:
            eventually(lambda: "completed" in group.out)
            for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGINT):
                time.sleep(1.0)
                frail_server.restart(how)
            with Queue(url) as queue:
                jobs = queue.wait_all(ids, 60)
                runs = [queue.runs(job_id) for job_id in ids]
                output = queue.output("job7")
        with Queue(url) as queue:
            problems = queue.check()

    assert {"completed"} == {job.state for job in jobs}
    assert {Outcome.COMPLETED} == {run[-1].state for run in runs}
    assert {Outcome.STOPPED} >= {ended.state for run in runs for ended in run[:-1]}
    assert ("died" in group.out, "lost" in group.out.replace("lost the connection", "")) == (False, False), group.out
    assert ([], b"6\n") == (problems, output)
