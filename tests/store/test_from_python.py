"""What programs hand to a ``Queue``: it means the same on every engine."""

from __future__ import annotations

import enum

import pytest

from queuectl import JobFilter, Queue
from queuectl.job import MOST, STATES


@pytest.fixture
def queue(location):
    """A queue; nothing may be wrong with it at the end."""
    with Queue(location) as queue:
        yield queue
        assert [] == queue.check()


class Name(str, enum.Enum):
    """Names of a program's own, whose ``str()`` is another text than they are."""

    MAIL = "mail"
    MINE = "mine"


class Urgency(enum.IntEnum):
    """Numbers of a program's own."""

    HIGH = 7


@pytest.mark.parametrize("many", [False, True])
def test_members_of_enumerations_are_stored_as_their_values(queue, many):
    """Not by their names, under which nobody would find the job: neither its worker nor the call that stored it."""
    fields = {
        "command": Name.MAIL, "queue": Name.MAIL, "priority": Urgency.HIGH, "tags": [Name.MINE],
        "env": {Name.MINE: Name.MAIL},
    }  # fmt: skip
    if many:
        queue.enqueue_many([{**fields, "id": Name.MINE}, fields])
    else:
        assert "mine" == queue.enqueue(id=Name.MINE, **fields).id
        queue.enqueue(**fields)

    for job in queue.jobs():
        assert ("mail", "mail", 7, ["mine"]) == (job.command, job.queue, job.priority, job.tags)
        assert {"mine": "mail"} == job.env
    assert ["mine", "job1"] == [job.id for job in queue.jobs()]


def test_members_of_enumerations_name_jobs_and_queues(queue):
    """Whatever takes an id or a queue's name."""
    queue.enqueue("true", id="mine", queue="mail", tags=["mine"])

    assert ["mine"] == [job.id for job in queue.jobs(JobFilter(queues=[Name.MAIL], tags=(Name.MINE,)))]
    assert [] == queue.runs(Name.MINE)
    assert b"" == queue.output(Name.MINE)
    assert "default" == queue.edit(Name.MINE, queue="default").queue
    assert "mail" == queue.edit(Name.MINE, queue=Name.MAIL).queue
    queue.pause(Name.MAIL)
    assert ["mail"] == queue.status().paused_queues
    assert {"mine": "cancelled"} == queue.cancel(Name.MINE)
    assert "cancelled" == queue.wait(Name.MINE, 10).state
    assert [] == list(queue.follow(Name.MINE))
    queue.retry(Name.MINE)
    assert "pending" == queue.get(Name.MINE).state


def test_each_of_many_jobs_keeps_what_it_was_given(queue):
    """Though the program goes on with the same object for the next."""

    def jobs():
        env, tags = {}, []
        for number in "123":
            env["N"] = number
            tags[:] = [number]
            yield {"command": "true", "env": env, "tags": tags}

    queue.enqueue_many(jobs())

    assert [({"N": number}, [number]) for number in "123"] == [(job.env, job.tags) for job in queue.jobs()]


def test_a_filter_takes_as_many_tags_and_queues_as_it_may_list(queue):
    """Together, and whatever is done by it: an engine has limits of its own."""
    names = [f"n{number}" for number in range(MOST["queues"])]
    which = JobFilter(queues=names, tags=names[: MOST["tags"]])
    queue.enqueue("true", queue=names[-1], tags=[names[MOST["tags"] - 1]])
    queue.enqueue("true", queue=names[-1], tags=[names[-1]])

    for states in ((), STATES, [state for state in STATES if state != "completed"]):
        assert ["job1"] == [job.id for job in queue.jobs(which._replace(states=states))]
        assert ["job1"] == [job.id for job in queue.jobs(which._replace(states=states), 5, "priority")]
    assert (1, []) == queue.cancel_where(which)
    assert 1 == queue.retry_where(which)
    assert 0 == queue.prune(which)
