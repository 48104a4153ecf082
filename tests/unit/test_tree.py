"""Whose process is whose: the rules by which leftovers of a run are told from strangers."""

from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.posix

if sys.platform != "win32":
    from queuectl.runner import identity, tree
    from queuectl.runner.identity import as_start_time, birth_of, process_started, start_time_at
    from queuectl.runner.tree import Process, _belonging, members


def table(*rows):
    """Return a process table of (pid, parent, group, session, started)."""
    return {row[0]: Process(*row) for row in rows}


def test_a_session_without_its_leader_is_the_runs_as_far_as_the_worker_lived():
    """What started later belongs to a stranger whose session got the same number."""
    processes = table((11, 1, 10, 10, "500"), (12, 1, 10, 10, "900"), (13, 11, 13, 13, "950"), (20, 1, 20, 20, "100"))

    known = _belonging(processes, set(), {10: "400"}, born_by=600)
    living = _belonging(processes, set(), {10: None}, born_by=None)

    assert {11, 13} == known  # 13 descends from 11, whenever it was born
    assert {11, 12, 13} == living


def test_a_leader_with_another_start_time_is_a_stranger():
    """Neither it nor its session is touched; with the noted one all of it is the run's."""
    processes = table((10, 1, 10, 10, "700"), (11, 10, 10, 10, "710"))

    assert set() == _belonging(processes, set(), {10: "400"}, born_by=9999)
    assert {10, 11} == _belonging(processes, set(), {10: "700"}, born_by=0)


def test_the_mark_counts_whatever_the_session():
    """A marked process and its descendants are the run's."""
    processes = table((30, 1, 30, 30, "5"), (31, 30, 31, 31, "6"), (32, 1, 32, 32, "7"))

    assert {30, 31} == _belonging(processes, {30}, {}, born_by=0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="start times are numbers on Linux alone")
def test_the_bound_is_not_earlier_than_a_process_that_starts_now():
    """A process that runs by now started no later than now."""
    import os
    import time

    assert int(process_started(os.getpid())) <= start_time_at(time.monotonic())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="start times are numbers on Linux alone")
def test_what_is_older_than_the_run_is_not_looked_at():
    """A process of the very moment of the bound is; one that is older is not read any further, whatever its mark."""
    import os
    import subprocess

    env = {"PATH": os.environ["PATH"], "QUEUECTL_STORE_ID": "a-store", "QUEUECTL_RUN_ID": "7"}
    with subprocess.Popen(["sleep", "60"], env=env) as child:
        try:
            born = as_start_time(process_started(child.pid))
            assert birth_of(child.pid) == born
            found = [
                [each.pid for each in members("a-store", (7,), born_after=bound)] for bound in (None, born, born + 1)
            ]
        finally:
            child.kill()

    assert [[child.pid], [child.pid], []] == found
    assert birth_of(child.pid) is None


@pytest.fixture
def no_proc(monkeypatch):
    """A system without /proc, as macOS is."""
    import shutil

    if not shutil.which("ps"):
        pytest.skip("needs ps")
    monkeypatch.setattr(identity, "_HAS_PROC", False)
    monkeypatch.setattr(tree, "_HAS_PROC", False)


@pytest.mark.parametrize(
    "variables",
    [{"TZ": "Asia/Tokyo"}, {"TZ": "America/New_York"}, {"PATH": "/nowhere"}, {"LC_ALL": "de_DE.UTF-8"}],
    ids=lambda variables: next(iter(variables)),
)
def test_a_process_is_the_same_to_whoever_looks(no_proc, monkeypatch, variables):
    """Without /proc its start is a date, which must not depend on the time zone or language of the looker."""
    import os

    before = process_started(os.getpid())
    for name, text in variables.items():
        monkeypatch.setenv(name, text)

    assert before
    assert before == process_started(os.getpid()) == tree._snapshot_by_ps()[os.getpid()].started


def test_the_boot_is_known_whatever_the_path(no_proc, monkeypatch, tmp_path):
    """Cron's does not lead to sysctl: a worker that it started would be one of another boot, that is a dead one."""
    program = tmp_path / "sysctl"
    program.write_text("#!/bin/sh\necho 0F5E-BOOT\n")
    program.chmod(0o755)
    monkeypatch.setitem(identity._PLAIN, "PATH", str(tmp_path))
    monkeypatch.setattr(identity, "_read", lambda path: "")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")

    assert "0F5E-BOOT" == identity._boot()
