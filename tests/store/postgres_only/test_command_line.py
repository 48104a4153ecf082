"""The command line over PostgreSQL while the server is restarted under it, or cannot be reached any more."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time

import pytest

from queuectl import launch
from queuectl.db import open_store
from queuectl.errors import QueuectlError
from queuectl.job import Outcome
from queuectl.queue import Queue
from queuectl.recovery import MARGIN
from tests.postgres_server import fresh_schema
from tests.process.scene import collected
from tests.store.build import EVERYTHING
from tests.store.build import worker as row_of


@pytest.mark.parametrize("words", ["status", "list", "wait job1", "cancel job1", "prune -y", "doctor", "worker stop"])
def test_looking_makes_no_store_where_somebody_mistyped_its_schema(server, cli, words):
    """It would say that there are no jobs; what adds jobs makes the store."""
    mistyped = server.url("mistyped")

    refused = cli("--db", mistyped, *words.split(), code=1)

    told = " ".join((refused.out + refused.err).split())
    assert told.endswith(f"there is no store at {mistyped}. 'queuectl enqueue' creates one.")
    assert [] == server.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'mistyped'")


@pytest.mark.slow
@pytest.mark.posix
def test_workers_outlive_restarts_of_the_server(frail_server, monkeypatch, background, eventually):
    """Commands go on, ends are handed in when it is back; no worker dies, no run is lost, none is done twice."""
    with fresh_schema(frail_server) as url:
        monkeypatch.setenv("QUEUECTL_DB", url)
        with Queue(url) as queue:
            ids = queue.enqueue_many([f"sleep 0.{number % 5}; echo {number}" for number in range(150)])
        with background("worker", "start", "--count", "2", "--concurrency", "4") as group:
            eventually(lambda: "completed" in group.out)
            for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGINT):
                time.sleep(1.0)
                frail_server.restart(how)
            with Queue(url) as queue:
                jobs = queue.wait_all(ids, 60)
                runs = [queue.runs(job_id) for job_id in ids]
                output = queue.output("job7")
        with Queue(url) as queue:
            problems = queue.check()

    assert {"completed"} == {job.state for job in jobs}
    assert {Outcome.COMPLETED} == {run[-1].state for run in runs}
    assert {Outcome.STOPPED} >= {ended.state for run in runs for ended in run[:-1]}
    assert ("died" in group.out, "lost" in group.out.replace("lost the connection", "")) == (False, False), group.out
    assert ([], b"6\n") == (problems, output)


@pytest.mark.posix
def test_a_connection_that_breaks_amid_a_large_file_is_told_in_one_line(store, server, schema, proxy, cli):
    """Not with a line of the driver's before it, about a second error that it ignores."""
    lines = "\n".join([f"echo {'x' * 3000}"] * 2000)
    proxy.cut_after(1_000_000)

    told = cli("enqueue", "--lines", "--file", "-", "--db", server.url(schema, proxy.port), input=lines, code=1)

    assert re.fullmatch(r"queuectl: lost the connection to .*; the 2000 jobs were not stored\. Try again\.\n", told.err)
    assert [] == store.jobs(EVERYTHING)


@pytest.mark.posix
def test_a_worker_works_with_the_longest_lease(url, cli):
    """A hundred years: the server takes no bound of waiting for a lock that is as long as a part of it."""
    with Queue(url) as queue:
        queue.set_setting("lease", "36600d")
        job_id = queue.enqueue("echo done").id

    cli("worker", "start", "--drain", "--db", url, code=0)

    with Queue(url) as queue:
        assert b"done\n" == queue.output(job_id)


#: Sessions that last asked how jobs stand.
WAITING = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%%SELECT id, state%%' AND query LIKE %s"


@pytest.mark.posix
def test_whoever_waits_for_a_job_outlives_a_restart(frail_server, monkeypatch, tmp_path, background, eventually):
    """``run``, ``wait`` and ``logs -f`` go on when it is back, as the job did."""
    with fresh_schema(frail_server) as url:
        monkeypatch.setenv("QUEUECTL_DB", url)
        command = "echo begun; while [ ! -e over ]; do sleep 0.05; done; echo ended; exit 7"
        with background("worker", "start") as group:
            eventually(lambda: "started" in group.out)
            ran = background("run", "--max-retries", "0", "--command", command, cwd=tmp_path)
            eventually(lambda: "begun" in ran.out)
            waited, logged = background("wait", "job1", "--timeout", "90"), background("logs", "-f", "job1")
            eventually(lambda: "begun" in logged.out)
            # What is just starting is another matter: it may as well have been given a wrong address.
            eventually(lambda: frail_server.execute(WAITING, f"%FROM {url.rpartition('=')[2]}.jobs WHERE id = ANY(%"))
            frail_server.restart(signal.SIGINT)
            (tmp_path / "over").touch()
            codes = [process.process.wait(60) for process in (ran, waited, logged)]

    said = [process.out + process.err for process in (ran, waited, logged)]
    assert [7, 1, 0] == codes, said
    assert ["begun\nended\n"] * 2 == [ran.out, logged.out], said
    assert "job1 dead (exit 7)\n" == waited.out, said


@pytest.mark.slow
@pytest.mark.posix
def test_a_worker_told_twice_to_stop_leaves_an_end_for_the_next(
    frail_server, monkeypatch, tmp_path, background, cli, eventually
):
    """It does not wait for ever for a server that is gone, and the command need not run a second time for it."""
    with fresh_schema(frail_server) as url:
        monkeypatch.setenv("QUEUECTL_DB", url)
        with Queue(url) as queue:
            queue.set_setting("lease", "300")  # beyond which nobody is sure of the end
            command = "echo $$ > pid; while [ ! -e over ]; do sleep 0.05; done; echo ended"
            job_id = queue.enqueue(command, cwd=str(tmp_path)).id
        with background("worker", "start") as group:
            pid = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
            frail_server.stop(signal.SIGQUIT)
            (tmp_path / "over").touch()
            eventually(lambda: "Waiting" in group.out, timeout=30)
            eventually(lambda: collected(pid), timeout=30)  # else it is the second signal that ends it
            for told in (1, 2):
                group.process.send_signal(signal.SIGINT)
                eventually(lambda told=told: group.out.count("stop signal") == told, timeout=30)
            code = group.process.wait(60)
        frail_server.start()
        drained = cli("worker", "start", "--drain", code=0)
        with Queue(url) as queue:
            job, runs, output = queue.get(job_id), queue.runs(job_id), queue.output(job_id)

    assert (130, True) == (code, "the result of 1 run is saved here" in group.out), group.out
    assert "picked" not in drained.out
    assert ("completed", [Outcome.COMPLETED], b"ended\n") == (job.state, [run.state for run in runs], output)


@pytest.mark.posix
def test_after_an_outage_beyond_its_lease_a_worker_renews_it_before_it_claims(
    store, server, schema, proxy, monkeypatch, background, eventually
):
    """It does not claim and put back, claim and put back, until its next tick."""
    store.set_setting("lease", "2")
    monkeypatch.setenv("QUEUECTL_DB", server.url(schema, proxy.port))
    with Queue(server.url(schema)) as queue, background("worker", "start") as group:
        eventually(lambda: "started" in group.out)
        proxy.refuse()
        (mine,) = [row for row in store.workers() if row.role == "worker" and row.id not in ("w1", "w2")]
        eventually(lambda: store.now() > mine.lease_expires_at + 1)
        ids = queue.enqueue_many(["true"] * 20)
        proxy.admit()
        queue.wait_all(ids, 60)
        runs = [run for job_id in ids for run in queue.runs(job_id)]

    assert [(Outcome.COMPLETED, None)] * 20 == [(run.state, run.reason) for run in runs]


def starting(url):
    """Return what a daemon of one worker is started with."""
    os.makedirs(os.path.join(os.environ["QUEUECTL_HOME"], "logs"))
    return {
        "location": url, "group_id": "g", "count": 1, "concurrency": 1, "queues": [], "daemon": True, "drain": False
    }  # fmt: skip


def workers_of(store):
    """Return the pids of that daemon's processes."""
    return [row.pid for row in store.workers() if row.group_id == "g" and row.role == "worker"]


@pytest.mark.posix
@pytest.mark.parametrize("when", ["at first", "at last"])
def test_starting_a_daemon_outlives_an_outage(url, server, schema, proxy, open_one, cli, eventually, monkeypatch, when):
    """The group puts up with it: to say that it failed, and leave it running, would be of no use to anybody."""
    near, far = open_one(url), open_one(server.url(schema, proxy.port))

    def back_again():
        with contextlib.closing(open_store(url)) as near:
            eventually(lambda: workers_of(near))
        proxy.admit()

    def saving(store):
        proxy.refuse()
        save(store)

    save = launch._save_pids
    if when == "at first":
        proxy.refuse()
        threading.Thread(target=back_again).start()
    else:
        monkeypatch.setattr(launch, "_save_pids", saving)
    started = launch.start_daemon(far, starting(url))

    assert workers_of(near) == [worker.pid for worker in started.workers]
    assert "Stopped 1 worker.\n" == cli("worker", "stop", "--db", url, code=0).out


@pytest.mark.posix
def test_a_group_that_starts_while_the_jobs_are_locked_goes_on(url, schema, monkeypatch, background, eventually):
    """Its first look, for what the dead have left, is no reason to give up: the workers wait, and so does it."""
    import psycopg

    monkeypatch.setenv("QUEUECTL_DB", url)
    with Queue(url) as queue, contextlib.closing(psycopg.connect(url.partition("?")[0])) as holder:
        queue.set_setting("lease", "6")  # a supervisor waits for a lock for a sixth of it
        job = queue.enqueue("true")
        holder.execute(f"LOCK TABLE {schema}.jobs IN ACCESS EXCLUSIVE MODE")
        with background("worker", "start") as group:
            eventually(lambda: "started" in group.out or not group.running)
            holder.close()
            assert group.running, group.err
            assert "completed" == queue.wait(job.id, 30).state


@pytest.mark.posix
def test_a_daemon_that_cannot_be_seen_is_stopped(url, server, schema, proxy, open_one, eventually, monkeypatch):
    """What is said not to have started does not run on."""
    near, far = open_one(url), open_one(server.url(schema, proxy.port))
    monkeypatch.setattr(launch, "START_S", 3.0)
    proxy.refuse()

    with pytest.raises(QueuectlError, match="workers started, so they were told to stop: cannot reach"):
        launch.start_daemon(far, starting(url))

    eventually(lambda: not [row for row in near.workers() if row.group_id == "g"], timeout=30)


@pytest.mark.posix
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="systemd is Linux's service manager")
@pytest.mark.parametrize("where", ["before the host", "query"])
def test_a_password_in_a_unit_is_told(url, cli, tmp_path, where):
    """With where it belongs; a URL without one is nobody's secret."""
    path = tmp_path / "systemd" / "user" / "queuectl.service"
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    secret = url.replace("postgres@", "postgres:s3cr3t@") if where != "query" else url + "&password=s3cr3t"

    told = cli("service", "install", "--no-start", "-q", "--db", secret, env=env, code=0)
    mode = path.stat().st_mode & 0o777
    plain = cli("service", "install", "--no-start", "-q", "--db", url, env=env, code=0)

    assert told.err == (
        f"queuectl: {path} holds the password of the store's URL, and the service manager may show it to others. "
        "Put it into ~/.pgpass and leave it out of the URL.\n"
    )
    assert ("", 0o600) == (told.out, mode)
    assert ("", "") == (plain.out, plain.err)


@pytest.mark.posix
def test_a_worker_that_is_cut_off_ends_its_command_by_itself(
    store, server, schema, proxy, monkeypatch, tmp_path, background, eventually
):
    """Before its job can be given away, although nobody can tell it; back again, its late end is refused."""
    lease_s = 4.0
    beats = tmp_path / "beats"
    store.set_setting("lease", f"{lease_s:g}")
    monkeypatch.setenv("QUEUECTL_DB", server.url(schema, proxy.port))
    with Queue(server.url(schema)) as queue, background("worker", "start") as group:
        job_id = queue.enqueue(f"while :; do date +%s.%N >> {beats}; sleep 0.02; done").id
        eventually(lambda: beats.exists() and beats.read_text())  # the shell makes the file before ``date`` writes
        (mine,) = [row for row in store.workers() if row.role == "worker" and row.id not in ("w1", "w2")]
        proxy.freeze()
        count = [0]

        def silent():
            before, count[0] = count[0], beats.read_text().count("\n")
            return before == count[0]

        eventually(silent, timeout=30, every=0.5)
        last_at = float(beats.read_text().split()[-1])
        (mine,) = [row for row in store.workers() if row.id == mine.id]
        assert last_at < mine.lease_expires_at + lease_s * MARGIN
        assert queue.get(job_id).state == "processing"

        # Whoever notices on another host does this; then the job is its own.
        assert store.condemn(mine.id, mine.renewed_mono_s)
        assert [(job_id, "pending")] == store.release_lost(mine.id, 3)
        store.register(row_of("w3"))
        (claim,) = store.claim("w3", 1)
        proxy.thaw()
        eventually(lambda: "starts over" in group.out or "no longer this worker's" in group.out, timeout=30)

        job, runs = queue.get(job_id), queue.runs(job_id)
        assert ("processing", "w3", claim.run_id) == (job.state, job.worker_id, runs[-1].run_id)
        assert [Outcome.LOST, Outcome.RUNNING] == [run.state for run in runs]


def test_doctor_says_that_a_role_may_change_nothing(url, store, server, schema, raw, monkeypatch, cli):
    """As for a file that may only be read."""
    role = f"watcher_{schema}"
    raw(f"CREATE ROLE {role} LOGIN SUPERUSER")
    raw(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    monkeypatch.setenv("QUEUECTL_DB", server.url(schema, user=role))
    try:
        told = cli("doctor", code=1).out
    finally:
        raw(f"DROP ROLE {role}")

    assert "bad   access   you may only read postgresql://" in told
    assert "default_transaction_read_only is on)." in told
    monkeypatch.setenv("QUEUECTL_DB", url)
    assert "access" not in cli("doctor", code=0).out


def test_doctor_says_that_a_server_is_a_standby(frail_server, monkeypatch, cli):
    """A standby answers all looks; nothing can be enqueued there."""
    with fresh_schema(frail_server) as url:
        open_store(url).close()
        sign = os.path.join(frail_server.data, "standby.signal")
        with open(sign, "wb"):
            os.chown(sign, os.stat(frail_server.data).st_uid, -1)
        try:
            frail_server.restart()
            monkeypatch.setenv("QUEUECTL_DB", url)
            told = cli("doctor", code=1).out
            refused = cli("enqueue", "--", "true", code=1).err
        finally:
            frail_server.stop()
            os.unlink(sign)
            frail_server.start()

    assert "bad   access   you may only read postgresql://" in told
    assert "the server is a standby)." in told
    assert "is read-only now" in refused
