"""Roles whose sessions begin with settings of their own: what queuectl reads, keeps and waits for stays the same."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import pytest

from queuectl.db import open_store
from queuectl.errors import StoreRefused
from queuectl.job import State
from tests.store.build import EVERYTHING, T0, bring_to, claim_ids, completed, failed, spec, worker
from tests.store.postgres_only.test_pooler import Pooler

ODD = {
    "extra_float_digits": "-15",
    "statement_timeout": "250ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "250ms",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "search_path": "odd, pg_catalog",
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "row_security": "off",
    "standard_conforming_strings": "off",
    "synchronous_commit": "off",
    "array_nulls": "off",
}
# Operators for types that the server has none for: it would convert one side, and takes these before it does.
TRAPS = """
    DO $$
    DECLARE
        types text[] := ARRAY['int2', 'int4', 'int8', 'numeric', 'float4', 'float8', 'text', 'varchar', 'name', 'oid'];
        one text; other text; sign text;
    BEGIN
        FOREACH one IN ARRAY types LOOP
            FOREACH other IN ARRAY types LOOP
                EXECUTE format('CREATE FUNCTION odd.trap(%s, %s) RETURNS boolean LANGUAGE plpgsql AS %L',
                               one, other, 'BEGIN RAISE $t$trapped$t$; END');
                FOREACH sign IN ARRAY ARRAY['+', '-', '*', '/', '<', '<=', '=', '<>', '>=', '>', '||'] LOOP
                    IF to_regoperator(format('pg_catalog.%s(%s, %s)', sign, one, other)) IS NULL THEN
                        EXECUTE format('CREATE OPERATOR odd.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = odd.trap)',
                                       sign, one, other);
                    END IF;
                END LOOP;
            END LOOP;
        END LOOP;
    END $$
    """


@contextlib.contextmanager
def database_with(raw, settings):
    """Give the tests' database *settings* for a while, whatever happens: the next test has the same one."""
    try:
        for setting in settings:
            raw(f"ALTER DATABASE postgres SET {setting}")
        yield
    finally:
        raw("ALTER DATABASE postgres RESET ALL")


@contextlib.contextmanager
def pooler_of(server):
    """Put a pooler in transaction mode before the server; yield its port."""
    pooler = Pooler(server, "transaction")
    try:
        yield pooler.port
    finally:
        pooler.close()


@pytest.fixture
def role(server, raw, schema):
    """A role without settings so far, and functions in its way."""
    name = f"odd_{schema}"
    raw(f"CREATE ROLE {name} LOGIN SUPERUSER")
    raw("CREATE SCHEMA IF NOT EXISTS odd")
    raw("CREATE OR REPLACE FUNCTION odd.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz 'epoch' $$")
    yield name
    raw("DROP SCHEMA odd CASCADE")
    raw(f"DROP OWNED BY {name} CASCADE")
    raw(f"DROP ROLE {name}")


@pytest.fixture
def odd(server, schema, raw, role):
    """The URL of the store for a role with everything set oddly."""
    settings = dict(ODD)
    version = server.execute("SHOW server_version_num")[0][0]
    if version >= "140000":
        settings["idle_session_timeout"] = "250ms"
    if version >= "170000":
        settings["transaction_timeout"] = "250ms"
    for name, value in settings.items():
        raw(
            f"ALTER ROLE {role} SET {name} = {value}"
            if name == "search_path"
            else f"ALTER ROLE {role} SET {name} = '{value}'"
        )
    return server.url(schema, user=role)


def test_a_store_is_made_by_an_odd_role(odd, open_one):
    """The tables, and all that is in their defaults and functions."""
    made = open_one(odd)

    assert ["job1"] == made.add([spec()])
    assert [] == made.check()


def test_jobs_are_the_same_for_an_odd_role(store, odd, open_one):
    """Times to the microsecond, output to the byte, letters of all scripts; read by it and by others."""
    other = open_one(odd)
    now = T0 + 0.123456
    other.add([spec("echo \u20ac \\ '", timeout_s=1.25), spec(run_at=now + 1000.654321)], now)
    (claim,) = other.claim("w1", 1, (), now)
    other.append_output(claim.run_id, [(0, b"\xfc \\ \0 n\n")])
    other.finish("w1", [failed(claim, now, now + 0.000123)], now=now)
    bring_to(other, "dead", now=now)

    for each in ("job1", "job2", "job3"):
        assert store.get(each) == other.get(each)
        assert store.runs(each) == other.runs(each)
    assert ("echo \u20ac \\ '", now + 0.000123) == (store.get("job1").command, store.get("job1").run_at)
    assert [(0, b"\xfc \\ \0 n\n")] == other.output(claim.run_id) == store.output(claim.run_id)
    assert abs(other.now() - store.now()) < 1
    (claim,) = other.claim("w1", 1, (), now + 1)
    other.finish("w1", [completed(claim, now + 1.5)], now=now + 1.5)
    assert State.COMPLETED == store.get(claim.job.id).state
    assert [] == other.check()
    assert 2 == other.prune(EVERYTHING)


def test_an_odd_role_waits_as_long_as_any(store, odd, open_one):
    """Statements take as long as they take, and idle sessions stay: so does a worker's that only listens."""
    other = open_one(odd)
    other.doorbell().arm()
    pids = [line.info.backend_pid for line in (other._line, other._bell._line)]
    other._rows("SELECT pg_sleep(0.4)")
    time.sleep(0.4)
    other._write(lambda run: time.sleep(0.4))
    other.add([spec()])
    other.doorbell().hush()

    assert pids == [line.info.backend_pid for line in (other._line, other._bell._line)]
    assert [("on", "read committed")] == other._rows(
        "SELECT current_setting('synchronous_commit'), current_setting('transaction_isolation')"
    )


def test_what_is_kept_more_safely_stays_so(store, server, schema, raw, role, open_one):
    """A role may wait for standbys, and read times with more digits."""
    raw(f"ALTER ROLE {role} SET synchronous_commit = 'remote_apply'")
    raw(f"ALTER ROLE {role} SET extra_float_digits = 3")

    found = open_one(server.url(schema, user=role))._rows(
        "SELECT current_setting('synchronous_commit'), current_setting('extra_float_digits')"
    )

    assert [("remote_apply", "3")] == found


def test_lists_with_nothing_in_them(store, odd, open_one):
    """A queue without a limit beside one that has one; a lost run that leaves no reason."""
    other = open_one(odd)
    other.set_limit("tight", 1)
    other.add([spec(queue="tight"), spec(queue="free")], T0)

    assert ["job1", "job2"] == sorted(claim_ids(other.claim("w1", 2, (), T0 + 1)))

    other.condemn("w1", 100.0)
    other.release_lost("w1", 3, T0 + 2)
    assert [None, None] == [store.get(job_id).reason for job_id in ("job1", "job2")]


def use_all_verbs(store):
    """Put some jobs through most of what can happen to them."""
    store.register(worker("w1"))
    store.register(worker("w9", number=1))
    store.set_limit("tight", 1)
    store.set_setting("max_retries", "2")
    store.add([spec(timeout_s=5, backoff_base=2), spec(queue="tight"), spec(queue="tight", tags=("a",))], T0)
    assert 2 == len(store.claim("w9", 3, (), T0 + 1))
    assert store.renew("w9", 30, 200.0)
    store.condemn("w9", 200.0)
    store.release_lost("w9", 3, T0 + 2)
    for state in ("completed", "dead", "cancelled", "failed"):
        bring_to(store, state)
    assert 7 == len(store.jobs(EVERYTHING))
    assert {"default", "tight"} == {queue.name for queue in store.queues()}
    assert [] == store.check()
    assert 3 == store.prune(EVERYTHING)


def test_what_others_have_made_is_in_nobodys_way(server, url, role, raw, open_one):
    """Nobody's operators are called from the first statement of a session on, and none gets into a new store."""
    raw(TRAPS)
    raw(f"ALTER ROLE {role} SET search_path = odd")

    use_all_verbs(open_one(url.replace("postgres@", f"{role}@")))


def test_a_store_made_behind_a_pooler_keeps_nothing_of_its_path(server, url, schema, role, raw, open_one):
    """Which nobody else can write to; the checks of its tables are the server's own."""
    raw(TRAPS)
    with database_with(raw, ["search_path = odd"]), pooler_of(server) as port:
        made = open_one(url.replace(f":{server.port}/", f":{port}/"))
        assert made.pooled

    kept = """
        SELECT pg_describe_object(classid, objid, objsubid)
          FROM pg_depend
          JOIN pg_operator AS o ON refclassid = 'pg_operator'::regclass AND refobjid = o.oid
         WHERE o.oprnamespace = 'odd'::regnamespace
        """
    assert [] == raw(kept)
    use_all_verbs(open_one(server.url(schema)))


@pytest.mark.parametrize("path", ["odd, pg_catalog", "pg_catalog, odd"])
def test_a_pooler_with_others_on_its_path_is_refused(store, server, schema, raw, role, path):
    """Schemas that come before the server's own, and those in which others may make functions and operators."""
    if path.startswith("pg_catalog"):
        raw("GRANT CREATE ON SCHEMA odd TO PUBLIC")
    with database_with(raw, [f"search_path = {path}"]), pooler_of(server) as port:
        with pytest.raises(StoreRefused, match="has the schema odd on its search_path behind a pooler"):
            open_store(server.url(schema, port))


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("array_nulls", "off", "on"),
        ("extra_float_digits", "0", "1"),
        ("synchronous_commit", "off", "on"),
        ("default_transaction_isolation", "serializable", "read committed"),
        ("standard_conforming_strings", "off", "on"),
    ],
)
def test_a_session_that_cannot_be_set_up_is_refused(store, server, schema, raw, name, value, wanted):
    """Behind a pooler in transaction mode, where a session is anybody's."""
    with database_with(raw, [f"{name} = '{value}'"]), pooler_of(server) as port:
        with pytest.raises(StoreRefused, match=f"{name} = {value} behind a pooler. Set it to '{wanted}'"):
            open_store(server.url(schema, port))


def test_a_pooler_with_odd_timeouts_and_formats_will_do(store, server, schema, raw, pooled_oddly):
    """What only changes how values are written is nothing to us."""
    pooled_oddly.register(worker("w9"))
    pooled_oddly.add([spec(run_at=T0 + 0.123456)], T0)

    assert pooled_oddly.pooled
    assert ["job1"] == claim_ids(pooled_oddly.claim("w9", 1, (), T0 + 1))
    assert T0 + 0.123456 == pooled_oddly.get("job1").run_at


@pytest.fixture
def pooled_oddly(store, server, schema, raw):
    """The store behind a pooler, with the settings that need not be refused."""
    names = ["TimeZone", "DateStyle", "IntervalStyle", "bytea_output", "row_security"]
    settings = [f"{name} = {ODD[name]!r}" for name in names]
    with database_with(raw, settings), pooler_of(server) as port:
        with contextlib.closing(open_store(server.url(schema, port))) as opened:
            yield opened


def test_a_program_may_have_psycopg_convert_in_its_own_way(url):
    """Lists to JSON and numbers to decimals, say, for all its connections: queuectl's convert as they always do."""
    program = """
import sys
import psycopg
from psycopg.types.json import JsonbDumper
from psycopg.types.numeric import NumericLoader
from psycopg.types.string import ByteaLoader

psycopg.adapters.register_dumper(list, JsonbDumper)
psycopg.adapters.register_loader("float8", NumericLoader)
psycopg.adapters.register_loader("text", ByteaLoader)
from queuectl import Queue

with Queue(sys.argv[1]) as queue:
    ids = queue.enqueue_many(["true", {"command": "true", "id": "given", "timeout": 5}])
    print(*ids, queue.get("given").timeout_s, queue.status().jobs["pending"], *queue.cancel(*ids).values())
"""
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, check=False)
    assert (b"job1 given 5.0 2 cancelled cancelled", b"") == (done.stdout.strip(), done.stderr)
