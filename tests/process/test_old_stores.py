"""Stores that released versions wrote open for ever: what was in them is shown as it was, and goes on.

``tests/data/make_store.py`` makes one; what a version wrote and said about it is never changed afterwards.
"""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from queuectl import Queue
from queuectl.job import STATES
from tests import oracle

DATA = Path(__file__).resolve().parent.parent / "data"
STORES = sorted(DATA.glob("store-*.db"))

pytestmark = pytest.mark.posix("its commands are for sh")


@pytest.fixture(params=STORES, ids=lambda path: path.stem)
def told(request: pytest.FixtureRequest, home: Path) -> Dict[str, Any]:
    """Put an old store into the home; return what its version said about it."""
    home.mkdir(mode=0o700)
    shutil.copyfile(request.param, home / "jobs.db")
    (home / "jobs.db").chmod(0o600)
    return json.loads(request.param.with_suffix(".json").read_text(encoding="ascii"))


def test_there_is_one_and_it_is_small_and_has_every_state() -> None:
    """One file without a log beside it, of less than 200 KiB; a job in each state, a run with each end."""
    assert STORES
    for path in STORES:
        assert path.stat().st_size < 200 * 1024
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as db:
            assert set(STATES) == {state for (state,) in db.execute("SELECT DISTINCT state FROM jobs")}
            ends = {state for (state,) in db.execute("SELECT DISTINCT state FROM runs")}
            assert ends >= {"completed", "failed", "timed_out", "lost", "cancelled", "running"}
            assert ("ok",) == db.execute("PRAGMA integrity_check").fetchone()


def test_it_says_what_it_said(told: Dict[str, Any], cli: Callable[..., Any]) -> None:
    """Every field of every job and run, every byte of output, settings and queues; new fields may be there too."""
    listed = [job["id"] for job in json.loads(cli("list", "--json", code=0).out)]
    shown = [json.loads(cli("show", job["id"], "--json", code=0).out) for job in told["jobs"]]
    with Queue() as queue:
        assert [] == [problem.what for problem in queue.check()]
        settings = queue.store.settings()
        for job in told["jobs"]:
            for run in job["runs"]:
                expected = base64.b64decode(told["output"][str(run["run_id"])])
                assert expected == queue.output(job["id"], run["number"]), (job["id"], run)

    assert [job["id"] for job in told["jobs"]] == listed
    for before, now in zip(told["jobs"], shown):
        runs = [{key: new[key] for key in old} for old, new in zip(before["runs"], now["runs"])]
        assert {**before, "runs": runs} == {**{key: now[key] for key in before}, "runs": before["runs"]}
    assert told["settings"] == {key: settings[key] for key in told["settings"]}
    for before, now in zip(told["queues"], json.loads(cli("queue", "list", "--json", code=0).out)):
        assert before == {key: now[key] for key in before}


def test_it_goes_on(told: Dict[str, Any], cli: Callable[..., Any]) -> None:
    """What waited runs, what was processing is recovered, what was dead can be retried; then nothing is wrong."""
    new = cli("enqueue", "-q", "--", "true", code=0).out.strip()
    assert new not in [job["id"] for job in told["jobs"]]
    assert 1 == cli("enqueue", '{"command":"true","id":"pending"}').code
    cli("queue", "resume", "paused", code=0)
    cli("edit", "pending-scheduled", "run_at=2020-01-01T00:00:00Z", code=0)
    cli("retry", "failed-waits", code=0)
    cli("edit", "failed-waits", "command=true", code=0)
    cli("dlq", "retry", "dead-lost", code=0)
    cli("edit", "dead-lost", "command=echo now", code=0)
    held = [job["id"] for job in told["jobs"] if job.get("held")]
    if held:  # by one that is dead, among others
        cli("edit", "pending-after", "after=pending-scheduled", "delay=0", code=0)

    cli("worker", "start", "--drain", code=0)

    with Queue() as queue:
        states = {job.id: job.state for job in queue.jobs()}
        runs = {job_id: [run.state for run in queue.runs(job_id)] for job_id in states}
        run_ids = [run.run_id for job_id in states for run in queue.runs(job_id)]
        problems = oracle.problems(queue.store, gapless=False)
    before = {job["id"]: job["state"] for job in told["jobs"]}
    moved = ("pending", "pending-scheduled", "pending-paused", "failed-waits", "dead-lost", "processing", new, *held)
    expected = {**before, **dict.fromkeys(moved, "completed"), "job2": "completed"}
    assert (expected, []) == (states, problems)
    assert ["lost", "completed"] == runs["processing"]
    assert ["lost", "lost", "completed"] == runs["dead-lost"]
    assert len(run_ids) == len(set(run_ids))
    cli("doctor", code=0)
