"""Run ids are fencing tokens: none comes again, not even after a loss of power that took the claim away."""

from __future__ import annotations

import shutil

import pytest

from queuectl.db import open_store
from queuectl.db.sqlite_workers import RUN_ID_GAP
from tests.store.build import T0, completed, specs, worker


@pytest.fixture
def begin(path):
    """Open the store as a worker that starts in this boot of the machine."""
    opened = []

    def begin(boot):
        opened.append(open_store(path))
        opened[-1].register(worker(f"w-{len(opened)}", host_id=f"machine:{boot}:4026531836"))
        return opened[-1], f"w-{len(opened)}"

    yield begin
    for store in opened:
        store.close()


def test_no_id_comes_again_after_a_loss_of_power(begin, path):
    """What was on the disk at the last sync is what the machine finds when it starts anew."""
    store, name = begin("first")
    store.add(specs(4), T0)
    known = store.claim(name, 1, (), T0)[0]
    store.finish(name, [completed(known)], now=T0)
    store.sync()
    files = [path, path + "-wal"]
    for file in files:
        shutil.copy(file, file + ".disk")
    given = [claim.run_id for claim in store.claim(name, 2, (), T0)]
    store.close()
    for file in files:
        shutil.move(file + ".disk", file)

    store, name = begin("second")
    ids = [claim.run_id for claim in store.claim(name, 2, (), T0)]

    assert min(ids) > max(given) > known.run_id
    assert [] == store.check()


def test_without_a_new_start_ids_are_one_after_the_other(begin):
    """However often workers start; a machine whose boot is not known has none that is new."""
    seen = []
    for boot in ("first", "first", "", "second", "second"):
        store, name = begin(boot)
        store.add(specs(2), T0)
        seen += [claim.run_id for claim in store.claim(name, 2, (), T0)]

    assert [1, 2, 3, 4, 5, 6] == seen[:6]
    assert [RUN_ID_GAP + number for number in (7, 8, 9, 10)] == seen[6:]
