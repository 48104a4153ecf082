"""The function ``queuectl.enqueue``: what any language may call inside its own transaction."""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import threading

import psycopg
import pytest

from queuectl import InvalidJob, Queue
from queuectl.db import postgres_schema
from queuectl.db.migrate import migrations
from queuectl.jobspec import from_fields


@pytest.fixture
def ask(raw, store):
    """Call the function as superuser and return the id; *options* as Python values or as JSON text."""

    def call(command, options=None):
        text = options if isinstance(options, str) or options is None else json.dumps(options)
        if text is None:
            return raw("SELECT {s}.enqueue(%s)", command)[0][0]
        return raw("SELECT {s}.enqueue(%s, %s::jsonb)", command, text)[0][0]

    return call


ALL = {
    "id": "mine", "queue": "mail", "priority": -7, "max-retries": 0, "backoff_base": 1.5, "timeout": "2h30m",
    "delay": "1.5h", "cwd": "/tmp", "env": {"K": 'v é "\\'}, "tags": ["b", "a", "b"],
}  # fmt: skip


def test_a_job_is_the_same_as_one_from_python(ask, store):
    """Every field comes to the same value, and the default ones are the defaults."""
    store.set_setting("max_retries", "9")
    (plain, rich) = (store.get(ask("echo hi")), store.get(ask("echo hi", ALL)))
    store.cancel(["mine"])
    store.prune(_everything())
    expected = from_fields({"command": "echo hi", **ALL}, "/")
    (other_id,) = store.add([from_fields({"command": "echo hi", **ALL, "id": "yours"}, "/")])
    other = store.get(other_id)

    assert ("job1", "pending", "default", 9, "/", {}, []) == (
        plain.id, plain.state, plain.queue, plain.max_retries, plain.cwd, plain.env, plain.tags,
    )  # fmt: skip
    assert plain.run_at == plain.created_at
    same = ("queue", "priority", "max_retries", "backoff_base", "timeout_s", "cwd", "env", "tags", "state")
    assert [getattr(other, name) for name in same] == [getattr(rich, name) for name in same]
    assert expected.delay_s == pytest.approx(rich.run_at - rich.created_at)
    assert "job2" == ask("true")


def test_calls_in_savepoints_leave_no_lock_for_the_next_to_read(store, server, schema):
    """As in blocks with EXCEPTION; a row's next version would bear those of all before."""
    with psycopg.connect(server.url().partition("?")[0]) as line:
        for _ in range(3):
            with line.transaction():
                line.execute(f"SELECT {schema}.enqueue('true')")
        lockers = line.execute(f"SELECT n.xmax, c.xmax FROM {schema}.numbers AS n, {schema}.counts AS c").fetchall()

    assert [("0", "0")] == lockers


def _everything():
    from queuectl import JobFilter

    return JobFilter()


@pytest.mark.parametrize(
    "options",
    [
        {"nme": 1}, {"state": "dead"}, {"id": "-x"}, {"id": "a b"}, {"id": 3}, {"id": "x" * 129}, {"queue": "é"},
        {"priority": "1"}, {"priority": 1.5}, {"priority": 2**31}, {"max_retries": -1}, {"max_retries": True},
        {"backoff_base": 0.5}, {"backoff_base": "2"}, {"timeout": 0}, {"timeout": "soon"}, {"timeout": -1},
        {"delay": "-5"}, {"delay": "1x"}, {"delay": "1e3"}, {"delay": 10**12}, {"run_at": "tomorrow"},
        {"run_at": "2030-13-01"}, {"run_at": 12}, {"run_at": "1969-01-01"}, {"run_at": "2030-01-01", "delay": 1},
        {"cwd": ""}, {"cwd": 1}, {"env": {"K": 1}}, {"env": {"": "x"}}, {"env": {"A=B": "x"}}, {"env": ["K"]},
        {"env": {"QUEUECTL_RUN_ID": "1"}}, {"env": {"K": "x" * 140000}}, {"tags": "a"}, {"tags": ["a b"]},
        {"tags": [1]}, {"tags": ["t"] * 101}, {"max-retries": 1, "max_retries": 1}, [1], "7",
    ],
)  # fmt: skip
def test_what_python_refuses_it_refuses(ask, store, options):
    """With a sentence that names the field; nothing is stored, no number is used up."""
    if isinstance(options, dict):
        with pytest.raises(InvalidJob):
            from_fields({"command": "true", **options}, "/")

    with pytest.raises(psycopg.DataError) as refused:
        ask("true", options)

    assert "22023" == refused.value.sqlstate
    if isinstance(options, dict) and "nme" not in options:
        assert next(iter(options)).replace("-", "_") in str(refused.value)
    assert "job1" == ask("true")


@pytest.mark.parametrize("command", [None, "", " \n\t", "x" * 131072])
def test_commands_that_are_none(ask, command):
    """Blank, missing, or longer than a shell takes."""
    with pytest.raises(psycopg.DataError, match="job field 'command'"):
        ask(command)


@pytest.mark.parametrize(
    "options", [{"delay": value} for value in ("90", "1.5h", "2h30m", "500ms", "1d 2h", 0, 0.25)]
    + [{"run_at": value} for value in ("2031-05-06T07:08:09.25Z", "2031-05-06 07:08+02", "2031-05-06T07:08:09-0330")],
)  # fmt: skip
def test_times_mean_the_same(ask, store, options):
    """As on the command line."""
    spec = from_fields({"command": "true", **options}, "/")

    job = store.get(ask("true", options))

    assert pytest.approx(spec.run_at or job.created_at + spec.delay_s, abs=0.001) == job.run_at


def test_nulls_are_as_if_not_given(ask, store):
    """For every option."""
    names = (
        "id",
        "queue",
        "priority",
        "max_retries",
        "backoff_base",
        "timeout",
        "run_at",
        "delay",
        "cwd",
        "env",
        "tags",
    )

    job = store.get(ask("true", dict.fromkeys(names)))

    assert ("job1", "default", 0, 3, "/") == (job.id, job.queue, job.priority, job.max_retries, job.cwd)
    assert "job2" == ask("true", "null")


def test_ids_are_shared_with_everybody(ask, store):
    """Given ones, generated ones, and those of the past, from both sides."""
    store.add([from_fields({"command": "a", "id": "job3"}, "/")])
    assert ["job1", "job2", "job4"] == [ask("true") for _ in range(3)]
    assert "job6" == ask("true", {"id": "job6"})
    assert "job5" == ask("true")
    assert ["job7"] == store.add([from_fields({"command": "a"}, "/")])
    for spent, why in (("job6", "is taken"), ("job7", "is taken")):
        with pytest.raises(psycopg.errors.UniqueViolation, match=f"the id {spent} {why}"):
            ask("true", {"id": spent})
    store.cancel(["job2"])
    store.prune(_everything())
    with pytest.raises(psycopg.errors.UniqueViolation, match="the id job2 was used by an earlier job"):
        ask("true", {"id": "job2"})
    assert "job8" == ask("true")


def test_it_is_in_the_callers_transaction(server, store, schema):
    """Rolled back, job and number are gone; committed, a listener is notified."""
    with psycopg.connect(server.url().partition("?")[0]) as line, line.cursor() as cursor:
        cursor.execute(f"SELECT {schema}.enqueue('true')")
        assert ("job1",) == cursor.fetchone()
        assert {} == store.states(["job1"])
        line.rollback()
        assert {} == store.states(["job1"])
        bell = store.doorbell()
        fd = bell.arm()
        bell.drain()
        cursor.execute(f"SELECT {schema}.enqueue('true')")
        line.commit()
    assert {"job1": "pending"} == store.states(["job1"])
    assert select.select([fd], [], [], 10)[0]


def test_many_callers_at_once(server, store, schema):
    """Numbers without gaps or twins."""

    def call():
        with psycopg.connect(server.url().partition("?")[0], autocommit=True) as line:
            for _ in range(50):
                line.execute(f"SELECT {schema}.enqueue('true')")

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {f"job{number}" for number in range(1, 201)} == {job.id for job in store.jobs(_everything())}


def test_a_role_that_may_only_enqueue(server, store, schema, raw):
    """Needs EXECUTE and nothing else; who has it not is refused."""
    role = f"{schema}_app"
    raw(f"CREATE ROLE {role} LOGIN")
    try:
        raw(f"GRANT USAGE ON SCHEMA {{s}} TO {role}")
        address = server.url().partition("?")[0].replace("postgres@", f"{role}@", 1)
        with psycopg.connect(address, autocommit=True) as line:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                line.execute(f"SELECT {schema}.enqueue('true')")
            raw(f"GRANT EXECUTE ON FUNCTION {{s}}.enqueue(text, jsonb) TO {role}")
            assert ("job1",) == line.execute(f"SELECT {schema}.enqueue('true')").fetchone()
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                line.execute(f"SELECT command FROM {schema}.jobs")
    finally:
        raw(f"DROP OWNED BY {role}")
        raw(f"DROP ROLE {role}")


def test_a_store_restored_without_its_rights_is_noticed(store, schema, raw):
    """As by pg_restore --no-acl: then all who may use the schema, to watch say, may enqueue; the advice helps."""
    raw("UPDATE pg_proc SET proacl = NULL WHERE oid = '{s}.enqueue(text, jsonb)'::regprocedure")

    (problem,) = store.check()

    assert f"any role that may use the schema {schema} may call {schema}.enqueue(text, jsonb)" in problem.what
    raw(problem.advice.partition(": ")[2])
    assert [] == store.check()
    assert [(False,)] == raw("SELECT has_function_privilege('public', '{s}.enqueue(text, jsonb)', 'EXECUTE')")


def test_from_psql(server, store, schema, url):
    """The lines of the documentation, and a worker's run of what they enqueued."""
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not installed; the statement is tested above")
    script = f"BEGIN; SELECT {schema}.enqueue('echo from psql', '{{\"queue\": \"mail\"}}'); COMMIT;"

    done = subprocess.run(
        [psql, "-X", "-q", "-t", "-A", server.url().partition("?")[0], "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
    )

    assert b"job1\n" == done.stdout
    with Queue(url) as queue:
        assert ("echo from psql", "mail") == (queue.get("job1").command, queue.get("job1").queue)


# -- strings with backslashes that mean something ---------------------------------------------


@pytest.fixture
def ask_old_style(server, schema):
    """Run SQL on a connection with ``standard_conforming_strings`` off; the store's schema stands for ``{s}``."""
    with psycopg.connect(server._direct(), autocommit=True, options="-c standard_conforming_strings=off") as line:
        yield lambda sql: line.execute(sql.replace("{s}", schema)).fetchone()[0]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("echo hi", "{}"),
        ("\t S", '{"delay": "1.5h", "timeout": "2m", "priority": -12, "max_retries": 3}'),
        ("true", '{"run_at": "2031-05-06T07:08:09.25Z", "cwd": "/tmp", "env": {"QUEUECTLxRUNxID": "1"}}'),
    ],
)
def test_it_reads_the_same_in_a_session_with_old_strings(ask, ask_old_style, store, command, options):
    """Commands, times, numbers and names; the patterns in the function are its own."""
    mine = store.get(ask(command, options))
    theirs = store.get(ask_old_style(f"SELECT {{s}}.enqueue('{command}', '{options}')"))

    same = ("command", "priority", "max_retries", "timeout_s", "cwd", "env", "state")
    assert [getattr(mine, name) for name in same] == [getattr(theirs, name) for name in same]
    assert pytest.approx(mine.run_at - theirs.run_at, abs=60) == 0


def test_a_number_is_taken_whatever_the_sessions_strings(ask, ask_old_style, store, raw):
    """The generated ids go past it: from SQL, and from Python."""
    ask_old_style("""SELECT {s}.enqueue('true', '{"id": "job2"}')""")

    assert [(2,)] == raw("SELECT number FROM {s}.taken_numbers")
    assert ["job1", "job3"] == [ask("true"), *store.add([from_fields({"command": "a"}, "/")])]


@pytest.mark.parametrize("size", [1, 3, 6000])
def test_a_number_that_nobody_noted_is_found_and_gone_past(ask, store, raw, size):
    """As older releases left some: doctor names them, and a new job that comes to one is given another."""
    ask("true", {"id": "job2"})
    ask("true", {"id": "job4"})
    raw("DELETE FROM {s}.taken_numbers")
    raw("UPDATE {s}.numbers SET has_taken = false")
    (problem,) = store.check()
    assert "job2, job4" in problem.what

    ids = [ask("true"), *store.add([from_fields({"command": "a"}, "/")] * size), ask("true")]

    assert ["job1", "job3", "job5"] == ids[:3] or size == 6000  # a large batch has drawn its numbers in vain
    assert size + 2 == len(set(ids))
    assert [] == store.check()


def test_the_advice_about_a_number_that_nobody_noted_helps(ask, store, raw):
    """Even for the very next number."""
    ask("true", {"id": "job2"})
    raw("DELETE FROM {s}.taken_numbers")
    raw("UPDATE {s}.numbers SET has_taken = false, next_number = 2")
    (problem,) = store.check()

    raw(problem.advice.partition(": ")[2])

    assert [] == store.check()
    assert ["job3", "job4"] == [*store.add([from_fields({"command": "a"}, "/")]), ask("true")]


def test_a_session_that_called_it_before_the_upgrade_is_cured_too(monkeypatch, url, open_one, ask_old_style, raw):
    """What a session has kept of the older functions is made anew, on a schema of any name."""
    older = [step for step in migrations("postgres") if step.number <= 5]
    with monkeypatch.context() as patched:
        patched.setattr(postgres_schema, "migrations", lambda _: older)
        patched.setattr(postgres_schema, "NEWEST", 5)
        open_one(url)
    assert "job16" == ask_old_style("""SELECT {s}.enqueue('echo S', '{"id": "job16"}')""")
    assert [] == raw("SELECT number FROM {s}.taken_numbers")

    store = open_one(url)

    assert "job17" == ask_old_style("""SELECT {s}.enqueue('ls', '{"id": "job17"}')""")
    assert [(17,)] == raw("SELECT number FROM {s}.taken_numbers")
    ids = store.add([from_fields({"command": "a"}, "/")] * 17)
    assert ["job15", "job18", "job19"] == ids[-3:]
