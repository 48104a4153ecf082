"""``queuectl worker``: what the commands print; how workers behave is tested in ``tests/process``."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import Any, Callable, List

import pytest


def test_foreground_lines(
    background: Callable[..., Any], add: Callable[..., str], eventually: Callable[..., Any]
) -> None:
    """As the README shows them, each at once, with the command's output between."""
    add("echo hello")
    with background("worker", "start") as group:
        eventually(lambda: "completed" in group.out)
        assert re.fullmatch(
            r"\[worker 0\] pid=\d+ started\n"
            r"\[worker 0\] picked job job1: echo hello\n"
            r"hello\n"
            r"\[worker 0\] job job1 completed\n",
            group.out,
        )
        result = group.stop()

    assert result.code == 0
    assert result.out.endswith("[worker 0] received stop signal, will exit after current job\n[worker 0] exiting\n")


@pytest.mark.posix
def test_daemon_lines_list_and_stop(cli: Callable[..., Any], home: Any) -> None:
    """The daemon returns once its workers live; ``stop`` once they are gone."""
    started = cli("worker", "start", "--count", "3", "--daemon", code=0).out
    listed = json.loads(cli("worker", "list", "--json", code=0).out)
    lines = cli("worker", "list", code=0).out.splitlines()
    table = cli("worker", "list", "--table", code=0).out.splitlines()
    pids = json.loads((home / "pids.json").read_text())["pids"]
    stopped = cli("worker", "stop")

    assert re.fullmatch(r"(Started worker pid=\d+\n){3}Saved PIDs to ~/\.queuectl/pids\.json\n", started)
    assert [0, 1, 2] == [found["number"] for found in listed]
    assert sorted(pids) == sorted(found["pid"] for found in listed)
    assert listed == [json.loads(line) for line in lines]
    assert ["WORKER", "PID", "HOST", "QUEUES", "SLOTS", "SINCE", "JOBS"] == table[0].split()
    assert [str(found["pid"]) for found in listed] == [row.split()[1] for row in table[1:]]
    assert ("Stopped 3 workers.\n", "", 0) == stopped


def test_nobody_to_stop(cli: Callable[..., Any]) -> None:
    """Is no error."""
    assert ("No workers are running.\n", "", 0) == cli("worker", "stop")
    assert {"stopped": 0, "left": []} == json.loads(cli("worker", "stop", "--json").out)
    assert ("[]\n", "", 0) == cli("worker", "list", "--json")
    assert ("", "", 0) == cli("worker", "list")


@pytest.mark.posix
def test_a_supervisor_whose_worker_has_just_died(
    cli: Callable[..., Any], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """Is stopped, and the answer is not that nobody was running."""
    with worker() as group:
        pid = int(cli("worker", "list", "-q", code=0).out)
        group.send(signal.SIGSTOP)  # so that it does not start another one
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: cli("worker", "list", "-q").out == "")
        stopped = cli("worker", "stop")

        assert ("Stopped 1 supervisor without a live worker.\n", "", 0) == stopped
        assert 0 == group.wait().code


@pytest.mark.posix
def test_again_is_said_of_the_second_signal_alone(
    cli: Callable[..., Any], add: Callable[..., str], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """``worker stop --now`` may be the first that a worker hears."""
    add("sleep 60")
    with worker() as group:
        eventually(lambda: "picked job job1" in group.out)
        cli("worker", "stop", "--now", code=0)
        first = group.wait().out
    with worker() as group:
        eventually(lambda: "picked job job1" in group.out)
        group.send(signal.SIGTERM)
        eventually(lambda: "will exit after current job" in group.out)
        cli("worker", "stop", "--now", code=0)
        second = group.wait().out

    assert "[worker 0] received stop signal, ending current job\n" in first
    assert "[worker 0] received stop signal again, ending current job\n" in second


@pytest.mark.posix
def test_a_timeout_says_who_is_left(
    cli: Callable[..., Any], add: Callable[..., str], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """The worker, not its supervisor too; exit code 1. ``--now`` ends the job and puts it back."""
    add("sleep 60")
    with worker() as group:
        eventually(lambda: "picked job job1" in group.out)
        slow = cli("worker", "stop", "--timeout", "0.3")
        quick = cli("worker", "stop", "--now")

    assert (slow.out, slow.code) == ("", 1)
    assert re.match(r"queuectl: still running after 0\.3 s: pid \d+\. 'queuectl worker stop --now'", slow.err)
    assert ("Stopped 1 worker.\n", "", 0) == quick
    assert "pending" in cli("list").out


@pytest.mark.parametrize(
    "words",
    [
        ["start", "--count", "0"],
        ["start", "--count", "-1"],
        ["start", "--count", "x"],
        ["start", "--count", "100000"],
        ["start", "--concurrency", "0"],
        ["start", "--queue", "a b"],
        ["start", "job1"],
        ["stop", "--timeout", "soon"],
        ["restart"],
        [],
    ],
)
def test_wrong_usage(cli: Callable[..., Any], words: List[str], home: Any) -> None:
    """Nothing is started, no store is made."""
    assert cli("worker", *words).code == 2
    assert not home.exists()
