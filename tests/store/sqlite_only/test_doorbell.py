"""Doorbells: which commits wake a sleeping worker, and bells that nobody hears."""

from __future__ import annotations

import os
import select

import pytest

from queuectl import recovery
from queuectl.db import doorbell
from queuectl.db.doorbell import Doorbell
from queuectl.errors import JobExists
from tests.store.build import EVERYTHING, T0, bring_to, completed, failed, spec, worker

pytestmark = pytest.mark.posix


@pytest.fixture
def bell(store):
    """The armed bell of a worker of the store."""
    os.makedirs(store.run_folder, exist_ok=True)
    bell = Doorbell(store.run_folder, "w1")
    bell.arm()
    yield bell
    bell.disarm()


def rang(bell):
    """Say whether the bell has rung, and hush it."""
    ready, _, _ = select.select([bell.arm()], [], [], 0)
    bell.hush()
    return bool(ready)


RINGING = {
    "add": lambda store: store.add([spec()], T0),
    "add later": lambda store: store.add([spec(delay_s=50)], T0),
    "retry": lambda store: store.retry(["over"], now=T0),
    "retry_where": lambda store: store.retry_where(EVERYTHING, T0),
    "edit": lambda store: store.edit("job1", {"delay_s": 0.0}, T0),
    "resume": lambda store: store.set_paused("default", False),
    "limit": lambda store: store.set_limit("default", None),
    "release": lambda store: store.release_lost("gone", 3, T0),
}


def run_one(store):
    """Have w1 run a job."""
    store.add([spec(priority=9)], T0)
    return store.claim("w1", 1, (), T0)[0]


@pytest.mark.parametrize(("end", "count", "rings"), [(failed, 0, True), (failed, 1, True), (completed, 0, False)])
def test_a_retry_rings(store, bell, end, count, rings):
    """Its worker may be busy when its time comes; whoever sleeps has to know when that is."""
    claim = run_one(store)
    bell.hush()

    store.finish("w1", [end(claim)], count, (), T0)

    assert rings == rang(bell)


@pytest.mark.parametrize("count", [0, 1])
def test_a_place_that_is_left_rings(store, bell, count):
    """In a queue with a limit another worker may run the next job; this one perhaps is to stop."""
    claim = run_one(store)
    store.set_limit("default", 1)
    store.add([spec()], T0)
    bell.hush()

    store.finish("w1", [completed(claim)], count, (), T0)

    assert rang(bell)


@pytest.mark.parametrize("verb", sorted(RINGING))
def test_what_makes_work_rings(store, bell, verb):
    """Everything that may make a job claimable, or due at another time, wakes the sleepers after its commit."""
    bring_to(store, "cancelled", "over")
    store.add([spec(delay_s=50)], T0)
    bell.hush()

    RINGING[verb](store)

    assert rang(bell)


def test_looking_and_refused_writes_do_not_ring(store, bell):
    """No worker wakes for nothing."""
    store.add([spec(id="taken")], T0)
    bell.hush()

    with pytest.raises(JobExists):
        store.add([spec(id="taken")], T0)
    store.get("taken")
    store.claim("w1", 1, (), T0 - 99)

    assert not rang(bell)


def test_a_bell_rings_every_sleeper(store, bell):
    """Two workers sleep, both wake."""
    other = Doorbell(store.run_folder, "w2")
    other.arm()

    store.add([spec()], T0)

    assert (True, True) == (rang(bell), rang(other))
    other.disarm()


def test_a_busy_worker_has_no_bell(store, bell):
    """Taken away, it costs the enqueuers nothing; armed again it rings again."""
    bell.disarm()
    assert [] == os.listdir(store.run_folder)
    store.add([spec()], T0)

    bell.arm()
    silent = rang(bell)
    store.add([spec()], T0)

    assert (False, True) == (silent, rang(bell))


def test_the_bell_of_a_dead_worker_is_taken_down(store):
    """A bell that nobody reads is removed by the next who rings it, and does not hold anybody up."""
    os.makedirs(store.run_folder, exist_ok=True)
    os.mkfifo(os.path.join(store.run_folder, "dead.bell"))

    store.add([spec()], T0)

    assert [] == os.listdir(store.run_folder)


def test_a_ringer_that_comes_late_takes_no_other_bell_down(store, bell, monkeypatch):
    """It found a bell that nobody read any more; until it acts on that the worker is idle again, with a new one."""
    opened = os.open
    late = []

    def open_late(path, *how, **more):
        if not late and str(path).endswith(".bell"):
            late.append(path)
            bell.disarm()
            bell.arm()
            raise OSError(doorbell.NOBODY_READS, "the kernel's answer, of a moment ago")
        return opened(path, *how, **more)

    monkeypatch.setattr(os, "open", open_late)
    doorbell.ring(store.run_folder)
    monkeypatch.undo()

    assert ["w1.bell"] == os.listdir(store.run_folder)
    store.add([spec()], T0)
    assert rang(bell)


def test_a_bell_that_is_rung_without_end_does_not_block(bell, store):
    """A sleeper that does not wake leaves its bell full; ringing it on is harmless."""
    for _ in range(70_000):
        doorbell.ring(store.run_folder)

    assert rang(bell)


def test_ringing_where_nobody_lives_is_harmless(tmp_path):
    """No folder, no bells, or other files in it: no error."""
    (tmp_path / "notes").write_text("x")

    doorbell.ring(str(tmp_path / "missing"))
    doorbell.ring(str(tmp_path))

    assert ["notes"] == os.listdir(str(tmp_path))


def test_old_notes_of_nobody_are_removed(store):
    """Those of a worker that is known stay, however old, as do those of one that may be about to register."""
    os.makedirs(store.run_folder, mode=0o700, exist_ok=True)
    store.register(worker("known"))
    names = ["known.runs", "known.bell", "gone.runs", "gone.ahead", "new.bell"]
    for name in names:
        path = os.path.join(store.run_folder, name)
        with open(path, "w", encoding="ascii"):
            pass
        if not name.startswith("new"):
            os.utime(path, (1e9, 1e9))

    recovery.forget_strays(store)

    assert ["known.bell", "known.runs", "new.bell"] == sorted(os.listdir(store.run_folder))
