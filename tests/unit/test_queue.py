"""The Python API over a store: what ``Queue`` adds to the store's verbs. Runs are played by hand, no worker runs."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import re
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import queuectl
from queuectl import Queue, errors, forking
from queuectl.db import open_store
from queuectl.errors import (
    InvalidJob,
    InvalidSetting,
    JobExists,
    JobNotFound,
    NotInDlq,
    QueuectlError,
    StoreRefused,
)
from queuectl.job import JobFilter, State
from queuectl.jobspec import JobSpec
from tests.store.build import cancelled, completed, dead, failed, worker


@pytest.fixture
def queue(home):
    """A queue in the test's own home, with one registered worker that does nothing by itself."""
    with Queue() as queue:
        queue.store.register(worker("w1"))
        yield queue


def claim(queue):
    """Begin a run of the most urgent job, as a worker would."""
    return queue.store.claim("w1", 1)[0]


def end(queue, how):
    """Run the most urgent job and end it as *how* says; return its id."""
    begun = claim(queue)
    assert [True] == queue.store.finish("w1", [how(begun, queue.now())]).accepted
    return begun.job.id


# -- opening ----------------------------------------------------------------------------------


def test_the_store_is_in_the_home_unless_named(home, tmp_path, monkeypatch):
    """A path, QUEUECTL_DB, or jobs.db in the home: in that order."""
    named = str(tmp_path / "named.db")
    by_environment = str(tmp_path / "environment.db")
    with Queue() as plain:
        assert str(home / "jobs.db") == plain.store.location
    monkeypatch.setenv("QUEUECTL_DB", by_environment)
    with Queue() as second, Queue(named) as third:
        assert [by_environment, named] == [second.store.location, third.store.location]


@pytest.mark.parametrize("form", ["{0}", "sqlite://{0}", "sqlite:///{0}", "~/here.db", "here.db"])
def test_a_store_may_be_named_in_several_ways(home, form):
    """A path, absolute, relative or in the home directory, or a URL."""
    path = os.path.join(os.getcwd(), "here.db")

    with Queue(form.format(path)) as queue:
        assert path == os.path.realpath(queue.store.location)


def test_an_unknown_kind_of_store_is_refused(home):
    """A URL of another database is not taken for a path."""
    with pytest.raises(StoreRefused, match="unknown kind of store mysql://"):
        Queue("mysql://host/db")


@pytest.mark.parametrize(
    "location",
    ["host=127.0.0.1 port=5432 dbname=jobs", "dbname = jobs password=s3cr3t", "service=jobs", "host=/run/pg"],
)
def test_a_list_of_libpqs_parameters_is_refused(home, location):
    """It would be the name of a file, into which the jobs went where no worker looks."""
    with pytest.raises(StoreRefused, match="postgresql://user@host:5432/database") as refused:
        Queue(location)

    assert "s3cr3t" not in str(refused.value)
    assert [] == [name for name in os.listdir() if "=" in name]
    with Queue("./dbname=jobs") as queue:  # who means a file can have it
        assert os.path.basename(queue.store.location) == "dbname=jobs"


@pytest.mark.parametrize("location", [":memory:", "sqlite://", "sqlite:///:memory:", "file:jobs.db?mode=rwc"])
def test_what_only_sqlite_takes_for_a_store_is_refused(home, location):
    """It would be the name of a file in the current directory, whatever that is."""
    with pytest.raises(StoreRefused, match="a store is "):
        Queue(location)

    assert not any(name.startswith((":", "file")) for name in os.listdir())
    with Queue("./:memory:" if os.name == "posix" else "memory") as queue:  # who means a file can have it
        assert queue.enqueue("true").id == "job1"


@pytest.mark.posix
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_queue_that_nobody_closes_leaves_no_descriptor(home):
    """A server that opens one for each request would run out of them, and keep each removed log on the disk."""

    def descriptors():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(5):
        Queue().enqueue("true")

    assert before == descriptors()


def test_all_public_names_can_be_found_before_they_are_used():
    """By help() and by completion, though they are imported when they are first used."""
    program = "import queuectl as q, sys; print({*q.__all__} <= {*dir(q)}, 'queuectl.queue' in sys.modules)"

    assert "True False\n" == subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True).stdout


def test_a_closed_queue_says_so(queue):
    """Every use after the closing is an error of the family; closing again is allowed."""
    queue.close()
    queue.close()

    with pytest.raises(QueuectlError, match="closed"):
        queue.get("job1")


# -- jobs come in -----------------------------------------------------------------------------


def test_an_enqueued_job_comes_back_as_stored(queue):
    """The fields are those of the JSON; durations and hyphens are read; the directory is the caller's."""
    job = queue.enqueue("echo hi", priority=5, delay="2h30m", timeout="1.5m", tags=["a"], **{"max-retries": 7})

    assert ("job1", "echo hi", 5, 90.0, ["a"], 7) == (
        job.id, job.command, job.priority, job.timeout_s, job.tags, job.max_retries,
    )  # fmt: skip
    assert (os.getcwd(), 9000.0) == (job.cwd, job.run_at - job.created_at)


def test_many_jobs_come_in_together(queue):
    """Commands, mappings and checked descriptions may be mixed; ids are in order."""
    ids = queue.enqueue_many(["true", {"command": "a", "id": "mine"}, JobSpec("b", "/")])

    assert ["job1", "mine", "job2"] == ids
    assert ["true", "a", "b"] == [job.command for job in queue.jobs()]


@pytest.mark.parametrize("jobs", ["ls", b"ls", {"command": "ls"}])
def test_one_job_is_not_taken_for_many(queue, jobs):
    """Not a job for each letter of a command, or for each field's name."""
    with pytest.raises(InvalidJob, match="^enqueue_many takes a list of jobs, not "):
        queue.enqueue_many(jobs)

    assert [] == list(queue.jobs())


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"command": " "}, InvalidJob, "^job 2: job field 'command'"),
        ({"comand": "x"}, InvalidJob, "^job 2: unknown job field 'comand'"),
        (1, InvalidJob, "^job 2: it must be a command or a mapping of job fields, not 1"),
        (None, InvalidJob, "^job 2: it must be a command or a mapping of job fields, not None"),
        ({"command": "x", "id": "taken"}, JobExists, "^job 2: the id taken is taken"),
        ({"command": "x", "id": "job7"}, JobExists, "^job 4: the id job7 is given twice"),
    ],
)
def test_one_bad_job_refuses_them_all(queue, bad, error, message):
    """Nothing is stored, the message tells which, and no id is used up."""
    queue.enqueue("true", id="taken")

    with pytest.raises(error, match=message):
        queue.enqueue_many(["true", bad, "true", {"command": "true", "id": "job7"}])

    assert (["taken"], "job1") == ([job.id for job in queue.jobs()], queue.enqueue("true").id)


# -- looking ----------------------------------------------------------------------------------


@pytest.mark.posix
def test_a_job_that_says_where_it_runs_needs_no_current_directory(queue, tmp_path, monkeypatch):
    """One that was deleted meanwhile is missed only where a job would run in it, and then by a sentence."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert "/" == queue.enqueue("true", cwd="/").cwd
    assert ["job2"] == queue.enqueue_many([{"command": "true", "cwd": "/"}])
    for jobs in ("true", {"command": "true", "cwd": "sub"}):
        with pytest.raises(InvalidJob, match="^job 1: the current directory no longer exists[.] Change to "):
            queue.enqueue_many([jobs])
    with pytest.raises(InvalidJob, match="^the current directory no longer exists"):
        queue.enqueue("true")


def test_a_job_that_does_not_exist_is_not_found(queue):
    """``get``, ``runs``, ``output``, ``wait`` and ``edit`` all say which."""
    for look in (queue.get, queue.runs, queue.output, queue.wait, lambda job_id: queue.edit(job_id, priority=1)):
        with pytest.raises(JobNotFound, match="job9"):
            look("job9")


def test_many_jobs_whose_text_is_of_a_kind_of_its_own(queue):
    """As the members of an Enum that are text or numbers; very many jobs are kept in a file before they are stored."""

    class Text(str):
        """Text all the same."""

    class Number(int):
        """A whole number."""

    jobs = [{"command": Text("a"), "priority": Number(7), "env": {Text("A"): Text("1")}, "tags": [Text("t")]}] * 20_001

    ids = queue.enqueue_many(iter(jobs))

    assert [f"job{number}" for number in range(1, 20_002)] == ids
    for job in (queue.get("job1"), queue.get("job20001")):
        assert ("a", 7, {"A": "1"}, ["t"]) == (job.command, job.priority, job.env, job.tags)


def test_jobs_are_read_page_by_page_without_a_seam(queue):
    """More jobs than a page: all of them, in order, whichever way; a limit cuts anywhere."""
    ids = queue.enqueue_many(["true"] * 2300)

    assert ids == [job.id for job in queue.jobs()]
    assert ids[::-1] == [job.id for job in queue.jobs(descending=True)]
    assert sorted(ids) == [job.id for job in queue.jobs(sort="id")]
    assert ids[:2150] == [job.id for job in queue.jobs(limit=2150)]
    assert [] == list(queue.jobs(limit=0))


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (JobFilter(states=("pendng",)), "^unknown state 'pendng'. Did you mean 'pending'?"),
        (JobFilter(states=("1=1 OR pending",)), "^unknown state '1=1 OR pending'"),
        (JobFilter(states=("dead", "xyzzy")), "^unknown state 'xyzzy'. The states are pending, processing"),
        (JobFilter(states=(None,)), "^unknown state None"),
        (JobFilter(states="dead"), "^states of a JobFilter must be a list, not 'dead'"),
        (JobFilter(queues="mail"), "^queues of a JobFilter must be a list"),
        *[
            (JobFilter(ended_before=wrong), "^ended_before of a JobFilter must be a time in Unix seconds, not")
            for wrong in ("2020-01-01", "30d", float("nan"), float("inf"), True, [], 10**400, datetime.min)
        ],
        *[
            (JobFilter(**{field: [wrong]}), f"^{field} of a JobFilter must be strings, not")
            for field in ("queues", "tags")
            for wrong in (1, None, b"default", "\ud800", ["default"])
        ],
    ],
)
def test_a_filter_that_can_match_nothing_is_refused(queue, which, message):
    """Looking, retrying and pruning alike: nobody who mistyped a state is told that there are no such jobs."""
    queue.cancel(queue.enqueue("true").id)

    for verb in (lambda which: list(queue.jobs(which)), queue.retry_where, queue.prune):
        with pytest.raises(QueuectlError, match=message):
            verb(which)

    assert "cancelled" == queue.get("job1").state


def test_a_filter_takes_states_and_lists_too(queue):
    """Members of ``State`` and their names mean the same, and None is no condition."""
    queue.enqueue("true")

    for which in (JobFilter([State.PENDING]), JobFilter(["pending"], ["default"], None), JobFilter(None)):
        assert ["job1"] == [job.id for job in queue.jobs(which)]


def test_output_is_that_of_the_last_run_or_the_one_named(queue):
    """Each run has its own; a job that has not run has none; an unknown run is an error."""
    queue.enqueue("true", max_retries=5)
    assert b"" == queue.output("job1")
    for text in (b"first", b"second"):
        if text == b"second":
            with pytest.raises(QueuectlError, match="job1 has had 1 run; there is no run 3"):
                queue.output("job1", 3)
        begun = claim(queue)
        queue.store.append_output(begun.run_id, [(0, text)])
        queue.store.finish("w1", [failed(begun, queue.now(), retry_at=queue.now())])

    assert (b"second", b"first") == (queue.output("job1"), queue.output("job1", 1))
    with pytest.raises(QueuectlError, match="job1 has had 2 runs; there is no run 3"):
        queue.output("job1", 3)


def test_a_cut_in_the_output_is_marked(queue):
    """Where the middle is missing stands a line of its own, with the number of bytes."""
    queue.enqueue("true")
    queue.store.append_output(claim(queue).run_id, [(0, b"head"), (104, b"tail")])

    assert b"head\n[queuectl: 100 bytes were cut here]\ntail" == queue.output("job1")


@pytest.mark.parametrize("lines", [None, 0, 1, 130, 150])
def test_a_long_output_is_read_in_pages(queue, lines, monkeypatch):
    """However many parts there are, never all of them at once; a cut and the last lines are where they would be."""
    queue.enqueue("true")
    begun = claim(queue)
    queue.store.append_outputs([(begun.run_id, [(4 * number, b"%03d\n" % number) for number in range(150)], None)])
    queue.store.append_output(begun.run_id, [(604, b"last\n")])
    queue.store.finish("w1", [completed(begun)])
    read, pages = queue.store.output, []
    monkeypatch.setattr(queue.store, "output", lambda *words: (pages.append(read(*words)), pages[-1])[1])
    printed = [b"%03d\n" % number for number in range(150)]
    end = b"\n[queuectl: 4 bytes were cut here]\nlast\n"
    shown = [b"", b"last\n"][lines] if lines in (0, 1) else b"".join([*printed, end][-(lines or 151) :])

    assert shown == queue.output("job1", lines=lines) == b"".join(queue.follow("job1", lines=lines))
    assert max(map(len, pages)) <= 64


def test_followed_output_comes_piece_by_piece_to_the_end(queue):
    """What is there, what comes while it is followed, and then the end of the run."""
    queue.enqueue("true")
    begun = claim(queue)
    queue.store.append_output(begun.run_id, [(0, b"one")])
    follower = queue.follow("job1")

    pieces = [next(follower)]
    queue.store.append_output(begun.run_id, [(3, b"two")])
    pieces.append(next(follower))
    queue.store.append_output(begun.run_id, [(6, b"three")])
    queue.store.finish("w1", [completed(begun)])
    pieces += follower

    assert [b"one", b"two", b"three"] == pieces


def test_following_a_job_that_never_ran_ends_with_it(queue):
    """A job cancelled before its first run has no output to wait for."""
    queue.enqueue("true")
    queue.cancel("job1")

    assert [] == list(queue.follow("job1"))


def between_looks(queue, monkeypatch, *steps):
    """Let a waiting call of *queue* take the next of *steps* after each look, instead of a nap."""
    left = iter(steps)
    monkeypatch.setattr(queue, "_nap", lambda sleep_s: (next(left)(), sleep_s)[1])


@pytest.mark.parametrize("run", [None, 1])
def test_a_run_that_is_given_back_is_followed_when_it_begins_anew(queue, monkeypatch, run):
    """A worker that had claimed the job ahead did not get to it: to its follower nothing has happened."""
    queue.enqueue("true")
    ahead = claim(queue)

    def begin_anew():
        begun = claim(queue)
        queue.store.append_output(begun.run_id, [(0, b"hello")])
        queue.store.finish("w1", [completed(begun)])

    between_looks(queue, monkeypatch, lambda: queue.store.give_back("w1", [ahead.run_id]), begin_anew, lambda: None)

    assert [b"hello"] == list(queue.follow("job1", run))


def test_a_run_that_is_given_back_for_good_ends_with_its_job(queue, monkeypatch):
    """Cancelled before it was claimed again; the output of the run before it is not shown in its place."""
    queue.enqueue("true")
    first = claim(queue)
    queue.store.append_output(first.run_id, [(0, b"first")])
    queue.store.finish("w1", [failed(first, queue.now(), queue.now())])
    ahead = claim(queue)

    between_looks(queue, monkeypatch, lambda: queue.store.give_back("w1", [ahead.run_id]), lambda: queue.cancel("job1"))

    assert [] == list(queue.follow("job1"))


def test_the_status_counts_every_state(queue):
    """Over all queues; with the age of the oldest due job and the paused queues."""
    queue.enqueue_many([{"command": "true", "queue": name} for name in ("a", "b", "b")])
    end(queue, completed)
    queue.pause("b")

    status = queue.status()

    assert {"pending": 2, "processing": 0, "failed": 0, "completed": 1, "dead": 0, "cancelled": 0} == status.jobs
    assert (["b"], True) == (status.paused_queues, status.oldest_due_age_s >= 0)


# -- waiting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "state"), [(completed, "completed"), (dead, "dead"), (cancelled, "cancelled")])
def test_waiting_ends_with_the_job(queue, how, state):
    """An ended job is returned at once, whatever its end."""
    queue.enqueue("true")
    end(queue, how)

    assert state == queue.wait("job1").state


def test_waiting_sees_an_end_that_comes_later(queue):
    """``tick`` is called between looks; the answer has the jobs in the order asked for."""
    queue.enqueue_many(["true", "true"])
    ends = [completed, dead]

    jobs = queue.wait_all(["job2", "job1", "job2"], tick=lambda: ends and end(queue, ends.pop(0)))

    assert [("job2", "dead"), ("job1", "completed"), ("job2", "dead")] == [(job.id, job.state) for job in jobs]


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_waiting_ends_at_its_timeout(queue, timeout):
    """TimeoutError, which names what had not ended; a failed job that waits for its retry has not."""
    queue.enqueue_many(["true", "true"])
    end(queue, failed)

    with pytest.raises(TimeoutError, match="^job1, job2 had not ended"):
        queue.wait_all(["job1", "job2"], timeout)


@pytest.mark.parametrize("ended", [0, 1, 2, 3])
def test_the_look_at_many_is_cut_at_the_timeout(queue, monkeypatch, ended):
    """As soon as one is known that has not ended: a look at hundreds of thousands takes seconds."""
    queue.enqueue_many(["true"] * 7)
    if ended:
        queue.cancel(*[f"job{n + 1}" for n in range(ended)])
    monkeypatch.setattr("queuectl.following.LOOK", 2)

    with pytest.raises(TimeoutError) as told:
        queue.wait_all([f"job{n + 1}" for n in range(7)], 0)

    seen = 2 if ended < 2 else 4
    assert (told.value.open_ids, told.value.unseen) == ([f"job{n + 1}" for n in range(ended, seen)], 7 - seen)


def test_waiting_for_many_rests_longer_than_it_looks(queue, monkeypatch):
    """Others commit after each look, which would follow one another: most of a processor, for as long as it lasts."""
    queue.enqueue("true")
    states, looks = type(queue.store).states, []

    def slowly(store, ids):
        looks.append(ids)
        until_s = time.thread_time() + 0.05
        while time.thread_time() < until_s:  # as it takes with thousands of ids
            pass
        return states(store, ids)

    monkeypatch.setattr(type(queue.store), "states", slowly)
    with Queue() as other, pytest.raises(TimeoutError):
        queue.wait_all(["job1"], 1.0, tick=lambda: other.enqueue("true"))

    assert len(looks) <= 1 + 1.0 // (0.05 + 0.25) + 1  # the last one at the end of the time


@pytest.mark.parametrize("timeout", [float("nan"), "1s", [1]], ids=["nan", "text", "list"])
def test_a_timeout_is_a_number(queue, timeout):
    """What no clock comes to would be waited for without end."""
    queue.enqueue("true")

    with pytest.raises(QueuectlError, match="a timeout must be a number of seconds, or None for no timeout, not"):
        queue.wait("job1", timeout)


def test_ids_to_wait_for_are_several(queue):
    """A text is not taken for its letters."""
    queue.enqueue("true")

    with pytest.raises(QueuectlError, match=r"Put it into brackets: wait_all\(\['job1'\]\)"):
        queue.wait_all("job1")


def test_ids_to_wait_for_come_from_whatever_yields_them(queue):
    """They are gone through more than once."""
    ids = queue.enqueue_many(["true", "true"])
    queue.cancel(*ids)

    assert ids == [job.id for job in queue.wait_all(iter(ids), 5)]


@pytest.mark.parametrize("verb", ["get", "runs", "output", "explain", "edit", "cancel", "retry", "retry_dead", "wait"])
def test_what_can_be_no_job_s_id_is_not_looked_for(queue, verb):
    """Engines take such values for mistakes of ours, and a terminal cannot print them."""
    job = queue.enqueue("true")

    for text in ("", "job1\0", "\ud800", "x" * 10000, "-x"):
        with pytest.raises((JobNotFound, NotInDlq)) as refused:
            getattr(queue, verb)(text)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 200
    for value in (None, 1, b"job1", ["job1"], job):
        with pytest.raises(QueuectlError, match=r"a job's id must be a string such as 'job1', not "):
            getattr(queue, verb)(value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda queue: list(queue.jobs("dead")), "by a JobFilter, not 'dead'"),
        (
            lambda queue: list(queue.jobs(limit="5")),
            "a limit must be a whole number from 0, or None for no limit, not '5'",
        ),
        (
            lambda queue: list(queue.jobs(None, -1)),
            "a limit must be a whole number from 0, or None for no limit, not -1",
        ),
        (lambda queue: list(queue.jobs(JobFilter(states=5))), "states of a JobFilter must be a list, not 5"),
        (lambda queue: queue.cancel_where(JobFilter(queues="")), "queues of a JobFilter must be a list, not ''"),
        (lambda queue: queue.cancel_where(JobFilter(tags=0)), "tags of a JobFilter must be a list, not 0"),
        (lambda queue: queue.cancel_where(JobFilter(states=b"")), "states of a JobFilter must be a list, not b''"),
        (lambda queue: queue.cancel_where(JobFilter(), "no"), "tell must be a function, or None for none, not 'no'"),
        (lambda queue: queue.retry_where(JobFilter(), 5), "tell must be a function, or None for none, not 5"),
        (lambda queue: queue.prune(JobFilter(), ()), r"tell must be a function, or None for none, not \(\)"),
        (lambda queue: queue.copy_to("copy.db", tell=True), "tell must be a function, or None for none, not True"),
        (lambda queue: queue.wait_all(["job1"], 5, 0), "tick must be a function, or None for none, not 0"),
        (lambda queue: queue.prune(None), "by a JobFilter, not None"),
        (lambda queue: queue.cancel_where(JobFilter(tags=["a"] * 51)), "JobFilter may be at most 50, not 51"),
        (lambda queue: queue.prune(JobFilter(queues=["a"] * 101)), "JobFilter may be at most 100, not"),
        (lambda queue: queue.retry_where(("dead",)), "by a JobFilter, not"),
        (lambda queue: queue.cancel("job1", wait_s="5"), "a timeout must be a number of seconds"),
        (lambda queue: queue.cancel("job1", wait_s=10**400), "a timeout must be a number of seconds"),
        (
            lambda queue: list(queue.jobs(limit=True)),
            "a limit must be a whole number from 0, or None for no limit, not True",
        ),
        (lambda queue: queue.stop_workers(timeout="5"), "a timeout must be a number of seconds"),
        (lambda queue: queue.stop_workers(hosts="db1"), "hosts must be a list, not 'db1'"),
        (lambda queue: queue.stop_workers(hosts=5), "hosts must be a list, not 5"),
        (lambda queue: queue.stop_workers(hosts=[b"db1"]), "a host's name must be a string, not b'db1'"),
        (lambda queue: queue.output("job1", "1"), "a run must be given by its number, from 1, not '1'"),
        (lambda queue: queue.output("job1", True), "a run must be given by its number, from 1, not True"),
        (lambda queue: queue.output("job1", lines=-1), "lines must be a whole number from 0, or None for all of them"),
        (lambda queue: list(queue.follow("job1", lines="5")), "or None for all of them, not '5'"),
        (lambda queue: queue.output("job1", 10**5000), "job1 has had 0 runs; there is no run (int|1000)"),
        (lambda queue: queue.enqueue("true", timeout=timedelta), "'timeout' must be seconds or a duration"),
        (lambda queue: queue.enqueue("true", run_at=datetime), "'run_at' must be a time"),
        (lambda queue: queue.enqueue("true", cwd=Path), "'cwd' must be a string"),
        (lambda queue: queue.prune(JobFilter(ended_before=datetime)), "ended_before of a JobFilter must be a time"),
        (lambda queue: queue.enqueue("true", env={1: "x"}), "'env' must be an object whose names are strings, not 1"),
        (lambda queue: queue.enqueue_many(None), "enqueue_many takes a list of jobs, not None"),
        (lambda queue: queue.wait_all(None), "wait_all takes several ids"),
        (lambda queue: queue.copy_to(None), "a copy needs a location"),
        (lambda queue: queue.copy_to(""), "a copy needs a location"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_refused_with_a_sentence(queue, call, message):
    """Before anything is done."""
    queue.enqueue("true")

    with pytest.raises(QueuectlError, match=message):
        call(queue)
    assert "pending" == queue.get("job1").state


@pytest.mark.parametrize("module", [pickle, copy])
def test_a_queue_says_that_it_cannot_go_to_another_process(queue, module):
    """As multiprocessing does with arguments where it does not fork."""
    with pytest.raises(TypeError, match=r"a Queue cannot be pickled or copied\. Open one where it is needed"):
        (module.copy if module is copy else module.dumps)(queue)


def test_errors_come_back_from_another_process_as_they_are(queue):
    """A pool sends them pickled; one that could not be read there would hang it for good."""
    queue.enqueue("true")
    raised = [errors.MissingExtra("this", "that", "more"), errors.NotDurable("No disk.", ["job1"])]
    for call in (
        lambda: queue.enqueue("true", id="job1"),
        lambda: queue.get("job2"),
        lambda: queue.retry("job1"),
        lambda: queue.retry_dead("job1"),
        lambda: queue.enqueue(""),
    ):
        with pytest.raises(QueuectlError) as caught:
            call()
        raised.append(caught.value)

    for error in raised:
        back = pickle.loads(pickle.dumps(error))
        assert (type(error), str(error), vars(error)) == (type(back), str(back), vars(back))


def test_all_errors_that_the_reference_names_are_at_hand():
    """But those that only the command line raises."""
    reference = Path(__file__).parent.parent.parent / "docs/reference/python-api.md"
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", reference.read_text().partition("\n## Errors")[2], re.MULTILINE)

    assert len(rows) > 10
    for name, when in rows:
        assert ("not raised by the API" in when) != (getattr(queuectl, name, None) is getattr(errors, name))


def test_a_location_is_a_path_or_a_url(tmp_path):
    """Of any of Python's types of paths; whatever else it is, the message shows it."""
    with Queue(tmp_path / "jobs.db") as ours, Queue(os.fsencode(tmp_path / "jobs.db")) as theirs:
        ours.enqueue("true")
        assert "job1" == theirs.get("job1").id

    with pytest.raises(StoreRefused, match="a store's location must be a path or a URL, not 7"):
        Queue(7)
    with pytest.raises(StoreRefused, match=r"a store's location must be a path or a URL, not (list|\[1000)"):
        Queue([10**5000])
    with pytest.raises(StoreRefused, match="a store's location must not contain NUL characters"):
        Queue("jobs\0.db")
    if os.name != "nt":  # there a name is made of any 16-bit units
        with pytest.raises(StoreRefused, match=r"must be text that a path can have, not '\\ud800.db'"):
            Queue("\ud800.db")


def test_waiting_for_a_job_that_is_deleted_ends(queue):
    """It will never end, so it is not found."""
    queue.enqueue("true")

    with pytest.raises(JobNotFound):
        queue.wait_all(["job1"], tick=lambda: (queue.cancel("job1"), queue.prune(JobFilter())))


@pytest.mark.parametrize(
    "meanwhile",
    [lambda queue: queue.prune(JobFilter()), lambda queue: queue.retry("job1")],
    ids=["deleted", "run again"],
)
def test_an_end_that_was_seen_is_told_whatever_comes_of_the_job(queue, meanwhile):
    """Workers delete jobs by their age (keep_completed): a wait for many failed when all of them had completed."""
    queue.enqueue_many(["true", "true"])
    steps = [lambda: end(queue, completed), lambda: meanwhile(queue), lambda: queue.cancel("job2")]

    jobs = queue.wait_all(["job1", "job2"], 30, tick=lambda: steps and steps.pop(0)())

    assert [("job1", "completed"), ("job2", "cancelled")] == [(job.id, job.state) for job in jobs]


# -- moving and switches ----------------------------------------------------------------------


def test_cancelling_a_running_job_waits_as_long_as_asked(queue):
    """Without waiting it is still processing; the store keeps the wish."""
    queue.enqueue("true")
    claim(queue)

    assert {"job1": "processing"} == queue.cancel("job1", wait_s=0.03)
    assert queue.get("job1").cancel_requested


def test_cancelling_a_job_that_is_deleted_meanwhile_waits_no_longer(queue):
    """Its worker has ended it, and somebody who prunes was faster than the next look."""
    queue.enqueue("true")
    (claim,) = queue.store.claim("w1", 1)

    def end():
        with queue._lock:
            queue.store.finish("w1", [cancelled(claim)])
            assert 1 == queue.prune(JobFilter())

    timer = threading.Timer(0.2, end)
    timer.start()

    assert {"job1": "deleted"} == queue.cancel("job1", wait_s=float("inf"))

    timer.join()


def test_the_dlq_is_retried_all_or_none(queue):
    """An id that is not dead refuses them all."""
    queue.enqueue_many(["true", "true"])
    end(queue, dead)

    with pytest.raises(NotInDlq, match="job2"):
        queue.retry_dead("job1", "job2")
    assert "dead" == queue.get("job1").state
    queue.retry_dead("job1")
    assert "pending" == queue.get("job1").state


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": "other"}, "job field 'id' cannot be changed"),
        ({"priority": "high"}, "job field 'priority' must be"),
        ({"state": "dead"}, "job field 'state' is set by queuectl itself"),
        ({"run_at": "2030-01-31T08:00Z", "delay": 5}, "both given"),
        ({"cwd": None}, "job field 'cwd' cannot be removed"),
    ],
)
def test_a_bad_edit_changes_nothing(queue, fields, message):
    """Checked like an enqueue."""
    before = queue.enqueue("true")

    with pytest.raises(InvalidJob, match=message):
        queue.edit("job1", **fields)

    assert before == queue.get("job1")


def test_an_edit_reads_values_like_an_enqueue(queue):
    """Durations and hyphens too; the job comes back as it is now."""
    queue.enqueue("true")

    job = queue.edit("job1", timeout="2m", command="false", **{"max-retries": 0})

    assert (120.0, "false", 0) == (job.timeout_s, job.command, job.max_retries)


def test_an_edit_to_none_is_as_if_the_field_had_not_been_given(queue):
    """The default, where there is one; for the time that is now."""
    queue.enqueue("true", queue="mail", priority=5, delay=3600, timeout=5)

    job = queue.edit("job1", queue=None, priority=None, run_at=None, timeout=None)

    assert ("default", 0, None) == (job.queue, job.priority, job.timeout_s)
    assert job.run_at <= job.updated_at


def test_a_prune_goes_on_until_all_are_gone(queue):
    """Thousands are deleted in steps, and counted."""
    queue.cancel(*queue.enqueue_many(["true"] * 2100))

    assert (2100, []) == (queue.prune(JobFilter()), list(queue.jobs()))


@pytest.mark.parametrize("limit", [0, -1, 2**31, True, "2", 2.0])
def test_a_limit_that_makes_no_sense_is_refused(queue, limit):
    """A queue that may run nothing is paused, not limited."""
    with pytest.raises(QueuectlError, match="limit must be a whole number from 1 to 2147483647, or none"):
        queue.limit("a", limit)

    assert [] == queue.queues()


@pytest.mark.parametrize("name", ["", "-a", "a b", "x" * 129, "a\0", None, 5, ["a"]])
def test_a_queue_needs_a_name(queue, name):
    """Switches are set for names that a job could have."""
    for switch in (queue.pause, queue.resume, lambda bad: queue.limit(bad, 3)):
        with pytest.raises(InvalidJob, match="a queue's name must be"):
            switch(name)


def test_settings_are_checked_and_may_be_called_by_their_other_names(queue):
    """Stored under one name, as typed; a bad value changes nothing; unset brings the default back."""
    queue.set_setting("default-max-retries", " 7 ")
    with pytest.raises(InvalidSetting):
        queue.set_setting("max_retries", "many")

    assert ({"max_retries": "7"}, 7) == (queue.settings(), queue.config().max_retries)
    queue.unset_setting("max-retries")
    assert ({}, 3) == (queue.settings(), queue.config().max_retries)


@pytest.mark.parametrize(
    ("key", "value", "stored"),
    [("max_retries", 5, "5"), ("backoff_base", 1.5, "1.5"), ("backoff_max", 60.0, "60"), ("timeout", None, "none")],
)
def test_a_setting_takes_a_number_too(queue, key, value, stored):
    """It is kept as somebody would have typed it."""
    queue.set_setting(key, value)

    assert {key: stored} == queue.settings()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_retries", True), ("max_retries", 1.5), ("max_retries", None), ("max_retries", [5]), ("lease", -1),
        ("timeout", float("nan")), ("timeout", float("inf")), pytest.param("max_retries", 10**5000, id="huge"),
        (None, 5), (5, 5),
    ],
)  # fmt: skip
def test_what_is_no_value_of_a_setting_is_refused(queue, key, value):
    """In the family of queuectl's errors, whatever its type."""
    with pytest.raises(InvalidSetting):
        queue.set_setting(key, value)

    assert {} == queue.settings()


# -- threads and forks ------------------------------------------------------------------------


def test_threads_may_share_a_queue(queue):
    """One lock lets them in one at a time: no id twice, no error."""
    ids, troubles = [], []

    def enqueue():
        try:
            ids.extend(queue.enqueue("true").id for _ in range(25))
        except BaseException as trouble:
            troubles.append(trouble)

    threads = [threading.Thread(target=enqueue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ([], 100) == (troubles, len(set(ids)))


def test_threads_that_a_program_has_put_in_the_place_of_python_s_share_it_too(tmp_path):
    """As gevent's, which all look like one to the lock that is Python's own: they would be let in together."""
    program = """
import threading

class Lock:
    def __init__(self):
        self.taken = 0
        self.lock = plain()
    def __enter__(self):
        self.lock.acquire()
        self.taken += 1
    def __exit__(self, *error):
        self.lock.release()
    def __getattr__(self, name):
        return getattr(self.lock, name)

plain, threading.RLock = threading.RLock, Lock  # as gevent's patch_all, before anything else is imported
import sys
from queuectl import Queue

with Queue(sys.argv[1]) as queue:
    before = queue._lock.taken
    queue.enqueue("true")
    print(queue._lock.taken - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "jobs.db")], stdout=subprocess.PIPE, check=True
    )
    assert b"1" == done.stdout.strip()


def forked(work):
    """Run *work* in a forked child; return its wait status, 0 if all went well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


@pytest.fixture
def inside(queue):
    """Return ``inside(work)``: have another thread run *work* with the queue's lock, and come back when it does."""
    threads = []

    def enter(work):
        there = threading.Event()

        def run():
            with queue._lock:
                there.set()
                work()

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        there.wait()

    yield enter
    for thread in threads:
        thread.join()


@pytest.mark.posix
def test_a_fork_while_a_thread_waits_for_the_file(queue, inside):
    """It waits for another process, for as long as that likes: the child goes on without it."""
    locker = sqlite3.connect(queue.store.path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    inside(lambda: queue.enqueue("parent"))
    looked = forked(queue.status)
    locker.execute("ROLLBACK")
    locker.close()
    with queue._lock:
        pass

    assert (0, 0) == (looked, forked(lambda: queue.enqueue("child")))
    assert ["parent", "child"] == [job.command for job in queue.jobs()]


@pytest.mark.posix
def test_a_fork_while_a_thread_is_in_a_transaction(queue, inside):
    """It waits until that is over: SQLite would have the child keep the lock of a thread that it does not have."""
    writing, go_on = threading.Event(), threading.Event()
    os.register_at_fork(before=go_on.set)  # the hook that is registered last is the first to run

    def write():
        with queue.store._write:
            writing.set()
            go_on.wait()

    inside(write)
    writing.wait()

    assert 0 == forked(lambda: queue.enqueue("child"))
    assert ["child"] == [job.command for job in queue.jobs()]
    assert [] == queue.check()


@pytest.mark.posix
def test_a_fork_that_cannot_wait_says_so_in_the_child(queue, inside, monkeypatch):
    """A thread stays inside: the child is told, and the parent is not disturbed."""
    monkeypatch.setattr(forking, "PATIENCE_S", 0.0)
    go_on = threading.Event()
    inside(go_on.wait)

    def child():
        with pytest.raises(QueuectlError, match="another thread was using this Queue"):
            queue.enqueue("child")
        queue.close()
        with pytest.raises(QueuectlError):
            queue.status()

    status = forked(child)
    go_on.set()
    queue.enqueue("parent")

    assert (0, ["parent"]) == (status, [job.command for job in queue.jobs()])


@pytest.mark.posix
@pytest.mark.parametrize("patience_s", [5.0, 0.0])
def test_a_fork_while_a_thread_opens_a_queue(queue, monkeypatch, patience_s):
    """It waits until the file is open; or the child is told why it cannot use that one."""
    begun, opened = threading.Event(), []
    monkeypatch.setattr(forking, "PATIENCE_S", patience_s)

    def slowly(*arguments, **how):
        begun.set()
        time.sleep(0.5)
        opened.append(open_store(*arguments, **how))
        return opened[-1]

    monkeypatch.setattr(forking, "open_store", slowly)
    thread = threading.Thread(target=lambda: queues.append(Queue(queue.store.location)))
    queues = []
    thread.start()
    begun.wait()

    def child():
        (mine,) = [each for each in forking._all if each._location == queue.store.location and each is not queue]
        if patience_s:
            assert opened
            mine.enqueue("child")
        else:
            with pytest.raises(QueuectlError, match="another thread was using this Queue"):
                mine.enqueue("child")

    assert 0 == forked(child)
    thread.join()
    queues[0].close()
    assert ["child"] * bool(patience_s) == [job.command for job in queue.jobs()]


@pytest.mark.posix
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.parametrize("forks", [True, False])
def test_a_queue_that_is_dropped_is_closed(queue, inside, tmp_path, forks):
    """At once, or after a fork that is under way; its child does not keep the file open either."""
    location = os.path.realpath(tmp_path / "other.db")
    go_on = threading.Event()

    def is_open():
        return location in [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]

    def drop():
        other = Queue(location)
        assert is_open()
        go_on.set()
        time.sleep(0.2 * forks)  # the fork has begun by now, and waits
        del other

    def child():
        assert not is_open()

    inside(drop)
    assert go_on.wait(20)
    if forks:
        assert 0 == forked(child)
    with queue._lock:  # the thread has done
        assert not is_open()


def test_a_queue_is_closed_that_is_dropped_while_another_one_closes(tmp_path):
    """Whoever closes looks for more: without a fork, nobody else would come by."""
    first, second = Queue(tmp_path / "first.db"), Queue(tmp_path / "second.db")
    closes, dropped = threading.Event(), threading.Event()
    close, store = first.store.close, second.store

    def slowly():
        closes.set()
        dropped.wait()
        close()

    first.store.close = slowly
    held = [first]
    del first
    dropping = threading.Thread(target=held.clear)
    dropping.start()
    closes.wait()
    del second
    dropped.set()
    dropping.join()

    with pytest.raises(errors.StoreUnavailable, match="closed"):
        store.settings()


@pytest.mark.posix
def test_what_a_child_stores_outlives_its_parent_s_connection(queue):
    """The last to close a store removes its log: not the parent, who does not see the child behind its own locks."""
    location = queue.store.location
    stored, closed = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            queue.enqueue("before")
            os.write(stored[1], b"!")
            os.read(closed[0], 1)
            queue.enqueue("after")
        finally:
            os._exit(0)
    os.read(stored[0], 1)
    queue.close()
    os.write(closed[1], b"!")
    os.waitpid(pid, 0)
    for end in (*stored, *closed):
        os.close(end)

    with Queue(location) as again:
        assert ["before", "after"] == [job.command for job in again.jobs()]
        assert [] == again.check()


@pytest.mark.posix
def test_a_child_may_close_what_it_inherited(queue):
    """Used or not, and once it is forgotten: its parent's connection stays, and its log."""
    queue.enqueue("parent")

    def child():
        queue.close()
        with pytest.raises(QueuectlError, match="closed"):
            queue.status()
        gc.collect()

    assert 0 == forked(child)
    queue.enqueue("parent")
    assert 0 == forked(lambda: queue.enqueue("child"))
    assert ["parent", "parent", "child"] == [job.command for job in queue.jobs()]


@pytest.mark.posix
def test_a_forked_child_has_a_connection_of_its_own(queue):
    """Both sides go on enqueueing, and the parent's connection is neither used nor closed by the child."""
    queue.enqueue("parent")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            queue.enqueue("child")
            queue.close()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    queue.enqueue("parent")

    assert (0, ["parent", "child", "parent"]) == (status, [job.command for job in queue.jobs()])
    assert [] == queue.check()


@pytest.mark.posix
@pytest.mark.parametrize("location", ["relative.db", None])
def test_a_forked_child_finds_the_store_from_wherever_it_goes(tmp_path, monkeypatch, location):
    """A path is relative to where the queue was opened, and the usual store is the one that was usual then."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUEUECTL_DB", "usual.db")
    (tmp_path / "elsewhere").mkdir()
    with Queue(location) as queue:
        queue.enqueue("parent")
        os.chdir("elsewhere")
        monkeypatch.setenv("QUEUECTL_DB", "another.db")

        assert 0 == forked(lambda: queue.enqueue("child"))
        assert ["parent", "child"] == [job.command for job in queue.jobs()]


def test_a_datetime_says_what_ended_before_it(queue):
    """An engine that compares whatever it is given would take it for later than everything, or for nothing."""
    queue.cancel(*queue.enqueue_many(["true", "true"]))
    day = timedelta(days=1)
    now = datetime.now(timezone.utc)

    assert 0 == queue.prune(JobFilter(ended_before=now - day))
    assert 2 == queue.prune(JobFilter(ended_before=now + day))
