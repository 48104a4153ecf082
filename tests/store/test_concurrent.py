"""Many processes and threads on one store: each with a connection of its own, all at once."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from queuectl.db import open_store
from queuectl.job import JobFilter, Outcome
from tests.store.build import T0, completed, counters, recount, spec, specs, worker

EVERYTHING = JobFilter()

PRELUDE = """
import os, random, sys, time
from queuectl.db import open_store
from queuectl.job import Outcome, RunEnd, State, Verdict, Worker
from queuectl.jobspec import JobSpec

store = open_store(sys.argv[1])
name = sys.argv[2]
dice = random.Random(name)
LEASE = 1.9e9, 1.9e9 + 600, time.monotonic()  # a worker waits for an answer for a part of its lease only

def enter(worker_id):
    store.register(Worker(worker_id, "worker", "g", 0, "here", "host", os.getpid(), "1", (), 1, *LEASE))

def completed(claim):
    return claim, RunEnd(Outcome.COMPLETED, 0, None, None, 1.9e9), Verdict(State.COMPLETED, None, None)

sys.stdin.readline()  # all begin at the same moment
"""

CLAIM_ALL = (
    PRELUDE
    + """
enter(name)
claims = store.claim(name, 3, (), 1.9e9)
while claims:
    for claim in claims:
        print(claim.job.id, claim.run_id)
    answer = store.finish(name, [completed(claim) for claim in claims], dice.randint(1, 4), (), 1.9e9)
    assert all(answer.accepted), answer.accepted
    claims = answer.claims
"""
)

COUNT_RUNNING = """        print(store.queues()[0].processing)"""

# One job at a time, from queues with and without limits; what runs in each is printed while a job is held.
ONE_BY_ONE = (
    PRELUDE
    + """
enter(name)
queues = sys.argv[3:]
claims = []
while claims or store.work_left():
    answer = store.finish(name, [completed(claim) for claim in claims], 1, queues, 1.9e9)
    assert all(answer.accepted), answer.accepted
    claims = answer.claims
    if claims:
        print(*(f"{row.name}{row.processing}" for row in store.queues()))
"""
)

ADD = (
    PRELUDE
    + """
for _ in range(int(sys.argv[3])):
    print(*store.add([JobSpec("true", "/") for _ in range(dice.randint(1, 3))], 1.9e9))
"""
)

# A worker that now and then forgets that it has runs, goes on under a new name and reports the old ones late.
FORGETFUL = (
    PRELUDE
    + """
life, late = 0, []
enter(f"{name}-{life}")
while True:
    me = f"{name}-{life}"
    claims = store.claim(me, dice.randint(1, 3), (), 1.9e9)
    if claims and dice.random() < 0.2:
        late.append((me, [completed(claim) for claim in claims]))
        store.condemn(me, 1.0)
        life += 1
        enter(f"{name}-{life}")
    elif claims:
        answer = store.finish(me, [completed(claim) for claim in claims], now=1.9e9)
        for claim, accepted in zip(claims, answer.accepted):
            if accepted:
                print(claim.job.id, claim.run_id)
    if late and dice.random() < 0.5:
        owner, ends = late.pop()
        for end, accepted in zip(ends, store.finish(owner, ends, now=1.9e9).accepted):
            if accepted:
                print(end[0].job.id, end[0].run_id)
    for row in store.workers():
        if row.state == "lost" and dice.random() < 0.5:
            store.release_lost(row.id, 10**6, 1.9e9)
    if not claims and not late and store.work_left() == 0:
        break
"""
)


@pytest.fixture
def together(location, open_again):
    """Run one script in several processes at the same moment; return the lines each printed."""
    open_again()  # the store is there before they start
    started = []

    def run(script, count, *words):
        for number in range(count):
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", script, location, f"p{number}", *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    universal_newlines=True,
                )
            )
        for process in started:
            process.stdin.write("go\n")
            process.stdin.flush()
        lines = []
        for process in started:
            out, err = process.communicate()
            assert (0, "") == (process.returncode, err)
            lines.append(out.splitlines())
        return lines

    yield run
    for process in started:
        if not process.stdout.closed:
            process.kill()
            process.communicate()


def test_each_job_is_given_to_one_process(store, together):
    """Four processes claim 200 jobs in batches: each job once, each run id once, all of them done."""
    ids = store.add(specs(200), T0)

    lines = together(CLAIM_ALL, 4)
    claimed = [line.split() for part in lines for line in part]

    assert sorted(ids) == sorted(job_id for job_id, _ in claimed)
    assert 200 == len({run_id for _, run_id in claimed})
    assert {"completed"} == set(store.states(ids).values())


def test_a_limit_holds_over_processes(store, together):
    """Each process, while it owns runs, never sees more jobs of the queue running than its limit."""
    store.set_limit("default", 2)
    ids = store.add(specs(60), T0)

    lines = together(CLAIM_ALL.replace("        print(claim.job.id, claim.run_id)", COUNT_RUNNING), 4)

    # Who found the queue full went home; whoever had a run went on to the end.
    assert {"1", "2"} >= {line for part in lines for line in part} >= {"2"}
    assert {"completed"} == set(store.states(ids).values())


@pytest.mark.parametrize("queues", [(), ("a", "b", "c")])
def test_limits_of_several_queues_hold_over_processes(store, together, queues):
    """Claimed one at a time: no queue ever has more running than it may, and none is left over."""
    store.set_limit("a", 1)
    store.set_limit("b", 2)
    ids = store.add([spec(queue="abc"[number % 3], priority=number % 2) for number in range(120)], T0)

    lines = together(ONE_BY_ONE, 4, *queues)
    seen = {word for part in lines for line in part for word in line.split()}

    assert {"a0", "a1", "b0", "b1", "b2"} >= {word for word in seen if word[0] in "ab"} >= {"a1", "b1"}
    assert {"completed"} == set(store.states(ids).values())


def test_processes_number_their_jobs_without_gaps(store, together):
    """Four processes enqueue batches at once: every number once, a batch's numbers in a row."""
    lines = together(ADD, 4, "25")
    batches = [[int(job_id[3:]) for job_id in line.split()] for part in lines for line in part]
    numbers = sorted(number for batch in batches for number in batch)

    assert list(range(1, len(numbers) + 1)) == numbers
    assert all(batch == list(range(batch[0], batch[0] + len(batch))) for batch in batches)
    assert len(numbers) == store.queues()[0].pending


def test_each_run_has_one_accepted_end_whoever_dies(store, together):
    """Workers that are given up and come back late: every job completes once, by one run, and no end is doubled."""
    ids = store.add(specs(150), T0)

    lines = together(FORGETFUL, 3)
    accepted = [line.split() for part in lines for line in part]

    assert sorted(ids) == sorted(job_id for job_id, _ in accepted)
    for job_id, run_id in accepted:
        runs = store.runs(job_id)
        assert [int(run_id)] == [run.run_id for run in runs if run.state == Outcome.COMPLETED]
        assert {Outcome.LOST} >= {run.state for run in runs[:-1]}
        assert list(range(1, len(runs) + 1)) == [run.number for run in runs]


def test_threads_with_connections_of_their_own_share_the_jobs(store, location):
    """Four threads, each with its own store object, get each job once."""
    ids = store.add(specs(120), T0)
    claimed = []
    troubles = []
    gate = threading.Barrier(4)

    def work(number):
        mine = open_store(location)
        try:
            mine.register(worker(f"t{number}"))
            gate.wait()
            claims = mine.claim(f"t{number}", 2, (), T0)
            while claims:
                claimed.extend(claim.job.id for claim in claims)
                claims = mine.finish(f"t{number}", [completed(claim) for claim in claims], 2, (), T0).claims
        except BaseException as trouble:
            troubles.append(trouble)
            gate.abort()
        finally:
            mine.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ([], sorted(ids)) == (troubles, sorted(claimed))


def test_counters_agree_after_everybody_wrote(store, together):
    """Enqueuers and workers at once leave counters that equal the jobs."""
    store.add([spec(queue=f"q{number % 3}") for number in range(60)], T0)

    together(ADD + CLAIM_ALL.replace(PRELUDE, ""), 3, "10")

    assert recount(store) == counters(store.queues())
    assert {"completed"} == {job.state for job in store.jobs(EVERYTHING)}
