"""Claims from more queues than are all asked each time: by what one look at them has found, in the same order."""

from __future__ import annotations

import random
import time

import pytest

from queuectl.db import heads
from queuectl.job import JobFilter
from tests.store.build import T0, claim_ids, completed, drain, failed, spec, stopped, worker

NAMES = [f"q{number:02}" for number in range(30)]


@pytest.fixture
def for_ever(monkeypatch):
    """What a look has found is gone by for the whole test."""
    monkeypatch.setattr(heads, "FRESH_S", 3600.0)


def in_order(store, now, count, queues=()):
    """Return the ids of the jobs that a claim has to give, found by reading all of them."""
    rooms = {queue.name: queue.max_running - queue.processing for queue in store.queues() if queue.max_running}
    paused = {queue.name for queue in store.queues() if queue.paused}
    waiting = store.jobs(JobFilter(("pending", "failed")), limit=10_000)
    ids = []
    for job in sorted(waiting, key=lambda job: (-job.priority, job.run_at, job.seq)):
        if job.run_at > now or job.queue in paused or (queues and job.queue not in queues):
            continue
        rooms[job.queue] = rooms.get(job.queue, count) - 1
        if rooms[job.queue] >= 0:
            ids.append(job.id)
    return ids[:count]


class Story:
    """A worker that lives through whatever *dice* say, and is given the right jobs all the time."""

    def __init__(self, store, dice, queues):
        self.store, self.dice, self.queues = store, dice, queues
        self.now = T0
        self.held = []

    def add(self):
        """Some jobs come in, also such that are to run later, or were to run before."""
        self.store.add(
            [
                spec(
                    queue=self.dice.choice(NAMES),
                    priority=self.dice.randrange(-1, 2),
                    run_at=self.now + self.dice.choice((-50, 0, 0, 0, 3)),
                )
                for _ in range(self.dice.randrange(1, 9))
            ],
            self.now,
        )

    def turn(self):
        """Hand in what is held, with one end or another, and claim; all that is given is what is most urgent."""
        count = self.dice.choice((1, 1, 1, 2, 5, 16))
        ends = [self.dice.choice((completed, completed, failed, stopped))(claim, self.now) for claim in self.held]
        self.store.finish("w1", ends, now=self.now)
        expected = in_order(self.store, self.now, count, self.queues)
        self.held = self.store.claim("w1", count, self.queues, self.now)
        assert expected == claim_ids(self.held)

    def turn_at_once(self):
        """The same in one call, as a worker does it; what was completed leaves its place to others."""
        ends = [completed(claim, self.now) for claim in self.held]
        taken = self.store.finish("w1", ends, 1, self.queues, self.now)
        assert [True] * len(ends) == taken.accepted
        given = set(claim_ids(taken.claims))
        self.store.give_back("w1", [claim.run_id for claim in taken.claims], self.now)
        assert given == set(in_order(self.store, self.now, 1, self.queues))
        self.held = []

    def change(self):
        """A person does something."""
        name = self.dice.choice(NAMES)
        verb = self.dice.randrange(6)
        if verb == 0:
            self.store.set_paused(name, self.dice.random() < 0.5)
        elif verb == 1:
            self.store.set_limit(name, self.dice.choice((1, 2, None)))
        elif verb == 2:
            self.store.retry_where(JobFilter(("completed",), (name,)), self.now)
        else:
            for job in self.store.jobs(JobFilter(("pending", "failed"), (name,)), limit=2):
                self.store.edit(job.id, {"priority": self.dice.randrange(-1, 3)}, self.now)

    def wait(self):
        """Time passes; somebody's retry is due."""
        self.now += self.dice.choice((0.1, 1.0, 2.5))


@pytest.mark.parametrize("queues", [(), tuple(NAMES[3:20])], ids=["all", "some"])
@pytest.mark.parametrize("seed", range(4))
def test_the_order_is_that_of_all_queues_together(store, for_ever, seed, queues):
    """Whatever this process did in between, each claim gives the most urgent jobs of all queues."""
    story = Story(store, random.Random(seed), queues)
    for _ in range(6):
        story.add()
    for _ in range(60):
        story.dice.choice(
            (story.add, story.turn, story.turn, story.turn, story.turn_at_once, story.change, story.wait)
        )()


def test_a_job_that_was_moved_to_another_queue_stops_no_claim(store, open_again, for_ever):
    """A worker that knows it in its old queue, and then in its new one as well, gives it once, and all others."""
    store.add([spec(id="mine", queue="a", priority=9)], T0)
    ids = store.add([spec(queue=name, priority=1) for name in NAMES], T0)
    ids += store.add([spec(id="moved", queue="z"), spec(queue="z"), *(spec(queue=f"{name}-") for name in NAMES)], T0)
    claims = store.claim("w1", 1, (), T0) + store.claim("w1", 1, (), T0)
    assert ["mine", ids.pop(0)] == claim_ids(claims)
    open_again().edit("moved", {"queue": "a"}, T0)

    given = claim_ids(store.finish("w1", [failed(claims[0], T0)], 1, (), T0).claims) + drain(store)

    assert sorted(ids) == sorted(given)


def test_a_new_job_of_another_process_takes_its_place(store, open_again, for_ever):
    """A worker that goes by what it has seen gives a more urgent job soon: by the claim after next."""
    store.add([spec(queue=name) for name in NAMES], T0)
    claims = store.claim("w1", 1, (), T0)
    claims = store.finish("w1", [completed(claims[0])], 1, (), T0 + 1).claims
    open_again().add([spec(id="urgent", queue="q29", priority=5), spec(id="new", queue="another", priority=4)], T0)

    given = []
    for _ in range(4):
        claims = store.finish("w1", [completed(claim) for claim in claims], 1, (), T0 + 1).claims
        given += claim_ids(claims)

    assert {"urgent", "new"} < set(given[:3])
    assert given.index("urgent") < given.index("new")


def test_what_another_process_changes_is_seen_before_long(store, open_again):
    """A job that became more urgent by an edit, one of a queue that goes on, one that is run again."""
    other = open_again()
    store.add([spec(queue=name) for name in NAMES * 40], T0)
    store.add([spec(id="edited", queue="q05", run_at=T0), spec(id="held", queue="kept", priority=1)], T0)
    other.set_paused("kept", True)
    store.add([spec(id="again", queue="again")], T0 - 5)
    claims = store.claim("w1", 1, (), T0)
    assert ["again"] == claim_ids(claims)
    store.finish("w1", [completed(claims[0], T0)], 1, (), T0)

    other.edit("edited", {"priority": 3}, T0)
    other.set_paused("kept", False)
    other.retry(["again"], now=T0 - 9)

    wanted, deadline = {"edited", "held", "again"}, time.monotonic() + 60
    while wanted and time.monotonic() < deadline:
        wanted -= set(claim_ids(store.claim("w1", 1, (), T0)))
        time.sleep(0.01)
    assert not wanted


def test_two_workers_share_the_jobs_of_many_queues(store, open_again, for_ever):
    """Each goes by its own look; every job is given once, none is left."""
    ids = store.add([spec(queue=f"customer{number}") for number in range(300)], T0)
    both = [("w1", store), ("w2", open_again())]
    given = []
    for turn in range(400):
        name, mine = both[turn % 2]
        given += claim_ids(mine.claim(name, 1 + turn % 3, (), T0))

    assert sorted(ids) == sorted(given)


def test_limits_hold_in_many_queues(store, open_again, for_ever):
    """One at a time of each customer, over two workers; a place that is left is taken."""
    for name in NAMES:
        store.set_limit(name, 1)
    store.add([spec(queue=name) for _ in range(3) for name in NAMES], T0)
    other = open_again()

    first = store.claim("w1", 20, (), T0) + other.claim("w2", 20, (), T0)
    assert sorted(NAMES) == sorted(claim.job.queue for claim in first)
    assert [] == store.claim("w1", 1, (), T0)

    mine = [claim for claim in first if claim.job.worker_id == "w1"]
    after = store.finish("w1", [completed(claim) for claim in mine], 40, (), T0 + 11)
    assert sorted(claim.job.queue for claim in mine) == sorted(claim.job.queue for claim in after.claims)


def test_more_queues_than_are_kept_of_one_look(store, monkeypatch, for_ever):
    """The rest is found by the next look, in its order."""
    monkeypatch.setattr("queuectl.db.sqlite_crowd.MOST", 12)
    monkeypatch.setattr("queuectl.db.postgres_crowd.MOST", 12)
    dice = random.Random(7)
    store.add([spec(queue=name, priority=dice.randrange(4)) for name in NAMES * 3], T0)
    expected = in_order(store, T0, 90)

    assert expected == drain(store)


@pytest.mark.parametrize("count", [3, 10])
def test_several_jobs_at_once_of_more_queues_than_are_kept(store, monkeypatch, for_ever, count):
    """The last queue that is kept gives nothing that is less urgent than what others may have."""
    monkeypatch.setattr("queuectl.db.sqlite_crowd.MOST", 12)
    monkeypatch.setattr("queuectl.db.postgres_crowd.MOST", 12)
    store.add([spec(queue=name, priority=9 - turn) for turn in range(3) for name in NAMES], T0)
    assert 1 == len(store.claim("w1", 1, (), T0))

    given = [claim.job.priority for _ in range(80 // count) for claim in store.claim("w1", count, (), T0)]

    assert sorted(given, reverse=True) == given


def test_a_higher_priority_comes_first_although_others_claim_too(store, open_again, for_ever):
    """What eight workers know is out of date all the time: no job is given while one of a higher priority waits."""
    store.add([spec(queue=f"customer{number}", priority=9 - turn) for turn in range(3) for number in range(40)], T0)
    workers = [(f"v{number}", open_again()) for number in range(8)]
    for name, _ in workers:
        store.register(worker(name))

    given = []
    for turn in range(15):
        for name, mine in workers:
            given += [claim.job.priority for claim in mine.claim(name, 3 if turn % 5 == 0 else 1, (), T0)]

    assert 120 <= len(given)
    assert sorted(given, reverse=True) == given


def test_a_claim_after_all_jobs_were_deleted_finds_none(store, open_again, for_ever):
    """Also where the worker goes by what it saw before."""
    store.add([spec(queue=name) for name in NAMES], T0)
    assert 2 == len(store.claim("w1", 1, (), T0) + store.claim("w1", 1, (), T0))
    other = open_again()
    other.cancel([job.id for job in other.jobs(JobFilter(("pending",)))], T0)
    other.unregister("w1")
    other.release_lost("w1", 1, T0)
    while other.prune(JobFilter()):
        pass
    other.register(worker("w1"))

    assert [] == store.claim("w1", 1, (), T0)


def test_waiting_jobs_of_many_queues_come_when_they_are_due(store, for_ever):
    """Not before, and in the order of priority and time."""
    store.add([spec(queue=name, run_at=T0 + 5 + number) for number, name in enumerate(NAMES)], T0)
    store.add([spec(queue=name, run_at=T0 - 1) for name in NAMES[:10]], T0)
    store.add([spec(id="first", queue="q29", priority=1, run_at=T0 + 8)], T0)

    assert NAMES[:10] == [claim.job.queue for claim in store.claim("w1", 40, (), T0)]
    assert [] == store.claim("w1", 1, (), T0 + 4)
    assert T0 + 5 == store.next_due((), T0 + 4)
    assert ["first", "job1", "job2", "job3", "job4"] == claim_ids(store.claim("w1", 40, (), T0 + 8))


def test_a_lost_worker_is_given_nothing(store, for_ever):
    """Also where it goes by what it saw before."""
    store.add([spec(queue=name) for name in NAMES], T0)
    assert 1 == len(store.claim("w1", 1, (), T0))
    assert 1 == len(store.claim("w1", 1, (), T0))
    store.unregister("w1")

    assert [] == store.claim("w1", 1, (), T0)
    store.register(worker("w1"))
    assert 1 == len(store.claim("w1", 1, (), T0))
