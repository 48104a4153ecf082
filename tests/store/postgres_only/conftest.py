"""Fixtures for what only a PostgreSQL store has: its server, its schema, plain connections, a network between."""

from __future__ import annotations

import os

import pytest

from queuectl.db import open_store
from tests.postgres_server import QUICK, PostgresServer, fresh_schema, need_postgres, shared_server
from tests.store.build import worker
from tests.store.postgres_only.proxy import Proxy

if os.name == "nt":  # the test server is started with the means of POSIX
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def server():
    """The server of this test process; a test may not stop it."""
    return shared_server()


@pytest.fixture(scope="module")
def frail_server():
    """A server for the tests of one module that stop it; running when a test begins."""
    need_postgres()
    server = PostgresServer(QUICK)
    yield server
    server.close()


@pytest.fixture
def url(server):
    """The URL of a store that does not exist yet."""
    with fresh_schema(server) as where:
        yield where


@pytest.fixture
def schema(url):
    """The schema that the URL names."""
    return url.rpartition("=")[2]


@pytest.fixture
def open_one():
    """Open a store; closed at the test's end."""
    opened = []

    def open_it(url):
        opened.append(open_store(url))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture
def store(url, open_one):
    """A store with the workers w1 and w2; nothing may be wrong with it at the test's end."""
    store = open_one(url)
    store.register(worker("w1"))
    store.register(worker("w2", number=1))
    yield store
    assert [] == store.check()


@pytest.fixture
def raw(server, schema):
    """Run SQL as superuser: ``{s}`` in it is the store's schema."""

    def run(sql, *parameters):
        return server.execute(sql.replace("{s}", schema), *parameters)

    return run


@pytest.fixture
def proxy(server):
    """A proxy before the server."""
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def far_store(store, server, schema, proxy, open_one):
    """The same store again, opened through the proxy."""
    far = open_one(server.url(schema, proxy.port))
    far._connected().prepare_threshold = None  # the first answer to a statement is that to its execution
    return far
