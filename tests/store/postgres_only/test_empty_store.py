"""The store that one test has after another: nothing tells it from one that was just made."""

from __future__ import annotations

import pytest

from queuectl.db import open_store
from tests.postgres_server import empty_store, need_postgres
from tests.store.build import EVERYTHING, T0, bring_to, completed, spec, worker

NAMES = """
    SELECT relname, relkind::text FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'S')
    """
#: What differs from one store to the next: its id, and when it was made.
OWN = {"store": ("store_id", "created_at"), "schema_version": ("applied_at",)}


@pytest.fixture(autouse=True)
def _server():
    need_postgres()


def contents(server, url):
    """Return the rows of all tables and where all sequences stand."""
    schema = url.rpartition("=")[2]
    found = {}
    for name, kind in server.execute(NAMES, schema):
        if kind == "S":
            found[name] = server.execute(f"SELECT last_value, is_called FROM {schema}.{name}")
        else:
            leave = ", ".join(f"- '{column}'" for column in OWN.get(name, ())).replace(", ", " ")
            found[name] = server.execute(f"SELECT to_jsonb(t) {leave} FROM {schema}.{name} AS t ORDER BY 1")
    return found


@pytest.mark.parametrize("jobs", [3, 2000])
def test_it_is_as_a_new_one(server, url, jobs):
    """Few rows are deleted, of many the table is cut off; numbers begin anew."""
    open_store(url).close()
    with empty_store() as used:
        store = open_store(used)
        store.set_setting("lease", "7")
        store.set_paused("mail", True)
        store.register(worker("w1"))
        store.add([spec("true " + "x" * 100)] * jobs, T0)
        store.add([spec(id="job9000", queue="other")], T0)
        (claim,) = store.claim("w1", 1, (), T0)
        store.finish("w1", [completed(claim, T0)], outputs=[(claim.run_id, [(0, b"said")], None)], now=T0)
        bring_to(store, "dead", now=T0)
        before = server.execute(f"SELECT store_id FROM {used.rpartition('=')[2]}.store")
        store.close()

    with empty_store() as again:
        assert used == again
        assert contents(server, url) == contents(server, again)
        assert before != server.execute(f"SELECT store_id FROM {used.rpartition('=')[2]}.store")
        store = open_store(again)
        assert ([], ["job1"]) == (store.jobs(EVERYTHING), store.add([spec()], T0))
        assert [] == store.check()
        store.close()
