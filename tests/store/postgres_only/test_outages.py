"""The server goes away and comes back: backends are killed, it is restarted, it crashes."""

from __future__ import annotations

import collections
import signal
import subprocess
import sys
import threading
import time

import pytest

from queuectl.db import open_store
from queuectl.errors import StoreUnavailable
from queuectl.job import Outcome
from tests.postgres_server import fresh_schema
from tests.store.build import EVERYTHING, T0, completed, spec, specs, worker

KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'queuectl' AND pid % %s = 0"


@pytest.fixture
def frail_url(frail_server):
    """A fresh store on the server that is stopped in these tests."""
    with fresh_schema(frail_server) as url:
        yield url


class Hand(threading.Thread):
    """A worker in a thread: claims and completes until it is told to stop, through any trouble."""

    def __init__(self, url, name):
        super().__init__()
        self.name = name
        self.accepted = []
        self.troubles = []
        self.error = None
        self.stop = False
        self._store = open_store(url)
        self._store.register(worker(name))

    def run(self):
        claims, ended = [], []
        try:
            while not self.stop or claims or ended:
                ended += [completed(claim, T0) for claim in claims]
                claims = []
                try:
                    answer = self._store.finish(self.name, ended, 0 if self.stop else 3, (), T0)
                except StoreUnavailable as trouble:
                    self.troubles.append(str(trouble))
                    time.sleep(0.02)
                    continue
                self.accepted += [end[0].run_id for end, good in zip(ended, answer.accepted) if good]
                ended, claims = [], answer.claims
                if not claims:
                    time.sleep(0.002)
            while True:
                try:
                    return self._store.unregister(self.name)
                except StoreUnavailable:
                    time.sleep(0.02)
        except BaseException as error:
            self.error = error
        finally:
            self._store.close()


def add_through(store, count, added, spoken):
    """Add jobs one at a time; what may be stored without our knowing is told in so many words."""
    for _ in range(count):
        try:
            added += store.add([spec()], T0)
        except StoreUnavailable as trouble:
            spoken.append(str(trouble))
            time.sleep(0.02)


@pytest.fixture
def shaken(frail_server, frail_url):
    """Let three hands work and one add while *trouble* is called again and again; hold the end to the promises."""

    def shake(trouble, times):
        store = open_store(frail_url)
        hands = [Hand(frail_url, f"hand{number}") for number in range(3)]
        added, spoken = store.add(specs(300), T0), []
        for hand in hands:
            hand.start()
        adder = threading.Thread(target=add_through, args=(store, 300, added, spoken))
        adder.start()
        for _ in range(times):
            time.sleep(0.25)
            trouble()
        adder.join()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and work_left(store):
            time.sleep(0.02)
        for hand in hands:
            hand.stop = True
        for hand in hands:
            hand.join(30)
        assert [None] * 3 == [hand.error for hand in hands]
        hold(store, hands, added, spoken)
        store.close()
        return hands, spoken

    return shake


def work_left(store):
    """Return how much there is to do, as far as that can be told."""
    try:
        return store.work_left()
    except StoreUnavailable:
        return 1


def hold(store, hands, added, spoken):
    """Every acknowledged job is there and done, by one run whose end was accepted once; nothing is damaged."""
    jobs = {job.id: job for job in store.jobs(EVERYTHING, limit=10_000)}
    assert set(added) <= set(jobs)
    assert len(added) == len(set(added))
    unknown = sum("not known" in text for text in spoken)
    assert len(jobs) - len(added) <= unknown
    assert {"completed"} == {job.state for job in jobs.values()}
    accepted = collections.Counter(run_id for hand in hands for run_id in hand.accepted)
    assert {1} == set(accepted.values())
    assert len(jobs) == len(accepted)
    for job_id in jobs:
        outcomes = [run.state for run in store.runs(job_id)]
        assert Outcome.COMPLETED == outcomes[-1]
        assert {Outcome.STOPPED} >= set(outcomes[:-1])
    assert [] == store.check()


@pytest.mark.slow
def test_killed_backends_lose_and_double_nothing(frail_server, shaken):
    """A third of all connections at a time, every quarter of a second."""
    turn = iter(range(1000))

    hands, _ = shaken(lambda: frail_server.execute(KILL.replace("% %s", "%% %s"), 1 + next(turn) % 3), 12)

    assert any(hand.troubles for hand in hands)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_a_restarted_server_loses_and_doubles_nothing(frail_server, shaken, how):
    """All sessions are ended, in order or as by a crash, and come back by themselves."""
    hands, _ = shaken(lambda: frail_server.restart(how), 4)

    assert all(hand.troubles for hand in hands)


def test_a_server_that_is_down_is_told_once_and_comes_back_by_itself(frail_server, frail_url):
    """StoreUnavailable while it is away; the first call after that works, and the settings of the session are there."""
    store = open_store(frail_url)
    store.add([spec()], T0)
    frail_server.stop()
    try:
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="^(cannot reach|lost the connection to) postgresql://postgres@"):
                store.add([spec()], T0)
    finally:
        frail_server.start()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert ["job2"] == store.add([spec()], T0)
            break
        except StoreUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    assert "off" == store._connected().execute("SHOW enable_seqscan").fetchone()[0]
    store.close()


@pytest.mark.parametrize("step", ["greet", "look closer"])
def test_a_connection_that_breaks_while_it_is_prepared_is_lost_like_any_other(frail_url, monkeypatch, step):
    """Each statement of the greeting may be the one: never psycopg's own error, which would end a supervisor."""
    from queuectl.db import postgres_session
    from queuectl.db.postgres_schema import PostgresSchema

    store = open_store(frail_url)
    store.add([spec()], T0)
    store._drop()
    breaking = "SELECT pg_terminate_backend(pg_backend_pid());"
    with monkeypatch.context() as patch:
        if step == "greet":
            patch.setattr(postgres_session, "_greet", lambda _pid: breaking)
        else:
            patch.setattr(PostgresSchema, "_first_look", breaking)
        with pytest.raises(StoreUnavailable, match="lost the connection"):
            store.work_left()

    assert 1 == store.work_left()
    store.close()


def test_attempts_to_reconnect_are_spaced(frail_server, frail_url):
    """A hundred calls while the server is down make few connection attempts."""
    store = open_store(frail_url)
    frail_server.stop()
    attempts = []
    connect = type(store)._open

    def counted(self):
        if time.monotonic() >= self._not_before_s:
            attempts.append(time.monotonic())
        return connect(self)

    type(store)._open = counted
    try:
        for _ in range(100):
            with pytest.raises(StoreUnavailable):
                store.work_left()
            time.sleep(0.005)
    finally:
        type(store)._open = connect
        frail_server.start()
        store.close()

    assert 1 <= len(attempts) <= 8


def test_a_server_that_refuses_more_connections_is_unavailable(frail_server, frail_url):
    """Too many clients: a sentence, and later it goes."""
    import psycopg

    store = open_store(frail_url)
    lines = []
    try:
        while True:
            lines.append(psycopg.connect(frail_url.partition("?")[0]))
    except psycopg.OperationalError:
        pass
    try:
        with pytest.raises(StoreUnavailable, match="too many clients"):
            open_store(frail_url)
        assert ["job1"] == store.add([spec()], T0)
    finally:
        for line in lines:
            line.close()
        store.close()


def test_a_store_that_somebody_holds_locked_is_busy(frail_server, frail_url):
    """Nobody waits for ever for a transaction that does not end, and the server ends one that stands still."""
    import psycopg

    store = open_store(frail_url)
    waits = store._connected().execute("SHOW lock_timeout").fetchone()[0]
    ends = store._connected().execute("SHOW idle_in_transaction_session_timeout").fetchone()[0]
    store._connected().execute("SET lock_timeout = '0.1s'")
    with psycopg.connect(frail_url.partition("?")[0]) as holder:
        holder.execute(f"SELECT 1 FROM {store.schema}.numbers FOR UPDATE")
        with pytest.raises(StoreUnavailable, match="was busy for 30 s"):
            store.add([spec()], T0)
        with pytest.raises(StoreUnavailable, match="was busy for 30 s"):
            store.add(specs(2), T0)

    assert (["job1"], "30s", "1min") == (store.add([spec()], T0), waits, ends)
    store.close()


def test_a_standby_can_be_looked_at_and_says_that_it_is_read_only(frail_server, frail_url):
    """A role whose transactions are read-only stands for a standby: the answer is the same."""
    store = open_store(frail_url)
    store.add([spec()], T0)
    store._connected().execute("SET default_transaction_read_only = on")

    assert 1 == store.work_left()
    with pytest.raises(StoreUnavailable, match="is read-only now"):
        store.add([spec()], T0)
    store.close()


def test_a_limit_of_threads_is_an_outage():
    """A worker's connection opens in a thread; where none can be started it is another time, and the worker goes on."""
    code = (
        "import os, resource, psycopg; from queuectl.db.postgres_line import Opening; "
        "os.geteuid() or os.setuid(65534); resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)); "
        "opening = Opening({'host': '127.0.0.1', 'port': '1'}); assert opening.done.wait(10)\n"
        "try: opening.result(1.0, None)\n"
        "except psycopg.OperationalError as error: print(error)"
    )

    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)

    assert b"can't start new thread\n" == done.stdout
