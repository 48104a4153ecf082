"""A Ctrl-C while the answer to an enqueue is on its way: what became of the job is found out, or said to be unknown."""

from __future__ import annotations

import contextlib
import signal

import pytest

from queuectl.db import open_store
from tests.postgres_server import fresh_schema
from tests.store.build import EVERYTHING, spec
from tests.store.postgres_only.proxy import Proxy

pytestmark = pytest.mark.posix

WAITS = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND (wait_event = 'SyncRep' OR wait_event_type = 'Lock')"


@pytest.fixture
def url(frail_server):
    """The URL of a store on a server whose settings a test may change."""
    with fresh_schema(frail_server) as where:
        open_store(where).close()
        yield where


@pytest.fixture
def proxy_to():
    """Start a proxy before the server at a port."""
    with contextlib.ExitStack() as stack:
        yield lambda port: stack.enter_context(contextlib.closing(Proxy(port)))


@contextlib.contextmanager
def without_standby(server):
    """Have each commit of *server* wait, once it is made, for a standby that is not there."""
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    server.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        server.execute("SELECT pg_reload_conf()")


def interrupt(process):
    """Press Ctrl-C; return what was told, and the exit code."""
    process.send(signal.SIGINT)
    ended = process.wait(30)
    return ended.err, ended.code


@pytest.mark.parametrize(
    ("lines", "words", "told"),
    [
        (0, "enqueue -- true", "job1"),
        (0, "enqueue --id mine -- true", "mine"),
        (3, "enqueue --lines --file", "3 jobs (job1 .. job3)"),
    ],
)
def test_a_commit_that_was_made_is_found(frail_server, url, background, eventually, tmp_path, lines, words, told):
    """The server takes its time to say so."""
    file = tmp_path / "lines"
    file.write_text("true\n" * lines)
    more = [str(file)] if lines else []
    with without_standby(frail_server):
        process = background("--db", url, *words.split(), *more)
        eventually(lambda: frail_server.execute(WAITS))
        found = interrupt(process)

    assert (f"queuectl: interrupted. The store has {told} all the same.\n", 130) == found


@pytest.mark.parametrize(("words", "told"), [("enqueue -- true", "job1"), ("enqueue --id mine -- true", "mine")])
def test_a_link_that_breaks_after_the_ctrl_c_hides_nothing(
    frail_server, url, background, eventually, proxy_to, words, told
):
    """The driver, which waits on for the end of the statement, reports the broken link instead of the Ctrl-C."""
    proxy = proxy_to(frail_server.port)
    far = frail_server.url(url.rpartition("=")[2], proxy.port) + "&sslmode=disable"  # else an answer is about that
    with without_standby(frail_server):
        process = background("--db", far, *words.split())
        eventually(lambda: frail_server.execute(WAITS))
        proxy.lose_next_answer()  # that to the cancelled wait
        found = interrupt(process)

    assert (f"queuectl: interrupted. The store has {told} all the same.\n", 130) == found


@pytest.mark.parametrize("words", ["enqueue -- true", "enqueue --id mine -- true"])
def test_an_enqueue_that_waits_for_a_lock_is_given_up(frail_server, url, background, eventually, words):
    """Nothing is stored, and nobody waits for whoever has the lock to learn that."""
    import psycopg

    schema = url.rpartition("=")[2]
    with psycopg.connect(frail_server._direct()) as other:
        other.execute(f"SELECT 1 FROM {schema}.numbers FOR UPDATE")
        process = background("--db", url, *words.split())
        eventually(lambda: frail_server.execute(WAITS))
        found = interrupt(process)

    assert ("queuectl: interrupted.\n", 130) == found
    store = open_store(url)
    try:
        assert [] == store.jobs(EVERYTHING)
    finally:
        store.close()


@pytest.mark.parametrize(
    ("network", "lines", "words", "told"),
    [
        ("refuse", 0, "enqueue -- true", "the job was"),
        ("refuse", 3, "enqueue --lines --file", "the 3 jobs were"),
        ("freeze", 0, "enqueue -- true", "the job was"),  # for the end of a cancelled statement, psycopg 3.2 waits on
    ],
)
def test_what_cannot_be_found_out_is_told_as_unknown(
    frail_server, url, background, eventually, tmp_path, proxy_to, network, lines, words, told
):
    """The network is gone with the answer: whoever takes it for not enqueued may run it twice."""
    file = tmp_path / "lines"
    file.write_text("true\n" * lines)
    more = [str(file)] if lines else []
    proxy = proxy_to(frail_server.port)
    with without_standby(frail_server):
        process = background("--db", frail_server.url(url.rpartition("=")[2], proxy.port), *words.split(), *more)
        eventually(lambda: frail_server.execute(WAITS))
        getattr(proxy, network)()
        found = interrupt(process)

    sentence = f"It is not known whether {told} stored. Check with 'queuectl list' before you enqueue again."
    assert (f"queuectl: interrupted. {sentence}\n", 130) == found


@pytest.mark.parametrize("count", [1, 6000])
def test_a_store_that_was_interrupted_goes_on(frail_server, url, background, eventually, count, tmp_path):
    """No id is given twice, whatever became of the first; a large batch is interrupted while it draws its numbers."""
    file = tmp_path / "lines"
    file.write_text("true\n" * count)
    with without_standby(frail_server):
        process = background("--db", url, "enqueue", "--lines", "--file", str(file))
        eventually(lambda: frail_server.execute(WAITS))
        interrupt(process)
    store = open_store(url)
    try:
        before = len(store.jobs(EVERYTHING, limit=10_000))
        store.add_one(spec())
        assert before + 1 == len({job.id for job in store.jobs(EVERYTHING, limit=10_000)})
        assert [] == store.check()
    finally:
        store.close()
