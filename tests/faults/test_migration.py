"""The next release's migration, killed in the middle and begun by many at once, on a store that this one wrote."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

import queuectl
from queuectl.db.migrate import NEWEST
from tests.process.scene import Scene
from tests.process.test_old_stores import STORES

pytestmark = pytest.mark.posix

STEP = """
ALTER TABLE jobs ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey';
UPDATE jobs SET colour = 'red' WHERE state = 'dead';
CREATE TABLE colours (name TEXT PRIMARY KEY);
INSERT INTO colours SELECT DISTINCT colour FROM jobs;
"""


@pytest.fixture
def later(home: Path) -> Dict[str, str]:
    """The environment in which queuectl is the next release: the same package with one more migration."""
    package = home.parent / "next" / "queuectl"
    shutil.copytree(str(Path(queuectl.__file__).parent), str(package))
    (package / "db" / "migrations" / "sqlite" / f"{NEWEST + 1:04d}_colours.sql").write_text(STEP)
    code = package / "db" / "migrate.py"
    text = code.read_text(encoding="utf-8")
    assert 1 == text.count(f"NEWEST = {NEWEST}\n")
    code.write_text(text.replace(f"NEWEST = {NEWEST}\n", f"NEWEST = {NEWEST + 1}\n"), encoding="utf-8")
    return {"PYTHONPATH": str(package.parent)}


@pytest.fixture
def path(home: Path) -> Path:
    """A store that this release wrote."""
    home.mkdir(mode=0o700)
    shutil.copyfile(STORES[-1], home / "jobs.db")
    return home / "jobs.db"


def schema(path: Path) -> List[Any]:
    with closing(sqlite3.connect(str(path))) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        columns = [row[1] for row in db.execute("PRAGMA table_info(jobs)")]
        steps = [n for (n,) in db.execute("SELECT n FROM schema_version ORDER BY n")]
    return [version, "colour" in columns, steps]


def test_killed_in_the_middle_it_has_not_begun(
    path: Path, later: Dict[str, str], cli: Callable[..., Any], fault: Callable[..., Any]
) -> None:
    """The old release works on; the next attempt does all of it; then the old one refuses the store, and says why."""
    before = cli("list", "--json", code=0).out
    met = fault("migrating")

    assert -9 == cli("enqueue", "--", "true", env={**met.env, **later}).code
    assert met.met
    assert [NEWEST, False, list(range(1, NEWEST + 1))] == schema(path)
    assert before == cli("list", "--json", code=0).out

    cli("enqueue", "--", "true", env=later, code=0)
    assert [NEWEST + 1, True, list(range(1, NEWEST + 2))] == schema(path)
    refused = cli("enqueue", "--", "true")
    assert (1, "") == (refused.code, refused.out)
    assert "newer" in refused.err
    assert 1 == refused.err.count("\n")
    cli("doctor", env=later)
    assert "[]" == cli("list", "--json", "--state", "pending", "--tag", "nothing", env=later, code=0).out.strip()


def test_many_that_migrate_at_once_do_it_once(path: Path, later: Dict[str, str], cli: Callable[..., Any]) -> None:
    """Eight processes of the next release open the old store together: one step, eight jobs."""
    count = len(cli("list", "--json", code=0).out.split('"id"'))
    words = [sys.executable, "-m", "queuectl", "enqueue", "-q", "--", "true"]
    env = {**os.environ, **later}
    started = [subprocess.Popen(words, env=env, stdout=subprocess.PIPE) for _ in range(8)]
    ids = [process.communicate()[0] for process in started]

    assert [0] * 8 == [process.returncode for process in started]
    assert 8 == len(set(ids))
    assert [NEWEST + 1, True, list(range(1, NEWEST + 2))] == schema(path)
    assert count + 8 == len(cli("list", "--json", env=later, code=0).out.split('"id"'))


@pytest.mark.parametrize("statement", ["DROP TABLE output", "DROP TABLE store", "DELETE FROM store"])
def test_a_schema_that_is_half_there_is_refused(path: Path, cli: Callable[..., Any], statement: str) -> None:
    """Somebody else has been at it: whoever opens it says so, starts nothing, and leaves the file as it is."""
    cli("list", code=0)  # of this release's schema from here on
    with closing(sqlite3.connect(str(path))) as db:
        db.execute(statement)
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()

    for words in (["enqueue", "--", "true"], ["worker", "start"], ["list"]):
        refused = cli(*words)
        assert (1, "") == (refused.code, refused.out)
        assert "is not a complete queuectl store" in refused.err
        assert 1 == refused.err.count("\n")
    assert "is not a complete queuectl store" in cli("doctor", "-q", code=1).out
    assert before == path.read_bytes()


def test_a_missing_index_is_found(path: Path, cli: Callable[..., Any]) -> None:
    """Nothing is wrong without it but the speed: ``doctor`` names it."""
    with closing(sqlite3.connect(str(path))) as db:
        db.execute("DROP INDEX jobs_ready")
        db.commit()

    found = cli("doctor")

    assert 1 == found.code
    assert "the index jobs_ready is missing" in found.out


def test_a_worker_whose_store_is_upgraded_under_it(scene: Scene) -> None:
    """It cannot record what ended: that and what still ran is left to the new release, at no cost to any job."""
    until = "echo $$ > {0}.pid; until [ -e {0} ]; do sleep 0.1; done"
    ended = scene.queue.enqueue(scene.journal.command(until.format("first"))).id
    failed = scene.queue.enqueue(scene.journal.command(until.format("second") + "; false"), max_retries=0).id
    running = scene.queue.enqueue(scene.journal.command(until.format("third"))).id
    old = scene.start("--concurrency", "3")
    scene.noted("start", 3)
    with closing(sqlite3.connect(scene.queue.store.location, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        for name in ("first", "second"):  # which ends while the worker waits to record the first
            pids = scene.pids(name + ".pid")
            (scene.folder / name).touch()
            scene.gone(pids)
        db.execute("ALTER TABLE settings RENAME TO values_set")
        db.execute("ALTER TABLE runs RENAME COLUMN exit_code TO code")
        db.execute(f"PRAGMA user_version = {NEWEST + 1}")
        db.execute("COMMIT")
        said = old.wait()
        db.execute("BEGIN IMMEDIATE")  # what only the new release could do: understand it
        db.execute("ALTER TABLE values_set RENAME TO settings")
        db.execute("ALTER TABLE runs RENAME COLUMN code TO exit_code")
        db.execute(f"PRAGMA user_version = {NEWEST}")
        db.execute("COMMIT")
    assert 1 == said.code
    assert f"was written by a newer queuectl (schema {NEWEST + 1}; this one knows {NEWEST})" in said.err
    assert "results of 3 runs are saved here for the next worker on this host" in said.out

    (scene.folder / "third").touch()
    scene.drain()
    assert (["completed"], ["stopped", "completed"]) == (scene.outcomes(ended), scene.outcomes(running))
    assert ["failed"] == scene.outcomes(failed)
    scene.judge()
