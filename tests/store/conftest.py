"""Fixtures of the store suite: a fresh store of each engine, more connections to it, processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from queuectl.db import open_store
from tests.store.build import worker
from tests.store.engines import ENGINES


@pytest.fixture(params=sorted(ENGINES))
def location(request, tmp_path):
    """Where one fresh, empty store is."""
    with ENGINES[request.param](tmp_path, made="empty" in request.fixturenames) as where:
        yield where


@pytest.fixture
def open_again(location):
    """Open a connection to the store, as often as wanted: each is another process's as far as the store knows."""
    opened = []

    def open_one(create=True):
        opened.append(open_store(location, create))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def empty(open_again):
    """A store without jobs and without workers; at the test's end ``check`` must find nothing wrong."""
    store = open_again()
    yield store
    problems = store.check()
    assert [] == problems


@pytest.fixture
def store(empty):
    """A store without jobs, where the workers w1 and w2 are registered."""
    empty.register(worker("w1", number=0))
    empty.register(worker("w2", number=1))
    return empty


@pytest.fixture
def start():
    """Start a Python script with pipes; whatever still runs at the test's end is killed."""
    started = []

    def run(script, *words):
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", script, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                universal_newlines=True,
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()
