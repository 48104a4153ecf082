"""Behind a real pgbouncer: in transaction mode without session state, and in session mode with everything."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time

import pytest

from queuectl.errors import StoreRefused
from queuectl.job import Outcome
from tests.postgres_server import NOBODY, PostgresServer, shared_server
from tests.store.build import EVERYTHING, T0, bring_to, claim_ids, completed, dead, failed, spec, specs, worker
from tests.store.test_hooks import BOTH, hooks_in

CONFIG = """
[databases]
postgres = host=127.0.0.1 port={server} dbname=postgres user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 4
max_client_conn = 100
server_reset_query_always = 0
logfile = {folder}/log
pidfile = {folder}/pid
"""


class Pooler:
    """One pgbouncer; its files are in a folder of its own."""

    def __init__(self, server: PostgresServer, mode: str) -> None:
        program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if program is None:
            pytest.skip("pgbouncer is not installed")
        self.folder = tempfile.mkdtemp(prefix="pb-", dir="/tmp")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        config = os.path.join(self.folder, "ini")
        with open(config, "w", encoding="ascii") as file:
            file.write(CONFIG.format(server=server.port, port=self.port, mode=mode, folder=self.folder))
        root = os.geteuid() == 0
        if root:
            os.chown(self.folder, NOBODY, NOBODY)
        self._process = subprocess.Popen(
            [program, config], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
            env={"PATH": "/usr/bin:/bin"}, preexec_fn=become_nobody if root else None,  # noqa: PLW1509
        )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline
                assert self._process.poll() is None
                time.sleep(0.02)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def become_nobody() -> None:
    """Let the child run as an ordinary user: pgbouncer refuses to be root."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@pytest.fixture(scope="module", params=["transaction", "session"])
def pooler(request):
    """A pgbouncer before the test server, and the mode it is in."""
    pooler = Pooler(shared_server(), request.param)
    yield pooler, request.param
    pooler.close()


@pytest.fixture
def pooled(store, server, schema, pooler, open_one):
    """The store, opened through the pooler."""
    return open_one(server.url(schema, pooler[0].port))


def test_a_pooler_is_noticed(store, pooled):
    """No statement is prepared through it; directly they are."""
    assert (False, True) == (store.pooled, pooled.pooled)
    assert pooled._connected().prepare_threshold is None


def test_a_store_is_made_through_a_pooler(server, url, pooler, open_one):
    """The lock of the migration belongs to a transaction."""
    made = open_one(url.replace(f":{server.port}/", f":{pooler[0].port}/"))

    assert ["job1"] == made.add([spec()], T0)
    assert [] == made.check()


def test_all_verbs_go_through_a_pooler(pooled, store):
    """Adds, turns, limits, moves, output and looks, each more often than a statement needs to be prepared."""
    for turn in range(8):
        now = T0 + 100 * turn
        ids = pooled.add(specs(2), now) + pooled.add([spec(queue="b")], now)
        claims = pooled.claim("w1", 2, (), now)
        answer = pooled.finish(
            "w1",
            [completed(claims[0], now), failed(claims[1], now, now)],
            2,
            (),
            now,
            [(claims[0].run_id, [(0, b"x")], None)],
        )
        assert [True, True] == answer.accepted
        pooled.set_limit("b", 1)
        ends = [completed(claim, now) for claim in answer.claims]
        more = pooled.finish("w1", ends, 5, (), now).claims
        pooled.set_limit("b", None)
        pooled.finish("w1", [completed(claim, now) for claim in more], now=now)
        assert {"completed"} == set(pooled.states(ids).values())
        assert [(0, b"x")] == pooled.output(claims[0].run_id)
        bring_to(pooled, "dead", now=now)
        assert 1 == pooled.retry_where(EVERYTHING._replace(states=("dead",)), now)
        pooled.finish("w1", [completed(pooled.claim("w1", 1, (), now)[0], now)], now=now)
        assert pooled.next_due((), now) is None
        assert pooled.oldest_due(now) is None
    assert (32, 0) == (pooled.prune(EVERYTHING), pooled.work_left())
    assert pooled.renew("w1", 30.0, 3.0)


def test_old_strings_behind_a_pooler_are_refused(store, server, schema, raw, open_one):
    """What output is sent with cannot be set there for a session."""
    raw("ALTER DATABASE postgres SET standard_conforming_strings = off")
    try:
        pooler = Pooler(server, "transaction")
        try:
            with pytest.raises(StoreRefused, match="standard_conforming_strings = off behind a pooler"):
                open_one(server.url(schema, pooler.port))
        finally:
            pooler.close()
    finally:
        raw("ALTER DATABASE postgres RESET standard_conforming_strings")


def test_a_bell_that_cannot_ring_is_not_waited_for(store, pooled, pooler):
    """In transaction mode LISTEN hears nothing: that is found out, and the worker just looks."""
    import select

    fd = pooled.doorbell().arm()

    if pooler[1] == "transaction":
        assert fd is None
        return
    pooled.doorbell().hush()
    time.sleep(0.1)
    store.add([spec()])
    assert select.select([fd], [], [], 2)[0]


def test_a_worker_lost_behind_a_pooler_is_recovered(pooled):
    """Condemned, released, run again."""
    pooled.register(worker("gone"))
    pooled.add([spec()], T0)
    pooled.claim("gone", 1, (), T0)
    pooled.condemn("gone", 100.0)
    pooled.release_lost("gone", 3, T0)

    assert ["job1"] == claim_ids(pooled.claim("w1", 1, (), T0))
    assert [Outcome.LOST, Outcome.RUNNING] == [run.state for run in pooled.runs("job1")]


@pytest.mark.posix
def test_a_worker_behind_a_pooler_runs_jobs(server, schema, store, pooler, monkeypatch, cli, background):
    """The command line end to end, over the pooler's port."""
    monkeypatch.setenv("QUEUECTL_DB", server.url(schema, pooler[0].port))
    cli("enqueue", "--", "echo", "hi", code=0)
    with background("worker", "start"):
        assert "completed" in cli("wait", "job1", "--timeout", "20", code=0).out
        assert "there\n" == cli("run", "--", "echo", "there", code=0).out


def test_ends_bring_their_hooks_through_a_pooler(store, pooled):
    """In the one statement that writes them, and where a worker was lost."""
    pooled.add(specs(3), T0)
    claims = pooled.claim("w1", 3, (), T0)
    answer = pooled.finish("w1", [completed(claims[0], T0), dead(claims[1], T0)], 1, now=T0, hooks=BOTH)
    pooled.unregister("w1")
    released = dict(pooled.release_lost("w1", 1, T0, BOTH))
    assert ([True, True], ["hook-1"]) == (answer.accepted, claim_ids(answer.claims))
    assert {"job3": "dead", "hook-1": "dead"} == released
    assert ["job1", "job2", "job3"] == [hook.env["QUEUECTL_ENDED_ID"] for hook in hooks_in(store)]
