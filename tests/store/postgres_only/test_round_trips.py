"""How often a far server is waited for: each round trip is 80 ms to somebody, so none may be needless."""

from __future__ import annotations

import signal
import time

import pytest

from queuectl import recovery
from queuectl.config import Config
from queuectl.errors import StoreUnavailable
from queuectl.queue import Queue
from tests.store.build import EVERYTHING, T0, completed, spec, specs, worker
from tests.store.test_interrupted import Limit, cancel_nothing, interrupted

# To connect to a server without TLS, which is asked for it first, and without a password.
CONNECT = 2


@pytest.fixture
def trips(proxy):
    """Call something and return how many round trips it took."""

    def count(call):
        before = proxy.round_trips
        call()
        return proxy.round_trips - before

    return count


def test_a_store_is_opened_in_one_round_trip(store, server, schema, proxy, trips, open_one):
    """What the server is, the session's settings and the look at the store go together."""
    assert CONNECT + 1 == trips(lambda: open_one(server.url(schema, proxy.port)))


@pytest.mark.parametrize(
    ("verb", "most"),
    [
        (lambda far: far.add([spec()]), 1),
        (lambda far: far.add_one(spec()), 1),
        (lambda far: far.add(specs(3)), 4),  # the numbers, COPY and its data, the rest with the commit
        (lambda far: far.add([spec(id="mine")]), 4),
        (lambda far: far.set_limit("mail", 2), 2),
        (lambda far: far.set_paused("mail", True), 2),
        (lambda far: far.set_setting("max_retries", "2"), 2),
        (lambda far: far.cancel(["job1"]), 2),
        (lambda far: far.retry(["job2"]), 2),
        (lambda far: far.edit("job1", {"priority": 3}), 2),
        (lambda far: far.prune(EVERYTHING), 5),  # a look for each state that ends, and a transaction
        (lambda far: far.give_back("w1", []), 2),
        (lambda far: far.unregister("w2"), 2),
        (lambda far: far.find(["job1", "job2"]), 1),
        (lambda far: far.work_left(), 1),  # what is left and what is held, as of one moment
    ],
)
def test_a_change_takes_few_round_trips(store, far_store, trips, verb, most):
    """The begin goes with the first statement, and what needs no answer with the commit."""
    store.add(specs(2), T0)
    store.cancel(["job2"], T0)

    assert most >= trips(lambda: verb(far_store))


def test_an_enqueue_in_the_callers_transaction_takes_few_round_trips(server, schema, proxy, trips):
    """A savepoint before and after it; whether this is the store, and the job, which comes back at once."""
    import psycopg

    with Queue(server.url(schema)) as queue, psycopg.connect(server.url(port=proxy.port).partition("?")[0]) as far:
        far.execute("SELECT 1")
        assert 4 >= trips(lambda: queue.enqueue("true", connection=far))
        assert "job2" == queue.enqueue("true", connection=far).id


@pytest.mark.parametrize(
    "enqueue",
    [
        lambda queue, line, number: queue.enqueue("true", connection=line),
        lambda queue, line, number: queue.enqueue("true", id=f"mine{number}", connection=line),
        lambda queue, line, number: queue.enqueue_many(["true", "false"], connection=line),
    ],
    ids=["one", "a given id", "many"],
)
def test_an_enqueue_in_the_callers_transaction_leaves_no_lock_for_the_next_to_read(server, schema, enqueue):
    """Each would be a savepoint's; a row's next version bears those of the one before, and its own one more."""
    import psycopg

    with Queue(server.url(schema)) as queue, psycopg.connect(server.url().partition("?")[0]) as line:
        for number in range(3):
            enqueue(queue, line, number)
        lockers = line.execute(f"SELECT n.xmax, c.xmax FROM {schema}.numbers AS n, {schema}.counts AS c").fetchall()

    assert [("0", "0")] == lockers


def test_a_transaction_of_several_answers_is_refused_as_a_whole(store, far_store):
    """Statements that go out together are one transaction still: the last one's error undoes the first."""
    with pytest.raises(Exception, match="division by zero"):
        far_store._write(lambda run: [run("DELETE FROM queuectl.queues"), run("SELECT 1/0")])

    assert [] == far_store.check()
    far_store.set_paused("default", True)
    assert ["default"] == [queue.name for queue in store.queues()]


def test_a_statement_that_never_came_to_the_server_is_not_taken_for_prepared_there(store):
    """The driver has prepared what is repeated; here, just when a statement before it in the pipeline fails."""

    def fail():
        with pytest.raises(StoreUnavailable, match="division by zero"):
            store._write(lambda run: [run("SELECT 1/0"), run("SELECT 'often'")])

    def succeed():
        assert ("often",) == store._write(lambda run: run("SELECT 'often'").fetchone())

    for step in [fail, fail, *[succeed] * store._at_rest().prepare_threshold, fail, succeed]:
        step()


@pytest.mark.parametrize(
    "verb",
    [
        lambda store: store.add([spec()]),
        lambda store: store.get("job1"),
        lambda store: store.cancel(store.add(specs(2))),
        lambda store: store.finish("w1", [completed(claim) for claim in store.claim("w1", 1)], 0),
        lambda store: store.give_back("w1", [claim.run_id for claim in store.claim("w1", 2)]),
    ],
    ids=["add", "get", "cancel", "finish", "give back"],
)
def test_whoever_has_a_store_open_uses_it_when_it_was_restored(store, url, raw, open_one, verb):
    """Its types are other ones: what the driver had prepared before would fail on that connection for ever."""
    far, store_id = open_one(url), store.store_id
    store.add(specs(20))
    for _ in range(far._connected().prepare_threshold + 1):
        verb(far)

    raw("DROP SCHEMA {s} CASCADE")
    restored = open_one(url)
    restored.register(worker("w1"))
    restored.add(specs(20))
    raw("UPDATE {s}.store SET store_id = %s", store_id)

    assert verb(far)


def test_a_column_may_get_another_type_under_an_open_store(store, raw):
    """A prepared statement meets a row that is not of the kind it was prepared for, and does so ever after."""
    store.add(specs(4))
    for kind in ("varchar", "text", "varchar", "text"):
        assert store.claim("w1", 1)
        raw(f"ALTER TABLE {{s}}.jobs ALTER COLUMN command TYPE {kind}")


@pytest.mark.parametrize("event", ["call", "return"])
def test_what_comes_after_an_interrupted_wait_is_stored(store, open_one, url, event):
    """Statements that were under way when a signal's handler raised are undone, and are in nobody's way."""
    interrupted(lambda: cancel_nothing(store), "flush", event)

    assert ["job1"] == store.add([spec()], T0)
    assert ["job2"] == open_one(url).add([spec()], T0)


@pytest.mark.parametrize("name", ["_process_results", "_communicate_gen", "_exit_gen"])
def test_what_a_handler_raises_in_the_driver_comes_out_of_it(store, open_one, url, name):
    """The driver no longer knows which answer belongs to which statement: that connection is not used again."""
    interrupted(lambda: cancel_nothing(store), name, "call", "psycopg")

    assert ["job1"] == store.add([spec()], T0)
    assert ["job2"] == open_one(url).add([spec()], T0)


def test_a_look_after_an_interrupted_one_is_answered(store):
    """A statement of which nobody took the answer is still under way on the connection."""

    def handle(_number, _frame):
        raise Limit

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Limit):
            store._rows("SELECT pg_sleep(60)")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert {} == store.states(["job1"])


def test_many_jobs_are_waited_for_together(store, server, schema, proxy, trips):
    """One look at the states and one at the jobs, however many have ended."""
    ids = store.add(specs(20), T0)
    ended = [completed(claim, T0) for claim in store.claim("w1", 20, (), T0)]
    store.finish("w1", ended, now=T0)
    with Queue(server.url(schema, proxy.port)) as queue:
        assert trips(lambda: queue.wait_all(ids)) <= 2


def test_the_output_of_a_run_that_has_ended_is_read_once(store, server, schema, proxy, trips):
    """Following it takes a look at its runs, at the job, at the run, and at the output."""
    store.add([spec()], T0)
    (claim,) = store.claim("w1", 1, (), T0)
    store.append_output(claim.run_id, [(0, b"hello\n")])
    store.finish("w1", [completed(claim, T0)], now=T0)
    pieces = []
    with Queue(server.url(schema, proxy.port)) as queue:
        assert trips(lambda: pieces.extend(queue.follow("job1"))) <= 4

    assert b"hello\n" == b"".join(pieces)


def test_a_supervisor_that_has_read_settings_and_workers_asks_for_the_rest_alone(store, far_store, trips):
    """Twice in three seconds each group does so, busy or not."""
    config, workers = Config(far_store.settings()), far_store.workers()

    assert 1 == trips(lambda: recovery.sweep(far_store, False, None, config, workers))


def test_a_worker_looks_once_where_nothing_rang(store, open_one, url):
    """A second look behind the first is for what came before the bell hung, or was taken off it unseen."""
    bell = open_one(url).doorbell()
    found = []

    bell.arm()
    found.append(bell.missed)  # it has just begun to listen
    bell.arm()
    found.append(bell.missed)
    store.add([spec()])
    deadline = time.monotonic() + 10
    while not bell.missed and time.monotonic() < deadline:
        bell.arm()
    found.append(bell.missed)

    assert [True, False, True] == found
