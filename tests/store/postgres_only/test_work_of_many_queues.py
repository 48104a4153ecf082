"""What a claim costs where the queues are thousands, by the rows and statements that it takes."""

from __future__ import annotations

import pytest

from queuectl.db import heads
from tests.store.build import completed, spec
from tests.store.postgres_only.test_plans import Watch

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

LONG_AGO = 1_000_000.0


@pytest.fixture(autouse=True)
def for_ever(monkeypatch):
    """What a look has found is gone by for the whole test."""
    monkeypatch.setattr(heads, "FRESH_S", 3600.0)


@pytest.mark.parametrize("queues", [(), ("a", "b")], ids=["all", "two of them"])
@pytest.mark.parametrize("count", [1, 5])
def test_a_claim_does_not_ask_all_queues(store, count, queues):
    """After the first it reads as few rows as of thirty queues; of two that are served, from the first on."""
    watch = Watch(store)

    def turn():
        nonlocal claims
        ends = [completed(claim, LONG_AGO + 5) for claim in claims]
        claims = store.finish("w1", ends, count, queues).claims
        assert count == len(claims)

    per_claim = []
    for number, names in enumerate((30, 2000)):
        store.add([spec(queue=f"{number}-{name}") for name in range(names)], LONG_AGO - number)
        store.add([spec(queue=name) for name in "ab" * 30], LONG_AGO)
        store._connected().execute(store.text("VACUUM ANALYZE queuectl.jobs, queuectl.queues"))
        claims = []
        if not queues:
            turn()
            turn()
            turn()
        watch.plans.clear()
        for _ in range(4):
            turn()
        per_claim.append(watch.rows_touched()[0])

    assert per_claim[1] < 2 * per_claim[0] + 20, per_claim
