"""The store's settings and the queues' switches."""

from __future__ import annotations

from tests.store.build import T0, spec


def test_a_new_store_has_no_settings(store):
    """Defaults are not stored."""
    assert {} == store.settings()


def test_settings_are_kept_as_text(store, open_again):
    """As typed, for every connection; a second setting replaces the first."""
    store.set_setting("lease", "30")
    store.set_setting("lease", "1.5m")
    store.set_setting("output_limit", "1 MiB")

    assert {"lease": "1.5m", "output_limit": "1 MiB"} == open_again().settings()


def test_a_setting_may_be_taken_back(store):
    """None is the default again, and taking back what was not set is allowed."""
    store.set_setting("lease", "40")
    store.set_setting("lease", None)
    store.set_setting("timeout", None)

    assert {} == store.settings()


def test_a_claim_tells_whether_settings_changed(store, open_again):
    """``settings_seen`` grows with every change, so a worker knows when to read them again."""
    other = open_again()
    seen = []
    for change in (None, ("lease", "40"), None, ("lease", None)):
        if change:
            other.set_setting(*change)
        store.add([spec()], T0)
        store.claim("w1", 1, (), T0)
        seen.append(store.settings_seen)

    assert seen[0] < seen[1] == seen[2] < seen[3]


def test_a_look_at_orders_tells_whether_settings_changed(store, open_again):
    """So does ``settings_seen`` after it: who works off long jobs does not claim."""
    other = open_again()
    store.orders("w1")
    before = store.settings_seen
    other.set_setting("lease", "40")
    store.orders("w1")

    assert store.settings_seen > before


def test_a_reset_is_a_change_of_settings(store):
    """Workers read the settings again after it."""
    store.add([spec()], T0)
    store.claim("w1", 1, (), T0)
    before = store.settings_seen
    store.reset()
    store.add([spec()], T0)
    store.claim("w1", 1, (), T0)

    assert store.settings_seen > before


def test_switches_may_be_set_twice(store):
    """Pausing what is paused and limiting again are no errors; the last word counts."""
    for _ in range(2):
        store.set_paused("a", True)
    for limit in (3, 5):
        store.set_limit("a", limit)

    assert [("a", True, 5)] == [tuple(queue)[:3] for queue in store.queues()]


def test_switches_are_independent(store):
    """Resuming does not lift the limit, and lifting the limit does not resume."""
    store.set_paused("a", True)
    store.set_limit("a", 2)
    store.set_paused("b", True)
    store.set_limit("b", 2)

    store.set_paused("a", False)
    store.set_limit("b", None)

    assert [("a", False, 2), ("b", True, None)] == [tuple(queue)[:3] for queue in store.queues()]
