"""Any history of calls: the store does what a plain model of the contract does, call by call.

Three workers (fresh, condemned, gone, come back), a reaper and users call every writing verb in any
order, through two connections in turn, while the clock goes on. After each call the whole store is
compared with the model.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from queuectl.config import Config
from queuectl.db import open_store, sqlite_transfer
from queuectl.db.hooks import hooks_of
from queuectl.db.transfer import TABLES
from queuectl.errors import QueuectlError
from queuectl.job import JobFilter, Outcome, RunEnd, settle
from tests.store.build import EVERYTHING, T0, completed, counters, spec, worker
from tests.store.engines import ENGINES
from tests.store.model import Model

CONFIG = Config({})
HOOKS = hooks_of(Config({"on_completed": "celebrate", "on_dead": "mourn"}))
LONGEST_TICK_S = sqlite_transfer.LONGEST_TICK_S
WORKERS = ("w1", "w2", "w3")
QUEUES = ("default", "a", "b")
OUTCOMES = (Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.STOPPED, Outcome.CANCELLED)

some_queues = st.sampled_from([(), (), (), ("default",), ("a", "b"), ("nowhere",)])
some_states = st.sampled_from([(), ("dead",), ("completed", "cancelled"), ("failed", "pending"), ("processing",)])
a_worker = st.sampled_from(WORKERS)
some_hooks = st.sampled_from([None, None, HOOKS])
some_needs = st.sampled_from([None] * 20 + [[], ["x"], ["job1"], ["y", "job2"]])
counts = st.integers(1, 4)
descriptions = st.builds(
    spec,
    id=st.sampled_from([None] * 6 + ["x", "y", "job2", "job5", "job9"]),
    queue=st.sampled_from(QUEUES),
    priority=st.integers(-1, 2),
    delay_s=st.sampled_from([None, None, None, 0.0, 3.0, 50.0]),
    max_retries=st.sampled_from([None, 0, 1]),
    after=some_needs,
)


class StoreMachine(RuleBasedStateMachine):
    """One history."""

    def __init__(self, engine):
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="q")
        self.stack = ExitStack()
        location = self.stack.enter_context(ENGINES[engine](Path(self.folder), made=True))
        self.connections = [open_store(location), open_store(location)]
        self.model = Model()
        self.now = T0
        self.mono = 100.0
        self.claims = []  # all that were ever given out
        self.looked_at = {}  # by job: what was known of it when its runs were looked at
        self.marks = {}  # by table and key: each row and its mark when it could last be told
        self.turn = 0

    @property
    def store(self):
        """The connection whose turn it is."""
        self.connections.reverse()
        return self.connections[0]

    def same(self, verb, call, expect):
        """Hold the answer or error of the store against the model's."""
        try:
            expected = expect()
        except QueuectlError as error:
            with pytest.raises(type(error)):
                call()
        else:
            assert expected == call(), verb

    @initialize()
    def enter_all(self):
        """All workers are there at first."""
        for worker_id in WORKERS:
            self.register(worker_id)

    # -- time ---------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 2.0, 4.0, 60.0]))
    def pass_time(self, seconds):
        """The clock goes on."""
        self.now += seconds

    # -- jobs and runs ------------------------------------------------------------------------

    @rule(batch=st.lists(descriptions, min_size=1, max_size=4))
    def add(self, batch):
        """A batch comes in, or is refused as a whole."""
        self.same("add", lambda: self.store.add(batch, self.now), lambda: self.model.add(batch, self.now))

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), delay_s=st.sampled_from([None, None, 4.0]))
    def add_after(self, data, delay_s):
        """A job comes in that is to wait for others that are there, or for one that is not."""
        batch = [spec(after=self.some_ids(data), delay_s=delay_s)]
        self.same("add", lambda: self.store.add(batch, self.now), lambda: self.model.add(batch, self.now))

    def take(self, worker_id, claims, count, queues, freed=()):
        """Hold claims against the model and let it follow.

        A server may find the jobs that an end has *freed* only with the next call.
        """
        expected = self.model.next_claims(worker_id, count, queues, self.now)
        if self.connections[0].many_hosts and [job.id for job in expected] != [claim.job.id for claim in claims]:
            expected = self.model.next_claims(worker_id, count, queues, self.now, freed)
        assert [job.id for job in expected] == [claim.job.id for claim in claims]
        for job, claim in zip(expected, claims):
            self.model.hand_over(job, worker_id, claim.run_id)
            assert self.now == claim.started_at
            assert job.facts() == {name: getattr(claim.job, name) for name in job.FIELDS}
        self.claims += claims

    @rule(worker_id=a_worker, count=counts, queues=some_queues)
    def claim(self, worker_id, count, queues):
        """A worker asks for jobs."""
        self.take(worker_id, self.store.claim(worker_id, count, queues, self.now), count, queues)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), count=st.integers(0, 3), queues=some_queues, hooks=some_hooks)
    def finish(self, data, count, queues, hooks):
        """A worker reports ends, good, late or never its own, and asks for more in the same call."""
        # Mostly the claims of late: the older ones are stale.
        picks = data.draw(st.lists(st.integers(1, min(len(self.claims), 8)), min_size=1, max_size=3))
        worker_id = self.claims[-picks[0]].job.worker_id
        if data.draw(st.sampled_from([False] * 5 + [True])):
            worker_id = data.draw(a_worker)
        ended = []
        for pick in picks:
            claim = self.claims[-pick]
            outcome = data.draw(st.sampled_from(OUTCOMES))
            end = RunEnd(outcome, None if outcome is Outcome.STOPPED else 3, None, str(outcome), self.now)
            ended.append((claim, end, settle(claim.job, end, CONFIG, self.now)))

        answer = self.store.finish(worker_id, ended, count, queues, self.now, hooks=hooks)

        held = [job for job in self.model.jobs.values() if job.held]
        assert [self.model.finish(worker_id, *end, self.now, hooks) for end in ended] == answer.accepted
        self.take(worker_id, answer.claims, count, queues, [job for job in held if not job.held])

    @rule(worker_id=a_worker, count=counts, hooks=some_hooks)
    def complete(self, worker_id, count, hooks):
        """A worker, who may just have come, runs the next jobs, and they complete."""
        self.register(worker_id)
        claims = self.store.claim(worker_id, count, (), self.now)
        self.take(worker_id, claims, count, ())
        ended = [completed(claim, self.now) for claim in claims]
        answer = self.store.finish(worker_id, ended, now=self.now, hooks=hooks)
        assert [self.model.finish(worker_id, *end, self.now, hooks) for end in ended] == answer.accepted

    @precondition(lambda self: self.claims)
    @rule(pick=st.integers(1, 6), text=st.binary(min_size=1, max_size=5))
    def write_output(self, pick, text):
        """A run, perhaps a stale one, prints something more."""
        run_id = self.claims[-min(pick, len(self.claims))].run_id
        written = self.model.output.get(run_id)
        self.store.append_output(run_id, [(len(written or b""), text)])
        if written is not None:
            self.model.output[run_id] += text

    # -- workers ------------------------------------------------------------------------------

    @rule(worker_id=a_worker)
    def register_again(self, worker_id):
        """A worker enters, or comes back."""
        self.register(worker_id)

    def register(self, worker_id):
        """Enter a worker."""
        self.mono += 1.0
        self.store.register(worker(worker_id, renewed_mono_s=self.mono))
        self.model.alive[worker_id] = "alive"
        self.model.mono[worker_id] = self.mono

    @rule(worker_id=a_worker)
    def renew(self, worker_id):
        """A heartbeat: refused if the worker is condemned or gone."""
        self.mono += 1.0
        accepted = self.store.renew(worker_id, 30.0, self.mono)
        assert (self.model.alive.get(worker_id) == "alive") is accepted
        if accepted:
            self.model.mono[worker_id] = self.mono

    @rule(worker_id=a_worker)
    def unregister(self, worker_id):
        """A worker leaves, perhaps with runs it still owns."""
        self.store.unregister(worker_id)
        self.model.alive.pop(worker_id, None)

    @rule(worker_id=a_worker, stale=st.sampled_from([False, False, True]))
    def condemn(self, worker_id, stale):
        """The reaper gives a worker up; in vain if it looked at an older renewal."""
        seen = self.model.mono.get(worker_id, 0.0) - stale
        condemned = self.store.condemn(worker_id, seen)
        assert (worker_id in self.model.alive and not stale) is condemned
        if condemned:
            self.model.alive[worker_id] = "lost"

    @rule(worker_id=a_worker, max_lost=st.integers(1, 3), hooks=some_hooks)
    def release_all(self, worker_id, max_lost, hooks):
        """The reaper takes the runs of a lost worker away."""
        self.release(worker_id, max_lost, hooks)

    def release(self, worker_id, max_lost, hooks=None):
        """Take its runs away, as the model says."""
        answer = self.store.release_lost(worker_id, max_lost, self.now, hooks)
        assert sorted(self.model.release_lost(worker_id, max_lost, self.now, hooks)) == sorted(answer)

    # -- users --------------------------------------------------------------------------------

    def some_ids(self, data, most=2):
        """Draw ids of jobs, now and then one that does not exist."""
        known = sorted(self.model.jobs)
        return data.draw(st.lists(st.sampled_from([*known * 3, "job0"]), min_size=1, max_size=most, unique=True))

    @rule(data=st.data())
    def cancel(self, data):
        """A user cancels jobs, all or none."""
        ids = self.some_ids(data)
        self.same("cancel", lambda: self.store.cancel(ids, self.now), lambda: self.model.cancel(ids, self.now))

    @rule(states=some_states, queues=some_queues)
    def cancel_where(self, states, queues):
        """A user cancels a whole class of jobs."""
        expected = self.model.cancel_where(states, queues, self.now)
        cancelled, running = self.store.cancel_where(JobFilter(states=states, queues=queues), self.now)
        assert expected == (cancelled, sorted(running))

    @rule(data=st.data(), only_dead=st.booleans())
    def retry(self, data, only_dead):
        """A user starts jobs over, all or none."""
        ids = self.some_ids(data)
        self.same(
            "retry",
            lambda: self.store.retry(ids, only_dead, self.now),
            lambda: self.model.retry(ids, only_dead, self.now),
        )

    @rule(states=some_states, queues=some_queues)
    def retry_where(self, states, queues):
        """A user starts a whole class of jobs over."""
        which = JobFilter(states=states, queues=queues)
        expected = self.model.retry_where(states, queues, self.now)
        assert expected == self.store.retry_where(which, self.now)

    @rule(
        data=st.data(),
        changes=st.fixed_dictionaries(
            {},
            optional={
                "priority": st.integers(-1, 2),
                "queue": st.sampled_from(QUEUES),
                "delay_s": st.sampled_from([0.0, 5.0]),
                "max_retries": st.integers(0, 2),
                "after": st.sampled_from([None, [], ["x"], ["job1"], ["job1", "job2"], ["job2", "job4"]]),
            },
        ),
    )
    def edit(self, data, changes):
        """A user changes a job that waits."""
        (job_id,) = self.some_ids(data, 1)
        self.same(
            "edit",
            lambda: self.store.edit(job_id, changes, self.now),
            lambda: self.model.edit(job_id, changes, self.now),
        )

    @rule(states=some_states, age_s=st.sampled_from([-1.0, 0.0, 5.0]), limit=st.integers(1, 5))
    def prune(self, states, age_s, limit):
        """Ended jobs are deleted, a bounded number at a time."""
        allowed = self.model.prunable(states, self.now - age_s)
        count = self.store.prune(JobFilter(states=states, ended_before=self.now - age_s), limit)
        assert min(limit, len(allowed)) == count
        left = {job.id for job in self.store.jobs(EVERYTHING)}
        gone = self.model.jobs.keys() - left
        assert (count, True) == (len(gone), gone <= allowed)
        for job_id in gone:
            self.model.delete(job_id)

    @rule(queue=st.sampled_from(QUEUES), paused=st.booleans())
    def pause(self, queue, paused):
        """A queue is paused or resumed."""
        self.store.set_paused(queue, paused)
        (self.model.paused.add if paused else self.model.paused.discard)(queue)

    @rule(queue=st.sampled_from(QUEUES), limit=st.sampled_from([None, 1, 2]))
    def limit(self, queue, limit):
        """A queue's limit is set or lifted."""
        self.store.set_limit(queue, limit)
        self.model.limits.pop(queue, None)
        if limit is not None:
            self.model.limits[queue] = limit

    @precondition(lambda self: len(self.model.jobs) > 8)
    @rule()
    def reset(self):
        """Everything goes, while workers still hold their claims."""
        self.store.reset()
        self.model.reset()

    # -- what holds at every moment -----------------------------------------------------------

    @invariant()
    def jobs_are_those_of_the_model(self):
        """Every acknowledged job is there until it is pruned, as it has to be, with its runs."""
        jobs = {job.id: job for job in self.store.jobs(EVERYTHING)}
        assert sorted(self.model.jobs, key=lambda job_id: self.model.jobs[job_id].arrival) == list(jobs)
        for job_id, expected in self.model.jobs.items():
            actual = {name: getattr(jobs[job_id], name) for name in expected.FIELDS}
            assert expected.facts() == {**actual, "cancel_requested": bool(actual["cancel_requested"])}
        self.runs_are_those_of_the_model(anew=False)

    def runs_are_those_of_the_model(self, anew):
        """Those of each job about which something has changed, or of all *anew*."""
        for job_id, expected in self.model.jobs.items():
            known = (expected.facts(), [tuple(run) for run in expected.runs])
            if anew or self.looked_at.get(job_id) != known:
                self.looked_at[job_id] = known
                assert [(run_id, number, outcome) for number, (run_id, outcome) in enumerate(expected.runs, 1)] == [
                    (run.run_id, run.number, run.state) for run in self.store.runs(job_id)
                ]

    @invariant()
    def counters_are_right(self):
        """What costs nothing per job equals what was counted one by one."""
        queues = self.store.queues()
        assert self.model.counts() == counters(queues)
        assert {(name, name in self.model.paused, self.model.limits.get(name)) for name in QUEUES} >= {
            tuple(queue[:3]) for queue in queues
        }

    @invariant()
    def looks_ahead_are_right(self):
        """When the next job is due, how much work is left, and what is overdue."""
        due = self.store.next_due((), self.now)
        assert self.model.next_due(self.now) == (None if due is None else max(due, self.now))
        assert self.model.work_left() == self.store.work_left()
        assert self.model.oldest_due(self.now) == self.store.oldest_due(self.now)

    @invariant()
    def no_run_ends_twice_and_no_job_has_two_owners(self):
        """At most one accepted end per run, and each worker owns what the model says, nobody else."""
        assert {1} >= set(self.model.accepted.values())
        assert self.model.ownerless() == set(self.store.ownerless())
        assert self.model.alive == {row.id: row.state for row in self.store.workers()}
        self.turn += 1
        self.what_a_worker_has_is_right(WORKERS[self.turn % len(WORKERS)])

    def what_a_worker_has_is_right(self, worker_id):
        """Its runs, and what is asked of it: of one worker after each step, of all at the end."""
        owned = self.model.owned(worker_id)
        assert sorted((job.id, job.run_id) for job in owned) == sorted(self.store.runs_of(worker_id))
        orders = self.store.orders(worker_id)
        asked = {job.run_id for job in owned if job.cancel_requested}
        assert (self.model.alive.get(worker_id) == "alive", asked) == (orders.known, set(orders.cancelled_runs))

    @invariant()
    def marks_tell_of_changes(self):
        """Rows that a copy compared have changed only if their mark is another one, or cannot be told.

        For SQLite's, which are made of times. PostgreSQL numbers the versions of rows itself.
        """
        if self.connections[0].many_hosts:
            return
        # By this clock: an instant that is not over cannot be told.
        sqlite_transfer.LONGEST_TICK_S = time.time() - self.now + 0.1
        port = self.connections[0].port()
        for table in TABLES:
            rows = port.rows(table, None, None, None)
            keys = [None, *(table.key_of(row) for row in rows)]
            for after, key, row in zip(keys, keys[1:], rows):
                mark = port.mark_of(table, after, key)
                if mark is not None:
                    row_before, mark_before = self.marks.get((table.name, key), (row, None))
                    assert row == row_before or mark != mark_before
                    self.marks[table.name, key] = row, mark

    def teardown(self):
        """At the end nothing is damaged, output is whole, and the reaper leaves no job without an owner."""
        sqlite_transfer.LONGEST_TICK_S = LONGEST_TICK_S
        try:
            for run_id, text in self.model.output.items():
                assert text == b"".join(piece for _, piece in self.store.output(run_id))
            for worker_id in WORKERS:
                self.what_a_worker_has_is_right(worker_id)
            self.runs_are_those_of_the_model(anew=True)
            for worker_id in sorted(self.model.ownerless()):
                self.release(worker_id, 3)
            self.jobs_are_those_of_the_model()
            assert [] == self.store.check()
        finally:
            for connection in self.connections:
                connection.close()
            self.stack.close()
            shutil.rmtree(self.folder)


class NeedsMachine(StoreMachine):
    """Histories of jobs that wait for others: workers stay, and queues are open."""

    # Not among the rules here.
    add = register_again = renew = unregister = condemn = release_all = pause = limit = write_output = None

    @rule(batch=st.lists(st.builds(spec, queue=st.sampled_from(QUEUES)), min_size=1, max_size=2))
    def add_few(self, batch):
        """Jobs come in that wait for nothing."""
        self.same("add", lambda: self.store.add(batch, self.now), lambda: self.model.add(batch, self.now))


@pytest.mark.long
@pytest.mark.limit(600)
@pytest.mark.parametrize("machine", [StoreMachine, NeedsMachine])
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_any_history_goes_as_the_contract_says(engine, machine):
    """No order of calls, good, stale or refused, makes the store differ from the model."""
    run_state_machine_as_test(
        lambda: machine(engine),
        settings=settings(
            max_examples=settings.default.max_examples,
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
