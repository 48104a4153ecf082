"""Fixtures of the fleet's tests: three hosts and what to ask of them."""

from __future__ import annotations

import os

import pytest

from queuectl import Queue
from tests.fleet.hosts import Fleet, why_not
from tests.postgres_server import QUICK, need_postgres

if os.name == "nt":  # namespaces are Linux's
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def needed():
    """Skip where there can be no database or no hosts, saying why."""
    need_postgres()
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def fleet(needed, tmp_path):
    """Three hosts, and a server that all of them reach."""
    with Fleet(tmp_path, settings=QUICK) as fleet:
        yield fleet


@pytest.fixture
def queue(fleet):
    """The queue, reached from outside the network."""
    with Queue(fleet.server.url()) as queue:
        yield queue
