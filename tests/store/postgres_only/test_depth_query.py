"""The query that ``docs/how-to/scale-and-watch.md`` gives to KEDA counts what workers are needed for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import PACKAGE_PARENT
from tests.store.build import spec

PAGE = Path(PACKAGE_PARENT, "docs", "how-to", "scale-and-watch.md")


@pytest.mark.skipif(not PAGE.exists(), reason="no checkout: an installed package has no docs")
def test_due_and_running_jobs_are_counted(store, raw):
    """Not those that wait for their time, nor those that have ended."""
    shown = re.search(r"query: >-\n(.*?)\n +targetQueryValue", PAGE.read_text(encoding="utf-8"), flags=re.S)
    query = " ".join(shown.group(1).split()).replace("queuectl.", "{s}.")
    now = store.now()
    store.add([spec(), spec(), spec(), spec(run_at=now + 3600)], now)
    before = raw(query)

    runs = store.claim("w1", 1, (), now)
    store.cancel(["job3"], now)

    assert 1 == len(runs)
    assert ([(3,)], [(2,)]) == (before, raw(query))
