"""A store whose schema was renamed: its functions follow, and never work on the store that now has the old name."""

from __future__ import annotations

import psycopg
import pytest

from queuectl.errors import StoreRefused, StoreUnavailable
from tests.store.build import EVERYTHING, T0, claim_ids, completed, spec, worker

FUNCTIONS = """
    SELECT proname, pg_get_function_arguments(p.oid), proconfig, prosecdef, proacl, provolatile, prosrc
      FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = pronamespace
     WHERE nspname = %s ORDER BY 1, 2
    """


@pytest.fixture
def renamed(url, server, schema, raw, open_one):
    """Rename the schema of a store with one job, and return its new name."""
    with_job = open_one(url)
    with_job.add([spec("echo old")], T0)
    with_job.close()
    name = f"{schema}_old"
    raw(f"ALTER SCHEMA {{s}} RENAME TO {name}")
    yield name
    raw(f"DROP SCHEMA {name} CASCADE")


def test_a_renamed_store_works(renamed, server, raw, open_one):
    """Claims, ends and the SQL function, where no schema has the old name."""
    store = open_one(server.url(renamed))
    store.register(worker("w1"))

    (claim,) = store.claim("w1", 1, (), T0)
    store.finish("w1", [completed(claim, T0)], now=T0)

    assert "job1" == claim.job.id
    assert [("job2",)] == raw(f"SELECT {renamed}.enqueue('true', '{{\"tags\": [\"a\"]}}')")
    assert ["job1", "job2"] == [job.id for job in store.jobs(EVERYTHING)]
    assert [] == store.check()


def test_the_store_that_has_the_old_name_is_left_alone(renamed, url, server, raw, open_one):
    """As after a backup was restored beside the store that it is of."""
    other = open_one(url)
    other.add([spec("echo new")], T0)
    store = open_one(server.url(renamed))
    for each in (other, store):
        each.register(worker("w1"))

    raw(f"SELECT {renamed}.enqueue('echo old')")

    assert {"job1", "job2"} == set(claim_ids(store.claim("w1", 2, (), T0 + 1e9)))
    assert [("echo old",)] * 2 == [(job.command,) for job in store.jobs(EVERYTHING)]
    assert [("job1", "echo new")] == [(job.id, job.command) for job in other.jobs(EVERYTHING)]
    assert [] == store.check() == other.check()


def test_functions_are_those_of_a_store_made_under_that_name(renamed, url, server, raw, open_one, schema):
    """All of them, with their settings, and with the rights that were granted."""
    role = f"{schema}_app"
    raw(f"CREATE ROLE {role} LOGIN")
    try:
        raw(f"GRANT USAGE ON SCHEMA {renamed} TO {role}")
        raw(f"GRANT EXECUTE ON FUNCTION {renamed}.enqueue(text, jsonb) TO {role}")
        before = raw(FUNCTIONS, renamed)
        open_one(server.url(renamed))
        found = raw(FUNCTIONS, renamed)
        open_one(url)
        made = raw(FUNCTIONS, schema)

        assert [row[:6] for row in before] == [row[:6] for row in found]
        assert len(made) == len(found)
        for new, old in zip(made, found):
            assert new[6].replace(schema + ".", renamed + ".") == old[6]
        with psycopg.connect(server.url().partition("?")[0].replace("postgres@", f"{role}@", 1)) as line:
            assert ("job2",) == line.execute(f"SELECT {renamed}.enqueue('true')").fetchone()
    finally:
        raw(f"DROP OWNED BY {role}")
        raw(f"DROP ROLE {role}")


def test_the_functions_of_a_store_that_keeps_its_name_are_left_alone(url, raw, open_one, schema):
    """Making them anew takes a lock for which all workers wait, and not every role may."""
    written = "SELECT oid, xmin FROM pg_proc WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"
    open_one(url)
    before = raw(written, schema)

    open_one(url)

    assert before == raw(written, schema)
    assert len(before) > 3


def test_a_role_that_may_not_adapt_the_functions_says_who_has_to(renamed, server, raw, open_one, schema):
    """It changes nothing; once the owner was there, it goes on."""
    role = f"{schema}_reader"
    raw(f"CREATE ROLE {role} LOGIN")
    try:
        raw(f"GRANT USAGE ON SCHEMA {renamed} TO {role}")
        raw(f"GRANT SELECT ON ALL TABLES IN SCHEMA {renamed} TO {role}")
        before = raw(FUNCTIONS, renamed)

        with pytest.raises(StoreRefused, match="was renamed, and this role may not adapt its functions. Call one comm"):
            open_one(server.url(renamed, user=role))
        raw(f"ALTER ROLE {role} SUPERUSER")
        raw(f"ALTER ROLE {role} SET default_transaction_read_only = on")
        with pytest.raises(StoreUnavailable, match="is read-only now"):
            open_one(server.url(renamed, user=role))
        assert before == raw(FUNCTIONS, renamed)

        raw(f"ALTER ROLE {role} NOSUPERUSER")
        open_one(server.url(renamed))
        assert ["job1"] == [job.id for job in open_one(server.url(renamed, user=role)).jobs(EVERYTHING)]
    finally:
        raw(f"DROP OWNED BY {role}")
        raw(f"DROP ROLE {role}")
