"""Old jobs are deleted some at a time, and fewer at a time where that takes too long."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from queuectl import pruning, recovery
from queuectl.errors import StoreUnavailable
from queuectl.pruning import STEP, Pruner


class Slow:
    """A store whose server does not answer in time when it is to delete more than *most* jobs."""

    def __init__(self, jobs: int, most: int) -> None:
        self.jobs = jobs
        self.most = most
        self.run_folder = SimpleNamespace(find=lambda: None)

    def settings(self):
        return {"keep_completed": "1h"}

    def now(self) -> float:
        return 1e9

    def prune(self, which, limit: int) -> int:
        if min(limit, self.jobs) > self.most:
            raise StoreUnavailable("no answer for 5.0 s")
        deleted = min(limit, self.jobs)
        self.jobs -= deleted
        return deleted


@pytest.mark.parametrize("most", [STEP, 300, 20])
def test_a_server_that_is_slow_is_asked_for_less(monkeypatch, most):
    """Large outputs on a slow disk: each try would be given up and undone, and none of them would ever go."""
    monkeypatch.setattr(recovery, "forget_strays", lambda store: None)
    store = Slow(5000, most)
    pruner = Pruner(store)

    for _ in range(1000):
        try:
            pruner.step(pruner._due_mono + pruning.PRUNE_S)
        except StoreUnavailable:
            pass

    assert 0 == store.jobs
