"""Three hosts in namespaces at one database: what one sees of the others, and what happens when one is gone."""

from __future__ import annotations

import json
import shlex

import pytest

from tests import oracle
from tests.fleet.hosts import ways
from tests.fleet.storm import Weather, rage

BEATS = "while :; do note beat; sleep 0.1; done"


@pytest.fixture
def journal(tmp_path):
    """Where commands note what happens to them."""
    return tmp_path / "journal"


@pytest.fixture
def beating(queue, journal):
    """Enqueue a command that beats on its first run for ever, and ends at once on the next ones."""
    body = f'if [ "$QUEUECTL_ATTEMPT" = 1 ]; then {BEATS}; fi'
    return queue.enqueue(oracle.recorded(body, shlex.quote(str(journal)))).id


def runs(queue, job_id):
    """Return (host, state) of a job's runs."""
    return [(run.host, run.state) for run in queue.runs(job_id)]


def workers_of(queue, host):
    """Return the ids of a host's workers."""
    return {worker.id for worker in queue.workers() if worker.role == "worker" and worker.host == host.name}


def beats(journal):
    """Return how many beats were noted."""
    return sum(record.what == "beat" for record in oracle.read_records(journal))


def stop(queue, fleet):
    """Stop all workers and wait for their end."""
    for host in fleet.hosts:
        host.call("worker", "stop", "--timeout", "20")


def test_every_host_sees_the_workers_and_jobs_of_all(fleet, queue, eventually):
    """Listed, shown, followed and cancelled from a host that does not run it."""
    first, second, third = fleet.hosts
    first.start("worker", "start")
    second.start("worker", "start", "--queue", "none")
    eventually(lambda: workers_of(queue, first) and workers_of(queue, second))
    job_id = queue.enqueue("echo begun; sleep 600").id
    eventually(lambda: runs(queue, job_id) == [("host1", "running")])
    follower = third.start("logs", job_id, "-f", out="followed")
    eventually(lambda: "begun" in third.said("followed"))

    listed = json.loads(third.call("worker", "list", "--json"))
    shown = json.loads(third.call("show", job_id, "--json"))

    assert {"host1", "host2"} == {worker["host"] for worker in listed}
    assert "host1" == shown["runs"][0]["host"]
    assert f"Cancelled {job_id}" in third.call("cancel", job_id)
    eventually(lambda: queue.get(job_id).state == "cancelled")
    assert 0 == follower.wait(10)
    assert "begun\n" == third.said("followed")
    stop(queue, fleet)


@pytest.mark.long
@pytest.mark.slow
def test_the_jobs_of_a_host_without_power_run_elsewhere_within_45_seconds(fleet, queue, beating, journal, eventually):
    """By the default lease, without anybody's help; the host itself is welcome again."""
    first, second, _ = fleet.hosts
    first.start("worker", "start")
    eventually(lambda: beats(journal) > 3)
    second.start("worker", "start", "--queue", "default")
    eventually(lambda: workers_of(queue, second))

    first.crash()
    eventually(lambda: runs(queue, beating)[1:] == [("host2", "completed")], timeout=45, every=0.1)
    first.boot()
    first.start("worker", "start", "--queue", "again")
    job_id = queue.enqueue("true", queue="again").id

    eventually(lambda: runs(queue, job_id) == [("host1", "completed")])
    assert [("host1", "lost"), ("host2", "completed")] == runs(queue, beating)
    assert [] == oracle.problems(queue.store, oracle.read_records(journal))
    stop(queue, fleet)


@pytest.mark.slow
@pytest.mark.parametrize("way", ways()[:3])
def test_a_host_that_is_cut_off_ends_its_commands_and_goes_on_when_the_link_is_back(
    fleet, queue, beating, journal, eventually, way
):
    """Before its job runs elsewhere; then it is a member again by itself, under another id."""
    queue.set_setting("lease", "6")
    first, second, _ = fleet.hosts
    first.start("worker", "start")
    eventually(lambda: beats(journal) > 3)
    before = workers_of(queue, first)
    second.start("worker", "start")
    eventually(lambda: workers_of(queue, second))

    fleet.switch.cut(first, way)
    eventually(lambda: runs(queue, beating)[1:] == [("host2", "completed")], timeout=30, every=0.1)
    second.call("worker", "stop", "--timeout", "20")
    fleet.switch.heal(first)
    job_id = queue.enqueue("true").id

    eventually(lambda: runs(queue, job_id) == [("host1", "completed")], timeout=30)
    assert before.isdisjoint(workers_of(queue, first))
    assert "lost its lease" in first.said()
    assert [("host1", "lost"), ("host2", "completed")] == runs(queue, beating)
    assert [] == oracle.problems(queue.store, oracle.read_records(journal))
    stop(queue, fleet)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.limit(300)
def test_a_storm_loses_nothing_and_runs_nothing_twice_at_once(needed, tmp_path):
    """The short form of ``tools/fleet.py``: restarts and cuts, shorter and longer than the lease."""
    weather = Weather(
        jobs=400,
        workers=2,
        lasts_s=50.0,
        restart_s=7.0,
        cut_s=9.0,
        cuts_last_s=(3.0, 18.0),
        lease_s=8.0,
        patience_s=120.0,
    )

    figures = rage(tmp_path, weather)

    assert [] == figures["problems"]
    assert (0, 0) == (figures["stuck"], figures["stale accepted"])
    assert figures["restarts"] >= 5
    assert figures["cuts"] >= 4
    assert figures["acknowledged"] > 0
