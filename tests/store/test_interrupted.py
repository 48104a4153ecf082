"""A signal's handler that raises, as for Ctrl-C or a time limit, in a program that goes on with its ``Queue``."""

from __future__ import annotations

import contextlib
import os
import sys

import pytest

import queuectl
from queuectl.errors import JobNotFound
from tests.store.build import EVERYTHING, T0, spec

OURS = os.path.dirname(queuectl.__file__)


class Limit(BaseException):
    """What a handler raises."""


def interrupted(call, name, event, package=OURS):
    """Call *call*, and have a handler raise when the first function *name* of *package* begins or returns.

    The package is told by a part of its path; ours may be in another folder of the same name.
    """

    def watch(frame, what, _argument):
        if what == event and frame.f_code.co_name == name and package in frame.f_code.co_filename:
            sys.setprofile(None)
            raise Limit

    sys.setprofile(watch)
    try:
        with pytest.raises(Limit):
            call()
    finally:
        sys.setprofile(None)


def cancel_nothing(store):
    """A transaction that is rolled back."""
    with contextlib.suppress(JobNotFound):
        store.cancel(["nobody"], T0)


@pytest.mark.parametrize(
    ("name", "event"), [("_begin", "return"), ("__enter__", "return"), ("__exit__", "call"), ("_roll_back", "call")]
)
@pytest.mark.parametrize("count", [1, 2])
def test_what_comes_after_an_interruption_is_stored(store, open_again, name, event, count):
    """A transaction that was left open would swallow it, and keep everybody else from writing."""
    if store.many_hosts and name.startswith("__"):
        pytest.skip("its transactions are no blocks")
    interrupted(lambda: cancel_nothing(store), name, event)

    added = store.add([spec()] * count, T0)

    other = open_again()
    assert added == [job.id for job in other.jobs(EVERYTHING)]
    assert [f"job{count + 1}"] == other.add([spec()], T0)


def test_the_lock_is_given_back_at_once(store, open_again, monkeypatch):
    """A program that goes on may not write again for hours."""
    if store.many_hosts:
        pytest.skip("locks are of rows, and sessions in a transaction end by themselves")
    interrupted(lambda: cancel_nothing(store), "_begin", "return")
    monkeypatch.setattr("queuectl.db.sqlite_file.PATIENCE_S", 0.2)

    assert ["job1"] == open_again().add([spec()], T0)
