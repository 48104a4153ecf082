"""LISTEN and NOTIFY: an idle worker is woken at once, a busy one is left alone, and a lost bell comes back."""

from __future__ import annotations

import select
import threading
import time

import pytest

from queuectl.db import postgres_bell
from tests.store.build import T0, completed, spec, specs

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")


def rings(fd, timeout_s=2.0):
    """Say whether the descriptor becomes readable in time."""
    return bool(select.select([fd], [], [], timeout_s)[0])


@pytest.fixture
def sleeper(store, open_one, url):
    """A second store that sleeps on its bell."""
    sleeper = open_one(url)
    sleeper.fd = sleeper.doorbell().arm()  # once: arming a bell takes the rings so far
    assert sleeper.fd is not None
    return sleeper


def wait_out(sleeper):
    """Wait until adds ring again."""
    time.sleep(postgres_bell.ECHO_S)
    sleeper.doorbell().hush()


CHANGES = {
    "add": lambda store: store.add([spec()]),
    "add a batch": lambda store: store.add(specs(3)),
    "add for later": lambda store: store.add([spec(delay_s=0.5)]),
    "retry": lambda store: store.retry(["gone"], now=T0),
    "edit": lambda store: store.edit("waits", {"delay_s": 0.0}, T0),
    "resume": lambda store: store.set_paused("default", False),
    "limit": lambda store: store.set_limit("default", 5),
    "retry_where": lambda store: store.retry_where(__import__("queuectl.job").job.JobFilter(("cancelled",)), T0),
    "release": lambda store: store.release_lost("w1", 3, T0),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_what_makes_work_ready_rings(store, sleeper, name):
    """After the commit, within milliseconds."""
    store.add([spec(id="gone"), spec(id="waits", delay_s=99.0), spec(id="runs", priority=9)], T0)
    store.cancel(["gone"], T0)
    store.claim("w1", 1, (), T0)
    store.condemn("w1", 100.0)
    wait_out(sleeper)

    CHANGES[name](store)

    assert rings(sleeper.fd)
    sleeper.doorbell().hush()
    assert not rings(sleeper.fd, 0)
    store.release_lost("w1", 3, T0)


def test_looking_and_ending_ring_nobody(store, sleeper):
    """A worker at work wakes no other."""
    store.add(specs(3), T0)
    wait_out(sleeper)

    claim = store.claim("w1", 1, (), T0)[0]
    store.finish("w1", [completed(claim, T0)], now=T0)
    store.renew("w1", 30.0, 5.0)
    store.orders("w1")

    assert not rings(sleeper.fd, 0.1)


def test_adds_in_quick_succession_ring_once_and_the_sleeper_looks_again(store, sleeper):
    """A storm of adds is not a storm of wake-ups; ``again_s`` covers those that were silent."""
    wait_out(sleeper)
    begin = time.monotonic()
    for _ in range(20):
        store.add([spec()])
    took_s = time.monotonic() - begin
    assert rings(sleeper.fd)
    time.sleep(0.02)
    line = sleeper.doorbell()._line
    line.pgconn.consume_input()
    count = 0
    while line.pgconn.notifies() is not None:
        count += 1

    assert 1 <= count <= 2 + took_s / postgres_bell.QUIET_S
    store.add([spec()])
    time.sleep(postgres_bell.QUIET_S)
    store.add([spec()])
    assert rings(sleeper.fd)
    sleeper.doorbell().hush()
    left_s = sleeper.doorbell().again_s()
    assert 0 < left_s <= postgres_bell.ECHO_S
    time.sleep(left_s)
    assert sleeper.doorbell().again_s() is None


def test_an_add_that_had_to_wait_rings(store, sleeper, open_one, url, raw, eventually):
    """For a program that gave up in the end: what was announced before that may have been looked at long ago."""
    other = open_one(url)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%{s}.numbers%%'"
    with psycopg.connect(url.partition("?")[0]) as program:
        wait_out(sleeper)
        raw("UPDATE {s}.numbers SET announced_at = extract(epoch FROM clock_timestamp())")  # by an add, just now
        store.add_within(program, [spec()])
        thread = threading.Thread(target=other.add, args=([spec()],))
        thread.start()
        eventually(lambda: raw(waiting) == [(1,)])
        time.sleep(2 * postgres_bell.ECHO_S)
        program.rollback()
        thread.join()

    assert rings(sleeper.fd)


def test_a_set_back_clock_does_not_silence_adds(store, sleeper, raw):
    """The last notification seems to lie in the future: the next add rings all the same."""
    raw("UPDATE {s}.numbers SET announced_at = extract(epoch FROM now()) + 3600")
    wait_out(sleeper)

    store.add([spec()])

    assert rings(sleeper.fd)


def test_a_bell_can_be_put_away_and_taken_up_again(store, sleeper):
    """While its worker is busy nothing piles up, and afterwards it rings as before."""
    bell = sleeper.doorbell()
    line = bell._line
    bell.disarm()
    store.add([spec()])
    time.sleep(0.05)
    sleeper.orders("w1")  # what a busy worker does now and then
    assert line.pgconn.notifies() is None

    fd = bell.arm()
    assert not rings(fd, 0.05)
    wait_out(sleeper)
    store.add([spec()])

    assert rings(fd)
    assert line is bell._line


def test_a_lost_bell_comes_back(store, sleeper, raw, monkeypatch, eventually):
    """The listening connection is killed: the sleeper wakes, and soon has another one."""
    monkeypatch.setattr(postgres_bell, "PAUSE_S", 0.1)
    pid = sleeper.doorbell()._line.info.backend_pid
    raw("SELECT pg_terminate_backend(%s)", pid)
    assert rings(sleeper.fd)
    sleeper.doorbell().hush()

    def comes_back():
        fd = sleeper.doorbell().arm()
        return fd if fd is not None and sleeper.doorbell()._line.info.backend_pid != pid else None

    fd = eventually(comes_back)
    wait_out(sleeper)
    store.add([spec()])

    assert rings(fd)


def test_a_bell_without_a_connection_has_no_descriptor_left(store, sleeper, raw):
    """A worker's epoll still knows a descriptor that is open, and would not take it again."""
    import os

    raw("SELECT pg_terminate_backend(%s)", sleeper.doorbell()._line.info.backend_pid)
    deadline = time.monotonic() + 5
    sleeper.doorbell()._not_before_s = time.monotonic() + 60
    while sleeper.doorbell()._line is not None and time.monotonic() < deadline:
        sleeper.doorbell().hush()
    sleeper.doorbell()._not_before_s = time.monotonic() + 60

    assert sleeper.doorbell().arm() is None
    with pytest.raises(OSError):
        os.fstat(sleeper.fd)


def test_a_server_that_is_away_gives_no_bell_and_no_error(far_store, proxy, monkeypatch):
    """Looking by itself is what is left."""
    monkeypatch.setattr(proxy, "_accept", lambda: proxy._listener.accept()[0].close())  # noqa: PLW0108

    assert far_store.doorbell().arm() is None
    assert far_store.doorbell().arm() is None
    far_store.doorbell().hush()


@pytest.mark.posix
def test_an_idle_worker_starts_a_new_job_at_once(url, home, monkeypatch, cli, background, eventually):
    """Enqueued by one process, begun by another in well under the second after which it would look by itself."""
    monkeypatch.setenv("QUEUECTL_DB", url)
    with background("worker", "start") as worker_start:
        eventually(lambda: "started" in worker_start.out)
        from queuectl.queue import Queue

        delays = []
        with Queue(url) as queue:
            queue.wait(queue.enqueue("true").id, timeout=10)
            for _ in range(15):
                time.sleep(0.11)  # asleep again
                job = queue.wait(queue.enqueue("true").id, timeout=10)
                delays.append(queue.runs(job.id)[0].started_at - job.created_at)

    assert sorted(delays)[len(delays) // 2] < 0.05, delays
