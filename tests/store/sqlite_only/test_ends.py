"""Ends between a worker's loop and the store: what is told, what is kept, and when a worker in a hurry gives up."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

from queuectl import ends, journal
from queuectl.ahead import HOLD_S
from queuectl.config import Config
from queuectl.console import Console
from queuectl.db import open_store
from queuectl.errors import StoreUnavailable
from queuectl.execution import Execution
from queuectl.job import COMPLETED, Claim, Outcome, RunEnd
from queuectl.report import Report
from tests.store.build import T0, specs, worker


class Flow:
    """As much of the output's flow as ends look at."""

    def __init__(self) -> None:
        self.pending: List[Any] = []


class Bench:
    """A worker without a loop: a store, a console that writes into a file, and its ends."""

    def __init__(self, folder: Path) -> None:
        self.store: Any = open_store(str(folder / "jobs.db"))
        self.store.register(worker("w1"))
        self.log = folder / "log"
        self.console = Console(os.open(self.log, os.O_WRONLY | os.O_CREAT, 0o600))
        self.report = Report(self.store, self.console, lambda: None)
        self.journal = str(folder / "w1.ahead")
        self.ends = ends.Ends(self.store, self.console, 0, Flow(), self.report, {}, Config({}))  # type: ignore[arg-type]
        self.ends.enter(self.journal)

    def held(self, count: int) -> Tuple[Claim, List[Claim]]:
        """Claim *count* jobs more than one, have the one begun and the others held."""
        self.store.add(specs(count + 1), T0)
        claims = self.store.claim("w1", count + 1, (), T0)
        self.ends.ahead._asked = True
        return self.ends.ahead.take(claims, 1, time.monotonic())[0], claims[1:]

    def end(self, claim: Claim) -> None:
        self.ends.due.append((claim, RunEnd(Outcome.COMPLETED, 0, None, None, T0), COMPLETED))

    def said(self) -> str:
        self.report.tell(time.monotonic())
        self.console.flush()
        return self.log.read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.ends.ahead.close()
    made.store.close()


def test_a_fenced_worker_tells_no_end_that_it_drops(bench: Bench) -> None:
    """Lines of ends that were kept back go with the ends: by the store's account the job still runs."""
    first, _ = bench.held(1)
    bench.end(first)
    assert bench.ends.follow("w1", 1, time.monotonic())
    assert "" == bench.said()

    bench.ends.enter(bench.journal + "2")

    assert "" == bench.said()


def test_only_failures_since_it_was_told_count(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of long ago is no reason to give up: it tries once more at least, and an answer ends the outage."""
    monkeypatch.setattr(ends, "GIVE_UP_S", 0.0)
    first, _ = bench.held(0)
    bench.end(first)
    bench.store.in_a_hurry = True
    with contextlib.closing(sqlite3.connect(bench.store.location, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            bench.ends.hand_in("w1", 0, ())
        assert bench.ends.is_hopeless

        bench.ends.hurry()
        assert not bench.ends.is_hopeless
        with pytest.raises(StoreUnavailable):
            bench.ends.hand_in("w1", 0, ())
        assert bench.ends.is_hopeless
    bench.ends.hand_in("w1", 0, ())

    assert not bench.ends.is_hopeless
    assert bench.ends.leave()


def test_what_is_left_behind_names_all_that_had_begun(bench: Bench) -> None:
    """Ends kept back and due are noted together, what is held waits, and nothing else has begun."""
    first, (second, third) = bench.held(2)
    bench.end(first)
    assert [second.run_id] == [claim.run_id for claim in bench.ends.follow("w1", 1, time.monotonic())]
    bench.end(second)

    assert not bench.ends.leave()

    left = journal.read(bench.journal)
    assert [first.run_id, second.run_id] == [claim.run_id for claim, _, _ in left.ended]
    assert ([third.run_id], [first.run_id, second.run_id]) == (left.waiting, left.known)
    assert (
        "[worker 0] gave up on the store: the results of 2 runs are saved here for the next worker on this host\n"
        == bench.said()
    )


def test_a_worker_that_is_to_stop_asks_for_nothing_more(bench: Bench) -> None:
    """However good the row was: what it holds is given back, and no claim goes beyond its free slots."""
    bench.ends.ahead._size = 7
    assert 7 == bench.ends.ahead.ask(())

    bench.ends.ahead.stop()

    assert 0 == bench.ends.ahead.ask(())


def test_what_was_held_too_long_is_given_back(bench: Bench) -> None:
    """Once its time is over it is another worker's to run, and the end that came meanwhile is still to be recorded."""
    first, (second,) = bench.held(1)
    bench.end(first)

    assert [] == bench.ends.follow("w1", 1, time.monotonic() + HOLD_S)

    assert [first.run_id] == [claim.run_id for claim, _, _ in bench.ends.due]
    assert "pending" == bench.store.get(second.job.id).state
    bench.ends.hand_in("w1", 0, ())
    assert "completed" == bench.store.get(first.job.id).state


def test_ends_kept_back_are_recorded_in_their_order_and_told_once(bench: Bench) -> None:
    """Those that were told when they were kept back are not told again when the store accepts them."""
    first, (second, _) = bench.held(2)
    bench.end(first)
    assert bench.ends.follow("w1", 1, time.monotonic())
    bench.end(second)

    assert "" == bench.ends.refill("w1", ())

    assert ["completed"] * 2 == [bench.store.get(claim.job.id).state for claim in (first, second)]
    assert bench.ends.due == bench.ends.ahead.ended == []
    bench.report.finish()
    told = bench.log.read_text().splitlines()
    assert [f"[worker 0] job {claim.job.id} completed" for claim in (first, second)] == told


def test_a_claim_on_its_way_notes_what_runs_and_what_has_ended(bench: Bench) -> None:
    """Were the worker killed now, recovery would undo the claims of all other runs, as if they had never begun."""
    first, _ = bench.held(0)
    bench.end(first)
    bench.ends.ahead._size = 7
    running = Execution(first._replace(run_id=99), Config({}))
    bench.ends._running = {1: running}
    seen: List[Any] = []

    def watch() -> None:
        deadline = time.monotonic() + 30
        while not seen and time.monotonic() < deadline:
            known = journal.read(bench.journal).known
            seen.extend([known] if known is not None else [])
            time.sleep(0.001)
        holder.execute("ROLLBACK")

    with contextlib.closing(
        sqlite3.connect(bench.store.location, isolation_level=None, check_same_thread=False)
    ) as holder:
        holder.execute("BEGIN IMMEDIATE")
        watcher = threading.Thread(target=watch)
        watcher.start()
        bench.ends.hand_in("w1", 0, ())
        watcher.join()

    assert [[99, first.run_id]] == seen


def test_a_claim_that_failed_is_no_longer_on_its_way(bench: Bench) -> None:
    """What begins after it is not to be undone, so its note is taken back."""
    bench.ends.ahead._size = 7
    bench.store.in_a_hurry = True
    with contextlib.closing(sqlite3.connect(bench.store.location, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            bench.ends.hand_in("w1", 0, ())

    assert os.path.getsize(bench.journal) > 0
    assert None is journal.read(bench.journal).known


def test_output_that_was_kept_back_comes_with_its_end(bench: Bench) -> None:
    """None of it is lost, and that of the run that followed stands beside it."""
    first, _ = bench.held(2)
    bench.end(first)
    bench.ends._flow.pending = [(first.run_id, [(0, b"one")], None)]
    (second,) = bench.ends.follow("w1", 1, time.monotonic())
    bench.end(second)
    bench.ends._flow.pending = [(second.run_id, [(0, b"two")], None)]

    assert "" == bench.ends.refill("w1", ())

    kept = [[(start, bytes(data)) for start, data in bench.store.output(claim.run_id)] for claim in (first, second)]
    assert [[(0, b"one")], [(0, b"two")]] == kept
