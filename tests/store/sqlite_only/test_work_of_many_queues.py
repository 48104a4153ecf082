"""What a claim costs where the queues are thousands, by the steps that SQLite takes."""

from __future__ import annotations

import pytest

from queuectl.db import heads
from tests.store.build import T0, completed, spec


@pytest.fixture(autouse=True)
def for_ever(monkeypatch):
    """What a look has found is gone by for the whole test."""
    monkeypatch.setattr(heads, "FRESH_S", 3600.0)


def steps_of(store, call):
    """Return how many steps of its virtual machine SQLite takes for this, in tens."""
    steps = []
    store._db.set_progress_handler(lambda: steps.append(1), 10)
    try:
        call()
    finally:
        store._db.set_progress_handler(None, 0)
    return len(steps)


@pytest.mark.parametrize("count", [1, 5])
def test_a_claim_does_not_ask_all_queues(store, count):
    """After the first it takes no more of a hundred times as many queues."""

    def turn():
        nonlocal claims
        claims = store.finish("w1", [completed(claim) for claim in claims], count, (), T0 + 11).claims
        assert count == len(claims)

    per_claim = []
    for number, queues in enumerate((30, 3000)):
        store.add([spec(queue=f"{number}-{name}") for name in range(queues)], T0 - number)
        claims = []
        turn()
        turn()
        per_claim.append(sum(steps_of(store, turn) for _ in range(4)))

    assert per_claim[1] < 1.5 * per_claim[0]


def test_an_idle_look_stops_at_the_first_ready_job(store):
    """``next_due`` asks no more queues than it has to."""
    store.add([spec(queue=f"q{name:04}") for name in range(20)], T0)
    few = steps_of(store, lambda: store.next_due((), T0))
    store.add([spec(queue=f"r{name:04}") for name in range(2000)], T0)

    assert steps_of(store, lambda: store.next_due((), T0)) <= few + 5
