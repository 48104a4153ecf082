"""``queuectl cancel``: a waiting job at once, a running one within seconds."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from queuectl.main import main
from queuectl.queue import Queue
from tests.store.build import worker


def test_waiting_jobs(cli: Callable[..., Any], add: Callable[..., str], job: Callable[[str], Dict[str, Any]]) -> None:
    """A line for each, in the order of the command line; twice the same id is once."""
    add("true")
    add("true")

    assert ("Cancelled job2\nCancelled job1\n", "", 0) == cli("cancel", "job2", "job1", "job2")
    assert ("cancelled", "cancelled while it waited") == (job("job1")["state"], job("job1")["reason"])


def test_a_running_job(
    cli: Callable[..., Any], add: Callable[..., str], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """The command returns when its processes are gone."""
    add("sleep 60 & sleep 60")
    with worker() as group:
        eventually(lambda: "picked job job1" in group.out)

        assert ("Cancelled job1\n", "", 0) == cli("cancel", "job1")
        eventually(lambda: "[worker 0] job job1 cancelled" in group.out)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the process in /proc")
def test_a_job_whose_worker_is_dead(
    cli: Callable[..., Any], add: Callable[..., str], background: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """With no worker alive, the command itself ends what the dead one left running."""
    add("echo $$ > pid; exec sleep 60")
    group = background("worker", "start")
    pid = eventually(lambda: Path("pid").exists() and Path("pid").read_text().strip())
    group.send(signal.SIGKILL, group=True)
    group.wait()

    assert ("Cancelled job1\n", "", 0) == cli("cancel", "job1")
    command_line = Path(f"/proc/{pid}/cmdline")  # empty for one that has ended and nobody has waited for
    assert not command_line.exists() or command_line.read_bytes() == b""


def test_all_or_none(cli: Callable[..., Any], add: Callable[..., str], jobs: Callable[..., List[Any]]) -> None:
    """An id that cannot be cancelled leaves the others as they were."""
    add("true")
    add("true")
    cli("cancel", "job2", code=0)

    assert cli("cancel", "job1", "job2") == (
        "", "queuectl: cannot cancel job2: it is cancelled, not pending, processing or failed.\n", 1,
    )  # fmt: skip
    assert cli("cancel", "job1", "job9") == ("", "queuectl: Job not found: job9. 'queuectl list' shows the ids.\n", 1)
    assert ["pending", "cancelled"] == [found["state"] for found in jobs()]


def test_by_filter(cli: Callable[..., Any], add: Callable[..., str], jobs: Callable[..., List[Any]]) -> None:
    """All that match and wait or run; none is no error."""
    add("true", "--queue", "mail")
    add("true", "--tag", "a", "--delay", "1h")
    add("true")

    assert ("Cancelled 1 job\n", "", 0) == cli("cancel", "--queue", "mail")
    assert ("No jobs to cancel.\n", "", 0) == cli("cancel", "--state", "failed")
    assert {"cancelled": 1} == json.loads(cli("cancel", "--json", "--tag", "a").out)
    assert ("1\n", "", 0) == cli("cancel", "-q", "--state", "pending", "--state", "failed")
    assert {"cancelled"} == {found["state"] for found in jobs()}


def test_running_jobs_by_filter(
    cli: Callable[..., Any], add: Callable[..., str], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """The command returns when the processes of those that ran are gone; all are in the number."""
    for _ in range(4):
        add("sleep 60 & sleep 60")
    with worker("--concurrency", "2") as group:
        eventually(lambda: group.out.count("picked job") == 2)

        assert ("Cancelled 4 jobs\n", "", 0) == cli("cancel", "--queue", "default")
        eventually(lambda: group.out.count("cancelled") == 2)


@pytest.mark.parametrize("words", [[], ["job1", "--state", "pending"], ["--state", "pendig"], ["--all"]])
def test_ids_or_filters(cli: Callable[..., Any], words: List[str]) -> None:
    """One of the two."""
    assert cli("cancel", *words).code == 2


def test_a_state_that_cannot_be_cancelled_is_refused(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """Not "No jobs to cancel": what has ended never can be."""
    add("true")

    result = cli("cancel", "--state", "pending", "--state", "dead")

    told = "cancel takes jobs that wait or run (pending, processing, failed), not dead ones."
    assert result == ("", f"queuectl: {told}\n", 2)


def test_quiet_and_json(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """Nothing was asked for; or the jobs as they are now."""
    add("true")
    add("true")

    assert ("", "", 0) == cli("cancel", "-q", "job1")
    assert ["cancelled"] == [found["state"] for found in json.loads(cli("cancel", "--json", "job2").out)]
    assert cli("cancel").code == 2


@pytest.mark.parametrize(
    ("commits", "told"), [(True, " The workers still end job1. 'queuectl retry' undoes a cancel."), (False, "")]
)
def test_a_ctrl_c_behind_the_commit_says_what_goes_on(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], commits: bool, told: str
) -> None:
    """The worker has seen the order, though the call had not returned yet; one that comes sooner changes nothing."""
    with Queue() as queue:
        queue.store.register(worker("w1"))
        queue.enqueue_many(["true", "true"])
        queue.store.claim("w1", 1)
    verb = Queue.cancel

    def cancel(self: Queue, *job_ids: str) -> None:
        if commits:
            verb(self, *job_ids)
        raise KeyboardInterrupt

    monkeypatch.setattr(Queue, "cancel", cancel)

    assert 130 == main(["cancel", "job1", "job2"])
    assert f"queuectl: interrupted.{told}\n" == capsys.readouterr().err
