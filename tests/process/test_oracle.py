"""The oracle finds each kind of violation that is planted, and nothing where nothing is wrong."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Callable, List, Tuple

import pytest

from queuectl.db import open_store
from queuectl.db.base import Store
from queuectl.job import Claim
from tests import oracle
from tests.oracle import Record
from tests.store import build
from tests.store.build import T0

COMMAND = oracle.recorded("", "/nowhere")


@pytest.fixture
def store(home: Path):
    """A store with one worker that is no process of this machine; another host's, whose lease runs."""
    opened = open_store()
    opened.register(build.worker("w1"))
    yield opened
    opened.close()


def tamper(sql: str, *values: object) -> None:
    """Change the store behind its back."""
    db = sqlite3.connect(str(open_path()))
    db.execute(sql, values)
    db.commit()
    db.close()


def open_path() -> str:
    from queuectl.db import default_path

    return default_path()


def a_run(store: Store, end: Callable = build.completed, at: float = T0 + 100) -> Claim:
    """Add job1 if it is not there, claim it and finish it with *end* after 10 s; return the claim."""
    if store.get("job1") is None:
        store.add([build.spec(COMMAND)], T0)
    claim = store.claim("w1", 1, now=at)[0]
    store.finish("w1", [end(claim, at + 10)], now=at + 10)
    return claim


def notes(*lines: Tuple[str, int, str, float]) -> List[Record]:
    return [Record(position, *line) for position, line in enumerate(lines, 1)]


#: What an honest command of job1's first run notes.
HONEST = notes(("job1", 1, "start", T0 + 101), ("job1", 1, "end", T0 + 109))


def test_nothing_is_wrong_where_nothing_is_wrong(store: Store) -> None:
    """A job that ran once and whose command says the same passes."""
    a_run(store)

    assert [] == oracle.problems(store, HONEST, ["job1"])


def test_a_retried_job_passes(store: Store) -> None:
    """Failed and lost runs before the last one are no violation; a retry by hand starts the counts anew."""
    a_run(store, build.failed)
    claim = store.claim("w1", 1, now=T0 + 200)[0]
    store.condemn("w1", 100.0)
    store.release_lost("w1", 3, now=T0 + 210)
    store.register(build.worker("w1"))
    again = a_run(store, build.dead, T0 + 300)
    store.retry(["job1"], now=T0 + 320)
    last = a_run(store, at=T0 + 400)
    said = notes(
        ("job1", 1, "start", T0 + 101), ("job1", 1, "end", T0 + 109),
        ("job1", claim.run_id, "start", T0 + 201), ("job1", claim.run_id, "beat", T0 + 209),
        ("job1", again.run_id, "start", T0 + 301),
        ("job1", last.run_id, "start", T0 + 401), ("job1", last.run_id, "end", T0 + 409),
    )  # fmt: skip

    assert [] == oracle.problems(store, said)


def test_a_lost_acknowledged_job_is_found(store: Store) -> None:
    """An id that was answered must be in the store."""
    a_run(store)

    assert ["job2 was acknowledged and is gone"] == oracle.problems(store, HONEST, ["job1", "job2"])


def test_a_gap_in_the_ids_is_found(store: Store) -> None:
    """Generated numbers go up by one."""
    a_run(store)
    tamper("UPDATE jobs SET id = 'job2'")

    assert "no job has the id job1" in oracle.problems(store)


def test_a_job_that_never_ended_is_found(store: Store) -> None:
    """Waiting is not an end, unless the caller says that jobs may wait."""
    store.add([build.spec()], T0)

    assert ["job1 has not ended: it is pending"] == oracle.problems(store)
    assert [] == oracle.problems(store, ended=False)


def test_a_job_under_a_dead_worker_is_found(store: Store) -> None:
    """Nothing may be processing under a worker that nobody would call alive."""
    store.add([build.spec(COMMAND)], T0)
    store.claim("w1", 1, now=T0 + 100)
    store.unregister("w1")

    found = oracle.problems(store, ended=False)

    assert "job1 is processing under worker w1, which is not alive" in found


def test_a_second_completion_is_found(store: Store) -> None:
    """A job whose completion was accepted twice ran twice."""
    a_run(store)
    tamper("UPDATE jobs SET state = 'pending', ready = 1, ended_at = NULL")
    tamper("UPDATE queues SET pending = 1, completed = 0")
    store.claim("w1", 1, now=T0 + 200)
    tamper("UPDATE runs SET state = 'completed', ended_at = ?", T0 + 210)
    tamper("UPDATE jobs SET state = 'completed', worker_id = NULL, ended_at = ?", T0 + 210)
    tamper("UPDATE queues SET processing = 0, completed = 1")

    assert any("2 accepted completions" in problem for problem in oracle.problems(store))


def test_a_completion_without_a_completed_run_is_found(store: Store) -> None:
    """A job cannot be completed by a run that was not."""
    a_run(store)
    tamper("UPDATE runs SET state = 'lost'")

    assert any("completed with 0 accepted completions" in problem for problem in oracle.problems(store))


def test_a_run_that_vanished_is_found(store: Store) -> None:
    """Each run that was begun has a row."""
    a_run(store)
    tamper("DELETE FROM runs")

    assert any("has begun 1 runs, but the store has []" in problem for problem in oracle.problems(store))


def test_a_lost_run_that_cost_a_retry_is_found(store: Store) -> None:
    """Failures count failed runs and nothing else."""
    a_run(store)
    tamper("UPDATE jobs SET failures = 1")

    assert ["job1 counts 1 failures, but 0 of its runs failed"] == oracle.problems(store)


def test_an_early_death_is_found(store: Store) -> None:
    """A job whose retries are not used up is not dead."""
    a_run(store, build.dead)

    assert ["job1 is dead after 1 failures, with 3 retries allowed"] == oracle.problems(store)


def test_counters_that_disagree_are_found(store: Store) -> None:
    """What ``check`` finds, the oracle finds."""
    a_run(store)
    tamper("UPDATE queues SET completed = 7")

    assert any("counters" in problem for problem in oracle.problems(store))


def test_runs_that_overlap_in_the_store_are_found(store: Store) -> None:
    """The next run begins after the end of the one before."""
    a_run(store, build.failed)
    a_run(store, at=T0 + 200)
    tamper("UPDATE runs SET started_at = ? WHERE number = 2", T0 + 105)

    assert any("run 2 of job1 began before run 1 had ended" in problem for problem in oracle.problems(store))


LIES = {
    "completed, but it never ran": notes(),
    "completed, but it never ended": notes(("job1", 1, "start", T0 + 101)),
    "started twice": notes(
        ("job1", 1, "start", T0 + 101), ("job1", 1, "start", T0 + 102), ("job1", 1, "end", T0 + 109)
    ),
    "ended twice": notes(("job1", 1, "start", T0 + 101), ("job1", 1, "end", T0 + 108), ("job1", 1, "end", T0 + 109)),
    "another job's run": notes(*[tuple(record[1:]) for record in HONEST], ("job2", 1, "beat", T0 + 105)),
    "a run that was never claimed": notes(*[tuple(record[1:]) for record in HONEST], ("job1", 9, "start", T0 + 130)),
    "began before its claim": notes(("job1", 1, "start", T0 + 99), ("job1", 1, "end", T0 + 109)),
}


@pytest.mark.parametrize("said", LIES.values(), ids=LIES.keys())
def test_a_store_and_commands_that_contradict_each_other_are_found(store: Store, said: List[Record]) -> None:
    """What the commands did is what the store believes, run for run."""
    a_run(store)

    assert [] != oracle.problems(store, said)


def two_runs(store: Store) -> None:
    """Lose job1's first run at T0 + 110 and complete the second."""
    store.add([build.spec(COMMAND)], T0)
    store.claim("w1", 1, now=T0 + 100)
    store.condemn("w1", 100.0)
    store.release_lost("w1", 3, now=T0 + 110)
    store.register(build.worker("w1"))
    claim = store.claim("w1", 1, now=T0 + 110.5)[0]
    store.finish("w1", [build.completed(claim, T0 + 120)], now=T0 + 120)


def test_a_lost_run_that_wrote_on_is_found(store: Store) -> None:
    """A run's leftovers are gone when its job is given back."""
    two_runs(store)
    said = notes(
        ("job1", 1, "start", T0 + 101), ("job1", 1, "beat", T0 + 110.2),
        ("job1", 2, "start", T0 + 111), ("job1", 2, "end", T0 + 119),
    )  # fmt: skip

    assert ["run 1 of job1 is lost, but noted something 0.200 s after its end"] == oracle.problems(store, said)


def test_runs_that_overlap_by_the_order_of_their_notes_are_found(store: Store) -> None:
    """A line of an earlier run behind the first line of a later one: both lived, whatever the clock says."""
    two_runs(store)
    said = notes(
        ("job1", 1, "start", T0 + 101), ("job1", 2, "start", T0 + 111), ("job1", 1, "beat", T0 + 109),
        ("job1", 2, "end", T0 + 119),
    )  # fmt: skip

    assert ["runs 1 and 2 of job1 overlap"] == oracle.problems(store, said)


def test_runs_that_overlap_by_the_clock_are_found(store: Store) -> None:
    """A start that was stamped before the earlier run's last beat, but written after it, is an overlap too."""
    two_runs(store)
    said = notes(
        ("job1", 1, "start", T0 + 101), ("job1", 1, "beat", T0 + 110.0005),
        ("job1", 2, "start", T0 + 110), ("job1", 2, "end", T0 + 119),
    )  # fmt: skip

    assert "runs 1 and 2 of job1 overlap" in oracle.problems(store, said)


@pytest.mark.posix("its command is written for a POSIX shell")
def test_a_command_notes_its_start_and_its_end_and_keeps_its_exit_code(home: Path) -> None:
    """What ``recorded`` makes can be read back."""
    log = home.parent / "log"
    command = oracle.recorded("note beat; (exit 3)", log)

    done = subprocess.run(["sh", "-c", command], env={"QUEUECTL_JOB_ID": "job1", "QUEUECTL_RUN_ID": "4"})

    said = oracle.read_records(log)
    assert 3 == done.returncode
    assert ["start", "beat", "end"] == [record.what for record in said]
    assert [("job1", 4)] * 3 == [record[1:3] for record in said]
    assert sorted(record.at for record in said) == [record.at for record in said]


def test_a_line_that_is_being_written_is_not_read_yet(home: Path) -> None:
    """Of a line across two pages the first part is there before the rest."""
    log = home.parent / "log"
    whole = "job1 1 start 1700000000.5\n"
    for length in range(len(whole)):
        log.write_text(whole + whole[:length])
        assert 1 == len(oracle.read_records(log))


def test_the_oracle_is_a_program(store: Store, home: Path) -> None:
    """It prints what is wrong and says so by its exit code."""
    a_run(store)
    (home.parent / "answered").write_text("job1 job2\n")

    done = subprocess.run(
        [sys.executable, "-m", "tests.oracle", "--acknowledged", "answered"], stdout=subprocess.PIPE, text=True
    )

    assert (1, "job2 was acknowledged and is gone\n") == (done.returncode, done.stdout)
