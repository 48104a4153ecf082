"""A short rampage, and that it would notice: the whole thing is ``make soak``."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from tests.faults.rampage import DEEDS, WITNESS, Plan, rage
from tests.process.scene import Scene

pytestmark = pytest.mark.posix


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.limit(300)
def test_nothing_is_lost_doubled_or_stuck(home: Path) -> None:
    """Half a minute of killing and pausing everybody; deeds follow each other more quickly than in the long one."""
    plan = Plan(
        jobs=400, lasts_s=25.0, least_deeds=10, every_s=(0.3, 1.2), pauses_s=(0.1, 6.0), lease_s=2.0,
        patience_s=180.0, seed=7,
    )  # fmt: skip

    figures = rage(home.parent, plan)

    assert [] == figures["problems"], figures
    assert ("ok", 0, 0) == (figures["integrity"], figures["stuck"], figures["stale accepted"])
    assert figures["acknowledged"] <= figures["jobs"] == sum(figures["jobs by state"].values())
    assert figures["acknowledged"] >= plan.jobs
    assert figures["deeds"] == sum(figures.get(deed, 0) for deed in DEEDS) >= plan.least_deeds


def test_the_witness_sees_a_second_end(scene: Scene) -> None:
    """An end that is written over another one is what a stale result would be."""
    job_id = scene.queue.enqueue("true").id
    with contextlib.closing(sqlite3.connect(scene.queue.store.location)) as db:
        db.executescript(WITNESS)
    scene.drain()
    with contextlib.closing(sqlite3.connect(scene.queue.store.location)) as db:
        assert [] == db.execute("SELECT * FROM witness").fetchall()
        db.execute("UPDATE runs SET state = 'failed' WHERE state = 'completed'")
        seen = db.execute("SELECT was, became FROM witness").fetchall()

    assert "completed" == scene.state(job_id)
    assert [("completed", "failed")] == seen
