"""What befalls a server: a full disk, a standby that lost commits taking over, no connection left, a slow link."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile

import pytest

from queuectl import recovery
from queuectl.errors import StoreUnavailable
from queuectl.job import Outcome
from queuectl.queue import Queue
from tests.postgres_server import NOBODY, QUICK, PostgresServer, need_postgres
from tests.store.build import EVERYTHING, T0, claim_ids, completed, spec, specs, worker


@pytest.fixture
def own_server():
    """Start servers of this test; ended at its end."""
    need_postgres()
    servers = []

    def start(kind=PostgresServer, settings=QUICK):
        servers.append(kind(settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


# -- the disk ---------------------------------------------------------------------------------


@pytest.fixture
def small_disk():
    """A disk of 24 MiB that the server's user may write to.

    Not within pytest's own folder: each session that starts takes the way through that from other users.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tempfile.mkdtemp(prefix="sd-", dir="/tmp")
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size=24m,uid={NOBODY},gid={NOBODY},mode=700", "small", folder],
            check=False,
        )
        if done.returncode != 0:
            pytest.skip("no tmpfs can be mounted here")
        yield folder
        subprocess.run(["umount", "--lazy", folder], check=True)
    finally:
        os.rmdir(folder)


def test_a_full_disk_of_the_server_loses_nothing(own_server, small_disk, open_one):
    """Adds are refused in a sentence and store nothing; with room again all goes on, what was acknowledged is there."""
    server = own_server()
    server.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
    server.execute("ALTER DATABASE postgres SET default_tablespace = small")
    store = open_one(server.url())
    store.register(worker("w1"))
    ids = store.add(specs(3), T0)
    claim = store.claim("w1", 1, (), T0)[0]
    with pytest.raises(StoreUnavailable, match="the disk of .* is full"):
        while True:
            ids += store.add([spec("true " + "x" * 100_000 + os.urandom(20_000).hex())] * 20, T0)
    before = len(store.jobs(EVERYTHING, limit=10_000))

    with pytest.raises(StoreUnavailable, match="the disk of .* is full"):
        store.add([spec("true " + os.urandom(60_000).hex())] * 100, T0)

    assert (len(ids), before) == (before, len(store.jobs(EVERYTHING, limit=10_000)))
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    assert [True] == store.finish("w1", [completed(claim, T0)], now=T0).accepted
    assert [f"job{len(ids) + 1}"] == store.add([spec()], T0)
    assert [] == store.check()


# -- failover ---------------------------------------------------------------------------------


class Standby(PostgresServer):
    """A copy of a server, promoted: what the other one did later is lost."""

    origin: PostgresServer

    def _call(self, program, *arguments):
        if program != "initdb":
            super()._call(program, *arguments)
            return
        where = ["-h", "127.0.0.1", "-p", str(self.origin.port), "-U", "postgres"]
        super()._call("pg_basebackup", *where, "-D", self.data, "--checkpoint=fast", "-X", "stream")


def test_a_promoted_standby_that_lost_the_last_commits_takes_over(own_server, open_one):
    """Stale ends are refused, the lost claim runs again, the numbers go on; nothing is done by two."""
    first = own_server(settings=[*QUICK, "wal_level=replica", "max_wal_senders=4"])
    store = open_one(first.url())
    store.register(worker("w1"))
    ids = store.add(specs(3), T0)
    known = store.claim("w1", 1, (), T0)[0]
    Standby.origin = first
    second = own_server(Standby)  # from here on the standby receives nothing more
    unknown = store.claim("w1", 1, (), T0)[0]
    assert ["job4"] == store.add([spec()], T0)
    first.stop(signal.SIGQUIT)
    store = open_one(second.url())
    store.register(worker("w2"))

    taken = store.claim("w2", 1, (), T0)[0]
    answer = store.finish("w1", [completed(known, T0), completed(unknown, T0)], now=T0)

    assert [True, False] == answer.accepted
    assert (unknown.job.id, ids) == (taken.job.id, [job.id for job in store.jobs(EVERYTHING)])
    # The run id may come again: the worker in the fence is what tells the two apart.
    assert taken.run_id >= unknown.run_id
    assert [True] == store.finish("w2", [completed(taken, T0)], now=T0).accepted
    assert ["job4"] == store.add([spec()], T0)
    assert [] == store.check()


def test_a_job_whose_end_a_promoted_standby_lost_runs_again(own_server, open_one, proxy):
    """By its account the worker still runs it, and the worker knows nothing of that any more: nobody else could."""
    first = own_server(settings=[*QUICK, "wal_level=replica", "max_wal_senders=4"])
    proxy.lead_to(first.port)
    store = open_one(first.url(port=proxy.port))
    store.register(worker("w1"))
    store.add(specs(2), T0)
    done, running = store.claim("w1", 2, (), T0)
    Standby.origin = first
    second = own_server(Standby)  # from here on the standby receives nothing more
    assert [True] == store.finish("w1", [completed(done, T0)], now=T0).accepted
    first.stop(signal.SIGQUIT)
    proxy.lead_to(second.port)

    for _ in range(2):  # over the new connection, as a worker looks for orders all the time
        store.orders("w1")

    assert {"job1": "pending", "job2": "processing"} == {job.id: job.state for job in store.jobs(EVERYTHING)}
    assert [Outcome.STOPPED] == [run.state for run in store.runs("job1")]
    claims = store.finish("w1", [completed(running, T0)], 1, now=T0).claims
    assert ["job1"] == [claim.job.id for claim in claims]
    assert [True] == store.finish("w1", [completed(claims[0], T0)], now=T0).accepted
    assert [] == store.check()


# -- connections ------------------------------------------------------------------------------


def take_all(url, lines):
    """Take every connection that an ordinary role can have; True."""
    import psycopg

    while True:
        try:
            lines.append(psycopg.connect(url.partition("?")[0].replace("postgres@", "someone@")))
        except psycopg.OperationalError:
            return True


@pytest.mark.slow
@pytest.mark.posix
def test_workers_that_find_no_connection_left_wait_for_one(own_server, monkeypatch, background, eventually):
    """Somebody takes all connections while workers lose theirs: they go on when there are some again."""
    server = own_server(
        settings=["fsync=off", "autovacuum=off", "max_connections=24", "superuser_reserved_connections=3"]
    )
    server.execute("CREATE ROLE someone LOGIN")
    url = server.url()
    server.execute("CREATE ROLE queue LOGIN SUPERUSER")
    server.execute("ALTER ROLE queue NOSUPERUSER")
    server.execute("GRANT CREATE ON DATABASE postgres TO queue")
    monkeypatch.setenv("QUEUECTL_DB", server.url(user="queue"))
    lines = []
    with background("worker", "start", "--count", "3") as group:
        # A worker that finds no connection at its very start is another matter: it is started again.
        eventually(lambda: group.out.count(" started") == 3, timeout=30)
        with Queue(server.url(user="queue")) as queue:
            ids = queue.enqueue_many(["sleep 0.2"] * 40)
        eventually(lambda: "completed" in group.out)
        take_all(url, lines)

        def refused():
            # Who lost a connection may be the first to have the one that became free by it: once more, then.
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'queue'")
            return take_all(url, lines) and "slots are reserved" in group.out

        eventually(refused, timeout=30, every=0.1)
        for line in lines:
            line.close()
        with Queue(server.url(user="queue")) as queue:
            jobs = queue.wait_all(ids, 60)
            runs = [queue.runs(job_id) for job_id in ids]
            problems = queue.check()

    assert {"completed"} == {job.state for job in jobs}
    assert {Outcome.COMPLETED} == {ended[-1].state for ended in runs}
    assert ("died" in group.out, problems) == (False, [])


# -- other transactions -----------------------------------------------------------------------


def test_a_transaction_that_stays_open_neither_stops_nor_doubles_work(own_server, open_one):
    """Its snapshot keeps every dead row of 600 jobs, and doctor's look names it."""
    import psycopg

    server = own_server()
    store = open_one(server.url())
    store.register(worker("w1"))
    store.add(specs(600), T0)
    with psycopg.connect(server.url().partition("?")[0]) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute(f"SELECT count(*) FROM {store.schema}.jobs").fetchone()
        done, claims = [], store.claim("w1", 5, (), T0)
        while claims:
            done += claim_ids(claims)
            claims = store.finish("w1", [completed(claim, T0) for claim in claims], 5, (), T0).claims
    assert (600, 600) == (len(done), len(set(done)))
    assert [] == store.check()


# -- the link ---------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.posix
def test_a_worker_behind_a_slow_link_works_with_the_shortest_lease(
    store, server, schema, proxy, monkeypatch, background, eventually
):
    """Every piece takes 60 ms either way, and the link freezes and thaws: it comes back by itself each time."""
    store.set_setting("lease", "2")
    store.set_setting("max_lost", "100")
    proxy.delay_s = 0.06
    monkeypatch.setenv("QUEUECTL_DB", server.url(schema, proxy.port))
    with background("worker", "start") as group:
        for _ in range(2):
            job_id = store.add([spec("sleep 0.2")])[0]
            eventually(lambda job_id=job_id: store.get(job_id).state == "completed", timeout=40)
            waits = store.add([spec("sleep 30")])[0]
            eventually(lambda job_id=waits: store.get(job_id).state == "processing", timeout=40)
            proxy.freeze()
            said = group.out.count("Waiting.")
            eventually(lambda said=said: group.out.count("Waiting.") > said, timeout=40)
            proxy.thaw()
            store.cancel([waits])
            eventually(lambda job_id=waits: store.get(job_id).state == "cancelled", timeout=40)
    assert "died" not in group.out


def test_a_store_that_was_met_read_only_is_opened_anew(server, url, raw, open_one):
    """After a failover an address leads to the old server for a while, which is a standby now; not for ever."""
    raw("CREATE ROLE met_read_only LOGIN SUPERUSER")
    try:
        open_one(url).add([spec()], T0)
        raw("ALTER ROLE met_read_only SET default_transaction_read_only = on")
        store = open_one(url.replace("postgres@", "met_read_only@"))
        with pytest.raises(StoreUnavailable, match="is read-only now: 'queuectl doctor' says why"):
            store.add([spec()], T0)
        raw("ALTER ROLE met_read_only RESET default_transaction_read_only")

        assert ["job2"] == store.add([spec()], T0)
        store.close()
    finally:
        raw("DROP ROLE met_read_only")


@pytest.mark.posix
def test_a_lease_that_is_made_shorter_ends_no_run(
    store, server, schema, raw, home, monkeypatch, background, eventually
):
    """A worker whose last renewal is further back than the new lease is long renews at once."""
    store.set_setting("lease", "3600")
    (long,) = store.add([spec(f"until [ -e {home}/go ]; do sleep 0.05; done")])
    monkeypatch.setenv("QUEUECTL_DB", server.url(schema))
    with background("worker", "start", "--concurrency", "2") as group:
        eventually(lambda: store.get(long).state == "processing")
        ((begun,),) = raw("SELECT extract(epoch FROM clock_timestamp())")
        eventually(lambda: raw("SELECT extract(epoch FROM clock_timestamp())")[0][0] > begun + 3)
        store.set_setting("lease", "2")
        (short,) = store.add([spec("true")])  # its claim says first that the settings have changed
        eventually(lambda: store.get(short).state == "completed")
        (home / "go").touch()
        eventually(lambda: store.get(long).state == "completed")

    assert ["completed"] == [run.state for run in store.runs(long)]
    assert "put back" not in group.out


@pytest.mark.slow
@pytest.mark.posix
@pytest.mark.parametrize("trouble", ["jobs locked", "no answer", "no new connection"])
def test_a_timeout_does_not_wait_for_the_server(
    store, server, schema, raw, home, proxy, monkeypatch, background, eventually, trouble
):
    """Though a call waits for minutes: for somebody who has locked the jobs, or on a link that has gone silent.

    What ends by itself meanwhile has ended when it did, though it prints more than a pipe holds.
    """
    import psycopg

    store.set_setting("lease", "3600")
    command = "trap 'touch {0}/term{1}; exit 1' TERM; touch {0}/begun{1}; while :; do sleep 0.05; done"
    late = [spec(command.format(home, seconds), timeout_s=seconds, max_retries=0) for seconds in (4, 7)]
    printing = "head -c 300000 /dev/zero"
    by_itself = spec(f"touch {home}/begun; until [ -e {home}/term4 ]; do sleep 0.05; done; {printing}")
    *late_ids, ended_id = store.add([*late, by_itself])
    monkeypatch.setenv("QUEUECTL_DB", server.url(schema, proxy.port))
    with background("worker", "start", "--concurrency", "3"):
        eventually(lambda: all((home / name).exists() for name in ("begun4", "begun7", "begun")))
        with psycopg.connect(server.url().partition("?")[0]) as other:
            if trouble == "jobs locked":
                other.execute(f"LOCK TABLE {schema}.jobs IN ACCESS EXCLUSIVE MODE")
            else:
                proxy.freeze()
            if trouble == "no new connection":
                proxy.cut()
            eventually((home / "term7").exists)
            ((before_release,),) = raw("SELECT extract(epoch FROM clock_timestamp())")
        proxy.thaw()
        eventually(lambda: all(store.get(job_id).state == "dead" for job_id in late_ids), timeout=30)
        eventually(lambda: store.get(ended_id).state == "completed")

    assert [["timed_out"]] * 2 == [[run.state for run in store.runs(job_id)] for job_id in late_ids]
    (run,) = store.runs(ended_id)
    assert run.ended_at < before_release
    assert 300_000 == sum(len(data) for _, data in store.output(run.run_id))


@pytest.mark.slow
@pytest.mark.posix
def test_a_worker_keeps_its_run_while_somebody_has_locked_the_jobs(
    store, server, schema, raw, home, monkeypatch, background, eventually
):
    """As VACUUM FULL or REINDEX does, for longer than a lease: neither orders nor claims come, the lease is renewed."""
    import psycopg

    store.set_setting("lease", "3")
    (job_id,) = store.add([spec(f"until [ -e {home}/go ]; do sleep 0.05; done")])
    monkeypatch.setenv("QUEUECTL_DB", server.url(schema))
    leases = "SELECT min(lease_expires_at) FROM {s}.workers WHERE id NOT IN ('w1', 'w2')"
    with background("worker", "start", "--concurrency", "2") as group:
        eventually(lambda: store.get(job_id).state == "processing")
        with psycopg.connect(server.url().partition("?")[0]) as other:
            other.execute(f"LOCK TABLE {schema}.jobs IN ACCESS EXCLUSIVE MODE")
            ((until,),) = raw(leases)
            eventually(lambda: raw(leases)[0][0] > until + 9, timeout=40)
        (home / "go").touch()
        eventually(lambda: store.get(job_id).state == "completed")

    assert ["completed"] == [run.state for run in store.runs(job_id)]
    assert "lost its lease" not in group.out


def test_a_server_whose_clock_is_set_forward_makes_nobody_dead(store):
    """Leases that were renewed a moment ago seem to be over: their holders have time to renew them by the new clock."""
    from queuectl.db.postgres_line import boot_s

    far = worker("far", host_id="another/boot", lease_expires_at=store.now() - 60)
    assert recovery.DEAD == recovery.condition(far, store, 30)

    store._clock_is(store.now() + 3600, boot_s())

    assert recovery.ALIVE == recovery.condition(far, store, 30)
    store.clock_set_mono -= 15
    assert recovery.DEAD == recovery.condition(far, store, 30)


def test_an_answer_that_took_long_is_no_clock_that_was_set(store):
    """How far ahead the clock is was not known more closely before."""
    from queuectl.db.postgres_line import boot_s

    at = store.now()
    store._measured_s = None
    store._clock_is(at, boot_s() - 30)
    store._clock_is(at + 29, boot_s())

    assert float("-inf") == store.clock_set_mono
