"""Making and opening a PostgreSQL store: by many at once, with few rights, and what is refused."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from queuectl import Queue, copying, recovery
from queuectl.db import migrate, open_store, postgres_schema
from queuectl.db.postgres import parse_url
from queuectl.errors import MissingExtra, StoreError, StoreRefused, StoreUnavailable
from queuectl.job import JobFilter
from tests.postgres_server import need_postgres
from tests.store.build import EVERYTHING, T0, completed, spec, worker

ADD_ONE = """
import sys
from queuectl.db import open_store
from queuectl.jobspec import JobSpec
sys.stdin.readline()
store = open_store(sys.argv[1])
print(store.store_id, *store.add([JobSpec("true", "/")]))
"""

SECRET = "s3cr3t-pass"


@pytest.fixture(autouse=True)
def _postgres():
    need_postgres()


# -- making -----------------------------------------------------------------------------------


def test_many_processes_make_one_store(url, start):
    """Eight at the same moment: one makes the tables, all see the same store, and no number is lost."""
    processes = [start(ADD_ONE, url) for _ in range(8)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate() for process in processes]

    assert [""] * 8 == [err for _, err in answers]
    lines = [out.split() for out, _ in answers]
    assert 1 == len({store_id for store_id, _ in lines})
    assert {f"job{number}" for number in range(1, 9)} == {job_id for _, job_id in lines}


def test_the_newest_migration_is_the_one_that_this_version_writes():
    """The number in the code is that of the last file."""
    assert postgres_schema.NEWEST == migrate.migrations("postgres")[-1].number


def test_an_empty_schema_is_filled(url, raw):
    """An administrator may have made the schema beforehand."""
    raw("CREATE SCHEMA {s}")

    with_store(url, lambda store: store.add([spec()], T0))


def test_two_schemas_are_two_stores(server, url, open_one):
    """Ids, jobs and wake-ups are apart."""
    other_url = url + "b"
    first, second = open_one(url), open_one(other_url)
    try:
        assert first.store_id != second.store_id
        assert ["job1"] == first.add([spec()], T0) == second.add([spec()], T0)
        assert first.channel != second.channel
    finally:
        second.close()
        server.execute(f"DROP SCHEMA {second.schema} CASCADE")


def with_store(url, body):
    """Open a store, do something with it, close it."""
    store = open_store(url)
    try:
        return body(store)
    finally:
        store.close()


# -- refusing ---------------------------------------------------------------------------------


def test_a_newer_schema_is_refused(store, url, raw):
    """What a later release wrote is not touched."""
    raw("INSERT INTO {s}.schema_version VALUES (999, 'x', 0)")

    with pytest.raises(StoreRefused, match="newer queuectl .schema 999"):
        open_store(url)

    raw("DELETE FROM {s}.schema_version WHERE n = 999")


def test_another_programs_schema_is_refused(url, raw):
    """Its tables stay as they are, and none of ours comes in."""
    raw("CREATE SCHEMA {s}")
    raw("CREATE TABLE {s}.schema_version (version text)")
    raw("CREATE TABLE {s}.jobs (id int)")

    with pytest.raises(StoreRefused, match="another program's tables"):
        open_store(url)

    assert [("jobs",), ("schema_version",)] == raw(
        "SELECT relname FROM pg_class WHERE relnamespace = '{s}'::regnamespace AND relkind = 'r' ORDER BY 1"
    )


def test_a_store_without_its_row_is_refused(store, url, raw):
    """Half a store is no store."""
    rows = raw("DELETE FROM {s}.store RETURNING store_id, created_at")
    try:
        with pytest.raises(StoreRefused, match="not a complete queuectl store"):
            open_store(url)
    finally:
        raw("INSERT INTO {s}.store (store_id, created_at) VALUES (%s, %s)", *rows[0])


def test_a_store_that_lost_a_table_is_refused(store, raw):
    """The message names what is missing; no trouble that goes away by itself."""
    raw("ALTER TABLE {s}.output RENAME TO hidden")
    try:
        with pytest.raises(StoreRefused, match="output"):
            store.output(1)
    finally:
        raw("ALTER TABLE {s}.hidden RENAME TO output")


def test_a_store_that_was_replaced_is_refused(store, raw):
    """After a lost connection another store answers under the same name: nothing is written into it."""
    raw("UPDATE {s}.store SET store_id = 'other'")
    kill_backends(raw)

    with pytest.raises(StoreRefused, match="was replaced by another one"):
        store.add([spec()], T0)

    raw("UPDATE {s}.store SET store_id = %s", store.store_id)


def test_a_store_that_vanished_is_not_made_anew(store, raw, schema):
    """After a lost connection its schema is gone: a new store would be in the way of a restored one."""
    raw("ALTER SCHEMA {s} RENAME TO {s}_away")
    kill_backends(raw)

    with pytest.raises(StoreRefused, match="has vanished"):
        store.add([spec()], T0)

    assert [] == raw("SELECT 1 FROM pg_namespace WHERE nspname = %s", schema)
    raw("ALTER SCHEMA {s}_away RENAME TO {s}")
    assert ["job1"] == store.add([spec()], T0)


def kill_backends(raw):
    """End the connections of all stores."""
    raw("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'queuectl'")


def test_a_database_in_another_encoding_is_refused(server):
    """Text of any kind has to fit in."""
    server.execute("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        with pytest.raises(StoreRefused, match="encoding LATIN1"):
            open_store(server.url().replace("/postgres?", "/latin?"))
    finally:
        server.execute("DROP DATABASE latin")


@pytest.fixture
def with_setting(server, store, schema, raw):
    """Return the URL of the store for a role for which a setting is another."""
    role = f"odd_{schema}"
    raw(f"CREATE ROLE {role} LOGIN SUPERUSER")

    def url(setting):
        raw(f"ALTER ROLE {role} SET {setting}")
        return server.url(schema, user=role)

    yield url
    raw(f"DROP ROLE {role}")


def test_output_is_kept_as_it_is_where_strings_are_of_the_old_kind(store, with_setting, open_one):
    """The driver doubles backslashes there, and bytes are sent with some: our sessions are of the new kind."""
    other = open_one(with_setting("standard_conforming_strings = off"))
    other.add([spec()], T0)
    (claim,) = other.claim("w1", 1, (), T0)

    other.append_output(claim.run_id, [(0, b"\xfc \\ n\n")])

    assert [(0, b"\xfc \\ n\n")] == store.output(claim.run_id)


@pytest.mark.parametrize("name", ["", "A", "a-b", "a b", "1a", "pg_x", "x" * 41, "a;drop", 'a"b', "ä"])
def test_a_schema_must_have_a_plain_name(server, name):
    """It stands in statements."""
    with pytest.raises(StoreRefused, match="schema"):
        open_store(server.url(name))


@pytest.mark.parametrize("name", ["out", "user", "order", "default", "values", "int", "char", "between", "left"])
def test_a_schema_is_not_named_as_a_word_of_sql(server, name):
    """Statements would mean something else; nothing is made."""
    with pytest.raises(StoreRefused, match=f"must not be named {name}: that is an SQL keyword"):
        open_store(server.url(name))

    assert [] == server.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", name)


@pytest.mark.parametrize("name", ["work", "name", "text", "temporary"])
def test_a_schema_may_be_named_as_what_is_a_word_only_at_its_place(server, open_one, name):
    """Such as ``BEGIN WORK``."""
    store = open_one(server.url(name))
    try:
        assert ["job1"] == store.add([spec()], T0)
        assert [] == store.check()
    finally:
        store.close()
        server.execute(f"DROP SCHEMA {name} CASCADE")


# -- messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@127.0.0.1:1/db",
        f"postgresql://me:{SECRET}@127.0.0.1:port/db",
        f"postgresql://me:%{SECRET}@127.0.0.1/db",
        f"postgresql://127.0.0.1:1/db?user=me&password={SECRET}",
        f"postgresql://127.0.0.1:1/db?passwort={SECRET}",
        f"postgresql://me:pa@{SECRET}@127.0.0.1:1/db",
        f"postgresql://me:pa/{SECRET}@127.0.0.1:1/db",
        f"postgresql://me:123/{SECRET}@127.0.0.1:1/db",
        f"postgresql://me:{SECRET}/more@127.0.0.1:1/db",
        f"postgresql://me:pa?{SECRET}@127.0.0.1:1/db",
        f"postgresql://me:pa#{SECRET}@127.0.0.1:1/db",
        f"postgresql://me:pa?schema={SECRET}@127.0.0.1:1/db",
        f"postgresql://127.0.0.1:1/db?user=me&password=pa&{SECRET}",
        f"postgresql://127.0.0.1:1/db?user=me&password=pa&{SECRET}=more",
        f"postgresql://me:{SECRET}",
        f"postgresql:/me:{SECRET}@127.0.0.1/db",
        f"postgres:me:{SECRET}@127.0.0.1/db",
        f"postgresql+psycopg://me:{SECRET}@127.0.0.1/db",
    ],
)
def test_no_message_shows_a_password(url):
    """Neither a wrong URL nor a server that is not there brings it to light."""
    with pytest.raises(StoreError) as told:
        open_store(url)

    assert SECRET not in str(told.value)


@pytest.mark.parametrize("place", [f"me:{SECRET}@h.invalid/d", f"h.invalid/d?password={SECRET}", f"me:{SECRET}/@h/d"])
def test_verbose_shows_no_password(cli, place):
    """Wherever it stands in the URL, also in one that cannot be read."""
    said = cli("-v", "--db", f"postgresql://{place}", "status", code=1).err

    assert "queuectl: the store is postgresql://" in said
    assert SECRET not in said


def test_a_location_for_messages_has_no_password():
    """User, host, port, database and schema are enough to know which store it is."""
    given = f"postgresql://me:{SECRET}@db.example:5433/work?sslmode=require&schema=other"

    address = parse_url(given)

    assert "postgresql://me@db.example:5433/work?schema=other" == address.location
    assert (SECRET, "require", "5433") == tuple(address.parameters[key] for key in ("password", "sslmode", "port"))


def test_several_hosts_are_shown_as_they_are_written():
    """Each with its port."""
    assert "postgresql://me@a:1,b:2/d" == parse_url("postgresql://me@a:1,b:2/d").location
    assert "postgresql://a,b/d" == parse_url("postgresql://a,b/d").location


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://me@[::1]:5433/d", "postgresql://me@[::1]:5433/d"),
        ("postgresql://[fe80::1]:4,b:5/d", "postgresql://[fe80::1]:4,b:5/d"),
        ("postgresql://me%40shop:x@h/a%3Fb%2Fc%20d%1B", "postgresql://me%40shop@h/a%3Fb%2Fc%20d%1B"),
        ("postgresql:///d?host=/run/a:b&user=me", "postgresql://me@%2Frun%2Fa%3Ab/d"),
    ],
)
def test_what_is_shown_can_be_typed(given, shown):
    """It names the same store, whatever signs are in it."""
    assert shown == parse_url(given).location
    assert shown == parse_url(shown).location


def test_a_parameter_that_libpq_does_not_know_is_named():
    """Other drivers have their own; nobody looks for a wrong sign in the password then."""
    with pytest.raises(StoreRefused, match="^the store's URL has the parameter pgbouncer, which libpq does not know"):
        parse_url(f"postgresql://me:{SECRET}@h/d?sslmode=require&pgbouncer=true")


def test_a_server_that_the_environment_names_is_named_in_an_error(monkeypatch):
    """The URL does not say where that is."""
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", "1")

    with pytest.raises(StoreUnavailable, match='server at "127.0.0.1", port 1 failed: Connection refused'):
        open_store("postgresql://")


def test_what_the_url_says_goes_before_our_defaults():
    """Whoever knows the network better may set other limits."""
    assert "3" == parse_url("postgresql://h/d?connect_timeout=3").parameters["connect_timeout"]


def test_files_in_the_url_are_found_from_everywhere(monkeypatch, tmp_path):
    """A worker connects again from the directory of some job; what names no file is left as it is."""
    monkeypatch.chdir(tmp_path)
    named = "sslrootcert=certs/ca.pem&sslcert=/etc/client.pem&passfile=../pass&sslkey=engine:key"

    found = parse_url(f"postgresql://h/d?{named}").parameters

    assert str(tmp_path / "certs" / "ca.pem") == found["sslrootcert"]
    assert str(tmp_path.parent / "pass") == found["passfile"]
    assert ("/etc/client.pem", "engine:key") == (found["sslcert"], found["sslkey"])
    assert "system" == parse_url("postgresql://h/d?sslrootcert=system").parameters["sslrootcert"]
    assert not {"sslcrl", "sslkeylogfile"} & found.keys()


def test_a_server_that_is_not_there_is_unavailable():
    """It may come back."""
    with pytest.raises(StoreUnavailable, match="^cannot reach postgresql://me@127.0.0.1:1/db: "):
        open_store("postgresql://me@127.0.0.1:1/db")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda url: url.replace("/postgres?", "/nope?"), 'database "nope" does not exist'),
        (lambda url: url.replace("postgres@", "nobody@"), 'role "nobody" does not exist'),
        (lambda url: url + "&sslmode=require", "server does not support SSL, but SSL was required"),
    ],
)
def test_why_a_server_cannot_be_reached_is_said_once(url, change, why):
    """The place is in front already."""
    with pytest.raises(StoreUnavailable) as told:
        open_store(change(url))

    assert str(told.value).endswith(f": {why}.")
    assert "failed" not in str(told.value)


def test_without_psycopg_the_extra_is_named(monkeypatch):
    """The core runs without; who asks for PostgreSQL is told what to install."""
    for name in [name for name in sys.modules if name.startswith(("psycopg", "queuectl.db.postgres"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(MissingExtra, match="pip install 'queuectl\\[postgres\\]'"):
        open_store("postgresql://h/d")


def test_a_local_store_does_not_load_psycopg():
    """Nobody pays for a driver that is not used."""
    code = (
        "import sys; from queuectl.db import open_store; open_store('jobs.db').close(); "
        "sys.exit(any('psycopg' in name or 'postgres' in name for name in sys.modules))"
    )

    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode


# -- roles ------------------------------------------------------------------------------------

GRANTS = {
    "reader": ["SELECT ON ALL TABLES IN SCHEMA {s}"],
    "enqueuer": [
        "SELECT ON ALL TABLES IN SCHEMA {s}",
        "INSERT ON {s}.jobs, {s}.queues, {s}.counts, {s}.taken_numbers, {s}.needs",
        "UPDATE ON {s}.numbers, {s}.counts",
        "DELETE ON {s}.taken_numbers",
    ],
    "worker": [
        "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {s}",
        "USAGE ON ALL SEQUENCES IN SCHEMA {s}",
        "EXECUTE ON ALL FUNCTIONS IN SCHEMA {s}",
    ],
}


@pytest.fixture
def as_role(server, schema, store, raw, open_one):
    """Open the store as a role with the documented rights of a reader, an enqueuer or a worker."""
    made = []

    def open_as(kind):
        role = f"{kind}_{schema}"
        raw(f"CREATE ROLE {role} LOGIN")
        made.append(role)
        raw(f"GRANT USAGE ON SCHEMA {{s}} TO {role}")
        for grant in GRANTS[kind]:
            raw(f"GRANT {grant} TO {role}")
        return open_one(server.url(schema, user=role))

    yield open_as
    for role in made:
        raw(f"DROP OWNED BY {role}")
        raw(f"DROP ROLE {role}")


def test_the_documented_rights_are_the_ones_tested():
    """The how-to page names these and no others."""
    page = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "postgres.md"
    if not page.exists():
        pytest.skip("no checkout: an installed package has no docs")
    told = set(re.findall(r"^GRANT (.*);$", page.read_text(encoding="utf-8"), flags=re.M))

    tested = {f"{grant} TO {kind}".replace("{s}", "queuectl") for kind, grants in GRANTS.items() for grant in grants}
    assert told == tested | {f"USAGE ON SCHEMA queuectl TO {kind}" for kind in GRANTS}


def test_a_reader_looks_and_changes_nothing(store, as_role):
    """All looking verbs work; a writing one is refused with a sentence."""
    store.add([spec()], T0)
    reader = as_role("reader")

    assert ["job1"] == [job.id for job in reader.jobs(EVERYTHING)]
    assert (1, 1) == (reader.queues()[0].pending, reader.work_left())
    assert reader.next_due((), T0) is not None
    with pytest.raises(StoreRefused, match="this role is not allowed to do that"):
        reader.add([spec()], T0)
    with pytest.raises(StoreRefused, match="this role is not allowed to do that"):
        reader.cancel(["job1"], T0)


def test_who_may_not_hold_off_writers_hears_of_it_before_a_copy(as_role, raw, tmp_path):
    """It has to at the end, and a reader may not."""
    raw("DELETE FROM {s}.workers")
    with pytest.raises(StoreRefused, match="this role is not allowed to do that"):
        copying.copy(as_role("reader"), str(tmp_path / "copy.db"))
    assert [] == list(tmp_path.iterdir())


def test_an_enqueuer_adds_and_does_no_more(as_role):
    """One, a batch, given ids; but no claim, no cancel, no setting."""
    enqueuer = as_role("enqueuer")

    assert ["job1"] == enqueuer.add([spec()], T0)
    assert ["mine", "job3", "job2"] == enqueuer.add([spec(id="mine"), spec(id="job3"), spec()], T0)
    for call in (
        lambda: enqueuer.claim("w1", 1, (), T0),
        lambda: enqueuer.cancel(["job1"], T0),
        lambda: enqueuer.set_setting("max_retries", "1"),
        lambda: enqueuer.prune(JobFilter()),
    ):
        with pytest.raises(StoreRefused, match="this role is not allowed to do that"):
            call()


def test_a_worker_works(as_role, store):
    """Registers, claims, finishes, prunes, leaves; it cannot drop or empty tables."""
    store.add([spec(), spec()], T0)
    hand = as_role("worker")
    hand.register(worker("w3"))

    claims = hand.claim("w3", 1, (), T0)
    answer = hand.finish("w3", [completed(claims[0], T0)], 1, (), T0, [(claims[0].run_id, [(0, b"out")], None)])

    assert ([True], ["job2"]) == (answer.accepted, [claim.job.id for claim in answer.claims])
    assert 1 == hand.prune(EVERYTHING)
    assert hand.renew("w3", 30.0, 1.0)
    hand.finish("w3", [completed(answer.claims[0], T0)], now=T0)
    hand.unregister("w3")
    with pytest.raises(StoreRefused, match="reset needs TRUNCATE on jobs, .* 'Roles' in docs/how-to/postgres.md"):
        hand.refuse_reset()
    store.refuse_reset()
    with pytest.raises(StoreRefused, match="this role is not allowed to do that"):
        hand.reset()


def test_the_rights_are_enough_where_nobody_may_call_functions_by_default(as_role, store, raw):
    """As after ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC: a claim calls some."""
    raw("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {s} FROM PUBLIC")
    as_role("enqueuer").add([spec(), spec(queue="mail"), spec(queue="mail")], T0)
    hand = as_role("worker")
    hand.set_limit("mail", 1)

    claims = hand.claim("w1", 1, ("default",), T0) + hand.claim("w1", 1, ("mail",), T0)
    answer = hand.finish("w1", [completed(claims[1], T0)], 1, ("mail",), T0)

    assert ["job1", "job2"] == [claim.job.id for claim in claims]
    assert ["job3"] == [claim.job.id for claim in answer.claims]
    assert ["job2"] == [job.id for job in as_role("reader").jobs(JobFilter(states=("completed",)))]


def test_a_worker_may_copy_the_store(as_role, store, raw, tmp_path):
    """It reads all that a copy reads, to where the numbers of jobs and runs are, and writes none of it."""
    store.add([spec(), spec()], T0)
    store.finish("w1", [completed(claim, T0) for claim in store.claim("w1", 1, (), T0)], now=T0)
    raw("DELETE FROM {s}.workers")

    copied = copying.copy(as_role("worker"), str(tmp_path / "jobs.db"))

    assert (2, 1) == (copied.rows["jobs"], copied.rows["runs"])


def test_a_restored_copy_is_made_a_store_of_its_own(store, url, server, schema, raw, open_one):
    """By what the how-to page says: it has another id, and no worker of the other store is looked for."""
    page = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "postgres.md"
    if not page.exists():
        pytest.skip("no checkout: an installed package has no docs")
    (advice,) = re.findall(r"^psql copy -c '(.*)'$", page.read_text(encoding="utf-8"), flags=re.M)
    store.add([spec()], T0)
    store.claim("w1", 1, (), T0)

    raw(advice.replace("queuectl.", "{s}."))

    copy = open_one(url)
    assert re.fullmatch("[0-9a-f]{16}", copy.store_id)
    assert store.store_id != copy.store_id
    assert [] == copy.workers()
    assert [("job1", "pending")] == [(each.job_id, each.state) for each in recovery.sweep(copy)]


def test_a_forked_child_leaves_its_parent_s_connection_alone(url):
    """It has one of its own; the other's socket is neither read nor closed, however soon the child forgets it."""
    with Queue(url) as queue:
        queue.enqueue("parent")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                queue.enqueue("child")
                queue.close()
                gc.collect()
                code = 0
            finally:
                os._exit(code)
        status = os.waitpid(pid, 0)[1]
        queue.enqueue("parent")

        assert (0, ["parent", "child", "parent"]) == (status, [job.command for job in queue.jobs()])


@pytest.mark.posix
def test_who_may_not_reset_stops_nobody(as_role, store, server, schema, monkeypatch, cli, background, eventually):
    """It is known before the workers of all hosts are stopped."""
    as_role("worker").close()
    monkeypatch.setenv("QUEUECTL_DB", server.url(schema, user=f"worker_{schema}"))
    with background("worker", "start") as group:
        eventually(lambda: len(store.workers()) == 4)  # with w1, w2 and the supervisor

        refused = cli("reset", "--yes", code=1)

        assert "this role is not allowed to do that" in refused.err
        assert [0] * 4 == [store.orders(one.id).stop for one in store.workers()]
        assert group.running


def test_a_worker_after_a_new_release_says_who_has_to_upgrade(as_role, store, raw):
    """Its role changes no tables: the owner has to come first."""
    rows = raw("DELETE FROM {s}.schema_version WHERE n = %s RETURNING *", postgres_schema.NEWEST)
    try:
        with pytest.raises(StoreRefused, match=r"older queuectl .* as the role that owns its tables\.$"):
            as_role("worker")
    finally:
        raw("INSERT INTO {s}.schema_version VALUES (%s, %s, %s)", *rows[0])
