"""A worker's look for orders, on a store that fails at a bad moment."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from queuectl.config import Config
from queuectl.errors import StoreUnavailable
from queuectl.job import Orders
from queuectl.worker import WorkerProcess


class Flaky:
    """A store in which somebody has committed once, and whose calls fail as often as they are told to."""

    settings_seen = 0

    def __init__(self, failing: str) -> None:
        self.failing = failing
        self.news = True

    def _maybe_fail(self, name: str) -> None:
        if name == self.failing:
            self.failing = ""
            raise StoreUnavailable("the store is busy.")

    def changed(self) -> bool:
        news, self.news = self.news, False
        return news

    def settings(self):
        self._maybe_fail("settings")
        return {}

    def renew(self) -> bool:
        self._maybe_fail("renew")
        return True

    def orders(self, worker_id: str) -> Orders:
        self._maybe_fail("orders")
        return Orders(True, 1, ())

    def tidy(self) -> None:
        pass


@pytest.mark.parametrize("failing", ["", "settings", "renew", "orders"])
def test_orders_that_could_not_be_read_are_read_at_the_next_tick(failing):
    """The commit that brought them is not seen twice, and the next look at everything is ten seconds away."""
    store = Flaky(failing)
    asked = []
    worker = object.__new__(WorkerProcess)
    vars(worker).update(
        _store=store, _config=Config({}), _settings_seen=0, _look_mono=time.monotonic() + 10, _running={},
        _membership=SimpleNamespace(id="w1", renew_in_time=lambda lease_s, now_mono: store.renew()),
        _reactor=SimpleNamespace(orphaned=False), _idle_tick_s=5.0, _ask_stop=asked.append,
        _ends=SimpleNamespace(ahead=SimpleNamespace(remove=lambda run_ids: [])), _trouble=lambda what: None,
    )  # fmt: skip

    ticks = 0
    while not asked and ticks < 5:
        worker._tick(time.monotonic())
        ticks += 1

    assert ([1], 2 if failing else 1) == (asked, ticks)
    worker._tick(time.monotonic())
    assert [1] == asked
