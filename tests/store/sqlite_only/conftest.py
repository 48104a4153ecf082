"""Fixtures for what only a SQLite store has: its path, its file, plain connections to it."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from queuectl.db import open_store
from tests.store.build import worker


@pytest.fixture
def path(tmp_path):
    """Where a store may be made, in a folder that does not exist yet."""
    return str(tmp_path / "home" / "jobs.db")


@pytest.fixture
def store(path):
    """A store with one worker."""
    store = open_store(path)
    store.register(worker("w1"))
    yield store
    store.close()


@pytest.fixture
def raw(path, store):
    """A second, plain connection to the store's file."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as db:
        yield db
